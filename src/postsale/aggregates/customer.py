"""The customer: the bounded state that is folded from both lanes, merged by position. How it evolves is in `evolve.py`.

Values only: no clock, no random, no I/O. May import `events` and this room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import UUID

from postsale.aggregates import asked as a
from postsale.aggregates import decisions as d
from postsale.aggregates import timed as t
from postsale.aggregates.budgets import Reservation
from postsale.aggregates.identity import customer_stream
from postsale.events import SEALED, StreamId, iso

MAX_TOUCHES = 64  # a frequency cap cannot ask for more
MAX_OFFERS = 64
MAX_RECENT = 16  # a sequence rule cannot count more
_EMPTY: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class KindSummary:
    """All facts of one kind in bounded form. `latest` is the payload that is newest by (occurred_at, position), still sealed."""

    count: int
    first_at_us: int
    latest_at_us: int
    latest_position: int
    latest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect of an open decision. `status`: held, ready, started, retry, unknown, succeeded, failed, cancelled."""

    intent: d.EffectIntent
    status: str
    attempt: int = 0
    retry_at_us: int = 0
    ready_at_us: int = 0  # since when it may leave
    started_at_us: int = 0  # of the newest attempt
    ambiguous: bool = False  # an earlier attempt may have acted: a failure now is not certain

    @property
    def settled(self) -> bool:
        return self.status in {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True, slots=True)
class OpenDecision:
    """A decision that still waits for a person, a tool or an outcome."""

    decision_id: UUID
    agent: str
    disposition: d.Disposition
    decided_at_us: int
    effects: Mapping[UUID, Effect]
    expires_at_us: int | None
    bound_to: tuple[str, ...]
    outcome_kinds: tuple[str, ...]
    outcome_by_us: int | None
    success: UUID | None = None  # the first fact that counts as success, in time
    reservations: tuple[Reservation, ...] = ()  # of its effects; of an order to take back, what comes back with it
    trigger_id: UUID | None = None
    undoes: tuple[UUID, UUID] | None = None  # it is no decision but an order to take back: (decision, effect)
    policy: str = ""  # its digest
    action: str | None = None
    asked: a.Asked | None = None  # the rules under which it waits for people, when the policy has any
    priority: int | None = None  # of its agent among all agents; None: it is no conversation
    purpose: str = ""  # that consent was asked for
    depth: int = 0  # in the chain of causes

    @property
    def done(self) -> bool:
        over = self.disposition in {"suppressed", "failed"} or self.outcome_by_us is None
        return self.disposition != "awaiting" and over and all(e.settled for e in self.effects.values())


@dataclass(frozen=True, slots=True)
class Touch:
    """One contact with the customer, made or promised."""

    at_us: int
    channel: str
    decision_id: UUID


@dataclass(frozen=True, slots=True)
class Offered:
    """One offer to the customer, made or proposed. Minor units."""

    at_us: int
    amount_minor: int
    currency: str
    decision_id: UUID


@dataclass(frozen=True, slots=True)
class RiskCase:
    """An open risk case and since when it is in its stage."""

    case_id: UUID
    stage: str
    opened_at_us: int
    stage_since_us: int
    reason: str
    acted_us: int | None = None  # the first effect that happened, or a person moved the case
    missed: frozenset[tuple[str, str, int, str]] = frozenset()  # (agent, sla, since, warned or breached)
    event_id: UUID | None = None  # of the opening, or of the newest move
    depth: int = 0  # in the chain of causes, of what follows from that event


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """The newest question to a planner about a trigger. `status`: asked, answered, too-long, failed."""

    request_id: UUID
    policy: str  # digest
    rule: str
    attempt: int
    asked_at_us: int
    timeout_s: int
    status: str = "asked"
    received_id: UUID | None = None
    retry_at_us: int | None = None  # of a failure; None: it is not asked again


