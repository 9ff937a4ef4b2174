"""The log in a PostgreSQL schema: the write path, waiting, and what holds it together. What may be appended is decided in `plan`.

Every append takes the lock of the log's one row, so positions are gapless and become visible in order; concurrent appends of one
process share a commit. Needs the extra `postgres`; importing this module without it raises MissingExtra.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Final

from postsale.errors import StoreUnavailable
from postsale.events import Clock, StoredEvent, StreamId, SystemClock
from postsale.store.archive import Archive
from postsale.store.contract import Outcome, Submission
from postsale.store.group import Groups
from postsale.store.plan import DEFAULT_LIMIT_BYTES
from postsale.store.postgres_admin import check_connection, check_version, connected
from postsale.store.postgres_archive import PostgresChapters
from postsale.store.postgres_beside import PostgresKeyValue, PostgresQuarantine
from postsale.store.postgres_evidence import PostgresEvidence
from postsale.store.postgres_link import Connection, Error, Link, Patience, Pool, Script, worth_another_try
from postsale.store.postgres_listen import Listener
from postsale.store.postgres_names import Names
from postsale.store.postgres_read import Reads
from postsale.store.postgres_schema import DEFAULT_SCHEMA
from postsale.store.postgres_within import Within
from postsale.store.postgres_write import Append, LogWentBack

_TRIES: Final = 3  # of a transaction whose connection was lost or that the server took back
_POLL_S: Final = 0.25  # how late another process's append may be noticed
_LISTEN_S: Final = 2.0  # the same, when its notification is lost


class PostgresStore(Reads):
    """A log in one schema of a PostgreSQL database. Any number of threads and processes may share it.

    `target` is a URL of a login that is a member of the schema's writer and tailer roles, or an open pool of such connections,
    which stays the caller's. UnsafeDatabase: no such log, one of another release, or a login or a server under which its promises would
    not hold (see `postgres_admin`). Every wait is bounded by `patience`. `archive` is where archived chapters are now. `as_owner` is for
    archiving and verifying: the login may act as the owner of the tables, as a service's must not, and the log may be unprotected. `listen_url`
    is a URL straight to the server, past any pooler: with it, `wait` hears of other processes' appends at once instead of looking four
    times a second.
    """

    def __init__(
        self,
        target: str | Pool,
        *,
        schema: str = DEFAULT_SCHEMA,
        clock: Clock | None = None,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        patience: Patience | None = None,
        max_connections: int = 16,
        archive: str | os.PathLike[str] | None = None,
        as_owner: bool = False,
        listen_url: str | None = None,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._limit_bytes = limit_bytes
        self._names = Names()
        self._groups = Groups(self._commit, threading.Lock(), lambda submission: len(submission.events))
        self._looking = Groups(super().latest, threading.Lock())
        self._appended = threading.Condition()  # notified after a commit of this process
        self._closed = False
        self._link = link = Link(target, schema, patience=patience or Patience(), max_size=max_connections)
        self._listener = Listener(listen_url, schema) if listen_url is not None else None
        self._log_id: str
        self._chapter: int
        try:
            # Over a connection of its own, whose failure has a reason; a pool only knows that it waited in vain.
            with (
                link.translated(),
                connected(target, link.url) if isinstance(target, str) else link.transaction(Script("BEGIN READ ONLY")) as db,
            ):
                check_connection(db, schema, as_owner=as_owner)
            link.open()
            found = self._ask("_system", f"SELECT log_id, chapter, schema_version FROM {schema}.log")
            self._log_id, self._chapter, version = found[0]
            check_version(version, schema)
        except BaseException:
            link.close()
            raise
        self._archive = Archive(self._log_id, archive)
        self._quarantine = PostgresQuarantine(self._link, self._names)
        self._kv = PostgresKeyValue(self._link, self._names)

    def __repr__(self) -> str:
        return f"PostgresStore({self._link.url!r})"

    @property
    def log_id(self) -> str:
        return self._log_id

    @property
    def chapter(self) -> int:
        return self._chapter

    @property
    def quarantine(self) -> PostgresQuarantine:
        return self._quarantine

    @property
    def kv(self) -> PostgresKeyValue:
        return self._kv

    # ---------------------------------------------------------------- append

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """See `Store.append`. Appends of other threads that wait go into the same commit."""
        return self._groups.do(submissions)

    def within(self, connection: Connection) -> Within:
        """This log in the caller's own transaction, which is open on `connection`: what is appended there is stored when the caller commits.

        InvalidInput for a connection without a transaction, or to another log; NotAllowed when its login may not append, UnsafeDatabase
        when it is a superuser or has BYPASSRLS.
        """
        return Within(
            self._link,
            connection,
            log_id=self._log_id,
            chapter=self._chapter,
            archive=self._archive,
            clock=self._clock,
            limit_bytes=self._limit_bytes,
        )

    def latest(self, streams: Sequence[StreamId]) -> list[StoredEvent | None]:
        """See `Store.latest`. Asked before every record: what other threads ask meanwhile goes into the same transaction."""
        return self._looking.do(streams) if streams else []

    def _commit(self, submissions: list[Submission]) -> list[Outcome]:
        tries = _TRIES
        with self._link.translated():
            while True:
                tries -= 1
                try:
                    return self._transact(submissions)
                except LogWentBack:
                    self._names.forget()
                except Error as error:
                    # Also when the answer to COMMIT was lost: if it was stored, its ids are there and the result is the first one.
                    if not tries or not worth_another_try(error):
                        raise

    def _transact(self, submissions: list[Submission]) -> list[Outcome]:
        if self._closed:
            raise StoreUnavailable(url=self._link.url, reason="closed")
        link = self._link
        append = Append(link.schema, self._names, self._archive, submissions, chapter=self._chapter)
        opening = link.begin_append()
        append.ask(opening, link.timeouts)
        with link.transaction(opening) as db:
            planned = append.decide(db, now_us=self._clock.now_us(), limit_bytes=self._limit_bytes)
            if planned.rows:
                append.write(db, planned.rows, commit=True)
                append.committed(planned.rows)
        if planned.rows:
            with self._appended:
                self._appended.notify_all()
        return planned.outcomes

    # ---------------------------------------------------------------- the rest

    def wait(self, after: int, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not (found := self.head() > after) and (left := deadline - time.monotonic()) > 0:
            if self._listener is not None and self._listener.wait(min(left, _LISTEN_S)):
                with self._appended:
                    self._appended.notify_all()  # others wait for whoever listens
            else:
                with self._appended:  # a commit in between is seen at the next look: other processes write without notifying
                    self._appended.wait(min(left, _POLL_S))
        return found

    def evidence(self) -> PostgresEvidence:
        """The raw values for `verify`, as the tailer; NotAllowed when the login may not."""
        if self._closed:
            raise StoreUnavailable(url=self._link.url, reason="closed")
        return PostgresEvidence(self._link, self._archive)

    def chapters(self) -> PostgresChapters:
        """The seam through which this log is archived, for a login that is a member of the migrator role too."""
        return PostgresChapters(self._link, self._log_id, self._chapter)

    def close(self) -> None:
        """Close the store's own connections. Closing twice is fine."""
        self._closed = True
        self._link.close()
        if self._listener is not None:
            self._listener.close()
        with self._appended:
            self._appended.notify_all()
