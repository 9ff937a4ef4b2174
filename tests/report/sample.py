"""A report that is made up, with every section in it, for tests of the page."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from postsale.projections.outcomes import Frame, Interval, Measure, Movements, MrrPoint
from postsale.report import (
    AgentYear,
    Approvals,
    AtRisk,
    Budget,
    Case,
    Funnel,
    HealthAt,
    Quarter,
    Report,
    RiskMonth,
    Turn,
    Twin,
    TwinLine,
)

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
FRAME = Frame(start=START, end=END, as_of=END, known_at=END)


def measure(name: str, value: float | None, currency: str | None = None, n: int = 40) -> Measure:
    interval = None if value is None else Interval(value - 0.1, value + 0.1, 0.95, "made up")
    return Measure(
        name=name,
        value=value,
        unit="ratio",
        population="all",
        n=n,
        frame=FRAME,
        currency=currency,
        interval=interval,
        numerator=4,
        denominator=n,
    )


def case(kind: str, said: str, rule: str) -> Case:
    then = () if kind == "suppressed" else ((START + timedelta(days=3), f"approved by a person: {said}"),)
    return Case(kind, UUID(int=len(rule)), said, START, "unwell", None if kind == "suppressed" else "call", said, rule, then)  # type: ignore[arg-type]


def sample(said: str = "quite well") -> Report:
    """`said` is in every place that takes text of somebody's."""
    ends = [START + timedelta(days=30 * n) for n in range(7)]
    moved = Movements("EUR", 100_000, 20_000, 0, 5_000, -3_000, -30_000, 0, 92_000)
    agent = AgentYear(
        "renewal-rescue",
        "act",
        10,
        {"acted": 4, "awaiting": 1, "suppressed": 4, "failed": 1},
        {"consent:email/service": 3, f"policy:{said}": 1},
        5,
        2,
        3,
        (
            case("acted", said, "row"),
            case("awaiting", said, "other-row"),
            case("suppressed", said, "consent:email/service"),
            case("suppressed", said, said),
        ),
    )
    return Report(
        tenant=said,
        start=START,
        end=END,
        as_of=END,
        known_at=END,
        position=1_234,
        leaves=1_200,
        root="ab" * 32,
        currency="EUR",
        health=tuple(HealthAt(at, 20 + n, 10 - n, 3, 1, n) for n, at in enumerate(ends)),
        at_risk=(AtRisk(said, 12.3, True, (("usage", 0), ("payments", 40))),),
        risk=tuple(RiskMonth(at, 2, 1, 0, n) for n, at in enumerate(ends[1:])),
        mrr=(MrrPoint(0, "EUR", 100_000, 40),),
        quarters=tuple(Quarter(name, moved, measure("grr", 0.67, "EUR"), measure("nrr", 0.72, "EUR")) for name in ("2026 Q1", "2026 Q2")),
        measures=(measure("grr", 0.6, "EUR"), measure("nrr", 0.7, "EUR"), measure("renewal-rate", 0.8), measure("logo-churn", 0.1)),
        agents=(agent, replace(agent, name=said)),
        approvals=Approvals(10, 5, 1, 2, 1, 0, 1, (0.5, 3.0, 44.0)),
        budgets=(Budget(said, "EUR", 500_000, "month", {"2026-01": (20_000, 0), "2026-02": (0, 10_000)}),),
        referrals=Funnel(13, 6, 2, 1),
        turns=(Turn(START, "policy", said, "act", said),),
        seed=3,
        twin=Twin(
            (
                TwinLine("customers kept", "customers", 30, 28, 40, 0.05, 0.0, 0.1),
                TwinLine("mrr", "EUR", 9_000, 8_000, 40, 25.0, -5.0, 60.0),
            ),
            tuple((at, 100_000, 90_000) for at in ends),
            {"offer": (5, 1, 3_000)},
            said,
        ),
        notes=(said,),
    )


def nothing() -> Report:
    """A tenant of which nothing is known."""
    return Report(
        tenant="acme",
        start=START,
        end=END,
        as_of=END,
        known_at=END,
        position=0,
        leaves=0,
        root="00" * 32,
        currency=None,
        health=(),
        at_risk=(),
        risk=(),
        mrr=(),
        quarters=(),
        measures=(measure("renewal-rate", None, n=0),),
        agents=(),
        approvals=Approvals(0, 0, 0, 0, 0, 0, 0, ()),
        budgets=(),
        referrals=Funnel(0, 0, 0, 0),
        turns=(),
    )
