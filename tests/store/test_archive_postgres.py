"""Archived chapters of a PostgreSQL log, where its roles, its partitions and its transactions matter."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from tests.nursery import forked
from tests.postgres import fresh_log, server
from tests.store.stores import fresh_postgres
from tests.store.test_archive_contract import archivable_postgres

from postsale.errors import ContentConflict, NotAllowed, SegmentUnreadable
from postsale.events import Lane, StoredEvent, SystemClock
from postsale.store import NoneSince, Query, Submission, archive_chapter, chapters_of, segments, verify
from postsale.store.postgres import PostgresStore
from postsale.store.postgres_schema import Roles
from postsale.testing import Events
from postsale.testing.store_building import each, positions, stored

KILLED = Path(__file__).with_name("killed_postgres.py")
CHAPTER = 20


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "GROUP_ROWS", 4)


def filled(count: int = 45, seed: int = 5) -> tuple[PostgresStore, list[StoredEvent]]:
    """An open log of two tenants, both lanes, in chapters of 20."""
    events, rand = Events(seed), random.Random(seed)
    store = archivable_postgres(chapter=CHAPTER)
    streams = [events.stream(tenant) for tenant in ("acme", "acme", "globex")]
    versions = dict.fromkeys(streams, 0)
    new = []
    for _ in range(count):
        stream = rand.choice(streams)
        if rand.random() < 0.25:
            new.append(events.decision(stream, versions[stream]))
            versions[stream] += 1
        else:
            new.append(events.fact(stream))
    store.append(each(*new))
    return store, list(store.read(Query()))


def archived(store: PostgresStore, directory: Path, *chapters: int) -> None:
    for chapter in chapters:
        archive_chapter(chapters_of(store), chapter, directory, clock=SystemClock())


def asked(schema: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server(), autocommit=True) as admin:
        return admin.execute(sql.replace("SCHEMA", schema).encode()).fetchall()


def test_a_detached_chapter_has_no_partition_and_its_ids_outlive_it(tmp_path: Path) -> None:
    store, before = filled()
    fact = next(event for event in before if event.lane is Lane.FACT)
    with closing(store):
        archived(store, tmp_path, 0)
        assert asked(store._link.schema, "SELECT to_regclass('SCHEMA.facts_0') IS NULL, to_regclass('SCHEMA.facts_1') IS NULL") == [
            (True, False)
        ]
        shutil.rmtree(tmp_path)
        same = Events(1).fact(fact.stream, event_id=fact.event_id, content_mac=fact.content_mac)
        again = stored(store.append(each(same))[0])
        assert (again.stored, again.positions, again.recorded_at_us) == (False, (fact.position,), (fact.recorded_at_us,))
        (conflict,) = store.append(each(same._replace(content_mac=b"other content...")))
        assert isinstance(conflict, ContentConflict)
        assert conflict.stored_position == fact.position


def test_only_a_member_of_the_migrator_role_archives(tmp_path: Path) -> None:
    with closing(fresh_postgres(chapter=CHAPTER)) as store:
        store.append(each(*(Events(1).fact() for _ in range(1)), *(Events(n).fact() for n in range(2, CHAPTER + 2))))
        with pytest.raises(NotAllowed, match="migrator"):
            archived(store, tmp_path, 0)
        assert verify(store).ok


def test_a_login_made_as_the_refusal_says_looks_at_chapters() -> None:
    url, schema = fresh_log()
    with (
        closing(PostgresStore(url, schema=schema)) as store,
        pytest.raises(NotAllowed, match="Leave a service's login as it is") as refused,
    ):
        chapters_of(store).segments()
    statements = re.findall(r"(?:CREATE|GRANT) .*?;", str(refused.value))
    with psycopg.connect(server(), autocommit=True) as admin:
        for statement in statements:
            admin.execute(statement.encode())
    with closing(PostgresStore(url.replace(f"{schema}_app", f"{schema}_archivist"), schema=schema, as_owner=True)) as owner:
        assert chapters_of(owner).segments() == []
    PostgresStore(url, schema=schema).close()  # the service's login is not refused


def test_a_writer_sees_the_listings_of_its_own_tenant_only(tmp_path: Path) -> None:
    store, _ = filled()
    with closing(store):
        archived(store, tmp_path, 0)
        schema = store._link.schema
        numbers = dict(asked(schema, "SELECT name, no FROM SCHEMA.tenants"))
        with psycopg.connect(server(), autocommit=True) as db, db.transaction():
            db.execute(f"SET LOCAL ROLE {Roles.of(schema).writer}".encode())
            db.execute(f"SET LOCAL postsale.tenant = {numbers['globex']}".encode())
            for table in ("segment_streams", "segment_tenants", "archived_ids"):
                seen = db.execute(f"SELECT DISTINCT tenant FROM {schema}.{table}".encode()).fetchall()
                assert seen == [(numbers["globex"],)], table
                with pytest.raises(psycopg.errors.InsufficientPrivilege), db.transaction():
                    db.execute(f"DELETE FROM {schema}.{table}".encode())


def test_a_segment_that_is_gone_concerns_only_what_needs_it(tmp_path: Path) -> None:
    store, before = filled(65)
    fact = next(event for event in before if event.lane is Lane.FACT)
    with closing(store):
        archived(store, tmp_path, 0, 1)
        name = chapters_of(store).segments()[0].name
        (tmp_path / name).unlink()
        with pytest.raises(SegmentUnreadable) as caught:
            list(store.read(Query()))
        assert (caught.value.chapter, Path(caught.value.path).name) == (0, name)
        assert list(store.read(Query(after=CHAPTER))) == before[CHAPTER:]
        assert list(store.read(Query(lane=Lane.DECISION))) == [event for event in before if event.lane is Lane.DECISION]
        events, broken = Events(9), NoneSince((fact.stream,), frozenset({fact.kind}), 0)
        failed, passed = store.append([Submission((events.fact(),), (broken,)), *each(events.fact())])
        assert isinstance(failed, SegmentUnreadable)
        assert stored(passed).positions == (66,)
        problems = verify(store).problems
        assert any(name in reason and position == 1 for position, reason in problems), problems
        assert len(problems) < 8


def test_a_reader_that_began_before_a_chapter_was_archived_ends_as_it_began(tmp_path: Path) -> None:
    """Each page is a transaction of its own: the later ones find in the archive what the first found in the table."""
    store, before = filled(450)
    with closing(store), closing(store.read(Query())) as reader:
        begun = [next(reader)]
        archived(store, tmp_path, *range(20))
        assert [*begun, *reader] == before
        backward = list(store.read(Query(backward=True)))
        assert backward == before[::-1]


def test_an_archive_that_was_moved_is_read_where_it_is_now(tmp_path: Path) -> None:
    store, before = filled()
    with closing(store):
        archived(store, tmp_path / "cold", 0)
        (tmp_path / "cold").rename(tmp_path / "colder")
        schema, url = store._link.schema, server()
        login = url.replace("://postgres:@", f"://{schema}_app@")
        with closing(PostgresStore(login, schema=schema, archive=tmp_path / "colder", as_owner=True)) as moved:
            assert list(moved.read(Query())) == before
            assert verify(moved).ok


def test_what_the_log_keeps_about_a_segment_is_verified(tmp_path: Path) -> None:
    store, _ = filled()
    with closing(store):
        archived(store, tmp_path, 0)
        schema = store._link.schema
        with psycopg.connect(server(), autocommit=True) as admin:
            admin.execute("SET session_replication_role = replica")  # past the triggers, as a superuser can
            admin.execute(f"UPDATE {schema}.segment_tenants SET leaves = ''".encode())
        assert any("the listing kept in the log" in reason for _, reason in verify(store).problems)


def test_killed_at_any_moment_the_log_verifies_reads_the_same_and_archiving_goes_on(tmp_path: Path) -> None:
    seed = random.getrandbits(32)
    rand = random.Random(seed)

    def run(store: PostgresStore, directory: Path, since: str, kill_at: int) -> str:
        schema = store._link.schema
        login = server().replace("://postgres:@", f"://{schema}_app@")
        command = forked(KILLED, login, schema, directory, since, kill_at)
        return subprocess.run(command, capture_output=True, text=True, check=not kill_at).stdout

    detached = set()
    for since in ("archive_chapter", "detach"):
        store, _ = filled(30)
        with closing(store):
            moments = int(run(store, tmp_path / f"whole {since}", since, 0))
        for at in sorted(rand.sample(range(1, moments), 3)):
            store, before = filled(30)
            directory = tmp_path / f"{since} {at}"
            with closing(store):
                assert run(store, directory, since, at) == ""
                detached.add(bool(chapters_of(store).segments()))
                assert list(store.read(Query())) == before, (seed, since, at)
                assert verify(store).problems == [], (seed, since, at)
                archived(store, directory, 0)
                assert list(store.read(Query())) == before, (seed, since, at)
                assert verify(store).problems == [], (seed, since, at)
                assert positions(store, Query(lane=Lane.FACT, upto=CHAPTER)) == [
                    event.position for event in before[:CHAPTER] if event.lane is Lane.FACT
                ]
    assert False in detached
