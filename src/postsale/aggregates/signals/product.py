"""Signals of the product itself: who came, what they used, how far they got, what failed."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from postsale.aggregates.signals.base import Signal
from postsale.events import Count, Id


class UsageObserved(Signal):
    """A feature was used. `count` uses in the source's own batch, by `active_users` distinct people where known."""

    wire_name: ClassVar[str] = "product/usage-observed@1"
    feature: Id
    count: Count = 1
    active_users: Count | None = None
    duration_s: Count | None = None
    errors: Count = 0


class UserLoggedIn(Signal):
    """Somebody at the customer came in."""

    wire_name: ClassVar[str] = "product/user-logged-in@1"
    user: Id  # the source's own number of the person; never a name or an address


class MilestoneReached(Signal):
    """The customer got to something that is worth it to them. A milestone counts when it is first reached."""

    wire_name: ClassVar[str] = "product/milestone-reached@1"
    milestone: Id
    value: bool = False  # whether it is the outcome they bought the product for: time to value ends here


class OnboardingStepCompleted(Signal):
    """One step of the onboarding plan is done."""

    wire_name: ClassVar[str] = "product/onboarding-step-completed@1"
    step: Id
    steps: Annotated[int, Field(ge=1, le=1_000)]  # how many the plan has


class ErrorObserved(Signal):
    """The product failed somebody, `count` times in the source's batch."""

    wire_name: ClassVar[str] = "product/error-observed@1"
    code: Id
    count: Count = 1
    feature: Id | None = None
