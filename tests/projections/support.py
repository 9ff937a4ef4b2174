"""Random facts of a few kinds, with ties, late and ancient ones, and a declaration that uses every leaf in every way."""

from __future__ import annotations

from typing import Any, ClassVar

from hypothesis import strategies as st

from postsale.aggregates.signals import InvoicePaid, RenewalDue, Signal, UsageObserved
from postsale.events import DAY_US, Int, Text
from postsale.projections import (
    Fact,
    Features,
    count,
    days,
    decayed,
    distinct,
    first_seen,
    history,
    last_seen,
    latest,
    maximum,
    minimum,
    total,
)


class Measured(Signal):
    """A user's own signal, with an integer that may be negative, a text, a flag, all optional."""

    wire_name: ClassVar[str] = "tests.projections/measured@1"
    amount: Int | None = None
    label: Text | None = None
    good: bool | None = None
    step: Int | None = None


MEASURED = "tests.projections/measured"
PAID = "billing/invoice-paid"
USED = "product/usage-observed"
DUE = "crm/renewal-due"


class Everything(Features, version=1, owner="tests"):
    """Every leaf: plain, with a condition, by a key, in a window, and by a key in a window."""

    n = count(Measured)
    n_two_kinds = count((Measured, InvoicePaid))
    n_where = count(Measured, where=lambda e: e.amount > 0)
    n_by = count(Measured, by=lambda e: e.label)
    n_by_int = count(Measured, by=lambda e: e.step)
    n_by_flag = count(Measured, by=lambda e: e.good)
    n_3d = count(Measured, window=days(3))
    n_by_3d = count(Measured, by=lambda e: e.label, window=days(3))
    sum_plain = total(Measured, lambda e: e.amount)
    sum_expression = total(Measured, lambda e: -e.amount * 3 // e.step + e.amount % 7 - 1)
    sum_by = total(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency)
    sum_3d = total(Measured, lambda e: e.amount, window=days(3))
    sum_by_3d = total(Measured, lambda e: e.amount, by=lambda e: e.label, window=days(3), where=lambda e: e.good)
    last_amount = latest(Measured, lambda e: e.amount)
    last_flag = latest(Measured, lambda e: e.good)
    last_label_by = latest(Measured, lambda e: e.label, by=lambda e: e.step)
    last_3d = latest(Measured, lambda e: e.label, window=days(3))
    last_by_3d = latest(Measured, lambda e: e.amount, by=lambda e: e.good, window=days(3))
    last_time = latest(RenewalDue, lambda e: e.renews_at)
    first = first_seen(Measured)
    first_by = first_seen(Measured, by=lambda e: e.label)
    first_3d = first_seen(Measured, window=days(3))
    last = last_seen((Measured, UsageObserved))
    last_by = last_seen(Measured, by=lambda e: e.good)
    last_where_3d = last_seen(Measured, window=days(3), where=lambda e: e.label == "a")
    least = minimum(Measured, lambda e: e.amount)
    least_by_3d = minimum(Measured, lambda e: e.amount, by=lambda e: e.label, window=days(3))
    most = maximum(Measured, lambda e: e.amount * 2)
    most_by = maximum(UsageObserved, lambda e: e.count, by=lambda e: e.feature)
    most_3d = maximum(Measured, lambda e: e.amount, window=days(3))
    kinds_of = distinct(Measured, lambda e: e.label)
    kinds_of_int = distinct(Measured, lambda e: e.amount)
    kinds_of_flag = distinct(Measured, lambda e: e.good)
    kinds_by = distinct(Measured, lambda e: e.label, by=lambda e: e.step)
    kinds_3d = distinct(Measured, lambda e: e.amount, window=days(3))
    kinds_by_3d = distinct(Measured, lambda e: e.label, by=lambda e: e.good, window=days(3))
    about = distinct(Measured, lambda e: e.label, approximate=True)
    about_by_3d = distinct(Measured, lambda e: e.amount, by=lambda e: e.good, window=days(3), approximate=True)
    n_both = count(Measured, where=lambda e: (e.amount > 0) & e.good)
    n_either = count(Measured, where=lambda e: (e.amount > 0) | (e.label == "a"))
    fading = decayed(Measured, lambda e: e.amount, half_life=days(2), where=lambda e: e.amount < 100)
    fading_by = decayed(Measured, half_life=days(1), by=lambda e: e.label)
    past = history(Measured, lambda e: e.label, window=days(3))
    past_kinds = history((Measured, UsageObserved), window=days(9))
    past_by = history(Measured, lambda e: e.good, by=lambda e: e.step, window=days(3))


def _strip(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if v is not None}


_times = st.one_of(
    st.integers(-4, 8).map(lambda d: d * DAY_US),  # exactly on the edge of a tile, before 1970 too
    st.integers(-4, 8).map(lambda d: d * DAY_US - 1),
    st.integers(-4 * DAY_US, 8 * DAY_US),
    st.integers(-900, -800).map(lambda d: d * DAY_US),  # long ago
)
_amounts = st.one_of(st.none(), st.integers(-9, 9), st.sampled_from([2**53 - 1, -(2**53) + 1]))
_payloads = st.one_of(
    st.tuples(
        st.just(MEASURED),
        st.fixed_dictionaries(
            {
                "amount": _amounts,
                "label": st.sampled_from([None, "a", "b", "ü\n"]),
                "good": st.sampled_from([None, True, False]),
                "step": st.sampled_from([None, 0, 2, -3, 10]),
            }
        ).map(_strip),
    ),
    st.tuples(st.just(PAID), st.fixed_dictionaries({"amount_minor": st.integers(0, 500), "currency": st.sampled_from(["EUR", "USD"])})),
    st.tuples(
        st.just(USED), st.fixed_dictionaries({"feature": st.sampled_from(["x", "y"]), "count": st.integers(0, 9), "errors": st.just(0)})
    ),
    st.tuples(
        st.just(DUE), st.fixed_dictionaries({"renews_at": st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T02:00:00.000001+02:00"])})
    ),
    st.tuples(st.just("somebody/else"), st.just({"amount": 1})),
)


def _facts(parts: list[tuple[tuple[str, dict[str, Any]], int, int]]) -> list[Fact]:
    return [Fact(kind, i, at, at + late, fields) for i, ((kind, fields), at, late) in enumerate(parts, 1)]


facts_strategy = st.lists(st.tuples(_payloads, _times, st.sampled_from([0, 5, 3 * DAY_US])), max_size=25).map(_facts)
"""Facts at positions 1, 2, 3 …, many at equal times."""
