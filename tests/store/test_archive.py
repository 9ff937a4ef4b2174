"""Archived chapters: the log reads and verifies as before, ids outlive them, and nothing but a sound segment lets facts go."""

from __future__ import annotations

import fcntl
import random
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postsale.errors import (
    ArchiveBusy,
    ArchiveUnwritable,
    ChapterOpen,
    ConditionFailed,
    ContentConflict,
    LogDamaged,
    SegmentUnreadable,
    Unsupported,
)
from postsale.events import Lane, ManualClock, StoredEvent, StreamId, SystemClock
from postsale.store import (
    MemoryStore,
    NoneSince,
    Query,
    Segment,
    SQLiteStore,
    Submission,
    archive_chapter,
    chapters_of,
    segments,
    verify,
)
from postsale.store.leaves import commitment, leaf_of
from postsale.testing import Events
from postsale.testing.store_building import START, each, one, positions, stored

KILLED = Path(__file__).with_name("killed.py")
CHAPTER = 20
TENANTS = ("acme", "globex")


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small chapter has several row groups."""
    monkeypatch.setattr(segments, "GROUP_ROWS", 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def fill(path: Path, count: int, seed: int = 5, chapter: int = CHAPTER) -> list[StoredEvent]:
    """A closed log of `count` events of two tenants, few streams, both lanes."""
    events, rand = Events(seed), random.Random(seed)
    clock = ManualClock(START)
    streams = [events.stream(tenant, category) for tenant in TENANTS for category in ("customers", "policies", "customers")]
    versions = dict.fromkeys(streams, 0)
    with closing(SQLiteStore(path, clock=clock, durable=False, chapter=chapter)) as store:
        for _ in range(count):
            stream = rand.choice(streams)
            if rand.random() < 0.25:
                store.append(each(events.decision(stream, versions[stream])))
                versions[stream] += 1
            else:
                store.append(each(events.fact(stream, rand.choice(["test/seen", "test/paid"]), rand.choice([1, 2]))))
        return list(store.read(Query()))


def archived(path: Path, *chapters: int) -> list[Segment]:
    with closing(SQLiteStore(path)) as store:
        return [archive_chapter(chapters_of(store), chapter, path.parent / "archive", clock=SystemClock()) for chapter in chapters]


def live_facts(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM events WHERE lane = 0").fetchone()[0])


def file_of(path: Path, segment: Segment) -> Path:
    return path.parent / "archive" / segment.name


# ---------------------------------------------------------------- reading


queries = st.builds(
    Query,
    tenant=st.sampled_from([None, None, *TENANTS, "nobody"]),
    category=st.sampled_from([None, None, "customers", "policies", "nothing"]),
    lane=st.sampled_from([None, None, Lane.FACT, Lane.DECISION]),
    kinds=st.frozensets(st.sampled_from(["test/seen", "test/paid", "test/decided", "no/kind"]), max_size=2),
    after=st.one_of(st.just(0), st.integers(0, 110)),
    upto=st.none() | st.integers(0, 110),
    backward=st.booleans(),
    limit=st.none() | st.integers(0, 5),
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), count=st.integers(40, 100), data=st.data())
def test_every_read_is_the_same_before_and_after_any_chapters_are_archived(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.db"
    before = fill(path, count, seed)
    chosen = data.draw(st.lists(st.integers(0, count // CHAPTER - 1), unique=True, min_size=1))
    rand = random.Random(seed)
    asked = [data.draw(queries) for _ in range(5)]
    streams = sorted({event.stream for event in before})
    for _ in range(60):
        asked.append(
            Query(
                streams=tuple(rand.sample(streams, rand.choice([0, 1, 2]))),
                tenant=rand.choice([None, *TENANTS]),
                kinds=frozenset(rand.sample(["test/seen", "test/paid", "test/decided"], rand.choice([0, 0, 1]))),
                after=rand.choice([0, rand.randrange(count)]),
                known_at_us=rand.choice([None, rand.choice(before).recorded_at_us + rand.choice([-1, 0, 1])]),
                as_of_us=rand.choice([None, rand.choice(before).occurred_at_us]),
                backward=rand.random() < 0.5,
                limit=rand.choice([None, 1, 3]),
            )
        )
    with closing(SQLiteStore(path)) as store:
        expected = [list(store.read(query)) for query in asked]
        trees = {tenant: (store.tree_head(tenant), store.tree(tenant, 0, 0, count)) for tenant in TENANTS}
        roots = verify(store).roots
    archived(path, *chosen)
    assert live_facts(path) == sum(event.lane is Lane.FACT and (event.position - 1) // CHAPTER not in chosen for event in before)
    with closing(SQLiteStore(path)) as store:
        for query, events in zip(asked, expected, strict=True):
            assert list(store.read(query)) == events, query
        for event in before:
            assert store.find(event.tenant, event.event_id) == event
        for tenant, (head, leaves) in trees.items():
            assert store.tree_head(tenant) == head
            assert store.tree(tenant, 0, 0, count) == leaves
            start = rand.randrange(len(leaves))
            assert store.tree(tenant, 0, start, start + 7) == leaves[start : start + 7]
        assert (store.head(), store.tenants()) == (count, sorted({event.tenant for event in before}))
        report = verify(store)
        assert report.problems == []
        assert (report.events, report.roots) == (count, roots)


def test_a_reader_that_began_before_a_chapter_was_archived_ends_as_it_began(path: Path) -> None:
    before = fill(path, 45)
    with closing(SQLiteStore(path)) as store, closing(store.read(Query())) as reader:
        begun = [next(reader)]
        archived(path, 0, 1)
        assert [*begun, *reader] == before
        assert list(store.read(Query())) == before


def test_a_log_goes_on_after_everything_in_it_was_archived(path: Path) -> None:
    events = Events(seed=3)
    with closing(SQLiteStore(path, chapter=CHAPTER)) as store:
        store.append(each(*(events.fact() for _ in range(CHAPTER))))
        archive_chapter(chapters_of(store), 0, path.parent / "archive", clock=SystemClock())
        assert live_facts(path) == 0
        assert store.head() == CHAPTER
        known = next(iter(store.read(Query(after=CHAPTER - 1)))).recorded_at_us
        assert positions(store, Query(known_at_us=known, after=CHAPTER - 2)) == [CHAPTER - 1, CHAPTER]
        assert stored(store.append(each(events.fact()))[0]).positions == (CHAPTER + 1,)
        assert verify(store).ok


def test_an_archive_that_was_moved_is_read_where_it_is_now(path: Path, tmp_path: Path) -> None:
    before = fill(path, 45)
    archived(path, 0)
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    with closing(SQLiteStore(path)) as store, pytest.raises(SegmentUnreadable, match="missing"):
        list(store.read(Query()))
    with closing(SQLiteStore(path, archive=tmp_path / "elsewhere")) as store:
        assert list(store.read(Query())) == before
        assert verify(store).ok


def test_reading_and_verifying_archived_chapters_take_little_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "GROUP_ROWS", 100)
    events = Events(seed=2)
    stream = events.stream()
    with closing(SQLiteStore(path, durable=False, chapter=2_000)) as store:
        for _ in range(4):
            store.append(each(*(events.fact(stream, data=random.Random(7).randbytes(5_000)) for _ in range(500))))
    archived(path, 0)
    with closing(SQLiteStore(path)) as store:
        tracemalloc.start()
        try:
            for query in (Query(), Query(backward=True), Query(streams=(stream,))):
                assert sum(1 for _ in store.read(query)) == 2_000
            assert verify(store).ok
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 3_000_000, "the chapter holds 10 MB"


# ---------------------------------------------------------------- appending


def test_a_fact_whose_event_is_archived_is_a_duplicate_with_its_first_position_or_a_conflict(path: Path) -> None:
    events = Events(seed=4)
    facts = [events.fact() for _ in range(CHAPTER)]
    with closing(SQLiteStore(path, chapter=CHAPTER)) as store:
        first = stored(store.append(one(*facts))[0])
    archived(path, 0)
    with closing(SQLiteStore(path)) as store:
        again = stored(store.append(one(*facts))[0])
        assert not again.stored
        assert (again.positions, again.versions, again.recorded_at_us) == (first.positions, first.versions, first.recorded_at_us)
        (conflict,) = store.append(each(facts[7]._replace(content_mac=b"other content...")))
        assert isinstance(conflict, ContentConflict)
        assert conflict.stored_position == 8
        assert store.head() == CHAPTER


def test_duplicates_are_known_without_the_files_of_the_archive(path: Path, tmp_path: Path) -> None:
    events = Events(seed=4)
    facts = [events.fact() for _ in range(CHAPTER)]
    with closing(SQLiteStore(path, chapter=CHAPTER)) as store:
        first = stored(store.append(one(*facts))[0])
    archived(path, 0)
    shutil.rmtree(tmp_path / "archive")
    with closing(SQLiteStore(path)) as store:
        again = stored(store.append(one(*facts))[0])
        assert not again.stored
        assert (again.positions, again.versions, again.recorded_at_us) == (first.positions, first.versions, first.recorded_at_us)
        (conflict,) = store.append(each(facts[7]._replace(content_mac=b"other content...")))
        assert isinstance(conflict, ContentConflict)


def test_an_archived_fact_still_breaks_a_condition(path: Path) -> None:
    before = fill(path, 45)
    fact = next(event for event in before if event.lane is Lane.FACT and event.position > 3)
    condition = NoneSince((fact.stream,), frozenset({fact.kind}), fact.position - 1)
    archived(path, 0, 1)
    with closing(SQLiteStore(path)) as store:
        (failed,) = store.append([Submission((Events(9).fact(fact.stream),), (condition,))])
        assert isinstance(failed, ConditionFailed)
        assert failed.at_position == fact.position


def test_a_condition_that_needs_a_missing_segment_fails_alone(path: Path, tmp_path: Path) -> None:
    before = fill(path, 45)
    fact = next(event for event in before if event.lane is Lane.FACT)
    archived(path, 0)
    shutil.rmtree(tmp_path / "archive")
    events = Events(seed=9)
    with closing(SQLiteStore(path)) as store:
        needs = Submission((events.fact(),), (NoneSince((fact.stream,), frozenset({fact.kind}), 0),))
        later = Submission((events.fact(),), (NoneSince((fact.stream,), frozenset({fact.kind}), 45),))
        failed, passed, plain = store.append([needs, later, Submission((events.fact(),))])
        assert isinstance(failed, SegmentUnreadable)
        assert stored(passed).positions == (46,)
        assert stored(plain).positions == (47,)


# ---------------------------------------------------------------- archiving


def test_a_chapter_that_may_still_grow_is_not_archived(path: Path, tmp_path: Path) -> None:
    fill(path, 39)
    with pytest.raises(ChapterOpen) as caught:
        archived(path, 1)
    assert (caught.value.chapter, caught.value.last_position, caught.value.head) == (1, 40, 39)
    with pytest.raises(ChapterOpen):
        archived(path, -1)
    assert not (tmp_path / "archive").exists()


def test_archiving_twice_changes_nothing(path: Path, tmp_path: Path) -> None:
    fill(path, 45)
    (first,) = archived(path, 0)
    (again,) = archived(path, 0)
    assert again == first
    assert [file.name for file in (tmp_path / "archive").iterdir()] == [first.name]


def test_a_chapter_of_decisions_only_is_archived_as_an_empty_segment(path: Path) -> None:
    events = Events(seed=6)
    stream = events.stream()
    with closing(SQLiteStore(path, chapter=4)) as store:
        store.append([Submission(tuple(events.decision(stream, version) for version in range(4)))])
    (segment,) = archived(path, 0)
    assert segment.rows == 0
    with closing(SQLiteStore(path)) as store:
        assert positions(store, Query()) == [1, 2, 3, 4]
        assert verify(store).ok


def test_a_log_in_memory_has_no_archive() -> None:
    with closing(MemoryStore()) as store, pytest.raises(Unsupported):
        chapters_of(store)


def test_a_chapter_with_a_damaged_event_is_not_archived(path: Path, tmp_path: Path) -> None:
    target = next(event for event in fill(path, 45) if event.lane is Lane.FACT and event.position > 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        (trigger,) = db.execute("SELECT sql FROM sqlite_master WHERE name = 'events_no_update'").fetchone()
        db.execute("DROP TRIGGER events_no_update")
        db.execute("UPDATE events SET data = x'7b7d' WHERE position = ?", (target.position,))
        db.execute(trigger)
    before = live_facts(path)
    with pytest.raises(LogDamaged) as caught:
        archived(path, 0)
    assert caught.value.position == target.position
    assert live_facts(path) == before
    assert list((tmp_path / "archive").iterdir()) == []


def test_one_process_archives_a_chapter_at_a_time(path: Path, tmp_path: Path) -> None:
    fill(path, 45)
    (tmp_path / "archive").mkdir()
    with (tmp_path / "archive" / "chapter-00000000.partial").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ArchiveBusy):
            archived(path, 0)
    archived(path, 0)


def test_a_directory_that_cannot_be_written_is_a_typed_error_and_the_log_is_unchanged(path: Path, tmp_path: Path) -> None:
    before = fill(path, 45)
    (tmp_path / "archive").write_text("a file")
    with pytest.raises(ArchiveUnwritable):
        archived(path, 0)
    with closing(SQLiteStore(path)) as store:
        assert list(store.read(Query())) == before


def test_without_pyarrow_archiving_names_the_extra_and_the_log_works(path: Path) -> None:
    fill(path, 45)
    program = f"""
