"""Versions of what decides: policies, models, prompts live in the log by content hash; activation is an event of its own.

Streams: `tenant/policies/<name>` (and models, prompts alike), `tenant/agents/<name>` for autonomy and the kill switch.
May import `events` and errors only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, assert_never

from pydantic import Field

from postsale.errors import LogDamaged
from postsale.events import SYSTEM_TENANT, Event, Id, StreamId, Text

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # SHA-256, hex
Content = Annotated[str, Field(max_length=200_000)]
Mode = Literal["observe", "propose", "act"]
MODES: tuple[Mode, ...] = ("observe", "propose", "act")
POLICIES = "policies"
MODELS = "models"
PROMPTS = "prompts"
EVERY_AGENT = "all"  # the agent name that stands for all of them


def content_digest(content: str) -> str:
    """SHA-256 of the UTF-8 text, hex: the name of an artifact's version."""
    return hashlib.sha256(content.encode()).hexdigest()


class ArtifactPublished(Event):
    """A version exists from now on. Content is kept whole, so that any decision can be re-run."""

    wire_name: ClassVar[str] = "artifact/published@1"
    of: Literal["policy", "model", "prompt"]
    name: Id
    digest: Digest
    content: Content


def untouched(position: int, published: ArtifactPublished) -> str:
    """The content that was published at a position. LogDamaged when it is not what its digest says: nothing may be decided by it."""
    if content_digest(published.content) != published.digest:
        raise LogDamaged(position=position, reason=f"the {published.of} {published.name!r} is not what its digest says")
    return published.content


class ArtifactActivated(Event):
    """A published version decides from now on."""

    wire_name: ClassVar[str] = "artifact/activated@1"
    of: Literal["policy", "model", "prompt"]
    name: Id
    digest: Digest
    owner: Id
    approver: Id
    reason: Text


class ArtifactRetired(Event):
    """A version decides no longer, until somebody activates it again; where it was the active one, no other one does in its place."""

    wire_name: ClassVar[str] = "artifact/retired@1"
    of: Literal["policy", "model", "prompt"]
    name: Id
    digest: Digest
    approver: Id
    reason: Text


class AutonomyChanged(Event):
    """How far an agent may go on its own from now on."""

    wire_name: ClassVar[str] = "agent/autonomy-changed@1"
    agent: Id
    mode: Mode
    owner: Id
    reason: Text


class AgentPaused(Event):
    """The kill switch: no decision is taken and no further effect leaves until the agent is resumed."""

    wire_name: ClassVar[str] = "agent/paused@1"
    agent: Id
    owner: Id
    reason: Text


class AgentResumed(Event):
    """The kill switch is released."""

    wire_name: ClassVar[str] = "agent/resumed@1"
    agent: Id
    owner: Id
    reason: Text


class AgentRetired(Event):
    """The last step: the agent decides nothing more, under this name, for ever."""

    wire_name: ClassVar[str] = "agent/retired@1"
    agent: Id
    owner: Id
    reason: Text


AgentEvent = AutonomyChanged | AgentPaused | AgentResumed | AgentRetired


@dataclass(frozen=True, slots=True)
class AgentControl:
    """What an agent's stream says now. A new installation observes."""

    mode: Mode = "observe"
    paused: bool = False
    version: int = 0
    retired: bool = False  # then it is paused too, for good


def evolve_agent(state: AgentControl, event: AgentEvent) -> AgentControl:
    match event:
        case AutonomyChanged(mode=mode):
            return replace(state, mode=mode, version=state.version + 1)
        case AgentPaused():
            return replace(state, paused=True, version=state.version + 1)
        case AgentResumed():
            return replace(state, paused=state.retired, version=state.version + 1)
        case AgentRetired():
            return replace(state, paused=True, retired=True, version=state.version + 1)
    assert_never(event)


def agent_stream(tenant: str, agent: str) -> StreamId:
    return StreamId(tenant, "agents", agent)


def switch_streams(tenant: str, agent: str) -> tuple[StreamId, ...]:
    """The streams whose pause stops this agent: its own, the tenant's for all agents, everybody's."""
    return (agent_stream(tenant, agent), agent_stream(tenant, EVERY_AGENT), agent_stream(SYSTEM_TENANT, EVERY_AGENT))


def policy_stream(tenant: str, name: str) -> StreamId:
    return StreamId(tenant, POLICIES, name)


def model_stream(tenant: str, name: str) -> StreamId:
    return StreamId(tenant, MODELS, name)


def prompt_stream(tenant: str, name: str) -> StreamId:
    return StreamId(tenant, PROMPTS, name)
