"""What if: history decided again under a candidate policy. Which decisions would change, for whom and why, at what cost in money and
contacts; what they would have been worth, where recorded probabilities say so.

Each recorded trigger is decided again on what was known then. What customers would have done differently after another decision
nobody knows: only contacts and budgets are carried on from one decision to the next. Reads only; reaches no tool.
May import everything below `audit`, but neither tools nor engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from postsale.agents import reach
from postsale.agents.budget import Page
from postsale.agents.decide import CERTAIN_PPM, decide, plan_row
from postsale.agents.editing import edit_of
from postsale.agents.evidence import EvidenceRecorder
from postsale.agents.flags import values_of
from postsale.agents.guardrails import Context, ToolRef, look
from postsale.agents.policy import NO_ACTION, Policy
from postsale.agents.policy_time import ASKED_BY
from postsale.agents.rederive import case_of, spec_of
from postsale.agents.widening import widenings
from postsale.aggregates.artifacts import POLICIES, ArtifactActivated, ArtifactPublished, Mode, policy_stream, untouched
from postsale.aggregates.customer import CustomerAggregate, Touch
from postsale.aggregates.decisions import DecisionRecorded, Scalar
from postsale.audit.estimate import Sample, estimate
from postsale.audit.whatif_budgets import CandidatesBudgets
from postsale.audit.whatif_results import Changed, Result, WhatIf, result_of, touches, why
from postsale.errors import InvalidInput, NotAllowed
from postsale.events import Lane, StreamId, to_us
from postsale.projections.journal import Entry, read_journal
from postsale.store.contract import Query
from postsale.store.log import Log

Values = Callable[[CustomerAggregate, int, int], Mapping[str, Scalar]]
"""Evidence of a customer at a time, as it was known at a time (UTC microseconds, both inclusive)."""


def what_if(
    log: Log,
    tenant: str,
    candidate: Policy,
    values: Values,
    *,
    begin_us: int,
    end_us: int,
    mode: Mode | None = None,
    tiers: Mapping[str, str] | None = None,
    everybody: Iterable[tuple[CustomerAggregate, Mapping[str, Scalar]]] = (),
) -> WhatIf:
    """Decide again every decision taken in [`begin_us`, `end_us`] under a policy of the candidate's name.

    `tiers`: the risk that contracts of tools declare, for those that the decision itself recorded none of; unknown is high.
    `mode`: both policies as if the agent had this much autonomy; by default as it had then. `everybody`: customers with their
    evidence at `end_us`, to find whom a new trigger would ask about. Raises InvalidInput for an empty window.
    """
    if begin_us > end_us:
        raise InvalidInput(what="what-if", field="from", reason="lies after the end of the window")
    with reach.no_effects("what-if"):
        return _Replay(log, tenant, candidate, values, mode, tiers or {}).run(begin_us, end_us, everybody)


class _Replay:
    def __init__(self, log: Log, tenant: str, candidate: Policy, values: Values, mode: Mode | None, tiers: Mapping[str, str]) -> None:
        self.log, self.tenant, self.candidate, self.values, self.mode, self.tiers = log, tenant, candidate, values, mode, tiers
        self.policies: dict[str, Policy] = {}
        self.budgets = CandidatesBudgets(log, tenant, candidate)
        self.replayed: set[UUID] = set()
        self.contacts: dict[StreamId, list[Touch]] = {}  # under the candidate
        self.otherwise: set[UUID] = set()  # decided otherwise, and the edits of these
        self.alike: set[UUID] = set()  # decisions whose contacts are the recorded ones: these end as those did

    def run(self, begin_us: int, end_us: int, everybody: Iterable[tuple[CustomerAggregate, Mapping[str, Scalar]]]) -> WhatIf:
        published = Query(
            tenant=self.tenant, category=POLICIES, lane=Lane.DECISION, streams=(policy_stream(self.tenant, self.candidate.name),)
        )
        active: Policy | None = None
        for event in self.log.events(published):
            match event.data:
                case ArtifactPublished(digest=digest) as published_as:
                    self.policies[digest] = Policy.from_json(untouched(event.position, published_as))
                case ArtifactActivated(digest=digest) if event.stored.recorded_at_us <= end_us:
                    active = self.policies.get(digest, active)
        found = WhatIf(self.candidate, active.digest if active else "", begin_us, end_us)
        found.widens = widenings(active, self.candidate) if active is not None else ()
        samples: list[Sample] = []
        for entry in self._entries(begin_us, end_us):
            self._one(entry, found, samples)
        found.value = estimate(samples)
        if active is not None and any(w.where.startswith("trigger") for w in found.widens):
            found.asked = sorted(set(self._asked(active, everybody)))
        found.touched = sorted({c.customer for c in found.changed if touches(c)})
        return found

    def _entries(self, begin_us: int, end_us: int) -> Iterator[Entry]:
        for entry in read_journal(self.log.store, self.tenant):
            if begin_us <= to_us(entry.decided_at) <= end_us and entry.recorded.policy in self.policies:
                yield entry

    # ------------------------------------------------------------ one decision

    def _one(self, entry: Entry, found: WhatIf, samples: list[Sample]) -> None:
        recorded, own = entry.recorded, self.policies[entry.recorded.policy]
        if (edit := edit_of(recorded.flags)) is not None:  # a person's, not a policy's: it stays what it is, or had nothing to change
            found.edits += 1
            if edit.replaces in self.otherwise:
                self.otherwise.add(entry.id)
                self.replayed.add(entry.id)
                self.budgets.replayed.add(entry.id)
            return
        found.decisions += 1
        stored = self.log.store.find(self.tenant, entry.id)
        assert stored is not None
        known_us = stored.recorded_at_us - 1
        customer = self.log.customer(entry.stream, known_at_us=known_us)
        self.budgets.advance(entry.position)
        try:
            evidence = self._evidence(recorded, own, customer, known_us)
        except (InvalidInput, NotAllowed, LookupError, ValueError):
            found.unreadable += 1
            return
        if self._cannot_plan(recorded, own, evidence):
            found.unplanned += 1
            return
        before_event = (
            recorded if self.mode is None else decide(spec_of(recorded), own, replace(case_of(recorded), mode=self.mode), _no_mac).event
        )
        after_event = None
        if self._asks(own, recorded.condition, evidence):
            after_event = self._decided(recorded, customer, evidence)
        before, after = result_of(before_event), result_of(after_event)
        for sums, result, event in ((found.before, before, before_event), (found.after, after, after_event)):
            sums[result.disposition] += 1
            if result.acts:
                sums["contacts"] += result.contacts
                if result.currency:
                    sums[f"offers {result.currency}"] += result.offer_minor
                for held in event.reservations if event is not None else ():
                    sums[f"budget {held.budget} {held.unit}"] += held.amount
        reason = why(own, self.candidate, before, after)
        if reason:
            self.otherwise.add(entry.id)
            found.changed.append(Changed(entry.id, entry.stream.id, entry.decided_at, recorded.condition, before, after, reason))
        self._carry_on(entry, customer, after_event)
        if (sample := _sample(entry, before, after)) is not None:
            samples.append(sample)

    def _evidence(self, recorded: DecisionRecorded, own: Policy, customer: CustomerAggregate, known_us: int) -> dict[str, Scalar]:
        """As it was recorded where the candidate asks for no more; else read again, as it was known then."""
        inputs = self.candidate.inputs
        if all(own.inputs.get(name) == kind and name in recorded.evidence for name, kind in inputs.items()):
            return {name: recorded.evidence[name] for name in sorted(inputs)}
        read = {**self.values(customer, to_us(recorded.decided_at), known_us), ASKED_BY: recorded.condition}
        values = {**read, **values_of(self.candidate.flags or {}, {})}
        return EvidenceRecorder(recorded.agent, inputs, {**values, **_shared(recorded.evidence, own, inputs)}, ()).everything()

    def _cannot_plan(self, recorded: DecisionRecorded, own: Policy, evidence: Mapping[str, Scalar]) -> bool:
        """Whether the candidate hands over where its planner was never asked this: no model is asked for a what-if."""
        row = plan_row(self.candidate, evidence)
        if row is None:
            return False
        asked = plan_row(own, recorded.evidence)
        return "plan.status" not in recorded.flags or asked is None or asked.plan != row.plan or own.options != self.candidate.options

    def _asks(self, own: Policy, condition: str, evidence: Mapping[str, Scalar]) -> bool:
        """Whether the candidate would have been asked: always where a person asked, or the trigger is as it was."""
        triggers = {t.id: t for t in own.triggers}
        if condition not in triggers or triggers[condition] in self.candidate.triggers:
            return True
        return any(c.when(evidence) for c in self.candidate.conditions)

    def _decided(self, recorded: DecisionRecorded, customer: CustomerAggregate, evidence: Mapping[str, Scalar]) -> DecisionRecorded:
        candidate, case, now_us = self.candidate, case_of(recorded), to_us(recorded.decided_at)
        tiers = {**self.tiers, **case.context.tiers}
        tools = {n: case.tools.get(n, ToolRef(n, "idempotent", ""))._replace(tier=tiers.get(n, "")) for n in candidate.tools}
        others = tuple(t for t in customer.touches if t.decision_id not in self.replayed)
        still = {t.decision_id for t in customer.touches}
        mine = [t for t in self.contacts.get(customer.stream, ()) if t.decision_id in still or t.decision_id not in self.alike]
        customer = replace(customer, touches=(*others, *mine))
        context: Context = look(
            candidate,
            customer,
            evidence,
            now_us=now_us,
            budgets=self.budgets.left(recorded.agent, now_us),
            tools=tools,
            agent=recorded.agent,
            contact_limits=case.context.contact_limits,
        )
        context = replace(context, paused_by=case.context.paused_by, reached=case.context.reached or 0)
        mode = self.mode if self.mode is not None else case.mode
        case = replace(case, mode=mode, evidence=evidence, context=context, tools=tools)
        return decide(spec_of(recorded), candidate, case, _no_mac).event

    def _carry_on(self, entry: Entry, customer: CustomerAggregate, after: DecisionRecorded | None) -> None:
        """What this decision leaves for the next ones: contacts and what it took of budgets, the recorded ones taken back."""
        self.replayed.add(entry.id)
        self.budgets.replayed.add(entry.id)
        if after is None:
            return
        mine = [Touch(to_us(entry.decided_at), i.channel, entry.id) for i in after.intents if i.channel]
        self.contacts.setdefault(customer.stream, []).extend(mine)
        if [t.channel for t in mine] == [i.channel for i in entry.recorded.intents if i.channel]:
            self.alike.add(entry.id)
        for held in after.reservations:
            self.budgets.taken[held.budget, held.intent_id] = (Page(held.unit, held.period), held.amount)

    def _asked(self, active: Policy, everybody: Iterable[tuple[CustomerAggregate, Mapping[str, Scalar]]]) -> Iterator[str]:
        for customer, values in everybody:
            if customer.merged_into is not None or any(c.when(values) for c in active.conditions):
                continue
            if not any(c.when(values) for c in self.candidate.conditions):
                continue
            rules, _ = self.candidate.deciding([row.rule for row in self.candidate.rows if row.matches(values)])
            if any(rule.action != NO_ACTION for rule in rules):
                yield customer.ref


def _sample(entry: Entry, before: Result, after: Result) -> Sample | None:
    """What is known of the candidate's worth here. None where neither acts, or nothing was ever to be seen of it."""
    recorded = entry.recorded
    if not before.acts and not after.acts:
        return None
    if before.acts and not recorded.outcome_kinds:
        return None
    if before.acts and entry.outcome is None:
        return None  # it is not over yet, or was set aside
    action = after.action if after.acts else None
    chance = sum(e.propensity_ppm for e in recorded.eligible if (None if e.action == NO_ACTION else e.action) == action)
    if not before.acts:
        chance = 0  # what was suppressed has no outcome
    return Sample(entry.outcome == "success", action == recorded.action, min(chance, CERTAIN_PPM) / CERTAIN_PPM)


def _shared(evidence: Mapping[str, Scalar], own: Policy, inputs: Mapping[str, Any]) -> dict[str, Scalar]:
    """What was recorded is what was known: it goes before what is read again."""
    return {name: evidence[name] for name, kind in inputs.items() if own.inputs.get(name) == kind and name in evidence}


def _no_mac(_: bytes) -> str:
    return ""
