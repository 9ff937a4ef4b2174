"""An undo as it stands, and one item of it taken back: a decision's effects cancelled, or one effect ordered to be undone.

Both ways may be gone again: what is done is done once. Not here: plans, approvals, what is begun when (`undoing`). May import the desk
and what is below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from postsale.agents.decide import intent_mac
from postsale.agents.desk import NOTHING, Change, Desk
from postsale.agents.tools.toolbox import Toolbox
from postsale.agents.undo import Item, items_of, undo_arguments
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.undos import (
    UNDO_AGENT,
    UndoProposed,
    UndoState,
)
from postsale.errors import KeyUnavailable
from postsale.events import Actor, Lane, StoredEvent, canonical, derive_id, from_us
from postsale.store.contract import Query
from postsale.store.log import Cause


@dataclass(frozen=True, slots=True)
class Ended:
    """One item of an undo that was begun, as it stands: waiting, ordered, undone, cancelled, failed, unknown."""

    item: Item
    status: str
    why: str = ""

    @property
    def settled_by(self) -> dict[str, str]:
        """The order and its effect, by which a person says what became of it; {} for a cancellation, which orders nothing."""
        return {"order": str(self.item.order_id), "order_effect": str(self.item.undo_id)} if self.item.what == "undo" else {}


@dataclass(frozen=True, slots=True)
class Undo:
    """One undo as it stands now."""

    id: UUID
    tenant: str
    state: UndoState
    items: tuple[Ended, ...] = ()  # () until it is begun; without what is done by hand

    @property
    def proposed(self) -> UndoProposed:
        assert self.state.proposed is not None
        return self.state.proposed

    @property
    def digest(self) -> str:
        return self.proposed.digest

    @property
    def by_hand(self) -> tuple[Item, ...]:
        """What the plan left to people."""
        return tuple(item for item in items_of(self.proposed.items) if item.what == "by-hand")

    def to_dict(self) -> dict[str, Any]:
        """For programs; no personal data."""
        p, a, f = self.proposed, self.state.approved, self.state.finished
        return {
            "id": str(self.id),
            "status": self.state.status,
            "digest": p.digest,
            "scope": {"by": p.by, "name": p.name},
            "position": p.position,
            "expires_at": p.expires_at.isoformat(),
            "approver": a.approver if a else None,
            "items": [{**ended.item.to_dict(), **ended.settled_by, "status": ended.status, "why": ended.why} for ended in self.items],
            "by_hand": [item.to_dict() for item in self.by_hand],
            "finished": None if f is None else {"undone": f.undone, "cancelled": f.cancelled, "failed": f.failed},
        }


def cancel(desk: Desk, undo: Undo, item: Item) -> None:
    """What has not left stays; by now nothing may be left to cancel."""
    assert undo.state.approved is not None
    by = undo.state.approved.approver
    how = Cause(actor=Actor("person", by), causation_id=undo.state.approval_id, correlation_id=undo.id, origin=desk.origin)

    def rule(c: CustomerAggregate) -> Change:
        if item.decision not in c.decisions:
            return NOTHING
        events = commands.override(c, item.decision, by=by, reason=f"undo {undo.digest[:12]}")
        return Change(tuple(desk.draft(e, derive_id(item.decision, "override", e.wire_name), how) for e in events))

    desk.change(item.stream(undo.tenant), rule)


def order(desk: Desk, toolbox: Toolbox, undo: Undo, item: Item) -> str:
    """Order that one effect is taken back, once; "" when it is ordered, else why it cannot be."""
    if desk.log.store.find(undo.tenant, item.order_id) is not None:
        return ""
    decision = desk.decision(undo.tenant, item.decision)
    intent = next(i for i in decision.data.intents if i.intent_id == item.effect)
    tool, other = toolbox.get(intent.tool), toolbox.get(item.with_tool)
    if tool is None or other is None or tool.ref.digest != intent.tool_digest or other.ref.digest != item.with_digest:
        return "the tools installed here are not those of the plan"
    arguments = undo_arguments(decision.data, intent, tool, _receipt(desk, decision.stored, intent.intent_id))
    if arguments is None or intent_mac(desk.mac(undo.tenant), item.undo_id, item.with_tool, arguments) != item.mac:
        return "its arguments are erased, or are not those of the plan"
    assert undo.state.approved is not None
    now = from_us(desk.now_us())
    ordered = d.UndoOrdered(
        undo_id=undo.id,
        plan=undo.digest,
        approver=undo.state.approved.approver,
        decision_id=item.decision,
        undoes=intent.intent_id,
        trigger_id=decision.data.trigger_id,
        depth=decision.data.depth,
        intents=(
            d.EffectIntent(
                intent_id=item.undo_id,
                tool=item.with_tool,
                tool_kind=other.kind,
                tool_digest=item.with_digest,
                arguments_mac=item.mac,
                due_at=now,
            ),
        ),
        arguments=canonical([arguments]).decode(),
        compensates=item.back,
    )
    how = Cause(
        actor=Actor("agent", UNDO_AGENT),
        causation_id=undo.state.approval_id,  # not of the decision: what undoing causes is not undone with it
        correlation_id=decision.data.trigger_id,
        depth=decision.data.depth,
        origin=desk.origin,
    )

    def rule(c: CustomerAggregate) -> Change:
        if desk.log.store.find(undo.tenant, item.order_id) is not None:
            return NOTHING
        return Change((desk.draft(ordered, item.order_id, how, c.ref),))

    try:
        desk.change(item.stream(undo.tenant), rule)
    except KeyUnavailable:
        return "the customer's key is gone"
    return ""


def _receipt(desk: Desk, decision: StoredEvent, intent_id: UUID) -> str:
    query = Query(tenant=decision.tenant, streams=(decision.stream,), lane=Lane.DECISION, kinds=frozenset({"effect/succeeded"}))
    for r in desk.log.events(query):
        if isinstance(r.data, d.EffectSucceeded) and r.data.intent_id == intent_id:
            return r.data.receipt
    return ""
