"""Decide: one trigger, evidence and context in, one decision event out. Pure: no clock, no random, no I/O, no tools.

Everything that goes in is recorded in the event, so that `rederive` makes the same bytes from the event alone.
May import aggregates, events, and expressions, policy, planner_answer, guardrails of this room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from postsale.agents.approval_rules import ends_us
from postsale.agents.budget_policy import needs
from postsale.agents.editing import edit_of
from postsale.agents.expressions import Value
from postsale.agents.guardrails import Context, ToolRef, beyond, first_failed, forbidding, judge, mode_for, over_authority, too_risky
from postsale.agents.planner_answer import Asked, Filled, Planned, options_of, read_answer
from postsale.agents.planner_policy import FROM_PLAN
from postsale.agents.policy import Policy
from postsale.agents.policy_sections import OfferRow, Rule
from postsale.agents.templates import fill
from postsale.aggregates.artifacts import Mode, content_digest
from postsale.aggregates.budgets import Reservation
from postsale.aggregates.decisions import DecisionRecorded, Disposition, EffectIntent, Eligible, Offer, ReadRef, Scalar
from postsale.events import DAY_US, MAX_INT, SECOND_US, canonical, derive_id, from_us

CERTAIN_PPM = 1_000_000
Mac = Callable[[bytes], str]
"""A keyed digest of bytes, hex. The key stays with the caller."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """Who decides, by name and by code."""

    name: str
    decider: str  # module:qualname
    decider_digest: str
    package_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything one decision is made from, beside the policy. The first of `read_set` is the customer."""

    trigger_id: UUID
    condition: str
    depth: int
    mode: Mode
    decided_at_us: int
    read_set: tuple[ReadRef, ...]
    evidence: Mapping[str, Scalar]
    context: Context
    tools: Mapping[str, ToolRef]
    model: str | None = None
    flags: Mapping[str, Scalar] | None = None
    asked: Asked | None = None  # what came of asking a planner, where a row hands over to one

    @property
    def customer(self) -> str:
        """The customer's random reference: all that a tool learns about who it is."""
        return self.read_set[0].stream.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision to record, the clear arguments of its intents, and what goes with it."""

    event: DecisionRecorded
    arguments: tuple[dict[str, Any], ...]
    opens_case: str | None  # the reason, when a risk case is to be opened
    needs: Mapping[str, int]  # what it would use up of each budget, if nothing stopped it

    @property
    def decision_id(self) -> UUID:
        return decision_id(self.event.trigger_id)


class _NoValue(Exception):
    """A row needs a value that is missing or does not fit: the decision fails and says so."""


def decision_id(trigger_id: UUID) -> UUID:
    """One trigger, one decision."""
    return derive_id(trigger_id, "decision")


def intent_mac(mac: Mac, intent_id: UUID, tool: str, arguments: Mapping[str, Any]) -> str:
    """Keyed digest that binds arguments to their intent and tool."""
    return mac(canonical([str(intent_id), tool, arguments]))


def macs_digest(intents: Sequence[EffectIntent]) -> str:
    """One digest over all intents of a decision: what an approval is bound to."""
    return content_digest(",".join(i.arguments_mac for i in intents))


def values_digest(values: Mapping[str, Scalar]) -> str:
    """Digest of evidence values, names included."""
    return content_digest(canonical(dict(values)).decode())


def decide(spec: AgentSpec, policy: Policy, case: Case, mac: Mac, edited: Sequence[Mapping[str, Any]] | None = None) -> Decided:
    """The decision on one trigger. The same arguments give the same bytes, always and everywhere.

    `edited`: the arguments of a proposal that a person edited; the case's flags say which of them are theirs.
    """
    chosen, no_row, eligible = _choose(policy, case.evidence)
    offer, problem = None, ""
    arguments: list[dict[str, Any]] = []
    because = "; ".join(fill(rule.because, case.evidence) for rule in chosen)
    because = because or f"no row of {policy.name} decides here ({no_row})"
    plan = _plan(policy, chosen, case)
    if plan is not None:
        chosen, because, eligible = _handed_over(policy, chosen[0], plan, case, because, eligible)
    values = plan.values if plan is not None else {}
    edit = edit_of(case.flags)
    try:
        for rule in chosen:
            made = _offer(rule, case.evidence, values)
            made = made if edit is None else edit.offer(made)
            clear_of = {k: _argument(v, case, because, made, values) for k, v in sorted(rule.arguments.items())}
            place = sum(r.tool is not None for r in chosen[: len(arguments)])  # among the effects
            arguments.append(clear_of if edit is None or rule.tool is None else edit.fill(place, clear_of, edited))
            offer = made if made is not None else offer
    except _NoValue as missing:
        offer, problem = None, str(missing)
    if case.flags and "failed" in case.flags:  # what surrounds the decision broke; recorded, so that it is made again alike
        problem = str(case.flags["failed"])
    if edit is not None and (not chosen or chosen[0].id != edit.rule):
        problem = problem or f"the policy does not propose {edit.rule} any more, which was edited"
    mode, segment = mode_for(policy, case.mode, case.evidence)
    verdicts = judge(
        policy, chosen, no_row, offer, case.context, mode=mode, depth=case.depth, tools=case.tools, segment=segment, evidence=case.evidence
    )
    suppressed_by = first_failed(verdicts)
    unplanned = plan is not None and plan.option is None
    if plan is not None and unplanned and not problem and _nothing_left(chosen[0], case.asked, suppressed_by):
        problem = plan.problem
    asks = (
        unplanned
        or any(rule.then == "ask" for rule in forbidding(policy.guardrails.sequence or (), chosen, case.context))
        or too_risky(policy, chosen)
    )
    asks = asks or edit is not None or any(asked.person for asked in beyond(policy, chosen, offer, case.context, case.evidence))
    disposition = _disposition(chosen, offer, mode, suppressed_by, problem, asks=asks)
    acts = bool(chosen) and disposition in {"acted", "awaiting"}
    if problem:
        because = f"{because} — but {problem}"
    id_, g = decision_id(case.trigger_id), policy.guardrails
    intents: list[EffectIntent] = []
    reserved: list[Reservation] = []
    clear: list[dict[str, Any]] = []
    for rule, clear_arguments in zip(chosen, arguments, strict=False) if acts else ():
        if rule.tool is None:
            continue
        tool, intent_id = case.tools[rule.tool], derive_id(id_, len(intents))
        intents.append(
            EffectIntent(
                intent_id=intent_id,
                tool=tool.name,
                tool_kind=tool.kind,  # type: ignore[arg-type]
                tool_digest=tool.digest,
                channel=rule.channel,
                arguments_mac=intent_mac(mac, intent_id, tool.name, clear_arguments),
                due_at=from_us(case.decided_at_us),
            )
        )
        clear.append(clear_arguments)
        reserved += _reserved(spec, policy, rule, offer, case.context, intent_id)
    until_us = case.decided_at_us + g.approval_expires_h * 3_600 * SECOND_US
    if policy.approvals is not None and disposition == "awaiting":
        until_us = ends_us(policy.approvals, policy, case.decided_at_us)[-1]
    event = DecisionRecorded(
        trigger_id=case.trigger_id,
        agent=spec.name,
        condition=case.condition,
        depth=case.depth,
        mode=case.mode,
        decided_at=from_us(case.decided_at_us),
        read_set=case.read_set,
        evidence=dict(case.evidence),
        context={**case.context.scalars(), "purpose": g.purpose},
        policy=policy.digest,
        model=case.model,
        tools={name: case.tools[name].text for name in policy.tools if name in case.tools},
        decider=spec.decider,
        decider_digest=spec.decider_digest,
        package_version=spec.package_version,
        prompt=case.asked.prompt if plan is not None and case.asked is not None else None,
        flags=_flags(case, plan),
        eligible=eligible,
        verdicts=verdicts,
        action=None if not chosen or chosen[0].action == "none" else chosen[0].action,
        rule=chosen[0].id if chosen else None,
        offer=offer,
        rationale=because,
        disposition=disposition,
        suppressed_by=suppressed_by if disposition == "suppressed" else None,
        intents=tuple(intents),
        arguments=canonical(clear).decode() if clear else None,
        bound_to=g.bound_to if disposition == "awaiting" else (),
        approval_expires_at=from_us(until_us) if disposition == "awaiting" else None,
        must_not_have_changed=g.must_not_have_changed if acts else (),
        outcome_kinds=policy.outcome.on if acts and policy.outcome else (),
        outcome_by=from_us(case.decided_at_us + policy.outcome.within_days * DAY_US) if acts and policy.outcome else None,
        reservations=tuple(reserved),
    )
    opens_case = because if acts and any(rule.risk_case for rule in chosen) else None
    return Decided(event, tuple(clear), opens_case, needs(policy.budgets or (), chosen, offer, case.context.tiers))


def _reserved(spec: AgentSpec, policy: Policy, rule: Rule, offer: Offer | None, context: Context, intent_id: UUID) -> Iterator[Reservation]:
    """What one effect sets aside, of every budget that it uses."""
    for budget in policy.budgets or ():
        amount, its = budget.use(rule, offer, context.tiers), context.budgets[budget.name]
        if amount:
            yield Reservation(
                intent_id=intent_id,
                budget=budget.ledger(spec.name),
                unit=budget.counted_in,
                period=its.period,
                amount=amount,
                slice=its.slice or None,
            )


def _choose(policy: Policy, evidence: Mapping[str, Value]) -> tuple[tuple[Rule, ...], str, tuple[Eligible, ...]]:
    """The rows that decide, or why none does; and every row that matched, with the chance it had (rules are certain)."""
    matching = [row.rule for row in policy.rows if row.matches(evidence)]
    chosen, no_row = policy.deciding(matching)
    ids = {rule.id for rule in chosen}
    eligible = tuple(Eligible(action=r.action, rule=r.id, propensity_ppm=CERTAIN_PPM if r.id in ids else 0) for r in matching)
    return chosen, no_row, eligible


def _plan(policy: Policy, chosen: Sequence[Rule], case: Case) -> Planned | None:
    """What the row's planner comes to; None where the row decides by itself."""
    if not chosen or chosen[0].plan is None:
        return None
    return read_answer(policy, chosen[0], case.evidence, case.asked, case.decided_at_us)


