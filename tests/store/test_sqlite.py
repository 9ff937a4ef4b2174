"""What is particular to a log in a SQLite file: the file, its protection, its connections, its query plans."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from postsale.errors import LogDamaged, StoreUnavailable, Unsupported, VersionConflict
from postsale.events import Lane, ManualClock, StreamId
from postsale.store import MemoryStore, NoneSince, Query, SQLiteStore, Submission, open_store, verify
from postsale.store import sqlite_read as reading
from postsale.store.sqlite_schema import SCHEMA_VERSION
from postsale.testing import Events
from postsale.testing.store_building import START, each, in_threads, one, positions, stored


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def events() -> Events:
    return Events(seed=1)


def raw(path: Path) -> closing[sqlite3.Connection]:
    """The file as any other program opens it."""
    return closing(sqlite3.connect(path, isolation_level=None, timeout=0))


# ---------------------------------------------------------------- opening


def test_the_file_is_readable_by_its_owner_only(path: Path, events: Events) -> None:
    old = os.umask(0)
    try:
        with closing(SQLiteStore(path)) as store:
            store.append(each(events.fact()))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(old)
    assert modes == {"log.db": 0o600, "log.db-wal": 0o600, "log.db-shm": 0o600}


def test_reopening_keeps_the_log_and_its_id(path: Path, events: Events) -> None:
    stream = events.stream()
    with closing(SQLiteStore(path)) as store:
        store.append(each(events.fact(), events.decision(stream, 0)))
        log_id, before = store.log_id, list(store.read(Query()))
    with closing(SQLiteStore(path)) as store:
        assert (store.log_id, list(store.read(Query())), store.versions([stream])) == (log_id, before, [1])
        assert stored(store.append(each(events.decision(stream, 1)))[0]).positions == (3,)
        assert verify(store).ok


def test_recorded_at_increases_across_reopening_with_a_clock_moved_back(path: Path, events: Events) -> None:
    for days in (0, -1):
        with closing(SQLiteStore(path, clock=ManualClock(START.replace(year=START.year + days)))) as store:
            store.append(each(events.fact()))
            times = [event.recorded_at_us for event in store.read(Query())]
    assert times[1] == times[0] + 1


def test_a_log_is_durable_by_its_settings(path: Path) -> None:
    with closing(SQLiteStore(path)) as store:
        assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._writer.execute("PRAGMA recursive_triggers").fetchone() == (1,)


def test_a_database_of_another_program_is_refused_and_left_as_it_was(path: Path) -> None:
    with raw(path) as db:
        db.execute("CREATE TABLE guests (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="another program"):
        SQLiteStore(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["log.db"]


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 500)
    with pytest.raises(StoreUnavailable, match="not a SQLite file"):
        SQLiteStore(path)
    assert path.read_bytes() == b"Dear diary, " * 500


def test_a_newer_schema_is_refused_and_left_as_it_was(path: Path) -> None:
    SQLiteStore(path).close()
    with raw(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match=f"schema version {SCHEMA_VERSION + 1}"):
        SQLiteStore(path)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_log(path: Path, events: Events) -> None:
    """What a process killed between creating the file and its tables leaves behind."""
    path.touch()
    with closing(SQLiteStore(path)) as store:
        assert stored(store.append(each(events.fact()))[0]).positions == (1,)


@pytest.mark.parametrize("place", ["", ":memory:", "missing/directory/log.db", "."])
def test_a_place_that_cannot_hold_a_log_is_unavailable(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreUnavailable):
        SQLiteStore(place)


@pytest.mark.parametrize("attempt", range(12))
def test_many_threads_may_create_the_same_log_at_once(path: Path, attempt: int) -> None:
    stores: list[SQLiteStore] = []
    in_threads(lambda _: stores.append(SQLiteStore(path)), 8)
    assert len({store.log_id for store in stores}) == 1
    for store in stores:
        store.close()


def test_urls_name_stores(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(open_store("memory:")) as store:
        assert isinstance(store, MemoryStore)
    clock = ManualClock(START)
    for url, file in ((f"sqlite:///{path}", path), ("sqlite:///relative.db", tmp_path / "relative.db")):
        with closing(open_store(url, clock)) as store:
            stored(store.append(each(Events().fact()))[0])
            assert [event.recorded_at_us for event in store.read(Query())] == [clock.now_us()]
        assert file.exists()


@pytest.mark.parametrize("url", ["mysql://u:secret@host/db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "log.db", ""])
def test_other_urls_are_unsupported_and_not_repeated(url: str) -> None:
    with pytest.raises(Unsupported, match="postgresql") as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------- exhaustion


def test_a_full_disk_is_a_clean_error_with_no_partial_batch_and_ends_with_the_shortage(path: Path, events: Events) -> None:
    with closing(SQLiteStore(path)) as store:
        store.append(each(events.fact()))
        (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
        store._writer.execute(f"PRAGMA max_page_count = {pages + 20}")  # SQLite answers as it does for a full disk
        batch = one(*(events.fact(data=b"x" * 3_000) for _ in range(100)))
        small = one(events.fact())
        with pytest.raises(StoreUnavailable, match="disk is full"):
            store.append([*batch, *small])
        assert positions(store, Query()) == [1]
        assert stored(store.append(small)[0]).positions == (2,)
        store._writer.execute("PRAGMA max_page_count = 1000000")
        assert stored(store.append(batch)[0]).positions == tuple(range(3, 103))
        assert verify(store).ok


def test_a_writer_that_waits_too_long_gets_a_typed_error_and_may_try_again(path: Path, events: Events) -> None:
    with closing(SQLiteStore(path, busy_timeout_s=0.01)) as store, raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.append(each(events.fact()))
        other.execute("ROLLBACK")
        assert stored(store.append(each(events.fact()))[0]).positions == (1,)


def test_closing_an_unfinished_reader_releases_its_snapshot(path: Path, events: Events) -> None:
    with closing(SQLiteStore(path)) as store, raw(path) as other:
        store.append(each(*(events.fact() for _ in range(100))))
        reader = store.read(Query(streams=tuple(event.stream for event in store.read(Query(limit=20)))))
        next(reader)
        store.append(each(events.fact()))
        assert other.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 1, "an open snapshot keeps the WAL from being reset"
        reader.close()
        assert other.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0


def test_idle_connections_are_few_and_reused(path: Path, events: Events) -> None:
    with closing(SQLiteStore(path)) as store:
        store.append(each(events.fact()))
        readers = [store.read(Query()) for _ in range(10)]
        for reader in readers:
            next(reader)
        for reader in readers:
            reader.close()
        assert len(store._idle) == 4
        used = set(map(id, store._idle))
        store.head()
        assert set(map(id, store._idle)) == used


def test_a_failed_append_leaves_no_names_behind(path: Path, events: Events) -> None:
    """Numbers of names given out in a transaction that is rolled back must not be used by the next one."""
    fact = events.fact(events.stream("fresh"), "fresh/kind", data=b"x" * 900_000)
    with closing(SQLiteStore(path)) as store:
        store.append(each(events.fact()))
        (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
        store._writer.execute(f"PRAGMA max_page_count = {pages + 5}")
        with pytest.raises(StoreUnavailable):
            store.append(each(fact))
        store._writer.execute("PRAGMA max_page_count = 1000000")
        others = [events.fact(events.stream(f"t{n}"), f"other/kind{n}") for n in range(3)]
        store.append(each(*others, fact))
        assert [event.stream for event in store.read(Query(after=1))] == [event.stream for event in (*others, fact)]
        assert verify(store).ok


def test_reading_and_verifying_a_long_log_take_little_memory(path: Path, events: Events) -> None:
    stream = events.stream()
    with closing(SQLiteStore(path)) as store:
        for _ in range(4):
            store.append(each(*(events.fact(stream, data=b"x" * 5_000) for _ in range(500))))
        tracemalloc.start()
        try:
            for query in (Query(), Query(backward=True), Query(streams=(stream,))):
                assert sum(1 for _ in store.read(query)) == 2_000
            assert verify(store).ok
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 2_000_000, "the log holds 10 MB"


# ---------------------------------------------------------------- sharing a commit


def together(store: SQLiteStore, batches: list[list[Submission]]) -> tuple[list[Any], list[int]]:
    """Append each batch from a thread of its own; nobody is served until everybody waits. What each got, and the sizes of commits."""
    results: list[Any] = [None] * len(batches)
    commits: list[int] = []
    commit = store._groups._work
    store._groups._work = lambda submissions: (commits.append(len(submissions)), commit(submissions))[1]

    def run(index: int) -> None:
        try:
            results[index] = store.append(batches[index])
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(batches))]
    with store._write_lock:
        for thread in threads:
            thread.start()
        while len(store._groups._waiting) < len(batches):
            pass
    for thread in threads:
        thread.join()
    return results, commits


def test_waiting_threads_share_a_commit_and_each_gets_its_own_result(path: Path, events: Events) -> None:
    batches = [each(events.fact(), events.decision(events.stream(), 5), events.fact()) for _ in range(12)]
    with closing(SQLiteStore(path)) as store:
        results, commits = together(store, batches)
        assert commits == [36]
        for batch, (first, refused, second) in zip(batches, results, strict=True):
            (position,), (later,) = stored(first).positions, stored(second).positions
            assert later == position + 1
            assert isinstance(refused, VersionConflict)
            assert store.find("acme", batch[0].events[0].event_id).position == position  # type: ignore[union-attr]


def test_a_shared_commit_is_bounded(path: Path, events: Events) -> None:
    batches = [each(*(events.fact() for _ in range(1_500))) for _ in range(5)]
    with closing(SQLiteStore(path)) as store:
        results, commits = together(store, batches)
        assert commits == [4_500, 3_000]
        assert sorted(position for result in results for outcome in result for position in outcome.positions) == list(range(1, 7_501))


def test_an_append_that_breaks_the_shared_commit_fails_alone(path: Path, events: Events) -> None:
    """A defect (here: an event that is none) is its caller's own error; those who shared the commit are served."""
    broken = [Submission((None,))]  # type: ignore[arg-type]
    batches = [broken, *(each(events.fact()) for _ in range(5))]
    with closing(SQLiteStore(path)) as store:
        results, commits = together(store, batches)
        assert commits == [6, *[1] * 6]
        assert isinstance(results[0], TypeError)
        assert sorted(stored(outcome).positions[0] for (outcome,) in results[1:]) == [1, 2, 3, 4, 5]


