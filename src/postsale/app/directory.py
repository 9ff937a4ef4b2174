"""Which customer an external id stands for: alias streams read in batches, names unsealed for people to read.

Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from postsale.access import Unsealer, blind_index
from postsale.aggregates.identity import ALIASES, AliasLinked, ExternalId, MergedInto, alias_stream, customer_stream
from postsale.errors import InvalidInput, UnknownCustomer
from postsale.events import Id, Lane, Masked, StreamId, decode, derive_id, invalid_input
from postsale.store.contract import Query, Recording
from postsale.store.log import Cause, Draft, Log

_ID = TypeAdapter(Id, config=ConfigDict(hide_input_in_errors=True))  # not in the error's context either
_MERGES = frozenset({"identity/merged-into", "identity/split-from"})


class Place(NamedTuple):
    """Where an external id stands. `linked` is None while nothing is linked to it: facts then wait on `alias`."""

    alias: StreamId
    linked: AliasLinked | None

    @property
    def fact_stream(self) -> StreamId:
        return self.alias if self.linked is None else customer_stream(self.alias.tenant, self.linked.account)

    @property
    def subject(self) -> str:
        return self.alias.id if self.linked is None else self.linked.ref


class Name(NamedTuple):
    """An external id of a customer as a person reads it; `id` is "•••" to whoever may not unseal it."""

    source: str
    id: str


def random_ref() -> str:
    """A reference that says nothing about what it stands for: 32 random hex digits."""
    return secrets.token_hex(16)


def as_external(customer: str | ExternalId) -> ExternalId:
    """A plain string is the tenant's own customer id. Raises InvalidInput for ids that are empty, over-long or unprintable."""
    external = customer if isinstance(customer, ExternalId) else ExternalId("customer", "", customer)
    if external.kind not in {"customer", "contact"}:
        raise InvalidInput(what="external id", field="kind", reason="expected customer or contact")
    for field in ("id", "source"):
        value = getattr(external, field)
        if field == "source" and value == "":
            continue
        try:
            _ID.validate_python(value, strict=True)
            continue
        except ValidationError as error:
            refusal = InvalidInput(what=external.kind, field=field, reason=invalid_input(field, error).reason)
        raise refusal  # out here, because pydantic's error, as context, would carry the id
    return external


class Directory:
    """External ids to streams and back. Holds no state: the log is asked each time, in one round trip per batch."""

    def __init__(self, log: Log, new_ref: Callable[[], str] = random_ref) -> None:
        self._log = log
        self.new_ref = new_ref

    def alias(self, tenant: str, external: ExternalId) -> StreamId:
        return alias_stream(tenant, blind_index(self._log.vault.tenant(tenant), external))

    def resolve(self, tenant: str, externals: Iterable[ExternalId], log: Recording | None = None) -> Mapping[ExternalId, Place]:
        """Where each id stands now; `log` is another sight of this log, such as that of a transaction."""
        wanted = {external: self.alias(tenant, external) for external in externals}
        newest = (log or self._log.store).latest(list(wanted.values()))
        places = {}
        for (external, stream), stored in zip(wanted.items(), newest, strict=True):
            event = decode(stored).data if stored is not None else None
            places[external] = Place(stream, event if isinstance(event, AliasLinked) else None)
        return places

    def link_draft(self, alias: StreamId, external: ExternalId, *, ref: str, account: str, at_us: int, cause: Cause) -> Draft:
        """The event that links an id for the first time; linking it to the same reference again is the same event."""
        event = AliasLinked(
            of="contact" if external.kind == "contact" else "customer",
            ref=ref,
            account=account,
            source=external.source,
            external_id=external.id,
        )
        return Draft(event, derive_id(alias, ref), at_us, cause, subject=ref)

    def customer(self, tenant: str, customer: str | ExternalId, *, known_at_us: int | None = None) -> StreamId:
        """The stream of the customer that an id stands for, after the merges known by then. Raises UnknownCustomer."""
        external = as_external(customer)
        linked = self.resolve(tenant, [external])[external].linked
        if linked is None:
            raise UnknownCustomer(tenant=tenant)
        return self.survivor(customer_stream(tenant, linked.account), known_at_us=known_at_us)

    def survivor(self, stream: StreamId, *, known_at_us: int | None = None) -> StreamId:
        """The customer that this one is part of, as known then: itself unless merged."""
        query = Query(streams=(stream,), lane=Lane.DECISION, kinds=_MERGES, known_at_us=known_at_us, backward=True, limit=1)
        for recorded in self._log.events(query):
            if isinstance(recorded.data, MergedInto):
                return self.survivor(customer_stream(stream.tenant, recorded.data.survivor), known_at_us=known_at_us)
        return stream

    def links(self, tenant: str, unseal: Unsealer | None = None) -> Iterator[tuple[StreamId, AliasLinked]]:
        """Every link of a tenant, oldest first."""
        query = Query(tenant=tenant, category=ALIASES, lane=Lane.DECISION)
        for recorded in self._log.events(query, unseal):
            if isinstance(recorded.data, AliasLinked):
                yield recorded.stored.stream, recorded.data

    def names(self, tenant: str, unseal: Unsealer) -> dict[str, tuple[Name, ...]]:
        """The customers of a tenant, by reference, with their external ids in the order they were linked."""
        names: dict[str, tuple[Name, ...]] = {}
        for _, link in self.links(tenant, unseal):
            if link.of == "customer":
                text = "•••" if isinstance(link.external_id, Masked) else link.external_id
                names[link.account] = (*names.get(link.account, ()), Name(link.source, text))
        return names