import sys
sys.modules["pyarrow"] = None
from postsale.errors import MissingExtra
from postsale.events import SystemClock
from postsale.store import Query, SQLiteStore, archive_chapter, chapters_of
store = SQLiteStore({str(path)!r})
assert sum(1 for _ in store.read(Query())) == 45
try:
    archive_chapter(chapters_of(store), 0, {str(path.parent / "archive")!r}, clock=SystemClock())
except MissingExtra as error:
    assert error.extra == "archive"
else:
    raise SystemExit("archived")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_killed_at_any_moment_the_log_verifies_reads_the_same_and_archiving_goes_on(path: Path, tmp_path: Path) -> None:
    before, seed = fill(path, 30), random.getrandbits(32)
    command = [sys.executable, str(KILLED), "archive", str(path), str(tmp_path), "30", str(seed)]
    whole, late = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert whole > late > 20
    detached = []
    for copy in sorted(tmp_path.glob("killed */log.db")):
        with closing(SQLiteStore(copy)) as store:
            detached.append(bool(store.segments()))
            assert list(store.read(Query())) == before, (seed, copy)
            assert verify(store).problems == [], (seed, copy)
        (segment,) = archived(copy, 0)
        assert live_facts(copy) == sum(event.lane is Lane.FACT for event in before[CHAPTER:])
        assert [file.name for file in (copy.parent / "archive").iterdir()] == [segment.name], (seed, copy)
        with closing(SQLiteStore(copy)) as store:
            assert list(store.read(Query())) == before, (seed, copy)
            assert verify(store).problems == [], (seed, copy)
    assert len(detached) == 30
    assert set(detached) == {False, True}, "killed before and after the segment was kept"


