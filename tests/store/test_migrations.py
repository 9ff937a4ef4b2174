"""A log of an older release: never changed by opening it, and migrated whole or not at all, with every leaf and every root."""

from __future__ import annotations

import gzip
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postsale import PostSale
from postsale.errors import InvalidInput, LogDamaged, StoreUnavailable
from postsale.events import StoredEvent
from postsale.store import Query, SQLiteStore, verify
from postsale.store.leaves import Frontier
from postsale.store.migrations import STEPS, migrate, pending
from postsale.store.sqlite_schema import SCHEMA_VERSION, expected_schema, schema_objects
from postsale.testing import Events
from postsale.testing.store_building import each, stored

DATA = Path(__file__).with_name("data")
KILLED = Path(__file__).with_name("killed.py")
ROOTS = {
    "acme": (272, "b624b123493e464fd50fad97f0002ece899c110cdfb5053f0c74ee7a3d4999af"),
    "globex": (10, "84afc2a6e958bb398e9e6d5742619251dda35741603b1d20a14c7b18d528aaba"),
}  # as release 0.1.0 printed them


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log as release 0.1.0 left it."""
    for suffix in (".db", ".keys", ".views"):
        file = tmp_path / f"log{suffix}"
        file.touch(mode=0o600)
        file.write_bytes(gzip.decompress((DATA / f"version-1{suffix}.gz").read_bytes()))
    return tmp_path / "log.db"


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def rows_of(path: Path) -> list[tuple[object, ...]]:
    """Every stored byte of every event, in any version."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(
            "SELECT e.position, t.name, s.category, s.id, e.lane, e.version, e.event_id, k.wire_name, k.schema, e.occurred_at,"
            " e.recorded_at, e.content_mac, e.header, e.data, e.salt, e.leaf_index, e.leaf FROM events e JOIN streams s ON s.no = e.stream"
            " JOIN tenants t ON t.no = s.tenant JOIN kinds k ON k.no = e.kind ORDER BY e.position"
        ).fetchall()


def test_opening_an_older_log_says_what_to_run_and_changes_no_file(path: Path) -> None:
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(StoreUnavailable) as caught:
        SQLiteStore(path)
    said = f"schema version 1; this release reads and writes version {SCHEMA_VERSION}. Run `postsale db migrate sqlite:///{path}`"
    assert said in str(caught.value)
    with pytest.raises(StoreUnavailable, match="postsale db migrate"):
        PostSale.open(f"sqlite:///{path}")
    assert [number for number, _ in pending(path)] == list(range(2, SCHEMA_VERSION + 1))
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_migrated_log_has_the_same_events_leaves_and_roots_and_works(path: Path, tmp_path: Path) -> None:
    before = rows_of(path)
    seen: list[tuple[str, int, int]] = []
    done = migrate(path, backup=tmp_path / "safe.db", on_progress=lambda *told: seen.append(told))
    assert (done.version_before, done.version_after, done.backup) == (1, SCHEMA_VERSION, tmp_path / "safe.db")
    assert (done.report.problems, done.report.roots) == ([], ROOTS)
    assert rows_of(path) == before
    assert {what for what, _, _ in seen} >= {"backing up", "migrating", "verifying"}
    assert all(0 <= part <= whole for _, part, whole in seen)
    assert pending(path) == []
    with PostSale.open(f"sqlite:///{path}") as ps:
        assert ps.verify().roots == ROOTS
        assert ps.tenant("acme").health("cus_1").score == 80.0
        assert [item.source for item in ps.log.store.quarantine.items("acme")] == ["crm"]


def test_a_migrated_file_is_that_of_a_new_log_in_every_table_index_and_trigger(path: Path) -> None:
    migrate(path)
    with closing(sqlite3.connect(path)) as db:
        assert schema_objects(db) == expected_schema()


