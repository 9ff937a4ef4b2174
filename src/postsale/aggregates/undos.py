"""Undos: plans that take back what descends from a decision or from what decided it. Streams: `tenant/undos/<id>`.

Proposed, approved, begun, finished; or void. What each item orders is an event of its customer (`decisions.UndoOrdered`), never here.
Wire names and fields are the storage format. May import `events` and artifacts only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, assert_never
from uuid import UUID

from pydantic import Field

from postsale.aggregates.artifacts import Digest
from postsale.events import Count, Event, Id, StreamId, Text, UtcDatetime, to_us

UNDOS = "undos"
UNDO_AGENT = "undo"
"""Under this name effects are taken back: it has a kill switch as an agent has, and no agent may bear it."""

ScopeKind = Literal["decision", "policy", "model", "prompt", "tool"]
Items = Annotated[str, Field(max_length=900_000)]  # canonical JSON; an event holds no more


class UndoProposed(Event):
    """What would be taken back, as of a position of the log. Holds no personal data."""

    wire_name: ClassVar[str] = "undo/proposed@1"
    by: ScopeKind
    name: Text  # a decision's id, a digest, a tool@version
    position: Count
    digest: Digest  # of scope and items: what an approval is bound to
    items: Items
    expires_at: UtcDatetime


class UndoApproved(Event):
    """A person said yes to exactly this plan."""

    wire_name: ClassVar[str] = "undo/approved@1"
    digest: Digest
    approver: Id
    authenticated_by: Id
    reason: Text


class UndoBegun(Event):
    """The plan still fitted the log at this position and is carried out from now on, whatever is born later."""

    wire_name: ClassVar[str] = "undo/begun@1"
    digest: Digest
    position: Count


class UndoVoided(Event):
    """The plan will not be carried out."""

    wire_name: ClassVar[str] = "undo/voided@1"
    digest: Digest
    why: Literal["changed", "expired"]


class UndoFinished(Event):
    """Every item has come to its end."""

    wire_name: ClassVar[str] = "undo/finished@1"
    digest: Digest
    undone: Count
    cancelled: Count
    failed: Count  # a person must look at these


UndoEvent = UndoProposed | UndoApproved | UndoBegun | UndoVoided | UndoFinished
Status = Literal["none", "proposed", "approved", "running", "finished", "void"]


@dataclass(frozen=True, slots=True)
class UndoState:
    """What one undo's stream says now."""

    status: Status = "none"
    version: int = 0
    proposed: UndoProposed | None = None
    approved: UndoApproved | None = None
    approval_id: UUID | None = None  # of the event
    finished: UndoFinished | None = None

    @property
    def open(self) -> bool:
        return self.status in {"proposed", "approved", "running"}

    def expired(self, now_us: int) -> bool:
        """Whether its time is over before it was begun."""
        return self.status in {"proposed", "approved"} and self.proposed is not None and now_us >= to_us(self.proposed.expires_at)


def evolve_undo(state: UndoState, event: UndoEvent, event_id: UUID) -> UndoState:
    state = replace(state, version=state.version + 1)
    match event:
        case UndoProposed():
            return replace(state, status="proposed", proposed=event)
        case UndoApproved():
            return replace(state, status="approved", approved=event, approval_id=event_id)
        case UndoBegun():
            return replace(state, status="running")
        case UndoVoided():
            return replace(state, status="void")
        case UndoFinished():
            return replace(state, status="finished", finished=event)
    assert_never(event)


def undo_stream(tenant: str, undo_id: UUID) -> StreamId:
    return StreamId(tenant, UNDOS, str(undo_id))
