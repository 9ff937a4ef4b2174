"""The async twin: the same answers, and an event loop that goes on while a call waits."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from postsale import AsyncPostSale, AsyncTenant, PostSale, Tenant
from postsale.access import FileVault
from postsale.agents import RenewalRescue
from postsale.errors import ContentConflict, StoreUnavailable, UnknownCustomer
from postsale.events import Lane, ManualClock
from postsale.projections.views_postgres import PostgresViews
from postsale.store.postgres import PostgresStore
from postsale.store.postgres_link import Patience

from .support import ANNA, NOON, Server, Where, failed, opened, paid, place_of, subscribed

_ONLY_SYNC = {
    "Tenant": {
        "activate",
        "activate_prompt",
        "agent",
        "agent_names",
        "backtest",
        "cases",
        "changed_since",
        "datasets",
        "datasets_of",
        "edit",
        "escalate",
        "move_case",
        "policy",
        "pseudonyms",
        "training_rows",
        "upcoming",
        "what_if",
        "certify",
        "replay_many",
        "prompts",
    },
    "PostSale": {
        "authenticate",
        "decision_of",
        "decision_stream",
        "engine_for",
        "engine_of",
        "hot_state",
        "installed_digest",
        "issue_token",
        "person",
        "projections",
        "projector",
        "runner_of",
        "scorer_of",
        "scoring",
        "simulate",
        "tenants",
    },
}


@pytest.mark.parametrize(("sync", "twin"), [(Tenant, AsyncTenant), (PostSale, AsyncPostSale)])
def test_every_method_has_a_twin_with_the_same_parameters(sync: type, twin: type) -> None:
    """What the sync API gains, the async one gains, or it is on the list of what people and operators do."""
    for name, method in inspect.getmembers(sync, inspect.isfunction):
        if name.startswith("_") or name in _ONLY_SYNC[sync.__name__]:
            continue
        other = getattr(twin, name, None)
        assert other is not None, name
        assert list(inspect.signature(method).parameters.values()) == list(inspect.signature(other).parameters.values()), name


def test_the_twin_gives_the_same_answers(where: Where) -> None:
    async def main() -> None:
        url, options = place_of(where)
        async with await AsyncPostSale.open(url, clock=ManualClock(NOON), agents=[RenewalRescue()], **options) as ps:
            acme = ps.tenant("acme")
            receipt = await acme.record("cus_42", failed("evt_1", attempt=2))
            assert receipt.stored
            report = await acme.record_many([("cus_42", subscribed("s")), ("cus_42", failed("evt_1", attempt=2))])
            assert (report.recorded, report.duplicates) == (1, 1)
            assert await acme.consent("cus_42", "email", "service", evidence="form")
            assert (await acme.health("cus_42")).to_dict() == acme.sync.health("cus_42").to_dict()
            assert await acme.customer("cus_42") == acme.sync.customer("cus_42")
            assert await acme.customers(at_risk=True) == acme.sync.customers(at_risk=True)
            await ps.run_once()
            decision, *others = await acme.decisions("cus_42")
            assert (await acme.explain(decision.id)).to_dict() == acme.sync.explain(decision.id).to_dict()
            assert (await acme.replay(decision.id)).intents == 0
            assert [e.position for e in await acme.timeline("cus_42")] == [e.position for e in acme.sync.timeline("cus_42")]
            assert await acme.approvals() == []
            await acme.ask("cus_42", "renewal-rescue", "look", reason="asked", by=ANNA)
            await ps.run_once()
            assert len(await acme.decisions()) == 2 + len(others)
            with pytest.raises(ContentConflict):
                await acme.record("cus_42", failed("evt_1", attempt=3))
            assert len(await acme.quarantine()) == 1
            with pytest.raises(UnknownCustomer):
                await acme.health("cus_43")
            assert (await ps.verify()).problems == []

    asyncio.run(main())


def test_an_event_loop_goes_on_while_another_thread_holds_the_log(tmp_path: Path) -> None:
    """A task ticks a thousand times between the moment a record begins to wait for the lock and the lock's release."""

    async def main(ps: PostSale) -> None:
        twin = AsyncPostSale(ps)
        acme = twin.tenant("acme")
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with ps.log.store.writing():  # type: ignore[attr-defined]
                held.set()
                release.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        await asyncio.to_thread(held.wait)
        writes = [asyncio.create_task(acme.record("cus_42", paid(f"evt_{n}"))) for n in range(3)]
        for _ in range(1_000):
            await asyncio.sleep(0)
            assert not any(task.done() for task in writes)
        release.set()
        receipts = await asyncio.gather(*writes)
        holder.join()
        assert all(receipt.stored for receipt in receipts)
        assert (await acme.customer("cus_42")).facts["billing/invoice-paid"].count == 3

    with opened(tmp_path) as ps:
        asyncio.run(main(ps))


