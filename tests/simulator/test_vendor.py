"""The vendor's year: one story per seed, lived day by day and told imperfectly by five sources."""

import subprocess
import sys
import tracemalloc
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from postsale.aggregates import signals
from postsale.aggregates.signals import Signal, billing, crm, product, ticketing, voice
from postsale.errors import InvalidInput
from postsale.events import encode_payload
from postsale.simulator import (
    SOURCES,
    TROUBLED,
    Arrival,
    ConsentGivenAt,
    Delivery,
    ErasureRequestedAt,
    Vendor,
    VendorModel,
)

START = datetime(2026, 1, 5, tzinfo=UTC)
QUARTER = list(Vendor(7, customers=40, start=START).arrivals())
DELIVERIES = [a for a in QUARTER if isinstance(a, Delivery)]


def key(signal: Signal) -> tuple[str, str]:
    return signal.source, signal.id


def groups(told: list[Delivery] = DELIVERIES) -> dict[tuple[str, str], list[Delivery]]:
    by_key: dict[tuple[str, str], list[Delivery]] = defaultdict(list)
    for delivery in told:
        by_key[key(delivery.signal)].append(delivery)
    return by_key


def kinds_of(*modules: object) -> set[type[Signal]]:
    found = (value for module in modules for value in vars(module).values())
    return {k for k in found if isinstance(k, type) and issubclass(k, Signal) and "wire_name" in vars(k)}


@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_the_same_seed_tells_the_same_story_and_another_seed_another(seed: int) -> None:
    def story(seed: int) -> list[Arrival]:
        return list(Vendor(seed, customers=5, start=START, days=40).arrivals())

    assert story(seed) == story(seed)
    assert story(seed) != story(seed + 1)