def test_what_is_wrong_with_the_store_is_everybodys_error_and_an_object_of_each(path: Path, events: Events) -> None:
    with closing(SQLiteStore(path, busy_timeout_s=0)) as store, raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        results, commits = together(store, [each(events.fact()) for _ in range(4)])
        assert commits == [4]
        assert all(isinstance(error, StoreUnavailable) for error in results)
        assert len(set(map(id, results))) == 4
        other.execute("ROLLBACK")


def test_an_interrupted_leader_leaves_the_others_to_be_served(path: Path, events: Events) -> None:
    class Interrupting(ManualClock):
        def now_us(self) -> int:
            if interrupts:
                raise interrupts.pop()
            return super().now_us()

    interrupts = [KeyboardInterrupt()]
    with closing(SQLiteStore(path, clock=Interrupting(START))) as store:
        results, _ = together(store, [each(events.fact()) for _ in range(5)])
        assert sum(isinstance(result, KeyboardInterrupt) for result in results) == 1
        assert sum(isinstance(result, list) and stored(result[0]).stored for result in results) == 4
        assert store.head() == 5, "the interrupted one was stored by the next leader: like a lost answer, ids make a retry safe"
        assert verify(store).ok


# ---------------------------------------------------------------- plans


PLANS = [
    (Query(), "SCAN events"),
    (Query(after=5, backward=True, limit=3), "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)"),
    (Query(upto=9, after=3), "SEARCH events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    (Query(known_at_us=2**62), "SEARCH events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    (Query(tenant="small"), "SEARCH events USING INDEX events_by_tenant (tenant=? AND rowid>?)"),
    (Query(tenant="small", lane=Lane.FACT, backward=True), "SEARCH events USING INDEX events_by_tenant (tenant=? AND rowid>?)"),
    (Query(tenant="acme"), "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)"),
    (Query(lane=Lane.DECISION), "SEARCH events USING INDEX decisions_by_tenant (tenant=? AND rowid>?)"),
    (Query(tenant="acme", lane=Lane.DECISION, limit=3), "SEARCH events USING INDEX decisions_by_tenant (tenant=? AND rowid>?)"),
    (Query(category="policies", lane=Lane.FACT), "SEARCH events USING INDEX facts_by_stream (<expr>=? AND stream=? AND rowid>?)"),
    (Query(category="policies", lane=Lane.DECISION), "SEARCH events USING INDEX decisions_by_version (stream=?)"),
    (Query(kinds=frozenset({"rare/kind"})), "SEARCH events USING INDEX events_by_kind (kind=? AND rowid>?)"),
    (Query(kinds=frozenset({"test/seen"}), backward=True), "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)"),
    (Query(kinds=frozenset({"rare/kind", "test/decided"}), tenant="acme"), "SEARCH events USING INDEX events_by_kind (kind=? AND rowid>?)"),
    (Query(category="customers", as_of_us=9), "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)"),
    (
        Query(streams=(StreamId("small", "customers", "c"),), lane=Lane.FACT, kinds=frozenset({"test/seen"}), backward=True),
        "SEARCH events USING INDEX facts_by_stream (<expr>=? AND stream=? AND rowid>?)",
    ),
]


@pytest.mark.parametrize(("query", "plan"), PLANS, ids=lambda value: str(value)[:60] if isinstance(value, Query) else "")
def test_each_query_reads_in_order_from_an_index_and_never_sorts(path: Path, events: Events, query: Query, plan: str) -> None:
    with closing(SQLiteStore(path)) as store:
        store.append(each(*(events.fact() for _ in range(150)), *(events.decision(events.stream(), 0) for _ in range(3))))
        store.append(each(events.fact(StreamId("small", "customers", "c")), events.fact(events.stream(category="policies"), "rare/kind")))
        statements: list[str] = []
        with store.snapshot() as db:
            db.set_trace_callback(statements.append)
            list(reading.read(db, query))
            db.set_trace_callback(None)
            main = [statement for statement in statements if statement.startswith(f"SELECT {reading.COLUMNS}")]
            assert main
            for statement in main:
                details = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
                assert not any("TEMP B-TREE" in detail for detail in details), details
                assert any(detail.startswith(plan) for detail in details) or (plan == "SCAN events" and "SEARCH events" in details[0]), (
                    details
                )


def test_many_streams_at_once_are_found_by_one_scan(path: Path, events: Events) -> None:
    with closing(SQLiteStore(path)) as store:
        facts = [events.fact() for _ in range(400)]
        store.append(each(*facts))
        wanted = tuple(fact.stream for fact in facts[::2])
        for backward in (False, True):
            found = positions(store, Query(streams=wanted, backward=backward, limit=190))
            assert found == (list(range(399, 0, -2)) if backward else list(range(1, 400, 2)))[:190]


# ---------------------------------------------------------------- damage met while working


def test_appending_to_a_log_whose_end_was_cut_off_is_refused(path: Path, events: Events) -> None:
    with closing(SQLiteStore(path)) as store:
        store.append(each(events.fact(), events.fact()))
    with raw(path) as db:
        db.execute("DROP TRIGGER events_no_delete")
        db.execute("DELETE FROM events WHERE position = 2")
    with closing(SQLiteStore(path)) as store, pytest.raises(LogDamaged) as caught:
        store.append(each(events.fact()))
    assert caught.value.position == 2


def test_reading_a_damaged_row_names_its_position(path: Path, events: Events) -> None:
    with closing(SQLiteStore(path)) as store:
        store.append(each(events.fact(), events.fact(), events.fact()))
        with raw(path) as db:
            db.execute("DROP TRIGGER events_no_update")
            db.execute("UPDATE events SET event_id = x'00' WHERE position = 2")
        with pytest.raises(LogDamaged) as caught:
            list(store.read(Query()))
        assert caught.value.position == 2
        assert positions(store, Query(after=2)) == [3]


def test_a_condition_over_unknown_kinds_and_streams_holds(path: Path, events: Events) -> None:
    with closing(SQLiteStore(path)) as store:
        condition = NoneSince((events.stream("nobody"),), frozenset({"no/kind"}), 0)
        assert stored(store.append([Submission((events.fact(),), (condition,))])[0]).stored
