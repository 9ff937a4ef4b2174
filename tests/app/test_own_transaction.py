"""`record(…, connection=…)`: a signal and the caller's own row are stored together or not at all, and nothing else changes for either."""

from __future__ import annotations

import signal as signals
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postsale import PostSale, Tenant
from postsale.access import FileVault
from postsale.aggregates.identity import foreign
from postsale.errors import ContentConflict, InvalidInput, StoreUnavailable, UnknownCustomer, UnsafeDatabase, Unsupported
from postsale.events import ManualClock
from postsale.projections import MemoryViews
from postsale.store.postgres import PostgresStore
from postsale.store.postgres_link import Patience
from tests.nursery import Fork
from tests.postgres import new_log
from tests.postgres import server as admin_url

from .support import NOON, Server, arguments, failed, head, opened, paid, used


@pytest.fixture
def books(server: Server) -> Iterator[str]:
    """A table of the caller's own, beside the log."""
    login = server.schema + "_app"
    with psycopg.connect(admin_url(), autocommit=True) as admin:
        admin.execute(f"CREATE SCHEMA {server.schema}_biz AUTHORIZATION {login}")
        admin.execute(f"SET ROLE {login}")
        admin.execute(f"CREATE TABLE {server.schema}_biz.books (id text PRIMARY KEY)")
        admin.execute("RESET ROLE")
        yield f"{server.schema}_biz.books"
        admin.execute(f"DROP SCHEMA {server.schema}_biz CASCADE")


@pytest.fixture
def acme(server: Server) -> Iterator[Tenant]:
    with opened(server) as ps:
        yield ps.tenant("acme")


@pytest.fixture
def conn(server: Server) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.url) as connection:
        yield connection
        connection.rollback()


def booked(books: str) -> list[str]:
    with psycopg.connect(admin_url()) as db:
        return [id_ for (id_,) in db.execute(f"SELECT id FROM {books} ORDER BY id").fetchall()]


def count(acme: Tenant, customer: Any) -> int:
    try:
        return sum(kind.count for kind in acme.customer(customer).facts.values())
    except UnknownCustomer:
        return 0


# ---------------------------------------------------------------- together or not at all


def test_a_row_and_a_signal_are_committed_together(server: Server, acme: Tenant, conn: Any, books: str) -> None:
    """Reads see neither before the commit and both after it; the receipt already gave the place."""
    conn.execute(f"INSERT INTO {books} VALUES ('inv_1')")
    receipt = acme.record("cus_42", paid("inv_1"), connection=conn)
    assert (receipt.stored, receipt.position) == (True, 2)
    assert (booked(books), count(acme, "cus_42"), acme.customers()) == ([], 0, [])
    conn.commit()
    assert (booked(books), count(acme, "cus_42")) == (["inv_1"], 1)
    assert acme.timeline("cus_42")[-1].event_id == receipt.event_id
    assert acme._ps.verify().problems == []


def test_a_row_and_a_signal_are_rolled_back_together(server: Server, acme: Tenant, conn: Any, books: str) -> None:
    """As if neither had been: the next signal of that customer has the first position, and the same signal is new again."""
    conn.execute(f"INSERT INTO {books} VALUES ('inv_1')")
    acme.record("cus_42", paid("inv_1", contact="eve"), connection=conn)
    conn.rollback()
    assert (booked(books), head(acme._ps), acme.customers()) == ([], 0, [])
    again = acme.record("cus_42", paid("inv_1", contact="eve"))
    assert (again.stored, again.position) == (True, 3)  # behind the links of the customer and of the person
    assert acme._ps.verify().problems == []


def test_keys_that_a_rolled_back_transaction_left_seal_nothing_and_harm_nobody(server: Server, acme: Tenant, conn: Any) -> None:
    """They were made outside it, before: more keys than subjects in the log, and every name is still read."""
    for turn in range(3):
        acme.record("cus_42", paid(f"inv_{turn}"), connection=conn)
        conn.rollback()
    acme.record("cus_42", paid("inv_9"), connection=conn)
    conn.commit()
    kept = acme._ps.log.vault.subjects("acme", [acme.customer("cus_42").ref], create=False)
    assert list(kept) == [acme.customer("cus_42").ref]
    assert acme.names() == {acme.customer("cus_42").ref: "cus_42"}
    import sqlite3

    with sqlite3.connect(server.keys) as keys:
        assert keys.execute("SELECT count(*) FROM subject_keys").fetchone() == (4,)
    keys.close()


