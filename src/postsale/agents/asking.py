"""Commands: a person asks an agent to decide about a customer, now or at an instant to come, which a durable timer keeps.

A command that waits is beside the log; it enters the log, with the trigger that it is, when it is given. Its ids say who asked whom
for what and when it is due, so that it is given once. May import the desk, store, access, aggregates, events.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from postsale.access import Person
from postsale.agents.control import require_person, require_reason
from postsale.agents.desk import Change, Desk
from postsale.aggregates.decisions import CommandIssued, TriggerRaised
from postsale.events import Actor, StreamId, derive_id, to_us
from postsale.store.log import Cause
from postsale.store.timers import Timer, Timers


def ask(desk: Desk, stream: StreamId, agent: str, command: str, *, person: Person, reason: str, at: datetime | None = None) -> UUID:
    """The trigger's id; the same request for the same microsecond is the same trigger. Without `at`: now.

    Raises InvalidInput without a reason, NotAllowed without an authenticated person.
    """
    person = require_person(person, "give a command")
    asked = CommandIssued(command=command, agent=agent, reason=require_reason(reason, "command"))
    at_us = desk.now_us() if at is None else to_us(at)
    command_id = derive_id(stream, agent, command, person.login, at_us)
    trigger_id = derive_id(agent, command, command_id)
    if at is None:
        _give(desk, stream, asked, command_id, trigger_id, person.actor)
    else:
        payload = {"stream": [*stream], "agent": agent, "command": command, "reason": reason, "login": person.login}
        Timers(desk.log.store.kv, stream.tenant).set(trigger_id.hex, at_us, payload)
    return trigger_id


def withdraw(desk: Desk, tenant: str, trigger_id: UUID) -> bool:
    """Take back a command that waits for its time; False when it was given already, or is not known."""
    return Timers(desk.log.store.kv, tenant).cancel(trigger_id.hex)


def waiting(desk: Desk, tenant: str) -> Iterator[Timer]:
    """The commands whose time has come, in its order."""
    return Timers(desk.log.store.kv, tenant).due(desk.now_us())


def stream_of(timer: Timer) -> StreamId:
    """The customer that the command was given for."""
    return StreamId(*timer.payload["stream"])


def give(desk: Desk, timer: Timer, home: StreamId) -> None:
    """Give a command whose time has come, to the customer that its customer is part of by now. Raises what an append raises."""
    told, stream = timer.payload, stream_of(timer)
    asked = CommandIssued(command=told["command"], agent=told["agent"], reason=told["reason"])
    command_id = derive_id(stream, asked.agent, asked.command, told["login"], timer.due_us)
    _give(desk, home, asked, command_id, UUID(hex=timer.id), Actor("person", told["login"]))
    Timers(desk.log.store.kv, timer.tenant).settle(timer)


def _give(desk: Desk, stream: StreamId, asked: CommandIssued, command_id: UUID, trigger_id: UUID, who: Actor) -> None:
    agent = asked.agent or ""
    raised = TriggerRaised(agent=agent, condition=asked.command, cause="command", causing_event=command_id, depth=0)
    first = Cause(actor=who, origin=desk.origin)
    then = Cause(actor=who, causation_id=command_id, origin=desk.origin)
    desk.change(stream, lambda _: Change((desk.draft(asked, command_id, first), desk.draft(raised, trigger_id, then))))
