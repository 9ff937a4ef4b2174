"""Signals of a help desk. How satisfied somebody was with a ticket is a survey: `SurveyAnswered` with `about` the ticket."""

from __future__ import annotations

from typing import ClassVar, Literal

from postsale.aggregates.signals.base import Signal
from postsale.events import Count, Id, Personal, Text


class TicketOpened(Signal):
    """The customer asked for help."""

    wire_name: ClassVar[str] = "ticketing/ticket-opened@1"
    ticket_id: Id
    priority: Literal["low", "normal", "high", "urgent"] = "normal"
    subject: Personal[Text] | None = None


class TicketEscalated(Signal):
    """A ticket was handed up."""

    wire_name: ClassVar[str] = "ticketing/ticket-escalated@1"
    ticket_id: Id


class TicketSolved(Signal):
    """A ticket was solved. Times are in minutes of wall-clock time since it was opened."""

    wire_name: ClassVar[str] = "ticketing/ticket-solved@1"
    ticket_id: Id
    first_reply_min: Count | None = None
    resolution_min: Count | None = None


class TicketReplied(Signal):
    """The first public reply of an agent to a ticket."""

    wire_name: ClassVar[str] = "ticketing/ticket-replied@1"
    ticket_id: Id
    after_min: Count | None = None  # minutes of wall-clock time since it was opened
    business_min: Count | None = None  # the same in the source's business hours


class TicketReopened(Signal):
    """A ticket that was solved is open again."""

    wire_name: ClassVar[str] = "ticketing/ticket-reopened@1"
    ticket_id: Id
