"""A read that names a write's receipt has seen that write, or is refused with the position it has; never older without a word."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from postsale import AsyncPostSale, Tenant
from postsale.aggregates.signals import InvoicePaid
from postsale.errors import InvalidInput, StaleRead
from postsale.projections import Features, count
from postsale.projections.freshness import AtLeast

from .support import Server, Where, head, opened, paid, subscribed


class Payments(Features, version=1, owner="tests"):
    paid = count(InvoicePaid)


Read = Callable[[Tenant, dict[str, Any]], object]
READS: dict[str, Read] = {
    "customer": lambda acme, how: acme.customer("cus_1", **how).facts["billing/invoice-paid"].count,
    "health": lambda acme, how: acme.health("cus_1", **how).position,
    "features": lambda acme, how: acme.features(Payments, "cus_1", **how)["paid"],
    "all_features": lambda acme, how: [values["paid"] for _, values in acme.all_features(Payments, **how)],
    "customers": lambda acme, how: [row.position for row in acme.customers(**how)],
    "timeline": lambda acme, how: acme.timeline("cus_1", **how)[-1].position,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_has_seen_the_write_whose_receipt_it_names(where: Where, read: Read) -> None:
    """By the receipt or by its position, without waiting; the answer is the one without the demand."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        for n in range(3):
            receipt = acme.record("cus_1", paid(f"in_{n}"))
            plain = read(acme, {})
            for at_least in (receipt, receipt.position, 0):
                assert read(acme, {"at_least": at_least, "within_s": 0}) == plain


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_of_what_is_not_there_yet_is_refused_with_both_positions(where: Where, read: Read) -> None:
    """Also of an earlier time; the error says what it has and what was demanded, and survives pickling."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("in_1"))
        with pytest.raises(StaleRead) as caught:
            read(acme, {"at_least": head(ps) + 1, "within_s": 0, "known_at": None})
        assert caught.value.fields() == {"what": "the log", "position": head(ps), "at_least": head(ps) + 1, "within_s": 0}
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("token", [-1, True, "7", object()])
def test_what_is_no_receipt_is_refused_by_name(token: Any) -> None:
    with opened(None) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("in_1"))
        with pytest.raises(InvalidInput, match="at_least"):
            acme.health("cus_1", at_least=token)


def test_a_read_waits_for_a_write_of_another_thread(where: Where) -> None:
    """It is asked before the write is made, and answers with it."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        first = acme.record("cus_1", paid("in_1"))
        writer = threading.Thread(target=lambda: acme.record("cus_1", paid("in_2")))
        wanted: AtLeast = first.position + 1
        seen: list[int] = []
        reader = threading.Thread(target=lambda: seen.append(acme.features(Payments, "cus_1", at_least=wanted, within_s=60)["paid"]))
        reader.start()
        writer.start()
        reader.join()
        writer.join()
        assert seen == [2]


def test_a_receipt_of_a_transaction_is_a_token_once_it_has_committed(server: Server) -> None:
    """Before the commit a read that demands it is refused rather than answered without it; after a rollback too."""
    with opened(server) as ps, psycopg.connect(server.url) as conn:
        acme = ps.tenant("acme")
        acme.record("cus_1", subscribed("sub"))
        receipt = acme.record("cus_1", paid("in_1"), connection=conn)
        with pytest.raises(StaleRead):
            acme.health("cus_1", at_least=receipt, within_s=0)
        conn.commit()
        assert acme.features(Payments, "cus_1", at_least=receipt, within_s=0)["paid"] == 1
        rolled_back = acme.record("cus_1", paid("in_2"), connection=conn)
        conn.rollback()
        with pytest.raises(StaleRead):
            acme.customer("cus_1", at_least=rolled_back, within_s=0)


def test_the_async_twin_demands_the_same() -> None:
    async def run() -> None:
        async with await AsyncPostSale.open("memory:") as ps:
            acme = ps.tenant("acme")
            receipt = await acme.record("cus_1", paid("in_1"))
            how: dict[str, Any] = {"at_least": receipt, "within_s": 0}
            assert (await acme.features(Payments, "cus_1", **how))["paid"] == 1
            reads = (acme.customer, acme.health, acme.timeline)
            later: dict[str, Any] = {"at_least": receipt.position + 1, "within_s": 0}
            for read in reads:
                assert await read("cus_1", **how)
                with pytest.raises(StaleRead):
                    await read("cus_1", **later)
            for call in (lambda how: acme.customers(**how), lambda how: acme.all_features(Payments, **how)):
                assert await call(how)
                with pytest.raises(StaleRead):
                    await call(later)

    asyncio.run(run())
