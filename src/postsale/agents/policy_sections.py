"""The sections of a policy: triggers, rows and what they promise, the limits that hold for every row, autonomy, outcome.

Lives here: their shape as data. What one means together with the others is in `policy`, what makes one valid in `policy_check`.
No evidence, no clock, no tools. May import aggregates, events.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from postsale.agents.limits import TIERS, Authority, BlastRadius, Tier, ToolRisk
from postsale.agents.planner_policy import PlanRow
from postsale.agents.tables import Kind, Name, Table
from postsale.aggregates.customer import MAX_RECENT, MAX_TOUCHES
from postsale.events import MAX_INT, Currency, Id, Text

MAX_FREQUENCY = 50  # below MAX_TOUCHES, the contacts that a customer's state remembers
assert MAX_FREQUENCY < MAX_TOUCHES

ToolName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*@[1-9][0-9]*$")]
Minor = Annotated[int, Field(ge=0, le=MAX_INT)]
Percent = Annotated[int, Field(ge=0, le=100)]
Days = Annotated[int, Field(ge=1, le=3_650)]
Approval = Literal["required", "when-over-authority", "none"]
Cells = dict[str, JsonValue]  # input name -> cell; checked and compiled by `expressions`


class Trigger(Table):
    """A condition whose rising edge asks the agent to decide. It is down again when `until` holds (default: `when` does not)."""

    id: Name
    when: Cells
    until: Cells | None = None


class OfferRow(Table):
    """Something of value that a row promises. Amounts in minor units; `$input` takes the value from evidence."""

    kind: Id
    amount_minor: Minor | str
    currency: Currency | Annotated[str, Field(pattern=r"^\$")]
    terms: Text


class Rule(Table):
    """One row of the table. `arguments` values: plain, `$input`, `$customer`, `$because`, `$offer.…`, or text with {input}."""

    id: Name
    when: Cells = Field(default_factory=dict)
    action: Name
    tool: ToolName | None = None
    arguments: dict[str, str | int | bool] = Field(default_factory=dict)
    channel: Id | None = None
    offer: OfferRow | None = None
    authority_limit_minor: Minor | None = None
    approval: Approval = "when-over-authority"
    because: Text
    risk_case: bool = False
    risk: Tier | None = None  # of what the row does; None is low
    plan: PlanRow | None = None  # of a row with action = "plan", which a planner decides

    @property
    def output(self) -> dict[str, Any]:
        """What the row does, without its name, its condition and its reason."""
        return self.model_dump(mode="json", exclude={"id", "when", "because"})

    @property
    def tier(self) -> int:
        """How risky the row is: 0 low, 1 medium, 2 high."""
        return TIERS.index(self.risk or "low")


class Frequency(Table):
    """At most `count` contacts with a customer within `days`, by any agent."""

    count: Annotated[int, Field(ge=0, le=MAX_FREQUENCY)]
    days: Annotated[int, Field(ge=1, le=3_650)]


class QuietHours(Table):
    """No contact from `start` (inclusive) to `end` (exclusive), `HH:MM` on the customer's own clock; may pass midnight."""

    start: str
    end: str
    default_zone: Id  # IANA name, for customers whose zone is not known


class SequenceRule(Table):
    """What a customer's past forbids: rows with one of `actions` while at least `count` events of `kinds` lie within the last
    `within_days`, unless one of `unless` happened at or after the newest of them.

    Only events after the newest of a kind in `since` count. Kinds are of facts and of the customer's own decision lane; "person" in
    `unless` stands for a person's yes or command. `then` says what a row does that is forbidden: nothing, or it asks a person.
    """

    id: Name
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1, max_length=20)]
    within_days: Annotated[int, Field(ge=1, le=3_650)]
    count: Annotated[int, Field(ge=1, le=MAX_RECENT)] = 1
    since: tuple[Kind, ...] = ()
    unless: tuple[Kind | Literal["person"], ...] = ()
    actions: tuple[Name, ...] = ()  # (): every row that acts
    then: Literal["suppress", "ask"] = "suppress"


class ProbabilityFloor(Table):
    """Act only where the outcome of the model named `of` is at least this likely. Needs a calibrated model: a rank is no probability."""

    of: Name
    at_least_percent: Annotated[int, Field(ge=0, le=100)]

    @property
    def input(self) -> str:
        """The evidence that says how likely: None for a model that is not calibrated."""
        return f"{self.of}_probability_ppm"


class Appetite(Table):
    """How risky a row may be that the agent does on its own, and one that it may propose at all; riskier ones are suppressed."""

    act: Tier
    propose: Tier = "high"


class Promotion(Table):
    """What must have been so within the last `window_days` before a person may let the agent go one step further."""

    window_days: Days
    decisions: Annotated[int, Field(ge=1, le=MAX_INT)]  # at least so many
    answered: Annotated[int, Field(ge=0, le=MAX_INT)] = 0  # proposals that people said yes or no to, at least
    approved_percent: Percent = 0  # of those, at least
    failed_percent: Percent = 100  # of decisions, at most
    success_percent: Percent = 0  # of known outcomes, at least


class Downgrade(Table):
    """What takes the agent one step back. Shares of the last `window_days`; nothing is said about fewer than `decisions`."""

    window_days: Days
    decisions: Annotated[int, Field(ge=1, le=MAX_INT)]
    rejected_percent: Percent | None = None  # of the proposals that people answered: this much or more
    failed_percent: Percent | None = None  # of decisions
    overridden_percent: Percent | None = None  # of decisions
    automatic: bool = False  # by itself at the next run; else a person does it


class Retirement(Table):
    """What speaks for retiring the policy; a person does it. Shares of the last `window_days`; nothing is said about fewer than `decisions`."""

    window_days: Days
    decisions: Annotated[int, Field(ge=1, le=MAX_INT)]
    rejected_percent: Percent | None = None  # of the proposals that people answered: this much or more
    failed_percent: Percent | None = None  # of decisions
    overridden_percent: Percent | None = None  # of decisions
    success_percent: Percent | None = None  # of known outcomes: this much or less


class Autonomy(Table):
    """How far the agent may go with whom, and what must be so before it goes further, back, or is retired.

    A promotion is always a person's, and so is a retirement.
    """

    by: Id | None = None  # the input that names a customer's segment
    segments: dict[Id, Literal["observe", "propose", "act"]] = Field(default_factory=dict)  # how far at most; not named: `otherwise`
    otherwise: Literal["observe", "propose", "act"] = "act"
    propose: Promotion | None = None  # from observing to proposing
    act: Promotion | None = None  # from proposing to acting
    downgrade: Downgrade | None = None
    retire: Retirement | None = None


class Guardrails(Table):
    """The limits that hold for every row."""

    purpose: Id
    frequency: tuple[Frequency, ...] = ()
    quiet_hours: QuietHours | None = None
    probability: ProbabilityFloor | None = None
    max_depth: Annotated[int, Field(ge=0, le=16)] = 2
    must_not_have_changed: tuple[Kind, ...] = ()
    bound_to: tuple[Id, ...] = ()
    approval_expires_h: Annotated[int, Field(ge=1, le=24 * 365)] = 72
    appetite: Appetite | None = None
    tool_risk: ToolRisk | None = None
    blast_radius: BlastRadius | None = None
    authority: Authority | None = None
    sequence: Annotated[tuple[SequenceRule, ...], Field(min_length=1, max_length=50)] | None = None


class Outcome(Table):
    """Which facts count as success, and within how many days of the decision."""

    on: tuple[Kind, ...]
    within_days: Annotated[int, Field(ge=1, le=3_650)]
