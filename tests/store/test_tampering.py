"""Whatever is done to the file, verification says so, names the event, and never fails itself."""

from __future__ import annotations

import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from postsale.errors import StoreUnavailable
from postsale.events import StoredEvent
from postsale.store import MemoryStore, Query, SQLiteStore, VerifyReport, dedup, sqlite_ids, verify
from postsale.store.leaves import Frontier, commitment, leaf_of
from postsale.store.memory import MemoryEvidence
from postsale.store.sqlite_schema import expected_schema
from postsale.testing import Events
from postsale.testing.store_building import each

TARGET = 23  # the event that is tampered with; a fact, alone on its stream, alone of its kind, alone in its tenant's last leaves


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed log of 40 events: two tenants, both lanes; the ids of the first 32 are in generations."""
    path = tmp_path_factory.mktemp("intact") / "log.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_ids, "GENERATION", 16)
        patch.setattr(dedup, "FIRST_CAPACITY", 16)
        fill(SQLiteStore(path))
    return path


def fill(store: SQLiteStore | MemoryStore) -> None:
    events = Events(seed=7)
    decided = events.stream()
    with closing(store):
        for number in range(1, 41):
            if number == TARGET:
                event = events.fact(kind="test/target")
            elif number % 5 == 0:
                event = events.decision(decided, number // 5 - 1)
            else:
                event = events.fact(events.stream(("acme", "globex")[number % 2]))
            store.append(each(event))


@pytest.fixture
def path(intact: Path, tmp_path: Path) -> Path:
    shutil.copy(intact, tmp_path / "log.db")
    return tmp_path / "log.db"


@contextmanager
def without_triggers(path: Path) -> Iterator[sqlite3.Connection]:
    """What somebody who owns the file can do: drop the protection, change rows, put the protection back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        triggers = [(name, sql) for name, sql in db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")]
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        yield db
        for _, sql in triggers:
            db.execute(sql)
    assert set(expected_schema()) >= {name for name, _ in triggers}


def verified(path: Path) -> VerifyReport:
    with closing(SQLiteStore(path)) as store:
        return verify(store)


def named(report: VerifyReport) -> set[int]:
    return {position for position, _ in report.problems}


def flipped(value: Any) -> Any:
    """The value with one bit changed."""
    match value:
        case int():
            return value ^ 1
        case str():
            return value[:-1] + chr(ord(value[-1]) ^ 1)
        case bytes():
            return value[:-1] + bytes([value[-1] ^ 1])
    raise AssertionError(type(value))


def test_an_intact_log_has_no_problem(path: Path) -> None:
    report = verified(path)
    assert report.problems == []
    assert (report.events, report.tenants) == (40, 2)


EVENT_COLUMNS = [
    "position", "tenant", "stream", "lane", "version", "event_id", "kind", "occurred_at", "recorded_at", "content_mac", "header", "data",
    "salt", "leaf_index", "leaf",
]  # fmt: skip


@pytest.mark.parametrize("column", EVENT_COLUMNS)
def test_one_flipped_bit_in_any_column_of_an_event_is_named(path: Path, column: str) -> None:
    with without_triggers(path) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(events)")]
        assert columns == EVENT_COLUMNS, "a new column needs a test"
        (value,) = db.execute(f"SELECT {column} FROM events WHERE position = {TARGET}").fetchone()
        other = 1_000_000 if column == "position" else flipped(value)  # the neighbour's position is taken
        db.execute(f"UPDATE events SET {column} = ? WHERE position = {TARGET}", (other,))
    assert TARGET in named(verified(path))


@pytest.mark.parametrize("column", ["event_id", "content_mac", "header", "data", "salt", "leaf"])
def test_one_flipped_byte_in_the_raw_file_is_named(path: Path, column: str) -> None:
    """Around SQLite: the same bytes may also stand in the table of ids, so each place is tried."""
    with closing(sqlite3.connect(path)) as db:
        (value,) = db.execute(f"SELECT {column} FROM events WHERE position = {TARGET}").fetchone()
    original = path.read_bytes()
    at, places = original.find(value), 0
    assert original[18:20] == b"\x02\x02", "the file is in WAL mode and checkpointed"
    while at >= 0:
        path.write_bytes(original[: at + 3] + bytes([original[at + 3] ^ 0x40]) + original[at + 4 :])
        assert TARGET in named(verified(path))
        path.write_bytes(original)
        at, places = original.find(value, at + 1), places + 1
    assert places == (2 if column in ("event_id", "content_mac") else 1)


@pytest.mark.parametrize("column", ["tenant", "event_id", "position", "recorded_at", "content_mac"])
def test_one_flipped_bit_in_the_table_of_ids_is_named(path: Path, column: str) -> None:
    with without_triggers(path) as db:
        (value,) = db.execute(f"SELECT {column} FROM ids WHERE position = {TARGET}").fetchone()
        db.execute(f"UPDATE ids SET {column} = ? WHERE position = {TARGET}", (flipped(value),))
    assert TARGET in named(verified(path))


def test_a_missing_and_an_added_id_are_named(path: Path) -> None:
    with without_triggers(path) as db:
        db.execute(f"DELETE FROM ids WHERE position = {TARGET}")
        db.execute("INSERT INTO ids VALUES (2, 1, x'00000000000000000000000000000000', 77, 5, x'00000000000000000000000000000000')")
    report = verified(path)
    assert named(report) - {0} == {TARGET, 77}


@pytest.mark.parametrize(("table", "column"), [("streams", "tenant"), ("streams", "category"), ("streams", "id"), ("streams", "no")])
def test_a_rewritten_stream_is_named_by_its_events(path: Path, table: str, column: str) -> None:
    with without_triggers(path) as db:
        no, value = db.execute(
            f"SELECT no, {column} FROM {table} WHERE no = (SELECT stream FROM events WHERE position = {TARGET})"
        ).fetchone()
        other = 999 if column == "no" else flipped(value)
        db.execute(f"UPDATE {table} SET {column} = ? WHERE no = ?", (other, no))
    assert named(verified(path)) == {TARGET}


@pytest.mark.parametrize("column", ["no", "wire_name", "schema"])
def test_a_rewritten_kind_is_named_by_its_events(path: Path, column: str) -> None:
    with without_triggers(path) as db:
        no, value = db.execute(f"SELECT no, {column} FROM kinds WHERE wire_name = 'test/target@1'").fetchone()
        db.execute(f"UPDATE kinds SET {column} = ? WHERE no = ?", (999 if column == "no" else flipped(value), no))
    assert named(verified(path)) == {TARGET}


@pytest.mark.parametrize(("column", "position_known"), [("no", True), ("name", True), ("size", False), ("frontier", True)])
def test_a_changed_tenant_is_noticed(path: Path, column: str, position_known: bool) -> None:
    with without_triggers(path) as db:
        (value,) = db.execute(f"SELECT {column} FROM tenants WHERE no = 1").fetchone()
        db.execute(f"UPDATE tenants SET {column} = ? WHERE no = 1", (999 if column == "no" else flipped(value),))
    report = verified(path)
    assert report.problems
    assert (max(named(report)) > 0) is position_known


@pytest.mark.parametrize(("position", "first"), [(39, 40), (41, 41)])
def test_a_changed_head_of_the_log_is_noticed(path: Path, position: int, first: int) -> None:
    with without_triggers(path) as db:
        db.execute("UPDATE log SET position = ?", (position,))
    assert named(verified(path)) == {first}


def test_swapped_contents_are_named(path: Path) -> None:
    columns = "header, data, salt, leaf"
    with without_triggers(path) as db:
        first, second = (db.execute(f"SELECT {columns} FROM events WHERE position = ?", (at,)).fetchone() for at in (21, 23))
        for at, contents in ((21, second), (23, first)):
            db.execute(f"UPDATE events SET ({columns}) = (?, ?, ?, ?) WHERE position = ?", (*contents, at))
    assert named(verified(path)) == {21, 23}


def test_swapped_rows_are_named(path: Path) -> None:
    with without_triggers(path) as db:
        for old, new in ((21, -1), (23, 21), (-1, 23)):
            db.execute("UPDATE events SET position = ? WHERE position = ?", (new, old))
    assert {21, 23} <= named(verified(path))


def test_a_deleted_row_is_named_with_or_without_its_id(path: Path) -> None:
    with without_triggers(path) as db:
        db.execute(f"DELETE FROM events WHERE position = {TARGET}")
    assert TARGET in named(verified(path))
    with without_triggers(path) as db:
        db.execute(f"DELETE FROM ids WHERE position = {TARGET}")
    assert TARGET in named(verified(path))


def test_a_deleted_row_whose_successors_moved_up_is_noticed(path: Path) -> None:
    with without_triggers(path) as db:
        db.execute(f"DELETE FROM events WHERE position = {TARGET}")
        for position in range(TARGET + 1, 41):
            db.execute("UPDATE events SET position = position - 1 WHERE position = ?", (position,))
    assert TARGET in named(verified(path))


def test_a_cut_off_tail_is_named_even_when_its_ids_are_gone_too(path: Path) -> None:
    with without_triggers(path) as db:
        db.execute("DELETE FROM events WHERE position > 30")
        db.execute("DELETE FROM ids WHERE position > 30")
        db.execute("UPDATE id_generations SET last = 30 WHERE generation = 2")
    report = verified(path)
    assert 31 in named(report)
    assert any("31 to 40 are missing" in reason for _, reason in report.problems)


def test_a_cut_off_tail_is_noticed_when_the_logs_head_is_set_back_too(path: Path) -> None:
    with without_triggers(path) as db:
        db.execute("DELETE FROM events WHERE position > 30")
        db.execute("DELETE FROM ids WHERE position > 30")
        db.execute("UPDATE id_generations SET last = 30 WHERE generation = 2")
        db.execute("UPDATE log SET (position, recorded_at) = (SELECT position, recorded_at FROM events WHERE position = 30)")
    assert any("leaves, its tree head says" in reason for _, reason in verified(path).problems)


def test_an_event_rewritten_together_with_its_leaf_is_found_through_the_tree(path: Path) -> None:
    """The row agrees with itself; only the tree head does not, which names the smallest range it can."""
    with closing(SQLiteStore(path)) as store:
        event = next(store.read(Query(after=TARGET - 1)))
    forged = event._replace(data=b'{"n":0}')
    fields = forged._asdict()
    del fields["leaf"]
    leaf = leaf_of(commitment(**fields))
    with without_triggers(path) as db:
        db.execute(f"UPDATE events SET data = ?, leaf = ? WHERE position = {TARGET}", (forged.data, leaf))
    ((position, reason),) = verified(path).problems
    assert position <= TARGET
    assert "do not match its tree head" in reason
    assert int(reason.split("position ")[1].split()[0]) >= TARGET


def test_triggers_that_are_switched_off_are_reported(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER events_no_update")
    assert verified(path).problems == [(0, "events_no_update is missing in the schema of the file")]
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT 1; END")
    assert verified(path).problems == [(0, "events_no_update is changed in the schema of the file")]


@pytest.mark.parametrize("garbage", [b"{", b"\xff\xfe", b"", b'{"a":NaN}', b"\x00" * 1000])
@pytest.mark.parametrize("column", ["header", "data"])
def test_garbage_in_place_of_json_is_named(path: Path, column: str, garbage: bytes) -> None:
    with without_triggers(path) as db:
        db.execute(f"UPDATE events SET {column} = ? WHERE position = {TARGET}", (garbage,))
    assert named(verified(path)) == {TARGET}


@pytest.mark.parametrize("column", EVENT_COLUMNS[1:])
@pytest.mark.parametrize("value", [None, -1, 2**63 - 1, 0.5, b"", b"\xff" * 5, "\x00text"], ids=repr)
def test_a_value_of_any_type_in_any_column_is_named(path: Path, column: str, value: object) -> None:
    """A schema without types, as a tool that rebuilds files may leave it: verification may trust no type."""
    with without_triggers(path) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(replace(sql, ' STRICT', ''), ' NOT NULL', '') WHERE name = 'events'")
    with without_triggers(path) as db:
        db.execute(f"UPDATE events SET {column} = ? WHERE position = {TARGET}", (value,))
    assert TARGET in named(verified(path))


def test_an_unreadable_page_is_reported_and_the_rest_is_still_checked(path: Path, intact: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        (salt,) = db.execute(f"SELECT salt FROM events WHERE position = {TARGET}").fetchone()
        db.execute("DROP TRIGGER events_no_update")
        db.execute("UPDATE events SET data = x'00' WHERE position = 38")
        db.commit()
    with path.open("r+b") as file:
        page = path.read_bytes().find(salt) // 4096
        file.seek(page * 4096)
        file.write(random.Random(1).randbytes(4096))
    report = verified(path)
    unreadable = [(position, reason) for position, reason in report.problems if "cannot be read up to" in reason]
    assert unreadable
    assert all(position <= TARGET <= int(reason.split("position ")[1].split(":")[0]) for position, reason in unreadable)
    assert (38, "the stored bytes do not match their leaf") in report.problems
    assert report.events > 10


def test_random_damage_is_noticed_or_harmless_and_never_a_crash(intact: Path, tmp_path: Path) -> None:
    """Flip bytes anywhere. If verification is content, every read must give what the intact log gives."""
    with closing(SQLiteStore(intact)) as store:
        truth = list(store.read(Query()))
    original, path = intact.read_bytes(), tmp_path / "log.db"
    seed = random.getrandbits(32)
    rand = random.Random(seed)
    outcomes = {"noticed": 0, "harmless": 0, "refused": 0}
    for _ in range(150):
        damaged = bytearray(original)
        for _ in range(rand.choice([1, 1, 1, 2, 50])):
            damaged[rand.randrange(len(damaged))] ^= 1 << rand.randrange(8)
        path.write_bytes(damaged)
        try:
            report = verified(path)
        except StoreUnavailable:
            outcomes["refused"] += 1
            continue
        finally:
            for extra in tmp_path.glob("log.db-*"):
                extra.unlink()
        if report.ok:
            assert reads(path) == [truth] * 5, f"seed {seed}"
        outcomes["noticed" if not report.ok else "harmless"] += 1
    assert min(outcomes.values()) > 0, (seed, outcomes)


def reads(path: Path) -> list[list[StoredEvent]]:
    """The whole log in five ways, through every index."""
    with closing(SQLiteStore(path)) as store:
        whole = list(store.read(Query()))
        streams = tuple({event.stream for event in whole})
        by_tenant = [list(store.read(Query(tenant=tenant))) for tenant in ("acme", "globex")]
        found = [store.find(event.tenant, event.event_id) for event in whole]
        return [
            whole,
            list(store.read(Query(streams=streams))),
            list(store.read(Query(backward=True)))[::-1],
            sorted(by_tenant[0] + by_tenant[1]),
            [event for event in found if event is not None],
        ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows.__setitem__(TARGET - 1, rows[TARGET - 1]._replace(data=b"{}")),
        lambda rows: rows.__setitem__(TARGET - 1, rows[TARGET - 1]._replace(wire_name="test/other@1")),
        lambda rows: rows.__delitem__(TARGET - 1),
        lambda rows: rows.__delitem__(slice(TARGET - 1, None)),
        lambda rows: rows.insert(TARGET - 1, rows[TARGET - 1]),
    ],
    ids=["data", "kind", "deleted", "truncated", "doubled"],
)
def test_the_log_in_memory_is_verified_too(damage: Callable[[list[StoredEvent]], None]) -> None:
    store = MemoryStore()
    fill(store)
    store._closed = False
    damage(store._rows)
    report = verify(store)
    assert min(named(report)) <= TARGET <= max(named(report))
    assert not report.ok


def test_an_event_handed_to_another_tenant_is_named_even_where_leaf_index_and_id_fit(path: Path) -> None:
    path.unlink()
    events = Events(seed=3)
    stream = events.stream("acme")
    with closing(SQLiteStore(path)) as store:
        store.append(each(events.decision(stream, 0), events.fact(events.stream("globex")), events.decision(stream, 1)))
    with without_triggers(path) as db:
        db.execute("UPDATE events SET tenant = 3 - tenant WHERE position = 3")
    assert (3, "its tenant is not the tenant of its stream") in verified(path).problems


class Forged(MemoryStore):
    """A log whose owner computed leaves, tree head and table of ids anew for the rows he wants: only the rules give him away."""

    def __init__(self, change: Callable[[list[StoredEvent]], None]) -> None:
        super().__init__()
        self._change = change

    def evidence(self) -> MemoryEvidence:
        rows, frontier = list(self._rows), Frontier()
        self._change(rows)
        for index, row in enumerate(rows):
            fields = row._asdict()
            del fields["leaf"]
            rows[index] = row._replace(leaf=leaf_of(commitment(**fields)))
            frontier.append(rows[index].leaf)
        keys = sorted((row.tenant, row.event_id.bytes, row.position, row.recorded_at_us, row.content_mac) for row in rows)
        return MemoryEvidence(rows, keys, {"acme": (len(rows), frontier.to_bytes())}, [])


FORGERIES: list[tuple[int, dict[str, Any], str]] = [
    (5, {"event_id": UUID(int=1)}, "its id is not in order in the table of ids"),
    (3, {"recorded_at_us": 1}, "recorded_at 1 is not after its predecessor's"),
    (3, {"version": 4}, "a fact's version is its position, not 4"),
    (5, {"version": 3}, "decision version 3 where 2 was due"),
    (3, {"leaf_index": 1}, "leaf index 1 where 2 was due"),
]


@pytest.mark.parametrize(
    ("position", "fields", "reason"), FORGERIES, ids=lambda value: next(iter(value)) if isinstance(value, dict) else ""
)
def test_a_forgery_with_sound_leaves_breaks_a_rule(position: int, fields: dict[str, Any], reason: str) -> None:
    def change(rows: list[StoredEvent]) -> None:
        rows[position - 1] = rows[position - 1]._replace(**fields)

    events = Events(seed=3)
    stream = events.stream()
    with closing(Forged(change)) as store:
        store.append(each(*(events.fact(stream, event_id=UUID(int=n)) for n in (1, 2, 3)), *(events.decision(stream, n) for n in (0, 1))))
        assert any(at == position and found.startswith(reason) for at, found in verify(store).problems)


def test_a_wholly_damaged_log_does_not_fill_the_memory_with_reasons(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(sys.modules["postsale.store.verify"], "MAX_PROBLEMS", 10)
    with without_triggers(path) as db:
        db.execute("UPDATE events SET data = x'00'")
    report = verified(path)
    assert (len(report.problems), report.truncated, report.ok) == (10, True, False)


def test_a_missing_file_is_a_typed_error(path: Path) -> None:
    with closing(SQLiteStore(path)) as store:
        for file in path.parent.iterdir():
            file.unlink()
        with pytest.raises(StoreUnavailable):
            verify(store)
    with pytest.raises(StoreUnavailable):
        verify(store)


def test_a_frontier_of_another_log_is_noticed(path: Path) -> None:
    other = Frontier()
    for number in range(24):
        other.append(bytes([number]) * 32)
    with without_triggers(path) as db:
        (size,) = db.execute("SELECT size FROM tenants WHERE no = 2").fetchone()
        other = Frontier()
        for number in range(size):
            other.append(bytes([number]) * 32)
        db.execute("UPDATE tenants SET frontier = ? WHERE no = 2", (other.to_bytes(),))
    assert any("tree head" in reason for _, reason in verified(path).problems)


@pytest.mark.parametrize("change", ["UPDATE nodes SET hash = zeroblob(32)", "DELETE FROM nodes", "UPDATE nodes SET number = 5"])
def test_a_changed_node_of_a_tree_is_noticed(tmp_path: Path, change: str) -> None:
    """Proofs are made from the kept nodes: a changed one would make a log that is sound unprovable."""
    path = tmp_path / "log.db"
    events = Events(seed=4)
    with closing(SQLiteStore(path)) as store:
        store.append(each(*(events.fact() for _ in range(256))))
        assert verify(store).ok
    with without_triggers(path) as db:
        db.execute(change)
    assert verified(path).problems == [(0, "the kept nodes of tenant 'acme' are not those of its tree")]


def test_a_changed_time_in_the_head_of_the_log_is_noticed(path: Path) -> None:
    """The next event would be recorded after it, whatever the clock says."""
    with without_triggers(path) as db:
        db.execute("UPDATE log SET recorded_at = recorded_at - 1")
    assert verified(path).problems == [(0, "the log's head does not say when its newest event was recorded")]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE id_filters SET bits = zeroblob(length(bits)) WHERE first = 1",
        "UPDATE id_filters SET sha256 = zeroblob(32) WHERE first = 2",
        "UPDATE id_filters SET last = 9 WHERE first = 2",
        "DELETE FROM id_filters WHERE first = 2",
        "DELETE FROM id_filters",
        "UPDATE id_generations SET last = 17 WHERE generation = 1",
        "UPDATE id_generations SET generation = 7 WHERE generation = 2",
        f"UPDATE ids SET generation = 1 WHERE position = {TARGET}",
        f"UPDATE ids SET generation = 3 WHERE position = {TARGET}",
    ],
)
def test_an_id_that_might_not_be_found_again_is_noticed(path: Path, damage: str) -> None:
    """Where ids are looked for is derived, but a wrong answer would let an event in twice."""
    with without_triggers(path) as db:
        db.execute(damage)
    assert verified(path).problems


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE id_filters SET bits = zeroblob(length(bits))",
        "UPDATE id_filters SET last = last - 1",
        "UPDATE id_filters SET first = 9 WHERE first = 1",
        "DELETE FROM id_filters WHERE first = 1",
        "DELETE FROM id_filters WHERE first = 2",
        "DELETE FROM id_filters",
    ],
)
def test_a_duplicate_is_recognised_through_damaged_and_missing_filters(path: Path, damage: str) -> None:
    with closing(SQLiteStore(path)) as store:
        before = list(store.read(Query()))
    with without_triggers(path) as db:
        db.execute(damage)
    with closing(SQLiteStore(path)) as store:
        assert [store.find(event.tenant, event.event_id) for event in before] == before
