"""The SQLite file: its tables, how it is recognised, opened and created, and what its errors mean. No reads or writes of events."""

from __future__ import annotations

import functools
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from postsale.errors import InvalidInput, LogDamaged, StoreUnavailable

APPLICATION_ID: Final = 0x50535431  # "PST1" in the file's header: this file is a postsale log
BLOCK_BITS: Final = 16  # facts are indexed in blocks of so many bits of positions
SCHEMA_VERSION: Final = 2  # PRAGMA user_version; a change needs a migration, which is never made silently

# `events` is clustered by position. What repeats (stream names, kinds) is interned: a leaf commits to the names, so an edited name
# breaks the leaf of every event that uses it. `ids` stands apart because ids must be remembered after events are archived; they come
# into it a generation at a time (`sqlite_ids`). `id_filters` is derived.
_TABLES: Final = """
CREATE TABLE log (
    one INTEGER PRIMARY KEY CHECK (one = 1), log_id TEXT NOT NULL, position INTEGER NOT NULL, recorded_at INTEGER NOT NULL,
    chapter INTEGER NOT NULL
) STRICT;
CREATE TABLE tenants (
    no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, frontier BLOB NOT NULL
) STRICT;
CREATE TABLE streams (
    no INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, category TEXT NOT NULL, id TEXT NOT NULL, UNIQUE (category, tenant, id)
) STRICT;
CREATE TABLE kinds (
    no INTEGER PRIMARY KEY, wire_name TEXT NOT NULL, schema BLOB NOT NULL, UNIQUE (wire_name, schema)
) STRICT;
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    version INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    kind INTEGER NOT NULL,
    occurred_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    content_mac BLOB NOT NULL,
    header BLOB NOT NULL,
    data BLOB NOT NULL,
    salt BLOB NOT NULL,
    leaf_index INTEGER NOT NULL,
    leaf BLOB NOT NULL
) STRICT;
CREATE TABLE ids (
    generation INTEGER NOT NULL, tenant INTEGER NOT NULL, event_id BLOB NOT NULL, position INTEGER NOT NULL, recorded_at INTEGER NOT NULL,
    content_mac BLOB NOT NULL, PRIMARY KEY (generation, tenant, event_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE id_generations (
    generation INTEGER PRIMARY KEY, last INTEGER NOT NULL
) STRICT;
CREATE TABLE id_filters (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, ids INTEGER NOT NULL, bits BLOB NOT NULL, sha256 BLOB NOT NULL
) STRICT;
CREATE TABLE nodes (
    tenant INTEGER NOT NULL, level INTEGER NOT NULL, number INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (tenant, level, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE segments (
    chapter INTEGER PRIMARY KEY, name TEXT NOT NULL, directory TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    rows INTEGER NOT NULL, size_bytes INTEGER NOT NULL, sha256 BLOB NOT NULL, tail_sha256 BLOB NOT NULL, archived_at INTEGER NOT NULL,
    groups BLOB NOT NULL
) STRICT;
CREATE TABLE segment_streams (
    stream INTEGER NOT NULL, chapter INTEGER NOT NULL, groups BLOB NOT NULL, PRIMARY KEY (stream, chapter)
) STRICT, WITHOUT ROWID;
CREATE TABLE segment_tenants (
    tenant INTEGER NOT NULL, chapter INTEGER NOT NULL, leaves BLOB NOT NULL, PRIMARY KEY (tenant, chapter)
) STRICT, WITHOUT ROWID;
CREATE TABLE kv (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, space TEXT NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    UNIQUE (space, tenant, key)
) STRICT;
CREATE TABLE quarantine (
    no INTEGER PRIMARY KEY, tenant TEXT NOT NULL, id TEXT NOT NULL, source TEXT NOT NULL, reason TEXT NOT NULL,
    received_at INTEGER NOT NULL, body BLOB NOT NULL, status TEXT NOT NULL, UNIQUE (tenant, id)
) STRICT;
"""

# The position ends every index entry by itself (it is the rowid), so each of these reads in order of position. Facts of a stream are
# found block by block: a batch of facts of many streams then writes to the few pages of the newest block, however long the log is.
_INDEXES: Final = f"""
CREATE INDEX facts_by_stream ON events (position >> {BLOCK_BITS}, stream) WHERE lane = 0;
CREATE UNIQUE INDEX decisions_by_version ON events (stream, version) WHERE lane = 1;
CREATE INDEX decisions_by_tenant ON events (tenant) WHERE lane = 1;
CREATE INDEX events_by_tenant ON events (tenant);
CREATE INDEX events_by_kind ON events (kind);
CREATE INDEX quarantine_by_arrival ON quarantine (tenant, received_at);
"""

