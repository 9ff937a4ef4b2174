"""What a what-if tells: what came of a trigger and what would have come of it, why the two differ, and the sums.

Values and their reasons only; who decides again is `whatif`. May import everything below `audit`, but neither tools nor engines.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from postsale.agents.policy import Policy
from postsale.agents.policy_sections import Rule
from postsale.agents.widening import Wider
from postsale.aggregates.decisions import DecisionRecorded
from postsale.audit.estimate import Estimate
from postsale.events import iso, money_text

NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Result:
    """What came, or would have come, of one trigger."""

    disposition: str  # acted, awaiting, suppressed, failed, or "not asked"
    rules: tuple[str, ...] = ()
    action: str | None = None
    suppressed_by: str | None = None
    contacts: int = 0
    offer_minor: int = 0
    currency: str = ""

    @property
    def acts(self) -> bool:
        return self.disposition in {"acted", "awaiting"}

    def __str__(self) -> str:
        said = f"{self.disposition}: {self.action}" if self.acts else self.disposition
        return f"{said} by {self.suppressed_by}" if self.suppressed_by else said


@dataclass(frozen=True, slots=True)
class Changed:
    """One decision that the candidate would have made otherwise. `customer` is the random reference: it names nobody."""

    decision_id: UUID
    customer: str
    decided_at: datetime
    condition: str
    before: Result
    after: Result
    why: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "decision_id": str(self.decision_id),
            "customer_ref": self.customer,
            "decided_at": self.decided_at.isoformat(),
            "condition": self.condition,
            "before": _result(self.before),
            "after": _result(self.after),
            "why": self.why,
        }


@dataclass(slots=True)
class WhatIf:
    """What a candidate would have changed. Sums are over decisions as they were made: promised, not what people or tools did later."""

    policy: Policy
    against: str  # digest of the policy that widening is told against; "" when there is none
    begin_us: int
    end_us: int
    decisions: int = 0
    edits: int = 0  # not among the decisions: a person changed what the policy had proposed
    unreadable: int = 0  # their evidence is not to be had any more
    unplanned: int = 0  # the candidate hands them to a planner that was never asked, and a what-if asks none
    changed: list[Changed] = field(default_factory=list)  # in the order of the log
    before: Counter[str] = field(
        default_factory=Counter
    )  # decisions by disposition, contacts, "offers CUR" in minor units, "budget NAME UNIT"
    after: Counter[str] = field(default_factory=Counter)
    widens: tuple[Wider, ...] = ()
    touched: list[str] = field(default_factory=list)  # references of customers with whom something would happen that did not
    asked: list[str] = field(default_factory=list)  # … whom a new or wider trigger would make it act on at the window's end
    value: Estimate | str = ""  # or why there is none

    def to_dict(self) -> dict[str, Any]:
        return {
            "policy": {"name": self.policy.name, "version": self.policy.version, "digest": self.policy.digest},
            "against": self.against or None,
            "from": iso(self.begin_us),
            "to": iso(self.end_us),
            "decisions": self.decisions,
            "edits": self.edits,
            "unreadable": self.unreadable,
            "unplanned": self.unplanned,
            "before": dict(sorted(self.before.items())),
            "after": dict(sorted(self.after.items())),
            "changed": [c.to_dict() for c in self.changed],
            "widens": [w.to_dict() for w in self.widens],
            "newly_touched": self.touched,
            "newly_asked": self.asked,
            "value": self.value.to_dict() if isinstance(self.value, Estimate) else None,
            "no_value_because": None if isinstance(self.value, Estimate) else self.value,
        }


# ---------------------------------------------------------------- results


def result_of(event: DecisionRecorded | None) -> Result:
    """What a decision says will happen; None: it was not asked."""
    if event is None:
        return Result(NOT_ASKED)
    certain = event.draw_ppm is None and "plan.status" not in event.flags
    chosen = tuple(e.rule for e in event.eligible if e.propensity_ppm) if certain else ((event.rule,) if event.rule else ())
    offer = event.offer if event.disposition in {"acted", "awaiting"} else None
    return Result(
        event.disposition,
        chosen,
        event.action,
        event.suppressed_by,
        sum(1 for i in event.intents if i.channel),
        offer.amount_minor if offer else 0,
        offer.currency if offer else "",
    )


def why(own: Policy, candidate: Policy, before: Result, after: Result) -> str:
    """Why the candidate's result is another one; "" when it is the same."""
    if after.disposition == NOT_ASKED:
        return "no trigger would have asked"
    outputs = [[_does(policy, rule) for rule in result.rules] for policy, result in ((own, before), (candidate, after))]
    same_rows = outputs[0] == outputs[1]
    if (before.disposition, before.suppressed_by) == (after.disposition, after.suppressed_by):
        if not (before.acts or after.acts):
            return ""
        if same_rows and (before.offer_minor, before.currency) == (after.offer_minor, after.currency):
            return ""
    if before.rules != after.rules:
        return f"{_rows(after)} instead of {_rows(before)}"
    if not same_rows and before.acts and after.acts:
        return f"{_rows(after)} does something else"
    if after.suppressed_by and after.suppressed_by != before.suppressed_by:
        return f"suppressed by {after.suppressed_by}"
    if before.suppressed_by and not after.suppressed_by:
        return f"no longer suppressed by {before.suppressed_by}"
    if before.disposition != after.disposition:
        return f"{after.disposition} instead of {before.disposition}"
    return f"{_rows(after)} offers {_offer(after)} instead of {_offer(before)}"


def _offer(result: Result) -> str:
    return money_text(result.offer_minor, result.currency) if result.currency else "nothing"


def _does(policy: Policy, rule_id: str) -> dict[str, Any]:
    rule: Rule | None = next((r for r in policy.acts if r.id == rule_id), None)
    return {} if rule is None else rule.output


def _rows(result: Result) -> str:
    return "no row" if not result.rules else f"row {' and '.join(result.rules)}"


def touches(change: Changed) -> bool:
    """Whether something would happen with the customer that did not, or without the person who was asked."""
    before, after = change.before, change.after
    if not after.acts:
        return False
    return not before.acts or after.action != before.action or (before.disposition, after.disposition) == ("awaiting", "acted")


def _result(result: Result) -> dict[str, Any]:
    return {
        "disposition": result.disposition,
        "rules": list(result.rules),
        "action": result.action,
        "suppressed_by": result.suppressed_by,
        "contacts": result.contacts,
        "offer_minor": result.offer_minor,
        "currency": result.currency or None,
    }
