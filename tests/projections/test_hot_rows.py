"""A cache in Redis changes how fast rows are read, and never what is read: not when it is old, stopped, stood still or lying."""

from __future__ import annotations

import random
from collections.abc import Iterator
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.errors import InvalidInput, StaleRead
from postsale.projections import CustomerHealth, Fold, MemoryViews, Runner
from postsale.projections.hot_rows_redis import RedisHotRows
from postsale.store import MemoryStore, Query
from tests.valkey import Server

from .logs import Facts
from .test_partitions import FakePace

FOLD = Fold(CustomerHealth)
SECRET = b"s" * 32


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.remove()


@pytest.fixture
def server(running: Server) -> Server:
    running.start()
    with running.client() as client:
        client.flushall()
    return running


@pytest.fixture
def hot(server: Server) -> Iterator[RedisHotRows]:
    cache = RedisHotRows(server.url, "log-1", pace=FakePace())
    yield cache
    cache.close()


def test_rows_are_given_back_with_their_positions_and_nothing_else_is(hot: RedisHotRows) -> None:
    hot.put_many("v", SECRET, {"a": b"1", "b": None, "c": b""}, 7)
    assert hot.get_many("v", SECRET, ["a", "b", "c", "d"]) == {"a": (7, b"1"), "b": (7, None), "c": (7, b"")}
    assert hot.get_many("v", b"t" * 32, ["a"]) == {}
    assert hot.get_many("w", SECRET, ["a"]) == {}
    assert hot.get_many("v", SECRET, []) == {}
    assert hot.failures == 0


def test_many_rows_go_in_one_call_and_come_back(hot: RedisHotRows) -> None:
    rows: dict[str, bytes | None] = {f"acme/customers/{n}": b"%d" % n for n in range(1_005)}
    hot.put_many("v", SECRET, rows, 2**53 - 1)
    assert hot.get_many("v", SECRET, list(rows)) == {key: (2**53 - 1, row) for key, row in rows.items()}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.binary(max_size=3)), max_size=12))
def test_an_old_row_never_takes_the_place_of_a_newer_one(running: Server, writes) -> None:
    running.start()
    hot = RedisHotRows(running.url, uuid4().hex)
    newest: dict[str, tuple[int, bytes | None]] = {}
    for key, position, row in writes:
        hot.put_many("v", SECRET, {key: row}, position)
        if position >= newest.get(key, (0, None))[0]:
            newest[key] = (position, row)
    assert hot.get_many("v", SECRET, ["a", "b"]) == newest
    hot.close()


def test_entries_go_after_a_time(server: Server) -> None:
    hot = RedisHotRows(server.url, "log-1", keep_s=1_000)
    hot.put_many("v", SECRET, {"a": b"1"}, 7)
    with server.client() as client:
        (key,) = client.keys("*")
        assert 990 < client.ttl(key) <= 1_000
    hot.close()


@pytest.mark.parametrize(
    "lie",
    [
        b"",
        b"9" * 16,
        b"0" * 200,
        b"\xff" * 60,
        b"9999999999999999" + b"x" * 40,
        "of another key",
        "another position",
        "a flipped bit",
        "another type",
    ],
)
def test_what_the_server_made_up_is_no_entry_and_makes_room_for_the_true_one(server: Server, lie) -> None:
    """However great a position it claims; also what it took from another key, and what is no text at all."""
    pace = FakePace()
    hot = RedisHotRows(server.url, "log-1", pace=pace)
    hot.put_many("v", SECRET, {"a": b"true", "b": b"other"}, 7)
    with server.client() as client:
        keys = {client.get(key)[-4:]: key for key in client.keys("*")}
        mine, others = keys[b"true"], keys[b"ther"]
        whole = client.get(mine)
        match lie:
            case "of another key":
                client.set(mine, client.get(others))
            case "another position":
                client.set(mine, b"0000000000000009" + whole[16:])
            case "a flipped bit":
                client.set(mine, whole[:-1] + bytes([whole[-1] ^ 1]))
            case "another type":
                client.delete(mine)
                client.lpush(mine, b"x")
            case _:
                client.set(mine, lie)
    assert hot.get_many("v", SECRET, ["a"]) == {}
    assert hot.failures == (lie != "another type")  # which reads as if nothing were there
    hot.put_many("v", SECRET, {"a": b"new"}, 8)
    assert hot.get_many("v", SECRET, ["a"]) == {"a": (8, b"new")}
    hot.close()


def test_a_key_or_a_row_can_not_be_read_from_the_names_in_the_server(server: Server, hot: RedisHotRows) -> None:
    hot.put_many("CustomerHealth", SECRET, {"acme/customers/42": b"1"}, 7)
    with server.client() as client:
        (key,) = client.keys("*")
        assert b"acme" not in key + client.get(key)


def test_a_server_that_failed_is_left_alone_for_a_second_and_asked_again_then(server: Server) -> None:
    """So that reads do not wait for a dead one each time; a put in between is simply not kept."""
    pace = FakePace()
    hot = RedisHotRows(server.url, "log-1", pace=pace)
    hot.put_many("v", SECRET, {"a": b"1"}, 1)
    server.stand_still()
    try:
        assert hot.get_many("v", SECRET, ["a"]) == {}
        failures = hot.failures
        for _ in range(50):
            assert hot.get_many("v", SECRET, ["a"]) == {}
            hot.put_many("v", SECRET, {"a": b"2"}, 2)
        assert hot.failures == failures == 1
    finally:
        server.go_on()
    pace.at += 2
    assert hot.get_many("v", SECRET, ["a"]) == {"a": (1, b"1")}
    hot.close()


