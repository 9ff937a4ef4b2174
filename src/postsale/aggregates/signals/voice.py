"""Signals of marketing and of the customer's voice: surveys, campaigns, reviews, events, advocacy, referrals, and people's word on decisions."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from postsale.aggregates.signals.base import Signal
from postsale.events import AmountMinor, Currency, Id, Personal, Text


class _Survey(Signal):
    survey: Literal["nps", "csat", "ces"]
    score: Annotated[int, Field(ge=0, le=100)]
    scale_min: Annotated[int, Field(ge=0, le=100)] = 0
    scale_max: Annotated[int, Field(ge=1, le=100)] = 10
    higher_is_better: bool = True
    comment: Personal[Text] | None = None
    response: Id | None = None  # the source's id of the answer, which a revision names
    about: Id | None = None  # what it asks about, such as a ticket

    @model_validator(mode="after")
    def _within_scale(self) -> Self:
        if not self.scale_min <= self.score <= self.scale_max:
            raise ValueError("score is outside scale_min … scale_max")
        return self


class SurveyAnswered(_Survey):
    """A survey was answered. `scale_min` to `scale_max` are inclusive; NPS is 0 to 10; CES states its direction."""

    wire_name: ClassVar[str] = "survey/answered@1"


class SurveyRevised(_Survey):
    """An answer was changed afterwards: the new one, whole. `response` names which."""

    wire_name: ClassVar[str] = "survey/revised@1"


class CampaignEngaged(Signal):
    """Somebody at the customer reacted to a campaign."""

    wire_name: ClassVar[str] = "marketing/campaign-engaged@1"
    campaign: Id
    action: Literal["opened", "clicked", "replied", "unsubscribed"]
    channel: Id | None = None


class EventAttended(Signal):
    """Somebody at the customer came to an event."""

    wire_name: ClassVar[str] = "marketing/event-attended@1"
    event: Id
    kind_of_event: Id | None = None  # such as webinar, meetup, conference


class ReviewPublished(Signal):
    """Somebody at the customer reviewed the product in public."""

    wire_name: ClassVar[str] = "advocacy/review-published@1"
    site: Id
    stars: Annotated[int, Field(ge=1, le=5)]
    comment: Personal[Text] | None = None


class AdvocacyGiven(Signal):
    """The customer spoke up for us."""

    wire_name: ClassVar[str] = "advocacy/given@1"
    act: Literal["reference-call", "case-study", "testimonial", "talk", "community-answer", "introduction"]


# ---------------------------------------------------------------- referrals, on the advocate's stream


class _Referral(Signal):
    referral_id: Id
    program: Id | None = None


class ReferralInvited(_Referral):
    """The customer invited somebody."""

    wire_name: ClassVar[str] = "referral/invited@1"
    channel: Id | None = None


class ReferralClicked(_Referral):
    """Whoever was invited looked at the offer."""

    wire_name: ClassVar[str] = "referral/clicked@1"


class ReferralRegistered(_Referral):
    """Whoever was invited signed up."""

    wire_name: ClassVar[str] = "referral/registered@1"


class ReferralConverted(_Referral):
    """Whoever was invited bought."""

    wire_name: ClassVar[str] = "referral/converted@1"
    amount_minor: AmountMinor | None = None
    currency: Currency | None = None


class ReferralWithdrawn(_Referral):
    """The invitation does not stand any more: taken back, refused, expired or found invalid."""

    wire_name: ClassVar[str] = "referral/withdrawn@1"
    reason: Id | None = None


class ReferralAccepted(_Referral):
    """On the stream of the customer who came: somebody had invited it."""

    wire_name: ClassVar[str] = "referral/accepted@1"
    referrer: Id  # the source's id of the customer that invited


# ---------------------------------------------------------------- people's word on decisions


class DecisionRated(Signal):
    """A customer success manager says what a decision of an agent was worth. Kept beside the decision, which it does not change."""

    wire_name: ClassVar[str] = "feedback/decision-rated@1"
    decision_id: UUID
    rating: Literal["helpful", "unhelpful", "wrong"]
    by: Id  # login
    comment: Personal[Text] | None = None
