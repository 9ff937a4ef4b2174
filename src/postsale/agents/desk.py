"""The desk: how agents write the log, beside what they read of it: appends under conditions, which try again.

Lives here: conditions, retries, what is settled in the same append. Not here: reading (`lookup`), rules (they come in as functions), tools.
May import store, access, aggregates, events and the pure modules of this room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple, Self
from uuid import UUID

from postsale.agents.budget import BudgetState, Settled, budget_stream, evolve_budget, ledger_stream, settlements
from postsale.agents.limits import MAX_REACH
from postsale.agents.lookup import Lookup, Step
from postsale.agents.waits import begun
from postsale.agents.work import CONFLICTS, Append, Load, Work, alone, load
from postsale.aggregates.budgets import BudgetCompensated, BudgetEvent, BudgetReleased, BudgetReserved, BudgetSliceReturned, Reservation
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import (
    AgentReached,
    EffectSucceeded,
)
from postsale.errors import PostSaleError
from postsale.events import Event, StreamId, derive_id
from postsale.store.contract import Appended, Condition, Outcome
from postsale.store.leases import Lease
from postsale.store.log import Cause, Draft

TRIES = 8


class Reserve(NamedTuple):
    """A reservation that goes with a change: of a budget or a slice of one, at the version at which that had enough left."""

    held: Reservation
    decision_id: UUID
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    """Events for a customer's decision lane, and what must still hold when they are stored. Empty: nothing to do."""

    drafts: tuple[Draft, ...] = ()
    conditions: tuple[Condition, ...] = ()
    reserves: tuple[Reserve, ...] = ()
    beside: tuple[tuple[StreamId, int, Draft], ...] = ()  # events of other decision lanes, each after a version
    happened: bool = False  # it tells what a tool did: recorded whoever holds the lease by now


NOTHING = Change()
Part = tuple[StreamId, int, Draft]  # of an append: after which version of which decision lane


