"""Read models: features declared once, folded live, kept in views; health and why it is what it is.

Everything here is derived from the log and may be thrown away. Nothing here decides, sends or appends.
"""

from postsale.projections.algebra import Leaf, Moment, Window
from postsale.projections.bulk import fold_all, read_facts
from postsale.projections.changes import Changed
from postsale.projections.crossing import Crossing, Move
from postsale.projections.customer_health import CUSTOMER_HEALTH, CustomerHealth
from postsale.projections.declaring import (
    across,
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
from postsale.projections.deployments import Deployments
from postsale.projections.derived import Derived, derived, fold
from postsale.projections.features import Features
from postsale.projections.folding import Fact, FeatureValues, Fold, Related, State, fact_from, fact_of
from postsale.projections.health import Applied, Component, Contribution, HealthModel, Lever, Row, Score, Stage
from postsale.projections.kin import Kin
from postsale.projections.lifecycle import Lifecycle, lifecycle_stage
from postsale.projections.partition import Parked
from postsale.projections.projector import Projector
from postsale.projections.reading import Lag, Read, Status
from postsale.projections.runner import Built, Progress, Runner
from postsale.projections.views import MemoryViews, SqliteViews, ViewInfo, Views
from postsale.projections.weighing import Difference, differences, load_weights, read_weights, weights_table, write_weights
from postsale.projections.why import Before, ComponentEffect, EventEffect, Health, Trend, Why, explain_health

__all__ = [
    "CUSTOMER_HEALTH",
    "Applied",
    "Before",
    "Built",
    "Changed",
    "Component",
    "ComponentEffect",
    "Contribution",
    "Crossing",
    "CustomerHealth",
    "Deployments",
    "Derived",
    "Difference",
    "EventEffect",
    "Fact",
    "FeatureValues",
    "Features",
    "Fold",
    "Health",
    "HealthModel",
    "Kin",
    "Lag",
    "Leaf",
    "Lever",
    "Lifecycle",
    "MemoryViews",
    "Moment",
    "Move",
    "Parked",
    "Progress",
    "Projector",
    "Read",
    "Related",
    "Row",
    "Runner",
    "Score",
    "SqliteViews",
    "Stage",
    "State",
    "Status",
    "Trend",
    "ViewInfo",
    "Views",
    "Why",
    "Window",
    "across",
    "count",
    "days",
    "decayed",
    "derived",
    "differences",
    "distinct",
    "explain_health",
    "fact_from",
    "fact_of",
    "first_seen",
    "fold",
    "fold_all",
    "history",
    "last_seen",
    "latest",
    "lifecycle_stage",
    "load_weights",
    "maximum",
    "minimum",
    "read_facts",
    "read_weights",
    "total",
    "weights_table",
    "write_weights",
]
