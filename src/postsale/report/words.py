"""The report in sentences: what a person who has a minute wants to know, and rules of suppression in plain words. Pure.

May import the model and `events`.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from postsale.events import money_text
from postsale.projections.outcomes import Measure
from postsale.report.model import Report, TwinLine

_RULES: Final[tuple[tuple[str, str], ...]] = (
    (r"autonomy:observe", "it only observed at that time"),
    (r"autonomy:(.+)", "it may go no further than to {0} there"),
    (r"kill-switch:retired", "its agent is retired"),
    (r"kill-switch:policy-retired", "its policy is retired"),
    (r"kill-switch:.*", "the kill switch was thrown"),
    (r"holdout:(.+)", "left alone at random, by the hold-out {0}, so that effects can be told"),
    (r"consent:([^/]+)/(.+)", "no consent to {1} messages by {0}"),
    (r"quiet-hours:(.+)-(.+)", "quiet hours at the customer's, {0} to {1}"),
    (r"frequency:1/(\d+)d", "contacted within the last {0} days already"),
    (r"frequency:(\d+)/(\d+)d", "contacted {0} times within {1} days already"),
    (r"contact-budget:([^/]+)/(\d+)/(\d+)d", "all agents together have reached {1} contacts by {0} in {2} days"),
    (r"sequence:(.+)", "{0}"),
    (r"budget:(.+)", "the budget {0} was used up"),
    (r"policy:(.+)", "its policy says to do nothing here: {0}"),
    (r"conversation:goal", "the goal was reached before it left"),
    (r"conversation:time", "its time was over before it left"),
    (r"conversation:(consent.*)", "consent was withdrawn before it left"),
    (r"conversation:(.+)", "{0} was talking to this customer"),
    (r"approval:rejected", "a person said no"),
    (r"approval:replaced", "a person made something else of it"),
    (r"approval:(?:expired|timed-out)", "nobody answered in time"),
    (r"approval:(.+)", "the proposal lapsed: {0}"),
    (r"override", "a person set it aside"),
    (r"identity:merged", "the customer is part of another one"),
    (r"blast-radius:(\d+)/(\d+)h", "it had decided {0} times within {1} h already"),
    (r"appetite:.*", "riskier than its policy lets it be"),
    (r"probability:(.+)>=(.+)", "a probability of {0} of {1} was not reached"),
    (r"authority:.*", "more than it may offer"),
    (r"tool:(.+)", "no tool {0} is installed"),
)


def rule_words(rule: str) -> str:
    """What suppressed a decision, in plain words; the rule itself where there are none."""
    for pattern, words in _RULES:
        if (found := re.fullmatch(pattern, rule)) is not None:
            return words.format(
                *(group.replace("-", " ") if pattern.startswith(("sequence", "policy")) else group for group in found.groups())
            )
    return rule


_THEN: Final = {
    "outcome: success": "the goal was reached",
    "outcome: none": "the goal was not reached in time",
    "effect succeeded: in the sandbox": "it left, into the sandbox",
    "effect succeeded: confirmed": "it left",
    "conversation ended: goal": "the goal was reached",
}


def then_words(then: Iterable[tuple[datetime, str]]) -> str:
    """What happened to a decision, in order; a day is said once, and that an effect was begun is not."""
    out, said = [], ""
    for at, told in then:
        if told.startswith("effect started"):
            continue
        date = day(at)
        out.append(_THEN.get(told, told) if date == said else f"{date}, {_THEN.get(told, told)}")
        said = date
    return "; ".join(out)


def percent(value: float | None, digits: int = 0) -> str:
    """A ratio in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def money(minor: int, currency: str | None) -> str:
    """An amount as people read it, without cents from a hundred on."""
    text = money_text(abs(minor), currency or "")
    number, _, code = text.partition(" ")
    whole, dot, _ = number.partition(".")
    shown = whole if abs(minor) >= 10_000 or not minor or not dot else number
    return f"{'−' if minor < 0 else ''}{shown} {code}".strip()


def signed(value: int) -> str:
    """A difference with its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else '±'}{abs(value):,}"


def day(at: datetime) -> str:
    """A date, UTC."""
    return f"{at.astimezone(UTC):%d %b %Y}".removeprefix("0")


def last_day(end: datetime) -> str:
    """The last day of a period that ends before `end`."""
    return day(end - timedelta(microseconds=1))


def interval(measure: Measure | None, digits: int = 0) -> str:
    """The interval of a ratio in words; empty where there is none."""
    if measure is None or measure.interval is None:
        return ""
    return f"95 % interval {percent(measure.interval.low, digits)} to {percent(measure.interval.high, digits)}"


def duration(hours: float) -> str:
    """A time in hours, as people say it."""
    if hours < 1:
        return f"{round(60 * hours)} minutes"
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def summary(report: Report) -> str:
    """The period in one paragraph; every number in it is one of the report's."""
    return " ".join(
        sentence for sentence in (_customers(report), _revenue(report), _decisions(report), _people(report), _twin(report)) if sentence
    )


