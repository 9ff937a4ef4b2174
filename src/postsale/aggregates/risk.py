"""Risk cases of the decision lane: a customer at risk, from the case's opening to its close.

Wire names and fields are the storage format. May import `events`; the lane's union is `decisions.CustomerEvent`.
"""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID

from postsale.events import Event, Text

Stage = Literal["at-risk", "plan-in-place", "saving"]


class RiskCaseOpened(Event):
    """The customer is at risk. Stages: at-risk → plan-in-place → saving → closed (recovered | lost)."""

    wire_name: ClassVar[str] = "risk/case-opened@1"
    case_id: UUID
    reason: Text
    trigger_id: UUID | None = None


class RiskCaseMoved(Event):
    """The case reached another stage."""

    wire_name: ClassVar[str] = "risk/case-moved@1"
    case_id: UUID
    stage: Stage
    reason: Text


class RiskCaseClosed(Event):
    """The case is over."""

    wire_name: ClassVar[str] = "risk/case-closed@1"
    case_id: UUID
    result: Literal["recovered", "lost"]
    reason: Text
