"""What is refused of a server, a database and a login, and that what a refusal tells to type mends it. Everything is really broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from psycopg_pool import ConnectionPool
from tests.postgres import new_log, server
from tests.store.raw_log import RawLog

from postsale import PostSale
from postsale.errors import InvalidInput, UnsafeDatabase
from postsale.store import open_store, verify
from postsale.store.postgres import PostgresStore
from postsale.store.postgres_admin import apply_init, check_version, members
from postsale.store.postgres_checks import checks, server_checks
from postsale.store.postgres_schema import SCHEMA_VERSION, Roles, init_sql, login_sql
from postsale.testing import Events
from postsale.testing.store_building import each, stored


@pytest.fixture
def log() -> Iterator[RawLog]:
    with new_log(chapter=8) as (url, schema):
        yield RawLog(url, schema)


@contextmanager
def admin(database: str = "postgres") -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(server().replace("/postgres?", f"/{database}?"), autocommit=True) as db:
        yield db


def wrong(log: RawLog, url: str | None = None) -> dict[str, str]:
    """The checks that fail for a new connection of the service, and what each tells to do."""
    with psycopg.connect(url or log.url) as db:
        return {check.name: check.fix for check in checks(db, log.schema, {}) if not check.ok}


def typed(fix: str) -> str:
    """The statements of a text that begins with `Type`."""
    found = re.match(r"Type(?: as a superuser)?: (.*;)", fix)
    assert found, fix
    return found[1]


BREAKS = [
    ("synchronous_commit", "ALTER ROLE {login} SET synchronous_commit = off"),
    ("synchronous_commit", "ALTER ROLE {login} IN DATABASE postgres SET synchronous_commit = off"),
    ("bypassrls", "ALTER ROLE {login} BYPASSRLS"),
    ("bypassrls", "CREATE ROLE {s}_power BYPASSRLS; GRANT {s}_power TO {login}"),
    ("bypassrls", "CREATE ROLE {s}_power SUPERUSER; GRANT {s}_power TO {login} WITH INHERIT FALSE, SET FALSE, ADMIN TRUE"),
    ("bypassrls", "GRANT pg_execute_server_program TO {login}"),
    ("createrole", "ALTER ROLE {login} CREATEROLE"),
    ("owner", "GRANT {s}_migrator TO {login}"),
    ("owner", "GRANT {s}_migrator TO {login} WITH INHERIT TRUE, SET FALSE"),
    ("owner", "GRANT {s}_migrator TO {login} WITH INHERIT FALSE, SET FALSE, ADMIN TRUE"),
    ("owner", "CREATE ROLE {s}_power; ALTER TABLE {s}.kv OWNER TO {s}_power; GRANT {s}_power TO {login}"),
    ("roles", "REVOKE {s}_writer FROM {login}"),
    ("roles", "REVOKE {s}_writer, {s}_tailer FROM {login}"),
    ("roles", "GRANT {s}_tailer TO {login} WITH SET FALSE"),
    ("no_tenant_preset", "ALTER ROLE {login} SET postsale.tenant = '1'"),
    ("row_security", "ALTER TABLE {s}.events DISABLE ROW LEVEL SECURITY"),
    ("row_security", "ALTER TABLE {s}.kv NO FORCE ROW LEVEL SECURITY; ALTER TABLE {s}.nodes DISABLE ROW LEVEL SECURITY"),
    ("policies", "DROP POLICY sees ON {s}.events"),
    ("policies", "ALTER POLICY sees ON {s}.kv USING (true)"),
    ("policies", "DROP POLICY adds ON {s}.kv; CREATE POLICY adds ON {s}.kv TO {s}_writer WITH CHECK (tenant = {s}.tenant_no())"),
    ("append_only", "ALTER TABLE {s}.events DISABLE TRIGGER append_only"),
    ("append_only", "ALTER TABLE {s}.facts_0 DISABLE TRIGGER append_only"),
    ("append_only", "ALTER TABLE {s}.facts_0 DISABLE TRIGGER USER"),
    ("append_only", "ALTER TABLE {s}.events ENABLE REPLICA TRIGGER own_tenant"),
    ("append_only", "DROP TRIGGER no_truncate ON {s}.decisions"),
    ("append_only", "DROP TRIGGER append_only ON {s}.events; DROP TRIGGER only_forward ON {s}.log; DROP TRIGGER follows_events ON {s}.log"),
    ("triggers_run", "ALTER ROLE {login} SET session_replication_role = replica"),
    ("privileges", "GRANT ALL ON ALL TABLES IN SCHEMA {s} TO {login}"),
    ("privileges", "GRANT SELECT ON {s}.facts_0 TO PUBLIC"),
    ("privileges", "GRANT SELECT ON {s}.facts_0, {s}.decisions TO {s}_writer"),
    ("privileges", "GRANT UPDATE (data) ON {s}.events TO {s}_writer; GRANT USAGE ON {s}.revisions TO {s}_tailer"),
    ("privileges", "GRANT CREATE ON SCHEMA {s} TO {login}"),
    ("logged_tables", "ALTER TABLE {s}.kv SET UNLOGGED"),
]


@pytest.mark.parametrize(("name", "broken"), BREAKS)
def test_each_weakness_is_refused_and_what_the_refusal_tells_to_type_mends_it(log: RawLog, name: str, broken: str) -> None:
    assert wrong(log) == {}
    login, power = f"{log.schema}_app", f"{log.schema}_power"
    try:
        with admin() as db:
            db.execute(broken.format(s=log.schema, login=login).encode())
        with pytest.raises(UnsafeDatabase) as caught:
            PostgresStore(log.url, schema=log.schema)
        found = wrong(log)
        assert set(found) == {name}
        assert caught.value.fix == found[name]
        with admin() as db:
            db.execute(typed(found[name]).encode())
        assert wrong(log) == {}
        with closing(PostgresStore(log.url, schema=log.schema)) as store:
            assert stored(store.append(each(Events(1).fact()))[0]).stored
    finally:
        with admin() as db:
            if db.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (power,)).fetchone():
                db.execute(f"REASSIGN OWNED BY {power} TO postgres; DROP ROLE {power}".encode())


def test_a_superuser_is_refused_and_the_login_that_is_told_to_be_made_is_not(log: RawLog) -> None:
    """FAULT 28."""
    for opened in (
        lambda: open_store(server(), schema=log.schema),
        lambda: PostSale.open(server(), schema=log.schema, keys="never.keys"),
    ):
        with pytest.raises(UnsafeDatabase, match="the login postgres is a superuser") as caught:
            opened()
    with admin() as db:
        db.execute(typed(caught.value.fix).encode())
    try:
        assert wrong(log, server().replace("postgres:@", "postsale_app@")) == {}
    finally:
        with admin() as db:
            db.execute("DROP ROLE postsale_app")


def test_a_login_with_a_search_path_and_inherited_roles_is_judged_alike(log: RawLog) -> None:
    with admin() as db:
        db.execute(f"ALTER ROLE {log.schema}_app SET search_path = {log.schema}, public".encode())
        db.execute(f"GRANT {log.roles.writer}, {log.roles.tailer} TO {log.schema}_app WITH INHERIT TRUE".encode())
    assert wrong(log) == {}
    with admin() as db:
        db.execute(f"ALTER POLICY sees ON {log.schema}.kv USING (true)".encode())
    assert set(wrong(log)) == {"policies"}


def test_a_login_that_owns_the_tables_is_refused(log: RawLog) -> None:
    with admin() as db:
        db.execute(f"ALTER TABLE {log.schema}.events OWNER TO {log.schema}_app".encode())
    with pytest.raises(UnsafeDatabase, match="owns the log's tables"):
        open_store(log.url, schema=log.schema)


def test_whoever_looks_after_a_log_may_be_the_owner_and_may_open_one_that_was_tampered_with(log: RawLog) -> None:
    """FAULT 25: what a service refuses to open, `verify` must be able to judge."""
    s = log.schema
    with closing(PostgresStore(log.url, schema=s)) as store:
        store.append(each(Events(1).fact(), Events(2).fact()))
    with admin() as db:
        statements = "ALTER TABLE {s}.events DISABLE TRIGGER append_only; UPDATE {s}.events SET data = 'other' WHERE position = 2"
        db.execute(statements.format(s=s).encode())
    with pytest.raises(UnsafeDatabase, match="append_only"):
        open_store(log.url, schema=s)
    with closing(open_store(server(), schema=s, as_owner=True)) as store:
        report = verify(store)
    assert not report.ok
    assert 2 in {position for position, _ in report.problems}
    with admin() as db:
        db.execute(f"ALTER ROLE {s}_app SET synchronous_commit = off".encode())
    with pytest.raises(UnsafeDatabase, match="synchronous_commit"):
        open_store(log.url, schema=s, as_owner=True)


# ---------------------------------------------------------------- durability


def test_commits_that_do_not_wait_for_the_disk_are_refused_wherever_that_is_set(log: RawLog) -> None:
    off = f"{log.url}&options=-csynchronous_commit%3Doff"
    assert "options" in wrong(log, off)["synchronous_commit"]
    with pytest.raises(UnsafeDatabase, match="loses what was acknowledged"):
        open_store(off, schema=log.schema)
    for setting in ("local", "remote_write", "remote_apply"):
        assert wrong(log, f"{log.url}&options=-csynchronous_commit%3D{setting}") == {}


@pytest.mark.parametrize(
    ("setting", "value", "otherwise"), [("fsync", "off", "on"), ("full_page_writes", "off", "on"), ("synchronous_commit", "off", "on")]
)
def test_a_server_that_may_lose_what_it_acknowledged_is_refused(log: RawLog, setting: str, value: str, otherwise: str) -> None:
    def set_to(wanted: str, *statements: str) -> None:
        with admin() as db:
            for statement in statements:
                db.execute(statement.encode())
        with psycopg.connect(log.url, autocommit=True) as db:
            while db.execute(f"SHOW {setting}".encode()).fetchone() != (wanted,):
                pass  # until the server has read its configuration again

    try:
        set_to(value, f"ALTER SYSTEM SET {setting} = {value}", "SELECT pg_reload_conf()")
        with pytest.raises(UnsafeDatabase, match=setting) as caught:
            open_store(log.url, schema=log.schema)
        set_to(otherwise, *typed(caught.value.fix).split("; "))
        assert wrong(log) == {}
    finally:
        set_to(otherwise, f"ALTER SYSTEM RESET {setting}", "SELECT pg_reload_conf()")


def test_a_setting_of_the_database_is_found_too() -> None:
    with new_log() as (url, schema), admin() as db:
        log = RawLog(url, schema)
        try:
            db.execute("ALTER DATABASE postgres SET synchronous_commit = off")
            fix = wrong(log)["synchronous_commit"]
            assert typed(fix) == "ALTER DATABASE postgres RESET synchronous_commit;"
        finally:
            db.execute("ALTER DATABASE postgres RESET synchronous_commit")
        assert wrong(log) == {}


@pytest.fixture
def told(log: RawLog) -> Iterator[str]:
    """A table that is told what `synchronous_commit` was when events and records were written, at the end of each transaction."""
    s, seen = log.schema, f"public.{log.schema}_seen"
    with admin() as db:
        db.execute(
            f"CREATE TABLE {seen} (at serial, setting text);"
            f"CREATE FUNCTION {s}.look() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
            f" $$ BEGIN INSERT INTO {seen} (setting) VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;"
            f"CREATE CONSTRAINT TRIGGER look AFTER UPDATE ON {s}.log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {s}.look();"
            f"CREATE CONSTRAINT TRIGGER look AFTER INSERT ON {s}.kv DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {s}.look()".encode()
        )
        yield seen
        db.execute(f"DROP TABLE {seen}; DROP FUNCTION {s}.look CASCADE".encode())


@pytest.mark.parametrize(("setting", "commits"), [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")])
def test_a_shared_connection_on_which_somebody_switched_durability_off_still_commits_durably(
    log: RawLog, told: str, setting: str, commits: str
) -> None:
    """As behind a transaction pooler: the setting arrives after the store has looked. What is on in any way stays as it is."""
    with ConnectionPool(log.url, min_size=1, max_size=1, open=True) as pool, closing(PostgresStore(pool, schema=log.schema)) as store:
        with pool.connection() as db:
            db.autocommit = True
            db.execute(f"SET synchronous_commit = {setting}".encode())
        stored(store.append(each(Events(1).fact()))[0])
        store.kv.put("space", "acme", "key", b"value")
        with pool.connection() as db, db.transaction():
            stored(store.within(db).append(each(Events(2).fact()))[0])
            assert db.execute("SHOW synchronous_commit").fetchone() == (commits,)
        with pool.connection() as db:
            assert db.execute("SHOW synchronous_commit").fetchone() == (setting,)
    with admin() as db:
        rows = db.execute(f"SELECT setting FROM {told} ORDER BY at".encode()).fetchall()
    assert rows == [(commits,)] * 3


# ---------------------------------------------------------------- surroundings


@pytest.mark.parametrize("value", ["yes", "TRUE", "1", " on "])
def test_the_switch_that_loses_events_for_subscribers_is_refused(log: RawLog, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_ENABLE_DB_FUNCTIONS", value)
    with pytest.raises(UnsafeDatabase, match="unset POSTGRES_ENABLE_DB_FUNCTIONS"):
        open_store(log.url, schema=log.schema)
    for off in ("", "no", "false", "0"):
        monkeypatch.setenv("POSTGRES_ENABLE_DB_FUNCTIONS", off)
        open_store(log.url, schema=log.schema).close()


def test_a_schema_without_a_log_says_what_to_run(log: RawLog) -> None:
    with pytest.raises(UnsafeDatabase) as caught:
        open_store(log.url, schema="nowhere")
    assert re.fullmatch(r"Run: postsale db init postgresql:///postgres\?host=\S+ --schema nowhere --apply", caught.value.fix)
    assert "_app" not in str(caught.value), "the login of the service is not the one to make it with"


@pytest.mark.parametrize(("version", "said"), [(SCHEMA_VERSION - 1, "postsale db migrate"), (SCHEMA_VERSION + 1, "Install the release")])
def test_a_log_of_another_release_is_refused(log: RawLog, version: int, said: str) -> None:
    with admin() as db:
        db.execute("SET session_replication_role = replica")
        db.execute(f"UPDATE {log.schema}.log SET schema_version = {version}".encode())
    with pytest.raises(UnsafeDatabase, match=said):
        open_store(log.url, schema=log.schema)
    with pytest.raises(UnsafeDatabase, match=f"version {version}"):
        check_version(version)


def test_an_old_server_and_another_encoding_are_refused(log: RawLog) -> None:
    assert [check.ok for check in server_checks(150_000, "UTF8")] == [True, True]
    assert [check.ok for check in server_checks(140_012, "SQL_ASCII")] == [False, False]
    with admin() as db:
        db.execute(f"CREATE DATABASE {log.schema}_latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0".encode())
    try:
        with admin(f"{log.schema}_latin") as db, pytest.raises(UnsafeDatabase, match="encoding LATIN1"):
            apply_init(db, init_sql(log.schema), log.schema)
    finally:
        with admin() as db:
            db.execute(f"DROP DATABASE {log.schema}_latin".encode())


def test_a_refusal_is_an_error_with_fields_and_without_the_password(log: RawLog) -> None:
    url = server().replace("postgres:@", "postgres:hunter2@")
    with pytest.raises(UnsafeDatabase) as caught:
        open_store(url, schema=log.schema)
    assert "hunter2" not in str(caught.value)
    assert caught.value.fields().keys() == {"what", "wanted", "fix"}


# ---------------------------------------------------------------- making a log


@pytest.fixture
def name() -> Iterator[str]:
    """A schema that is not there yet; with its roles it is removed at the end."""
    with new_log() as (_, schema):
        name = f"{schema}x"
        yield name
        with admin() as db:
            db.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE".encode())
            for role in (*Roles.of(name), f"{name}_app", f"{name}_dba"):
                if db.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
                    db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_a_second_init_says_so_and_changes_nothing(name: str) -> None:
    with admin() as db:
        assert apply_init(db, init_sql(name), name)
        log_id = db.execute(f"SELECT log_id FROM {name}.log".encode()).fetchone()
        assert not apply_init(db, init_sql(name, chapter=5), name)
        assert db.execute(f"SELECT log_id FROM {name}.log".encode()).fetchone() == log_id


def test_an_init_that_fails_leaves_nothing(name: str) -> None:
    with admin() as db:
        with pytest.raises(psycopg.errors.DivisionByZero):
            apply_init(db, init_sql(name) + "SELECT 1 / 0;", name)
        assert db.execute("SELECT to_regnamespace(%s)", (name,)).fetchone() == (None,)
        assert db.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE %s", (f"{name}%",)).fetchone() == (0,)
        assert apply_init(db, init_sql(name), name)


def test_roles_of_an_earlier_log_are_used_again_and_their_members_are_named(name: str) -> None:
    with admin() as db:
        apply_init(db, init_sql(name) + login_sql(f"{name}_app", Roles.of(name)[:2]), name)
        db.execute(f"DROP SCHEMA {name} CASCADE".encode())
        assert apply_init(db, init_sql(name), name)
        assert members(db, name) == [f"{name}_app"]


@pytest.mark.parametrize("power", ["LOGIN", "SUPERUSER", "BYPASSRLS", "CREATEROLE", "IN ROLE pg_read_all_data"])
def test_a_role_that_is_there_already_and_has_power_is_refused(name: str, power: str) -> None:
    """Somebody may have made `…_writer` beforehand, to be let in."""
    with admin() as db:
        db.execute(f"CREATE ROLE {name}_writer {power}".encode())
        with pytest.raises(UnsafeDatabase, match=f"the role {name}_writer is there already"):
            apply_init(db, init_sql(name), name)
        assert db.execute("SELECT to_regnamespace(%s)", (name,)).fetchone() == (None,)


def test_a_login_without_superuser_makes_a_log_and_owns_nothing_afterwards(name: str) -> None:
    """As on servers that somebody else manages."""
    with admin() as db:
        db.execute(f"CREATE ROLE {name}_dba LOGIN".encode())
    url = server().replace("postgres:@", f"{name}_dba@")
    with psycopg.connect(url, autocommit=True) as db:
        with pytest.raises(UnsafeDatabase) as caught:
            apply_init(db, init_sql(name), name)
        with admin() as superuser:
            superuser.execute(typed(caught.value.fix).encode())
        assert apply_init(db, init_sql(name) + login_sql(f"{name}_app", Roles.of(name)[:2]), name)
        for statement in (f"SELECT * FROM {name}.events", f"SET ROLE {name}_migrator"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute(statement.encode())
    app = RawLog(server().replace("postgres:@", f"{name}_app@"), name)
    assert wrong(app) == {}
    assert "owner" in wrong(app, url), "who made the roles may make itself their member"


@pytest.mark.parametrize("taken", ["pg_catalog", "Postsale", "post-sale", "1st", "a" * 41, "", "x; DROP TABLE y"])
def test_a_name_that_cannot_be_a_schema_of_ours_is_invalid(taken: str) -> None:
    with pytest.raises(InvalidInput):
        init_sql(taken)


@pytest.mark.parametrize(("taken", "said"), [("public", "holds something else"), ("select", "word of SQL")])
def test_a_schema_that_cannot_be_had_is_refused(taken: str, said: str) -> None:
    with admin() as db, pytest.raises(UnsafeDatabase, match=said):
        apply_init(db, init_sql(taken), taken)


@pytest.mark.parametrize("login", ["", "App", "a b", 'x"y', "pg_app", "a" * 64, "app; DROP ROLE postgres"])
def test_a_login_that_would_need_quotes_is_invalid(login: str) -> None:
    with pytest.raises(InvalidInput):
        login_sql(login, ["role"])