def _customers(report: Report) -> str:
    if not report.health:
        return ""
    first, last = report.health[0], report.health[-1]
    text = f"On {last_day(last.at)} {report.tenant} had {last.here:,} customers: {last.good:,} in good health, {last.fair:,} fair, {last.poor:,} poor"
    text += f", {last.unscored:,} of whom too little is known" if last.unscored else ""
    left = last.left - first.left
    return f"{text}; {left:,} left in the period." if left > 0 else f"{text}."


def _revenue(report: Report) -> str:
    nrr, grr = report.measure("nrr"), report.measure("grr")
    if nrr is None or nrr.value is None or grr is None:
        return ""
    return (
        f"Of every 100 of recurring revenue at the start, {100 * (grr.value or 0):.0f} were kept and {100 * nrr.value:.0f} are there now,"
        f" expansion included ({nrr.n:,} customers)."
    )


def _decisions(report: Report) -> str:
    total = sum(agent.triggers for agent in report.agents)
    if not total:
        return "No agent was asked for anything."
    acted, suppressed = (sum(agent.dispositions.get(name, 0) for agent in report.agents) for name in ("acted", "suppressed"))
    many = "One agent" if len(report.agents) == 1 else f"{len(report.agents)} agents"
    why: dict[str, int] = {}
    for agent in report.agents:
        for rule, n in agent.suppressed_by.items():
            why[rule.partition(":")[0]] = why.get(rule.partition(":")[0], 0) + n
    first = max(why, key=lambda kind: (why[kind], kind), default="")
    most = f", most often by {_KINDS.get(first, first)}" if first else ""
    return f"{many} decided {total:,} {_times(total)}: acted in {acted:,}, held back in {suppressed:,}{most}."


_KINDS: Final = {
    "autonomy": "its being new and only observing",
    "consent": "missing consent",
    "quiet-hours": "quiet hours",
    "frequency": "limits on how often a customer is contacted",
    "policy": "a row of the policy that says to leave the customer alone",
    "conversation": "another conversation with the same customer",
    "approval": "people who said no, changed it, or did not answer",
    "sequence": "something that had happened before",
    "kill-switch": "the kill switch",
    "budget": "used-up budgets",
    "contact-budget": "the contacts of all agents together",
    "override": "people who set it aside",
    "holdout": "hold-outs, so that effects can be told",
    "identity": "being part of another customer",
    "blast-radius": "limits on how often an agent decides",
    "appetite": "its risk",
    "probability": "a probability that was not reached",
    "authority": "limits on what may be offered",
    "depth": "limits on chains of effects",
    "tool": "missing tools",
}


def kind_words(kind: str) -> str:
    """A kind of rule, in plain words."""
    return _KINDS.get(kind, kind)


def _times(n: int) -> str:
    return "time" if n == 1 else "times"


def _people(report: Report) -> str:
    a = report.approvals
    if not a.asked:
        return ""
    took = f", in {duration(statistics.median(a.hours))} at the median" if a.hours else ""
    said = ", ".join(
        f"{n:,} {word}"
        for n, word in (
            (a.approved, "approved"),
            (a.edited, "changed"),
            (a.rejected, "rejected"),
            (a.lapsed, "left to lapse"),
            (a.overtaken, "overtaken"),
        )
        if n
    )
    waiting = f"{a.waiting:,} still {'waits' if a.waiting == 1 else 'wait'}" if a.waiting else ""
    return f"People were asked {a.asked:,} {_times(a.asked)}{took}: {'; '.join(filter(None, (said, waiting)))}."


def _twin(report: Report) -> str:
    if report.twin is None:
        return ""
    kept = next((line for line in report.twin.lines if line.unit == "customers"), None)
    money_lines = [line for line in report.twin.lines if line.unit not in {"customers", "contracts", "referrals"}]
    if kept is None or not money_lines:
        return ""
    told = (
        [f"{abs(kept.difference):,} customer{'s' if abs(kept.difference) != 1 else ''} {_more(kept, 'fewer')}"] if kept.difference else []
    )
    told += [f"{money(abs(m.difference), report.currency)} {_more(m, 'less')} {m.name}" for m in money_lines if m.difference]
    if not told:
        return "Lived again without any agent, the same customers come to the same."
    sure = [line.name for line in (kept, *money_lines) if _sure(line)]
    chance = (
        f"; of these, what is more than chance makes of so few customers: {_and(sure)}"
        if sure
        else "; chance alone makes as much of so few"
    )
    return f"Lived again without any agent, the same customers come to {_and(told)}{chance}."


def _more(line: TwinLine, less: str) -> str:
    return less if line.difference > 0 else "more"


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sure(line: TwinLine) -> bool:
    return line.low > 0 or line.high < 0
