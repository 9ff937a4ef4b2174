"""The outbox: effects of decisions leave here, and only here. Claimed in the log first, called then, recorded after.

Before a claim the tool's gate is asked: while it is shut, nothing is claimed, nothing is recorded and no attempt is used up.

An idempotent or queryable tool has its effect once through any crash; an unsafe one at most once, and a person looks when
the outcome is unknown. A worker that stood still after its claim, until another one may have taken over, does not call any more. The kill switch, consent and the customer's version are conditions of every claim.
May import the desk, the gate, tools, aggregates, events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Final, Self
from uuid import UUID

import orjson

from postsale.agents import reach
from postsale.agents.decide import intent_mac
from postsale.agents.desk import NOTHING, Change, Desk
from postsale.agents.gate import Gate, pause_s
from postsale.agents.tools.contract import Tool
from postsale.agents.tools.toolbox import Result, Toolbox
from postsale.agents.work import UNSAFE, Claimed, Room, Work, alone, load
from postsale.aggregates import decisions as d
from postsale.aggregates.commands import effect_due_us, effects_due, start_effect
from postsale.aggregates.customer import CustomerAggregate, Effect
from postsale.events import DAY_US, SECOND_US, Actor, Event, Origin, Recorded, StreamId, derive_id, from_us, to_us
from postsale.store.log import Cause

_TOO_LATE: Final = Result("retry", "its worker stood still for too long after the claim, and sent nothing")


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What one round over a customer's effects did."""

    called: int = 0
    settled: int = 0  # succeeded, failed for good, cancelled, or handed to a person


