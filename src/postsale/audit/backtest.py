"""Back-tests of agents: what an agent would have decided over history, held against what came of the customers. Pure.

Decisions and rows in, figures out; a rehearsal (`app.rehearsal`) makes the decisions. It says whom the agent would have reached, never
whom it would have saved: what a customer would have done after an action that nobody took, no history shows. Imports `whatif_results`,
`estimate` and the arithmetic of `projections.backtest`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from postsale.audit.estimate import Estimate
from postsale.audit.whatif_results import Result
from postsale.events import DAY_US, iso
from postsale.projections.backtest import Share, losses, shared
from postsale.projections.outcomes.intervals import median_time, ratio_interval
from postsale.projections.outcomes.measure import Interval
from postsale.projections.scoring import PPM

CLAIM: Final = "It says whom the agent would have reached, not whom it would have saved."


class Would(NamedTuple):
    """A decision that would have been made, at one of the times at which the agent looked."""

    customer: str
    at_us: int
    result: Result

    @property
    def reaches(self) -> bool:
        """Whether something leaves for the customer, at once or when a person approves."""
        return self.result.acts and self.result.action is not None


class Stood(NamedTuple):
    """A customer at a time at which the agent looked: asked about by the target, and its horizon is over."""

    customer: str
    at_us: int
    positive: bool
    came_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedOfAgent:
    """What a back-test was about."""

    agent: str
    policy: str  # name and version
    policy_digest: str
    mode: str
    target: str
    outcome: str  # in words, with its horizon
    horizon_us: int
    knowledge: Literal["recorded", "claimed"]
    steps_us: tuple[int, ...]

    @property
    def population(self) -> str:
        """Whose decisions and outcomes are in the figures."""
        days = self.horizon_us // DAY_US
        return (
            f"customers that the target {self.target!r} asks about, whose {days} days are over, at times without an action of"
            f" {self.agent} in the {days} days before or after; of those to whom the outcome came, whoever had none in the {2 * days} days before"
            f" or {days} after"
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What decisions take: messages to customers, people's approvals, money promised by currency in minor units."""

    decisions: int
    contacts: int
    approvals: int
    offers: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"decisions": self.decisions, "contacts": self.contacts, "approvals": self.approvals, "offers_minor": dict(self.offers)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentBacktest:
    """An agent over history. Figures are over `asked.population`; `cost` is of all it would have done."""

    asked: AskedOfAgent
    triggers: int
    dispositions: Mapping[str, int]  # acted, awaiting, failed, "suppressed by RULE"
    problems: int  # visits that failed
    left_out: Mapping[str, int]  # decisions that reach somebody and are in no figure, by reason
    precision: Share  # of the decisions that reach somebody, after which the outcome came
    random: float | None  # the same of as many customers picked at random at the same times
    lift: float | None
    lift_interval: Interval | None
    coverage: Share  # of the customers to whom the outcome came, who would have been reached within the horizon before
    median_days: float | None  # from the first such decision to the outcome
    low_days: float | None
    high_days: float | None
    cost: Cost
    spent: Cost  # the part of it that is on the population: what the reached ones were found with
    worth: Estimate | str  # from its own recorded decisions where their probabilities say so, or why not

    def per_reached(self) -> dict[str, float] | None:
        """What was spent for each customer of `coverage`; None when none was reached."""
        n = self.coverage.hits
        if not n:
            return None
        names = {"decisions": self.spent.decisions, "contacts": self.spent.contacts, "approvals": self.spent.approvals}
        return {name: round(value / n, 6) for name, value in {**names, **{f"offers {c}": m for c, m in self.spent.offers.items()}}.items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON types; no customer is named."""
        a, worth = self.asked, self.worth
        return {
            "agent": a.agent,
            "policy": a.policy,
            "policy_digest": a.policy_digest,
            "mode": a.mode,
            "target": a.target,
            "outcome": a.outcome,
            "horizon_days": a.horizon_us // DAY_US,
            "knowledge": a.knowledge,
            "looked_at": [iso(at) for at in a.steps_us],
            "population": a.population,
            "claim": CLAIM,
            "triggers": self.triggers,
            "dispositions": dict(self.dispositions),
            "problems": self.problems,
            "left_out": dict(self.left_out),
            "precision": self.precision.to_dict(),
            "random": None if self.random is None else round(self.random, 6),
            "lift": None if self.lift is None else round(self.lift, 6),
            "lift_interval": None if self.lift_interval is None else self.lift_interval.to_dict(),
            "coverage": self.coverage.to_dict(),
            "days_before": {"median": self.median_days, "low": self.low_days, "high": self.high_days},
            "cost": self.cost.to_dict(),
            "spent_on_population": self.spent.to_dict(),
            "per_reached": self.per_reached(),
            "worth": worth.to_dict() if isinstance(worth, Estimate) else None,
            "no_worth_because": None if isinstance(worth, Estimate) else worth,
        }


def judge_agent(
    asked: AskedOfAgent,
    would: Sequence[Would],
    stood: Iterable[Stood],
    touched: Mapping[str, Sequence[int]],
    *,
    problems: int = 0,
    worth: Estimate | str = "",
) -> AgentBacktest:
    """The figures. `stood` is everybody at each time, once; `touched` are the times, ascending, at which the agent truly acted on a customer."""
    horizon = asked.horizon_us

    def near(customer: str, at: int, before: int = horizon) -> bool:
        times = touched.get(customer, ())
        return (i := bisect_left(times, at - before)) < len(times) and times[i] <= at + horizon

    reaching = [w for w in would if w.reaches]
    wanted = {(w.customer, w.at_us) for w in reaching}
    there: dict[tuple[str, int], bool] = {}
    base: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    came: set[tuple[str, int]] = set()
    for row in stood:
        untouched = not near(row.customer, row.at_us)
        if (row.customer, row.at_us) in wanted:
            there[row.customer, row.at_us] = row.positive
        if untouched:
            base[row.at_us][0] += row.positive
            base[row.at_us][1] += 1
        if row.came_us is not None:
            came.add((row.customer, row.came_us))
    # Twice, so that no decision that could have reached them is left out for an action near.
    lost = {(customer, at) for customer, at in losses(came, horizon) if not near(customer, at, 2 * horizon)}
    left, judged = Counter[str](), list[Would]()
    for w in reaching:
        if near(w.customer, w.at_us):
            left[f"{asked.agent} truly acted near"] += 1
        elif (w.customer, w.at_us) not in there:
            left["not asked about by the target, or not over yet"] += 1
        else:
            judged.append(w)
    hits = [w.customer for w in judged if there[w.customer, w.at_us]]
    precision = shared(hits, (w.customer for w in judged))
    chances: Counter[str] = Counter()
    for w in judged:
        with_it, among = base[w.at_us]
        chances[w.customer] += PPM * with_it // among
    expected = chances.total() / PPM
    reached, waits = _reached(lost, judged, horizon)
    median, low, high = median_time([(wait, True) for wait in waits]) if waits else (None, None, None)
    return AgentBacktest(
        asked=asked,
        triggers=len(would),
        dispositions=dict(sorted(Counter(_said(w.result) for w in would).items())),
        problems=problems,
        left_out=dict(sorted(left.items())),
        precision=precision,
        random=expected / len(judged) if judged else None,
        lift=len(hits) / expected if expected else None,
        lift_interval=_lift_interval(hits, chances) if expected else None,
        coverage=shared(reached, (customer for customer, _ in lost)),
        median_days=_days(median),
        low_days=_days(low),
        high_days=_days(high),
        cost=_cost(reaching),
        spent=_cost(judged),
        worth=worth,
    )


def _said(result: Result) -> str:
    if result.acts and result.action is None:
        return "nothing to do"
    return f"{result.disposition} by {result.suppressed_by}" if result.suppressed_by else result.disposition


def _reached(lost: set[tuple[str, int]], judged: Sequence[Would], horizon_us: int) -> tuple[list[str], list[int]]:
    """The customers that would have been reached within the horizon before the outcome came, and how long before, the first time."""
    times: dict[str, list[int]] = defaultdict(list)
    for w in judged:
        times[w.customer].append(w.at_us)
    customers, waits = [], []
    for customer, came in sorted(lost):
        before = [at for at in times.get(customer, ()) if came - horizon_us <= at < came]
        if before:
            customers.append(customer)
            waits.append(came - min(before))
    return customers, waits


def _lift_interval(hits: Sequence[str], chances: Counter[str]) -> Interval | None:
    mine = Counter(hits)
    pairs = sorted((PPM * mine[c], chance) for c, chance in chances.items() if chance)  # where nobody had it, there was nothing to find
    return ratio_interval([hit for hit, _ in pairs], [chance for _, chance in pairs])


def _cost(decisions: Sequence[Would]) -> Cost:
    offers: Counter[str] = Counter()
    for w in decisions:
        if w.result.currency:
            offers[w.result.currency] += w.result.offer_minor
    approvals = sum(w.result.disposition == "awaiting" for w in decisions)
    return Cost(len(decisions), sum(w.result.contacts for w in decisions), approvals, dict(sorted(offers.items())))


def _days(us: int | None) -> float | None:
    return None if us is None else round(us / DAY_US, 1)
