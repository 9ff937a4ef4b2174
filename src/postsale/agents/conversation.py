"""One customer, one conversation: who speaks with a customer, who has to wait, what ends it, and how often all agents may make contact.

A conversation is an agent's decisions that wait, or that acted and whose outcome is still awaited. An agent of higher priority takes
over; every other one is suppressed meanwhile. Policies without `[conversation]` take no part, but their contacts count.
Pure: over a customer's state, recorded values and a time. May import the tables, expressions' values, aggregates, events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple
from uuid import UUID

from pydantic import Field, JsonValue

from postsale.agents.expressions import Value
from postsale.agents.tables import Name, Table
from postsale.aggregates import decisions as d
from postsale.aggregates.conversations import ContactLimit, ConversationEnded, Why, limit_of, sets_aside
from postsale.aggregates.customer import CustomerAggregate, OpenDecision
from postsale.aggregates.decisions import Verdict
from postsale.events import DAY_US

if TYPE_CHECKING:
    from postsale.agents.policy import Policy

LAST = 1_000
"""Where triggers of policies without a priority stand in line."""

Ended = ConversationEnded | d.OutcomeObserved
"""The end of a conversation, and what came of its decision."""


class Stop(Table):
    """A conversation ends when this becomes true of the customer."""

    id: Name
    when: dict[str, JsonValue]


class Conversation(Table):
    """The agent's place among all agents, and what ends its conversations before their goal or their time."""

    priority: Annotated[int, Field(ge=1, lt=LAST)]  # 1 goes first
    stop: tuple[Stop, ...] = ()


class Contacts(NamedTuple):
    """Contacts on a channel by all agents together within `days`, and how many there may be."""

    made: int
    most: int
    days: int


def is_open(o: OpenDecision, now_us: int) -> bool:
    """Whether a decision keeps its agent's conversation open: it waits for a person, or its outcome is awaited and still possible."""
    if o.priority is None or o.success is not None:
        return False
    if o.disposition == "awaiting":
        return o.asked is not None or o.expires_at_us is None or now_us < o.expires_at_us
    return o.disposition == "acted" and o.outcome_by_us is not None and now_us <= o.outcome_by_us


def conversations(c: CustomerAggregate, now_us: int) -> list[OpenDecision]:
    """The decisions that keep conversations with this customer open, the most important agent first."""
    return sorted((o for o in c.decisions.values() if is_open(o, now_us)), key=lambda o: (o.priority or 0, o.agent, str(o.decision_id)))


def holder(c: CustomerAggregate, agent: str, priority: int, now_us: int) -> str:
    """The other agent whose conversation is under way and that does not have to yield to this priority; "" when there is none."""
    return next((o.agent for o in conversations(c, now_us) if o.agent != agent and (o.priority or 0) <= priority), "")


def contacts_of(c: CustomerAggregate, channels: Iterable[str], limits: Mapping[str, ContactLimit], now_us: int) -> dict[str, Contacts]:
    """Contacts made or promised on each channel. Exactly `days` ago still counts."""
    out = {}
    for channel in channels:
        limit = limit_of(limits, channel)
        made = sum(t.channel == channel and t.at_us >= now_us - limit.days * DAY_US for t in c.touches)
        out[channel] = Contacts(made, limit.most, limit.days)
    return out


def verdicts(
    conversation: Conversation | None, acts: bool, contacting: Iterable[str], with_: str, contacts: Mapping[str, Contacts]
) -> Iterator[Verdict]:
    """Who speaks with the customer, then the budget of contacts of each channel; nothing where the policy takes no part."""
    if conversation is None:
        return
    held = acts and bool(with_)
    rule, told = f"conversation:{with_ or 'free'}", f"{with_} speaks with this customer" if with_ else "nobody else has to be waited for"
    yield Verdict(guardrail="conversation", rule=rule, passed=not held, reason=told)
    wanted = list(contacting)
    for channel in dict.fromkeys(wanted):
        made, most, days = contacts.get(channel, Contacts(0, 0, 1))
        yield Verdict(
            guardrail="contact-budget",
            rule=f"contact-budget:{channel}/{most}/{days}d",
            passed=made + wanted.count(channel) <= most,
            reason=f"{made} contacts by all agents together within {days} days",
        )


# ---------------------------------------------------------------- what ends one


def taken_over(c: CustomerAggregate, by: d.DecisionRecorded, by_id: UUID, now_us: int) -> list[Ended]:
    """What a decision that acts or asks ends: every conversation of another agent that takes part, as none of them outranks it."""
    if by.disposition not in {"acted", "awaiting"} or by.context.get("priority") is None:
        return []
    others = (o for o in conversations(c, now_us) if o.agent != by.agent)
    return [event for o in others for event in _end(o, "taken-over", by.agent, by_id)]


def ended(c: CustomerAggregate, now_us: int, stopped: Callable[[OpenDecision], str]) -> list[Ended]:
    """What ends by itself at `now_us`. `stopped` says which stop condition of its policy holds for a decision; "" for none.

    A goal or a time that is reached when nothing is left to cancel is said by `agent/outcome-observed` alone.
    """
    out: list[Ended] = []
    for o in c.decisions.values():
        if o.priority is None or not (o.disposition == "awaiting" or (o.disposition == "acted" and o.outcome_by_us is not None)):
            continue
        pending = any(e.status in {"held", "ready", "retry"} for e in o.effects.values())
        if o.success is not None:
            out += _end(o, "goal", "goal", o.success) if pending else []
        elif o.disposition == "acted" and o.outcome_by_us is not None and now_us > o.outcome_by_us:
            out += _end(o, "over", "over") if pending else []
        elif any(e.intent.channel and not c.may_contact(e.intent.channel, o.purpose) for e in o.effects.values()):
            out += _end(o, "unsubscribed", "unsubscribed")
        elif stop := stopped(o):
            out += _end(o, "stopped", stop)
    return out


def stop_of(policy: Policy | None, values: Mapping[str, Value]) -> str:
    """The first stop condition that holds; "" for none."""
    stops = () if policy is None or policy.conversation is None else policy.conversation.stop
    return next((s.id for s in stops if policy is not None and policy.holds(s.when, f"stop {s.id!r}, when", values)), "")


def _end(o: OpenDecision, why: Why, detail: str, by: UUID | None = None) -> list[Ended]:
    out: list[Ended] = [ConversationEnded(decision_id=o.decision_id, why=why, detail=detail, by=by)]
    left = ["cancelled" if e.status in {"held", "ready", "retry"} else e.status for e in o.effects.values()]
    if not sets_aside(o.disposition, left):  # something happened, so it has an outcome
        outcome: Literal["success", "none"] = "none" if o.success is None else "success"
        out.append(d.OutcomeObserved(decision_id=o.decision_id, outcome=outcome, fact_event=o.success))
    return out