def _handed_over(
    policy: Policy, row: Rule, plan: Planned, case: Case, because: str, eligible: tuple[Eligible, ...]
) -> tuple[tuple[Rule, ...], str, tuple[Eligible, ...]]:
    """What decides in place of a row that hands over, why, and what could have: its options, with no chance that nobody recorded."""
    options = options_of(policy, row, case.evidence)
    chosen = plan.option
    if chosen is None and case.asked is not None and row.plan is not None:
        chosen = next((option for option in options if option.id == row.plan.otherwise), None)
    if chosen is not None:
        because = f"{because} {fill(chosen.because, case.evidence)}" + (f" ({plan.problem})" if plan.problem else "")
    chance = (case.asked.propensity_ppm or 0) if case.asked is not None and plan.option is not None else 0
    could = tuple(Eligible(action=o.action, rule=o.id, propensity_ppm=chance if o is chosen else 0) for o in options)
    others = tuple(e for e in eligible if e.rule != row.id)
    return ((row,) if chosen is None else (chosen,)), because, (*could, *others)


def planned_call(policy: Policy, case: Case) -> tuple[str, dict[str, Any]] | None:
    """The tool and arguments that a plan comes to; None without a plan, or without a tool."""
    row = plan_row(policy, case.evidence)
    plan = None if row is None else _plan(policy, (row,), case)
    if row is None or plan is None or plan.option is None or plan.option.tool is None:
        return None
    because = f"{fill(row.because, case.evidence)} {fill(plan.option.because, case.evidence)}"
    try:
        offer = _offer(plan.option, case.evidence, plan.values)
        arguments = {k: _argument(v, case, because, offer, plan.values) for k, v in sorted(plan.option.arguments.items())}
    except _NoValue:
        return None
    return plan.option.tool, arguments


