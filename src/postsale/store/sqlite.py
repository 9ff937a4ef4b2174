"""The log in one SQLite file: the write path, its lock and its connections. What may be appended is decided in `plan`.

One write connection under a lock; concurrent appends of one process share a commit. Every read has a connection and a snapshot of
its own, so readers and writers never wait for each other.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import UUID

from postsale.errors import LogDamaged, MissingExtra, PostSaleError, SegmentUnreadable, StoreUnavailable
from postsale.events import Clock, StoredEvent, StreamId, SystemClock
from postsale.store.archive import Archive
from postsale.store.columns import Source
from postsale.store.contract import LEASES, NoneSince, Outcome, Query, Submission, TreeHead
from postsale.store.group import Groups
from postsale.store.kv import SQLiteKeyValue, get
from postsale.store.leaves import Frontier
from postsale.store.plan import DEFAULT_CHAPTER, DEFAULT_LIMIT_BYTES, SALT_BYTES, Breach, Id, Known, Mentions, mentions, plan
from postsale.store.quarantine import SQLiteQuarantine
from postsale.store.segments import Segment
from postsale.store.sqlite_archive import LAST, SQLiteChapters, archived_at, archived_leaves, first_archived_breach, read_all, segments
from postsale.store.sqlite_columns import fact_source
from postsale.store.sqlite_evidence import SQLiteEvidence
from postsale.store.sqlite_ids import Ids
from postsale.store.sqlite_names import Names, decision_version, first_breach
from postsale.store.sqlite_read import COLUMNS, Decoder, leaves, stream_number
from postsale.store.sqlite_schema import connect, open_file, translated, url_of

_IDLE_READERS: Final = 4
_POLL_S: Final = 0.05  # how late another process's append may be noticed

_INSERT_EVENT: Final = "INSERT OR ROLLBACK INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_NODE: Final = "INSERT INTO nodes VALUES (?, ?, ?, ?)"


class SQLiteStore:
    """A log in one file, created with mode 0600 when it is not there. Any number of threads and processes may share the file.

    An acknowledged append survives SIGKILL and loss of power; the latter not with `durable=False`, which is for logs that can be
    made again, such as simulations. `chapter` counts only when the file is created. `archive` is the directory of archived chapters,
    where they were moved; else each is read where it was archived to. StoreUnavailable: the file belongs to another program or another
    release, the disk is full, or another process held the write lock for longer than `busy_timeout_s`. SegmentUnreadable, from whatever
    needs an archived chapter: its file is missing or another.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        busy_timeout_s: float = 10.0,
        durable: bool = True,
        chapter: int = DEFAULT_CHAPTER,
        archive: str | os.PathLike[str] | None = None,
    ) -> None:
        if str(path) in ("", ":memory:"):
            raise StoreUnavailable(url=f"sqlite:///{path}", reason="SQLiteStore keeps a file; MemoryStore is the log without one")
        self._path = Path(path).absolute()
        self._url = url_of(self._path)
        self._clock: Clock = clock or SystemClock()
        self._limit_bytes = limit_bytes
        self._busy_timeout_s = busy_timeout_s
        self._write_lock = threading.RLock()
        self._groups = Groups(self._commit, self._write_lock, lambda submission: len(submission.events))
        self._appended = threading.Condition()  # notified after a commit of this process
        self._idle: list[sqlite3.Connection] = []
        self._idle_lock = threading.Lock()
        self._closed = False
        self._log_id: str
        self._chapter: int
        self._writer = open_file(self._path, busy_timeout_s=busy_timeout_s, chapter=chapter, durable=durable)
        try:
            self._names = Names(self._writer)
            self.ids = Ids()
            with translated(self._url):
                self._log_id, self._chapter = self._writer.execute("SELECT log_id, chapter FROM log").fetchone()
            self._archive = Archive(self._log_id, archive)
            self._quarantine = SQLiteQuarantine(write=self.writing, read=self.snapshot)
            self._kv = SQLiteKeyValue(write=self.writing, read=self.snapshot)
        except BaseException:
            self._writer.close()
            raise

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._path)!r})"

    @property
    def log_id(self) -> str:
        return self._log_id

    @property
    def chapter(self) -> int:
        return self._chapter

    @property
    def quarantine(self) -> SQLiteQuarantine:
        return self._quarantine

    @property
    def kv(self) -> SQLiteKeyValue:
        return self._kv

    # ---------------------------------------------------------------- append

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """See `Store.append`. Appends of other threads that wait for the lock go into the same commit."""
        return self._groups.do(submissions)

    def _commit(self, submissions: list[Submission]) -> list[Outcome]:
        mentioned = mentions(submissions)
        with self.writing() as db:
            known, frontiers = self._known(db, mentioned)
            planned = plan(
                submissions,
                mentioned,
                known,
                now_us=self._clock.now_us(),
                salts=os.urandom(SALT_BYTES * len(mentioned.ids)),
                limit_bytes=self._limit_bytes,
            )
            if planned.rows:
                ids = self._write(db, planned.rows, frontiers)
        if planned.rows:
            self.ids.added(ids, known.position + 1)
            with self._appended:
                self._appended.notify_all()
        return planned.outcomes

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A write transaction, committed at the end, rolled back on any exception."""
        with self._write_lock, translated(self._url):
            if self._closed:
                raise StoreUnavailable(url=self._url, reason="closed")
            try:
                if self._writer.in_transaction:  # a second Ctrl-C kept the first from rolling back
                    self._roll_back()
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        self._names.forget()  # numbers given out in this transaction are gone with it
        self.ids.forget()
        if self._writer.in_transaction:  # SQLite rolls back by itself when the disk is full
            self._writer.execute("ROLLBACK")

    def _known(self, db: sqlite3.Connection, mentioned: Mentions) -> tuple[Known, dict[str, Frontier]]:
        position, recorded_at_us, last = db.execute(f"SELECT position, recorded_at, ({LAST}) FROM log").fetchone()
        if position != last:
            raise LogDamaged(position=min(position, last) + 1, reason=f"the log's head says {position}, the last event is {last}")
        frontiers: dict[str, Frontier] = {}
        for tenant in mentioned.tenants:
            found = db.execute("SELECT size, frontier FROM tenants WHERE name = ?", (tenant,)).fetchone()
            try:
                frontiers[tenant] = Frontier.from_bytes(*found) if found else Frontier()
            except ValueError as error:
                raise LogDamaged(position=position, reason=f"the tree head of tenant {tenant!r} is unreadable") from error
        known = Known(
            position=position,
            recorded_at_us=recorded_at_us,
            leaf_counts={tenant: frontier.size for tenant, frontier in frontiers.items()},
            versions={
                stream: version for stream in mentioned.streams if (version := decision_version(db, self._names.find_stream(stream)))
            },
            ids=self.ids.find(db, mentioned.ids),
            breaches={condition: breach for condition in mentioned.conditions if (breach := self._breach(db, condition)) is not None},
            tokens={lease: kept.revision for lease in mentioned.leases if (kept := get(db, LEASES, *lease))},
        )
        return known, frontiers

    def _breach(self, db: sqlite3.Connection, condition: NoneSince) -> Breach | PostSaleError | None:
        """An unreadable segment is the error of the submission that needs it, not of all that share the commit."""
        try:
            found = (first_breach(db, self._names, condition), first_archived_breach(db, self._archive, condition))
        except (SegmentUnreadable, MissingExtra) as error:
            return error.with_traceback(None)
        return min((breach for breach in found if breach), key=lambda breach: breach.position, default=None)

    def _write(self, db: sqlite3.Connection, rows: list[StoredEvent], frontiers: dict[str, Frontier]) -> list[Id]:
        """Write what was planned; the ids of the rows."""
        names = self._names
        # Column by column, because a Python step per event and column costs more than SQLite does. And the driver takes three times
        # as long over `bytes` as over `bytearray`: it looks for an adapter first.
        positions, streams, lanes, versions, event_ids, wire_names, schemas, occurred, recorded, *blobs, indexes, leaves = zip(
            *rows, strict=True
        )
        macs, headers, data, salts = (map(bytearray, column) for column in blobs)
        tenants = [stream.tenant for stream in streams]
        raw_ids = [event_id.int.to_bytes(16) for event_id in event_ids]
        db.executemany(
            _INSERT_EVENT,
            zip(
                positions,
                map(names.tenant, tenants),
                names.of_streams(streams),
                map(int, lanes),
                versions,
                map(bytearray, raw_ids),
                map(names.kind, wire_names, schemas),
                occurred,
                recorded,
                macs,
                headers,
                data,
                salts,
                indexes,
                map(bytearray, leaves),
                strict=True,
            ),
        )
        of_tenant: dict[str, list[bytes]] = {}
        for tenant, leaf in zip(tenants, leaves, strict=True):
            of_tenant.setdefault(tenant, []).append(leaf)
        for tenant, its_leaves in of_tenant.items():
            frontier, no = frontiers[tenant], names.tenant(tenant)
            db.executemany(_INSERT_NODE, [(no, *node) for node in frontier.extend(its_leaves)])
            db.execute("UPDATE tenants SET size = ?, frontier = ? WHERE no = ?", (frontier.size, frontier.to_bytes(), no))
        db.execute("UPDATE log SET position = ?, recorded_at = ?", (positions[-1], recorded[-1]))
        self.ids.seal_when_due(db, positions[-1])
        return list(zip(tenants, raw_ids, strict=True))

    # ---------------------------------------------------------------- read

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A read transaction on a connection of its own; its snapshot is taken by its first SELECT."""
        with translated(self._url):
            db = self._take_reader()
            try:
                db.execute("BEGIN")
                yield db
            finally:
                self._return_reader(db)

    def _take_reader(self) -> sqlite3.Connection:
        with self._idle_lock:
            if self._closed:
                raise StoreUnavailable(url=self._url, reason="closed")
            if self._idle:
                return self._idle.pop()
        return connect(self._path, busy_timeout_s=self._busy_timeout_s, reader=True)

    def _return_reader(self, db: sqlite3.Connection) -> None:
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")  # also ends statements that were not read to their end
        except sqlite3.Error:
            db.close()
            return
        with self._idle_lock:
            if not self._closed and len(self._idle) < _IDLE_READERS:
                self._idle.append(db)
                return
        db.close()

    def read(self, query: Query) -> Generator[StoredEvent, None, None]:
        with self.snapshot() as db:
            yield from read_all(db, self._archive, query)

    def fact_source(self, query: Query, *, header: bool) -> AbstractContextManager[Source]:
        """See `store.columns`. Needs the extra `batch`."""
        return fact_source(self, self._path, self._archive, query, header=header)

    def head(self) -> int:
        with self.snapshot() as db:
            return int(db.execute(LAST).fetchone()[0])

    def versions(self, streams: Sequence[StreamId]) -> list[int]:
        with self.snapshot() as db:
            return [decision_version(db, stream_number(db, stream)) for stream in streams]

    def find(self, tenant: str, event_id: UUID) -> StoredEvent | None:
        with self.snapshot() as db:
            id_ = (tenant, event_id.bytes)
            key = self.ids.find(db, [id_]).get(id_)
            if key is None:
                return None
            return _one(db, "WHERE position = ?", (key.position,)) or archived_at(db, self._archive, key.position)

    def latest(self, streams: Sequence[StreamId]) -> list[StoredEvent | None]:
        with self.snapshot() as db:
            return [
                _one(db, "WHERE stream = ? AND lane = 1 ORDER BY version DESC LIMIT 1", (stream_number(db, stream),)) for stream in streams
            ]

    def tenants(self) -> list[str]:
        with self.snapshot() as db:
            return [name for (name,) in db.execute("SELECT name FROM tenants WHERE size > 0 ORDER BY name")]

    def tree_head(self, tenant: str) -> TreeHead:
        with self.snapshot() as db:
            found = db.execute("SELECT size, frontier FROM tenants WHERE name = ?", (tenant,)).fetchone()
            try:
                frontier = Frontier.from_bytes(*found) if found else Frontier()
            except ValueError as error:
                raise LogDamaged(position=0, reason=f"the tree head of tenant {tenant!r} is unreadable") from error
            return TreeHead(frontier.size, frontier.root())

    def tree(self, tenant: str, level: int, start: int, stop: int) -> list[bytes]:
        with self.snapshot() as db:
            found = db.execute("SELECT no FROM tenants WHERE name = ?", (tenant,)).fetchone()
            if found is None or start >= stop:
                return []
            if level == 0:
                by_index = dict(leaves(db, found[0], start, stop) + archived_leaves(db, self._archive, found[0], start, stop))
                return [leaf for _, leaf in sorted(by_index.items())]
            rows = db.execute(
                "SELECT hash FROM nodes WHERE tenant = ? AND level = ? AND number >= ? AND number < ? ORDER BY number",
                (found[0], level, start, stop),
            )
            return [digest for (digest,) in rows]

    def wait(self, after: int, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not (found := self.head() > after) and (left := deadline - time.monotonic()) > 0:
            with self._appended:  # a commit in between is seen at the next look: other processes write without notifying
                self._appended.wait(min(left, _POLL_S))
        return found

    def evidence(self) -> SQLiteEvidence:
        """The raw bytes for `verify`."""
        if self._closed:
            raise StoreUnavailable(url=self._url, reason="closed")
        return SQLiteEvidence(self._path, self._archive, busy_timeout_s=self._busy_timeout_s)

    def chapters(self) -> SQLiteChapters:
        """The seam through which this log is archived."""
        return SQLiteChapters(self)

    def segments(self) -> list[Segment]:
        """The archived chapters, ascending, as the log describes them."""
        with self.snapshot() as db:
            return segments(db)

    def close(self) -> None:
        """Close every connection; iterators that are still open keep theirs until they end. Closing twice is fine."""
        with self._write_lock, self._idle_lock:
            self._closed = True
            for db in (*self._idle, self._writer):
                with suppress(sqlite3.Error):
                    db.close()
            self._idle.clear()


def _one(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> StoredEvent | None:
    row = db.execute(f"SELECT {COLUMNS} FROM events {where}", values).fetchone()
    return None if row is None else Decoder(db)(row)
