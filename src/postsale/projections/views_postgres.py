"""Views in PostgreSQL, in a schema of their own beside the log's: `postsale_views` for the log in `postsale`.

Derived like any view: the schema may be dropped at any time. Here live its roles, tables and SQL; what a view promises is in
`views`. Imports the contract of views, the names of the log's roles, and the errors; psycopg is the extra `postgres`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from postsale.errors import MissingExtra, StoreUnavailable
from postsale.projections.views import Rows, ViewInfo, check_move
from postsale.store.postgres_schema import DEFAULT_SCHEMA, Roles, check_schema

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

_LAYOUT: Final = 1
_PAGE: Final = 500
_LOCK_TIMEOUT: Final = "30s"
_CONNECT_TIMEOUT_S: Final = 10


def views_schema(schema: str = DEFAULT_SCHEMA) -> str:
    """The schema of the views of the log in `schema`."""
    return f"{check_schema(schema)}_views"


def projector_role(schema: str = DEFAULT_SCHEMA) -> str:
    """The role that owns the views of the log in `schema`: it folds for all tenants. Who runs `run_once` is a member."""
    return f"{check_schema(schema)}_projector"


def views_sql(schema: str = DEFAULT_SCHEMA) -> str:
    """What views need beside a log that is there: a role and an empty schema that the role owns. May be run again."""
    s, v, projector, roles = check_schema(schema), views_schema(schema), projector_role(schema), Roles.of(schema)
    return f"""\
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{projector}') THEN
        CREATE ROLE {projector} NOLOGIN NOINHERIT;
    END IF;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT {projector}, {roles.migrator} TO %I', current_user); -- until the end of this script
    END IF;
END $$;
CREATE SCHEMA IF NOT EXISTS {v} AUTHORIZATION {projector};
SET LOCAL ROLE {roles.migrator};
GRANT USAGE ON SCHEMA {s} TO {projector};
RESET ROLE;
DO $$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('REVOKE {projector}, {roles.migrator} FROM %I', current_user);
    END IF;
END $$;
"""


def _tables(schema: str) -> str:
    """The tables, as the projector makes them at first use. `tenant` is whom a row is about, '' where it is about nobody.

    Keys of states are `TENANT/category/id`; the runner's parked streams are `parked/TENANT/…` in `NAME!aside`; the rounds of a
    tenant are a view of their own, `rounds/TENANT`.
    """
    s, v, writer, projector = schema, views_schema(schema), Roles.of(schema).writer, projector_role(schema)
    return f"""\
CREATE TABLE {v}.log (id text NOT NULL, layout integer NOT NULL);
CREATE TABLE {v}.checkpoints (view text COLLATE "C" PRIMARY KEY, position bigint NOT NULL);
CREATE TABLE {v}.rows (
    view text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, value bytea NOT NULL,
    tenant text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        CASE WHEN right(view, 6) = '!aside' THEN split_part(key, '/', 2)
             WHEN strpos(view, '/') > 0 THEN split_part(view, '/', 2)
             WHEN strpos(key, '/') > 0 THEN split_part(key, '/', 1)
             ELSE '' END
    ) STORED,
    PRIMARY KEY (view, key)
);
ALTER TABLE {v}.rows ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY projectors ON {v}.rows TO {projector} USING (true) WITH CHECK (true);
CREATE POLICY writers ON {v}.rows FOR SELECT TO {writer} USING (true);
CREATE POLICY own ON {v}.rows AS RESTRICTIVE TO {writer} -- also a login that is a member of the projector too, and took no role
    USING (tenant = (SELECT name FROM {s}.tenants WHERE no = (SELECT {s}.tenant_no())));
