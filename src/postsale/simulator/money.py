"""Invoices: charged when due and again after 3, 7 and 14 days, refunded now and then; who never pays is ended.

May import `aggregates` and the simulator's layers below.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from postsale.aggregates import signals as s
from postsale.simulator.account import stop
from postsale.simulator.latent import MONTH
from postsale.simulator.state import Customer, Fact, Happening, World

_WAITS = (0, 3, 7, 14)  # days after an invoice is due


def charges(c: Customer, world: World) -> Iterator[Happening]:
    """The day's invoices and charges."""
    day = world.day
    if day >= c.next_invoice and c.trial_until is None:
        c.next_invoice = day + MONTH
        if c.paused_until is None:
            c.charges.append((day, f"{c.name}-invoice-{day}", 1, c.mrr_minor))
    if not c.charges:
        return
    todo, c.charges = [x for x in c.charges if x[0] <= day], [x for x in c.charges if x[0] > day]
    for _, invoice, attempt, amount in todo:
        yield from _charge(c, world, invoice, attempt, amount)


def _charge(c: Customer, world: World, invoice: str, attempt: int, amount: int) -> Iterator[Happening]:
    m, d = world.model, c.stream.of(invoice, attempt)
    at = world.at(d.between(60, 1_380))
    chance = m.charge_fails if c.card_works else m.bad_card_fails
    fails = d.chance(chance)
    world.tally("charges failed", fails, chance)
    bill = {"amount_minor": amount, "currency": m.currency, "invoice_id": invoice}
    if not fails:
        c.collected_minor += amount
        yield Fact(s.InvoicePaid, "billing", f"{invoice}-paid", at, bill)
        if d.chance(m.refunds * (2 if c.satisfaction < 0.5 else 1)):
            back = round(amount * d.between(0.1, 1.0))
            c.collected_minor -= back
            refund = {"amount_minor": back, "currency": m.currency, "invoice_id": invoice, "reason": "goodwill"}
            yield Fact(s.InvoiceRefunded, "billing", f"{invoice}-refunded", at + timedelta(days=d.exponential(5)), refund)
        return
    why = "expired_card" if not c.card_works else "do_not_honor"
    yield Fact(s.InvoicePaymentFailed, "billing", f"{invoice}-failed-{attempt}", at, bill | {"attempt": attempt, "reason": why})
    if attempt < len(_WAITS):
        c.charges.append((world.day + _WAITS[attempt] - _WAITS[attempt - 1], invoice, attempt + 1, amount))
    else:
        yield from stop(c, world, "unpaid", avoidable=True)
