"""Approvals beyond one yes: who is asked until when, each yes of several, escalation, time-out, and an edit that replaces a proposal.

Events of the customer's decision lane and the state of one open request. May import events and parts only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from postsale.aggregates.parts import Part
from postsale.events import Count, Event, Id, Text, UtcDatetime, to_us

OnTimeout = Literal["escalate", "lapse", "reject", "approve"]
ANYONE = "anyone"  # in place of a role: any authenticated person


class AskedLevel(Part):
    """People who may answer, and what happens when none does until then."""

    name: Id
    role: Id | None = None  # None: any authenticated person
    until: UtcDatetime
    on_timeout: OnTimeout


class ApprovalAsked(Event):
    """A decision waits for people by these rules. Stored with the decision; all times are fixed here, once."""

    wire_name: ClassVar[str] = "approval/asked@1"
    decision_id: UUID
    people: Annotated[int, Field(ge=1, le=5)]  # how many different people have to say yes
    edits: Literal["anyone", "other"]  # who approves an edited proposal: "other" is somebody else than its editor
    editor: Id | None = None  # who edited it
    levels: Annotated[tuple[AskedLevel, ...], Field(min_length=1, max_length=10)]
    rejected_by: Id | None = None  # a role that may say no beside those that may say yes; ANYONE: any authenticated person
    edited_by: Id | None = None  # likewise who may change the proposal


class ApprovalSigned(Event):
    """One person's yes under the rules of `approval/asked`. The last one that is needed comes with `approval/granted`."""

    wire_name: ClassVar[str] = "approval/signed@1"
    decision_id: UUID
    approver: Id
    authenticated_by: Id
    on_behalf_of: Id | None = None  # whose authority it is, when it was delegated
    delegation_id: UUID | None = None
    role: Id | None = None
    authority_version: Count  # of the tenant's authority stream, as it stood
    arguments_mac: Text
    values_digest: Text
    reason: Text = ""


class ApprovalEscalated(Event):
    """The next level is asked: nobody answered in time, or somebody handed it up. `level` counts from 0."""

    wire_name: ClassVar[str] = "approval/escalated@1"
    decision_id: UUID
    level: Count
    name: Id
    by: Id | None = None  # None: time
    reason: Text


class ApprovalTimedOut(Event):
    """Nobody answered in time, and the policy says in words what that means. Lapsing is `approval/lapsed`."""

    wire_name: ClassVar[str] = "approval/timed-out@1"
    decision_id: UUID
    outcome: Literal["reject", "approve"]
    level: Id


class ApprovalReplaced(Event):
    """A person changed the proposal: it is closed, and the decision `replaced_by` takes its place."""

    wire_name: ClassVar[str] = "approval/replaced@1"
    decision_id: UUID
    replaced_by: UUID
    editor: Id
    authenticated_by: Id
    changed: tuple[Id, ...]  # names only: values may be personal
    reason: Text
    on_behalf_of: Id | None = None  # whose authority it is, when it was delegated
    delegation_id: UUID | None = None
    role: Id | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """A yes, and whose authority it was."""

    approver: str
    principal: str


@dataclass(frozen=True, slots=True)
class Asked:
    """An open request under rules."""

    people: int
    edits: str
    editor: str | None
    levels: tuple[AskedLevel, ...]
    level: int = 0  # up to where it has been escalated
    signed: tuple[Signature, ...] = ()
    rejected_by: str | None = None
    edited_by: str | None = None

    @property
    def now(self) -> AskedLevel:
        """The level that is asked now."""
        return self.levels[min(self.level, len(self.levels) - 1)]

    @property
    def until_us(self) -> int:
        """When the present level's time is over."""
        return to_us(self.now.until)


def begin(event: ApprovalAsked) -> Asked:
    return Asked(event.people, event.edits, event.editor, event.levels, rejected_by=event.rejected_by, edited_by=event.edited_by)


def evolve_asked(asked: Asked, event: ApprovalSigned | ApprovalEscalated) -> Asked:
    if isinstance(event, ApprovalSigned):
        return replace(asked, signed=(*asked.signed, Signature(event.approver, event.on_behalf_of or event.approver)))
    return replace(asked, level=max(asked.level, event.level))