def test_a_customer_made_in_the_transaction_is_known_in_it(acme: Tenant, conn: Any) -> None:
    """Its later signals, those of its contact, and those of a second customer go where they belong, all uncommitted."""
    for n in range(3):
        acme.record("cus_1", paid(f"a{n}", contact="eve"), connection=conn)
        acme.record("cus_2", paid(f"b{n}"), connection=conn)
        acme.record(foreign("crm", "77"), used(f"w{n}"), connection=conn)  # waits until it is linked
    conn.commit()
    assert [row.name for row in sorted(acme.customers(), key=lambda r: r.name)] == ["cus_1", "cus_2"]
    assert (count(acme, "cus_1"), count(acme, "cus_2")) == (3, 3)
    acme.link(foreign("crm", "77"), "cus_1")
    assert count(acme, "cus_1") == 6
    assert acme._ps.verify().problems == []


def test_a_savepoint_of_the_callers_takes_the_signal_back_and_nothing_else(acme: Tenant, conn: Any, books: str) -> None:
    conn.execute(f"INSERT INTO {books} VALUES ('outer')")
    acme.record("cus_1", paid("outer"), connection=conn)
    with conn.transaction(force_rollback=True):
        conn.execute(f"INSERT INTO {books} VALUES ('inner')")
        assert acme.record("cus_2", paid("inner"), connection=conn).stored
    receipt = acme.record("cus_1", paid("after"), connection=conn)
    conn.commit()
    assert (booked(books), count(acme, "cus_1"), count(acme, "cus_2")) == (["outer"], 2, 0)
    assert receipt.position == head(acme._ps) == 3
    assert acme._ps.verify().problems == []


def test_many_are_recorded_in_one_transaction_each_with_its_own_outcome(acme: Tenant, conn: Any) -> None:
    """Refusals are in the report and in the same transaction's quarantine; the rest is stored at the commit."""
    acme.record("cus_1", paid("known"))
    items = [("cus_1", paid("known")), ("cus_1", paid("known", amount_minor=1)), *((f"cus_{n}", paid(f"n{n}")) for n in range(100))]
    report = acme.record_many(items, connection=conn)
    assert (report.recorded, report.duplicates, [r.index for r in report.rejects]) == (100, 1, [1])
    assert (acme.quarantine(), len(acme.customers())) == ([], 1)
    conn.commit()
    assert [item.id for item in acme.quarantine()] == [report.rejects[0].quarantine_id]
    assert len(acme.customers()) == 100
    assert acme._ps.verify().problems == []


# ---------------------------------------------------------------- what goes wrong leaves the transaction usable


def test_a_conflict_is_raised_and_the_transaction_goes_on(acme: Tenant, conn: Any, books: str) -> None:
    """Also in a tenant and about a signal that are new in this very transaction. The second copy is in quarantine after the commit."""
    other = acme._ps.tenant("globex")
    for tenant in (acme, other):
        tenant.record("cus_1", paid("p"), connection=conn)
        with pytest.raises(ContentConflict):
            tenant.record("cus_1", paid("p", amount_minor=1), connection=conn)
        conn.execute(f"INSERT INTO {books} VALUES ('{tenant.name}')")
    assert acme.quarantine() == []
    conn.commit()
    for tenant in (acme, other):
        assert (count(tenant, "cus_1"), len(tenant.quarantine())) == (1, 1)
    assert booked(books) == ["acme", "globex"]


def test_a_conflict_whose_transaction_is_rolled_back_leaves_no_trace(acme: Tenant, conn: Any) -> None:
    acme.record("cus_1", paid("p"))
    with pytest.raises(ContentConflict):
        acme.record("cus_1", paid("p", amount_minor=1), connection=conn)
    conn.rollback()
    assert (acme.quarantine(), head(acme._ps)) == ([], 2)


@pytest.mark.parametrize(
    "refused", [lambda t, c: t.record("", paid("x"), connection=c), lambda t, c: t.record("c", paid("x", amount_minor=-1), connection=c)]
)
def test_bad_input_touches_nothing(refused: Callable[[Tenant, Any], Any], acme: Tenant, conn: Any, books: str) -> None:
    conn.execute(f"INSERT INTO {books} VALUES ('row')")
    with pytest.raises(InvalidInput):
        refused(acme, conn)
    conn.commit()
    assert (booked(books), head(acme._ps)) == (["row"], 0)


