"""The report as one HTML page that needs nothing else: no script, no request, no font. A pure function of the report.

Here are its head, its tiles and the order of its sections. May import the model, `words`, `html`, `style`, `figures` and the sections.
"""

from __future__ import annotations

import statistics

from postsale.report import page_agents, page_customers, page_money, words
from postsale.report.figures import time
from postsale.report.html import Content, Raw, tag, text
from postsale.report.model import Report
from postsale.report.style import CSS

_SECTIONS = (
    ("health", "Health"),
    ("risk", "Risk"),
    ("revenue", "Revenue"),
    ("decisions", "Decisions"),
    ("approvals", "Approvals"),
    ("money", "Money given"),
    ("referrals", "Referrals"),
    ("twin", "With and without agents"),
    ("agents", "Agent by agent"),
    ("changes", "What people changed"),
    ("about", "About this report"),
)


def page(report: Report) -> str:
    """The whole page; the same report gives the same bytes."""
    made = {
        "health": page_customers.health(report),
        "risk": page_customers.risk(report),
        "revenue": page_money.revenue(report),
        "decisions": page_agents.decisions(report),
        "approvals": page_agents.approvals(report),
        "money": page_money.money(report),
        "referrals": page_customers.referrals(report),
        "twin": page_money.twin(report),
        "agents": page_agents.agents(report),
        "changes": page_agents.changes(report),
        "about": _about(report),
    }
    there = [(id_, name) for id_, name in _SECTIONS if made[id_]]
    title = f"{report.tenant}, {words.day(report.start)} to {words.last_day(report.end)}"
    main = tag(
        "main",
        tag("h1", report.tenant),
        tag(
            "p",
            f"{words.day(report.start)} to {words.last_day(report.end)}. As of {time(report.as_of)}, as known at {time(report.known_at)}.",
            class_="soft",
        ),
        tag("p", words.summary(report), class_="lead"),
        _tiles(report),
        tag("nav", *(tag("a", name, href=f"#{id_}") for id_, name in there), aria_label="Sections"),
        *(tag("section", tag("h2", name, id=f"{id_}"), made[id_], aria_labelledby=id_) for id_, name in there),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        Raw(f"<style>{CSS}</style>"),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', main), lang='en')}\n"


def _tiles(report: Report) -> Raw:
    tiles: list[tuple[str, str, str]] = []
    if report.health and report.health[-1].here:
        last = report.health[-1]
        tiles.append((f"{last.here:,}", "customers at the end", f"{last.good:,} good, {last.fair:,} fair, {last.poor:,} poor"))
    for name, label in (("nrr", "net revenue retention"), ("grr", "gross revenue retention"), ("renewal-rate", "contracts renewed")):
        m = report.measure(name)
        if m is not None and m.value is not None:
            n = f"{m.n:,} {'contract ends' if name == 'renewal-rate' else 'customers'}"
            tiles.append((words.percent(m.value), label, "; ".join(x for x in (n, words.interval(m)) if x)))
    churn = report.measure("logo-churn")
    if churn is not None and churn.value is not None:
        tiles.append((f"{churn.numerator:,} of {churn.denominator:,}", "customers of the start were lost", words.interval(churn)))
    total = sum(a.triggers for a in report.agents)
    if total:
        acted = sum(a.dispositions.get("acted", 0) for a in report.agents)
        tiles.append((f"{acted:,} of {total:,}", "decisions of agents acted", "the others were held back, or wait"))
    if report.approvals.hours:
        tiles.append(
            (
                words.duration(statistics.median(report.approvals.hours)),
                "to a person's answer, at the median",
                f"{len(report.approvals.hours):,} answers",
            )
        )
    spent = sum(b.spent_minor for b in report.budgets if b.currency == report.currency)
    if report.budgets:
        tiles.append((words.money(spent, report.currency), "given in offers", "of budgets in this currency"))
    return tag(
        "ul", *(tag("li", tag("b", value), label, tag("small", more) if more else None) for value, label, more in tiles), class_="tiles"
    )


def _about(report: Report) -> Raw:
    facts: list[tuple[str, Content]] = [
        ("Tenant", report.tenant),
        ("Period", f"{time(report.start)} up to {time(report.end)}"),
        ("True in the world as of", time(report.as_of)),
        ("Known to the log at", time(report.known_at)),
        ("Log", f"up to position {report.position:,}"),
        ("Tree", [f"{report.leaves:,} events, root ", tag("code", report.root)]),
    ]
    if report.seed is not None:
        facts.append(("Seed", f"{report.seed}: these customers are made up"))
    notes = [tag("p", note) for note in report.notes]
    said = tag(
        "p",
        "Every number here is computed from the log. Shares and medians come with the number of customers and an interval of 95 %: where like customers"
        " would lie, each counting once. Nobody is left out without being counted as left out. Check that nothing was changed since: ",
        tag("code", "postsale log verify"),
    )
    return text([*notes, tag("dl", *(tag(name, value) for pair in facts for name, value in zip(("dt", "dd"), pair, strict=True))), said])
