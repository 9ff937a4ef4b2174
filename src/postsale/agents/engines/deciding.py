"""Deciding about one trigger: what is read, asked and looked at, and the append whose conditions say that it still holds.

Not here: the pure decision (`agents.decide`), effects. May import the crew and what it may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from postsale.agents.agent import Agent
from postsale.agents.approval_rules import asked_of
from postsale.agents.budget import Page
from postsale.agents.budget_policy import Budget, Left, period
from postsale.agents.conversation import taken_over
from postsale.agents.decide import Case, Decided, decide, decision_id, plan_row
from postsale.agents.desk import TRIES, Change, Reserve
from postsale.agents.engines.crew import Crew, own_fault
from postsale.agents.engines.ends import told
from postsale.agents.escrow import Purse
from postsale.agents.evidence import EvidenceRecorder, HealthReading, read_set
from postsale.agents.flags import FAILED, read_flags
from postsale.agents.guardrails import look
from postsale.agents.lookup import Switches, reach_stream
from postsale.agents.planner_asking import NotYet
from postsale.agents.policy import Policy
from postsale.agents.policy_time import ASKED_BY
from postsale.agents.replacing import Edited
from postsale.agents.work import Work, load
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.artifacts import policy_stream
from postsale.aggregates.customer import CustomerAggregate, PendingTrigger
from postsale.errors import ApprovalRefused, ConditionFailed, ContentConflict, InvalidInput, NotLive, StoreUnavailable, VersionConflict
from postsale.events import SECOND_US, Actor, StreamId, derive_id, from_us, to_us
from postsale.projections.scoring import as_evidence
from postsale.store.contract import Condition, NoneSince, StreamAt
from postsale.store.log import Cause

ATTEMPTS = 3  # to decide about a trigger, where deciding raises
_BACKOFF_S = 30  # before the second; doubles


class _Looked(NamedTuple):
    """A decision, and what must still be so when it is stored."""

    decided: Decided
    position: int  # facts up to here were read
    purses: Mapping[str, Purse]  # by the name under which each budget is kept
    reach_version: int
    health: HealthReading
    contacts: StreamAt  # the budget of contacts of all agents together


class _Fault(Exception):
    """The agent's own code, or what it was given, raised: the kind of error, never its words. `unread`: there is no evidence."""

    def __init__(self, why: str, *, unread: bool) -> None:
        super().__init__(why)
        self.unread = unread


def handling(
    crew: Crew, stream: StreamId, trigger_id: UUID, customer: CustomerAggregate | None, *, last_try: bool = False
) -> Work[UUID | None]:
    """`Steps.handle` as a work, which begins with `customer`, just loaded."""
    for attempt in range(1, TRIES + 2):
        if customer is None or attempt > 1:
            customer = yield from load(stream, customer)
        pending = customer.pending.get(trigger_id)
        agent = crew.agents.get(pending.raised.agent) if pending else None
        if pending is None or agent is None:
            return None
        last = attempt > TRIES
        try:
            problem = "what it depends on kept changing while it was being decided" if last else ""
            change = None
            try:
                change = decided(crew, customer, pending, agent, problem)[0]
            except _Fault as fault:
                if last_try or pending.deferred + 1 >= ATTEMPTS:
                    change = _given_up(crew, customer, pending, agent, fault)
                else:
                    change = _deferred(crew, pending, str(fault))
            yield from crew.desk.appending(customer, change)
            if isinstance(change.drafts[0].event, d.TriggerDeferred):
                return None
        except NotYet as waits:
            if waits.again:
                continue
            return None
        except ContentConflict:
            return None  # another worker decided this trigger
        except (VersionConflict, ConditionFailed):
            if last:
                raise
            continue
        return decision_id(trigger_id)
    raise AssertionError("unreachable")


def _given_up(crew: Crew, c: CustomerAggregate, pending: PendingTrigger, agent: Agent, fault: _Fault) -> Change:
    """The decision that has failed, with the evidence where it can be read."""
    try:
        return decided(crew, c, pending, agent, str(fault), broken=fault.unread)[0]
    except _Fault:
        return decided(crew, c, pending, agent, str(fault), broken=True)[0]


