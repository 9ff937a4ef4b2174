"""Anything in any order over a log in a file or on a server, against a model of what must hold: a Hypothesis state machine."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from postsale.agents import Agent
from postsale.aggregates.identity import foreign
from postsale.aggregates.signals import Signal
from postsale.app import PostSale, Tenant
from postsale.errors import ApprovalRefused, ContentConflict, IdentityConflict, UnknownCustomer
from postsale.events import ManualClock, from_us
from tests.postgres import new_log
from tests.shared import examples

from .support import ANNA, NOON, Server, Where, delete_views, failed, head, opened, paid, used
from .test_agents import Mailer, policy
from .test_promises import assert_every_trigger_has_its_one_decision

NAMES = ["a", "b", "c"]
FOREIGN = ["x", "y"]
names = st.sampled_from(NAMES)


class Life(RuleBasedStateMachine):
    """The model: which signals were sent under which id, who is part of whom, who agreed to be written to, what is paused."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postsale-life-"))
        self.ends = ExitStack()
        self.ends.callback(shutil.rmtree, self.folder)
        self.where = self.place()
        self.clock = ManualClock(NOON)
        self.sent: dict[str, tuple[Any, Signal]] = {}  # by signal id
        self.parent: dict[str, str] = {}
        self.linked: dict[str, str] = {}  # foreign id -> name
        self.consents: dict[str, bool] = {}
        self.paused = False
        self.conflicts: set[tuple[str, Any]] = set()
        self.calls: list[str] = []
        self.mailer = Mailer()
        self.mailer.meanwhile = self.called
        self.open()
        self.acme.agent("mailer").act(reason="begin", by=ANNA)

    def place(self) -> Where:
        return self.folder

    def open(self) -> None:
        agents = [Agent(policy(approval="none"), name="mailer"), Agent(policy("asker", "required"))]
        self.ps: PostSale = opened(self.where, clock=self.clock, agents=agents, tools=[self.mailer], sandbox=False)
        self.acme: Tenant = self.ps.tenant("acme")
        self.head = head(self.ps)

    def teardown(self) -> None:
        if not hasattr(self, "ps"):
            return
        try:
            self.acme.agent("all").resume(reason="end", by=ANNA)
            self.paused = False
            self.ps.run_once()
            self.clock.advance(timedelta(days=4))
            self.ps.run_once()
            assert_every_trigger_has_its_one_decision(self.ps)
            for entry in self.acme.decisions():
                assert self.acme.replay(entry.id).intents == len(entry.recorded.intents)
                assert set(entry.effects.values()) <= {"succeeded", "cancelled", "held"}
            assert len(self.calls) == len(set(self.calls))
            assert self.ps.verify().problems == []
            report = self.ps.run_once()
            assert (report.raised, report.decided, report.called) == (0, 0, 0)
        finally:
            self.ps.close()
            self.ends.close()

    # ------------------------------------------------------------ the model

    def root(self, name: str) -> str:
        while name in self.parent:
            name = self.parent[name]
        return name

    def home(self, id: Any) -> str | None:
        """The customer that facts under an id count for now; None while they wait."""
        name = id if isinstance(id, str) else self.linked.get(id.id)
        return None if name is None else self.root(name)

    def known(self, name: str) -> bool:
        return any(id == name for id, _ in self.sent.values())

    def called(self) -> None:
        """The tool is being called: was that allowed? Which customer it is about, the log knows."""
        assert not self.paused
        started = [
            (e.stored.stream.id, e.data.intent_id)  # type: ignore[attr-defined]
            for name in NAMES
            if self.known(name)
            for e in self.acme.timeline(name)
            if e.stored.kind == "effect/started"
        ]
        new = {(ref, str(intent)) for ref, intent in started if str(intent) not in self.calls}
        ((ref, intent),) = new
        self.calls.append(intent)
        name = self.acme.names()[ref]
        assert self.root(name) == name, "an effect left for a customer that is part of another one"
        assert self.consents.get(name, False), "an effect left without consent"

    def now(self) -> datetime:
        return from_us(self.clock.now_us())

    # ------------------------------------------------------------ what may happen

    @rule(name=names, kind=st.sampled_from([paid, failed, used]), late=st.integers(0, 72))
    def record(self, name: str, kind: Any, late: int) -> None:
        signal = kind(f"s{len(self.sent)}", self.now() - timedelta(hours=late))
        assert self.acme.record(name, signal).stored
        self.sent[signal.id] = (name, signal)

    @rule(id=st.sampled_from(FOREIGN), kind=st.sampled_from([paid, failed]))
    def record_for_a_foreign_id(self, id: str, kind: Any) -> None:
        signal = kind(f"s{len(self.sent)}", self.now())
        assert self.acme.record(foreign("crm", id), signal).stored
        self.sent[signal.id] = (foreign("crm", id), signal)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def record_again(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.sent)), min_size=1, max_size=5))
        before = head(self.ps)
        report = self.acme.record_many([self.sent[id] for id in chosen])
        assert (report.recorded, report.duplicates, report.rejects) == (0, len(chosen), [])
        assert head(self.ps) == before

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), name=names)
    def record_other_content_or_customer(self, data: st.DataObject, name: str) -> None:
        id = data.draw(st.sampled_from(sorted(self.sent)))
        customer, signal = self.sent[id]
        changed = signal.model_copy(update={"occurred_at": signal.occurred_at - timedelta(seconds=1)})
        sent: tuple[Any, Signal] = (name, signal) if name != customer else (customer, changed)
        before = head(self.ps)
        with pytest.raises(ContentConflict) as caught:
            self.acme.record(*sent)
        assert caught.value.source_id == id
        self.conflicts.add((id, sent[0] if sent[1] is signal else "changed"))
        assert head(self.ps) == before

    @rule(id=st.sampled_from(FOREIGN), name=names)
    def link(self, id: str, name: str) -> None:
        if not self.known(name):
            with pytest.raises(UnknownCustomer):
                self.acme.link(foreign("crm", id), name)
        elif id not in self.linked:
            assert self.acme.link(foreign("crm", id), name)
            self.linked[id] = name
        elif self.root(self.linked[id]) == self.root(name):
            assert not self.acme.link(foreign("crm", id), name)
        else:
            with pytest.raises(IdentityConflict):
                self.acme.link(foreign("crm", id), name)

    @rule(other=names, into=names)
    def merge(self, other: str, into: str) -> None:
        if not (self.known(other) and self.known(into)):
            return
        survivor = self.root(into)
        if self.parent.get(other) == survivor:
            assert not self.acme.merge(other, into=into, reason="r", by=ANNA)
        elif survivor == other or other in self.parent:
            with pytest.raises(IdentityConflict):
                self.acme.merge(other, into=into, reason="r", by=ANNA)
        else:
            assert self.acme.merge(other, into=into, reason="r", by=ANNA)
            self.parent[other] = survivor
            if self.consents.get(other) is False and self.consents.get(survivor):
                self.consents[survivor] = False

    @rule(other=names)
    def split(self, other: str) -> None:
        if not self.known(other):
            return
        if other not in self.parent:
            assert not self.acme.split(other, reason="r", by=ANNA)
        elif self.parent[other] in self.parent:
            with pytest.raises(IdentityConflict):
                self.acme.split(other, reason="r", by=ANNA)
        else:
            assert self.acme.split(other, reason="r", by=ANNA)
            del self.parent[other]

    @rule(name=names, given=st.booleans())
    def consent(self, name: str, given: bool) -> None:
        if not self.known(name):
            return
        home = self.root(name)
        changed = self.acme.consent(name, "email", "service", given=given, evidence="form")
        assert changed == (self.consents.get(home) is not given)
        self.consents[home] = given

    @rule()
    def run_once(self) -> None:
        assert self.ps.run_once().problems == []

    @rule(agent=st.sampled_from(["mailer", "asker"]), mode=st.sampled_from(["observe", "propose", "act"]))
    def set_mode(self, agent: str, mode: str) -> None:
        getattr(self.acme.agent(agent), mode)(reason="r", by=ANNA)

    @rule(yes=st.booleans())
    def settle_all_that_waits(self, yes: bool) -> None:
        for entry in self.acme.approvals():
            if not yes:
                self.acme.reject(entry.id, by=ANNA, reason="r")
                continue
            name = self.acme.names()[entry.stream.id]
            try:
                self.acme.approve(entry.id, by=ANNA)
            except ApprovalRefused:
                continue
            assert not self.paused
            assert name not in self.parent
            assert self.consents.get(name, False)

    @rule(paused=st.booleans())
    def switch(self, paused: bool) -> None:
        (self.acme.agent("all").pause if paused else self.acme.agent("all").resume)(reason="r", by=ANNA)
        self.paused = paused

    @rule(hours=st.sampled_from([1, 30, 24 * 20]))
    def time_passes(self, hours: int) -> None:
        self.clock.advance(timedelta(hours=hours))

    @rule(views=st.booleans())
    def reopen(self, views: bool) -> None:
        """Close and open again; now and then the read models are gone."""
        self.ps.close()
        if not views:
            delete_views(self.where)
        self.open()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def facts_are_where_they_belong(self) -> None:
        if not hasattr(self, "ps"):
            return
        assert head(self.ps) >= self.head
        self.head = head(self.ps)
        expected: dict[str, Counter[str]] = {}
        for id, signal in self.sent.values():
            home = self.home(id)
            if home is not None:
                expected.setdefault(home, Counter())[signal.kind] += 1
        refs = {self.acme.customer(name).ref for name in NAMES if self.known(name)}
        assert len(refs) == len({self.root(name) for name in NAMES if self.known(name)})
        for name in NAMES:
            if self.known(name):
                state = self.acme.customer(name)
                assert {k: s.count for k, s in state.facts.items()} == expected[self.root(name)]
                assert state.may_contact("email", "service") == self.consents.get(self.root(name), False)
        assert {row.ref for row in self.acme.customers()} == refs
        assert len(self.acme.quarantine()) == len(self.conflicts)

    @invariant()
    def the_switch_is_where_it_was_put(self) -> None:
        if hasattr(self, "ps"):
            assert self.acme.agent("mailer").control.paused == self.paused


TestLife = Life.TestCase
TestLife.settings = settings(stateful_step_count=25)


class LifeOnAServer(Life):
    """The same on PostgreSQL, in short."""

    def place(self) -> Where:
        url, schema = self.ends.enter_context(new_log())
        return Server(url, schema, self.folder / "postsale.keys")


TestLifeOnAServer = LifeOnAServer.TestCase
TestLifeOnAServer.settings = settings(max_examples=examples(9), stateful_step_count=25)
