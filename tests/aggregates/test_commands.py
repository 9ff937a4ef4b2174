"""The rules of the customer, one by one. Every command that was carried out is empty or refused when it is given again."""

from typing import Any
from uuid import UUID

import pytest

from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.customer import MAX_TOUCHES, CustomerAggregate
from postsale.aggregates.identity import ALIASES, StreamJoined, customer_stream
from postsale.aggregates.risk import RiskCaseMoved
from postsale.errors import ApprovalRefused, IdentityConflict, InvalidInput, UnknownDecision
from postsale.events import StreamId, derive_id, from_us

from .story import AGENT, APPROVAL, DAY_US, MAC, Story, intent, intent_id, paid
from .strategies import visited

OUTCOME = {"outcome_kinds": ("billing/invoice-paid",)}


@pytest.fixture
def story() -> Story:
    return Story()


# ---------------------------------------------------------------- consent


def test_unknown_consent_is_no_consent(story: Story) -> None:
    assert not story.state.may_contact("email", "service")
    story.tell(commands.give_consent(story.state, "email", "service", "form"))
    assert story.state.may_contact("email", "service")
    assert not story.state.may_contact("email", "marketing")
    assert not story.state.may_contact("phone", "service")


def test_consent_can_be_withdrawn_and_given_again_and_each_counts_once(story: Story) -> None:
    for expected in (True, False, True):
        command = commands.give_consent if expected else commands.withdraw_consent
        events = command(story.state, "email", "service", "form")
        assert len(events) == 1
        story.tell(events)
        assert story.state.may_contact("email", "service") is expected
        assert command(story.state, "email", "service", "form") == ()


def test_withdrawing_what_was_never_given_is_recorded_once(story: Story) -> None:
    story.tell(commands.withdraw_consent(story.state, "email", "service", "call"))
    assert len(story.log) == 1
    assert commands.withdraw_consent(story.state, "email", "service", "call") == ()


# ---------------------------------------------------------------- triggers and dispositions


def test_a_trigger_waits_until_it_has_its_one_disposition(story: Story) -> None:
    trigger_id = story.trigger()
    assert list(story.state.pending) == [trigger_id]
    assert commands.raise_trigger(story.state, trigger_id, story.state.pending[trigger_id].raised) == ()
    decision_id = derive_id(trigger_id, "decision")
    story.decide("suppressed", suppressed_by="autonomy:observe")
    assert story.state.pending == {}
    assert decision_id not in story.state.decisions  # nothing is open about it


def test_a_condition_that_is_up_rises_again_only_after_it_was_cleared(story: Story) -> None:
    def raised(cause: int) -> d.TriggerRaised:
        return d.TriggerRaised(agent=AGENT, condition="renewal-near", cause="fact", causing_event=UUID(int=cause))

    story.tell(commands.raise_trigger(story.state, UUID(int=1), raised(1)), UUID(int=1))
    assert commands.raise_trigger(story.state, UUID(int=2), raised(2)) == ()
    cleared = d.TriggerCleared(agent=AGENT, condition="renewal-near", causing_event=UUID(int=3))
    story.tell(commands.clear_trigger(story.state, cleared))
    assert commands.clear_trigger(story.state, cleared) == ()
    assert commands.raise_trigger(story.state, UUID(int=2), raised(2)) == (raised(2),)


@pytest.mark.parametrize("disposition", ["suppressed", "failed", "acted"])
def test_a_decision_without_anything_left_to_do_is_not_kept(story: Story, disposition: Any) -> None:
    story.decide(disposition)
    assert story.state.decisions == {}


# ---------------------------------------------------------------- approvals


def test_an_approval_lets_the_effects_go_and_is_used_once(story: Story) -> None:
    decision_id = story.decide("awaiting", intents=[intent()])
    assert story.effect(decision_id).status == "held"
    assert commands.effects_due(story.state, story.now_us) == ()
    assert [type(e) for e in story.approve(decision_id)] == [d.ApprovalGranted]
    assert (story.open(decision_id).disposition, story.effect(decision_id).status) == ("acted", "ready")
    with pytest.raises(ApprovalRefused, match="not waiting"):
        story.approve(decision_id)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"approver": AGENT}, "cannot approve its own"),
        ({"offered_mac": MAC + "x"}, "arguments differ"),
        ({"arguments_mac": ""}, "arguments differ"),
    ],
)
def test_the_agent_itself_and_changed_arguments_are_refused_and_nothing_is_recorded(
    story: Story, changed: dict[str, Any], reason: str
) -> None:
    decision_id = story.decide("awaiting", intents=[intent()])
    before = len(story.log)
    with pytest.raises(ApprovalRefused, match=reason) as caught:
        story.approve(decision_id, **changed)
    assert caught.value.decision_id == str(decision_id)
    assert len(story.log) == before
    assert story.open(decision_id).disposition == "awaiting"


