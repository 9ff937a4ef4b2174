"""A planner that asks a language model through pydantic-ai. Needs the extra `llm`.

One request per question: no loop, no tools of its own, no retries; asking again is the engine's, and recorded. Whatever the model says
comes back word for word, a call of a tool that nobody offered too. May import planner, errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from postsale.agents.planner import Answer, Question
from postsale.errors import MissingExtra, NotAllowed, ToolUnreachable
from postsale.events import canonical

try:
    from pydantic_ai import direct, models
    from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
    from pydantic_ai.models.function import FunctionModel
    from pydantic_ai.models.test import TestModel
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import ToolDefinition
except ImportError:
    raise MissingExtra(feature="planners with language models", extra="llm") from None

ANSWER = "answer"
"""The one thing that a model may call."""


class PydanticAIPlanner:
    """Asks a model of pydantic-ai. Its `TestModel` and `FunctionModel` stay in this process; any other model must be allowed in words."""

    def __init__(
        self,
        name: str,
        model: models.Model | str,
        *,
        settings: Mapping[str, str | int | float | bool] | None = None,
        allow_model_requests: bool = False,
    ) -> None:
        """`model`: a pydantic-ai model, or its name such as `anthropic:claude-sonnet-4-5` (its provider's package must be installed).
        `settings`: pydantic-ai's model settings, such as `temperature`; they are recorded with each question, so no secrets. Raises NotAllowed for a real model without `allow_model_requests`.
        """
        self.name = name
        self.simulated = isinstance(model, TestModel | FunctionModel)
        if not self.simulated and not allow_model_requests:
            raise NotAllowed(
                actor=f"planner:{name}", action="ask a language model", reason="customers' data would leave: say allow_model_requests=True"
            )
        self._model = models.infer_model(model)
        self._given: dict[str, Any] = dict(settings or {})
        self.settings: Mapping[str, str] = {key: str(value) for key, value in sorted(self._given.items())}
        self.model = f"{self._model.system}:{self._model.model_name}"

    def plan(self, question: Question) -> Answer:
        """One request, one answer. Raises what the model's library raises, TimeoutError after `question.timeout_s`."""
        if not self.simulated and not models.ALLOW_MODEL_REQUESTS:
            raise ToolUnreachable(tool=f"planner {self.name}", during="a process that set pydantic_ai.models.ALLOW_MODEL_REQUESTS = False")
        asked = ModelRequest(parts=[UserPromptPart(content=question.data)], instructions=question.instructions)
        offered = ToolDefinition(name=ANSWER, description="The decision.", parameters_json_schema=dict(question.schema), kind="output")
        parameters = models.ModelRequestParameters(output_mode="tool", output_tools=[offered], allow_text_output=False)
        settings = ModelSettings(**{"timeout": question.timeout_s, **self._given})  # type: ignore[typeddict-item]

        async def request() -> ModelResponse:
            async with asyncio.timeout(question.timeout_s):
                return await direct.model_request(
                    self._model, [asked], model_settings=settings, model_request_parameters=parameters, instrument=False
                )

        response = asyncio.run(request())
        return Answer(
            text=_said(response),
            model=response.model_name or "",
            input_tokens=response.usage.input_tokens,
            output_tokens=response.usage.output_tokens,
        )


def _said(response: ModelResponse) -> str:
    """The answer as the model wrote it; everything it called where that is not just the answer."""
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    if [call.tool_name for call in calls] == [ANSWER]:
        given = calls[0].args
        return given if isinstance(given, str) else canonical(given or {}).decode()
    if calls:
        return canonical({"calls": [{"tool": call.tool_name, "arguments": call.args_as_json_str()} for call in calls]}).decode()
    return "".join(part.content for part in response.parts if isinstance(part, TextPart))
