"""A retired agent leaves nothing open: what waits or has not left is set aside, and what is pending gets its one disposition.

May import the steps of engines and what they need; it calls no tool.
"""

from __future__ import annotations

from uuid import UUID

from postsale.access import Person
from postsale.agents.control import require_person, require_reason
from postsale.agents.desk import NOTHING, Change
from postsale.agents.engines.steps import Steps
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.identity import CUSTOMERS
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
    for stream in _streams(steps, tenant, agent):
        customer = steps.log.customer(stream)
        for trigger in [t.trigger_id for t in customer.pending.values() if t.raised.agent == agent]:
            settled += steps.handle(stream, trigger) is not None
        for id_ in [k for k, o in customer.decisions.items() if o.agent == agent]:
            settled += _set_aside(steps, stream, id_, person, reason)
    return settled


def _set_aside(steps: Steps, stream: StreamId, id_: UUID, person: Person, reason: str) -> int:
    """Only what waits for a person, or has effects that have not left: what happened stays as it is."""

    def rule(c: CustomerAggregate) -> Change:
        known = c.decisions.get(id_)
        if known is None or not (known.disposition == "awaiting" or any(e.status in {"ready", "retry"} for e in known.effects.values())):
            return NOTHING
        how = Cause(actor=person.actor, causation_id=id_, correlation_id=known.trigger_id, origin=steps.desk.origin)
        events = commands.override(c, id_, by=person.login, reason=f"retired: {reason}"[:4_000])
        return Change(tuple(steps.desk.draft(e, derive_id(id_, "override", e.wire_name), how) for e in events))

    return int(steps.desk.change(stream, rule)[1] is not None)


def _streams(steps: Steps, tenant: str, agent: str) -> list[StreamId]:
    """Customers that the agent was ever asked about, in the order of the log."""
    found: dict[StreamId, None] = {}
    for stored in steps.log.store.read(Query(tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=_SEEN)):
        event = decode(stored).data
        if isinstance(event, d.TriggerRaised | d.DecisionRecorded) and event.agent == agent:
            found[stored.stream] = None
    return list(found)
