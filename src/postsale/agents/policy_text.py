"""Policies for people: a table in plain text, and what changed between two versions. Pure; imports policy only."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from postsale.agents import policy_time, tree
from postsale.agents.policy import NO_ACTION, Change, Hit, Policy
from postsale.agents.policy_sections import Cells, Rule

_PAGE = 100  # columns
_WIDTH = 36  # of a cell, at most
_HITS: dict[Hit, str] = {
    "first": "First row that matches",
    "unique": "The only row that matches",
    "any": "Any row that matches; all that match say the same",
    "priority": "Of the rows that match, the most important action",
    "collect": "Every row that matches",
    "output-order": "Every row that matches, the most important action first",
}


def table(policy: Policy) -> str:
    """Header, triggers, rows and limits; no line is longer than a page is wide."""
    g = policy.guardrails
    lines = [f"{policy.name} v{policy.version} ({policy.digest[:12]}), owner {policy.owner}", *wrap(policy.description, 100), ""]
    lines += ["Asked to decide when"]
    for t in policy.triggers:
        until = f", until {_words(policy, t.until, t.id)}" if t.until else ""
        lines.append(f"  {t.id}: {_words(policy, t.when, t.id)}{until}")
    lines += policy_time.lines(policy)
    order = f" ({', '.join(policy.priorities)})" if policy.priorities else ""
    if (its := tree.tree_of(policy)) is not None:
        lines += ["", *tree.lines(policy, its, lambda rule: _row(policy, rule)[2])]
    else:
        lines += ["", _HITS[policy.hit] + order]
        lines += _grid([["row", "when", "then", "because"], *(_row(policy, rule) for rule in policy.rules)])
    if policy.options:
        lines += [
            "",
            "What a planner may choose",
            *_grid([["option", "when", "then", "because"], *(_row(policy, o) for o in policy.options)]),
        ]
    lines += ["", "Limits"]
    for f in g.frequency:
        lines.append(f"  at most {_of(f.count, 'contact')} in {_of(f.days, 'day')}, with consent for {g.purpose}")
    for s in g.sequence or ():
        what = ", ".join(s.actions) or "action"
        does = "no" if s.then == "suppress" else "a person decides about every"
        often = "" if s.count == 1 else f"{s.count} times "
        lines.append(
            f"  {s.id}: {does} {what} within {_of(s.within_days, 'day')} of {often}{' or '.join(s.kinds)}"
            + (f" since the newest {' or '.join(s.since)}" if s.since else "")
            + (f", unless {' or '.join(s.unless)} after it" if s.unless else "")
        )
    if g.quiet_hours:
        lines.append(
            f"  none from {g.quiet_hours.start} to {g.quiet_hours.end} on the customer's clock ({g.quiet_hours.default_zone} when unknown)"
        )
    lines += [f"  {budget.words}" for budget in policy.budgets or ()]
    if g.probability:
        lines.append(f"  only where {g.probability.of} is at least {g.probability.at_least_percent} % likely, by a calibrated model")
    expires = f"an approval expires after {g.approval_expires_h} h" if policy.approvals is None else "approvals as below"
    lines.append(f"  depth {g.max_depth}; {expires}" + _list("; it is void when these change", g.bound_to))
    lines += [] if policy.approvals is None else policy_time.people(policy.approvals)
    lines += policy_time.hours(policy)
    if g.must_not_have_changed:
        lines.append("  decided again when one of these arrives meanwhile: " + ", ".join(g.must_not_have_changed))
    if g.appetite:
        lines.append(f"  on its own up to {g.appetite.act} risk, as a proposal up to {g.appetite.propose}")
    if g.tool_risk:
        by = ", ".join(f"{name} {tier}" for name, tier in sorted(g.tool_risk.segments.items()))
        lines.append(f"  without a person only tools of {g.tool_risk.act} risk at most" + (f"; by {g.tool_risk.by}: {by}" if by else ""))
    if g.blast_radius:
        lines.append(
            f"  at most {_of(g.blast_radius.decisions, 'decision')} that act or ask within {g.blast_radius.hours} h, about all customers"
        )
    if g.authority:
        a = g.authority
        lines.append(f"  above {a.amount_minor} {a.currency} minor units to one customer within {_of(a.days, 'day')} a person decides")
    for name, flag in sorted((policy.flags or {}).items()):
        lines.append(f"  {name} is flag {flag.key}, {flag.default} where nobody can say")
    if (autonomy := policy.autonomy) is not None and autonomy.by is not None:
        most = ", ".join(f"{name} {mode}" for name, mode in sorted(autonomy.segments.items()))
        lines.append(f"  at most, by {autonomy.by}: {most}{'; ' if most else ''}else {autonomy.otherwise}")
    if (held := policy.holdout) is not None:
        lines.append(f"  {held.percent} % of customers are left alone at random, by the name {held.name}, so that effects can be told")
    if (talk := policy.conversation) is not None:
        lines.append(f"  priority {talk.priority}: one conversation with a customer at a time, and 1 goes first")
        lines += [f"  a conversation ends, {s.id}: {_words(policy, s.when, s.id)}" for s in talk.stop]
    if policy.outcome:
        lines.append(f"  success is {' or '.join(policy.outcome.on)} within {_of(policy.outcome.within_days, 'day')}")
    return "\n".join(line for long in lines for line in (wrap(long, _PAGE, subsequent_indent=" " * (_indent(long) + 4)) or [""]))


def changes(old: Policy, new: Policy) -> tuple[Change, ...]:
    """Everything that differs, rows by id, in reading order; () for equal digests. An added row brings all its cells."""
    if old.digest == new.digest:
        return ()
    a, b = old.model_dump(mode="json", exclude_none=True), new.model_dump(mode="json", exclude_none=True)
    out: list[Change] = []
    for name in (n for n in [*a, *(n for n in b if n not in a)] if n not in {"rules", "triggers", "tree", "options", "budgets"}):
        out += _changes(name, "", a.get(name), b.get(name))
    was, now = tree.levels_by_path(old), tree.levels_by_path(new)
    for path in [*was, *(p for p in now if p not in was)]:
        where = f"tree {path!r}" if path else "tree"
        if path in was and path in now:
            out += _changes(where, "", was[path], now[path])
        else:
            out.append(Change(where, "removed" if path in was else "added", before=was.get(path), after=now.get(path)))
    for what, key, named in (
        ("trigger", "triggers", "id"),
        ("rule", "rules", "id"),
        ("option", "options", "id"),
        ("budget", "budgets", "name"),
    ):
        before, after = {r[named]: r for r in a.get(key, [])}, {r[named]: r for r in b.get(key, [])}
        out += [Change(f"{what} {i!r}", "removed", before=before[i]) for i in before if i not in after]
        out += [Change(f"{what} {i!r}", "added", after=after[i]) for i in after if i not in before]
        for i in (i for i in before if i in after):
            out += _changes(f"{what} {i!r}", "", before[i], after[i])
        kept_before, kept_after = [i for i in before if i in after], [i for i in after if i in before]
        if kept_before != kept_after:
            out.append(Change(f"{what}s", "moved", before=kept_before, after=kept_after))
    return tuple(out)


def _changes(where: str, path: str, old: Any, new: Any) -> list[Change]:
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in [*old, *(k for k in new if k not in old)]:
            out += _changes(where, f"{path}.{key}" if path else key, old.get(key), new.get(key))
        return out
    return [Change(where, "changed", path, old, new)]


def _words(policy: Policy, when: Cells, id_: str) -> str:
    return " and ".join(f"{name} {cell}" for name, cell in sorted(policy.cells(when, id_).items())) or "always"


def _row(policy: Policy, rule: Rule) -> list[str]:
    if rule.action == NO_ACTION:
        return [rule.id, _words(policy, rule.when, rule.id), "nothing", rule.because]
    if rule.plan is not None:
        p = rule.plan
        then = f"{p.planner} plans with {p.prompt}: {', '.join(p.options)}" + (
            f"; without a plan a person decides about {p.otherwise}" if p.otherwise else ""
        )
        return [
            rule.id,
            _words(policy, rule.when, rule.id),
            then + ("; a person approves" if rule.approval == "required" else ""),
            rule.because,
        ]
    then = rule.action + (f" with {rule.tool}" if rule.tool else "") + (f" by {rule.channel}" if rule.channel else "")
    if rule.offer:
        then += f"; {rule.offer.kind} of {rule.offer.amount_minor} {rule.offer.currency}, authority up to {rule.authority_limit_minor}"
    then += f"; {rule.risk} risk" if rule.risk else ""
    then += "; opens a risk case" if rule.risk_case else ""
    asks = {"required": "; a person approves", "when-over-authority": "; a person approves above it" if rule.offer else "", "none": ""}
    return [rule.id, _words(policy, rule.when, rule.id), then + asks[rule.approval], rule.because]


def _grid(rows: list[list[str]]) -> list[str]:
    most = [_WIDTH] * len(rows[0])
    while True:  # the widest column gives way, until the row is not wider than the page
        wrapped = [[wrap(cell, width) or [""] for cell, width in zip(row, most, strict=True)] for row in rows]
        widths = [max(len(line) for row in wrapped for line in row[i]) for i in range(len(most))]
        if sum(widths) + 2 * len(widths) <= _PAGE:
            break
        most[widths.index(max(widths))] = max(widths) - 1

    def line(cells: list[str]) -> str:
        return "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    out = [line(rows[0]), line(["-" * width for width in widths])]
    for row in wrapped[1:]:
        out += [line([cell[k] if k < len(cell) else "" for cell in row]) for k in range(max(map(len, row)))]
    return out


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _list(label: str, names: tuple[str, ...]) -> str:
    return f"{label}: {', '.join(names)}" if names else ""
