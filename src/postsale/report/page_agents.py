"""The page's sections on agents: what they decided, what people said to it, agent by agent, and what people changed about them.

May import the model, `words`, `plots`, `html` and `figures`.
"""

from __future__ import annotations

import statistics
from collections import Counter

from postsale.report import plots, words
from postsale.report.figures import figure, legend
from postsale.report.html import Raw, table, tag, text
from postsale.report.model import AgentYear, Case, Report

_KINDS = (("acted", "acted"), ("awaiting", "awaiting a person"), ("suppressed", "held back"), ("failed", "failed"))


def decisions(report: Report) -> Raw | None:
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
        return figure(told, legend(series), plot, behind)
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
            figure(told, legend(series), plot, behind),
            tag("h3", "What held them back", style="margin-top:24px"),
            figure("Each decision that was held back names the rule that did it.", None, plot2, behind2),
        ]
    )


_BINS = ((1, "1 h"), (8, "8 h"), (24, "a day"), (72, "3 days"), (168, "a week"), (float("inf"), "longer"))


def approvals(report: Report) -> Raw | None:
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
    first = figure(told, legend(series), plot, behind)
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
    return text([first, figure(told2, None, plot2, table("How long answers took", ("up to", "answers"), zip(labels, counts, strict=True)))])


def agents(report: Report) -> Raw | None:
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


def changes(report: Report) -> Raw | None:
    if not report.turns:
        return None
    rows = [(words.day(t.at), t.what, t.name, t.to, t.reason) for t in report.turns]
    return table("What people changed about agents, and why", ("when", "what", "whose", "to", "reason"), rows)


def _upper(told: str) -> str:
    return told[:1].upper() + told[1:]
