"""A customer's story, told in commands: what they return is stored and folded, as the log would do it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from postsale.aggregates import commands, signals
from postsale.aggregates import decisions as d
from postsale.aggregates.customer import CustomerAggregate, Effect, OpenDecision
from postsale.aggregates.decisions import EffectIntent
from postsale.aggregates.evolve import fold
from postsale.events import Event, StoredEvent, StreamId, derive_id, from_us

from .strategies import START_US, STREAM, decision_event, fact

AGENT = "renewal-rescue"
DAY_US = 86_400_000_000
MAC = "mac-of-the-arguments"


class Story:
    """A log of one customer, its live state, and a clock."""

    def __init__(self, stream: StreamId = STREAM) -> None:
        self.state = CustomerAggregate(stream=stream)
        self.log: list[StoredEvent] = []
        self.now_us = START_US

    def tell(self, events: Sequence[Event], event_id: UUID | None = None) -> None:
        """Append what a command returned, now."""
        for event in events:
            self.now_us += 1
            stored = decision_event(event, len(self.log) + 1, version=self.state.version + 1, event_id=event_id, at_us=self.now_us)
            self._add(stored)

    def happens(self, signal: signals.Signal) -> UUID:
        """A fact arrives."""
        stored = fact(signal, len(self.log) + 1)
        self._add(stored)
        return stored.event_id

    def replayed(self) -> CustomerAggregate:
        return fold(CustomerAggregate(stream=self.state.stream), self.log)

    def _add(self, stored: StoredEvent) -> None:
        self.log.append(stored)
        self.state = fold(self.state, [stored])

    # ------------------------------------------------------------ common openings

    def trigger(self, cause: int = 1, condition: str = "payment-failed", agent: str = AGENT) -> UUID:
        trigger_id = derive_id(agent, condition, cause)
        raised = d.TriggerRaised(agent=agent, condition=condition, cause="command", causing_event=UUID(int=cause))
        self.tell(commands.raise_trigger(self.state, trigger_id, raised), trigger_id)
        return trigger_id

    def decide(self, disposition: d.Disposition = "acted", *, cause: int = 1, intents: Sequence[EffectIntent] = (), **more: Any) -> UUID:
        """A trigger and the decision about it."""
        trigger_id = self.trigger(cause)
        decision_id = derive_id(trigger_id, "decision")
        self.tell((decision(trigger_id, disposition, self.now_us, intents, **more),), decision_id)
        return decision_id

    def open(self, decision_id: UUID) -> OpenDecision:
        return self.state.decisions[decision_id]

    def effect(self, decision_id: UUID, number: int = 1) -> Effect:
        return self.open(decision_id).effects[intent_id(number)]

    def start(self, decision_id: UUID, number: int = 1) -> tuple[Event, ...]:
        events = commands.start_effect(self.state, decision_id, intent_id(number))
        self.tell(events)
        return events

    def succeed(self, decision_id: UUID, number: int = 1) -> None:
        attempt = self.effect(decision_id, number).attempt
        self.tell((d.EffectSucceeded(intent_id=intent_id(number), decision_id=decision_id, attempt=attempt, sandbox=True),))

    def fail(self, decision_id: UUID, number: int = 1, *, final: bool = True, retry_in_us: int = 0, ambiguous: bool = False) -> None:
        attempt = self.effect(decision_id, number).attempt
        retry_at = None if final else from_us(self.now_us + retry_in_us)
        self.tell(
            (
                d.EffectFailed(
                    intent_id=intent_id(number),
                    decision_id=decision_id,
                    attempt=attempt,
                    final=final,
                    reason="down",
                    retry_at=retry_at,
                    ambiguous=ambiguous,
                ),
            )
        )

    def approve(self, decision_id: UUID, **changed: Any) -> tuple[Event, ...]:
        events = commands.approve(self.state, decision_id, **{**APPROVAL, "now_us": self.now_us, **changed})
        self.tell(events)
        return events


APPROVAL: dict[str, Any] = {
    "approver": "maria",
    "authenticated_by": "os-user",
    "arguments_mac": MAC,
    "offered_mac": MAC,
    "changed": (),
    "values_digest": "v",
    "reason": "fine",
}


def intent_id(number: int) -> UUID:
    return derive_id("intent", number)


def intent(number: int = 1, kind: Any = "idempotent", channel: str | None = "email", due_us: int = START_US) -> EffectIntent:
    return EffectIntent(
        intent_id=intent_id(number),
        tool="send-mail@1",
        tool_kind=kind,
        tool_digest="",
        channel=channel,
        arguments_mac=MAC,
        due_at=from_us(due_us),
    )


def decision(
    trigger_id: UUID, disposition: d.Disposition, now_us: int, intents: Sequence[EffectIntent] = (), **more: Any
) -> d.DecisionRecorded:
    values: dict[str, Any] = {
        "agent": AGENT,
        "condition": "payment-failed",
        "depth": 1,
        "mode": "act",
        "decided_at": from_us(now_us),
        "read_set": (),
        "evidence": {"seats": 5, "unknown": None},
        "context": {},
        "policy": "0" * 64,
        "tools": {},
        "decider": "tests:decide",
        "decider_digest": "",
        "package_version": "0",
        "flags": {},
        "eligible": (),
        "verdicts": (),
        "rationale": "because",
        **more,
    }
    return d.DecisionRecorded(trigger_id=trigger_id, disposition=disposition, intents=tuple(intents), **values)


def paid(number: int, at_us: int) -> signals.InvoicePaid:
    return signals.InvoicePaid(source="stripe", id=f"paid-{number}", occurred_at=from_us(at_us), amount_minor=4900, currency="EUR")


def days(number: int) -> timedelta:
    return timedelta(days=number)
