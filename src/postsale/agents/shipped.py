"""The agents that come with the package; each is a name for a policy file beside it, meant to be copied and changed."""

from __future__ import annotations

from importlib.resources import files

from postsale.agents.agent import Agent
from postsale.agents.policy import Policy


class RenewalRescue(Agent):
    """For subscribers: failing payments, a scheduled cancellation, poor health before a renewal."""

    @classmethod
    def default_policy(cls) -> Policy:
        return _shipped("renewal-rescue.toml")


class ChurnOutreach(Agent):
    """For customers without a subscription: purchases that are overdue by the customer's own rhythm."""

    @classmethod
    def default_policy(cls) -> Policy:
        return _shipped("churn-outreach.toml")


class OnboardingOptimisation(Agent):
    """For new subscribers: onboarding that has not begun, has stalled, or has brought no value yet."""

    @classmethod
    def default_policy(cls) -> Policy:
        return _shipped("onboarding-optimisation.toml")


class HealthCheck(Agent):
    """For subscribers who are not at risk yet: health that slips, silence, tickets that pile up."""

    @classmethod
    def default_policy(cls) -> Policy:
        return _shipped("health-check.toml")


class Upsell(Agent):
    """For well subscribers: seats that are used up, a plan that has become too small, what goes with what they have."""

    @classmethod
    def default_policy(cls) -> Policy:
        return _shipped("upsell.toml")


class PostRenewalOutreach(Agent):
    """For subscribers who have renewed: thanks, what was missing, and how it goes in the new term."""

    @classmethod
    def default_policy(cls) -> Policy:
        return _shipped("post-renewal-outreach.toml")


class ReferralInvitation(Agent):
    """For promoters, advocates and reviewers: would they recommend us to somebody."""

    @classmethod
    def default_policy(cls) -> Policy:
        return _shipped("referral-invitation.toml")


def _shipped(name: str) -> Policy:
    return Policy.from_toml((files("postsale.agents") / "policies" / name).read_text(encoding="utf-8"), name=name)


SHIPPED: dict[str, type[Agent]] = {
    "renewal-rescue": RenewalRescue,
    "churn-outreach": ChurnOutreach,
    "health-check": HealthCheck,
    "onboarding-optimisation": OnboardingOptimisation,
    "post-renewal-outreach": PostRenewalOutreach,
    "upsell": Upsell,
    "referral-invitation": ReferralInvitation,
}
"""The shipped agents by name, in the order of their priority."""
