"""Bodies that Stripe's API really gave, recorded by the dj-stripe project; read in place, never copied."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed, SubscriptionChanged, SubscriptionEnded, SubscriptionStarted
from postsale.ingest import open_items, stripe

from .support import DIGEST, envelope, outcome, said, third_party, write

AT = datetime.fromtimestamp(1_700_000_000, UTC)
BASE: dict[str, Any] = {"source": "stripe", "id": "evt_1", "occurred_at": AT, "order": "001700000000"}


def body(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((third_party("stripe/djstripe") / f"{name}.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize(("number", "customer", "amount"), [("0001", "cus_6lsBvm5rJ0zyHc", 2000), ("0004", "cus_6lsBvm5rJ0zyHc", 4000)])
def test_recorded_invoices_give_exact_payments_and_failures(number: str, customer: str, amount: int) -> None:
    name = f"in_fakefakefakefakefake{number}"
    paid = stripe.signals(envelope("invoice.paid", body(f"invoice_{name}")))
    assert paid.signals == (InvoicePaid(**BASE, amount_minor=amount, currency="USD", invoice_id=name),)
    assert paid.customer is not None
    assert paid.customer.id == customer
    failed = stripe.signals(envelope("invoice.payment_failed", body(f"invoice_{name}")))
    assert failed.signals == (InvoicePaymentFailed(**BASE, amount_minor=amount, currency="USD", invoice_id=name, attempt=1),)


@pytest.mark.parametrize(
    ("number", "mrr", "plan", "seats"),
    [("0001", 2000, "gold21323", 1), ("0002", 4000, "silver41294", 1), ("0003", 2000, "gold21323", 1), ("0004", 6000, None, None)],
)
def test_recorded_subscriptions_give_exact_terms(number: str, mrr: int, plan: str | None, seats: int | None) -> None:
    held = body(f"subscription_sub_fakefakefakefakefake{number}")
    terms = {"subscription_id": held["id"], "mrr_minor": mrr, "interval": "month", "currency": "USD", "plan": plan, "seats": seats}
    started = datetime.fromtimestamp(held["start_date"], UTC)
    assert stripe.signals(envelope("customer.subscription.created", held)).signals == (
        SubscriptionStarted(**BASE, **terms, effective_at=started),
    )
    assert stripe.signals(envelope("customer.subscription.updated", held)).signals == (
        SubscriptionChanged(**BASE, **terms, effective_at=AT),
    )
    assert stripe.signals(envelope("customer.subscription.deleted", held)).signals == (SubscriptionEnded(**BASE, **terms, effective_at=AT),)


def test_the_recorded_charge_belongs_to_an_invoice_and_alone_it_counts() -> None:
    held = body("charge_ch_fakefakefakefakefake0001")
    assert outcome(stripe.signals(envelope("charge.succeeded", held))) == "ignored"
    alone = stripe.signals(envelope("charge.succeeded", held | {"invoice": None}))
    assert alone.signals == (InvoicePaid(**BASE, amount_minor=2000, currency="USD"),)


def test_recorded_envelopes_are_about_accounts_and_are_ignored(tmp_path: Path) -> None:
    files = sorted(third_party("stripe/djstripe").glob("event_*.json"))
    assert len(files) == 11
    items = [item for path in files for item in open_items("stripe", path, digest=DIGEST)]
    assert [item.ignored for item in items] == ["an event type that holds no signal"] * 11
    lines = write(tmp_path, b"\n".join(json.dumps(json.loads(path.read_bytes())).encode() for path in files), "events.ndjson")
    assert [outcome(item) for item in open_items("stripe", lines, digest=DIGEST)] == ["ignored"] * 11


def test_every_recorded_object_in_any_handled_envelope_is_one_item_without_an_address() -> None:
    kinds = [
        "invoice.paid",
        "invoice.payment_failed",
        "customer.subscription.created",
        "customer.subscription.deleted",
        "charge.succeeded",
        "charge.failed",
    ]
    for path in sorted(third_party("stripe/djstripe").glob("*.json")):
        for kind in kinds:
            item = stripe.signals(envelope(kind, json.loads(path.read_bytes())))
            outcome(item)
            assert "@" not in said(item)
