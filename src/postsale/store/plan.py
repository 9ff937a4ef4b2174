"""What becomes of submissions, as one pure function that every store shares, so that the rules of appending exist once.

A store reads what the submissions mention (`mentions`), under its lock, into `Known`; `plan` answers with an outcome for each
submission and the finished rows; the store writes exactly those. No storage, no clock, no random; imports events and errors.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple
from uuid import UUID

from postsale.errors import (
    ConditionFailed,
    ContentConflict,
    EventTooLarge,
    InvalidInput,
    LeaseLost,
    PostSaleError,
    VersionConflict,
)
from postsale.events import Header, Lane, NewEvent, StoredEvent, StreamId, check_tenant
from postsale.store.contract import Appended, Condition, Holds, LeaseName, NoneSince, Outcome, StreamAt, Submission
from postsale.store.leaves import StreamNames, kind_names, leaf_hash

DEFAULT_LIMIT_BYTES: Final = 1_048_576
DEFAULT_CHAPTER: Final = 1_048_576  # positions
SALT_BYTES: Final = 16
MAX_NAME: Final = 200  # characters of a category, stream id or wire name

_MAX_I64: Final = 2**63 - 1
_FACT: Final = Lane.FACT


class Key(NamedTuple):
    """What a log remembers of an event under its id."""

    position: int
    version: int
    recorded_at_us: int
    content_mac: bytes


Id = tuple[str, bytes]
"""Tenant and the 16 bytes of an event id. Bytes, because a UUID compares in Python and a batch compares thousands."""


class Breach(NamedTuple):
    """The first fact that breaks a `NoneSince`."""

    stream: StreamId
    wire_name: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The part of a log that `mentions` asked for, read under the lock. A missing entry says "not there" or 0."""

    position: int
    recorded_at_us: int
    leaf_counts: Mapping[str, int]  # per tenant
    versions: Mapping[StreamId, int]  # of decision lanes
    ids: Mapping[Id, Key]
    breaches: Mapping[NoneSince, Breach | PostSaleError]  # an error: what decides it cannot be read
    tokens: Mapping[LeaseName, int]  # newest fencing token of each lease


@dataclass(frozen=True, slots=True)
class Mentions:
    """What `plan` needs to know about the log for these submissions."""

    tenants: set[str]
    streams: set[StreamId]  # decision lanes
    ids: list[Id]
    conditions: set[NoneSince]
    leases: set[LeaseName]
    verdicts: list[list[Id] | InvalidInput]  # per submission: its ids, or why no log can hold it


@dataclass(frozen=True, slots=True)
class Plan:
    """One outcome for each submission, in order, and the rows to write, by position."""

    outcomes: list[Outcome]
    rows: list[StoredEvent]


def mentions(submissions: Sequence[Submission]) -> Mentions:
    """What to look up before planning. Refuses malformed submissions first, so that a store looks up well-formed values only."""
    found = Mentions(set(), set(), [], set(), set(), [])
    for submission in submissions:
        try:
            ids = _check_submission(submission)
        except InvalidInput as error:
            found.verdicts.append(error.with_traceback(None))
            continue
        found.verdicts.append(ids)
        found.ids.extend(ids)
        if ids:
            found.tenants.add(ids[0][0])
            found.streams.update([event.stream for event in submission.events if event.expected_version is not None])
        for condition in submission.conditions:
            match condition:
                case StreamAt():
                    found.streams.add(condition.stream)
                case NoneSince():
                    found.conditions.add(condition)
                case Holds():
                    found.leases.add(condition.lease)
    return found


def plan(submissions: Sequence[Submission], mentioned: Mentions, known: Known, *, now_us: int, salts: bytes, limit_bytes: int) -> Plan:
    """Decide every submission in order; each sees the ones before it. Never raises for what a submission holds.

    `mentioned` is `mentions(submissions)`; `salts` holds SALT_BYTES for each id it mentions.
    """
    planner = _Planner(known, now_us, salts, limit_bytes)
    outcomes: list[Outcome] = []
    for submission, ids in zip(submissions, mentioned.verdicts, strict=True):
        if isinstance(ids, InvalidInput):
            outcomes.append(ids)
            continue
        try:
            outcomes.append(planner.decide(submission, ids))
        except PostSaleError as error:
            outcomes.append(error.with_traceback(None))  # its frames would keep every row alive
    return Plan(outcomes, planner.rows)


