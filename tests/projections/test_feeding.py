"""Facts reach the columnar engines from any log: each once, of one snapshot, upcast, archived or not, and none that cannot be read."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from postsale.aggregates.signals import RenewalDue, Signal
from postsale.errors import InvalidInput, LogDamaged, SegmentUnreadable, UnknownWireName, UpcastFailed
from postsale.events import Count, Lane, ManualClock, NewEvent, StreamId, SystemClock, encode_payload, registry, schema_digest
from postsale.projections import Features, Fold, count, days, fact_of, latest, total
from postsale.projections.columnar import fold_state, state_table
from postsale.projections.columnar_duckdb import duckdb_connection, read, table
from postsale.projections.feeding import load_facts
from postsale.store import Query, SQLiteStore, Store, archive_chapter, chapters_of, postgres_columns, segments, sqlite_archive
from postsale.store.columns import fact_batches
from postsale.testing import Events
from postsale.testing.store_building import START, each
from tests.store.stores import STORES
from tests.store.test_archive_contract import archivable_postgres

from .customers import day, signal
from .list_store import ListStore
from .support import Measured


class Pushed(Signal):
    wire_name: ClassVar[str] = "tests.projections/pushed@2"
    force: Count
    note: str | None = None


@registry.upcaster("tests.projections/pushed@1", "tests.projections/pushed@2")
def _pushed(fields):
    return {"force": fields["strength"]}


class Pushes(Features, version=1, owner="tests"):
    n = count(Pushed)
    force = total(Pushed, lambda e: e.force, window=days(30))
    note = latest(Pushed, lambda e: e.note)
    renews = latest(RenewalDue, lambda e: e.renews_at)
    labels = count(Measured, by=lambda e: e.label)


FOLD = Fold(Pushes)
STREAMS = [StreamId(tenant, category, f"c/{n}") for tenant in ("acme", "globex") for category in ("customers", "aliases") for n in range(2)]
OTHER = StreamId("acme", "referrals", "r1")
TEXTS = ["plain", "ü\n\"'\\{}", "x" * 500, "😀"]


def new_event(events: Events, rand: random.Random) -> NewEvent:
    stream = rand.choice([*STREAMS, *STREAMS, OTHER])
    made = rand.choice(
        [
            signal(Pushed, rand.randrange(-9, 40), force=rand.randrange(2**53), note=rand.choice([None, *TEXTS])),
            signal(RenewalDue, 1, renews_at=START),
            signal(Measured, 2, label=rand.choice([None, *TEXTS]), amount=-3),
        ]
    )
    at = rand.randrange(-(10**15), 10**15)
    data, wire_name, schema = encode_payload(made), made.wire_name, schema_digest(type(made))
    if type(made) is Pushed and rand.random() < 0.3:
        data, wire_name, schema = b'{"strength":%d}' % rand.randrange(9), "tests.projections/pushed@1", b"an older shape!!"
    if type(made) is Measured and rand.random() < 0.3:
        schema = b"another shape!!!"  # of the same version
    if rand.random() < 0.1:
        return events.decision(stream, 0, wire_name="test/decided@1")._replace(stream=StreamId("acme", "customers", f"d{at}"))
    return events.fact(stream, wire_name=wire_name, schema=schema, data=data, occurred_at_us=at)


def filled(store: Store, seed: int, size: int = 150) -> None:
    events, rand = Events(seed), random.Random(seed)
    for outcome in store.append(each(*(new_event(events, rand) for _ in range(size)))):
        assert not isinstance(outcome, Exception), outcome


def folded(store: Store, query: Query, categories: tuple[str, ...] = ("customers", "aliases")) -> dict[str, bytes]:
    states: dict[str, list] = {}
    for event in store.read(query):
        if event.lane is Lane.FACT and event.kind in FOLD.kinds and event.stream.category in categories:
            FOLD.add(states.setdefault(str(event.stream), FOLD.empty()), fact_of(event))
    return {key: FOLD.dump(state) for key, state in states.items()}


def computed(store: Store, query: Query | None = None, **options) -> dict[str, bytes]:
    with duckdb_connection() as connection:
        load_facts(connection, Pushes, store, query, **options)
        expression = state_table(Pushes, table(connection, "facts"), keys=["key"])
        return {row["key"]: FOLD.dump(fold_state(Pushes, row)) for batch in read(connection, expression) for row in batch.to_pylist()}


@pytest.mark.parametrize("kind", STORES)
def test_a_log_of_any_kind_is_computed_as_it_is_folded(kind, tmp_path):
    seed = random.getrandbits(32)
    clock = ManualClock(START)
    with closing(STORES[kind](tmp_path, clock)) as store:
        filled(store, seed)
        recorded = [event.recorded_at_us for event in store.read(Query())]
        for query in (
            Query(),
            Query(tenant="acme"),
            Query(tenant="nobody"),
            Query(category="aliases"),
            Query(after=20, upto=90),
            Query(known_at_us=recorded[60]),
            Query(as_of_us=day(10)),
        ):
            assert computed(store, query) == folded(store, query), (seed, query)
        assert computed(store, categories=frozenset({"referrals"})) == folded(store, Query(), ("referrals",)), seed


def test_archived_chapters_are_read_from_their_segments_and_each_fact_once(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "GROUP_ROWS", 4)
    seed = random.getrandbits(32)
    path = tmp_path / "log.db"
    with closing(SQLiteStore(path, clock=ManualClock(START), durable=False, chapter=20)) as store:
        filled(store, seed)
        before = [computed(store, query) for query in (Query(), Query(tenant="acme", after=30, upto=110))]
        for chapter in (0, 1, 4):
            archive_chapter(chapters_of(store), chapter, tmp_path / "archive", clock=SystemClock())
            assert [computed(store, query) for query in (Query(), Query(tenant="acme", after=30, upto=110))] == before, seed
        positions = sorted(p for batch in fact_batches(store, Query()) for p in batch["position"].to_pylist())
        assert positions == [event.position for event in store.read(Query(lane=Lane.FACT))], seed


def test_a_chapter_archived_in_the_middle_of_a_read_is_neither_lost_nor_counted_twice(tmp_path, monkeypatch):
    from postsale.store import sqlite_columns

    monkeypatch.setattr(sqlite_columns, "BATCH_ROWS", 8)
    path = tmp_path / "log.db"
    with closing(SQLiteStore(path, clock=ManualClock(START), durable=False, chapter=20)) as store:
        filled(store, 3)
        archive_chapter(chapters_of(store), 1, tmp_path / "archive", clock=SystemClock())
        expected = [event.position for event in store.read(Query(lane=Lane.FACT))]
        with closing(fact_batches(store, Query())) as batches:
            found = next(batches)["position"].to_pylist()
            archive_chapter(chapters_of(store), 0, tmp_path / "archive", clock=SystemClock())
            archive_chapter(chapters_of(store), 5, tmp_path / "archive", clock=SystemClock())
            for batch in batches:
                found += batch["position"].to_pylist()
        assert sorted(found) == expected


def test_a_chapter_whose_facts_are_only_half_gone_is_read_from_its_segment_alone(tmp_path, monkeypatch):
    with closing(SQLiteStore(tmp_path / "log.db", clock=ManualClock(START), durable=False, chapter=20)) as store:
        filled(store, 5)
        expected = [event.position for event in store.read(Query(lane=Lane.FACT))]

        def interrupted(_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(sqlite_archive, "DETACH_ROWS", 5)
            patch.setattr("time.sleep", interrupted)  # between two transactions of the deletion
            with pytest.raises(KeyboardInterrupt):
                archive_chapter(chapters_of(store), 2, tmp_path / "archive", clock=SystemClock())
        with store.snapshot() as db:
            assert db.execute("SELECT count(*) FROM events WHERE lane = 0 AND position BETWEEN 41 AND 60").fetchone()[0] > 0
        assert sorted(p for batch in fact_batches(store, Query()) for p in batch["position"].to_pylist()) == expected


def test_a_chapter_archived_between_the_snapshot_and_the_look_at_segments_is_read_once(tmp_path):
    class Meddled(SQLiteStore):
        meddle = False

        def snapshot(self):
            if self.meddle:
                self.meddle = False
                archive_chapter(chapters_of(self), 3, tmp_path / "archive", clock=SystemClock())
            return super().snapshot()

    with closing(Meddled(tmp_path / "log.db", clock=ManualClock(START), durable=False, chapter=20)) as store:
        filled(store, 5)
        archive_chapter(chapters_of(store), 1, tmp_path / "archive", clock=SystemClock())
        expected = [event.position for event in store.read(Query(lane=Lane.FACT))]
        store.meddle = True
        assert sorted(p for batch in fact_batches(store, Query()) for p in batch["position"].to_pylist()) == expected
        assert len(store.segments()) == 2


def test_a_segment_with_a_flipped_byte_is_never_taken_apart(tmp_path):
    with closing(SQLiteStore(tmp_path / "log.db", clock=ManualClock(START), durable=False, chapter=20)) as store:
        filled(store, 6)
        archived = archive_chapter(chapters_of(store), 0, tmp_path / "archive", clock=SystemClock())
        path = tmp_path / "archive" / archived.name
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 3] ^= 1
        path.write_bytes(raw)
        with pytest.raises(SegmentUnreadable, match="not what was archived"):
            computed(store)
        path.unlink()
        with pytest.raises(SegmentUnreadable, match="missing"):
            computed(store)


def test_chapters_of_a_postgresql_log_archived_before_and_during_a_read_are_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(postgres_columns, "_SPAN", 30)
    with closing(archivable_postgres(chapter=20)) as store:
        filled(store, 3)
        expected = [event.position for event in store.read(Query(lane=Lane.FACT))]
        before = [computed(store, query) for query in (Query(), Query(tenant="acme", after=30, upto=110))]
        archive_chapter(chapters_of(store), 1, tmp_path / "archive", clock=SystemClock())
        with closing(fact_batches(store, Query())) as batches:
            found = next(batches)["position"].to_pylist()
            for chapter in (0, 2, 5):  # read already, read in part, not read yet
                archive_chapter(chapters_of(store), chapter, tmp_path / "archive", clock=SystemClock())
            for batch in batches:
                found += batch["position"].to_pylist()
        assert sorted(found) == expected
        assert [computed(store, query) for query in (Query(), Query(tenant="acme", after=30, upto=110))] == before


def test_headers_are_read_only_when_what_the_source_claimed_is_asked_for(tmp_path):
    with closing(SQLiteStore(tmp_path / "log.db", clock=ManualClock(START), durable=False)) as store:
        header = b'{"actor":["source","test"],"available_at_us":%d,"origin":"live","v":1}'
        events, push = Events(1), signal(Pushed, 1, force=1)
        whole = {"wire_name": push.wire_name, "schema": schema_digest(Pushed), "data": encode_payload(push)}
        store.append(
            each(
                events.fact(STREAMS[0], header=header % 0, **whole),
                events.fact(STREAMS[0], **whole),
                events.fact(STREAMS[0], header=header % 77, **whole),
            )
        )
        with duckdb_connection() as connection:
            assert load_facts(connection, Pushes, store, available=True) == 3
            rows = connection.sql("SELECT position, available_at_us FROM facts ORDER BY position").fetchall()
        assert rows == [(1, 0), (2, None), (3, 77)]


@pytest.mark.parametrize(
    ("wire_name", "data", "error"),
    [
        ("tests.projections/pushed@1", b'{"wrong":1}', UpcastFailed),
        ("tests.projections/pushed@1", b'{"strength":-1}', InvalidInput),  # what the upcaster makes does not fit
        ("tests.projections/pushed@7", b"{}", UnknownWireName),
        ("tests.projections/pushed@2", b'{"force":"5"}', InvalidInput),
        ("tests.projections/pushed@2", b'{"force":5.5}', InvalidInput),
        ("tests.projections/pushed@2", b'{"force":true}', InvalidInput),
        ("tests.projections/pushed@2", b"[]", InvalidInput),
        ("tests.projections/pushed@2", b"nonsense", InvalidInput),
    ],
)
def test_an_event_that_cannot_be_read_stops_the_query_by_its_own_error(wire_name, data, error):
    store = ListStore()
    store.record(STREAMS[0], signal(Pushed, 1, force=1))
    store.put(STREAMS[1], wire_name, data, day(2))
    with pytest.raises(error) as refused:
        computed(store)
    assert "position 2" in str(refused.value) or getattr(refused.value, "position", None) == 2


def test_a_payload_in_the_shape_of_its_class_that_is_no_json_is_refused_without_its_text():
    store = ListStore()
    event = store.put(STREAMS[0], Pushed.wire_name, b'{"note":"secret', day(1))
    store.events[0] = event._replace(schema=schema_digest(Pushed))
    with pytest.raises(InvalidInput) as refused:
        computed(store)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_fact_whose_names_are_gone_is_damage_and_not_left_out(tmp_path):
    import sqlite3

    path = tmp_path / "log.db"
    with closing(SQLiteStore(path, clock=ManualClock(START), durable=False)) as store:
        filled(store, 4)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("DROP TRIGGER streams_no_delete")
            db.execute("DELETE FROM streams WHERE no = 2")
        with pytest.raises(LogDamaged, match="not in the table of names"):
            computed(store)


def test_columns_are_refused_for_what_only_a_read_of_events_gives(tmp_path: Path):
    store = ListStore()
    for query in (Query(streams=(STREAMS[0],)), Query(limit=1), Query(backward=True), Query(lane=Lane.DECISION)):
        with pytest.raises(InvalidInput, match="columns are read of all facts"):
            list(fact_batches(store, query))
