"""Models that ship: coefficients that people wrote down, fitted on nobody's outcomes. Each gives a rank and never a probability.

Starting points until training rows of one's own exist. Imports the shipped features and `scoring`.
"""

from __future__ import annotations

from typing import Final

from postsale.projections.customer_health import CustomerHealth
from postsale.projections.scoring import LogisticModel, Number

CHURN_PRIOR: Final = LogisticModel(
    name="churn",
    version=1,
    owner="postsale",
    outcome="the customer leaves within 90 days",
    features=CustomerHealth.digest,
    intercept=-2.0,
    terms=(
        Number(feature="cancelling", of="size", coefficient=3.0),
        Number(feature="failed_90d", coefficient=0.6),
        Number(feature="last_usage", of="age_days", coefficient=1.0, center=7, scale=30, missing=0.3),
        Number(feature="usage_30d", coefficient=-0.4, scale=100),
        Number(feature="escalations_90d", coefficient=0.5),
        Number(feature="tickets_30d", coefficient=0.15),
        Number(feature="survey_micro", coefficient=-0.5, center=70_000_000, scale=20_000_000),
    ),
)
"""Risk of churn: a cancellation first, then failing payments, silence, escalations and answers to surveys."""

RENEWAL_PRIOR: Final = LogisticModel(
    name="renewal",
    version=1,
    owner="postsale",
    outcome="the contract that falls due within 90 days is renewed",
    features=CustomerHealth.digest,
    intercept=2.0,
    terms=(
        Number(feature="cancelling", of="size", coefficient=-4.0),
        Number(feature="failed_90d", coefficient=-0.5),
        Number(feature="last_usage", of="age_days", coefficient=-1.0, center=7, scale=30, missing=-0.3),
        Number(feature="active_users", coefficient=0.4, center=10, scale=10),
        Number(feature="escalations_90d", coefficient=-0.5),
        Number(feature="survey_micro", coefficient=0.5, center=70_000_000, scale=20_000_000),
    ),
)
"""How likely a contract is to be renewed, so that the risk is at the low end: a cancellation first, then silence and trouble."""

EXPANSION_PRIOR: Final = LogisticModel(
    name="expansion",
    version=1,
    owner="postsale",
    outcome="the customer's monthly revenue rises within 90 days",
    features=CustomerHealth.digest,
    intercept=-2.5,
    terms=(
        Number(feature="active_users", coefficient=0.5, center=10, scale=10),
        Number(feature="usage_30d", coefficient=0.4, scale=100),
        Number(feature="cancelling", of="size", coefficient=-3.0),
        Number(feature="failed_90d", coefficient=-0.5),
        Number(feature="survey_micro", coefficient=0.4, center=70_000_000, scale=20_000_000),
    ),
)
"""Propensity to buy more: people at work, use, and no sign of leaving."""

REFERRAL_PRIOR: Final = LogisticModel(
    name="referral",
    version=1,
    owner="postsale",
    outcome="the customer refers another within 90 days",
    features=CustomerHealth.digest,
    intercept=-3.0,
    terms=(
        Number(feature="survey_micro", coefficient=1.0, center=80_000_000, scale=20_000_000, missing=-0.5),
        Number(feature="usage_30d", coefficient=0.3, scale=100),
        Number(feature="escalations_90d", coefficient=-0.5),
        Number(feature="cancelling", of="size", coefficient=-2.0),
    ),
)
"""Propensity to refer: content, and at work with it."""