@pytest.mark.parametrize("what", ["unknown", "acted", "suppressed", "rejected", "lapsed", "overridden"])
def test_only_a_waiting_request_can_be_approved_or_rejected(story: Story, what: str) -> None:
    if what in {"acted", "suppressed"}:
        decision_id = story.decide(what, intents=[intent()])  # type: ignore[arg-type]
    else:
        decision_id = story.decide("awaiting", intents=[intent()])
    if what == "rejected":
        story.tell(commands.reject(story.state, decision_id, approver="maria", authenticated_by="token", reason="no"))
    if what == "lapsed":
        story.approve(decision_id, changed=("seats",))
    if what == "overridden":
        story.tell(commands.override(story.state, decision_id, by="maria", reason="called them"))
    if what == "unknown":
        decision_id = UUID(int=99)
    with pytest.raises(ApprovalRefused):
        story.approve(decision_id)
    with pytest.raises(ApprovalRefused):
        commands.reject(story.state, decision_id, approver="maria", authenticated_by="token", reason="no")


@pytest.mark.parametrize("late_us", [0, 1])
def test_a_request_lapses_at_its_time_and_is_then_refused(story: Story, late_us: int) -> None:
    expires_us = story.now_us + DAY_US
    decision_id = story.decide("awaiting", intents=[intent()], approval_expires_at=from_us(expires_us))
    assert commands.lapse_expired(story.state, expires_us - 1) == ()
    lapsed = (d.ApprovalLapsed(decision_id=decision_id, why="expired"),)
    assert commands.lapse_expired(story.state, expires_us + late_us) == lapsed
    assert story.approve(decision_id, now_us=expires_us + late_us) == lapsed
    assert story.state.decisions == {}
    assert story.state.touches == ()
    with pytest.raises(ApprovalRefused):
        story.approve(decision_id)


def test_a_request_just_before_its_time_is_granted(story: Story) -> None:
    expires_us = story.now_us + DAY_US
    decision_id = story.decide("awaiting", intents=[intent()], approval_expires_at=from_us(expires_us))
    assert [type(e) for e in story.approve(decision_id, now_us=expires_us - 1)] == [d.ApprovalGranted]


def test_changed_values_void_a_request_and_are_named(story: Story) -> None:
    decision_id = story.decide("awaiting", intents=[intent()], bound_to=("seats", "mrr"))
    (event,) = story.approve(decision_id, changed=("seats", "mrr"))
    assert event == d.ApprovalLapsed(decision_id=decision_id, why="values-changed", detail="seats, mrr")


def test_a_rejection_ends_a_request_and_takes_its_promised_contact_back(story: Story) -> None:
    decision_id = story.decide("awaiting", intents=[intent()])
    assert len(story.state.touches) == 1
    with pytest.raises(ApprovalRefused, match="its own"):
        commands.reject(story.state, decision_id, approver=AGENT, authenticated_by="token", reason="no")
    story.tell(commands.reject(story.state, decision_id, approver="maria", authenticated_by="token", reason="no"))
    assert (story.state.decisions, story.state.touches) == ({}, ())


# ---------------------------------------------------------------- overrides


def test_an_override_needs_a_reason_and_a_decision_that_is_open(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent()])
    with pytest.raises(InvalidInput) as caught:
        commands.override(story.state, decision_id, by="maria", reason="  ")
    assert caught.value.field == "reason"
    with pytest.raises(UnknownDecision):
        commands.override(story.state, UUID(int=99), by="maria", reason="why not")


def test_an_override_cancels_what_has_not_left_and_takes_the_contact_back(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent()])
    story.tell(commands.override(story.state, decision_id, by="maria", reason="called them"))
    assert (story.state.decisions, story.state.touches) == ({}, ())
    with pytest.raises(UnknownDecision):
        commands.override(story.state, decision_id, by="maria", reason="called them")


@pytest.mark.parametrize("kind", ["idempotent", "queryable", "unsafe"])
def test_after_an_override_an_attempt_that_broke_off_is_not_repeated_but_given_to_a_person(story: Story, kind: str) -> None:
    decision_id = story.decide("acted", intents=[intent(1, kind), intent(2, kind)])
    story.start(decision_id)
    story.tell(commands.override(story.state, decision_id, by="maria", reason="called them"))
    assert story.open(decision_id).disposition == "suppressed"
    assert [e.status for e in story.open(decision_id).effects.values()] == ["started", "cancelled"]
    assert len(story.state.touches) == 1  # the one that may have left
    assert commands.override(story.state, decision_id, by="maria", reason="again") == ()
    assert [type(e) for e in story.start(decision_id)] == [d.EffectUnknown]
    assert story.start(decision_id) == ()


