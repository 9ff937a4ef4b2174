"""A planner's answer, judged: from recorded text to one option of the policy with values in bounds, or why it cannot be used.

Pure: no clock, no model, no log. The same record gives the same result, so that a decision is made again without any model.
May import planner_policy, policy, aggregates, events.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from postsale.agents.expressions import Value
from postsale.agents.limits import TIERS
from postsale.agents.planner_policy import FROM_PLAN, PlanRow, Slot
from postsale.agents.policy import Policy
from postsale.agents.policy_sections import Rule
from postsale.aggregates.decisions import Scalar
from postsale.events import DAY_US, Text

RATIONALE_CHARS = 1_000
_PREFIX = "plan."
_VALUE = "plan.value."
Status = Literal["answered", "too-long", "failed", "silent", "not-asked", "over-budget"]
Filled = str | int | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of asking a planner about one trigger, as it was recorded: one more input of the decision.

    `failed`: every attempt did; `silent`: none was answered before its worker was gone; `not-asked`, and `over-budget` while
    the agent observes: `reason` says why.
    """

    status: Status
    reason: str = ""
    planner: str = ""
    model: str = ""
    prompt: str | None = None  # digest
    request: UUID | None = None  # the question
    received: UUID | None = None  # its answer
    attempts: int = 0
    oldest_at_us: int = 0  # of the question and the facts it showed
    answer: str | None = None  # None where there is none, and where it is erased
    propensity_ppm: int | None = None
    misfit: str = ""  # where the arguments that follow do not fit the tool's contract
    kept: Mapping[str, Scalar] = field(default_factory=dict)  # what the decision itself recorded, for an answer that is erased

    def scalars(self) -> dict[str, Scalar]:
        """As a decision records it among its flags, beside the prompt and without the answer. `from_scalars` is the inverse."""
        out: dict[str, Scalar] = {
            "status": self.status,
            "reason": self.reason,
            "planner": self.planner,
            "model": self.model,
            "request": None if self.request is None else str(self.request),
            "received": None if self.received is None else str(self.received),
            "attempts": self.attempts,
            "oldest_at_us": self.oldest_at_us,
            "propensity_ppm": self.propensity_ppm,
            "misfit": self.misfit,
        }
        return {_PREFIX + name: value for name, value in out.items() if value not in (None, "")}

    @classmethod
    def from_scalars(cls, flags: Mapping[str, Scalar], prompt: str | None, answer: str | None = None) -> Asked | None:
        """What a decision recorded, with the recorded answer where it can be read; None for a decision without a planner."""
        status = flags.get("plan.status")
        if status is None:
            return None
        at = {name.removeprefix(_PREFIX): value for name, value in flags.items()}
        return cls(
            status=status,  # type: ignore[arg-type]
            reason=str(at.get("reason", "")),
            planner=str(at.get("planner", "")),
            model=str(at.get("model", "")),
            prompt=prompt,
            request=_uuid(at.get("request")),
            received=_uuid(at.get("received")),
            attempts=_int(at.get("attempts")),
            oldest_at_us=_int(at.get("oldest_at_us")),
            answer=answer,
            propensity_ppm=None if at.get("propensity_ppm") is None else _int(at["propensity_ppm"]),
            misfit=str(at.get("misfit", "")),
            kept={n: v for n, v in flags.items() if n == "plan.problem" or n == "plan.option" or n.startswith(_VALUE)},
        )

    @property
    def erased(self) -> bool:
        """There was an answer, and it cannot be read any more."""
        return self.status == "answered" and self.answer is None


@dataclass(frozen=True, slots=True)
class Planned:
    """The option that a plan comes to, with the values that were filled in; or the problem, and no option."""

    option: Rule | None
    values: Mapping[str, Filled] = field(default_factory=dict)
    problem: str = ""
    free: frozenset[str] = frozenset()  # values that may hold anything: they are not recorded in the clear

    def scalars(self) -> dict[str, Scalar]:
        """What a decision records of it: no text that the planner was free to choose."""
        out: dict[str, Scalar] = {} if self.option is None else {"plan.option": self.option.id}
        if self.problem:
            out["plan.problem"] = self.problem
        return out | {_VALUE + name: value for name, value in sorted(self.values.items()) if name not in self.free}


class _Refused(Exception):
    """Why an answer cannot be used; never what it says."""


def options_of(policy: Policy, row: Rule, evidence: Mapping[str, Value]) -> tuple[Rule, ...]:
    """The options that a planner may choose here: those the row names whose own condition holds, each as the row limits it."""
    assert row.plan is not None
    named = set(row.plan.options)
    return tuple(_limited(option.rule, row) for option in policy.choices if option.rule.id in named and option.matches(evidence))


def _limited(option: Rule, row: Rule) -> Rule:
    """What the row asks of every plan holds for each option: a person, and a tier of risk."""
    changes: dict[str, Any] = {}
    if row.approval == "required":
        changes["approval"] = "required"
    if row.tier > option.tier:
        changes["risk"] = TIERS[row.tier]
    return option.model_copy(update=changes) if changes else option


