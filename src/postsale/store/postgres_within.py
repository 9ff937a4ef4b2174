"""A PostgreSQL log inside a transaction of its caller: append, and look up what an append needs, beside the caller's own statements.

Everything happens under a savepoint on the caller's connection. What only reads, and an append that stores nothing, is rolled back to
it, which gives up the log's lock too; after one that stores, role, tenant and settings are put back as the caller had them, but for
`synchronous_commit`: off, it stays on until the transaction's end. The caller begins and ends it. Needs the extra `postgres`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from postsale.errors import InvalidInput, UnsafeDatabase
from postsale.events import Clock
from postsale.store.archive import Archive
from postsale.store.contract import Outcome, Submission
from postsale.store.postgres_beside import PostgresQuarantine
from postsale.store.postgres_link import Connection, Link, Script
from postsale.store.postgres_names import Names
from postsale.store.postgres_read import Reads
from postsale.store.postgres_write import Append, LogWentBack

_SETTING = re.compile(r"SET LOCAL (\S+)", re.IGNORECASE)
_SET_BY_FUNCTIONS = ("postsale.tenant", "plan_cache_mode", "enable_seqscan", "enable_bitmapscan")


class CallersLink(Link):
    """A caller's connection to the database of a log that is open, the one with this id."""

    def __init__(self, link: Link, connection: Any, log_id: str) -> None:
        self.schema = link.schema
        self.roles = link.roles
        self.patience = link.patience
        self.url = link.url
        self._db: Connection = _checked(connection)
        self._had: list[Any] = []  # the caller's settings, in the order of `_changed`
        self._changed: list[str] = []
        self._kept = False
        self._log_id = log_id
        self._found: list[Any] = []

    def begin(self, role: str, *, read_only: bool = False, isolation: str = "") -> Script:  # noqa: ARG002  # the caller's
        settings = self._settings(role, read_only)
        self._changed = [*(found[1].lower() for s in settings if (found := _SETTING.match(s))), *_SET_BY_FUNCTIONS]
        had = ", ".join(f"current_setting('{name}', true)" for name in self._changed)
        script = Script("SAVEPOINT postsale")
        script.add(f"SELECT {had}", take=self._take_settings)
        script.extend(Script(*settings))
        powers = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = session_user"
        script.add(f"SELECT log_id, ({powers}) FROM {self.schema}.log", take=self._take_log)
        return script

    def _take_settings(self, rows: list[Any]) -> None:
        self._had = list(rows[0])

    def _take_log(self, rows: list[Any]) -> None:
        self._found = rows

    def keep(self) -> str:
        self._kept = True
        return "SELECT"

    @contextmanager
    def transaction(self, opening: Script) -> Iterator[Connection]:
        """The savepoint that `opening` makes; rolled back at the end unless `keep` was called."""
        self._kept, done = False, False
        _checked(self._db)
        try:
            opening.run(self._db)
            if [log_id for log_id, _ in self._found] != [self._log_id]:
                raise InvalidInput(what="transaction", field="connection", reason="it leads to another log than the one that is open")
            if self._found[0][1]:
                raise UnsafeDatabase(
                    what="the login of the connection is a superuser or has BYPASSRLS: no policy holds it",
                    wanted=f"the login of the service, a member of {self.roles.writer}",
                    fix="Connect with the URL that the log was opened with.",
                )
            yield self._db
            done = True
        finally:
            if done and self._kept:
                self._restore().run(self._db)
            else:
                with suppress(psycopg.Error):  # where the connection is lost the transaction is, too
                    Script("ROLLBACK TO SAVEPOINT postsale", "RELEASE SAVEPOINT postsale").run(self._db)

    def _restore(self) -> Script:
        script = Script()
        for name, value in zip(self._changed, self._had, strict=True):
            script.add("SELECT set_config(%s, %s, true)", name, value or "")
        script.add("RELEASE SAVEPOINT postsale")
        return script


class Within(Reads):
    """The log of a store, as a transaction of the caller sees it, its own uncommitted appends included. For this transaction only."""

    def __init__(self, link: Link, connection: Any, *, log_id: str, chapter: int, archive: Archive, clock: Clock, limit_bytes: int) -> None:
        self._link = CallersLink(link, connection, log_id)
        self._names = Names()  # nothing of an open transaction may be known outside it
        self._archive = archive
        self._chapter = chapter
        self._clock = clock
        self._limit_bytes = limit_bytes
        self.quarantine = PostgresQuarantine(self._link, self._names)

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """As `Store.append`, but stored when, and only if, the caller commits. Until then no other writer gets on."""
        try:
            return self._append(submissions)
        except LogWentBack:  # the caller went back to a savepoint
            self._names.forget()
            return self._append(submissions)

    def _append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        link = self._link
        append = Append(link.schema, self._names, self._archive, submissions, chapter=self._chapter)
        opening = link.begin(link.roles.writer)
        append.ask(opening, link.timeouts)
        with link.translated(), link.transaction(opening) as db:
            planned = append.decide(db, now_us=self._clock.now_us(), limit_bytes=self._limit_bytes)
            if planned.rows:
                append.write(db, planned.rows, commit=False)
                append.committed(planned.rows)
                link.keep()
        return planned.outcomes


def _checked(connection: Any) -> Connection:
    """A connection that has a transaction to write into; InvalidInput for any other."""
    reason = None
    if not isinstance(connection, psycopg.Connection):
        reason = f"expected a connection of psycopg 3, got {type(connection).__name__}"
    elif connection.closed:
        reason = "it is closed"
    else:
        status = connection.info.transaction_status.name
        if status == "IDLE" and connection.autocommit:
            reason = "it is in no transaction: begin one, with connection.transaction() or without autocommit"
        elif connection.info.encoding != "utf-8":
            reason = f"its client encoding is {connection.info.encoding}; expected UTF8"
        elif status == "INERROR":
            reason = "its transaction has failed; roll it back and begin again"
        elif status == "ACTIVE" or connection.info.pipeline_status.name != "OFF":
            reason = "it is in the middle of something else: a pipeline, a COPY, or another thread's statement"
    if reason is not None:
        raise InvalidInput(what="transaction", field="connection", reason=reason)
    found: Connection = connection
    return found