def test_after_an_override_an_attempt_that_failed_is_cancelled_and_not_retried(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent()])
    story.start(decision_id)
    story.tell(commands.override(story.state, decision_id, by="maria", reason="called them"))
    story.fail(decision_id, final=False)
    assert [type(e) for e in story.start(decision_id)] == [d.EffectCancelled]
    assert (story.state.decisions, story.state.touches) == ({}, ())


# ---------------------------------------------------------------- effects


@pytest.mark.parametrize("kind", ["idempotent", "queryable"])
def test_an_effect_that_a_crash_left_started_is_attempted_again_with_the_same_id(story: Story, kind: str) -> None:
    decision_id = story.decide("acted", intents=[intent(1, kind)])
    assert story.start(decision_id) == (d.EffectStarted(decision_id=decision_id, intent_id=intent_id(1), attempt=1),)
    assert story.start(decision_id) == (d.EffectStarted(decision_id=decision_id, intent_id=intent_id(1), attempt=2),)


def test_an_unsafe_effect_that_a_crash_left_started_is_unknown_and_never_attempted_again(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent(1, "unsafe")])
    story.start(decision_id)
    (unknown,) = story.start(decision_id)
    assert isinstance(unknown, d.EffectUnknown)
    assert unknown.attempt == 1
    assert commands.effects_due(story.state, story.now_us + 365 * DAY_US) == ()
    assert story.start(decision_id) == ()


def test_an_unsafe_effect_whose_failure_is_not_certain_is_unknown_and_never_attempted_again(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent(1, "unsafe")])
    story.start(decision_id)
    story.fail(decision_id, final=False, ambiguous=True)
    assert [type(e) for e in story.start(decision_id)] == [d.EffectUnknown]


def test_an_effect_that_certainly_failed_is_tried_again_when_its_time_has_come(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent(1, "unsafe")])
    story.start(decision_id)
    story.fail(decision_id, final=False, retry_in_us=DAY_US)
    retry_us = story.effect(decision_id).retry_at_us
    assert commands.effects_due(story.state, retry_us - 1) == ()
    assert [e.intent.intent_id for _, e in commands.effects_due(story.state, retry_us)] == [intent_id(1)]
    assert story.start(decision_id) == (d.EffectStarted(decision_id=decision_id, intent_id=intent_id(1), attempt=2),)


def test_an_effect_is_not_due_before_its_time(story: Story) -> None:
    due_us = story.now_us + DAY_US
    story.decide("acted", intents=[intent(1, due_us=due_us)])
    assert commands.effects_due(story.state, due_us - 1) == ()
    assert len(commands.effects_due(story.state, due_us)) == 1


@pytest.mark.parametrize("status", ["held", "succeeded", "failed", "cancelled", "unknown", "unknown intent", "unknown decision"])
def test_nothing_is_started_that_is_not_due(story: Story, status: str) -> None:
    decision_id = story.decide("awaiting" if status == "held" else "acted", intents=[intent(1), intent(2)])
    if status != "held":
        story.start(decision_id)
    if status == "succeeded":
        story.succeed(decision_id)
    if status == "failed":
        story.fail(decision_id)
    if status == "cancelled":
        story.tell((d.EffectCancelled(intent_id=intent_id(1), decision_id=decision_id, reason="paused"),))
    if status == "unknown":
        story.tell((d.EffectUnknown(intent_id=intent_id(1), decision_id=decision_id, attempt=1, reason="?"),))
    which = derive_id("no such") if status == "unknown intent" else intent_id(1)
    decision_id = UUID(int=99) if status == "unknown decision" else decision_id
    assert commands.start_effect(story.state, decision_id, which) == ()


def test_a_decision_none_of_whose_effects_happened_has_failed(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent(1), intent(2)], outcome_by=from_us(story.now_us + DAY_US), **OUTCOME)
    story.start(decision_id, 1)
    story.fail(decision_id, 1)
    assert story.open(decision_id).disposition == "acted"
    story.start(decision_id, 2)
    story.fail(decision_id, 2)
    assert story.state.decisions == {}  # failed: nothing to observe
    assert story.state.touches == ()


