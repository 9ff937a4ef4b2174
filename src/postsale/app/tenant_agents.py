"""The part of a tenant that agents' owners use: policies, autonomy, the kill switch, what-if. Part of the wiring, as `tenant`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from postsale.access import Person
from postsale.agents import SHIPPED, Agent, Policy, control
from postsale.agents.autonomy import Review, review
from postsale.agents.policies_log import Known as KnownPolicy
from postsale.agents.policies_log import known_policies
from postsale.agents.prompts import Prompt
from postsale.agents.prompts_log import Known as KnownPrompt
from postsale.agents.prompts_log import activate_prompt, known_prompts
from postsale.agents.retiring import settle_retired, settle_retired_policy
from postsale.aggregates.artifacts import EVERY_AGENT, POLICIES, AgentControl, ArtifactPublished, Mode
from postsale.aggregates.conversations import ContactLimit
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.identity import CUSTOMERS
from postsale.app.budgets import BudgetPeriod, budgets
from postsale.app.tenant_data import Customer
from postsale.app.undoing import TenantUndos
from postsale.audit import Certificate, ReplayReport, Scope, WhatIf, certificate, replay_many, what_if
from postsale.audit.replay_again import Models
from postsale.errors import InvalidInput, PolicyInvalid
from postsale.events import Lane, StreamId, to_us
from postsale.projections.journal import read_journal
from postsale.store.contract import Query

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale


class TenantAgents:
    """What `Tenant` inherits; never made alone."""

    _ps: PostSale
    name: str

    @property
    def undos(self) -> TenantUndos:
        """Takes back what agents did, and everything that came of it."""
        return TenantUndos(self._ps, self.name)

    def agent(self, agent: Agent | str) -> AgentHandle:
        """One agent of this tenant, itself or by name: its autonomy and its kill switch; "all" is every agent's switch.

        InvalidInput for a name that is neither here, nor ships, nor was ever named: a misspelt kill switch stops nothing.
        """
        known = {*self._ps.engine.agents, *SHIPPED, *self.agent_names(), EVERY_AGENT}
        name = agent.name if isinstance(agent, Agent) else agent
        if name not in known and not isinstance(agent, Agent):
            raise InvalidInput(what="agent", field="name", reason=f"no such agent; there are: {', '.join(sorted(known))}")
        its = agent if isinstance(agent, Agent) else self._ps.engine.agents.get(name) or (SHIPPED[name]() if name in SHIPPED else None)
        return AgentHandle(self._ps, self.name, name, None if its is None else its.policy)

    def agent_names(self) -> list[str]:
        """Agents that somebody has said anything to, by name."""
        query = Query(tenant=self.name, category="agents", lane=Lane.DECISION)
        return sorted({stored.stream.id for stored in self._ps.log.store.read(query)} - {EVERY_AGENT})

    def what_if(self, policy: Policy, *, begin: datetime, end: datetime | None = None, mode: Mode | None = None) -> WhatIf:
        """History from `begin` to `end` (default now), both inclusive, decided again under a policy; nothing is changed.

        Decisions of every version of the policy's name are decided again, each on what was known then. `mode`: as if the agent had
        had this much autonomy. Raises InvalidInput, PolicyInvalid for evidence that is not on offer, NotLive.
        """
        ps, end_us = self._ps, self._ps.clock.now_us() if end is None else to_us(end)
        agent = next((a for a in ps.engine.agents.values() if a.policy.name == policy.name), None) or Agent(policy)
        agent.check(policy, ps.readings.features)
        wanted = frozenset(policy.inputs)

        def values(customer: CustomerAggregate, at_us: int, known_at_us: int) -> Mapping[str, Any]:
            return agent.values(customer, ps.readings.reading(customer, at_us, wanted, known_at_us=known_at_us), at_us)

        subjects = ps.readings.subjects(self.name, end_us, wanted, set())
        tiers = {name: ref.tier for name, ref in ps.engine.toolbox.refs.items()}
        everybody = ((s.customer, agent.values(s.customer, s.reading, end_us)) for s in subjects)
        return what_if(ps.log, self.name, policy, values, begin_us=to_us(begin), end_us=end_us, mode=mode, tiers=tiers, everybody=everybody)

    def replay_many(
        self,
        decisions: Iterable[UUID | str] = (),
        *,
        agent: str | None = None,
        customer: Customer | None = None,
        begin: datetime | None = None,
        end: datetime | None = None,
        bind: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> ReplayReport:
        """Make decisions again in a process that reaches nothing, intents and evidence, and compare; all of them, or those named.

        Times are when it was decided, inclusive. `bind` hashes the tenant's whole tree, so that the report holds for it.
        Raises UnknownDecision, UnknownCustomer, SandboxViolation when deciding code tries to reach the world, SandboxFailed, LogDamaged.
        """
        ps = self._ps
        streams: tuple[StreamId, ...] = ()
        if customer is not None:
            home = ps.log.customer(ps.directory.customer(self.name, customer))
            streams = tuple(s for s in home.fact_streams if s.category == CUSTOMERS)
        scope = Scope(
            agent=agent,
            streams=streams,
            begin_us=None if begin is None else to_us(begin),
            end_us=None if end is None else to_us(end),
            ids=frozenset(decision_uuid(id_) for id_ in decisions),
        )
        models, agents = Models(ps.model, ps.scorers, ps.models.cards(self.name)), [*ps.agents, *ps.engine.agents.values()]
        return replay_many(ps.log, self.name, ps.unsealer, scope, agents=agents, models=models, bind=bind, on_progress=on_progress)

    def certify(
        self,
        decisions: Iterable[UUID | str] = (),
        *,
        agent: str | None = None,
        customer: Customer | None = None,
        begin: datetime | None = None,
        end: datetime | None = None,
        sign: bool = True,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Certificate:
        """As `replay_many`, bound to the tree, as a document; signed with the tenant's key unless `sign` is False.

        A difference is in the document and raises nothing: look at `ok`.
        """
        report = self.replay_many(decisions, agent=agent, customer=customer, begin=begin, end=end, bind=True, on_progress=on_progress)
        return certificate(self._ps.log, report, self._ps.model, signed=sign)

    def activate(self, policy: Policy, *, reason: str, by: Person | None = None, widens: bool = False) -> bool:
        """Make a policy the one that decides from now on, approved by a person; False when it is already.

        Raises PolicyWidens for one that allows more than the active one and does not declare it, neither here nor in itself.
        """
        why, who = control.require_reason(reason, "policy"), self._ps.person(by)
        return control.activate_policy(self._ps.engine.desk, self.name, policy, person=who, reason=why, widens=widens)

    def policies(self) -> list[KnownPolicy]:
        """Every version of every policy that was published here, by name, the oldest first, with which one decides, since when and by whom."""
        return known_policies(self._ps.engine.desk, self.name)

    def retire_policy(self, digest: str, *, reason: str, by: Person | None = None) -> int:
        """Let nothing more be decided under a version, by its digest, whole or its first characters: how much it left open is settled.

        Triggers that are pending are suppressed, approvals void, effects that have not left cancelled, their money released, waits ended.
        What it decided stays, and is replayed and explained as ever. Where it was active, its agents decide nothing until somebody
        activates a version, this one too. Safe to repeat: what was stopped in the middle is finished. Where its agents or their tools are
        not here, triggers that are pending are suppressed by the next run that has them. InvalidInput for an unknown digest.
        """
        ps, who = self._ps, self._ps.person(by)
        desk, policy = ps.engine.desk, self._published(digest)
        control.retire_policy(desk, self.name, policy, person=who, reason=reason)
        here = any(agent.policy.name == policy.name for agent in ps.engine.agents.values())
        ships = [made for made in (cls() for cls in SHIPPED.values()) if made.policy.name == policy.name]
        try:
            engine = ps.engine if here else ps.engine_of([ships[0] if ships else Agent(policy)])
        except PolicyInvalid:  # made for evidence or tools that are not here: all but triggers is settled without them
            engine = ps.engine
        return settle_retired_policy(engine, self.name, policy, person=who, reason=reason)

    def _published(self, digest: str) -> Policy:
        """The one version whose digest begins so."""
        query = Query(tenant=self.name, category=POLICIES, lane=Lane.DECISION, kinds=frozenset({"artifact/published"}))
        published = (r.data for r in self._ps.log.events(query))
        found = {p.digest for p in published if isinstance(p, ArtifactPublished) and digest and p.digest.startswith(digest)}
        if len(found) != 1:
            why = "no version of a policy here has a digest that begins so" if not found else f"{len(found)} digests begin so"
            raise InvalidInput(what="policy", field="digest", reason=why)
        policy = self._ps.engine.desk.policy(self.name, found.pop())
        assert policy is not None
        return policy

    def contact_budget(self, channel: str, *, at_most: int, days: int, reason: str, by: Person | None = None) -> bool:
        """How often all agents together may contact a customer on a channel within any `days`; False when it is so already.

        Said once for the tenant. On a channel of which nothing is said it is 4 contacts in 30 days. Raises InvalidInput for more than 50.
        """
        who, limit = self._ps.person(by), ContactLimit(at_most, days)
        return control.set_contact_budget(self._ps.engine.desk, self.name, channel, limit, person=who, reason=reason)

    def contact_limits(self) -> dict[str, ContactLimit]:
        """How often all agents together may contact a customer, by channel, as far as somebody said; on others it is `DEFAULT_LIMIT`."""
        return dict(self._ps.engine.desk.contact_limits(self.name)[0])

    def budgets(self, name: str | None = None) -> list[BudgetPeriod]:
        """What is reserved, used up, released and left of each period of each budget, or of one, with all slices taken in.

        In order of name and period. A budget that active policies name and nothing was entered in is there with its current period.
        """
        return budgets(self._ps, self.name, name)

    def policy(self, name: str) -> Policy | None:
        """The policy of this name that decides now; None when none was activated."""
        return self._ps.engine.desk.active_policy(self.name, name)[0]

    def activate_prompt(self, prompt: Prompt, *, reason: str, by: Person | None = None) -> bool:
        """Publish a version of a prompt and let policies that name it use it, approved by a person; False when they may already.

        Raises PromptInvalid for a version that is published with other content.
        """
        why, who = control.require_reason(reason, "prompt"), self._ps.person(by)
        return activate_prompt(self._ps.engine.desk, self.name, prompt, person=who, reason=why)

    def prompts(self, name: str | None = None) -> list[KnownPrompt]:
        """Every version of every prompt, or of one, that was published here, by name and version, with its newest activation."""
        return list(known_prompts(self._ps.engine.desk, self.name, name).values())


class AgentHandle:
    """An agent of a tenant: how far it may go, and the switch that stops it. Each change is an event with owner and reason."""

    def __init__(self, ps: PostSale, tenant: str, name: str, policy: Policy | None) -> None:
        self._ps = ps
        self._tenant = tenant
        self._policy = policy  # its own; another version may be active
        self.name = name

    @property
    def control(self) -> AgentControl:
        """Its mode, and whether it is paused by any of its switches."""
        switches = self._ps.engine.desk.switches(self._tenant, self.name)
        own = switches.states[0]
        return AgentControl(own.mode, switches.paused, own.version, own.retired)

    def observe(self, *, reason: str, by: Person | None = None) -> AgentControl:
        """It decides, and nothing leaves."""
        return self._mode("observe", reason, by)

    def propose(self, *, reason: str, by: Person | None = None) -> AgentControl:
        """A person approves before anything leaves."""
        return self._mode("propose", reason, by)

    def act(self, *, reason: str, by: Person | None = None) -> AgentControl:
        """It acts within its policy."""
        return self._mode("act", reason, by)

    def pause(self, *, reason: str, by: Person | None = None) -> AgentControl:
        """The kill switch: no further effect leaves. The name "all" stops every agent of the tenant."""
        return control.pause(self._ps.engine.desk, self._tenant, self.name, person=self._ps.person(by), reason=reason)

    def resume(self, *, reason: str, by: Person | None = None) -> AgentControl:
        """Release the kill switch."""
        return control.resume(self._ps.engine.desk, self._tenant, self.name, person=self._ps.person(by), reason=reason)

    def retire(self, *, reason: str, by: Person | None = None) -> AgentControl:
        """The last step, for good: it decides nothing more, what waits for a person or has not left is set aside, with this reason.

        Triggers that are pending are decided once more, as suppressed: by the next run that has its tools, where they are not here. Safe to
        repeat: what was stopped in the middle is finished.
        """
        ps, who = self._ps, self._ps.person(by)
        state = control.retire(ps.engine.desk, self._tenant, self.name, person=who, reason=reason)
        policy = self._policy or ps.engine.desk.active_policy(self._tenant, self.name)[0]
        known = self.name in ps.engine.agents or self.name in SHIPPED or policy is None
        try:
            engine = (
                ps.engine_of([Agent(policy, name=self.name)])
                if not known
                else ps.engine_of([])
                if policy is None
                else ps.engine_for(self.name)
            )
        except PolicyInvalid:  # made for evidence or tools that are not here: all but triggers is settled without them
            engine = ps.engine_of([])
        settle_retired(engine, self._tenant, self.name, person=who, reason=reason)
        return state

    def review(self) -> list[Review]:
        """What its policy's criteria say of its past: all customers together, then by segment. Changes nothing; promotes nobody."""
        ps = self._ps
        own = self._policy
        policy = ps.engine.desk.active_policy(self._tenant, own.name if own is not None else self.name)[0] or own
        if policy is None:
            raise InvalidInput(what="agent", field="name", reason="no policy of this agent is active here, so there are no criteria")
        return review(policy, self.name, self.control.mode, read_journal(ps.log.store, self._tenant), ps.clock.now_us())

    def downgrade(self, *, by: Person | None = None) -> AgentControl:
        """One step back when its review gives a reason to; else nothing changes."""
        return self._downgrade(self._ps.person(by))

    def downgrade_by_itself(self) -> AgentControl:
        """As `downgrade`, by nobody: what a run does for agents whose policy says `automatic`."""
        return self._downgrade(None)

    def _downgrade(self, person: Person | None) -> AgentControl:
        (overall, *_) = self.review()
        if not overall.reasons:
            return self.control
        reason = "; ".join(f"{c.name} is {c.found}, {c.needed}" for c in overall.reasons)
        return control.downgrade(self._ps.engine.desk, self._tenant, self.name, reason=reason, person=person)

    def _mode(self, mode: Mode, reason: str, by: Person | None) -> AgentControl:
        return control.set_mode(self._ps.engine.desk, self._tenant, self.name, mode, person=self._ps.person(by), reason=reason)


def decision_uuid(value: UUID | str) -> UUID:
    """The id of a decision, given as itself or as text. InvalidInput for anything else."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except ValueError:
        raise InvalidInput(what="decision", field="id", reason="expected a UUID") from None
