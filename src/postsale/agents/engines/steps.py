"""The steps of agents, which every engine drives: edges become triggers, triggers get decisions, decisions get effects.

Everything is in the log: a process may die between or within steps, and another one goes on. Ids derive from causes, so that
nothing is done twice. Not here: who is visited when. May import this room, store, access, aggregates, events. It is one of the
two places that load tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple, Self
from uuid import UUID

from postsale.access import Person
from postsale.agents import asking, control
from postsale.agents.agent import Agent
from postsale.agents.approval_rules import asked_of
from postsale.agents.approvals import Approvals
from postsale.agents.budget import Page
from postsale.agents.budget_policy import Budget, Left, period
from postsale.agents.conversation import LAST, stop_of, taken_over
from postsale.agents.conversation import ended as conversations_ended
from postsale.agents.decide import Case, Decided, decide, decision_id, plan_row
from postsale.agents.desk import NOTHING, TRIES, Change, Desk, Reserve, Switches, reach_stream
from postsale.agents.escrow import Escrow, Purse
from postsale.agents.evidence import EvidenceRecorder, HealthReading, HealthSource, NoHealth, read_set, rounded
from postsale.agents.flags import FAILED, FlagSource, read_flags
from postsale.agents.guardrails import look
from postsale.agents.outbox import Outbox
from postsale.agents.planner_asking import NotYet, Planning
from postsale.agents.policy import Policy
from postsale.agents.policy_time import ASKED_BY
from postsale.agents.replacing import Edited
from postsale.agents.timed import next_us, time_brings
from postsale.agents.tools.toolbox import Toolbox
from postsale.agents.waits import ended
from postsale.agents.work import Work, alone, load
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.artifacts import EVERY_AGENT, AgentControl, Mode, agent_stream, policy_stream
from postsale.aggregates.asked import ApprovalTimedOut
from postsale.aggregates.conversations import ConversationEnded
from postsale.aggregates.customer import CustomerAggregate, OpenDecision, PendingTrigger
from postsale.aggregates.identity import ALIASES, AliasLinked, customer_stream
from postsale.errors import (
    ApprovalRefused,
    BadDeclaration,
    ConditionFailed,
    ContentConflict,
    InvalidInput,
    NotLive,
    StoreUnavailable,
    VersionConflict,
)
from postsale.events import DAY_US, SECOND_US, Actor, Event, Header, Origin, StoredEvent, StreamId, decode, derive_id, to_us
from postsale.projections.scoring import as_evidence
from postsale.store.contract import Condition, NoneSince, StreamAt
from postsale.store.leases import Lease
from postsale.store.log import Cause, Draft, Log

_MAX_MERGES = 16


@dataclass(frozen=True, slots=True)
class Visited:
    """What the steps before any effect did for one customer, and the customer after them."""

    raised: int = 0
    decided: tuple[UUID, ...] = ()
    lapsed: int = 0
    outcomes: int = 0
    customers: tuple[CustomerAggregate, ...] = ()  # those that were merged into another one first, the survivor last


class _Looked(NamedTuple):
    """A decision, and what must still be so when it is stored."""

    decided: Decided
    position: int  # facts up to here were read
    purses: Mapping[str, Purse]  # by the name under which each budget is kept
    reach_version: int
    health: HealthReading
    contacts: StreamAt  # the budget of contacts of all agents together


class Steps:
    """Agents over one log. Thread-safe as far as its store is; several over one log, in any processes, do each thing once."""

    def __init__(
        self,
        log: Log,
        agents: Iterable[Agent] = (),
        toolbox: Toolbox | None = None,
        health: HealthSource | None = None,
        *,
        origin: Origin = Origin.LIVE,
        outbox: Mapping[str, float] | None = None,
        flags: FlagSource | None = None,
        escrow: Escrow | None = None,
    ) -> None:
        """`origin` SIMULATION lets imported facts raise triggers; a live engine ignores all but live facts.

        `outbox` may set `abandoned_after_s` and `too_late_after_s`. Flags that policies declare are read from `flags`; without it
        they have their defaults. With `escrow` it is reserved from slices of budgets. Raises BadDeclaration for two agents of one name,
        PolicyInvalid for a policy that asks for evidence or tools that are not there.
        """
        self.log = log
        self.toolbox = toolbox if toolbox is not None else Toolbox()
        self.health = health if health is not None else NoHealth()
        self.desk = Desk(log, origin=origin, escrow=escrow)
        self.flags = flags
        self.planning = Planning(self.desk, self.toolbox)
        self.agents: dict[str, Agent] = {}
        for agent in agents:
            if not isinstance(agent, Agent):
                raise BadDeclaration(what="agents", reason=f"expected agents such as RenewalRescue(), got {type(agent).__name__}")
            if agent.name in self.agents:
                raise BadDeclaration(what=f"agent {agent.name!r}", reason="two agents with one name")
            agent.check(agent.policy, self.health.features)
            self.toolbox.check(agent.policy)
            self.planning.check(agent, agent.policy)
            self.agents[agent.name] = agent
        self.outbox = Outbox(self.desk, self.toolbox, **(outbox or {}))
        self.approvals = Approvals(self.desk, self._reread, frozenset(self.agents), self._propose)
        self._origin = origin
        self._raising = {Origin.LIVE} if origin is Origin.LIVE else set(Origin)

    def under(self, lease: Lease) -> Self:
        """This engine as long as it holds a lease: afterwards its visits raise LeaseLost. Results of tools are recorded all the same."""
        return self._at(self.desk.under(lease))

    def pooled(self) -> Self:
        """This engine for works that are done together, by one thread at a time; see `Desk.pooled`."""
        return self._at(self.desk.pooled())

    def _at(self, desk: Desk) -> Self:
        engine = copy(self)
        engine.desk = desk
        engine.outbox = self.outbox.at(engine.desk)
        engine.planning = self.planning.at(engine.desk)
        return engine

    # ------------------------------------------------------------ control by people

    def install(self, tenant: str, agent: str, *, person: Person | None = None, reason: str = "installed with the agent") -> bool:
        """Publish and activate the agent's policy where another one, or none, is active; False when nothing changed."""
        return control.activate_policy(self.desk, tenant, self._agent(agent).policy, person=person, reason=reason)

    def control(self, tenant: str, agent: str) -> AgentControl:
        """The agent's own autonomy, and whether any of its three switches is thrown."""
        switches = self.desk.switches(tenant, agent)
        own = switches.states[0]
        return AgentControl(own.mode, switches.paused, own.version, own.retired)

    def set_mode(self, tenant: str, agent: str, mode: Mode, *, person: Person, reason: str) -> AgentControl:
        """How far the agent may go from now on."""
        return control.set_mode(self.desk, tenant, self._agent(agent).name, mode, person=person, reason=reason)

    def pause(self, tenant: str, agent: str = EVERY_AGENT, *, person: Person, reason: str) -> AgentControl:
        """Throw the kill switch of one agent, or of all agents of the tenant."""
        return control.pause(self.desk, tenant, agent, person=person, reason=reason)

    def resume(self, tenant: str, agent: str = EVERY_AGENT, *, person: Person, reason: str) -> AgentControl:
        """Release it."""
        return control.resume(self.desk, tenant, agent, person=person, reason=reason)

    # ------------------------------------------------------------ one visit

    def visit(self, stream: StreamId, cause: StoredEvent | None = None, *, since_us: int | None = None) -> Visited:
        """Do for one customer now all that has no effect: edges, decisions (planners are asked), lapses, outcomes. Effects are left.

        `cause`: the fact that brings us here, None for the passing of time since `since_us` (default: a day). `stream` may be
        an alias or a merged customer: the visit is to the customer it belongs to; an alias that is not linked yet has none.
        """
        return alone(self.desk, self.visiting(stream, cause, since_us))

    def visiting(self, stream: StreamId, cause: StoredEvent | None = None, since_us: int | None = None) -> Work[Visited]:
        """`visit` as a work."""
        chain = yield from self._chain(stream)
        if not chain:
            return Visited()
        *merged, customer = chain
        done = []
        for part in merged:
            done.append((yield from self._settle(part)))  # what they had open still needs its end
        raised, customer = yield from self.watching(customer, cause, since_us)
        done.append((yield from self._settle(customer)))
        return Visited(
            raised,
            tuple(x for part in done for x in part.decided),
            sum(part.lapsed for part in done),
            sum(part.outcomes for part in done),
            tuple(c for part in done for c in part.customers),
        )

    def _settle(self, customer: CustomerAggregate) -> Work[Visited]:
        """Decide what is pending and record what time brought; no new trigger."""
        home = customer.stream
        customer, over = yield from self._end(customer)
        decided = []
        for trigger in sorted(customer.pending.values(), key=lambda t: (self._priority(home.tenant, t.raised.agent), t.position)):
            if (made := (yield from self._handle(home, trigger.trigger_id, customer))) is not None:
                decided.append(made)
            customer = yield from load(home, customer)
        lapsed, outcomes = yield from self._sweep(customer)
        customer = (yield from load(home, customer)) if lapsed or outcomes else customer
        return Visited(0, tuple(decided), lapsed, outcomes + over, (customer,))

    def _priority(self, tenant: str, agent: str) -> int:
        """Whose trigger is decided first when several are pending."""
        known = self.agents.get(agent)
        talk = None if known is None else self._policy(tenant, known)[0].conversation
        return LAST if talk is None else talk.priority

    def _end(self, customer: CustomerAggregate) -> Work[tuple[CustomerAggregate, int]]:
        """End conversations whose goal, time or stop condition is reached, before anybody is kept waiting for them; and outcomes seen."""
        if all(o.priority is None for o in customer.decisions.values()):
            return customer, 0

        def rule(c: CustomerAggregate) -> Change:
            now_us, drafts = self.desk.now_us(), []
            for e in conversations_ended(c, now_us, lambda o: self._stopped(c, o, now_us)):
                drafts.append(self._told(c, e))
                if isinstance(e, ConversationEnded) and e.why == "goal":
                    drafts += self._recovered(c, {e.decision_id: e.by})
            return Change(tuple(drafts))

        change, stored, _ = yield from self.desk.changing(customer.stream, rule, customer)
        outcomes = sum(isinstance(x.event, d.OutcomeObserved) for x in change.drafts)
        return (customer if stored is None else (yield from load(customer.stream, customer))), outcomes

    def _stopped(self, c: CustomerAggregate, o: OpenDecision, now_us: int) -> str:
        agent = self.agents.get(o.agent)
        policy = self.desk.policy(c.stream.tenant, o.policy)
        if agent is None or policy is None or policy.conversation is None or not policy.conversation.stop:
            return ""
        return stop_of(policy, self._values(c, agent, now_us)[0])

    def due_us(self, stream: StreamId) -> int | None:
        """When the customer of a stream needs a visit although nothing happens, those merged into it included; None: never."""
        return min((due for c in alone(self.desk, self._chain(stream)) if (due := self.next_due_us(c)) is not None), default=None)

    def customer_of(self, stream: StreamId) -> CustomerAggregate | None:
        """The customer that facts on this stream belong to now: aliases and merges followed; None for an alias nobody linked."""
        chain = alone(self.desk, self._chain(stream))
        return chain[-1] if chain else None

    def _chain(self, stream: StreamId) -> Work[list[CustomerAggregate]]:
        """The customer of a stream, then those it was merged into, the survivor last; empty for an alias nobody linked."""
        if stream.category == ALIASES:
            (newest,) = self.log.store.latest([stream])
            event = decode(newest).data if newest is not None else None
            if not isinstance(event, AliasLinked):
                return []
            stream = customer_stream(stream.tenant, event.account)
        chain: list[CustomerAggregate] = []
        for _ in range(_MAX_MERGES):
            customer = yield from load(stream)
            chain.append(customer)
            if customer.merged_into is None:
                break
            stream = customer_stream(stream.tenant, customer.merged_into)
        return chain

    def next_due_us(self, c: CustomerAggregate) -> int | None:
        """When this customer needs a visit although nothing happens: retries, planners, expiries, outcomes, times; None: never."""
        times = [self.outbox.next_due_us(c), self.planning.next_due_us(c, self.agents)]
        waiting = [o for o in c.decisions.values() if o.disposition == "awaiting"]
        times += [o.expires_at_us for o in waiting if o.expires_at_us is not None]
        times += [o.asked.until_us for o in waiting if o.asked is not None]
        times += [at for name, policy, since_us in self.timed(c.stream.tenant) for at in next_us(c, name, policy, since_us)]
        times += [o.outcome_by_us + 1 for o in c.decisions.values() if o.disposition == "acted" and o.outcome_by_us is not None]
        first = min(times)
        return None if first == float("inf") else int(first)

    def timed(self, tenant: str, *, now: bool = False) -> list[tuple[str, Policy, int]]:
        """Agents that time alone may ask, with their policies as last seen, and since when these are active.

        `now`: look again, and install those of which no version is active yet: time cannot wait for somebody to be visited.
        """
        for agent in self.agents.values() if now else ():
            known, _ = self.desk.active_policy(tenant, agent.policy.name)
            if known is None and agent.policy.timed:
                self.install(tenant, agent.name)
        seen = ((agent.name, *self.desk.seen_policy(tenant, agent.policy.name)) for agent in self.agents.values())
        return [(name, policy, since_us) for name, policy, since_us in seen if policy is not None and policy.timed]

    # ------------------------------------------------------------ triggers

    def watch(self, stream: StreamId, cause: StoredEvent | None = None, *, since_us: int | None = None) -> int:
        """Compare every agent's conditions with how they stood, and record what rose and what is over. Returns triggers raised.

        A live condition rises with time only when it was false at `since_us`: an imported history of troubles is no news.
        """
        return alone(self.desk, self.watching(self.log.customer(stream), cause, since_us))[0]

    def raises(self, fact: StoredEvent) -> bool:
        """Whether a fact of this origin can raise a trigger in this engine's world."""
        return Header.from_bytes(fact.header).origin in self._raising

    def watching(self, customer: CustomerAggregate, cause: StoredEvent | None, since_us: int | None) -> Work[tuple[int, CustomerAggregate]]:
        """`watch` as a work, from the customer just loaded; also returns the customer after it."""
        header = Header.from_bytes(cause.header) if cause is not None else None
        if header is not None and header.origin not in self._raising:
            return 0, customer
        now_us, stream = self.desk.now_us(), customer.stream
        causing = cause.event_id if cause is not None else derive_id("time", stream, now_us // DAY_US)
        before_us = None
        if cause is None and self._origin is Origin.LIVE:
            before_us = since_us if since_us is not None else now_us - DAY_US
        raised, moved = 0, False
        known = customer
        for agent in self.agents.values():
            policy, _ = self._policy(stream.tenant, agent)
            depth = header.depth if header is not None else 0
            how = Cause(actor=Actor("agent", agent.name), causation_id=causing, depth=depth, origin=self._origin)

            def rule(c: CustomerAggregate, agent: Agent = agent, policy: Policy = policy, how: Cause = how) -> Change:
                edges = self._edges(c, agent, policy, "fact" if cause is not None else "time", causing, how, before_us)
                return Change((*edges.drafts, *self._timed(c, agent, policy)))

            change, stored, known = yield from self.desk.changing(stream, rule, None if moved else known, known)
            if stored is not None:
                moved = True
                raised += sum(isinstance(x.event, d.TriggerRaised) for x in change.drafts) if stored.stored else 0
        return raised, ((yield from load(stream, known)) if moved else customer)

    def _edges(
        self,
        c: CustomerAggregate,
        agent: Agent,
        policy: Policy,
        kind: Literal["fact", "time"],
        causing: UUID,
        how: Cause,
        before_us: int | None,
    ) -> Change:
        if c.merged_into is not None:
            return NOTHING
        values = self._values(c, agent, self.desk.now_us())[0]
        before: dict[str, d.Scalar] | None = None
        drafts = []
        for condition in policy.conditions:
            was = (agent.name, condition.id) in c.up
            up = condition.up(values, was)
            if up and not was:
                if before_us is not None:
                    before = before if before is not None else self._values(c, agent, before_us)[0]
                    if condition.up(before, False):
                        continue
                id_ = derive_id(agent.name, condition.id, causing)
                raised = d.TriggerRaised(agent=agent.name, condition=condition.id, cause=kind, causing_event=causing, depth=how.depth)
                drafts += [self.desk.draft(e, id_, how) for e in commands.raise_trigger(c, id_, raised)]
            elif was and not up:
                cleared = d.TriggerCleared(agent=agent.name, condition=condition.id, causing_event=causing)
                id_ = derive_id(agent.name, condition.id, causing, "cleared")
                drafts += [self.desk.draft(e, id_, how) for e in commands.clear_trigger(c, cleared)]
        if drafts and self.desk.control(agent_stream(c.stream.tenant, agent.name)).retired:
            return NOTHING
        return Change(tuple(drafts))

    def _timed(self, c: CustomerAggregate, agent: Agent, policy: Policy) -> Iterator[Draft]:
        """Schedules, waits and terms whose time has come."""
        if not policy.timed or self.desk.control(agent_stream(c.stream.tenant, agent.name)).retired:
            return
        now_us, since_us = self.desk.now_us(), self.desk.seen_policy(c.stream.tenant, policy.name)[1]
        for event, id_ in time_brings(c, agent.name, policy, since_us, now_us, lambda: self._values(c, agent, now_us)[0]):
            causing = event.causing_event if isinstance(event, d.TriggerRaised) else None
            yield self.desk.draft(event, id_, Cause(actor=Actor("agent", agent.name), causation_id=causing, origin=self._origin))

    def ask(self, stream: StreamId, agent: str, command: str, *, person: Person, reason: str, at: datetime | None = None) -> UUID:
        """A person asks an agent to decide, now or at an instant to come: the trigger's id. See `asking.ask`."""
        return asking.ask(self.desk, stream, self._agent(agent).name, command, person=person, reason=reason, at=at)

    # ------------------------------------------------------------ decisions

    def handle(self, stream: StreamId, trigger_id: UUID) -> UUID | None:
        """Decide about one pending trigger: the decision's id, None when it has a disposition already, waits for its planner, or its
        agent is not here.

        What the decision read must still hold when it is stored; else it is read and decided anew, and after too many
        rounds recorded as failed.
        """
        return alone(self.desk, self._handle(stream, trigger_id, None))

    def _handle(self, stream: StreamId, trigger_id: UUID, customer: CustomerAggregate | None) -> Work[UUID | None]:
        """`handle` as a work, which begins with `customer`, just loaded."""
        for attempt in range(1, TRIES + 2):
            if customer is None or attempt > 1:
                customer = yield from load(stream, customer)
            pending = customer.pending.get(trigger_id)
            agent = self.agents.get(pending.raised.agent) if pending else None
            if pending is None or agent is None:
                return None
            last = attempt > TRIES
            try:
                problem = "what it depends on kept changing while it was being decided" if last else ""
                yield from self.desk.appending(customer, self._decided(customer, pending, agent, problem)[0])
            except NotYet as waits:
                if waits.again:
                    continue
                return None
            except ContentConflict:
                return None  # another worker decided this trigger
            except (VersionConflict, ConditionFailed):
                if last:
                    raise
                continue
            return decision_id(trigger_id)
        raise AssertionError("unreachable")

    def _propose(self, c: CustomerAggregate, pending: PendingTrigger, edited: Edited) -> tuple[Change, Decided]:
        change, decided = self._decided(c, pending, self._agent(pending.raised.agent), "", edited)
        for intent, arguments in zip(decided.event.intents, decided.arguments, strict=True):
            if place := self.toolbox.misfit(intent.tool, arguments):
                raise InvalidInput(what="edit", field=f"arguments.{place}", reason=f"it does not fit the input of {intent.tool}")
        return change, decided

    def _decided(
        self, c: CustomerAggregate, pending: PendingTrigger, agent: Agent, problem: str, edited: Edited | None = None
    ) -> tuple[Change, Decided]:
        """The decision about a trigger, or about a person's edit, with what it must hold on."""
        tenant = c.stream.tenant
        switches = self.desk.switches(tenant, agent.name)
        policy, policy_version = self._policy(tenant, agent)
        looked = self._decide(c, pending, agent, policy, switches, problem, edited)
        decided, event, id_ = looked.decided, looked.decided.event, looked.decided.decision_id
        how = Cause(
            actor=Actor("agent", agent.name),
            causation_id=pending.trigger_id,
            correlation_id=pending.trigger_id,
            depth=event.depth,
            origin=self._origin,
        )
        drafts = [self.desk.draft(event, id_, how, c.ref)]
        if event.disposition == "awaiting":
            asked = asked_of(policy, id_, to_us(event.decided_at), None if edited is None else edited.editor)
            drafts += [self.desk.draft(asked, derive_id(id_, "asked"), how)] if asked is not None else []
        if decided.opens_case is not None:
            opened = commands.open_case(c, decided.opens_case, pending.trigger_id)
            drafts += [self.desk.draft(e, derive_id(id_, "risk-case"), how) for e in opened]
        drafts += [self._told(c, e) for e in taken_over(c, event, id_, to_us(event.decided_at))]
        conditions: list[Condition] = [*switches.conditions, StreamAt(policy_stream(tenant, policy.name), policy_version)]
        read = event.evidence.keys()
        conditions += [StreamAt(stream, at) for name, stream, at in looked.health.models if as_evidence(name, None).keys() & read]
        if policy.conversation is not None:
            conditions.append(looked.contacts)
        if event.must_not_have_changed:
            conditions.append(NoneSince(c.fact_streams, frozenset(event.must_not_have_changed), looked.position))
        beside = []
        if policy.guardrails.blast_radius is not None and event.disposition in {"acted", "awaiting"}:
            counted = self.desk.draft(d.AgentReached(decision_id=id_), derive_id(id_, "reached"), how)
            beside.append((reach_stream(tenant, agent.name), looked.reach_version, counted))
        reserves = tuple(Reserve(held, id_, looked.purses[held.budget].version) for held in event.reservations)
        return Change(tuple(drafts), tuple(conditions), reserves=reserves, beside=tuple(beside)), decided

    def _decide(
        self,
        c: CustomerAggregate,
        pending: PendingTrigger,
        agent: Agent,
        policy: Policy,
        switches: Switches,
        problem: str,
        edited: Edited | None,
    ) -> _Looked:
        now_us, tenant, budgets = self.desk.now_us(), c.stream.tenant, policy.budgets or ()
        asked = read_flags(policy.flags or {}, policy.inputs, self.flags, tenant=tenant, customer=c.ref)
        health = HealthReading(position=c.position)
        try:
            values, health = self._values(c, agent, now_us)
            values[ASKED_BY] = pending.raised.condition if edited is None else edited.asked_by
            values |= {name: asked[name] for name in policy.flags or {}}
            evidence = EvidenceRecorder(agent.name, policy.inputs, values, read_set(c, health)).everything()
        except (StoreUnavailable, NotLive):
            raise
        except Exception as error:  # the agent's own code: its trigger must not stay without a disposition
            evidence = dict.fromkeys(sorted(policy.inputs)) | {name: asked[name] for name in sorted(policy.flags or {})}
            where = f" {error.field!r}" if isinstance(error, InvalidInput) else ""
            problem = f"its evidence{where} could not be read: {type(error).__name__}"
        purses = {b.name: self._purse(tenant, agent.name, b, now_us, 0, edited) for b in budgets}
        reached, reach_version, radius = None, 0, policy.guardrails.blast_radius
        if radius is not None:
            reached, reach_version = self.desk.reached(tenant, agent.name, now_us - radius.hours * 3_600 * SECOND_US)
        contact_limits, contacts = self.desk.contact_limits(tenant) if policy.conversation is not None else ({}, StreamAt(c.stream, 0))
        reads = read_set(c, health)
        flags: dict[str, d.Scalar] = {**asked, **({FAILED: problem} if problem else {}), **({} if edited is None else edited.edit.flags())}
        case = Case(
            trigger_id=pending.trigger_id,
            condition=pending.raised.condition,
            depth=pending.raised.depth,
            mode=switches.states[0].mode,
            decided_at_us=now_us,
            read_set=reads,
            evidence=evidence,
            context=look(
                policy,
                c,
                evidence,
                now_us=now_us,
                switches=switches.states,
                budgets=_left(purses),
                tools=self.toolbox.refs,
                reached=reached,
                agent=agent.name,
                contact_limits=contact_limits,
            ),
            tools=self.toolbox.refs,
            model=health.model,
            flags=flags or None,
        )
        if edited is None:
            case = self.planning.prepare(c, pending, agent, policy, case)
        elif plan_row(policy, case.evidence) is not None:
            why = "a planner decides here, and what it answered cannot be edited: reject it, or have the agent asked again"
            raise ApprovalRefused(decision_id=str(edited.edit.replaces), reason=why)
        mac, clear = self.desk.mac(tenant), None if edited is None else edited.arguments
        decided = decide(agent.spec, policy, case, mac, clear)
        short = (decided.event.suppressed_by or "").startswith("budget:")
        if self.desk.escrow is not None and (short or decided.event.reservations):
            purses = {b.name: self._purse(tenant, agent.name, b, now_us, decided.needs[b.name], edited) for b in budgets}
            context = case.context
            context = replace(context, budgets={n: left._replace(period=context.budgets[n].period) for n, left in _left(purses).items()})
            decided = decide(agent.spec, policy, replace(case, context=context), mac, clear)
        by_ledger = {b.ledger(agent.name): purses[b.name] for b in budgets}
        return _Looked(decided, reads[0].fact_position, by_ledger, reach_version, health, contacts)

    def _purse(self, tenant: str, agent: str, budget: Budget, now_us: int, wanted: int, edited: Edited | None) -> Purse:
        """For a decision; what the proposal gives back that it takes the place of is there again, where it was taken from."""
        name, page = budget.ledger(agent), Page(budget.counted_in, period(budget, now_us))
        purse = self.desk.purse(tenant, name, page, budget.limit, wanted)
        freed = () if edited is None else edited.freed
        back = sum(r.amount for r in freed if (r.budget, r.unit, r.period, r.slice) == (name, *page, purse.slice))
        return purse._replace(left=purse.left + back)

    # ------------------------------------------------------------ what time brings

    def _sweep(self, customer: CustomerAggregate) -> Work[tuple[int, int]]:
        def rule(c: CustomerAggregate) -> Change:
            now_us = self.desk.now_us()
            answered = self.approvals.timed(c)
            events = commands.observe_outcomes(c, now_us)
            drafts = [*answered.drafts, *(self._swept(c, e) for e in events)]
            for end in ended(c):
                id_ = derive_id(end.wait_id, "ended", end.result)
                drafts.append(self.desk.draft(end, id_, Cause(causation_id=end.fact_event or end.wait_id, origin=self._origin)))
            won = {e.decision_id: e.fact_event for e in events if isinstance(e, d.OutcomeObserved) and e.outcome == "success"}
            drafts += self._recovered(c, won)
            return Change(tuple(drafts), answered.conditions)

        change, _, _ = yield from self.desk.changing(customer.stream, rule, customer)
        lapsed = sum(isinstance(x.event, d.ApprovalLapsed | ApprovalTimedOut) for x in change.drafts)
        return lapsed, sum(isinstance(x.event, d.OutcomeObserved) for x in change.drafts)

    def _recovered(self, c: CustomerAggregate, won: Mapping[UUID, UUID | None]) -> Iterator[Draft]:
        """The ends of risk cases for which decisions succeeded, with the facts that say so."""
        for case in c.cases.values():
            for id_ in [x for x in won if case.opened_at_us <= c.decisions[x].decided_at_us][:1]:
                how = Cause(causation_id=won[id_], correlation_id=id_, origin=self._origin)
                closing = commands.close_case(c, case.case_id, "recovered", f"decision {id_} succeeded")
                yield from (self.desk.draft(x, derive_id(case.case_id, "closed"), how) for x in closing)

    def _told(self, c: CustomerAggregate, event: Event) -> Draft:
        """The end of a conversation, or what came of its decision."""
        if not isinstance(event, ConversationEnded):
            return self._swept(c, event)  # type: ignore[no-any-return]
        how = Cause(
            causation_id=event.by or event.decision_id, correlation_id=c.decisions[event.decision_id].trigger_id, origin=self._origin
        )
        return self.desk.draft(event, derive_id(event.decision_id, "conversation"), how)

    def _swept(self, c: CustomerAggregate, event: Event) -> Any:
        id_: UUID = event.decision_id  # type: ignore[attr-defined]
        how = Cause(causation_id=id_, correlation_id=c.decisions[id_].trigger_id, origin=self._origin)
        return self.desk.draft(event, derive_id(id_, "outcome", event.wire_name), how)

    # ------------------------------------------------------------ reading

    def _agent(self, name: str) -> Agent:
        try:
            return self.agents[name]
        except KeyError:
            raise InvalidInput(
                what="agent", field="name", reason=f"no agent named {name[:64]!r}; there are: {', '.join(self.agents) or 'none'}"
            ) from None

    def _policy(self, tenant: str, agent: Agent) -> tuple[Policy, int]:
        """The policy that is active for this agent; its own is installed where none is."""
        policy, version = self.desk.active_policy(tenant, agent.policy.name)
        if policy is None:
            self.install(tenant, agent.name)
            policy, version = self.desk.active_policy(tenant, agent.policy.name)
        if policy is None:
            raise AssertionError("an installed policy is active")
        if policy.digest != agent.policy.digest:
            agent.check(policy, self.health.features)
        return policy, version

    def _values(self, c: CustomerAggregate, agent: Agent, at_us: int) -> tuple[dict[str, d.Scalar], HealthReading]:
        """Everything on offer at a time, rounded, and the reading it came from."""
        health = self.health.read(c, at_us, agent.wanted)
        return {n: rounded(v) for n, v in agent.values(c, health, at_us).items()}, health

    def _reread(self, c: CustomerAggregate, agent: str) -> tuple[Mapping[str, d.Scalar], int]:
        values, health = self._values(c, self._agent(agent), self.desk.now_us())
        return values, read_set(c, health)[0].fact_position


def _left(purses: Mapping[str, Purse]) -> dict[str, Left]:
    return {name: Left(purse.left, "", purse.slice or "") for name, purse in purses.items()}
