"""Which agents a command line names: shipped ones by name, your own by a policy file or a module. None runs unless it is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from postsale.agents import SHIPPED, Agent, Policy
from postsale.app import PostSale
from postsale.cli.common import imported
from postsale.errors import InvalidInput

AgentNames = Annotated[
    list[str] | None,
    typer.Option(
        "--agent",
        help=f"Name an agent: {', '.join(SHIPPED)}, a policy file, or module:Agent. Repeat for several. [default: those named before]",
    ),
]


def agent_named(name: str) -> Agent:
    """A shipped agent, or an agent of a policy file. InvalidInput for anything else."""
    if name in SHIPPED:
        return SHIPPED[name]()
    if name.endswith(".toml") and Path(name).is_file():
        return Agent(Policy.load(Path(name)))
    module, colon, attribute = name.partition(":")
    if colon:
        found = getattr(imported(module), attribute, None)
        agent = found() if isinstance(found, type) and issubclass(found, Agent) else found
        if isinstance(agent, Agent):
            return agent
    found_not = "there is no such file; " if name.endswith(".toml") else f"{attribute!r} there is no agent; " if colon else ""
    reason = f"{found_not}expected {', '.join(SHIPPED)}, the path of a policy file (.toml), or module:Agent"
    raise InvalidInput(what="option", field="--agent", reason=reason)


def named_agents(ps: PostSale, names: Sequence[str] | None) -> list[Agent]:
    """The agents that were named here, else the shipped ones that have been named with `postsale agent`."""
    if names:
        return [agent_named(name) for name in names]
    known = {name for tenant in ps.tenants() for name in ps.tenant(tenant).agent_names()}
    return [agent_named(name) for name in sorted(known) if name in SHIPPED]


def refuse_retired(ps: PostSale, agents: Sequence[Agent]) -> None:
    """InvalidInput for an agent that was retired in every tenant here: it would decide nothing, however often it is run."""
    tenants = [ps.tenant(name) for name in ps.tenants()]
    gone = [agent.name for agent in agents if tenants and all(tenant.agent(agent).control.retired for tenant in tenants)]
    if gone:
        reason = f"{gone[0]} is retired, for good; name another (see: postsale agent list), or a policy file with a new name"
        raise InvalidInput(what="run", field="--agent", reason=reason)
