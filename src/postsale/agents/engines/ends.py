"""Ends: conversations, approvals, waits and outcomes that time or facts brought to their end, and what is said of them.

Not here: who is visited when. May import the crew and what it may.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import UUID

from postsale.agents.approvals import Approvals
from postsale.agents.conversation import Ended, stop_of
from postsale.agents.conversation import ended as conversations_ended
from postsale.agents.desk import Change
from postsale.agents.engines.crew import Crew, own_fault
from postsale.agents.evidence import ENDED, customer_evidence
from postsale.agents.waits import ended
from postsale.agents.work import Work, load
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.asked import ApprovalTimedOut
from postsale.aggregates.conversations import ConversationEnded
from postsale.aggregates.customer import CustomerAggregate, OpenDecision
from postsale.events import derive_id
from postsale.store.contract import Query
from postsale.store.log import Cause, Draft


def ending(crew: Crew, customer: CustomerAggregate) -> Work[tuple[CustomerAggregate, int]]:
    """End conversations whose goal, time or stop condition is reached, before anybody is kept waiting for them; and outcomes seen."""
    if all(o.priority is None for o in customer.decisions.values()):
        return customer, 0

    def rule(c: CustomerAggregate) -> Change:
        now_us, drafts = crew.desk.now_us(), []
        for e in conversations_ended(c, now_us, lambda o: _stopped(crew, c, o, now_us)):
            drafts.append(told(crew, c, e))
            if isinstance(e, ConversationEnded) and e.why == "goal":
                drafts += _recovered(crew, c, {e.decision_id: e.by})
        return Change(tuple(drafts))

    change, stored, _ = yield from crew.desk.changing(customer.stream, rule, customer)
    outcomes = sum(isinstance(x.event, d.OutcomeObserved) for x in change.drafts)
    return (customer if stored is None else (yield from load(customer.stream, customer))), outcomes


def _stopped(crew: Crew, c: CustomerAggregate, o: OpenDecision, now_us: int) -> str:
    agent = crew.agents.get(o.agent)
    policy = crew.desk.policy(c.stream.tenant, o.policy)
    if agent is None or policy is None or policy.conversation is None or not policy.conversation.stop:
        return ""
    try:
        return stop_of(policy, crew.values(c, agent, now_us)[0])
    except Exception as error:  # told where its conditions are looked at, in the same visit; it stops at the next one
        if not own_fault(error):
            raise
        return ""


def sweeping(crew: Crew, approvals: Approvals, customer: CustomerAggregate) -> Work[tuple[int, int]]:
    """Record what time brought: how many approvals lapsed, how many outcomes were seen."""

    def rule(c: CustomerAggregate) -> Change:
        now_us = crew.desk.now_us()
        answered = approvals.timed(c)
        events = commands.observe_outcomes(c, now_us)
        drafts = [*answered.drafts, *(_swept(crew, c, e) for e in events)]
        for end in ended(c):
            id_ = derive_id(end.wait_id, "ended", end.result)
            drafts.append(crew.desk.draft(end, id_, Cause(causation_id=end.fact_event or end.wait_id, origin=crew.desk.origin)))
        won = {e.decision_id: e.fact_event for e in events if e.outcome == "success"}
        recovered = list(_recovered(crew, c, won))
        return Change((*drafts, *(recovered or _lost(crew, c, now_us))), answered.conditions)

    change, _, _ = yield from crew.desk.changing(customer.stream, rule, customer)
    lapsed = sum(isinstance(x.event, d.ApprovalLapsed | ApprovalTimedOut) for x in change.drafts)
    return lapsed, sum(isinstance(x.event, d.OutcomeObserved) for x in change.drafts)


def _recovered(crew: Crew, c: CustomerAggregate, won: Mapping[UUID, UUID | None]) -> Iterator[Draft]:
    """The ends of risk cases for which decisions succeeded, with the facts that say so."""
    for case in c.cases.values():
        for id_ in [x for x in won if case.opened_at_us <= c.decisions[x].decided_at_us][:1]:
            how = Cause(causation_id=won[id_], correlation_id=id_, origin=crew.desk.origin)
            closing = commands.close_case(c, case.case_id, "recovered", f"decision {id_} succeeded")
            yield from (crew.desk.draft(x, derive_id(case.case_id, "closed"), how) for x in closing)


def _lost(crew: Crew, c: CustomerAggregate, now_us: int) -> Iterator[Draft]:
    """The ends of risk cases of a customer of whom it was told while they were open that the last subscription ended, with the fact that says so.

    Who is asked to save what is known to have ended, or moved the case since, ends it.
    """
    end = c.facts.get(ENDED)
    for case in c.cases.values():
        opened = crew.log.store.find(c.stream.tenant, case.event_id) if case.event_id is not None else None
        if end is None or opened is None or end.latest_position < opened.position:
            continue
        if customer_evidence(c, crew.health.read(c, now_us, frozenset()), now_us)["subscribed"] is not False:
            continue
        fact = next(iter(crew.log.store.read(Query(after=end.latest_position - 1, upto=end.latest_position))))
        how = Cause(causation_id=fact.event_id, origin=crew.desk.origin)
        closing = commands.close_case(c, case.case_id, "lost", "the last subscription ended")
        yield from (crew.desk.draft(x, derive_id(case.case_id, "closed"), how) for x in closing)


def told(crew: Crew, c: CustomerAggregate, event: Ended) -> Draft:
    """The end of a conversation, or what came of its decision."""
    if not isinstance(event, ConversationEnded):
        return _swept(crew, c, event)
    how = Cause(
        causation_id=event.by or event.decision_id, correlation_id=c.decisions[event.decision_id].trigger_id, origin=crew.desk.origin
    )
    return crew.desk.draft(event, derive_id(event.decision_id, "conversation"), how)


def _swept(crew: Crew, c: CustomerAggregate, event: d.OutcomeObserved) -> Draft:
    id_ = event.decision_id
    how = Cause(causation_id=id_, correlation_id=c.decisions[id_].trigger_id, origin=crew.desk.origin)
    return crew.desk.draft(event, derive_id(id_, "outcome", event.wire_name), how)
