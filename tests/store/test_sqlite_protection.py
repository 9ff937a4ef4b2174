"""What a log's file refuses to any program, one that never heard of `recursive_triggers` included; and that each trigger is needed for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from postsale.store import SQLiteStore, sqlite_ids, verify
from postsale.store.sqlite_schema import expected_schema
from postsale.testing import Events
from postsale.testing.store_building import each

EVENT = "tenant, stream, lane, version, event_id, kind, occurred_at, recorded_at, content_mac, header, data, salt, leaf_index, leaf"
DESCRIPTION = "name, directory, first, last, rows, size_bytes, sha256, tail_sha256, archived_at, groups"
REFUSED = [
    "UPDATE events SET data = x'7b7d' WHERE position = 1",
    "UPDATE OR REPLACE events SET position = 2 WHERE position = 1",
    "DELETE FROM events WHERE position = 301",
    "DELETE FROM events WHERE position = 3",
    "INSERT OR REPLACE INTO events SELECT * FROM events WHERE position = 1",
    f"INSERT INTO events SELECT 0, {EVENT} FROM events WHERE position = 1",
    # By the index of versions, with a position that is free: the decision that was there goes without a delete trigger.
    f"INSERT OR REPLACE INTO events SELECT 900, {EVENT} FROM events WHERE lane = 1 LIMIT 1",
    "UPDATE ids SET content_mac = x'00'",
    "DELETE FROM ids",
    "INSERT OR REPLACE INTO ids SELECT * FROM ids LIMIT 1",
    "INSERT INTO ids SELECT 1, tenant, x'00', position, recorded_at, content_mac FROM ids LIMIT 1",
    "UPDATE id_generations SET last = 1",
    "DELETE FROM id_generations",
    "INSERT OR REPLACE INTO id_generations VALUES (1, 1)",
    "UPDATE streams SET id = 'other' WHERE no = 1",
    "DELETE FROM streams",
    "INSERT OR REPLACE INTO streams VALUES (1, 1, 'customers', 'other')",
    "INSERT OR REPLACE INTO streams SELECT 9000, tenant, category, id FROM streams LIMIT 1",
    "UPDATE kinds SET wire_name = 'other/kind@1' WHERE no = 1",
    "DELETE FROM kinds",
    "INSERT OR REPLACE INTO kinds VALUES (1, 'other/kind@1', x'')",
    "INSERT OR REPLACE INTO kinds SELECT 9000, wire_name, schema FROM kinds LIMIT 1",
    "UPDATE tenants SET name = 'other'",
    "UPDATE tenants SET size = size - 1",
    "DELETE FROM tenants",
    "INSERT OR REPLACE INTO tenants VALUES (1, 'other', 0, x'')",
    "INSERT OR REPLACE INTO tenants SELECT 9000, name, 0, x'' FROM tenants LIMIT 1",
    "UPDATE log SET position = position - 1",
    "UPDATE log SET log_id = 'x'",
    "UPDATE log SET chapter = 9, position = position + 1, recorded_at = recorded_at + 1",
    "DELETE FROM log",
    "INSERT OR REPLACE INTO log SELECT one, 'other', position, recorded_at, chapter FROM log",
    "UPDATE nodes SET hash = x'00'",
    "DELETE FROM nodes",
    "INSERT OR REPLACE INTO nodes SELECT tenant, level, number, x'00' FROM nodes",
    "UPDATE segments SET sha256 = x'00'",
    "DELETE FROM segments",
    "INSERT OR REPLACE INTO segments SELECT * FROM segments",
    f"INSERT INTO segments SELECT chapter + 999, {DESCRIPTION} FROM segments",
    "UPDATE segment_streams SET groups = x'00'",
    "DELETE FROM segment_streams",
    "INSERT OR REPLACE INTO segment_streams SELECT stream, chapter, x'00' FROM segment_streams",
    "UPDATE segment_tenants SET leaves = x'00'",
    "DELETE FROM segment_tenants",
    "INSERT OR REPLACE INTO segment_tenants SELECT tenant, chapter, x'00' FROM segment_tenants",
]
TRIGGERS = sorted(name for name, sql in expected_schema().items() if sql.startswith("CREATE TRIGGER"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that has something in every table, one chapter said to be archived. Every test rolls back."""
    path, events = tmp_path_factory.mktemp("protected") / "log.db", Events(seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_ids, "GENERATION", 100)
        with closing(SQLiteStore(path, chapter=2)) as store:
            for _ in range(3):
                store.append(each(*(events.fact() for _ in range(100))))
            store.append(each(events.decision(events.stream(), 0)))
            assert verify(store).ok
    with closing(another_program(path)) as db:
        db.execute("INSERT INTO segments VALUES (0, 'file', 'folder', 1, 2, 2, 1, x'', x'', 1, x'')")
        db.execute("INSERT INTO segment_streams VALUES (1, 0, x'')")
        db.execute("INSERT INTO segment_tenants VALUES (1, 0, x'')")
        for table in ("nodes", "ids", "id_generations", "tenants"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() > (0,)
    return path


def another_program(path: Path) -> sqlite3.Connection:
    """The file as any other program opens it."""
    db = sqlite3.connect(path, isolation_level=None, timeout=0)
    assert db.execute("PRAGMA recursive_triggers").fetchone() == (0,)
    return db


@pytest.mark.parametrize("statement", REFUSED)
def test_history_is_not_changed_by_any_program(path: Path, statement: str) -> None:
    with closing(another_program(path)) as db, pytest.raises(sqlite3.IntegrityError, match=r"append-only|only moves forward"):
        db.execute(statement)


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_every_trigger_is_needed(path: Path, trigger: str) -> None:
    """Without it, a statement that the file must refuse goes through."""
    went_through = []
    with closing(another_program(path)) as db:
        for statement in REFUSED:
            db.execute("BEGIN IMMEDIATE")
            db.execute(f"DROP TRIGGER {trigger}")
            with suppress(sqlite3.IntegrityError):
                went_through += [statement] if db.execute(statement).rowcount else []
            if db.in_transaction:  # some triggers roll back by themselves
                db.execute("ROLLBACK")
    assert went_through


def test_what_was_refused_left_the_file_as_it_was_and_a_missing_trigger_is_found(path: Path) -> None:
    with closing(SQLiteStore(path)) as store:
        before = verify(store).to_dict()
        with closing(another_program(path)) as db:
            for statement in REFUSED:
                with pytest.raises(sqlite3.IntegrityError):
                    db.execute(statement)
            assert verify(store).to_dict() == before
            for trigger in TRIGGERS:
                sql = expected_schema()[trigger]
                db.execute(f"DROP TRIGGER {trigger}")
                assert any(trigger in reason for _, reason in verify(store).problems), trigger
                db.execute(sql)
            assert verify(store).to_dict() == before


def test_a_connection_of_the_store_deletes_with_triggers_when_it_replaces(path: Path) -> None:
    """`recursive_triggers`: even without the insert trigger, what REPLACE would delete is refused."""
    replace = next(statement for statement in REFUSED if "900" in statement)
    with closing(SQLiteStore(path)) as store:
        for db in (store._writer, store._take_reader()):
            assert db.execute("PRAGMA recursive_triggers").fetchone() == (1,)
        store._writer.execute("BEGIN IMMEDIATE")
        store._writer.execute("DROP TRIGGER decisions_only_append")
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store._writer.execute(replace)
        store._writer.execute("ROLLBACK")
