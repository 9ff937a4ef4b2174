"""Guardrails: what may stop an action. Pure: they look at a `Context` of recorded values and say a verdict each.

All are evaluated and recorded, in one fixed order, also after one has failed; the first that failed names the disposition.
They suppress and never defer: what is not allowed now is decided anew at the next trigger. No clock, no log, no tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from postsale.agents.expressions import Value
from postsale.agents.policy import NO_ACTION, Budget, Policy, ProbabilityFloor, Rule
from postsale.aggregates.artifacts import AgentControl, Mode
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import Offer, Scalar, Verdict
from postsale.events import DAY_US, from_us

SWITCHES = ("agent", "tenant", "everything")  # in the order of `artifacts.switch_streams`


class ToolRef(NamedTuple):
    """A tool as a decision sees it: enough to name it, never to call it."""

    name: str  # name@version
    kind: str  # idempotent, queryable, unsafe
    digest: str  # of its contract

    @property
    def text(self) -> str:
        """How a decision records it."""
        return f"{self.kind}:{self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What guardrails look at, as plain values, so that a decision can record them and be judged again from them."""

    local_time: str  # HH:MM on the customer's clock
    time_zone: str
    consent: Mapping[str, bool]  # by channel, for the policy's purpose
    touches: Mapping[int, int]  # window in days -> contacts in it, made or promised
    budget_left_minor: int | None = None  # of the period, after reservations
    budget_period: str = ""
    paused_by: str = ""  # "", or which switch: agent, tenant, everything
    merged: bool = False  # the customer is part of another one
    probability_ppm: int | None = None  # of the policy's floor; None when no calibrated model says so

    def scalars(self) -> dict[str, Scalar]:
        """The context as a decision records it. `from_scalars` is the inverse."""
        out: dict[str, Scalar] = {
            "local_time": self.local_time,
            "time_zone": self.time_zone,
            "paused_by": self.paused_by,
            "merged": self.merged,
            "budget_left_minor": self.budget_left_minor,
            "budget_period": self.budget_period,
        }
        out |= {f"consent.{channel}": given for channel, given in self.consent.items()}
        out |= {f"touches.{days}d": count for days, count in self.touches.items()}
        if self.probability_ppm is not None:
            out["probability_ppm"] = self.probability_ppm
        return out

    @classmethod
    def from_scalars(cls, values: Mapping[str, Scalar]) -> Context:
        """The context that a decision recorded."""
        left, likely = values.get("budget_left_minor"), values.get("probability_ppm")
        return cls(
            local_time=str(values["local_time"]),
            time_zone=str(values["time_zone"]),
            consent={k[8:]: v is True for k, v in values.items() if k.startswith("consent.")},
            touches={int(k[8:-1]): v for k, v in values.items() if k.startswith("touches.") and isinstance(v, int)},
            budget_left_minor=left if isinstance(left, int) else None,
            budget_period=str(values.get("budget_period") or ""),
            paused_by=str(values.get("paused_by") or ""),
            merged=values.get("merged") is True,
            probability_ppm=likely if isinstance(likely, int) else None,
        )


def look(
    policy: Policy,
    customer: CustomerAggregate,
    evidence: Mapping[str, Value],
    *,
    now_us: int,
    switches: tuple[AgentControl, ...] = (),
    budget_left_minor: int | None = None,
) -> Context:
    """The context of one decision. `switches` are the states of `artifacts.switch_streams`, in that order."""
    g = policy.guardrails
    zone = _zone(evidence.get("time_zone"), g.quiet_hours.default_zone if g.quiet_hours else "UTC")
    likely = evidence.get(g.probability.input) if g.probability else None
    paused = [name for name, state in zip(SWITCHES, switches, strict=False) if state.paused]
    return Context(
        local_time=from_us(now_us).astimezone(ZoneInfo(zone)).strftime("%H:%M"),
        time_zone=zone,
        consent={c: customer.may_contact(c, g.purpose) for c in policy.channels},
        touches={d: contacts(customer, now_us, d) for d in sorted({f.days for f in g.frequency})},
        budget_left_minor=budget_left_minor,
        budget_period=period(g.budget, now_us) if g.budget else "",
        paused_by=paused[0] if paused else "",
        merged=customer.merged_into is not None,
        probability_ppm=likely if type(likely) is int else None,
    )


def contacts(customer: CustomerAggregate, now_us: int, days: int) -> int:
    """Contacts made or promised within the last `days`, by any agent. Exactly `days` ago still counts."""
    return sum(1 for touch in customer.touches if touch.at_us >= now_us - days * DAY_US)


def period(budget: Budget, now_us: int) -> str:
    """The calendar period, in UTC, that money is taken from: 2026-11, 2026-Q4 or 2026."""
    at = from_us(now_us)
    match budget.per:
        case "month":
            return f"{at:%Y-%m}"
        case "quarter":
            return f"{at:%Y}-Q{(at.month + 2) // 3}"
        case "year":
            return f"{at:%Y}"


def is_quiet(local_time: str, start: str, end: str) -> bool:
    """Whether `HH:MM` lies in [start, end); a window whose end is before its start passes midnight."""
    if start < end:
        return start <= local_time < end
    return local_time >= start or local_time < end


