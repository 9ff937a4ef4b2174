"""Autonomy: how far with whom, what is too risky, and what the criteria say of an agent's past. A review promotes nobody."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postsale import PostSale
from postsale.agents import Agent, Policy
from postsale.agents.autonomy import lower, review
from postsale.agents.decide import decision_id
from postsale.agents.rederive import rederive
from postsale.agents.widening import widenings
from postsale.aggregates.artifacts import MODES, Mode, agent_stream
from postsale.errors import PolicyInvalid
from postsale.events import ManualClock
from postsale.projections.journal import read_journal
from tests.agents.world import ANNA, BEN, DUNNING, NOON, World
from tests.app.support import failed, subscribed
from tests.cli.support import run

CRITERIA = """[autonomy]
by = "segment"
segments = { vip = "propose", smb = "act" }
otherwise = "observe"
propose = { window_days = 30, decisions = 2 }
act = { window_days = 30, decisions = 3, answered = 2, approved_percent = 60, failed_percent = 0 }
downgrade = { window_days = 7, decisions = 2, rejected_percent = 50, automatic = true }

[outcome]"""
BOUND = DUNNING.replace("[outcome]", CRITERIA).replace("authority_limit_minor = 1000", "authority_limit_minor = 90000")
BOUND = BOUND.replace("count = 2\n", "count = 50\n").replace("limit = 10000\n", "limit = 10000000\n")


def world(text: str = BOUND, mode: Mode = "act") -> World:
    w = World([Agent(Policy.from_toml(text))])
    w.mode(mode)
    return w


def decided(w: World, segment: str | None, ref: str = "c1") -> Any:
    if segment is not None:
        w.profile(ref, segment=segment)
    w.subscribed(ref, 900)
    w.consent(ref)
    w.attend(w.failed(ref), ref)
    return w.decisions(ref)[-1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("segment", "most"), [("vip", "propose"), ("smb", "act"), ("mid", "observe"), (None, "observe")])
def test_the_segment_bounds_how_far_the_agent_goes_and_never_extends_it(mode: Mode, segment: str | None, most: Mode) -> None:
    w = world(mode=mode)
    event = decided(w, segment)
    may = min(mode, most, key=MODES.index)
    assert event.disposition == {"observe": "suppressed", "propose": "awaiting", "act": "acted"}[may]
    if may == "observe":
        assert event.suppressed_by == ("autonomy:observe" if mode == "observe" else f"autonomy:observe/{segment or 'unknown'}")
    policy = w.engine.desk.active_policy("acme", "dunning")[0]
    assert rederive(event, event.arguments, policy, w.engine.desk.mac("acme")).difference is None


@pytest.mark.parametrize(
    ("risk", "appetite", "disposition", "rule"),
    [
        ("low", 'act = "low"', "acted", None),
        ("medium", 'act = "low"', "awaiting", None),
        ("high", 'act = "medium", propose = "medium"', "suppressed", "appetite:medium/medium"),
        ("high", 'act = "high"', "acted", None),
    ],
)
def test_what_is_too_risky_is_proposed_and_what_is_beyond_that_is_suppressed(risk: str, appetite: str, disposition: str, rule: str) -> None:
    text = DUNNING.replace("risk_case = true", f'risk_case = true\nrisk = "{risk}"').replace(
        "bound_to", f"appetite = {{ {appetite} }}\nbound_to"
    )
    event = decided(world(text), "vip")
    assert (event.disposition, event.suppressed_by) == (disposition, rule)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('by = "segment"', 'by = "mood"', "autonomy.by"),
        ('by = "segment"\n', "", "autonomy.by"),
        ("bound_to", 'appetite = { act = "high", propose = "low" }\nbound_to', "guardrails.appetite"),
        ('smb = "act"', 'smb = "fly"', "autonomy.segments.smb"),
    ],
)
def test_a_bad_bound_is_refused_by_its_place(old: str, new: str, where: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        Policy.from_toml(BOUND.replace(old, new, 1))
    assert caught.value.where == where


def reviewed(w: World, mode: Mode = "propose") -> dict[str | None, Any]:
    policy = w.engine.agents["dunning"].policy
    return {r.segment: r for r in review(policy, "dunning", mode, read_journal(w.store, "acme"), w.clock.now_us())}


def test_a_review_says_what_is_met_and_what_is_missing_for_everybody_and_by_segment() -> None:
    w = world(mode="propose")
    ids = [decision_id(decided(w, "vip", f"c{n}").trigger_id) for n in range(3)]
    found = reviewed(w)
    assert [(c.name, c.found, c.met) for c in found[None].promotion] == [
        ("decisions", 3, True),
        ("answered", 0, False),
        ("approved_percent", None, False),
        ("failed_percent", 0, True),
    ]
    w.engine.approvals.approve("acme", ids[0], BEN)
    w.engine.approvals.approve("acme", ids[1], BEN)
    w.engine.approvals.reject("acme", ids[2], BEN, reason="no")
    found = reviewed(w)
    assert (found[None].ready, found[None].promotes_to) == (True, "act")
    assert [(r.segment, r.mode, r.promotes_to) for r in found.values()] == [(None, "propose", "act"), ("smb", "propose", "act"), ("vip", "propose", "act")]  # fmt: skip
    assert [c.name for c in found["smb"].missing] == ["decisions", "answered", "approved_percent"]
    assert found[None].reasons == ()
    w.wait(days=31)
    assert [c.found for c in reviewed(w)[None].promotion] == [0, 0, None, None]


def test_too_many_rejections_are_a_reason_to_go_back_and_few_decisions_are_none() -> None:
    w = world(mode="propose")
    one = decision_id(decided(w, "vip", "c0").trigger_id)
    w.engine.approvals.reject("acme", one, BEN, reason="no")
    assert reviewed(w)[None].reasons == ()
    decided(w, "vip", "c1")
    assert [(c.name, c.found) for c in reviewed(w)[None].reasons] == [("rejected_percent", 100)]
    assert reviewed(w, "observe")[None].reasons == ()


@given(mode=st.sampled_from(MODES))
@settings(max_examples=9)
def test_one_step_back_never_goes_forward(mode: Mode) -> None:
    assert MODES.index(lower(mode)) == max(0, MODES.index(mode) - 1)


# ---------------------------------------------------------------- applied


@pytest.fixture
def place(tmp_path: Path) -> tuple[str, ManualClock, Policy]:
    """An agent that may propose, and two of whose proposals were rejected."""
    url, clock, policy = (
        f"sqlite:///{tmp_path / 'log.db'}",
        ManualClock(NOON),
        Policy.from_toml(BOUND.replace('otherwise = "observe"', 'otherwise = "act"')),
    )
    with PostSale.open(url, clock=clock, agents=[Agent(policy)]) as ps:
        acme = ps.tenant("acme")
        acme.agent("dunning").propose(reason="test", by=ANNA)
        for n in range(2):
            acme.record(f"cus_{n}", subscribed(f"s{n}", NOON))
            acme.record(f"cus_{n}", failed(f"f{n}", NOON, attempt=2))
        ps.run_once()
        for entry in acme.approvals():
            acme.reject(entry.id, reason="no", by=BEN)
    return url, clock, policy


def test_the_next_run_takes_an_agent_one_step_back_before_it_decides_and_only_once(place: tuple[str, ManualClock, Policy]) -> None:
    url, clock, policy = place
    with PostSale.open(url, clock=clock, agents=[Agent(policy)]) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_9", failed("f9", NOON, attempt=2))
        report = ps.run_once()
        assert report.downgraded == [("acme", "dunning")]
        assert acme.agent("dunning").control.mode == "observe"
        assert [e.suppressed_by for e in acme.decisions("cus_9")] == ["autonomy:observe"]
        assert ps.run_once().downgraded == []
        (_, changed) = [e.data for e in ps.log.events(_lane("acme"))]
        assert (changed.mode, changed.owner) == ("observe", "criteria")
        assert changed.reason == "rejected_percent is 100, 50 % or more, of 2 decisions at least"


def test_a_person_takes_it_back_where_there_is_a_reason_and_not_otherwise(place: tuple[str, ManualClock, Policy]) -> None:
    url, clock, policy = place
    with PostSale.open(url, clock=clock, agents=[Agent(policy)]) as ps:
        handle = ps.tenant("acme").agent("dunning")
        assert handle.downgrade(by=ANNA).mode == "observe"
        assert [e.data.owner for e in ps.log.events(_lane("acme"))] == ["anna", "anna"]
        handle.act(reason="all is well", by=ANNA)
        clock.advance(timedelta(days=8))
        assert handle.downgrade(by=ANNA).mode == "act"


def _lane(tenant: str) -> Any:
    from postsale.store import Query

    return Query(tenant=tenant, streams=(agent_stream(tenant, "dunning"),))


def test_the_command_reviews_and_takes_back_but_never_promotes(place: tuple[str, ManualClock, Policy]) -> None:
    url, _, _ = place
    said = run("agent", "review", "dunning", "--db", url, "--json")
    # By the clock of the command the decisions are as old as they are: nothing is said outside the window.
    reviews = said.json()["reviews"]
    assert [r["segment"] for r in reviews] == [None, "smb", "vip"]
    assert reviews[0]["promotes_to"] == "act"
    assert reviews[0]["ready"] is False
    assert said.json()["mode"] == "propose"
    assert "to act" in run("agent", "review", "dunning", "--db", url).out
    assert run("agent", "review", "nobody", "--db", url).code == 2


RETIRE = BOUND.replace(
    "automatic = true }", "automatic = true }\nretire = { window_days = 30, decisions = 2, overridden_percent = 50, success_percent = 10 }"
)


def test_what_speaks_for_retiring_a_policy_is_stated_as_data_counts_its_own_decisions_and_retires_nothing_by_itself() -> None:
    w = world(RETIRE)
    first = decided(w, "smb", "c1")
    assert first.disposition == "acted"
    assert reviewed(w, "act")[None].retire == (), "of one decision nothing is said"
    decided(w, "smb", "c2")
    for ref in ("c1", "c2"):
        (id_,) = (e.id for e in read_journal(w.store, "acme") if e.stream.id == ref)
        w.engine.approvals.override("acme", id_, ANNA, reason="wrong")
    found = reviewed(w, "act")[None]
    assert [(c.name, c.found, c.met) for c in found.retirement] == [("overridden_percent", 100, True), ("success_percent", None, False)]
    assert [c.name for c in found.retire] == ["overridden_percent"]
    assert found.to_dict()["retire_now"] is True
    assert w.engine.desk.active_policy("acme", "dunning")[0] is not None
    next_ = Policy.from_toml(RETIRE.replace("version = 1", "version = 2"))
    (overall, *_) = review(next_, "dunning", "act", read_journal(w.store, "acme"), w.clock.now_us())
    assert overall.retire == (), "another version's decisions say nothing of this one"
    w.wait(days=31)
    assert reviewed(w, "act")[None].retire == (), "what is older than its window does not count"


def test_a_policy_whose_decisions_hardly_ever_succeed_is_one_to_retire() -> None:
    w = world(RETIRE)
    for ref in ("c1", "c2"):
        decided(w, "smb", ref)
    w.wait(days=15)
    for ref in ("c1", "c2"):
        w.attend(None, ref)
    found = {c.name: c for c in reviewed(w, "act")[None].retirement}
    assert (found["success_percent"].found, found["success_percent"].met) == (0, True)


def test_what_speaks_for_retiring_is_loosened_only_by_saying_so() -> None:
    before, after = Policy.from_toml(RETIRE), Policy.from_toml(BOUND)
    assert [w.where for w in widenings(before, after)] == ["autonomy.retire"]
    assert list(widenings(after, before)) == []
