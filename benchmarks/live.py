"""The live fold beside a plain dict fold of the same eleven features, on the same facts, in the same process; and how soon a signal is seen.

`python -m benchmarks.live --json --size 100000`. The peer is what one would write by hand: one dict per customer, an if-chain
by kind, the same tiles, the same ties. Before anything is timed, both must give the same values. The limit is the bare loop
that looks a customer up and reads the fact. What is measured of visibility, and how, is said in `_visible`.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Callable
from typing import Any

from benchmarks._visible import run as visible
from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed, SubscriptionChanged, TicketOpened, UsageObserved
from postsale.events import DAY_US
from postsale.projections import Fact, Features, Fold, count, days, distinct, first_seen, last_seen, latest, maximum, total

GOAL = 0.9  # of the plain dict fold's rate
_START_US = 20_000 * DAY_US
_SPAN_DAYS = 400


class Measured(Features, version=1, owner="benchmarks"):
    """Eleven features: windows, sums by a key, latest, first, last, a distinct set."""

    failed = count(InvoicePaymentFailed, window=days(90))
    paid = count(InvoicePaid, window=days(90))
    owed = total(InvoicePaymentFailed, lambda e: e.amount_minor, by=lambda e: e.currency)
    revenue = total(InvoicePaid, lambda e: e.amount_minor)
    first_purchase = first_seen(InvoicePaid)
    last_purchase = last_seen(InvoicePaid)
    usage = total(UsageObserved, lambda e: e.count, window=days(30))
    active = maximum(UsageObserved, lambda e: e.active_users)
    used = distinct(UsageObserved, lambda e: e.feature)
    seats = latest(SubscriptionChanged, lambda e: e.seats)
    tickets = count(TicketOpened, window=days(30))


def make_facts(size: int, customers: int) -> list[tuple[int, Fact]]:
    """Facts of `customers` customers in position order, a tenth of them late by up to twenty days."""
    rng = random.Random(7)
    out: list[tuple[int, Fact]] = []
    for position in range(1, size + 1):
        now = _START_US + position * _SPAN_DAYS * DAY_US // size
        at = now - rng.randrange(20 * DAY_US) if rng.random() < 0.1 else now
        draw = rng.random()
        fields: dict[str, Any]
        if draw < 0.6:
            fields = {"feature": f"f{rng.randrange(12)}", "count": rng.randrange(1, 50), "active_users": rng.randrange(40), "errors": 0}
            kind = "product/usage-observed"
        elif draw < 0.8:
            fields = {"amount_minor": rng.randrange(100, 90_000), "currency": rng.choice(("EUR", "USD"))}
            kind = "billing/invoice-paid"
        elif draw < 0.87:
            fields = {"amount_minor": rng.randrange(100, 90_000), "currency": rng.choice(("EUR", "USD")), "attempt": 1}
            kind = "billing/invoice-payment-failed"
        elif draw < 0.95:
            fields = {"ticket_id": f"t{position}", "priority": "normal"}
            kind = "ticketing/ticket-opened"
        else:
            fields = {"subscription_id": "s", "mrr_minor": 100, "interval": "month", "currency": "EUR", "seats": rng.randrange(5, 50)}
            kind = "billing/subscription-changed"
        out.append((rng.randrange(customers), Fact(kind, position, at, now, fields)))
    return out


def ours(facts: list[tuple[int, Fact]]) -> dict[int, Any]:
    fold = Fold(Measured)
    states: dict[int, Any] = {}
    for customer, fact in facts:
        state = states.get(customer)
        if state is None:
            state = states[customer] = fold.empty()
        fold.add(state, fact)
    return states


def plain(facts: list[tuple[int, Fact]]) -> dict[int, Any]:
    """The same by hand."""
    states: dict[int, Any] = {}
    for customer, (kind, position, at, _, fields) in facts:
        s = states.get(customer)
        if s is None:
            s = states[customer] = {
                "failed": {},
                "paid": {},
                "owed": {},
                "revenue": 0,
                "first": None,
                "last": None,
                "usage": {},
                "active": None,
                "used": set(),
                "seats": None,
                "tickets": {},
            }
        day = at // DAY_US
        if kind == "product/usage-observed":
            tiles = s["usage"]
            tiles[day] = tiles.get(day, 0) + fields["count"]
            active = fields.get("active_users")
            if active is not None and (s["active"] is None or active > s["active"]):
                s["active"] = active
            s["used"].add(fields["feature"])
        elif kind == "billing/invoice-paid":
            tiles = s["paid"]
            tiles[day] = tiles.get(day, 0) + 1
            s["revenue"] += fields["amount_minor"]
            if s["first"] is None or at < s["first"]:
                s["first"] = at
            if s["last"] is None or at > s["last"]:
                s["last"] = at
        elif kind == "billing/invoice-payment-failed":
            tiles = s["failed"]
            tiles[day] = tiles.get(day, 0) + 1
            owed = s["owed"]
            owed[fields["currency"]] = owed.get(fields["currency"], 0) + fields["amount_minor"]
        elif kind == "ticketing/ticket-opened":
            tiles = s["tickets"]
            tiles[day] = tiles.get(day, 0) + 1
        elif kind == "billing/subscription-changed":
            seats = fields.get("seats")
            if seats is not None and (s["seats"] is None or (at, position) > s["seats"][:2]):
                s["seats"] = (at, position, seats)
    return states


def bare(facts: list[tuple[int, Fact]]) -> dict[int, Any]:
    states: dict[int, Any] = {}
    for customer, (_, position, _, _, fields) in facts:
        states[customer] = fields and position
    return states


def check_equal(facts: list[tuple[int, Fact]]) -> None:
    """Stop unless both folds give the same value for every feature of every customer."""
    fold = Fold(Measured)
    as_of = _START_US + (_SPAN_DAYS + 1) * DAY_US
    today = as_of // DAY_US
    theirs = plain(facts)
    for customer, state in ours(facts).items():
        got, s = dict(fold.finish(state, as_of)), theirs[customer]

        def window(tiles: dict[int, int], n: int) -> int:
            return sum(value for day, value in tiles.items() if today - n < day <= today)

        expected = {
            "failed": window(s["failed"], 90),
            "paid": window(s["paid"], 90),
            "owed": s["owed"],
            "revenue": s["revenue"],
            "first_purchase": s["first"],
            "last_purchase": s["last"],
            "usage": window(s["usage"], 30),
            "active": s["active"],
            "used": len(s["used"]),
            "seats": s["seats"] and s["seats"][2],
            "tickets": window(s["tickets"], 30),
        }
        if got != expected:
            raise SystemExit(f"customer {customer}: {got} is not {expected}")


def best_rate(run: Callable[[list[tuple[int, Fact]]], object], facts: list[tuple[int, Fact]], rounds: int) -> float:
    """Facts per second of the fastest round."""
    best = float("inf")
    for _ in range(rounds):
        gc.collect()
        start = time.perf_counter()
        run(facts)
        best = min(best, time.perf_counter() - start)
    return len(facts) / best


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--size", type=int, default=200_000, help="facts")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    facts = make_facts(options.size, max(1, options.size // 100))
    check_equal(facts)
    limit = best_rate(bare, facts, options.rounds)
    peer = best_rate(plain, facts, options.rounds)
    rate = best_rate(ours, facts, options.rounds)
    ratio = rate / peer
    measures = [
        {
            "name": "live fold",
            "value": round(rate),
            "unit": "facts/s",
            "goal": None,
            "met": True,
            "peer": round(peer),
            "limit": round(limit),
        },
        {
            "name": "live fold / plain dict fold",
            "value": round(ratio, 3),
            "unit": "ratio",
            "goal": GOAL,
            "met": ratio >= GOAL,
            "peer": 1.0,
            "limit": round(limit / peer, 3),
        },
    ]
    del facts
    gc.collect()  # the facts above would make each full collection a pause of 100 ms for whoever offers signals
    measures += visible(options.size)
    result = {"benchmark": "live", "measures": measures}
    if not options.json:
        for measure in measures:
            print(measure)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
