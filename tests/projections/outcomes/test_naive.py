"""Recurring revenue held to an evaluator that writes down every day, over random statements; and identities that always hold."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import (
    CancellationWithdrawn,
    Signal,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionPaused,
    SubscriptionResumed,
    SubscriptionStarted,
)
from postsale.projections.outcomes import Book, logo_churn, movements, retention

from .world import Customer, frame, named, us

DAYS = 40
KINDS: tuple[type[Signal], ...] = (
    SubscriptionStarted,
    SubscriptionChanged,
    SubscriptionResumed,
    CancellationWithdrawn,
    SubscriptionPaused,
    SubscriptionEnded,
)


class Said(NamedTuple):
    occurred: int
    effective: int
    kind: int
    subscription: str
    minor: int
    currency: str
    trial: bool


said = st.builds(
    Said,
    st.integers(0, DAYS - 1),
    st.integers(0, DAYS - 1),
    st.integers(0, len(KINDS) - 1),
    st.sampled_from("ab"),
    st.integers(0, 5),
    st.sampled_from(["EUR", "USD"]),
    st.booleans(),
)
customers = st.lists(st.lists(said, max_size=7), min_size=1, max_size=6)
periods = st.tuples(st.integers(0, DAYS - 1), st.integers(1, DAYS)).map(lambda p: (min(p[0], p[1]), max(p[0] + 1, p[1])))


def book_of(ref: str, statements: list[Said]) -> Book:
    customer = Customer(ref)
    for s in statements:
        kind = KINDS[s.kind]
        trial = {"trial": s.trial} if "trial" in kind.model_fields else {}
        terms = {"subscription_id": s.subscription, "mrr_minor": s.minor, "currency": s.currency, "effective_at": s.effective}
        customer.on(s.occurred, kind, **terms, **trial)
    return customer.book(DAYS)


class Naive:
    """Every day of every subscription, overwritten by each statement from the day on which it takes effect, in the order of what occurred."""

    def __init__(self, statements: list[Said]) -> None:
        self.days: dict[str, list[tuple[str, int, str] | None]] = {}
        for s in sorted(statements, key=lambda s: s.occurred):  # stable: of one day the later one wins
            days = self.days.setdefault(s.subscription, [None] * DAYS)
            kind = KINDS[s.kind]
            state = {SubscriptionPaused: "paused", SubscriptionEnded: "ended"}.get(kind, "billed")
            if s.trial and "trial" in kind.model_fields:
                state = "trial"
            days[s.effective :] = [(state, s.minor, s.currency)] * (DAYS - s.effective)

    def before(self, day: int) -> tuple[Counter[str], bool, bool]:
        """MRR by currency, whether it runs, whether it pauses, on the day before this one."""
        mrr, running, paused = Counter[str](), False, False
        for days in self.days.values():
            cell = days[day - 1] if day else None
            if cell is not None:
                state, minor, currency = cell
                running |= state in ("billed", "paused")
                paused |= state == "paused"
                mrr[currency] += minor if state == "billed" else 0
        return +mrr, running, paused


@given(st.lists(said, max_size=9))
def test_the_revenue_of_every_day_is_that_of_the_evaluator(statements: list[Said]) -> None:
    book, naive = book_of("c", statements), Naive(statements)
    for day in range(DAYS + 1):
        found = book.at(us(day))
        assert (Counter(found.mrr), found.running, found.paused) == naive.before(day), day


@given(customers, periods)
def test_retention_and_churn_are_those_of_the_evaluator(everyone: list[list[Said]], period: tuple[int, int]) -> None:
    start, end = period
    books = [book_of(f"c{i}", statements) for i, statements in enumerate(everyone)]
    found = retention(books, frame(start, end, DAYS))
    starts, kept, ends = Counter[str](), Counter[str](), Counter[str]()
    opening = lost = 0
    for statements in everyone:
        naive = Naive(statements)
        (was, _, paused), (now, running, _) = naive.before(start), naive.before(end)
        opening += bool(was) or paused
        lost += (bool(was) or paused) and not running
        swapped = (was.keys() - now.keys()) and (now.keys() - was.keys())
        for currency in was:
            if currency in now or not swapped:
                starts[currency] += was[currency]
                kept[currency] += min(was[currency], now[currency])
                ends[currency] += now[currency]
    for currency in starts:
        assert named(found, "grr", currency).value == round(kept[currency] / starts[currency], 9)
        assert named(found, "nrr", currency).value == round(ends[currency] / starts[currency], 9)
    churn = named(logo_churn(books, frame(start, end, DAYS)), "logo-churn")
    assert (churn.n, churn.numerator) == (opening, lost)


@given(customers, periods)
def test_identities_hold(everyone: list[list[Said]], period: tuple[int, int]) -> None:
    """GRR is at most 1 and at most NRR; movements sum to the difference; kinds of churn sum to churn; intervals hold their value."""
    window = frame(*period, DAYS)
    books = [book_of(f"c{i}", statements) for i, statements in enumerate(everyone)]
    measures = retention(books, window)
    for grr, nrr in zip(measures[::2], measures[1::2], strict=True):
        if grr.value is not None and nrr.value is not None:
            assert grr.value <= 1
            assert grr.value <= nrr.value
        for measure in (grr, nrr):
            if measure.interval is not None and measure.value is not None:
                assert measure.interval.low <= measure.value <= measure.interval.high
    for moved in movements(books, window):
        assert moved.opening + moved.net == moved.closing
        assert min(moved.new, moved.reactivation, moved.expansion, -moved.contraction, -moved.churn) >= 0
    everything, *kinds = logo_churn(books, window)
    assert sum(m.numerator or 0 for m in kinds) == everything.numerator


@given(customers, periods)
def test_two_periods_that_follow_each_other_make_one(everyone: list[list[Said]], period: tuple[int, int]) -> None:
    start, end = period
    books = [book_of(f"c{i}", statements) for i, statements in enumerate(everyone)]
    middle = (start + end) // 2
    if middle in (start, end):
        return
    closing = {m.currency: m.closing for m in movements(books, frame(start, middle, DAYS)) if m.closing}
    opening = {m.currency: m.opening for m in movements(books, frame(middle, end, DAYS)) if m.opening}
    assert closing == opening
