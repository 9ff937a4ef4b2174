"""The report as one HTML page that needs nothing else: no script, no request, no font. A pure function of the report.

May import the model, `words`, `plots`, `html` and `style`.
"""

from __future__ import annotations

import statistics
from collections import Counter
from datetime import datetime, timedelta
from itertools import dropwhile

from postsale.events import minor_digits
from postsale.projections.outcomes import Measure
from postsale.report import plots, words
from postsale.report.html import Content, Raw, table, tag, text
from postsale.report.model import AgentYear, Case, Report
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
_KINDS = (("acted", "acted"), ("awaiting", "awaiting a person"), ("suppressed", "held back"), ("failed", "failed"))


def page(report: Report) -> str:
    """The whole page; the same report gives the same bytes."""
    made = {
        "health": _health(report),
        "risk": _risk(report),
        "revenue": _revenue(report),
        "decisions": _decisions(report),
        "approvals": _approvals(report),
        "money": _money(report),
        "referrals": _referrals(report),
        "twin": _twin(report),
        "agents": _agents(report),
        "changes": _changes(report),
        "about": _about(report),
    }
    there = [(id_, name) for id_, name in _SECTIONS if made[id_]]
    title = f"{report.tenant}, {words.day(report.start)} to {words.last_day(report.end)}"
    main = tag(
        "main",
        tag("h1", report.tenant),
        tag(
            "p",
            f"{words.day(report.start)} to {words.last_day(report.end)}. As of {_time(report.as_of)}, as known at {_time(report.known_at)}.",
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


def _figure(told: str, legend: Raw | None, plot: Raw, behind: Raw) -> Raw:
    return tag("figure", legend, plot, tag("figcaption", told), tag("details", tag("summary", "The numbers"), behind))


# ---------------------------------------------------------------- customers


def _health(report: Report) -> Raw | None:
    points = list(dropwhile(lambda p: not p.here, report.health))
    if not points:
        return None
    labels = [_month_of(p.at) for p in points]
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
    return _figure(f"{told} Who has left is not in the picture.", _legend(series), plot, behind)


def _risk(report: Report) -> Raw | None:
    months, listed = report.risk, _at_risk(report)
    if not any(m.opened or m.open or m.recovered or m.lost for m in months):
        return listed
    labels = [_month_of(m.at) for m in months]
    series = [
        plots.Series("opened", [m.opened for m in months], "poor"),
        plots.Series("closed: recovered", [-m.recovered for m in months], "good"),
        plots.Series("closed: lost", [-m.lost for m in months], "none"),
    ]
    opened, won, lost = sum(m.opened for m in months), sum(m.recovered for m in months), sum(m.lost for m in months)
    left = months[-1].open - sum(r.open_case for r in report.at_risk)
    gone = f", {left} of them of customers who have left" if left > 0 else ""
    told = f"{opened} risk cases were opened, {won} closed as recovered and {lost} as lost; {months[-1].open} are open at the end{gone}."
    rows = [(_month_of(m.at), m.opened, m.recovered, m.lost, m.open) for m in months]
    behind = table("Risk cases", ("month", "opened", "recovered", "lost", "open at its end"), rows)
    plot = plots.both("risk", "Risk cases opened and closed, month by month", told, plots.columns(labels, series, height=190))
    return text([_figure(told, _legend(series), plot, behind), listed])


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


def _revenue(report: Report) -> Raw | None:
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
    moved = _figure(
        f"{told} What moved it, by quarter.",
        _legend(series),
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
    return text([moved, _figure(caption, legend2, plot2, behind2)])


# ---------------------------------------------------------------- agents


def _decisions(report: Report) -> Raw | None:
    agents = report.agents
    if not agents:
        return None
    series = [plots.Series(told, [a.dispositions.get(kind, 0) for a in agents], kind) for kind, told in _KINDS]
    series = [s for s in series if any(s.values)]
    total = sum(a.triggers for a in agents)
    told = f"{total:,} decisions of {len(agents)} agents, each with the one disposition it has now."
    behind = table(
        "Decisions by agent and disposition",
        ("agent", "may now", "decisions", *(told_ for _, told_ in _KINDS), "goals reached"),
        [
            (a.name, a.mode, a.triggers, *(a.dispositions.get(kind, 0) for kind, _ in _KINDS), f"{a.succeeded} of {a.outcomes}")
            for a in agents
        ],
    )
    plot = plots.both("decisions", "Decisions by agent and disposition", told, plots.bars([a.name for a in agents], series))
    why = Counter[str]()
    for agent in agents:
        for rule, n in agent.suppressed_by.items():
            why[rule.partition(":")[0]] += n
    ranked = sorted(why.items(), key=lambda x: (-x[1], x[0]))
    if not ranked:
        return _figure(told, _legend(series), plot, behind)
    held = [plots.Series("held back", [n for _, n in ranked], "suppressed")]
    told2 = "What held decisions back: " + ", ".join(f"{words.kind_words(kind)} {n}" for kind, n in ranked) + "."
    rows = sorted(
        [(rule, words.rule_words(rule), a.name, n) for a in agents for rule, n in a.suppressed_by.items()],
        key=lambda r: (-r[3], r[0], r[2]),
    )
    behind2 = table("Rules that held decisions back", ("rule", "in words", "agent", "decisions"), rows)
    plot2 = plots.both("held", "What held decisions back", told2, plots.bars([_upper(words.kind_words(kind)) for kind, _ in ranked], held))
    return text(
        [
            _figure(told, _legend(series), plot, behind),
            tag("h3", "What held them back", style="margin-top:24px"),
            _figure("Each decision that was held back names the rule that did it.", None, plot2, behind2),
        ]
    )


_BINS = ((1, "1 h"), (8, "8 h"), (24, "a day"), (72, "3 days"), (168, "a week"), (float("inf"), "longer"))


def _approvals(report: Report) -> Raw | None:
    a = report.approvals
    if not a.asked:
        return None
    parts = (
        ("approved", a.approved, "acted"),
        ("approved after a change", a.edited, "up2"),
        ("rejected", a.rejected, "poor"),
        ("lapsed", a.lapsed, "none"),
        ("overtaken", a.overtaken, "up3"),
        ("still waiting", a.waiting, "awaiting"),
    )
    series = [plots.Series(name, [n], colour) for name, n, colour in parts if n]
    told = f"{a.asked} proposals: " + ", ".join(f"{n} {name}" for name, n, _ in parts if n) + "."
    plot = plots.both("approvals", "What people said to proposals", told, plots.bars(["Proposals"], series))
    behind = table("Proposals", ("answer", "how many"), [(name, n) for name, n, _ in parts])
    first = _figure(told, _legend(series), plot, behind)
    if not a.hours:
        return first
    counts, low = [], 0.0
    for high, _ in _BINS:
        counts.append(sum(low < h <= high or (low == 0 and h == 0) for h in a.hours))
        low = high
    labels = [label for _, label in _BINS]
    told2 = f"{len(a.hours)} answers; half of them within {words.duration(statistics.median(a.hours))}, the slowest after {words.duration(a.hours[-1])}."
    plot2 = plots.both(
        "hours", "How long answers took", told2, plots.columns(labels, [plots.Series("answers", counts, "acted")], height=160)
    )
    return text(
        [first, _figure(told2, None, plot2, table("How long answers took", ("up to", "answers"), zip(labels, counts, strict=True)))]
    )


def _money(report: Report) -> Raw | None:
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
            _figure(
                told + (" The dashed line is the limit." if mark else ""),
                _legend(series),
                plot,
                table(f"Budget {b.name}", ("period", "given", "promised"), rows),
            )
        )
    return text(out) if out else None


def _referrals(report: Report) -> Raw | None:
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
    return _figure(told, None, plot, table("Invitations of the period", ("step", "how many"), steps))


def _twin(report: Report) -> Raw | None:
    twin = report.twin
    if twin is None:
        return None
    scale = 10 ** minor_digits(report.currency or "EUR")
    labels = [_month_of(at) for at, _, _ in twin.months]
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
        [(_month_of(at), words.money(a, report.currency), words.money(b, report.currency)) for at, a, b in twin.months],
    )
    rows: list[tuple[Content, ...]] = []
    for line in twin.lines:
        if line.unit in {"customers", "contracts", "referrals"}:
            sums = (f"{line.with_agents:,}", f"{line.without:,}", words.signed(line.difference))
            mean, low, high = (f"{x:+.3f}".replace("-", "−") for x in (line.mean, line.low, line.high))
        else:
            sums = (words.money(line.with_agents, line.unit), words.money(line.without, line.unit), _plus(line.difference, line.unit))
            mean, low, high = (_plus(round(x), line.unit) for x in (line.mean, line.low, line.high))
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
        [(name, reached, words.signed(kept), _plus(mrr, report.currency)) for name, (reached, kept, mrr) in twin.by_action.items()],
    )
    intro = tag("p", twin.method)
    return text([intro, _figure(told, _legend(series), plot, months), compared, actions])


