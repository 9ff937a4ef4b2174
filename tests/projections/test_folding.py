"""The live fold equals the definition of every leaf, in any order and grouping, with ties, late facts and absent values."""

from __future__ import annotations

import hashlib
import json
import math
import random
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import AccountProfiled, InvoicePaid, Signal
from postsale.errors import InvalidInput, UnknownWireName, UpcastFailed
from postsale.events import DAY_US, AmountMinor, StreamId, registry
from postsale.projections import Fact, Features, Fold, count, days, fact_from, fact_of, latest, total

from .list_store import ListStore
from .support import DUE, MEASURED, PAID, USED, Everything, Measured, facts_strategy

FOLD = Fold(Everything)
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


# ---------------------------------------------------------------- the definition, written out


def _no(f):
    return None


def amount(f):
    return f.get("amount")


def label(f):
    return f.get("label")


def good(f):
    return f.get("good")


def step(f):
    return f.get("step")


def _expression(f):
    a, s = amount(f), step(f)
    return None if a is None or not s else (-a * 3) // s + a % 7 - 1


M, ALWAYS = (MEASURED,), lambda f: True
# name: operation, kinds, value, condition, key, window in days
DEFINITION = {
    "n": ("count", M, None, ALWAYS, None, None),
    "n_two_kinds": ("count", (MEASURED, PAID), None, ALWAYS, None, None),
    "n_where": ("count", M, None, lambda f: amount(f) is not None and amount(f) > 0, None, None),
    "n_by": ("count", M, None, ALWAYS, label, None),
    "n_by_int": ("count", M, None, ALWAYS, step, None),
    "n_by_flag": ("count", M, None, ALWAYS, good, None),
    "n_3d": ("count", M, None, ALWAYS, None, 3),
    "n_by_3d": ("count", M, None, ALWAYS, label, 3),
    "sum_plain": ("total", M, amount, ALWAYS, None, None),
    "sum_expression": ("total", M, _expression, ALWAYS, None, None),
    "sum_by": ("total", (PAID,), lambda f: f["amount_minor"], ALWAYS, lambda f: f["currency"], None),
    "sum_3d": ("total", M, amount, ALWAYS, None, 3),
    "sum_by_3d": ("total", M, amount, good, label, 3),
    "last_amount": ("latest", M, amount, ALWAYS, None, None),
    "last_flag": ("latest", M, good, ALWAYS, None, None),
    "last_label_by": ("latest", M, label, ALWAYS, step, None),
    "last_3d": ("latest", M, label, ALWAYS, None, 3),
    "last_by_3d": ("latest", M, amount, ALWAYS, good, 3),
    "last_time": ("latest", (DUE,), lambda f: 1767225600000000 + ("000001" in f["renews_at"]), ALWAYS, None, None),
    "first": ("first_seen", M, None, ALWAYS, None, None),
    "first_by": ("first_seen", M, None, ALWAYS, label, None),
    "first_3d": ("first_seen", M, None, ALWAYS, None, 3),
    "last": ("last_seen", (MEASURED, USED), None, ALWAYS, None, None),
    "last_by": ("last_seen", M, None, ALWAYS, good, None),
    "last_where_3d": ("last_seen", M, None, lambda f: label(f) == "a", None, 3),
    "least": ("minimum", M, amount, ALWAYS, None, None),
    "least_by_3d": ("minimum", M, amount, ALWAYS, label, 3),
    "most": ("maximum", M, lambda f: None if amount(f) is None else amount(f) * 2, ALWAYS, None, None),
    "most_by": ("maximum", (USED,), lambda f: f["count"], ALWAYS, lambda f: f["feature"], None),
    "most_3d": ("maximum", M, amount, ALWAYS, None, 3),
    "kinds_of": ("distinct", M, label, ALWAYS, None, None),
    "kinds_of_int": ("distinct", M, amount, ALWAYS, None, None),
    "kinds_of_flag": ("distinct", M, good, ALWAYS, None, None),
    "kinds_by": ("distinct", M, label, ALWAYS, step, None),
    "kinds_3d": ("distinct", M, amount, ALWAYS, None, 3),
    "kinds_by_3d": ("distinct", M, label, ALWAYS, good, 3),
    "about": ("about", M, label, ALWAYS, None, None),
    "about_by_3d": ("about", M, amount, ALWAYS, good, 3),
    "n_both": ("count", M, None, lambda f: _positive(f) and good(f), None, None),
    "n_either": ("count", M, None, lambda f: _positive(f) or label(f) == "a", None, None),
    "fading": ("decayed 2", M, amount, lambda f: amount(f) is not None and amount(f) < 100, None, 40),
    "fading_by": ("decayed 1", M, lambda f: 1, ALWAYS, label, 20),
    "past": ("history", M, label, ALWAYS, None, 3),
    "past_kinds": ("history without", (MEASURED, USED), None, ALWAYS, None, 9),
    "past_by": ("history", M, good, ALWAYS, step, 3),
}