class _Planner:
    """The log as it will be after the submissions decided so far: `known` and the rows on top of it."""

    def __init__(self, known: Known, now_us: int, salts: bytes, limit_bytes: int) -> None:
        self.rows: list[StoredEvent] = []
        self._known = known
        self._now_us = now_us
        self._salts = salts
        self._limit_bytes = limit_bytes
        self._position = known.position
        self._recorded_at_us = known.recorded_at_us
        self._leaf_counts = dict(known.leaf_counts)
        self._versions = dict(known.versions)
        self._ids: dict[Id, Key | StoredEvent] = dict(known.ids)
        self._facts: dict[tuple[StreamId, str], list[tuple[int, str]]] = {}
        self._facts_upto = 0  # how many rows `_facts` has taken in

    def decide(self, submission: Submission, ids: list[Id]) -> Outcome:
        events = submission.events
        if not self._ids.keys().isdisjoint(ids):
            return _stored_before(events, [self._ids.get(id_) for id_ in ids])
        for condition in submission.conditions:
            self._check_condition(condition)
        versions: dict[StreamId, int] = {}  # of decision lanes, after these events
        too_large: NewEvent | None = None
        for event in events:
            if event.expected_version is not None:
                self._check_version(event, versions)
            if too_large is None and len(event.header) + len(event.data) > self._limit_bytes:
                too_large = event  # said only when every version holds: a caller that is behind decides again
        if too_large is not None:
            size = len(too_large.header) + len(too_large.data)
            raise EventTooLarge(wire_name=too_large.wire_name, size_bytes=size, limit_bytes=self._limit_bytes)
        # Nothing raises from here on: a submission is decided whole before any of its rows exists.
        self._versions.update(versions)
        return self._store(events, ids) if events else Appended((), (), (), False)

    def _check_condition(self, condition: Condition) -> None:
        if isinstance(condition, StreamAt):
            actual = self._versions.get(condition.stream, 0)
            if actual != condition.version:
                raise VersionConflict(stream=str(condition.stream), expected_version=condition.version, actual_version=actual)
            return
        if isinstance(condition, Holds):
            newest = self._known.tokens.get(condition.lease, 0)
            if newest != condition.token:
                raise LeaseLost(lease="/".join(condition.lease), token=condition.token, newest_token=newest)
            return
        breach = self._known.breaches.get(condition) or self._breach_in_rows(condition)
        if isinstance(breach, PostSaleError):
            raise breach
        if breach is not None:
            raise ConditionFailed(
                stream=str(breach.stream), wire_name=breach.wire_name, after_position=condition.position, at_position=breach.position
            )

    def _breach_in_rows(self, condition: NoneSince) -> Breach | None:
        for row in self.rows[self._facts_upto :]:
            if row.lane == _FACT:
                self._facts.setdefault((row.stream, row.kind), []).append((row.position, row.wire_name))
        self._facts_upto = len(self.rows)
        first: Breach | None = None
        for stream in condition.streams:
            for kind in condition.kinds:
                facts = self._facts.get((stream, kind), [])
                at = bisect_right(facts, condition.position, key=lambda fact: fact[0])
                if at < len(facts) and (first is None or facts[at][0] < first.position):
                    first = Breach(stream, facts[at][1], facts[at][0])
        return first

    def _check_version(self, event: NewEvent, versions: dict[StreamId, int]) -> None:
        actual = versions.get(event.stream)
        if actual is None:
            actual = self._versions.get(event.stream, 0)
        if actual != event.expected_version:
            raise VersionConflict(stream=str(event.stream), expected_version=event.expected_version or 0, actual_version=actual)
        versions[event.stream] = actual + 1

    def _store(self, events: tuple[NewEvent, ...], ids: list[Id]) -> Appended:
        rows, stored, salts, now_us = self.rows, self._ids, self._salts, self._now_us
        position, recorded_at_us = self._position, self._recorded_at_us
        tenant = ids[0][0]  # of the whole submission
        leaf_index = self._leaf_counts.get(tenant, 0)
        at = len(rows) * SALT_BYTES
        versions, times = [], []
        for event, id_ in zip(events, ids, strict=True):
            stream, lane, expected_version, event_id, wire_name, schema, occurred_at_us, content_mac, header, data = event
            position += 1
            recorded_at_us = now_us if now_us > recorded_at_us else recorded_at_us + 1
            version = position if expected_version is None else expected_version + 1
            salt = salts[at : at + SALT_BYTES]
            names, kind = _checked_stream(stream), _checked_kind(wire_name, schema)
            leaf = leaf_hash(
                names, kind, leaf_index, lane, version, salt, position, id_[1], occurred_at_us, recorded_at_us, header, content_mac, data
            )
            row = StoredEvent(
                position, stream, lane, version, event_id, wire_name, schema, occurred_at_us, recorded_at_us, content_mac, header, data,
                salt, leaf_index, leaf,
            )  # fmt: skip
            rows.append(row)
            stored[id_] = row
            versions.append(version)
            times.append(recorded_at_us)
            leaf_index += 1
            at += SALT_BYTES
        positions = tuple(range(self._position + 1, position + 1))
        self._position, self._recorded_at_us, self._leaf_counts[tenant] = position, recorded_at_us, leaf_index
        return Appended(positions, tuple(versions), tuple(times), True)