GRANT USAGE ON SCHEMA {v} TO {writer};
GRANT SELECT ON {v}.rows TO {writer};
"""


class PostgresViews:
    """Views for the log `log_id` in `schema` of the database at `url`; its login is a member of `projector_role(schema)`.

    Connects at first use and makes its tables then, so a service that never folds needs no right to. Tables that were built from
    another log, or by another layout, are emptied. Any number of processes may share them; after a crash of the server at worst
    the last commits are folded again. One connection, used by one thread at a time; safe behind a transaction pooler.
    """

    def __init__(self, url: str, log_id: str, *, schema: str = DEFAULT_SCHEMA) -> None:
        self._url = url
        self._log_id = log_id
        self._schema = check_schema(schema)
        self._v = views_schema(schema)
        self._role = projector_role(schema)
        self._lock = threading.RLock()
        self._db: psycopg.Connection[Any] | None = None
        self._made = False  # the tables are there, for this log
        self._closed = False

    def __repr__(self) -> str:
        return f"PostgresViews({self._v!r})"

    # ------------------------------------------------------------ connection and errors

    def _run(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Do `work` in a transaction as the projector; once more when the connection had died or the tables were dropped.

        Safe to repeat also where the commit had arrived: a write then finds the checkpoint moved, by itself.
        """
        driver = _driver()
        with self._lock:
            for last in (False, True):
                used_before = self._db is not None
                try:
                    return self._transaction(work)
                except (driver.errors.UndefinedTable, driver.errors.InvalidSchemaName) as error:
                    if last or not self._made:
                        raise self._unavailable(error) from None
                    self._made = False
                except driver.Error as error:
                    broken = self._db is None or self._db.broken
                    if broken:
                        self._disconnect()
                    if last or not used_before or not (broken or isinstance(error, driver.errors.DeadlockDetected)):
                        raise self._unavailable(error) from None
            raise AssertionError("unreachable")

    def _transaction(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        db = self._connected()
        with db.transaction():
            # Derived data: a crash of the server may cost a little refolding, so a commit need not wait for the disk.
            db.execute(
                "SELECT set_config('role', %s, true), set_config('synchronous_commit', 'off', true), set_config('lock_timeout', %s, true)",
                (self._role, _LOCK_TIMEOUT),
            )
            if not self._made:
                self._make(db)
            done = work(db)
        self._made = True
        return done

    def _connected(self) -> psycopg.Connection[Any]:
        if self._closed:
            raise StoreUnavailable(url=self._place, reason="closed")
        if self._db is None:
            driver = _driver()
            # No prepared statements: a transaction pooler may give every transaction another server process.
            self._db = driver.connect(
                self._url, autocommit=True, prepare_threshold=None, connect_timeout=_CONNECT_TIMEOUT_S, application_name="postsale views"
            )
        return self._db

    def _make(self, db: psycopg.Connection[Any]) -> None:
        """The tables of this layout for this log, made in this transaction unless they are there."""
        db.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (self._v,))
        if db.execute("SELECT to_regclass(%s)", (f"{self._v}.log",)).fetchone() != (None,):
            if db.execute(f"SELECT id, layout FROM {self._v}.log").fetchone() == (self._log_id, _LAYOUT):
                return
            db.execute(f"DROP TABLE IF EXISTS {self._v}.log, {self._v}.checkpoints, {self._v}.rows")
        db.execute(_tables(self._schema).encode())
        db.execute(f"INSERT INTO {self._v}.log VALUES (%s, %s)", (self._log_id, _LAYOUT))

    @property
    def _place(self) -> str:
        return f"views in schema {self._v}"

    def _unavailable(self, error: psycopg.Error) -> StoreUnavailable:
        """Only the name of the server's code is repeated: its texts may quote what is stored, and the URL holds a password."""
        errors, code = _driver().errors, type(error).__name__
        reasons: dict[type[Exception], str] = {
            errors.InsufficientPrivilege: f"the login may not act as {self._role}; run: GRANT {self._role} TO the login",
            errors.InvalidParameterValue: f"there is no role {self._role}; run: postsale db init",
            errors.InvalidSchemaName: "the schema is not there; run: postsale db init",
        }
        return StoreUnavailable(url=self._place, reason=f"{reasons[type(error)]} ({code})" if type(error) in reasons else code)

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._disconnect()

    # ------------------------------------------------------------ the contract

    def checkpoint(self, view: str) -> int:
        def work(db: psycopg.Connection[Any]) -> int:
            row = db.execute(f"SELECT position FROM {self._v}.checkpoints WHERE view = %s", (view,)).fetchone()
            return int(row[0]) if row else 0

        return self._run(work)

    def get(self, view: str, key: str) -> bytes | None:
        return self.get_many(view, [key]).get(key)

    def get_many(self, view: str, keys: Sequence[str]) -> dict[str, bytes]:
        query = f"SELECT key, value FROM {self._v}.rows WHERE view = %s AND key = ANY(%s)"
        return self._run(lambda db: dict(db.execute(query, (view, list(keys)), binary=True).fetchall())) if keys else {}

    def scan(self, view: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        after, sign = prefix, ">="
        while True:
            page = self._page(view, sign, after)
            for key, value in page:
                if not key.startswith(prefix):
                    return
                yield key, value
            if len(page) < _PAGE:
                return
            after, sign = page[-1][0], ">"

    def _page(self, view: str, sign: str, after: str) -> list[tuple[str, bytes]]:
        query = f"SELECT key, value FROM {self._v}.rows WHERE view = %s AND key {sign} %s ORDER BY key LIMIT {_PAGE}"
        return self._run(lambda db: db.execute(query, (view, after), binary=True).fetchall())

    def write(self, view: str, rows: Rows, *, checkpoint: int, expected: int, also: Mapping[str, Rows] | None = None) -> None:
        changed = sorted((name, key, value) for name, its in {**(also or {}), view: rows}.items() for key, value in its.items())
        gone = [(name, key) for name, key, value in changed if value is None]
        kept = [(name, key, bytes(value)) for name, key, value in changed if value is not None]

        def work(db: psycopg.Connection[Any]) -> None:
            (actual,) = self._locked(db, [view])
            check_move(view, checkpoint, expected, actual)
            if gone:
                db.execute(
                    f"DELETE FROM {self._v}.rows r USING unnest(%s::text[], %s::text[]) AS g (view, key)"
                    " WHERE r.view = g.view AND r.key = g.key",
                    tuple(map(list, zip(*gone, strict=True))),
                )
            if kept:
                db.execute(
                    f"INSERT INTO {self._v}.rows (view, key, value) SELECT * FROM unnest(%s::text[], %s::text[], %b::bytea[])"
                    " ON CONFLICT (view, key) DO UPDATE SET value = EXCLUDED.value",
                    tuple(map(list, zip(*kept, strict=True))),
                )
            if checkpoint != expected:
                db.execute(f"UPDATE {self._v}.checkpoints SET position = %s WHERE view = %s", (checkpoint, view))

        self._run(work)

    def _locked(self, db: psycopg.Connection[Any], views: Sequence[str]) -> list[int]:
        """The checkpoints of views, locked until the end of the transaction. Their rows are never deleted: they are the locks."""
        names = sorted(set(views))
        insert = f"INSERT INTO {self._v}.checkpoints SELECT unnest(%s::text[]), 0 ON CONFLICT (view) DO NOTHING"
        db.execute(insert, (names,))
        query = f"SELECT view, position FROM {self._v}.checkpoints WHERE view = ANY(%s) ORDER BY view FOR UPDATE"
        found = dict(db.execute(query, (names,)).fetchall())
        return [found[view] for view in views]

    def drop(self, *views: str) -> None:
        def work(db: psycopg.Connection[Any]) -> None:
            self._locked(db, views)
            db.execute(f"DELETE FROM {self._v}.rows WHERE view = ANY(%s)", (list(views),))
            db.execute(f"UPDATE {self._v}.checkpoints SET position = 0 WHERE view = ANY(%s)", (list(views),))

        self._run(work)

    def views(self) -> list[ViewInfo]:
        query = f"""SELECT view, coalesce(c.position, 0), coalesce(r.rows, 0)
                    FROM (SELECT view, position FROM {self._v}.checkpoints WHERE position > 0) c
                    FULL JOIN (SELECT view, count(*) AS rows FROM {self._v}.rows GROUP BY view) r USING (view) ORDER BY view"""
        return self._run(lambda db: [ViewInfo(*row) for row in db.execute(query).fetchall()])


def _driver() -> Any:
    try:
        import psycopg
    except ImportError:
        raise MissingExtra(feature="PostgreSQL", extra="postgres") from None
    return psycopg
