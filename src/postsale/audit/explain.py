"""Explaining one decision from the log alone: what was known, which policy, who approved, what left, what came of it.

Reads only; reaches no tool. May import everything below `audit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from postsale.access import Unsealer
from postsale.aggregates import decisions as d
from postsale.aggregates.artifacts import POLICIES, ArtifactActivated, ArtifactPublished, untouched
from postsale.aggregates.plans import PlanReceived, PlanRequested
from postsale.errors import UnknownDecision
from postsale.events import MASKED, Lane, Masked, Recorded, decode, from_us, money_text
from postsale.projections.journal import Entry, read_journal
from postsale.store.contract import Query
from postsale.store.log import Log


@dataclass(frozen=True, slots=True)
class Known:
    """An event that the decision rests on."""

    position: int
    kind: str
    source: str
    source_id: str
    occurred_at: datetime
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class PolicyUsed:
    """The policy version that decided, and who answers for it."""

    name: str
    digest: str
    content: Mapping[str, Any]  # as published; empty when it is not in the log
    owner: str | None
    approver: str | None
    activated_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class PlanUsed:
    """What a planner was asked and what it answered. `question` and `answer` are "•••" where they are erased or may not be read."""

    planner: str
    model: str
    settings: Mapping[str, str]
    prompt: str  # name@version
    prompt_digest: str
    attempts: int
    status: str  # answered, too-long, failed, silent
    problem: str | None  # why the answer was not used
    question: Mapping[str, Any] | str  # instructions, data, schema
    answer: str | None
    rationale: str | None  # the planner's own, where its answer was used
    facts: int  # how many it was shown
    input_tokens: int | None
    output_tokens: int | None
    took_ms: int | None


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect: what was to be sent, and what became of it. `arguments` is "•••" to whoever may not unseal them."""

    tool: str
    idempotency_key: str
    arguments: Mapping[str, Any] | str
    status: str
    undone: str | None = None  # how its taking back stands; None when nobody ordered it


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything about one decision. `str()` is for people, `to_dict()` (JSON types) for programs."""

    decision: Entry
    trigger_id: UUID
    cause: Known | None
    policy: PolicyUsed
    effects: tuple[Effect, ...]
    known_at: datetime | None  # when the newest event it had read was recorded; None when it had read none
    plan: PlanUsed | None = None  # what its planner was asked and answered; None where rows decided by themselves

    def to_dict(self) -> dict[str, Any]:
        recorded = self.decision.recorded
        return {
            **self.decision.to_dict(),
            "trigger": {
                "id": str(self.trigger_id),
                "condition": recorded.condition,
                "depth": recorded.depth,
                "cause": _json(asdict(self.cause)) if self.cause else None,
            },
            "mode": recorded.mode,
            "known_at": self.known_at.isoformat() if self.known_at else None,
            "known": {
                "evidence": dict(recorded.evidence),
                "context": dict(recorded.context),
                "read_set": [r.model_dump(mode="json") for r in recorded.read_set],
            },
            "policy": _json(asdict(self.policy)),
            "model": recorded.model,
            "decider": {"code": recorded.decider, "digest": recorded.decider_digest, "package_version": recorded.package_version},
            "plan": asdict(self.plan) if self.plan else None,
            "eligible": [e.model_dump(mode="json") for e in recorded.eligible],
            "verdicts": [v.model_dump(mode="json") for v in recorded.verdicts],
            "offer": recorded.offer.model_dump(mode="json") if recorded.offer else None,
            "effects": [asdict(e) for e in self.effects],
            "history": [{"at": at.isoformat(), "what": what} for at, what in self.decision.history],
        }

    def __str__(self) -> str:
        r = self.decision.recorded
        lines = [f"Decision {self.decision.id}", f"  {r.agent} on {r.condition}, {r.decided_at:%Y-%m-%d %H:%M} UTC, mode {r.mode}"]
        if self.cause:
            c = self.cause
            lines.append(
                f"  Because  {c.kind} ({c.source} {c.source_id}), true {c.occurred_at:%Y-%m-%d %H:%M}, known {c.recorded_at:%Y-%m-%d %H:%M}, position {c.position}"
            )
        seen = f", as known at {self.known_at.isoformat()}" if self.known_at else ""
        lines.append(f"  Seen     as of {r.decided_at.isoformat()}{seen}")
        lines += ["  Known"] + [f"    {name} = {value}{_asked_flag(r, name)}" for name, value in sorted(r.evidence.items())]
        p = self.policy
        owner = f", owner {p.owner}, approved by {p.approver} ({p.reason})" if p.owner else ""
        lines.append(f"  Policy   {self.policy.name} {self.policy.digest[:12]}{owner}; row {r.rule or 'none'}")
        lines += ["  Guardrails"] + [f"    {'pass' if v.passed else 'STOP'}  {v.rule}: {v.reason}" for v in r.verdicts]
        if (plan := self.plan) is not None:
            tokens = f", {plan.input_tokens} tokens in, {plan.output_tokens} out" if plan.input_tokens is not None else ""
            lines.append(f"  Planner  {plan.planner} ({plan.model}) with {plan.prompt}, shown {plan.facts} facts{tokens}; {plan.status}")
            lines.append(f"    {plan.problem or plan.rationale or MASKED}")
        lines.append(f"  Chosen   {r.action or 'nothing'} — {r.rationale}")
        if r.offer:
            lines.append(
                f"  Offer    {r.offer.kind} {money_text(r.offer.amount_minor, r.offer.currency)}, "
                f"limit {money_text(r.offer.authority_limit_minor, r.offer.currency)}: {r.offer.terms}"
            )
        for e in self.effects:
            back = {None: "", "succeeded": ", taken back"}.get(e.undone, f", to be taken back: {e.undone}")
            lines.append(f"  Effect   {e.tool} → {e.status}{back}")
            lines += [f"    {k} = {v}" for k, v in e.arguments.items()] if isinstance(e.arguments, Mapping) else [f"    {e.arguments}"]
        lines += ["  History"] + [f"    {at:%Y-%m-%d %H:%M}  {what}" for at, what in self.decision.history]
        return "\n".join(lines)


def _asked_flag(recorded: d.DecisionRecorded, name: str) -> str:
    """Who said so, of an input that is a flag."""
    reason, variant = recorded.flags.get(f"{name}.reason"), recorded.flags.get(f"{name}.variant")
    return "" if reason is None else f"  (flag{f' {variant}' if variant else ''}, {reason})"


def explain(log: Log, tenant: str, decision_id: UUID, unseal: Unsealer) -> Explanation:
    """Gather it from the log. Raises UnknownDecision."""
    stored = log.store.find(tenant, decision_id)
    if stored is None or stored.kind != "agent/decision-recorded":
        raise UnknownDecision(tenant=tenant, decision_id=str(decision_id))
    (entry,) = (e for e in read_journal(log.store, tenant, (stored.stream,)) if e.id == decision_id)
    recorded = decode(stored, unseal).data
    assert isinstance(recorded, d.DecisionRecorded)
    policy = _policy(log, tenant, recorded, upto=stored.position)
    return Explanation(
        entry,
        recorded.trigger_id,
        _cause(log, tenant, recorded),
        policy,
        _effects(entry, recorded),
        _known_at(log, recorded),
        _plan(log, tenant, recorded, unseal),
    )


def _plan(log: Log, tenant: str, recorded: d.DecisionRecorded, unseal: Unsealer) -> PlanUsed | None:
    flags, found = recorded.flags, {}
    for name in ("plan.request", "plan.received"):
        stored = log.store.find(tenant, UUID(str(flags[name]))) if name in flags else None
        found[name] = decode(stored, unseal).data if stored is not None else None
    asked, said = found["plan.request"], found["plan.received"]
    if not isinstance(asked, PlanRequested):
        return None
    said = said if isinstance(said, PlanReceived) else None
    problem = flags.get("plan.problem")
    answer = said.answer if said is not None else None
    rationale = None
    if problem is None and isinstance(answer, str):
        rationale = str(orjson.loads(answer)["rationale"])
    return PlanUsed(
        planner=asked.planner,
        model=(said.model if said is not None else "") or asked.model,
        settings=dict(asked.settings),
        prompt=asked.prompt_version,
        prompt_digest=asked.prompt,
        attempts=asked.attempt,
        status=str(flags.get("plan.status")),
        problem=None if problem is None else str(problem),
        question=orjson.loads(asked.content) if isinstance(asked.content, str) else str(MASKED),
        answer=None if answer is None else str(answer),
        rationale=rationale,
        facts=asked.facts,
        input_tokens=said.input_tokens if said is not None else None,
        output_tokens=said.output_tokens if said is not None else None,
        took_ms=said.took_ms if said is not None else None,
    )


def _known_at(log: Log, recorded: d.DecisionRecorded) -> datetime | None:
    at = max((r.fact_position for r in recorded.read_set), default=0)
    newest = next(iter(log.store.read(Query(after=at - 1, upto=at))), None) if at else None
    return None if newest is None else from_us(newest.recorded_at_us)


def _cause(log: Log, tenant: str, recorded: d.DecisionRecorded) -> Known | None:
    trigger = log.store.find(tenant, recorded.trigger_id)
    if trigger is None:
        return None
    raised = decode(trigger).data
    assert isinstance(raised, d.TriggerRaised)
    stored = log.store.find(tenant, raised.causing_event)
    if stored is None:
        return None
    cause: Recorded[Any] = decode(stored)
    header = cause.header
    return Known(stored.position, stored.kind, header.source, header.source_id, cause.occurred_at, cause.recorded_at)


def _policy(log: Log, tenant: str, recorded: d.DecisionRecorded, *, upto: int) -> PolicyUsed:
    """The policy by its digest, with the activation under which it decided: the newest one before the decision."""
    content: Mapping[str, Any] = {}
    active: tuple[ArtifactActivated, datetime] | None = None
    for event in log.events(Query(tenant=tenant, category=POLICIES, lane=Lane.DECISION, upto=upto)):
        match event.data:
            case ArtifactPublished(digest=digest) as published if digest == recorded.policy:
                content = orjson.loads(untouched(event.position, published))
            case ArtifactActivated(digest=digest) as activated if digest == recorded.policy:
                active = (activated, event.occurred_at)
    if active is None:
        return PolicyUsed(recorded.agent, recorded.policy, content, None, None, None, None)
    by, at = active
    return PolicyUsed(by.name, by.digest, content, by.owner, by.approver, at, by.reason)


def _effects(entry: Entry, recorded: d.DecisionRecorded) -> tuple[Effect, ...]:
    if recorded.arguments is None:
        return ()
    sealed = isinstance(recorded.arguments, Masked)
    arguments: list[Any] = [str(MASKED)] * len(recorded.intents) if sealed else orjson.loads(str(recorded.arguments))
    return tuple(
        Effect(
            intent.tool,
            str(intent.intent_id),
            value,
            entry.effects.get(intent.intent_id, "held"),
            entry.undone.get(intent.intent_id),
        )
        for intent, value in zip(recorded.intents, arguments, strict=True)
    )


def _json(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}
