"""How tools have done, by name: what was to leave, what left, what failed and why; folded from the decision lane alone.

A pure fold; whoever wants it reads the log. Whether a circuit is open stands beside the log, not here. May import the journal,
`aggregates`, `events` and `store.contract`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from postsale.aggregates import decisions as d
from postsale.events import from_us
from postsale.projections.journal import Journal, decision_events
from postsale.store.contract import Store

_LEAVING = frozenset({"acted", "awaiting"})
_Counted = d.EffectStarted | d.EffectSucceeded | d.EffectFailed | d.EffectUnknown


@dataclass(slots=True)
class ToolRecord:
    """One tool of one tenant, as its effects stand. Effects of decisions that were suppressed when they were taken do not count."""

    tool: str  # name@version
    effects: Counter[str] = field(default_factory=Counter)  # by status: held, ready, started, retry, unknown, succeeded, failed, cancelled
    attempts: int = 0
    failed_attempts: int = 0
    sandboxed: int = 0  # of those that succeeded
    digests: set[str] = field(default_factory=set)  # of the contracts that decisions relied on
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For programs; no personal data."""
        return {
            "tool": self.tool,
            "effects": dict(sorted(self.effects.items())),
            "attempts": self.attempts,
            "failed_attempts": self.failed_attempts,
            "sandboxed": self.sandboxed,
            "digests": sorted(self.digests),
            "last_success_at": self.last_success_at.isoformat() if self.last_success_at else None,
            "last_failure_at": self.last_failure_at.isoformat() if self.last_failure_at else None,
            "last_reason": self.last_reason,
        }


def read_tool_records(store: Store, tenant: str, *, as_of_us: int | None = None, known_at_us: int | None = None) -> dict[str, ToolRecord]:
    """Every tool that a tenant's decisions were to use, by name, as it stood at `as_of_us`, as known at `known_at_us`."""
    journal, tool_of = Journal(), dict[UUID, ToolRecord]()
    records: dict[str, ToolRecord] = {}
    for recorded in decision_events(store, tenant, as_of_us=as_of_us, known_at_us=known_at_us):
        journal.add(recorded.stored, recorded.data)
        event, at = recorded.data, from_us(recorded.stored.occurred_at_us)
        if isinstance(event, d.DecisionRecorded):
            for intent in event.intents if event.disposition in _LEAVING else ():
                record = tool_of[intent.intent_id] = records.setdefault(intent.tool, ToolRecord(intent.tool))
                record.digests.add(intent.tool_digest)
        elif isinstance(event, _Counted) and event.intent_id in tool_of:
            _count(tool_of[event.intent_id], event, at)
    for entry in journal.entries.values():
        for intent_id, status in entry.effects.items():
            if intent_id in tool_of:
                tool_of[intent_id].effects[status] += 1
    return dict(sorted(records.items()))


def _count(record: ToolRecord, event: _Counted, at: datetime) -> None:
    match event:
        case d.EffectStarted():
            record.attempts += 1
        case d.EffectSucceeded(sandbox=sandbox):
            record.last_success_at = at
            record.sandboxed += sandbox
        case d.EffectFailed(reason=reason) | d.EffectUnknown(reason=reason):
            record.failed_attempts += 1
            record.last_failure_at, record.last_reason = at, reason
