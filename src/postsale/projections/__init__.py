"""Read models: features declared once, folded live, kept in views; health and why it is what it is.

Everything here is derived from the log and may be thrown away. Nothing here decides, sends or appends.
"""

from postsale.projections.algebra import Leaf, Moment, Window
from postsale.projections.bulk import fold_all, read_facts
from postsale.projections.customer_health import CUSTOMER_HEALTH, CustomerHealth
from postsale.projections.deployments import Deployments
from postsale.projections.derived import Derived, derived
from postsale.projections.features import (
    Features,
    count,
    days,
    decayed,
    distinct,
    first_seen,
    history,
    last_seen,
    latest,
    maximum,
    minimum,
    total,
)
from postsale.projections.fold import Fact, FeatureValues, Fold, State, fact_from, fact_of
from postsale.projections.health import Component, Contribution, HealthModel, Score
from postsale.projections.partition import Parked
from postsale.projections.projector import Projector
from postsale.projections.reading import Lag, Read, Status
from postsale.projections.runner import Built, Progress, Runner
from postsale.projections.views import MemoryViews, SqliteViews, ViewInfo, Views
from postsale.projections.why import EventEffect, Health, Trend, Why, explain_health

__all__ = [
    "CUSTOMER_HEALTH",
    "Built",
    "Component",
    "Contribution",
    "CustomerHealth",
    "Deployments",
    "Derived",
    "EventEffect",
    "Fact",
    "FeatureValues",
    "Features",
    "Fold",
    "Health",
    "HealthModel",
    "Lag",
    "Leaf",
    "MemoryViews",
    "Moment",
    "Parked",
    "Progress",
    "Projector",
    "Read",
    "Runner",
    "Score",
    "SqliteViews",
    "State",
    "Status",
    "Trend",
    "ViewInfo",
    "Views",
    "Why",
    "Window",
    "count",
    "days",
    "decayed",
    "derived",
    "distinct",
    "explain_health",
    "fact_from",
    "fact_of",
    "first_seen",
    "fold_all",
    "history",
    "last_seen",
    "latest",
    "maximum",
    "minimum",
    "read_facts",
    "total",
]
