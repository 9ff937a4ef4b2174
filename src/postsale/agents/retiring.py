"""A retired agent, or version of a policy, leaves nothing open: what waits or has not left is set aside, what is pending gets its disposition.

May import the steps of engines and what they need; it calls no tool.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from uuid import UUID

from postsale.access import Person
from postsale.agents.control import require_person, require_reason
from postsale.agents.desk import NOTHING, Change
from postsale.agents.engines.steps import Steps
from postsale.agents.policy import Policy
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.identity import CUSTOMERS
from postsale.aggregates.timed import WaitEnded
from postsale.errors import InvalidInput
from postsale.events import Lane, StreamId, decode, derive_id
from postsale.store.contract import Query
from postsale.store.log import Cause

_SEEN = frozenset({"agent/trigger-raised", "agent/decision-recorded"})


def settle_retired(steps: Steps, tenant: str, agent: str, *, person: Person, reason: str) -> int:
    """Settle what an agent that is retired left open: how many decisions and triggers were settled. Safe to repeat and to kill.

    Raises InvalidInput for an agent that is not retired.
    """
    person, reason = require_person(person, "control agents"), require_reason(reason, "retirement")
    if not steps.control(tenant, agent).retired:
        raise InvalidInput(what="agent", field="name", reason="it is not retired")
    settled = 0
    for stream in _streams(steps, tenant, lambda e: e.agent == agent):
        customer = steps.log.customer(stream)
        for trigger in [t.trigger_id for t in customer.pending.values() if t.raised.agent == agent]:
            settled += steps.handle(stream, trigger, last_try=True) is not None
        for id_ in [k for k, o in customer.decisions.items() if o.agent == agent]:
            settled += _set_aside(steps, stream, id_, person, f"retired: {reason}")
    return settled


def settle_retired_policy(steps: Steps, tenant: str, policy: Policy, *, person: Person, reason: str) -> int:
    """Settle what a version that is retired left open: how many triggers, decisions and waits. Safe to repeat and to kill.

    Its triggers are decided once more, as suppressed by its retirement; approvals are void, effects that have not left are
    cancelled, their money is released, waits are ended. Where another version decides by now, triggers and waits are that one's.
    """
    person, reason = require_person(person, "retire a policy"), require_reason(reason, "retirement")
    desk = steps.desk
    stops = desk.standing(tenant, policy.name).stopped == policy.digest
    agents = _deciders(steps, tenant, policy) if stops else set()
    settled = 0
    for stream in _streams(steps, tenant, lambda e: e.agent in agents or (isinstance(e, d.DecisionRecorded) and e.policy == policy.digest)):
        customer = steps.log.customer(stream)
        for trigger in [t.trigger_id for t in customer.pending.values() if t.raised.agent in agents]:
            settled += steps.handle(stream, trigger, last_try=True) is not None
        for id_ in [k for k, o in customer.decisions.items() if o.policy == policy.digest]:
            settled += _set_aside(steps, stream, id_, person, f"policy {policy.digest[:12]} retired: {reason}")
        settled += _end_waits(steps, stream, agents, person)
    return settled


def _deciders(steps: Steps, tenant: str, policy: Policy) -> set[str]:
    """Whose policy it is: of the agents that are here, and of those that ever decided under this version."""
    here = {agent.name for agent in steps.agents.values() if agent.policy.name == policy.name}
    query = Query(tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=frozenset({"agent/decision-recorded"}))
    decided = (r.data for r in steps.log.events(query))
    return here | {e.agent for e in decided if isinstance(e, d.DecisionRecorded) and e.policy == policy.digest}


def _end_waits(steps: Steps, stream: StreamId, agents: Container[str], person: Person) -> int:
    def rule(c: CustomerAggregate) -> Change:
        over = [w for w in c.waits.values() if w.agent in agents and w.due is None and w.met is None]
        return Change(
            tuple(
                steps.desk.draft(
                    WaitEnded(wait_id=w.wait_id, agent=w.agent, wait=w.wait, result="gone"),
                    derive_id(w.wait_id, "ended", "gone"),
                    Cause(actor=person.actor, causation_id=w.wait_id, depth=w.depth, origin=steps.desk.origin),
                )
                for w in over
            )
        )

    return len(steps.desk.change(stream, rule)[0].drafts)


def _set_aside(steps: Steps, stream: StreamId, id_: UUID, person: Person, reason: str) -> int:
    """Only what waits for a person, or has effects that have not left: what happened stays as it is."""

    def rule(c: CustomerAggregate) -> Change:
        known = c.decisions.get(id_)
        if known is None or not (known.disposition == "awaiting" or any(e.status in {"ready", "retry"} for e in known.effects.values())):
            return NOTHING
        how = Cause(actor=person.actor, causation_id=id_, correlation_id=known.trigger_id, origin=steps.desk.origin)
        events = commands.override(c, id_, by=person.login, reason=reason[:4_000])
        return Change(tuple(steps.desk.draft(e, derive_id(id_, "override", e.wire_name), how) for e in events))

    return int(steps.desk.change(stream, rule)[1] is not None)


def _streams(steps: Steps, tenant: str, asked: Callable[[d.TriggerRaised | d.DecisionRecorded], bool]) -> list[StreamId]:
    """Customers with a trigger or decision of this kind, in the order of the log."""
    found: dict[StreamId, None] = {}
    for stored in steps.log.store.read(Query(tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=_SEEN)):
        event = decode(stored).data
        if isinstance(event, d.TriggerRaised | d.DecisionRecorded) and asked(event):
            found[stored.stream] = None
    return list(found)
