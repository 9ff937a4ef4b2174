"""The customer's evolve: events of both lanes, in order of position, into its bounded state. The rules are in `commands.py`.

Pure and total: no clock, no random, no I/O, nothing refused. May import `events` and this room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, assert_never
from uuid import UUID

from postsale.aggregates import asked as a
from postsale.aggregates import decisions as d
from postsale.aggregates import timed as t
from postsale.aggregates.budgets import is_money
from postsale.aggregates.conversations import ConversationEnded, sets_aside
from postsale.aggregates.customer import (
    MAX_OFFERS,
    MAX_RECENT,
    MAX_TOUCHES,
    CustomerAggregate,
    Effect,
    KindSummary,
    Offered,
    OpenDecision,
    OpenPlan,
    PendingTrigger,
    RiskCase,
    Touch,
)
from postsale.aggregates.frozen import replace
from postsale.aggregates.identity import MergedInto, SplitFrom, StreamJoined, StreamParted
from postsale.aggregates.plans import PlanReceived, PlanRequested
from postsale.aggregates.risk import RiskCaseClosed, RiskCaseMoved, RiskCaseOpened
from postsale.events import Event, Header, Lane, StoredEvent, StreamId, decode, to_us

_TOGETHER = 256
Read = Callable[[StoredEvent], Event]
"""Of a stored event of the decision lane, what it says, personal fields MASKED."""
K = TypeVar("K")
V = TypeVar("V")


def evolve_facts(customer: CustomerAggregate, facts: Sequence[StoredEvent]) -> CustomerAggregate:
    """Facts of any registered kind, the user's own too. Only the newest payload of a kind is ever parsed."""
    newest: dict[str, StoredEvent] = {}
    times: dict[str, list[int]] = {}
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for stored in facts:
        kind, at = stored.kind, stored.occurred_at_us
        counts[kind] += 1
        times.setdefault(kind, []).append(at)
        first[kind] = min(at, first.get(kind, at))
        best = newest.get(kind)
        if best is None or (at, stored.position) > (best.occurred_at_us, best.position):
            newest[kind] = stored
    summaries = {**customer.facts}
    for kind, stored in newest.items():
        known = summaries.get(kind)
        at = stored.occurred_at_us
        if known is None:
            summaries[kind] = KindSummary(counts[kind], first[kind], at, stored.position, stored.fields())
        elif (at, stored.position) > (known.latest_at_us, known.latest_position):
            since = min(known.first_at_us, first[kind])
            summaries[kind] = KindSummary(known.count + counts[kind], since, at, stored.position, stored.fields())
        else:
            summaries[kind] = replace(known, count=known.count + counts[kind], first_at_us=min(known.first_at_us, first[kind]))
    decisions = customer.decisions
    for stored in facts if decisions else ():
        decisions = {k: _succeeds(o, stored) for k, o in decisions.items()}
    waits = customer.waits
    for stored in facts if waits else ():
        waits = {k: _arrives(w, stored) for k, w in waits.items()}
    position = max((stored.position for stored in facts), default=0)
    recent = {**customer.recent, **{kind: _newest(customer, kind, at) for kind, at in times.items()}}
    return replace(customer, facts=summaries, decisions=decisions, waits=waits, recent=recent, position=max(customer.position, position))


def _newest(customer: CustomerAggregate, kind: str, more_us: Sequence[int]) -> tuple[int, ...]:
    """The newest times of a kind, whatever the order in which they become known."""
    return tuple(sorted((*customer.recent.get(kind, ()), *more_us))[-MAX_RECENT:])


def evolve_fact(customer: CustomerAggregate, stored: StoredEvent) -> CustomerAggregate:
    """One fact."""
    return evolve_facts(customer, (stored,))


def _succeeds(o: OpenDecision, fact: StoredEvent) -> OpenDecision:
    by = o.outcome_by_us
    if by is None or o.success is not None or fact.kind not in o.outcome_kinds or not o.decided_at_us < fact.occurred_at_us <= by:
        return o
    return replace(o, success=fact.event_id)


