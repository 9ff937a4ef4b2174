"""The page's sections on money: what moved recurring revenue, what offers cost, and what the agents changed against the same period without them.

May import the model, `words`, `plots`, `html` and `figures`.
"""

from __future__ import annotations

from datetime import datetime

from postsale.events import minor_digits
from postsale.projections.outcomes import Measure
from postsale.report import plots, words
from postsale.report.figures import figure, legend, month_of, plus
from postsale.report.html import Content, Raw, table, tag, text
from postsale.report.model import Report


def revenue(report: Report) -> Raw | None:
    quarters = report.quarters
    if not quarters:
        return None
    scale, labels = 10 ** minor_digits(report.currency or "EUR"), [q.name for q in quarters]
    kinds = (
        ("new", "up"),
        ("reactivation", "up3"),
        ("expansion", "up2"),
        ("contraction", "down2"),
        ("churn", "down"),
        ("switched", "other"),
    )
    series = [plots.Series(name, [getattr(q.movements, name) / scale for q in quarters], colour) for name, colour in kinds]
    series = [s for s in series if any(s.values)]
    first, last = quarters[0].movements, quarters[-1].movements
    told = f"Monthly recurring revenue went from {words.money(first.opening, report.currency)} to {words.money(last.closing, report.currency)}."
    names = ("opening", "new", "reactivation", "expansion", "contraction", "churn", "switched", "closing")
    rows: list[tuple[Content, ...]] = [(q.name, *(words.money(getattr(q.movements, n), report.currency) for n in names)) for q in quarters]
    behind = table("Monthly recurring revenue, and what moved it", ("quarter", *names), rows)
    moved = figure(
        f"{told} What moved it, by quarter.",
        legend(series),
        plots.both("mrr", "What moved monthly recurring revenue, quarter by quarter", told, plots.columns(labels, series)),
        behind,
    )
    pairs = [("net", "acted", [q.nrr for q in quarters]), ("gross", "poor", [q.grr for q in quarters])]
    rows2 = [(name, colour, [_dot(m) for m in measures]) for name, colour, measures in pairs]
    told2 = "Retention of each quarter's opening customers: " + "; ".join(
        f"{q.name} net {words.percent(q.nrr.value)}, gross {words.percent(q.grr.value)} ({q.nrr.n} customers)" for q in quarters
    )
    behind2 = table(
        "Net and gross revenue retention",
        ("quarter", "customers", "net", "its 95 % interval", "gross", "its 95 % interval", "left out"),
        [
            (q.name, q.nrr.n, words.percent(q.nrr.value, 1), _span(q.nrr), words.percent(q.grr.value, 1), _span(q.grr), _left_out(q.nrr))
            for q in quarters
        ],
    )
    plot2 = plots.both(
        "retention", "Net and gross revenue retention with 95 % intervals, by quarter", told2, plots.dots(labels, rows2, mark=100)
    )
    legend2 = plots.legend([("net, round", "acted"), ("gross, square", "poor")])
    caption = f"{told2}. Lines are 95 % intervals: where like customers would lie."
    return text([moved, figure(caption, legend2, plot2, behind2)])