def test_appending_to_a_migrated_log_knows_the_old_ids_and_goes_on_with_the_tree(path: Path) -> None:
    migrate(path)
    events = Events(seed=1)
    with closing(SQLiteStore(path)) as store:
        old = next(iter(store.read(Query(after=40, limit=1))))
        same = events.fact(old.stream, event_id=old.event_id, content_mac=old.content_mac)
        (again,) = store.append(each(same))
        assert stored(again).positions == (41,)
        assert stored(again).recorded_at_us == (old.recorded_at_us,)
        store.append(each(*(events.fact() for _ in range(300))))
        leaves = [event.leaf for event in store.read(Query(tenant="acme"))]
        assert store.tree("acme", 0, 0, 600) == leaves
        assert store.tree("acme", 1, 0, 9) == [node.hash for node in Frontier().extend(leaves)]
        assert verify(store).problems == []


def test_the_backup_is_the_log_as_it_was_readable_by_its_owner_only(path: Path, tmp_path: Path) -> None:
    before = rows_of(path)
    backup = tmp_path / "safe.db"
    migrate(path, backup=backup)
    assert version_of(backup) == 1
    assert rows_of(backup) == before
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    shutil.copy(backup, path)
    assert migrate(path).report.roots == ROOTS


def test_a_backup_is_never_written_over_a_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(InvalidInput):
        migrate(path, backup=tmp_path / "precious")
    with pytest.raises(StoreUnavailable, match="backup"):
        migrate(path, backup=tmp_path / "no such folder" / "safe.db")
    assert version_of(path) == 1
    assert (tmp_path / "precious").read_text() == "mine"


def test_migrating_a_log_of_this_release_changes_nothing(path: Path, tmp_path: Path) -> None:
    migrate(path)
    before = path.read_bytes()
    done = migrate(path, backup=tmp_path / "safe.db")
    assert (done.version_before, done.backup, done.report.ok) == (SCHEMA_VERSION, None, True)
    assert path.read_bytes() == before
    assert not (tmp_path / "safe.db").exists()


@pytest.mark.parametrize(("application", "version"), [(0x50535431, SCHEMA_VERSION + 1), (0x50535431, 0), (7, 1), (0, 0)])
def test_what_is_no_older_log_is_refused_and_not_changed(path: Path, application: int, version: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id = {application}")
        db.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable):
        migrate(path)
    with pytest.raises(StoreUnavailable):
        pending(path)
    assert path.read_bytes() == before


def test_there_is_a_step_from_every_version_to_the_next() -> None:
    assert sorted(STEPS) == list(range(1, SCHEMA_VERSION))


def test_a_log_that_another_program_is_writing_to_is_not_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postsale.store.migrations._WAIT_S", 0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            migrate(path)
    assert version_of(path) == 1