def test_more_tasks_than_connections_wait_for_each_other_and_all_are_done(server: Server) -> None:
    """Thirty-two threads, a pool of four: records, reads and runs in every order, and no task waits for itself."""

    async def one(ps: AsyncPostSale, n: int) -> None:
        acme, customer = ps.tenant("acme"), f"cus_{n % 5}"
        receipt = await acme.record(customer, failed(f"evt_{n}", attempt=2))
        assert (await acme.health(customer)).position >= receipt.position
        if n % 8 == 0:
            await ps.run_once()
        assert receipt.position in [e.position for e in await acme.timeline(customer)]
        await acme.record_many([(f"cus_{(n + k) % 5}", paid(f"evt_{n}_{k}")) for k in range(3)])

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))
        url, options = place_of(server)
        opening = AsyncPostSale.open(url, clock=ManualClock(NOON), agents=[RenewalRescue()], max_connections=4, **options)
        async with await opening as ps:
            await asyncio.gather(*(one(ps, n) for n in range(32)))
            facts = [e for n in range(5) for e in await ps.tenant("acme").timeline(f"cus_{n}") if e.stored.lane is Lane.FACT]
            assert len(facts) == 32 * 4
            assert (await ps.verify()).problems == []

    asyncio.run(main())


def test_tasks_that_get_no_connection_in_time_are_told_so_and_later_ones_are_served(server: Server, tmp_path: Path) -> None:
    """While somebody keeps the whole pool: a typed error after a bounded wait, for each of them; nothing is stored."""
    clock = ManualClock(NOON)
    store = PostgresStore(server.url, schema=server.schema, clock=clock, patience=Patience(connection=0.3), max_connections=4)
    views = PostgresViews(server.url, store.log_id, schema=server.schema)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))
        async with AsyncPostSale(PostSale(store, FileVault(server.keys), views, clock=clock)) as ps:
            acme = ps.tenant("acme")
            before = (await acme.record("cus_42", paid("evt"))).position
            with ExitStack() as held:
                for _ in range(4):
                    held.enter_context(store._link.pool.connection())
                begun = time.monotonic()
                tasks = [acme.record("cus_42", paid(f"evt_{n}")) if n % 2 else acme.health("cus_42") for n in range(32)]
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert {type(result) for result in results} == {StoreUnavailable}
                assert "pool" in str(results[0])
                assert time.monotonic() - begun < 60
            assert (await acme.record("cus_42", paid("later"))).position == before + 1

    asyncio.run(main())


def test_many_tasks_at_once_lose_nothing(lasting: Where) -> None:
    """Two hundred concurrent records of few customers, each sent twice: each is stored once."""

    async def main() -> None:
        url, options = place_of(lasting)
        async with await AsyncPostSale.open(url, clock=ManualClock(NOON), **options) as ps:
            acme = ps.tenant("acme")
            sent = [(f"cus_{n % 5}", paid(f"evt_{n}")) for n in range(100)] * 2
            receipts = await asyncio.gather(*(acme.record(customer, signal) for customer, signal in sent))
            assert sum(receipt.stored for receipt in receipts) == 100
            assert [row.name for row in sorted(await acme.customers(), key=lambda r: r.name)] == [f"cus_{n}" for n in range(5)]
            assert (await ps.verify()).problems == []

    asyncio.run(main())