def test_a_decision_that_reached_the_customer_once_has_acted_and_keeps_that_contact(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent(1, channel="email"), intent(2, channel="phone"), intent(3, channel=None)])
    for number in (1, 2, 3):
        story.start(decision_id, number)
    story.succeed(decision_id, 1)
    story.fail(decision_id, 3)
    assert [t.channel for t in story.state.touches] == ["email", "phone"]
    story.fail(decision_id, 2)
    assert [t.channel for t in story.state.touches] == ["email"]
    assert story.state.decisions == {}


def test_of_two_contacts_on_one_channel_the_one_that_was_made_still_counts(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent(1), intent(2)])
    story.start(decision_id, 1)
    story.start(decision_id, 2)
    story.fail(decision_id, 1)
    assert len(story.state.touches) == 1
    story.succeed(decision_id, 2)
    assert len(story.state.touches) == 1


def test_an_effect_that_was_switched_off_in_mid_run_is_no_contact(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent(1), intent(2)])
    story.tell((d.EffectCancelled(intent_id=intent_id(1), decision_id=decision_id, reason="paused"),))
    assert len(story.state.touches) == 1


def test_no_more_contacts_are_remembered_than_a_cap_can_ask_for(story: Story) -> None:
    for cause in range(MAX_TOUCHES + 10):
        decision_id = story.decide("acted", cause=cause, intents=[intent()])
        story.start(decision_id)
        story.succeed(decision_id)
    assert len(story.state.touches) == MAX_TOUCHES
    assert story.state.decisions == {}
    assert story.state.touches[-1].decision_id == decision_id


# ---------------------------------------------------------------- outcomes


@pytest.mark.parametrize(
    ("occurred_after_us", "counts"),
    [(0, False), (1, True), (DAY_US, True), (DAY_US + 1, False), (-1, False)],
    ids=["at the decision", "just after", "at the last moment", "too late", "before"],
)
def test_a_success_counts_when_it_occurred_after_the_decision_and_in_time_however_late_it_arrives(
    story: Story, occurred_after_us: int, counts: bool
) -> None:
    story.now_us += 5
    decided_us = story.now_us + 2  # the trigger comes first
    decision_id = story.decide("acted", intents=[intent()], outcome_by=from_us(decided_us + DAY_US), **OUTCOME)
    assert story.open(decision_id).decided_at_us == decided_us
    late_us = decided_us + 9 * DAY_US
    fact_event = story.happens(paid(1, decided_us + occurred_after_us))
    expected = (
        d.OutcomeObserved(decision_id=decision_id, outcome="success", fact_event=fact_event)
        if counts
        else d.OutcomeObserved(decision_id=decision_id, outcome="none")
    )
    assert commands.observe_outcomes(story.state, late_us) == (expected,)
    story.tell((expected,))
    assert commands.observe_outcomes(story.state, late_us) == ()


def test_no_outcome_is_said_before_the_time_is_over_nor_of_other_facts(story: Story) -> None:
    by_us = story.now_us + DAY_US
    decision_id = story.decide("acted", intents=[intent()], outcome_by=from_us(by_us), **OUTCOME)
    story.happens(visited(1, story.now_us + 5))
    assert commands.observe_outcomes(story.state, by_us) == ()
    assert commands.observe_outcomes(story.state, by_us + 1) == (d.OutcomeObserved(decision_id=decision_id, outcome="none"),)


def test_a_decision_vanishes_when_its_effects_are_settled_and_its_outcome_is_known(story: Story) -> None:
    decision_id = story.decide("acted", intents=[intent()], outcome_by=from_us(story.now_us + DAY_US), **OUTCOME)
    story.start(decision_id)
    story.succeed(decision_id)
    assert decision_id in story.state.decisions
    story.happens(paid(1, story.now_us + 1))
    story.happens(paid(2, story.now_us + 2))
    (outcome,) = commands.observe_outcomes(story.state, story.now_us)
    assert isinstance(outcome, d.OutcomeObserved)
    assert outcome.fact_event == derive_id("stripe", "paid-1")  # the first one
    story.tell((outcome,))
    assert story.state.decisions == {}


def test_what_waits_for_a_person_has_no_outcome_yet(story: Story) -> None:
    story.decide("awaiting", intents=[intent()], outcome_by=from_us(story.now_us + DAY_US), **OUTCOME)
    assert commands.observe_outcomes(story.state, story.now_us + 9 * DAY_US) == ()


# ---------------------------------------------------------------- risk cases


