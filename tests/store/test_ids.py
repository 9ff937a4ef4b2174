"""How a SQLite log finds ids again: in memory, in generations, through filters, and from a snapshot that is older than all of them."""

from __future__ import annotations

import random
from contextlib import closing, suppress
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.events import NewEvent, StoredEvent
from postsale.store import Query, SQLiteStore, dedup, sqlite_ids, verify
from postsale.store.dedup import Filter
from postsale.testing import Events
from postsale.testing.store_building import each, stored

raw_ids = st.binary(min_size=16, max_size=16) | st.integers(0, 5).map(lambda number: number.to_bytes(16))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@given(st.lists(raw_ids), st.lists(raw_ids))
def test_a_filter_suspects_every_id_that_was_added(added: list[bytes], asked: list[bytes]) -> None:
    filter_ = Filter.empty(None)
    filter_.add(added)
    kept = Filter.kept(filter_.count, bytes(filter_.bits), filter_.digest())
    for some in (filter_, kept):
        suspects = some.suspects([("acme", raw_id) for raw_id in [*added, *asked]])
        assert {raw_id for _, raw_id in suspects} >= set(added)
        assert some.count == len(added)


def test_a_full_filter_suspects_few_random_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "FIRST_CAPACITY", 4_096)
    events = Events(seed=5)
    filter_ = Filter.empty(None)
    filter_.add([events.fact().event_id.bytes for _ in range(filter_.capacity)])
    new = [("acme", events.fact().event_id.bytes) for _ in range(4_000)]
    assert 0 < len(filter_.suspects(new)) < 80


def test_filters_double_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "FIRST_CAPACITY", 8)
    monkeypatch.setattr(dedup, "_MOST_CAPACITY", 32)
    capacities, last = [], None
    for _ in range(5):
        last = Filter.empty(last)
        capacities.append(last.capacity)
    assert capacities == [8, 16, 32, 32, 32]


@given(st.lists(raw_ids, min_size=1), st.data())
def test_a_damaged_filter_suspects_everything(added: list[bytes], data: st.DataObject) -> None:
    filter_ = Filter.empty(None)
    filter_.add(added)
    bits = bytearray(filter_.bits)
    bits[data.draw(st.integers(0, len(bits) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    ids = [("acme", raw_id) for raw_id in [*added, b"any id in the wo"]]
    assert Filter.kept(filter_.count, bytes(bits), filter_.digest()).suspects(ids) == ids


def test_ids_are_found_across_real_generations_and_blocks_in_every_order(path: Path) -> None:
    """70,000 facts and some decisions: a generation and more, two blocks of the index; everything as one reads it off the whole log."""
    events, rand = Events(seed=11), random.Random(11)
    streams = [events.stream() for _ in range(400)]
    rare = events.stream("globex")
    common = events.fact()
    new: list[NewEvent] = []
    for number in range(70_000):
        if number % 7_000 == 0:
            new.append(events.fact(rare, "rare/kind"))
            new.append(events.decision(rare, number // 7_000))
        new.append(common._replace(stream=streams[number * 7 % 397], event_id=UUID(int=rand.getrandbits(128))))
    with closing(SQLiteStore(path, durable=False)) as store:
        for at in range(0, len(new), 10_000):
            store.append(each(*new[at : at + 10_000]))
        with store.snapshot() as db:
            assert db.execute("SELECT count(*) FROM id_generations").fetchone() == (1,)
        whole = list(store.read(Query()))
        assert [event.event_id for event in whole] == [event.event_id for event in new]
        of: dict[object, list[StoredEvent]] = {}
        for event in whole:
            of.setdefault(event.stream, []).append(event)
        for stream in (*streams[:5], rare):
            mine = of[stream]
            assert list(store.read(Query(streams=(stream,)))) == mine
            assert list(store.read(Query(streams=(stream,), backward=True, limit=30))) == mine[::-1][:30]
            middle = mine[len(mine) // 2].position
            assert list(store.read(Query(streams=(stream,), after=middle, upto=middle + 30_000))) == [
                event for event in mine if middle < event.position <= middle + 30_000
            ]
        both = sorted(of[streams[0]] + of[rare])
        assert list(store.read(Query(streams=(streams[0], rare)))) == both
        assert list(store.read(Query(kinds=frozenset({"rare/kind"})))) == [event for event in of[rare] if event.kind == "rare/kind"]
        sample = [*new[:: len(new) // 500], new[-1]]
    with closing(SQLiteStore(path, durable=False)) as store:
        assert not any(stored(outcome).stored for outcome in store.append(each(*sample)))
        assert [store.find(event.stream.tenant, event.event_id) for event in sample] == [
            event for event in whole if event.event_id in {event.event_id for event in sample}
        ]
        assert store.find("globex", UUID(int=1)) is None
        assert store.head() == len(new)
        assert verify(store).problems == []


def test_a_reader_finds_what_its_snapshot_has_after_others_have_sealed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_ids, "GENERATION", 4)
    events = Events(seed=3)
    old, new = [events.fact() for _ in range(6)], [events.fact() for _ in range(8)]
    ids = [(event.stream.tenant, event.event_id.bytes) for event in (*old, *new)]
    with closing(SQLiteStore(path)) as store:
        store.append(each(*old[:5]))
        store.append(each(old[5]))  # one generation, one id in memory
        with store.snapshot() as db:
            before = store.ids.find(db, ids)
            store.append(each(*new))  # another generation
            assert store.ids.find(db, ids) == before
            assert sorted(key.position for key in before.values()) == [1, 2, 3, 4, 5, 6]
        with store.snapshot() as db:
            assert sorted(key.position for key in store.ids.find(db, ids).values()) == list(range(1, 15))


def test_ids_of_a_transaction_that_was_rolled_back_are_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that it sealed: the filter in memory was ahead of the file."""
    monkeypatch.setattr(sqlite_ids, "GENERATION", 4)
    events = Events(seed=3)
    facts = [events.fact() for _ in range(6)]
    with closing(SQLiteStore(path)) as store:
        store.append(each(*facts[:2]))
        with suppress(ZeroDivisionError), store.writing() as db:
            store.ids.seal(db, 2)
            raise ZeroDivisionError
        assert [stored(outcome).stored for outcome in store.append(each(*facts))] == [False, False, True, True, True, True]
        assert [stored(outcome).stored for outcome in store.append(each(*facts))] == [False] * 6
        assert verify(store).problems == []
