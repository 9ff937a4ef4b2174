"""Widening: a policy that lets an agent do more is shown with an example, and one that does not is not accused without bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.agents import Agent, Policy
from postsale.agents.control import activate_policy
from postsale.agents.policy import NO_ACTION
from postsale.agents.widening import widenings
from postsale.errors import PolicyWidens
from tests.agents.test_hit_policies import table
from tests.agents.test_sequences import RULE
from tests.agents.world import ANNA, DUNNING, World

LIMITED = DUNNING.replace("[guardrails.quiet_hours]", RULE + '\nactions = ["offer", "email"]\ncount = 2\n[guardrails.quiet_hours]')


def said(old: str, new: str) -> list[str]:
    return [w.where for w in widenings(Policy.from_toml(old), Policy.from_toml(new))]


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("version = 1", "version = 2", []),
        ('template = "dunning"', 'template = "softer"', []),
        ('because = "Once is no pattern."', 'because = "Not yet."', []),
        ("authority_limit_minor = 1000", "authority_limit_minor = 900", []),
        ("authority_limit_minor = 1000", "authority_limit_minor = 1001", ["rule 'credit'"]),
        ("count = 2\n", "count = 1\n", []),
        ("count = 2\n", "count = 3\n", ["guardrails.frequency"]),
        ("days = 30\n", "days = 31\n", []),
        ("days = 30\n", "days = 29\n", ["guardrails.frequency"]),
        ('start = "20:00"', 'start = "19:00"', []),
        ('start = "20:00"', 'start = "21:00"', ["guardrails.quiet_hours"]),
        ('end = "08:00"', 'end = "07:59"', ["guardrails.quiet_hours"]),
        ("Europe/Berlin", "Asia/Tokyo", ["guardrails.quiet_hours"]),
        ("limit = 10000", "limit = 9999", []),
        ("limit = 10000", "limit = 10001", ["budget 'retention'"]),
        ("max_depth = 2", "max_depth = 3", ["guardrails.max_depth"]),
        ("max_depth = 2", "max_depth = 1", []),
        ('purpose = "service"', 'purpose = "marketing"', ["guardrails.purpose"]),
        ("approval_expires_h = 48", "approval_expires_h = 49", ["guardrails.approval_expires_h"]),
        ('bound_to = ["failed_payments"]', "bound_to = []", ["guardrails.bound_to"]),
        ('must_not_have_changed = ["billing/invoice-paid"]', "must_not_have_changed = []", ["guardrails.must_not_have_changed"]),
        ('segment = "smb"', 'segment = "in [smb, mid]"', ["rule 'mail'"]),
        ('when = { failed_payments = ">= 2" }', 'when = { failed_payments = ">= 3" }', []),
        ('when = { failed_payments = ">= 2" }', 'when = { failed_payments = ">= 1" }', ["rule 'task'"]),
        ('when = { failed_payments = ">= 1" }', 'when = { failed_payments = ">= 0" }', ["trigger 'failing'"]),
        ('when = { failed_payments = ">= 1" }', 'when = { failed_payments = ">= 2" }', ["trigger 'failing'"]),  # from 2 to 1 and back it asks again
        ('when = { failed_payments = ">= 1" }', 'when = { failed_payments = ">= 2" }\nuntil = { failed_payments = "< 1" }', []),
        ('when = { failed_payments = ">= 1" }', 'when = { failed_payments = ">= 2" }\nuntil = { failed_payments = "< 2" }', ["trigger 'failing'"]),
        ('channel = "email"\narguments', 'channel = "sms"\narguments', ["rule 'mail'"]),
        ('tool = "email.send@1"', 'tool = "email.send@2"', ["rule 'mail'"]),
        ('kinds = ["ticketing/ticket-escalated"]\nwithin_days = 30', 'kinds = ["ticketing/ticket-escalated"]\nwithin_days = 29', ["guardrails.sequence 'after-complaint'"]),
        ("count = 2\n[guardrails", "count = 1\n[guardrails", []),
        ("count = 2\n[guardrails", "count = 3\n[guardrails", ["guardrails.sequence 'after-complaint'"]),
        ('actions = ["offer", "email"]', 'actions = ["offer"]', ["guardrails.sequence 'after-complaint'"]),
        ('actions = ["offer", "email"]', 'actions = ["offer", "email", "task"]', []),
        ("count = 2\n[guardrails", 'count = 2\nunless = ["person"]\n[guardrails', ["guardrails.sequence 'after-complaint'"]),
        ("[outcome]", "[autonomy]\nby = 'segment'\nsegments = { vip = 'propose' }\n\n[outcome]", []),
        ("count = 2\n[guardrails", 'count = 2\nthen = "ask"\n[guardrails', ["guardrails.sequence 'after-complaint'"]),
    ],
)  # fmt: skip
def test_each_change_is_wider_or_is_not(old: str, new: str, where: list[str]) -> None:
    assert old in LIMITED
    assert said(LIMITED, LIMITED.replace(old, new, 1)) == where


def test_a_lower_floor_is_wider() -> None:
    floor = DUNNING.replace("[inputs]", '[inputs]\nwin_probability_ppm = "integer"').replace(
        "[guardrails.quiet_hours]", '[guardrails.probability]\nof = "win"\nat_least_percent = 20\n\n[guardrails.quiet_hours]'
    )
    lower, none = floor.replace("= 20", "= 19"), DUNNING
    assert (said(floor, lower), said(lower, floor), said(floor, none), said(none, floor)) == (
        ["guardrails.probability"],
        [],
        ["guardrails.probability"],
        [],
    )


BOUND = (
    DUNNING.replace(
        "[outcome]",
        """[autonomy]
