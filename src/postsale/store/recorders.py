"""A recorder of the `eventsourcing` library over any `Store`: its applications, projections and suites run on our log.

    class Orders(Application):
        def construct_recorder(self) -> ApplicationRecorder:
            return StoreRecorder(store)

Needs the extra `eventsourcing`; importing this module without it raises MissingExtra. Imports opaque,
events, errors, the contract, `eventsourcing`.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any, Final, Literal
from uuid import UUID

from postsale.errors import (
    ContentConflict,
    EventTooLarge,
    InvalidInput,
    MissingExtra,
    PostSaleError,
    StoreUnavailable,
    UnknownWireName,
    VersionConflict,
)
from postsale.events import (
    Actor,
    Clock,
    Header,
    Lane,
    NewEvent,
    StoredEvent,
    StreamId,
    SystemClock,
    check_tenant,
    derive_id,
    encode_payload,
    schema_digest,
)
from postsale.store.contract import Query, Store, Submission
from postsale.store.opaque import OpaqueEvent
from postsale.store.subscriptions import Subscription

try:
    from eventsourcing import persistence as upstream
except ImportError:
    raise MissingExtra(feature="a recorder for eventsourcing", extra="eventsourcing") from None

__all__ = ["OpaqueEvent", "StoreRecorder"]

CATEGORY: Final = "events"

_PAGE: Final = 500  # notifications that a subscription holds at once
_HEADER: Final = Header(actor=Actor("system", "eventsourcing")).to_bytes()
_TAKEN: Final = "another event holds this version of its originator, or versions do not follow one another"


class StoreRecorder(upstream.ApplicationRecorder):
    """Aggregate sequences on decision lanes of `tenant`, category `events`; a notification's id is its position in the log.

    The versions of an originator follow one another from any first version. Positions are shared with everything else in the log,
    so notification ids increase, and have gaps where other categories or tenants wrote. State is stored as given: personal data
    belongs under a cipher of the application's mapper, and a text originator id must not be an e-mail address. The store stays the
    caller's to close.

    Errors are upstream's: IntegrityError for a version that is taken or does not follow; DataError for what no log can hold;
    OperationalError when the store is unavailable, with nothing stored; InternalError for a damaged log.
    """

    def __init__(self, store: Store, tenant: str = "default", *, clock: Clock | None = None) -> None:
        self._store = store
        self._tenant = check_tenant(tenant)
        self._clock: Clock = clock or SystemClock()
        self._schema = schema_digest(OpaqueEvent)

    # ---------------------------------------------------------------- writing

    def insert_events(self, stored_events: Sequence[upstream.StoredEvent], **kwargs: Any) -> Sequence[int]:
        """Store all or none, in one transaction of any size; the notification ids, in order."""
        if kwargs.get("tracking") is not None:  # dropping it would break exactly-once processing without a word
            raise upstream.NotSupportedError("StoreRecorder keeps no tracking; use a process recorder")
        if not stored_events:
            return []
        with _upstream_errors():
            return self._insert(stored_events)

    def _insert(self, stored_events: Sequence[upstream.StoredEvent]) -> list[int]:
        firsts = self._first_versions(stored_events)
        # What starts at 0 or 1 is most likely new, and an append as our version 1 cannot succeed by mistake. The rest is looked up.
        new = {stream: version for stream, version in firsts.items() if version <= 1}
        known = self._bases({stream: version for stream, version in firsts.items() if stream not in new})
        try:
            return self._append(stored_events, new | known)
        except VersionConflict:
            if not new:
                raise
            return self._append(stored_events, self._bases(new) | known)

    def _first_versions(self, stored_events: Sequence[upstream.StoredEvent]) -> dict[StreamId, int]:
        """The first version of each stream in a batch, whose versions must follow one another."""
        firsts: dict[StreamId, int] = {}
        following: dict[StreamId, int] = {}
        for event in stored_events:
            stream, version = self._stream(event.originator_id), event.originator_version
            if following.setdefault(stream, version) != version:
                raise upstream.IntegrityError(_TAKEN)
            following[stream] = version + 1
            firsts.setdefault(stream, version)
        return firsts

    def _bases(self, firsts: Mapping[StreamId, int]) -> dict[StreamId, int]:
        """Their version of each stream's first event, which never changes; where there is none yet, the one that is to become it."""
        bases = dict(firsts)
        for stream, newest in zip(firsts, self._store.latest(list(firsts)) if firsts else (), strict=True):
            if newest is not None:
                bases[stream] = _opened(newest).originator_version - newest.version + 1
                if firsts[stream] < bases[stream]:
                    raise upstream.IntegrityError(_TAKEN)
        return bases

    def _append(self, stored_events: Sequence[upstream.StoredEvent], bases: Mapping[StreamId, int]) -> list[int]:
        now_us = self._clock.now_us()
        (outcome,) = self._store.append([Submission(tuple(self._new_event(event, bases, now_us) for event in stored_events))])
        if isinstance(outcome, PostSaleError):
            raise outcome
        if not outcome.stored:  # a retry to our log, a conflict to theirs: the caller decides again on a fresh aggregate
            raise upstream.IntegrityError(_TAKEN)
        return list(outcome.positions)

    def _new_event(self, event: upstream.StoredEvent, bases: Mapping[StreamId, int], now_us: int) -> NewEvent:
        stream, version = self._stream(event.originator_id), event.originator_version
        originator: Literal["uuid", "text"] = "uuid" if isinstance(event.originator_id, UUID) else "text"
        state = b64encode(event.state).decode()
        data = encode_payload(OpaqueEvent(originator=originator, originator_version=version, topic=event.topic, state=state))
        return NewEvent(
            stream=stream,
            lane=Lane.DECISION,
            expected_version=version - bases[stream],
            event_id=derive_id(stream, "eventsourcing", version),
            wire_name=OpaqueEvent.wire_name,
            schema=self._schema,
            occurred_at_us=now_us,
            content_mac=hashlib.blake2b(data, digest_size=16).digest(),  # no key: it tells nothing that `data` does not
            header=_HEADER,
            data=data,
        )

    def _stream(self, originator_id: UUID | str) -> StreamId:
        return StreamId(self._tenant, CATEGORY, str(originator_id))

    # ---------------------------------------------------------------- reading

    def select_events(
        self, originator_id: UUID | str, *, gt: int | None = None, lte: int | None = None, desc: bool = False, limit: int | None = None
    ) -> Sequence[upstream.StoredEvent]:
        """Events of an originator by version. Reads from the end where only the newest are asked for."""
        backward = desc or (gt is not None and limit is None)
        within = limit if gt is None and lte is None else None
        query = Query(tenant=self._tenant, streams=(self._stream(originator_id),), lane=Lane.DECISION, backward=backward, limit=within)
        with _upstream_errors(), closing(self._store.read(query)) as rows:
            selected = list(islice(_between(rows, gt, lte, backward), limit))
        return selected[::-1] if backward and not desc else selected

    def select_notifications(
        self, start: int | None, limit: int, stop: int | None = None, topics: Sequence[str] = (), *, inclusive_of_start: bool = True
    ) -> Sequence[upstream.Notification]:
        """Events of every originator by position, from `start` to `stop` inclusive."""
        after = 0 if start is None else start - 1 if inclusive_of_start else start
        query = self._all(after=after, upto=stop, limit=None if topics else limit)
        wanted = frozenset(topics)
        with _upstream_errors(), closing(self._store.read(query)) as rows:
            notifications = (_notification(row) for row in rows)
            return list(islice((n for n in notifications if not wanted or n.topic in wanted), limit))

    def max_notification_id(self) -> int | None:
        """The id of the newest notification."""
        with _upstream_errors(), closing(self._store.read(self._all(backward=True, limit=1))) as rows:
            return next((row.position for row in rows), None)

    def _all(self, **narrowed: Any) -> Query:
        return Query(tenant=self._tenant, category=CATEGORY, lane=Lane.DECISION, **narrowed)

    # ---------------------------------------------------------------- following

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> upstream.Subscription[StoreRecorder]:
        """Notifications after `gt`, then each new one as it is recorded, until `stop()`. None is skipped."""
        return _Subscription(self, gt, topics)