def money(report: Report) -> Raw | None:
    out: list[Content] = []
    for no, b in enumerate(report.budgets):
        if not b.months and b.limit_minor is None:
            continue
        scale, labels = 10 ** minor_digits(b.currency or "EUR"), list(b.months)
        limit = "no limit is set now" if b.limit_minor is None else f"at most {words.money(b.limit_minor, b.currency)} a {b.per}"
        promised = sum(p for _, p in b.months.values())
        waits = f", and {words.money(promised, b.currency)} promised and not given yet" if promised else ""
        told = f"Budget {b.name}: {words.money(b.spent_minor, b.currency)} given{waits}; {limit}."
        if not any(spent or p for spent, p in b.months.values()):
            out.append(tag("p", told))
            continue
        series = [
            plots.Series("given", [spent / scale for spent, _ in b.months.values()], "acted"),
            plots.Series("promised", [p / scale for _, p in b.months.values()], "awaiting"),
        ]
        series = [s for s in series if any(s.values)]
        top = max(spent + p for spent, p in b.months.values())
        mark = b.limit_minor / scale if b.limit_minor is not None and b.limit_minor <= 4 * top else None
        plot = plots.both(
            f"budget-{no}",
            f"Money of the budget {b.name}",
            told,
            plots.columns([_period(p) for p in labels], series, mark=mark, height=170),
        )
        rows = [(p, words.money(spent, b.currency), words.money(reserved, b.currency)) for p, (spent, reserved) in b.months.items()]
        out.append(
            figure(
                told + (" The dashed line is the limit." if mark else ""),
                legend(series),
                plot,
                table(f"Budget {b.name}", ("period", "given", "promised"), rows),
            )
        )
    return text(out) if out else None


def twin(report: Report) -> Raw | None:
    twin = report.twin
    if twin is None:
        return None
    scale = 10 ** minor_digits(report.currency or "EUR")
    labels = [month_of(at) for at, _, _ in twin.months]
    series = [
        plots.Series("with agents", [one / scale for _, one, _ in twin.months], "acted"),
        plots.Series("without, dashed", [other / scale for _, _, other in twin.months], "poor"),
    ]
    _, one, other = twin.months[-1]
    told = f"Monthly recurring revenue of the same customers: {words.money(one, report.currency)} with agents and {words.money(other, report.currency)} without, at the end."
    plot = plots.both("twin", "Monthly recurring revenue with agents and without", told, plots.lines(labels, series))
    months = table(
        "Monthly recurring revenue",
        ("month", "with agents", "without"),
        [(month_of(at), words.money(a, report.currency), words.money(b, report.currency)) for at, a, b in twin.months],
    )
    rows: list[tuple[Content, ...]] = []
    for line in twin.lines:
        if line.unit in {"customers", "contracts", "referrals"}:
            sums = (f"{line.with_agents:,}", f"{line.without:,}", words.signed(line.difference))
            mean, low, high = (f"{x:+.3f}".replace("-", "−") for x in (line.mean, line.low, line.high))
        else:
            sums = (words.money(line.with_agents, line.unit), words.money(line.without, line.unit), plus(line.difference, line.unit))
            mean, low, high = (plus(round(x), line.unit) for x in (line.mean, line.low, line.high))
        rows.append((line.name, *sums, f"{mean} ({low} to {high})"))
    n = max((line.customers for line in twin.lines), default=0)
    compared = table(
        f"The same {n} customers, each compared with itself",
        ("", "with agents", "without", "difference", "per customer, with its 95 % interval"),
        rows,
    )
    actions = table(
        "What each action truly changed for those it reached; who got several counts under each",
        ("action", "customers reached", "customers kept", "monthly revenue kept"),
        [(name, reached, words.signed(kept), plus(mrr, report.currency)) for name, (reached, kept, mrr) in twin.by_action.items()],
    )
    intro = tag("p", twin.method)
    return text([intro, figure(told, legend(series), plot, months), compared, actions])


def _dot(m: Measure) -> plots.Dot:
    value, between = m.value, m.interval
    return plots.Dot(
        None if value is None else 100 * value,
        None if between is None else 100 * between.low,
        None if between is None else 100 * between.high,
    )


def _span(m: Measure) -> str:
    between = m.interval
    return "–" if between is None else f"{words.percent(between.low, 1)} to {words.percent(between.high, 1)}"


def _left_out(m: Measure) -> str:
    return "; ".join(f"{n} {why}" for why, n in sorted(m.excluded.items())) or "nobody"


def _period(period: str) -> str:
    """A month of a budget, short; a quarter or a year as it is named."""
    try:
        return f"{datetime.strptime(period, '%Y-%m'):%b %y}"  # noqa: DTZ007, it is a month
    except ValueError:
        return period
