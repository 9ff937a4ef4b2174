"""The columnar engines give what the fold gives: state byte for byte, values at any time, and a loud refusal where they cannot."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import ClassVar

import pyarrow as pa
import pytest
from benchmarks.live import Measured as Benchmark
from hypothesis import given

from postsale.aggregates.signals import Signal
from postsale.errors import BadDeclaration, InvalidInput
from postsale.events import DAY_US, MAX_INT, Int
from postsale.projections import CustomerHealth, Fact, Features, Fold, count, days, derived, distinct, latest, total
from postsale.projections.columnar import (
    empty_values,
    finished_rows,
    fold_state,
    state_table,
    value_table,
)
from postsale.projections.columnar_duckdb import duckdb_connection, read, table
from postsale.projections.columnar_expressions import day_of, payload_columns, translated
from postsale.projections.expressions import Const, Field, Op, evaluate
from postsale.projections.feeding import facts_table
from postsale.testing import assert_parity, random_facts

from .support import MEASURED, Everything, Measured, facts_strategy


class Few(Features, version=1, owner="tests"):
    """Small, so that a query of it is planned fast: one leaf of every grain."""

    n = count(Measured, where=lambda e: e.amount > 0)
    sum_by = total(Measured, lambda e: e.amount, by=lambda e: e.label)
    last_2d = latest(Measured, lambda e: e.amount, window=days(2))
    kinds_by_2d = distinct(Measured, lambda e: e.step, by=lambda e: e.good, window=days(2))

    @derived(unit="ratio")
    def share(n: int, last_2d: int) -> float | None:
        return n / last_2d if last_2d else None


def query(facts: pa.Table, expression) -> list[dict]:
    with duckdb_connection() as connection:
        connection.register("facts", facts)
        return [row for batch in read(connection, expression(table(connection, "facts"))) for row in batch.to_pylist()]


@pytest.mark.parametrize("features", [Everything, CustomerHealth, Benchmark, Few])
def test_one_declaration_gives_one_answer_on_every_engine(features):
    assert_parity(features)


@given(facts_strategy)
def test_duckdb_gives_the_states_of_the_fold_over_any_facts(facts):
    fold = Fold(Few)
    rows = query(facts_table(Few, [(f"c{fact.position % 3}", fact) for fact in facts]), lambda t: state_table(Few, t, keys=["key"]))
    found = {row["key"]: fold.dump(fold_state(Few, row)) for row in rows}
    expected = {}
    for fact in facts:
        if fact.kind in fold.kinds:
            fold.add(expected.setdefault(f"c{fact.position % 3}", fold.empty()), fact)
    assert found == {key: fold.dump(state) for key, state in expected.items()}


def test_points_in_time_are_a_column_and_each_sees_what_had_occurred_by_then():
    facts = random_facts(Few, 7, keys=3)
    rng = random.Random(7)
    points = [(key, n, rng.choice(facts)[1].occurred_at_us + rng.randrange(-1, 2)) for key in ("k0", "k1", "k2") for n in range(20)]
    typed = facts_table(Few, facts)
    columns = {"key": [p[0] for p in points], "point": [p[1] for p in points], "as_of_us": [p[2] for p in points]}
    joined = typed.join(pa.table(columns), "key", join_type="inner")
    found = {
        (row["key"], row["point"]): row
        for row in finished_rows(Few, query(joined, lambda t: value_table(Few, t, keys=["key", "point"], as_of="as_of_us")))
    }
    fold = Fold(Few)
    for key, point, at in points:
        expected = fold.finish(fold.fold(f for k, f in facts if k == key and f.occurred_at_us <= at), at)
        row = found.get((key, point)) or empty_values(Few)
        assert {name: row[name] for name in expected} == dict(expected)


def test_division_and_remainder_round_down_exactly_in_64_bits():
    edges = [0, 1, -1, 2, -2, 3, -7, 7, 2**31, -(2**31), MAX_INT, -MAX_INT, 2**53 + 1, 2**61 + 3, -(2**61) - 1, 2**62 - 1, -(2**62)]
    rng = random.Random(1)
    pairs = [(a, b) for a in edges for b in edges] + [
        (rng.randrange(-(2**62), 2**62), rng.randrange(-(2**40), 2**40)) for _ in range(2_000)
    ]
    a, b = Field("a", "int"), Field("b", "int")
    names = {"//": "q", "%": "r"}
    rows = query(
        pa.table({"a__int": [p[0] for p in pairs], "b__int": [p[1] for p in pairs]}),
        lambda t: t.select("a__int", "b__int", **{name: translated(Op(op, (a, b), "int"), t) for op, name in names.items()}),
    )
    assert len(rows) == len(pairs)
    for row in rows:
        fields = {"a": row["a__int"], "b": row["b__int"]}
        for op, name in names.items():
            assert row[name] == evaluate(Op(op, (a, b), "int"), fields), (op, fields)


def test_every_operation_over_absent_values_and_constants_is_that_of_the_reference():
    a, b, five = Field("a", "int"), Field("b", "int"), Const(5, "int")
    trees = {
        f"x{n}": Op(op, args, "int")
        for n, (op, args) in enumerate(
            [(op, args) for op in ("+", "-", "*", "//", "%", "==", "!=", "<", "<=", ">", ">=") for args in ((a, b), (five, a), (b, five))]
        )
    }
    trees["neg"] = Op("neg", (a,), "int")
    pairs = [(x, y) for x in (None, -3, 0, 2, 5) for y in (None, -4, 0, 5)]
    facts = pa.table({"a__int": pa.array([p[0] for p in pairs], pa.int64()), "b__int": pa.array([p[1] for p in pairs], pa.int64())})
    for row in query(facts, lambda t: t.select("a__int", "b__int", **{name: translated(tree, t) for name, tree in trees.items()})):
        fields = {"a": row["a__int"], "b": row["b__int"]}
        assert {name: row[name] for name in trees} == {name: evaluate(tree, fields) for name, tree in trees.items()}


def test_a_day_begins_at_midnight_however_far_from_1970():
    rng = random.Random(2)
    last = MAX_INT // DAY_US
    times = [
        day * DAY_US + step
        for day in (-last, -last + 1, -1, 0, 1, 20_000, last - 1, last, *(rng.randrange(-last, last) for _ in range(5_000)))
        for step in (-1, 0, 1)
    ]
    for row in query(pa.table({"at": times}), lambda t: t.select("at", day=day_of(t["at"]))):
        assert row["day"] == row["at"] // DAY_US


class Wide(Features, version=1, owner="tests"):
    sums = total(Measured, lambda e: e.amount)


class Squares(Features, version=1, owner="tests"):
    sums = total(Measured, lambda e: e.amount * e.amount)


@pytest.mark.parametrize(("features", "amount"), [(Wide, 2**62), (Squares, 2**33)])
@pytest.mark.parametrize("ask", [lambda f, t: state_table(f, t, keys=["key"]), lambda f, t: value_table(f, t, keys=["key"], as_of=9)])
def test_a_sum_or_product_beyond_64_bits_is_refused_without_a_value(features, amount, ask):
    facts = facts_table(features, [("a", Fact(MEASURED, n, 1, 1, {"amount": amount})) for n in (1, 2)])
    with pytest.raises(InvalidInput, match="beyond 64 bits") as refused:
        query(facts, lambda t: ask(features, t))
    assert str(amount) not in str(refused.value)
    assert refused.value.__cause__ is None


def test_keys_without_facts_have_no_row_and_read_as_the_fold_of_nothing():
    facts = facts_table(Few, [("a", Fact("nobody/reads-this", 1, 5, 5, {}))])
    assert query(facts, lambda t: state_table(Few, t, keys=["key"])) == []
    assert query(facts, lambda t: value_table(Few, t, keys=["key"], as_of=9)) == []
    fold = Fold(Few)
    assert empty_values(Few) == dict(fold.finish(fold.empty(), 9))


def test_a_payload_of_another_type_is_refused_by_name_when_facts_become_columns():
    with pytest.raises(InvalidInput, match=r"tests.projections/measured at position 3\.amount"):
        facts_table(Few, [("a", Fact(MEASURED, 3, 1, 1, {"amount": "5"}))])


class Cased(Signal):
    wire_name: ClassVar[str] = "tests.projections/cased@1"
    size: Int
    Size: Int


def test_names_that_columns_cannot_tell_apart_are_refused():
    class Both(Features, version=1, owner="tests"):
        a = total(Cased, lambda e: e.size)
        b = total(Cased, lambda e: e.Size)

    with pytest.raises(BadDeclaration, match="upper and lower case"):
        payload_columns(Both)

    class Key(Features, version=1, owner="tests"):
        key = count(Cased)

    with pytest.raises(BadDeclaration, match="a column of every result"):
        query(facts_table(Key, []), lambda t: state_table(Key, t, keys=["key"]))


def test_beyond_its_memory_a_query_uses_the_disk_and_gives_the_same():
    facts = facts_table(Few, random_facts(Few, 3, size=100, keys=5))
    many = "CREATE TABLE many AS SELECT f.* REPLACE (f.key || '/' || n AS key) FROM facts f, range(4_000) r (n)"
    found = []
    for memory_mb in (None, 24):
        with duckdb_connection(memory_mb=memory_mb) as connection:
            connection.register("facts", facts)
            connection.execute(many)
            (spilled,) = connection.execute("SELECT count(*) FROM duckdb_temporary_files()").fetchall()[0]
            rows = read(connection, value_table(Few, table(connection, "many"), keys=["key"], as_of=MAX_INT))
            found.append(pa.Table.from_batches(rows).select(["key", "n", "last_2d"]).sort_by("key"))
            assert (spilled > 0) == (memory_mb is not None)
    assert found[0].num_rows == 20_000
    assert found[0].equals(found[1])


def test_without_the_extra_the_error_names_it():
    code = """
import sys
sys.modules["ibis"] = sys.modules["duckdb"] = None  # what an import finds where they are not installed
from postsale.errors import MissingExtra
from postsale.projections import columnar_duckdb, columnar_expressions
for part in (columnar_expressions.ibis, columnar_duckdb.duckdb_connection().__enter__):
    try:
        part()
    except MissingExtra as error:
        assert "postsale[batch]" in str(error), error
    else:
        raise AssertionError(part)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
