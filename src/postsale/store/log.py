"""The typed door of the log: events become sealed, identified, keyed bytes here, and customers are loaded here.

The one place that writes. Stores below keep bytes; rooms above hand in typed events. May import `access`, `aggregates`, `events`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from postsale.access import KeyVault, Unsealer, content_mac, fact_id, seal_fields
from postsale.aggregates.anomalies import ANOMALIES, ClockWentBack
from postsale.aggregates.customer import CustomerAggregate, fold
from postsale.aggregates.identity import IDENTITY_KINDS
from postsale.aggregates.signals import Signal
from postsale.errors import ContentConflict, InvalidInput, PostSaleError, UnknownWireName, UpcastFailed, VersionConflict
from postsale.events import (
    SECOND_US,
    SYSTEM,
    Actor,
    Clock,
    Event,
    FactHeaders,
    Header,
    Lane,
    NewEvent,
    Origin,
    Recorded,
    StoredEvent,
    StreamId,
    canonical,
    decode,
    decode_payload,
    derive_id,
    encode_payload,
    iso,
    iso_of,
    schema_digest,
    to_us,
)
from postsale.store.contract import Appended, Condition, Outcome, Query, Store, Submission
from postsale.store.keys import LogVault
from postsale.store.snapshots import EVERY, Snapshots

_RACES = 20
_BACK_US = SECOND_US  # clocks of several machines may differ by less
_EPISODE_US = 3_600 * SECOND_US
_FACT = Lane.FACT


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why an event exists: its direct cause, the matter it belongs to, how deep in a chain, and who did it."""

    actor: Actor = SYSTEM
    causation_id: UUID | None = None
    correlation_id: UUID | None = None
    depth: int = 0
    trace: str = ""
    origin: Origin = Origin.LIVE


@dataclass(frozen=True, slots=True)
class Draft:
    """A decision-lane event with the id that makes it idempotent."""

    event: Event
    event_id: UUID
    at_us: int
    cause: Cause
    subject: str | None = None  # whose key seals its personal fields


@lru_cache(maxsize=256)
def _fact_headers(cause: Cause, source: str, content_key: str) -> FactHeaders:
    return FactHeaders(
        Header(
            actor=cause.actor,
            origin=cause.origin,
            source=source,
            content_key=content_key,
            causation_id=cause.causation_id,
            correlation_id=cause.correlation_id,
            depth=cause.depth,
            trace=cause.trace,
        )
    )


