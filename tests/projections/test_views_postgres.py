"""Views in PostgreSQL: whom their schema belongs to, who may read what in it, and what becomes of them when it is dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from postsale.errors import InvalidInput, PostSaleError, StoreUnavailable, ViewMoved
from postsale.projections import CustomerHealth, Fold, Runner
from postsale.projections.views_postgres import PostgresViews
from postsale.projections.views_postgres_schema import projector_role, views_schema, views_sql
from postsale.store.postgres_schema import Roles
from tests.postgres import new_log, server

from .killed_runner import EVENTS, make_store


@pytest.fixture
def log() -> Iterator[tuple[str, str]]:
    with new_log() as made:
        yield made


@contextmanager
def admin() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server(), autocommit=True) as db:
        yield db


@contextmanager
def opened(log: tuple[str, str], log_id: str = "log-1", url: str | None = None) -> Iterator[PostgresViews]:
    views = PostgresViews(url or log[0], log_id, schema=log[1])
    yield views
    views.close()


def test_views_are_kept_for_their_own_log_and_start_afresh_for_another(log) -> None:
    for log_id, rows in (("log-1", []), ("log-1", [("a", b"1")]), ("log-2", []), ("log-1", [])):
        with opened(log, log_id) as views:
            assert list(views.scan("v")) == rows
            if not rows:
                views.write("v", {"a": b"1"}, checkpoint=1, expected=0)


def test_views_of_another_layout_are_emptied(log) -> None:
    with opened(log) as views:
        views.write("v", {"a": b"1"}, checkpoint=1, expected=0)
    with admin() as db:
        db.execute(f"UPDATE {views_schema(log[1])}.log SET layout = 0")
        db.execute(f"ALTER TABLE {views_schema(log[1])}.rows DROP COLUMN value")
    with opened(log) as views:
        assert views.views() == []
        views.write("v", {"a": b"2"}, checkpoint=1, expected=0)


@pytest.mark.parametrize("what", ["tables", "schema"])
def test_a_dropped_schema_is_folded_again_from_the_log_to_the_same_rows(log, what) -> None:
    """By a runner that was open all the time: it goes on where the views are, which is nowhere."""
    store, (_, schema) = make_store("log-1"), log
    with opened(log) as views:
        runner = Runner(store, views, Fold(CustomerHealth))
        runner.catch_up()
        digest = runner.digest()
        with admin() as db, db.transaction():
            v = views_schema(schema)
            db.execute(f"DROP TABLE {v}.rows, {v}.checkpoints" if what == "tables" else f"DROP SCHEMA {v} CASCADE")
            db.execute(views_sql(schema))
        if what == "tables":
            with admin() as db:
                db.execute(f"DROP TABLE {views_schema(schema)}.log")
        assert runner.catch_up() == (0, EVENTS, EVENTS, EVENTS)
        assert runner.digest() == digest


def test_a_schema_that_is_not_there_is_a_typed_error_that_says_how_to_make_it(log) -> None:
    with admin() as db:
        db.execute(f"DROP SCHEMA {views_schema(log[1])} CASCADE")
    with opened(log) as views, pytest.raises(StoreUnavailable, match="postsale db init"):
        views.checkpoint("v")


def test_what_makes_room_for_views_may_be_run_again_and_keeps_them(log) -> None:
    with opened(log) as views:
        views.write("v", {"a": b"1"}, checkpoint=1, expected=0)
        with admin() as db, db.transaction():
            db.execute(views_sql(log[1]))
        assert views.views() == [("v", 1, 1)]


# ---------------------------------------------------------------- who may


ROWS = {
    "Health.v1": {"acme/customers/1": b"a", "globex/customers/1": b"g", "parked/customers/1": b"p", "plain": b"?"},
    "Health.v1!aside": {"parked/acme/customers/1": b"a", "parked/globex/customers/1": b"g", "anchor": b"."},
    "rounds/acme": {"due/customers/1": b"a", "last": b"a"},
    "rounds/globex": {"due/customers/1": b"g"},
}


@contextmanager
def writer_of(log: tuple[str, str], tenant: str | None) -> Iterator[psycopg.Connection[Any]]:
    """A service's login in the role of a writer, in one tenant's name."""
    url, schema = log
    with psycopg.connect(url) as db:
        db.execute(f"SET LOCAL ROLE {Roles.of(schema).writer}")
        if tenant is not None:
            db.execute(f"SELECT {schema}.enter(%s, true)", (tenant,))
        yield db
        db.rollback()


def test_in_one_tenants_name_only_its_own_rows_are_seen(log) -> None:
    """By the database: states, parked streams and rounds of another tenant are not there, nor what is about nobody."""
    rows = f"{views_schema(log[1])}.rows"
    with opened(log) as views:
        views.write("v", {}, checkpoint=1, expected=0, also=ROWS)
    for tenant, value in (("acme", b"a"), ("globex", b"g"), ("parked", b"p")):
        with writer_of(log, tenant) as db:
            seen = db.execute(f"SELECT view, key, value FROM {rows}").fetchall()
        mine = [(view, key, v) for view, its in ROWS.items() for key, v in its.items() if v == value]
        assert sorted(seen) == sorted(mine)
    with writer_of(log, "nobody") as db:
        assert db.execute(f"SELECT * FROM {rows}").fetchall() == []


def test_without_a_tenant_rows_are_an_error_and_not_all_rows(log) -> None:
    with opened(log) as views:
        views.write("v", {}, checkpoint=1, expected=0, also=ROWS)
    with writer_of(log, None) as db, pytest.raises(psycopg.Error):
        db.execute(f"SELECT * FROM {views_schema(log[1])}.rows")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO {v}.rows VALUES ('Health.v1', 'acme/customers/1', '')",
        "UPDATE {v}.rows SET value = ''",
        "DELETE FROM {v}.rows",
        "SELECT * FROM {v}.checkpoints",
        "CREATE TABLE {v}.mine ()",
        "DROP SCHEMA {v} CASCADE",
    ],
)
def test_a_writer_changes_nothing_in_views(log, statement) -> None:
    with opened(log) as views:
        views.write("v", {}, checkpoint=1, expected=0, also=ROWS)
        with writer_of(log, "acme") as db, pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute(statement.format(v=views_schema(log[1])))
        assert dict(views.scan("Health.v1")) == ROWS["Health.v1"]


def test_the_projector_can_read_neither_events_nor_names_of_the_log(log) -> None:
    url, schema = log
    for table in ("events", "tenants", "streams", "kv", "quarantine", "log"):
        with psycopg.connect(url) as db:
            db.execute(f"SET LOCAL ROLE {projector_role(schema)}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute(f"SELECT * FROM {schema}.{table}")


def test_a_login_that_may_not_project_is_told_which_role_it_needs_when_it_first_does(log) -> None:
    """Opening is allowed: a service that never folds needs no right to. Nothing of the URL is repeated."""
    login = f"{log[1]}_web"
    with admin() as db:
        db.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'secret-word'")
    try:
        url = server().replace("://postgres:@", f"://{login}:secret-word@")
        with opened(log, url=url) as views, pytest.raises(StoreUnavailable) as caught:
            views.checkpoint("v")
        assert projector_role(log[1]) in str(caught.value)
        assert "secret-word" not in repr(caught.value.fields())
    finally:
        with admin() as db:
            db.execute(f"DROP ROLE {login}")


# ---------------------------------------------------------------- what fails


def test_a_connection_that_the_server_ended_is_replaced(log) -> None:
    """Between two calls: the next is made on another one."""
    with opened(log) as views, opened(log) as other:
        views.write("v", {"a": b"1"}, checkpoint=1, expected=0)
        end_connections(but=0)
        assert views.get("v", "a") == b"1"
        views.write("v", {"a": b"2"}, checkpoint=2, expected=1)
        assert other.checkpoint("v") == 2


def end_connections(*, but: int) -> None:
    with admin() as db:
        db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'postsale views' AND pid <> %s", (but,))


def test_a_call_whose_connection_ends_in_the_middle_is_made_again(log) -> None:
    """A write waits behind another transaction's lock, its connection is ended there, and it is written all the same, once."""
    v = views_schema(log[1])
    with opened(log) as views, admin() as db:
        views.write("v", {"a": b"1"}, checkpoint=1, expected=0)
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(views.write("v", {"a": b"2"}, checkpoint=2, expected=1)))
        with db.transaction():
            db.execute(f"SELECT * FROM {v}.checkpoints FOR UPDATE")
            thread.start()
            until(lambda: waiting(), "the write waits for the lock")
            end_connections(but=0)
        thread.join()
        assert (done, views.checkpoint("v"), views.get("v", "a")) == ([None], 2, b"2")