def _arrives(w: t.Wait, fact: StoredEvent) -> t.Wait:
    """What counts is when it is said to have happened, however late that becomes known."""
    if w.met is not None or fact.kind not in w.kinds or not w.begun_us < fact.occurred_at_us < w.until_us:
        return w
    return replace(w, met=fact.event_id)


def _read(stored: StoredEvent) -> Event:
    return decode(stored).data


def evolve_decision(customer: CustomerAggregate, stored: StoredEvent, read: Read = _read) -> CustomerAggregate:
    """An event of the decision lane of this customer's own stream; `read` says what its bytes hold."""
    event: d.CustomerEvent = read(stored)  # type: ignore[assignment]
    recent = {**customer.recent, stored.kind: _newest(customer, stored.kind, (stored.occurred_at_us,))}
    customer = replace(customer, position=max(customer.position, stored.position), version=stored.version, recent=recent)
    return _evolve(customer, event, stored)


def fold(customer: CustomerAggregate, events: Iterable[StoredEvent], read: Read = _read) -> CustomerAggregate:
    """Evolve over events of both lanes in position order. Memory is bounded: facts are taken in by the hundred."""
    facts: list[StoredEvent] = []
    for stored in events:
        if stored.lane is Lane.FACT and len(facts) < _TOGETHER:
            facts.append(stored)
            continue
        customer = evolve_facts(customer, facts) if facts else customer
        facts = [stored] if stored.lane is Lane.FACT else []
        customer = customer if facts else evolve_decision(customer, stored, read)
    return evolve_facts(customer, facts) if facts else customer


