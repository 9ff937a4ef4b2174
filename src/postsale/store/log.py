"""The typed door of the log: events become sealed, identified, keyed bytes here, and customers are loaded here.

The one place that writes. Stores below keep bytes; rooms above hand in typed events. May import `access`, `aggregates`, `events`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from postsale.access import KeyVault, SubjectKey, Unsealer, content_mac, fact_id, seal_fields
from postsale.aggregates.anomalies import ANOMALIES, ClockWentBack
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.evolve import fold
from postsale.aggregates.identity import IDENTITY_KINDS
from postsale.aggregates.signals import Signal
from postsale.errors import ContentConflict, InvalidInput, KeyUnavailable, PostSaleError, UnknownWireName, UpcastFailed, VersionConflict
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
from postsale.store.written import Written

_RACES = 20
_BACK_US = SECOND_US  # clocks of several machines may differ by less
_EPISODE_US = 3_600 * SECOND_US
_FACT = Lane.FACT
_TOGETHER = 64  # customers of one read
_AT_ONCE = 100  # of their events, each


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
        self._written = Written()

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
        data, sealed = self._seal(signal, clear, stream, event_id, subject, {}) if signal.personal_fields else (clear, {})
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

    def decision(self, stream: StreamId, expected_version: int, draft: Draft, known: Mapping[str, SubjectKey] | None = None) -> NewEvent:
        """A decision-lane event. Raises KeyUnavailable when it has personal fields and no key can be had.

        `known`: subjects of the tenant whose keys are at hand; any other's is asked for.
        """
        keys = self.vault.tenant(stream.tenant)
        event, cause = draft.event, draft.cause
        clear = encode_payload(event)
        data, sealed = self._seal(event, clear, stream, draft.event_id, draft.subject or stream.id, known or {})
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

    def append_many(self, wanted: Iterable[tuple[Sequence[tuple[StreamId, int, Draft]], Sequence[Condition]]]) -> list[Outcome]:
        """Several appends of decision-lane events in one call of the store, in order; each is all or none, and fails alone.

        An event comes with its stream and the version that it follows. Keys are asked for in one call. Raises what `Store.append` does.
        """
        wanted = list(wanted)
        keys = self._keys(part for parts, _ in wanted for part in parts)
        made: list[Submission | PostSaleError] = []
        for parts, conditions in wanted:
            try:
                events = tuple(self.decision(stream, version, draft, keys.get(stream.tenant)) for stream, version, draft in parts)
                made.append(Submission(events, tuple(conditions)))
                for event, (_, _, draft) in zip(events, parts, strict=True):
                    self._written.keep(draft.event, event)
            except PostSaleError as error:
                made.append(error)
        outcomes = iter(self.store.append([x for x in made if isinstance(x, Submission)]))
        all_ = [next(outcomes) if isinstance(x, Submission) else x for x in made]
        self.notice(*all_)
        return all_

    def _keys(self, parts: Iterable[tuple[StreamId, int, Draft]]) -> dict[str, Mapping[str, SubjectKey]]:
        """The keys that seal these events, by tenant. Where one is destroyed, none: whoever needs it finds out alone."""
        wanted: dict[str, list[str]] = {}
        for stream, _, draft in parts:
            if any(getattr(draft.event, name) is not None for name in draft.event.personal_fields):
                wanted.setdefault(stream.tenant, []).append(draft.subject or stream.id)
        found: dict[str, Mapping[str, SubjectKey]] = {}
        for tenant, subjects in wanted.items():
            with suppress(KeyUnavailable):
                found[tenant] = self.vault.subjects(tenant, subjects, create=True)
        return found

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

    def _seal(
        self, event: Event, clear: bytes, stream: StreamId, event_id: UUID, subject: str, known: Mapping[str, SubjectKey]
    ) -> tuple[bytes, dict[str, tuple[str, str]]]:
        if not event.personal_fields:
            return clear, {}
        fields = event.payload()
        present = [name for name in sorted(event.personal_fields) if name in fields]
        if not present:
            return clear, {}
        key = known.get(subject) or self.vault.subjects(stream.tenant, [subject], create=True)[subject]
        done = seal_fields(fields, present, key, stream, event_id, event.wire_name)
        return canonical(fields), dict.fromkeys(done, (subject, key.id))

    # ------------------------------------------------------------ reading

    def events(self, query: Query, unseal: Unsealer | None = None) -> Iterator[Recorded[Event]]:
        """Typed events of a query, in its order; personal fields are MASKED without `unseal`."""
        for stored in self.store.read(query):
            yield decode(stored, unseal)

    def customer(
        self,
        stream: StreamId,
        *,
        as_of_us: int | None = None,
        known_at_us: int | None = None,
        held: CustomerAggregate | None = None,
    ) -> CustomerAggregate:
        """The customer: true at `as_of_us`, as known at `known_at_us`; both inclusive, None is unbounded.

        Who is who has no time in the world: a link or merge counts for every `as_of_us` once it is known. `held`: what the log said
        about this customer before, without bounds; only what is new is read. Not together with bounds.
        """
        known = held or (self.snapshots.load(stream, known_at_us=known_at_us) if as_of_us is None else None)
        known = known or CustomerAggregate(stream=stream)
        streams = known.fact_streams
        while True:  # a second time where streams are joined; again only when they changed in between
            news = Query(tenant=stream.tenant, streams=streams, after=known.position, known_at_us=known_at_us)
            mine = (s for s in self.store.read(news) if s.lane is Lane.FACT or s.stream == stream)
            if as_of_us is not None:
                mine = (s for s in mine if s.occurred_at_us <= as_of_us or s.kind in IDENTITY_KINDS)
            customer = fold(known, mine, self._written.read)
            if customer.fact_streams == streams:
                break
            known, streams = CustomerAggregate(stream=stream), customer.fact_streams
        if as_of_us is None and known_at_us is None:
            self.snapshots.keep(customer, customer.events - known.events)
        return customer

    def customers(self, wanted: Sequence[tuple[StreamId, CustomerAggregate | None]]) -> list[CustomerAggregate | Exception]:
        """As `customer` for each stream and what is held of it, in few reads; in place of one that cannot be read, its error.

        Memory is bounded by customers, not by events.
        """
        fresh = [stream for stream, held in wanted if held is None]
        snapshots = self.snapshots.load_many(fresh) if len(wanted) > 1 else {}
        new: list[tuple[int, StreamId, CustomerAggregate]] = []
        going_on: list[tuple[int, StreamId, CustomerAggregate]] = []
        rest: list[tuple[int, StreamId, CustomerAggregate | None]] = []
        for no, (stream, held) in enumerate(wanted):
            if len(wanted) == 1 or stream in snapshots or (held is not None and held.joined):
                rest.append((no, stream, held or snapshots.get(stream)))  # each from a position, or over streams, of its own
            else:
                (new if held is None else going_on).append((no, stream, held or CustomerAggregate(stream=stream)))
        out: list[CustomerAggregate | Exception] = [CustomerAggregate(stream=stream) for stream, _ in wanted]
        for group in (new, going_on):
            for at in range(0, len(group), _TOGETHER):
                some = group[at : at + _TOGETHER]
                for (no, stream, held), found in zip(some, self._side_by_side([held for _, _, held in some]), strict=True):
                    if found is None:
                        rest.append((no, stream, held if held.events else None))
                    else:
                        out[no] = found
        for no, stream, held_or_none in rest:
            try:
                out[no] = self.customer(stream, held=held_or_none)
            except Exception as error:
                out[no] = error
        return out

    def _side_by_side(self, known: Sequence[CustomerAggregate]) -> list[CustomerAggregate | None]:
        """Customers that are on one stream each, folded on in one read; None for those that have to be read singly."""
        states: dict[StreamId, CustomerAggregate | None] = {c.stream: c for c in known}
        news: dict[StreamId, list[StoredEvent]] = {}

        def take(stream: StreamId) -> None:
            state = states[stream]
            try:
                states[stream] = None if state is None else fold(state, news.pop(stream), self._written.read)
            except Exception:  # reading it singly says why
                states[stream] = None

        try:
            for tenant in {c.stream.tenant for c in known}:
                mine = [c for c in known if c.stream.tenant == tenant]
                query = Query(tenant=tenant, streams=tuple(c.stream for c in mine), after=min(c.position for c in mine))
                after = {c.stream: c.position for c in mine}
                for stored in self.store.read(query):
                    if stored.position > after[stored.stream]:
                        its = news.setdefault(stored.stream, [])
                        its.append(stored)
                        if len(its) >= _AT_ONCE:
                            take(stored.stream)
            for stream in list(news):
                take(stream)
        except PostSaleError:
            return [None] * len(known)
        for c in known:
            state = states[c.stream]
            if state is not None and state.joined:
                states[c.stream] = None
            elif state is not None:
                self.snapshots.keep(state, state.events - c.events)
        return [states[c.stream] for c in known]
