"""The steps of agents, which every engine drives: edges become triggers, triggers get decisions, decisions get effects.

Everything is in the log: a process may die between or within steps, and another one goes on. Ids derive from causes, so that
nothing is done twice. Not here: who is visited when. May import this room, store, access, aggregates, events. It is one of the
two places that load tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Self
from uuid import UUID

from postsale.access import Person
from postsale.agents import asking, control
from postsale.agents.agent import Agent
from postsale.agents.approvals import Approvals
from postsale.agents.conversation import LAST
from postsale.agents.desk import Desk
from postsale.agents.engines.crew import Crew
from postsale.agents.engines.deciding import handling, propose
from postsale.agents.engines.edges import Trouble, watching
from postsale.agents.engines.ends import ending, sweeping
from postsale.agents.escrow import Escrow
from postsale.agents.evidence import HealthSource
from postsale.agents.flags import FlagSource
from postsale.agents.outbox import Outbox
from postsale.agents.timed import next_us
from postsale.agents.tools.toolbox import Toolbox
from postsale.agents.work import Work, alone, load
from postsale.aggregates.artifacts import EVERY_AGENT, AgentControl, Mode
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.identity import ALIASES, AliasLinked, customer_stream
from postsale.events import Header, Origin, StoredEvent, StreamId, decode
from postsale.store.leases import Lease
from postsale.store.log import Log

_MAX_MERGES = 16


@dataclass(frozen=True, slots=True)
class Visited:
    """What the steps before any effect did for one customer, and the customer after them."""

    raised: int = 0
    decided: tuple[UUID, ...] = ()
    lapsed: int = 0
    outcomes: int = 0
    customers: tuple[CustomerAggregate, ...] = ()  # those that were merged into another one first, the survivor last
    troubles: tuple[Trouble, ...] = ()  # agents whose conditions could not be looked at: visit again, for the same fact


class Steps(Crew):
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
        they have their defaults. With `escrow` money is reserved from slices of budgets. Raises BadDeclaration for two agents of one name,
        PolicyInvalid for a policy that asks for evidence or tools that are not there.
        """
        super().__init__(log, agents, toolbox, health, origin=origin, flags=flags, escrow=escrow)
        self.outbox = Outbox(self.desk, self.toolbox, **(outbox or {}))
        self.approvals = Approvals(self.desk, self.reread, frozenset(self.agents), partial(propose, self))

    def under(self, lease: Lease) -> Self:
        """This engine as long as it holds a lease: afterwards its visits raise LeaseLost. Results of tools are recorded all the same."""
        return self.at(self.desk.under(lease))

    def pooled(self) -> Self:
        """This engine for works that are done together, by one thread at a time; see `Desk.pooled`."""
        return self.at(self.desk.pooled())

    def at(self, desk: Desk) -> Self:
        """This engine at another desk."""
        engine = super().at(desk)
        engine.outbox = self.outbox.at(desk)
        return engine

    # ------------------------------------------------------------ control by people

    def control(self, tenant: str, agent: str) -> AgentControl:
        """The agent's own autonomy, and whether any of its three switches is thrown."""
        switches = self.desk.switches(tenant, agent)
        own = switches.states[0]
        return AgentControl(own.mode, switches.paused, own.version, own.retired)

    def set_mode(self, tenant: str, agent: str, mode: Mode, *, person: Person, reason: str) -> AgentControl:
        """How far the agent may go from now on."""
        return control.set_mode(self.desk, tenant, self.agent(agent).name, mode, person=person, reason=reason)

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
        raised, customer, troubles = yield from watching(self, customer, cause, since_us)
        done.append((yield from self._settle(customer)))
        return Visited(
            raised,
            tuple(x for part in done for x in part.decided),
            sum(part.lapsed for part in done),
            sum(part.outcomes for part in done),
            tuple(c for part in done for c in part.customers),
            troubles,
        )

    def _settle(self, customer: CustomerAggregate) -> Work[Visited]:
        """Decide what is pending and record what time brought; no new trigger."""
        home = customer.stream
        customer, over = yield from ending(self, customer)
        decided = []
        for trigger in sorted(customer.pending.values(), key=lambda t: (self._priority(home.tenant, t.raised.agent), t.position)):
            if trigger.retry_at_us > self.desk.now_us():
                continue
            if (made := (yield from handling(self, home, trigger.trigger_id, customer))) is not None:
                decided.append(made)
            customer = yield from load(home, customer)
        lapsed, outcomes = yield from sweeping(self, self.approvals, customer)
        customer = (yield from load(home, customer)) if lapsed or outcomes else customer
        return Visited(0, tuple(decided), lapsed, outcomes + over, (customer,))

    def _priority(self, tenant: str, agent: str) -> int:
        """Whose trigger is decided first when several are pending."""
        known = self.agents.get(agent)
        talk = None if known is None else self.policy(tenant, known)[0].conversation
        return LAST if talk is None else talk.priority

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
        times += [t.retry_at_us for t in c.pending.values() if t.deferred and t.raised.agent in self.agents]
        waiting = [o for o in c.decisions.values() if o.disposition == "awaiting"]
        times += [o.expires_at_us for o in waiting if o.expires_at_us is not None]
        times += [o.asked.until_us for o in waiting if o.asked is not None]
        times += [at for name, policy, since_us in self.timed(c.stream.tenant) for at in next_us(c, name, policy, since_us)]
        times += [o.outcome_by_us + 1 for o in c.decisions.values() if o.disposition == "acted" and o.outcome_by_us is not None]
        first = min(times)
        return None if first == float("inf") else int(first)

    # ------------------------------------------------------------ triggers

    def watch(self, stream: StreamId, cause: StoredEvent | None = None, *, since_us: int | None = None) -> int:
        """Compare every agent's conditions with how they stood, and record what rose and what is over. Returns triggers raised.

        A live condition rises with time only when it was false at `since_us`: an imported history of troubles is no news.
        """
        return alone(self.desk, watching(self, self.log.customer(stream), cause, since_us))[0]

    def raises(self, fact: StoredEvent) -> bool:
        """Whether a fact of this origin can raise a trigger in this engine's world."""
        return Header.from_bytes(fact.header).origin in self.raising

    def ask(self, stream: StreamId, agent: str, command: str, *, person: Person, reason: str, at: datetime | None = None) -> UUID:
        """A person asks an agent to decide, now or at an instant to come: the trigger's id. See `asking.ask`."""
        return asking.ask(self.desk, stream, self.agent(agent).name, command, person=person, reason=reason, at=at)

    # ------------------------------------------------------------ decisions

    def handle(self, stream: StreamId, trigger_id: UUID, *, last_try: bool = False) -> UUID | None:
        """Decide about one pending trigger: the decision's id, None when it has a disposition already, waits for its planner, or its
        agent is not here. Where deciding raises, it is tried again later, ATTEMPTS times in all or, with `last_try`, not at all; then the
        decision is recorded as failed.

        What the decision read must still hold when it is stored; else it is read and decided anew, and after too many
        rounds recorded as failed.
        """
        return alone(self.desk, handling(self, stream, trigger_id, None, last_try=last_try))
