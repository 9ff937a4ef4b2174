"""A tenant never sees another, and writes nothing in another's name: what the database itself holds to, under the writer's role.

Real connections, hand-written statements. What a session can do that may choose its own tenant is not held here, and
docs/adr/0013-tenants-in-the-database.md says so.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors
from tests.postgres import new_log
from tests.store.raw_log import ACME, BIRCH, HEAD, SYSTEM, TENANT_COLUMN, RawLog, as_admin, as_role, as_writer, of_birch, raw_log, refused

from postsale.store.postgres_schema import EVENT_COLUMNS

TABLES = tuple(TENANT_COLUMN)
NO_TENANT = (errors.UndefinedObject, errors.InvalidTextRepresentation, errors.NumericValueOutOfRange)


@pytest.fixture(scope="module")
def log() -> Iterator[RawLog]:
    """Three tenants' rows. Every test rolls back."""
    with raw_log(SYSTEM, ACME, BIRCH) as found:
        yield found


def event(s: str, tenant: int, *, stream: int = 10, position: int = HEAD + 1, lane: int = 0, version: int = 99, id: str = "new") -> str:
    numbers = f"{position}, {tenant}, {stream}, {lane}, {version}, '{id}', 100, 1, {position}"
    return f"INSERT INTO {s}.events VALUES ({numbers}, 'm', 'h', 'd', 's', 7, 'l')"


# ---------------------------------------------------------------- no tenant, a wrong one, another one


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("tenant", [None, "", " ", "acme", "1.5", "1; SELECT 1", "99999999999"])
def test_without_the_number_of_a_tenant_every_table_is_an_error(log: RawLog, table: str, tenant: str | None) -> None:
    column = TENANT_COLUMN[table]
    with as_writer(log, tenant) as db:
        for statement in (f"SELECT * FROM {log.schema}.{table}", f"SELECT count(*) FROM {log.schema}.{table} WHERE {column} = 1"):
            with pytest.raises(NO_TENANT), db.transaction():
                db.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO {s}.streams (tenant, category, id) VALUES (1, 'customers', 'new')",
        "INSERT INTO {s}.nodes VALUES (1, 3, 0, 'h')",
        "INSERT INTO {s}.kv VALUES (1, 'space', 'key', 'value')",
        "UPDATE {s}.kv SET value = ''",
        "DELETE FROM {s}.kv",
        "UPDATE {s}.quarantine SET status = 'dropped'",
        "UPDATE {s}.tenants SET size = 100",
        event("{s}", 1),
    ],
)
def test_without_a_tenant_nothing_is_written(log: RawLog, statement: str) -> None:
    with as_writer(log) as db, pytest.raises(NO_TENANT):
        db.execute(statement.format(s=log.schema).encode())


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("tenant", "seen"), [(ACME, {0, 1}), (BIRCH, {0, 2}), (SYSTEM, {0}), (-1, {0}), (77, {0})])
def test_a_writer_sees_its_own_tenant_and_the_system(log: RawLog, table: str, tenant: int, seen: set[int]) -> None:
    with as_writer(log, tenant) as db:
        rows = db.execute(f"SELECT {TENANT_COLUMN[table]} FROM {log.schema}.{table}".encode()).fetchall()
    assert {number for (number,) in rows} == seen


@pytest.mark.parametrize("table", TABLES)
def test_a_tailer_sees_all_tenants_and_changes_nothing(log: RawLog, table: str) -> None:
    with as_role(log, log.roles.tailer) as db:
        rows = db.execute(f"SELECT {TENANT_COLUMN[table]} FROM {log.schema}.{table}".encode()).fetchall()
        assert {number for (number,) in rows} == {0, 1, 2}
        for statement in ("DELETE FROM {t}", "UPDATE {t} SET {c} = 1", "INSERT INTO {t} DEFAULT VALUES", "TRUNCATE {t}"):
            refused(db, statement.format(t=f"{log.schema}.{table}", c=TENANT_COLUMN[table]))


@pytest.mark.parametrize("table", TABLES)
def test_a_login_that_takes_no_role_sees_nothing(log: RawLog, table: str) -> None:
    with as_role(log, None, ACME) as db:
        refused(db, f"SELECT * FROM {log.schema}.{table}")


