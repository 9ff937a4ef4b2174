"""The log in memory: for tests, examples and simulations. Obeys everything a file does, atomicity included, but survives nothing."""

from __future__ import annotations

import os
import secrets
import threading
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from uuid import UUID

from postsale.errors import StoreUnavailable
from postsale.events import Clock, Lane, StoredEvent, StreamId, SystemClock
from postsale.store.contract import LEASES, NoneSince, Outcome, Query, Row, Submission, TreeHead
from postsale.store.kv import MemoryKeyValue
from postsale.store.leaves import Frontier
from postsale.store.plan import DEFAULT_CHAPTER, DEFAULT_LIMIT_BYTES, SALT_BYTES, Breach, Id, Key, Known, mentions, plan
from postsale.store.quarantine import MemoryQuarantine


class MemoryStore:
    """A log that ends with its process. Thread-safe."""

    def __init__(self, *, clock: Clock | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES, chapter: int = DEFAULT_CHAPTER) -> None:
        self._clock: Clock = clock or SystemClock()
        self._limit_bytes = limit_bytes
        self._chapter = chapter
        self._lock = threading.Condition()  # notified when rows were added
        self._log_id = secrets.token_hex(16)
        self._quarantine = MemoryQuarantine()
        self._kv = MemoryKeyValue(self._lock)
        self._closed = False
        # Grows at its end only, so a reader's snapshot is a length. Position p is at index p - 1.
        self._rows: list[StoredEvent] = []
        self._keys: dict[Id, Key] = {}
        self._lanes: dict[tuple[StreamId, Lane], list[int]] = {}  # positions
        self._frontiers: dict[str, Frontier] = {}
        self._leaves: dict[str, list[bytes]] = {}
        self._nodes: dict[tuple[str, int], list[bytes]] = {}  # by tenant and level

    @property
    def log_id(self) -> str:
        return self._log_id

    @property
    def chapter(self) -> int:
        return self._chapter

    @property
    def quarantine(self) -> MemoryQuarantine:
        return self._quarantine

    @property
    def kv(self) -> MemoryKeyValue:
        return self._kv

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        mentioned = mentions(submissions)
        with self._open():
            known = Known(
                position=len(self._rows),
                recorded_at_us=self._rows[-1].recorded_at_us if self._rows else 0,
                leaf_counts={tenant: self._frontiers[tenant].size for tenant in mentioned.tenants if tenant in self._frontiers},
                versions={stream: len(self._lanes.get((stream, Lane.DECISION), ())) for stream in mentioned.streams},
                ids={id_: self._keys[id_] for id_ in mentioned.ids if id_ in self._keys},
                breaches={condition: breach for condition in mentioned.conditions if (breach := self._breach(condition)) is not None},
                tokens={lease: kept.revision for lease in mentioned.leases if (kept := self._kv.get(LEASES, *lease))},
            )
            planned = plan(
                submissions,
                mentioned,
                known,
                now_us=self._clock.now_us(),
                salts=os.urandom(SALT_BYTES * len(mentioned.ids)),
                limit_bytes=self._limit_bytes,
            )
            for row in planned.rows:
                self._keys[row.tenant, row.event_id.bytes] = Key(row.position, row.version, row.recorded_at_us, row.content_mac)
                self._lanes.setdefault((row.stream, row.lane), []).append(row.position)
                leaves = self._leaves.setdefault(row.tenant, [])
                leaves.append(row.leaf)
                for level, _, digest in self._frontiers.setdefault(row.tenant, Frontier()).extend((row.leaf,)):
                    self._nodes.setdefault((row.tenant, level), []).append(digest)
            if planned.rows:
                self._rows.extend(planned.rows)
                self._lock.notify_all()
        return planned.outcomes

    def _breach(self, condition: NoneSince) -> Breach | None:
        first: StoredEvent | None = None
        for stream in condition.streams:
            positions = self._lanes.get((stream, Lane.FACT), [])
            for position in positions[bisect_right(positions, condition.position) :]:
                row = self._rows[position - 1]
                if row.kind in condition.kinds:
                    if first is None or row.position < first.position:
                        first = row
                    break
        return None if first is None else Breach(first.stream, first.wire_name, first.position)

    def _open(self) -> threading.Condition:
        if self._closed:
            raise StoreUnavailable(url="memory:", reason="closed")
        return self._lock

    def read(self, query: Query) -> Generator[StoredEvent, None, None]:
        with self._open():
            positions = self._positions(query)
        wanted = _matcher(query)
        yield from islice((row for position in positions if wanted(row := self._rows[position - 1])), query.limit)

    def _positions(self, query: Query) -> Sequence[int]:
        """The positions that may match, in order; a snapshot."""
        upto = len(self._rows) if query.upto is None else min(query.upto, len(self._rows))
        if query.known_at_us is not None:
            upto = min(upto, bisect_right(self._rows, query.known_at_us, key=lambda row: row.recorded_at_us))
        after = max(query.after, 0)
        positions: Sequence[int] = range(after + 1, upto + 1)
        if query.streams:
            lanes = (Lane.FACT, Lane.DECISION) if query.lane is None else (query.lane,)
            held = (self._lanes.get((stream, lane), []) for stream in set(query.streams) for lane in lanes)
            positions = sorted(position for lane in held for position in lane if after < position <= upto)
        return positions[::-1] if query.backward else positions

    def head(self) -> int:
        with self._open():
            return len(self._rows)

    def versions(self, streams: Sequence[StreamId]) -> list[int]:
        with self._open():
            return [len(self._lanes.get((stream, Lane.DECISION), ())) for stream in streams]

    def find(self, tenant: str, event_id: UUID) -> StoredEvent | None:
        with self._open():
            key = self._keys.get((tenant, event_id.bytes))
            return None if key is None else self._rows[key.position - 1]

    def latest(self, streams: Sequence[StreamId]) -> list[StoredEvent | None]:
        with self._open():
            lanes = [self._lanes.get((stream, Lane.DECISION)) for stream in streams]
            return [None if lane is None else self._rows[lane[-1] - 1] for lane in lanes]

    def tenants(self) -> list[str]:
        with self._open():
            return sorted(self._frontiers)

    def tree_head(self, tenant: str) -> TreeHead:
        with self._open():
            frontier = self._frontiers.get(tenant, Frontier())
            return TreeHead(frontier.size, frontier.root())

    def tree(self, tenant: str, level: int, start: int, stop: int) -> list[bytes]:
        with self._open():
            hashes = self._leaves.get(tenant, []) if level == 0 else self._nodes.get((tenant, level), [])
            return hashes[start:stop]

    def wait(self, after: int, timeout_s: float) -> bool:
        with self._open() as _:
            return self._lock.wait_for(lambda: self._closed or len(self._rows) > after, timeout_s) and len(self._rows) > after

    def evidence(self) -> MemoryEvidence:
        """The stored rows for `verify`."""
        with self._open():
            keys = sorted(
                (tenant, raw_id, key.position, key.recorded_at_us, key.content_mac) for (tenant, raw_id), key in self._keys.items()
            )
            heads = {tenant: (frontier.size, frontier.to_bytes()) for tenant, frontier in self._frontiers.items()}
            nodes = sorted(
                (tenant, level, number, digest) for (tenant, level), hashes in self._nodes.items() for number, digest in enumerate(hashes)
            )
            return MemoryEvidence(list(self._rows), keys, heads, nodes)

    def close(self) -> None:
        """Nothing can be appended or read afterwards; whoever waits is woken."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()


def _matcher(query: Query) -> Callable[[StoredEvent], bool]:
    """The part of a query that positions do not decide."""

    def wanted(row: StoredEvent) -> bool:
        return (
            (query.tenant is None or row.stream.tenant == query.tenant)
            and (query.category is None or row.stream.category == query.category)
            and (query.lane is None or row.lane == query.lane)
            and (not query.kinds or row.kind in query.kinds)
            and (query.as_of_us is None or row.occurred_at_us <= query.as_of_us)
        )

    return wanted


class MemoryEvidence:
    """What a MemoryStore holds, as verification reads it. References are the names themselves."""

    def __init__(
        self,
        rows: list[StoredEvent],
        keys: list[tuple[str, bytes, int, int, bytes]],
        heads: dict[str, tuple[int, bytes]],
        nodes: list[tuple[str, int, int, bytes]],
    ) -> None:
        self._rows = rows
        self._nodes = nodes
        self._keys = keys
        self._heads = heads

    def __enter__(self) -> MemoryEvidence:
        return self

    def __exit__(self, *error: object) -> None: ...

    def rows(self) -> Iterator[Row]:
        for row in self._rows:
            kind = (row.wire_name, row.schema)
            yield (row.position, row.tenant, row.stream, row.lane, row.version, row.event_id.bytes, kind, *row[7:])

    def ids(self) -> Iterator[tuple[str, bytes, int, int, bytes]]:
        return iter(self._keys)

    def stream(self, ref: StreamId) -> tuple[str, bytes, bytes, bytes]:
        return ref.tenant, ref.tenant.encode(), ref.category.encode(), ref.id.encode()

    def kind(self, ref: tuple[str, bytes]) -> tuple[bytes, bytes]:
        return ref[0].encode(), ref[1]

    def heads(self) -> dict[str, tuple[bytes, int, bytes]]:
        return {tenant: (tenant.encode(), size, frontier) for tenant, (size, frontier) in self._heads.items()}

    def nodes(self) -> Iterator[tuple[str, int, int, bytes]]:
        return iter(self._nodes)

    def head(self) -> tuple[int, None]:
        return sum(size for size, _ in self._heads.values()), None

    def structure(self) -> Iterator[str]:
        return iter(())
