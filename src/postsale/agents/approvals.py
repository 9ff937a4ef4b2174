"""What people say to decisions: approve, reject, set aside, settle what is unknown. Each is bound to what they saw.

An approval holds for exactly these arguments on exactly these values, once; an agent can never give it. An edit is a new proposal.
May import the desk, control, access, aggregates, events. Evidence is read again, and an edited proposal decided, through functions that
are passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from postsale.access import Person
from postsale.agents.approval_rules import escalations, is_over, right_to_answer
from postsale.agents.authority import Authorities
from postsale.agents.control import require_person, require_reason
from postsale.agents.decide import intent_mac, macs_digest, values_digest
from postsale.agents.desk import NOTHING, Change, Desk
from postsale.agents.editing import edit_of
from postsale.agents.policy_time import ASKED_BY
from postsale.agents.replacing import Editor, Propose, may_settle
from postsale.agents.silence import Silence
from postsale.agents.waits import refuted
from postsale.aggregates import asked as a
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.authority import authority_stream
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.risk import Stage
from postsale.errors import ApprovalRefused, InvalidInput
from postsale.events import Recorded, StreamId, derive_id
from postsale.store.contract import NoneSince, StreamAt
from postsale.store.log import Cause

Reread = Callable[[CustomerAggregate, str], tuple[Mapping[str, d.Scalar], int]]
"""(customer, agent) -> every evidence value now, and the position up to which facts are in it."""


class Approvals:
    """The desk where people settle what agents propose. Every method may be called again; the second time refuses or does nothing."""

    def __init__(self, desk: Desk, reread: Reread, agents: frozenset[str] = frozenset(), propose: Propose | None = None) -> None:
        self._desk = desk
        self._reread = reread
        self._silence = Silence(desk, self._changed)
        self._editor = Editor(desk, self._changed, self._silence, propose)
        self.authority = Authorities(desk, agents)

    def approve(
        self, tenant: str, decision_id: UUID, person: Person, *, reason: str = "", seen: Sequence[Mapping[str, Any]] | None = None
    ) -> bool:
        """Let the decision's effects leave; False when more people have to say yes. `seen`: the arguments as shown; others are refused.

        Raises ApprovalRefused when the request was used, expired, is not this person's to give, or its arguments, bound
        values or the consent it needs have changed (that is recorded as lapsed first); NotAllowed; UnknownDecision.
        """
        person = self._person(tenant, decision_id, person)
        decision = self._desk.decision(tenant, decision_id)
        change, _ = self._desk.change(decision.stored.stream, lambda c: self._approve(c, decision, person, reason, seen))
        _refuse_closed(decision_id, change)
        return any(isinstance(x.event, d.ApprovalGranted) for x in change.drafts)

    def edit(
        self,
        tenant: str,
        decision_id: UUID,
        person: Person,
        *,
        reason: str,
        amount_minor: int | None = None,
        terms: str | None = None,
        arguments: Sequence[Mapping[str, Any]] | None = None,
    ) -> UUID:
        """Propose something else in place of a waiting decision: the id of the new one, which waits for approval in its turn.

        `arguments`: all of them, one mapping for each effect; what follows from the customer or the offer is not a person's to change.
        The policy decides again, on today's evidence, with every guardrail, and what does not pass is refused and changes nothing.
        Raises ApprovalRefused, InvalidInput, NotAllowed, UnknownDecision.
        """
        person, reason = self._person(tenant, decision_id, person), require_reason(reason, "edit")
        decision = self._desk.decision(tenant, decision_id)
        change, _ = self._desk.change(
            decision.stored.stream, lambda c: self._editor.change(c, decision, person, reason, amount_minor, terms, arguments)
        )
        _refuse_closed(decision_id, change)
        return next(x.event_id for x in change.drafts if isinstance(x.event, d.DecisionRecorded))

    def escalate(self, tenant: str, decision_id: UUID, person: Person, *, reason: str) -> str:
        """Hand a waiting decision up to the next level: its name. Raises ApprovalRefused when there is none."""
        person, reason = self._person(tenant, decision_id, person), require_reason(reason, "escalation")
        decision = self._desk.decision(tenant, decision_id)

        def rule(c: CustomerAggregate) -> Change:
            asked = commands.awaiting(c, decision_id).asked
            if asked is None or asked.level + 1 >= len(asked.levels):
                raise ApprovalRefused(decision_id=str(decision_id), reason="there is no level above the one that is asked")
            level = asked.level + 1
            event = a.ApprovalEscalated(decision_id=decision_id, level=level, name=asked.levels[level].name, by=person.login, reason=reason)
            how = Cause(actor=person.actor, causation_id=decision_id, correlation_id=decision.data.trigger_id, origin=self._desk.origin)
            return Change((self._desk.draft(event, derive_id(decision_id, "level", level), how),))

        change, _ = self._desk.change(decision.stored.stream, rule)
        (draft,) = change.drafts
        assert isinstance(draft.event, a.ApprovalEscalated)
        return draft.event.name

    def timed(self, c: CustomerAggregate) -> Change:
        """What time alone makes of this customer's open requests."""
        return self._silence.of(c)

    def changed(self, tenant: str, decision_id: UUID) -> tuple[str, ...]:
        """What differs by now from what the decision was bound to: an approval would be refused. Records nothing."""
        decision = self._desk.decision(tenant, decision_id)
        return self._changed(self._desk.log.customer(decision.stored.stream), decision)[0]

    def reject(self, tenant: str, decision_id: UUID, person: Person, *, reason: str) -> None:
        """Say no. Raises ApprovalRefused when it does not wait any more or the person has no role for it, InvalidInput without a reason."""
        person, reason = self._person(tenant, decision_id, person), require_reason(reason, "rejection")
        decision = self._desk.decision(tenant, decision_id)

        def rule(c: CustomerAggregate) -> Change:
            asked = commands.awaiting(c, decision_id).asked
            right, conditions = may_settle(self._desk, c, asked, decision_id, person, None if asked is None else asked.rejected_by)
            events = commands.reject(
                c, decision_id, approver=person.login, authenticated_by=person.authenticated_by, reason=reason, right=right
            )
            return replace(self._change(events, decision, person, "approval"), conditions=conditions)

        self._desk.change(decision.stored.stream, rule)

    def override(self, tenant: str, decision_id: UUID, person: Person, *, reason: str) -> None:
        """Set a decision aside: effects that have not left are cancelled. Raises UnknownDecision when it is settled already.

        As with the kill switch, any authenticated person may stop what is about to happen, by name and with a reason.
        """
        person, reason = self._person(tenant, decision_id, person), require_reason(reason, "override")
        decision = self._desk.decision(tenant, decision_id)

        def rule(c: CustomerAggregate) -> Change:
            return self._change(commands.override(c, decision_id, by=person.login, reason=reason), decision, person, "override")

        self._desk.change(decision.stored.stream, rule)

    def settle_unknown(self, tenant: str, decision_id: UUID, intent_id: UUID, *, happened: bool, person: Person, reason: str) -> None:
        """Say what became of an effect, of a decision or of an order to take one back, whose outcome nobody knows. InvalidInput when it is known."""
        person, reason = self._person(tenant, decision_id, person), require_reason(reason, "settlement")
        decision = self._desk.ordered(tenant, decision_id)

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

    def move_case(self, stream: StreamId, case_id: UUID, stage: Stage, *, person: Person, reason: str) -> bool:
        """A person says in which stage a risk case is; False when it is not open, or there already."""
        person, reason = require_person(person, "move a risk case"), require_reason(reason, "risk case")

        def rule(c: CustomerAggregate) -> Change:
            how = Cause(actor=person.actor, correlation_id=case_id, origin=self._desk.origin)
            events = commands.move_case(c, case_id, stage, reason)
            return Change(tuple(self._desk.draft(e, derive_id(case_id, "moved", c.version), how) for e in events))

        return bool(self._desk.change(stream, rule)[0].drafts)

    # ------------------------------------------------------------ rules

    def _person(self, tenant: str, decision_id: UUID, person: Person) -> Person:
        person = require_person(person, "settle a decision")
        if self.authority.is_agent(tenant, person.login):
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
        known = c.decisions.get(id_)
        asked = known.asked if known is not None and known.disposition == "awaiting" else None
        now_us = self._desk.now_us()
        if known is not None and asked is not None and is_over(asked, now_us):
            return self._silence.over(c, known, asked, decision)
        switches = self._desk.switches(c.stream.tenant, data.agent)
        changed, values, position = self._changed(c, decision)
        events: tuple[d.CustomerEvent, ...] = commands.approve(
            c,
            id_,
            approver=person.login,
            authenticated_by=person.authenticated_by,
            arguments_mac=macs_digest(data.intents),
            offered_mac=self._offered(c.stream, decision, seen),
            changed=changed,
            values_digest=values_digest(values),
            now_us=now_us,
            reason=reason,
        )
        granted = events[0]
        if not isinstance(granted, d.ApprovalGranted):
            return self._change(events, decision, person, "approval")
        if switches.paused:
            raise ApprovalRefused(decision_id=str(id_), reason="the agent is paused; resume it first")
        conditions: list[Any] = list(switches.conditions)
        if data.must_not_have_changed:
            conditions.append(NoneSince(c.fact_streams, frozenset(data.must_not_have_changed), position))
        made = () if asked is None else self._silence.up(escalations(id_, asked, now_us), decision)
        if asked is not None:
            signed, version = self._signature(c.stream.tenant, asked, len(made), decision, granted)
            conditions.append(StreamAt(authority_stream(c.stream.tenant), version))
            made = (*made, *self._change((signed,), decision, person, f"signed:{person.login}").drafts)
        if asked is None or len(asked.signed) + 1 >= asked.people:
            made = (*made, *self._change((granted,), decision, person, "approval").drafts)
        return Change(made, tuple(conditions))

    def _signature(
        self, tenant: str, asked: a.Asked, up: int, decision: Recorded[d.DecisionRecorded], yes: d.ApprovalGranted
    ) -> tuple[a.ApprovalSigned, int]:
        """This person's yes, with whose authority it is, and the version of the authority stream that says so."""
        authority, offer = self._desk.authority(tenant), decision.data.offer
        minor, currency = (None, None) if offer is None else (offer.amount_minor, offer.currency)
        right = right_to_answer(asked, asked.level + up, authority, yes.approver, minor, currency, self._desk.now_us())
        if isinstance(right, str):
            raise ApprovalRefused(decision_id=str(decision.event_id), reason=right)
        if asked.edits == "other" and {yes.approver, right.on_behalf_of} & self._editors(tenant, decision):
            raise ApprovalRefused(
                decision_id=str(decision.event_id), reason="whoever edited a proposal does not approve what others made of it"
            )
        signed = a.ApprovalSigned(
            decision_id=decision.event_id,
            approver=yes.approver,
            authenticated_by=yes.authenticated_by,
            on_behalf_of=right.on_behalf_of,
            delegation_id=right.delegation_id,
            role=right.role,
            authority_version=authority.version,
            arguments_mac=yes.arguments_mac,
            values_digest=yes.values_digest,
            reason=yes.reason,
        )
        return signed, authority.version

    def _editors(self, tenant: str, decision: Recorded[d.DecisionRecorded]) -> set[str | None]:
        """Everybody whose changes are in a proposal: an edit of an edit keeps what the first one changed."""
        editors: set[str | None] = set()
        edit = edit_of(decision.data.flags)
        while edit is not None:
            replaced = self._desk.event(tenant, derive_id(edit.replaces, "approval", a.ApprovalReplaced.wire_name))
            assert isinstance(replaced, a.ApprovalReplaced)
            editors.add(replaced.editor)
            edit = edit_of(self._desk.decision(tenant, edit.replaces).data.flags)
        return editors

    def _changed(self, c: CustomerAggregate, decision: Recorded[d.DecisionRecorded]) -> tuple[tuple[str, ...], dict[str, d.Scalar], int]:
        """What differs from what the decision was bound to; the bound values now; the position up to which facts are in them."""
        data = decision.data
        values, position = self._reread(c, data.agent)
        now = {**values, ASKED_BY: data.evidence.get(ASKED_BY)}  # what asked does not change
        bound = {name: now.get(name) for name in data.bound_to}
        changed = [name for name in data.bound_to if bound[name] != data.evidence.get(name)]
        purpose = str(data.context.get("purpose", ""))
        changed += [f"consent:{i.channel}/{purpose}" for i in data.intents if i.channel and not c.may_contact(i.channel, purpose)]
        changed += ["identity:merged"] if c.merged_into else []
        changed += [f"policy:{data.policy[:12]}, which was retired"] if self._desk.retired(c.stream.tenant, data.policy) else []
        return (*changed, *refuted(c, data.trigger_id)), bound, position

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

    def _change(
        self, events: Sequence[d.CustomerEvent], decision: Recorded[d.DecisionRecorded] | Recorded[d.Ordered], person: Person, step: str
    ) -> Change:
        cause = Cause(actor=person.actor, causation_id=decision.event_id, correlation_id=decision.data.trigger_id, origin=self._desk.origin)
        if not events:
            return NOTHING
        return Change(tuple(self._desk.draft(e, derive_id(decision.event_id, step, e.wire_name), cause) for e in events))


def _refuse_closed(decision_id: UUID, change: Change) -> None:
    """Refuse where the request was closed instead, which is recorded by now."""
    for draft in change.drafts:
        match draft.event:
            case d.ApprovalLapsed(why="expired"):
                why = "the request expired"
            case d.ApprovalLapsed(detail=detail):
                why = f"these changed since the decision: {detail}"
            case a.ApprovalTimedOut(outcome=outcome):
                why = f"nobody answered in time, which by its policy means to {outcome}"
            case _:
                continue
        raise ApprovalRefused(decision_id=str(decision_id), reason=why)