@pytest.mark.parametrize("table", TABLES)
def test_a_login_that_inherits_both_roles_is_still_held_to_its_tenant(log: RawLog, table: str) -> None:
    """The policies of writers restrict: those of tailers, which the login has too, do not widen them."""
    login = f"{log.schema}_heir"
    with as_admin() as admin:
        admin.execute(f"CREATE ROLE {login} LOGIN INHERIT IN ROLE {log.roles.writer}, {log.roles.tailer}")
    try:
        heir = log._replace(url=log.url.replace(f"{log.schema}_app@", f"{login}@"))
        with as_role(heir, None) as db, pytest.raises(NO_TENANT):
            db.execute(f"SELECT * FROM {log.schema}.{table}".encode())
        with as_role(heir, None, ACME) as db:
            rows = db.execute(f"SELECT {TENANT_COLUMN[table]} FROM {log.schema}.{table}".encode()).fetchall()
        assert {number for (number,) in rows} == {0, 1}
    finally:
        with as_admin() as admin:
            admin.execute(f"DROP ROLE {login}")


# ---------------------------------------------------------------- writing in another's name


@pytest.mark.parametrize("other", [BIRCH, SYSTEM, -1])
def test_a_row_in_another_tenants_name_is_refused(log: RawLog, other: int) -> None:
    s = log.schema
    with as_writer(log, ACME) as db:
        for statement in (
            event(s, other, stream=20),
            f"INSERT INTO {s}.events SELECT position + {HEAD}, {other}, {', '.join(name for name, _ in EVENT_COLUMNS[2:])} FROM {s}.events",
            f"INSERT INTO {s}.streams (tenant, category, id) VALUES ({other}, 'customers', 'new')",
            f"INSERT INTO {s}.nodes VALUES ({other}, 3, 0, 'h')",
            f"INSERT INTO {s}.kv VALUES ({other}, 'space', 'key', 'value')",
            f"INSERT INTO {s}.kv VALUES ({other}, 'leases', 'shared', 'v') ON CONFLICT (tenant, space, key) DO UPDATE SET value = 'mine'",
            f"INSERT INTO {s}.kv VALUES ({other}, 'leases', 'shared', 'v') ON CONFLICT DO NOTHING",
            f"INSERT INTO {s}.quarantine (tenant, id, source, reason, received_at, body, status) VALUES ({other}, 'q', '', '', 1, '', '')",
            f"MERGE INTO {s}.kv USING (VALUES (1)) v ON key = 'no' WHEN NOT MATCHED THEN INSERT VALUES ({other}, 'space', 'key', 'value')",
        ):
            refused(db, statement)


@pytest.mark.parametrize("tenant", [ACME, -1])
def test_rows_of_others_are_neither_changed_nor_removed(log: RawLog, tenant: int) -> None:
    s = log.schema
    with as_writer(log, tenant) as db:
        for statement in (
            f"UPDATE {s}.kv SET value = 'mine'",
            f"UPDATE {s}.kv SET value = 'mine' FROM {s}.tenants WHERE tenant = 2 OR tenant = no",
            f"UPDATE {s}.quarantine SET status = 'dropped'",
            f"UPDATE {s}.tenants SET size = size + 1",
            f"DELETE FROM {s}.kv WHERE tenant <> {tenant} OR true",
        ):
            db.execute(statement.encode())
        db.execute("RESET ROLE")
        db.execute(f"SET LOCAL ROLE {log.roles.tailer}")
        others = f"WHERE tenant <> {tenant}"
        mine = (int(tenant == ACME),)
        assert db.execute(f"SELECT count(*) FROM {s}.kv {others} AND value <> 'mine'".encode()).fetchone() == (6 - 2 * mine[0],)
        assert db.execute(f"SELECT count(*) FROM {s}.quarantine WHERE status = 'dropped'".encode()).fetchone() == mine
        assert db.execute(f"SELECT count(*) FROM {s}.tenants WHERE size > 7".encode()).fetchone() == mine


@pytest.mark.parametrize("column", ["tenant", "space", "key"])
def test_a_record_cannot_be_moved(log: RawLog, column: str) -> None:
    with as_writer(log, ACME) as db:
        refused(db, f"UPDATE {log.schema}.kv SET {column} = DEFAULT")


