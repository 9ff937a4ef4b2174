"""Whatever agents, people, tools and crashes do in whatever order, budgets say what a plain count over the events says."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from postsale.agents import Agent, Policy
from postsale.agents.budget import Page
from postsale.agents.escrow import Escrow
from postsale.agents.tools import Toolbox
from postsale.agents.tools.sandbox import CloseTask, CreateTask, OfferCredit, SendEmail, WithdrawCredit
from postsale.agents.undo import Scope
from postsale.aggregates import asked as a
from postsale.aggregates import decisions as d
from postsale.aggregates.budgets import Reservation
from postsale.audit import check_budgets
from postsale.errors import ApprovalRefused, ToolRefused, ToolUnavailable, ToolUncertain, UndoRefused
from postsale.projections.journal import read_journal
from tests.agents.budgeted import BOTH, totals
from tests.agents.test_undo import approved, undos
from tests.agents.world import ANNA, BEN, World

ASKING = (
    BOTH.replace("authority_limit_minor = 90000", "authority_limit_minor = 1000")
    .replace("limit = 10000\n", "limit = 15000\n")
    .replace("limit = 3\n", "limit = 4\n")
    .replace('start = "20:00"', 'start = "03:00"')
    .replace('end = "08:00"', 'end = "03:01"')
)
LIMITS = {"retention": 15_000, "mail": 4, "risk:dunning": 60}
REFS = [f"c{n}" for n in range(4)]
Key = tuple[str, Page]


class Moody(SendEmail):
    """It does what its mood says."""

    max_attempts, backoff_s, breaker_after = 3, 1.0, 10_000
    mood = "fine"

    def call(self, *args: Any, **kwargs: Any) -> Any:
        mood, Moody.mood = Moody.mood, "fine"
        match mood:
            case "refuses":
                raise ToolRefused(tool=self.ref.name, reason="no")
            case "away":
                raise ToolUnavailable(tool=self.ref.name, reason="busy")
            case "acted, and nobody knows":
                super().call(*args, **kwargs)
                raise ToolUncertain(tool=self.ref.name, reason="cut off")
        return super().call(*args, **kwargs)


class Budgets(RuleBasedStateMachine):
    """One engine whose process has slices or has none, people, a tool with moods; against a count over what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.edits = 0
        Moody.mood = "fine"
        toolbox = Toolbox([Moody(), CreateTask(), CloseTask(), OfferCredit(), WithdrawCredit()], sandbox=False)
        self.w = World([Agent(Policy.from_toml(ASKING))], toolbox=toolbox)
        self.w.mode("act")
        for n, ref in enumerate(REFS):
            if n % 2:
                self.w.profile(ref, segment="smb")
                self.w.consent(ref)
            else:
                self.w.vip(ref)
        self.undos = undos(self.w)

    # ------------------------------------------------------------ what happens

    @rule(ref=st.sampled_from(REFS), mood=st.sampled_from(["fine", "fine", "refuses", "away", "acted, and nobody knows"]))
    def asks(self, ref: str, mood: str) -> None:
        """A payment came and the next one fails: the condition rises again."""
        self.w.attend(self.w.paid(ref), ref)
        self.w.wait(minutes=1)
        Moody.mood = mood
        self.w.attend(self.w.failed(ref), ref)

    @rule(by=st.sampled_from([{"minutes": 1}, {"minutes": 6}, {"hours": 13}, {"days": 2}]))
    def time_passes(self, by: dict[str, float]) -> None:
        self.w.wait(**by)
        for ref in REFS:
            self.w.attend(ref=ref)

    def waiting(self) -> list[tuple[str, UUID]]:
        return [(ref, id_) for ref in REFS for id_, o in self.w.customer(ref).decisions.items() if o.disposition == "awaiting"]

    @precondition(lambda self: self.waiting())
    @rule(which=st.integers(0, 9), how=st.sampled_from(["approve", "approve", "reject", "edit"]))
    def somebody_answers(self, which: int, how: str) -> None:
        waiting = self.waiting()
        ref, id_ = waiting[which % len(waiting)]
        approvals = self.w.engine.approvals
        try:
            match how:
                case "approve":
                    approvals.approve("acme", id_, BEN)
                case "reject":
                    approvals.reject("acme", id_, BEN, reason="no")
                case _:
                    self.edits += 1  # an edit that changes nothing is refused
                    approvals.edit("acme", id_, BEN, amount_minor=3_000 + self.edits, reason="less will do")
        except ApprovalRefused:
            return
        self.w.attend(ref=ref)

    @rule(which=st.integers(0, 9))
    def somebody_sets_aside(self, which: int) -> None:
        """Whatever is open, also what a tool may have done without saying so."""
        open_ = [(ref, id_) for ref in REFS for id_, o in self.w.customer(ref).decisions.items() if o.undoes is None]
        for ref, id_ in open_[which % max(1, len(open_)) :][:1]:
            self.w.engine.approvals.override("acme", id_, BEN, reason="no")
            self.w.attend(ref=ref)

    @rule(happened=st.booleans())
    def somebody_looks(self, happened: bool) -> None:
        for ref in REFS:
            for id_, o in self.w.customer(ref).decisions.items():
                for effect in [e.intent.intent_id for e in o.effects.values() if e.status == "unknown"]:
                    self.w.engine.approvals.settle_unknown("acme", id_, effect, happened=happened, person=ANNA, reason="looked")

    @rule(which=st.integers(0, 9))
    def somebody_takes_back(self, which: int) -> None:
        done = [e.id for e in read_journal(self.w.store, "acme") if "succeeded" in e.effects.values()]
        if not done:
            return
        try:
            undo = approved(self.undos, self.w, Scope("decision", str(done[which % len(done)])))
        except UndoRefused:
            return
        self.undos.run("acme", undo.id)

    @rule(share=st.sampled_from([0, 1, 2, 16]))
    def another_process(self, share: int) -> None:
        """The one before it was killed: its slices are nobody's until their leases are over."""
        self.w.engine.desk.escrow = Escrow(lease_s=300, share=share) if share else None

    @rule()
    def it_stops_in_order(self) -> None:
        if self.w.engine.desk.escrow is not None:
            self.w.engine.desk.escrow.give_back(self.w.log)

    # ------------------------------------------------------------ what must be so

    @invariant()
    def budgets_say_what_a_plain_count_says(self) -> None:
        counted = self.counted()
        for (budget, page), sums in counted.items():
            said = totals(self.w.log, budget, page)
            assert (said.reserved, said.committed, -said.compensated, said.released) == tuple(sums[n] for n in _ACCOUNTS), (budget, page)
            assert said.balance == 0
            assert said.reserved + said.committed + said.compensated <= LIMITS[budget], (budget, page)

    def teardown(self) -> None:
        report = check_budgets(self.w.store)
        assert report.problems == []

    def counted(self) -> dict[Key, Counter[str]]:
        held: dict[UUID, list[Reservation]] = {}  # by decision
        state: dict[tuple[UUID, str], str] = {}  # effect and budget -> which sum it is in
        effects: dict[UUID, str] = {}
        orders: dict[UUID, d.UndoOrdered] = {}
        back: list[Reservation] = []
        for ref in REFS:
            for recorded in self.w.events(ref):
                match event := recorded.data:
                    case d.DecisionRecorded():
                        held[recorded.event_id] = list(event.reservations)
                        state |= {(r.intent_id, r.budget): "reserved" for r in event.reservations}
                        effects |= {i.intent_id: "waiting" for i in event.intents}
                    case d.UndoOrdered():
                        orders[recorded.event_id] = event
                    case d.EffectSucceeded() if event.decision_id in orders:
                        undone = orders[event.decision_id]
                        mine = [r for r in held[undone.decision_id] if r.intent_id == undone.undoes]
                        back += [r for r in mine if not r.unit.startswith("contacts")]
                    case d.EffectStarted() | d.EffectUnknown():
                        effects[event.intent_id] = "may have left"
                    case d.EffectFailed(final=False):
                        effects[event.intent_id] = "may have left" if event.ambiguous else "waiting"
                    case d.EffectSucceeded():
                        self._move(state, event.intent_id, "committed")
                        effects[event.intent_id] = "over"
                    case d.EffectFailed() | d.EffectCancelled():
                        self._move(state, event.intent_id, "released")
                        effects[event.intent_id] = "over"
                    case d.ApprovalRejected() | d.ApprovalLapsed() | d.DecisionOverridden() | a.ApprovalReplaced():
                        for intent in {r.intent_id for r in held[event.decision_id]}:
                            if effects[intent] == "waiting":
                                self._move(state, intent, "released")
        out: dict[Key, Counter[str]] = {}
        for reservations in held.values():
            for r in reservations:
                sums = out.setdefault((r.budget, Page(r.unit, r.period)), Counter())
                sums[state[r.intent_id, r.budget]] += r.amount
        for r in back:
            out[r.budget, Page(r.unit, r.period)]["compensated"] += r.amount
        return out

    @staticmethod
    def _move(state: dict[tuple[UUID, str], str], effect: UUID, to: str) -> None:
        for key, where in state.items():
            if key[0] == effect and where == "reserved":
                state[key] = to


_ACCOUNTS = ("reserved", "committed", "compensated", "released")
TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=200 if os.environ.get("POSTSALE_TORTURE") else 12, stateful_step_count=20, deadline=None)