@pytest.mark.parametrize("url", ["http://x:secret-word@h", "secret-word", ""])
def test_a_url_that_is_none_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RedisHotRows(url, "log-1")
    assert "secret-word" not in str(caught.value)


# ---------------------------------------------------------------- under a runner


class World:
    def __init__(self, server: Server, seed: int, partitions: int = 2) -> None:
        self.store, self.views, self.facts = MemoryStore(), MemoryViews(), Facts(seed, customers=5)
        self.pace = FakePace()
        self.hot = RedisHotRows(server.url, self.store.log_id, timeout_s=0.05, pace=self.pace)
        self.partitions = partitions

    def runner(self, hot: bool = True) -> Runner:
        cache = self.hot if hot else None
        return Runner(self.store, self.views, FOLD, partitions=self.partitions, batch=9, hot=cache, pace=self.pace)

    def check(self) -> int:
        """Every stream reads as it must: with and without a demand, from the cache or the table. How many came from the cache."""
        runner, plain, hits = self.runner(), self.runner(hot=False), 0
        for stream in sorted({e.stream for e in self.store.read(Query())}):
            head = plain.kept([stream]).position
            for at_least in (None, 1, head):
                read = runner.kept([stream], at_least=at_least, within_s=0)
                assert (at_least or 0) <= read.position <= head
                assert FOLD.digest(read.state) == FOLD.digest(plain.folded(stream, read.position))
            with pytest.raises(StaleRead):
                runner.kept([stream], at_least=head + 1, within_s=0)
            names = runner.names()
            hits += bool(self.hot.get_many(names.view, runner._secret(names), [str(stream)]))
        return hits


@pytest.mark.parametrize("trouble", ["none", "killed", "standing still", "emptied", "lying", "restarted"])
def test_whatever_becomes_of_the_server_every_read_is_right_and_as_new_as_was_demanded(server: Server, trouble: str) -> None:
    seed = random.getrandbits(32)
    world = World(server, seed)
    world.facts.append(world.store, 40)
    world.runner().catch_up()
    assert world.check() == 5, seed
    world.facts.append(world.store, 20)
    match trouble:
        case "killed" | "restarted":
            server.kill()
        case "standing still":
            server.stand_still()
        case "emptied":
            with server.client() as client:
                client.flushall()
        case "lying":
            with server.client() as client:
                keys = client.keys("*")
                values = [client.get(key) for key in keys]
                for key, value in zip(keys, values[1:] + values[:1], strict=True):
                    client.set(key, value)
    try:
        assert world.check() == 5 or trouble != "none", seed
        world.runner().catch_up()
        world.check()
    finally:
        if trouble == "standing still":
            server.go_on()
        server.start()
    world.pace.at += 2
    world.facts.append(world.store, 20)
    world.runner().catch_up()
    world.check()
    world.pace.at += 2
    world.check()
    assert world.check() == 5, seed  # the cache serves again
    world.hot.close()


def test_hot_rows_of_a_view_that_was_folded_anew_are_not_those_of_before(server: Server) -> None:
    """Also when the log was put back to an older copy and took another course: nothing of the old one is given."""
    world = World(server, 1)
    world.facts.append(world.store, 40)
    runner = world.runner()
    runner.catch_up()
    world.check()
    streams = sorted({e.stream for e in world.store.read(Query())})
    before = {s: runner.kept([s]) for s in streams}
    runner.drop()
    runner.catch_up(upto=20)
    for stream in streams:
        read = runner.kept([stream])
        assert read.position <= 20 < before[stream].position
        assert FOLD.digest(read.state) == FOLD.digest(runner.folded(stream, 20))
    world.hot.close()


def test_a_read_from_the_cache_touches_no_table(server: Server) -> None:
    class Counting(MemoryViews):
        reads = 0

        def get_many(self, view, keys):
            Counting.reads += 1
            return super().get_many(view, keys)

        def checkpoint(self, view):
            Counting.reads += 1
            return super().checkpoint(view)

    world = World(server, 2)
    world.views = Counting()
    world.facts.append(world.store, 40)
    runner = world.runner()
    runner.catch_up()
    (stream, *_) = sorted({e.stream for e in world.store.read(Query())})
    first = runner.kept([stream], at_least=40)
    Counting.reads = 0
    assert runner.kept([stream], at_least=40) == first
    assert Counting.reads == 0
    world.hot.close()


def test_a_parked_stream_is_as_old_in_the_cache_as_in_the_table(server: Server) -> None:
    from .test_runner import FOLD as POKES
    from .test_runner import STREAMS, _mended, poison, poke, small_log

    _mended["yes"] = False  # another test may have mended it
    store, views = small_log(8), MemoryViews()
    hot = RedisHotRows(server.url, "log-poked", pace=FakePace())
    runner = Runner(store, views, POKES, hot=hot, pace=FakePace())
    runner.catch_up()
    poison(store, STREAMS[1], 8)
    poke(store, STREAMS[1], 9)
    runner.catch_up()
    poke(store, STREAMS[2], 10)
    bad = poison(store, STREAMS[2], 10)  # in one batch with one that can be read, and later ones
    poke(store, STREAMS[3], 11)
    runner.catch_up()
    assert runner.kept([STREAMS[2]]).position <= bad.position - 1
    for _ in range(2):  # from the table, then from the cache
        assert runner.kept([STREAMS[1]]).position == 8
        with pytest.raises(StaleRead):
            runner.kept([STREAMS[1]], at_least=10, within_s=0)
    hot.close()