def test_the_system_is_written_in_its_own_name_only(log: RawLog) -> None:
    s = log.schema
    with as_writer(log, SYSTEM) as db:
        assert db.execute(f"UPDATE {s}.kv SET value = 'mine'".encode()).rowcount == 2
        assert db.execute(f"INSERT INTO {s}.streams (tenant, category, id) VALUES (0, 'agents', 'a')".encode()).rowcount == 1
        refused(db, f"INSERT INTO {s}.streams (tenant, category, id) VALUES (1, 'agents', 'a')")
    with as_writer(log, ACME) as db:
        assert db.execute(f"SELECT count(*) FROM {s}.kv WHERE tenant = 0".encode()).fetchone() == (2,)
        assert db.execute(f"UPDATE {s}.kv SET value = 'mine' WHERE tenant = 0".encode()).rowcount == 0


def test_an_event_in_a_stream_of_another_tenant_is_refused(log: RawLog) -> None:
    """Whoever reads all tenants would take it for that tenant's."""
    s = log.schema
    move = f"UPDATE {s}.log SET position = {HEAD + 1}, recorded_at = {HEAD + 1}; SET CONSTRAINTS ALL IMMEDIATE"
    with as_writer(log, ACME) as db:
        for stream in (20, 4_711):
            refused(db, f"{event(s, ACME, stream=stream)}; {move}", because=errors.IntegrityConstraintViolation)
        db.execute(f"{event(s, ACME, stream=10)}; {move}".encode())


def test_the_same_customer_in_two_tenants_is_two_customers() -> None:
    with raw_log() as log:
        numbers = []
        for name in ("acme", "birch"):
            with psycopg.connect(log.url) as db:
                db.execute(f"SET LOCAL ROLE {log.roles.writer}")
                (tenant,) = db.execute(f"SELECT {log.schema}.enter(%s, true)", (name,)).fetchone() or ()
                db.execute(f"INSERT INTO {log.schema}.streams (tenant, category, id) VALUES ({tenant}, 'customers', 'cus_42')".encode())
                numbers.append(db.execute(f"SELECT no, tenant FROM {log.schema}.streams WHERE id = 'cus_42'".encode()).fetchall())
        assert [len(found) for found in numbers] == [1, 1]
        assert numbers[0] != numbers[1]


# ---------------------------------------------------------------- around the policies


@pytest.mark.parametrize("part", ["decisions", "facts", "facts_0", "facts_1"])
def test_the_partitions_are_not_read_directly(log: RawLog, part: str) -> None:
    """A policy guards the table that a statement names; a partition named directly would have none."""
    s = log.schema
    for role in (log.roles.writer, log.roles.tailer, None):
        with as_role(log, role, ACME) as db:
            for statement in (f"SELECT * FROM {s}.{part}", f"COPY {s}.{part} TO STDOUT", f"DELETE FROM {s}.{part}", f"TRUNCATE {s}.{part}"):
                refused(db, statement)


def test_the_partition_of_a_new_chapter_is_not_read_directly_either(log: RawLog) -> None:
    with as_writer(log, ACME) as db:
        db.execute(f"SELECT {log.schema}.ensure_chapter(3)".encode())
        db.execute(f"GRANT SELECT ON {log.schema}.facts_3 TO {log.roles.writer}".encode())  # only warns that nothing was granted
        for statement in ("SELECT * FROM {p}", "UPDATE {p} SET tenant = 1", "DELETE FROM {p}", "TRUNCATE {p}"):
            refused(db, statement.format(p=f"{log.schema}.facts_3"))


@pytest.mark.parametrize("table", TABLES)
def test_copy_out_shows_own_rows_only(log: RawLog, table: str) -> None:
    whole = f"(SELECT * FROM {log.schema}.{table})" if table == "events" else f"{log.schema}.{table}"
    with as_writer(log, ACME) as db, db.cursor().copy(f"COPY {whole} TO STDOUT".encode()) as copy:
        shown = b"".join(copy).decode()
    assert shown
    assert not of_birch(shown)


@pytest.mark.parametrize("table", ["events", "nodes", "kv"])
def test_copy_in_past_the_policies_is_refused(log: RawLog, table: str) -> None:
    with as_writer(log, ACME) as db:
        refused(db, f"COPY {log.schema}.{table} FROM STDIN", because=errors.FeatureNotSupported)