def waiting() -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postsale views' AND wait_event_type = 'Lock'"
    with admin() as db:
        return db.execute(query).fetchone() != (0,)


def until(condition: Any, what: str) -> None:
    """Await a condition; a minute without it is a failure."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what


@pytest.mark.parametrize(
    "url", ["postgresql://who:secret-word@127.0.0.1:1/none", "postgresql://who:secret-word@/none?host=/nowhere", "nonsense"]
)
def test_a_server_that_is_not_there_is_a_typed_error_without_the_url(url) -> None:
    with opened(("", "s"), url=url) as views, pytest.raises(StoreUnavailable) as caught:
        views.checkpoint("v")
    assert "secret-word" not in repr(caught.value.fields())
    assert caught.value.__cause__ is None


def test_after_close_every_call_is_a_typed_error(log) -> None:
    with opened(log) as views:
        views.write("v", {"a": b"1"}, checkpoint=1, expected=0)
        views.close()
        for call in (lambda: views.get("v", "a"), lambda: list(views.scan("v")), lambda: views.drop("v"), views.views):
            with pytest.raises(StoreUnavailable, match="closed"):
                call()


@pytest.mark.parametrize("schema", ["", "Views", "a-b", "a" * 41, 'x"; DROP SCHEMA y; --'])
def test_a_schema_whose_name_needs_quotes_is_refused(schema) -> None:
    with pytest.raises(InvalidInput):
        PostgresViews("postgresql://", "log-1", schema=schema)


def test_a_refused_write_leaves_the_connection_in_working_order(log) -> None:
    with opened(log) as views:
        views.write("v", {"a": b"1"}, checkpoint=1, expected=0)
        for error, expected, checkpoint, rows in ((ViewMoved, 0, 9, {}), (InvalidInput, 1, 0, {}), (PostSaleError, 1, 2, {"NUL\x00": b""})):
            with pytest.raises(error):
                views.write("v", rows, checkpoint=checkpoint, expected=expected)
            assert views.views() == [("v", 1, 1)]
