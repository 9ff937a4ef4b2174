"""Appending within the caller's own transaction on PostgreSQL."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from zlib import crc32

import psycopg
import pytest
from psycopg.rows import dict_row
from tests.postgres import fresh_log, server

from postsale.errors import ConditionFailed, InvalidInput, StoreUnavailable, VersionConflict
from postsale.store import NoneSince, Query, Submission, verify
from postsale.store.postgres import Patience, PostgresStore
from postsale.testing import Events
from postsale.testing.store_building import each, one, stored

Connection = psycopg.Connection[Any]

SETTINGS = (
    "SELECT ARRAY[current_user, session_user, current_setting('role'), coalesce(current_setting('postsale.tenant', true), ''), current_setting('lock_timeout'),"
    " current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'), current_setting('plan_cache_mode'),"
    " current_setting('enable_seqscan'), current_setting('enable_bitmapscan'), current_setting('synchronous_commit')] AS all"
)


@pytest.fixture(scope="module")
def log() -> tuple[str, str]:
    """With a table of the caller's beside it."""
    url, schema = fresh_log()
    with psycopg.connect(server(), autocommit=True) as admin:
        admin.execute(f"CREATE TABLE public.orders_{schema} (id int)".encode())
        admin.execute(f"GRANT ALL ON public.orders_{schema} TO PUBLIC".encode())
    return url, schema


@pytest.fixture
def store(log: tuple[str, str]) -> Iterator[PostgresStore]:
    with closing(PostgresStore(log[0], schema=log[1], patience=Patience(lock=0.2))) as store:
        yield store


@pytest.fixture
def caller(log: tuple[str, str]) -> Iterator[Connection]:
    with psycopg.connect(log[0], row_factory=dict_row) as db:
        yield db
        db.rollback()


@pytest.fixture
def events(request: pytest.FixtureRequest) -> Events:
    events = Events(seed=crc32(request.node.nodeid.encode()) ^ random.getrandbits(32))  # the log is shared: ids of each test are its own
    request.node.add_report_section("setup", "seed", f"Events(seed={events.seed})")
    return events


def orders(db: Connection, log: tuple[str, str]) -> int:
    found: Any = db.execute(f"SELECT count(*) AS n FROM public.orders_{log[1]}".encode()).fetchone()
    return int(found["n"])


def order(db: Connection, log: tuple[str, str]) -> None:
    db.execute(f"INSERT INTO public.orders_{log[1]} VALUES (1)".encode())


def settings(db: Connection) -> Any:
    return db.execute(SETTINGS).fetchone()


@pytest.mark.parametrize("count", [1, 100])
def test_it_commits_with_the_caller_and_is_rolled_back_with_the_caller(
    store: PostgresStore, caller: Connection, log: tuple[str, str], events: Events, count: int
) -> None:
    head, before = store.head(), orders(caller, log)
    submissions = [*each(*(events.fact() for _ in range(count))), *one(events.decision(events.stream("globex"), 0))]
    order(caller, log)
    first = store.within(caller).append(submissions)
    assert store.head() == head
    caller.rollback()
    assert (store.head(), orders(caller, log)) == (head, before)

    order(caller, log)
    again = store.within(caller).append(submissions)
    assert [stored(o).positions for o in again] == [stored(o).positions for o in first]
    assert all(stored(o).stored for o in again), "what was rolled back is not remembered"
    caller.commit()
    assert (store.head(), orders(caller, log)) == (head + count + 1, before + 1)
    assert [stored(o).stored for o in store.append(submissions)] == [False] * (count + 1)
    assert verify(store).ok


def test_the_store_itself_goes_on_after_names_were_rolled_back(store: PostgresStore, caller: Connection, events: Events) -> None:
    stream = events.stream("newcomer")
    fact = events.fact(stream, "test/never-seen")
    store.within(caller).append(each(fact))
    caller.rollback()
    other = events.stream("latecomer")
    assert stored(store.append(each(events.fact(other, "test/other-kind"), fact))[1]).stored
    assert [event.stream for event in store.read(Query(tenant="newcomer"))] == [stream]
    assert verify(store).ok


def test_two_appends_in_one_transaction_see_each_other(store: PostgresStore, caller: Connection, events: Events) -> None:
    stream = events.stream()
    (first,) = store.within(caller).append(each(events.decision(stream, 0)))
    second, conflict = store.within(caller).append(each(events.decision(stream, 1), events.decision(stream, 1)))
    caller.commit()
    assert stored(second).positions == (stored(first).positions[0] + 1,)
    assert isinstance(conflict, VersionConflict)
    assert store.versions([stream]) == [2]
    assert verify(store).ok