def test_a_seed_tells_the_same_story_in_another_process_whatever_its_hash_seed() -> None:
    code = (
        "import hashlib; from datetime import *; from postsale.simulator import Vendor\n"
        "told = list(Vendor(7, customers=8, start=datetime(2026, 1, 5, tzinfo=UTC), days=60).arrivals())\n"
        "print(len(told), hashlib.sha256(repr(told).encode()).hexdigest())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(told) == 1
    assert int(told.pop().split()[0]) > 100


def test_arrivals_come_in_order_of_arrival_and_within_the_time_observed() -> None:
    assert all(a.at <= b.at for a, b in pairwise(QUARTER))
    assert all(START <= a.at < START + timedelta(days=91) for a in QUARTER)


def test_a_day_hands_out_what_arrives_on_that_day() -> None:
    vendor = Vendor(7, customers=40, start=START)
    for number in range(30):
        begins = START + timedelta(days=number)
        today = vendor.day(number)
        assert all(begins <= a.at < begins + timedelta(days=1) for a in today)
        assert today == [a for a in QUARTER if begins <= a.at < begins + timedelta(days=1)]


@pytest.mark.parametrize("number", [-1, 0, 2])
def test_days_are_lived_in_order_and_once(number: int) -> None:
    vendor = Vendor(1, customers=1, start=START)
    vendor.day(0)
    with pytest.raises(InvalidInput, match="the next one is 1"):
        vendor.day(number)
    assert vendor.day(1) is not None


def test_nothing_arrives_before_it_happened() -> None:
    assert all(d.at >= d.signal.occurred_at for d in DELIVERIES)


def test_in_a_year_of_200_customers_every_kind_of_signal_that_the_five_sources_have_occurs() -> None:
    seed = 5
    vendor = Vendor(seed, customers=200, start=START, days=365)
    seen: set[type[object]] = set()
    sources: set[str] = set()
    for arrival in vendor.arrivals():
        seen.add(type(arrival.signal) if isinstance(arrival, Delivery) else type(arrival))
        if isinstance(arrival, Delivery):
            sources.add(arrival.signal.source)
    wanted = kinds_of(crm, billing, ticketing, product, voice) - {signals.DecisionRated}  # people's word on decisions, which are not there
    assert len(wanted) > 35
    assert wanted - seen == set(), f"seed {seed}"
    assert {ConsentGivenAt, ErasureRequestedAt} <= seen
    assert sources == set(SOURCES)


def test_some_deliveries_are_repeated_word_for_word_and_no_id_ever_stands_for_two_contents() -> None:
    for first, *others in groups().values():
        for other in others:
            assert other.at > first.at
            assert (other.customer, other.signal) == (first.customer, first.signal)
            assert encode_payload(other.signal) == encode_payload(first.signal)


def test_some_signals_arrive_late_and_out_of_the_order_in_which_they_happened() -> None:
    late = [d for d in DELIVERIES if d.at - d.signal.occurred_at > timedelta(days=1)]
    assert len(late) > 20
    by_customer: dict[str, list[datetime]] = defaultdict(list)
    for delivery in DELIVERIES:
        by_customer[delivery.customer].append(delivery.signal.occurred_at)
    disordered = sum(any(a > b for a, b in pairwise(times)) for times in by_customer.values())
    assert disordered > 0.9 * len(by_customer)


def test_a_silent_source_says_nothing_for_a_day_and_catches_up_within_two_hours() -> None:
    vendor = Vendor(3, customers=40, start=START, model=VendorModel(silent_per_year=20.0))
    silent = vendor.silent_days("product")
    assert silent
    told = [d for d in vendor.arrivals() if isinstance(d, Delivery) and d.signal.source == "product"]
    first = [group[0] for group in groups(told).values()]
    by_day = Counter((d.at - START).days for d in first)
    assert all(by_day[day] == 0 for day in silent)
    for day in silent:
        if day + 1 < vendor.days and day + 1 not in silent:
            begins = START + timedelta(days=day + 1)
            soon = sum(begins <= d.at < begins + timedelta(hours=2) for d in first)
            assert soon > by_day[day + 1] / 4, day
    assert vendor.silent_days("billing") == []


def test_nothing_is_lost_everything_that_happened_arrives_once_time_is_given() -> None:
    def ids(days: int, until: int) -> set[tuple[str, str]]:
        vendor = Vendor(4, customers=15, start=START, days=days)
        told = (a.signal for a in vendor.arrivals() if isinstance(a, Delivery))
        return {key(s) for s in told if (s.occurred_at - START).days < until}

    happened = Vendor(4, customers=15, start=START, days=60)
    facts = {
        (f.source, f.id) for _, f in happened.story() if not isinstance(f, ConsentGivenAt | ErasureRequestedAt) and (f.at - START).days < 30
    }
    assert facts
    assert facts - ids(150, 30) == set()


def test_what_a_source_says_wrong_it_corrects_later() -> None:
    model = VendorModel(wrong=1.0, repeated=0.0)
    vendor = Vendor(4, customers=10, start=START, days=120, model=model)
    right = {f.id: f for _, f in vendor.twin().story() if not isinstance(f, ConsentGivenAt | ErasureRequestedAt)}
    told = {a.signal.id: a.signal for a in vendor.arrivals() if isinstance(a, Delivery)}
    corrected = [id_ for id_ in told if id_.endswith("-corrected")]
    assert len(corrected) > 20
    field = {signals.SurveyRevised: "score", signals.SubscriptionChanged: "mrr_minor", signals.AccountProfiled: "seats"}
    for id_ in corrected:
        fix, truth = told[id_], right[id_.removesuffix("-corrected")]
        name = field[type(fix)]
        assert getattr(fix, name) == truth.fields[name]
        if truth.id in told:  # it may be later than the correction
            assert getattr(told[truth.id], name) != truth.fields[name]
            assert fix.occurred_at > told[truth.id].occurred_at


def test_every_customer_of_the_start_is_told_who_it_is_and_what_it_has() -> None:
    told = [(group[0].customer, type(group[0].signal)) for group in groups().values()]
    for kind in (signals.AccountProfiled, signals.SubscriptionStarted):
        assert {name for name, k in told if k is kind} >= {f"cus_{n:03d}" for n in range(1, 41)}
    due = {name for name, k in told if k is signals.RenewalDue}
    assert 10 < len(due) < 40, "contracts of a year have one, monthly ones have none"


def test_an_invoice_is_charged_at_most_four_times_until_it_is_paid() -> None:
    attempts: dict[str, list[Signal]] = defaultdict(list)
    told = [a for a in Vendor(7, customers=60, start=START, model=TROUBLED).arrivals() if isinstance(a, Delivery)]
    for group in groups(told).values():
        signal = group[0].signal
        if isinstance(signal, (signals.InvoicePaid, signals.InvoicePaymentFailed)):
            assert signal.invoice_id is not None
            attempts[signal.invoice_id].append(signal)
    for tries in attempts.values():
        ordered = sorted(tries, key=lambda s: s.occurred_at)
        assert 1 <= len(ordered) <= 4
        assert all(isinstance(s, signals.InvoicePaymentFailed) for s in ordered[:-1])
    assert any(len(tries) >= 3 for tries in attempts.values())


def test_a_cancellation_is_taken_back_before_there_is_another_one() -> None:
    words: dict[str, list[str]] = defaultdict(list)
    for c, f in Vendor(2, customers=80, start=START, days=300, model=TROUBLED).story():
        if not isinstance(f, ConsentGivenAt | ErasureRequestedAt) and f.kind in (
            signals.CancellationScheduled,
            signals.CancellationWithdrawn,
        ):
            words[c.name].append(f.kind.__name__)
    assert any(len(said) > 1 for said in words.values())
    for said in words.values():
        turns = ["CancellationScheduled", "CancellationWithdrawn"] * len(said)
        assert said == turns[: len(said)]


def test_nobody_says_anything_of_a_subscription_that_ended() -> None:
    vendor = Vendor(2, customers=80, start=START, days=300, model=TROUBLED)
    facts = [(c, f) for c, f in vendor.story() if not isinstance(f, ConsentGivenAt | ErasureRequestedAt)]
    ended = {c.name: f.at for c, f in facts if f.kind is signals.SubscriptionEnded}
    assert len(ended) > 10
    mine = [f for c, f in facts if c.name in ended and f.at > ended[c.name] and f.source in ("product", "billing")]
    assert {f.kind for f in mine} <= {signals.InvoiceRefunded}


def test_a_customer_tells_the_same_story_whoever_else_there_is_and_however_long_it_is_told() -> None:
    def of_first(customers: int, days: int) -> list[Arrival]:
        told = Vendor(7, customers=customers, start=START, days=days).arrivals()
        return [a for a in told if a.customer == "cus_001" and a.at < START + timedelta(days=60)]

    alone = of_first(1, 91)
    assert len(alone) > 50
    assert alone == of_first(10, 91) == of_first(1, 70)


@pytest.mark.parametrize("days", [1, 5, 20, 400])
def test_any_length_of_time_and_no_customers_at_all_can_be_told(days: int) -> None:
    told = list(Vendor(1, customers=2, start=START, days=days).arrivals())
    assert all(START <= a.at < START + timedelta(days=days) for a in told)
    assert list(Vendor(1, customers=0, start=START, days=days).arrivals()) == []


def test_what_is_kept_does_not_grow_with_the_story() -> None:
    def peak(days: int) -> int:
        vendor = Vendor(1, customers=5, start=START, days=days, model=VendorModel(growth_per_year=0.0, invites_per_year=0.0))
        tracemalloc.start()
        told = sum(1 for _ in vendor.arrivals())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert told > days
        return most

    peak(10)  # what is made once
    assert peak(400) < 2 * peak(100)


@pytest.mark.parametrize(("field", "values"), [("customers", {"customers": -1}), ("days", {"days": -1})])
def test_numbers_below_zero_are_refused(field: str, values: dict[str, int]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Vendor(1, start=START, **values)
    assert caught.value.field == field


def test_a_start_without_a_time_zone_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        Vendor(1, customers=1, start=START.replace(tzinfo=None))
    assert caught.value.field == "tzinfo"


@pytest.mark.parametrize("seed", [4, 2])
def test_what_is_told_under_one_id_is_one_fact(seed: int) -> None:
    """Doubled deliveries say the same: else one of them would be refused as a conflict."""
    vendor, told = Vendor(seed, customers=60, start=START, days=365, model=TROUBLED), dict[tuple[str, str], object]()
    for day in range(vendor.days):
        for arrival in vendor.day(day):
            if isinstance(arrival, Delivery):
                signal = arrival.signal
                assert told.setdefault((signal.source, signal.id), signal) == signal, f"seed {seed}"
    assert len(told) > 5_000
