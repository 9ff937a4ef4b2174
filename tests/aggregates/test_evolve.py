"""Evolve is total, pure and bounded: it refuses nothing, whatever was recorded, and grows with matters, not with facts."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postsale.aggregates import decisions as d
from postsale.aggregates import signals
from postsale.aggregates.budgets import BudgetCommitted
from postsale.aggregates.customer import MAX_RECENT, MAX_TOUCHES, CustomerAggregate
from postsale.aggregates.evolve import evolve_decision, evolve_fact, fold
from postsale.aggregates.signals import Signal
from postsale.events import Event, StoredEvent, decode, encode_payload, registry
from postsale.events.model import decode_payload

from .strategies import CUSTOMER_EVENTS, START_US, STREAM, build, customer_events, decision_event, fact, visited

SIGNALS: list[type[Signal]] = [
    c for c in vars(signals).values() if isinstance(c, type) and issubclass(c, Signal) and "wire_name" in c.__dict__
]
EMPTY = CustomerAggregate(stream=STREAM)


@pytest.mark.parametrize("cls", CUSTOMER_EVENTS, ids=lambda c: c.__name__)
@given(st.data())
def test_every_event_of_the_decision_lane_is_read_back_as_it_was_written(cls: type[Event], data: st.DataObject) -> None:
    event = data.draw(build(cls))
    assert decode_payload(cls.wire_name, encode_payload(event)) == event


@pytest.mark.parametrize("cls", SIGNALS, ids=lambda c: c.__name__)
@settings(max_examples=15)
@given(st.data())
def test_every_signal_is_read_back_as_it_was_written_except_its_contact_which_the_header_names(
    cls: type[Signal], data: st.DataObject
) -> None:
    signal = data.draw(
        build(
            cls,
            contact=None,
            order=None,
            available_at=None,
            **({"score": 5, "scale_min": 0, "scale_max": 10} if cls in (signals.SurveyAnswered, signals.SurveyRevised) else {}),
        )
    )
    assert decode(fact(signal, 1)).data == signal


def sizes(value: Any) -> int:
    """How many leaves a state has."""
    if dataclasses.is_dataclass(value):
        return sum(sizes(getattr(value, f.name)) for f in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return sum(sizes(v) + 1 for v in value.values())
    if isinstance(value, (tuple, frozenset)):
        return sum(map(sizes, value))
    return 1


steps = st.lists(st.tuples(customer_events | st.none(), st.integers(-1000, 1000), st.sampled_from([0, 1, 2, 3])), max_size=25)


def recorded(steps: list[tuple[Any, int, int]]) -> list[StoredEvent]:
    """The steps as a log would hold them: a step without an event is a fact."""
    out, version = [], 0
    for position, (event, jitter, which) in enumerate(steps, start=1):
        at_us = START_US + position + jitter
        if event is None:
            out.append(fact(visited(position, at_us, f"p{which}"), position))
        else:
            version += 1
            # Decision ids meet the few ids that other events name.
            event_id = d_id(which) if isinstance(event, d.DecisionRecorded) else None
            out.append(decision_event(event, position, version=version, event_id=event_id, at_us=at_us))
    return out


def d_id(which: int) -> Any:
    from .strategies import FEW_IDS

    return FEW_IDS[which]


@given(steps)
def test_evolve_never_raises_whatever_was_recorded_in_whatever_order(steps: list[tuple[Any, int, int]]) -> None:
    log = recorded(steps)
    state = fold(EMPTY, log)
    assert state.position == len(log)
    assert state.version == sum(e is not None for e, _, _ in steps)
    assert len(state.touches) <= MAX_TOUCHES


@given(steps)
def test_folding_one_by_one_in_two_parts_or_again_gives_the_same_state(steps: list[tuple[Any, int, int]]) -> None:
    log = recorded(steps)
    whole = fold(EMPTY, log)
    one_by_one = EMPTY
    for stored in log:
        one_by_one = fold(one_by_one, [stored])
    half = len(log) // 2
    assert whole == one_by_one == fold(fold(EMPTY, log[:half]), log[half:]) == fold(EMPTY, log)


@given(steps)
def test_evolve_changes_nothing_that_it_was_given(steps: list[tuple[Any, int, int]]) -> None:
    log = recorded(steps)
    half = fold(EMPTY, log[: len(log) // 2])
    before = repr(half)
    fold(half, log[len(log) // 2 :])
    assert repr(half) == before


@given(steps)
def test_what_is_kept_open_is_open(steps: list[tuple[Any, int, int]]) -> None:
    state = fold(EMPTY, recorded(steps))
    assert not any(o.done for o in state.decisions.values())


@given(st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_facts_recorded_in_another_order_give_the_same_values_newest_by_time_then_by_position(offsets: list[int], rng: Any) -> None:
    made = [visited(n, START_US + offset, f"p{n}") for n, offset in enumerate(offsets)]
    shuffled = made[:]
    rng.shuffle(shuffled)
    first = fold(EMPTY, [fact(s, p) for p, s in enumerate(made, start=1)]).facts["tests.aggregates/visited"]
    again = fold(EMPTY, [fact(s, p) for p, s in enumerate(shuffled, start=1)]).facts["tests.aggregates/visited"]
    assert (first.count, first.first_at_us, first.latest_at_us) == (again.count, again.first_at_us, again.latest_at_us)
    for summary, order in ((first, made), (again, shuffled)):
        position, newest = max(enumerate(order, start=1), key=lambda p: (p[1].occurred_at, p[0]))
        assert (summary.latest_position, summary.latest) == (position, {"page": newest.page})
    if len(set(offsets)) == len(offsets):  # no two at the same time: the order cannot matter at all
        assert first.latest == again.latest


@pytest.mark.parametrize("many", [2, 50, 500])
def test_the_state_does_not_grow_with_the_number_of_facts_of_a_kind(many: int) -> None:
    one = fold(EMPTY, [fact(visited(1, START_US), 1)])
    state = fold(EMPTY, [fact(visited(n, START_US + n), n) for n in range(1, many + 1)])
    assert sizes(state) == sizes(one) + min(many, MAX_RECENT) - 1  # the newest times
    assert state.facts["tests.aggregates/visited"].count == many


def test_a_kind_that_the_library_does_not_know_is_folded_like_any_other() -> None:
    state = evolve_fact(EMPTY, fact(visited(1, START_US, "pricing"), 1))
    assert state.latest("tests.aggregates/visited", "page") == "pricing"
    assert state.latest("tests.aggregates/visited", "unknown") is None
    assert state.latest("tests.aggregates/unknown", "page") is None


def test_the_closed_union_and_the_registry_agree() -> None:
    assert all(registry.get(cls.wire_name) is cls for cls in CUSTOMER_EVENTS)


def test_an_event_of_another_lane_on_this_one_is_loud() -> None:
    with pytest.raises(AssertionError):
        evolve_decision(
            EMPTY,
            decision_event(BudgetCommitted(decision_id=d_id(0), intent_id=d_id(1), unit="EUR", period="2026-11", amount=1), 1, version=1),
        )
