"""Given, when, then for agents: a past, what happens, and exactly what is decided and done about it.

    given(RenewalRescue(), ("cus_1", paid), at=NOON).when(("cus_1", failed)).then(
        decision("cus_1", "acted", "email"), effects=[effect("email.send@1", customer="cus_1", template="payment-failing")]
    )

A log in memory, a clock that stands, sandbox tools; beyond this machine no network is reached. Each `then` also runs the agent once more,
which must do nothing, and makes every decision again from its record, which must give the same bytes. May import `app` and everything
below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from postsale.access import Person
from postsale.agents import Agent
from postsale.agents.tools import Tool
from postsale.aggregates.artifacts import Mode
from postsale.aggregates.decisions import EffectSucceeded
from postsale.aggregates.signals import Signal
from postsale.app import PostSale
from postsale.errors import InvalidInput
from postsale.events import Lane, ManualClock
from postsale.projections import CUSTOMER_HEALTH, HealthModel
from postsale.projections.journal import Entry
from postsale.store.contract import Query
from postsale.testing.network import no_network

_TENANT = "test"
_TESTER = Person("tester", "test")


class Consent(NamedTuple):
    """The customer agrees to be contacted, or no longer does."""

    customer: str
    channel: str
    purpose: str
    given: bool = True


class Asked(NamedTuple):
    """A person asks the agent to decide about a customer."""

    customer: str
    command: str = "look"


Said = tuple[str, Signal]
"""A customer's id and what a source says about it."""
Past = Said | Consent
Happening = Said | Consent | Asked | timedelta


class Decision(NamedTuple):
    """What a decision came to, as it stands after the agent has run."""

    customer: str
    disposition: str
    action: str | None = None
    suppressed_by: str | None = None


@dataclass(frozen=True)
class Effect:
    """A call that a tool received: its name and exactly its arguments; the customer's reference reads as its id."""

    tool: str
    arguments: Mapping[str, Any]


def consent(customer: str, channel: str, purpose: str = "service", *, given: bool = True) -> Consent:
    """Consent, given or withdrawn, on a channel for a purpose."""
    return Consent(customer, channel, purpose, given)


def asked(customer: str, command: str = "look") -> Asked:
    """A person's command to the agent."""
    return Asked(customer, command)


def decision(customer: str, disposition: str, action: str | None = None, *, suppressed_by: str | None = None) -> Decision:
    """A decision as `then` expects it."""
    return Decision(customer, disposition, action, suppressed_by)


def effect(tool: str, **arguments: Any) -> Effect:
    """An effect as `then` expects it."""
    return Effect(tool, arguments)


class Scenario:
    """What `given` makes of an agent. `when` and `then` follow one another as often as the story needs; a context manager, or closed by the last `then`."""

    def __init__(
        self,
        agent: Agent,
        past: Sequence[Past],
        *,
        at: datetime,
        mode: Mode = "act",
        tools: Sequence[Tool] = (),
        health: HealthModel = CUSTOMER_HEALTH,
        network: bool = False,
    ) -> None:
        signals = [p for p in past if not isinstance(p, Consent)]
        if any(signal.occurred_at > at for _, signal in signals):
            raise InvalidInput(what="given", field="past", reason="a signal that occurred after `at`: that is for `when`")
        begin = min([at, *(signal.occurred_at for _, signal in signals)])
        self._open = ExitStack()
        self._network, self._agent = network, agent
        self.clock = ManualClock(begin)
        with self._shut():
            opened = PostSale.open("memory:", agents=[agent], clock=self.clock, health=health, tools=tools, sandbox=not tools)
            self.ps = self._open.enter_context(opened)
            self.tenant = self.ps.tenant(_TENANT)
            self.tenant.agent(agent).observe(reason="given", by=_TESTER)
            for said in sorted(signals, key=lambda s: s[1].occurred_at):
                self.clock.move_to(said[1].occurred_at)
                self._happens(said)
            self.clock.move_to(at)
            for one in past:
                if isinstance(one, Consent):
                    self._happens(one)
            self.ps.run_once()
            if mode != "observe":
                getattr(self.tenant.agent(agent), mode)(reason="given", by=_TESTER)
        self._head = self.ps.log.store.head()

    # ------------------------------------------------------------ when

    def when(self, *happening: Happening) -> Self:
        """What happens now, one after the other, and then the agent runs: signals, consents, commands, or time that passes."""
        with self._shut():
            self._head = self.ps.log.store.head()
            for one in happening:
                self._happens(one)
            self.ps.run_once()
        return self

    def _happens(self, one: Happening) -> None:
        match one:
            case timedelta():
                self.clock.advance(one)
            case Consent(customer, channel, purpose, given_):
                self.tenant.consent(customer, channel, purpose, given=given_, evidence="given")
            case Asked(customer, command):
                self.tenant.ask(customer, self._agent.name, command, reason="when", by=_TESTER)
            case (customer, signal):
                self.tenant.record(customer, signal)

    # ------------------------------------------------------------ then

    def then(self, *decisions: Decision, effects: Iterable[Effect] = ()) -> Self:
        """Exactly these decisions, in this order, and exactly these effects. AssertionError shows both sides.

        Also that another run does nothing more, and that each decision is made again alike from its record (ReplayDiverged).
        """
        with self._shut():
            self._same("decisions", list(decisions), [self._told(e) for e in self.entries])
            self._same("effects", list(effects), self._effects())
            head = self.ps.log.store.head()
            self.ps.run_once()
            self._same("events of another run", [], list(range(head, self.ps.log.store.head())))
            for entry in self.entries:
                self.tenant.replay(entry.id)
        return self

    @property
    def entries(self) -> list[Entry]:
        """The decisions since the last `when`, for a closer look: `explain`, verdicts, evidence."""
        return [e for e in self.tenant.decisions() if e.position > self._head]

    def close(self) -> None:
        """Close the log in memory; it is gone."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shut(self) -> Any:
        return nullcontext() if self._network else no_network()

    def _told(self, entry: Entry) -> Decision:
        return Decision(self._names().get(entry.stream.id, ""), entry.disposition, entry.action, entry.suppressed_by)

    def _effects(self) -> list[Effect]:
        """What tools confirmed since the last `when`, of earlier decisions too, in order."""
        names, out = self._names(), []
        query = Query(tenant=_TENANT, lane=Lane.DECISION, kinds=frozenset({"effect/succeeded"}), after=self._head)
        for done in self.ps.log.events(query):
            assert isinstance(done.data, EffectSucceeded)
            for one in self.tenant.explain(done.data.decision_id).effects:
                if one.idempotency_key == str(done.data.intent_id) and isinstance(one.arguments, Mapping):
                    arguments = {k: names.get(v, v) if isinstance(v, str) else v for k, v in one.arguments.items()}
                    out.append(Effect(one.tool, arguments))
        return out

    def _names(self) -> dict[str, str]:
        return self.tenant.names()

    @staticmethod
    def _same(what: str, expected: Sequence[object], found: Sequence[object]) -> None:
        if list(expected) == list(found):
            return
        lines = [f"then: other {what}"]
        lines += [f"  expected  {x}" for x in expected] or ["  expected  none"]
        lines += [f"  found     {x}" for x in found] or ["  found     none"]
        raise AssertionError("\n".join(lines))
