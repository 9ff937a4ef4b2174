"""Views: where folded states are kept, as bytes by key, with the position they were folded up to.

Here live the contract and the in-memory and SQLite implementations; the one in PostgreSQL is in `views_postgres`. A view is
derived: it may be dropped, and its file deleted, at any time. Knows nothing of features, folds or logs but a log's id. Imports the errors only.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from postsale.errors import InvalidInput, LeaseLost, StoreUnavailable, ViewMoved

Rows = Mapping[str, bytes | None]
"""Values by key; None deletes the key."""


class ViewInfo(NamedTuple):
    """One view: its name, the position it is folded up to, and how many rows it has."""

    view: str
    checkpoint: int
    rows: int


class Move(NamedTuple):
    """A checkpoint of one view from `expected` to `checkpoint`, under a lease's token if there is one. Equal positions only check."""

    view: str
    checkpoint: int
    expected: int
    token: int | None = None


class Views(Protocol):
    """Named tables of bytes with a checkpoint each. Thread-safe. Raises StoreUnavailable when the place cannot be used."""

    def checkpoint(self, view: str) -> int:
        """The position the view is folded up to, inclusive; 0 for a view that is not there."""
        ...

    def get(self, view: str, key: str) -> bytes | None:
        """The value of a key."""
        ...

    def get_many(self, view: str, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those keys that are there, as of one moment."""
        ...

    def scan(self, view: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """Rows whose key begins with `prefix`, by key (code points, ascending). Bounded memory; rows written meanwhile may show."""
        ...

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
        """Write rows and move the checkpoint from `expected` to `checkpoint`, all or nothing, in one transaction.

        `also` are rows of further views, written in the same transaction; their checkpoints do not move. `token` is the fencing
        token of the lease under which this is written. LeaseLost when the view was written under a greater one, then ViewMoved when
        it is not at `expected`, then InvalidInput when `checkpoint` lies before it. `moves` are checkpoints of further views that move
        in the same transaction, each refused likewise.
        """
        ...

    def drop(self, *views: str) -> None:
        """Forget all about these views, tokens too, in one transaction; one that is not there is no error.

        Who wrote one of them before and goes on is told ViewMoved.
        """
        ...

    def views(self) -> list[ViewInfo]:
        """Every view that has a checkpoint or rows, by name."""
        ...

    def close(self) -> None: ...


def check_move(move: Move, actual: int, newest_token: int) -> None:
    """LeaseLost, ViewMoved or InvalidInput for what a view at `actual`, last written under `newest_token`, must refuse."""
    view, checkpoint, expected, token = move
    if token is not None and token < newest_token:
        raise LeaseLost(lease=view, token=token, newest_token=newest_token)
    if actual != expected:
        raise ViewMoved(view=view, expected_checkpoint=expected, actual_checkpoint=actual)
    if checkpoint < expected:
        raise InvalidInput(what="view", field="checkpoint", reason=f"{checkpoint} lies before {expected}; a checkpoint only advances")


class MemoryViews:
    """Views in this process; gone with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._checkpoints: dict[str, int] = {}
        self._rows: dict[str, dict[str, bytes]] = {}
        self._tokens: dict[str, int] = {}

    def checkpoint(self, view: str) -> int:
        with self._lock:
            return self._checkpoints.get(view, 0)

    def get(self, view: str, key: str) -> bytes | None:
        with self._lock:
            return self._rows.get(view, {}).get(key)

    def get_many(self, view: str, keys: Sequence[str]) -> dict[str, bytes]:
        with self._lock:
            rows = self._rows.get(view, {})
            return {key: rows[key] for key in keys if key in rows}

    def scan(self, view: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        with self._lock:
            rows = sorted((k, v) for k, v in self._rows.get(view, {}).items() if k.startswith(prefix))
        yield from rows

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
        with self._lock:
            together = (Move(view, checkpoint, expected, token), *moves)
            for move in together:
                check_move(move, self._checkpoints.get(move.view, 0), self._tokens.get(move.view, 0))
            for name, changed in {**(also or {}), view: rows}.items():
                kept = self._rows.setdefault(name, {})
                for key, value in changed.items():
                    if value is None:
                        kept.pop(key, None)
                    else:
                        kept[key] = bytes(value)
            for move in together:
                self._checkpoints[move.view] = move.checkpoint
                self._tokens[move.view] = max(self._tokens.get(move.view, 0), move.token or 0)

    def drop(self, *views: str) -> None:
        with self._lock:
            for view in views:
                self._rows.pop(view, None)
                self._checkpoints.pop(view, None)
                self._tokens.pop(view, None)

    def views(self) -> list[ViewInfo]:
        with self._lock:
            names = {n for n, rows in self._rows.items() if rows} | {n for n, at in self._checkpoints.items() if at}
            return [ViewInfo(n, self._checkpoints.get(n, 0), len(self._rows.get(n, {}))) for n in sorted(names)]

    def close(self) -> None:
        pass


# ---------------------------------------------------------------- SQLite

_APPLICATION_ID: Final = 0x70735677  # "psVw": how we know that a file is ours before we write to it
_LAYOUT: Final = 2
_SCHEMA: Final = (
    "CREATE TABLE log (id TEXT NOT NULL)",
    "CREATE TABLE checkpoints (view TEXT PRIMARY KEY, position INTEGER NOT NULL, token INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE rows (view TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (view, key))",
)
_PAGE: Final = 500
_KEYS_PER_QUERY: Final = 500
_WAIT_S: Final = 30.0


class SqliteViews:
    """Views in a file of their own beside the database, mode 0600, for the log `log_id`.

    A file that was built from another log, or by another layout, is emptied. A file that is not ours is refused, untouched.
    Several processes may share it; a commit survives SIGKILL, and after a power cut at worst the last commits are folded again.
    """

    def __init__(self, path: str | os.PathLike[str], log_id: str) -> None:
        self._path = Path(path)
        self._lock = threading.RLock()
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise self._unavailable(error) from None
        try:
            self._open(log_id)
        except BaseException:
            self._db.close()
            raise

    def _open(self, log_id: str) -> None:
        with self._transaction() as db:
            empty = not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            (ours,) = db.execute("PRAGMA application_id").fetchone()
            if ours != _APPLICATION_ID and not empty:
                raise self._unavailable("this is not a file of views; name another path")
            (layout,) = db.execute("PRAGMA user_version").fetchone()
            known = db.execute("SELECT id FROM log").fetchone() if layout == _LAYOUT else None
            if known != (log_id,):
                for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    db.execute(f'DROP TABLE "{table}"')
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute("INSERT INTO log VALUES (?)", (log_id,))
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {_LAYOUT}")
        with self._errors():
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # derived data: an OS crash costs a little refolding, never truth

    def _unavailable(self, error: object) -> StoreUnavailable:
        return StoreUnavailable(url=f"views file {self._path.name}", reason=str(error))

    @contextmanager
    def _errors(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise self._unavailable(f"{error}; the file is derived and may be deleted") from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def checkpoint(self, view: str) -> int:
        with self._errors() as db:
            return _kept(db, view)[0]

    def get(self, view: str, key: str) -> bytes | None:
        return self.get_many(view, [key]).get(key)

    def get_many(self, view: str, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        with self._errors() as db:
            db.execute("BEGIN")
            try:
                for start in range(0, len(keys), _KEYS_PER_QUERY):
                    part = keys[start : start + _KEYS_PER_QUERY]
                    marks = ",".join("?" * len(part))
                    found.update(db.execute(f"SELECT key, value FROM rows WHERE view = ? AND key IN ({marks})", (view, *part)).fetchall())
            finally:
                db.execute("COMMIT")
        return found

    def scan(self, view: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        after, first = prefix, True
        while True:
            sign = ">=" if first else ">"
            with self._errors() as db:
                query = f"SELECT key, value FROM rows WHERE view = ? AND key {sign} ? ORDER BY key LIMIT {_PAGE}"
                page = db.execute(query, (view, after)).fetchall()
            for key, value in page:
                if not key.startswith(prefix):
                    return
                yield key, value
            if len(page) < _PAGE:
                return
            after, first = page[-1][0], False

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
        with self._transaction() as db:
            together = (Move(view, checkpoint, expected, token), *moves)
            newest = []
            for move in together:
                actual, newest_token = _kept(db, move.view)
                check_move(move, actual, newest_token)
                newest.append(newest_token)
            for name, changed in {**(also or {}), view: rows}.items():
                gone = [(name, key) for key, value in changed.items() if value is None]
                kept = [(name, key, value) for key, value in changed.items() if value is not None]
                db.executemany("DELETE FROM rows WHERE view = ? AND key = ?", gone)
                db.executemany("INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT (view, key) DO UPDATE SET value = excluded.value", kept)
            for move, newest_token in zip(together, newest, strict=True):
                if move.checkpoint != move.expected or (move.token or 0) > newest_token:
                    kept_as = (move.view, move.checkpoint, max(newest_token, move.token or 0))
                    db.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", kept_as)

    def drop(self, *views: str) -> None:
        with self._transaction() as db:
            for view in views:
                db.execute("DELETE FROM rows WHERE view = ?", (view,))
                db.execute("DELETE FROM checkpoints WHERE view = ?", (view,))

    def views(self) -> list[ViewInfo]:
        query = """SELECT view, coalesce((SELECT position FROM checkpoints c WHERE c.view = n.view), 0),
                          (SELECT count(*) FROM rows r WHERE r.view = n.view)
                   FROM (SELECT view FROM checkpoints WHERE position > 0 UNION SELECT view FROM rows) n ORDER BY view"""
        with self._errors() as db:
            return [ViewInfo(*row) for row in db.execute(query).fetchall()]

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _kept(db: sqlite3.Connection, view: str) -> tuple[int, int]:
    """The checkpoint of a view, and the greatest token it was written under."""
    row = db.execute("SELECT position, token FROM checkpoints WHERE view = ?", (view,)).fetchone()
    return row if row else (0, 0)
