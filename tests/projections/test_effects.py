"""Each event's part in each component is exact, and what is computed without folding again equals folding again."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import AccountProfiled, InvoicePaid, TicketOpened, UsageObserved
from postsale.errors import InvalidInput
from postsale.events import from_us
from postsale.projections import CUSTOMER_HEALTH, Component, CustomerHealth, Features, HealthModel, count, explain_health
from postsale.projections.effects import Gauge, leaving_out
from postsale.projections.folding import Fact
from postsale.projections.health import Row
from postsale.testing.parity import random_facts

from .customers import History, day

BY_SEGMENT = HealthModel(
    name="by-segment",
    version=1,
    features=CustomerHealth,
    components=CUSTOMER_HEALTH.components,
    rows=(Row(segment="a", weights={"usage": 0, "support": 90}), Row(stage="leaving", bands=(("poor", 60), ("fair", 80), ("good", 100)))),
    segment=CUSTOMER_HEALTH.segment,
    stage=CUSTOMER_HEALTH.stage,
    stages=CUSTOMER_HEALTH.stages,
)
LATER = 4 * 10**15  # everything is known by then
MODELS = [CUSTOMER_HEALTH, BY_SEGMENT]
models = st.sampled_from(MODELS)


def sane(fact: Fact) -> Fact:
    """A random fact within what signals allow: whatever a log holds passed their checks."""
    fields = dict(fact.fields)
    for name in ("count", "active_users", "seats", "amount_minor", "mrr_minor"):
        if name in fields:
            fields[name] = abs(fields[name])
    if fact.kind in ("survey/answered", "survey/revised"):
        low, high = sorted((abs(fields.get("scale_min", 0)) % 50, abs(fields.get("scale_max", 10)) % 50))
        fields |= {"scale_min": low, "scale_max": high, "score": low + abs(fields["score"]) % (high - low + 1)}
    return fact._replace(fields=fields)


@st.composite
def logs(draw):
    """Facts of one customer, among them late ones and ties, by position, and a time by which some have occurred."""
    size = draw(st.integers(0, 60))
    facts = [sane(f) for _, f in random_facts(CustomerHealth, draw(st.integers(0, 10_000)), size=size, keys=1)]
    times = sorted(f.occurred_at_us for f in facts) or [day(0)]
    at = draw(st.sampled_from([*times, times[-1] + 20 * 86_400_000_000, times[-1] + 95 * 86_400_000_000]))
    return facts, at


def naive(model, facts, as_of_us):
    return model.score(model.fold.finish(model.fold.fold(facts), as_of_us))


def shown(gauge):
    """The whole score that a gauge stands for."""
    score = gauge._model.weigh(gauge.reading.judged, gauge.reading.applied)
    assert score.value_micro == gauge.reading.value_micro
    return score


def facts_by(facts, at):
    return [f for f in facts if f.occurred_at_us <= at]


@cache
def lacking(index, gone):
    """The model with one component that never says anything."""
    components = (Component(c.name, c.weight, lambda v: None) if c.name == gone else c for c in MODELS[index].components)
    return replace(MODELS[index], components=tuple(components))


def parts(score):
    return {c.name: c.contribution_micro for c in score.components}


@given(logs(), models, st.sampled_from([None, 0, 3]))
def test_what_events_gave_each_component_sums_exactly_to_what_the_component_gives(log, model, top):
    facts, at = log
    result = explain_health(model, facts, at, LATER)
    why = result.why(top=top)
    for c in result.components:
        of_events = sum(e.contribution_micro for effect in why.events for e in effect.components if e.name == c.name)
        assert of_events + why.others_components[c.name] == c.contribution_micro
    for effect in why.events:
        assert sum(c.contribution_micro for c in effect.components) == effect.contribution_micro
    assert sum(why.others_components.values()) == why.others_micro


@given(logs(), models)
def test_without_an_event_each_component_is_what_folding_again_without_it_gives(log, model):
    facts, at = log
    result = explain_health(model, facts, at, LATER)
    used = [f for f in facts if f.occurred_at_us <= at and f.kind in model.fold.kinds]
    for effect in result.why(top=None).events:
        rest = naive(model, [f for f in used if f.position != effect.position], at)
        told = {c.name: c.without_micro for c in effect.components}
        for c in result.components:
            if rest.value_micro is None or result.value_micro is None:
                assert effect.without_micro is None
                assert told.get(c.name) is None
            else:
                assert told.get(c.name, 0) == c.contribution_micro - parts(rest)[c.name]


@given(logs(), models)
def test_the_score_followed_fact_by_fact_is_that_of_folding_each_beginning_again(log, model):
    facts, at = log
    gauge = Gauge(model, at)
    used = [f for f in facts if f.occurred_at_us <= at]
    assert shown(gauge) == naive(model, [], at)
    for n, fact in enumerate(used, 1):
        assert gauge.add(fact) is gauge.reading
        assert shown(gauge) == naive(model, used[:n], at)


@given(logs(), st.data())
def test_the_state_without_a_fact_is_that_of_folding_the_others(log, data):
    facts, _ = log
    fold = CUSTOMER_HEALTH.fold
    wanted = data.draw(st.sets(st.integers(0, len(facts) - 1))) if facts else set()
    got = [(i, fold.digest(state)) for i, state in leaving_out(fold, facts, wanted)]
    assert got == [(i, fold.digest(fold.fold(f for f in facts if f is not facts[i]))) for i in sorted(wanted)]


@given(logs(), models)
def test_without_a_component_is_the_value_less_that_of_a_model_that_never_had_it(log, model):
    facts, at = log
    result = explain_health(model, facts, at, LATER)
    for gone, change in result.why(top=0).without_component.items():
        rest = naive(lacking(MODELS.index(model), gone), facts_by(facts, at), at).value_micro
        assert change == (None if rest is None or result.value_micro is None else result.value_micro - rest)


@given(logs(), st.integers(0, 200))
def test_what_it_was_before_is_folded_from_what_had_occurred_then_and_is_known_now(log, days):
    facts, at = log
    result = explain_health(CUSTOMER_HEALTH, facts, at, LATER)
    then_us = at - days * 86_400_000_000
    before = result.why(top=0, since=from_us(then_us)).before
    then = naive(CUSTOMER_HEALTH, [f for f in facts if f.occurred_at_us <= then_us], then_us)
    assert (before.value_micro, before.score, before.band) == (then.value_micro, then.score, then.band)
    assert before.components == {c.name: c.contribution_micro - parts(then)[c.name] for c in result.components}
    assert sum(before.components.values()) == (result.value_micro or 0) - (then.value_micro or 0)


def test_a_time_after_the_value_is_not_before_it():
    result = explain_health(CUSTOMER_HEALTH, History().on(0, InvoicePaid).facts, day(1), day(1))
    with pytest.raises(InvalidInput, match="since"):
        result.why(since=from_us(day(1) + 1))


def test_a_component_that_looks_at_the_newest_fact_is_followed_too():
    class Plain(Features, version=1, owner="tests"):
        tickets = count(TicketOpened)

    def age(v):
        return 0 if v.newest_us is None else 100_000_000 - (v.as_of_us - v.newest_us) // 86_400_000_000

    def place(v):
        return min(100_000_000, v.position * 1_000_000)

    model = HealthModel("t", 1, Plain, (Component("age", 1, age), Component("place", 1, place)))
    gauge = Gauge(model, day(9))
    for n, fact in enumerate(facts := History().on(0, TicketOpened).on(5, TicketOpened).on(3, TicketOpened).facts, 1):
        assert gauge.add(fact) is gauge.reading
        assert shown(gauge) == naive(model, facts[:n], day(9))


def test_a_customer_that_changes_its_row_is_followed_too():
    history = History().on(0, TicketOpened).on(1, UsageObserved).on(2, AccountProfiled, segment="a").on(3, AccountProfiled, segment="b")
    gauge = Gauge(BY_SEGMENT, day(4))
    names = [gauge.add(fact).applied.name for fact in history.facts]
    assert names == ["default", "default", "a/*", "default"]
    assert shown(gauge) == naive(BY_SEGMENT, history.facts, day(4))