def _evolve(c: CustomerAggregate, event: d.CustomerEvent, stored: StoredEvent) -> CustomerAggregate:
    at = stored.occurred_at_us
    match event:
        case d.TriggerRaised(agent=agent, condition=condition):
            pending = PendingTrigger(stored.event_id, event, stored.position, at)
            return replace(
                c,
                triggers={**c.triggers, (agent, condition): stored.event_id},
                up=c.up if event.cause == "command" or _by_time(c, event) else c.up | {(agent, condition)},
                pending={**c.pending, stored.event_id: pending},
            )
        case d.TriggerCleared(agent=agent, condition=condition):
            return replace(c, up=c.up - {(agent, condition)})
        case d.TriggerDeferred(trigger_id=id_, attempt=attempt, retry_at=retry_at):
            trigger = c.pending.get(id_)
            again = None if trigger is None else replace(trigger, deferred=attempt, retry_at_us=to_us(retry_at))
            return c if again is None else replace(c, pending={**c.pending, id_: again})
        case d.DecisionRecorded():
            return _decided(c, event, stored)
        case PlanRequested(trigger_id=id_):
            return _planning(c, id_, OpenPlan(stored.event_id, event.policy, event.rule, event.attempt, at, event.timeout_s))
        case PlanReceived(trigger_id=id_, request_id=request_id):
            asked = c.pending[id_].plan if id_ in c.pending else None
            if asked is None or asked.request_id != request_id:
                return c
            retry_at_us = None if event.retry_at is None else to_us(event.retry_at)
            return _planning(c, id_, replace(asked, status=event.status, received_id=stored.event_id, retry_at_us=retry_at_us))
        case d.ApprovalGranted(decision_id=id_):
            return _settle(c, id_, disposition="acted", effects="ready", at_us=at)
        case d.ApprovalRejected(decision_id=id_) | d.ApprovalLapsed(decision_id=id_):
            return _settle(c, id_, disposition="suppressed", effects="cancelled", at_us=at)
        case d.DecisionOverridden(decision_id=id_):
            return _settle(c, id_, disposition="suppressed", effects="cancelled", at_us=at)
        case d.ConsentGiven(channel=channel, purpose=purpose):
            return replace(c, consents={**c.consents, (channel, purpose): True})
        case d.ConsentWithdrawn(channel=channel, purpose=purpose):
            return replace(c, consents={**c.consents, (channel, purpose): False})
        case d.EffectStarted(decision_id=id_, intent_id=intent, attempt=attempt):
            return _started(c, id_, intent, attempt, at)
        case d.EffectSucceeded(decision_id=id_, intent_id=intent):
            return _effect(_acted(c, at), id_, intent, status="succeeded")
        case d.EffectFailed(decision_id=id_, intent_id=intent, final=False, retry_at=retry_at):
            c = _ambiguous(c, id_, intent) if event.ambiguous else c
            return _effect(c, id_, intent, status="retry", retry_at_us=to_us(retry_at) if retry_at else 0)
        case d.EffectFailed(decision_id=id_, intent_id=intent):
            return _effect(c, id_, intent, status="failed")
        case d.EffectUnknown(decision_id=id_, intent_id=intent):
            return _effect(c, id_, intent, status="unknown")
        case d.EffectCancelled(decision_id=id_, intent_id=intent):
            return _effect(c, id_, intent, status="cancelled")
        case d.OutcomeObserved(decision_id=id_):
            known = c.decisions.get(id_)
            return c if known is None else _put(c, replace(known, outcome_by_us=None))
        case ConversationEnded(decision_id=id_):
            return _ended(c, id_, at)
        case RiskCaseOpened(case_id=case_id, reason=reason):
            depth = Header.from_bytes(stored.header).depth + 1
            opened = RiskCase(case_id, "at-risk", at, at, reason, event_id=stored.event_id, depth=depth)
            return replace(c, cases={**c.cases, case_id: opened})
        case RiskCaseMoved(case_id=case_id, stage=stage):
            case = c.cases.get(case_id)
            if case is None:
                return c
            depth = Header.from_bytes(stored.header).depth
            moved = replace(_act(case, at), stage=stage, stage_since_us=at, event_id=stored.event_id, depth=depth)
            return replace(c, cases={**c.cases, case_id: moved})
        case RiskCaseClosed(case_id=case_id):
            return replace(c, cases=_without(c.cases, case_id))
        case StreamJoined(category=category, id=id_):
            stream = StreamId(c.stream.tenant, category, id_)
            return c if stream in c.joined else replace(c, joined=(*c.joined, stream))
        case StreamParted(category=category, id=id_):
            stream = StreamId(c.stream.tenant, category, id_)
            return replace(c, joined=tuple(s for s in c.joined if s != stream))
        case MergedInto(survivor=survivor):
            return replace(c, merged_into=survivor)
        case SplitFrom():
            return replace(c, merged_into=None)
        case d.UndoOrdered():
            order = OpenDecision(
                decision_id=stored.event_id,
                agent=event.agent,
                disposition="acted",
                decided_at_us=at,
                effects={i.intent_id: Effect(i, "ready", ready_at_us=at) for i in event.intents},
                expires_at_us=None,
                bound_to=(),
                outcome_kinds=(),
                outcome_by_us=None,
                reservations=event.compensates,
                trigger_id=event.trigger_id,
                undoes=(event.decision_id, event.undoes),
            )
            return _put(c, order)
        case d.CommandIssued():
            return c
        case a.ApprovalAsked(decision_id=id_):
            known = c.decisions.get(id_)
            return c if known is None else _put(c, replace(known, asked=a.begin(event)))
        case a.ApprovalSigned(decision_id=id_) | a.ApprovalEscalated(decision_id=id_):
            known = c.decisions.get(id_)
            return c if known is None or known.asked is None else _put(c, replace(known, asked=a.evolve_asked(known.asked, event)))
        case a.ApprovalTimedOut(decision_id=id_, outcome="approve"):
            return _settle(c, id_, disposition="acted", effects="ready", at_us=at)
        case a.ApprovalTimedOut(decision_id=id_) | a.ApprovalReplaced(decision_id=id_):
            return without_proposal(c, id_, at)
        case t.ScheduleCame(agent=agent, schedule=name, due_at=due_at, day=day):
            return replace(c, came={**c.came, (agent, name): t.Came(stored.event_id, to_us(due_at), day)})
        case t.WaitBegan(agent=agent, wait=name, decision_id=id_, kinds=kinds, until=until):
            over = [k for k, w in c.waits.items() if w.due is not None][-t.MAX_OVER + 1 :]  # for facts that come late
            kept = {k: w for k, w in c.waits.items() if w.due is None or k in over}
            depth = Header.from_bytes(stored.header).depth
            wait = t.Wait(stored.event_id, agent, name, id_, kinds, at, to_us(until), depth=depth)
            return replace(c, waits={**kept, stored.event_id: wait})
        case t.WaitEnded(wait_id=wait_id, result="due", agent=agent, wait=name):
            waited = c.waits.get(wait_id)
            waits = c.waits if waited is None else {**c.waits, wait_id: replace(waited, due=stored.event_id)}
            return replace(c, waits=waits, came={**c.came, (agent, name): t.Came(stored.event_id, at)})
        case t.WaitEnded(wait_id=wait_id):
            return replace(c, waits=_without(c.waits, wait_id))
        case t.SlaWarned() | t.SlaBreached():
            return _missed(c, event, stored)
    assert_never(event)


