"""What people say to decisions: approve, reject, set aside, settle what is unknown. Each is bound to what they saw.

An approval holds for exactly these arguments on exactly these values, once; the agent that asked can never give it.
May import the desk, control, access, aggregates, events. Evidence is read again through a function that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from postsale.access import Person
from postsale.agents.control import require_person, require_reason
from postsale.agents.decide import intent_mac, macs_digest, values_digest
from postsale.agents.desk import NOTHING, Change, Desk
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.customer import CustomerAggregate
from postsale.errors import ApprovalRefused, InvalidInput
from postsale.events import Recorded, StreamId, derive_id
from postsale.store.contract import NoneSince
from postsale.store.log import Cause

Reread = Callable[[CustomerAggregate, str], tuple[Mapping[str, d.Scalar], int]]
"""(customer, agent) -> every evidence value now, and the position up to which facts are in it."""


class Approvals:
    """The desk where people settle what agents propose. Every method may be called again; the second time refuses or does nothing."""

    def __init__(self, desk: Desk, reread: Reread, agents: frozenset[str] = frozenset()) -> None:
        self._desk = desk
        self._reread = reread
        self._agents = agents

    def approve(
        self, tenant: str, decision_id: UUID, person: Person, *, reason: str = "", seen: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Let the decision's effects leave. `seen`: the arguments as they were shown; other ones are refused.

        Raises ApprovalRefused when the request was used, expired, is not this person's to give, or its arguments, bound
        values or the consent it needs have changed (that is recorded as lapsed first); NotAllowed; UnknownDecision.
        """
        person = self._person(decision_id, person)
        decision = self._desk.decision(tenant, decision_id)
        change, _ = self._desk.change(decision.stored.stream, lambda c: self._approve(c, decision, person, reason, seen))
        lapsed = change.drafts[0].event if change.drafts else None
        if isinstance(lapsed, d.ApprovalLapsed):
            why = "the request expired" if lapsed.why == "expired" else f"these changed since the decision: {lapsed.detail}"
            raise ApprovalRefused(decision_id=str(decision_id), reason=why)

    def reject(self, tenant: str, decision_id: UUID, person: Person, *, reason: str) -> None:
        """Say no. Raises ApprovalRefused when it does not wait any more, InvalidInput without a reason."""
        person, reason = self._person(decision_id, person), require_reason(reason, "rejection")
        decision = self._desk.decision(tenant, decision_id)

        def rule(c: CustomerAggregate) -> Change:
            events = commands.reject(c, decision_id, approver=person.login, authenticated_by=person.authenticated_by, reason=reason)
            return self._change(events, decision, person, "approval")

        self._desk.change(decision.stored.stream, rule)

    def override(self, tenant: str, decision_id: UUID, person: Person, *, reason: str) -> None:
        """Set a decision aside: effects that have not left are cancelled. Raises UnknownDecision when it is settled already."""
        person, reason = self._person(decision_id, person), require_reason(reason, "override")
        decision = self._desk.decision(tenant, decision_id)

        def rule(c: CustomerAggregate) -> Change:
            return self._change(commands.override(c, decision_id, by=person.login, reason=reason), decision, person, "override")

        self._desk.change(decision.stored.stream, rule)

    def settle_unknown(self, tenant: str, decision_id: UUID, intent_id: UUID, *, happened: bool, person: Person, reason: str) -> None:
        """Say what became of an effect whose outcome nobody knows. InvalidInput when its outcome is known."""
        person, reason = self._person(decision_id, person), require_reason(reason, "settlement")
        decision = self._desk.decision(tenant, decision_id)

        def rule(c: CustomerAggregate) -> Change:
            open_ = c.decisions.get(decision_id)
            effect = open_.effects.get(intent_id) if open_ else None
            if effect is None or effect.status != "unknown":
                raise InvalidInput(what="settlement", field="intent_id", reason="this effect is not waiting for somebody to look")
            said = f"{person.actor} said so: {reason}"[:4_000]
            event: d.CustomerEvent
            if happened:
                event = d.EffectSucceeded(decision_id=decision_id, intent_id=intent_id, attempt=effect.attempt, sandbox=False, receipt=said)
            else:
                event = d.EffectFailed(decision_id=decision_id, intent_id=intent_id, attempt=effect.attempt, final=True, reason=said)
            return self._change((event,), decision, person, f"settled:{intent_id}")

        self._desk.change(decision.stored.stream, rule)

    # ------------------------------------------------------------ rules

    def _person(self, decision_id: UUID, person: Person) -> Person:
        person = require_person(person, "settle a decision")
        if person.login in self._agents:
            raise ApprovalRefused(decision_id=str(decision_id), reason="an agent cannot settle a proposal, its own or another's")
        return person

    def _approve(
        self,
        c: CustomerAggregate,
        decision: Recorded[d.DecisionRecorded],
        person: Person,
        reason: str,
        seen: Sequence[Mapping[str, Any]] | None,
    ) -> Change:
        data, id_ = decision.data, decision.event_id
        switches = self._desk.switches(c.stream.tenant, data.agent)
        values, position = self._reread(c, data.agent)
        bound = {name: values.get(name) for name in data.bound_to}
        changed = [name for name in data.bound_to if bound[name] != data.evidence.get(name)]
        purpose = str(data.context.get("purpose", ""))
        changed += [f"consent:{i.channel}/{purpose}" for i in data.intents if i.channel and not c.may_contact(i.channel, purpose)]
        changed += ["identity:merged"] if c.merged_into else []
        events = commands.approve(
            c,
            id_,
            approver=person.login,
            authenticated_by=person.authenticated_by,
            arguments_mac=macs_digest(data.intents),
            offered_mac=self._offered(c.stream, decision, seen),
            changed=tuple(changed),
            values_digest=values_digest(bound),
            now_us=self._desk.now_us(),
            reason=reason,
        )
        if not isinstance(events[0], d.ApprovalGranted):
            return self._change(events, decision, person, "approval")
        if switches.paused:
            raise ApprovalRefused(decision_id=str(id_), reason="the agent is paused; resume it first")
        conditions: list[Any] = list(switches.conditions)
        if data.must_not_have_changed:
            conditions.append(NoneSince(c.fact_streams, frozenset(data.must_not_have_changed), position))
        made = self._change(events, decision, person, "approval")
        return Change(made.drafts, tuple(conditions))

    def _offered(self, stream: StreamId, decision: Recorded[d.DecisionRecorded], seen: Sequence[Mapping[str, Any]] | None) -> str:
        """The digest of the arguments that are approved: of those shown, else of those recorded."""
        text = decision.data.arguments
        listed = seen if seen is not None else orjson.loads(text) if isinstance(text, str) else []
        intents = decision.data.intents
        if len(listed) != len(intents):
            return ""
        mac = self._desk.mac(stream.tenant)
        again = [
            i.model_copy(update={"arguments_mac": intent_mac(mac, i.intent_id, i.tool, a)}) for i, a in zip(intents, listed, strict=True)
        ]
        return macs_digest(again)

    def _change(self, events: Sequence[d.CustomerEvent], decision: Recorded[d.DecisionRecorded], person: Person, step: str) -> Change:
        cause = Cause(actor=person.actor, causation_id=decision.event_id, correlation_id=decision.data.trigger_id, origin=self._desk.origin)
        if not events:
            return NOTHING
        return Change(tuple(self._desk.draft(e, derive_id(decision.event_id, step, e.wire_name), cause) for e in events))
