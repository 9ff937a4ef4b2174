"""Control of agents by people: policies published and activated, autonomy raised, switches thrown. Events with owner and reason.

May import the desk and what is below it. No decision is made here.
"""

from __future__ import annotations

from pydantic import ValidationError

from postsale.access import Person
from postsale.agents.autonomy import lower
from postsale.agents.desk import TRIES, Desk
from postsale.agents.policy import Policy
from postsale.agents.widening import widenings
from postsale.aggregates.artifacts import (
    EVERY_AGENT,
    MODES,
    AgentControl,
    AgentPaused,
    AgentResumed,
    AgentRetired,
    ArtifactActivated,
    ArtifactPublished,
    ArtifactRetired,
    AutonomyChanged,
    Mode,
    agent_stream,
    policy_stream,
)
from postsale.aggregates.conversations import ContactBudgetSet, ContactLimit, contacts_stream
from postsale.errors import ContentConflict, InvalidInput, NotAllowed, PolicyWidens, VersionConflict
from postsale.events import SYSTEM, SYSTEM_TENANT, Actor, Event, Lane, StreamId, derive_id
from postsale.store.contract import Query
from postsale.store.log import Cause


def require_person(person: object, action: str) -> Person:
    """An authenticated person; NotAllowed for anything else, an agent above all."""
    if not isinstance(person, Person) or not person.login.strip() or not person.authenticated_by.strip():
        raise NotAllowed(actor="an unauthenticated caller", action=action, reason="it takes a person who proved who they are")
    return person


def require_reason(reason: str, what: str) -> str:
    """A reason that says something; InvalidInput for blanks."""
    if not reason.strip():
        raise InvalidInput(what=what, field="reason", reason="expected a reason")
    return reason


def activate_policy(
    desk: Desk,
    tenant: str,
    policy: Policy,
    *,
    person: Person | None = None,
    reason: str = "installed with the agent",
    widens: bool = False,
) -> bool:
    """Publish a policy and make it the one that decides; False when it is already. Without a person nobody approved it, and the event says so;
    nor is anything activated where a version was retired: that takes a person.

    Raises PolicyWidens for one that allows more than the active one, or the one that was retired last while none is, unless `widens`, or
    the policy itself, declares it.
    """
    stream = policy_stream(tenant, policy.name)
    approver = "nobody" if person is None else person.login
    for attempt in range(1, TRIES + 1):
        active, version = desk.active_policy(tenant, policy.name)
        if active is not None and active.digest == policy.digest:
            return False
        standing = desk.standing(tenant, policy.name)
        if person is None and (standing.stopped or policy.digest in standing.retired):
            return False
        before = active or desk.stopped_policy(tenant, policy.name)
        if before is not None and not (widens or policy.widens):
            more = widenings(before, policy)
            if more:
                raise PolicyWidens(policy=policy.name, widens=len(more), first=str(more[0]))
        events: list[Event] = []
        known = desk.log.events(Query(tenant=tenant, streams=(stream,), lane=Lane.DECISION))
        if not any(isinstance(r.data, ArtifactPublished) and r.data.digest == policy.digest for r in known):
            events.append(ArtifactPublished(of="policy", name=policy.name, digest=policy.digest, content=policy.content))
        events.append(
            ArtifactActivated(of="policy", name=policy.name, digest=policy.digest, owner=policy.owner, approver=approver, reason=reason)
        )
        drafts = [(e, derive_id(stream, version + i, e.wire_name, policy.digest)) for i, e in enumerate(events)]
        try:
            desk.append_to(stream, version, drafts, Cause(actor=SYSTEM if person is None else person.actor, origin=desk.origin))
        except (ContentConflict, VersionConflict):
            if attempt == TRIES:
                raise
            continue
        return True
    raise AssertionError("unreachable")


def retire_policy(desk: Desk, tenant: str, policy: Policy, *, person: Person, reason: str) -> bool:
    """From the return on nothing is decided under this version, until a person activates it again; False when it is retired already."""
    by, why = require_person(person, "retire a policy").login, require_reason(reason, "retirement")
    stream = policy_stream(tenant, policy.name)
    event = ArtifactRetired(of="policy", name=policy.name, digest=policy.digest, approver=by, reason=why)
    for attempt in range(1, TRIES + 1):
        standing = desk.standing(tenant, policy.name)
        if policy.digest in standing.retired:
            return False
        drafts = [(event, derive_id(stream, standing.version, event.wire_name, policy.digest))]
        try:
            desk.append_to(stream, standing.version, drafts, Cause(actor=person.actor, origin=desk.origin))
        except (ContentConflict, VersionConflict):
            if attempt == TRIES:
                raise
            continue
        return True
    raise AssertionError("unreachable")


