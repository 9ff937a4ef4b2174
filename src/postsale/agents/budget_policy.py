"""Budgets in a policy: their table, which period it is, what a decision would use up of each, and the verdicts. Pure.

The ledger that they are kept in is `budget`. `policy` imports this. May import limits' tiers, tables, aggregates, events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from postsale.agents.limits import tier_of
from postsale.agents.tables import Name, Table
from postsale.aggregates.budgets import RISK, contacts_on
from postsale.aggregates.decisions import Offer, Verdict
from postsale.events import MAX_INT, Id, from_us, minor_digits

if TYPE_CHECKING:
    from postsale.agents.policy_sections import Rule

CONTACTS = "contacts"
Per = Literal["day", "month", "quarter", "year"]
Points = Annotated[int, Field(ge=0, le=1_000_000)]


def _unit(text: str) -> str:
    if text not in {CONTACTS, RISK}:
        try:
            minor_digits(text)
        except ValueError:
            raise ValueError('expected "contacts", "risk", or an ISO 4217 currency such as EUR') from None
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected an IANA time zone name, such as Europe/Berlin") from None
    return name


class Weights(Table):
    """Risk points of one use of a tool, by the tier that its contract declares; a tool of which nothing is known is high."""

    low: Points
    medium: Points
    high: Points


class Budget(Table):
    """What may be used up per calendar period, by all decisions under policies that name this budget, or by each agent for itself.

    `unit`: a currency (its minor units, of offers), "contacts" (made on `channel`) or "risk" (points of the tools used, by `weights`).
    """

    name: Name
    unit: Annotated[str, AfterValidator(_unit)]
    limit: Annotated[int, Field(ge=0, le=MAX_INT)]
    per: Per
    of: Literal["tenant", "agent"] = "tenant"  # whose it is
    zone: Annotated[str, AfterValidator(_zone)] | None = None  # in which periods begin; None is UTC
    channel: Annotated[Id, Field(max_length=100)] | None = None  # of contacts
    weights: Weights | None = None  # of risk

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.channel is not None) != (self.unit == CONTACTS):
            raise ValueError("contacts are counted on a channel, and nothing else is")
        if (self.weights is not None) != (self.unit == RISK):
            raise ValueError("risk is counted by weights = { low, medium, high }, and nothing else is")
        return self

    @property
    def counted_in(self) -> str:
        """The unit as the ledger has it."""
        return contacts_on(self.channel) if self.channel is not None else self.unit

    @property
    def currency(self) -> str | None:
        """Of a budget of money."""
        return None if self.unit in {CONTACTS, RISK} else self.unit

    def ledger(self, agent: str) -> str:
        """Under which name it is kept for an agent."""
        return self.name if self.of == "tenant" else f"{self.name}:{agent}"

    def use(self, rule: Rule, offer: Offer | None, tiers: Mapping[str, str]) -> int:
        """What carrying out one row uses up. `tiers`: tool -> the risk that its contract declares."""
        if rule.tool is None:
            return 0
        if self.weights is not None:
            return int(getattr(self.weights, tier_of(tiers.get(rule.tool))))
        if self.channel is not None:
            return int(rule.channel == self.channel)
        return offer.amount_minor if rule.offer is not None and offer is not None and offer.currency == self.unit else 0

    @property
    def words(self) -> str:
        """For people."""
        what = f"{self.currency} minor units" if self.currency else f"contacts by {self.channel}" if self.channel else "risk points"
        each = ", each agent for itself" if self.of == "agent" else ""
        by = self.weights
        weighed = f" (low {by.low}, medium {by.medium}, high {by.high})" if by is not None else ""
        return f"{self.limit} {what}{weighed} per {self.per}{f' in {self.zone}' if self.zone else ''} from budget {self.name}{each}"


class Left(NamedTuple):
    """What may be promised of a budget now."""

    left: int
    period: str
    slice: str = ""  # of the budget, that it would come from


def period(budget: Budget, now_us: int) -> str:
    """The calendar period in the budget's zone: 2026-11-23, 2026-11, 2026-Q4 or 2026. A day of a clock change is one day."""
    at = from_us(now_us).astimezone(ZoneInfo(budget.zone or "UTC"))
    match budget.per:
        case "day":
            return f"{at:%Y-%m-%d}"
        case "month":
            return f"{at:%Y-%m}"
        case "quarter":
            return f"{at:%Y}-Q{(at.month + 2) // 3}"
        case "year":
            return f"{at:%Y}"


def per_of(its: str) -> Per:
    """How long a period is, by its name."""
    return "quarter" if "Q" in its else "day" if len(its) == 10 else "month" if len(its) == 7 else "year"


def needs(budgets: Iterable[Budget], chosen: Sequence[Rule], offer: Offer | None, tiers: Mapping[str, str]) -> dict[str, int]:
    """What carrying out all these rows uses up, by budget."""
    return {b.name: sum(b.use(rule, offer, tiers) for rule in chosen) for b in budgets}


def verdicts(
    budgets: Sequence[Budget], chosen: Sequence[Rule], offer: Offer | None, left: Mapping[str, Left], tiers: Mapping[str, str]
) -> Iterator[Verdict]:
    """One of each budget, in the policy's order: all of them have enough, or nothing is done."""
    wanted = needs(budgets, chosen, offer, tiers)
    currencies = [b.currency for b in budgets if b.currency is not None]
    for budget in budgets:
        has = left.get(budget.name, Left(0, ""))
        passed, reason = wanted[budget.name] <= has.left, f"{wanted[budget.name]} of {has.left} {_words(budget)} left"
        if budget.currency is not None and offer is not None and offer.currency not in currencies:
            passed, reason = False, f"the offer is in {offer.currency}, the budget in {budget.currency}"
        elif not wanted[budget.name]:
            passed, reason = True, "nothing of it is used"
        yield Verdict(guardrail="budget", rule=f"budget:{budget.name}/{has.period}", passed=passed, reason=reason)


def _words(budget: Budget) -> str:
    return f"{budget.currency} minor units" if budget.currency else "risk points" if budget.weights else "contacts"
