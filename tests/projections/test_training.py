"""Training rows equal the live fold over what was known at each point; nothing later leaks; labels, censoring, columns."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postsale.aggregates.signals import InvoicePaid
from postsale.errors import InvalidInput
from postsale.events import DAY_US
from postsale.projections import Fact, Features, Fold, count, days, derived, history, last_seen, total
from postsale.projections.columnar_duckdb import duckdb_connection
from postsale.projections.feeding import facts_table
from postsale.projections.training import Known, Subject, columns_of, enters_us, feature_rows, training_table
from postsale.projections.training_columns import known_facts, training_columns

from .support import DUE, MEASURED, PAID, USED, Everything, facts_strategy

FOLD = Fold(Everything)
SHOWN = [leaf.name for leaf in columns_of(Everything)]
points_strategy = st.lists(st.integers(-5 * DAY_US, 20 * DAY_US), min_size=1, max_size=5).map(sorted)


class Paid(Features, version=1, owner="tests"):
    """What came in."""

    n = count(InvoicePaid)
    amount = total(InvoicePaid, lambda e: e.amount_minor)
    last = last_seen(InvoicePaid)

    @derived(unit="minor units")
    def mean(n: int, amount: int) -> float | None:
        return amount / n if n else None


class Steps(Features, version=1, owner="tests"):
    """Derived from histories and from keyed leaves; one of a type that has no column of its own."""

    past = history(InvoicePaid, lambda e: e.amount_minor, window=days(9))
    past_by = history(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency, window=days(9))
    spent = total(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency)

    @derived()
    def rises(past: tuple[Any, ...]) -> int:
        return sum(a.value < b.value for a, b in pairwise(past))

    @derived()
    def currencies(spent: dict[str, int]) -> tuple[str, ...]:
        return tuple(spent)

    @derived()
    def firsts(past_by: dict[str, Any]) -> dict[str, int]:
        return {currency: moments[0].value for currency, moments in past_by.items()}


def paid(position: int, at: int, known: int | None = None, amount: int = 100) -> Fact:
    return Fact("billing/invoice-paid", position, at, at if known is None else known, {"amount_minor": amount, "currency": "EUR"})


def subject(name: str, facts: list[Fact], points: list[int], lag: int = 0) -> Subject:
    known = [Known(enters_us(f, f.recorded_at_us, lag), None, f) for f in facts]
    return Subject(name, points, known, facts)


def rows_of(features: type[Features], table: Any) -> dict[tuple[str, int], dict[str, Any]]:
    """Values as the fold gives them, by customer and point."""
    customers, values = table.column("customer").to_pylist(), list(feature_rows(table, features))
    return {(c, v.as_of_us): dict(v) for c, v in zip(customers, values, strict=True)}


@given(st.lists(st.tuples(facts_strategy, points_strategy), max_size=4), st.sampled_from([0, 1, 3 * DAY_US]), st.randoms())
def test_every_row_is_the_live_fold_over_what_had_occurred_and_was_known_by_then(
    customers: list[tuple[list[Fact], list[int]]], lag: int, rng: random.Random
) -> None:
    """Late facts, ties, ancient ones, duplicates of points; facts in any order."""
    subjects, expected = [], {}
    for n, (facts, points) in enumerate(customers):
        for at in points:
            used = [f for f in facts if f.occurred_at_us <= at and f.recorded_at_us <= at + lag]
            finished = FOLD.finish(FOLD.fold(used), at)
            expected[f"c{n}", at] = {name: finished[name] for name in SHOWN}
        shuffled = facts[:]
        rng.shuffle(shuffled)
        subjects.append(subject(f"c{n}", shuffled, points, lag))
    table = training_table(Everything, subjects, lag_us=lag)
    assert rows_of(Everything, table) == expected
    assert table.num_rows == sum(len(points) for _, points in customers)
    keys = list(zip(table.column("as_of").to_pylist(), table.column("customer").to_pylist(), strict=True))
    assert keys == sorted(keys)


@given(facts_strategy, points_strategy, st.lists(st.tuples(st.integers(0, 9 * DAY_US), st.integers(0, 9 * DAY_US)), max_size=6))
def test_a_fact_that_becomes_known_later_changes_no_earlier_row(facts: list[Fact], points: list[int], late: list[tuple[int, int]]) -> None:
    """However old it is: rows of points before it was known keep their values."""
    before = rows_of(Paid, training_table(Paid, [subject("c", facts, points)]))
    more = [paid(1_000 + n, at, at + delay) for n, (at, delay) in enumerate(late)]
    after = rows_of(Paid, training_table(Paid, [subject("c", facts + more, points)]))
    first_known = min((f.recorded_at_us for f in more), default=30 * DAY_US)
    assert {k: v for k, v in before.items() if k[1] < first_known} == {k: v for k, v in after.items() if k[1] < first_known}


def test_a_late_fact_is_in_the_rows_from_when_it_was_known_and_in_no_earlier_one() -> None:
    facts = [paid(1, 1 * DAY_US), paid(2, 2 * DAY_US, known=5 * DAY_US)]
    found = rows_of(Paid, training_table(Paid, [subject("c", facts, [3 * DAY_US, 5 * DAY_US - 1, 5 * DAY_US])]))
    assert [row["n"] for row in found.values()] == [1, 1, 2]


def test_a_lag_admits_what_became_known_soon_after_and_nothing_that_happened_then() -> None:
    """A day's purchases are known when the day is over: the row is about the day, and is scored after it."""
    facts = [paid(1, 10, known=DAY_US), paid(2, DAY_US, known=DAY_US)]
    last_moment = DAY_US - 1
    assert [r["n"] for r in rows_of(Paid, training_table(Paid, [subject("c", facts, [last_moment])])).values()] == [0]
    assert [r["n"] for r in rows_of(Paid, training_table(Paid, [subject("c", facts, [last_moment], 1)], lag_us=1)).values()] == [1]


