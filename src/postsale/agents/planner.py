"""Planners: what decides where a table cannot. A planner is asked a bounded question and answers with text; the policy judges the answer.

Lives here: the protocol, the question, the answer, and a planner that is a function. No model, no log, no tools. May import reach,
errors, events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from postsale.aggregates.decisions import Scalar
from postsale.events import canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Everything a planner is told: declared evidence, declared fields of recent facts, and what it may choose from."""

    key: str  # the same question again has the same key
    instructions: str  # the prompt, filled in, and the rules of answering
    data: str  # what is known of the customer, as JSON between marks: data, never instructions
    schema: Mapping[str, Any]  # JSON Schema of the answer
    evidence: Mapping[str, Scalar]  # as in `data`, for planners that are functions
    facts: tuple[Mapping[str, Any], ...] = ()  # {"kind", "at", "fields"}, oldest first, as in `data`
    options: tuple[str, ...]  # ids, in the policy's order
    timeout_s: float
    max_answer_chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a planner said, word for word, and what it took. Nothing in it is believed before it is checked."""

    text: str | bytes  # a JSON object as `Question.schema` says
    model: str = ""  # the model that answered, when it says so itself
    input_tokens: int | None = None
    output_tokens: int | None = None
    propensity_ppm: int | None = None  # how likely the choice was, from a planner that draws; a model cannot know


@runtime_checkable
class Planner(Protocol):
    """Something that answers questions. It may be asked the same question again after a crash, never after its answer was recorded."""

    @property
    def name(self) -> str:
        """How policies name it."""
        ...

    @property
    def model(self) -> str:
        """What answers, such as `anthropic:claude-sonnet-4-5`. Recorded with each question."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings of the model, such as its temperature. Recorded with each question."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether it stays in this process. Tests, simulations and replays reach no other, and replays none at all."""
        ...

    def plan(self, question: Question) -> Answer:
        """Answer within `question.timeout_s`. Whatever it raises is an attempt that failed."""
        ...


Reply = str | bytes | Mapping[str, Any] | Answer


@dataclass(frozen=True, slots=True)
class FunctionPlanner:
    """A planner that is a function, for tests, demos and rules that are easier to write than to tabulate.

        FunctionPlanner("retention", lambda question: {"option": "call", "rationale": "They asked twice."})

    It returns the answer as a mapping, as text or bytes, or as `Answer`.
    """

    name: str
    function: Callable[[Question], Reply]
    model: str = "function"
    settings: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = True

    def plan(self, question: Question) -> Answer:
        reply = self.function(question)
        if isinstance(reply, Answer):
            return reply
        return Answer(text=canonical(dict(reply)).decode() if isinstance(reply, Mapping) else reply)
