"""Making a PostgreSQL log, and refusing a database or a login that is not fit for one. Reads and writes no events.

What makes it fit is in `postgres_checks`. Needs the extra `postgres`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from postsale.errors import MissingExtra, StoreUnavailable, UnsafeDatabase
from postsale.store.postgres_schema import DEFAULT_SCHEMA, Roles, check_schema

try:
    import psycopg
    from psycopg.rows import namedtuple_row

    from postsale.store.postgres_checks import OF_SERVICES, Check, checks, server_checks, version_check
except ImportError:
    raise MissingExtra(feature="PostgreSQL", extra="postgres") from None

_CONNECT_TIMEOUT_S: Final = 10


Connection = psycopg.Connection[Any]


@contextmanager
def connected(url: str, shown: str) -> Iterator[Connection]:
    """A connection to a database; StoreUnavailable, which names the database as `shown`, when there is none to be had."""
    try:
        db = psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S, application_name="postsale db")
    except psycopg.OperationalError as error:
        # Of a connection that failed, libpq tells host, port and login.
        reason = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        raise StoreUnavailable(url=shown, reason=reason) from None
    except psycopg.Error:  # repeats the URL, with the password
        raise StoreUnavailable(url=shown, reason="the URL cannot be read") from None
    with closing(db):
        yield db


# ---------------------------------------------------------------- making a log


def apply_init(db: Connection, script: str, schema: str = DEFAULT_SCHEMA) -> bool:
    """Run `script`, which makes the log in `schema`, in one transaction. False when there is a log already: then nothing is changed.

    UnsafeDatabase when the database is not fit for a log, the schema holds something else, or this login may not make one.
    """
    check_schema(schema)
    with db.transaction(), db.cursor(row_factory=namedtuple_row) as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"postsale db init {schema}",))  # two at once: one waits
        found: Any = cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%(s)s)) AND relname = 'log') AS log,"
            " to_regnamespace(quote_ident(%(s)s)) IS NOT NULL AS taken,"
            " quote_ident(%(s)s) <> %(s)s AS reserved, current_user AS login, current_database() AS database,"
            " current_setting('server_version_num')::int AS version, current_setting('server_encoding') AS encoding",
            {"s": schema},
        ).fetchone()
        if found.log:
            return False
        if found.taken or found.reserved:
            what = f"the schema {schema!r} holds something else" if found.taken else f"{schema!r} is a word of SQL"
            raise UnsafeDatabase(what=what, wanted="a name that is free", fix="Choose another: --schema NAME")
        _demand(server_checks(found.version, found.encoding))
        _make(db, script, found.login, found.database)
    return True


def apply_missing(db: Connection, name: str, script: str) -> bool:
    """Run `script`, which makes the schema `name` beside a log, in one transaction. False when there is such a schema. As `apply_init`."""
    with db.transaction(), db.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace(quote_ident(%s)), current_user, current_database()", (name,))
        there, login, database = cursor.fetchone() or (None, "", "")
        if there is None:
            _make(db, script, login, database)
    return there is None


def _make(db: Connection, script: str, login: str, database: str) -> None:
    try:
        with db.transaction():
            db.execute(script.encode())
    except psycopg.errors.InsufficientPrivilege:
        raise UnsafeDatabase(
            what=f"the login {login} may not make roles and schemas here",
            wanted="a superuser, or a login that may",
            fix=f"Type as a superuser: ALTER ROLE {login} CREATEROLE; GRANT CREATE ON DATABASE {database} TO {login};",
        ) from None
    except psycopg.errors.RaiseException as error:  # of our own script
        fix = error.diag.message_hint or ""
        raise UnsafeDatabase(what=error.diag.message_primary or "", wanted="roles without any power of their own", fix=fix) from None


def members(db: Connection, schema: str = DEFAULT_SCHEMA) -> list[str]:
    """Logins that are members of the log's roles. Roles belong to the whole server: these may be another database's."""
    rows = db.execute(
        "SELECT DISTINCT m.member::regrole::text FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid"
        " WHERE r.rolname = ANY (%s) AND m.member::regrole::text <> current_user ORDER BY 1",
        (list(Roles.of(schema)),),
    )
    return [name for (name,) in rows]


# ---------------------------------------------------------------- judging a connection


def check_connection(db: Connection, schema: str = DEFAULT_SCHEMA, *, as_owner: bool = False) -> None:
    """Refuse a database or a login under which the log's promises would not hold: UnsafeDatabase with the first thing that is wrong.

    With `as_owner` only what the log's durability needs: see OF_SERVICES. One query. What it finds holds for this connection; a pooler
    must give all of them the same login and settings.
    """
    _demand(check for check in checks(db, schema) if not (as_owner and check.name in OF_SERVICES))


def check_version(version: int, schema: str = DEFAULT_SCHEMA) -> None:
    """UnsafeDatabase when this release can neither read nor write a log of this schema version."""
    _demand([version_check(version, schema)])


def stored_version(db: Connection, schema: str = DEFAULT_SCHEMA) -> Check:
    """The version of a log's schema, read as a writer."""
    with db.transaction():
        db.execute(f"SET LOCAL ROLE {Roles.of(schema).writer}")
        row: Any = db.execute(f"SELECT schema_version FROM {schema}.log").fetchone()
    return version_check(row[0], schema)


def may_act_as(db: Connection, role: str) -> bool:
    """Whether this login may take a role. False when there is no such role."""
    takes = "SET" if db.info.server_version >= 160_000 else "MEMBER"  # since 16 a member need not be allowed to take the role
    return (
        db.execute("SELECT FROM pg_roles WHERE rolname = %s AND pg_has_role(session_user, oid, %s)", (role, takes)).fetchone() is not None
    )


def _demand(judged: Iterable[Check]) -> None:
    for check in judged:
        if not check.ok:
            raise UnsafeDatabase(what=check.what, wanted=check.wanted, fix=check.fix)
