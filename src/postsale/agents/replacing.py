"""Replacing a proposal by an edited one: what a person may change, and the events that close the one and record the other, all or none.

May import the desk, silence, aggregates, events. The new decision is made by a function that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError

from postsale.access import Person
from postsale.agents.approval_rules import is_over, right_to_settle
from postsale.agents.decide import Decided, decision_id
from postsale.agents.desk import Change, Desk
from postsale.agents.editing import COMMAND, Edit, changed_arguments, edit_of
from postsale.agents.policy_time import ASKED_BY
from postsale.agents.silence import Changed, Silence
from postsale.aggregates import asked as a
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.authority import Right, authority_stream
from postsale.aggregates.budgets import Reservation
from postsale.aggregates.customer import MAX_RECENT, CustomerAggregate, PendingTrigger
from postsale.aggregates.evolve import without_proposal
from postsale.errors import ApprovalRefused, InvalidInput
from postsale.events import Recorded, derive_id
from postsale.store.contract import Condition, StreamAt
from postsale.store.log import Cause


@dataclass(frozen=True, slots=True)
class Edited:
    """What an edited proposal is decided from, beside what every decision is."""

    edit: Edit
    editor: str
    arguments: Sequence[Mapping[str, Any]]
    asked_by: str  # what asked for the proposal that is replaced
    freed: tuple[Reservation, ...]  # what that one gives back


Propose = Callable[[CustomerAggregate, PendingTrigger, Edited], tuple[Change, Decided]]
"""(customer without the replaced proposal, trigger, edit) -> the events of a decision about it, and the decision."""


def may_settle(
    desk: Desk, c: CustomerAggregate, asked: a.Asked | None, decision_id: UUID, person: Person, beside: str | None
) -> tuple[Right, tuple[Condition, ...]]:
    """Why a person may say no to a proposal or change it, and the condition that it is so when it is stored. ApprovalRefused when not."""
    if asked is None:
        return Right(None), ()
    authority = desk.authority(c.stream.tenant)
    right = right_to_settle(asked, beside, authority, person.login, decision_id, desk.now_us())
    if isinstance(right, str):
        raise ApprovalRefused(decision_id=str(decision_id), reason=right)
    return right, (StreamAt(authority_stream(c.stream.tenant), authority.version),)


class Editor:
    """Makes the change that an edit is. What cannot be edited is refused, and nothing is changed."""

    def __init__(self, desk: Desk, changed: Changed, silence: Silence, propose: Propose | None) -> None:
        self._desk = desk
        self._changed = changed
        self._silence = silence
        self._propose = propose

    def change(
        self,
        c: CustomerAggregate,
        decision: Recorded[d.DecisionRecorded],
        person: Person,
        reason: str,
        amount_minor: int | None,
        terms: str | None,
        arguments: Sequence[Mapping[str, Any]] | None,
    ) -> Change:
        """The events of an edit; those that close the request where it is over or void by now."""
        data, id_ = decision.data, decision.event_id
        open_ = commands.awaiting(c, id_)
        now_us = self._desk.now_us()
        if open_.asked is not None and is_over(open_.asked, now_us):
            return self._silence.over(c, open_, open_.asked, decision)
        if open_.expires_at_us is not None and now_us >= open_.expires_at_us:
            return Change((self._silence.draft(d.ApprovalLapsed(decision_id=id_, why="expired"), open_, "approval"),))
        right, conditions = may_settle(self._desk, c, open_.asked, id_, person, None if open_.asked is None else open_.asked.edited_by)
        changed = self._changed(c, decision)[0]
        if changed:
            lapse = d.ApprovalLapsed(decision_id=id_, why="values-changed", detail=", ".join(changed))
            return Change((self._silence.draft(lapse, open_, "approval"),))
        if not isinstance(data.arguments, str) and data.intents:
            raise ApprovalRefused(decision_id=str(id_), reason="its arguments are erased, so nobody can change them")
        shown = orjson.loads(data.arguments) if isinstance(data.arguments, str) else []
        names = changed_arguments(shown, arguments if arguments is not None else shown, self._fixed(c, data))
        before = edit_of(data.flags)
        offer = data.offer
        if offer is None and (amount_minor is not None or terms is not None):
            raise InvalidInput(what="edit", field="offer", reason="this proposal offers nothing")
        if offer is not None:
            _check_offer(offer, amount_minor, terms)
        new_terms = terms is not None and offer is not None and terms != offer.terms
        new_amount = amount_minor is not None and offer is not None and amount_minor != offer.amount_minor
        if not (names or new_terms or new_amount):
            raise InvalidInput(what="edit", field="(whole)", reason="nothing was changed: approve or reject it")
        edit = Edit(
            replaces=id_,
            rule=data.rule or "",
            amount_minor=amount_minor if amount_minor is not None else before.amount_minor if before else None,
            terms=terms if terms is not None else before.terms if before else None,
            arguments=tuple(sorted({*names, *(before.arguments if before else ())})),
        )
        said = [*names, *(["offer.amount_minor"] if new_amount else []), *(["offer.terms"] if new_terms else [])]
        edited = Edited(edit, person.login, arguments if arguments is not None else shown, _asked_by(data), open_.reservations)
        made = self._replacement(c, decision, person, reason, edited, tuple(said), now_us, right)
        return replace(made, conditions=(*made.conditions, *conditions))

    def _replacement(
        self,
        c: CustomerAggregate,
        decision: Recorded[d.DecisionRecorded],
        person: Person,
        reason: str,
        edited: Edited,
        changed: tuple[str, ...],
        now_us: int,
        right: Right,
    ) -> Change:
        """The person's command with its trigger, the end of the old proposal, and the new one: all or nothing."""
        assert self._propose is not None
        data, id_ = decision.data, decision.event_id
        command = d.CommandIssued(command=COMMAND, agent=data.agent, reason=reason)
        command_id = derive_id(id_, COMMAND, person.login, now_us)
        raised = d.TriggerRaised(agent=data.agent, condition=COMMAND, cause="command", causing_event=command_id, depth=data.depth)
        trigger_id = derive_id(data.agent, COMMAND, command_id)
        pending = PendingTrigger(trigger_id, raised, c.position, now_us)
        said = (d.CommandIssued, d.TriggerRaised, a.ApprovalReplaced)  # what stands before the decision in the same append
        recent = {**c.recent}
        for kind in (cls.wire_name.partition("@")[0] for cls in said):
            recent[kind] = (*recent.get(kind, ()), now_us)[-MAX_RECENT:]
        after = replace(without_proposal(c, id_, now_us), version=c.version + len(said), recent=recent)
        change, decided = self._propose(after, pending, edited)
        new = decided.event
        if new.disposition != "awaiting":
            why = new.suppressed_by or new.rationale
            raise ApprovalRefused(decision_id=str(id_), reason=f"edited like this it would not be proposed: {why}")
        replaced = a.ApprovalReplaced(
            decision_id=id_,
            replaced_by=decision_id(trigger_id),
            editor=person.login,
            authenticated_by=person.authenticated_by,
            changed=changed,
            reason=reason,
            **right.said(),
        )
        first = Cause(actor=person.actor, correlation_id=data.trigger_id, origin=self._desk.origin)
        then = Cause(
            actor=person.actor, causation_id=command_id, correlation_id=data.trigger_id, depth=data.depth, origin=self._desk.origin
        )
        before = (
            self._desk.draft(command, command_id, first),
            self._desk.draft(raised, trigger_id, then),
            self._desk.draft(replaced, derive_id(id_, "approval", replaced.wire_name), then),
        )
        return replace(change, drafts=(*before, *change.drafts))

    def _fixed(self, c: CustomerAggregate, data: d.DecisionRecorded) -> list[frozenset[str]]:
        """For each effect the arguments that follow from the customer or the offer, by the policy that decided."""
        policy = self._desk.policy(c.stream.tenant, data.policy)
        rows = [] if policy is None else [r for r in policy.rules if r.id in {e.rule for e in data.eligible if e.propensity_ppm}]
        acting = [r for r in (policy.deciding(rows)[0] if policy is not None and rows else ()) if r.tool is not None]
        follows = [
            frozenset(k for k, v in r.arguments.items() if isinstance(v, str) and (v == "$customer" or v.startswith("$offer.")))
            for r in acting
        ]
        return follows if len(follows) == len(data.intents) else [frozenset({"customer"})] * len(data.intents)


def _check_offer(offer: d.Offer, amount_minor: object, terms: object) -> None:
    """Return for what an offer may hold; InvalidInput names what it may not."""
    changed = {name: value for name, value in (("amount_minor", amount_minor), ("terms", terms)) if value is not None}
    try:
        d.Offer.model_validate({**offer.model_dump(), **changed})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidInput(what="edit", field=f"offer.{first['loc'][0]}", reason=str(first["msg"])) from None


def _asked_by(data: d.DecisionRecorded) -> str:
    """What asked in the first place: an edited proposal still answers that."""
    known = data.evidence.get(ASKED_BY)
    return known if isinstance(known, str) else data.condition
