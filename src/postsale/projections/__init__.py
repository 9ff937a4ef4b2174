"""Read models: features declared once, folded live, kept in views; health and why it is what it is."""

from postsale.projections.algebra import Leaf, Window
from postsale.projections.derived import Derived, derived
from postsale.projections.features import Features, count, days, distinct, first_seen, last_seen, latest, maximum, minimum, total
from postsale.projections.fold import Fact, FeatureValues, Fold, State, fact_from, fact_of

__all__ = [
    "Derived",
    "Fact",
    "FeatureValues",
    "Features",
    "Fold",
    "Leaf",
    "State",
    "Window",
    "count",
    "days",
    "derived",
    "distinct",
    "fact_from",
    "fact_of",
    "first_seen",
    "last_seen",
    "latest",
    "maximum",
    "minimum",
    "total",
]
