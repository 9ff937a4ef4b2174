"""Connections to a PostgreSQL log: the pool, transactions under one of its roles, and what the server's errors mean. No reads or writes of events.

Nothing here belongs to a session: every transaction names its role, tenant and timeouts itself, with SET LOCAL, and statements go
unprepared, so that a transaction pooler may stand in between. Needs the extra `postgres`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from postsale.errors import InvalidInput, LogDamaged, MissingExtra, NotAllowed, PostSaleError, StoreUnavailable
from postsale.store.postgres_schema import Roles, check_schema

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import TransactionStatus
    from psycopg.rows import tuple_row
    from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout
except ImportError:
    raise MissingExtra(feature="the PostgreSQL store", extra="postgres") from None

Connection = psycopg.Connection[Any]
Error = psycopg.Error
Pool = ConnectionPool[Any]

PATIENT: Final[dict[str, Any]] = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}  # a silent network is noticed; seconds, the last in ms

# Compiling or spreading a query costs more than the small pages that are read here.
_READING: Final = ("SET LOCAL jit = off", "SET LOCAL max_parallel_workers_per_gather = 0")

_REASONS: Final = {
    "53100": "the server's disk is full",
    "53300": "the server has no connection left",
    "55P03": "locked by another writer for too long",
    "57014": "a statement took too long",
    "57P01": "the server is shutting down",
    "57P02": "the server crashed",
    "57P03": "the server is starting or stopping",
    "25006": "the server is read-only: a standby?",
    "42P01": "a table of the log is missing",
    "3F000": "the schema of the log is missing",
    "40001": "the caller's snapshot is older than the newest event: use READ COMMITTED",
}
# Another client of a shared connection may have switched it off since the store looked. A stronger or weaker `on` is the server's choice.
_DURABLE: Final = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
_AGAIN: Final = ("08", "57P", "40P01", "40001")  # a new connection, or another try, may do


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a store waits, in seconds. Every wait is bounded by one of these."""

    connection: float = 10.0  # for a free connection of the pool
    lock: float = 10.0  # for the log's head, behind other writers
    statement: float = 60.0
    idle: float = 60.0  # until the server ends a transaction whose client went silent


class Script:
    """Statements that go to the server in one round trip, and who takes the rows of each.

    Numbers and digests stand in the text; everything else is a value, quoted by the driver.
    """

    def __init__(self, *statements: str) -> None:
        self._statements = list(statements)
        self._values: list[Any] = []
        self._takers: dict[int, Callable[[list[Any]], None]] = {}

    def add(self, statement: str, *values: Any, take: Callable[[list[Any]], None] | None = None) -> None:
        """`statement` has one `%s` for each value and, when a script has values at all, no other `%`."""
        if take is not None:
            self._takers[len(self._statements)] = take
        self._statements.append(statement)
        self._values += values

    def extend(self, other: Script) -> None:
        """Append another script's statements."""
        for at, take in other._takers.items():
            self._takers[len(self._statements) + at] = take
        self._statements += other._statements
        self._values += other._values

    def __len__(self) -> int:
        return len(self._statements)

    def run(self, db: Connection) -> None:
        if not self._statements:
            return
        # Quoted on this side, because only the simple protocol takes several statements at once.
        with psycopg.ClientCursor(db, row_factory=tuple_row) as cursor:
            cursor.execute("; ".join(self._statements).encode(), self._values or None)
            for at in range(len(self._statements)):
                if (take := self._takers.get(at)) is not None:
                    take(cursor.fetchall())
                cursor.nextset()


