"""Sequence rules: what a customer's past forbids, the same live, over history, and again from the record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.agents import Agent, Policy
from postsale.agents.guardrails import Past, look_back
from postsale.agents.policy_sections import SequenceRule
from postsale.agents.rederive import rederive
from postsale.aggregates.customer import MAX_RECENT
from postsale.aggregates.signals import SurveyAnswered, TicketEscalated, TicketSolved
from postsale.errors import PolicyInvalid
from postsale.events import DAY_US, StoredEvent
from postsale.store import Query
from tests.agents.world import ANNA, BEN, DUNNING, World

COMPLAINT, SOLVED, ANSWER = "ticketing/ticket-escalated", "ticketing/ticket-solved", "survey/answered"
COMMAND, CONSENT, TRIGGER = "customer/command-issued", "consent/given", "agent/trigger-raised"
RULE = """
[[guardrails.sequence]]
id = "after-complaint"
kinds = ["ticketing/ticket-escalated"]
within_days = 30
"""


def policy(rule: str = "", **changes: str) -> str:
    return DUNNING.replace("[guardrails.quiet_hours]", RULE + rule + "\n[guardrails.quiet_hours]")


# ---------------------------------------------------------------- the naive evaluator


def naive(rule: SequenceRule, past: Sequence[StoredEvent], now_us: int) -> bool:
    """The sentence, read event by event over the whole past: whether the rule forbids at `now_us`."""
    unless = {k for k in rule.unless if k != "person"} | ({"approval/granted", COMMAND} if "person" in rule.unless else set())
    counted: list[StoredEvent] = []
    for event in past:
        if event.kind not in rule.kinds or event.occurred_at_us < now_us - rule.within_days * DAY_US:
            continue
        if any(e.kind in rule.since and e.occurred_at_us >= event.occurred_at_us for e in past):
            continue
        counted.append(event)
    if len(counted) < rule.count:
        return False
    newest = max(e.occurred_at_us for e in counted)
    return not any(e.kind in unless and e.occurred_at_us >= newest for e in past)


kinds = st.sampled_from([COMPLAINT, SOLVED, ANSWER, COMMAND, CONSENT])
rules = st.builds(
    SequenceRule,
    id=st.just("r"),
    kinds=st.lists(kinds, min_size=1, max_size=2).map(tuple),
    within_days=st.integers(1, 12),
    count=st.integers(1, 3),
    since=st.lists(kinds, max_size=1).map(tuple),
    unless=st.lists(kinds | st.just("person"), max_size=1).map(tuple),
)
steps = st.lists(
    st.tuples(st.sampled_from(["complaint", "solved", "answer", "command", "consent", "wait"]), st.integers(0, 9)), min_size=1, max_size=14
)


def live(w: World, story: Sequence[tuple[str, int]]) -> None:
    """Facts may say that they occurred days ago; what people do happens now."""
    told = {"complaint": (TicketEscalated, {"ticket_id": "t"}), "solved": (TicketSolved, {"ticket_id": "t"})}
    given_already = False
    for what, days in story:
        match what:
            case "wait":
                w.wait(days=days)
            case "command":
                w.engine.ask(w.stream(), "dunning", "look", person=ANNA, reason="because")
                w.wait(seconds=1)
            case "consent":
                w.consent(given=not given_already)
                given_already = not given_already
            case "answer":
                w.says(SurveyAnswered, at=w.now() - timedelta(days=days), survey="nps", score=3)
            case _:
                cls, fields = told[what]
                w.says(cls, at=w.now() - timedelta(days=days), **fields)


@given(story=steps, asked=st.lists(rules, min_size=1, max_size=4))
def test_at_every_point_of_every_past_the_bounded_state_says_what_the_whole_past_says(
    story: list[tuple[str, int]], asked: list[SequenceRule]
) -> None:
    w = World()
    live(w, story)
    past = list(w.store.read(Query(tenant="acme", streams=(w.stream(),))))
    for upto in range(len(past) + 1):
        known_us = past[upto - 1].recorded_at_us if upto else 0
        customer = w.log.customer(w.stream(), known_at_us=known_us)
        for rule in asked:
            for now_us in (known_us, w.clock.now_us()):
                found = look_back(rule, customer, now_us)
                assert (found.events >= rule.count and not found.lifted) is naive(rule, past[:upto], now_us), (rule, upto)


@given(story=steps, rule=rules)
def test_a_decision_is_suppressed_exactly_when_the_whole_past_forbids_it_and_is_made_again_offline(
    story: list[tuple[str, int]], rule: SequenceRule
) -> None:
    base = Policy.from_toml(DUNNING)
    limited = base.model_copy(update={"guardrails": base.guardrails.model_copy(update={"sequence": (rule,)})})
    limited = Policy.from_json(limited.content)
    w = World([Agent(limited)])
    w.mode("act")
    live(w, story)
    w.profile(segment="other")
    past = list(w.store.read(Query(tenant="acme", streams=(w.stream(),))))
    before = set(w.customer().pending)
    w.attend(w.failed(attempt=2))
    event = next(e for e in w.decisions() if e.trigger_id not in before)
    # What a command asked for is decided in the same visit; commands count as they lie in the log, decisions do not.
    forbidden = naive(rule, past, w.clock.now_us())
    assert (event.rule, event.suppressed_by) == ("task", "sequence:r" if forbidden else None)
    assert rederive(event, event.arguments, limited, w.engine.desk.mac("acme")).difference is None
    assert event.context["past.r"] == look_back(rule, w.customer(), w.clock.now_us()).events


def test_a_rule_over_many_events_needs_no_more_than_the_newest() -> None:
    w = World()
    rule = SequenceRule(id="r", kinds=(COMPLAINT,), within_days=1, count=MAX_RECENT)
    minutes = [n if n % 2 else 3 * MAX_RECENT - n for n in range(3 * MAX_RECENT)]
    for ago in minutes:
        w.says(TicketEscalated, ticket_id="t", at=w.now() - timedelta(minutes=ago))
    assert look_back(rule, w.customer(), w.clock.now_us()) == Past(MAX_RECENT, False)
    newest = sorted(minutes)[:MAX_RECENT]
    assert w.customer().recent[COMPLAINT] == tuple(w.clock.now_us() - 60_000_000 * ago for ago in reversed(newest))


def decided(w: World) -> tuple[str, str | None]:
    w.mode("act")
    w.vip(mrr_minor=900)
    w.attend(w.failed())
    event = w.decisions()[-1]
    return event.disposition, event.suppressed_by


def test_no_offer_within_thirty_days_of_a_complaint() -> None:
    w = World([Agent(Policy.from_toml(policy()))])
    w.says(TicketEscalated, ticket_id="t")
    w.wait(days=30)
    assert decided(w) == ("suppressed", "sequence:after-complaint")
    w = World([Agent(Policy.from_toml(policy()))])
    w.says(TicketEscalated, ticket_id="t")
    w.wait(days=30, seconds=1)
    assert decided(w) == ("acted", None)


def test_unless_a_person_decided_means_that_a_person_is_asked_and_their_yes_lets_it_leave() -> None:
    text = policy('then = "ask"\nactions = ["offer"]\nunless = ["person"]')
    w = World([Agent(Policy.from_toml(text))])
    w.says(TicketEscalated, ticket_id="t")
    assert decided(w) == ("awaiting", None)
    event = w.decisions()[0]
    assert "a person decides" in next(v.reason for v in event.verdicts if v.guardrail == "sequence")
    from postsale.agents.decide import decision_id

    w.engine.approvals.approve("acme", decision_id(event.trigger_id), BEN)
    w.attend()
    assert [c.tool for c in w.toolbox.ledger.calls] == ["billing.offer_credit@1"]
    w.attend(w.paid())
    w.wait(days=1)
    w.attend(w.failed())  # a person has said yes since the complaint
    assert [e.disposition for e in w.decisions()] == ["awaiting", "acted"]


def test_a_rule_for_other_actions_does_not_stop_this_one() -> None:
    w = World([Agent(Policy.from_toml(policy('actions = ["email", "task"]')))])
    w.says(TicketEscalated, ticket_id="t")
    assert decided(w) == ("acted", None)


def test_a_fact_that_is_known_late_counts_by_when_it_occurred() -> None:
    w = World([Agent(Policy.from_toml(policy()))])
    w.says(TicketEscalated, ticket_id="t", at=w.now() - timedelta(days=29))
    assert decided(w) == ("suppressed", "sequence:after-complaint")
    w = World([Agent(Policy.from_toml(policy()))])
    w.says(TicketEscalated, ticket_id="t", at=w.now() - timedelta(days=31))
    assert decided(w) == ("acted", None)


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ('actions = ["upsell"]', "guardrails.sequence 'after-complaint', actions"),
        (RULE, "guardrails.sequence 'after-complaint'"),
        ("count = 17", "guardrails.sequence.0.count"),
        ('unless = ["nobody"]', "guardrails.sequence.0.unless.0"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_by_its_place(rule: str, where: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        Policy.from_toml(policy(rule))
    assert caught.value.where.startswith(where)


def test_the_rules_are_printed_in_words() -> None:
    text = str(Policy.from_toml(policy('actions = ["offer"]\nunless = ["person"]')))
    assert "after-complaint: no offer within 30 days of ticketing/ticket-escalated, unless person after it" in text
