"""Rows that hand over: what is refused when it is loaded, what a person reads, what counts as widening."""

from __future__ import annotations

from typing import Any

import pytest

from postsale.agents import Policy
from postsale.agents.widening import widenings
from postsale.errors import PolicyInvalid
from tests.agents.planned import OTHERWISE, PLANNED, policy
from tests.agents.world import DUNNING

CALL_ROW = '[[option]]\nid = "call"\naction = "task"'


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ((('action = "plan"', 'action = "look"'),), "rule 'judge', action"),
        ((('action = "none"\nbecause = "Small', 'action = "plan"\nbecause = "Small'),), "rule 'small', plan"),
        ((('because = "{failed_payments} failed."', 'because = "x"\ntool = "crm.create_task@1"'),), "rule 'judge', tool"),
        ((('because = "{failed_payments} failed."', 'because = "x"\nrisk_case = true'),), "rule 'judge', risk_case"),
        ((('"vip-gift"]', '"vip-gift", "more"]'),), "rule 'judge', plan.options"),
        ((('"call", "wait"', '"wait"'),), "option 'call'"),
        ((('note = "$plan.note"', 'note = "x"'),), "rule 'judge', plan.slots.note"),
        ((('options = ["credit", "call", "wait", "vip-gift"]', 'options = ["credit", "call", "vip-gift"]'),), "option 'wait'"),
        ((('id = "wait"', 'id = "small"'), ('"wait", ', '"small", ')), "option 'small'"),
        ((('id = "wait"', 'id = "call"'), ('"wait", ', "")), "option 'call'"),
        (((CALL_ROW, CALL_ROW.replace('"task"', '"plan"')),), "option 'call', action"),
        ((('customer = "$customer", title = "Call"', 'customer = "$plan.note", title = "Call"'),), "option 'call', arguments.customer"),
        ((('"$plan.note"', '"$plan.other"'),), "rule 'judge', plan.slots"),
        ((('note = { type = "text", max_chars = 200 }\n', ""),), "rule 'judge', plan.slots"),
        ((('min = 0, max = 500', 'min = -1, max = 500'),), "rule 'judge', plan.slots.amount"),
        ((('authority_limit_minor = 300', 'authority_limit_minor = 300\napproval = "none"'),), "rule 'judge', plan.slots.amount"),
        ((('evidence = ["failed_payments", "segment"]', 'evidence = ["plan"]'),), "rule 'judge', plan.evidence"),
        ((('attempts = 2', 'attempts = 2\notherwise = "wait"'),), "rule 'judge', plan.otherwise"),
        ((('attempts = 2', 'attempts = 2\notherwise = "call"'),), "rule 'judge', plan.otherwise"),
        ((('description = "Look at each account one by one."', 'description = "x"\nhit = "collect"'),), "rule 'judge', plan"),
        ((('when = { segment = "vip" }', 'when = { nothing = "vip" }'),), "option 'vip-gift', when.nothing"),
    ],
)  # fmt: skip
def test_a_policy_that_hands_over_wrongly_is_refused_and_the_place_is_named(changes: Any, where: str) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        policy(*changes)
    assert refused.value.where == where


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("max_age_days = 31", "max_age_days = 29", "below window_days"),
        ("most = 3", 'most = 3\npersonal = ["crm/account-profiled.name"]', "not among the facts"),
        ("max_chars = 200", "min = 1", "a text has max_chars or one_of"),
        ("min = 0, max = 500", "min = 5, max = 1", "min is above max"),
        ("min = 0, max = 500", "min = 0", "integer has max and min"),
        ('prompt = "retention@3"', 'prompt = "retention"', "pattern"),
        ('"credit", "call", "wait"', '"credit", "credit", "call", "wait"', "the same name twice"),
    ],
)
def test_bounds_that_bound_nothing_are_refused(old: str, new: str, reason: str) -> None:
    with pytest.raises(PolicyInvalid, match=reason):
        policy((old, new))


def test_a_policy_from_before_there_were_planners_keeps_its_digest_and_may_have_an_action_named_plan() -> None:
    base = Policy.from_toml(DUNNING)
    assert '"plan"' not in base.content
    assert '"option' not in base.content
    older = Policy.from_json(base.content.replace('"action":"task"', '"action":"plan"'))
    assert older.rules[2].plan is None


def test_content_and_digest_make_a_round_trip() -> None:
    for one in (policy(), policy(*OTHERWISE)):
        assert Policy.from_json(one.content) == one
    assert policy().tools == ("billing.offer_credit@1", "crm.create_task@1")
    assert policy().channels == ("email",)


def test_a_person_reads_who_plans_with_what_and_what_may_be_chosen() -> None:
    text = policy(*OTHERWISE).table()
    said = " ".join(text.split())
    assert "retention plans with" in said
    assert "What a planner may choose" in text
    for option in ("credit", "call", "wait", "vip-gift", "human"):
        assert f"\n  {option} " in text
    assert [c.where for c in policy().changes(policy((CALL_ROW, CALL_ROW + '\nrisk = "high"')))] == ["option 'call'"]


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('prompt = "retention@3"', 'prompt = "retention@4"', "rule 'judge'"),
        ('planner = "retention"', 'planner = "bigger"', "rule 'judge'"),
        ("max = 500", "max = 501", "rule 'judge'"),
        ("max_chars = 200", "max_chars = 201", "rule 'judge'"),
        ("window_days = 30", "window_days = 31", "rule 'judge'"),
        ("max_answer_chars = 600", "max_answer_chars = 601", "rule 'judge'"),
        ('["priority", "subject"]', '["priority", "subject", "ticket_id"]', "rule 'judge'"),
        ("most = 3", 'most = 3\npersonal = ["ticketing/ticket-opened.subject"]', "rule 'judge'"),
        ('evidence = ["failed_payments", "segment"]', 'evidence = ["failed_payments", "segment", "seats"]', "rule 'judge'"),
        ("authority_limit_minor = 300", "authority_limit_minor = 301", "option 'credit'"),
        ('title = "Call"', 'title = "$plan.note"', "option 'call'"),
        ('when = { segment = "vip" }', 'when = { segment = "in [vip, mid]" }', "option 'vip-gift'"),
        ('when = { segment = "smb" }', 'when = { segment = "nobody" }', "rule 'judge'"),
    ],
)
def test_whatever_lets_a_planner_see_choose_or_fill_in_more_widens_the_policy(old: str, new: str, where: str) -> None:
    more = policy((old, new), ("version = 1", "version = 2"))
    assert [w.where for w in widenings(policy(), more)] == [where]
    if not any(other in old for other in ("prompt", "planner", "title", "smb")):  # those are other, and not more
        assert widenings(more, policy()) == ()


def test_another_option_widens_and_one_less_does_not() -> None:
    assert {w.where for w in widenings(policy(), policy(*OTHERWISE))} == {"rule 'judge'", "option 'human'"}
    assert widenings(policy(*OTHERWISE), policy()) == ()
    rules_only = PLANNED.replace('action = "plan"', 'action = "none"').split("[rule.plan]")[0] + PLANNED[PLANNED.index("[guardrails]") :]
    assert widenings(policy(), Policy.from_toml(rules_only)) == ()
    assert {w.where for w in widenings(Policy.from_toml(rules_only), policy())} == {
        "rule 'judge'",
        "option 'credit'",
        "option 'call'",
        "option 'vip-gift'",
    }
