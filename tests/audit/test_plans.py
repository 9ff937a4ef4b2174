"""Plans for auditors: replay, explanation and what-if from the log alone, without any planner; erased answers; estimates refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from postsale.access import Unsealer, nothing
from postsale.agents import Agent, Answer, Policy
from postsale.aggregates.customer import CustomerAggregate
from postsale.audit import WhatIf, what_if
from postsale.audit.estimate import LEAST
from postsale.audit.explain import explain
from postsale.audit.replay import replay
from postsale.errors import ReplayDiverged
from postsale.events import MASKED
from postsale.store import Query
from tests.agents.planned import CALL, OTHERWISE, Planned, policy

CANARY = "jane.canary@example.com"


def the_decision(w: Planned) -> Any:
    (stored,) = [s for s in w.store.read(Query(tenant=w.tenant)) if s.kind == "agent/decision-recorded"]
    return stored.event_id


@pytest.mark.parametrize("said", [CALL, "garbage", {"option": "wait", "rationale": "x"}], ids=["a plan", "no plan", "nothing"])
def test_a_decision_of_a_planner_is_replayed_from_the_log_alone(said: Any) -> None:
    w = Planned(said)
    w.attend(w.failed())
    done = replay(w.log, w.tenant, the_decision(w), Unsealer(w.log.vault))
    assert done.arguments_checked
    assert len(w.said.asked) == 1


def test_after_erasure_a_replay_says_that_the_answer_could_not_be_checked() -> None:
    w = Planned({**CALL, "note": CANARY})
    w.attend(w.failed())
    w.log.vault.destroy(w.tenant, "c1")
    done = replay(w.log, w.tenant, the_decision(w), Unsealer(w.log.vault))
    assert not done.arguments_checked
    told = explain(w.log, w.tenant, the_decision(w), Unsealer(w.log.vault))
    assert told.plan is not None
    assert (told.plan.question, told.plan.answer, told.plan.rationale) == (str(MASKED), str(MASKED), None)
    assert CANARY not in str(told) + str(told.to_dict())


def test_a_reader_without_the_right_to_unseal_replays_what_is_not_sealed() -> None:
    w = Planned()
    w.attend(w.failed())
    assert not replay(w.log, w.tenant, the_decision(w), Unsealer(w.log.vault, nothing)).arguments_checked


def test_an_answer_that_is_not_in_the_log_is_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    w = Planned()
    w.attend(w.failed())
    find, gone = w.store.find, w.decisions()[0].flags["plan.received"]
    monkeypatch.setattr(w.store, "find", lambda tenant, id_: None if str(id_) == gone else find(tenant, id_))
    with pytest.raises(ReplayDiverged, match="no such answer in the log"):
        replay(w.log, w.tenant, the_decision(w), Unsealer(w.log.vault))


def test_an_explanation_tells_what_was_asked_answered_and_why_it_was_used_or_not() -> None:
    w = Planned(lambda _: Answer(text='{"option":"call","rationale":"They asked twice.","note":"Hi."}', input_tokens=70, output_tokens=9))
    w.ticket(priority="high")
    w.attend(w.failed())
    told = explain(w.log, w.tenant, the_decision(w), Unsealer(w.log.vault))
    assert told.plan is not None
    assert (told.plan.planner, told.plan.prompt, told.plan.facts, told.plan.attempts) == ("retention", "retention@3", 1, 1)
    assert isinstance(told.plan.question, dict)
    assert '"priority": "high"' in told.plan.question["data"]
    assert told.plan.rationale == "They asked twice."
    assert told.to_dict()["plan"]["answer"] == told.plan.answer
    assert "Planner  retention (function) with retention@3, shown 1 facts, 70 tokens in, 9 out; answered" in str(told)
    assert "They asked twice." in str(told)
    bad = Planned("garbage")
    bad.attend(bad.failed())
    assert "    its planner's answer is not the JSON" in str(explain(bad.log, bad.tenant, the_decision(bad), Unsealer(bad.log.vault)))


# ---------------------------------------------------------------- what if


def asked(w: Planned, candidate: Policy) -> WhatIf:
    def values(c: CustomerAggregate, at_us: int, known_us: int) -> Mapping[str, Any]:
        agent = Agent(candidate)
        return agent.values(c, w.engine.health.read(c, at_us, agent.wanted), at_us)

    return what_if(w.log, w.tenant, candidate, values, begin_us=0, end_us=w.clock.now_us())


def lived(*replies: Any, customers: int = 3, **how: Any) -> Planned:
    w = Planned(*replies, **how)
    for n in range(customers):
        w.consent(f"k{n}")
        w.decided(f"k{n}")
    return w


def test_history_under_the_same_policy_is_the_same_and_no_planner_is_asked() -> None:
    w = lived(CALL, {"option": "credit", "rationale": "x", "amount": 90}, "garbage")
    found = asked(w, policy())
    assert (found.decisions, found.changed, found.unplanned, found.before) == (3, [], 0, found.after)
    assert found.after["offers EUR"] == 90
    assert len(w.said.asked) == 3


def test_a_smaller_budget_would_have_stopped_the_recorded_plan() -> None:
    w = lived({"option": "credit", "rationale": "x", "amount": 90}, customers=2)
    found = asked(w, policy(("limit = 1000", "limit = 100")))
    assert [c.why for c in found.changed] == ["suppressed by budget:retention/2026-11"]


@pytest.mark.parametrize("changes", [OTHERWISE, (('prompt = "retention@3"', 'prompt = "retention@4"'),), (('because = "A credit may help."', 'because = "x"'),)])  # fmt: skip
def test_where_the_candidate_would_ask_something_else_nothing_is_made_up(changes: Any) -> None:
    w = lived(CALL)
    found = asked(w, policy(*changes))
    assert (found.unplanned, found.changed, found.to_dict()["unplanned"]) == (3, [], 3)
    assert len(w.said.asked) == 3


def test_a_value_is_refused_where_a_planner_chose_and_given_where_it_drew() -> None:
    outcome = ("[guardrails]\n", '[outcome]\non = ["billing/invoice-paid"]\nwithin_days = 5\n\n[guardrails]\n')
    w = lived(CALL, customers=LEAST, changes=(outcome,))
    w.wait(days=6)
    for n in range(LEAST):
        w.attend(None, f"k{n}")
    found = asked(w, policy(outcome))
    assert found.value == (
        f"in {LEAST} of {LEAST} decisions the candidate does what had no recorded chance: nothing is known of its outcome"
    )
    drawn = lived(
        lambda _: Answer(text='{"option":"call","rationale":"x","note":"y"}', propensity_ppm=500_000), customers=LEAST, changes=(outcome,)
    )
    drawn.wait(days=6)
    for n in range(LEAST):
        drawn.attend(None, f"k{n}")
    value = asked(drawn, policy(outcome)).value
    assert not isinstance(value, str)
    assert (value.decisions, value.value) == (LEAST, 0.0)