def judge(
    policy: Policy,
    chosen: Rule | None,
    no_row: str,
    offer: Offer | None,
    context: Context,
    *,
    mode: Mode,
    depth: int,
    tools: Mapping[str, ToolRef],
) -> tuple[Verdict, ...]:
    """Every guardrail's verdict on the chosen row, in order. `no_row` says why there is none: no-rule, not-unique."""
    g = policy.guardrails
    channel = chosen.channel if chosen else None
    out = [
        _say("kill-switch", f"kill-switch:{context.paused_by or 'agent'}", not context.paused_by, "paused", "not paused"),
        _say("identity", "identity:merged", not context.merged, "this customer is part of another one", "stands on its own"),
        _policy(chosen, no_row),
        _say(
            "depth",
            f"depth:{g.max_depth}",
            depth <= g.max_depth,
            f"depth {depth}: too many of our own effects in the chain",
            f"depth {depth}",
        ),
        _tool(chosen, tools),
    ]
    if channel is None:
        out.append(_say("consent", "consent:none", True, "", "this does not contact the customer"))
    else:
        given = context.consent.get(channel, False)
        out.append(_say("consent", f"consent:{channel}/{g.purpose}", given, "not given; unknown is no", "given"))
    for f in g.frequency:
        made = context.touches.get(f.days, 0)
        ok = channel is None or made < f.count
        out.append(_say("frequency", f"frequency:{f.count}/{f.days}d", ok, f"{made} contacts already", f"{made} contacts"))
    if (q := g.quiet_hours) is not None:
        ok = channel is None or not is_quiet(context.local_time, q.start, q.end)
        at = f"{context.local_time} in {context.time_zone}"
        out.append(_say("quiet-hours", f"quiet-hours:{q.start}-{q.end}", ok, at, at))
    if g.budget is not None:
        out.append(_budget(g.budget, offer, context))
    if g.probability is not None:
        out.append(_probability(g.probability, chosen, context))
    out.append(_authority(chosen, offer))
    out.append(_say("autonomy", f"autonomy:{mode}", mode != "observe", "the agent observes", f"the agent may {mode}"))
    return tuple(out)


def first_failed(verdicts: tuple[Verdict, ...]) -> str | None:
    """The rule that suppresses: of the first verdict that did not pass, in the fixed order; None when all passed."""
    return next((v.rule for v in verdicts if not v.passed), None)


def over_authority(rule: Rule, offer: Offer | None) -> bool:
    """Whether the offer is above what may be promised without a person."""
    return offer is not None and rule.authority_limit_minor is not None and offer.amount_minor > rule.authority_limit_minor


def _say(guardrail: str, rule: str, passed: bool, no: str, yes: str) -> Verdict:
    return Verdict(guardrail=guardrail, rule=rule, passed=passed, reason=yes if passed else no)


def _policy(chosen: Rule | None, no_row: str) -> Verdict:
    if chosen is None:
        return _say("policy", f"policy:{no_row}", False, "no row decides here", "")
    acts = chosen.action != NO_ACTION
    return _say("policy", f"policy:{chosen.id}", acts, "the row says that nothing is to be done", "the row acts")


def _tool(chosen: Rule | None, tools: Mapping[str, ToolRef]) -> Verdict:
    if chosen is None or chosen.tool is None:
        return _say("tool", "tool:none", True, "", "no tool is needed")
    return _say("tool", f"tool:{chosen.tool}", chosen.tool in tools, "no such tool is installed", "installed")


def _budget(budget: Budget, offer: Offer | None, context: Context) -> Verdict:
    rule = f"budget:{budget.name}/{context.budget_period}"
    if offer is None:
        return _say("budget", rule, True, "", "nothing is offered")
    if offer.currency != budget.currency:
        return _say("budget", rule, False, f"the offer is in {offer.currency}, the budget in {budget.currency}", "")
    left = context.budget_left_minor or 0
    text = f"{offer.amount_minor} of {left} {budget.currency} minor units left"
    return _say("budget", rule, offer.amount_minor <= left, text, text)


def _probability(floor: ProbabilityFloor, chosen: Rule | None, context: Context) -> Verdict:
    rule, likely = f"probability:{floor.of}>={floor.at_least_percent}%", context.probability_ppm
    if chosen is None or chosen.action == NO_ACTION:
        return _say("probability", rule, True, "", "nothing is to be done")
    if likely is None:
        return _say("probability", rule, False, "no calibrated model says how likely; a rank is no probability", "")
    text = f"{likely} parts per million"
    return _say("probability", rule, likely >= floor.at_least_percent * 10_000, text, text)


def _authority(chosen: Rule | None, offer: Offer | None) -> Verdict:
    if chosen is None or offer is None:
        return _say("authority", "authority:none", True, "", "nothing is offered")
    above = over_authority(chosen, offer)
    ok = not above or chosen.approval != "none"
    return _say(
        "authority",
        f"authority:{offer.authority_limit_minor}",
        ok,
        "above the limit, and the row asks no person",
        "a person decides" if above else "within the limit",
    )


def _zone(named: Value, default: str) -> str:
    """The customer's zone, or the policy's default when it is unknown to us or to the zone database."""
    if isinstance(named, str):
        try:
            ZoneInfo(named)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return default
        return named
    return default
