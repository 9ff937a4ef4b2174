"""Replay: a decision made again from its own record and the policy in the log, compared byte by byte. Reaches no tool.

May import everything below `audit`, but neither tools nor engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from postsale.access import Unsealer, content_mac
from postsale.agents import reach
from postsale.agents.policy import Policy
from postsale.agents.rederive import Rederived, rederive
from postsale.aggregates import decisions as d
from postsale.aggregates.artifacts import POLICIES, ArtifactPublished, content_digest
from postsale.aggregates.plans import PlanReceived
from postsale.errors import ReplayDiverged, UnknownDecision
from postsale.events import Lane, decode
from postsale.store.contract import Query
from postsale.store.log import Log


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay that gave the same bytes. `arguments_checked` is False when they, or the planner's answer, are erased or may not be read."""

    decision_id: UUID
    intents: int
    arguments_checked: bool
    policy: str  # digest
    decider: str
    decider_is_installed: bool  # the deciding code that is installed is the code that decided
    models: tuple[str, ...] = ()  # models whose score was made again from the log and is the recorded one; see `rescoring`

    def to_dict(self) -> dict[str, Any]:
        return {
            "decision_id": str(self.decision_id),
            "identical": True,
            "intents": self.intents,
            "arguments_checked": self.arguments_checked,
            "policy": self.policy,
            "decider": self.decider,
            "decider_is_installed": self.decider_is_installed,
            "models": list(self.models),
        }


def replay(log: Log, tenant: str, decision_id: UUID, unseal: Unsealer, *, installed_digest: str | None = None) -> Replayed:
    """Decide again and compare. Raises ReplayDiverged at the first difference, UnknownDecision, ToolUnreachable."""
    stored = log.store.find(tenant, decision_id)
    if stored is None or stored.wire_name != d.DecisionRecorded.wire_name:
        raise UnknownDecision(tenant=tenant, decision_id=str(decision_id))
    with reach.no_effects("replay"):
        recorded = decode(stored, unseal).data
        assert isinstance(recorded, d.DecisionRecorded)
        policy = policy_of(log, tenant, recorded)
        arguments = recorded.arguments if isinstance(recorded.arguments, str) else None
        keys = log.vault.tenant(tenant)
        answer = answer_of(log, tenant, recorded, unseal)
        again: Rederived = rederive(recorded, arguments, policy, lambda raw: content_mac(keys, b"arguments", raw).hex(), answer)
    same_code = installed_digest is None or installed_digest == recorded.decider_digest
    if again.difference is not None:
        at = again.difference
        hint = "" if same_code else f" (decided by version {recorded.package_version}; other code is installed)"
        raise ReplayDiverged(decision_id=str(decision_id), where=at.where, recorded=at.recorded, regenerated=at.regenerated + hint)
    return Replayed(decision_id, len(recorded.intents), again.arguments_checked, recorded.policy, recorded.decider, same_code)


def answer_of(log: Log, tenant: str, recorded: d.DecisionRecorded, unseal: Unsealer) -> str | None:
    """What the decision's planner answered, from the log; None without a planner, and where it is erased or may not be read.

    ReplayDiverged when the log holds no such answer: no planner is ever asked again for it.
    """
    named = recorded.flags.get("plan.received")
    if named is None:
        return None
    try:
        stored = log.store.find(tenant, UUID(str(named)))
    except ValueError:
        stored = None
    event = decode(stored, unseal).data if stored is not None and stored.wire_name == PlanReceived.wire_name else None
    if not isinstance(event, PlanReceived):
        raise ReplayDiverged(
            decision_id=str(recorded.trigger_id), where="plan.received", recorded=str(named), regenerated="no such answer in the log"
        )
    return event.answer if event.status == "answered" and isinstance(event.answer, str) else None


def policy_of(log: Log, tenant: str, recorded: d.DecisionRecorded) -> Policy:
    """The policy version a decision names, from the log. ReplayDiverged when it is not there or is not what its digest says."""
    published = Query(tenant=tenant, category=POLICIES, lane=Lane.DECISION, kinds=frozenset({"artifact/published"}))
    for event in log.events(published):
        if isinstance(event.data, ArtifactPublished) and event.data.digest == recorded.policy:
            if content_digest(event.data.content) != recorded.policy:
                break
            return Policy.from_json(event.data.content)
    raise ReplayDiverged(
        decision_id=str(recorded.trigger_id), where="policy", recorded=recorded.policy, regenerated="no such policy in the log"
    )
