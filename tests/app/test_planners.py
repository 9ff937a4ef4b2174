"""A planner in the application, on a file and on a server: runs, is explained and replayed by a process that has neither agent nor planner."""

from __future__ import annotations

from datetime import timedelta

from postsale.agents import Agent, FunctionPlanner, Prompt
from postsale.audit import check_dispositions
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


def test_planners_are_told_with_their_circuit_and_what_came_of_their_questions_apart_from_tools() -> None:
    said = Scripted(*[ValueError("not now")] * 5, CALL)
    agent = Agent(policy(), planners=[FunctionPlanner("retention", said)], prompts=[Prompt.from_toml(PROMPT)])
    clock = ManualClock(NOON)
    with opened(None, clock=clock, agents=[agent]) as ps:
        acme = ps.tenant("acme")
        acme.agent(agent).act(reason="x", by=ANNA)
        (fresh,) = acme.planners()
        assert (fresh.planner, fresh.circuit, fresh.asked) == ("retention", "closed", 0)
        for n in range(6):
            acme.record(f"cus_{n}", failed(f"f{n}"))
        report = ps.run_once()
        (shut,) = acme.planners()
        assert (shut.circuit, shut.waits_until, shut.failures_in_a_row, shut.reason) == (
            "open",
            NOON + timedelta(seconds=30),
            5,
            "ValueError",
        )
        assert (shut.asked, shut.answered, shut.failed) == (5, 0, 5)
        assert (report.decided, report.dispositions) == (1, {"failed": 1}), "whoever came too late is told why at once"
        clock.advance(timedelta(seconds=30))
        ps.run_once()
        (open_,) = acme.planners()
        assert (open_.circuit, open_.answered) == ("closed", 5)
        assert shut.to_dict()["waits_until"] == (NOON + timedelta(seconds=30)).isoformat()
        assert not any("retention" in tool.tool for tool in acme.tools())
        assert ps.tenant("other").planners()[0].asked == 0
        assert check_dispositions(ps.log.store).ok