def _positive(f):
    return amount(f) is not None and amount(f) > 0


def _faded(rows, half_life, as_of):
    """In whole millionths, rounded down after each half-life."""
    millionths = 0
    for at, _, v in rows:
        halvings, days_left = divmod(as_of // DAY_US - at // DAY_US, half_life)
        millionths += v * (round(1e6 / 2 ** (days_left / half_life)) // 2**halvings)
    return float(millionths) / 1e6


def _about(values):
    """Linear counting (few values): -m·ln(empty/m) over 4,096 registers, which are the first 12 bits of MD5."""
    taken = {hashlib.md5(str(v).encode()).hexdigest()[:3] for v in values}
    return round(-4096 * math.log((4096 - len(taken)) / 4096))


APPLY = {
    "count": lambda rows: len(rows),
    "total": lambda rows: sum(v for _, _, v in rows),
    "latest": lambda rows: max(rows, key=lambda r: r[:2])[2] if rows else None,
    "first_seen": lambda rows: min((r[0] for r in rows), default=None),
    "last_seen": lambda rows: max((r[0] for r in rows), default=None),
    "minimum": lambda rows: min((v for _, _, v in rows), default=None),
    "maximum": lambda rows: max((v for _, _, v in rows), default=None),
    "about": lambda rows: _about({v for _, _, v in rows}),
    "distinct": lambda rows: len({v for _, _, v in rows}),
}


def by_definition(name, facts, as_of):
    operation, kinds, value, where, key, window = DEFINITION[name]
    rows, kind_of = [], {f.position: f.kind for f in facts}
    for f in facts:
        if f.kind not in kinds or f.occurred_at_us > as_of or not where(f.fields):
            continue
        if window is not None and not as_of // DAY_US - window < f.occurred_at_us // DAY_US:
            continue
        v, k = value(f.fields) if value else 0, key(f.fields) if key else 0
        if v is not None and k is not None:
            rows.append((k, (f.occurred_at_us, f.position, v)))
    plain, _, detail = operation.partition(" ")
    if plain == "decayed":
        apply = partial(_faded, half_life=int(detail), as_of=as_of)
    elif plain == "history":

        def apply(rows):
            return tuple((at, position, kind_of[position], None if detail else v) for at, position, v in sorted(rows))
    else:
        apply = APPLY[operation]
    if key is None:
        return apply([r for _, r in rows])
    return {k: apply([r for other, r in rows if other == k]) for k in {k for k, _ in rows}}


def exactly(value):
    """Equality that tells True from 1."""
    if isinstance(value, dict):
        return {(type(k), k): exactly(v) for k, v in value.items()}
    return tuple(map(exactly, value)) if isinstance(value, tuple) else (type(value), value)


def test_the_definition_covers_every_leaf():
    assert set(DEFINITION) == set(Everything.leaves)


@given(facts_strategy, st.integers(-4 * DAY_US, 30 * DAY_US))
def test_every_leaf_equals_its_definition_at_any_time(facts, as_of):
    known = [f for f in facts if f.occurred_at_us <= as_of]
    values = FOLD.finish(FOLD.fold(known), as_of)
    for name in DEFINITION:
        assert exactly(values[name]) == exactly(by_definition(name, facts, as_of)), name


@given(facts_strategy, st.randoms(use_true_random=False), st.integers(0, 20 * DAY_US))
def test_any_order_gives_the_same_bytes_and_values(facts, rng, later):
    shuffled = facts[:]
    rng.shuffle(shuffled)
    a, b = FOLD.fold(facts), FOLD.fold(shuffled)
    assert FOLD.digest(a) == FOLD.digest(b)
    as_of = (FOLD.newest_us(a) or 0) + later
    assert dict(FOLD.finish(a, as_of)) == dict(FOLD.finish(b, as_of))


@given(facts_strategy, st.randoms(use_true_random=False))
def test_any_partition_merged_in_any_order_gives_the_state_of_the_whole(facts, rng):
    parts = [FOLD.empty() for _ in range(4)]
    for fact in facts:
        FOLD.add(rng.choice(parts), fact)
    if rng.random() < 0.5:  # normal form may be taken at any moment, by any part
        FOLD.dump(parts[0])
        parts[1] = FOLD.load(FOLD.dump(parts[1]))
    while len(parts) > 1:
        a, b = parts.pop(rng.randrange(len(parts))), parts.pop(rng.randrange(len(parts)))
        before = FOLD.copy(a), FOLD.copy(b)
        parts.append(FOLD.merge(a, b))
        assert (a, b) == before
        assert FOLD.digest(parts[-1]) == FOLD.digest(FOLD.merge(b, a))
    assert FOLD.digest(parts[0]) == FOLD.digest(FOLD.fold(facts))


@given(facts_strategy)
def test_a_state_goes_through_bytes_and_folds_on(facts):
    half = len(facts) // 2
    first = FOLD.fold(facts[:half])
    raw = FOLD.dump(first)
    resumed = FOLD.load(raw)
    assert resumed == first
    assert exactly_state(resumed) == exactly_state(first)
    assert FOLD.dump(resumed) == raw
    for fact in facts[half:]:
        FOLD.add(resumed, fact)
    assert FOLD.digest(resumed) == FOLD.digest(FOLD.fold(facts))


def exactly_state(state):
    if isinstance(state, list):
        return [exactly_state(v) for v in state]
    if isinstance(state, dict):
        return sorted((repr(k), exactly_state(v)) for k, v in state.items())
    return type(state), state


@given(facts_strategy)
def test_state_is_json_of_integers_strings_booleans_and_null(facts):
    def check(value):
        assert not isinstance(value, float)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(part)

    check(json.loads(FOLD.dump(FOLD.fold(facts))))


@given(facts_strategy)
def test_a_copy_and_a_merge_share_nothing_with_their_origin(facts):
    state = FOLD.fold(facts)
    raw = FOLD.dump(state)
    for other in (FOLD.copy(state), FOLD.merge(state, FOLD.empty()), FOLD.merge(FOLD.empty(), state)):
        assert FOLD.dump(other) == raw
        for fact in facts:
            FOLD.add(other, fact._replace(position=fact.position + 1000))
    assert FOLD.dump(state) == raw


def test_sums_beyond_2_53_and_2_64_stay_exact_through_bytes():
    class Sums(Features, version=1, owner="x"):
        amount = total(Measured, lambda e: e.amount, by=lambda e: e.good)

    fold = Fold(Sums)
    big = 2**53 - 1
    state = fold.fold(Fact(MEASURED, i, 0, 0, {"amount": big, "good": i % 3 == 0}) for i in range(5000))
    again = fold.load(fold.dump(state))
    assert dict(fold.finish(again, 0).of(Sums.amount)) == {False: big * 3333, True: big * 1667}
    assert fold.dump(again) == fold.dump(state)
    small = fold.fold([Fact(MEASURED, 1, 0, 0, {"amount": 5, "good": True})])
    assert fold.dump(small) == b'[0,1,{"true":5}]'


def test_a_window_keeps_no_more_tiles_than_it_has_days():
    class Windowed(Features, version=1, owner="x"):
        n = count(Measured, window=days(5))

    fold = Fold(Windowed)
    order = list(range(4000))
    random.Random(3).shuffle(order)
    state = fold.empty()
    for position, day in enumerate(order, 1):
        fold.add(state, Fact(MEASURED, position, day * DAY_US, 0, {}))
        assert len(state[2]) <= 10
    assert json.loads(fold.dump(state))[2] == {str(day): 1 for day in range(3995, 4000)}


def test_merging_many_parts_keeps_no_more_than_the_window_either():
    class Windowed(Features, version=1, owner="x"):
        n = count(Measured, window=days(5))

    fold = Fold(Windowed)
    state = fold.empty()
    for day in range(300):
        state = fold.merge(state, fold.fold([Fact(MEASURED, day + 1, day * DAY_US, 0, {})]))
        assert len(state[2]) <= 5


def test_of_two_facts_at_the_same_time_the_later_position_is_the_latest():
    facts = [Fact(MEASURED, p, 7, 7, {"amount": p * 10}) for p in (3, 1, 2)]
    assert FOLD.finish(FOLD.fold(facts), 7).of(Everything.last_amount) == 30


def test_a_fact_of_another_kind_changes_nothing():
    state = FOLD.empty()
    FOLD.add(state, Fact("somebody/else", 9, 9, 9, {"amount": 1}))
    assert state == FOLD.empty()


def test_a_time_before_the_newest_fact_is_refused_and_not_guessed():
    state = FOLD.fold([Fact(MEASURED, 1, 100, 100, {})])
    assert FOLD.finish(state, 100).newest_us == 100
    with pytest.raises(InvalidInput, match="fold again"):
        FOLD.finish(state, 99)


@pytest.mark.parametrize("fields", [{"amount": "5"}, {"label": ["a"]}, {"amount": [1]}])
def test_a_field_of_another_type_is_a_typed_error_that_names_the_event(fields):
    with pytest.raises(InvalidInput, match="measured at position 8"):
        FOLD.add(FOLD.empty(), Fact(MEASURED, 8, 0, 0, fields))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[null,0]", b"nonsense", b"\xff"])
def test_bytes_that_are_not_a_state_are_refused(raw):
    with pytest.raises(InvalidInput, match="not a state"):
        FOLD.load(raw)


# ---------------------------------------------------------------- stored events as facts


class Grown(Signal):
    wire_name: ClassVar[str] = "tests.projections/grown@2"
    amount_minor: AmountMinor


@registry.upcaster("tests.projections/grown@1", "tests.projections/grown@2")
def _grow(fields):
    return {"amount_minor": fields["amount"] * 100}


STREAM = StreamId("acme", "customers", "c1")


def test_a_stored_signal_becomes_the_fact_it_holds():
    signal = InvoicePaid(source="s", id="1", occurred_at=AT, amount_minor=5, currency="EUR")
    stored = ListStore().record(STREAM, signal)
    fact = fact_of(stored)
    assert fact == (PAID, 1, stored.occurred_at_us, stored.recorded_at_us, {"amount_minor": 5, "currency": "EUR"})
    assert fact_from(signal, 1, recorded_at_us=stored.recorded_at_us) == fact


def test_an_old_version_is_upcast_before_it_is_folded():
    class Sum(Features, version=1, owner="x"):
        amount = total(Grown, lambda e: e.amount_minor)

    fact = fact_of(ListStore().put(STREAM, "tests.projections/grown@1", b'{"amount":3}', 0))
    assert fact.kind == "tests.projections/grown"
    assert Fold(Sum).finish(Fold(Sum).fold([fact]), 0).of(Sum.amount) == 300


def test_personal_fields_are_never_handed_to_a_fold_sealed_or_not():
    store = ListStore()
    sealed = store.put(STREAM, "crm/account-profiled@1", b'{"name":{"$sealed":"x"},"seats":3}', 0)
    clear = store.put(STREAM, "crm/account-profiled@1", b'{"name":"Ada Example","seats":3}', 0)
    assert fact_of(sealed).fields == fact_of(clear).fields == {"seats": 3}
    assert fact_from(AccountProfiled(source="s", id="1", occurred_at=AT, name="Ada Example"), 1).fields == {}


@pytest.mark.parametrize(
    ("wire_name", "data", "error"),
    [
        ("tests.projections/grown@9", b"{}", UnknownWireName),
        ("os/system@1", b"{}", UnknownWireName),
        ("tests.projections/grown@1", b"{}", UpcastFailed),
        ("tests.projections/grown@1", b'{"amount":-3}', InvalidInput),  # the upcaster's result does not fit the kind
        ("tests.projections/grown@1", b"nonsense", InvalidInput),
        ("tests.projections/grown@2", b"nonsense", InvalidInput),
        ("tests.projections/grown@2", b"[]", InvalidInput),
    ],
)
def test_an_event_that_cannot_be_read_is_a_typed_error_never_skipped(wire_name, data, error):
    with pytest.raises(error):
        fact_of(ListStore().put(STREAM, wire_name, data, 0))


def test_the_latest_of_an_optional_field_skips_facts_without_it():
    class Items(Features, version=1, owner="x"):
        items = latest(InvoicePaid, lambda e: e.items)

    fold = Fold(Items)
    state = fold.fold([Fact(PAID, 1, 1, 1, {"items": 4}), Fact(PAID, 2, 2, 2, {})])
    assert fold.finish(state, 2).of(Items.items) == 4
