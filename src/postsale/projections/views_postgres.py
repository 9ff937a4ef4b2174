"""Views in PostgreSQL, in a schema of their own beside the log's. What a view promises is in `views`.

Derived like any view: the schema may be dropped at any time. Imports the contract of views, the scripts of the PostgreSQL log, and
the errors. Needs the extra `postgres`; importing this module without it raises MissingExtra.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from postsale.errors import StoreUnavailable
from postsale.projections.views import Move, Rows, ViewInfo, check_move
from postsale.projections.views_postgres_schema import LAYOUT, projector_role, tables_sql, views_schema
from postsale.store.postgres_link import Connection, Error, Patience, Script, lost
from postsale.store.postgres_schema import DEFAULT_SCHEMA, check_schema

T = TypeVar("T")

_PAGE: Final = 500
_GONE: Final = ("42P01", "3F000")  # a table, the schema
_DEADLOCK: Final = "40P01"


class PostgresViews:
    """Views for the log `log_id` in `schema` of the database at `url`; its login is a member of `projector_role(schema)`.

    Connects at first use and makes its tables then, so a service that never folds needs no right to. Tables that were built from
    another log, or by another layout, are emptied. Any number of processes may share them; after a crash of the server at worst
    the last commits are folded again. One connection, used by one thread at a time; safe behind a transaction pooler.
    """

    def __init__(self, url: str, log_id: str, *, schema: str = DEFAULT_SCHEMA, patience: Patience | None = None) -> None:
        self._url = url
        self._log_id = log_id
        self._schema = check_schema(schema)
        self._v = views_schema(schema)
        self._role = projector_role(schema)
        self._patience = patience or Patience()
        self._lock = threading.RLock()
        self._db: Connection | None = None
        self._made = False  # the tables are there, for this log
        self._closed = False

    def __repr__(self) -> str:
        return f"PostgresViews({self._v!r})"

    # ------------------------------------------------------------ connection and errors

    def _run(self, work: Callable[[Connection, Script], T]) -> T:
        """Do `work` in a transaction as the projector; once more when the connection had died or the tables were dropped.

        `work` gets the statements that open the transaction and runs them with its own, up to COMMIT: few round trips. Safe to
        repeat also where the COMMIT had arrived: a write then finds the checkpoint moved, by itself.
        """
        with self._lock:
            for last in (False, True):
                connected = self._db is not None
                try:
                    db = self._connected()
                    if not self._made:
                        self._make(db)
                    return work(db, self._begin())
                except Error as error:
                    again = error.sqlstate == _DEADLOCK
                    if lost(error) or self._db is None or self._db.broken:
                        self._disconnect()
                        again = connected
                    elif error.sqlstate in _GONE and self._made:
                        self._made, again = False, True
                    if last or not again:
                        raise self._unavailable(error) from None
                finally:
                    self._roll_back()
            raise AssertionError("unreachable")

    def _begin(self) -> Script:
        wait = self._patience
        return Script(
            "BEGIN ISOLATION LEVEL READ COMMITTED",
            f"SET LOCAL ROLE {self._role}",
            f"SET LOCAL lock_timeout = {round(wait.lock * 1_000)}",
            f"SET LOCAL statement_timeout = {round(wait.statement * 1_000)}",
            # A process that stands still in the middle must not hold a share that others took over.
            f"SET LOCAL idle_in_transaction_session_timeout = {round(wait.idle * 1_000)}",
            # Derived data: a crash of the server may cost a little refolding, so a commit need not wait for the disk.
            "SET LOCAL synchronous_commit = off",
        )

    def _connected(self) -> Connection:
        if self._closed:
            raise StoreUnavailable(url=self._place, reason="closed")
        if self._db is None:
            # No prepared statements: a transaction pooler may give every transaction another server process.
            self._db = Connection.connect(
                self._url,
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=max(1, round(self._patience.connection)),
                application_name="postsale views",
            )
        return self._db

    def _make(self, db: Connection) -> None:
        """The tables of this layout for this log, unless they are there."""
        begin = self._begin()
        begin.add("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", self._v)
        begin.run(db)
        if db.execute("SELECT to_regclass(%s)", (f"{self._v}.log",)).fetchone() != (None,):
            made = db.execute(f"SELECT id, layout FROM {self._v}.log").fetchone() == (self._log_id, LAYOUT)
        else:
            made = False
        if not made:
            db.execute(f"DROP TABLE IF EXISTS {self._v}.log, {self._v}.checkpoints, {self._v}.rows".encode())
            db.execute(tables_sql(self._schema).encode())
            db.execute(f"INSERT INTO {self._v}.log VALUES (%s, %s)", (self._log_id, LAYOUT))
        db.execute("COMMIT")
        self._made = True

    @property
    def _place(self) -> str:
        return f"views in schema {self._v}"

    def _unavailable(self, error: Error) -> StoreUnavailable:
        """Only the server's code is repeated: its texts may quote what is stored, and the URL holds a password."""
        code = error.sqlstate or ""
        reason = {
            "": "the connection failed",
            "22023": f"there is no role {self._role}; run: postsale db init",
            "3F000": "the schema is not there; run: postsale db init",
            "42501": f"the login may not act as {self._role}; run: GRANT {self._role} TO the login",
            "55P03": "locked by another process for too long",
        }.get(code, "")
        return StoreUnavailable(url=self._place, reason=f"{reason} (SQLSTATE {code})".strip() if code else reason)

    def _roll_back(self) -> None:
        if self._db is not None and self._db.info.transaction_status.name != "IDLE":
            with suppress(Error):
                self._db.execute("ROLLBACK")

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._disconnect()

    # ------------------------------------------------------------ the contract

    def _ask(self, statement: str, *values: Any) -> list[Any]:
        """The rows of one statement, in one round trip."""

        def work(db: Connection, script: Script) -> list[Any]:
            found: list[Any] = []
            script.add(statement, *values, take=found.extend)
            script.add("COMMIT")
            script.run(db)
            return found

        return self._run(work)

    def checkpoint(self, view: str) -> int:
        found = self._ask(f"SELECT position FROM {self._v}.checkpoints WHERE view = %s", view)
        return int(found[0][0]) if found else 0

    def get(self, view: str, key: str) -> bytes | None:
        return self.get_many(view, [key]).get(key)

    def get_many(self, view: str, keys: Sequence[str]) -> dict[str, bytes]:
        return (
            dict(self._ask(f"SELECT key, value FROM {self._v}.rows WHERE view = %s AND key = ANY (%s)", view, list(keys))) if keys else {}
        )

    def scan(self, view: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        after, sign = prefix, ">="
        while True:
            page = self._ask(
                f"SELECT key, value FROM {self._v}.rows WHERE view = %s AND key {sign} %s ORDER BY key LIMIT {_PAGE}", view, after
            )
            for key, value in page:
                if not key.startswith(prefix):
                    return
                yield key, value
            if len(page) < _PAGE:
                return
            after, sign = page[-1][0], ">"

    def write(
        self,
        view: str,
        rows: Rows,
        *,
        checkpoint: int,
        expected: int,
        also: Mapping[str, Rows] | None = None,
        token: int | None = None,
        moves: Sequence[Move] = (),
    ) -> None:
        together = (Move(view, checkpoint, expected, token), *moves)
        # In one order everywhere, so that two writers of the same rows do not wait for each other in a circle.
        changed = sorted((name, key, value) for name, its in {**(also or {}), view: rows}.items() for key, value in its.items())
        gone = [(name, key) for name, key, value in changed if value is None]
        kept = [(name, key, bytes(value)) for name, key, value in changed if value is not None]

        def work(db: Connection, script: Script) -> None:
            found = self._locked(db, script, [move.view for move in together])
            for move, (actual, newest) in zip(together, found, strict=True):
                check_move(move, actual, newest)
            if kept:
                db.execute(
                    f"INSERT INTO {self._v}.rows (view, key, value) SELECT * FROM unnest(%s::text[], %s::text[], %b::bytea[])"
                    " ON CONFLICT (view, key) DO UPDATE SET value = EXCLUDED.value",
                    tuple(map(list, zip(*kept, strict=True))),
                )
            end = Script()
            if gone:
                end.add(
                    f"DELETE FROM {self._v}.rows r USING unnest(%s::text[], %s::text[]) AS g (view, key)"
                    " WHERE r.view = g.view AND r.key = g.key",
                    *map(list, zip(*gone, strict=True)),
                )
            for move, (_, newest) in zip(together, found, strict=True):
                if move.checkpoint != move.expected or (move.token or 0) > newest:
                    moved = (move.checkpoint, max(newest, move.token or 0), move.view)
                    end.add(f"UPDATE {self._v}.checkpoints SET position = %s, token = %s WHERE view = %s", *moved)
            end.add("COMMIT")
            end.run(db)

        self._run(work)

    def _locked(self, db: Connection, script: Script, views: Sequence[str]) -> list[tuple[int, int]]:
        """Checkpoints and tokens of views, locked until the end of the transaction. Their rows are never deleted: they are the locks."""
        names, found = sorted(set(views)), list[Any]()
        script.add(f"INSERT INTO {self._v}.checkpoints SELECT unnest(%s::text[]), 0, 0 ON CONFLICT (view) DO NOTHING", names)
        script.add(
            f"SELECT view, position, token FROM {self._v}.checkpoints WHERE view = ANY (%s) ORDER BY view FOR UPDATE",
            names,
            take=found.extend,
        )
        script.run(db)
        kept = {view: (position, token) for view, position, token in found}
        return [kept[view] for view in views]

    def drop(self, *views: str) -> None:
        def work(db: Connection, script: Script) -> None:
            self._locked(db, script, views)
            end = Script()
            end.add(f"DELETE FROM {self._v}.rows WHERE view = ANY (%s)", list(views))
            end.add(f"UPDATE {self._v}.checkpoints SET position = 0, token = 0 WHERE view = ANY (%s)", list(views))
            end.add("COMMIT")
            end.run(db)

        self._run(work)

    def views(self) -> list[ViewInfo]:
        found = self._ask(
            f"""SELECT view, coalesce(c.position, 0), coalesce(r.rows, 0)
                FROM (SELECT view, position FROM {self._v}.checkpoints WHERE position > 0) c
                FULL JOIN (SELECT view, count(*) AS rows FROM {self._v}.rows GROUP BY view) r USING (view) ORDER BY view"""
        )
        return [ViewInfo(*row) for row in found]
