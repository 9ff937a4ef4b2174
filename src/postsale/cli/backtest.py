"""`postsale backtest`: how good a score or an agent would have been over a log's own history, or over a simulated vendor's. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.markup import escape

from postsale.agents import Agent, Policy
from postsale.aggregates.artifacts import MODES, Mode
from postsale.app import PostSale, Tenant
from postsale.audit import AgentBacktest
from postsale.audit.backtest import CLAIM
from postsale.audit.estimate import Estimate
from postsale.cli.common import DEFAULT_DB, Db, Json, TenantName, emit, hint, imported, opened, out, parse_time, steps, table, tenant_of
from postsale.cli.models import days_of, knowledge_of
from postsale.cli.named import agent_named
from postsale.errors import InvalidInput
from postsale.events import ManualClock, iso, money_text
from postsale.projections import Features
from postsale.projections.backtest import Calibration, Period, ScoreBacktest, Share, Slice
from postsale.projections.backtest_scores import Score, feature_score
from postsale.projections.outcomes.measure import Interval
from postsale.simulator import TROUBLED, Truth, Vendor
from postsale.simulator.past import fill, true_effect

_DAYS, _WARM = 270, 30
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class _World:
    """Where a back-test looks, and the vendor behind it where it is simulated."""

    ps: PostSale
    tenant: Tenant
    vendor: Vendor | None = None


def backtest(
    score: Annotated[
        str | None,
        typer.Argument(
            help="health, a model's name (what scored then), NAME@DIGEST, prior:NAME, warehouse:MODEL@VERSION, or feature:NAME; or --agent."
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", help="Instead of a score: a shipped agent, a policy file, or module:Agent.")
    ] = None,
    field: Annotated[
        str | None, typer.Option("--field", help="Instead of a score: a feature of your own, as module:Class.feature.")
    ] = None,
    begin: Annotated[str | None, typer.Option("--from", help="From this date or RFC 3339 time on.")] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="Up to this date (its end, UTC) or time. [default: while the horizon is over]")
    ] = None,
    horizon: Annotated[str, typer.Option("--horizon", help="Within how many days the outcome counts.")] = "90d",
    target: Annotated[
        str, typer.Option("--target", help="The outcome: churn, renewal, expansion, referral, or one of your own.")
    ] = "churn",
    every: Annotated[
        str | None, typer.Option("--every", help="How far apart to look. [default: the first of each month; an agent: 7d]")
    ] = None,
    knowledge: Annotated[
        str,
        typer.Option("--knowledge", help="recorded: what this log knew. claimed: what sources say was knowable; for imported histories."),
    ] = "recorded",
    rising: Annotated[
        bool | None, typer.Option("--rising/--falling", help="Whether a greater score makes the outcome likelier. [default: by the score]")
    ] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="One more line through the score, in its own units.")] = None,
    mode: Annotated[str, typer.Option("--mode", help="How far the agent may go: observe, propose or act.")] = "act",
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Over a simulated vendor's past instead, where the true effect of an agent is known.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="With --simulated: the same seed gives the same past.")] = 7,
    customers: Annotated[int, typer.Option("--customers", min=5, max=2_000, help="With --simulated.")] = 60,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """How good a score or an agent would have been: precision, lift, calibration, lead time, reach and cost, by what was known at each time.

    Of an agent it says whom it would have reached, never whom it would have saved.
    """
    if sum(one is not None for one in (score, agent, field)) != 1:
        raise InvalidInput(what="option", field="score", reason="name one score, such as health, or one --agent, or one --field")
    how: Mode | None = next((m for m in MODES if m == mode), None)
    if how is None:
        raise InvalidInput(what="option", field="--mode", reason=f"expected one of {', '.join(MODES)}")
    with steps(quiet=json) as tell, _world(db, tenant, tell, seed, customers, simulated=simulated) as world:
        at = _time(begin) if begin is not None else None
        if at is None and world.vendor is not None:
            at = world.vendor.start + timedelta(days=_WARM)
        if at is None:
            raise InvalidInput(what="option", field="--from", reason="say from when on, such as 2025-01-01")
        times: dict[str, Any] = {
            "begin": at,
            "end": parse_time(end),
            "horizon": days_of(horizon, "--horizon"),
            "every": None if every is None else days_of(every, "--every"),
            "knowledge": knowledge_of(knowledge),
            "target": target,
            "on_progress": lambda done, total: tell("looking back", done, total),
        }
        if agent is None:
            what = _field(field) if field is not None else score
            assert what is not None
            found = world.tenant.backtest(what, rising=rising, threshold=threshold, **times)
            emit(found.to_dict()) if json else _show_score(found)
            return
        its = _agent(world.tenant, agent)
        told = world.tenant.backtest(its, mode=how, **times)
        truth = None
        if world.vendor is not None:
            vendor, day, done = world.vendor, (at - world.vendor.start).days, iter(range(1, world.vendor.days + 1))
            truth = true_effect(
                agent_named(agent), vendor, first_day=day, on_day=lambda _: tell("the other world", next(done), vendor.days)
            )
        if json:
            emit({**told.to_dict(), **({} if truth is None else {"true_effect": _truth_dict(truth)})})
        else:
            _show_agent(told, truth)


@contextmanager
def _world(
    db: str, tenant: str | None, tell: Callable[[str, int, int], None], seed: int, customers: int, *, simulated: bool
) -> Iterator[_World]:
    if not simulated:
        with opened(db) as ps:
            yield _World(ps, tenant_of(ps, tenant))
        return
    start = datetime(2026, 1, 5, tzinfo=UTC)
    vendor, clock, done = (
        Vendor(seed, customers=customers, start=start, days=_DAYS, model=TROUBLED),
        ManualClock(start),
        iter(range(1, _DAYS + 1)),
    )
    with PostSale.open("memory:", clock=clock) as ps:
        fill(ps.tenant("vendor"), clock, vendor, lambda _: tell("a vendor's past", next(done), _DAYS))
        yield _World(ps, ps.tenant("vendor"), vendor)


def _time(text: str) -> datetime:
    at = parse_time(f"{text}T00:00:00Z" if len(text) == 10 else text)
    assert at is not None
    return at


def _agent(tenant: Tenant, name: str) -> Agent | Policy:
    """As it decides here now: by the policy that is active, where there is one of its name and it was not given as a file."""
    its = agent_named(name)
    if name.endswith(".toml"):
        return its.policy
    active = tenant.policy(its.policy.name)
    if active is not None:
        its.policy = active
    return its


def _field(text: str) -> Score:
    module, _, rest = text.partition(":")
    cls, _, feature = rest.partition(".")
    found = getattr(imported(module), cls, None)
    if not (isinstance(found, type) and issubclass(found, Features)) or not feature:
        raise InvalidInput(what="option", field="--field", reason="expected module:Class.feature of a declaration of features")
    return feature_score(found, feature)


# ---------------------------------------------------------------- for people


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _range(interval: Interval | None, *, percent: bool = True) -> str:
    if interval is None:
        return ""
    low, high = interval.low, interval.high
    return f"{100 * low:.0f}-{100 * high:.0f} %" if percent else f"{low:.2f}-{high:.2f}"


def _share(share: Share) -> str:
    told = f"{_percent(share.value)} ({share.hits:,} of {share.of:,})"
    return told if share.interval is None else f"{told}, {_range(share.interval)}"


def spark(values: list[float | None]) -> str:
    """A line of bars, the highest full; a dot where nothing is known."""
    most = max((v for v in values if v is not None), default=0)
    return "".join("·" if v is None else _BARS[round(7 * v / most)] if most else _BARS[0] for v in values)


def _show_score(found: ScoreBacktest) -> None:
    a, whole = found.asked, found.whole
    out.print(f"[bold]{escape(a.score)}[/], a {found.gives}: {escape(a.outcome)}; {len(a.cutoffs_us)} cut-offs, knowledge {a.knowledge}")
    left = {"horizon not over": a.censored, "not scored": a.unscored, "not asked about": a.not_asked}
    out.print("Left out: " + " · ".join(f"{name} {n:,}" for name, n in left.items()))
    if whole is None:
        out.print("[yellow]No row is left:[/] nobody is asked about, or the score was fitted on all of this time.")
    else:
        _show_slice(whole)
    _show_periods(found.periods)
    if isinstance(found.calibration, Calibration):
        _show_calibration(found.calibration)
    else:
        out.print(f"[bold]Calibration[/]: none, {found.calibration}.")
    leads = [
        (escape(x.name), _share(x.warned), "–" if x.median_days is None else f"{x.median_days:.0f} d", _days(x.low_days, x.high_days))
        for x in found.leads
    ]
    table(
        "Before the outcome came", ("line", "over it at the last cut-off before", "since, median", "95 %"), leads, right=("since, median",)
    )
    if found.bands:
        rows = [(escape(b.band), _share(b.rate), _share(b.lost)) for b in found.bands]
        table("By band", ("band", "the outcome came", "of all to whom it came, in it at the last cut-off"), rows)


def _days(low: float | None, high: float | None) -> str:
    return "" if low is None else f"{low:.0f} d or more" if high is None else f"{low:.0f}-{high:.0f} d"


def _show_slice(whole: Slice) -> None:
    auc = "–, all came to the same" if whole.auc is None else f"{whole.auc:.3f}, {_range(whole.auc_interval, percent=False)}"
    out.print(f"{whole.rows:,} rows of {whole.customers:,} customers; the outcome came to {_share(whole.base)}; AUC {auc}")
    rows = [
        (
            escape(cut.name),
            _share(cut.precision),
            _share(cut.recall),
            "–" if cut.lift is None else f"{cut.lift:.2f}",
            _range(cut.lift_interval, percent=False),
        )
        for cut in whole.cuts
    ]
    table("Acting on everybody over a line", ("line", "precision", "recall", "lift", "95 %"), rows, right=("lift",))


def _show_periods(periods: tuple[Period, ...]) -> None:
    rows = [
        (
            iso(p.at_us)[:10],
            f"{p.figures.rows:,}",
            f"{p.figures.base.hits:,}",
            _percent(p.figures.base.value),
            "–" if p.figures.auc is None else f"{p.figures.auc:.3f}",
            _range(p.figures.auc_interval, percent=False),
            "fitted on" if p.seen else "",
        )
        for p in periods
    ]
    table("By cut-off", ("at", "rows", "came", "base rate", "AUC", "95 %", ""), rows, right=("rows", "came", "base rate", "AUC"))
    if len(periods) > 1:
        bases = spark([p.figures.base.value for p in periods])
        out.print(f"base rate {bases}  AUC {spark([p.figures.auc for p in periods])}")


def _show_calibration(c: Calibration) -> None:
    within = {True: "within its interval", False: "[yellow]outside its interval[/]", None: "no interval"}[c.within]
    out.print(f"[bold]Calibration[/]: said {_percent(c.said)}, came {_share(c.happened)}: {within}")
    out.print(f"Brier {c.brier:.4f}, of the base rate {c.brier_of_base_rate:.4f}; mean distance {c.error:.4f}; z {c.z:+.2f}")
    rows = [
        (f"{100 * b.lowest:.0f}-{100 * b.highest:.0f} %", _percent(b.said), _bar(b.said), _share(b.happened), _bar(b.happened.value))
        for b in c.bins
    ]
    table("Said and came, by what was said", ("said", "mean", "", "came", ""), rows, right=("mean",))


def _bar(share: float | None) -> str:
    return "█" * round(20 * (share or 0))


def _show_agent(found: AgentBacktest, truth: Truth | None) -> None:
    a = found.asked
    out.print(f"[bold]{escape(a.agent)}[/] by {escape(a.policy)}, mode {a.mode}: {escape(a.outcome)}; it looked {len(a.steps_us)} times")
    rows = [(escape(name), f"{n:,}") for name, n in found.dispositions.items()]
    table(f"Would have decided {found.triggers:,} times", ("disposition", "count"), rows, right=("count",))
    if found.problems:
        out.print(f"[yellow]{found.problems:,} visits failed[/]")
    out.print(f"Figures are over {escape(a.population)}.", soft_wrap=True)
    for name, n in found.left_out.items():
        out.print(f"  left out: {n:,}, {escape(name)}")
    out.print(f"[bold]Precision[/]  of those it reaches, the outcome came to {_share(found.precision)}")
    out.print(f"[bold]At random[/]  as many at the same times: {_percent(found.random)}; lift {_lift(found)}")
    since = "" if found.median_days is None else f"; {found.median_days:.0f} days before, {_days(found.low_days, found.high_days)}"
    out.print(f"[bold]Coverage[/]  of those to whom it came, it would have reached {_share(found.coverage)}{since}")
    out.print(f"[bold]Cost[/]  {_cost(found.cost.decisions, found.cost.contacts, found.cost.approvals, found.cost.offers)}")
    each = found.per_reached()
    if each is not None:
        told = " · ".join(f"{_each(name, value)}" for name, value in each.items())
        out.print(f"[bold]For each of those[/]  {told}")
    out.print(f"[dim]{CLAIM}[/]")
    worth = str(found.worth) if isinstance(found.worth, Estimate) else f"No estimate of what it changes: {found.worth}."
    out.print(escape(worth), soft_wrap=True)
    if truth is not None:
        e = truth.acted
        out.print(
            f"[bold]True effect[/], known because the vendor is simulated: {e.customers:,} customers reached, churn {e.churned:+,},"
            f" renewals {e.renewed:+,}, recurring revenue {e.mrr_minor:+,} minor units a month",
            soft_wrap=True,
        )
    hint("postsale decision whatif --help")


def _lift(found: AgentBacktest) -> str:
    if found.lift is None:
        return "–"
    return f"{found.lift:.2f}" + ("" if found.lift_interval is None else f", {_range(found.lift_interval, percent=False)}")


def _cost(decisions: int, contacts: int, approvals: int, offers: Any) -> str:
    money = "".join(f" · {money_text(minor, currency)} offered" for currency, minor in offers.items())
    return f"{decisions:,} decisions · {contacts:,} contacts · {approvals:,} approvals{money}"


def _each(name: str, value: float) -> str:
    if name.startswith("offers "):
        return f"{money_text(round(value), name.removeprefix('offers '))} offered"
    return f"{value:.1f} {name}"


def _truth_dict(truth: Truth) -> dict[str, Any]:
    def effects(e: Any) -> dict[str, int]:
        names = ("customers", "renewed", "churned", "mrr_minor", "collected_minor", "referrals")
        return {name: getattr(e, name) for name in names}

    return {"acted": effects(truth.acted), "spared": effects(truth.spared), "overall": effects(truth.overall)}
