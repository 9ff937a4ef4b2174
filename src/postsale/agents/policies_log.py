"""Policies in the log, for people who ask which there are: every version that was published, and what was said of it. Reads only.

What decides now is asked of the desk; this is the list beside it. May import the desk and policy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from postsale.agents.desk import Desk
from postsale.agents.policy import Policy
from postsale.aggregates.artifacts import POLICIES, ArtifactActivated, ArtifactPublished, ArtifactRetired, untouched
from postsale.events import Lane
from postsale.store.contract import Query

Status = Literal["published", "active", "replaced", "retired"]


@dataclass(frozen=True, slots=True)
class Known:
    """One published version. An agent decides by the active version of the name that its policy has."""

    policy: Policy
    published_at: datetime
    status: Status = "published"
    said_at: datetime | None = None  # when it was last activated or retired
    approver: str = ""  # who said so
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        said = None if self.said_at is None else self.said_at.isoformat()
        head = {"name": self.policy.name, "version": self.policy.version, "digest": self.policy.digest, "owner": self.policy.owner}
        told = {"status": self.status, "since": said, "approver": self.approver, "reason": self.reason}
        return {**head, "published_at": self.published_at.isoformat(), **told}


def known_policies(desk: Desk, tenant: str) -> list[Known]:
    """Every version that a tenant's log holds, by name, in the order of publication. Raises LogDamaged for one that was altered."""
    found: dict[str, Known] = {}
    for recorded in desk.log.events(Query(tenant=tenant, category=POLICIES, lane=Lane.DECISION)):
        at = recorded.occurred_at
        match recorded.data:
            case ArtifactPublished(of="policy", digest=digest):
                found[digest] = Known(Policy.from_json(untouched(recorded.position, recorded.data)), at)
            case ArtifactActivated(of="policy", name=name, digest=digest, approver=by, reason=why) if digest in found:
                for other, one in found.items():
                    if one.policy.name == name and one.status == "active":
                        found[other] = replace(one, status="replaced")
                found[digest] = replace(found[digest], status="active", said_at=at, approver=by, reason=why)
            case ArtifactRetired(of="policy", digest=digest, approver=by, reason=why) if digest in found:
                found[digest] = replace(found[digest], status="retired", said_at=at, approver=by, reason=why)
    return sorted(found.values(), key=lambda one: one.policy.name)
