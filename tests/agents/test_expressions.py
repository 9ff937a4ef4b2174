"""Cells: the condition language against a naive evaluation, and every refusal names the cell."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.agents.expressions import InputType, all_of, parse_cell
from postsale.errors import PolicyInvalid


def cell(text: object, kind: InputType = "integer") -> Any:
    return parse_cell(text, kind, policy="p", where="rule 'r', when.x")


@pytest.mark.parametrize(
    ("text", "kind", "yes", "no"),
    [
        (">= 50000", "integer", [50000, 50001], [49999, None]),
        ("> 5", "integer", [6], [5, None]),
        ("<= -1", "integer", [-1, -2], [0, None]),
        ("<5", "integer", [4], [5]),
        ("= 5", "integer", [5], [4, None]),
        (5, "integer", [5], [4, None]),
        ("!= 5", "integer", [4], [5, None]),
        ("between 10 and 20", "integer", [10, 20], [9, 21, None]),
        ("in [1, 2]", "integer", [1, 2], [3, None]),
        ("not in [1, 2]", "integer", [3], [1, None]),
        ("poor", "text", ["poor"], ["fair", None]),
        ("!= poor", "text", ["fair", ""], ["poor", None]),
        ("in [poor, 'a, b']", "text", ["poor", "a, b"], ["a", None]),
        ("'is missing'", "text", ["is missing"], [None, "x"]),
        ("'it''s'", "text", ["it's"], ["its"]),
        ("mid-market", "text", ["mid-market"], ["mid"]),
        (True, "boolean", [True], [False, None]),
        ("false", "boolean", [False], [True, None]),
        ("!= true", "boolean", [False], [True, None]),
        ("is missing", "integer", [None], [0]),
        ("is known", "boolean", [False, True], [None]),
    ],
)
def test_what_a_cell_means(text: object, kind: InputType, yes: list[Any], no: list[Any]) -> None:
    parsed = cell(text, kind)
    assert [v for v in yes if not parsed.test(v)] == []
    assert [v for v in no if parsed.test(v)] == []


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (">= 5", "text", "compares integers"),
        ("between a and b", "text", "compares integers"),
        ("between 20 and 10", "integer", "empty"),
        ("between 10", "integer", "not understood"),
        ("in []", "integer", "empty list"),
        ("in [1, x]", "integer", "not an integer"),
        ("in [1, 2", "integer", "not understood"),
        ("poor", "integer", "not an integer"),
        ("5", "boolean", "neither true nor false"),
        (5, "text", "compares it with a"),
        (True, "integer", "boolean"),
        (1.5, "integer", "float"),
        (None, "integer", "NoneType"),
        ([1], "integer", "list"),
        ("", "text", "empty condition"),
        ("x" * 501, "text", "500 characters"),
        ("'open", "text", "not closed"),
        ("in ['a, b]", "text", "not closed"),
        ("in doubt", "text", "single quotes"),
        ("__import__('os')", "text", "quotes"),
        (">=", "integer", "a value is missing"),
        ("1e9", "integer", "not an integer"),
        ("9" * 40, "integer", "not an integer"),
    ],
)
def test_a_cell_that_is_not_understood_is_refused_by_its_place(text: object, kind: InputType, says: str) -> None:
    with pytest.raises(PolicyInvalid, match=says) as caught:
        cell(text, kind)
    assert caught.value.where == "rule 'r', when.x"


INTS = st.integers(-(10**9), 10**9)
WORDS = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True).filter(
    lambda s: s not in {"is", "in", "not", "between"} and not s.startswith(("is-", "in-", "not-", "between-"))
)


@given(op=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), bound=INTS, value=st.none() | INTS)
def test_comparisons_agree_with_python(op: str, bound: int, value: int | None) -> None:
    naive = (
        value is not None
        and {
            "<": value < bound,
            "<=": value <= bound,
            ">": value > bound,
            ">=": value >= bound,
            "==": value == bound,
            "!=": value != bound,
        }[op]
    )
    assert cell(f"{op} {bound}").test(value) is naive


@given(low=INTS, width=st.integers(0, 1000), value=st.none() | INTS, near=st.integers(-2, 1002))
def test_between_is_inclusive(low: int, width: int, value: int | None, near: int) -> None:
    parsed = cell(f"between {low} and {low + width}")
    for v in (value, low + near):
        assert parsed.test(v) is (v is not None and low <= v <= low + width)


@given(words=st.lists(WORDS, min_size=1, max_size=5), value=st.none() | WORDS, negated=st.booleans())
def test_membership_agrees_with_python(words: list[str], value: str | None, negated: bool) -> None:
    parsed = cell(f"{'not ' if negated else ''}in [{', '.join(words)}]", "text")
    assert parsed.test(value) is (value is not None and (value in words) is not negated)


@given(text=st.text(max_size=40), kind=st.sampled_from(["integer", "text", "boolean"]))
def test_any_text_is_either_understood_alike_again_or_refused(text: str, kind: InputType) -> None:
    try:
        parsed = cell(text, kind)
    except PolicyInvalid:
        return
    assert cell(str(parsed), kind) == parsed


@given(word=st.text(min_size=1, max_size=20))
def test_every_text_can_be_said_in_quotes(word: str) -> None:
    parsed = cell("'" + word.replace("'", "''") + "'", "text")
    assert parsed.test(word)
    assert not parsed.test(word + "x")


@given(values=st.dictionaries(st.sampled_from("abc"), st.none() | INTS), bounds=st.dictionaries(st.sampled_from("abc"), INTS))
def test_a_row_matches_when_every_cell_does(values: dict[str, int | None], bounds: dict[str, int]) -> None:
    cells = {name: cell(f">= {bound}") for name, bound in bounds.items()}
    naive = all(values.get(n) is not None and (values[n] or 0) >= b for n, b in bounds.items())
    assert all_of(cells)(values) is naive
