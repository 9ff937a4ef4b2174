"""What one agent's own code raises is that agent's: the others decide, and its trigger is tried again, then recorded as failed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from postsale.agents import Agent, Policy, control
from postsale.agents.engines.deciding import ATTEMPTS
from postsale.agents.engines.engine import Visit
from postsale.agents.evidence import HealthReading
from postsale.agents.retiring import settle_retired
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import Scalar, TriggerDeferred
from postsale.audit import check_dispositions
from postsale.events import ManualClock, to_us
from tests.agents.world import ANNA, DUNNING, World, calls
from tests.app.referred import Uncredit
from tests.app.support import NOON, failed, opened
from tests.app.test_retired_policy import CREDITS, Breaking


class Moody(Agent):
    """An agent whose evidence raises when the test says so."""

    when = "never"  # never, always, deciding

    def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> Mapping[str, Scalar]:
        mine = any(t.raised.agent == self.name for t in customer.pending.values())
        if self.when == "always" or (self.when == "deciding" and mine):
            raise ZeroDivisionError("anna@example.org")
        return {}


def both(when: str = "never", **more: Any) -> tuple[World, Moody]:
    moody = Moody(Policy.from_toml(DUNNING.replace('name = "dunning"', 'name = "moody"')))
    moody.when = when
    w = World([moody, Agent(Policy.from_toml(DUNNING))], **more)
    for agent in ("dunning", "moody"):
        w.mode("act", agent)
    return w, moody


def attend(w: World, how: str, fact: Any = None) -> Any:
    if how == "alone":
        return w.attend(fact)
    ((_, done),) = list(w.engine.attend_many([Visit(w.stream(), fact)]))
    assert not isinstance(done, Exception), done
    return done


def told(w: World) -> list[tuple[str, str]]:
    return [(e.agent, e.disposition) for e in w.decisions()]


@pytest.mark.parametrize("how", ["alone", "together"])
def test_an_agent_whose_conditions_cannot_be_looked_at_is_named_and_the_others_decide_and_act(how: str) -> None:
    w, moody = both("always")
    fact = w.failed()
    done = attend(w, how, fact)
    assert told(w) == [("dunning", "acted")]
    assert [(t.agent, t.why) for t in done.troubles] == [("moody", "it raised ZeroDivisionError")]
    assert len(calls(w)) == 1
    moody.when = "never"
    assert attend(w, how, fact).troubles == ()
    assert told(w) == [("dunning", "acted"), ("moody", "acted")], "the same fact raises its trigger once it can be read"
    assert check_dispositions(w.store).ok


class Panic(BaseException):
    """As native code raises it."""


@pytest.mark.parametrize("error", [Panic, asyncio.CancelledError, RecursionError, MemoryError])
def test_what_is_no_exception_is_one_agents_fault_all_the_same(error: type[BaseException]) -> None:
    class Raising(Moody):
        def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> Mapping[str, Scalar]:
            raise error

    w = World([Raising(Policy.from_toml(DUNNING.replace('name = "dunning"', 'name = "moody"'))), Agent(Policy.from_toml(DUNNING))])
    w.mode("act")
    done = attend(w, "together", w.failed())
    assert told(w) == [("dunning", "acted")]
    assert [(t.agent, t.why) for t in done.troubles] == [("moody", f"it raised {error.__name__}")]


@pytest.mark.parametrize("error", [Panic, asyncio.CancelledError, SystemExit, MemoryError])
def test_a_tool_that_ends_its_thread_ends_nothing_else_and_its_effect_is_recorded(error: type[BaseException]) -> None:
    class Raising(Breaking):
        def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Any:
            if len(self.calls) == 1:
                self.calls["other"] = arguments
                raise error
            return super().call(arguments, idempotency_key=idempotency_key, timeout_s=timeout_s)

    agent = Agent(Policy.from_toml(CREDITS.format(version=1)))
    with opened(None, clock=ManualClock(NOON), agents=[agent], tools=[Raising(), Uncredit()], sandbox=False) as ps:
        acme = ps.tenant("acme")
        acme.agent(agent).act(reason="test", by=ANNA)
        for n in range(3):
            acme.record(f"c{n}", failed(f"f{n}", attempt=1))
        assert ps.run_once().called == 3
        assert sorted(status for e in acme.decisions() for status in e.effects.values()) == ["retry", "succeeded", "succeeded"]
        assert f"it raised {error.__name__}" in str([e.history for e in acme.decisions()])


@pytest.mark.parametrize("how", ["alone", "together"])
def test_a_trigger_whose_deciding_raises_is_tried_again_and_then_failed_with_a_reason_while_the_others_decide(how: str) -> None:
    w, _ = both("deciding")
    attend(w, how, w.failed())
    assert told(w) == [("dunning", "acted")]
    for attempt in range(1, ATTEMPTS):
        (deferred,) = [r.data for r in w.events() if isinstance(r.data, TriggerDeferred) and r.data.attempt == attempt]
        assert (deferred.agent, deferred.reason) == ("moody", "its evidence could not be read: ZeroDivisionError")
        at = w.store.head()
        due = attend(w, how).next_due_us
        assert (w.store.head(), due) == (at, to_us(deferred.retry_at)), "before its time nobody tries"
        w.clock.move_to(deferred.retry_at)
        attend(w, how)
    assert told(w) == [("dunning", "acted"), ("moody", "failed")]
    failed = w.decisions()[-1]
    assert "its evidence could not be read: ZeroDivisionError" in failed.rationale
    assert "anna" not in str([r.stored.data for r in w.events()])
    assert [r.stored.kind for r in w.events()].count("agent/trigger-deferred") == ATTEMPTS - 1
    report = check_dispositions(w.store)
    assert (report.ok, report.triggers, report.decisions) == (True, 2, 2)


def test_a_trigger_that_can_be_decided_again_in_between_is_decided_as_ever() -> None:
    w, moody = both("deciding")
    w.attend(w.failed())
    moody.when = "never"
    w.wait(minutes=1)
    w.attend()
    assert told(w) == [("dunning", "acted"), ("moody", "acted")]


def test_an_agent_whose_active_policy_asks_for_what_it_does_not_have_leaves_the_others_alone() -> None:
    w, _ = both()
    wanting = DUNNING.replace('name = "dunning"', 'name = "moody"').replace("[inputs]", '[inputs]\nmoon_phase = "integer"')
    control.activate_policy(w.engine.desk, w.tenant, Policy.from_toml(wanting), person=ANNA, reason="a slip")
    done = w.attend(w.failed())
    assert told(w) == [("dunning", "acted")]
    ((agent, why, _),) = done.troubles
    assert (agent, "moon_phase" in why) == ("moody", True)


def test_a_conversation_goes_on_while_its_stop_condition_cannot_be_read_and_others_decide() -> None:
    talk = '\n[conversation]\npriority = 5\n[[conversation.stop]]\nid = "few"\nwhen = { failed_payments = "0" }\n'
    moody = Moody(Policy.from_toml(DUNNING.replace('name = "dunning"', 'name = "moody"') + talk))
    w = World([moody, Agent(Policy.from_toml(DUNNING))])
    w.mode("act", "moody")
    w.mode("observe", "dunning")
    w.attend(w.failed())
    assert ("moody", "acted") in told(w)
    moody.when = "always"
    w.paid()
    w.attend()
    w.wait(days=1)
    fact = w.failed(attempt=3)
    w.attend(fact)
    assert [agent for agent, _ in told(w)].count("dunning") == 2


def test_retiring_an_agent_whose_deciding_raises_leaves_no_trigger_open() -> None:
    w, _ = both("deciding")
    w.attend(w.failed())
    control.retire(w.engine.desk, w.tenant, "moody", person=ANNA, reason="broken")
    assert settle_retired(w.engine, w.tenant, "moody", person=ANNA, reason="broken") == 1
    assert told(w)[-1] == ("moody", "failed")
    assert check_dispositions(w.store).ok