def _deferred(crew: Crew, pending: PendingTrigger, why: str) -> Change:
    """Try again later: others decide meanwhile."""
    attempt = pending.deferred + 1
    retry_at_us = crew.desk.now_us() + _BACKOFF_S * SECOND_US * 2 ** (attempt - 1)
    event = d.TriggerDeferred(
        trigger_id=pending.trigger_id, agent=pending.raised.agent, attempt=attempt, reason=why, retry_at=from_us(retry_at_us)
    )
    how = Cause(
        actor=Actor("agent", pending.raised.agent),
        causation_id=pending.trigger_id,
        correlation_id=pending.trigger_id,
        depth=pending.raised.depth,
        origin=crew.desk.origin,
    )
    return Change((crew.desk.draft(event, derive_id(pending.trigger_id, "deferred", attempt), how),))


def propose(crew: Crew, c: CustomerAggregate, pending: PendingTrigger, edited: Edited) -> tuple[Change, Decided]:
    """The decision about a person's edit of a proposal, with arguments that fit their tools; InvalidInput where they do not."""
    change, made = decided(crew, c, pending, crew.agent(pending.raised.agent), "", edited)
    for intent, arguments in zip(made.event.intents, made.arguments, strict=True):
        if place := crew.toolbox.misfit(intent.tool, arguments):
            raise InvalidInput(what="edit", field=f"arguments.{place}", reason=f"it does not fit the input of {intent.tool}")
    return change, made


def decided(
    crew: Crew,
    c: CustomerAggregate,
    pending: PendingTrigger,
    agent: Agent,
    problem: str,
    edited: Edited | None = None,
    *,
    broken: bool = False,
) -> tuple[Change, Decided]:
    """The decision about a trigger, or about a person's edit, with what it must hold on. `broken`: the problem is that nothing can be read."""
    tenant = c.stream.tenant
    switches = crew.desk.switches(tenant, agent.name)
    policy, policy_version, retired = crew.policy(tenant, agent)
    try:
        looked = _look(crew, c, pending, agent, policy, switches, problem, edited, retired, broken)
    except Exception as error:
        if isinstance(error, _Fault) or broken or edited is not None or not own_fault(error) or isinstance(error, NotYet):
            raise
        raise _Fault(f"deciding raised {type(error).__name__}", unread=False) from None
    event, id_ = looked.decided.event, looked.decided.decision_id
    how = Cause(
        actor=Actor("agent", agent.name),
        causation_id=pending.trigger_id,
        correlation_id=pending.trigger_id,
        depth=event.depth,
        origin=crew.desk.origin,
    )
    drafts = [crew.desk.draft(event, id_, how, c.ref)]
    if event.disposition == "awaiting":
        asked = asked_of(policy, id_, to_us(event.decided_at), None if edited is None else edited.editor)
        drafts += [crew.desk.draft(asked, derive_id(id_, "asked"), how)] if asked is not None else []
    if looked.decided.opens_case is not None:
        opened = commands.open_case(c, looked.decided.opens_case, pending.trigger_id)
        drafts += [crew.desk.draft(e, derive_id(id_, "risk-case"), replace(how, causation_id=id_)) for e in opened]
    drafts += [told(crew, c, e) for e in taken_over(c, event, id_, to_us(event.decided_at))]
    conditions: list[Condition] = [*switches.conditions, StreamAt(policy_stream(tenant, policy.name), policy_version)]
    read = event.evidence.keys()
    conditions += [StreamAt(stream, at) for name, stream, at in looked.health.models if as_evidence(name, None).keys() & read]
    if policy.conversation is not None:
        conditions.append(looked.contacts)
    if event.must_not_have_changed:
        conditions.append(NoneSince(c.fact_streams, frozenset(event.must_not_have_changed), looked.position))
    beside = []
    if policy.guardrails.blast_radius is not None and event.disposition in {"acted", "awaiting"}:
        counted = crew.desk.draft(d.AgentReached(decision_id=id_), derive_id(id_, "reached"), how)
        beside.append((reach_stream(tenant, agent.name), looked.reach_version, counted))
    reserves = tuple(Reserve(held, id_, looked.purses[held.budget].version) for held in event.reservations)
    return Change(tuple(drafts), tuple(conditions), reserves=reserves, beside=tuple(beside)), looked.decided