@pytest.mark.parametrize("part", ["decisions", "facts_2"])
@pytest.mark.parametrize("tenant", [BIRCH, SYSTEM, -1, 77])
def test_bulk_that_goes_straight_into_a_partition_is_held_to_the_tenant(log: RawLog, part: str, tenant: int) -> None:
    """COPY is allowed there, past the policies; a trigger looks at every row. One wrong row among good ones is enough."""
    s, lane = log.schema, int(part == "decisions")

    def rows(*tenants: int) -> str:
        numbers = ((HEAD + 1 + n, whose, 10, lane, HEAD + 1 + n, f"new{n}", 100, 1, HEAD + 1 + n) for n, whose in enumerate(tenants))
        return "".join("\t".join(map(str, (*row, "m", "h", "d", "s", 7, "l"))) + "\n" for row in numbers)

    def bulk(db: psycopg.Connection[tuple[object, ...]], data: str) -> None:
        with db.transaction(), db.cursor().copy(f"COPY {s}.{part} FROM STDIN".encode()) as copy:
            copy.write(data)

    with as_writer(log, ACME) as db:
        with pytest.raises(errors.InsufficientPrivilege, match="an event of another tenant"):
            bulk(db, rows(ACME, tenant, ACME))
        refused(db, event(s, tenant, lane=lane).replace(".events", f".{part}"))
        bulk(db, rows(ACME, ACME, ACME))
    with as_writer(log) as db, pytest.raises(NO_TENANT):
        bulk(db, rows(ACME))


def test_row_security_cannot_be_switched_off(log: RawLog) -> None:
    with as_writer(log, ACME) as db:
        db.execute("SET LOCAL row_security = off")
        for table in TABLES:
            refused(db, f"SELECT * FROM {log.schema}.{table}")


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE {s}.events DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE {s}.events NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE {s}.events DISABLE TRIGGER ALL",
        "DROP TRIGGER append_only ON {s}.events",
        "CREATE TRIGGER mine AFTER INSERT ON {s}.events FOR EACH ROW EXECUTE FUNCTION {s}.refuse()",
        "CREATE RULE mine AS ON INSERT TO {s}.kv DO ALSO DELETE FROM {s}.kv",
        "DROP POLICY sees ON {s}.events",
        "ALTER POLICY sees ON {s}.events USING (true)",
        "CREATE POLICY mine ON {s}.events USING (true)",
        "CREATE OR REPLACE FUNCTION {s}.tenant_no() RETURNS integer LANGUAGE sql RETURN 2",
        "ALTER FUNCTION {s}.tenant_no() RESET ALL",
        "CREATE VIEW {s}.everything AS SELECT * FROM {s}.events",
        "CREATE TABLE {s}.mine (n integer)",
        "DROP TABLE {s}.kv",
        "DROP SCHEMA {s} CASCADE",
        "GRANT SELECT ON {s}.facts TO {s}_writer",
        "GRANT {s}_migrator TO {s}_app",
        "ALTER TABLE {s}.facts DETACH PARTITION {s}.facts_0",
        "CREATE INDEX ON {s}.kv (value)",
        "SELECT setval('{s}.revisions', 1)",
        "SELECT last_value FROM {s}.revisions",
        "SELECT setval('{s}.streams_no_seq', 1)",
        "SELECT nextval('{s}.streams_no_seq')",
        "INSERT INTO {s}.streams (no, tenant, category, id) VALUES (500, 1, 'customers', 'chosen')",
        "INSERT INTO {s}.kinds (no, wire_name, schema) VALUES (500, 'chosen@1', '')",
        "INSERT INTO {s}.tenants (name) VALUES ('chosen')",
        "INSERT INTO {s}.log SELECT * FROM {s}.log",
        "SET ROLE {s}_migrator",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "SET session_replication_role = replica",
        "LOCK TABLE {s}.events IN ACCESS EXCLUSIVE MODE",
        "SELECT * FROM pg_statistic",
        "SELECT * FROM pg_read_file('PG_VERSION')",
    ],
)
@pytest.mark.parametrize("role", ["writer", "tailer", None])
def test_whoever_is_held_by_the_policies_cannot_change_them(log: RawLog, statement: str, role: str | None) -> None:
    with as_role(log, role and getattr(log.roles, role), ACME) as db:
        refused(db, statement.format(s=log.schema))


# ---------------------------------------------------------------- leaks on the side


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_error_does_not_tell_whether_another_tenant_has_a_version_or_an_id(log: RawLog, version: int) -> None:
    """Birch's stream 21 is at version 2. Acme's attempt to write into it says the same for a version that is there and one that is not."""
    s = log.schema
    move = f"UPDATE {s}.log SET position = {HEAD + 1}, recorded_at = {HEAD + 1}; SET CONSTRAINTS ALL IMMEDIATE"
    with as_writer(log, ACME) as db:
        said = refused(db, f"{event(s, ACME, stream=21, lane=1, version=version)}; {move}", because=errors.IntegrityConstraintViolation)
        assert "an event in a stream of another tenant" in said
        for id_ in ("birch 13", "never"):
            db.execute(event(s, ACME, stream=11, lane=1, id=id_, position=HEAD + 1 + len(id_), version=len(id_)).encode())