def without_proposal(c: CustomerAggregate, decision_id: UUID, at_us: int) -> CustomerAggregate:
    """The customer once a proposal is closed and nothing of it left."""
    return _settle(c, decision_id, disposition="suppressed", effects="cancelled", at_us=at_us)


def _by_time(c: CustomerAggregate, raised: d.TriggerRaised) -> bool:
    """Whether time asked, once, rather than a condition that lasts."""
    came = c.came.get((raised.agent, raised.condition))
    return came is not None and came.event_id == raised.causing_event


def _acted(c: CustomerAggregate, at_us: int) -> CustomerAggregate:
    return replace(c, cases={k: _act(case, at_us) for k, case in c.cases.items()}) if c.cases else c


def _act(case: RiskCase, at_us: int) -> RiskCase:
    return case if case.acted_us is not None else replace(case, acted_us=at_us)


def _missed(c: CustomerAggregate, event: t.SlaWarned | t.SlaBreached, stored: StoredEvent) -> CustomerAggregate:
    case = c.cases.get(event.case_id)
    c = replace(c, came={**c.came, (event.agent, event.sla): t.Came(stored.event_id, to_us(event.due_at))})
    if case is None:
        return c
    what = "warned" if isinstance(event, t.SlaWarned) else "breached"
    said = case.missed | {(event.agent, event.sla, to_us(event.since), what)}
    return replace(c, cases={**c.cases, case.case_id: replace(case, missed=said)})


def _planning(c: CustomerAggregate, trigger_id: UUID, plan: OpenPlan) -> CustomerAggregate:
    known = c.pending.get(trigger_id)
    return c if known is None else replace(c, pending={**c.pending, trigger_id: replace(known, plan=plan)})


def _decided(c: CustomerAggregate, event: d.DecisionRecorded, stored: StoredEvent) -> CustomerAggregate:
    at = stored.occurred_at_us
    status = {"acted": "ready", "awaiting": "held"}.get(event.disposition, "cancelled")
    decision = OpenDecision(
        decision_id=stored.event_id,
        agent=event.agent,
        disposition=event.disposition,
        decided_at_us=at,
        effects={i.intent_id: Effect(i, status, ready_at_us=at) for i in event.intents},
        expires_at_us=to_us(event.approval_expires_at) if event.approval_expires_at else None,
        bound_to=event.bound_to,
        outcome_kinds=event.outcome_kinds,
        outcome_by_us=to_us(event.outcome_by) if event.outcome_by and event.disposition in {"acted", "awaiting"} else None,
        reservations=event.reservations,
        trigger_id=event.trigger_id,
        policy=event.policy,
        action=event.action,
        priority=rank if type(rank := event.context.get("priority")) is int else None,
        purpose=str(event.context.get("purpose") or ""),
        depth=event.depth,
    )
    touches = c.touches
    if event.disposition in {"acted", "awaiting"}:
        touches = (*touches, *(Touch(at, i.channel, stored.event_id) for i in event.intents if i.channel))[-MAX_TOUCHES:]
    c = replace(c, pending=_without(c.pending, event.trigger_id), touches=touches)
    if event.offer is not None and event.disposition in {"acted", "awaiting"}:
        offered = (*c.offered, Offered(at, event.offer.amount_minor, event.offer.currency, stored.event_id))
        forgotten = max((o.at_us for o in offered[:-MAX_OFFERS]), default=-1)
        c = replace(c, offered=offered[-MAX_OFFERS:], offers_forgotten_us=max(c.offers_forgotten_us, forgotten))
    return _put(c, decision)


