"""What a report holds: figures with their populations, cases with their reasons, and of what log and time all of it is.

Values only: nothing is read, computed or formatted here. May import `projections.outcomes` and `events`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from postsale.projections.outcomes import Measure, Movements, MrrPoint


@dataclass(frozen=True, slots=True)
class HealthAt:
    """How many customers were in which band at a time, as known at the report's `known_at`."""

    at: datetime
    good: int
    fair: int
    poor: int
    unscored: int  # customers of whom too little is known
    left: int  # whose subscription had ended

    @property
    def here(self) -> int:
        return self.good + self.fair + self.poor + self.unscored


@dataclass(frozen=True, slots=True)
class AtRisk:
    """A customer who is in poor health, or has an open risk case, at the end of the period."""

    customer: str  # as in `Case`
    score: float | None  # 0 to 100
    open_case: bool
    worst: tuple[tuple[str, int], ...]  # parts of the score that cost the most, with their own scores


@dataclass(frozen=True, slots=True)
class RiskMonth:
    """Risk cases of a month: opened and closed in it, open at its end."""

    at: datetime  # its end
    opened: int
    recovered: int
    lost: int
    open: int


@dataclass(frozen=True, slots=True)
class Quarter:
    """A part of the period: its recurring revenue, of one currency."""

    name: str
    movements: Movements
    grr: Measure
    nrr: Measure


@dataclass(frozen=True, slots=True)
class Case:
    """One decision, told: what it was about, what was decided and why, what became of it."""

    kind: Literal["acted", "awaiting", "suppressed"]
    decision_id: UUID
    customer: str  # its name, a part of its reference where names were not asked for, "•••" where it may not be seen
    at: datetime
    condition: str
    action: str | None
    because: str
    rule: str  # that suppressed it, or the row that acted
    then: tuple[tuple[datetime, str], ...]  # what happened to it after it was decided, in order; people are not named
    until: datetime | None = None  # of an awaiting one that somebody has answered since


@dataclass(frozen=True, slots=True)
class AgentYear:
    """One agent over the period."""

    name: str
    mode: str  # how far it may go at the end
    triggers: int  # decisions: every trigger has one
    dispositions: Mapping[str, int]  # acted, awaiting, suppressed, failed
    suppressed_by: Mapping[str, int]  # rule -> how many, the most frequent first
    waited: int  # how many ever waited for a person
    succeeded: int  # outcomes that came
    outcomes: int  # outcomes that are known
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Approvals:
    """What people said to proposals of the period. A proposal that a person made by editing another one is not counted again."""

    asked: int
    approved: int
    edited: int
    rejected: int
    lapsed: int  # nobody answered in time
    overtaken: int  # set aside for another reason: a stop, a goal that was reached, an override
    waiting: int
    hours: tuple[float, ...]  # from proposal to a person's answer, ascending


@dataclass(frozen=True, slots=True)
class Budget:
    """The money of one budget over the period; minor units."""

    name: str
    currency: str
    limit_minor: int | None  # of each month (or other period of the policy), by the policy that is active at the end
    per: str
    months: Mapping[str, tuple[int, int]]  # period -> spent, promised and not spent yet

    @property
    def spent_minor(self) -> int:
        return sum(spent for spent, _ in self.months.values())


@dataclass(frozen=True, slots=True)
class Funnel:
    """Invitations of the period, and what became of them."""

    invited: int
    clicked: int
    registered: int
    converted: int  # and not withdrawn


@dataclass(frozen=True, slots=True)
class Turn:
    """Something that people changed: how far an agent may go, a kill switch, a policy."""

    at: datetime
    what: Literal["autonomy", "kill switch", "policy"]
    name: str
    to: str
    reason: str


@dataclass(frozen=True, slots=True)
class TwinLine:
    """One outcome in the world with agents and in the same world without any, and the mean difference per customer."""

    name: str
    unit: str  # customers, contracts, referrals, or a currency in minor units
    with_agents: int
    without: int
    customers: int  # who are in both worlds
    mean: float  # difference per customer
    low: float  # 95 % of a bootstrap over customers: what like customers would show, not what is known of these
    high: float

    @property
    def difference(self) -> int:
        return self.with_agents - self.without


@dataclass(frozen=True, slots=True)
class Twin:
    """The same simulated customers lived twice: with what agents did, and without. There is none of a log of real customers."""

    lines: tuple[TwinLine, ...]
    months: tuple[tuple[datetime, int, int], ...]  # recurring revenue in minor units: with agents, without
    by_action: Mapping[str, tuple[int, int, int]]  # action -> customers reached, customers kept, recurring revenue kept
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A period of one tenant. `as_of` and `known_at` are those of every figure in it."""

    tenant: str
    start: datetime
    end: datetime
    as_of: datetime
    known_at: datetime
    position: int  # of the newest event that is known at `known_at`
    leaves: int  # of the tenant's tree when the report was made
    root: str  # of that tree, hex
    currency: str | None  # of the money shown; None where there is none
    health: tuple[HealthAt, ...]
    at_risk: tuple[AtRisk, ...]  # the least healthy first
    risk: tuple[RiskMonth, ...]
    mrr: tuple[MrrPoint, ...]
    quarters: tuple[Quarter, ...]
    measures: tuple[Measure, ...]  # of the whole period
    agents: tuple[AgentYear, ...]
    approvals: Approvals
    budgets: tuple[Budget, ...]
    referrals: Funnel
    turns: tuple[Turn, ...]
    seed: int | None = None  # of a simulated story
    twin: Twin | None = None
    notes: tuple[str, ...] = ()  # more sentences, such as what a demo did besides

    def measure(self, name: str) -> Measure | None:
        """The measure of this name in the report's currency; None when there is none."""
        return next((m for m in self.measures if m.name == name and m.currency in (None, self.currency)), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        found: dict[str, Any] = _plain(self)
        return found


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict") and not isinstance(value, Report):
        return value.to_dict()
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value
