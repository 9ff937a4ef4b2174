"""The decision journal and the approval queue: every decision with its one current disposition, folded from the decision lane.

Pure folds; a view or a one-off read feeds them. May import `aggregates`, `events` and `store.contract`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from postsale.aggregates import asked as a
from postsale.aggregates import decisions as d
from postsale.aggregates.conversations import ConversationEnded, sets_aside
from postsale.events import Event, Lane, Recorded, StoredEvent, StreamId, decode, from_us
from postsale.store.contract import Query, Store

KINDS = frozenset(
    cls.wire_name.partition("@")[0]
    for cls in (
        d.DecisionRecorded,
        d.ApprovalGranted,
        d.ApprovalRejected,
        d.ApprovalLapsed,
        d.DecisionOverridden,
        d.EffectStarted,
        d.EffectSucceeded,
        d.EffectFailed,
        d.EffectUnknown,
        d.EffectCancelled,
        d.UndoOrdered,
        d.OutcomeObserved,
        ConversationEnded,
        a.ApprovalAsked,
        a.ApprovalSigned,
        a.ApprovalEscalated,
        a.ApprovalTimedOut,
        a.ApprovalReplaced,
    )
)
"""The kinds of event that change a journal entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision as it stands now."""

    id: UUID
    stream: StreamId
    position: int
    decided_at: datetime
    recorded: d.DecisionRecorded
    disposition: d.Disposition
    suppressed_by: str | None
    effects: Mapping[UUID, str]  # intent -> held, ready, started, retry, unknown, succeeded, failed, cancelled
    approver: str | None = None
    outcome: str | None = None  # success, none; None while it is open or where none was declared
    history: tuple[tuple[datetime, str], ...] = field(default=())  # what happened to it, in order
    undone: Mapping[UUID, str] = field(default_factory=dict)  # effect -> how its taking back stands, in the words of `effects`
    asked: a.Asked | None = None  # the rules under which it waits, or waited, for people
    replaced_by: UUID | None = None  # the decision that took its place when a person edited it

    @property
    def agent(self) -> str:
        return self.recorded.agent

    @property
    def action(self) -> str | None:
        return self.recorded.action

    def to_dict(self) -> dict[str, Any]:
        """For programs; no personal data."""
        return {
            "id": str(self.id),
            "customer_ref": self.stream.id,
            "agent": self.agent,
            "condition": self.recorded.condition,
            "decided_at": self.decided_at.isoformat(),
            "action": self.action,
            "rule": self.recorded.rule,
            "disposition": self.disposition,
            "suppressed_by": self.suppressed_by,
            "rationale": self.recorded.rationale,
            "effects": {str(k): v for k, v in self.effects.items()},
            "approver": self.approver,
            "outcome": self.outcome,
            "undone": {str(k): v for k, v in self.undone.items()},
            "replaced_by": None if self.replaced_by is None else str(self.replaced_by),
        }


class Journal:
    """Entries by decision id, in order of decision. Feed events in position order."""

    def __init__(self) -> None:
        self.entries: dict[UUID, Entry] = {}
        self._orders: dict[UUID, tuple[UUID, UUID]] = {}  # to take back: order -> (decision, effect)

    def add(self, stored: StoredEvent, event: Event) -> None:
        """Take one event of `KINDS` into account; any other is ignored."""
        at = from_us(stored.occurred_at_us)
        if isinstance(event, d.DecisionRecorded):
            status = {"acted": "ready", "awaiting": "held"}.get(event.disposition, "cancelled")
            effects = {i.intent_id: status for i in event.intents}
            told = event.disposition + (f" by {event.suppressed_by}" if event.suppressed_by else "")
            self.entries[stored.event_id] = Entry(
                stored.event_id,
                stored.stream,
                stored.position,
                at,
                event,
                event.disposition,
                event.suppressed_by,
                effects,
                history=((at, told),),
            )
            return
        decision_id = getattr(event, "decision_id", None)
        if isinstance(event, d.UndoOrdered):
            self._orders[stored.event_id] = (event.decision_id, event.undoes)
        elif decision_id in self._orders:
            self._take_back(*self._orders[decision_id], event, at)
            return
        entry = self.entries.get(decision_id) if decision_id is not None else None
        if entry is not None:
            self.entries[entry.id] = self._change(entry, event, at)

    def _change(self, entry: Entry, event: Event, at: datetime) -> Entry:
        match event:
            case d.ApprovalGranted(approver=by, authenticated_by=how, reason=reason):
                said = f": {reason}" if reason else ""
                return self._move(
                    entry, at, f"approved by {by} ({how}){said}", disposition="acted", approver=by, effects=_move_open(entry, "ready")
                )
            case d.ApprovalRejected(approver=by, authenticated_by=how, reason=reason, role=role, on_behalf_of=of):
                return self._suppress(entry, at, f"rejected by {by} ({how}){_in_role(role, of)}: {reason}", "approval:rejected", by)
            case d.ApprovalLapsed(why=why):
                return self._suppress(entry, at, f"approval lapsed: {why}", f"approval:{why}", None)
            case a.ApprovalAsked():
                return replace(entry, asked=a.begin(event))
            case a.ApprovalSigned(approver=by, authenticated_by=how, on_behalf_of=of):
                entry = replace(entry, asked=entry.asked and a.evolve_asked(entry.asked, event))
                return self._move(entry, at, f"yes from {by} ({how})" + (f" for {of}" if of else ""))
            case a.ApprovalEscalated(name=name, by=by, reason=reason):
                entry = replace(entry, asked=entry.asked and a.evolve_asked(entry.asked, event))
                return self._move(entry, at, f"escalated to {name}" + (f" by {by}" if by else "") + f": {reason}")
            case a.ApprovalTimedOut(outcome="approve", level=level):
                effects = _move_open(entry, "ready")
                return self._move(entry, at, f"approved by silence of {level}, as its policy says", disposition="acted", effects=effects)
            case a.ApprovalTimedOut(level=level):
                return self._suppress(entry, at, f"rejected by silence of {level}, as its policy says", "approval:timed-out", None)
            case a.ApprovalReplaced(
                replaced_by=new, editor=by, authenticated_by=how, changed=changed, reason=reason, role=role, on_behalf_of=of
            ):
                told = f"edited by {by} ({how}){_in_role(role, of)}: {', '.join(changed)}: {reason}"
                return replace(self._suppress(entry, at, told, "approval:replaced", None), replaced_by=new)
            case d.DecisionOverridden(by=by, reason=reason):
                return self._suppress(entry, at, f"overridden by {by}: {reason}", "override", entry.approver)
            case ConversationEnded(why=why, detail=detail):
                told = f"conversation ended: {why}" + (f", {detail}" if detail != why else "")
                left = _move_open(entry, "cancelled")
                if sets_aside(entry.disposition, left.values()):
                    return self._suppress(entry, at, told, f"conversation:{why}", entry.approver)
                return self._move(entry, at, told, effects=left)
            case d.EffectStarted(intent_id=intent, attempt=attempt):
                return self._effect(entry, at, intent, "started", f"attempt {attempt}")
            case d.EffectSucceeded(intent_id=intent, sandbox=sandbox):
                return self._effect(entry, at, intent, "succeeded", "in the sandbox" if sandbox else "confirmed")
            case d.EffectFailed(intent_id=intent, final=final, reason=reason):
                return self._effect(entry, at, intent, "failed" if final else "retry", reason)
            case d.EffectUnknown(intent_id=intent, reason=reason):
                return self._effect(entry, at, intent, "unknown", reason)
            case d.EffectCancelled(intent_id=intent, reason=reason):
                return self._effect(entry, at, intent, "cancelled", reason)
            case d.UndoOrdered(undoes=intent, approver=by, intents=intents):
                told = f"to be taken back with {', '.join(i.tool for i in intents)}, approved by {by}"
                return self._move(entry, at, told, undone={**entry.undone, intent: "ready"})
            case d.OutcomeObserved(outcome=outcome):
                return self._move(entry, at, f"outcome: {outcome}", outcome=outcome)
        return entry

    def _take_back(self, decision_id: UUID, intent: UUID, event: Event, at: datetime) -> None:
        entry = self.entries.get(decision_id)
        if entry is None:
            return
        match event:
            case d.EffectStarted(attempt=attempt):
                status, detail = "started", f"attempt {attempt}"
            case d.EffectSucceeded(sandbox=sandbox):
                status, detail = "succeeded", "in the sandbox" if sandbox else "confirmed"
            case d.EffectFailed(final=final, reason=reason):
                status, detail = "failed" if final else "retry", reason
            case d.EffectUnknown(reason=reason):
                status, detail = "unknown", reason
            case d.EffectCancelled(reason=reason):
                status, detail = "cancelled", reason
            case _:
                return
        told = f"taking back {status}: {detail}"
        self.entries[entry.id] = self._move(entry, at, told, undone={**entry.undone, intent: status})

    @staticmethod
    def _move(entry: Entry, at: datetime, told: str, **changes: Any) -> Entry:
        return replace(entry, history=(*entry.history, (at, told)), **changes)

    def _suppress(self, entry: Entry, at: datetime, told: str, rule: str, by: str | None) -> Entry:
        effects = _move_open(entry, "cancelled")
        return self._move(entry, at, told, disposition="suppressed", suppressed_by=rule, approver=by, effects=effects)

    def _effect(self, entry: Entry, at: datetime, intent: UUID, status: str, detail: str) -> Entry:
        effects = {**entry.effects, intent: status}
        # As the customer's own state has it: what a person set aside stays so; else without any effect left it has failed.
        failed = entry.disposition != "suppressed" and all(s in {"failed", "cancelled"} for s in effects.values())
        disposition = "failed" if failed else entry.disposition
        return self._move(entry, at, f"effect {status}: {detail}", effects=effects, disposition=disposition)


def _in_role(role: str | None, of: str | None) -> str:
    return (f" as {role}" if role else "") + (f" for {of}" if of else "")


def _move_open(entry: Entry, status: str) -> dict[UUID, str]:
    return {k: status if s in {"held", "ready", "retry"} else s for k, s in entry.effects.items()}


def read_journal(
    store: Store,
    tenant: str,
    streams: tuple[StreamId, ...] = (),
    *,
    after: int = 0,
    as_of_us: int | None = None,
    known_at_us: int | None = None,
) -> list[Entry]:
    """Every decision of a tenant, or of some streams, recorded after a position; oldest first.

    As it stood at `as_of_us`, as known at `known_at_us`.
    """
    journal = Journal()
    for recorded in decision_events(store, tenant, streams, after=after, as_of_us=as_of_us, known_at_us=known_at_us):
        journal.add(recorded.stored, recorded.data)
    return list(journal.entries.values())


def decision_events(
    store: Store,
    tenant: str,
    streams: tuple[StreamId, ...] = (),
    *,
    after: int = 0,
    as_of_us: int | None = None,
    known_at_us: int | None = None,
) -> Iterator[Recorded[Event]]:
    """The events a journal is folded from, in position order."""
    query = Query(
        tenant=tenant,
        streams=streams,
        category="customers",
        lane=Lane.DECISION,
        kinds=KINDS,
        after=after,
        as_of_us=as_of_us,
        known_at_us=known_at_us,
    )
    for stored in store.read(query):
        yield decode(stored)


def awaiting(entries: Iterable[Entry]) -> list[Entry]:
    """The approval queue: what waits for a person, the most urgent (first to expire) first."""
    waiting = [e for e in entries if e.disposition == "awaiting"]
    return sorted(waiting, key=lambda e: (e.recorded.approval_expires_at or datetime.max.replace(tzinfo=e.decided_at.tzinfo), e.position))