def _look(
    crew: Crew,
    c: CustomerAggregate,
    pending: PendingTrigger,
    agent: Agent,
    policy: Policy,
    switches: Switches,
    problem: str,
    edited: Edited | None,
    retired: bool,
    broken: bool,
) -> _Looked:
    now_us, tenant, budgets = crew.desk.now_us(), c.stream.tenant, policy.budgets or ()
    asked = read_flags(policy.flags or {}, policy.inputs, crew.flags, tenant=tenant, customer=c.ref)
    health = HealthReading(position=c.position)
    evidence: dict[str, d.Scalar] = dict.fromkeys(sorted(policy.inputs)) | {name: asked[name] for name in sorted(policy.flags or {})}
    try:
        if broken:
            raise _Fault(problem, unread=True)
        crew.check(agent, policy)
        values, health = crew.values(c, agent, now_us)
        values[ASKED_BY] = pending.raised.condition if edited is None else edited.asked_by
        values |= {name: asked[name] for name in policy.flags or {}}
        evidence = EvidenceRecorder(agent.name, policy.inputs, values, read_set(c, health)).everything()
    except (StoreUnavailable, NotLive):
        raise
    except _Fault:
        pass
    except Exception as error:  # the agent's own code: its trigger must not stay without a disposition
        where = f" {error.field!r}" if isinstance(error, InvalidInput) else ""
        problem = f"its evidence{where} could not be read: {type(error).__name__}"
        if edited is None:
            raise _Fault(problem, unread=True) from None
    purses = {b.name: _purse(crew, tenant, agent.name, b, now_us, 0, edited) for b in budgets}
    reached, reach_version, radius = None, 0, policy.guardrails.blast_radius
    if radius is not None:
        reached, reach_version = crew.desk.reached(tenant, agent.name, now_us - radius.hours * 3_600 * SECOND_US)
    contact_limits, contacts = crew.desk.contact_limits(tenant) if policy.conversation is not None else ({}, StreamAt(c.stream, 0))
    reads = read_set(c, health)
    flags: dict[str, d.Scalar] = {**asked, **({FAILED: problem} if problem else {}), **({} if edited is None else edited.edit.flags())}
    case = Case(
        trigger_id=pending.trigger_id,
        condition=pending.raised.condition,
        depth=pending.raised.depth,
        mode=switches.states[0].mode,
        decided_at_us=now_us,
        read_set=reads,
        evidence=evidence,
        context=look(
            policy,
            c,
            evidence,
            now_us=now_us,
            switches=switches.states,
            retired=retired,
            budgets=_left(budgets, purses, now_us),
            tools=crew.toolbox.refs,
            reached=reached,
            agent=agent.name,
            contact_limits=contact_limits,
        ),
        tools=crew.toolbox.refs,
        model=health.model,
        flags=flags or None,
    )
    if edited is None:
        case = crew.planning.prepare(c, pending, agent, policy, case)
    elif plan_row(policy, case.evidence) is not None:
        why = "a planner decides here, and what it answered cannot be edited: reject it, or have the agent asked again"
        raise ApprovalRefused(decision_id=str(edited.edit.replaces), reason=why)
    mac, clear = crew.desk.mac(tenant), None if edited is None else edited.arguments
    made = decide(agent.spec, policy, case, mac, clear)
    short = (made.event.suppressed_by or "").startswith("budget:")
    if crew.desk.escrow is not None and (short or made.event.reservations):
        purses = {b.name: _purse(crew, tenant, agent.name, b, now_us, made.needs[b.name], edited) for b in budgets}
        context = replace(case.context, budgets=_left(budgets, purses, now_us))
        made = decide(agent.spec, policy, replace(case, context=context), mac, clear)
    by_ledger = {b.ledger(agent.name): purses[b.name] for b in budgets}
    return _Looked(made, reads[0].fact_position, by_ledger, reach_version, health, contacts)


def _purse(crew: Crew, tenant: str, agent: str, budget: Budget, now_us: int, wanted: int, edited: Edited | None) -> Purse:
    """For a decision; what the proposal gives back that it takes the place of is there again, where it was taken from."""
    name, page = budget.ledger(agent), Page(budget.counted_in, period(budget, now_us))
    purse = crew.desk.purse(tenant, name, page, budget.limit, wanted)
    freed = () if edited is None else edited.freed
    back = sum(r.amount for r in freed if (r.budget, r.unit, r.period, r.slice) == (name, *page, purse.slice))
    return purse._replace(left=purse.left + back)


def _left(budgets: Sequence[Budget], purses: Mapping[str, Purse], now_us: int) -> dict[str, Left]:
    return {b.name: Left(purses[b.name].left, period(b, now_us), purses[b.name].slice or "") for b in budgets}
