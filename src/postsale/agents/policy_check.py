"""What makes a policy valid beyond its shape. Each refusal is PolicyInvalid and names the place. Pure; imports policy and errors."""

from __future__ import annotations

import re
from typing import NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from postsale.agents import tree
from postsale.agents.approval_rules import check_rules
from postsale.agents.expressions import InputType
from postsale.agents.flags import FAILED, fits
from postsale.agents.limits import TIERS
from postsale.agents.planner_answer import slots_of
from postsale.agents.planner_policy import FROM_PLAN, PLAN, PlanRow
from postsale.agents.policy import NO_ACTION, SEVERAL, Policy
from postsale.agents.policy_sections import OfferRow, Rule
from postsale.agents.policy_time import check_time
from postsale.agents.regions import meet, point_in, shown
from postsale.agents.templates import BUILT_IN, placeholders
from postsale.errors import PolicyInvalid

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]\Z")
_INPUT = re.compile(r"[a-z][a-z0-9_-]*\Z")


def check(policy: Policy, *, stored: bool = False) -> None:
    """Return when the policy is valid; else PolicyInvalid with the first problem, in reading order.

    `stored`: the log holds it, from a release that may have refused less.
    """
    c = _Check(policy)
    c.inputs()
    c.flags()
    c.triggers()
    c.options()
    for index, rule in enumerate(policy.rules):
        c.rule(rule, index)
    c.reachable()
    if not stored:
        tree.check(policy)
        c.hands_over()
        c.priorities()
        c.overlaps()
    c.budgets()
    c.guardrails()
    c.conversation()
    check_rules(policy, c.bad)
    check_time(policy, c.bad)


