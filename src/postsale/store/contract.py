"""What every log promises, in types. No implementation lives here.

A store keeps bytes: it neither opens sealed fields nor knows kinds of events. It may import `events` and `errors` only.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable
from uuid import UUID

from postsale.errors import InvalidInput, PostSaleError
from postsale.events import Lane, NewEvent, StoredEvent, StreamId

_LEAST, _MOST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class StreamAt:
    """Append condition: the decision lane of `stream` is at exactly `version` (0: it has no event)."""

    stream: StreamId
    version: int


LEASES: Final = "leases"
"""The space of records whose revision is the fencing token of the lease they name."""


class LeaseName(NamedTuple):
    """What a lease is about: a tenant (`_system` for the log as a whole) and a name in it, such as `runner/customer-health`."""

    tenant: str
    name: str


@dataclass(frozen=True, slots=True)
class NoneSince:
    """Append condition: no fact of these kinds (wire names without version) on these streams after `position`."""

    streams: tuple[StreamId, ...]
    kinds: frozenset[str]
    position: int


@dataclass(frozen=True, slots=True)
class Holds:
    """Append condition: the newest holder of a lease has exactly this fencing token; a paused holder finds that another took over."""

    lease: LeaseName
    token: int


Condition = StreamAt | NoneSince | Holds


@dataclass(frozen=True, slots=True)
class Submission:
    """Events of one tenant that are stored all or none, under conditions. The order is the order of their positions.

    Decision-lane events of one stream in one submission carry expected versions n, n + 1, …. Conditions may also name streams of
    the tenant `_system`, which every writer may read.
    """

    events: tuple[NewEvent, ...]
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Appended:
    """The result of one submission. `stored` is False when it was there already; the positions are then the first ones."""

    positions: tuple[int, ...]
    versions: tuple[int, ...]
    recorded_at_us: tuple[int, ...]
    stored: bool


Outcome = Appended | PostSaleError
"""A submission's own result: a failure is returned, not raised, so that it never fails its neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which events, in which order. Every field narrows; the empty query is the whole log, forward. Raises InvalidInput for a number
    that no position or time can be, and for a negative limit."""

    tenant: str | None = None
    category: str | None = None
    streams: tuple[StreamId, ...] = ()  # any of these
    lane: Lane | None = None
    kinds: frozenset[str] = frozenset()  # wire names without version; any of these
    after: int = 0  # position, exclusive
    upto: int | None = None  # position, inclusive
    known_at_us: int | None = None  # recorded_at, inclusive: a prefix of positions
    as_of_us: int | None = None  # occurred_at, inclusive
    backward: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("after", "upto", "known_at_us", "as_of_us", "limit"):
            number = getattr(self, name)
            if number is not None and not _LEAST <= number <= _MOST:
                raise InvalidInput(what="Query", field=name, reason="expected a number of 64 bits")
        if self.limit is not None and self.limit < 0:
            raise InvalidInput(what="Query", field="limit", reason="expected 0 or more")


Row = tuple[Any, ...]
"""A stored event as verification sees it. References (tenant, stream, kind) are whatever hashable value the store keeps; names are
bytes. Order: position, tenant, stream, lane, version, event_id (16 bytes), kind, occurred_at, recorded_at, content_mac, header,
data, salt, leaf_index, leaf."""


class TreeHead(NamedTuple):
    """The Merkle tree of one tenant (RFC 6962) as of the newest append: number of leaves and root."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The store could not read anything from `first` up to and including `last`."""

    first: int
    last: int
    reason: str


class Evidence(Protocol):
    """What a store keeps, undecoded, in one consistent snapshot. Values may be of any type: the file may be damaged."""

    def rows(self) -> Iterator[Row | Unreadable]:
        """Every event by position; in place of rows that cannot be read at all, where they were."""
        ...

    def ids(self) -> Iterator[tuple[Any, Any, Any, Any, Any] | Unreadable]:
        """(tenant, event id, position, recorded_at, content_mac), those of a tenant in ascending order of ids."""
        ...

    def stream(self, ref: Any) -> tuple[Any, bytes, bytes, bytes] | None:
        """Tenant reference, and the names of tenant, category and id; None when the reference leads nowhere."""
        ...

    def kind(self, ref: Any) -> tuple[bytes, bytes] | None:
        """Wire name and schema digest."""
        ...

    def heads(self) -> Mapping[Any, tuple[bytes, Any, Any]]:
        """Per tenant reference: name, number of leaves, frontier, as kept in the transaction of the newest append."""
        ...

    def nodes(self) -> Iterator[tuple[Any, Any, Any, Any] | Unreadable]:
        """(tenant, level, number, hash) of every kept subtree root, in ascending order of the first three."""
        ...

    def head(self) -> tuple[Any, Any]:
        """Position and recorded_at of the newest event, as kept in its transaction."""
        ...

    def structure(self) -> Iterator[str]:
        """Damage of the container itself (indexes, pages, missing protection), if it has one."""
        ...


