"""Agents: they decide about customers inside explicit policy.

Importing this room loads deciders only: neither tools nor engines nor the outbox, so that replay cannot reach the world.
May import projections, store, access, aggregates, events, errors.
"""

from postsale.agents.agent import Agent
from postsale.agents.calendar import Calendar
from postsale.agents.planner import Answer, FunctionPlanner, Planner, Question
from postsale.agents.policy import Policy
from postsale.agents.prompts import Prompt
from postsale.agents.shipped import (
    SHIPPED,
    ChurnOutreach,
    HealthCheck,
    OnboardingOptimisation,
    PostRenewalOutreach,
    ReferralInvitation,
    RenewalRescue,
    Upsell,
)

__all__ = [
    "SHIPPED",
    "Agent",
    "Answer",
    "Calendar",
    "ChurnOutreach",
    "FunctionPlanner",
    "HealthCheck",
    "OnboardingOptimisation",
    "Planner",
    "Policy",
    "PostRenewalOutreach",
    "Prompt",
    "Question",
    "ReferralInvitation",
    "RenewalRescue",
    "Upsell",
]
