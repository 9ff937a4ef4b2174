"""A planner in the application, on a file and on a server: runs, is explained and replayed by a process that has neither agent nor planner."""

from __future__ import annotations

from datetime import timedelta

from postsale.agents import Agent, FunctionPlanner, Prompt
from postsale.events import ManualClock
from tests.agents.planned import CALL, PROMPT, Scripted, policy
from tests.app.support import ANNA, NOON, Where, failed, opened, subscribed


def test_a_plan_is_made_explained_and_replayed_without_its_planner(lasting: Where) -> None:
    said = Scripted(ValueError("not now"), CALL)
    agent = Agent(policy(), planners=[FunctionPlanner("retention", said)], prompts=[Prompt.from_toml(PROMPT)])
    clock = ManualClock(NOON)
    with opened(lasting, clock=clock, agents=[agent]) as ps:
        acme = ps.tenant("acme")
        acme.agent(agent).act(reason="x", by=ANNA)
        acme.record("cus_42", subscribed("s", NOON))
        acme.record("cus_42", failed("f"))
        assert ps.run_once().decided == 0
        assert ps.run_once().decided == 0
        assert len(said.asked) == 1
        clock.advance(timedelta(seconds=30))
        assert ps.run_once().decided == 1
        (entry,) = acme.decisions()
        assert (entry.disposition, entry.action, list(entry.effects.values())) == ("acted", "task", ["succeeded"])
        assert [known.prompt.id for known in acme.prompts()] == ["retention@3"]
        assert ps.verify().ok
    with opened(lasting, clock=clock) as again:
        told = again.tenant("acme").explain(entry.id)
        assert told.plan is not None
        assert (told.plan.rationale, told.plan.attempts) == ("They asked twice.", 2)
        assert again.tenant("acme").replay(entry.id).arguments_checked
