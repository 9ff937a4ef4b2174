"""The parity kit finds what is wrong, names it, and can be run again by its seed."""

from __future__ import annotations

import re

import pytest

from postsale.projections import Features, count, days, derived, distinct, history, latest, total
from postsale.testing import assert_parity, random_facts
from postsale.testing.parity import duckdb_engine

from .support import Measured


class Kit(Features, version=1, owner="tests"):
    n = count(Measured, where=lambda e: e.amount > 100)
    sum_by = total(Measured, lambda e: e.amount, by=lambda e: e.label)
    last = latest(Measured, lambda e: e.amount, window=days(2))
    kinds = distinct(Measured, lambda e: e.step)
    past = history(Measured, window=days(2))

    @derived(unit="ratio")
    def share(n: int, kinds: int) -> float | None:
        return n / kinds if kinds else None


def broken(change):
    """DuckDB, one of whose answers is changed on the way."""
    return lambda facts, expression: [change(dict(row)) for row in duckdb_engine(facts, expression)]


def _more(row):
    return row | {"n": (row["n"] or 0) + 1}


def _lost_key(row):
    return row | {"sum_by": (row["sum_by"] or [])[1:]}


def _float(row):
    return row | {"kinds": float(row["kinds"]) if isinstance(row["kinds"], int) else row["kinds"]}


def _later(row):
    return row | {"position": row["position"] + 1}


@pytest.mark.parametrize(("change", "feature"), [(_more, "n"), (_lost_key, "sum_by"), (_float, "kinds"), (_later, "position")])
def test_an_engine_that_is_wrong_in_one_place_is_named_with_key_feature_and_seed(change, feature):
    with pytest.raises(AssertionError, match=rf"Kit\.{feature} of k\d+, .*by wrong.*seed=11") as found:
        assert_parity(Kit, seed=11, engines={"wrong": broken(change)})
    assert re.search("the fold gives", str(found.value))


def test_rows_too_many_or_too_few_are_found():
    extra = lambda facts, expression: [*(rows := duckdb_engine(facts, expression)), rows[0] | {"key": "nobody"}]  # noqa: E731
    for engine in (extra, lambda facts, expression: duckdb_engine(facts, expression)[1:]):
        with pytest.raises(AssertionError, match="seed=3"):
            assert_parity(Kit, seed=3, engines={"it": engine})


def test_your_own_facts_are_compared_too():
    facts = random_facts(Kit, 5, size=40, keys=2)
    assert_parity(Kit, facts)
    assert_parity(Kit, [])
    with pytest.raises(AssertionError, match=r"k[01]"):
        assert_parity(Kit, facts, engines={"it": broken(_more)})


def test_random_facts_are_made_of_the_declaration_and_the_same_for_the_same_seed():
    facts = random_facts(Kit, 1)
    assert facts == random_facts(Kit, 1)
    assert facts != random_facts(Kit, 2)
    mine = [fact for _, fact in facts if fact.kind == "tests.projections/measured"]
    assert {fact.kind for _, fact in facts} == {"tests.projections/measured", "nobody/reads-this"}
    assert {99, 100, 101} & {fact.fields.get("amount") for fact in mine}, "values around the constants of conditions"
    assert len({fact.occurred_at_us for fact in mine}) < len(mine), "ties"
    assert any(fact.occurred_at_us < fact.recorded_at_us for fact in mine), "late facts"
    assert any("amount" not in fact.fields for fact in mine), "absent fields"