class _Subscription(upstream.Subscription[StoreRecorder]):
    """Notifications of a `Subscription` of ours. `stop` may be called from any thread."""

    def __init__(self, recorder: StoreRecorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder, gt, topics)
        self._pages = Subscription(recorder._store, recorder._all(), after=gt or 0)
        self._rows = (row for page in self._pages for row in page.events)

    def __next__(self) -> upstream.Notification:
        with _upstream_errors():
            while not self._has_been_stopped:
                notification = _notification(next(self._rows))
                if not self._topics or notification.topic in self._topics:
                    return notification
        raise StopIteration

    def stop(self) -> None:
        super().stop()
        self._pages.stop()


# ---------------------------------------------------------------- translation


def _between(rows: Iterable[StoredEvent], gt: int | None, lte: int | None, backward: bool) -> Iterator[upstream.StoredEvent]:
    """Events with gt < version <= lte; stops where no more can follow in this order."""
    for row in rows:
        event = _opened(row)
        below = gt is not None and event.originator_version <= gt
        above = lte is not None and event.originator_version > lte
        if (below and backward) or (above and not backward):
            return
        if not (below or above):
            yield event


def _notification(row: StoredEvent) -> upstream.Notification:
    return upstream.Notification(**vars(_opened(row)), id=row.position)


def _opened(row: StoredEvent) -> upstream.StoredEvent:
    """The event as it was inserted. A foreign kind in this category is never skipped."""
    if row.wire_name != OpaqueEvent.wire_name:
        raise UnknownWireName(wire_name=row.wire_name, position=row.position)
    kept = row.fields()
    originator_id = UUID(row.stream.id) if kept["originator"] == "uuid" else row.stream.id
    return upstream.StoredEvent(originator_id, kept["originator_version"], kept["topic"], b64decode(kept["state"]))


@contextmanager
def _upstream_errors() -> Iterator[None]:
    """Our errors as the ones that applications of `eventsourcing` handle; ours is the cause."""
    try:
        yield
    except (VersionConflict, ContentConflict) as error:
        raise upstream.IntegrityError(_TAKEN) from error
    except (InvalidInput, EventTooLarge) as error:
        raise upstream.DataError(str(error)) from error
    except StoreUnavailable as error:
        raise upstream.OperationalError(str(error)) from error
    except PostSaleError as error:
        raise upstream.InternalError(str(error)) from error