class Log:
    """A store with its keys: typed events in, typed events and customers out."""

    def __init__(self, store: Store, vault: KeyVault, clock: Clock, *, snapshot_every: int = EVERY) -> None:
        """`snapshot_every`: see `Snapshots`; 0 is without."""
        self.store = store
        self.vault: KeyVault = LogVault(vault, store)
        self.clock = clock
        self.snapshots = Snapshots(store, self.vault, clock, every=snapshot_every)
        self._last_episode = 0

    # ------------------------------------------------------------ writing

    def fact(
        self,
        stream: StreamId,
        signal: Signal,
        *,
        said_of: str,
        subject: str,
        cause: Cause,
        index: int = 0,
        source_item: bytes | None = None,
        raw: bytes | None = None,
    ) -> NewEvent:
        """A signal as a fact of `stream`.

        Content is compared by `source_item` (an imported item less its delivery fields), else by the signal itself and
        `said_of`, the external id it was recorded under. Raises InvalidInput, KeyUnavailable.
        """
        keys = self.vault.tenant(stream.tenant)
        event_id = fact_id(keys, signal.source, signal.id, index)
        occurred_at_us = to_us(signal.occurred_at)
        clear = encode_payload(signal)
        if source_item is None:
            mac = content_mac(keys, signal.wire_name.encode(), iso_of(signal.occurred_at).encode(), said_of.encode(), clear)
        else:
            mac = content_mac(keys, source_item)
        data, sealed = self._seal(signal, clear, stream, event_id, subject) if signal.personal_fields else (clear, {})
        available_at_us = to_us(signal.available_at) if signal.available_at else None
        raw_mac = content_mac(keys, raw).hex() if raw is not None else ""
        header = _fact_headers(cause, signal.source, keys.id).to_bytes(
            signal.id, subject, index, signal.order, available_at_us, raw_mac, sealed
        )
        schema = schema_digest(type(signal))
        return NewEvent(stream, _FACT, None, event_id, signal.wire_name, schema, occurred_at_us, mac, header, data)

    def said_already(self, stored: StoredEvent, signal: Signal, said_of: str) -> bool:
        """Whether a fact says what `signal` says in another version of its kind: both read the same today.

        False when they differ, or cannot be compared: stored through a connector, or its key is gone, or a version is unknown here.
        """
        if stored.kind != signal.kind or stored.wire_name == signal.wire_name or stored.occurred_at_us != to_us(signal.occurred_at):
            return False
        header = Header.from_bytes(stored.header)
        clear = Unsealer(self.vault)(stored, header) if header.sealed else stored.data
        at = iso(stored.occurred_at_us)
        mac = content_mac(self.vault.tenant(stored.tenant), stored.wire_name.encode(), at.encode(), said_of.encode(), clear)
        if mac != stored.content_mac:
            return False
        envelope = {"source": signal.source, "id": signal.id, "occurred_at": at}
        try:
            before = decode_payload(stored.wire_name, clear, envelope, stored.position)
            now = decode_payload(signal.wire_name, encode_payload(signal), envelope)
        except (UnknownWireName, UpcastFailed, InvalidInput):
            return False
        return encode_payload(before) == encode_payload(now)

    def decision(self, stream: StreamId, expected_version: int, draft: Draft) -> NewEvent:
        """A decision-lane event. Raises KeyUnavailable when it has personal fields and no key can be had."""
        keys = self.vault.tenant(stream.tenant)
        event, cause = draft.event, draft.cause
        clear = encode_payload(event)
        data, sealed = self._seal(event, clear, stream, draft.event_id, draft.subject or stream.id)
        header = Header(
            actor=cause.actor,
            origin=cause.origin,
            content_key=keys.id,
            causation_id=cause.causation_id,
            correlation_id=cause.correlation_id,
            depth=cause.depth,
            trace=cause.trace,
            subjects=(draft.subject,) if draft.subject else (),
            sealed=sealed,
        )
        mac = content_mac(keys, event.wire_name.encode(), clear)
        schema = schema_digest(type(event))
        return NewEvent(
            stream, Lane.DECISION, expected_version, draft.event_id, event.wire_name, schema, draft.at_us, mac, header.to_bytes(), data
        )

    def decisions(self, stream: StreamId, version: int, drafts: Sequence[Draft]) -> tuple[NewEvent, ...]:
        """Consecutive decision-lane events after `version`."""
        return tuple(self.decision(stream, version + i, draft) for i, draft in enumerate(drafts))

    def append(self, events: Sequence[NewEvent], conditions: Sequence[Condition] = ()) -> Appended:
        """Store all of these events or none; raises the submission's own error."""
        (outcome,) = self.store.append([Submission(tuple(events), tuple(conditions))])
        if isinstance(outcome, PostSaleError):
            raise outcome
        self.notice(outcome)
        return outcome

    def notice(self, *outcomes: Outcome) -> None:
        """Record a clock that went back by a second or more, told by what has just been stored; at most once in an hour of that clock."""
        newest_us = max((o.recorded_at_us[-1] for o in outcomes if isinstance(o, Appended) and o.stored and o.recorded_at_us), default=0)
        now_us = self.clock.now_us()
        episode = now_us // _EPISODE_US
        if newest_us - now_us < _BACK_US or episode == self._last_episode:
            return
        self._last_episode = episode
        event = ClockWentBack(behind_us=newest_us - now_us)
        draft = Draft(event, derive_id(ANOMALIES, episode), now_us, Cause())
        for _ in range(_RACES):
            (version,) = self.store.versions([ANOMALIES])
            (outcome,) = self.store.append([Submission((self.decision(ANOMALIES, version, draft),))])
            if not isinstance(outcome, VersionConflict):  # any other refusal: it was recorded by another process before
                return

    def transact(
        self,
        stream: StreamId,
        decide: Callable[[CustomerAggregate], Sequence[Event]],
        *,
        cause: Cause,
        conditions: Sequence[Condition] = (),
    ) -> list[Recorded[Event]]:
        """Load a customer, decide, append under its version; decide again when somebody else was first.

        Returns what was appended, empty when there was nothing to do. Raises what `decide` raises, ConditionFailed, and
        VersionConflict or ContentConflict after 20 lost races.
        """
        lost: VersionConflict | ContentConflict | None = None
        for _ in range(_RACES):
            customer = self.customer(stream)
            events = decide(customer)
            if not events:
                return []
            at_us = self.clock.now_us()
            ids = (derive_id(stream, customer.version + i, event.wire_name) for i, event in enumerate(events))
            drafts = [Draft(event, id_, at_us, cause) for event, id_ in zip(events, ids, strict=True)]
            try:
                done = self.append(self.decisions(stream, customer.version, drafts), conditions)
            except (VersionConflict, ContentConflict) as error:  # ids carry the version: another event may hold this one
                lost = error
                continue
            lane = Query(tenant=stream.tenant, streams=(stream,), lane=Lane.DECISION, after=done.positions[0] - 1, upto=done.positions[-1])
            return list(self.events(lane))
        assert lost is not None
        raise lost

    def _seal(self, event: Event, clear: bytes, stream: StreamId, event_id: UUID, subject: str) -> tuple[bytes, dict[str, tuple[str, str]]]:
        if not event.personal_fields:
            return clear, {}
        fields = event.payload()
        present = [name for name in sorted(event.personal_fields) if name in fields]
        if not present:
            return clear, {}
        key = self.vault.subjects(stream.tenant, [subject], create=True)[subject]
        done = seal_fields(fields, present, key, stream, event_id, event.wire_name)
        return canonical(fields), dict.fromkeys(done, (subject, key.id))

    # ------------------------------------------------------------ reading

    def events(self, query: Query, unseal: Unsealer | None = None) -> Iterator[Recorded[Event]]:
        """Typed events of a query, in its order; personal fields are MASKED without `unseal`."""
        for stored in self.store.read(query):
            yield decode(stored, unseal)

    def customer(self, stream: StreamId, *, as_of_us: int | None = None, known_at_us: int | None = None) -> CustomerAggregate:
        """The customer: true at `as_of_us`, as known at `known_at_us`; both inclusive, None is unbounded.

        Who is who has no time in the world: a link or merge counts for every `as_of_us` once it is known.
        """
        known = self.snapshots.load(stream, known_at_us=known_at_us) if as_of_us is None else None
        known = known or CustomerAggregate(stream=stream)
        streams = known.fact_streams
        while True:  # a second time where streams are joined; again only when they changed in between
            news = Query(tenant=stream.tenant, streams=streams, after=known.position, known_at_us=known_at_us)
            mine = (s for s in self.store.read(news) if s.lane is Lane.FACT or s.stream == stream)
            if as_of_us is not None:
                mine = (s for s in mine if s.occurred_at_us <= as_of_us or s.kind in IDENTITY_KINDS)
            customer = fold(known, mine)
            if customer.fact_streams == streams:
                break
            known, streams = CustomerAggregate(stream=stream), customer.fact_streams
        if as_of_us is None and known_at_us is None:
            self.snapshots.keep(customer, customer.events - known.events)
        return customer