# Against accidents by whoever opens the file with another program; whoever drops the triggers first is found by `verify`.
# The insert triggers are there for INSERT OR REPLACE, which deletes without a delete trigger unless recursive_triggers is on. They
# roll back, because for a statement that may ABORT half-way SQLite first copies every page it changes, which doubled the time of an append.
# A fact goes when its chapter has a segment: no trigger is ever lifted, and a segment cannot be kept for a chapter that may still grow.
_TRIGGERS: Final = (
    "".join(
        f"""
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}{unless} BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
"""
        for table, unless in {
            "events": " WHEN OLD.lane <> 0 OR NOT EXISTS (SELECT 1 FROM segments WHERE OLD.position BETWEEN first AND last)",
            **dict.fromkeys(("ids", "id_generations", "streams", "kinds", "nodes", "segments", "segment_streams", "segment_tenants"), ""),
        }.items()
    )
    + "".join(
        f"""
CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER {table}_only_forward BEFORE UPDATE ON {table} WHEN {backward}
BEGIN SELECT RAISE(ABORT, 'a head only moves forward'); END;
"""
        for table, backward in (
            (
                "log",
                "NEW.log_id <> OLD.log_id OR NEW.chapter <> OLD.chapter OR NEW.position <= OLD.position OR NEW.recorded_at <= OLD.recorded_at",
            ),
            ("tenants", "NEW.no <> OLD.no OR NEW.name <> OLD.name OR NEW.size <= OLD.size"),
        )
    )
    + "".join(
        f"""
CREATE TRIGGER {table}_only_append {when}
BEGIN SELECT RAISE(ROLLBACK, 'the log is append-only'); END;
"""
        for table, when in {
            # After, which costs less a row; only a second decision of a version must be seen before REPLACE takes the first away.
            "events": "AFTER INSERT ON events WHEN NEW.position <= (SELECT position FROM log)",
            "decisions": "BEFORE INSERT ON events WHEN NEW.lane = 1"
            " AND EXISTS (SELECT 1 FROM events WHERE stream = NEW.stream AND version = NEW.version AND lane = 1)",
            "ids": "AFTER INSERT ON ids WHEN NEW.generation <= (SELECT coalesce(max(generation), 0) FROM id_generations)",
            "id_generations": "BEFORE INSERT ON id_generations WHEN NEW.last <= (SELECT coalesce(max(last), 0) FROM id_generations)",
            "log": "BEFORE INSERT ON log WHEN EXISTS (SELECT 1 FROM log)",
            "tenants": "BEFORE INSERT ON tenants WHEN EXISTS (SELECT 1 FROM tenants WHERE no = NEW.no OR name = NEW.name)",
            "streams": "BEFORE INSERT ON streams WHEN EXISTS (SELECT 1 FROM streams WHERE no = NEW.no)"
            " OR EXISTS (SELECT 1 FROM streams WHERE category = NEW.category AND tenant = NEW.tenant AND id = NEW.id)",
            "kinds": "BEFORE INSERT ON kinds"
            " WHEN EXISTS (SELECT 1 FROM kinds WHERE no = NEW.no OR (wire_name = NEW.wire_name AND schema = NEW.schema))",
            "nodes": "BEFORE INSERT ON nodes"
            " WHEN EXISTS (SELECT 1 FROM nodes WHERE tenant = NEW.tenant AND level = NEW.level AND number = NEW.number)",
            "segment_streams": "BEFORE INSERT ON segment_streams"
            " WHEN EXISTS (SELECT 1 FROM segment_streams WHERE stream = NEW.stream AND chapter = NEW.chapter)",
            "segment_tenants": "BEFORE INSERT ON segment_tenants"
            " WHEN EXISTS (SELECT 1 FROM segment_tenants WHERE tenant = NEW.tenant AND chapter = NEW.chapter)",
        }.items()
    )
    + """
CREATE TRIGGER segments_once BEFORE INSERT ON segments
WHEN EXISTS (SELECT 1 FROM segments WHERE chapter = NEW.chapter) OR NEW.last > (SELECT position FROM log)
    OR NEW.first <> NEW.chapter * (SELECT chapter FROM log) + 1 OR NEW.last <> (NEW.chapter + 1) * (SELECT chapter FROM log)
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
"""
)

_REASONS: Final = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_BUSY": "locked by another writer for too long",
    "SQLITE_LOCKED": "locked by another writer for too long",
    "SQLITE_READONLY": "not writable",
    "SQLITE_CANTOPEN": "cannot be opened",
    "SQLITE_NOTADB": "not a SQLite file",
    "SQLITE_CORRUPT": "the file is damaged",
}


