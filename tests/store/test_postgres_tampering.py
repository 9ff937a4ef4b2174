"""A PostgreSQL log in the hands of a superuser: whatever is changed below the store, verification names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from tests.postgres import new_log, server

from postsale.errors import LogDamaged
from postsale.store import Query, Submission, verify
from postsale.store.postgres import PostgresStore
from postsale.testing import Events
from postsale.testing.store_building import each

EVENTS = 30


@contextmanager
def rewriting() -> Iterator[psycopg.Connection[Any]]:
    """A superuser's session in which no trigger fires."""
    with psycopg.connect(server(), autocommit=True) as db:
        db.execute("SET session_replication_role = replica")
        yield db


@pytest.fixture
def store() -> Iterator[PostgresStore]:
    """A log of 30 events of two tenants: two facts, then a decision, and so on."""
    with new_log(chapter=16) as (url, schema), closing(PostgresStore(url, schema=schema)) as store:
        events = Events(5)
        streams = [events.stream(tenant) for tenant in ("acme", "globex")]
        for version in range(EVENTS // 6):
            for stream in streams:
                store.append([Submission((events.fact(stream), events.fact(stream), events.decision(stream, version)))])
        assert verify(store).problems == []
        yield store


def problems(store: PostgresStore) -> list[tuple[int, str]]:
    return verify(store).problems


def schema_of(store: PostgresStore) -> str:
    return store._link.schema


COLUMNS = ["header", "data", "salt", "content_mac", "leaf", "event_id"]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("position", [1, 15, 30])
def test_one_flipped_bit_names_its_event(store: PostgresStore, column: str, position: int) -> None:
    with rewriting() as db:
        db.execute(
            f"UPDATE {schema_of(store)}.events SET {column} = set_byte({column}, 3, get_byte({column}, 3) # 1) WHERE position = %s".encode(),
            (position,),
        )
    assert [at for at, _ in problems(store)] == [position]


@pytest.mark.parametrize(
    ("column", "value"),
    [("version", "version + 1"), ("occurred_at", "occurred_at - 1"), ("recorded_at", "recorded_at + 1"), ("leaf_index", "leaf_index + 1")],
)
def test_one_changed_number_names_its_event(store: PostgresStore, column: str, value: str) -> None:
    with rewriting() as db:
        db.execute(f"UPDATE {schema_of(store)}.events SET {column} = {value} WHERE position = 8".encode())
    assert 8 in {at for at, _ in problems(store)}


def test_swapped_rows_are_named(store: PostgresStore) -> None:
    with rewriting() as db:
        s = schema_of(store)
        db.execute(f"UPDATE {s}.events a SET data = b.data, header = b.header FROM {s}.events b WHERE a.position + b.position = 3".encode())
    assert [at for at, _ in problems(store)] == [1, 2]


def test_an_event_moved_to_another_tenants_stream_is_named(store: PostgresStore) -> None:
    with rewriting() as db:
        s = schema_of(store)
        db.execute(f"UPDATE {s}.events SET stream = (SELECT stream FROM {s}.events WHERE position = 4) WHERE position = 1".encode())
    assert {at for at, _ in problems(store)} == {1}
    assert any("tenant" in reason for _, reason in problems(store))


def test_a_rewritten_wire_name_names_every_event_of_the_kind(store: PostgresStore) -> None:
    kinds = {event.position for event in store.read(Query(kinds=frozenset({"test/decided"})))}
    with rewriting() as db:
        db.execute(f"UPDATE {schema_of(store)}.kinds SET wire_name = 'test/undone@1' WHERE wire_name = 'test/decided@1'".encode())
    assert {at for at, _ in problems(store)} == kinds


def test_a_rewritten_stream_name_names_its_events(store: PostgresStore) -> None:
    with rewriting() as db:
        db.execute(f"UPDATE {schema_of(store)}.streams SET id = 'other' WHERE tenant = 1".encode())
    assert {at for at, _ in problems(store)} == {at for at in range(1, EVENTS + 1) if (at - 1) // 3 % 2 == 0}


@pytest.mark.parametrize(("first", "last"), [(1, 1), (10, 14), (16, 17)])
def test_deleted_rows_are_named(store: PostgresStore, first: int, last: int) -> None:
    with rewriting() as db:
        db.execute(f"DELETE FROM {schema_of(store)}.events WHERE position BETWEEN {first} AND {last}".encode())
    missing = f"position {first} is missing" if first == last else f"positions {first} to {last} are missing"
    assert any(at == first and reason.startswith(missing) for at, reason in problems(store))


def test_a_tail_cut_off_is_seen_by_the_next_append_and_by_verification(store: PostgresStore) -> None:
    with rewriting() as db:
        db.execute(f"DELETE FROM {schema_of(store)}.events WHERE position > 27".encode())
    with pytest.raises(LogDamaged):
        store.append(each(Events(6).fact()))
    assert any(reason.startswith("positions 28 to 30 are missing") for _, reason in problems(store))


def test_a_tail_cut_off_with_its_heads_is_seen_in_the_tree(store: PostgresStore) -> None:
    with rewriting() as db:
        db.execute(f"DELETE FROM {schema_of(store)}.events WHERE position > 27".encode())
        db.execute(f"UPDATE {schema_of(store)}.log SET position = 27".encode())
    assert any("tree head" in reason for _, reason in problems(store))


def test_events_beyond_the_head_are_named(store: PostgresStore) -> None:
    with rewriting() as db:
        db.execute(f"UPDATE {schema_of(store)}.log SET position = 27".encode())
    assert (28, "positions 28 to 30 are beyond the log's head") in problems(store)


def test_a_rewritten_frontier_is_found(store: PostgresStore) -> None:
    with rewriting() as db:
        db.execute(f"UPDATE {schema_of(store)}.tenants SET frontier = set_byte(frontier, 0, 7) WHERE name = 'acme'".encode())
    assert problems(store)


def test_triggers_switched_off_and_history_rewritten_are_both_named(store: PostgresStore) -> None:
    s = schema_of(store)
    with psycopg.connect(server(), autocommit=True) as db:
        db.execute(f"ALTER TABLE {s}.events DISABLE TRIGGER append_only".encode())
        db.execute(f"UPDATE {s}.events SET data = '' WHERE position = 3".encode())
    found = problems(store)
    assert 3 in {at for at, _ in found}
    assert any("events.append_only" in reason for _, reason in found)


BROKEN = [
    ("ALTER TABLE {s}.decisions DISABLE TRIGGER ALL", "decisions.append_only"),
    ("DROP TRIGGER no_delete ON {s}.log", "log.no_delete"),
    ("ALTER TABLE {s}.events NO FORCE ROW LEVEL SECURITY", "row-level security is off, or not forced, on events"),
    ("ALTER TABLE {s}.kv DISABLE ROW LEVEL SECURITY", "row-level security is off, or not forced, on kv"),
    ("DROP POLICY sees ON {s}.events", "events.sees"),
    ("ALTER POLICY changes ON {s}.kv USING (true) WITH CHECK (true)", "kv.changes"),
    ("GRANT UPDATE ON {s}.events TO {s}_writer", "REVOKE UPDATE ON {s}.events FROM {s}_writer"),
    ("GRANT DELETE ON {s}.nodes TO {s}_tailer", "REVOKE DELETE ON {s}.nodes FROM {s}_tailer"),
    ("GRANT TRUNCATE ON {s}.facts_0 TO PUBLIC", "privileges on the log that postsale db init did not give"),
    ("GRANT SELECT ON {s}.facts_0 TO {s}_writer", "REVOKE SELECT ON {s}.facts_0 FROM {s}_writer"),
    ("DROP INDEX {s}.decisions_by_version", "decisions has no unique index on (stream, version, tenant)"),
    ("DROP INDEX {s}.facts_1_by_id", "facts_1 has no unique index on (event_id, tenant)"),
    (
        "CREATE OR REPLACE FUNCTION {s}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$",
        "the function refuse is changed",
    ),
    ("DROP FUNCTION {s}.known_prefix", "the function known_prefix is missing"),
]


@pytest.mark.parametrize(("statement", "named"), BROKEN, ids=[named.format(s="s") for _, named in BROKEN])
def test_protection_that_was_taken_away_is_named(store: PostgresStore, statement: str, named: str) -> None:
    s = schema_of(store)
    with psycopg.connect(server(), autocommit=True) as db:
        db.execute(statement.format(s=s).encode())
    assert any(at == 0 and named.format(s=s) in reason for at, reason in problems(store)), problems(store)


def test_an_index_that_lost_an_entry_is_found_because_ids_are_read_through_it(store: PostgresStore) -> None:
    s = schema_of(store)
    with rewriting() as db:
        db.execute(f"UPDATE pg_index SET indisready = false WHERE indexrelid = '{s}.facts_0_by_id'::regclass".encode())
        # The same row once more, which the index misses.
        db.execute(f"WITH it AS (DELETE FROM {s}.facts_0 WHERE position = 2 RETURNING *) INSERT INTO {s}.facts_0 SELECT * FROM it".encode())
        db.execute(f"UPDATE pg_index SET indisready = true WHERE indexrelid = '{s}.facts_0_by_id'::regclass".encode())
    assert (2, "its id and content_mac are not in the table of ids") in problems(store)