def answer_type(plan: PlanRow, options: Sequence[Rule]) -> type[BaseModel]:
    """The type of an answer: one of these options, a reason, and the values that they take. Closed and strict.

    One flat object, because that is what every model can be held to; which values go with which option `read_answer` checks.
    """
    fields: dict[str, Any] = {
        "option": (Literal[tuple(option.id for option in options)], Field(description="What to do: one of these, and nothing else.")),
        "rationale": (Annotated[Text, Field(min_length=1, max_length=RATIONALE_CHARS)], Field(description="Why, in a few sentences.")),
    }
    for name in sorted({slot for option in options for slot in slots_of(option)}):
        takers = ", ".join(option.id for option in options if name in slots_of(option))
        fields[name] = (_slot_type(plan.slots[name]) | None, Field(default=None, description=f"Only for: {takers}."))
    config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)
    return create_model("Plan", __config__=config, **fields)


def slots_of(option: Rule) -> tuple[str, ...]:
    """The values that a planner has to fill in for an option, sorted."""
    given: list[object] = list(option.arguments.values())
    if option.offer is not None:
        given.append(option.offer.amount_minor)
    return tuple(sorted({v.removeprefix(FROM_PLAN) for v in given if isinstance(v, str) and v.startswith(FROM_PLAN)}))


def _slot_type(slot: Slot) -> Any:
    match slot.type:
        case "boolean":
            return bool
        case "integer":
            return Annotated[int, Field(ge=slot.min, le=slot.max)]
        case "text":
            return Literal[slot.one_of] if slot.one_of is not None else Annotated[Text, Field(min_length=1, max_length=slot.max_chars)]


def read_answer(policy: Policy, row: Rule, evidence: Mapping[str, Value], asked: Asked | None, decided_at_us: int) -> Planned:
    """What a row that hands over comes to. Never raises: whatever the answer is, there is an option or a problem."""
    assert row.plan is not None
    plan, options = row.plan, options_of(policy, row, evidence)
    if not options:
        return Planned(None, problem="none of the options that its planner may choose applies here")
    if asked is None:
        return Planned(None, problem="its planner was not asked")
    try:
        if asked.status != "answered":
            raise _Refused(_WHY[asked.status].format(planner=asked.planner or plan.planner, n=asked.attempts, reason=asked.reason))
        if asked.oldest_at_us < decided_at_us - plan.max_age_days * DAY_US:
            raise _Refused(f"what its planner was shown is older than {plan.max_age_days} days by now")
        if asked.answer is None:
            return _kept(plan, options, asked)
        option, values = _parse(plan, options, asked.answer)
        if asked.misfit:
            raise _Refused(f"its planner's answer does not fit the contract of {option.tool} at {asked.misfit}")
    except _Refused as refused:
        return Planned(None, problem=str(refused))
    return Planned(option, values, free=_free(plan))


_WHY: dict[Status, str] = {
    "too-long": "its planner's answer is longer than is allowed",
    "failed": "its planner {planner} failed {n} times, the last with {reason}",
    "silent": "its planner {planner} was asked {n} times and no answer was recorded",
    "not-asked": "its planner could not be asked: {reason}",
    "over-budget": "its planner was not asked: {reason}",
}


def _parse(plan: PlanRow, options: Sequence[Rule], answer: str) -> tuple[Rule, dict[str, Filled]]:
    try:
        said = json.loads(answer, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        raise _Refused("its planner's answer is not the JSON that was asked for") from None
    if not isinstance(said, dict):
        raise _Refused("its planner's answer is not the JSON that was asked for")
    if "calls" in said:
        raise _Refused("its planner tried to call a tool, and none is on its list")
    if said.get("option") not in [option.id for option in options]:
        raise _Refused("its planner chose what is not on its list")
    try:
        plain = answer_type(plan, options).model_validate(said).model_dump()
    except (ValidationError, RecursionError) as error:
        found = error.errors(include_input=False, include_url=False, include_context=False) if isinstance(error, ValidationError) else []
        place = str(found[0]["loc"][0]) if found and found[0]["loc"] else "(whole)"
        known = place in {"option", "rationale", *plan.slots}
        raise _Refused(f"its planner's answer is out of bounds at {place if known else '(a field that was not asked for)'}") from None
    (option,) = (option for option in options if option.id == plain["option"])
    wanted = slots_of(option)
    values: dict[str, Filled] = {name: plain[name] for name in plan.slots if plain.get(name) is not None}
    for name in sorted({*wanted} ^ {*values}):
        raise _Refused(
            f"its planner's answer {'lacks' if name in wanted else 'fills in'} {name}, which {option.id} {_takes(name in wanted)}"
        )
    return option, values


def _takes(yes: bool) -> str:
    return "takes" if yes else "does not take"


def _kept(plan: PlanRow, options: Sequence[Rule], asked: Asked) -> Planned:
    """What the decision itself recorded of an answer that is erased: its choice and what was not free text; the rest reads empty."""
    problem = asked.kept.get("plan.problem")
    if isinstance(problem, str):
        return Planned(None, problem=problem)
    option = next((option for option in options if option.id == asked.kept.get("plan.option")), None)
    if option is None:
        return Planned(None, problem="the answer is erased, and the decision names no option that the policy allows")
    values: dict[str, Filled] = {}
    for name in slots_of(option):
        value = asked.kept.get(_VALUE + name, "")
        values[name] = "" if value is None else value
    return Planned(option, values, free=_free(plan))


def _free(plan: PlanRow) -> frozenset[str]:
    return frozenset(name for name, slot in plan.slots.items() if slot.free)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # two readers could understand it differently
        raise ValueError("the same key twice")
    return found


def _int(value: Scalar) -> int:
    return value if isinstance(value, int) else 0


def _uuid(value: Scalar) -> UUID | None:
    return UUID(value) if isinstance(value, str) else None
