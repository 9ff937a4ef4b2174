"""The rules of the customer: each function takes the state and a command and returns the events to append; `()` is nothing to do.

Pure: ids, times and whatever was looked up come in with the command. Refusals are typed errors. No evolve here.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from postsale.aggregates import decisions as d
from postsale.aggregates.authority import Right
from postsale.aggregates.customer import CustomerAggregate, Effect, OpenDecision
from postsale.aggregates.identity import ALIASES, MergedInto, SplitFrom, StreamJoined, StreamParted
from postsale.aggregates.risk import RiskCaseClosed, RiskCaseMoved, RiskCaseOpened, Stage
from postsale.errors import ApprovalRefused, IdentityConflict, InvalidInput, UnknownDecision
from postsale.events import StreamId, derive_id, to_us


def give_consent(c: CustomerAggregate, channel: str, purpose: str, evidence: str) -> tuple[d.CustomerEvent, ...]:
    if c.consents.get((channel, purpose)) is True:
        return ()
    return (d.ConsentGiven(channel=channel, purpose=purpose, evidence=evidence),)


def withdraw_consent(c: CustomerAggregate, channel: str, purpose: str, evidence: str) -> tuple[d.CustomerEvent, ...]:
    if c.consents.get((channel, purpose)) is False:
        return ()
    return (d.ConsentWithdrawn(channel=channel, purpose=purpose, evidence=evidence),)


def raise_trigger(c: CustomerAggregate, trigger_id: UUID, raised: d.TriggerRaised) -> tuple[d.CustomerEvent, ...]:
    """The same cause raises a trigger once, and a condition that is up already does not rise again until it is cleared."""
    edge = (raised.agent, raised.condition)
    if c.triggers.get(edge) == trigger_id or (raised.cause != "command" and edge in c.up):
        return ()
    return (raised,)


def clear_trigger(c: CustomerAggregate, cleared: d.TriggerCleared) -> tuple[d.CustomerEvent, ...]:
    return (cleared,) if (cleared.agent, cleared.condition) in c.up else ()


# ---------------------------------------------------------------- approvals


def awaiting(c: CustomerAggregate, decision_id: UUID) -> OpenDecision:
    """The open request; ApprovalRefused when it does not wait."""
    known = c.decisions.get(decision_id)
    if known is None or known.disposition != "awaiting":
        raise ApprovalRefused(decision_id=str(decision_id), reason="it is not waiting for approval: used already, settled, or unknown")
    return known


def approve(
    c: CustomerAggregate,
    decision_id: UUID,
    *,
    approver: str,
    authenticated_by: str,
    arguments_mac: str,
    offered_mac: str,
    changed: tuple[str, ...],
    values_digest: str,
    now_us: int,
    reason: str,
) -> tuple[d.CustomerEvent, ...]:
    """Grant, or record why the request lapsed. `changed` names bound values that differ from the decision's.

    Raises ApprovalRefused when it is not waiting, when the arguments differ, or when the approver is the agent itself.
    An expired or outdated request returns ApprovalLapsed: the caller appends it and then refuses.
    """
    known = awaiting(c, decision_id)
    if approver == known.agent:
        raise ApprovalRefused(decision_id=str(decision_id), reason="an agent cannot approve its own proposal")
    if arguments_mac != offered_mac:
        raise ApprovalRefused(decision_id=str(decision_id), reason="the arguments differ from those that were proposed")
    if known.expires_at_us is not None and now_us >= known.expires_at_us:
        return (d.ApprovalLapsed(decision_id=decision_id, why="expired"),)
    if changed:
        return (d.ApprovalLapsed(decision_id=decision_id, why="values-changed", detail=", ".join(changed)),)
    return (
        d.ApprovalGranted(
            decision_id=decision_id,
            approver=approver,
            authenticated_by=authenticated_by,
            arguments_mac=arguments_mac,
            values_digest=values_digest,
            reason=reason,
        ),
    )


def reject(
    c: CustomerAggregate, decision_id: UUID, *, approver: str, authenticated_by: str, reason: str, right: Right | None = None
) -> tuple[d.CustomerEvent, ...]:
    known = awaiting(c, decision_id)
    if approver == known.agent:
        raise ApprovalRefused(decision_id=str(decision_id), reason="an agent cannot settle its own proposal")
    by = (right or Right(None)).said()
    return (d.ApprovalRejected(decision_id=decision_id, approver=approver, authenticated_by=authenticated_by, reason=reason, **by),)


def lapse_expired(c: CustomerAggregate, now_us: int) -> tuple[d.ApprovalLapsed, ...]:
    """Requests whose time is over; those under rules of their own end by these."""
    return tuple(
        d.ApprovalLapsed(decision_id=k, why="expired")
        for k, o in c.decisions.items()
        if o.disposition == "awaiting" and o.asked is None and o.expires_at_us is not None and now_us >= o.expires_at_us
    )


def override(c: CustomerAggregate, decision_id: UUID, *, by: str, reason: str) -> tuple[d.CustomerEvent, ...]:
    if not reason.strip():
        raise InvalidInput(what="override", field="reason", reason="expected a reason")
    if decision_id not in c.decisions:
        raise UnknownDecision(tenant=c.stream.tenant, decision_id=str(decision_id))
    if c.decisions[decision_id].disposition == "suppressed":
        return ()
    return (d.DecisionOverridden(decision_id=decision_id, by=by, reason=reason),)


# ---------------------------------------------------------------- effects and outcomes


def effects_due(c: CustomerAggregate, now_us: int, *, abandoned_after_us: int = 0) -> tuple[tuple[OpenDecision, Effect], ...]:
    """Effects a worker may take now: ready and due, due for another attempt, or started so long ago that its worker is gone."""
    return tuple((o, e) for o in c.decisions.values() for e in o.effects.values() if effect_due_us(e, abandoned_after_us) <= now_us)


def effect_due_us(e: Effect, abandoned_after_us: int = 0) -> float:
    """When a worker may take this effect; infinity for one that waits for a person or is settled."""
    match e.status:
        case "ready":
            return to_us(e.intent.due_at)
        case "started":
            return e.started_at_us + abandoned_after_us
        case "retry":
            return max(e.retry_at_us, to_us(e.intent.due_at))
    return float("inf")


def start_effect(c: CustomerAggregate, decision_id: UUID, intent_id: UUID) -> tuple[d.CustomerEvent, ...]:
    """Claim the next attempt: call the tool only after `EffectStarted`; `()` when there is nothing to attempt.

    An unsafe effect that may have left (a crash, a time-out) is unknown: at most once, never again. Of a decision that was
    set aside meanwhile nothing leaves any more: what may have left is unknown, what has not is cancelled.
    """
    decision = c.decisions.get(decision_id)
    effect = decision.effects.get(intent_id) if decision is not None else None
    if decision is None or effect is None or effect.status not in {"ready", "started", "retry"}:
        return ()
    set_aside = decision.disposition == "suppressed"
    if (effect.status == "started" or effect.ambiguous) and (set_aside or effect.intent.tool_kind == "unsafe"):
        why = "an attempt broke off between the call and its result"
        return (d.EffectUnknown(decision_id=decision_id, intent_id=intent_id, attempt=effect.attempt, reason=why),)
    if set_aside:
        return (d.EffectCancelled(decision_id=decision_id, intent_id=intent_id, reason="the decision was set aside"),)
    return (d.EffectStarted(decision_id=decision_id, intent_id=intent_id, attempt=effect.attempt + 1),)


def observe_outcomes(c: CustomerAggregate, now_us: int) -> tuple[d.CustomerEvent, ...]:
    """Decisions whose success arrived in time, or whose time is over."""
    out: list[d.CustomerEvent] = []
    for id_, o in c.decisions.items():
        if o.outcome_by_us is None or o.disposition != "acted":
            continue
        if o.success is not None:
            out.append(d.OutcomeObserved(decision_id=id_, outcome="success", fact_event=o.success))
        elif now_us > o.outcome_by_us:
            out.append(d.OutcomeObserved(decision_id=id_, outcome="none"))
    return tuple(out)


# ---------------------------------------------------------------- risk cases


def open_case(c: CustomerAggregate, reason: str, trigger_id: UUID) -> tuple[d.CustomerEvent, ...]:
    """One open case per customer is enough: a second cause joins it."""
    if c.cases:
        return ()
    return (RiskCaseOpened(case_id=derive_id(trigger_id, "risk-case"), reason=reason, trigger_id=trigger_id),)


def move_case(c: CustomerAggregate, case_id: UUID, stage: Stage, reason: str) -> tuple[d.CustomerEvent, ...]:
    """`()` when it is not open, or is in that stage already."""
    case = c.cases.get(case_id)
    return () if case is None or case.stage == stage else (RiskCaseMoved(case_id=case_id, stage=stage, reason=reason),)


def close_case(c: CustomerAggregate, case_id: UUID, result: Literal["recovered", "lost"], reason: str) -> tuple[d.CustomerEvent, ...]:
    if case_id not in c.cases:
        return ()
    return (RiskCaseClosed(case_id=case_id, result=result, reason=reason),)


# ---------------------------------------------------------------- identity


def join_alias(c: CustomerAggregate, blind: str) -> tuple[d.CustomerEvent, ...]:
    """Facts that waited under an alias belong to this customer."""
    if StreamId(c.stream.tenant, ALIASES, blind) in c.joined:
        return ()
    return (StreamJoined(category=ALIASES, id=blind, why="link"),)


def merge(
    survivor: CustomerAggregate, other: CustomerAggregate, reason: str
) -> tuple[tuple[d.CustomerEvent, ...], tuple[d.CustomerEvent, ...]]:
    """Events for the survivor's and the other's decision lane; both empty when it is done already.

    Where one of the two has said no to being contacted, the survivor has.
    """
    if other.merged_into == survivor.ref:
        return (), ()
    tenant = survivor.stream.tenant
    if survivor.ref == other.ref:
        raise IdentityConflict(tenant=tenant, reason="a customer cannot be merged into itself")
    if other.merged_into or survivor.merged_into:
        raise IdentityConflict(tenant=tenant, reason="one of the two is merged into another customer already")
    joined = tuple(StreamJoined(category=s.category, id=s.id, why="merge", reason=reason) for s in other.fact_streams)
    withdrawn = tuple(
        d.ConsentWithdrawn(channel=channel, purpose=purpose, evidence="withdrawn by the customer that was merged into this one")
        for (channel, purpose), given in other.consents.items()
        if not given and survivor.may_contact(channel, purpose)
    )
    return (*joined, *withdrawn), (MergedInto(survivor=survivor.ref, reason=reason),)


def split(
    survivor: CustomerAggregate, other: CustomerAggregate, reason: str
) -> tuple[tuple[d.CustomerEvent, ...], tuple[d.CustomerEvent, ...]]:
    """Undo a merge: what was recorded under the other's ids is its own again."""
    if other.merged_into is None:
        return (), ()
    if other.merged_into != survivor.ref:
        raise IdentityConflict(tenant=survivor.stream.tenant, reason="these two are not merged with each other")
    if survivor.merged_into is not None:  # its survivor has joined the other's streams too
        raise IdentityConflict(
            tenant=survivor.stream.tenant, reason="the customer it is merged into is itself merged; split that one first"
        )
    parted = tuple(StreamParted(category=s.category, id=s.id, reason=reason) for s in other.fact_streams)
    return parted, (SplitFrom(survivor=survivor.ref, reason=reason),)