class Outbox:
    """Dispatches the effects of a customer's decisions. Several workers may run it; a claim lets one of them through."""

    def __init__(
        self,
        desk: Desk,
        toolbox: Toolbox,
        *,
        abandoned_after_s: float = 300.0,
        too_late_after_s: float = 3 * 86_400.0,
    ) -> None:
        """`abandoned_after_s`: a started effect without a result counts as left by a crash after this time, or three times the longest
        time-out of a tool where that is longer.

        `too_late_after_s`: an effect that could not leave so long after it was due is cancelled, not sent late.
        """
        self._desk = desk
        self._toolbox = toolbox
        self.gate = Gate(desk.log.store.kv, desk.log.clock)
        longest_s = max((tool.timeout_s for tool in toolbox.all() if not tool.sandbox), default=0.0)
        self._abandoned_us = int(max(abandoned_after_s, 3 * longest_s) * SECOND_US)
        self._too_late_us = int(too_late_after_s * SECOND_US)

    def at(self, desk: Desk) -> Self:
        """This outbox at another desk."""
        outbox = copy(self)
        outbox._desk = desk
        return outbox

    def next_due_us(self, customer: CustomerAggregate) -> float:
        """When the next effect of this customer can leave; infinity when none waits. What is due waits for its tool's gate."""
        effects = [e for o in customer.decisions.values() for e in o.effects.values()]
        return min((self._due_us(customer.stream.tenant, e) for e in effects), default=float("inf"))

    def _due_us(self, tenant: str, effect: Effect) -> float:
        due_us = effect_due_us(effect, self._abandoned_us)
        tool = self._toolbox.get(effect.intent.tool) if due_us <= self._desk.now_us() else None
        if tool is None:
            return due_us
        again = effect.attempt > 0
        return max(due_us, self.gate.next_us(tenant, tool, retry=again, requests=_requests(tool, again)))

    def dispatch(self, stream: StreamId, customer: CustomerAggregate | None = None) -> Dispatched:
        """Let every due effect of this customer leave once. Raises ToolUnreachable where none may; a tool's fault is an event."""
        return alone(self._desk, self.dispatching(stream, customer))[0]

    def dispatching(self, stream: StreamId, customer: CustomerAggregate | None = None) -> Work[tuple[Dispatched, CustomerAggregate]]:
        """`dispatch` as a work; also returns the customer as last seen."""
        customer = customer if customer is not None else (yield from load(stream))
        called = settled = 0
        known: CustomerAggregate | None = customer  # the first claim needs no second look: its append finds out whether it is stale
        for decision_id, intent_id in self.due(customer):
            did, seen = yield from self._one(stream, decision_id, intent_id, known, customer)
            known, customer = None, seen or customer
            called += did.called
            settled += did.settled
        return Dispatched(called, settled), customer

    def due(self, customer: CustomerAggregate) -> list[tuple[UUID, UUID]]:
        """The effects of this customer that are due now, in their order: decision and intent. Changes nothing."""
        due = effects_due(customer, self._desk.now_us(), abandoned_after_us=self._abandoned_us)
        return [(open_.decision_id, effect.intent.intent_id) for open_, effect in due]

    def send(self, stream: StreamId, decision_id: UUID, intent_id: UUID, customer: CustomerAggregate | None = None) -> Dispatched:
        """Let one effect leave once when it is due; called again, or by two, it does nothing more. Raises as `dispatch`."""
        return alone(self._desk, self._one(stream, decision_id, intent_id, customer, customer))[0]

    def _world(self) -> AbstractContextManager[None]:
        """Around whatever reaches a tool, never around a wait for somebody else: the world of one work is not another's."""
        return reach.simulated_only() if self._desk.origin is Origin.SIMULATION else nullcontext()

    # ------------------------------------------------------------ one effect

    def _one(
        self,
        stream: StreamId,
        decision_id: UUID,
        intent_id: UUID,
        customer: CustomerAggregate | None,
        held: CustomerAggregate | None,
    ) -> Work[tuple[Dispatched, CustomerAggregate | None]]:
        """Claim, call, record; begins with `customer` where it is given, else loads it on from `held`. Also returns it as last seen."""
        open_ = held.decisions.get(decision_id) if held is not None else None
        effect = open_.effects.get(intent_id) if open_ is not None else None
        yield Room(UNSAFE if effect is not None and effect.intent.tool_kind == "unsafe" else 1)
        did = yield from self._claimed(stream, decision_id, intent_id, customer, held)
        yield Room(0)
        return did

    def _claimed(
        self,
        stream: StreamId,
        decision_id: UUID,
        intent_id: UUID,
        customer: CustomerAggregate | None,
        held: CustomerAggregate | None,
    ) -> Work[tuple[Dispatched, CustomerAggregate | None]]:
        decision = self._desk.ordered(stream.tenant, decision_id)
        intent = next((i for i in decision.data.intents if i.intent_id == intent_id), None)
        if intent is None:
            return Dispatched(), held
        tool = self._toolbox.get(intent.tool)
        if tool is not None:
            with self._world():
                reach.check(intent.tool, simulated=tool.sandbox)  # before the claim, so that nothing is left started
        arguments = self._arguments(stream, decision, intent)
        gate = self._admission(stream.tenant, tool)
        change, stored, seen = yield from self._desk.changing(
            stream, lambda c: self._claim(c, decision, intent, tool, arguments, gate), customer, held
        )
        if stored is None or not stored.stored:
            return Dispatched(), seen  # nothing to do any more, or another worker won
        started = change.drafts[0].event
        if not isinstance(started, d.EffectStarted) or tool is None or arguments is None:
            return Dispatched(settled=1), seen
        over_us = change.drafts[0].at_us + self._abandoned_us
        result: Result = yield Claimed(lambda: self._call(tool, intent, arguments, over_us, again=started.attempt > 1))
        final, _, seen = yield from self._desk.changing(
            stream, lambda c: replace(self._record(c, decision, intent, tool, started.attempt, result), happened=True), held=seen
        )
        if result is not _TOO_LATE:
            self.gate.settle(stream.tenant, tool, result)  # after the record of the effect, which matters more
        done = any(not isinstance(x.event, d.EffectFailed) or x.event.final for x in final.drafts)
        return Dispatched(called=1, settled=int(done)), seen

    def _admission(self, tenant: str, tool: Tool | None) -> Callable[[int], bool]:
        """Asks the gate once for this claim, however often the claim is tried: whether attempt number so may be made."""
        asked: list[bool] = []

        def admitted(attempt: int) -> bool:
            if not asked and tool is not None:
                again = attempt > 1
                asked.append(self.gate.admit(tenant, tool, retry=again, requests=_requests(tool, again)) is None)
            return asked[0]

        return admitted

    def _arguments(self, stream: StreamId, decision: Recorded[d.Ordered], intent: d.EffectIntent) -> Mapping[str, Any] | None:
        """The unsealed arguments when they are exactly those that were decided; None when erased or altered."""
        text = decision.data.arguments
        if not isinstance(text, str):
            return None
        listed = orjson.loads(text)
        index = decision.data.intents.index(intent)
        if (
            index >= len(listed)
            or intent_mac(self._desk.mac(stream.tenant), intent.intent_id, intent.tool, listed[index]) != intent.arguments_mac
        ):
            return None
        found: Mapping[str, Any] = listed[index]
        return found

    def _claim(
        self,
        c: CustomerAggregate,
        decision: Recorded[d.Ordered],
        intent: d.EffectIntent,
        tool: Tool | None,
        arguments: Mapping[str, Any] | None,
        admitted: Callable[[int], bool],
    ) -> Change:
        """The right to call, or the reason why nothing leaves. Nothing while a switch is thrown or the gate is shut."""
        data, decision_id = decision.data, decision.event_id
        open_ = c.decisions.get(decision_id)
        effect = open_.effects.get(intent.intent_id) if open_ else None
        now_us = self._desk.now_us()
        if effect is None or effect_due_us(effect, self._abandoned_us) > now_us:
            return NOTHING
        switches = self._desk.switches(c.stream.tenant, data.agent)
        if switches.paused:
            return NOTHING
        stop = self._stop(c, data, effect, intent, tool, arguments, now_us)
        if stop is not None:
            return self._change(decision, stop, "stopped", effect.attempt)
        (event,) = start_effect(c, decision_id, intent.intent_id)
        if isinstance(event, d.EffectStarted) and not admitted(event.attempt):
            return NOTHING
        step = "started" if isinstance(event, d.EffectStarted) else "unknown"
        return Change(self._change(decision, event, step, effect.attempt + 1).drafts, switches.conditions)

    def _stop(
        self,
        c: CustomerAggregate,
        data: d.Ordered,
        effect: Effect,
        intent: d.EffectIntent,
        tool: Tool | None,
        arguments: Mapping[str, Any] | None,
        now_us: int,
    ) -> Event | None:
        """Why this effect does not leave, as an event; None when it may. What may have happened already goes to a person."""
        uncertain = effect.ambiguous or effect.status == "started"
        decision_id = next(k for k, o in c.decisions.items() if intent.intent_id in o.effects)
        purpose = str(data.context.get("purpose", ""))
        cancel = fail = ""
        if intent.channel is not None and not c.may_contact(intent.channel, purpose):
            cancel = f"consent for {intent.channel}/{purpose} was withdrawn"
        elif c.merged_into is not None and not isinstance(data, d.UndoOrdered):  # what was done to it is taken back from it
            cancel = "the customer is part of another one by now"
        elif isinstance(data, d.DecisionRecorded) and self._desk.retired(c.stream.tenant, data.policy):  # settled by a person or not yet
            cancel = "the version of the policy that decided was retired"
        elif now_us > max(effect.ready_at_us, to_us(intent.due_at)) + self._too_late_us:
            cancel = f"it could not leave within {self._too_late_us // DAY_US} days"
        elif tool is None:
            fail = f"{intent.tool} is not installed any more"
        elif tool.ref.digest != intent.tool_digest:
            fail = f"the contract of {intent.tool} changed since the decision"
        elif arguments is None:
            fail = "the arguments are erased or are not those that were decided"
        elif effect.status == "started" and effect.attempt >= tool.max_attempts:
            fail = "no attempt is left"
        elif uncertain and _forgotten(tool, effect, now_us):
            fail = f"an attempt may have acted, and after {tool.key_lives_s:g} s its key may be forgotten"
        if not cancel and not fail:
            return None
        if uncertain:
            return d.EffectUnknown(decision_id=decision_id, intent_id=intent.intent_id, attempt=effect.attempt, reason=cancel or fail)
        if cancel:
            return d.EffectCancelled(decision_id=decision_id, intent_id=intent.intent_id, reason=cancel)
        return d.EffectFailed(decision_id=decision_id, intent_id=intent.intent_id, attempt=effect.attempt, final=True, reason=fail)

    def _call(self, tool: Tool, intent: d.EffectIntent, arguments: Mapping[str, Any], over_us: int, *, again: bool) -> Result:
        """Send it; a queryable tool is asked before every second sending, also when it said that nothing had happened.

        `over_us`: from then on the claim is nobody's, so what might not be over by then is not begun.
        """
        key, last_us = str(intent.intent_id), over_us - int(tool.timeout_s * SECOND_US)
        with self._world():
            if tool.kind == "queryable" and again:
                found = self._toolbox.query(intent.tool, idempotency_key=key)
                if found.status != "absent":
                    return found
            if self._desk.now_us() > last_us:
                return _TOO_LATE
            return self._toolbox.call(intent.tool, arguments, idempotency_key=key)

    def _record(
        self, c: CustomerAggregate, decision: Recorded[d.Ordered], intent: d.EffectIntent, tool: Tool, attempt: int, result: Result
    ) -> Change:
        """The result as an event. A success counts even when another worker took over; a failure only of the newest attempt."""
        open_ = c.decisions.get(decision.event_id)
        effect = open_.effects.get(intent.intent_id) if open_ else None
        if effect is None or effect.settled:
            return NOTHING
        ids: dict[str, Any] = {"decision_id": decision.event_id, "intent_id": intent.intent_id, "attempt": attempt}
        if result.status == "done":
            event: Event = d.EffectSucceeded(**ids, sandbox=result.sandbox, receipt=result.receipt)
            return self._change(decision, event, "result", attempt)
        if effect.status != "started" or effect.attempt != attempt:
            return NOTHING
        uncertain = result.ambiguous or effect.ambiguous
        if uncertain and (tool.kind == "unsafe" or attempt >= tool.max_attempts or result.status == "refused"):
            event = d.EffectUnknown(**ids, reason=result.reason)
        elif result.status == "refused" or attempt >= tool.max_attempts:
            event = d.EffectFailed(**ids, final=True, reason=result.reason)
        else:
            wait_s = pause_s(tool, intent.intent_id, attempt, result.retry_after_s)
            retry_at = from_us(self._desk.now_us() + int(wait_s * SECOND_US))
            event = d.EffectFailed(**ids, final=False, reason=result.reason, retry_at=retry_at, ambiguous=result.ambiguous)
        return self._change(decision, event, "result", attempt)

    def _change(self, decision: Recorded[d.Ordered], event: Event, step: str, attempt: int) -> Change:
        intent_id = getattr(event, "intent_id", None)
        cause = Cause(
            actor=Actor("agent", decision.data.agent),
            causation_id=decision.event_id,
            correlation_id=decision.data.trigger_id,
            depth=decision.data.depth + 1,  # what a tool sends back is one deeper than what caused it
            origin=self._desk.origin,
        )
        return Change((self._desk.draft(event, derive_id(intent_id, step, attempt), cause),))


def _requests(tool: Tool, again: bool) -> int:
    """How many requests one sending may take: a queryable tool is asked first, from the second time on."""
    return 2 if again and tool.kind == "queryable" else 1


def _forgotten(tool: Tool, effect: Effect, now_us: int) -> bool:
    """Whether the other side may have forgotten the key of this effect's first attempt, so that another one would count twice."""
    if tool.kind != "idempotent" or tool.key_lives_s is None:
        return False
    return now_us > max(effect.ready_at_us, to_us(effect.intent.due_at)) + int(tool.key_lives_s * SECOND_US)
