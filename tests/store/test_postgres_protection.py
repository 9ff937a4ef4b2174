"""What a PostgreSQL log refuses below all code of ours: rewriting history, moving heads, more power than a role was given."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors
from tests.postgres import new_log
from tests.store.raw_log import ACME, BIRCH, HEAD, SYSTEM, RawLog, as_admin, as_role, as_writer, raw_log, refused

from postsale.store.postgres_init import GRANTS
from postsale.store.postgres_schema import APPEND_ONLY

BROKEN = errors.IntegrityConstraintViolation


@pytest.fixture(scope="module")
def log() -> Iterator[RawLog]:
    """Every test rolls back."""
    with raw_log(SYSTEM, ACME, BIRCH) as found:
        yield found


# ---------------------------------------------------------------- history


@pytest.mark.parametrize("table", [*APPEND_ONLY, "facts", "facts_0", "decisions"])
@pytest.mark.parametrize(
    "statement", ["UPDATE {t} SET {c} = {c}", "DELETE FROM {t}", "TRUNCATE {t} CASCADE", "TRUNCATE {s}.events CASCADE"]
)
def test_history_is_refused_to_be_changed_even_to_a_superuser(log: RawLog, table: str, statement: str) -> None:
    column = {"kinds": "wire_name", "segments": "name"}.get(table, "tenant")
    with as_admin() as db:
        db.execute(f"INSERT INTO {log.schema}.kinds (wire_name, schema) VALUES ('a@1', '')".encode())
        db.execute(f"INSERT INTO {log.schema}.segments VALUES (-1, '', '', 1, 1, 1, 1, '', '', 1, '')".encode())
        said = refused(db, statement.format(t=f"{log.schema}.{table}", s=log.schema, c=column), because=BROKEN)
        assert "append-only" in said
        raise psycopg.Rollback


def test_the_owner_of_the_tables_is_no_way_around(log: RawLog) -> None:
    """A service that logs in as the owner is refused; if it were not, forced row security would leave it little."""
    s = log.schema
    with as_admin() as db:
        db.execute(f"SET LOCAL ROLE {log.roles.migrator}")
        for table in APPEND_ONLY:
            refused(db, f"TRUNCATE {s}.{table}", because=BROKEN)
        for table in ("events", "streams", "nodes", "archived_ids", "kv", "quarantine"):
            assert db.execute(f"UPDATE {s}.{table} SET tenant = 1".encode()).rowcount == 0
            assert db.execute(f"DELETE FROM {s}.{table}".encode()).rowcount == 0
        for table in ("nodes", "kv", "quarantine"):
            assert db.execute(f"SELECT * FROM {s}.{table}".encode()).fetchall() == []
        refused(db, fact(s, HEAD + 1))
        refused(db, f"INSERT INTO {s}.kv VALUES (1, 'space', 'key', 'value')")
        for part in ("decisions", "facts_0"):
            refused(db, f"DELETE FROM {s}.{part}", because=BROKEN)


@pytest.mark.parametrize("table", [*APPEND_ONLY, "facts_0", "decisions", "log"])
def test_history_is_not_a_writers_to_change(log: RawLog, table: str) -> None:
    column = {"kinds": "wire_name", "segments": "name", "log": "log_id"}.get(table, "tenant")
    with as_writer(log, ACME) as db:
        for statement in ("UPDATE {t} SET {c} = {c}", "DELETE FROM {t}", "TRUNCATE {t}"):
            refused(db, statement.format(t=f"{log.schema}.{table}", c=column))


def test_the_partition_of_a_new_chapter_is_protected_like_the_first(log: RawLog) -> None:
    with as_admin() as db:
        db.execute(f"SELECT {log.schema}.ensure_chapter(3)")
        look = "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND tgenabled = 'O' ORDER BY 1"
        first, new = (db.execute(look, (f"{log.schema}.{name}",)).fetchall() for name in ("facts_0", "facts_3"))
        assert first == new
        raise psycopg.Rollback


# ---------------------------------------------------------------- heads


def fact(s: str, position: int, *, recorded_at: int | None = None, lane: int = 0) -> str:
    row = f"{position}, {ACME}, 10, {lane}, {position}, 'e{position}', 100, 1, {recorded_at or position}"
    return f"INSERT INTO {s}.events VALUES ({row}, 'm', 'h', 'd', 's', {position}, 'l')"


def head(s: str, position: int, recorded_at: int | None = None) -> str:
    return f"UPDATE {s}.log SET position = {position}, recorded_at = {recorded_at or position}; SET CONSTRAINTS ALL IMMEDIATE"


def test_the_head_moves_over_the_events_that_were_written(log: RawLog) -> None:
    s = log.schema
    with as_writer(log, ACME) as db:
        db.execute("; ".join((*(fact(s, HEAD + n, lane=n % 2) for n in (2, 1, 3)), head(s, HEAD + 3))).encode())
        db.execute("; ".join((fact(s, HEAD + 4, recorded_at=HEAD + 40), head(s, HEAD + 4, HEAD + 40))).encode())


@pytest.mark.parametrize(
    ("written", "moved", "said"),
    [
        ((), (HEAD + 1,), "only moves over events"),
        ((), (HEAD + 1_000_000,), "only moves over events"),
        ((HEAD + 1,), (HEAD + 1_000_000,), "only moves over events"),
        ((HEAD + 1, HEAD + 3), (HEAD + 3,), "only moves over events"),
        ((HEAD + 1, HEAD + 2), (HEAD + 1, HEAD + 2), "the clock of the log"),
        ((HEAD + 1,), (HEAD + 1, HEAD + 100), "the clock of the log"),
    ],
)
def test_the_head_moves_over_nothing_else(log: RawLog, written: tuple[int, ...], moved: tuple[int, ...], said: str) -> None:
    """A writer that could move it by a million would leave a gap for ever, at which every reader stops."""
    s = log.schema
    with as_writer(log, ACME) as db:
        assert said in refused(db, "; ".join((*(fact(s, position) for position in written), head(s, *moved))), because=BROKEN)


def test_two_events_at_one_position_do_not_hide_a_gap(log: RawLog) -> None:
    s = log.schema
    with as_writer(log, ACME) as db:
        for second in (HEAD + 1, HEAD + 3):
            statements = (fact(s, HEAD + 1), fact(s, second, lane=1), fact(s, HEAD + 3), head(s, HEAD + 3))
            refused(db, "; ".join(statements), because=BROKEN)


def test_events_recorded_before_the_head_are_refused(log: RawLog) -> None:
    s = log.schema
    with as_writer(log, ACME) as db:
        early = (fact(s, HEAD + 1, recorded_at=HEAD), fact(s, HEAD + 2), head(s, HEAD + 2))
        assert "the clock of the log" in refused(db, "; ".join(early), because=BROKEN)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {s}.log SET position = 3",
        "UPDATE {s}.log SET recorded_at = 3",
        "UPDATE {s}.log SET position = position + 1, recorded_at = 3",
        "UPDATE {s}.log SET log_id = 'other', position = 100, recorded_at = 100",
        "UPDATE {s}.log SET chapter = 9, position = 100, recorded_at = 100",
        "UPDATE {s}.tenants SET size = size - 1 WHERE no = 1",
        "UPDATE {s}.tenants SET frontier = 'other' WHERE no = 1",
        "UPDATE {s}.tenants SET name = 'other', size = 100 WHERE no = 1",
        "UPDATE {s}.tenants SET no = 100, size = 100 WHERE no = 1",
        "DELETE FROM {s}.log",
        "DELETE FROM {s}.tenants",
        "TRUNCATE {s}.log",
        "TRUNCATE {s}.tenants",
    ],
)
def test_a_head_never_moves_backwards_not_even_for_a_superuser(log: RawLog, statement: str) -> None:
    with as_admin() as db:
        refused(db, statement.format(s=log.schema), because=BROKEN)


# ---------------------------------------------------------------- functions that run as the owner


def test_a_writers_own_types_do_not_run_inside_the_owners_functions(log: RawLog) -> None:
    """A temporary type called `text` comes first in a search path that does not put pg_temp last; its CHECK then runs as the owner."""
    with as_writer(log, ACME) as db:
        db.execute("CREATE TEMP TABLE loot (taken name)")
        db.execute("GRANT INSERT ON loot TO PUBLIC")
        db.execute(
            "CREATE FUNCTION pg_temp.rob(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO pg_temp.loot VALUES (current_user); RETURN true; END $$"
        )
        for name in ("text", "int4", "int8", "bytea", "name", "regclass"):
            db.execute(f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{name} CHECK (pg_temp.rob(value::pg_catalog.text))".encode())
        db.execute(f"SELECT {log.schema}.ensure_chapter(3), {log.schema}.enter('robber', true), {log.schema}.enter('acme', false)".encode())
        db.execute(f"{fact(log.schema, HEAD + 1)}; {head(log.schema, HEAD + 1)}".encode())
        assert db.execute("SELECT * FROM pg_temp.loot WHERE taken <> current_user").fetchall() == []


def test_a_function_with_the_owners_power_has_a_fixed_search_path_and_is_not_everybodys(log: RawLog) -> None:
    with as_admin() as db:
        functions = db.execute(
            "SELECT p.oid::regprocedure::text, proconfig, prosecdef, pg_get_userbyid(proowner),"
            " EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)"
            " FROM pg_proc p WHERE pronamespace = %s::regnamespace",
            (log.schema,),
        ).fetchall()
    assert sum(power for _, _, power, *_ in functions) >= 4
    for name, config, power, owner, everybodys in functions:
        assert owner == log.roles.migrator
        if power:
            assert config == ["search_path=pg_catalog, pg_temp"], name
            assert not everybodys, name


def test_the_roles_have_exactly_the_privileges_that_are_listed(log: RawLog) -> None:
    with as_admin() as db:
        found = db.execute(
            "SELECT relname, pg_get_userbyid(grantee), privilege_type, NULL FROM pg_class, aclexplode(relacl)"
            " WHERE relnamespace = %(s)s::regnamespace AND grantee <> relowner"
            " UNION ALL SELECT relname, pg_get_userbyid(grantee), privilege_type, attname FROM pg_class c"
            " JOIN pg_attribute ON attrelid = c.oid, aclexplode(attacl) WHERE relnamespace = %(s)s::regnamespace",
            {"s": log.schema},
        ).fetchall()
    listed = {
        (grant.table, getattr(log.roles, grant.role), grant.privilege, column) for grant in GRANTS for column in (grant.columns or (None,))
    }
    chapters = {(f"facts_{n}", log.roles.writer, "INSERT", None) for n in range(3)}
    assert set(found) == listed | chapters


# ---------------------------------------------------------------- chapters


@pytest.mark.parametrize("chapter", [-1, 67, 2**40])
def test_a_chapter_far_from_the_head_is_not_made(log: RawLog, chapter: int) -> None:
    with as_writer(log, ACME) as db:
        refused(db, f"SELECT {log.schema}.ensure_chapter({chapter})", because=errors.RaiseException)


def test_a_chapter_that_was_taken_away_is_not_made_again(log: RawLog) -> None:
    s = log.schema
    with as_admin() as db:
        db.execute(f"ALTER TABLE {s}.facts DETACH PARTITION {s}.facts_0".encode())
        db.execute(f"ALTER TABLE {s}.facts_0 SET SCHEMA public".encode())
        refused(db, f"SELECT {s}.ensure_chapter(0)", because=errors.RaiseException)
        raise psycopg.Rollback


def test_a_new_chapter_waits_for_no_reader(log: RawLog) -> None:
    with as_role(log, log.roles.tailer) as reader, as_writer(log, ACME) as db:
        reader.execute(f"SELECT count(*) FROM {log.schema}.events".encode())
        db.execute("SET LOCAL lock_timeout = '2s'")
        db.execute(f"SELECT {log.schema}.ensure_chapter(3)".encode())


def test_two_writers_may_need_the_next_chapter_at_once() -> None:
    with new_log(chapter=8) as (url, schema):
        log = RawLog(url, schema)
        gate = threading.Barrier(4)
        failed: list[BaseException] = []

        def need() -> None:
            try:
                with psycopg.connect(log.url) as db:
                    db.execute(f"SET LOCAL ROLE {log.roles.writer}")
                    gate.wait()
                    for chapter in (1, 2, 3):
                        db.execute(f"SELECT {schema}.ensure_chapter({chapter})".encode())
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=need) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
