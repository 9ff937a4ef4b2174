"""Limits of a policy that look beyond one decision: tools by their risk, an agent's reach per hour, offers to one customer together.

Their shape, and their verdicts over recorded values. Pure; may import expressions' values, aggregates, events. `policy` imports this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from postsale.agents.expressions import Value
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import Offer, Verdict
from postsale.events import DAY_US, MAX_INT, Currency, Id

Tier = Literal["low", "medium", "high"]
TIERS: tuple[Tier, ...] = ("low", "medium", "high")
MAX_REACH = 10_000


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class ToolRisk(_Table):
    """The riskiest tool, by the tier of its contract, that may be used without a person; with a riskier one a person decides."""

    act: Tier
    by: Id | None = None  # the input that names a customer's segment
    segments: dict[Id, Tier] = {}  # a segment that is not named, or not known: `act`


class BlastRadius(_Table):
    """At most so many decisions that act or ask, about all customers together, within any `hours`; the agent's, in one tenant."""

    decisions: Annotated[int, Field(ge=1, le=MAX_REACH)]
    hours: Annotated[int, Field(ge=1, le=24 * 31)] = 1


class Authority(_Table):
    """What all offers to one customer may come to within any `days` without a person, by any agent, in minor units."""

    amount_minor: Annotated[int, Field(ge=0, le=MAX_INT)]
    currency: Currency
    days: Annotated[int, Field(ge=1, le=3_650)]


class Asked(NamedTuple):
    """A verdict, and whether a person has to decide because of it."""

    verdict: Verdict
    person: bool = False


def tool_risk(limit: ToolRisk, used: Iterable[str], tiers: Mapping[str, str], evidence: Mapping[str, Value]) -> Asked:
    """On the tools that a decision would use. A tool of which nothing is known is as risky as can be."""
    segment = evidence.get(limit.by) if limit.by is not None else None
    named = str(segment) if segment is not None and str(segment) in limit.segments else None
    most = limit.act if named is None else limit.segments[named]
    worst = max((TIERS.index(tier_of(tiers.get(tool))) for tool in used), default=0)
    above = worst > TIERS.index(most)
    rule = f"tool-risk:{most}" + ("" if named is None else f"/{named}")
    return Asked(_say("tool-risk", rule, True, f"{TIERS[worst]} risk{'; a person decides' * above}"), above)


def reach(limit: BlastRadius, reached: int | None, *, acts: bool) -> Asked:
    """On how many decisions acted already. None is not known: nothing more is reached."""
    rule = f"blast-radius:{limit.decisions}/{limit.hours}h"
    if not acts:
        return Asked(_say("blast-radius", rule, True, "nothing is to be done"))
    told = "not known how many" if reached is None else f"{reached} within {limit.hours} h already"
    return Asked(_say("blast-radius", rule, reached is not None and reached < limit.decisions, told))


def authority(limit: Authority, offer: Offer | None, offered_minor: int | None, *, may_ask: bool) -> Asked:
    """On what was offered to this customer before. None is more than is remembered, so a person decides."""
    rule = f"authority:{limit.amount_minor}/{limit.days}d"
    if offer is None:
        return Asked(_say("authority", rule, True, "nothing is offered"))
    if offer.currency != limit.currency:
        return Asked(_say("authority", rule, False, f"the offer is in {offer.currency}, the limit in {limit.currency}"))
    above = offered_minor is None or offered_minor + offer.amount_minor > limit.amount_minor
    before = "more than is remembered" if offered_minor is None else f"{offered_minor}"
    told = f"{before} offered within {limit.days} days, {offer.amount_minor} more"
    if above and not may_ask:
        return Asked(_say("authority", rule, False, f"{told}: above the limit, and the row asks no person"))
    return Asked(_say("authority", rule, True, f"{told}{'; a person decides' * above}"), above)


def offered(limit: Authority, customer: CustomerAggregate, now_us: int) -> int | None:
    """What this customer was offered within the limit's days; exactly that long ago still counts. None: more than is remembered."""
    begin_us = now_us - limit.days * DAY_US
    if customer.offers_forgotten_us >= begin_us:
        return None
    return sum(o.amount_minor for o in customer.offered if o.at_us >= begin_us and o.currency == limit.currency)


def tier_of(said: str | None) -> Tier:
    """The tier that a contract declares; the highest where it says none."""
    return next((tier for tier in TIERS if tier == said), "high")


def _say(guardrail: str, rule: str, passed: bool, reason: str) -> Verdict:
    return Verdict(guardrail=guardrail, rule=rule, passed=passed, reason=reason)
