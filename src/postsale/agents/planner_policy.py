"""`[rule.plan]`: a row that hands over to a planner, and everything that bounds what the planner is told and may answer. Data, never code.

Lives here: the shape of the table. What makes one valid in its policy is in `policy_check`. May import events.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from postsale.events import MAX_INT, Id

PLAN = "plan"  # the action of a row that hands over
FROM_PLAN = "$plan."  # in an option: what the planner filled in
MAX_ANSWER_CHARS = 20_000

_Days = Annotated[int, Field(ge=1, le=3_650)]
_Whole = Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)]
_Kind = Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)*/[a-z0-9-]+$")]
_SlotName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class Slot(_Table):
    """One value that a planner may fill in: a text of bounded length or of a list, an integer within bounds, or yes and no."""

    type: Literal["text", "integer", "boolean"]
    max_chars: Annotated[int, Field(ge=1, le=2_000)] | None = None  # of a text that is not from a list
    one_of: Annotated[tuple[Id, ...], Field(min_length=1, max_length=100)] | None = None
    min: _Whole | None = None  # inclusive, of an integer
    max: _Whole | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Slot:
        wanted = {"text": {"one_of"} if self.one_of is not None else {"max_chars"}, "integer": {"min", "max"}, "boolean": set()}[self.type]
        given = {name for name in ("max_chars", "one_of", "min", "max") if getattr(self, name) is not None}
        if given != wanted:
            raise ValueError(f"type {self.type} has {' and '.join(sorted(wanted)) or 'no bounds'}; a text has max_chars or one_of")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self

    @property
    def free(self) -> bool:
        """Whether what is filled in may hold anything, personal data too: such a value is only ever stored sealed."""
        return self.type == "text" and self.one_of is None


class PlanRow(_Table):
    """How a row hands over: to which planner, with which prompt, about what, and what it may choose from."""

    planner: Id
    prompt: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}@[1-9][0-9]{0,5}$")]  # name@version
    options: Annotated[tuple[Id, ...], Field(min_length=1, max_length=50)]  # ids of [[option]]
    slots: dict[_SlotName, Slot] = {}
    otherwise: Id | None = None  # the option that a person is asked about when no answer can be used; None: the decision fails

    evidence: tuple[Id, ...] = ()  # inputs that the planner is shown
    facts: dict[_Kind, tuple[Id, ...]] = {}  # kind -> fields of it that the planner is shown
    personal: tuple[Id, ...] = ()  # `kind.field`: personal ones among them that are shown all the same
    most: Annotated[int, Field(ge=1, le=100)] = 20  # facts, the newest
    window_days: _Days = 30  # only facts that occurred within so many days before the question
    max_age_days: _Days = 31  # when the answer is used, nothing that it rests on may be older, neither fact nor question

    max_answer_chars: Annotated[int, Field(ge=20, le=MAX_ANSWER_CHARS)] = 4_000
    timeout_s: Annotated[int, Field(ge=1, le=50)] = 30  # below the term of a run's lease
    attempts: Annotated[int, Field(ge=1, le=5)] = 2  # questions, until one is answered
    observed_per_day: Annotated[int, Field(ge=0, le=1_000_000)] | None = None  # questions while the agent observes; None: 100

    @field_validator("options", "evidence", "personal", "facts")
    @classmethod
    def _once(cls, value: tuple[str, ...] | dict[str, tuple[str, ...]]) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
        for names in value.values() if isinstance(value, dict) else [value]:
            if len(set(names)) < len(names):
                raise ValueError("the same name twice")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> PlanRow:
        if self.max_age_days < self.window_days:
            raise ValueError("max_age_days is below window_days: what is shown would be too old to be used")
        for name in self.personal:
            kind, _, field = name.rpartition(".")
            if field not in self.facts.get(kind, ()):
                raise ValueError(f"personal names {name!r}, which is not among the facts")
        return self
