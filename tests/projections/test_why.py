"""Every number explains itself: contributions sum exactly, and what an event changed is what re-folding without it gives."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import (
    CancellationScheduled,
    InvoicePaid,
    InvoicePaymentFailed,
    SubscriptionEnded,
    SubscriptionStarted,
    SurveyAnswered,
    TicketEscalated,
    TicketOpened,
    UsageObserved,
)
from postsale.projections import CUSTOMER_HEALTH, Component, Features, Fold, HealthModel, count, explain_health

from .customers import History, day

KINDS = [
    InvoicePaid, InvoicePaymentFailed, UsageObserved, TicketOpened, TicketEscalated, SurveyAnswered, SubscriptionStarted,
    CancellationScheduled, SubscriptionEnded,
]  # fmt: skip


@st.composite
def histories(draw, max_size=14):
    history = History()
    for kind, at, late in draw(
        st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 200), st.sampled_from([0, 1, 40])), max_size=max_size)
    ):
        history.on(at, kind, known=at + late)
    return history


def value_of(facts, as_of_us):
    """Naively: fold what is left, score it."""
    fold = Fold(CUSTOMER_HEALTH.features)
    return CUSTOMER_HEALTH.score(fold.finish(fold.fold(facts), as_of_us)).value_micro


@given(histories(), st.integers(0, 260))
def test_component_and_event_contributions_each_sum_exactly_to_the_value(history, n):
    result = explain_health(CUSTOMER_HEALTH, history.facts, day(n), day(1_000))
    for top in (None, 3):
        why = result.why(top=top)
        assert sum(e.contribution_micro for e in why.events) + why.others_micro == (result.value_micro or 0)
        assert len(why.events) + why.others == sum(f.occurred_at_us <= day(n) for f in history.facts)
    assert sum(c.contribution_micro for c in result.components) == (result.value_micro or 0)


@given(histories(), st.integers(0, 260))
def test_without_an_event_is_what_a_naive_refold_without_it_gives(history, n):
    result = explain_health(CUSTOMER_HEALTH, history.facts, day(n), day(1_000))
    happened = [f for f in history.facts if f.occurred_at_us <= day(n)]
    for effect in result.why(top=None).events:
        rest = value_of([f for f in happened if f.position != effect.position], day(n))
        if rest is None or result.value_micro is None:
            assert effect.without_micro is None
        else:
            assert result.value_micro - effect.without_micro == rest


@given(histories(), st.integers(0, 260), st.integers(0, 260))
def test_only_what_had_occurred_and_was_known_counts(history, as_of, known):
    result = explain_health(CUSTOMER_HEALTH, history.facts, day(as_of), day(known))
    visible = [f for f in history.facts if f.occurred_at_us <= day(as_of) and f.recorded_at_us <= day(known)]
    assert result.value_micro == value_of(visible, day(as_of))
    assert result == explain_health(CUSTOMER_HEALTH, visible[::-1], day(as_of), day(known))
    assert {e.position for e in result.why(top=None).events} == {f.position for f in visible}


@given(histories(), st.integers(0, 260))
def test_the_trend_is_the_value_now_less_the_value_thirty_days_before(history, n):
    result = explain_health(CUSTOMER_HEALTH, history.facts, day(n), day(1_000))
    before = value_of([f for f in history.facts if f.occurred_at_us <= day(n - 30)], day(n - 30))
    assert result.trend.before_micro == before
    if before is None or result.value_micro is None:
        assert (result.trend.change_micro, result.trend.direction) == (None, None)
    else:
        change = result.value_micro - before
        assert result.trend.change_micro == change
        assert result.trend.direction == ("steady" if abs(change) < 1_000_000 else "up" if change > 0 else "down")


def test_history_imported_today_has_a_trend_today():
    imported = History().on(0, InvoicePaid, known=200)
    result = explain_health(CUSTOMER_HEALTH, imported.facts, day(200), day(200))
    assert result.trend.direction == "down"
    assert explain_health(CUSTOMER_HEALTH, imported.facts, day(200), day(199)).score is None


def test_an_event_that_lowered_the_value_is_named_with_both_figures():
    history = History().on(0, SubscriptionStarted).on(1, InvoicePaid).on(2, InvoicePaymentFailed).on(3, CancellationScheduled)
    why = explain_health(CUSTOMER_HEALTH, history.facts, day(4), day(4)).why()
    by_position = {e.position: e for e in why.events}
    assert by_position[2].contribution_micro == 100_000_000
    assert by_position[3].contribution_micro == -50_000_000
    assert by_position[3].without_micro == -10_000_000  # 10 now; 20 when the charge had not failed
    assert by_position[4].contribution_micro == -40_000_000
    assert by_position[4].without_micro == -40_000_000
    assert by_position[2].without_micro == 10_000_000


def test_the_only_event_of_a_customer_leaves_no_value_without_it():
    result = explain_health(CUSTOMER_HEALTH, History().on(0, InvoicePaid).facts, day(1), day(1))
    (effect,) = result.why().events
    assert (effect.contribution_micro, effect.without_micro) == (100_000_000, None)


def test_the_table_shows_a_person_what_counted_what_is_missing_and_what_moved_it():
    history = History().on(0, SubscriptionStarted).on(1, InvoicePaid)
    for n in range(30):
        history.on(2 + n, InvoicePaymentFailed if n == 7 else InvoicePaid)
    text = str(explain_health(CUSTOMER_HEALTH, history.facts, day(40), day(40)).why(top=2))
    assert text.splitlines()[0] == "health 96.77 good at 2026-02-10T09:00:00.000000Z, as known at 2026-02-10T09:00:00.000000Z"
    assert "30 days before: 90.00 (up, +6.774193)" in text
    assert "payments           25   96.77  +96.774193" in text
    assert "no survey was ever answered" in text
    assert "billing/invoice-payment-failed" in text
    assert "30 other events" in text
    assert text.splitlines()[-1].split() == ["together", "+96.774193"]


def test_the_table_says_so_when_there_is_no_value():
    text = str(explain_health(CUSTOMER_HEALTH, [], day(0), day(0)).why())
    assert text.startswith("health: none, there is no input")
    assert "usage: no usage was ever observed" in text


def test_programs_get_the_same_as_json():
    history = History().on(0, SubscriptionStarted).on(1, InvoicePaid).on(2, InvoicePaymentFailed)
    result = explain_health(CUSTOMER_HEALTH, history.facts, day(3), day(3), position=77)
    out = json.loads(json.dumps(result.why(top=1).to_dict()))
    assert out["score"] == 50.0
    assert out["position"] == 77
    assert sum(c["contribution_micro"] for c in out["components"]) == out["value_micro"]
    assert sum(e["contribution_micro"] for e in out["events"]) + out["others"]["contribution_micro"] == out["value_micro"]
    assert out["others"]["events"] == 2
    assert out["model"] == CUSTOMER_HEALTH.digest
    assert {k: v for k, v in out.items() if k in result.to_dict()} == result.to_dict()
    assert set(out) - set(result.to_dict()) == {"events", "others", "without_component", "before", "last_change", "crossings"}


def test_a_users_own_model_over_own_features_explains_itself_too():
    class Calls(Features, version=1, owner="tests"):
        opened = count(TicketOpened)

    def calm(v):
        return max(0, 100_000_000 - 30_000_000 * v.of(Calls.opened))

    model = HealthModel("calls", 1, Calls, (Component("calm", 1, calm),))
    history = History().on(0, TicketOpened).on(1, UsageObserved).on(2, TicketOpened)
    why = explain_health(model, history.facts, day(3), day(3)).why()
    assert why.health.score == 40.0
    assert [(e.position, e.contribution_micro, e.without_micro) for e in why.events] == [
        (1, 70_000_000, -30_000_000),
        (3, -30_000_000, -30_000_000),
    ]
