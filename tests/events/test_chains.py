"""Chains of upcasters: each step once, in order, on a dict of its own; a step that fails is named with the event."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.errors import UpcastFailed
from postsale.events import Event, Int, Registry


class Link(Event):
    """The newest of a chain; what each step did is in its fields."""

    wire_name: ClassVar[str] = "tests.evolution/link@9"
    start: Int
    steps: list[Int]
    inner: dict[str, list[Int]]


@given(st.lists(st.integers(1, 8), unique=True, min_size=1), st.integers(-5, 5), st.data())
def test_every_version_of_a_chain_is_read_as_the_newest_by_each_step_once_and_in_order(
    versions: list[int], start: int, data: st.DataObject
) -> None:
    """Whatever upcasters do to the dicts they are given: input, results of others and constants stay as they are."""
    mine, versions = Registry(), [*sorted(versions), 9]
    mine.add(Link)
    constant = {"kept": [0]}
    for old, new in pairwise(versions):

        def step(fields: dict[str, Any], old: int = old) -> dict[str, Any]:
            fields["steps"].append(old)
            fields["inner"].setdefault("kept", []).append(old)
            return fields if old % 2 else {**fields, "inner": constant}

        step.__qualname__ = f"step{old}"
        mine.upcaster(f"tests.evolution/link@{old}", f"tests.evolution/link@{new}")(step)
    mine.check_chains(["tests.evolution/link"])
    first = data.draw(st.sampled_from(versions))
    fields = {"start": start, "steps": [], "inner": {}}
    now = mine.upcast(f"tests.evolution/link@{first}", fields)
    assert (now["start"], now["steps"]) == (start, [v for v in versions if first <= v < 9])
    assert (fields, constant) == ({"start": start, "steps": [], "inner": {}}, {"kept": [0]})
    assert mine.upcast(f"tests.evolution/link@{first}", fields) == now
    assert mine.versions("tests.evolution/link") == [f"tests.evolution/link@{v}" for v in versions]


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(["raises", "none", "set"]))
def test_a_step_that_fails_names_the_stored_version_its_position_and_the_step(first: int, bad: int, how: str) -> None:
    mine = Registry()
    mine.add(Link)
    for old in range(1, 9):

        def step(fields: dict[str, Any], old: int = old) -> Any:
            if old != bad:
                return fields
            return {"raises": lambda: fields["not there"], "none": lambda: None, "set": lambda: {"a": {1}}}[how]()

        step.__qualname__ = f"step{old}"
        mine.upcaster(f"tests.evolution/link@{old}", f"tests.evolution/link@{old + 1}")(step)
    if bad < first:
        assert mine.upcast(f"tests.evolution/link@{first}", {"a": 1}) == {"a": 1}
        return
    with pytest.raises(UpcastFailed) as caught:
        mine.upcast(f"tests.evolution/link@{first}", {"a": 1}, 7)
    error = caught.value
    assert (error.wire_name, error.position, error.step) == (f"tests.evolution/link@{first}", 7, f"tests.evolution/link@{bad}")
