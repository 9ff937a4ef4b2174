"""`postsale db init` and `postsale db check` against a real server: what they print, what they do, what they never print."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from postsale.projections.views_postgres_schema import projector_role, views_schema
from postsale.store.postgres_schema import Roles
from tests.postgres import binary, server

from .support import process, run

_numbers = itertools.count()


@pytest.fixture
def schema() -> Iterator[str]:
    """A name that no log has yet; what is made under it is removed."""
    name = f"shop_{next(_numbers)}"
    yield name
    with psycopg.connect(server(), autocommit=True) as db:
        db.execute(f"DROP SCHEMA IF EXISTS {name}, {views_schema(name)} CASCADE".encode())
        for role in (*Roles.of(name), projector_role(name), f"{name}_app"):
            if db.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
                db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def as_login(login: str) -> str:
    return server().replace("postgres:@", f"{login}@")


def exists(schema: str) -> bool:
    with psycopg.connect(server()) as db:
        return db.execute("SELECT to_regnamespace(%s) IS NOT NULL", (schema,)).fetchone() == (True,)


def test_init_prints_the_sql_and_does_nothing(schema: str) -> None:
    done = run("db", "init", server(), "--schema", schema, "--chapter-events", "5000")
    assert (done.code, done.err) == (0, "")
    assert "BEGIN;" in done.out
    assert f"CREATE SCHEMA {schema}" in done.out
    assert ", 5000, 0, 0);" in done.out, "the chapter"
    assert (
        f"CREATE ROLE postsale_app LOGIN NOINHERIT; GRANT {schema}_writer, {schema}_tailer, {schema}_projector TO postsale_app;" in done.out
    )
    assert not exists(schema)


def test_init_prints_without_a_server(schema: str) -> None:
    done = process("db", "init", "postgresql://nobody@127.0.0.1:1/nowhere", "--schema", schema)
    assert (done.code, done.err) == (0, "")


def test_what_is_printed_can_be_piped_into_psql_and_makes_a_sound_log(schema: str) -> None:
    printed = process("db", "init", server(), "--schema", schema, "--app-role", f"{schema}_app")
    made = subprocess.run(
        [binary("psql"), "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", server()],
        input=printed.out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (made.returncode, made.stderr) == (0, "")
    checked = run("db", "check", as_login(f"{schema}_app"), "--schema", schema, "--json")
    assert checked.code == 0, checked.out
    assert checked.json()["ok"] is True


def test_init_with_apply_makes_a_log_and_says_what_to_type_next(schema: str) -> None:
    login = f"{schema}_app"
    done = run("db", "init", server(), "--schema", schema, "--app-role", login, "--apply")
    assert (done.code, done.err) == (0, "")
    assert f"\\password {login}" in done.out
    (said,) = [line.strip() for line in done.out.splitlines() if "postsale db check" in line]
    assert said == f"postsale db check {as_login(login)} --schema {schema}"
    checked = run(*said.split()[1:])
    assert (checked.code, checked.err) == (0, "")
    assert "✓" in checked.out
    assert "✗" not in checked.out


def test_a_log_that_was_made_records_and_reads(schema: str, tmp_path: Path) -> None:
    """From nothing to the first event, with no other tool than ours."""
    assert run("db", "init", server(), "--schema", schema, "--app-role", f"{schema}_app", "--apply").code == 0
    source = tmp_path / "signals.jsonl"
    source.write_text(
        '{"specversion": "1.0", "id": "1", "source": "app", "type": "product/usage-observed", "subject": "cus_42",'
        ' "time": "2026-01-01T00:00:00Z", "data": {"feature": "export"}}\n'
    )
    where = ("--db", as_login(f"{schema}_app"), "--schema", schema, "--keys", str(tmp_path / "shop.keys"), "--tenant", "acme")
    ingested = run("ingest", "cloudevents", str(source), *where)
    assert ingested.code == 0, ingested.err
    shown = run("customer", "list", *where, "--json")
    assert [customer["customer"] for customer in shown.json()] == ["cus_42"]


def test_a_login_that_is_no_superuser_makes_a_log_too(schema: str) -> None:
    """As on servers that somebody else manages: it may make roles and schemas, and owns nothing afterwards."""
    dba = f"{schema}_dba"
    with psycopg.connect(server(), autocommit=True) as db:
        db.execute(f"CREATE ROLE {dba} LOGIN CREATEROLE; GRANT CREATE ON DATABASE postgres TO {dba}".encode())
    try:
        done = run("db", "init", as_login(dba), "--schema", schema, "--app-role", f"{schema}_app", "--apply")
        assert (done.code, done.err) == (0, "")
        assert run("db", "check", as_login(f"{schema}_app"), "--schema", schema).code == 0
        with psycopg.connect(as_login(dba), autocommit=True) as db:
            for refused in (f"SET ROLE {schema}_migrator", f"SET ROLE {schema}_projector", f"TABLE {schema}.log"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    db.execute(refused.encode())
    finally:
        with psycopg.connect(server(), autocommit=True) as db:
            db.execute(f"DROP OWNED BY {dba} CASCADE".encode())
            for role in (*Roles.of(schema), projector_role(schema), f"{schema}_app"):
                db.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode())
            db.execute(f"DROP ROLE {dba}".encode())


@pytest.mark.parametrize("role", ["writer", "tailer", "migrator", "projector"])
def test_a_role_that_somebody_made_beforehand_to_log_in_with_is_refused(schema: str, role: str) -> None:
    with psycopg.connect(server(), autocommit=True) as db:
        db.execute(f"CREATE ROLE {schema}_{role} LOGIN".encode())
    done = run("db", "init", server(), "--schema", schema, "--apply")
    assert done.code == 5
    assert f"the role {schema}_{role} is there already" in done.err
    assert not exists(schema)


def test_a_second_init_changes_nothing_and_says_so(schema: str) -> None:
    assert run("db", "init", server(), "--schema", schema, "--apply").code == 0
    done = run("db", "init", server(), "--schema", schema, "--apply")
    assert done.code == 0
    assert "already: nothing was changed" in done.out
    named = run("db", "init", server(), "--schema", schema, "--app-role", f"{schema}_app", "--apply")
    assert f"GRANT {schema}_writer, {schema}_tailer, {schema}_projector TO {schema}_app;" in named.out


def test_a_second_init_for_another_login_says_how_to_let_it_in(schema: str) -> None:
    login = f"{schema}_app"
    assert run("db", "init", server(), "--schema", schema, "--apply").code == 0
    done = run("db", "init", server(), "--schema", schema, "--app-role", login, "--apply")
    assert done.code == 0
    with psycopg.connect(server(), autocommit=True) as db:
        assert db.execute("SELECT FROM pg_roles WHERE rolname = %s", (login,)).fetchone() is None
        db.execute("".join(done.out.partition("type:")[2].partition("→")[0]).encode())
    assert run("db", "check", as_login(login), "--schema", schema, "--json").json()["ok"] is True


def test_a_login_that_may_record_and_not_run_is_sound_and_told_what_a_run_needs(schema: str) -> None:
    login = f"{schema}_app"
    assert run("db", "init", server(), "--schema", schema, "--app-role", login, "--apply").code == 0
    check = ("db", "check", as_login(login), "--schema", schema)
    grant = f"GRANT {projector_role(schema)} TO {login};"
    assert grant not in run(*check).out
    assert run(*check, "--json").json()["may_run"] is True
    with psycopg.connect(server(), autocommit=True) as db:
        db.execute(f"REVOKE {projector_role(schema)} FROM {login}".encode())
    done = run(*check)
    assert (done.code, grant in done.out) == (0, True)
    assert run(*check, "--json").json()["may_run"] is False


def test_init_after_the_views_were_dropped_makes_room_for_them_and_leaves_the_log(schema: str) -> None:
    """By the login that made the log, whether or not it is a superuser."""
    admin = f"{schema}_app"
    with psycopg.connect(server(), autocommit=True) as db:
        db.execute(f"CREATE ROLE {admin} LOGIN CREATEROLE; GRANT CREATE ON DATABASE postgres TO {admin}".encode())
    for login in ("postgres:", admin):
        url = server().replace("postgres:@", f"{login}@")
        assert run("db", "init", url, "--schema", schema, "--apply").code == 0
        with psycopg.connect(server(), autocommit=True) as db:
            before = db.execute(f"SELECT log_id FROM {schema}.log".encode()).fetchone()
            db.execute(f"DROP SCHEMA {views_schema(schema)} CASCADE".encode())
        done = run("db", "init", url, "--schema", schema, "--apply")
        assert (done.code, done.err) == (0, "")
        assert "views" in done.out
        assert exists(views_schema(schema))
        with psycopg.connect(server(), autocommit=True) as db:
            assert db.execute(f"SELECT log_id FROM {schema}.log".encode()).fetchone() == before
            db.execute(f"DROP SCHEMA {schema}, {views_schema(schema)} CASCADE".encode())
            for role in (*Roles.of(schema), projector_role(schema)):
                db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_logins_that_roles_of_an_earlier_log_let_in_are_named(schema: str) -> None:
    assert run("db", "init", server(), "--schema", schema, "--app-role", f"{schema}_app", "--apply").code == 0
    with psycopg.connect(server(), autocommit=True) as db:
        db.execute(f"DROP SCHEMA {schema}, {views_schema(schema)} CASCADE".encode())
    done = run("db", "init", server(), "--schema", schema, "--apply")
    assert done.code == 0
    assert f"may use it too: {schema}_app" in done.out


def test_check_marks_what_is_wrong_and_prints_what_mends_it(schema: str) -> None:
    assert run("db", "init", server(), "--schema", schema, "--app-role", f"{schema}_app", "--apply").code == 0
    with psycopg.connect(server(), autocommit=True) as db:
        db.execute(
            f"ALTER ROLE {schema}_app SET synchronous_commit = off; ALTER TABLE {schema}.events DISABLE TRIGGER append_only".encode()
        )
    done = run("db", "check", as_login(f"{schema}_app"), "--schema", schema)
    assert done.code == 1
    assert done.out.count("✗") == 2
    assert f"ALTER ROLE {schema}_app RESET synchronous_commit;" in done.out
    assert f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {schema}.events" in done.out
    wrong = [
        check for check in run("db", "check", as_login(f"{schema}_app"), "--schema", schema, "--json").json()["checks"] if not check["ok"]
    ]
    assert [check["name"] for check in wrong] == ["synchronous_commit", "append_only"]
    assert all(check["found"] and check["expected"] and check["todo"] for check in wrong)


def test_check_without_a_log_says_what_to_run(schema: str) -> None:
    done = run("db", "check", server(), "--schema", schema)
    assert done.code == 1
    assert f"--schema {schema} --apply" in done.out


def test_a_refused_command_exits_with_5_and_says_what_to_type(schema: str, tmp_path: Path) -> None:
    """FAULT 28, for people."""
    assert run("db", "init", server(), "--schema", schema, "--apply").code == 0
    done = process("customer", "list", "--db", server(), "--schema", schema, "--keys", str(tmp_path / "shop.keys"))
    assert done.code == 5
    assert "the login postgres is a superuser" in done.err
    assert f"GRANT {schema}_writer, {schema}_tailer, {schema}_projector TO" in done.err
    assert not (tmp_path / "shop.keys").exists()


@pytest.mark.parametrize("command", [("init", "--apply"), ("init",), ("check",)])
@pytest.mark.parametrize(
    "url",
    ["postgresql://me:hunter2@127.0.0.1:1/shop", "postgresql://me:hunter2@[::1:x/shop", "postgres://me@127.0.0.1:1/shop?password=hunter2"],
)
def test_no_command_prints_a_password(command: tuple[str, ...], url: str) -> None:
    done = run("db", command[0], url, *command[1:])
    assert done.code == (0 if command == ("init",) else 5)
    assert "hunter2" not in done.out + done.err


@pytest.mark.parametrize("command", ["init", "check"])
@pytest.mark.parametrize("url", ["sqlite:///x.db", "memory:", "host=h password=hunter2"])
def test_another_kind_of_database_is_unsupported(command: str, url: str) -> None:
    done = run("db", command, url)
    assert done.code == 2
    assert "postgresql://" in done.err
    assert "hunter2" not in done.out + done.err


@pytest.mark.parametrize("argv", [("--schema", "1st"), ("--schema", "a; b"), ("--app-role", "My App"), ("--chapter-events", "0")])
def test_names_that_would_need_quotes_are_the_input_that_is_wrong(argv: tuple[str, str]) -> None:
    assert run("db", "init", server(), *argv).code == 2


def test_without_the_extra_printing_works_and_the_rest_names_it(tmp_path: Path, schema: str) -> None:
    (tmp_path / "psycopg.py").write_text("raise ImportError('not installed')")
    hidden = {"PYTHONPATH": f"{tmp_path}:{':'.join(filter(None, sys.path))}"}
    assert process("db", "init", server(), "--schema", schema, **hidden).code == 0
    for command in (("init", "--apply"), ("check",)):
        done = process("db", command[0], server(), *command[1:], **hidden)
        assert done.code == 2
        assert "pip install 'postsale[postgres]'" in done.err