# ---------------------------------------------------------------- protection


def test_the_file_lets_no_fact_go_without_a_segment_and_no_decision_ever(path: Path) -> None:
    before = fill(path, 45)
    archived(path, 0)
    decision = next(event.position for event in before if event.lane is Lane.DECISION)
    fact = next(event.position for event in before if event.lane is Lane.FACT and event.position > CHAPTER)
    statements = [
        f"DELETE FROM events WHERE position = {decision}",
        f"DELETE FROM events WHERE position = {fact}",
        "INSERT OR REPLACE INTO segments SELECT * FROM segments",
        "INSERT INTO segments SELECT 2, name, directory, 41, 60, rows, size_bytes, sha256, tail_sha256, archived_at, groups FROM segments",
        "INSERT INTO segments SELECT 1, name, directory, 1, 45, rows, size_bytes, sha256, tail_sha256, archived_at, groups FROM segments",
        "UPDATE segments SET sha256 = x'00'",
        "DELETE FROM segments",
        "UPDATE segment_streams SET groups = x''",
        "DELETE FROM segment_tenants",
    ]
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)
    with closing(SQLiteStore(path)) as store:
        assert list(store.read(Query())) == before


@pytest.mark.parametrize(
    ("trigger", "statement", "says"),
    [
        ("segment_streams_no_delete", "DELETE FROM segment_streams WHERE stream = 1", "the listing kept in the log"),
        ("segment_tenants_no_update", "UPDATE segment_tenants SET leaves = x''", "the listing kept in the log"),
        ("segments_no_update", "UPDATE segments SET sha256 = zeroblob(32)", "is not the one kept in the log"),
        ("segments_no_update", "UPDATE segments SET groups = x'00'", "is unreadable"),
        ("segments_no_delete", "DELETE FROM segments", "missing"),
        ("events_no_delete", "SELECT 1", "events_no_delete is missing"),
    ],
)
def test_what_the_log_keeps_about_a_segment_is_verified(path: Path, trigger: str, statement: str, says: str) -> None:
    fill(path, 45)
    archived(path, 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"DROP TRIGGER {trigger}")
        db.execute(statement)
    with closing(SQLiteStore(path)) as store:
        assert any(says in reason for _, reason in verify(store).problems), verify(store).problems


