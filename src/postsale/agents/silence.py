"""Silence: what time alone makes of open requests, by the words of their policy; no default, and never an approval that is not certain.

May import the desk, the rules of approvals, aggregates, events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from postsale.agents.approval_rules import escalations, is_over
from postsale.agents.desk import Change, Desk
from postsale.aggregates import asked as a
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.customer import CustomerAggregate, OpenDecision
from postsale.errors import InvalidInput, PostSaleError
from postsale.events import Event, Recorded, derive_id
from postsale.store.contract import NoneSince
from postsale.store.log import Cause, Draft

Changed = Callable[[CustomerAggregate, Recorded[d.DecisionRecorded]], tuple[tuple[str, ...], dict[str, d.Scalar], int]]
"""What differs from what a decision was bound to, the bound values now, and the position up to which facts are in them."""


class Silence:
    """Ends and escalates requests that nobody answered. Each thing once, whatever the clock does."""

    def __init__(self, desk: Desk, changed: Changed) -> None:
        self._desk = desk
        self._changed = changed

    def of(self, c: CustomerAggregate) -> Change:
        """What time alone makes of open requests: they go up, lapse, are rejected or, where the policy says so in words, approved."""
        now_us = self._desk.now_us()
        conditions: list[Any] = []
        drafts = [self.draft(e, c.decisions[e.decision_id], "approval") for e in commands.lapse_expired(c, now_us)]
        for open_ in c.decisions.values():
            if open_.disposition != "awaiting" or open_.asked is None or now_us < open_.asked.until_us:
                continue
            decision = self._desk.decision(c.stream.tenant, open_.decision_id)
            if is_over(open_.asked, now_us):
                try:
                    change = self.over(c, open_, open_.asked, decision)
                except PostSaleError as error:
                    if not isinstance(error, InvalidInput):
                        raise
                    continue  # its agent is not here to read its evidence: it waits for a run that has it
                except Exception:  # its agent's own code, which is told where its conditions are looked at: it waits until that is mended
                    continue
            else:
                change = Change(self.up(escalations(open_.decision_id, open_.asked, now_us), decision))
            drafts += change.drafts
            conditions += change.conditions
        return Change(tuple(drafts), tuple(conditions))

    def up(self, events: Sequence[a.ApprovalEscalated], decision: Recorded[d.DecisionRecorded]) -> tuple[Draft, ...]:
        """Escalations by time, to append."""
        how = Cause(causation_id=decision.event_id, correlation_id=decision.data.trigger_id, origin=self._desk.origin)
        return tuple(self._desk.draft(e, derive_id(decision.event_id, "level", e.level), how) for e in events)

    def over(self, c: CustomerAggregate, open_: OpenDecision, asked: a.Asked, decision: Recorded[d.DecisionRecorded]) -> Change:
        """The end of the last level's time: what the policy says in words, never anything else."""
        up = self.up(escalations(open_.decision_id, asked, self._desk.now_us()), decision)
        last, id_ = asked.levels[-1], open_.decision_id
        if last.on_timeout == "reject":
            return Change((*up, self.draft(a.ApprovalTimedOut(decision_id=id_, outcome="reject", level=last.name), open_, "approval")))
        lapse = d.ApprovalLapsed(decision_id=id_, why="expired")
        if last.on_timeout == "approve":
            data, switches = decision.data, self._desk.switches(c.stream.tenant, decision.data.agent)
            changed, _, position = self._changed(c, decision)
            acts = switches.states[0].mode == "act" and any(v.rule.startswith("autonomy:act") for v in data.verdicts)
            if changed:
                lapse = d.ApprovalLapsed(decision_id=id_, why="values-changed", detail=", ".join(changed))
            elif switches.paused:
                lapse = d.ApprovalLapsed(decision_id=id_, why="paused")
            elif acts and asked.editor is None:  # silence is no yes to what a person wrote, nor for an agent that may only propose
                conditions: list[Any] = list(switches.conditions)
                if data.must_not_have_changed:
                    conditions.append(NoneSince(c.fact_streams, frozenset(data.must_not_have_changed), position))
                yes = a.ApprovalTimedOut(decision_id=id_, outcome="approve", level=last.name)
                return Change((*up, self.draft(yes, open_, "approval")), tuple(conditions))
        return Change((*up, self.draft(lapse, open_, "approval")))

    def draft(self, event: Event, open_: OpenDecision, step: str) -> Draft:
        """An event about a request that nobody but time caused."""
        how = Cause(causation_id=open_.decision_id, correlation_id=open_.trigger_id, origin=self._desk.origin)
        return self._desk.draft(event, derive_id(open_.decision_id, step, event.wire_name), how)
