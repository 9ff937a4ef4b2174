"""The page's sections on customers: their health, who is at risk, whom they invited.

May import the model, `words`, `plots`, `html` and `figures`.
"""

from __future__ import annotations

from itertools import dropwhile

from postsale.report import plots, words
from postsale.report.figures import figure, legend, month_of
from postsale.report.html import Raw, table, text
from postsale.report.model import Report


def health(report: Report) -> Raw | None:
    points = list(dropwhile(lambda p: not p.here, report.health))
    if not points:
        return None
    labels = [month_of(p.at) for p in points]
    series = [
        plots.Series("good", [p.good for p in points], "good"),
        plots.Series("fair", [p.fair for p in points], "fair"),
        plots.Series("poor", [p.poor for p in points], "poor"),
        plots.Series("too little known", [p.unscored for p in points], "none"),
    ]
    first, last = points[0], points[-1]
    told = f"Customers by health at the end of each month: good went from {first.good} to {last.good}, fair from {first.fair} to {last.fair}, poor from {first.poor} to {last.poor}."
    rows = [(words.day(p.at), p.here, p.good, p.fair, p.poor, p.unscored, p.left) for p in points]
    behind = table("Customers by health", ("at", "customers", "good", "fair", "poor", "too little known", "have left"), rows)
    plot = plots.both("health", "Customers by health, month by month", told, plots.areas(labels, series))
    return figure(f"{told} Who has left is not in the picture.", legend(series), plot, behind)


def risk(report: Report) -> Raw | None:
    months, listed = report.risk, _at_risk(report)
    if not any(m.opened or m.open or m.recovered or m.lost for m in months):
        return listed
    labels = [month_of(m.at) for m in months]
    series = [
        plots.Series("opened", [m.opened for m in months], "poor"),
        plots.Series("closed: recovered", [-m.recovered for m in months], "good"),
        plots.Series("closed: lost", [-m.lost for m in months], "none"),
    ]
    opened, won, lost = sum(m.opened for m in months), sum(m.recovered for m in months), sum(m.lost for m in months)
    left = months[-1].open - sum(r.open_case for r in report.at_risk)
    gone = f", {left} of them of customers who have left" if left > 0 else ""
    told = f"{opened} risk cases were opened, {won} closed as recovered and {lost} as lost; {months[-1].open} are open at the end{gone}."
    rows = [(month_of(m.at), m.opened, m.recovered, m.lost, m.open) for m in months]
    behind = table("Risk cases", ("month", "opened", "recovered", "lost", "open at its end"), rows)
    plot = plots.both("risk", "Risk cases opened and closed, month by month", told, plots.columns(labels, series, height=190))
    return text([figure(told, legend(series), plot, behind), listed])


_LISTED = 10


def _at_risk(report: Report) -> Raw | None:
    if not report.at_risk:
        return None
    rows = [
        (
            r.customer,
            "–" if r.score is None else f"{r.score:.0f}",
            "open" if r.open_case else "none",
            ", ".join(f"{n} {v}" for n, v in r.worst),
        )
        for r in report.at_risk[:_LISTED]
    ]
    more = f"; the first {_LISTED} of {len(report.at_risk)}" if len(report.at_risk) > _LISTED else ""
    return table(
        f"At risk at the end: in poor health, or with an open case; who has left is not listed{more}",
        ("customer", "health", "case", "what costs most, of 100"),
        rows,
    )


def referrals(report: Report) -> Raw | None:
    f = report.referrals
    if not f.invited:
        return None
    steps = (("Invited", f.invited), ("Clicked", f.clicked), ("Registered", f.registered), ("Bought", f.converted))
    m = report.measure("referral-conversion-per-invite")
    share = f" That is {words.percent(m.value)} of invitations ({words.interval(m)})." if m is not None and m.value is not None else ""
    told = f"Customers invited {f.invited} others; {f.clicked} looked, {f.registered} registered, {f.converted} bought.{share}"
    plot = plots.both(
        "referrals",
        "Invitations and what became of them",
        told,
        plots.bars([name for name, _ in steps], [plots.Series("invitations", [n for _, n in steps], "good")]),
    )
    return figure(told, None, plot, table("Invitations of the period", ("step", "how many"), steps))
