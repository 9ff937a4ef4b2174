"""Whether one policy lets an agent do what another one does not: shown with an example of the evidence, for rows, triggers and limits.

A change counts as widening unless it is shown that it is not: nothing that could be new is passed over. What a text says (a template's
name, a note) is not judged. Pure; may import policy, regions, expressions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from postsale.agents import policy_time
from postsale.agents.budget_policy import Budget
from postsale.agents.expressions import Value
from postsale.agents.limits import TIERS, ToolRisk
from postsale.agents.planner_policy import PlanRow, Slot
from postsale.agents.policy import NO_ACTION, SEVERAL, Policy
from postsale.agents.policy_sections import Autonomy, Guardrails, Promotion, QuietHours, Rule, SequenceRule, Trigger
from postsale.agents.regions import Box, TooManyCases, Without, box_of, meet, point_in, shown
from postsale.aggregates.artifacts import MODES

_DAY_MIN = 24 * 60


@dataclass(frozen=True, slots=True)
class Wider:
    """One thing that the new policy allows and the old one did not."""

    where: str  # such as `rule 'mail'`, `guardrails.frequency`
    why: str
    example: Mapping[str, Value] | None = None  # evidence for which it shows; None for limits

    def __str__(self) -> str:
        return f"{self.where}: {self.why}" + (f", as with {shown(self.example)}" if self.example is not None else "")

    def to_dict(self) -> dict[str, Any]:
        return {"where": self.where, "why": self.why, "example": None if self.example is None else dict(self.example)}


def widenings(old: Policy, new: Policy) -> tuple[Wider, ...]:
    """What `new` allows beyond `old`; () when everything that it may do, `old` may do too."""
    if old.digest == new.digest:
        return ()
    for name, kind in new.inputs.items():
        if old.inputs.get(name, kind) != kind:
            return (Wider(f"inputs.{name}", f"it was declared {old.inputs[name]}, so its rows cannot be compared"),)
    limits = (*_limits(old.guardrails, new.guardrails), *_autonomy(old.autonomy, new.autonomy))
    limits = (*limits, *_budgets(old, new), *_conversation(old, new), *_holdout(old, new))
    time = (Wider(where, why) for where, why in policy_time.wider(old, new))
    return (*_rows(old, new), *_options(old, new), *_triggers(old, new), *limits, *time)


# ---------------------------------------------------------------- rows


def _rows(old: Policy, new: Policy) -> Iterator[Wider]:
    for at, rule in enumerate(new.rules):
        if rule.action == NO_ACTION:
            continue
        without = [Without(box) for box in _before(new, at)]
        covered = []
        for i, earlier in enumerate(old.rules):
            if earlier.action != NO_ACTION and not _does_more(earlier, rule):
                covered.append(Without(old.boxes[i], tuple(_before(old, i))))
        try:
            point = point_in(new.boxes[at], [*without, *covered])
        except TooManyCases:
            yield Wider(f"rule {rule.id!r}", "it cannot be shown within bounds that it does nothing new")
            continue
        if point is not None:
            yield Wider(f"rule {rule.id!r}", _news(old, rule, point), point)


def _before(policy: Policy, at: int) -> list[Box]:
    """Where a row that matches does not decide, because of others."""
    rule, rows = policy.rules[at], list(enumerate(policy.rules))
    if policy.hit in SEVERAL:
        return []
    if policy.hit == "unique":
        others = [i for i, _ in rows if i != at]
    elif policy.hit == "any":
        others = [i for i, other in rows if other.output != rule.output]
    elif policy.hit == "priority":
        others = [i for i, other in rows if (policy.rank(other), i) < (policy.rank(rule), at)]
    else:
        others = list(range(at))
    return [policy.boxes[i] for i in others]


def _news(old: Policy, rule: Rule, point: Mapping[str, Value]) -> str:
    deciding, _ = old.deciding([row.rule for row in old.rows if row.matches(point)])
    if not deciding or deciding[0].action == NO_ACTION:
        return f"it does {rule.action!r} where nothing was done"
    return f"it does {rule.action!r}, {_does_more(deciding[0], rule) or 'beside other rows'}"


def _does_more(old: Rule, new: Rule) -> str:
    """What a row does beyond another one; "" when nothing."""
    if new.action != old.action or new.tool != old.tool:
        return f"where {old.action!r} was done"
    if new.channel not in {None, old.channel}:
        return "on another channel"
    if _asks(new) < _asks(old):
        return "and asks a person less often"
    for name, value in new.arguments.items():
        before = old.arguments.get(name)
        if value != before and not (_plain(value) and _plain(before)):
            return f"with another {name}"
    if new.tier < old.tier:
        return "and is said to be less risky"
    if new.plan != old.plan and (new.plan is None or old.plan is None or not _within(old.plan, new.plan)):
        return "and hands over otherwise, or more"
    if new.offer is None:
        return ""
    if old.offer is None:
        return "and offers something"
    a, b = old.offer, new.offer
    if (a.kind, a.currency, a.terms) != (b.kind, b.currency, b.terms):
        return "and offers something else"
    smaller = isinstance(a.amount_minor, int) and isinstance(b.amount_minor, int) and b.amount_minor <= a.amount_minor
    if a.amount_minor != b.amount_minor and not smaller:
        return "and may offer more"
    if (new.authority_limit_minor or 0) > (old.authority_limit_minor or 0):
        return "and may promise more without a person"
    return ""


def _options(old: Policy, new: Policy) -> Iterator[Wider]:
    """Options that do more, or that planners may choose where they could not."""
    before = {option.id: option for option in old.options or ()}
    for option in new.options or ():
        if option.action == NO_ACTION:
            continue
        where, was = f"option {option.id!r}", before.get(option.id)
        if was is None:
            yield Wider(where, f"a planner may choose {option.action!r}")
        elif why := _does_more(was, option):
            yield Wider(where, f"it does {option.action!r}, {why}")
        else:
            box = box_of(new.cells(option.when, f"{where}, when"), new.inputs)
            point = point_in(box, [Without(box_of(old.cells(was.when, f"{where}, when"), old.inputs))])
            if point is not None:
                yield Wider(where, "a planner may choose it where it could not", point)


def _within(old: PlanRow, new: PlanRow) -> bool:
    """Whether a row hands over no more than before: the same planner and prompt, and no more to see, to choose or to fill in."""
    same = all(getattr(old, n) == getattr(new, n) for n in ("planner", "prompt"))
    less = all(
        getattr(new, n) <= getattr(old, n) for n in ("most", "window_days", "max_age_days", "max_answer_chars", "timeout_s", "attempts")
    )
    seen = all(set(getattr(new, n)) <= set(getattr(old, n)) for n in ("options", "evidence", "personal"))
    told = all(set(fields) <= set(old.facts.get(kind, ())) and kind in old.facts for kind, fields in new.facts.items())
    filled = all(name in old.slots and _narrower(old.slots[name], slot) for name, slot in new.slots.items())
    return same and less and seen and told and filled and new.otherwise in {None, old.otherwise}


def _narrower(old: Slot, new: Slot) -> bool:
    if old == new:
        return True
    if new.one_of is not None:
        return old.one_of is not None and set(new.one_of) <= set(old.one_of)
    if new.min is not None and new.max is not None and old.min is not None and old.max is not None:
        return old.min <= new.min and new.max <= old.max
    return new.max_chars is not None and old.max_chars is not None and new.max_chars <= old.max_chars


def _asks(rule: Rule) -> int:
    if rule.approval == "required":
        return 2
    return 1 if rule.approval == "when-over-authority" and rule.offer is not None else 0


def _plain(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.startswith("$"))


# ---------------------------------------------------------------- triggers


def _triggers(old: Policy, new: Policy) -> Iterator[Wider]:
    before = {t.id: t for t in old.triggers}
    asked = [Without(_box(old, t)) for t in old.triggers]
    for trigger in new.triggers:
        where = f"trigger {trigger.id!r}"
        point = point_in(_box(new, trigger), asked)
        if point is not None:
            yield Wider(where, "it asks where nothing was asked", point)
        elif trigger.id in before and not _rearms_no_sooner(old, before[trigger.id], new, trigger):
            yield Wider(where, "it may ask again sooner")


def _rearms_no_sooner(old: Policy, a: Trigger, new: Policy, b: Trigger) -> bool:
    """Whether a trigger is over only where it was over before: where `until` holds, if there is one, and `when` does not."""
    over: Box | None = {} if b.until is None else _box(new, b, "until")
    not_over = [Without(_box(new, b))]
    if a.until is None:
        over = meet(over or {}, _box(old, a))
    else:
        not_over.append(Without(_box(old, a, "until"), (_box(old, a),)))
    return over is None or point_in(over, not_over) is None


def _box(policy: Policy, trigger: Trigger, part: str = "when") -> Box:
    return box_of(policy.cells(getattr(trigger, part), f"trigger {trigger.id!r}, {part}"), policy.inputs)


# ---------------------------------------------------------------- limits


def _limits(old: Guardrails, new: Guardrails) -> Iterator[Wider]:
    if new.purpose != old.purpose:
        yield Wider("guardrails.purpose", "another consent is asked for")
    for f in old.frequency:
        if not any(g.count <= f.count and g.days >= f.days for g in new.frequency):
            yield Wider("guardrails.frequency", f"more than {f.count} contacts in {f.days} days become possible")
    if old.quiet_hours is not None and (new.quiet_hours is None or not _as_quiet(old.quiet_hours, new.quiet_hours)):
        yield Wider("guardrails.quiet_hours", "contacts become possible at hours that were quiet")
    if (least := old.probability) is not None:
        now = new.probability
        if now is None or now.of != least.of or now.at_least_percent < least.at_least_percent:
            yield Wider("guardrails.probability", "acting where success is less likely becomes possible")
    if (wanted := old.appetite) is not None:
        wants = new.appetite
        if wants is None or any(TIERS.index(getattr(wants, n)) > TIERS.index(getattr(wanted, n)) for n in ("act", "propose")):
            yield Wider("guardrails.appetite", "riskier rows become possible")
    if (risk := old.tool_risk) is not None and not _as_careful(risk, new.tool_risk):
        yield Wider("guardrails.tool_risk", "riskier tools may be used without a person")
    if (radius := old.blast_radius) is not None:
        n = new.blast_radius
        if n is None or n.decisions > radius.decisions or n.hours < radius.hours:
            yield Wider("guardrails.blast_radius", "more decisions may act in the same time")
    if (total := old.authority) is not None:
        t = new.authority
        if t is None or t.currency != total.currency or t.amount_minor > total.amount_minor or t.days < total.days:
            yield Wider("guardrails.authority", "more may be offered to one customer without a person")
    if new.max_depth > old.max_depth:
        yield Wider("guardrails.max_depth", "longer chains of our own effects are allowed")
    if new.approval_expires_h > old.approval_expires_h:
        yield Wider("guardrails.approval_expires_h", "an approval may be given later")
    for name in ("bound_to", "must_not_have_changed"):
        if set(getattr(old, name)) - set(getattr(new, name)):
            yield Wider(f"guardrails.{name}", "a change of what was named there is no longer looked at")
    for rule in old.sequence or ():
        if not any(_as_strict(rule, other) for other in new.sequence or ()):
            yield Wider(f"guardrails.sequence {rule.id!r}", "what it forbade becomes possible")


def _budgets(old: Policy, new: Policy) -> Iterator[Wider]:
    """Budgets that are larger, gone, or not the same; one of money that nobody offers from may go."""
    now = {budget.name: budget for budget in new.budgets or ()}
    offers = any(rule.offer is not None for rule in new.acts)
    for was in old.budgets or ():
        its = now.get(was.name)
        if its is None and (offers or was.currency is None):
            yield Wider(f"budget {was.name!r}", "what it limited is limited no more")
        elif its is not None and not _as_small(was, its):
            yield Wider(f"budget {was.name!r}", "more may be used up, or it is counted otherwise")


def _as_small(old: Budget, new: Budget) -> bool:
    same = all(getattr(old, n) == getattr(new, n) for n in ("unit", "per", "of", "zone", "channel"))
    weighs = old.weights is None or new.weights is None or all(getattr(new.weights, t) >= getattr(old.weights, t) for t in TIERS)
    return same and weighs and new.limit <= old.limit


def _conversation(old: Policy, new: Policy) -> Iterator[Wider]:
    was, now = old.conversation, new.conversation
    if was is None:
        return
    if now is None:
        yield Wider("conversation", "it no longer waits for other agents, nor keeps to the contacts of all of them together")
        return
    if now.priority < was.priority:
        yield Wider("conversation.priority", "it may speak where it had to wait")
    for stop in was.stop:
        if stop not in now.stop:
            yield Wider(f"conversation.stop {stop.id!r}", "a conversation goes on where it ended")


def _holdout(old: Policy, new: Policy) -> Iterator[Wider]:
    was, now = old.holdout, new.holdout
    if was is not None and (now is None or now.name != was.name or now.percent < was.percent):
        yield Wider("holdout", "customers that were left alone may be acted on")


def _autonomy(old: Autonomy | None, new: Autonomy | None) -> Iterator[Wider]:
    before, after = old or Autonomy(), new or Autonomy()
    for segment in sorted({*before.segments, *after.segments}) if before.by is not None and before.by == after.by else ():
        was, now = before.segments.get(segment, before.otherwise), after.segments.get(segment, after.otherwise)
        if MODES.index(now) > MODES.index(was):
            yield Wider(f"autonomy.segments.{segment}", f"it may {now} there, and could {was}")
    if before.by is not None and (before.by != after.by or MODES.index(after.otherwise) > MODES.index(before.otherwise)):
        yield Wider("autonomy", "it may go further in other segments")
    for step in ("propose", "act"):
        need, needs = getattr(before, step), getattr(after, step)
        if need is not None and (needs is None or not _as_demanding(need, needs)):
            yield Wider(f"autonomy.{step}", "less is asked before a promotion")
    if before.downgrade is not None and before.downgrade != after.downgrade:
        yield Wider("autonomy.downgrade", "it may be downgraded later, or not at all")
    if before.retire is not None and before.retire != after.retire:
        yield Wider("autonomy.retire", "less may speak for retiring it")


def _as_careful(old: ToolRisk, new: ToolRisk | None) -> bool:
    """Whether no tool may be used without a person that could not before, in any segment."""
    if new is None or (old.by != new.by and (old.segments or new.segments)):
        return False
    if TIERS.index(new.act) > TIERS.index(old.act):
        return False
    names = {*old.segments, *new.segments}
    return all(TIERS.index(new.segments.get(s, new.act)) <= TIERS.index(old.segments.get(s, old.act)) for s in names)


def _as_demanding(old: Promotion, new: Promotion) -> bool:
    more = all(getattr(new, n) >= getattr(old, n) for n in ("decisions", "answered", "approved_percent", "success_percent"))
    return more and new.failed_percent <= old.failed_percent and new.window_days == old.window_days


def _as_quiet(old: QuietHours, new: QuietHours) -> bool:
    return old.default_zone == new.default_zone and _minutes(old) <= _minutes(new)


def _minutes(quiet: QuietHours) -> set[int]:
    start, end = (int(t[:2]) * 60 + int(t[3:]) for t in (quiet.start, quiet.end))
    return {m % _DAY_MIN for m in range(start, end if end > start else end + _DAY_MIN)}


def _as_strict(old: SequenceRule, new: SequenceRule) -> bool:
    """Whether `new` forbids whatever `old` does."""
    return (
        set(old.kinds) <= set(new.kinds)
        and new.within_days >= old.within_days
        and new.count <= old.count
        and set(new.since) <= set(old.since)
        and set(new.unless) <= set(old.unless)
        and (not new.actions or (bool(old.actions) and set(old.actions) <= set(new.actions)))
        and (new.then == old.then or new.then == "suppress")
    )