@dataclass(frozen=True, slots=True)
class PendingTrigger:
    """A trigger without a disposition yet."""

    trigger_id: UUID
    raised: d.TriggerRaised
    position: int
    at_us: int
    plan: OpenPlan | None = None
    deferred: int = 0  # times that deciding raised an error
    retry_at_us: int = 0  # then not before


@dataclass(frozen=True, slots=True)
class CustomerAggregate:
    """What is known about one customer and what has been decided. Size is bounded by kinds, agents and open matters."""

    stream: StreamId
    position: int = 0  # of the newest event folded, either lane
    version: int = 0  # of the decision lane of `stream`
    facts: Mapping[str, KindSummary] = field(default_factory=lambda: _EMPTY)  # by kind
    joined: tuple[StreamId, ...] = ()  # other streams whose facts count here
    merged_into: str | None = None
    consents: Mapping[tuple[str, str], bool] = field(default_factory=lambda: _EMPTY)  # (channel, purpose); absent is no
    triggers: Mapping[tuple[str, str], UUID] = field(default_factory=lambda: _EMPTY)  # (agent, condition): the newest
    up: frozenset[tuple[str, str]] = frozenset()  # (agent, condition) that rose and has not been cleared
    pending: Mapping[UUID, PendingTrigger] = field(default_factory=lambda: _EMPTY)
    decisions: Mapping[UUID, OpenDecision] = field(default_factory=lambda: _EMPTY)  # open ones
    touches: tuple[Touch, ...] = ()
    offered: tuple[Offered, ...] = ()  # the newest MAX_OFFERS
    offers_forgotten_us: int = -1  # when the newest offer was made that is not among them any more
    cases: Mapping[UUID, RiskCase] = field(default_factory=lambda: _EMPTY)  # open ones
    waits: Mapping[UUID, t.Wait] = field(default_factory=lambda: _EMPTY)
    came: Mapping[tuple[str, str], t.Came] = field(default_factory=lambda: _EMPTY)  # (agent, schedule, wait or sla): the newest
    recent: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: _EMPTY)  # kind, of either lane -> its newest times, ascending

    @property
    def ref(self) -> str:
        return self.stream.id

    @property
    def fact_streams(self) -> tuple[StreamId, ...]:
        """Every stream whose fact lane belongs to this customer."""
        return (self.stream, *self.joined)

    @property
    def events(self) -> int:
        """How many events were folded."""
        return self.version + sum(summary.count for summary in self.facts.values())

    def latest(self, kind: str, name: str) -> Any:
        """A field of the newest fact of a kind, or None."""
        summary = self.facts.get(kind)
        return None if summary is None else summary.latest.get(name)

    def to_dict(self) -> dict[str, Any]:
        """For programs: JSON types, times in RFC 3339; personal fields stay sealed and are left out."""
        return {
            "ref": self.ref,
            "position": self.position,
            "version": self.version,
            "facts": {
                kind: {
                    "count": s.count,
                    "first_at": iso(s.first_at_us),
                    "latest_at": iso(s.latest_at_us),
                    "latest": {k: v for k, v in s.latest.items() if not (isinstance(v, dict) and SEALED in v)},
                }
                for kind, s in sorted(self.facts.items())
            },
            "joined": [str(stream) for stream in self.joined],
            "merged_into": self.merged_into,
            "consents": [{"channel": c, "purpose": p, "given": given} for (c, p), given in sorted(self.consents.items())],
            "open_decisions": [{"id": str(k), "agent": o.agent, "disposition": o.disposition} for k, o in self.decisions.items()],
            "open_cases": [{"id": str(k), "stage": c.stage, "since": iso(c.stage_since_us)} for k, c in self.cases.items()],
        }

    def may_contact(self, channel: str, purpose: str) -> bool:
        return self.consents.get((channel, purpose), False)


def empty(tenant: str, ref: str) -> CustomerAggregate:
    return CustomerAggregate(stream=customer_stream(tenant, ref))