def test_what_is_known_already_takes_no_lock_and_says_so(acme: Tenant, conn: Any) -> None:
    """While the transaction stays open, others write: a duplicate and a conflict have let go of the log."""
    first = acme.record("cus_1", paid("p"))
    again = acme.record("cus_1", paid("p"), connection=conn)
    assert again == type(first)(False, first.position, first.recorded_at, first.event_id)
    assert acme.record("cus_1", paid("meanwhile")).position == 3
    conn.commit()
    assert head(acme._ps) == 3


def test_the_callers_role_tenant_and_settings_are_as_they_were(server: Server, acme: Tenant, conn: Any) -> None:
    """Whatever was set for the session or the transaction, after a record that stored, one that did not, and a refused one."""
    names = ("role", "postsale.tenant", "lock_timeout", "statement_timeout", "enable_seqscan", "plan_cache_mode", "jit", "search_path")
    names += ("idle_in_transaction_session_timeout", "enable_bitmapscan", "max_parallel_workers_per_gather", "synchronous_commit")

    def state() -> list[Any]:
        return [conn.execute("SELECT current_setting(%s, true)", (name,)).fetchone()[0] or "" for name in names]

    for prepare in ("SELECT 1", f"SET LOCAL ROLE {server.schema}_tailer", "SET LOCAL lock_timeout = 1234; SET LOCAL jit = on"):
        conn.execute(prepare)
        before = state()
        acme.record("cus_1", paid(f"p{len(prepare)}"), connection=conn)
        assert state() == before
        acme.record("cus_1", paid(f"p{len(prepare)}"), connection=conn)
        assert state() == before
        with pytest.raises(ContentConflict):
            acme.record("cus_1", paid(f"p{len(prepare)}", amount_minor=1), connection=conn)
        assert state() == before
        conn.commit()
    assert count(acme, "cus_1") == 3


def test_a_snapshot_from_before_the_newest_event_is_told_to_use_read_committed(acme: Tenant, conn: Any, books: str) -> None:
    """And the transaction goes on without the signal."""
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.execute(f"SELECT * FROM {books}")  # takes the snapshot
    acme.record("cus_1", paid("meanwhile"))
    with pytest.raises(StoreUnavailable, match="READ COMMITTED"):
        acme.record("cus_1", paid("p"), connection=conn)
    conn.execute(f"INSERT INTO {books} VALUES ('row')")
    conn.commit()
    assert (booked(books), count(acme, "cus_1")) == (["row"], 1)
    acme.record("cus_1", paid("p"), connection=conn)  # with a snapshot of its own
    conn.commit()
    assert count(acme, "cus_1") == 2


# ---------------------------------------------------------------- which connections, which logs


def test_a_log_that_is_not_on_postgresql_says_what_is(conn: Any, tmp_path: Any) -> None:
    for where in (None, tmp_path):
        with opened(where) as ps:
            for call in (
                lambda t: t.record("c", paid("1"), connection=conn),
                lambda t: t.record_many([("c", paid("1"))], connection=conn),
            ):
                with pytest.raises(Unsupported, match="PostgreSQL"):
                    call(ps.tenant("acme"))
            assert head(ps) == 0


@contextmanager
def unfit(kind: str, server: Server) -> Iterator[Any]:
    """A connection that nothing can be recorded on."""
    match kind:
        case "autocommit":
            with psycopg.connect(server.url, autocommit=True) as db:
                yield db
        case "failed":
            with psycopg.connect(server.url) as db:
                with pytest.raises(psycopg.Error):
                    db.execute("SELECT 1 / 0")
                yield db
                db.rollback()
        case "closed":
            db = psycopg.connect(server.url)
            db.close()
            yield db
        case "pipeline":
            with psycopg.connect(server.url) as db, db.pipeline():
                yield db
        case "latin":
            with psycopg.connect(server.url, client_encoding="latin1") as db:
                yield db
        case "sqlite":
            import sqlite3

            yield sqlite3.connect(":memory:")
        case "url":
            yield server.url
        case "other log":
            with new_log() as (url, schema), psycopg.connect(url) as db:
                assert schema != server.schema
                yield db


@pytest.mark.parametrize("kind", ["autocommit", "failed", "closed", "pipeline", "latin", "sqlite", "url"])
def test_a_connection_that_cannot_take_a_signal_is_refused_by_name_of_the_reason(kind: str, server: Server, acme: Tenant) -> None:
    with unfit(kind, server) as connection:
        with pytest.raises(InvalidInput) as caught:
            acme.record("cus_1", paid("p"), connection=connection)
        assert caught.value.field == "connection"
        if kind == "autocommit":
            with connection.transaction():
                assert acme.record("cus_1", paid("p"), connection=connection).stored
    assert count(acme, "cus_1") == (kind == "autocommit")