class _Check:
    def __init__(self, policy: Policy) -> None:
        self.p = policy

    def bad(self, where: str, reason: str) -> NoReturn:
        raise PolicyInvalid(policy=self.p.name, where=where, reason=reason)

    def inputs(self) -> None:
        for name in self.p.inputs:
            if not _INPUT.match(name):
                self.bad(f"inputs.{name[:64]}", "an input is named with a-z, 0-9, '_', '-', starting with a letter")
            if name in {"customer", "because"}:
                self.bad(f"inputs.{name}", "this name is taken by a built-in reference")

    def flags(self) -> None:
        """A flag is asked for when a decision is made and at no other time: no trigger watches it, no approval is bound to it."""
        for name, flag in (self.p.flags or {}).items():
            at = f"flags.{name}"
            if name not in self.p.inputs:
                self.bad(at, f"declare {name} under [inputs] too: that is how rows name it")
            if name == FAILED:
                self.bad(at, "this name is taken")
            if not fits(flag.default, self.p.inputs[name]):
                self.bad(f"{at}.default", f"the input is declared {self.p.inputs[name]}")
            for t in self.p.triggers:
                if name in t.when or name in (t.until or {}):
                    self.bad(f"trigger {t.id!r}, when.{name}", "a flag raises no trigger: it is asked for when a decision is made")
            if name in self.p.guardrails.bound_to:
                self.bad("guardrails.bound_to", f"{name!r} is a flag, which is not asked for again")

    def triggers(self) -> None:
        if not (self.p.triggers or self.p.schedules or self.p.waits or self.p.slas):
            self.bad("trigger", "nothing ever asks this policy: it needs a trigger, a schedule, a wait or an sla")
        seen: set[str] = set()
        for t in self.p.triggers:
            if t.id in seen:
                self.bad(f"trigger {t.id!r}", "this id is used twice")
            seen.add(t.id)
            if not t.when:
                self.bad(f"trigger {t.id!r}, when", "an empty condition is always true and never rises")
        _ = self.p.conditions  # compiles every cell

    # ------------------------------------------------------------ rows

    def rule(self, rule: Rule, index: int) -> None:
        at = f"rule {rule.id!r}"
        if any(rule.id == earlier.id for earlier in self.p.rules[:index]):
            self.bad(at, "this id is used twice")
        self.does(rule, at)
        if rule.plan is not None:
            self.plan(rule, rule.plan, at)

    def does(self, rule: Rule, at: str) -> None:
        if rule.id in {"no-rule", "not-unique", "not-any", "no-value"}:
            self.bad(at, "this id is what a disposition says when no row decides; choose another")
        self.p.cells(rule.when, f"{at}, when")
        self.text(rule.because, f"{at}, because")
        if not rule.because.strip():
            self.bad(f"{at}, because", "expected a reason that a person can read")
        if rule.plan is not None and rule.action != PLAN:
            self.bad(f"{at}, action", f'a row with [rule.plan] has action = "{PLAN}"')
        if rule.action == NO_ACTION:
            given = [n for n in ("tool", "arguments", "channel", "offer", "authority_limit_minor") if getattr(rule, n)] + (
                ["risk_case"] if rule.risk_case else []
            )
            if given:
                self.bad(f"{at}, {given[0]}", 'a row with action = "none" does nothing, so it has none')
            return
        if rule.tool is None and (rule.arguments or rule.channel or rule.offer):
            self.bad(f"{at}, tool", "a row with arguments, a channel or an offer needs the tool that carries it out")
        for name, value in rule.arguments.items():
            self.argument(rule, value, f"{at}, arguments.{name}")
        if rule.offer is not None:
            self.offer(rule, rule.offer, at)
        elif rule.authority_limit_minor is not None:
            self.bad(f"{at}, authority_limit_minor", "only an offer has an authority limit")

    # ------------------------------------------------------------ planners

    def options(self) -> None:
        """What planners may choose: each option is a row that only a planner reaches, and some row names it."""
        named = {id_ for rule in self.p.rules if rule.plan for id_ in rule.plan.options}
        seen = {rule.id for rule in self.p.rules}
        for option in self.p.options or ():
            at = f"option {option.id!r}"
            if option.id in seen:
                self.bad(at, "this id is used twice")
            seen.add(option.id)
            if option.action == PLAN:
                self.bad(f"{at}, action", "an option is what a planner chooses; it cannot hand over again")
            self.does(option, at)
            if option.id not in named:
                self.bad(at, "no row hands over to a planner that may choose it")

    def hands_over(self) -> None:
        for rule in self.p.rules:
            if rule.action == PLAN and rule.plan is None:
                self.bad(f"rule {rule.id!r}, plan", f'action = "{PLAN}" hands over to a planner: say to which under [rule.plan]')

    def plan(self, rule: Rule, plan: PlanRow, at: str) -> None:
        """A row that hands over does nothing itself; what its options take from the planner is declared as slots."""
        if self.p.hit in SEVERAL:
            self.bad(f"{at}, plan", f'under hit = "{self.p.hit}" several rows decide together, and a planner decides alone')
        given = [n for n in ("tool", "arguments", "channel", "offer", "authority_limit_minor", "risk_case") if getattr(rule, n)]
        if given:
            self.bad(f"{at}, {given[0]}", "a row that hands over does nothing itself; its options do")
        options = {option.id: option for option in self.p.options or ()}
        for name in plan.evidence:
            if name not in self.p.inputs:
                self.bad(f"{at}, plan.evidence", f"{name!r} is not a declared input")
        taken: set[str] = set()
        for id_ in plan.options:
            if id_ not in options:
                self.bad(f"{at}, plan.options", f"there is no [[option]] {id_!r}")
            option, slots = options[id_], slots_of(options[id_])
            taken |= {*slots}
            for slot in slots:
                if slot not in plan.slots:
                    self.bad(f"{at}, plan.slots", f"option {id_!r} takes {FROM_PLAN}{slot}, which is not declared")
            if option.offer is not None and (amount := str(option.offer.amount_minor)).startswith(FROM_PLAN):
                self.amount(option, plan, amount.removeprefix(FROM_PLAN), at)
            if id_ == plan.otherwise and slots:
                self.bad(f"{at}, plan.otherwise", f"it is for when there is no plan, but it takes {FROM_PLAN}{slots[0]}")
        for name in plan.slots:
            if name not in taken:
                self.bad(f"{at}, plan.slots.{name}", "no option takes it")
        if plan.otherwise is not None and (plan.otherwise not in plan.options or options[plan.otherwise].action == NO_ACTION):
            self.bad(f"{at}, plan.otherwise", "expected one of its options, one that does something")

    def amount(self, option: Rule, plan: PlanRow, name: str, at: str) -> None:
        slot, limit = plan.slots[name], option.authority_limit_minor or 0
        if slot.type != "integer" or slot.min is None or slot.min < 0:
            self.bad(f"{at}, plan.slots.{name}", "an offer's amount is an integer from 0 on")
        if option.approval == "none" and slot.max is not None and slot.max > limit:
            self.bad(f"{at}, plan.slots.{name}", f'up to {slot.max} is above the authority limit of {limit}, so "none" could never act')

    def argument(self, rule: Rule, value: str | int | bool, where: str) -> None:
        if not isinstance(value, str):
            return
        if value.startswith(FROM_PLAN):
            if where.startswith("rule "):
                self.bad(where, f"{value} is for options: no planner decides here")
            if where.endswith("arguments.customer"):
                self.bad(where, "who it is about is not for a planner to say: $customer")
            return
        if not value.startswith("$"):
            self.text(value, where)
            return
        name = value[1:]
        if name.startswith("offer.") and name in BUILT_IN and rule.offer is None:
            self.bad(where, f"{value} needs an [rule.offer]")
        if name not in BUILT_IN and name not in self.p.inputs:
            self.bad(where, f"{value} is neither a declared input nor one of {', '.join('$' + b for b in BUILT_IN)}")

    def offer(self, rule: Rule, offer: OfferRow, at: str) -> None:
        if isinstance(offer.amount_minor, str) and not (at.startswith("option ") and offer.amount_minor.startswith(FROM_PLAN)):
            self.reference(offer.amount_minor, "integer", f"{at}, offer.amount_minor")
        if offer.currency.startswith("$"):
            self.reference(offer.currency, "text", f"{at}, offer.currency")
        if rule.authority_limit_minor is None:
            self.bad(f"{at}, authority_limit_minor", "an offer needs the amount up to which no person has to decide")
        amount, limit = offer.amount_minor, rule.authority_limit_minor
        if rule.approval == "none" and isinstance(amount, int) and amount > limit:
            self.bad(f"{at}, approval", f'the offer of {amount} is above the authority limit of {limit}, so "none" could never act')
        currencies = self.currencies
        if not currencies:
            self.bad("budget", f"{at} makes an offer, so the policy needs a budget of money")
        if not offer.currency.startswith("$") and offer.currency not in currencies:
            self.bad(f"{at}, offer.currency", f"{offer.currency}, but the budget is in {' and '.join(currencies)}")

    def reference(self, value: str, kind: InputType, where: str) -> None:
        name = value.removeprefix("$")
        if not value.startswith("$") or name not in self.p.inputs:
            self.bad(where, "expected a value or $input of a declared input")
        if self.p.inputs[name] != kind:
            self.bad(where, f"{value} is declared {self.p.inputs[name]}; expected {kind}")

    def text(self, text: str, where: str) -> None:
        try:
            names = placeholders(text)
        except ValueError as error:
            self.bad(where, str(error))
        for name in names:
            if name not in self.p.inputs:
                self.bad(where, f"{{{name}}} is not a declared input")

    def reachable(self) -> None:
        """Under `first`, a row after a catch-all, or with an earlier row's conditions, can never be chosen; under `unique` it clashes."""
        seen: dict[object, str] = {}
        catch_all: str | None = None
        for rule in self.p.rules:
            at = f"rule {rule.id!r}"
            cells = frozenset((n, str(c)) for n, c in self.p.cells(rule.when, f"{at}, when").items())
            if catch_all is not None and self.p.hit in {"first", "unique"}:
                why = "it can never be reached" if self.p.hit == "first" else 'two rows would match, and hit = "unique" then chooses none'
                self.bad(at, f"{why}: rule {catch_all!r} above it matches everything")
            if cells in seen and self.p.hit in {"first", "unique"}:
                self.bad(at, f"it has the same conditions as rule {seen[cells]!r} above it")
            seen[cells] = rule.id
            if not cells:
                catch_all = rule.id

    def priorities(self) -> None:
        """Where importance decides, every action has a place in it; elsewhere there is none to have."""
        order, ranked = self.p.priorities, self.p.hit in {"priority", "output-order"}
        if not ranked:
            if order is not None:
                self.bad("priorities", f'they mean nothing under hit = "{self.p.hit}"')
            return
        if order is None:
            self.bad("priorities", f'hit = "{self.p.hit}" needs the actions, the most important first')
        if len(set(order)) < len(order):
            self.bad("priorities", "the same action twice")
        actions = {rule.action for rule in self.p.rules}
        for name in order:
            if name not in actions:
                self.bad("priorities", f"no row has the action {name!r}")
        for rule in self.p.rules:
            if rule.action not in order and rule.action != NO_ACTION:
                self.bad(f"rule {rule.id!r}, action", f"{rule.action!r} has no place among the priorities")

    def overlaps(self) -> None:
        """Under `unique` no two rows match together, under `any` only such as say the same; of several that decide one offers."""
        p = self.p
        if p.hit in SEVERAL:
            offering = [rule.id for rule in p.rules if rule.offer is not None]
            if len(offering) > 1:
                self.bad(f"rule {offering[1]!r}, offer", f"rule {offering[0]!r} offers too, and a decision makes one offer at most")
        if p.hit not in {"unique", "any"}:
            return
        for j, later in enumerate(p.rules):
            for i, earlier in enumerate(p.rules[:j]):
                met = meet(p.boxes[i], p.boxes[j])
                if met is None or (p.hit == "any" and earlier.output == later.output):
                    continue
                example = shown(point_in(met) or {})
                why = "both match" if p.hit == "unique" else "both match and do not say the same"
                self.bad(f"rule {later.id!r}, when", f"it overlaps with rule {earlier.id!r}: {why} with {example}")

    def conversation(self) -> None:
        """A conversation has an end: the outcome's time at the latest. Stops are conditions on what is watched."""
        its = self.p.conversation
        if its is None:
            return
        if self.p.outcome is None:
            self.bad("conversation", "it ends with its outcome: declare [outcome]")
        seen: set[str] = set()
        for stop in its.stop:
            at = f"stop {stop.id!r}"
            if stop.id in seen:
                self.bad(at, "this id is used twice")
            seen.add(stop.id)
            if not stop.when:
                self.bad(f"{at}, when", "an empty condition would end every conversation at once")
            for name in stop.when:
                if name in (self.p.flags or {}):
                    self.bad(f"{at}, when.{name}", "a flag ends no conversation: it is asked for when a decision is made")
            self.p.cells(stop.when, f"{at}, when")

    # ------------------------------------------------------------ limits

    @property
    def currencies(self) -> list[str]:
        """Of the budgets of money."""
        return [b.currency for b in self.p.budgets or () if b.currency is not None]

    def budgets(self) -> None:
        """One name, one budget; and something to count on its channel."""
        seen: set[str] = set()
        for budget in self.p.budgets or ():
            at = f"budget {budget.name!r}"
            if budget.name in seen:
                self.bad(at, "this name is used twice")
            seen.add(budget.name)
            if budget.channel is not None and budget.channel not in self.p.channels:
                self.bad(f"{at}, channel", f"no row makes contact by {budget.channel}")

    def guardrails(self) -> None:
        g = self.p.guardrails
        for name in g.bound_to:
            if name not in self.p.inputs:
                self.bad("guardrails.bound_to", f"{name!r} is not a declared input")
        windows = [(f.count, f.days) for f in g.frequency]
        if len(set(windows)) < len(windows):
            self.bad("guardrails.frequency", "the same window twice")
        actions = {rule.action for rule in self.p.acts} - {NO_ACTION}
        seen: set[str] = set()
        for sequence in g.sequence or ():
            at = f"guardrails.sequence {sequence.id!r}"
            if sequence.id in seen:
                self.bad(at, "this id is used twice")
            seen.add(sequence.id)
            for action in sequence.actions:
                if action not in actions:
                    self.bad(f"{at}, actions", f"no row has the action {action!r}")
        if (floor := g.probability) is not None and self.p.inputs.get(floor.input) != "integer":
            self.bad("guardrails.probability", f'it is recorded as evidence: declare {floor.input} = "integer" under [inputs]')
        if g.tool_risk is not None:
            if g.tool_risk.by is not None and g.tool_risk.by not in self.p.inputs:
                self.bad("guardrails.tool_risk.by", f"{g.tool_risk.by!r} is not a declared input")
            if g.tool_risk.by is None and g.tool_risk.segments:
                self.bad("guardrails.tool_risk.by", "segments need the input that names them")
        if g.authority is not None and self.currencies and g.authority.currency not in self.currencies:
            self.bad("guardrails.authority.currency", f"{g.authority.currency}, but the budget is in {' and '.join(self.currencies)}")
        if g.appetite is not None and TIERS.index(g.appetite.act) > TIERS.index(g.appetite.propose):
            self.bad("guardrails.appetite", "what it may do on its own it may also propose: act is above propose")
        autonomy = self.p.autonomy
        if autonomy is not None:
            if autonomy.by is not None and autonomy.by not in self.p.inputs:
                self.bad("autonomy.by", f"{autonomy.by!r} is not a declared input")
            if autonomy.by is None and (autonomy.segments or autonomy.otherwise != "act"):
                self.bad("autonomy.by", "segments need the input that names them")
        quiet = g.quiet_hours
        if quiet is None:
            return
        for side in ("start", "end"):
            if not _CLOCK.match(getattr(quiet, side)):
                self.bad(f"guardrails.quiet_hours.{side}", 'expected "HH:MM" from 00:00 to 23:59')
        if quiet.start == quiet.end:
            self.bad("guardrails.quiet_hours.end", "the same as the start: say nothing for no quiet hours")
        try:
            ZoneInfo(quiet.default_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.bad("guardrails.quiet_hours.default_zone", "expected an IANA time zone name, such as Europe/Berlin")
        if self.p.inputs.get("time_zone") != "text":
            self.bad("guardrails.quiet_hours", 'they are counted on the customer\'s clock: declare time_zone = "text" under [inputs]')