class Desk(Lookup):
    """One process's view of the log for agents: reads, and appends that try again."""

    def under(self, lease: Lease) -> Self:
        """A desk that changes customers only while it holds a lease, which it keeps by the way; LeaseLost afterwards."""
        desk = copy(self)
        desk.lease = lease
        return desk

    def pooled(self) -> Self:
        """A desk for works that are done together: versions are read once for all of a step. For one thread at a time.

        Conditions hold every append to what was read, as ever; what did not hold is done again alone.
        """
        desk = copy(self)
        desk._step = Step()
        return desk

    # ------------------------------------------------------------ the door of works

    def load(self, wants: Sequence[Load]) -> list[CustomerAggregate | Exception]:
        """Customers, in one read; in place of one that cannot be read, why."""
        return self.log.customers(wants)

    def store(self, wants: Sequence[Append]) -> list[Outcome]:
        """Appends, in one call of the store; in place of one that was refused, why."""
        try:
            return self.log.append_many(wants)
        except PostSaleError as error:  # of the whole call
            return [copy(error) for _ in wants]

    # ------------------------------------------------------------ writing

    def draft(self, event: Event, event_id: UUID, cause: Cause, subject: str | None = None) -> Draft:
        """An event that happens now."""
        return Draft(event, event_id, self.now_us(), cause, subject)

    def change(
        self, stream: StreamId, rule: Callable[[CustomerAggregate], Change], customer: CustomerAggregate | None = None
    ) -> tuple[Change, Appended | None]:
        """Load the customer (or begin with `customer`), ask the rule, append; on a conflict load and ask again, a few times.

        Settlements of budgets are added here, in the same append, so that their sums hold through crashes. Returns what
        was appended; the second is None when the rule had nothing to do. Raises the last conflict when none of the tries won.
        """
        change, stored, _ = alone(self, self.changing(stream, rule, customer))
        return change, stored

    def changing(
        self,
        stream: StreamId,
        rule: Callable[[CustomerAggregate], Change],
        customer: CustomerAggregate | None = None,
        held: CustomerAggregate | None = None,
    ) -> Work[tuple[Change, Appended | None, CustomerAggregate]]:
        """`change` as a work; also returns the customer that the rule saw last. What is loaded is folded on from `held`."""
        for attempt in range(1, TRIES + 1):
            customer = customer if customer is not None and attempt == 1 else (yield from load(stream, customer or held))
            change = rule(customer)
            if not change.drafts:
                return change, None, customer
            try:
                return change, (yield from self.appending(customer, change)), customer
            except CONFLICTS:
                if attempt == TRIES:
                    raise
        raise AssertionError("unreachable")

    def append(self, customer: CustomerAggregate, change: Change) -> Appended:
        """Store a change decided on `customer`, once. Raises VersionConflict, ConditionFailed, ContentConflict, LeaseLost."""
        return alone(self, self.appending(customer, change))

    def appending(self, customer: CustomerAggregate, change: Change) -> Work[Appended]:
        """`append` as a work."""
        conditions = change.conditions
        if self.lease is not None and not change.happened:
            self.lease.keep()
            conditions = (*conditions, self.lease.condition)
        stored: Appended = yield Append(tuple(self._parts(customer, change)), conditions)
        return stored

    def _parts(self, customer: CustomerAggregate, change: Change) -> list[Part]:
        """The events of a change and those that go with it, each after the version that it follows."""
        drafts = (*change.drafts, *(x for draft in change.drafts for x in self._waits(customer, draft)))
        parts: list[Part] = [(customer.stream, customer.version + i, draft) for i, draft in enumerate(drafts)]
        tenant, ahead = customer.stream.tenant, dict[StreamId, BudgetState]()  # several entries may follow one another
        for held, _, version in change.reserves:
            stream = ledger_stream(tenant, held.budget, held.slice)
            ahead[stream] = replace(self._budget(stream), version=version)
        for draft in change.drafts:  # what comes back first: it may be what is reserved again
            for held, settled in settlements(customer, draft.event):
                parts += self._settled(tenant, held, settled, draft.cause, ahead)
        for held, decision_id, _ in change.reserves:
            entry = {n: getattr(held, n) for n in ("intent_id", "unit", "period", "amount")}
            reserved, stream = BudgetReserved(decision_id=decision_id, **entry), ledger_stream(tenant, held.budget, held.slice)
            parts.append(self._entry(stream, reserved, (held.intent_id, held.budget, "reserved"), change.drafts[0].cause, ahead))
        parts += change.beside
        if self._step is not None:
            self._step.budgets.update(ahead)
            for stream, version, draft in change.beside:
                if isinstance(draft.event, AgentReached):
                    _, position, times = self._step.reached.get(stream) or self._reached.get(stream, (0, 0, ()))
                    self._step.reached[stream] = version + 1, position, (*times, draft.at_us)[-MAX_REACH:]
        return parts

    def _settled(self, tenant: str, held: Reservation, event: Settled, cause: Cause, ahead: dict[StreamId, BudgetState]) -> list[Part]:
        """The entry that settles a reservation where it is. What a slice gets back that was closed meanwhile is the budget's."""
        whole = budget_stream(tenant, held.budget)
        where = whole if isinstance(event, BudgetCompensated) else ledger_stream(tenant, held.budget, held.slice)
        step = "compensated" if isinstance(event, BudgetCompensated) else "settled"
        out = [self._entry(where, event, (held.intent_id, held.budget, step), cause, ahead)]
        if held.slice is not None and isinstance(event, BudgetReleased) and self._budget(where).closed:
            back = BudgetSliceReturned(slice=held.slice, unit=held.unit, period=held.period, amount=held.amount)
            out.append(self._entry(whole, back, (held.intent_id, held.budget, "returned"), cause, ahead))
        return out

    def _entry(
        self, stream: StreamId, event: BudgetEvent, id_of: tuple[UUID, str, str], cause: Cause, ahead: dict[StreamId, BudgetState]
    ) -> Part:
        state = ahead[stream] if stream in ahead else self._budget(stream)
        ahead[stream] = evolve_budget(state, event)
        return stream, state.version, self.draft(event, derive_id("budget", *id_of), cause)

    def _waits(self, customer: CustomerAggregate, draft: Draft) -> Iterable[Draft]:
        """What is waited for from an effect on, in the append that says that it happened."""
        event = draft.event
        open_ = customer.decisions.get(event.decision_id) if isinstance(event, EffectSucceeded) else None
        if open_ is None or not open_.action:
            return
        policy = self.policy(customer.stream.tenant, open_.policy)
        if policy is None or not policy.waits or self.standing(customer.stream.tenant, policy.name).stopped == policy.digest:
            return  # nobody would end what begins under a version that was retired, while no other one decides
        for wait_id, began in begun(policy, open_, draft.at_us):
            yield Draft(began, wait_id, draft.at_us, replace(draft.cause, depth=open_.depth + 1))

    def append_to(self, stream: StreamId, version: int, events: Sequence[tuple[Event, UUID]], cause: Cause) -> Appended:
        """Events for another decision lane, such as an agent's or a policy's, after `version`."""
        drafts = [self.draft(event, id_, cause) for event, id_ in events]
        try:
            return self.log.append(self.log.decisions(stream, version, drafts))
        finally:
            self.begin()
