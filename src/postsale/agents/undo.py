"""Undo plans: what descends from a decision, or from what decided it, and how each effect of it is taken back. Pure.

A plan is a function of the log up to a position, of a time, and of the contracts that are installed. Descent is causation: a decision,
its effects, the facts they caused, the decisions those triggered, on whichever customer. Nothing is written and no tool is called here.
May import tools' contracts, projections, store's contract, aggregates, events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self
from uuid import UUID

import orjson
from pydantic import ValidationError

from postsale.agents.decide import Mac, intent_mac
from postsale.agents.tools.contract import Tool
from postsale.aggregates import decisions as d
from postsale.aggregates.artifacts import content_digest
from postsale.aggregates.budgets import Reservation, comes_back
from postsale.aggregates.undos import ScopeKind
from postsale.errors import InvalidInput
from postsale.events import SECOND_US, Header, Lane, Recorded, StoredEvent, StreamId, canonical, derive_id, from_us
from postsale.projections.journal import KINDS, Journal

SCOPES: tuple[ScopeKind, ...] = ("decision", "policy", "model", "prompt", "tool")
What = Literal["undo", "cancel", "by-hand"]
_DECISION = d.DecisionRecorded.wire_name.partition("@")[0]
_GOING = {"started", "retry"}


@dataclass(frozen=True, slots=True)
class Scope:
    """Where the descent begins: one decision, or every decision that a policy, model or prompt made, or every effect of a tool."""

    by: ScopeKind
    name: str  # a decision's id; a digest; of a tool name@version

    def __post_init__(self) -> None:
        if self.by not in SCOPES or not self.name:
            raise InvalidInput(what="undo", field="scope", reason=f"expected one of {', '.join(SCOPES)}, and its name")

    def takes(self, id_: UUID, decision: d.DecisionRecorded) -> frozenset[UUID] | None:
        """The effects of a decision that the scope names itself; None when it does not name the decision."""
        every = frozenset(i.intent_id for i in decision.intents)
        match self.by:
            case "decision":
                return every if str(id_) == self.name else None
            case "policy":
                return every if decision.policy == self.name else None
            case "model":
                return every if self.name in models_of(decision) else None
            case "prompt":
                return every if decision.prompt == self.name else None
            case "tool":
                return frozenset(i.intent_id for i in decision.intents if i.tool == self.name) or None


def models_of(decision: d.DecisionRecorded) -> frozenset[str]:
    """Every name under which a decision says by which models it was made: of the reading, and of the planner that was asked."""
    parts = (decision.model or "").split()
    return frozenset({*parts, *(part.rpartition(":")[2] for part in parts), str(decision.flags.get("plan.model") or "")} - {""})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to be done about one decision. `mac`: keyed digest of the arguments that take the effect back."""

    what: What
    decision: UUID
    parent: UUID | None  # the decision that it descends from, within the plan
    customer: str  # random reference
    category: str  # of the customer's stream
    agent: str
    action: str
    tool: str = ""  # of the effect
    effect: UUID | None = None  # None: of a cancellation, which is of the whole decision
    with_tool: str = ""
    with_digest: str = ""
    with_kind: str = ""
    mac: str = ""
    back: tuple[Reservation, ...] = ()  # goes back to its budgets
    because: str = ""  # why it must be done by hand
    by_hand: str = ""  # what a person does

    def to_dict(self) -> dict[str, Any]:
        """JSON types; empty fields are left out. `of` is the inverse."""
        out: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if value not in (None, "", ()):
                out[name] = str(value) if isinstance(value, UUID) else value
        if self.back:
            out["back"] = [held.model_dump(mode="json", exclude_none=True) for held in self.back]
        return out

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Self:
        ids = {name: UUID(kept[name]) for name in ("decision", "parent", "effect") if name in kept}
        back = tuple(Reservation.model_validate_json(canonical(held)) for held in kept.get("back", ()))
        return cls(**{"parent": None, **kept, **ids, "back": back})

    def stream(self, tenant: str) -> StreamId:
        return StreamId(tenant, self.category, self.customer)

    @property
    def order_id(self) -> UUID:
        """Of the event that orders it. One effect is taken back once, whichever plans name it."""
        assert self.effect is not None
        return derive_id(self.effect, "undo-order")

    @property
    def undo_id(self) -> UUID:
        """Of the effect that takes it back: its idempotency key."""
        assert self.effect is not None
        return derive_id(self.effect, "undo")