# ---------------------------------------------------------------- damaged files


def gone(file: Path, other: Path) -> None:
    file.unlink()


def truncated(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def emptied(file: Path, other: Path) -> None:
    file.write_bytes(b"")


def swapped(file: Path, other: Path) -> None:
    shutil.copy(other, file)


def extended(file: Path, other: Path) -> None:
    """The same rows and one more, as somebody would write them who can."""
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(pyarrow.concat_tables([table, table.slice(0, 1)]), file)


def appended(file: Path, other: Path) -> None:
    """A second footer behind the first, which is the one that Parquet reads."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[-8:-4], "little")
    file.write_bytes(raw + raw[-8 - length :])


DAMAGES: list[Callable[[Path, Path], None]] = [gone, truncated, emptied, swapped, extended, appended]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_segment_that_is_not_the_archived_file_is_refused_by_reads_that_need_it_only(path: Path, damage: Callable[..., None]) -> None:
    before = fill(path, 65)
    first, second = archived(path, 0, 1)
    with closing(SQLiteStore(path)) as store:
        list(store.read(Query()))  # what was found right before does not count for another file
        damage(file_of(path, first), file_of(path, second))
        with pytest.raises(SegmentUnreadable) as caught:
            list(store.read(Query()))
        assert (caught.value.chapter, Path(caught.value.path).name) == (0, first.name)
        assert "Restore that file" in str(caught.value)
        assert list(store.read(Query(after=CHAPTER))) == before[CHAPTER:]
        assert list(store.read(Query(lane=Lane.DECISION))) == [event for event in before if event.lane is Lane.DECISION]
        assert positions(store, Query(streams=(StreamId("acme", "customers", "nobody"),))) == []
        report = verify(store)
        missing = next(event.position for event in before if event.lane is Lane.FACT)
        assert any(first.name in reason and position == 0 for position, reason in report.problems), report.problems
        assert any(first.name in reason and position == 1 for position, reason in report.problems), report.problems
        assert missing <= CHAPTER
        assert len(report.problems) < 8, "one lost file is said once, not for each of its events"
    shutil.rmtree(path.parent / "archive")
    with closing(SQLiteStore(path)) as store:
        assert list(store.read(Query(after=40))) == before[40:]
        found = {position for position, _ in verify(store).problems}
        assert {1, CHAPTER + 1} <= found


def test_a_restored_segment_heals_the_log(path: Path) -> None:
    before = fill(path, 45)
    (segment,) = archived(path, 0)
    file = file_of(path, segment)
    kept = file.read_bytes()
    file.unlink()
    with closing(SQLiteStore(path)) as store:
        with pytest.raises(SegmentUnreadable):
            list(store.read(Query()))
        file.write_bytes(kept)
        assert list(store.read(Query())) == before
        assert verify(store).ok


def flips(size: int, rand: random.Random) -> Iterator[int]:
    yield from rand.sample(range(size), 40)
    yield from (0, size - 1, size - 8)


def test_one_flipped_byte_anywhere_in_a_segment_is_never_read_and_always_named(path: Path) -> None:
    before = fill(path, 45)
    (segment,) = archived(path, 0)
    file, rand = file_of(path, segment), random.Random(random.getrandbits(32))
    original = file.read_bytes()
    for at in flips(len(original), rand):
        file.write_bytes(original[:at] + bytes([original[at] ^ 1 << rand.randrange(8)]) + original[at + 1 :])
        with closing(SQLiteStore(path)) as store:
            with pytest.raises(SegmentUnreadable) as caught:
                list(store.read(Query()))
            assert caught.value.chapter == 0
            assert list(store.read(Query(after=CHAPTER))) == before[CHAPTER:]
            assert any(segment.name in reason for _, reason in verify(store).problems), at


def test_verification_names_the_event_in_whose_stored_bytes_a_bit_is_flipped(path: Path) -> None:
    before = fill(path, 45)
    (segment,) = archived(path, 0)
    file = file_of(path, segment)
    original = file.read_bytes()
    for event in [event for event in before[:CHAPTER] if event.lane is Lane.FACT]:
        at = original.index(event.salt) + 5
        file.write_bytes(original[:at] + bytes([original[at] ^ 4]) + original[at + 1 :])
        with closing(SQLiteStore(path)) as store:
            named = {position for position, reason in verify(store).problems if position}
        assert event.position in named
    file.write_bytes(original)
    with closing(SQLiteStore(path)) as store:
        assert verify(store).ok


def test_a_rewritten_segment_with_a_rewritten_description_does_not_match_the_tree(path: Path) -> None:
    """Somebody who owns the file and the log makes another event of one, leaf and digests included: the tree's head does not agree."""
    before = fill(path, 45)
    fact = next(event for event in before if event.lane is Lane.FACT)
    other = path.with_name("other.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(other)) as target:
        source.backup(target)
    archived(path, 0)
    fields = fact._replace(data=b'{"n":0}')._asdict()
    fields.pop("leaf")
    forged = leaf_of(commitment(**fields))
    with closing(sqlite3.connect(other, isolation_level=None)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE events SET data = ?, leaf = ? WHERE position = ?", (b'{"n":0}', forged, fact.position))
    (forged_segment,) = archived(other, 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as db, closing(sqlite3.connect(other)) as source:
        db.execute("DROP TRIGGER segments_no_update")
        row = source.execute("SELECT name, size_bytes, sha256, tail_sha256, groups FROM segments").fetchone()
        db.execute("UPDATE segments SET name = ?, size_bytes = ?, sha256 = ?, tail_sha256 = ?, groups = ?", row)
    with closing(SQLiteStore(path)) as store:
        assert store.segments()[0].name == forged_segment.name
        problems = verify(store).problems
    assert any("do not match its tree head" in reason for _, reason in problems), problems


def test_a_segment_of_another_log_is_refused_even_when_the_description_fits_it(path: Path) -> None:
    fill(path, 45, seed=1)
    other = path.with_name("other.db")
    fill(other, 45, seed=1)
    archived(path, 0)
    archived(other, 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as db, closing(sqlite3.connect(other)) as source:
        db.execute("DROP TRIGGER segments_no_update")
        row = source.execute("SELECT name, size_bytes, sha256, tail_sha256, groups FROM segments").fetchone()
        db.execute("UPDATE segments SET name = ?, size_bytes = ?, sha256 = ?, tail_sha256 = ?, groups = ?", row)
    with closing(SQLiteStore(path)) as store, pytest.raises(SegmentUnreadable, match="log_id"):
        list(store.read(Query()))


def test_a_segment_is_plain_parquet_with_the_stored_bytes(path: Path) -> None:
    """For Spark and DuckDB: nothing of ours is needed to read it."""
    facts = [event for event in fill(path, 45)[:CHAPTER] if event.lane is Lane.FACT]
    (segment,) = archived(path, 0)
    rows = pyarrow.parquet.read_table(file_of(path, segment)).to_pylist()
    assert [row["position"] for row in rows] == [event.position for event in facts]
    for row, event in zip(rows, facts, strict=True):
        assert StreamId(row["tenant"], row["category"], row["id"]) == event.stream
        assert (row["event_id"], row["header"], row["data"], row["leaf"]) == (event.event_id.bytes, event.header, event.data, event.leaf)