def test_a_connection_of_a_login_that_may_not_append_is_refused_and_stays_usable(server: Server, acme: Tenant) -> None:
    with new_log() as (url, _), psycopg.connect(url) as stranger:  # a member of another log's roles
        with pytest.raises(Exception, match="GRANT"):
            acme.record("cus_1", paid("p"), connection=stranger)
        assert stranger.execute("SELECT 1").fetchone() == (1,)
    assert head(acme._ps) == 0


@pytest.mark.parametrize("power", ["SUPERUSER", "BYPASSRLS"])
def test_a_connection_of_a_login_that_no_policy_holds_is_refused_and_stays_usable(power: str, server: Server, acme: Tenant) -> None:
    login = f"{server.schema}_{power.lower()}"
    with psycopg.connect(admin_url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {login} LOGIN {power}")
        admin.execute(f"GRANT {server.schema}_writer TO {login}")
    with psycopg.connect(server.url.replace(f"{server.schema}_app", login)) as mighty:
        with pytest.raises(UnsafeDatabase, match="Connect with the URL"):
            acme.record("cus_1", paid("p"), connection=mighty)
        assert mighty.execute("SELECT current_user").fetchone() == (login,)
    assert head(acme._ps) == 0


def test_a_connection_to_another_log_of_the_same_name_is_refused(server: Server, acme: Tenant) -> None:
    """As when staging and production both have a schema `postsale`: the log's own id is compared."""
    admin = psycopg.connect(admin_url(), autocommit=True)
    admin.execute(f"CREATE DATABASE {server.schema}_other")
    try:
        from postsale.store.postgres_init import init_sql

        with psycopg.connect(admin_url().replace("/postgres?", f"/{server.schema}_other?")) as other, other.transaction():
            other.execute(init_sql(server.schema).encode())
        with psycopg.connect(server.url.replace("/postgres?", f"/{server.schema}_other?")) as connection:
            with pytest.raises(InvalidInput, match="another log"):
                acme.record("cus_1", paid("p"), connection=connection)
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        admin.execute(f"DROP DATABASE {server.schema}_other")
        admin.close()


# ---------------------------------------------------------------- beside other writers


def test_other_writers_wait_for_the_commit_and_then_go_on(acme: Tenant, conn: Any) -> None:
    """Positions stay gapless, in the order of commits."""
    mine = acme.record("cus_1", paid("mine"), connection=conn)
    theirs: list[Any] = []
    thread = threading.Thread(target=lambda: theirs.append(acme.record("cus_1", paid("theirs"))))
    thread.start()
    until_waiting()
    assert theirs == []
    conn.commit()
    thread.join()
    assert (mine.position, theirs[0].position) == (2, 3)
    assert acme._ps.verify().problems == []


def until_waiting() -> None:
    """Until somebody on this server waits for a lock; the statement's own time-out bounds it."""
    with psycopg.connect(admin_url(), autocommit=True) as db:
        while db.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone() == (0,):
            pass


def test_a_writer_does_not_wait_for_ever_for_a_transaction_that_stays_open(server: Server, conn: Any) -> None:
    """Such as one's own, when a second record forgets the connection: a typed error after a bounded wait."""
    store = PostgresStore(server.url, schema=server.schema, clock=ManualClock(NOON), patience=Patience(lock=0.2))
    with PostSale(store, FileVault(server.keys), MemoryViews(), clock=ManualClock(NOON)) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("in"), connection=conn)
        with pytest.raises(StoreUnavailable, match="locked"):
            acme.record("cus_1", paid("out"))
        conn.commit()
        assert acme.record("cus_1", paid("out")).position == 3


def test_two_transactions_that_make_the_same_customer_make_one(server: Server, acme: Tenant) -> None:
    """The second waits for the first, finds the customer there, and its signal joins it; the same signal is known."""
    gate, results = threading.Barrier(2, timeout=30), []

    def run(n: int) -> None:
        with psycopg.connect(server.url) as connection:
            for turn in range(10):
                gate.wait()
                acme.record(f"cus_{turn}", paid(f"own-{turn}-{n}", contact="eve"), connection=connection)
                results.append(acme.record(f"cus_{turn}", paid(f"shared-{turn}"), connection=connection).stored)
                connection.commit()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 10 + [True] * 10
    assert {row.name: count(acme, row.name) for row in acme.customers()} == {f"cus_{n}": 3 for n in range(10)}
    assert acme._ps.verify().problems == []