def _nothing_left(deciding: Rule, asked: Asked | None, suppressed_by: str | None) -> bool:
    """Whether a row without a plan fails. A guardrail may stop it before its planner is asked; afterwards a person looks in any case."""
    if asked is not None and asked.status == "over-budget":
        return False  # an observing agent that spares its planner has not failed
    return suppressed_by is None if asked is None else (deciding.plan is not None or suppressed_by is not None)


def _flags(case: Case, plan: Planned | None) -> dict[str, Scalar]:
    flags = dict(case.flags or {})
    if plan is not None and case.asked is not None:
        flags |= {**case.asked.scalars(), **plan.scalars()}
    return flags


def plan_row(policy: Policy, evidence: Mapping[str, Value]) -> Rule | None:
    """The row that hands over to a planner with this evidence; None where rows decide by themselves."""
    chosen, _, _ = _choose(policy, evidence)
    return chosen[0] if chosen and chosen[0].plan is not None else None


def to_ask(policy: Policy, case: Case) -> Rule | None:
    """The row whose planner has to be asked before this case is decided; None where none decides, or nothing would come of it."""
    if case.flags and "failed" in case.flags:
        return None
    row = plan_row(policy, case.evidence)
    if row is None or not options_of(policy, row, case.evidence):
        return None
    mode, segment = mode_for(policy, case.mode, case.evidence)
    verdicts = judge(policy, (row,), "", None, case.context, mode=mode, depth=case.depth, tools=case.tools, segment=segment)
    # An agent that observes asks too: how it would plan is what there is to observe.
    return None if any(not v.passed and v.guardrail != "autonomy" for v in verdicts) else row


