"""The gate before a tool: no more requests than its rate, an open circuit lets nothing through, a lost record costs no effect."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from postsale.agents.gate import GATES, Gate, GateState, admit, pause_s, settle
from postsale.agents.tools import Rate, Tool, Toolbox, ToolUnavailable
from postsale.agents.tools.toolbox import Result
from postsale.events import SECOND_US, ManualClock
from postsale.store import MemoryStore, SQLiteStore
from tests.agents.test_outbox import UNAVAILABLE, Queryable, Scripted, acting, results
from tests.agents.world import NOON, World

DOWN = Result("retry", "busy")


def tool_with(**declared: Any) -> Tool:
    tool = type("Declared", (Scripted,), declared)()
    assert isinstance(tool, Tool)
    return tool


# ---------------------------------------------------------------- rates


@given(
    requests=st.integers(1, 20),
    per_ms=st.integers(1, 5_000),
    steps=st.lists(st.integers(0, 2_000_000), min_size=1, max_size=80),
    cost=st.integers(1, 3),
)
def test_no_window_sees_more_requests_than_the_burst_and_the_rate_together(requests: int, per_ms: int, steps: list[int], cost: int) -> None:
    tool = tool_with(rate=Rate(requests, per_ms / 1_000))
    whole_us, state, now_us = per_ms * 1_000, GateState(), 10**15
    sent: list[int] = []
    for step in steps:
        now_us += step
        wait_us, state = admit(state, tool, now_us, requests=cost)
        if wait_us is None:
            sent += [now_us] * min(cost, requests)
        else:
            assert now_us < wait_us <= now_us + whole_us + requests  # it comes, and says when
            assert admit(state, tool, wait_us, requests=cost).wait_us is None
    for i, first in enumerate(sent):
        for j in range(i, len(sent)):
            assert j - i + 1 <= requests + (sent[j] - first) * requests / whole_us + 1e-9


def test_a_clock_that_goes_back_a_day_does_not_shut_a_gate_for_a_day() -> None:
    tool = tool_with(rate=Rate(2, 1.0), breaker_after=1)
    state = GateState()
    for _ in range(2):
        state = admit(state, tool, 10**15).state
    state = settle(state, tool, DOWN, 10**15)
    state = settle(state, tool, Result("retry", "slow", retry_after_s=60.0), 10**15)
    wait_us, _ = admit(state, tool, 10**15 - 86_400 * SECOND_US - 61 * SECOND_US)
    assert wait_us is None or wait_us <= 10**15 - 86_400 * SECOND_US


def test_effects_beyond_the_rate_wait_and_leave_no_trace_in_the_log_until_they_may_leave() -> None:
    tool = tool_with(rate=Rate(2, 60.0))
    assert isinstance(tool, Scripted)
    w = acting(tool)
    for i in range(5):
        w.attend(w.failed(f"c{i}"), f"c{i}")
    assert len(tool.calls) == 2
    held = [f"c{i}" for i in range(5) if not any(k.startswith("effect/") for k in w.kinds(f"c{i}"))]
    assert len(held) == 3
    due = w.attend(ref=held[0]).next_due_us
    assert due is not None
    assert 0 < due - w.clock.now_us() <= 30 * SECOND_US
    for _ in range(3):
        w.wait(seconds=30)
        for ref in held:
            w.attend(ref=ref)
    assert len(tool.calls) == 5
    assert tool.effects == set(tool.calls)


def test_asking_before_a_second_sending_counts_as_a_request_too() -> None:
    class Asked(Queryable):
        rate, backoff_s = Rate(2, 3600.0), 1.0

    tool = Asked(UNAVAILABLE)
    w = acting(tool)
    w.attend(w.failed())
    w.wait(minutes=10)  # one of two is there, and a sixth
    w.attend()
    assert len(tool.calls) == 1
    w.wait(minutes=20)
    w.attend()
    assert len(tool.calls) == 2


def test_two_processes_share_one_rate(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    tool = tool_with(rate=Rate(10, 3600.0))
    stores = [SQLiteStore(tmp_path / "log.db", clock=clock) for _ in range(2)]
    passed: list[int] = []

    def ask(gate: Gate) -> None:
        passed.append(sum(gate.admit("acme", tool, retry=False, requests=1) is None for _ in range(15)))

    threads = [threading.Thread(target=ask, args=(Gate(store.kv, clock),)) for store in stores]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sum(passed) == 10
    for store in stores:
        store.close()


def test_tenants_do_not_use_up_each_others_rate() -> None:
    gate = Gate(MemoryStore().kv, ManualClock(NOON))
    tool = tool_with(rate=Rate(1, 3600.0))
    assert gate.admit("acme", tool, retry=False, requests=1) is None
    assert gate.admit("acme", tool, retry=False, requests=1) is not None
    assert gate.admit("other", tool, retry=False, requests=1) is None


def test_retries_of_all_effects_together_have_a_budget() -> None:
    tool = tool_with(retry_budget=Rate(2, 3600.0), backoff_s=1.0, breaker_after=99)
    assert isinstance(tool, Scripted)
    tool.script = [UNAVAILABLE] * 99
    w = acting(tool)
    refs = [f"c{i}" for i in range(4)]
    for ref in refs:
        w.attend(w.failed(ref), ref)
    w.wait(seconds=10)
    for ref in refs:
        w.attend(ref=ref)
    assert len(tool.calls) == 4 + 2


# ---------------------------------------------------------------- circuits


def test_a_circuit_opens_after_failures_in_a_row_lets_nothing_through_and_one_success_closes_it() -> None:
    tool = tool_with(breaker_after=3, breaker_open_s=600.0, backoff_s=0.0, max_attempts=9)
    assert isinstance(tool, Scripted)
    tool.script = [UNAVAILABLE] * 3
    w = acting(tool)
    gate = w.engine.outbox.gate
    for i in range(5):
        w.attend(w.failed(f"c{i}"), f"c{i}")
    state = gate.state("acme", "crm.create_task@1")
    assert (state.circuit(w.clock.now_us()), state.reason) == ("open", "busy")
    assert len(tool.calls) == 3
    assert "effect/started" not in w.kinds("c4")  # what waits uses up no attempt
    assert w.attend(ref="c4").next_due_us == state.open_until_us
    w.wait(seconds=600)
    assert gate.state("acme", "crm.create_task@1").circuit(w.clock.now_us()) == "half-open"
    for i in range(5):
        w.attend(ref=f"c{i}")
    assert gate.state("acme", "crm.create_task@1") == GateState(retries_full_us=gate.state("acme", "crm.create_task@1").retries_full_us)
    assert len(tool.effects) == 5


def test_half_open_lets_one_call_try_and_its_failure_opens_for_twice_as_long() -> None:
    tool = tool_with(breaker_after=1, breaker_open_s=10.0)
    now_us = 10**15
    state = settle(GateState(), tool, DOWN, now_us)
    now_us += 10 * SECOND_US
    first, state = admit(state, tool, now_us)
    second, state = admit(state, tool, now_us)
    assert (first, second) == (None, now_us + int(2 * tool.timeout_s * SECOND_US))
    again = settle(state, tool, DOWN, now_us)
    assert again.open_until_us == now_us + 20 * SECOND_US
    assert admit(state, tool, second or 0).wait_us is None  # whoever tried was killed: another one may


def test_a_call_that_was_under_way_when_the_circuit_opened_does_not_prolong_it() -> None:
    tool = tool_with(breaker_after=1, breaker_open_s=10.0)
    state = settle(GateState(), tool, DOWN, 10**15)
    assert settle(state, tool, DOWN, 10**15 + 1).open_until_us == state.open_until_us


def test_a_refusal_is_an_answer_and_opens_no_circuit() -> None:
    tool = tool_with(breaker_after=1)
    assert settle(GateState(failures=4), tool, Result("refused", "no"), 10**15) == GateState()


def test_who_asks_to_wait_is_waited_for_by_every_effect_of_the_tenant_and_it_counts_as_no_failure() -> None:
    tool = Scripted(ToolUnavailable(tool="crm.create_task@1", reason="status 429", retry_after_s=900.0))
    w = acting(tool)
    w.attend(w.failed("c1"), "c1")
    w.attend(w.failed("c2"), "c2")
    assert len(tool.calls) == 1
    w.wait(seconds=899)
    w.attend(ref="c2")
    assert len(tool.calls) == 1
    w.wait(minutes=3)  # c1 waits for its own draw beside
    w.attend(ref="c1")
    w.attend(ref="c2")
    assert len(tool.effects) == 2
    assert w.engine.outbox.gate.state("acme", "crm.create_task@1").failures == 0


def test_a_circuit_that_is_open_is_seen_by_another_process_and_survives_a_restart(tmp_path: Path) -> None:
    class Down(Scripted):
        breaker_after = 1

    w = World(store=SQLiteStore(tmp_path / "log.db"), toolbox=Toolbox([Down(UNAVAILABLE)], sandbox=False))
    w.mode("act")
    w.attend(w.failed("c1"), "c1")
    fact = w.failed("c2")
    w.store.close()
    other = World(store=SQLiteStore(tmp_path / "log.db"), vault=w.log.vault, toolbox=Toolbox([tool := Down()], sandbox=False))
    other.attend(fact, "c2")
    assert tool.calls == []
    other.wait(minutes=1)
    other.attend(ref="c2")
    assert len(tool.calls) == 1
    other.store.close()


def test_a_record_that_is_lost_or_damaged_costs_no_effect() -> None:
    tool = Scripted()
    w = acting(tool)
    w.store.kv.put(GATES, "acme", "crm.create_task@1", b"{torn")
    w.attend(w.failed())
    assert results(w) == ["succeeded:"]
    assert len(tool.effects) == 1


def test_an_effect_is_cancelled_while_the_circuit_is_open_too() -> None:
    tool = tool_with(breaker_after=1, breaker_open_s=3600.0, max_attempts=9)
    assert isinstance(tool, Scripted)
    tool.script = [UNAVAILABLE] * 99
    w = acting(tool)
    w.attend(w.failed("c1"), "c1")
    w.attend(w.failed("c2"), "c2")
    for _ in range(73):
        w.wait(hours=1)
        w.attend(ref="c1")  # its attempts keep the circuit open
    w.attend(ref="c2")
    assert w.kinds("c2")[-1] == "effect/cancelled"


# ---------------------------------------------------------------- pauses


@given(number=st.integers(0, 10_000), attempt=st.integers(1, 60))
def test_a_pause_is_within_half_of_the_doubled_backoff_and_the_same_whenever_it_is_asked(number: int, attempt: int) -> None:
    tool, intent = tool_with(backoff_s=2.0), uuid5(UUID(int=0), str(number))
    longest = min(3600.0, 2.0 * 2 ** (attempt - 1))
    assert longest / 2 <= pause_s(tool, intent, attempt) <= longest
    assert pause_s(tool, intent, attempt) == pause_s(tool, intent, attempt)


def test_effects_that_failed_together_do_not_come_back_together() -> None:
    tool = tool_with(backoff_s=60.0)
    pauses = [pause_s(tool, uuid5(UUID(int=0), str(i)), 1) for i in range(200)]
    assert len({int(p) for p in pauses}) == 30  # every second between half a minute and a minute
    asked = [pause_s(tool, uuid5(UUID(int=0), str(i)), 1, 100.0) for i in range(200)]
    assert 100.0 <= min(asked) <= max(asked) <= 160.0


def test_a_second_attempt_that_has_to_ask_first_says_when_there_is_room_for_both_requests() -> None:
    class Slow(Queryable):
        rate = Rate(3, 3_600.0)

    tool = Slow(UNAVAILABLE, UNAVAILABLE)
    w = acting(tool)
    for ref in ("c1", "c2"):
        w.attend(w.failed(ref), ref)
    w.wait(minutes=5)
    due_us = w.attend(ref="c1").next_due_us
    assert len(tool.calls) == 2  # one request is left, and two are needed
    assert due_us is not None
    assert due_us > w.clock.now_us()
    w.clock.move_to(due_us)
    assert w.attend(ref="c1").called == 1
