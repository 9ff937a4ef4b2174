"""Planners that hang or fail: a time-out, a circuit that opens and is probed, and decisions that say why nobody was asked."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from postsale.agents import Question
from postsale.agents.gate import GateState
from postsale.agents.planner import Reply
from postsale.agents.planner_gate import planner_gates
from postsale.agents.tools import Tool
from postsale.aggregates.plans import PlanReceived
from postsale.audit import check_dispositions
from tests.agents.planned import CALL, OTHERWISE, Planned
from tests.agents.world import ANNA


def failing(w: Planned, customers: range) -> None:
    for n in customers:
        w.attend(w.failed(f"c{n}"), f"c{n}")


def gate(w: Planned) -> Any:
    return planner_gates(w.engine.outbox.gate, w.tenant)["retention"]


def opened(*replies: Any, **more: Any) -> Planned:
    """As many customers as it takes were asked about, and the planner failed each time."""
    w = Planned(*([OSError("x")] * Tool.breaker_after), *(replies or (CALL,)), **more)
    failing(w, range(Tool.breaker_after))
    assert gate(w).circuit(w.clock.now_us()) == "open"
    return w


def test_a_planner_that_hangs_is_left_after_its_time_out_a_function_too_and_asked_again_later() -> None:
    over = threading.Event()

    def hangs(question: Question) -> Reply:
        over.wait(30)
        return CALL

    w = Planned(hangs, CALL, changes=(("max_answer_chars = 600", "max_answer_chars = 600\ntimeout_s = 1"),))
    w.attend(w.failed())
    over.set()
    (received,) = [r.data for r in w.events() if isinstance(r.data, PlanReceived)]
    assert (received.status, received.reason) == ("failed", "no answer within 1 s")
    assert gate(w).failures == 1
    w.wait(seconds=30)
    w.attend()
    assert [e.disposition for e in w.decisions()] == ["acted"]
    assert gate(w).failures == 0


def test_after_failures_in_a_row_nobody_asks_it_and_decisions_made_meanwhile_say_why() -> None:
    w = opened()
    asked = len(w.said.asked)
    w.attend(w.failed("late"), "late")
    (event,) = w.decisions("late")
    assert len(w.said.asked) == asked == Tool.breaker_after
    assert (event.disposition, event.flags["plan.status"]) == ("failed", "not-asked")
    assert "its circuit is open until 2026-11-16T12:00:30" in event.rationale
    assert "after 5 failures in a row, the newest: OSError" in event.rationale
    assert w.again(event).difference is None
    assert "agent/plan-requested" not in w.kinds("late")


def test_where_the_policy_says_otherwise_a_person_is_asked_while_the_circuit_is_open() -> None:
    w = opened(changes=OTHERWISE)
    w.attend(w.failed("late"), "late")
    (event,) = w.decisions("late")
    assert (event.disposition, event.rule) == ("awaiting", "human")


def test_half_open_one_question_tries_whoever_else_comes_meanwhile_and_its_answer_closes_the_circuit() -> None:
    def meanwhile(question: Question) -> Reply:
        w.attend(w.failed("beside"), "beside")
        return CALL

    w = opened(meanwhile, CALL)
    w.wait(seconds=Tool.breaker_open_s)
    assert gate(w).circuit(w.clock.now_us()) == "half-open"
    w.attend(w.failed("probe"), "probe")
    assert [e.disposition for e in w.decisions("probe")] == ["acted"]
    assert [e.flags["plan.status"] for e in w.decisions("beside")] == ["not-asked"]
    assert gate(w).circuit(w.clock.now_us()) == "closed"
    w.attend(w.failed("after"), "after")
    assert [e.disposition for e in w.decisions("after")] == ["acted"]


def test_a_probe_that_fails_opens_it_for_twice_as_long_and_every_trigger_has_its_disposition_in_the_end() -> None:
    w = opened(OSError("x"), CALL)
    w.wait(seconds=Tool.breaker_open_s)
    w.attend(None, "c0")  # its second question is the probe
    assert gate(w).circuit(w.clock.now_us()) == "open"
    w.wait(seconds=2 * Tool.breaker_open_s - 1)
    assert gate(w).circuit(w.clock.now_us()) == "open"
    w.wait(seconds=1)
    assert gate(w).circuit(w.clock.now_us()) == "half-open"
    for n in range(Tool.breaker_after):
        w.attend(None, f"c{n}")
    ends = [w.decisions(f"c{n}")[0].disposition for n in range(Tool.breaker_after)]
    assert ends == ["failed", "acted", "acted", "acted", "acted"]
    assert check_dispositions(w.store).ok


def test_an_answer_that_cannot_be_used_is_no_failure_of_the_planner() -> None:
    w = Planned("garbage")
    failing(w, range(Tool.breaker_after + 2))
    assert len(w.said.asked) == Tool.breaker_after + 2
    assert planner_gates(w.engine.outbox.gate, w.tenant).get("retention", GateState()).failures == 0


# ---------------------------------------------------------------- an agent that observes


@pytest.mark.parametrize("per_day", [0, 2])
def test_an_observing_agent_asks_within_a_budget_and_beyond_it_is_suppressed_with_the_reason_and_not_failed(per_day: int) -> None:
    changes = (("max_answer_chars = 600", f"max_answer_chars = 600\nobserved_per_day = {per_day}"),)
    w = Planned(CALL, changes=changes, mode="observe")
    failing(w, range(4))
    events = [w.decisions(f"c{n}")[0] for n in range(4)]
    assert {(e.disposition, e.suppressed_by) for e in events} == {("suppressed", "autonomy:observe")}
    assert [e.flags["plan.status"] for e in events] == ["answered"] * per_day + ["over-budget"] * (4 - per_day)
    assert len(w.said.asked) == per_day
    why = "while it observes it asks 2 times a day" if per_day else "while it observes, its policy has it ask nothing"
    assert str(events[-1].flags["plan.reason"]).startswith(why)
    assert all(w.again(e).difference is None for e in events)
    w.wait(days=1)
    w.attend(w.failed("tomorrow"), "tomorrow")
    assert len(w.said.asked) == per_day + (1 if per_day else 0)
    assert check_dispositions(w.store).ok


def test_an_agent_that_proposes_or_acts_asks_without_that_budget() -> None:
    changes = (("max_answer_chars = 600", "max_answer_chars = 600\nobserved_per_day = 0"),)
    w = Planned(CALL, changes=changes, mode="observe")
    failing(w, range(1))
    w.engine.set_mode(w.tenant, "saver", "propose", person=ANNA, reason="test")
    failing(w, range(1, 4))
    assert len(w.said.asked) == 3
