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


def _shipped(name: str) -> Policy:
    return Policy.from_toml((files("postsale.agents") / "policies" / name).read_text(encoding="utf-8"), name=name)


SHIPPED: dict[str, type[Agent]] = {"renewal-rescue": RenewalRescue, "churn-outreach": ChurnOutreach}
"""The shipped agents by name."""
