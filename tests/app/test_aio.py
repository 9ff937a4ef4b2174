"""The async twin: the same answers, and an event loop that goes on while a call waits."""

from __future__ import annotations

import asyncio
import inspect
import threading
from pathlib import Path

import pytest

from postsale import AsyncPostSale, AsyncTenant, PostSale, Tenant
from postsale.agents import RenewalRescue
from postsale.errors import ContentConflict, UnknownCustomer
from postsale.events import ManualClock

from .support import ANNA, NOON, Where, failed, opened, paid, place_of, subscribed

_ONLY_SYNC = {
    "Tenant": {"agent", "agent_names"},
    "PostSale": {
        "authenticate",
        "decision_stream",
        "engine_for",
        "engine_of",
        "installed_digest",
        "issue_token",
        "person",
        "projections",
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