def _stored_before(events: tuple[NewEvent, ...], stored: list[Key | StoredEvent | None]) -> Appended:
    """The original result when all of it is there with the same content; else ContentConflict naming the first that differs."""
    keys = [key for key in stored if key is not None]
    for event, key in zip(events, stored, strict=True):
        if key is not None and key.content_mac != event.content_mac:
            raise _conflict(event, key)
    if len(keys) != len(events):  # part of it is there: as a whole it is something else than what was stored
        new = next(event for event, key in zip(events, stored, strict=True) if key is None)
        raise _conflict(new, keys[0])
    return Appended(
        tuple(key.position for key in keys), tuple(key.version for key in keys), tuple(key.recorded_at_us for key in keys), False
    )


def _conflict(event: NewEvent, key: Key | StoredEvent) -> ContentConflict:
    try:
        header = Header.from_bytes(event.header)
        source, source_id = header.source, header.source_id
    except (ValueError, LookupError, TypeError):  # a header is the writer's bytes; an unreadable one must not hide the conflict
        source, source_id = "", ""
    return ContentConflict(
        tenant=event.stream.tenant,
        source=source or "postsale",
        source_id=source_id or str(event.event_id),
        stored_position=key.position,
        stored_digest=key.content_mac.hex(),
        offered_digest=event.content_mac.hex(),
    )


# ---------------------------------------------------------------- shape: what any log can hold


def _check_submission(submission: Submission) -> list[Id]:
    """The ids of a submission; InvalidInput when it cannot be held."""
    for event in submission.events:
        _check_event(event)
    for condition in submission.conditions:
        streams: tuple[StreamId, ...]
        match condition:
            case StreamAt(stream, number):
                streams = (stream,)
            case NoneSince(streams, kinds, number):
                for kind in kinds:
                    _check_name("kinds", kind)
            case Holds(lease, number):
                streams = ()
                check_tenant(lease.tenant)
                _check_name("lease", lease.name)
            case _:
                raise InvalidInput(what="Submission", field="conditions", reason=f"expected conditions, got {type(condition).__name__}")
        for stream in streams:
            _checked_stream(stream)
        if type(number) is not int or not 0 <= number <= _MAX_I64:
            raise InvalidInput(what="Submission", field="conditions", reason="expected a version or position of 0 or more in 64 bits")
    ids = [(event.stream.tenant, event.event_id.int.to_bytes(16)) for event in submission.events]
    if len(ids) > 1:
        if len({tenant for tenant, _ in ids}) > 1:
            raise InvalidInput(what="Submission", field="events", reason="expected events of one tenant")
        if len(set(ids)) != len(ids):
            raise InvalidInput(what="Submission", field="events", reason="the same event id twice")
    return ids


def _check_event(event: NewEvent) -> None:
    stream, lane, expected_version, event_id, wire_name, schema, occurred_at_us, content_mac, header, data = event
    _checked_stream(stream)
    if type(schema) is not bytes or len(schema) != 16:
        raise InvalidInput(what="NewEvent", field="schema", reason="expected 16 bytes")
    _checked_kind(wire_name, schema)
    if type(lane) is not Lane:  # stores compare by identity
        raise InvalidInput(what="NewEvent", field="lane", reason="expected a Lane")
    if lane is _FACT:
        if expected_version is not None:
            raise InvalidInput(what="NewEvent", field="expected_version", reason="a fact is appended blind; expected None")
    elif type(expected_version) is not int or not 0 <= expected_version < _MAX_I64:
        raise InvalidInput(what="NewEvent", field="expected_version", reason="a decision names the version it read; expected 0 or more")
    if not isinstance(event_id, UUID):
        raise InvalidInput(what="NewEvent", field="event_id", reason="expected a UUID")
    if type(occurred_at_us) is not int or not -_MAX_I64 <= occurred_at_us <= _MAX_I64:
        raise InvalidInput(what="NewEvent", field="occurred_at_us", reason="expected microseconds since 1970 in 64 bits")
    if type(content_mac) is not bytes or len(content_mac) != 16:
        raise InvalidInput(what="NewEvent", field="content_mac", reason="expected 16 bytes")
    if type(header) is not bytes or type(data) is not bytes:
        raise InvalidInput(what="NewEvent", field="header" if type(header) is not bytes else "data", reason="expected bytes")


@lru_cache(maxsize=65_536)
def _checked_stream(stream: StreamId) -> StreamNames:
    """The names as a commitment carries them; InvalidInput when they cannot be stored. Failures are not cached."""
    check_tenant(stream.tenant)
    _check_name("category", stream.category)
    _check_name("id", stream.id)
    return StreamNames.of(stream)


@lru_cache(maxsize=4_096)
def _checked_kind(wire_name: str, schema: bytes) -> bytes:
    _check_name("wire_name", wire_name)
    kind, at, version = wire_name.partition("@")
    if not (kind and at and version.isascii() and version.isdigit()):
        raise InvalidInput(what="NewEvent", field="wire_name", reason="expected area/what-happened@1")
    return kind_names(wire_name.encode(), schema)


def _check_name(field: str, name: str) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        raise InvalidInput(what="NewEvent", field=field, reason=f"expected 1 to {MAX_NAME} characters")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise InvalidInput(what="NewEvent", field=field, reason="expected no control characters, NUL or lone surrogates")