@dataclass(frozen=True)
class Plan:
    """What would be taken back, newest first. Equal content has an equal digest, at whatever position it was made."""

    tenant: str
    scope: Scope
    position: int
    at_us: int
    items: tuple[Item, ...]
    done: int = 0  # effects of the descent that were taken back, or are about to be, by an earlier undo

    @cached_property
    def content(self) -> str:
        """The items as canonical JSON: what a proposal records."""
        return canonical([item.to_dict() for item in self.items]).decode()

    @cached_property
    def digest(self) -> str:
        """SHA-256, hex, of tenant, scope and items: what an approval is bound to."""
        return content_digest(canonical([self.tenant, self.scope.by, self.scope.name, self.content]).decode())

    @property
    def empty(self) -> bool:
        """Whether the software can do nothing: what is left is for people."""
        return all(item.what == "by-hand" for item in self.items)

    def count(self, what: What) -> int:
        return sum(item.what == what for item in self.items)

    def to_dict(self) -> dict[str, Any]:
        """For programs; no personal data."""
        return {
            "scope": {"by": self.scope.by, "name": self.scope.name},
            "digest": self.digest,
            "position": self.position,
            "at": from_us(self.at_us).isoformat(),
            "counts": {"undo": self.count("undo"), "cancel": self.count("cancel"), "by_hand": self.count("by-hand"), "done": self.done},
            "items": [item.to_dict() for item in self.items],
        }


def items_of(content: str) -> tuple[Item, ...]:
    """The items that a proposal recorded."""
    return tuple(Item.of(kept) for kept in orjson.loads(content))


# ---------------------------------------------------------------- planning


@dataclass(slots=True)
class _Node:
    recorded: Recorded[d.DecisionRecorded]
    effects: frozenset[UUID]
    parent: UUID | None


@dataclass(slots=True)
class _Found:
    """What one pass over the log finds."""

    nodes: dict[UUID, _Node] = field(default_factory=dict)  # in order of position
    owner: dict[UUID, UUID] = field(default_factory=dict)  # event -> the decision of the plan that it descends from
    succeeded: dict[UUID, tuple[int, d.EffectSucceeded]] = field(default_factory=dict)  # effect -> when
    ambiguous: set[UUID] = field(default_factory=set)
    journal: Journal = field(default_factory=Journal)


def plan(
    events: Iterable[StoredEvent],
    scope: Scope,
    *,
    tenant: str,
    position: int,
    at_us: int,
    decoded: Callable[[StoredEvent], Recorded[Any]],
    tools: Mapping[str, Tool],
    mac: Mac,
) -> Plan:
    """The plan over a tenant's events up to `position`, in order. `decoded` unseals where arguments may be seen."""
    found = _Found()
    for stored in events:
        _take(found, stored, scope, decoded)
    items: list[Item] = []
    done = 0
    for id_, node in reversed(found.nodes.items()):
        entry = found.journal.entries[id_]
        base = Item(
            what="cancel",
            decision=id_,
            parent=node.parent,
            customer=entry.stream.id,
            category=entry.stream.category,
            agent=entry.agent,
            action=entry.action or "nothing",
        )
        waiting = [i for i in node.effects if entry.effects[i] in {"held", "ready", "retry"} and i not in found.ambiguous]
        if entry.disposition == "awaiting" or (waiting and entry.disposition == "acted"):
            items.append(base)
        for intent in reversed(entry.recorded.intents):
            if intent.intent_id not in node.effects:
                continue
            at = replace(base, what="by-hand", tool=intent.tool, effect=intent.intent_id)
            status = entry.effects[intent.intent_id]
            if status == "unknown":
                how = "look, and settle it (postsale decision settle), then plan again"
                items.append(replace(at, because="nobody knows whether it happened", by_hand=how))
            elif status in _GOING and (status == "started" or intent.intent_id in found.ambiguous):
                items.append(replace(at, because="it is under way", by_hand="plan again when its outcome is known"))
            elif status == "succeeded":
                back = entry.undone.get(intent.intent_id)
                if back in {"succeeded", "ready", "started", "retry"}:
                    done += 1
                else:
                    items.append(_take_back(at, node, intent, back, found, tools, mac, at_us))
    return Plan(tenant, scope, position, at_us, tuple(items), done)


