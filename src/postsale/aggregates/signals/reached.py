"""Signals about what was sent, and what other people's models say."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from postsale.aggregates.signals.base import Signal
from postsale.events import Id


class MessageDelivered(Signal):
    """The other side took a message over for the person it was meant for. Its cause is the effect that sent it."""

    wire_name: ClassVar[str] = "messaging/message-delivered@1"
    channel: Id  # such as email


class MessageBounced(Signal):
    """A message did not reach the person it was meant for. Its cause is the effect that sent it."""

    wire_name: ClassVar[str] = "messaging/message-bounced@1"
    channel: Id  # such as email
    permanent: bool  # False: the other side keeps trying
    code: Id | None = None  # the source's own, such as 5.1.1 (RFC 3463)


class ScoreReceived(Signal):
    """A warehouse's model scored the customer. `means` is its own word for what the value is: only a calibrated model's is a probability."""

    wire_name: ClassVar[str] = "model/score-received@1"
    model: Id  # which question it answers, such as churn
    model_version: Id  # a new version is another model: its scores are not compared with those of an older one
    outcome: Id  # what is scored, such as churned-within-90-days
    value_ppm: Annotated[int, Field(ge=0, le=1_000_000)]
    means: Literal["rank", "probability"] = "rank"