class Store(Protocol):
    """The log. Thread-safe. After `append` returns, what it acknowledged survives SIGKILL.

    Per submission, decided under one lock:
    0. A name, number or digest that no log can hold, events of two tenants, or one id twice in the submission → InvalidInput.
    1. Any event's id is there (ids are unique per tenant): every id is there with equal `content_mac` →
       Appended(stored=False) with the original positions; else ContentConflict. (Checked before versions: a retry after a
       lost answer is a success.) Earlier submissions of the same call count.
    2. A condition or expected version does not hold → ConditionFailed, LeaseLost or VersionConflict.
    3. An event beyond `limit_bytes` (header + data) → EventTooLarge.
    4. Positions are max + 1 …; `recorded_at` = max(now, last + 1 µs); a fact's version is its position; leaf indexes are
       gapless per tenant; salts are 16 fresh random bytes.
    A submission without events stores nothing: it only checks its conditions.
    """

    @property
    def log_id(self) -> str:
        """Random id of this log, made when it was created."""
        ...

    @property
    def chapter(self) -> int:
        """Positions per chapter, fixed when the log was created: chapter n has the positions n * chapter + 1 … (n + 1) * chapter."""
        ...

    @property
    def quarantine(self) -> Quarantine:
        """Where refused input of this log waits."""
        ...

    @property
    def kv(self) -> KeyValue:
        """Small records beside the log: snapshots, leases, timers, checkpoints."""
        ...

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """Store each submission, atomically each, in order; one outcome each.

        Raises for the whole call only: StoreUnavailable (nothing is stored), LogDamaged (the log's end is not where its head says).
        """
        ...

    def read(self, query: Query) -> Generator[StoredEvent, None, None]:
        """Events of a consistent snapshot taken at the first `next`, ordered by position. Memory is bounded.

        Close an iterator that is not read to its end (`contextlib.closing`): it holds its snapshot until then.
        Raises InvalidInput for a negative limit, LogDamaged for a row that cannot be an event, StoreUnavailable.
        """
        ...

    def head(self) -> int:
        """Position of the newest event, 0 for an empty log."""
        ...

    def versions(self, streams: Sequence[StreamId]) -> list[int]:
        """Decision-lane versions, 0 where there is no event, in the order asked."""
        ...

    def find(self, tenant: str, event_id: UUID) -> StoredEvent | None:
        """The event with this id in this tenant."""
        ...

    def latest(self, streams: Sequence[StreamId]) -> list[StoredEvent | None]:
        """The newest decision-lane event of each stream, in the order asked. One round trip."""
        ...

    def tenants(self) -> list[str]:
        """Every tenant that has events, by name."""
        ...

    def tree_head(self, tenant: str) -> TreeHead:
        """The head of a tenant's tree; size 0 and the hash of the empty list for a tenant without events."""
        ...

    def tree(self, tenant: str, level: int, start: int, stop: int) -> list[bytes]:
        """Hashes start … stop - 1 of a level of a tenant's tree: its leaves at level 0, roots of 256 ** level complete leaves above.

        Fewer where the tree ends earlier. Levels as in C2SP's tlog-tiles. Read in the caller's bounds: memory is 32 bytes a hash.
        """
        ...

    def wait(self, after: int, timeout_s: float) -> bool:
        """Return True as soon as an event after position `after` can be read, False after `timeout_s`. 0 only looks.

        Notifications may be lost or forged: an implementation polls beneath them.
        """
        ...

    def evidence(self) -> AbstractContextManager[Evidence]:
        """What is kept, undecoded, in one consistent snapshot: for `verify`."""
        ...

    def close(self) -> None: ...


class Recording(Protocol):
    """What recording needs: a log, or a log inside its caller's transaction, where all of it is kept when the caller commits."""

    @property
    def quarantine(self) -> Quarantine: ...

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]: ...

    def latest(self, streams: Sequence[StreamId]) -> list[StoredEvent | None]: ...

    def read(self, query: Query) -> Generator[StoredEvent, None, None]: ...


@runtime_checkable
class Joinable(Protocol):
    """A log that a transaction of its caller's database can take in."""

    def within(self, connection: Any) -> Recording:
        """This log in the transaction that is open on `connection`. InvalidInput for a connection that has none or leads elsewhere."""
        ...


class Kept(NamedTuple):
    """A record as it is kept. `revision` rises with every write in the log and is never used twice, so it can serve as a fence."""

    key: str
    value: bytes
    revision: int


class KeyValue(Protocol):
    """Small mutable records of a log, by (space, tenant, key), with compare-and-set. Beside the log: nothing here is a fact.

    Every write is durable and atomic before it returns. Space, tenant and key: 1 to 200 characters without control characters;
    a value: at most 16 MiB. InvalidInput for anything else; StoreUnavailable as for the log.
    """

    def get(self, space: str, tenant: str, key: str) -> Kept | None: ...

    def get_many(self, space: str, tenant: str, keys: Sequence[str]) -> list[Kept]:
        """Those records that there are, in one read, in any order."""
        ...

    def put(self, space: str, tenant: str, key: str, value: bytes, *, expected: int | None = None) -> int | None:
        """Write; the new revision. With `expected`, only over exactly that revision (0: only where there is nothing), else None."""
        ...

    def delete(self, space: str, tenant: str, key: str, *, expected: int | None = None) -> bool:
        """Remove; False when there is no such record, or another revision than `expected`."""
        ...

    def scan(self, space: str, tenant: str, *, after: str = "", upto: str | None = None, limit: int = 1_000) -> list[Kept]:
        """Records with after < key <= upto, by key (code points ascending)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineItem:
    """Input that was not recorded, kept until a person retries or drops it. `body` is sealed: it may hold personal data."""

    id: str  # 32 hex digits, derived from tenant, source, item and reason: the same failure is kept once
    tenant: str
    source: str
    reason: str  # names fields, never values
    received_at_us: int
    body: bytes
    status: str = "waiting"  # waiting | recorded | dropped


class Quarantine(Protocol):
    """Where refused input waits. Beside the log, not in it: nothing here is a fact."""

    def put(self, items: Sequence[QuarantineItem]) -> int:
        """Keep items; one whose id is there already is not kept twice. Returns how many were new."""
        ...

    def items(self, tenant: str, *, status: str | None = "waiting") -> Iterator[QuarantineItem]:
        """Items by arrival, oldest first."""
        ...

    def settle(self, tenant: str, id: str, status: str) -> bool:
        """Set the status; False when there is no such item in this tenant."""
        ...
