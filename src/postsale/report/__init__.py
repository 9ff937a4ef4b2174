"""A period told to people: a typed report, and a page of it that needs nothing else. Reads no log; `Tenant.report` fills it.

`model` holds the report, `words` says it in sentences, `page` makes HTML of it, `plots` draws. May import `projections` and below.
"""

from postsale.report.model import (
    AgentYear,
    Approvals,
    AtRisk,
    Budget,
    Case,
    Funnel,
    HealthAt,
    Quarter,
    Report,
    RiskMonth,
    Turn,
    Twin,
    TwinLine,
)
from postsale.report.page import page
from postsale.report.words import summary

__all__ = [
    "AgentYear",
    "Approvals",
    "AtRisk",
    "Budget",
    "Case",
    "Funnel",
    "HealthAt",
    "Quarter",
    "Report",
    "RiskMonth",
    "Turn",
    "Twin",
    "TwinLine",
    "page",
    "summary",
]