DAMAGE: Final = (sqlite3.Error, UnicodeDecodeError)
"""What the driver raises over a damaged file: a text that is not UTF-8 may stand even in SQLite's own messages."""


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@contextmanager
def translated(url: str) -> Iterator[None]:
    """SQLite's errors as ours. Only the name of SQLite's code is repeated: its texts may quote what is stored."""
    try:
        yield
    except UnicodeEncodeError:
        raise InvalidInput(what="Query", field="name", reason="expected no lone surrogates") from None
    except OverflowError:
        raise InvalidInput(what="Query", field="number", reason="expected at most 64 bits") from None
    except sqlite3.IntegrityError as error:
        # Planned under the lock, so no constraint can fail unless the tables disagree with each other.
        raise LogDamaged(position=0, reason=f"a write broke a rule of the file ({code_of(error)})") from error
    except DAMAGE as error:
        code = code_of(error)
        plain = "_".join(code.split("_")[:2])  # SQLITE_READONLY_DBMOVED and the like are kinds of the plain code
        raise StoreUnavailable(url=url, reason=f"{_REASONS[plain]} ({code})" if plain in _REASONS else code) from error


def code_of(error: Exception) -> str:
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def connect(path: Path, *, busy_timeout_s: float, reader: bool = False, durable: bool = True) -> sqlite3.Connection:
    """A connection in autocommit mode, usable from any thread. Never creates a file. `path` is absolute."""
    db = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA recursive_triggers = ON")
        if reader:
            db.execute("PRAGMA query_only = ON")
        else:
            # WAL with NORMAL loses acknowledged commits with the power; a simulation is made again instead.
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
            db.execute("PRAGMA cache_size = -32000")  # kB; random ids touch most pages of `keys`, hold them
            db.execute("PRAGMA wal_autocheckpoint = 8000")  # pages; a page changed by many commits is copied once
    except BaseException:
        db.close()
        raise
    return db


def open_file(path: Path, *, busy_timeout_s: float, chapter: int, durable: bool = True) -> sqlite3.Connection:
    """A write connection to the log at `path`, created in chapters of so many positions when there is no file, or an empty one.

    StoreUnavailable for anything that is not a log of this schema version; such a file is not changed.
    """
    url = url_of(path)
    with translated(url):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise StoreUnavailable(url=url, reason=f"cannot be created ({error.strerror})") from error
        db = connect(path, busy_timeout_s=busy_timeout_s, durable=durable)
        try:
            db.execute("BEGIN")  # one snapshot: another process may be creating the log just now
            new = _is_new(db, url)
            db.execute("ROLLBACK")
            if new:
                _use_wal(db, busy_timeout_s)
                db.execute("BEGIN IMMEDIATE")
                if _is_new(db, url):  # not if another process was quicker
                    _create(db, chapter)
                db.execute("COMMIT")
            if _use_wal(db, busy_timeout_s) != "wal":
                raise StoreUnavailable(url=url, reason="this file system does not support SQLite's WAL")
        except BaseException:
            db.close()
            raise
        return db


def _use_wal(db: sqlite3.Connection, busy_timeout_s: float) -> str:
    """Waits for other processes that are opening the file: here SQLite fails at once, whatever its busy timeout."""
    deadline = time.monotonic() + busy_timeout_s
    while True:
        try:
            return str(db.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if code_of(error) != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


def _is_new(db: sqlite3.Connection, url: str) -> bool:
    """Whether the file is empty; StoreUnavailable unless it is empty or ours."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if application == 0 and version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        return True
    if application != APPLICATION_ID:
        raise StoreUnavailable(url=url, reason="a database of another program")
    if version != SCHEMA_VERSION:
        reason = f"schema version {version}; this release reads and writes version {SCHEMA_VERSION}"
        migrate = f". Run `postsale db migrate {url}`" if 0 < version < SCHEMA_VERSION else ""
        raise StoreUnavailable(url=url, reason=reason + migrate)
    return False


def _create(db: sqlite3.Connection, chapter: int) -> None:
    for statement in _statements(_TABLES + _INDEXES + _TRIGGERS):
        db.execute(statement)
    db.execute("INSERT INTO log (one, log_id, position, recorded_at, chapter) VALUES (1, ?, 0, 0, ?)", (secrets.token_hex(16), chapter))
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@functools.cache
def expected_schema() -> dict[str, str]:
    """Name and text of every table, index and trigger, as SQLite keeps them, in the order in which they are made."""
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in _statements(_TABLES + _INDEXES + _TRIGGERS):
            db.execute(statement)
        return schema_objects(db)


def schema_objects(db: sqlite3.Connection) -> dict[str, str]:
    """Name and text of every table, index and trigger of a file, less SQLite's own."""
    return dict(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%' ORDER BY rowid"))


def _statements(script: str) -> Iterator[str]:
    """One by one: `executescript` would commit in between, and half a schema could be left behind."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
