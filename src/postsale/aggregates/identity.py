"""Who is who: external ids, aliases, contacts, merges and splits. Events on alias streams and customers' decision lanes.

Ids in streams are random references; an external id lives only here, sealed, behind a blind index that names its stream.
May import `events` only.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from postsale.events import Event, Id, Personal, StreamId, Text

CUSTOMERS = "customers"
ALIASES = "aliases"


class ExternalId(NamedTuple):
    """An id that some system gave to a customer or a person.

    `kind` is "customer" or "contact"; `source` is the system, "" for the tenant's own customer ids. Recording under the
    tenant's own customer id creates that customer; any other id that is not linked yet waits until it is.
    """

    kind: str
    source: str
    id: str

    @property
    def creates_customer(self) -> bool:
        return self.kind == "customer" and self.source == ""


def contact(id: str, source: str = "") -> ExternalId:
    """The external id of a person."""
    return ExternalId("contact", source, id)


def foreign(source: str, id: str) -> ExternalId:
    """Another system's id of a customer."""
    return ExternalId("customer", source, id)


Ref = Id  # a random reference: 32 hex digits


class AliasLinked(Event):
    """An external id stands for this reference from now on. On `tenant/aliases/<blind index>`, version 1.

    Facts under it go to the stream of `account`. Merges and splits leave aliases alone: they join and part streams.
    """

    wire_name: ClassVar[str] = "identity/alias-linked@1"
    of: Literal["customer", "contact"]
    ref: Ref  # the customer's, or the contact's own
    account: Ref  # the customer whose stream takes facts recorded under this id
    source: Text = ""
    external_id: Personal[Id]


class StreamJoined(Event):
    """Facts on this stream belong to the customer from now on, those recorded before too."""

    wire_name: ClassVar[str] = "identity/stream-joined@1"
    category: Id
    id: Id
    why: Literal["link", "merge"]
    reason: Text = ""


class StreamParted(Event):
    """Facts on this stream no longer belong to the customer."""

    wire_name: ClassVar[str] = "identity/stream-parted@1"
    category: Id
    id: Id
    reason: Text


class MergedInto(Event):
    """This customer is now part of another one; what is recorded under its ids counts there."""

    wire_name: ClassVar[str] = "identity/merged-into@1"
    survivor: Ref
    reason: Text


class SplitFrom(Event):
    """This customer stands on its own again."""

    wire_name: ClassVar[str] = "identity/split-from@1"
    survivor: Ref
    reason: Text


IDENTITY_KINDS = frozenset(cls.wire_name.partition("@")[0] for cls in (AliasLinked, StreamJoined, StreamParted, MergedInto, SplitFrom))
"""The kinds of event that say who is who."""


def customer_stream(tenant: str, ref: str) -> StreamId:
    return StreamId(tenant, CUSTOMERS, ref)


def alias_stream(tenant: str, blind: str) -> StreamId:
    return StreamId(tenant, ALIASES, blind)
