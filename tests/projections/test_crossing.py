"""The smallest change into the next band is one that folding again confirms, and no smaller one in the search does it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import (
    CancellationScheduled,
    InvoicePaid,
    InvoicePaymentFailed,
    SubscriptionStarted,
    SurveyAnswered,
    TicketEscalated,
    TicketOpened,
    UsageObserved,
)  # fmt: skip
from postsale.errors import InvalidInput
from postsale.events import to_us
from postsale.projections import CUSTOMER_HEALTH, Component, Fact, Features, HealthModel, count, explain_health
from postsale.projections.crossing import crossings
from postsale.projections.health import Lever

from .customers import History, day

KINDS = [InvoicePaid, InvoicePaymentFailed, UsageObserved, TicketOpened, TicketEscalated, SurveyAnswered, SubscriptionStarted, CancellationScheduled]  # fmt: skip
BANDS = ["poor", "fair", "good"]


class Counted(Features, version=1, owner="tests"):
    paid = count(InvoicePaid)
    failed = count(InvoicePaymentFailed)
    tickets = count(TicketOpened)


def _points(v):
    return max(0, min(100, 50 + 4 * v["paid"] - 9 * v["failed"] - 30 * (v["tickets"] // 2))) * 1_000_000


def money(values):
    return {"amount_minor": 1, "currency": "EUR"}


SMALL = HealthModel(
    name="counted",
    version=1,
    features=Counted,
    components=(Component("points", 1, _points),),
    levers=(
        Lever("paid invoice", InvoicePaid, add=money),
        Lever("failed payment", InvoicePaymentFailed, add=money, remove=True),
        Lever("ticket", TicketOpened, add=lambda v: {"ticket_id": "t"}, remove=True),
    ),
)


@st.composite
def histories(draw, max_size=12):
    history = History()
    for kind, at in draw(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 100)), max_size=max_size)):
        history.on(at, kind)
    return history.facts


def applied(facts, moves):
    gone = {f.position for move in moves if move.action == "remove" for f in move.facts}
    return [f for f in facts if f.position not in gone] + [f for move in moves if move.action == "add" for f in move.facts]


@given(histories(), st.integers(100, 130))
def test_folding_the_changed_facts_gives_the_value_it_names_in_another_band_that_way(facts, n):
    now = explain_health(CUSTOMER_HEALTH, facts, day(n), day(n))
    found = now.why(top=0).crossings
    ways = [] if now.band is None else [w for w, edge in (("up", "good"), ("down", "poor")) if now.band != edge]
    assert [c.direction for c in found] == ways
    for c in found:
        assert BANDS.index(c.band) - BANDS.index(now.band) == (1 if c.direction == "up" else -1)
        if c.moves is None:
            assert (c.value_micro, c.reached) == (None, None)
            continue
        then = explain_health(CUSTOMER_HEALTH, applied(facts, c.moves), day(n), day(n))
        assert (then.value_micro, then.band) == (c.value_micro, c.reached)
        assert (BANDS.index(then.band) > BANDS.index(now.band)) == (c.direction == "up")
        assert all(f.occurred_at_us <= day(n) for move in c.moves for f in move.facts)


@given(st.integers(0, 12), st.integers(0, 4), st.integers(0, 4))
def test_no_change_of_fewer_facts_reaches_it(paid, failed, tickets):
    facts = History()
    for kind, n in ((InvoicePaid, paid), (InvoicePaymentFailed, failed), (TicketOpened, tickets)):
        for i in range(n):
            facts.on(i, kind)
    now = SMALL.band(_points({"paid": paid, "failed": failed, "tickets": tickets}))
    steps = [(1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    for c in crossings(SMALL, facts.facts, day(20)):
        least = None
        for size in range(1, 31):
            for chosen in combinations_with_replacement(steps, size) if size <= 3 else ([step] * size for step in steps):
                after = [have + sum(step[i] for step in chosen) for i, have in enumerate((paid, failed, tickets))]
                then = SMALL.band(_points(dict(zip(("paid", "failed", "tickets"), after, strict=True)))) if min(after) >= 0 else now
                if then != now and (BANDS.index(then) > BANDS.index(now)) == (c.direction == "up"):
                    least = size
                    break
            if least:
                break
        assert (c.facts or None) == least


def test_people_and_programs_read_the_change_in_the_same_words():
    history = (
        History().on(0, SubscriptionStarted).on(1, InvoicePaid).on(2, InvoicePaid).on(3, InvoicePaymentFailed).on(4, InvoicePaymentFailed)
    )
    why = explain_health(CUSTOMER_HEALTH, history.facts, day(5), day(5)).why()
    assert why.health.score == 50.0
    (up,) = why.to_dict()["crossings"]
    fields = {"amount_minor": 0, "currency": "XXX", "invoice_id": None, "items": None}
    move = {"lever": "paid invoice", "kind": "billing/invoice-paid", "action": "add", "count": 1, "fields": fields}
    assert {k: up[k] for k in ("direction", "band", "facts", "reached", "value_micro", "tried")} == {
        "direction": "up", "band": "fair", "facts": 1, "reached": "fair", "value_micro": 60_000_000, "tried": 1,
    }  # fmt: skip
    assert [{k: m[k] for k in move if k != "fields"} for m in up["moves"]] == [{k: v for k, v in move.items() if k != "fields"}]
    assert "up to fair: 1 more × paid invoice → 60.00" in str(why)


def test_a_fact_that_is_taken_away_is_named_by_its_position():
    history = History().on(0, SubscriptionStarted).on(1, InvoicePaid).on(2, CancellationScheduled)
    for _ in range(30):
        history.on(3, TicketOpened)
    why = explain_health(CUSTOMER_HEALTH, history.facts, day(5), day(5)).why(top=0)
    (up,) = why.crossings
    assert [(m.lever, m.action, [f.position for f in m.facts]) for m in up.moves] == [("cancellation", "remove", [3])]
    assert "up to fair: without the newest 1 × cancellation (3) → 55.56" in str(why)


def test_it_says_so_when_no_change_of_the_search_is_enough():
    history = History()
    for _ in range(200):
        history.on(0, InvoicePaymentFailed)
    (up,) = explain_health(SMALL, history.facts, day(5), day(5)).why(top=0).crossings
    assert (up.moves, up.facts, up.value_micro) == (None, 0, None)
    assert up.tried > 100
    text = str(explain_health(SMALL, history.facts, day(5), day(5)).why(top=0))
    assert f"up to fair: no change found, of {up.tried} tried (up to 3 facts, or up to 30 of one kind)" in text


def test_each_further_fact_of_a_lever_with_a_step_occurred_a_day_before_the_last():
    model = replace(SMALL, levers=(Lever("active day", InvoicePaid, add=money, every_days=1),))
    (up,) = crossings(model, [*History().on(0, TicketOpened).facts, *History().on(0, InvoicePaymentFailed).facts], day(9))
    assert up.moves is not None
    assert [f.occurred_at_us for f in up.moves[0].facts] == [day(9), day(8), day(7)]


def test_the_newest_facts_are_taken_away_by_when_they_occurred_and_not_by_when_they_came():
    model = replace(SMALL, levers=(Lever("ticket", TicketOpened, remove=True),), bands=(("poor", 30), ("fair", 75), ("good", 100)))
    history = History().on(5, TicketOpened).on(9, TicketOpened).on(1, TicketOpened)
    (up,) = crossings(model, history.facts, day(9))
    assert up.moves is not None
    assert [f.position for f in up.moves[0].facts] == [2, 1]


@pytest.mark.parametrize(("year", "possible"), [(1, False), (1685, False), (1686, True), (2254, True), (2255, False), (9999, False)])
def test_at_a_time_when_no_signal_can_occur_facts_are_only_taken_away(year, possible):
    us = to_us(datetime(year, 1, 1, 12, tzinfo=UTC))
    money = {"amount_minor": 1, "currency": "EUR"}
    (up,) = crossings(SMALL, [Fact("billing/invoice-payment-failed", n, min(us, day(0)), day(0), money) for n in (1, 2)], us)
    assert (up.moves is not None) is possible
    assert (up.tried == 2) is not possible  # one of them taken away, then both


def test_without_a_value_there_is_no_band_to_cross():
    assert explain_health(CUSTOMER_HEALTH, [], day(0), day(0)).why().crossings == ()


def test_a_lever_whose_fields_make_no_signal_is_refused_by_name():
    model = replace(SMALL, levers=(Lever("ticket", TicketOpened, add=lambda v: {"nonsense": 1}),))
    with pytest.raises(InvalidInput, match="lever ticket"):
        crossings(model, History().on(0, InvoicePaid).facts, day(1))


def test_a_model_that_is_not_pure_is_refused_and_not_believed():
    calls = iter(range(10_000))

    def moody(v):
        return 10_000_000 if next(calls) == 0 else 60_000_000 + next(calls)

    model = replace(SMALL, components=(Component("moody", 1, moody),))
    with pytest.raises(InvalidInput, match="pure"):
        crossings(model, History().on(0, InvoicePaid).facts, day(1))
