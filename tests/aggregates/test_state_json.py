"""A state written as JSON is read back as the same state, in the same order, whatever was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.evolve import fold
from postsale.aggregates.state_json import from_json, to_json

from .story import Story, intent, paid
from .strategies import START_US, STREAM, fact, visited
from .test_evolve import recorded, steps

EMPTY = CustomerAggregate(stream=STREAM)


def in_order(value: Any) -> Any:
    """A state with its mappings as lists: equal only when their orders are."""
    if is_dataclass(value):
        return [in_order(getattr(value, f.name)) for f in fields(value)]
    if isinstance(value, Mapping):
        return [(k, in_order(v)) for k, v in value.items()]
    return [in_order(v) for v in value] if isinstance(value, tuple) else value


def there_and_back(state: CustomerAggregate) -> CustomerAggregate:
    raw = orjson.dumps(to_json(state))
    again = from_json(CustomerAggregate, orjson.loads(raw))
    assert again == state
    assert in_order(again) == in_order(state)
    assert orjson.dumps(to_json(again)) == raw
    return again


@given(steps)
def test_any_customer_is_read_back_as_it_was_and_folds_on_alike(steps: list[tuple[Any, int, int]]) -> None:
    log = recorded(steps)
    half = len(log) // 2
    again = there_and_back(fold(EMPTY, log[:half]))
    assert in_order(fold(again, log[half:])) == in_order(fold(EMPTY, log))


def test_a_busy_customer_is_read_back_with_everything_that_is_open() -> None:
    story = Story()
    first = story.decide("acted", intents=[intent(1), intent(2, channel=None)], outcome_kinds=("billing/invoice-paid",))
    story.decide("awaiting", cause=2, intents=[intent(3)])
    story.trigger(cause=3)
    story.start(first)
    story.happens(paid(1, story.now_us))
    state = there_and_back(story.state)
    assert len(state.decisions) == 2
    assert state.pending
    assert state.touches


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.text(st.characters(exclude_categories=["Cs"]))
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    )
)
def test_the_newest_payload_of_a_kind_is_kept_as_it_was_stored(value: Any) -> None:
    stored = fact(visited(1, START_US), 1)._replace(data=orjson.dumps({"page": value}))
    there_and_back(fold(EMPTY, [stored]))


@dataclass(frozen=True)
class Unusual:
    when: bytes


def test_a_type_that_is_not_covered_is_refused_rather_than_lost() -> None:
    with pytest.raises(TypeError, match="bytes"):
        to_json(Unusual(b""))


@pytest.mark.parametrize("value", [None, [], {}, 7, [1] * 20, to_json(EMPTY)[:-1], [*to_json(EMPTY), None]])
def test_what_no_state_gave_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        from_json(CustomerAggregate, value)
