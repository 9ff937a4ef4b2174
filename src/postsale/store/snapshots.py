"""Snapshots: a customer's state as of a position, so that a long past need not be folded again. Derived; may be dropped at any time.

A snapshot is believed only when it bears the tenant's keyed digest, was made by the code that would fold it now, and the log holds
its last event, salt and all. Anything else is as good as none. Newest payloads are kept as the log holds them, sealed
fields sealed, and read by the kinds and upcasters of the day. May import `access`, `aggregates`, `events`, the contract.
"""

from __future__ import annotations

import hashlib
import inspect
import secrets
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache
from hmac import compare_digest
from typing import Any, Final

import orjson

from postsale.access import KeyVault, content_mac
from postsale.aggregates import asked, budgets, decisions, evolve, identity, plans, state_json, timed
from postsale.aggregates import customer as customers
from postsale.aggregates.customer import CustomerAggregate
from postsale.errors import PostSaleError
from postsale.events import SECOND_US, Clock, Lane, StoredEvent, StreamId, derive_id, stored_fields
from postsale.store.contract import Query, Store

SNAPSHOTS: Final = "snapshots"
EVERY: Final = 250  # events that are folded again at most, a few milliseconds of work

_PAUSE_US: Final = 60 * SECOND_US  # after a snapshot that could not be written
_MAC: Final = 16  # bytes


@cache
def code_digest() -> str:
    """SHA-256, hex, of the source that folds and writes states: a snapshot of other code is not read."""
    digest = hashlib.sha256()
    for module in (customers, evolve, decisions, budgets, plans, asked, timed, identity, state_json):
        try:
            digest.update(inspect.getsource(module).encode())
        except OSError:  # shipped without source: what it does cannot be told, so each process trusts its own snapshots alone
            return secrets.token_hex(32)
    return digest.hexdigest()


class Snapshots:
    """The snapshots of one log, at most one per customer. Thread-safe. Reading or writing one never fails a caller."""

    def __init__(self, store: Store, vault: KeyVault, clock: Clock, *, every: int = EVERY) -> None:
        """`every`: write one when so many events were folded on top of the last; 0: neither write nor read any."""
        self._store = store
        self._vault = vault
        self._clock = clock
        self._every = every
        self._paused_until_us = 0

    def load(self, stream: StreamId, *, known_at_us: int | None = None) -> CustomerAggregate | None:
        """The customer as of its snapshot, if there is one to be believed, no newer than `known_at_us`."""
        if not self._every:
            return None
        try:
            kept = self._store.kv.get(SNAPSHOTS, stream.tenant, _key(stream))
            return None if kept is None else self._read(stream, kept.value, known_at_us)
        except (PostSaleError, ValueError, TypeError, LookupError):  # damaged, or of keys or kinds that are not here
            return None

    def load_many(self, streams: Sequence[StreamId]) -> dict[StreamId, CustomerAggregate]:
        """The customers that have a snapshot to be believed, as of it."""
        if not self._every:
            return {}
        found: dict[StreamId, CustomerAggregate] = {}
        by_key = {(stream.tenant, _key(stream)): stream for stream in streams}
        for tenant in {stream.tenant for stream in streams}:
            try:
                kept = self._store.kv.get_many(SNAPSHOTS, tenant, [key for its, key in by_key if its == tenant])
            except PostSaleError:
                continue
            for record in kept:
                stream = by_key[tenant, record.key]
                with suppress(PostSaleError, ValueError, TypeError, LookupError):
                    if (customer := self._read(stream, record.value, None)) is not None:
                        found[stream] = customer
        return found

    def _read(self, stream: StreamId, value: bytes, known_at_us: int | None) -> CustomerAggregate | None:
        mac, body = value[:_MAC], value[_MAC:]
        if not compare_digest(mac, self._mac(stream, body)):
            return None
        code, position, recorded_at_us, leaf, state, payloads = orjson.loads(body)
        if code != code_digest() or (known_at_us is not None and known_at_us < recorded_at_us):
            return None
        last = self._at(stream.tenant, position)
        if last is None or last.leaf.hex() != leaf:
            return None
        customer = state_json.from_json(CustomerAggregate, state)
        facts = {}
        for kind, summary in customer.facts.items():
            wire_name, data = payloads[kind]
            facts[kind] = replace(summary, latest=stored_fields(wire_name, data.encode(), summary.latest_position))
        return replace(customer, facts=facts)

    def keep(self, customer: CustomerAggregate, folded: int) -> bool:
        """Write a snapshot of a state that holds everything recorded, when `folded` events were on top of the last one."""
        if not 0 < self._every <= folded or self._clock.now_us() < self._paused_until_us:
            return False
        try:
            value = self._value(customer)
            if value is not None:
                self._store.kv.put(SNAPSHOTS, customer.stream.tenant, _key(customer.stream), value)
        except (PostSaleError, ValueError):  # read-only, full, busy, too large: the reader that came by has its answer all the same
            value = None
        if value is None:
            self._paused_until_us = self._clock.now_us() + _PAUSE_US
        return value is not None

    def _value(self, customer: CustomerAggregate) -> bytes | None:
        last = self._at(customer.stream.tenant, customer.position)
        if last is None:
            return None
        payloads: dict[str, Any] = {}
        for kind, summary in customer.facts.items():
            newest = self._at(customer.stream.tenant, summary.latest_position)
            if newest is None or (newest.lane, newest.kind) != (Lane.FACT, kind):
                return None
            payloads[kind] = [newest.wire_name, newest.data.decode()]
        bare = replace(customer, facts={kind: replace(summary, latest={}) for kind, summary in customer.facts.items()})
        body = orjson.dumps(
            [
                code_digest(),
                customer.position,
                last.recorded_at_us,
                last.leaf.hex(),
                state_json.to_json(bare),
                payloads,
            ]
        )
        return self._mac(customer.stream, body) + body

    def _mac(self, stream: StreamId, body: bytes) -> bytes:
        return content_mac(self._vault.tenant(stream.tenant), b"snapshot", str(stream).encode(), body)

    def _at(self, tenant: str, position: int) -> StoredEvent | None:
        with closing(self._store.read(Query(tenant=tenant, after=position - 1, upto=position))) as found:
            return next(found, None)

    def drop(self, tenant: str) -> int:
        """Delete every snapshot of a tenant; how many there were. They are made again as customers are read."""
        dropped, kv = 0, self._store.kv
        while records := kv.scan(SNAPSHOTS, tenant, limit=100):
            for record in records:
                dropped += kv.delete(SNAPSHOTS, tenant, record.key)
        return dropped


def _key(stream: StreamId) -> str:
    return derive_id("snapshot", stream).hex  # a stream's own name may be longer than a key
