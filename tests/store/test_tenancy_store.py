"""Tenants of one PostgreSQL log through the store and the application: each sees its own, whoever else uses the same connections."""

from __future__ import annotations

import random
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from tests.postgres import new_log, server
from tests.store.raw_log import TENANT_COLUMN, RawLog

from postsale import PostSale
from postsale.aggregates.signals import UsageObserved
from postsale.errors import NotAllowed, UnknownCustomer, UnsafeDatabase
from postsale.events import StreamId
from postsale.store import QuarantineItem, Query, verify
from postsale.store.postgres import PostgresStore
from postsale.store.postgres_link import Script
from postsale.testing import Events
from postsale.testing.store_building import each, in_threads, stored

TENANTS = ("acme", "birch", "cedar")


def test_threads_of_several_tenants_share_connections_and_each_sees_its_own() -> None:
    """Two connections, six threads: a tenant left over from whoever had the connection before would show."""
    seed = random.getrandbits(32)  # follows from the seed that the run prints
    with new_log() as (url, schema), closing(PostgresStore(url, schema=schema, max_connections=2)) as store:

        def work(number: int) -> None:
            tenant, rand, events = TENANTS[number % 3], random.Random(seed + number), Events(seed + number)
            stream = StreamId(tenant, "customers", "cus_42")  # the same in every tenant
            for _ in range(25):
                match rand.randrange(6):
                    case 0:
                        fact = events.fact(stream, data=tenant.encode())
                        assert stored(store.append(each(fact))[0]).stored
                        found = store.find(tenant, fact.event_id)
                        assert found is not None
                        assert all(store.find(other, fact.event_id) is None for other in TENANTS if other != tenant)
                    case 1:
                        query = rand.choice([Query(tenant=tenant), Query(streams=(stream,)), Query(tenant=tenant, category="customers")])
                        assert {event.data for event in store.read(query)} <= {tenant.encode()}
                    case 2:
                        store.kv.put("space", tenant, "key", tenant.encode())
                        assert {kept.value for kept in store.kv.scan("space", tenant)} == {tenant.encode()}
                    case 3:
                        item = QuarantineItem(id="q", tenant=tenant, source=tenant, reason="r", received_at_us=1, body=b"")
                        store.quarantine.put([item])
                        assert {item.source for item in store.quarantine.items(tenant)} == {tenant}
                    case 4:
                        head = store.tree_head(tenant)
                        assert len(store.tree(tenant, 0, 0, head.size)) == head.size
                    case 5:
                        with store._reading(tenant) as db:  # a statement of ours that forgot its tenant
                            ((here,),) = db.execute(f"SELECT {schema}.tenant_no()".encode()).fetchall()
                            for table, column in TENANT_COLUMN.items():
                                rows = db.execute(f"SELECT DISTINCT {column} FROM {schema}.{table}".encode()).fetchall()
                                assert {no for (no,) in rows} <= {0, here}

        in_threads(work, 6)
        assert verify(store).ok


@pytest.mark.parametrize("role", ["writer", "tailer"])
def test_a_role_left_on_a_shared_connection_is_no_ones_after_the_transaction(role: str) -> None:
    with new_log() as (url, schema), closing(PostgresStore(url, schema=schema, max_connections=1)) as store:
        stored(store.append(each(Events(1).fact()))[0])
        link, name = store._link, getattr(store._link.roles, role)
        for script in (link.begin(name), link.begin(name, read_only=True)):
            with link.transaction(script) as db:
                assert db.execute("SELECT current_user").fetchone() == (name,)
        with link.transaction(Script("BEGIN")) as db:
            assert db.execute("SELECT current_user = session_user, current_setting('postsale.tenant', true)").fetchone() in [
                (True, ""),
                (True, None),
            ]


def test_a_login_that_only_writes_never_gets_a_store_that_reads_all_tenants() -> None:
    """Without the tailers' role it is refused at start-up; were it taken away later, the reads of all tenants would be."""
    with new_log() as (url, schema):
        log = RawLog(url, schema)
        with closing(PostgresStore(url, schema=schema)) as store:
            fact = Events(1).fact()
            stored(store.append(each(fact))[0])
            with psycopg.connect(server(), autocommit=True) as admin:
                admin.execute(f"REVOKE {log.roles.tailer} FROM {schema}_app".encode())
            assert [event.event_id for event in store.read(Query(tenant="acme"))] == [fact.event_id]
            for read in (lambda: list(store.read(Query())), store.tenants):
                with pytest.raises(NotAllowed, match=log.roles.tailer):
                    read()
        with pytest.raises(UnsafeDatabase, match=f"may not act as {log.roles.tailer}"):
            PostgresStore(url, schema=schema)


def test_the_same_customer_id_in_two_tenants_is_two_customers(tmp_path: Path) -> None:
    """FAULT 27."""
    at = datetime(2026, 6, 1, tzinfo=UTC)
    with new_log() as (url, schema), PostSale.open(url, schema=schema, keys=tmp_path / "shop.keys") as ps:
        acme, birch, cedar = map(ps.tenant, TENANTS)
        first = acme.record("cus_42", UsageObserved(source="app", id="u1", occurred_at=at, feature="acme-only"))
        second = birch.record("cus_42", UsageObserved(source="app", id="u1", occurred_at=at, feature="birch-only"))
        assert first.stored
        assert second.stored, "the same source and id, other content, another tenant: no conflict"
        assert first.event_id != second.event_id
        ps.run_once()
        (one,), (other_one,) = acme.customers(), birch.customers()
        assert one.ref != other_one.ref
        for tenant, own, other in ((acme, "acme-only", "birch-only"), (birch, "birch-only", "acme-only")):
            shown = repr(tenant.timeline("cus_42"))
            assert own in shown
            assert other not in shown
        with pytest.raises(UnknownCustomer):
            cedar.timeline("cus_42")
