"""Dispositions over any log: every trigger has exactly one decision, every decision a trigger; what is missing or doubled is named.

Reads only, without keys; reaches no tool. May import everything below `audit`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from postsale.agents.decide import decision_id
from postsale.aggregates import decisions as d
from postsale.aggregates.identity import CUSTOMERS
from postsale.errors import PostSaleError
from postsale.events import Event, Lane, StoredEvent, decode
from postsale.projections.journal import KINDS
from postsale.store.contract import Query, Store

_KINDS = KINDS | {"agent/trigger-raised"}
What = Literal["missing", "doubled", "orphan", "mismatch", "unreadable"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One place where triggers and decisions do not go together."""

    what: What
    position: int  # of the event that is wrong, or that lacks its counterpart
    tenant: str
    stream: str  # names a customer by its random reference
    id: UUID  # of the trigger or decision
    reason: str


@dataclass(slots=True)
class DispositionReport:
    """What a check found. `ok`: triggers and decisions are one to one, but for triggers younger than the grace."""

    triggers: int = 0
    decisions: int = 0
    waiting: int = 0  # triggers without a decision yet, within the grace
    dispositions: Counter[str] = field(default_factory=Counter)  # as they were decided
    problems: list[Problem] = field(default_factory=list)  # in order of position, tenant by tenant

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "triggers": self.triggers,
            "decisions": self.decisions,
            "waiting": self.waiting,
            "dispositions": dict(self.dispositions),
            "problems": [
                {"what": p.what, "position": p.position, "tenant": p.tenant, "stream": p.stream, "id": str(p.id), "reason": p.reason}
                for p in self.problems
            ],
        }


def check_dispositions(
    store: Store, tenants: Iterable[str] | None = None, *, since_us: int | None = None, on_progress: Callable[[int], None] | None = None
) -> DispositionReport:
    """Check every trigger and decision of these tenants, by default of all. Memory is bounded by triggers.

    `since_us`: a trigger that was recorded after it may be without a decision; by default none may.
    """
    report = DispositionReport()
    for tenant in store.tenants() if tenants is None else tenants:
        _Check(report, tenant, since_us).run(store, on_progress or (lambda _: None))
    return report


class _Check:
    def __init__(self, report: DispositionReport, tenant: str, since_us: int | None) -> None:
        self.report, self.tenant, self.since_us = report, tenant, since_us
        self.raised: dict[UUID, tuple[StoredEvent, d.TriggerRaised]] = {}
        self.decided: dict[UUID, int] = {}  # trigger -> position of its decision
        self.decisions: dict[UUID, tuple[StoredEvent, frozenset[UUID]]] = {}  # with the ids of its effects

    def run(self, store: Store, tell: Callable[[int], None]) -> None:
        first = len(self.report.problems)
        query = Query(tenant=self.tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=_KINDS)
        for stored in store.read(query):
            tell(stored.position)
            try:
                event = decode(stored).data
            except PostSaleError as error:
                self.bad("unreadable", stored, stored.event_id, f"it cannot be read: {type(error).__name__}")
                continue
            self.take(stored, event)
        for id_, (stored, raised) in self.raised.items():
            if id_ in self.decided:
                continue
            if self.since_us is not None and stored.recorded_at_us > self.since_us:
                self.report.waiting += 1
                continue
            self.bad("missing", stored, id_, f"the trigger {raised.condition!r} of agent {raised.agent!r} has no decision")
        self.report.problems[first:] = sorted(self.report.problems[first:], key=lambda p: p.position)

    def take(self, stored: StoredEvent, event: Event) -> None:
        match event:
            case d.TriggerRaised():
                self.report.triggers += 1
                self.raised[stored.event_id] = (stored, event)
            case d.DecisionRecorded():
                self.report.decisions += 1
                self.report.dispositions[event.disposition] += 1
                self.decision(stored, event)
            case d.UndoOrdered():
                self.later(stored, event)
                self.decisions[stored.event_id] = (stored, frozenset(i.intent_id for i in event.intents))
                if (known := self.decisions.get(event.decision_id)) is not None and event.undoes not in known[1]:
                    self.bad("orphan", stored, event.decision_id, "an undo names an effect that its decision did not intend")
            case _:
                self.later(stored, event)

    def decision(self, stored: StoredEvent, event: d.DecisionRecorded) -> None:
        id_, trigger = stored.event_id, event.trigger_id
        self.decisions[id_] = (stored, frozenset(i.intent_id for i in event.intents))
        if trigger in self.decided:
            self.bad("doubled", stored, id_, f"trigger {trigger} was decided at position {self.decided[trigger]} already")
            return
        self.decided[trigger] = stored.position
        if trigger not in self.raised:
            self.bad("orphan", stored, id_, f"no trigger {trigger} was raised before it")
            return
        at, raised = self.raised[trigger]
        for what, same in (
            ("customer", at.stream == stored.stream),
            ("agent", raised.agent == event.agent),
            ("condition", raised.condition == event.condition),
            ("depth", raised.depth == event.depth),
            ("id, which derives from the trigger's", id_ == decision_id(trigger)),
            ("reason to be suppressed", (event.suppressed_by is not None) is (event.disposition == "suppressed")),
        ):
            if not same:
                self.bad("mismatch", stored, id_, f"it does not fit trigger {trigger}: another {what}")

    def later(self, stored: StoredEvent, event: Event) -> None:
        """What happens to a decision, above all an effect, happens to one that was taken, on the same customer."""
        id_: UUID | None = getattr(event, "decision_id", None)
        if id_ is None:
            return
        if id_ not in self.decisions:
            self.bad("orphan", stored, id_, f"{stored.kind} names a decision that was not taken before it")
            return
        decided, intents = self.decisions[id_]
        if decided.stream != stored.stream:
            self.bad("mismatch", stored, id_, f"{stored.kind} is about a decision of another customer")
        intent = getattr(event, "intent_id", None)
        if intent is not None and intent not in intents:
            self.bad("orphan", stored, id_, f"{stored.kind} names an effect that its decision did not intend")

    def bad(self, what: What, stored: StoredEvent, id_: UUID, reason: str) -> None:
        self.report.problems.append(Problem(what, stored.position, self.tenant, str(stored.stream), id_, reason))