class Link:
    """A pool of connections to one log."""

    def __init__(self, target: str | Pool, schema: str, *, patience: Patience, min_size: int = 1, max_size: int = 16) -> None:
        self.schema = check_schema(schema)
        self.roles = Roles.of(schema)
        self.patience = patience
        self._own = isinstance(target, str)
        self._adjusted: set[int] = set()  # connections whose autocommit was off
        conninfo = target if isinstance(target, str) else target.conninfo
        self.url = _label(conninfo if isinstance(conninfo, str) else conninfo(), schema)
        if isinstance(target, str):
            given = conninfo_to_dict(target)
            self.pool: Pool = ConnectionPool(
                target,
                kwargs={key: value for key, value in PATIENT.items() if key not in given},
                min_size=min_size,
                max_size=max_size,
                timeout=patience.connection,
                reconnect_timeout=patience.connection,  # after it, whoever asks next tries at once, however long the server was away
                open=False,
            )
        else:
            self.pool = target

    def open(self) -> None:
        if self._own:
            self.pool.open()

    def close(self) -> None:
        if self._own:
            self.pool.close(timeout=1.0)

    # ---------------------------------------------------------------- transactions

    def begin(self, role: str, *, read_only: bool = False, isolation: str = "READ COMMITTED") -> Script:
        """The opening statements of a transaction."""
        mode = "READ ONLY" if read_only else "READ WRITE"
        return Script(f"BEGIN ISOLATION LEVEL {isolation} {mode}", *self._settings(role, read_only))

    def _settings(self, role: str, read_only: bool) -> list[str]:
        lock, statement, idle = self.timeouts
        return [
            f"SET LOCAL ROLE {role}",
            f"SET LOCAL lock_timeout = {lock}",
            f"SET LOCAL statement_timeout = {statement}",
            f"SET LOCAL idle_in_transaction_session_timeout = {idle}",
            *(_READING if read_only else (_DURABLE,)),
        ]

    def keep(self) -> str:
        """The last statement of a transaction that is to stay."""
        return "COMMIT"

    def begin_append(self) -> Script:
        """The same for an append, whose first question sets the timeouts."""
        return Script("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", f"SET LOCAL ROLE {self.roles.writer}")

    @property
    def timeouts(self) -> tuple[int, int, int]:
        """For a lock, a statement and an idle transaction, in ms."""
        wait = self.patience
        return _ms(wait.lock), _ms(wait.statement), _ms(wait.idle)

    @contextmanager
    def transaction(self, opening: Script) -> Iterator[Connection]:
        """A transaction that `opening` begins; rolled back at the end unless a COMMIT was run. psycopg's errors pass untranslated."""
        # Idle connections may have died with an earlier server: each is found out here, where nothing was asked for yet.
        for _ in range(self.pool.max_size + 1):
            db = self._take()
            try:  # nothing between the two: whatever interrupts the opening, too, gives the connection back
                if self._opened(db, opening):
                    yield db
                    return
            finally:
                try:
                    self._reset(db)
                except BaseException:  # a second interruption: the pool makes another connection in its place
                    db.close()
                    raise
                finally:
                    self.pool.putconn(db)
        raise StoreUnavailable(url=self.url, reason="every connection of the pool is broken")

    def _opened(self, db: Connection, opening: Script) -> bool:
        """False when the connection turned out to be dead."""
        try:
            if not db.autocommit:
                self._adjusted.add(id(db))
                db.autocommit = True  # transactions are begun by hand: psycopg's own would cost a round trip
            opening.run(db)
        except psycopg.OperationalError as error:
            if not lost(error):
                raise
            return False
        return True

    def _take(self) -> Connection:
        try:
            db: Connection = self.pool.getconn(self.patience.connection)
            return db
        except PoolClosed:
            raise StoreUnavailable(url=self.url, reason="closed") from None
        except PoolTimeout:
            raise StoreUnavailable(
                url=self.url,
                reason=f"no connection within {self.patience.connection:g} s: the server does not answer, or all {self.pool.max_size}"
                " connections of the pool are in use (then give the store a larger pool)",
            ) from None

    def _reset(self, db: Connection) -> None:
        if db.info.transaction_status == TransactionStatus.ACTIVE:  # interrupted in the middle of an answer
            db.close()
        elif db.info.transaction_status != TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                Script("ROLLBACK").run(db)
        if not self._own and id(db) in self._adjusted and not db.closed:  # a pool of the caller's gets it back as it was
            self._adjusted.remove(id(db))
            db.autocommit = False

    # ---------------------------------------------------------------- errors

    @contextmanager
    def translated(self, role: str | None = None) -> Iterator[None]:
        """Errors of statements under `role` (the writer) as ours, by code alone: the server's texts may quote what is stored."""
        try:
            yield
        except UnicodeEncodeError:
            raise _unspeakable() from None
        except psycopg.Error as error:
            raise self._ours(error, role or self.roles.writer) from None

    def _ours(self, error: psycopg.Error, role: str) -> PostSaleError:
        if isinstance(error, psycopg.DataError) and error.sqlstate is None:
            return _unspeakable()  # the driver's refusal of a NUL
        code = error.sqlstate or ""
        if code == "42501":
            action = "read the events of all tenants" if role == self.roles.tailer else "read and append events"
            reason = f"it is not a member of the role {role}: GRANT {role} TO the login"
            if role == self.roles.migrator:  # never granted to a service: its login would then be refused
                action = "look at chapters or archive them"
                login = f"{self.schema}_archivist"
                roles = f"{self.roles.writer}, {self.roles.tailer}, {role}"
                reason = (
                    f"it is not a member of the role {role}. Leave a service's login as it is, and use one of its own for this:"
                    f" CREATE ROLE {login} LOGIN NOINHERIT; GRANT {roles} TO {login};"
                )
            return NotAllowed(actor="this database login", action=action, reason=reason)
        if isinstance(error, psycopg.IntegrityError):
            # Planned under the lock, so no constraint can fail unless the tables disagree with each other.
            return LogDamaged(position=0, reason=f"a write broke a rule of the tables (SQLSTATE {code})")
        if code.startswith("XX"):
            return LogDamaged(position=0, reason=f"the server found damage (SQLSTATE {code})")
        reason = _REASONS.get(code, "" if code else "the connection was lost")
        return StoreUnavailable(url=self.url, reason=f"{reason} (SQLSTATE {code})".strip() if code else reason)


def _unspeakable() -> InvalidInput:
    return InvalidInput(what="Query", field="name", reason="expected no NUL or lone surrogates")


def lost(error: psycopg.Error) -> bool:
    """Whether the connection, not the statement, failed."""
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate is None or error.sqlstate.startswith(("08", "57P")))


def worth_another_try(error: psycopg.Error) -> bool:
    """Whether the same transaction may pass the next time."""
    return lost(error) or (error.sqlstate or "").startswith(_AGAIN)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1_000))


def _label(conninfo: str, schema: str) -> str:
    """Where a log is, without who logs in and how."""
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.Error:
        raise StoreUnavailable(url="postgresql:", reason="the URL cannot be read") from None
    host = parts.get("host") or "localhost"
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"postgresql://{host}{port}/{parts.get('dbname') or ''}#{schema}"
