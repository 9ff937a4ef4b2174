"""Approximate distinct counts: near the truth, the same whole number everywhere, and bounded."""

from __future__ import annotations

import hashlib
import math
import random
from fractions import Fraction

import pytest

from postsale.aggregates.signals import RenewalDue
from postsale.errors import BadDeclaration, InvalidInput
from postsale.events import DAY_US
from postsale.projections import Fact, Features, Fold, days, distinct
from postsale.projections.columnar import fold_state, state_table
from postsale.projections.feeding import facts_table
from postsale.projections.sketch import ERROR_PPM, REGISTERS, estimate, mark, merged
from postsale.testing import assert_parity
from postsale.testing.parity import duckdb_engine

from .support import MEASURED, Measured


class Types(Features, version=1, owner="tests"):
    """A sketch of every type that a feature may hold, by keys, with conditions and in windows."""

    number = distinct(Measured, lambda e: e.amount * 2, approximate=True, where=lambda e: e.good)
    flag = distinct(Measured, lambda e: e.good, approximate=True)
    time = distinct(RenewalDue, lambda e: e.renews_at, approximate=True)
    label_by = distinct(Measured, lambda e: e.label, by=lambda e: e.step, approximate=True)
    label_2d = distinct(Measured, lambda e: e.label, window=days(2), approximate=True)


class Labels(Features, version=1, owner="tests"):
    n = distinct(Measured, lambda e: e.label, approximate=True)


def test_every_type_is_hashed_as_the_same_bytes_on_fold_and_duckdb():
    assert_parity(Types)


@pytest.mark.parametrize("size", [0, 1, 2, 10, 100, 1_000, 5_000, 10_000, 20_000, 100_000])
def test_it_is_as_near_to_the_truth_as_it_says(size):
    seed = random.getrandbits(32)
    registers: dict[int, int] = {}
    for n in range(size):
        mark(registers, f"{seed}/{n}")
        mark(registers, f"{seed}/{n}")  # again: changes nothing
    allowed = 5 * ERROR_PPM / 1e6 + (0.03 if 5_000 <= size <= 20_000 else 0)
    assert abs(estimate(registers) - size) <= max(allowed * size, 0.5), f"seed {seed}: {estimate(registers)}"


def test_parts_merged_in_any_way_are_the_sketch_of_the_whole_and_bounded():
    seed = random.getrandbits(32)
    rng = random.Random(seed)
    values = [rng.randrange(60_000) for _ in range(50_000)]
    whole: dict[int, int] = {}
    parts: list[dict[int, int]] = [{}, {}, {}]
    for n, value in enumerate(values):
        mark(whole, value)
        mark(parts[n % 3], value)
    a, b, c = parts
    assert merged(merged(a, b), c) == merged(c, merged(b, a)) == whole, seed
    assert len(whole) <= REGISTERS


def test_the_estimate_is_that_of_the_paper_without_a_float():
    seed = random.getrandbits(32)
    rng = random.Random(seed)
    for fill in (0.2, 0.9, 1.0):
        registers = {n: rng.randrange(1, 60) for n in range(REGISTERS) if rng.random() <= fill}
        empty = REGISTERS - len(registers)
        alpha = Fraction(round(0.7213 / (1 + 1.079 / REGISTERS) * 10**12), 10**12)
        raw = alpha * REGISTERS**2 / (empty + sum(Fraction(1, 2**rank) for rank in registers.values()))
        few = raw <= Fraction(5, 2) * REGISTERS and empty
        assert estimate(registers) == (round(REGISTERS * math.log(REGISTERS / empty)) if few else math.floor(raw + Fraction(1, 2))), seed


def test_no_rounding_of_a_logarithm_is_a_close_call_on_any_machine():
    assert min(abs(REGISTERS * math.log(REGISTERS / empty) % 1 - 0.5) for empty in range(1, REGISTERS + 1)) > 1e-6


def test_a_register_and_its_rank_are_bits_of_md5():
    for value, text in ((0, "0"), (-7, "-7"), (True, "true"), (False, "false"), ("ü\n", "ü\n")):
        bits = f"{int(hashlib.md5(text.encode()).hexdigest(), 16):0128b}"
        assert mark({}, value) == {int(bits[:12], 2): bits[12:].index("1") + 1}


def test_duckdb_gives_the_very_registers_of_many_values():
    facts = [("k", Fact(MEASURED, n, n * DAY_US // 9, 0, {"label": f"label {n}"})) for n in range(1, 9_001)]
    (row,) = duckdb_engine(facts_table(Labels, facts), lambda t: state_table(Labels, t, keys=["key"]))
    fold = Fold(Labels)
    state = fold.fold(fact for _, fact in facts)
    assert fold_state(Labels, row) == state
    assert fold.load(fold.dump(state)) == state
    assert len(fold.dump(state)) < 40_000


def test_a_value_of_another_type_is_refused_and_exact_and_approximate_are_two_declarations():
    with pytest.raises(InvalidInput, match="does not fit"):
        Fold(Labels).fold([Fact(MEASURED, 1, 0, 0, {"label": 1.5})])

    class Exact(Features, version=1, owner="tests"):
        n = distinct(Measured, lambda e: e.label)

    assert Exact.leaves["n"].definition() != Labels.leaves["n"].definition()
    with pytest.raises(BadDeclaration, match="does not exist"):
        distinct(Measured, lambda e: e.nothing, approximate=True)
