"""What a policy says about time and people: what makes it valid, how it reads, and whether it widens. Pure; imports the tables.

`policy_check`, `policy_text` and `widening` ask here for the tables that have modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from postsale.agents.approval_rules import ApprovalRules, Bad, Level
from postsale.agents.calendar import WEEKDAYS
from postsale.agents.schedules import Schedule
from postsale.agents.sla import Sla
from postsale.agents.tables import Within
from postsale.agents.waits import WaitFor

if TYPE_CHECKING:
    from postsale.agents.policy import Policy

ASKED_BY = "asked_by"  # evidence: which trigger, schedule, wait, sla or command asks


def check_time(policy: Policy, bad: Bad) -> None:
    """Call `bad(where, reason)` for what cannot be."""
    seen = {t.id for t in policy.triggers}
    actions = {rule.action for rule in (*policy.rules, *(policy.options or ())) if rule.tool is not None}
    for where, id_ in _named(policy):
        if id_ in seen:
            bad(where, "this id is used twice")
        seen.add(id_)
    for where, within in _terms(policy):
        if within.within_business_h is not None and policy.calendar is None:
            bad(f"{where}, within_business_h", "business hours need a [calendar]")
    for schedule in policy.schedules or ():
        if schedule.open_days_only and policy.calendar is None:
            bad(f"schedule {schedule.id!r}, open_days_only", "open days need a [calendar]")
        policy.cells(schedule.when, f"schedule {schedule.id!r}, when")
    for wait in policy.waits or ():
        if wait.after not in actions:
            bad(f"wait {wait.id!r}, after", f"no row with a tool has the action {wait.after!r}")
        policy.cells(wait.when, f"wait {wait.id!r}, when")
    asking = [("trigger", t.id, {**t.when, **(t.until or {})}) for t in policy.triggers]
    asking += [("schedule", s.id, s.when) for s in policy.schedules or ()] + [("wait", w.id, w.when) for w in policy.waits or ()]
    for what, id_, when in asking:
        if ASKED_BY in when:
            bad(f"{what} {id_!r}, when.{ASKED_BY}", "nothing asks yet when this is looked at; rows may use it")


def lines(policy: Policy) -> Iterator[str]:
    """For people, one line each."""
    for s in policy.schedules or ():
        days = ", ".join(s.weekdays) if s.weekdays else "day " + ", ".join("last" if d == -1 else str(d) for d in s.month_days or ())
        months = f" of month {', '.join(map(str, s.months))}" if s.months else ""
        clock = "the customer's clock" if s.zone == "customer" else s.zone
        yield f"  {s.id}: {days}{months} at {s.at} on {clock}" + (", open days only" if s.open_days_only else "")
    for w in policy.waits or ():
        yield f"  {w.id}: {w.within} after {w.after!r} without {' or '.join(w.unless)}"
    for t in policy.slas or ():
        of = "until somebody acts" if t.measure == "first-action" else f"in stage {t.stage}"
        yield f"  {t.id}: a risk case has {t.within} {of}" + (f", a warning at {t.warn_percent} %" if t.warn_percent else "")


def people(rules: ApprovalRules) -> Iterator[str]:
    """How proposals are answered, for people."""
    who = "one person" if rules.people == 1 else f"{rules.people} different people"
    yield f"  {who} approve" + ("s" if rules.people == 1 else "") + ("; an edit takes somebody else" if rules.edits == "other" else "")
    for level in rules.levels:
        means = {"escalate": "then the next level", "lapse": "then it lapses", "reject": "then it is rejected"}
        silence = means.get(level.on_timeout, "then it is approved")
        yield f"    {level.name}: {level.role or 'anyone'}, within {level.within}, {silence}"
    for what, role in (("no", rules.rejected_by), ("an edit", rules.edited_by)):
        if role is not None:
            yield f"    {what} also from: {role}"


def hours(policy: Policy) -> Iterator[str]:
    """The business hours, for people."""
    if (c := policy.calendar) is None:
        return
    days = "; ".join(f"{day} {', '.join(c.hours[day])}" for day in WEEKDAYS if c.hours.get(day))
    yield f"  business hours ({c.zone}): {days}; {len(c.holidays)} holidays"


def wider(old: Policy, new: Policy) -> Iterator[tuple[str, str]]:
    """What `new` allows beyond `old`, as (where, why). As everywhere: a change widens unless it is shown that it does not."""
    for kind in ("schedule", "wait", "sla"):
        before = {thing.id: thing for thing in _things(old, kind)}
        for thing in _things(new, kind):
            if thing.id not in before:
                yield f"{kind} {thing.id!r}", "it asks where nothing was asked"
            elif thing != before[thing.id]:
                yield f"{kind} {thing.id!r}", "it may ask at other times, or more often"
    if old.calendar != new.calendar and (new.approvals or new.waits or new.slas or new.schedules):
        yield "calendar", "times that are counted in business hours may come sooner or later"
    if old.approvals is not None:
        yield from _fewer(old.approvals, new.approvals)
    elif new.approvals is not None and new.approvals.levels[-1].on_timeout == "approve":
        yield "approvals", "silence approves"


def _fewer(old: ApprovalRules, new: ApprovalRules | None) -> Iterator[tuple[str, str]]:
    if new is None:
        yield "approvals", "anybody may approve alone"
        return
    if new.people < old.people:
        yield "approvals.people", "fewer people have to say yes"
    if (old.edits, new.edits) == ("other", "anyone"):
        yield "approvals.edits", "whoever edits may approve it too"
    if new.edited_by is not None and new.edited_by != old.edited_by:
        yield "approvals.edited_by", "others may change what is proposed"
    if [_strict(x) for x in old.levels] != [_strict(x) for x in new.levels]:
        yield "approvals.level", "other people may answer, they have other times, or silence means something else"


def _strict(level: Level) -> tuple[object, ...]:
    return (level.role, level.within, level.on_timeout)


def _things(policy: Policy, kind: str) -> tuple[Schedule | WaitFor | Sla, ...]:
    match kind:
        case "schedule":
            return policy.schedules or ()
        case "wait":
            return policy.waits or ()
    return policy.slas or ()


def _named(policy: Policy) -> Iterator[tuple[str, str]]:
    for kind in ("schedule", "wait", "sla"):
        for thing in _things(policy, kind):
            yield f"{kind} {thing.id!r}", thing.id


def _terms(policy: Policy) -> Iterator[tuple[str, Within]]:
    for level in policy.approvals.levels if policy.approvals else ():
        yield f"approvals.level {level.name!r}", level
    for wait in policy.waits or ():
        yield f"wait {wait.id!r}", wait
    for term in policy.slas or ():
        yield f"sla {term.id!r}", term