def _agents(report: Report) -> Raw | None:
    return text([_agent(report, a) for a in report.agents]) if report.agents else None


def _agent(report: Report, a: AgentYear) -> Raw:
    counted = ", ".join(f"{a.dispositions[kind]} {told}" for kind, told in _KINDS if a.dispositions.get(kind))
    goals = f" Of {a.outcomes} goals that are known, {a.succeeded} were reached." if a.outcomes else ""
    return tag(
        "article",
        tag("h3", a.name),
        tag("p", f"May now {a.mode}. {a.triggers} decisions: {counted}.{goals}", class_="soft"),
        tag("ul", *(_case(case, report) for case in a.cases), class_="cases"),
        class_="agent",
    )


def _case(case: Case, report: Report) -> Raw:
    what = "do nothing" if case.action is None else case.action.replace("-", " ")
    if case.kind == "suppressed":
        title = f"Held back: {words.rule_words(case.rule)}"
    elif case.kind == "awaiting":
        title = f"Awaiting a person: {what}" if case.until is None else f"Awaited a person until {words.day(case.until)}: {what}"
    else:
        title = f"Acted: {what}"
    of = f"{case.customer}, {words.day(case.at)}, asked because of {case.condition}"
    then = words.then_words(case.then)
    return tag(
        "li",
        tag("p", tag("b", title)),
        tag("p", of, class_="kind"),
        tag("p", case.because),
        tag("p", f"Then: {then}.", class_="kind") if then else None,
        tag("p", tag("code", f"postsale decision explain {str(case.decision_id)[:8]} --tenant {report.tenant}")),
        class_=case.kind,
    )


