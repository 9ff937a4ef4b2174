"""Links, merges and splits of customers, each as one append over the streams it touches.

Part of the wiring: may import everything below `app`. The rules are in `aggregates.commands`.
"""

from __future__ import annotations

from collections.abc import Iterator

from postsale.access import Person
from postsale.aggregates import commands
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.identity import ExternalId, customer_stream
from postsale.app.directory import Directory, as_external
from postsale.errors import ContentConflict, IdentityConflict, UnknownCustomer, VersionConflict
from postsale.events import Event, NewEvent, derive_id
from postsale.store.log import Cause, Draft, Log

_RACES = 20
_LOST = (VersionConflict, ContentConflict)  # ids carry the version: another event may hold this one


class Identity:
    """Who is who, changed."""

    def __init__(self, log: Log, directory: Directory) -> None:
        self._log = log
        self._directory = directory

    def link(self, tenant: str, external: str | ExternalId, customer: str | ExternalId) -> bool:
        """Link an id to a customer and let what waited under it count; False when it stands for this customer already."""
        external, cause = as_external(external), Cause()
        for _ in range(_RACES):
            own = self._own(tenant, customer)
            place = self._directory.resolve(tenant, [external])[external]
            if place.linked is not None:
                linked = customer_stream(tenant, place.linked.account)
                if self._directory.survivor(linked) != self._directory.survivor(own.stream):
                    raise IdentityConflict(tenant=tenant, reason="this id is linked to another customer")
                return False
            now_us = self._log.clock.now_us()
            ref = self._directory.new_ref() if external.kind == "contact" else own.ref
            draft = self._directory.link_draft(place.alias, external, ref=ref, account=own.ref, at_us=now_us, cause=cause)
            joins: list[NewEvent] = []
            for state in self._up(own):  # a customer that is part of another one takes the id along when it is split off
                joins += self._drafts(state, commands.join_alias(state, place.alias.id), cause, now_us)
            try:
                return self._log.append((self._log.decision(place.alias, 0, draft), *joins)).stored
            except _LOST:
                continue  # somebody else was first: look again
        raise IdentityConflict(tenant=tenant, reason="the customer keeps changing")

    def merge(self, tenant: str, other: str | ExternalId, into: str | ExternalId, reason: str, by: Person) -> bool:
        """Join the other's streams to the survivor."""
        for _ in range(_RACES):
            survivor = self._log.customer(self._directory.customer(tenant, into))
            absorbed = self._own(tenant, other)
            ours, theirs = commands.merge(survivor, absorbed, reason)
            if self._commit(survivor, ours, absorbed, theirs, by):
                return bool(ours or theirs)
        raise IdentityConflict(tenant=tenant, reason="the customers keep changing")

    def split(self, tenant: str, other: str | ExternalId, reason: str, by: Person) -> bool:
        """Part the other's streams from the survivor."""
        for _ in range(_RACES):
            absorbed = self._own(tenant, other)
            if absorbed.merged_into is None:
                return False
            survivor = self._log.customer(customer_stream(tenant, absorbed.merged_into))
            ours, theirs = commands.split(survivor, absorbed, reason)
            if self._commit(survivor, ours, absorbed, theirs, by):
                return True
        raise IdentityConflict(tenant=tenant, reason="the customers keep changing")

    def _own(self, tenant: str, customer: str | ExternalId) -> CustomerAggregate:
        """The customer that an id was linked to, whatever it is merged into."""
        external = as_external(customer)
        linked = self._directory.resolve(tenant, [external])[external].linked
        if linked is None:
            raise UnknownCustomer(tenant=tenant)
        return self._log.customer(customer_stream(tenant, linked.account))

    def _up(self, customer: CustomerAggregate) -> Iterator[CustomerAggregate]:
        """The customer, then those it is part of."""
        yield customer
        while customer.merged_into is not None:
            customer = self._log.customer(customer_stream(customer.stream.tenant, customer.merged_into))
            yield customer

    def _commit(self, a: CustomerAggregate, for_a: tuple[Event, ...], b: CustomerAggregate, for_b: tuple[Event, ...], by: Person) -> bool:
        if not for_a and not for_b:
            return True
        cause, now_us = Cause(actor=by.actor), self._log.clock.now_us()
        try:
            self._log.append((*self._drafts(a, for_a, cause, now_us), *self._drafts(b, for_b, cause, now_us)))
        except _LOST:
            return False
        return True

    def _drafts(self, customer: CustomerAggregate, events: tuple[Event, ...], cause: Cause, at_us: int) -> tuple[NewEvent, ...]:
        drafts = [Draft(e, derive_id(customer.stream, customer.version + i, e.wire_name), at_us, cause) for i, e in enumerate(events)]
        return self._log.decisions(customer.stream, customer.version, drafts)