by = "segment"
segments = { vip = "propose" }
otherwise = "propose"
act = { window_days = 90, decisions = 10, failed_percent = 2 }
downgrade = { window_days = 9, decisions = 5, failed_percent = 20 }

[outcome]""",
    )
    .replace("bound_to", 'appetite = { act = "low", propose = "medium" }\nbound_to')
    .replace("risk_case = true", 'risk_case = true\nrisk = "medium"')
)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('vip = "propose"', 'vip = "act"', ["autonomy.segments.vip"]),
        ('vip = "propose"', 'vip = "observe"', []),
        ('otherwise = "propose"', 'otherwise = "act"', ["autonomy"]),
        ('segments = { vip = "propose" }', 'segments = { smb = "act" }', ["autonomy.segments.smb"]),
        ("decisions = 10,", "decisions = 9,", ["autonomy.act"]),
        ("failed_percent = 2 }", "failed_percent = 1 }", []),
        ("decisions = 5,", "decisions = 6,", ["autonomy.downgrade"]),
        ('act = "low"', 'act = "medium"', ["guardrails.appetite"]),
        ('propose = "medium" }', 'propose = "low" }', []),
        ('risk = "medium"', 'risk = "low"', ["rule 'credit'"]),
        ('risk = "medium"', 'risk = "high"', []),
    ],
)
def test_more_autonomy_or_appetite_is_wider(old: str, new: str, where: list[str]) -> None:
    assert old in BOUND
    assert said(BOUND, BOUND.replace(old, new, 1)) == where


def test_a_row_that_moves_up_is_wider_only_where_another_one_decided() -> None:
    rows = ['vip|segment = "vip"|none', 'all|failed_payments = ">= 0"|email']
    (found,) = widenings(Policy.from_toml(table("first", *rows)), Policy.from_toml(table("first", *reversed(rows))))
    assert (found.where, dict(found.example or {})) == ("rule 'all'", {"failed_payments": 0, "segment": "vip"})
    assert "where nothing was done" in found.why
    assert said(table("first", *reversed(rows)), table("first", *rows)) == []


def test_a_policy_against_nothing_it_knows_is_wider() -> None:
    assert said(DUNNING, DUNNING.replace('mrr_minor = "integer"', 'mrr_minor = "integer"').replace('segment = "text"', 'segment = "integer"')
                .replace('segment = "vip"', "segment = 1").replace('segment = "smb"', "segment = 2")) == ["inputs.segment"]  # fmt: skip


cell = {"failed_payments": st.sampled_from(["1", '">= 1"', '"< 2"', '"between 1 and 2"', '"is missing"']),
        "segment": st.sampled_from(['"vip"', '"!= vip"', '"in [vip, smb]"', '"is known"'])}  # fmt: skip
conditions = st.fixed_dictionaries({}, optional=cell).map(lambda cells: ", ".join(f"{k} = {v}" for k, v in sorted(cells.items())))
rows = st.lists(st.tuples(conditions, st.sampled_from(["email", "task", "none"])), min_size=1, max_size=4, unique_by=lambda r: r[0])
hits = st.sampled_from([("first", ""), ("priority", "p"), ("collect", "")])
POINTS: list[dict[str, Any]] = [{"failed_payments": n, "segment": s} for n in (None, 0, 1, 2, 3) for s in (None, "vip", "smb", "x")]


def policy_of(drawn: list[tuple[str, str]], hit: tuple[str, str]) -> Policy:
    actions = [a for a in ("task", "email", "none") if a in {action for _, action in drawn}]
    extra = f"priorities = {actions}".replace("'", '"') if hit[1] else ""
    text = table(hit[0], *(f"r{n}|{when}|{action}" for n, (when, action) in enumerate(drawn)), extra=extra)
    return _published(text)


def _published(text: str) -> Policy:
    import tomllib

    from postsale.events import canonical

    data = tomllib.loads(text)
    cut = next((n for n, row in enumerate(data["rule"]) if not row["when"]), len(data["rule"]) - 1)
    data["rule"] = data["rule"][: cut + 1]  # a row after a catch-all is refused
    data["priorities"] = [a for a in data.get("priorities", ()) if a in {row["action"] for row in data["rule"]}] or None
    return Policy.from_json(canonical(data).decode())


def acting(policy: Policy, point: dict[str, Any]) -> set[str]:
    deciding, _ = policy.deciding([row.rule for row in policy.rows if row.matches(point)])
    return {rule.action for rule in deciding} - {NO_ACTION}


@given(a=rows, b=rows, hit_a=hits, hit_b=hits)
def test_rows_are_wider_exactly_where_some_evidence_shows_an_action_that_was_not_taken(
    a: list[tuple[str, str]], b: list[tuple[str, str]], hit_a: tuple[str, str], hit_b: tuple[str, str]
) -> None:
    old, new = policy_of(a, hit_a), policy_of(b, hit_b)
    truly = any(acting(new, p) - acting(old, p) for p in POINTS)
    found = [w for w in widenings(old, new) if w.where.startswith("rule")]
    assert bool(found) is truly
    for wider in found:
        point = {"failed_payments": None, "segment": None} | dict(wider.example or {})
        assert acting(new, point) - acting(old, point)


def test_a_policy_that_widens_is_not_activated_unless_it_says_so() -> None:
    w = World()
    w.engine.install("acme", "dunning")
    wider = Policy.from_toml(DUNNING.replace("count = 2", "count = 3"))
    with pytest.raises(PolicyWidens, match="more than 2 contacts in 30 days") as caught:
        activate_policy(w.engine.desk, "acme", wider, person=ANNA, reason="more")
    assert caught.value.widens == 1
    active = w.engine.desk.active_policy("acme", "dunning")[0]
    assert active == Policy.from_toml(DUNNING)
    assert activate_policy(w.engine.desk, "acme", wider, person=ANNA, reason="more", widens=True)
    assert activate_policy(w.engine.desk, "acme", Policy.from_toml(DUNNING), person=ANNA, reason="back")
    declared = Policy.from_toml(DUNNING.replace("count = 2", "count = 3").replace("version = 1", "version = 2\nwidens = true"))
    assert activate_policy(w.engine.desk, "acme", declared, person=ANNA, reason="more")
    assert w.engine.desk.active_policy("acme", "dunning")[0] == declared


def test_an_engine_with_a_wider_policy_in_code_decides_by_the_active_one() -> None:
    w = World()
    w.engine.install("acme", "dunning")
    wider = World([Agent(Policy.from_toml(DUNNING.replace("count = 2", "count = 3")))], store=w.store, vault=w.log.vault)
    with pytest.raises(PolicyWidens):
        wider.engine.install("acme", "dunning")
    wider.attend(wider.failed())
    assert [e.policy for e in w.decisions()] == [Policy.from_toml(DUNNING).digest]
