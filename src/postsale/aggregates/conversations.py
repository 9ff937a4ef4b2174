"""One customer, one conversation: how a conversation ends before its time, and how often all agents together may contact a customer.

A conversation is an agent's open decisions about a customer; it has no stream of its own. Wire names and fields are the storage format.
May import `events` only; the rules are in `agents.conversation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple
from uuid import UUID

from pydantic import Field

from postsale.events import Event, Id, StreamId, Text

MAX_CONTACTS = 50  # below MAX_TOUCHES, the contacts that a customer's state remembers
Why = Literal["goal", "over", "stopped", "unsubscribed", "taken-over"]


class ConversationEnded(Event):
    """A decision's part in a conversation is over: what has not left is cancelled, and nothing more is expected of it."""

    wire_name: ClassVar[str] = "conversation/ended@1"
    decision_id: UUID
    why: Why
    detail: Id  # which stop condition of the policy, or which agent took over; else as `why`
    by: UUID | None = None  # the decision that took over, or the fact that reached the goal


class ContactBudgetSet(Event):
    """From now on all agents together contact a customer this often at most on a channel. On `tenant/contacts/budget`."""

    wire_name: ClassVar[str] = "contacts/budget-set@1"
    channel: Id
    count: Annotated[int, Field(ge=0, le=MAX_CONTACTS)]
    days: Annotated[int, Field(ge=1, le=3_650)]
    owner: Id
    reason: Text


class ContactLimit(NamedTuple):
    """At most `most` contacts within any `days`."""

    most: int
    days: int


DEFAULT_LIMIT = ContactLimit(4, 30)
"""On a channel of which nobody has said anything."""


def contacts_stream(tenant: str) -> StreamId:
    return StreamId(tenant, "contacts", "budget")


def sets_aside(disposition: str, effects: Iterable[str]) -> bool:
    """Whether a decision that ends like this has come to nothing: it waited, or none of its effects left or may have left."""
    statuses = tuple(effects)
    gone = bool(statuses) and not any(status in {"started", "succeeded", "unknown"} for status in statuses)
    return disposition == "awaiting" or (disposition == "acted" and gone)


def limit_of(limits: Mapping[str, ContactLimit], channel: str) -> ContactLimit:
    return limits.get(channel, DEFAULT_LIMIT)
