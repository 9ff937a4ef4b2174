"""One customer, one conversation: who speaks, who waits, what ends it, and how often all agents together make contact."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from postsale.agents import Agent, Policy, control
from postsale.agents.conversation import conversations
from postsale.agents.policy_text import table
from postsale.agents.rederive import rederive
from postsale.agents.widening import widenings
from postsale.aggregates.conversations import ContactLimit, ConversationEnded
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import DecisionRecorded, OutcomeObserved
from postsale.aggregates.signals import AccountChurned
from postsale.aggregates.state_json import from_json, to_json
from postsale.audit.dispositions import check_dispositions
from postsale.errors import ApprovalRefused, InvalidInput, NotAllowed, PolicyInvalid
from postsale.projections.journal import read_journal
from tests.agents.world import ANNA, BEN, NOVEMBER, World, calls

TABLE = """
name = "{name}"
version = 1
owner = "cs"
description = "Writes when a payment fails."
[inputs]
failed_payments = "integer"
days_since_last_usage = "integer"
segment = "text"
[[trigger]]
id = "failing"
when = {{ failed_payments = ">= 1" }}
[[rule]]
id = "offer"
when = {{ segment = "vip" }}
action = "offer"
tool = "billing.offer_credit@1"
channel = "email"
offer = {{ kind = "credit", amount_minor = 500, currency = "EUR", terms = "Thanks." }}
authority_limit_minor = 100
arguments = {{ customer = "$customer", amount_minor = "$offer.amount_minor", currency = "EUR", terms = "$offer.terms" }}
because = "Because."
[[rule]]
id = "leave"
when = {{ segment = "quiet" }}
action = "none"
because = "Not now."
[[rule]]
id = "mail"
action = "email"
tool = "email.send@1"
channel = "email"
arguments = {{ customer = "$customer", template = "t" }}
approval = "none"
because = "Because."
[guardrails]
purpose = "service"
[[budget]]
name = "{name}"
unit = "EUR"
limit = 10000
per = "month"
[outcome]
on = ["billing/invoice-paid"]
within_days = 14
"""
TALK = """
[conversation]
priority = {priority}
[[conversation.stop]]
id = "lost"
when = {{ segment = "lost" }}
"""


def policy(name: str, priority: int | None) -> Policy:
    return Policy.from_toml(TABLE.format(name=name) + ("" if priority is None else TALK.format(priority=priority)))


def world(*order: tuple[str, int | None]) -> World:
    w = World([Agent(policy(name, priority)) for name, priority in order])
    for name, _ in order:
        w.mode("act", name)
    w.consent()
    return w


def ask(w: World, agent: str) -> DecisionRecorded:
    """The decision of an agent that a person asks now."""
    trigger = w.engine.ask(w.stream(), agent, "look", person=ANNA, reason="test")
    w.attend()
    return next(d for d in w.decisions() if d.trigger_id == trigger)


def found(w: World) -> dict[str, tuple[str, str | None]]:
    return {d.agent: (d.disposition, d.suppressed_by) for d in w.decisions()}


def now_of(w: World) -> list[tuple[str, str, str | None, str | None]]:
    return [(e.agent, e.disposition, e.suppressed_by, e.outcome) for e in read_journal(w.store, w.tenant)]


def ends(w: World) -> list[tuple[str, str]]:
    return [(e.data.why, e.data.detail) for e in w.events() if isinstance(e.data, ConversationEnded)]


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_of_two_triggers_at_once_the_agent_of_higher_priority_speaks_in_whatever_order_they_were_raised(order: tuple[str, str]) -> None:
    priority = {"first": 1, "second": 2}
    w = world(*((name, priority[name]) for name in order))
    w.attend(w.failed())
    assert found(w) == {"first": ("acted", None), "second": ("suppressed", "conversation:first")}
    assert len(calls(w)) == 1
    assert w.decisions()[0].agent == "first"


def test_of_two_of_equal_priority_whoever_speaks_first_goes_on_speaking() -> None:
    w = world(("one", 5), ("two", 5))
    assert ask(w, "two").disposition == "acted"
    assert ask(w, "one").suppressed_by == "conversation:two"
    assert ask(w, "two").disposition == "acted"  # its own conversation


def test_an_agent_that_has_nothing_to_say_keeps_nobody_waiting() -> None:
    w = world(("first", 1), ("second", 2))
    w.profile(segment="quiet")
    w.attend(w.failed())
    assert found(w)["second"] == ("suppressed", "policy:leave")
    w.profile(segment="smb")
    assert ask(w, "second").disposition == "acted"


def test_an_agent_of_higher_priority_takes_over_and_what_has_not_left_is_cancelled() -> None:
    w = world(("first", 1), ("second", 2))
    w.profile(segment="vip")
    assert ask(w, "second").disposition == "awaiting"
    assert w.engine.desk.budget("acme", "second").left(10_000, NOVEMBER) == 9_500
    w.profile(segment="smb")
    assert ask(w, "first").disposition == "acted"
    assert ends(w) == [("taken-over", "first")]
    assert now_of(w) == [("second", "suppressed", "conversation:taken-over", None), ("first", "acted", None, None)]
    assert w.engine.desk.budget("acme", "second").left(10_000, NOVEMBER) == 10_000
    assert [t.channel for t in w.customer().touches] == ["email"]  # the promised one is none any more
    with pytest.raises(ApprovalRefused):
        w.engine.approvals.approve("acme", read_journal(w.store, w.tenant)[0].id, BEN)


def test_a_conversation_that_was_taken_over_after_its_effect_has_no_success_and_is_over() -> None:
    w = world(("first", 1), ("second", 2))
    ask(w, "second")
    ask(w, "first")
    assert now_of(w) == [("second", "acted", None, "none"), ("first", "acted", None, None)]
    assert [o.agent for o in conversations(w.customer(), w.clock.now_us())] == ["first"]


def test_a_conversation_ends_with_its_goal_with_its_time_and_with_a_no() -> None:
    for end in ("goal", "time", "no"):
        w = world(("first", 1), ("second", 2))
        w.profile(segment="vip" if end == "no" else "smb")
        ask(w, "first")
        assert ask(w, "second").suppressed_by == "conversation:first"
        match end:
            case "goal":
                w.wait(hours=1)
                w.attend(w.paid())
            case "time":
                w.wait(days=14)
                assert ask(w, "second").suppressed_by == "conversation:first"  # to the last day, inclusive
                w.wait(seconds=1)
            case "no":
                w.engine.approvals.reject("acme", read_journal(w.store, w.tenant)[0].id, BEN, reason="no")
                w.wait(seconds=1)
        assert ask(w, "second").suppressed_by is None, end


def test_a_goal_that_is_reached_before_the_effect_leaves_cancels_it_and_closes_the_proposal() -> None:
    w = world(("first", 1))
    w.profile(segment="vip")
    ask(w, "first")
    w.wait(hours=1)
    w.attend(w.paid())
    assert ends(w) == [("goal", "goal")]
    assert now_of(w) == [("first", "suppressed", "conversation:goal", None)]
    assert calls(w) == []


def test_a_stop_condition_ends_a_conversation_and_frees_the_customer_in_the_same_visit() -> None:
    w = world(("first", 1), ("second", 2))
    w.profile(segment="vip")
    ask(w, "first")
    w.engine.ask(w.stream(), "second", "look", person=ANNA, reason="test")
    w.attend(w.profile(segment="lost"))
    assert ends(w) == [("stopped", "lost")]
    assert now_of(w)[0] == ("first", "suppressed", "conversation:stopped", None)
    assert found(w)["second"] == ("acted", None)


def test_a_withdrawn_consent_ends_a_conversation_and_its_outcome_is_recorded() -> None:
    w = world(("first", 1))
    ask(w, "first")
    assert w.decisions()[0].disposition == "acted"
    w.consent(given=False)
    w.attend()
    assert ends(w) == [("unsubscribed", "unsubscribed")]
    assert now_of(w) == [("first", "acted", None, "none")]
    w.attend()
    assert len(ends(w)) == 1
    assert sum(isinstance(e.data, OutcomeObserved) for e in w.events()) == 1


def test_a_policy_without_a_priority_takes_no_part_but_its_contacts_count() -> None:
    w = world(("first", 1), ("own", None))
    control.set_contact_budget(w.engine.desk, "acme", "email", ContactLimit(1, 30), person=ANNA, reason="few")
    assert ask(w, "own").disposition == "acted"
    assert ask(w, "first").suppressed_by == "contact-budget:email/1/30d"
    assert not any(v.guardrail in {"conversation", "contact-budget"} for v in w.decisions()[0].verdicts)


def test_the_budget_of_contacts_is_shared_by_all_agents_counts_to_its_last_day_and_is_four_in_thirty_days_when_nobody_says() -> None:
    w = world(("first", 1), ("second", 2))
    for n in range(4):
        agent = ("second", "first")[n % 2]
        assert ask(w, agent).disposition == "acted"
        w.wait(hours=1)
        w.attend(w.paid())
    assert ask(w, "first").suppressed_by == "contact-budget:email/4/30d"
    w.wait(days=30, hours=-4)
    assert ask(w, "second").suppressed_by == "contact-budget:email/4/30d"
    w.wait(seconds=1)
    assert ask(w, "second").disposition == "acted"


def test_the_budget_of_contacts_is_said_once_for_a_tenant_by_a_person_with_a_reason() -> None:
    w = world(("first", 1))
    desk = w.engine.desk
    say: dict[str, Any] = {"person": ANNA, "reason": "spring"}
    assert control.set_contact_budget(desk, "acme", "email", ContactLimit(2, 7), **say)
    assert not control.set_contact_budget(desk, "acme", "email", ContactLimit(2, 7), **say)
    assert control.set_contact_budget(desk, "acme", "sms", ContactLimit(0, 30), **say)
    assert desk.contact_limits("acme")[0] == {"email": (2, 7), "sms": (0, 30)}
    assert World(store=w.store, vault=w.log.vault).engine.desk.contact_limits("acme")[0] == {"email": (2, 7), "sms": (0, 30)}
    assert desk.contact_limits("other")[0] == {}
    with pytest.raises(InvalidInput):
        control.set_contact_budget(desk, "acme", "email", ContactLimit(51, 7), **say)
    with pytest.raises(InvalidInput):
        control.set_contact_budget(desk, "acme", "email", ContactLimit(3, 7), person=ANNA, reason=" ")
    with pytest.raises(NotAllowed):
        control.set_contact_budget(desk, "acme", "email", ContactLimit(3, 7), person=None, reason="x")  # type: ignore[arg-type]


def test_who_waited_for_whom_is_recorded_and_every_decision_is_made_again_from_its_record() -> None:
    w = world(("first", 1), ("second", 2))
    w.attend(w.failed())
    ask(w, "second")
    policies = {a.policy.digest: a.policy for a in w.engine.agents.values()}
    second = w.decisions()[1]
    assert second.context["conversation_with"] == "first"
    assert {k: v for k, v in second.context.items() if k.startswith("contact_") or k == "priority"} == {
        "priority": 2,
        "contact_limit.email": 4,
        "contact_days.email": 30,
    }
    for r in w.events():
        if isinstance(r.data, DecisionRecorded):
            arguments = r.data.arguments if isinstance(r.data.arguments, str) else None
            assert rederive(r.data, arguments, policies[r.data.policy], w.engine.desk.mac("acme")).difference is None
    assert check_dispositions(w.store).ok


def test_a_customers_open_conversation_survives_being_written_down() -> None:
    w = world(("first", 1))
    ask(w, "first")
    c = w.customer()
    again = from_json(CustomerAggregate, to_json(c))
    assert conversations(again, w.clock.now_us()) == conversations(c, w.clock.now_us()) != []
    assert pickle.loads(pickle.dumps(c.decisions)) == c.decisions


def test_a_policy_with_a_conversation_needs_an_end_to_it_and_stops_that_can_be_read() -> None:
    good = TABLE.format(name="p") + TALK.format(priority=3)
    assert "priority 3: one conversation" in table(Policy.from_toml(good))
    assert "a conversation ends, lost: segment" in table(Policy.from_toml(good))
    for bad, where in (
        (good.replace('[outcome]\non = ["billing/invoice-paid"]\nwithin_days = 14', ""), "conversation"),
        (good.replace('when = { segment = "lost" }', "when = {}"), "stop 'lost', when"),
        (good.replace('{ segment = "lost" }', '{ nobody = "lost" }'), "stop 'lost', when.nobody"),
        (good + '\n[[conversation.stop]]\nid = "lost"\nwhen = { segment = "x" }', "stop 'lost'"),
    ):
        with pytest.raises(PolicyInvalid) as refused:
            Policy.from_toml(bad)
        assert refused.value.where == where


def test_a_higher_place_fewer_stops_and_leaving_the_others_behind_widen_a_policy() -> None:
    def places(old: Policy, new: Policy) -> list[str]:
        return [w.where for w in widenings(old, new)]

    with_, without = policy("p", 3), policy("p", None)
    assert places(with_, policy("p", 2)) == ["conversation.priority"]
    assert places(with_, policy("p", 4)) == []
    assert places(with_, without) == ["conversation"]
    assert places(without, with_) == []
    no_stop = Policy.from_toml(TABLE.format(name="p") + "[conversation]\npriority = 3\n")
    assert places(with_, no_stop) == ["conversation.stop 'lost'"]


def test_a_lost_account_is_a_fact_that_a_stop_may_name_through_its_evidence() -> None:
    w = world(("first", 1))
    ask(w, "first")
    w.attend(w.says(AccountChurned))
    assert ends(w) == []  # only what the policy names ends it