def _disposition(
    chosen: Sequence[Rule], offer: Offer | None, mode: Mode, suppressed_by: str | None, problem: str, *, asks: bool
) -> Disposition:
    # A row that cannot be carried out has failed even where a guardrail would have stopped it: somebody must mend it.
    if problem:
        return "failed"
    if suppressed_by is not None or not chosen:
        return "suppressed"
    asks = asks or any(r.approval == "required" or (r.approval == "when-over-authority" and over_authority(r, offer)) for r in chosen)
    return "awaiting" if mode == "propose" or asks else "acted"


def _offer(rule: Rule, evidence: Mapping[str, Value], planned: Mapping[str, Filled]) -> Offer | None:
    row: OfferRow | None = rule.offer
    if row is None:
        return None
    amount = _filled(row.amount_minor, planned) if _from_plan(row.amount_minor) else _value(row.amount_minor, evidence)
    currency = _value(row.currency, evidence)
    if isinstance(amount, bool) or not isinstance(amount, int) or not 0 <= amount <= MAX_INT:
        raise _NoValue(f"{row.amount_minor} is not an amount")
    try:
        return Offer(
            kind=row.kind,
            amount_minor=amount,
            currency=str(currency),
            terms=row.terms,
            authority_limit_minor=rule.authority_limit_minor or 0,
        )
    except ValueError:
        raise _NoValue(f"{row.currency} is not an ISO 4217 currency") from None


def _value(given: int | str, evidence: Mapping[str, Value]) -> int | str:
    if not (isinstance(given, str) and given.startswith("$")):
        return given
    value = evidence.get(given[1:])
    if value is None:
        raise _NoValue(f"{given} is missing")
    return value


def _from_plan(given: object) -> bool:
    return isinstance(given, str) and given.startswith(FROM_PLAN)


def _filled(given: str | int | bool, planned: Mapping[str, Filled]) -> Filled:
    value = planned.get(str(given).removeprefix(FROM_PLAN))
    if value is None:
        raise _NoValue(f"{given} is missing")
    return value


def _argument(given: str | int | bool, case: Case, because: str, offer: Offer | None, planned: Mapping[str, Filled]) -> str | int | bool:
    if not isinstance(given, str):
        return given
    if _from_plan(given):
        return _filled(given, planned)
    match given:
        case "$customer":
            return case.customer
        case "$because":
            return because
        case "$offer.amount_minor" | "$offer.currency" | "$offer.terms" if offer is not None:
            value: str | int = getattr(offer, given.removeprefix("$offer."))
            return value
    if given.startswith("$"):
        return _value(given, case.evidence)
    return fill(given, case.evidence)