def test_role_settings_and_rows_of_the_caller_stay_as_they_were(
    store: PostgresStore, caller: Connection, log: tuple[str, str], events: Events
) -> None:
    caller.execute("SET lock_timeout = '7s'")
    caller.commit()
    caller.execute("SET LOCAL statement_timeout = '9s'")
    before = settings(caller)
    assert before["all"][4:6] == ["7s", "9s"]
    stream = events.stream()
    for submissions in (
        each(events.fact()),
        each(*(events.fact(events.stream(tenant)) for tenant in ("acme", "globex") for _ in range(60))),
        each(events.decision(stream, 5)),  # refused
        [Submission(())],
    ):
        store.within(caller).append(submissions)
        assert settings(caller) == before
    caller.commit()
    assert settings(caller)["all"][4:6] == ["7s", "0"]
    assert caller.row_factory is dict_row
    assert not caller.autocommit


def test_a_refused_append_leaves_the_transaction_usable_and_the_log_free(
    store: PostgresStore, caller: Connection, log: tuple[str, str], events: Events
) -> None:
    stream = events.stream()
    store.append(each(events.fact(stream, "billing/paid")))
    before = orders(caller, log)
    order(caller, log)
    refused = [
        *each(events.decision(stream, 3)),
        Submission((events.fact(),), (NoneSince((stream,), frozenset({"billing/paid"}), 0),)),
    ]
    assert [type(o) for o in store.within(caller).append(refused)] == [VersionConflict, ConditionFailed]
    assert stored(store.append(each(events.fact()))[0]).stored, "nobody waits for a transaction that stored nothing"
    order(caller, log)
    caller.commit()
    assert orders(caller, log) == before + 2


def test_other_writers_wait_for_the_caller_and_no_longer_than_they_were_told(
    store: PostgresStore, log: tuple[str, str], caller: Connection, events: Events
) -> None:
    (mine,) = store.within(caller).append(each(events.fact()))
    with pytest.raises(StoreUnavailable) as raised:
        store.append(each(events.fact()))
    assert "locked by another writer" in raised.value.reason
    with closing(PostgresStore(log[0], schema=log[1], patience=Patience(lock=60))) as patient:
        outcome: list[Any] = []
        waiter = threading.Thread(target=lambda: outcome.extend(patient.append(each(events.fact()))))
        waiter.start()
        wait_for_lock(log[1])
        caller.commit()
        waiter.join()
    assert stored(outcome[0]).positions == (stored(mine).positions[0] + 1,)


def wait_for_lock(schema: str) -> None:
    """Until a session of this log waits for a lock."""
    with psycopg.connect(server(), autocommit=True) as admin:
        while not admin.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = %s", (f"{schema}_app",)
        ).fetchone():
            pass


def test_a_lock_that_is_not_to_be_had_leaves_the_transaction_usable(
    store: PostgresStore, log: tuple[str, str], caller: Connection, events: Events
) -> None:
    before = orders(caller, log)
    order(caller, log)
    with psycopg.connect(log[0]) as other:
        store.within(other).append(each(events.fact()))
        with pytest.raises(StoreUnavailable):
            store.within(caller).append(each(events.fact()))
        other.rollback()
    caller.commit()
    assert orders(caller, log) == before + 1


def test_a_snapshot_from_before_the_newest_event_is_refused(
    store: PostgresStore, log: tuple[str, str], caller: Connection, events: Events
) -> None:
    caller.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    settings(caller)  # takes the snapshot
    (first,) = store.append(each(events.fact()))
    with pytest.raises(StoreUnavailable) as raised:
        store.within(caller).append(each(events.fact()))
    assert "READ COMMITTED" in raised.value.reason
    caller.rollback()
    (second,) = store.within(caller).append(each(events.fact()))  # a new snapshot
    caller.commit()
    assert stored(second).positions == (stored(first).positions[0] + 1,)


def test_without_an_open_sound_transaction_of_the_same_log_it_is_invalid_input(
    store: PostgresStore, log: tuple[str, str], caller: Connection, events: Events
) -> None:
    submissions = each(events.fact())
    head = store.head()
    with pytest.raises(psycopg.errors.UndefinedTable):
        caller.execute("SELECT * FROM no_such_table")
    with pytest.raises(InvalidInput):
        store.within(caller).append(submissions)
    caller.rollback()
    with caller.pipeline(), pytest.raises(InvalidInput):
        store.within(caller).append(submissions)
    caller.rollback()
    caller.autocommit = True
    with pytest.raises(InvalidInput):
        store.within(caller).append(submissions)
    with caller.transaction():
        assert stored(store.within(caller).append(submissions)[0]).stored
    assert store.head() == head + 1
