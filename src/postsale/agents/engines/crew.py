"""A crew: the agents of an engine, their tools, and what they read: active policies, evidence, health.

Not here: what they do. May import this room's agents, planners and tools, store, access, aggregates, events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import NamedTuple, Self

from postsale.access import Person
from postsale.agents import control
from postsale.agents.agent import Agent
from postsale.agents.desk import Desk
from postsale.agents.escrow import Escrow
from postsale.agents.evidence import HealthReading, HealthSource, NoHealth, read_set, rounded
from postsale.agents.flags import FlagSource
from postsale.agents.planner_asking import Planning
from postsale.agents.policy import Policy
from postsale.agents.tools.toolbox import Toolbox
from postsale.aggregates import decisions as d
from postsale.aggregates.customer import CustomerAggregate
from postsale.errors import BadDeclaration, InvalidInput, NotAllowed, PolicyInvalid, PostSaleError
from postsale.events import Origin
from postsale.store.log import Log

_OWN = (InvalidInput, PolicyInvalid, NotAllowed, BadDeclaration)


def own_fault(error: Exception) -> bool:
    """Whether an error is one agent's own, so that the others go on: it says nothing of the log, of its keys, or of other workers."""
    return isinstance(error, _OWN) or not isinstance(error, PostSaleError)


class Deciding(NamedTuple):
    """The policy under which an agent decides."""

    policy: Policy
    version: int  # of its stream
    retired: bool  # then nothing is decided under it, but that


class Crew:
    """Agents over one log."""

    def __init__(
        self,
        log: Log,
        agents: Iterable[Agent] = (),
        toolbox: Toolbox | None = None,
        health: HealthSource | None = None,
        *,
        origin: Origin = Origin.LIVE,
        flags: FlagSource | None = None,
        escrow: Escrow | None = None,
    ) -> None:
        """Raises BadDeclaration for two agents of one name, PolicyInvalid for a policy that asks for evidence or tools that are not there."""
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
        self.raising = {Origin.LIVE} if origin is Origin.LIVE else set(Origin)  # origins whose facts raise triggers

    def at(self, desk: Desk) -> Self:
        """This crew at another desk."""
        crew = copy(self)
        crew.desk = desk
        crew.planning = self.planning.at(desk)
        return crew

    def install(self, tenant: str, agent: str, *, person: Person | None = None, reason: str = "installed with the agent") -> bool:
        """Publish and activate the agent's policy where another one, or none, is active; False when nothing changed."""
        return control.activate_policy(self.desk, tenant, self.agent(agent).policy, person=person, reason=reason)

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

    def agent(self, name: str) -> Agent:
        """One of the crew by name; InvalidInput for a stranger."""
        try:
            return self.agents[name]
        except KeyError:
            raise InvalidInput(
                what="agent", field="name", reason=f"no agent named {name[:64]!r}; there are: {', '.join(self.agents) or 'none'}"
            ) from None

    def policy(self, tenant: str, agent: Agent) -> Deciding:
        """The policy that is active for this agent; its own is installed where none ever was. Under one that was retired nothing is decided."""
        policy, version = self.desk.active_policy(tenant, agent.policy.name)
        if policy is None:
            self.install(tenant, agent.name)
            policy, version = self.desk.active_policy(tenant, agent.policy.name)
        retired = policy is None
        policy = policy or self.desk.stopped_policy(tenant, agent.policy.name)
        if policy is None:
            raise AssertionError("a policy is installed unless it was retired")
        return Deciding(policy, version, retired)

    def check(self, agent: Agent, policy: Policy) -> None:
        """Return when everything that the active policy asks for is on offer; else PolicyInvalid."""
        if policy.digest != agent.policy.digest:
            agent.check(policy, self.health.features)

    def values(self, c: CustomerAggregate, agent: Agent, at_us: int) -> tuple[dict[str, d.Scalar], HealthReading]:
        """Everything on offer at a time, rounded, and the reading it came from."""
        health = self.health.read(c, at_us, agent.wanted)
        return {n: v if type(v) is not float else rounded(v) for n, v in agent.values(c, health, at_us).items()}, health

    def reread(self, c: CustomerAggregate, agent: str) -> tuple[Mapping[str, d.Scalar], int]:
        """What an agent would read now, and up to which fact."""
        values, health = self.values(c, self.agent(agent), self.desk.now_us())
        return values, read_set(c, health)[0].fact_position