def _take(found: _Found, stored: StoredEvent, scope: Scope, decoded: Callable[[StoredEvent], Recorded[Any]]) -> None:
    """One event: is it part of the descent, and what does it say about the decisions that are?"""
    cause = Header.from_bytes(stored.header).causation_id
    parent = found.owner.get(cause) if cause is not None else None
    if stored.lane is not Lane.DECISION or stored.kind not in KINDS:
        if parent is not None:
            found.owner[stored.event_id] = parent
        return
    recorded = decoded(stored)
    event = recorded.data
    if isinstance(event, d.DecisionRecorded):
        named = scope.takes(stored.event_id, event)
        if parent is None and named is None:
            return
        every = frozenset(i.intent_id for i in event.intents)
        assert stored.kind == _DECISION
        found.nodes[stored.event_id] = _Node(recorded, every if parent is not None else named or every, parent)
        found.journal.add(stored, event)
        found.owner[stored.event_id] = stored.event_id
        return
    found.journal.add(stored, event)  # what belongs to no decision of the plan is passed over there
    decision_id: UUID | None = getattr(event, "decision_id", None)
    node = found.nodes.get(decision_id) if decision_id is not None else None
    if node is None:  # also where an order to take back stands for the decision: what undoing causes does not descend from it
        return
    intent: UUID | None = getattr(event, "intent_id", None)
    if intent is not None and intent not in node.effects:
        return
    assert decision_id is not None
    found.owner[stored.event_id] = decision_id
    if isinstance(event, d.EffectSucceeded):
        found.succeeded[event.intent_id] = (stored.occurred_at_us, event)
    elif isinstance(event, d.EffectFailed) and event.ambiguous:
        found.ambiguous.add(event.intent_id)


def _take_back(
    at: Item,
    node: _Node,
    intent: d.EffectIntent,
    back: str | None,
    found: _Found,
    tools: Mapping[str, Tool],
    mac: Mac,
    at_us: int,
) -> Item:
    """How an effect that happened is taken back, or why a person has to."""
    recorded, tool = node.recorded.data, tools.get(intent.tool)
    happened_us, success = found.succeeded[intent.intent_id]
    where = f"receipt {success.receipt}" if success.receipt else f"key {intent.intent_id}"

    def by_hand(because: str) -> Item:
        how = (tool.by_hand if tool is not None else "") or f"take it back in the system behind {intent.tool.partition('.')[0]}"
        return replace(at, because=because, by_hand=f"{how} ({where})")

    if back is not None:
        why = {
            "unknown": "nobody knows whether taking it back happened",
            "failed": "taking it back failed",
            "cancelled": "it was not taken back",
        }
        return by_hand(why.get(back, back))
    if tool is None:
        return by_hand(f"{intent.tool} is not installed here")
    if tool.ref.digest != intent.tool_digest:
        return by_hand(f"the contract of {intent.tool} changed since")
    if tool.undo is None:
        return by_hand(f"{intent.tool} declares no undo")
    if tool.undo.within_s is not None and at_us > happened_us + int(tool.undo.within_s * SECOND_US):
        return by_hand(f"it could be taken back for {tool.undo.within_s:g} s, and those are over")
    other = tools.get(tool.undo.tool)
    if other is None:
        return by_hand(f"{tool.undo.tool}, which takes it back, is not installed here")
    if success.sandbox and not other.sandbox:
        return by_hand("it happened in the sandbox only: nothing left the building")
    if other.sandbox and not success.sandbox:
        return by_hand(f"it left for real, and {tool.undo.tool} is a sandbox here")
    arguments = undo_arguments(recorded, intent, tool, success.receipt)
    if arguments is None:
        return by_hand("its arguments are erased")
    try:
        other.input.model_validate(arguments)
    except ValidationError:
        return by_hand(f"what is known about it does not fit {tool.undo.tool}")
    return replace(
        at,
        what="undo",
        with_tool=other.ref.name,
        with_digest=other.ref.digest,
        with_kind=other.kind,
        mac=intent_mac(mac, at.undo_id, other.ref.name, arguments),
        back=tuple(held for held in recorded.reservations if held.intent_id == intent.intent_id and comes_back(held.unit)),
    )


def undo_arguments(decision: d.DecisionRecorded, intent: d.EffectIntent, tool: Tool, receipt: str) -> dict[str, Any] | None:
    """The arguments that take one effect back; None where those of the effect cannot be read any more."""
    if tool.undo is None or not isinstance(decision.arguments, str):
        return None
    given = orjson.loads(decision.arguments)[decision.intents.index(intent)]
    try:
        return tool.undo.of(given, receipt=receipt, intent_id=str(intent.intent_id))
    except KeyError:
        return None