def _put(c: CustomerAggregate, decision: OpenDecision) -> CustomerAggregate:
    decisions = _without(c.decisions, decision.decision_id) if decision.done else {**c.decisions, decision.decision_id: decision}
    return replace(c, touches=_touches(c, decision), offered=_offered(c, decision), decisions=decisions)


def _settle(c: CustomerAggregate, decision_id: UUID, *, disposition: d.Disposition, effects: str, at_us: int) -> CustomerAggregate:
    known = c.decisions.get(decision_id)
    if known is None:
        return c
    waiting = {"held", "ready", "retry"}
    moved = {k: replace(e, status=effects, ready_at_us=at_us) if e.status in waiting else e for k, e in known.effects.items()}
    outcome_by = known.outcome_by_us if disposition == "acted" else None
    return _put(c, replace(known, disposition=disposition, effects=moved, outcome_by_us=outcome_by))


def _ended(c: CustomerAggregate, decision_id: UUID, at_us: int) -> CustomerAggregate:
    """A conversation's decision ends: what has not left is cancelled; it has acted where something left, else it is set aside."""
    known = c.decisions.get(decision_id)
    if known is None:
        return c
    moved = (e.status if e.status not in {"held", "ready", "retry"} else "cancelled" for e in known.effects.values())
    disposition: d.Disposition = "suppressed" if sets_aside(known.disposition, moved) else known.disposition
    c = _settle(c, decision_id, disposition=disposition, effects="cancelled", at_us=at_us)
    known = c.decisions.get(decision_id)
    return c if known is None else _put(c, replace(known, outcome_by_us=None))


def _effect(c: CustomerAggregate, decision_id: UUID, intent_id: UUID, **changes: Any) -> CustomerAggregate:
    known = c.decisions.get(decision_id)
    if known is None or intent_id not in known.effects:
        return c
    effects = {**known.effects, intent_id: replace(known.effects[intent_id], **changes)}
    # A decision none of whose effects happened has failed; one that reached the customer has acted.
    failed = all(e.status in {"failed", "cancelled"} for e in effects.values())
    return _put(c, replace(known, effects=effects, disposition="failed" if failed else known.disposition))


def _started(c: CustomerAggregate, decision_id: UUID, intent_id: UUID, attempt: int, at_us: int) -> CustomerAggregate:
    known = c.decisions.get(decision_id)
    before = known.effects.get(intent_id) if known else None
    if before is not None and before.status == "started":  # the attempt before it broke off without a result
        c = _ambiguous(c, decision_id, intent_id)
    return _effect(c, decision_id, intent_id, status="started", attempt=attempt, started_at_us=at_us)


def _ambiguous(c: CustomerAggregate, decision_id: UUID, intent_id: UUID) -> CustomerAggregate:
    return _effect(c, decision_id, intent_id, ambiguous=True)


def _touches(c: CustomerAggregate, decision: OpenDecision) -> tuple[Touch, ...]:
    """The contacts that count: those of this decision whose effect failed or was cancelled never reach the customer."""
    left = Counter(e.intent.channel for e in decision.effects.values() if e.status not in {"failed", "cancelled"})
    kept = []
    for touch in c.touches:
        if touch.decision_id == decision.decision_id:
            left[touch.channel] -= 1
            if left[touch.channel] < 0:
                continue
        kept.append(touch)
    return tuple(kept)


def _offered(c: CustomerAggregate, decision: OpenDecision) -> tuple[Offered, ...]:
    """The offers that count: not those of which no effect happened, nor those that were taken back."""
    ends = [e.status for e in decision.effects.values()]
    if decision.undoes is not None:
        gone = decision.undoes[0] if "succeeded" in ends and any(is_money(r.unit) for r in decision.reservations) else None
    else:
        gone = decision.decision_id if ends and all(s in {"failed", "cancelled"} for s in ends) else None
    return c.offered if gone is None else tuple(o for o in c.offered if o.decision_id != gone)


def _without(mapping: Mapping[K, V], key: K) -> Mapping[K, V]:
    return {k: v for k, v in mapping.items() if k != key}