@pytest.mark.parametrize("key", ["shared", "of birch", "never"])
def test_a_key_of_another_tenant_is_free(log: RawLog, key: str) -> None:
    s = log.schema
    with as_writer(log, ACME) as db:
        db.execute(f"DELETE FROM {s}.kv".encode())
        assert db.execute(f"INSERT INTO {s}.kv VALUES (1, 'leases', %s, '') ON CONFLICT DO NOTHING", (key,)).rowcount == 1


def test_the_planners_statistics_show_nothing(log: RawLog) -> None:
    with as_admin() as db:
        for table in (*TABLES, "decisions", "facts_0", "facts_1"):
            db.execute(f"ANALYZE {log.schema}.{table}".encode())
    look = "SELECT tablename, most_common_vals::text, histogram_bounds::text FROM pg_stats WHERE schemaname = %s AND tablename NOT IN ('log', 'kinds')"
    with as_admin() as db:
        assert of_birch(db.execute(look, (log.schema,)).fetchall()), "there is something to hide"
    for role in (log.roles.writer, None):
        with as_role(log, role, ACME) as db:
            assert db.execute(look, (log.schema,)).fetchall() == []


def test_entering_shows_no_name_and_no_row(log: RawLog) -> None:
    with as_writer(log, ACME) as db:
        assert db.execute(f"SELECT {log.schema}.enter('nobody', false)".encode()).fetchone() == (None,)
        assert db.execute(f"SELECT DISTINCT tenant FROM {log.schema}.events".encode()).fetchall() == [(SYSTEM,)]
        db.execute(f"SELECT {log.schema}.enter('acme', false)".encode())
        assert db.execute(f"SELECT name FROM {log.schema}.tenants ORDER BY name".encode()).fetchall() == [("_system",), ("acme",)]


# ---------------------------------------------------------------- connections that are used again


def test_a_connection_used_again_inherits_no_tenant(log: RawLog) -> None:
    """After a commit, a rollback, an error, a savepoint; as a transaction pooler hands it on."""

    def work(db: psycopg.Connection[tuple[object, ...]]) -> None:
        db.execute(f"SET LOCAL ROLE {log.roles.writer}")
        db.execute(f"SELECT {log.schema}.enter('acme', false)".encode())
        assert db.execute(f"SELECT count(*) FROM {log.schema}.streams WHERE tenant = 1".encode()).fetchone() == (3,)

    def fail(db: psycopg.Connection[tuple[object, ...]]) -> None:
        with db.transaction():
            work(db)
            db.execute("SELECT 1 / 0")

    def nothing_is_left(db: psycopg.Connection[tuple[object, ...]]) -> None:
        with db.transaction(force_rollback=True):
            assert db.execute("SELECT current_user = session_user, current_setting('postsale.tenant', true)").fetchone() in [
                (True, None),
                (True, ""),
            ]
            db.execute(f"SET LOCAL ROLE {log.roles.writer}")
            for table in TABLES:
                with pytest.raises(NO_TENANT), db.transaction():
                    db.execute(f"SELECT * FROM {log.schema}.{table}".encode())

    with psycopg.connect(log.url, autocommit=True) as db:
        with db.transaction():
            work(db)
        nothing_is_left(db)
        with db.transaction(force_rollback=True):
            work(db)
        nothing_is_left(db)
        with pytest.raises(errors.DivisionByZero):
            fail(db)
        nothing_is_left(db)
        with db.transaction():
            with db.transaction(force_rollback=True):
                work(db)
            db.execute(f"SET LOCAL ROLE {log.roles.writer}")
            with pytest.raises(NO_TENANT), db.transaction():
                db.execute(f"SELECT * FROM {log.schema}.events".encode())
        nothing_is_left(db)


def test_two_logs_on_one_server_do_not_know_each_other(log: RawLog) -> None:
    with new_log() as (url, schema), as_writer(RawLog(url, schema), ACME) as db:
        refused(db, f"SELECT * FROM {log.schema}.events")
        refused(db, f"SET ROLE {log.roles.writer}")
