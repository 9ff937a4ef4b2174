"""What a replay was asked for and what it found, as values. Reads nothing; `replay_run` fills it.

May import everything below `audit`, but neither tools nor engines.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from postsale.audit.replay_compare import Outcome
from postsale.audit.replay_sandbox import Sandbox
from postsale.events import StreamId


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which decisions: every field narrows. Times are UTC microseconds, inclusive."""

    agent: str | None = None
    streams: tuple[StreamId, ...] = ()  # of customers
    begin_us: int | None = None
    end_us: int | None = None
    ids: frozenset[UUID] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        return {
            "agent": self.agent,
            "customers": sorted(s.id for s in self.streams) or None,
            "from_us": self.begin_us,
            "to_us": self.end_us,
            "decisions": sorted(str(i) for i in self.ids) or None,
        }


class Head(NamedTuple):
    """The tenant's tree that a replay spoke about. `position`: the log was read up to here, inclusive."""

    position: int
    size: int
    root: bytes


@dataclass(slots=True)
class ReplayReport:
    """What a replay found. `ok`: nothing differs. What could not be had again is counted, and is no success."""

    tenant: str
    log_id: str
    scope: Scope
    head: Head
    sandbox: Sandbox
    counts: Counter[str] = field(default_factory=Counter)  # same, different, unverifiable
    reasons: Counter[str] = field(default_factory=Counter)  # unverifiable decisions by reason; one may have several
    values: Counter[str] = field(default_factory=Counter)  # values that could not be had again, by reason
    intents: int = 0
    different: list[Outcome] = field(default_factory=list)  # by position
    unverifiable: list[Outcome] = field(default_factory=list)  # the first of them, by position
    strays: list[tuple[int, str]] = field(default_factory=list)  # events that name a decision nobody took
    deciders: dict[str, dict[str, int]] = field(default_factory=dict)  # deciding code -> its recorded digests, counted
    installed: dict[str, str] = field(default_factory=dict)  # deciding code -> the digest of what is installed
    missing: dict[str, str] = field(default_factory=dict)  # what could not be loaded in the sandbox, and the error
    models: Counter[str] = field(default_factory=Counter)  # digests of health models that decisions name
    results_digest: str = ""

    @property
    def ok(self) -> bool:
        return not self.different and not self.strays

    @property
    def decisions(self) -> int:
        return sum(self.counts.values())

    @property
    def word(self) -> str:
        """certified where the kernel held the sandbox; checked elsewhere, and that claims no more."""
        return "certified" if self.sandbox.enforced else "checked"

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "tenant": self.tenant,
            "word": self.word,
            "sandbox": self.sandbox.name,
            "decisions": self.decisions,
            "counts": {self.word: self.counts["same"], "different": self.counts["different"], "unverifiable": self.counts["unverifiable"]},
            "unverifiable_by_reason": dict(sorted(self.reasons.items())),
            "intents": self.intents,
            "different": [told(o) for o in self.different],
            "unverifiable": [told(o) for o in self.unverifiable],
            "strays": [{"position": position, "what": what} for position, what in self.strays],
            "position": self.head.position,
            "results": self.results_digest,
        }


def told(outcome: Outcome) -> dict[str, Any]:
    """One decision for programs; no personal data."""
    return {
        "decision_id": str(outcome.decision_id),
        "position": outcome.position,
        "agent": outcome.agent,
        "decided_at": outcome.decided_at.isoformat(),
        "verdict": outcome.verdict,
        "differences": [{"where": d.where, "recorded": d.recorded, "regenerated": d.regenerated} for d in outcome.differences],
        "unverifiable": dict(sorted(outcome.unverifiable.items())),
    }