# ---------------------------------------------------------------- the end


def _changes(report: Report) -> Raw | None:
    if not report.turns:
        return None
    rows = [(words.day(t.at), t.what, t.name, t.to, t.reason) for t in report.turns]
    return table("What people changed about agents, and why", ("when", "what", "whose", "to", "reason"), rows)


def _about(report: Report) -> Raw:
    facts: list[tuple[str, Content]] = [
        ("Tenant", report.tenant),
        ("Period", f"{_time(report.start)} up to {_time(report.end)}"),
        ("True in the world as of", _time(report.as_of)),
        ("Known to the log at", _time(report.known_at)),
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


# ---------------------------------------------------------------- inside


def _legend(series: list[plots.Series]) -> Raw:
    return plots.legend([(s.name, s.colour) for s in series])


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


def _plus(minor: int, currency: str | None) -> str:
    shown = words.money(minor, currency)
    return shown if minor <= 0 else f"+{shown}"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _month_of(end: datetime) -> str:
    """The month that ends at a time, short; with the year in January, and at the beginning of a period."""
    return f"{end - timedelta(microseconds=1):%b %y}"


def _period(period: str) -> str:
    """A month of a budget, short; a quarter or a year as it is named."""
    try:
        return f"{datetime.strptime(period, '%Y-%m'):%b %y}"  # noqa: DTZ007, it is a month
    except ValueError:
        return period


def _upper(told: str) -> str:
    return told[:1].upper() + told[1:]
