"""The planner over pydantic-ai, with its models for tests: one request, the answer word for word, no real model unless it is allowed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai import models
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel

from postsale.agents import Agent, Prompt
from postsale.agents.adapters.pydantic_ai import PydanticAIPlanner
from postsale.errors import NotAllowed, ToolUnreachable
from postsale.testing import no_network
from tests.agents.planned import CALL, PROMPT, policy
from tests.agents.world import World, calls


def world(model: models.Model, *changes: tuple[str, str], **how: Any) -> World:
    planner = PydanticAIPlanner("retention", model, **how)
    w = World([Agent(policy(*changes), planners=[planner], prompts=[Prompt.from_toml(PROMPT)])])
    w.mode("act", "saver")
    return w


def saying(*parts: Any) -> Callable[[list[ModelMessage], AgentInfo], ModelResponse]:
    return lambda messages, info: ModelResponse(parts=list(parts))


def test_a_models_structured_answer_is_recorded_and_carried_out() -> None:
    seen: list[tuple[list[ModelMessage], AgentInfo]] = []

    def answers(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.append((messages, info))
        return ModelResponse(parts=[ToolCallPart("answer", CALL)])

    w = world(FunctionModel(answers, model_name="m"), settings={"temperature": 0.2})
    w.attend(w.failed())
    assert calls(w) == [("crm.create_task@1", {"customer": "c1", "title": "Call", "note": "Say hello.", "due_in_days": 0})]
    ((messages, info),) = seen
    (request,) = messages
    assert isinstance(request, ModelRequest)
    assert request.instructions is not None
    assert request.instructions.startswith("You keep customers.")
    assert [tool.name for tool in info.output_tools] == ["answer"]
    assert info.function_tools == []
    assert info.output_tools[0].parameters_json_schema["properties"]["option"]["enum"] == ["credit", "call", "wait"]
    assert info.model_settings == {"timeout": 30.0, "temperature": 0.2}
    (asked, said) = (r.data for r in w.events() if r.stored.kind in {"agent/plan-requested", "agent/plan-received"})
    assert (asked.model, asked.settings) == ("function:m", {"temperature": "0.2"})
    assert (said.model, said.input_tokens > 0, said.output_tokens > 0) == ("m", True, True)


def test_the_schema_of_an_answer_is_one_that_the_librarys_own_test_model_can_answer() -> None:
    w = world(TestModel(custom_output_args={"option": "wait", "rationale": "No need."}))
    w.attend(w.failed())
    assert w.decisions()[0].suppressed_by == "policy:wait"


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([ToolCallPart("billing_offer_credit", {"amount_minor": 10**6})], "its planner tried to call a tool, and none is on its list"),
        ([ToolCallPart("answer", CALL), ToolCallPart("answer", CALL)], "its planner tried to call a tool, and none is on its list"),
        ([ToolCallPart("answer", '{"option": "cal')], "its planner's answer is not the JSON that was asked for"),
        ([TextPart("I would rather call them.")], "its planner's answer is not the JSON that was asked for"),
        ([], "its planner's answer is not the JSON that was asked for"),
    ],
)
def test_a_call_of_another_tool_or_no_answer_is_recorded_refused_and_never_retried(parts: list[Any], problem: str) -> None:
    w = world(FunctionModel(saying(*parts)))
    w.attend(w.failed())
    (event,) = w.decisions()
    assert (event.disposition, event.flags["plan.problem"]) == ("failed", problem)
    assert w.kinds().count("agent/plan-requested") == 1
    assert calls(w) == []


def test_a_model_that_takes_too_long_is_a_failed_attempt() -> None:
    async def hangs(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        await asyncio.Event().wait()
        raise AssertionError

    w = world(FunctionModel(hangs), ("attempts = 2", "attempts = 1\ntimeout_s = 1"))
    w.attend(w.failed())
    assert "failed 1 times, the last with no answer within 1 s" in w.decisions()[0].rationale


def test_a_real_model_is_refused_until_it_is_allowed_in_words() -> None:
    real = WrapperModel(FunctionModel(saying(ToolCallPart("answer", CALL))))  # to the planner, any model that is not one for tests
    with pytest.raises(NotAllowed, match="allow_model_requests=True"):
        PydanticAIPlanner("retention", real)
    w = world(real, allow_model_requests=True)
    w.attend(w.failed())
    assert len(calls(w)) == 1


def test_tests_refuse_a_real_model_even_where_it_was_allowed() -> None:
    real = WrapperModel(FunctionModel(saying(ToolCallPart("answer", CALL))))
    w = world(real, allow_model_requests=True)
    fact = w.failed()
    with no_network(), pytest.raises(ToolUnreachable, match="planner retention during a test"):
        w.attend(fact)
    with models.override_allow_model_requests(False), pytest.raises(ToolUnreachable, match="ALLOW_MODEL_REQUESTS"):
        w.attend(fact)
    assert calls(w) == []


def test_without_its_library_the_error_names_the_extra() -> None:
    script = "import sys; sys.modules['pydantic_ai'] = None\nimport postsale.agents.adapters.pydantic_ai"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pip install 'postsale[llm]'" in done.stderr