def set_contact_budget(desk: Desk, tenant: str, channel: str, limit: ContactLimit, *, person: Person, reason: str) -> bool:
    """How often all agents together may contact a customer on a channel from now on; False when it is so already."""
    owner, why = require_person(person, "limit contacts").login, require_reason(reason, "contacts")
    try:
        event = ContactBudgetSet(channel=channel, count=limit.most, days=limit.days, owner=owner, reason=why)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidInput(what="contacts", field=str(first["loc"][0]), reason=str(first["msg"])) from None
    stream = contacts_stream(tenant)
    for attempt in range(1, TRIES + 1):
        limits, now = desk.contact_limits(tenant)
        if limits.get(channel) == limit:
            return False
        drafts = [(event, derive_id(stream, now.version, event.wire_name))]
        try:
            desk.append_to(stream, now.version, drafts, Cause(actor=person.actor, origin=desk.origin))
        except (ContentConflict, VersionConflict):
            if attempt == TRIES:
                raise
            continue
        return True
    raise AssertionError("unreachable")


def set_mode(desk: Desk, tenant: str, agent: str, mode: Mode, *, person: Person, reason: str) -> AgentControl:
    """How far the agent may go from now on: observe, propose, act."""
    if mode not in MODES:
        raise InvalidInput(what="autonomy", field="mode", reason=f"expected one of {', '.join(MODES)}")
    event = AutonomyChanged(
        agent=agent, mode=mode, owner=require_person(person, "control agents").login, reason=require_reason(reason, "autonomy")
    )
    return _change(desk, agent_stream(tenant, agent), event, person.actor)


def downgrade(desk: Desk, tenant: str, agent: str, *, reason: str, person: Person | None = None) -> AgentControl:
    """One step back, by a person or, without one, by the criteria of its policy. An agent that observes stays as it is."""
    state = desk.control(agent_stream(tenant, agent))
    if state.mode == "observe":
        return state
    owner, actor = ("criteria", SYSTEM) if person is None else (person.login, person.actor)
    event = AutonomyChanged(agent=agent, mode=lower(state.mode), owner=owner, reason=require_reason(reason, "autonomy"))
    return _change(desk, agent_stream(tenant, agent), event, actor, seen=state.version)


def pause(desk: Desk, tenant: str, agent: str = EVERY_AGENT, *, person: Person, reason: str) -> AgentControl:
    """The kill switch: from the return on, no decision of the agent acts and no further effect leaves."""
    event = AgentPaused(agent=agent, owner=require_person(person, "control agents").login, reason=require_reason(reason, "pause"))
    return _change(desk, agent_stream(tenant, agent), event, person.actor)


def resume(desk: Desk, tenant: str, agent: str = EVERY_AGENT, *, person: Person, reason: str) -> AgentControl:
    """Release the kill switch."""
    event = AgentResumed(agent=agent, owner=require_person(person, "control agents").login, reason=require_reason(reason, "resume"))
    return _change(desk, agent_stream(tenant, agent), event, person.actor)


def retire(desk: Desk, tenant: str, agent: str, *, person: Person, reason: str) -> AgentControl:
    """The last step: from the return on the agent decides nothing more, and nothing of what it decided leaves. There is no way back."""
    if agent == EVERY_AGENT:
        raise InvalidInput(what="agent", field="name", reason="agents are retired one by one")
    event = AgentRetired(agent=agent, owner=require_person(person, "control agents").login, reason=require_reason(reason, "retirement"))
    return _change(desk, agent_stream(tenant, agent), event, person.actor)


def pause_everything(desk: Desk, *, person: Person, reason: str) -> AgentControl:
    """The kill switch of every agent of every tenant."""
    return pause(desk, SYSTEM_TENANT, EVERY_AGENT, person=person, reason=reason)


def resume_everything(desk: Desk, *, person: Person, reason: str) -> AgentControl:
    """Release the switch of every agent of every tenant; their own switches stay as they are."""
    return resume(desk, SYSTEM_TENANT, EVERY_AGENT, person=person, reason=reason)


def _change(
    desk: Desk,
    stream: StreamId,
    event: AutonomyChanged | AgentPaused | AgentResumed | AgentRetired,
    actor: Actor,
    *,
    seen: int | None = None,
) -> AgentControl:
    """Record a change once. With `seen`, only after that version: what somebody else said meanwhile stays."""
    for attempt in range(1, TRIES + 1):
        state = desk.control(stream)
        if seen is not None and state.version != seen:
            return state
        if state.retired:
            if isinstance(event, AgentRetired | AgentPaused):
                return state
            raise InvalidInput(what="agent", field="name", reason="it is retired, for good: a new agent has a new name")
        same = not isinstance(event, AgentRetired) and (
            state.mode == event.mode and state.version > 0
            if isinstance(event, AutonomyChanged)
            else state.paused is isinstance(event, AgentPaused)
        )
        if same:
            return state
        drafts = [(event, derive_id(stream, state.version, event.wire_name))]
        try:
            desk.append_to(stream, state.version, drafts, Cause(actor=actor, origin=desk.origin))
        except (ContentConflict, VersionConflict):
            if attempt == TRIES:
                raise
            continue
        return desk.control(stream)
    raise AssertionError("unreachable")