@given(facts_strategy, points_strategy, st.integers(0, 12 * DAY_US), st.integers(-4 * DAY_US, 30 * DAY_US))
def test_a_label_is_what_happened_within_the_horizon_and_censored_where_that_is_not_over(
    facts: list[Fact], points: list[int], horizon: int, until: int
) -> None:
    """From just after the point to its horizon, whenever it became known."""
    fold = Fold(Paid)
    table = training_table(Everything, [subject("c", facts, points)], outcome=Paid, horizon_us=horizon, until_us=until)
    found = table.select(["as_of", "censored", "label_n", "label_amount", "label_mean"]).to_pylist()
    for row, at in zip(found, points, strict=True):
        window = [f for f in facts if at < f.occurred_at_us <= at + horizon]
        expected = fold.finish(fold.fold(window), at + horizon)
        censored = at + horizon > until
        assert row["censored"] == censored
        got = (row["label_n"], row["label_amount"], row["label_mean"])
        assert got == ((None, None, None) if censored else (expected["n"], expected["amount"], expected["mean"]))


def test_a_fact_is_never_both_in_the_features_and_in_the_label_of_a_row() -> None:
    facts = [paid(n, n * DAY_US) for n in range(1, 9)]
    points = [n * DAY_US for n in range(9)]
    table = training_table(Paid, [subject("c", facts, points)], outcome=Paid, horizon_us=90 * DAY_US, until_us=1_000 * DAY_US)
    for row in table.select(["n", "label_n"]).to_pylist():
        assert row["n"] + row["label_n"] == 8


def test_a_fact_that_was_parted_from_the_customer_is_in_no_row_after_that() -> None:
    """It cannot be taken out of a state: those rows are folded anew."""
    known = [Known(1, None, paid(1, 1)), Known(2, 5, paid(2, 2))]
    found = rows_of(Paid, training_table(Paid, [Subject("c", [1, 2, 4, 5, 6], known)]))
    assert [row["n"] for row in found.values()] == [1, 2, 2, 1, 1]


def test_columns_have_the_types_that_data_tools_expect() -> None:
    """Times are timestamps, keyed features maps; a derived feature has the type that its annotation names."""
    facts = [paid(1, 1_767_225_600_000_000)]
    point = 1_767_312_000_000_000
    table = training_table(Paid, [subject("c", facts, [point])], outcome=Paid, horizon_us=DAY_US, until_us=point)
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        "customer": "string",
        "as_of": "timestamp[us, tz=UTC]",
        "known_at": "timestamp[us, tz=UTC]",
        "amount": "int64",
        "last": "timestamp[us, tz=UTC]",
        "n": "int64",
        "mean": "double",
        "censored": "bool",
        "label_amount": "int64",
        "label_last": "timestamp[us, tz=UTC]",
        "label_n": "int64",
        "label_mean": "double",
    }
    row = table.to_pylist()[0]
    assert (row["last"], row["as_of"]) == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    assert (row["n"], row["mean"], row["censored"], row["label_n"]) == (1, 100.0, True, None)


def test_a_feature_named_like_another_column_and_a_number_beyond_64_bits_are_refused() -> None:
    class Clash(Features, version=1, owner="tests"):
        customer = count(InvoicePaid)

    with pytest.raises(InvalidInput, match="customer"):
        training_table(Clash, [])
    with pytest.raises(InvalidInput, match="64 bits"):
        training_table(Paid, [subject("c", [paid(1, 1, amount=2**62), paid(2, 1, amount=2**62)], [1])])


def test_no_customers_give_an_empty_table_with_every_column() -> None:
    table = training_table(Everything, [], outcome=Paid)
    assert table.num_rows == 0
    assert set(table.column_names) > {*SHOWN, "label_n", "censored"}


# ---------------------------------------------------------------- by query


