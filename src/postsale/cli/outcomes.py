"""`postsale outcome list|show|effect`: what came of a period, and what agents changed about it; and the lines of `customer show` about use.

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
from postsale.app.effects import EffectReport
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
from postsale.errors import InvalidInput
from postsale.events import DAY_US, from_us, iso
from postsale.projections import FeatureValues
from postsale.projections.outcomes import Frame, Measure, Movements, Rates

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
        money, contracts = name in {"mrr", "grr", "nrr", "grr-due", "nrr-due"}, name == "renewal-rate" or name.startswith("call-hits")
        if json:
            said = {"measures": [m.to_dict() for m in measures]}
            more = {"mrr": [p.to_dict() for p in found.mrr], "movements": [m.to_dict() for m in found.movements]} if money else {}
            ends = {"renewals": [r.to_dict() for r in found.renewals]} if contracts else {}
            emit({**found.frame.to_dict(), **said, **more, **ends})
            return
        for m in measures:
            _full(m)
        if money:
            _history(found)
            table(f"Movements {_span(found)}, minor units per month", _MOVED, [_moved(m) for m in found.movements], right=_MOVED[1:])
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
            _effects(r)
        hint("postsale outcome list", as_of=as_of, known_at=known_at)


def _effects(r: EffectReport) -> None:
    shares = " and ".join(f"{p} %" for p in r.percent)
    who = f"{r.treated:,} acted on, {r.held_out:,} held out ({shares} of customers, hold-out {r.holdout})"
    rows = []
    for e in r.effects:
        found = e.estimate
        name = f"{e.name}{f' {e.currency}' if e.currency else ''}"
        if found is None:
            rows.append((name, "no estimate", e.why, "", "", _left_out(e.excluded)))
            continue
        value, low, high, treated, held = (
            _change(x, e.unit) for x in (found.value, found.low, found.high, found.treated_mean, found.held_out_mean)
        )
        rows.append(
            (name, value, f"{low} to {high}", f"{treated} of {found.treated:,}", f"{held} of {found.held_out:,}", _left_out(e.excluded))
        )
    columns = ("outcome", "effect", "95 % interval", "acted on", "held out", "left out")
    table(f"Effects {_days(r.frame)}: {escape(who)}", columns, [tuple(map(escape, row)) for row in rows], right=("effect",))
    out.print(f"  [dim]agents: {escape(', '.join(r.agents))}{escape('; ' + _left_out(r.excluded)) if r.excluded else ''}[/]")


def _change(value: float, unit: str) -> str:
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:,.0f}" if unit.startswith("minor units") else f"{value:,.3f}"


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
    return _days(found.frame)


def _days(frame: Frame) -> str:
    return f"{frame.start:%Y-%m-%d} to {from_us(frame.end_us - 1):%Y-%m-%d}"


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
    return _left_out(m.excluded)


def _left_out(excluded: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in excluded.items())


# ---------------------------------------------------------------- one customer


def using_lines(onboarding: FeatureValues, adoption: FeatureValues, advocacy: FeatureValues) -> list[str]:
    """How far a customer's onboarding is, how it uses the product, what it did for us; a line is left out where nothing is known."""
    lines = []
    if onboarding["progress"] is not None or onboarding["time_to_value"] is not None:
        steps = f"{onboarding['steps_done']} of {onboarding['steps_planned']} steps" if onboarding["progress"] is not None else "no plan"
        ttv = onboarding["time_to_value"]
        lines.append(f"onboarding: {steps}, " + ("no value yet" if ttv is None else f"value after {ttv / DAY_US:.0f} days"))
    if adoption["uses"] or adoption["people"]:
        told = [f"{adoption['breadth']} features", f"{adoption['uses']:,} uses"]
        told += [f"{adoption['active']:,} people active"] if adoption["active"] is not None else []
        told += [f"{100 * adoption['utilisation']:.0f} % of {adoption['seats']:,} licences"] if adoption["utilisation"] is not None else []
        told += [f"stickiness {adoption['stickiness']:.2f}"] if adoption["stickiness"] is not None else []
        lines.append(f"adoption, 30 days: {', '.join(told)}")
    if advocacy["given"] or advocacy["invited"]:
        lines.append(
            f"advocacy: {advocacy['given']} acts and reviews, {advocacy['invited']} invited, {advocacy['converted']} of them converted"
        )
    return lines


def using_dict(values: FeatureValues) -> dict[str, object]:
    """Finished values for programs, without the facts that some are derived from."""
    return {name: dict(v) if isinstance(v, Mapping) else v for name, v in values.items() if not isinstance(v, tuple)}