def test_a_customer_has_one_open_risk_case_at_a_time(story: Story) -> None:
    story.tell(commands.open_case(story.state, "payment failed", UUID(int=1)))
    (case,) = story.state.cases.values()
    assert (case.stage, case.reason) == ("at-risk", "payment failed")
    assert commands.open_case(story.state, "usage fell", UUID(int=2)) == ()
    story.tell((RiskCaseMoved(case_id=case.case_id, stage="saving", reason="plan agreed"),))
    (moved,) = story.state.cases.values()
    assert moved.stage == "saving"
    assert moved.opened_at_us == case.opened_at_us < moved.stage_since_us
    story.tell(commands.close_case(story.state, case.case_id, "recovered", "paid"))
    assert story.state.cases == {}
    assert commands.close_case(story.state, case.case_id, "recovered", "paid") == ()
    assert len(commands.open_case(story.state, "usage fell", UUID(int=2))) == 1


def test_a_case_is_closed_as_one_of_two_results_and_never_as_a_guess(story: Story) -> None:
    story.tell(commands.open_case(story.state, "payment failed", UUID(int=1)))
    (case_id,) = story.state.cases
    with pytest.raises(InvalidInput) as caught:
        commands.close_case(story.state, case_id, "recoverd", "typo")  # type: ignore[arg-type]
    assert caught.value.field == "result"


# ---------------------------------------------------------------- identity


def alias(name: str) -> StreamId:
    return StreamId("acme", ALIASES, name)


def two() -> tuple[Story, Story]:
    return Story(customer_stream("acme", "a")), Story(customer_stream("acme", "b"))


def merge(survivor: Story, other: Story) -> None:
    ours, theirs = commands.merge(survivor.state, other.state, "same company")
    survivor.tell(ours)
    other.tell(theirs)


def split(survivor: Story, other: Story) -> None:
    ours, theirs = commands.split(survivor.state, other.state, "a mistake")
    survivor.tell(ours)
    other.tell(theirs)


def test_joining_an_alias_twice_joins_it_once(story: Story) -> None:
    story.tell(commands.join_alias(story.state, "x"))
    assert story.state.fact_streams == (story.state.stream, alias("x"))
    assert commands.join_alias(story.state, "x") == ()
    story.tell((StreamJoined(category=ALIASES, id="x", why="link"),))
    assert story.state.joined == (alias("x"),)


def test_a_split_gives_both_back_the_streams_they_had_before_the_merge() -> None:
    a, b = two()
    a.tell(commands.join_alias(a.state, "x"))
    b.tell(commands.join_alias(b.state, "y"))
    before = a.state.fact_streams, b.state.fact_streams
    merge(a, b)
    assert set(a.state.fact_streams) == {*before[0], *before[1]}
    assert b.state.merged_into == "a"
    assert commands.merge(a.state, b.state, "again") == ((), ())
    split(a, b)
    assert (a.state.fact_streams, b.state.fact_streams) == before
    assert b.state.merged_into is None
    assert commands.split(a.state, b.state, "again") == ((), ())
    merge(a, b)
    assert b.state.merged_into == "a"


def test_nobody_is_merged_into_itself_or_while_merged_elsewhere() -> None:
    a, b = two()
    c = Story(customer_stream("acme", "c"))
    with pytest.raises(IdentityConflict, match="itself"):
        commands.merge(a.state, a.state, "?")
    merge(a, b)
    for survivor, other in ((c, b), (b, c)):
        with pytest.raises(IdentityConflict, match="already"):
            commands.merge(survivor.state, other.state, "?")
    with pytest.raises(IdentityConflict, match="not merged with each other"):
        commands.split(c.state, b.state, "?")
    assert commands.split(b.state, a.state, "?") == ((), ())


def test_merges_of_merges_are_undone_from_the_outside_in() -> None:
    a, b = two()
    c = Story(customer_stream("acme", "c"))
    merge(a, b)
    merge(c, a)
    assert set(c.state.fact_streams) == {s.state.stream for s in (a, b, c)}
    with pytest.raises(IdentityConflict, match="split that one first"):  # else b's facts would count for c and for b
        commands.split(a.state, b.state, "?")
    split(c, a)
    split(a, b)
    assert [s.state.fact_streams for s in (a, b, c)] == [(s.state.stream,) for s in (a, b, c)]


def test_a_customer_without_history_is_empty() -> None:
    state = CustomerAggregate(stream=customer_stream("acme", "new"))
    assert (state.ref, state.version, state.position, state.facts, state.pending) == ("new", 0, 0, {}, {})
    assert commands.effects_due(state, 0) == commands.observe_outcomes(state, 0) == commands.lapse_expired(state, 0) == ()
    assert APPROVAL["approver"] != AGENT