def test_names_of_a_transaction_that_was_rolled_back_are_nobodys(server: Server, acme: Tenant, conn: Any) -> None:
    """Tenant, streams and kinds that only it had made are made again by whoever needs them, in this process and in another one."""
    globex = acme._ps.tenant("globex")
    for _ in range(2):
        globex.record("cus_1", failed("f"), connection=conn)
        conn.rollback()
    assert globex.record("cus_1", failed("f")).stored
    with opened(server) as other:
        assert other.tenant("globex").record("cus_1", failed("g")).stored
    assert count(globex, "cus_1") == 2
    assert acme._ps.tenants() == ["globex"]


_KILLED = """
import json, sys, psycopg
from postsale import PostSale
from postsale.aggregates.signals import InvoicePaid
from tests.app.support import NOON, paid
url, options, books = sys.argv[1:]
with PostSale.open(url, **json.loads(options)) as ps, psycopg.connect(url) as conn:
    conn.execute(f"INSERT INTO {books} VALUES ('row')")
    ps.tenant("acme").record("cus_1", paid("p"), connection=conn)
    print("recorded", flush=True)
    sys.stdin.readline()
"""


def test_a_process_killed_before_its_commit_leaves_neither_row_nor_signal_nor_lock(server: Server, acme: Tenant, books: str) -> None:
    with Fork("-c", _KILLED, *arguments(server), books, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "recorded\n"
        process.send_signal(signals.SIGKILL)
    assert acme.record("cus_1", paid("p")).position == 2
    assert (booked(books), count(acme, "cus_1")) == ([], 1)


@settings(max_examples=10)
@given(
    st.lists(
        st.tuples(st.sampled_from(["in", "in", "out", "row", "conflict", "commit", "rollback"]), st.integers(0, 3), st.integers(0, 5)),
        max_size=25,
    )
)
def test_any_sequence_ends_as_its_commits_say(steps: list[tuple[str, int, int]]) -> None:
    """Records inside and outside, rows, conflicts, commits and rollbacks in any order, against two sets."""
    with new_log() as (url, schema), psycopg.connect(url) as conn, opened_on(url, schema) as ps:
        acme = ps.tenant("acme")
        conn.execute("CREATE TEMP TABLE rows (id text)")
        conn.commit()
        kept: dict[str, str] = {}  # signal -> customer, committed
        rows: list[str] = []
        ours, our_rows = dict(kept), list(rows)

        def end(commit: bool) -> None:
            nonlocal kept, rows, ours, our_rows
            (conn.commit if commit else conn.rollback)()
            kept, rows = (ours, our_rows) if commit else (kept, rows)
            ours, our_rows = dict(kept), list(rows)

        for step, customer, number in steps:
            name, id_ = f"c{customer}", f"s{number}"
            match step:
                case "in" if ours.get(id_, name) == name:
                    assert acme.record(name, paid(id_), connection=conn).stored == (id_ not in ours)
                    ours[id_] = name
                case "conflict" if id_ in ours:
                    with pytest.raises(ContentConflict):
                        acme.record(ours[id_], paid(id_, amount_minor=1), connection=conn)
                case "row":
                    conn.execute("INSERT INTO rows VALUES (%s)", (id_,))
                    our_rows.append(id_)
                case "out" if kept.get(id_, name) == name:
                    if ours != kept:
                        end(commit=bool(number % 2))  # it would wait for our own transaction
                    if kept.get(id_, name) == name:
                        assert acme.record(name, paid(id_)).stored == (id_ not in kept)
                        kept[id_] = ours[id_] = name
                case "commit" | "rollback":
                    end(step == "commit")
        end(commit=True)
        found = {e.header.source_id: row.name for row in acme.customers() for e in acme.timeline(row.name)}
        assert found == kept
        assert [id_ for (id_,) in conn.execute("SELECT id FROM rows").fetchall()] == rows
        assert ps.verify().problems == []


@contextmanager
def opened_on(url: str, schema: str) -> Iterator[PostSale]:
    """With keys in memory."""
    store = PostgresStore(url, schema=schema, clock=ManualClock(NOON))
    with PostSale(store, FileVault.in_memory(), MemoryViews(), clock=ManualClock(NOON)) as ps:
        yield ps
