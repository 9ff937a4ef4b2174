"""`postsale outcome list|show|effect`: what came of a period, and what agents changed about it.

Prints; computes nothing. May import `app` and everything below it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer
from rich.markup import escape

from postsale.app import Tenant
from postsale.app.outcomes import Outcomes
from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    AsOf,
    Commands,
    Db,
    Json,
    KnownAt,
    TenantName,
    emit,
    hint,
    opened,
    out,
    parse_time,
    table,
    tenant_of,
)
from postsale.cli.effects import days_of, left_out, show_effects
from postsale.errors import InvalidInput
from postsale.events import from_us, iso
from postsale.projections.outcomes import Case, Measure, Movements, Rates
from postsale.projections.outcomes.cases import STAGES

outcome_app = Commands(
    no_args_is_help=True, help="What came of a period: retention, churn, renewals, adoption, surveys, referrals.", epilog=EXIT_CODES
)

PeriodText = Annotated[
    str | None,
    typer.Option(
        "--period", help="2026, 2026-Q1, 2026-03 or 2026-01-15..2026-02-14 (days, UTC, both included); by default the last 90 days."
    ),
]
_QUARTER = re.compile(r"(\d{4})-Q([1-4])")
_BARS = "▁▂▃▄▅▆▇█"


def parse_period(text: str | None, now: datetime) -> tuple[datetime, datetime]:
    """The start of a period and its end, exclusive; without a text the 90 days until now. InvalidInput for anything else."""
    if text is None:
        return now - timedelta(days=90), now
    try:
        if found := _QUARTER.fullmatch(text):
            year, month = int(found[1]), 3 * int(found[2]) - 2
            return _month(year, month), _month(year, month + 3)
        if ".." in text:
            first, _, last = text.partition("..")
            return _day(date.fromisoformat(first)), _day(date.fromisoformat(last) + timedelta(days=1))
        if re.fullmatch(r"\d{4}", text):
            return _month(int(text), 1), _month(int(text), 13)
        if re.fullmatch(r"\d{4}-\d{2}", text):
            year, month = int(text[:4]), int(text[5:])
            return _day(date(year, month, 1)), _month(year, month + 1)
    except (ValueError, OverflowError):
        pass
    raise InvalidInput(what="option", field="--period", reason="expected 2026, 2026-Q1, 2026-03 or 2026-01-15..2026-02-14")


def _month(year: int, month: int) -> datetime:
    return datetime(year + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=UTC)


def _day(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _read(
    t: Tenant, now: datetime, period: str | None, as_of: str | None, known_at: str | None, claimed: bool, how: Mapping[str, Any]
) -> Outcomes:
    at = parse_time(as_of)
    start, end = parse_period(period, now if at is None else at)
    return t.outcomes(start, end, as_of=at, known_at=parse_time(known_at), knowledge="claimed" if claimed else "recorded", **how)


Claimed = Annotated[
    bool, typer.Option("--claimed", help="With --known-at: known when its source says so, not when it was recorded; for backfills.")
]
To = Annotated[str | None, typer.Option("--to", help="Convert all money to this currency; with a --rate for each other one.")]
Rate = Annotated[list[str] | None, typer.Option("--rate", help="EUR=1.10: how many units of --to one unit is. Repeatable.")]
RatesOn = Annotated[str | None, typer.Option("--rates-on", help="The day that the rates are of, such as 2026-01-31.")]
Condition = Annotated[
    list[str] | None, typer.Option("--condition", help="agent/condition that means high risk. Repeatable; by default each of every agent.")
]
ReplyWithin = Annotated[
    float | None,
    typer.Option("--reply-within-h", help="The term for first replies to tickets, in hours, wall-clock; gives sla-first-reply."),
]


def _how(
    to: str | None, rate: list[str] | None, rates_on: str | None, condition: list[str] | None, reply_within_h: float | None
) -> dict[str, Any]:
    """What `Tenant.outcomes` is told beyond the period."""
    within = reply_within_h
    if within is not None and not 0 < within <= 87_600:
        raise InvalidInput(what="option", field="--reply-within-h", reason="expected hours above 0")
    if condition is not None and (odd := next((c for c in condition if "/" not in c.strip("/")), None)) is not None:
        raise InvalidInput(what="option", field="--condition", reason=f"expected agent/condition, not {odd!r}")
    how = {"conditions": None if condition is None else frozenset(condition)}
    return how | {"rates": _rates(to, rate, rates_on), "reply_within": None if within is None else timedelta(hours=within)}


def _rates(to: str | None, rate: list[str] | None, on: str | None) -> Rates | None:
    if to is None and rate is None and on is None:
        return None
    if to is None or rate is None or on is None:
        raise InvalidInput(what="option", field="--to", reason="expected --to, --rates-on and a --rate for each other currency together")
    try:
        day = date.fromisoformat(on)
    except ValueError:
        raise InvalidInput(what="option", field="--rates-on", reason="expected a day, such as 2026-01-31") from None
    per_unit = {}
    for text in rate:
        currency, _, units = text.partition("=")
        try:
            per_unit[currency] = Decimal(units)
        except InvalidOperation:
            per_unit[currency] = Decimal("NaN")
        if not (re.fullmatch("[A-Z]{3}", currency) and per_unit[currency].is_finite() and per_unit[currency] > 0):
            raise InvalidInput(what="option", field="--rate", reason="expected a currency and a number above 0, such as EUR=1.10")
    if not re.fullmatch("[A-Z]{3}", to):
        raise InvalidInput(what="option", field="--to", reason="expected an ISO 4217 currency, such as USD")
    return Rates(to, day, per_unit)


@outcome_app.command("list")
def outcome_list(
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    period: PeriodText = None,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    claimed: Claimed = False,
    to: To = None,
    rate: Rate = None,
    rates_on: RatesOn = None,
    condition: Condition = None,
    reply_within_h: ReplyWithin = None,
    json: Json = False,
) -> None:
    """Every outcome of a period: its value, the interval of an estimate, who was counted and who was left out."""
    how = _how(to, rate, rates_on, condition, reply_within_h)
    with opened(db) as ps:
        found = _read(tenant_of(ps, tenant), from_us(ps.clock.now_us()), period, as_of, known_at, claimed, how)
        if json:
            emit(found.to_dict())
            return
        rows = [(m.name, m.currency, _value(m), _interval(m), f"{m.n:,}", _excluded(m), m.note) for m in found.measures]
        shown = [tuple(map(escape, (cell or "" for cell in row))) for row in rows]
        columns = ("outcome", "", "value", "95 % interval", "n", "left out", "note")
        table(f"Outcomes {_span(found)}", columns, shown, right=("value", "n"))
        _history(found)
        hint("postsale outcome show nrr", as_of=as_of, known_at=known_at)


@outcome_app.command("show")
def outcome_show(
    name: Annotated[str, typer.Argument(help="An outcome, as `postsale outcome list` names it, or mrr.")],
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    period: PeriodText = None,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    claimed: Claimed = False,
    to: To = None,
    rate: Rate = None,
    rates_on: RatesOn = None,
    condition: Condition = None,
    reply_within_h: ReplyWithin = None,
    json: Json = False,
) -> None:
    """One outcome in full, for each currency, with the table behind it: movements of MRR, or contract ends and how they were called."""
    how = _how(to, rate, rates_on, condition, reply_within_h)
    with opened(db) as ps:
        t = tenant_of(ps, tenant)
        found = _read(t, from_us(ps.clock.now_us()), period, as_of, known_at, claimed, how)
        measures = [m for m in found.measures if m.name == name]
        if not measures and name != "mrr":
            _none(found, name)
        money = name in {"mrr", "grr", "nrr", "grr-due", "nrr-due", "expansion-rate"}
        contracts = name == "renewal-rate" or name.startswith("call-hits")
        cases, agents = name.startswith("case") or name == "sla-risk-cases", name == "coverage-triggers"
        if json:
            said = {"measures": [m.to_dict() for m in measures]}
            more = {"mrr": [p.to_dict() for p in found.mrr], "movements": [m.to_dict() for m in found.movements]} if money else {}
            ends = {"renewals": [r.to_dict() for r in found.renewals]} if contracts else {}
            more |= {"cases": [c.to_dict() for c in found.cases]} if cases else {}
            more |= {"coverage": [c.to_dict() for c in found.coverage]} if agents else {}
            emit({**found.frame.to_dict(), **said, **more, **ends})
            return
        for m in measures:
            _full(m)
        if money:
            _history(found)
            table(f"Movements {_span(found)}, minor units per month", _MOVED, [_moved(m) for m in found.movements], right=_MOVED[1:])
        if cases:
            _cases(found, t.names())
        if agents:
            _coverage(found)
        if contracts:
            names = t.names()
            rows = [
                (
                    escape(names.get(r.ref, r.ref)),
                    iso(r.renews_at_us)[:10],
                    *(escape(call or "–") for call in (r.model, r.manager, r.final)),
                    {True: "renewed", False: "[red]lost[/]", None: escape(r.why)}[r.renewed],
                    r.by or "",
                )
                for r in found.renewals
            ]
            table("Contract ends", ("customer", "ends", "model", "manager", "final", "what became of it", "by"), rows)


@outcome_app.command("effect")
def outcome_effect(
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    period: PeriodText = None,
    holdout: Annotated[str | None, typer.Option("--holdout", help="Only the hold-out of this name.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Only customers that this agent's decisions brought in.")] = None,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    json: Json = False,
) -> None:
    """What agents changed: customers that entered in the period, acted on less held out at random, as they are at its end.

    Needs a policy with [holdout]; without one there is no estimate.
    """
    with opened(db) as ps:
        at = parse_time(as_of)
        start, end = parse_period(period, from_us(ps.clock.now_us()) if at is None else at)
        reports = tenant_of(ps, tenant).effects(start, end, holdout=holdout, agent=agent, as_of=at, known_at=parse_time(known_at))
        if json:
            emit({"effects": [r.to_dict() for r in reports]})
            return
        for r in reports:
            show_effects(r)
        hint("postsale outcome list", as_of=as_of, known_at=known_at)


def _cases(found: Outcomes, names: Mapping[str, str]) -> None:
    """By who opened them, then each: what came of it and how long it took."""
    openers: dict[str, list[Case]] = {}
    for c in found.cases:
        openers.setdefault(c.opened_by, []).append(c)
    counted = [
        (
            escape(by),
            *(
                f"{n:,}"
                for n in (len(of), *(sum(c.result == r for c in of) for r in (None, "recovered", "lost")), sum(c.missed for c in of))
            ),
        )
        for by, of in sorted(openers.items())
    ]
    columns = ("opened by", "cases", "open", "recovered", "lost", "missed a term")
    table(f"Risk cases {_span(found)}", columns, counted, right=columns[1:])
    rows = [
        (
            escape(names.get(c.ref, c.ref)),
            iso(c.opened_us)[:10],
            escape(c.reason),
            ", ".join(f"{stage} {c.hours(stage) / 24:.1f} d" for stage in STAGES if c.hours(stage)),
            {"recovered": "recovered", "lost": "[red]lost[/]", None: "open"}[c.result],
        )
        for c in found.cases
    ]
    table("Each of them", ("customer", "opened", "why", "time in stages", "what came of it"), rows)


def _coverage(found: Outcomes) -> None:
    columns = ("agent", "triggers", "acted", "awaiting", "suppressed", "failed", "waiting", "suppressed by")
    rows = [
        (
            escape(c.agent),
            f"{c.triggers:,}",
            *(f"{c.dispositions.get(name, 0):,}" for name in columns[2:6]),
            f"{c.waiting:,}",
            escape(", ".join(f"{rule} {n:,}" for rule, n in c.suppressed_by.items())),
        )
        for c in found.coverage
    ]
    table(f"Triggers by agent {_span(found)}, as they were decided", columns, rows, right=columns[1:7])


def _none(found: Outcomes, name: str) -> None:
    if name in {"grr", "nrr", "grr-due", "nrr-due"}:
        out.print(f"[bold]{name}[/] {_span(found)}: nobody had recurring revenue at the start")
    else:
        found.measure(name)  # raises, and names those there are


_MOVED = ("currency", "opening", "new", "reactivation", "expansion", "contraction", "churn", "switched", "closing")


def _moved(m: Movements) -> tuple[str, ...]:
    return (m.currency, *(f"{getattr(m, name):,}" for name in _MOVED[1:]))


def _full(m: Measure) -> None:
    of = f"  [dim]{escape(_parts(m))}[/]" if m.denominator is not None else ""
    out.print(f"[bold]{escape(m.name)}[/] {m.currency or ''} {_value(m)}{of}")
    out.print(f"  population  {m.n:,} {escape(m.population)}{f', cohort {escape(m.cohort)}' if m.cohort else ''}")
    if m.excluded:
        out.print(f"  left out    {escape(_excluded(m))}")
    if m.interval is not None:
        out.print(f"  interval    {_interval(m)}, of {round(100 * m.interval.level)} %: [dim]{escape(m.interval.source)}[/]")
    if m.note:
        out.print(f"  note        {escape(m.note)}")
    times = m.frame.to_dict()
    out.print(
        f"  [dim]{times['start'][:10]} until {times['end'][:10]}, as of {times['as_of']}, known by {times['known_at']} ({times['knowledge']})[/]"
    )


def _parts(m: Measure) -> str:
    return f"= {m.numerator:,} / {m.denominator:,}{' minor units' if m.currency else ''}"


def _history(found: Outcomes) -> None:
    """A line of bars for each currency, from 0 to its greatest month."""
    for currency in dict.fromkeys(p.currency for p in found.mrr):
        points = [p for p in found.mrr if p.currency == currency]
        bars = spark([p.mrr_minor for p in points])
        first, last = points[0], points[-1]
        out.print(
            f"MRR {escape(currency)} {iso(first.at_us)[:7]} {bars} {iso(last.at_us)[:7]}  "
            f"{last.mrr_minor:,} minor units of {last.customers:,} customers"
        )


def spark(values: Sequence[float]) -> str:
    """A line of bars, from 0 to the greatest value."""
    top = max(values, default=0)
    return "".join(_BARS[0] if top <= 0 else _BARS[min(7, int(8 * v / top))] for v in values)


def _span(found: Outcomes) -> str:
    return days_of(found.frame)


def _value(m: Measure) -> str:
    return "–" if m.value is None else _figure(m.value, m.unit)


def _interval(m: Measure) -> str:
    return "" if m.interval is None else f"{_figure(m.interval.low, m.unit)} to {_figure(m.interval.high, m.unit)}"


def _figure(value: float, unit: str) -> str:
    if value == float("inf"):
        return "open"
    if unit == "ratio":
        return f"{100 * value:.1f} %"
    return f"{value:,.1f} {unit}" if unit in {"days", "hours"} else f"{value:,.2f}"


def _excluded(m: Measure) -> str:
    return left_out(m.excluded)