def by_query(features: type[Features], customers: dict[str, tuple[list[Fact], list[int]]], **asked: Any) -> Any:
    """The table that DuckDB makes of these facts."""
    import pyarrow as pa

    keyed = [(name, fact) for name, (facts, _) in customers.items() for fact in facts]
    names = pa.table({"ref": list(customers), "customer": list(customers)}, schema=pa.schema({"ref": "string", "customer": "string"}))
    points = [(name, at) for name, (_, its) in customers.items() for at in its]
    with duckdb_connection() as connection:
        connection.register("facts_read", facts_table(features, keyed))
        known_facts(connection, "facts", claimed=False)
        connection.register("later", facts_table(asked.get("outcome") or Paid, keyed))
        connection.execute("CREATE TABLE owners (stream VARCHAR, ref VARCHAR, since_us BIGINT, until_us BIGINT)")
        connection.register("names", names)
        connection.execute("INSERT INTO owners SELECT ref, ref, -4611686018427387904, NULL FROM names")
        connection.execute("CREATE TABLE later_owners AS SELECT stream, ref FROM owners")
        schema = pa.schema({"ref": "string", "as_of_us": "int64"})
        connection.register("points", pa.table([[p[0] for p in points], [p[1] for p in points]], schema=schema))
        return training_columns(connection, features, **asked)


def some_facts(rng: random.Random, n: int) -> list[Fact]:
    """Facts of every kind that `Everything` reads, at few times, many of them late, with ties and absent values."""
    found = []
    for position in range(1, n + 1):
        at = rng.choice([rng.randrange(-3, 9) * DAY_US, rng.randrange(-3, 9) * DAY_US - 1, rng.randrange(9 * DAY_US)])
        given = {
            "amount": rng.choice([None, *range(-3, 4)]),
            "label": rng.choice([None, "a", "b", "ü"]),
            "good": rng.choice([None, True, False]),
            "step": rng.choice([None, 0, 2, -3, 10]),
        }
        kind, fields = rng.choice(
            [
                (MEASURED, {name: value for name, value in given.items() if value is not None}),
                (MEASURED, {name: value for name, value in given.items() if value is not None}),
                (PAID, {"amount_minor": rng.randrange(500), "currency": rng.choice(["USD", "EUR"])}),
                (USED, {"feature": rng.choice("yx"), "count": rng.randrange(9), "errors": 0}),
                (DUE, {"renews_at": rng.choice(["2026-01-01T00:00:00Z", "2026-01-01T02:00:00.000001+02:00"])}),
            ]
        )
        found.append(Fact(kind, position, at, at + rng.choice([0, 5, DAY_US, 3 * DAY_US]), fields))
    return found


@pytest.mark.parametrize(("seed", "lag", "only_known"), [(1, 0, False), (2, DAY_US, True), (3, 3 * DAY_US, False)])
def test_duckdb_gives_the_table_that_the_fold_gives(seed: int, lag: int, only_known: bool) -> None:
    """Every leaf in every way, late facts, ties, labels on the edges of the horizon, censoring; values, types and order."""
    rng = random.Random(seed)
    customers = {}
    for n in range(12):
        points = {rng.choice([rng.randrange(-3, 12) * DAY_US, rng.randrange(12 * DAY_US)]) for _ in range(6)}
        customers[f"c{n % 10}{n}"] = (some_facts(rng, rng.choice([0, 1, 30])), sorted(points))
    asked: dict[str, Any] = {"outcome": Paid, "horizon_us": 2 * DAY_US, "until_us": 8 * DAY_US}
    asked |= {"lag_us": lag, "only_known": only_known}
    subjects = [subject(name, facts, points, lag) for name, (facts, points) in customers.items()]
    expected, found = training_table(Everything, subjects, **asked), by_query(Everything, customers, **asked)
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.to_pylist() == expected.to_pylist()
    assert len(set(expected.column("label_n").to_pylist())) > 2
    assert (expected.num_rows == sum(len(points) for _, points in customers.values())) is not only_known


@settings(max_examples=8)
@given(facts_strategy, st.lists(st.integers(-5 * DAY_US, 20 * DAY_US), unique=True, max_size=4).map(sorted))
def test_what_is_derived_from_histories_and_keys_is_the_same_and_a_history_has_no_column(facts: list[Fact], points: list[int]) -> None:
    """A collection of texts is a list; any other type is canonical JSON, and read back as it was."""
    expected = training_table(Steps, [subject("c", facts, points)])
    assert expected.column_names == ["customer", "as_of", "known_at", "spent", "currencies", "firsts", "rises"]
    assert by_query(Steps, {"c": (facts, points)}).equals(expected)
    fold = Fold(Steps)
    for values, at in zip(feature_rows(expected, Steps), points, strict=True):
        then = fold.finish(fold.fold(f for f in facts if f.occurred_at_us <= at and f.recorded_at_us <= at), at)
        assert (values["rises"], values["firsts"], tuple(values["currencies"])) == (then["rises"], then["firsts"], then["currencies"])


def test_what_is_beyond_64_bits_is_refused_by_duckdb_too() -> None:
    with pytest.raises(InvalidInput, match="64 bits"):
        by_query(Paid, {"c": ([paid(1, 1, amount=2**62), paid(2, 1, amount=2**62)], [1])})