@pytest.mark.parametrize("statement", ["UPDATE events SET leaf = zeroblob(32) WHERE position = 7", "UPDATE tenants SET size = size + 1"])
def test_a_log_whose_tree_does_not_match_its_head_is_not_migrated(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND sql LIKE '%UPDATE%'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute(statement)
    before = path.read_bytes()
    with pytest.raises(LogDamaged):
        migrate(path)
    assert path.read_bytes() == before


def test_an_event_that_was_changed_before_is_still_named_after(path: Path) -> None:
    """A migration neither hides nor heals damage."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TRIGGER events_no_update")
        db.execute("UPDATE events SET data = x'7b7d' WHERE position = 7")
    assert [position for position, _ in migrate(path).report.problems] == [7]


def test_killed_at_any_moment_a_migration_has_happened_whole_or_not_at_all(path: Path, tmp_path: Path) -> None:
    before, seed = rows_of(path), random.getrandbits(32)
    command = [sys.executable, str(KILLED), "migrate", str(path), str(tmp_path), "30", str(seed)]
    whole, late = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert whole > late > 20
    versions = set()
    for copy in sorted(tmp_path.glob("killed */log.db")):
        versions.add(version := version_of(copy))
        assert rows_of(copy) == before, (seed, copy)
        backup = copy.with_name("backup.db")
        assert not backup.exists() or rows_of(backup) == before, (seed, copy)
        assert version == 1 or backup.exists()
        if version == 1:
            with closing(sqlite3.connect(copy)) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], (seed, copy)
        assert migrate(copy).report.roots == ROOTS, (seed, copy)
    assert versions == {1, SCHEMA_VERSION}, "killed before and after the commit"


# ---------------------------------------------------------------- any log


def as_version_1(path: Path, events: list[StoredEvent]) -> None:
    """A log as release 0.1.0 would have written it with these events: its own tables, and its way of filling them, frozen here."""
    with closing(sqlite3.connect(":memory:")) as model:
        model.deserialize(bytes(raw_version_1()))
        schema = schema_objects(model)
    frontiers: dict[str, Frontier] = {}
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN")
        for sql in sorted(schema.values(), key=lambda sql: ("TABLE" not in sql, "TRIGGER" in sql)):
            db.execute(sql)
        db.execute("INSERT INTO log VALUES (1, ?, 0, 0)", ("0" * 32,))
        for event in events:
            db.execute("INSERT OR IGNORE INTO tenants (name, size, frontier) VALUES (?, 0, x'')", (event.tenant,))
            (tenant,) = db.execute("SELECT no FROM tenants WHERE name = ?", (event.tenant,)).fetchone()
            place = (tenant, event.stream.category, event.stream.id)
            kind = (event.wire_name, event.schema)
            db.execute("INSERT OR IGNORE INTO streams (tenant, category, id) VALUES (?, ?, ?)", place)
            db.execute("INSERT OR IGNORE INTO kinds (wire_name, schema) VALUES (?, ?)", kind)
            (stream,) = db.execute("SELECT no FROM streams WHERE tenant = ? AND category = ? AND id = ?", place).fetchone()
            (kind_no,) = db.execute("SELECT no FROM kinds WHERE wire_name = ? AND schema = ?", kind).fetchone()
            id_ = event.event_id.bytes
            names = (event.position, tenant, stream, int(event.lane), event.version, id_, kind_no)
            db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*names, *event[7:]))
            db.execute("INSERT INTO keys VALUES (?, ?, ?, ?)", (tenant, id_, event.position, event.content_mac))
            frontier = frontiers.setdefault(event.tenant, Frontier())
            frontier.append(event.leaf)
            db.execute("UPDATE tenants SET size = ?, frontier = ? WHERE no = ?", (frontier.size, frontier.to_bytes(), tenant))
            db.execute("UPDATE log SET position = ?, recorded_at = ?", (event.position, event.recorded_at_us))
        db.execute("PRAGMA application_id = 1347638321")
        db.execute("PRAGMA user_version = 1")
        db.execute("COMMIT")


def raw_version_1() -> bytearray:
    raw = bytearray(gzip.decompress((DATA / "version-1.db.gz").read_bytes()))
    raw[18:20] = b"\x01\x01"  # a file in memory has no WAL
    return raw


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), count=st.sampled_from([0, 1, 2, 255, 256, 257, 700]))
def test_any_log_of_version_1_reads_the_same_after_migration(tmp_path_factory: pytest.TempPathFactory, seed: int, count: int) -> None:
    directory, events, rand = tmp_path_factory.mktemp("any"), Events(seed), random.Random(seed)
    streams = [events.stream(tenant) for tenant in ("acme", "acme", "globex")]
    versions = dict.fromkeys(streams, 0)
    new = []
    for _ in range(count):
        stream = rand.choice(streams)
        if rand.random() < 0.2:
            new.append(events.decision(stream, versions[stream]))
            versions[stream] += 1
        else:
            new.append(events.fact(stream))
    with closing(SQLiteStore(directory / "new.db", durable=False)) as store:
        if new:
            store.append(each(*new))
        expected, report = list(store.read(Query())), verify(store)
    as_version_1(directory / "old.db", expected)
    done = migrate(directory / "old.db")
    assert (done.report.problems, done.report.roots) == ([], report.roots)
    with closing(SQLiteStore(directory / "old.db")) as store:
        assert list(store.read(Query())) == expected
