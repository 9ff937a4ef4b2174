"""Questions to planners and their answers: events of a customer's decision lane. Wire names and fields are the storage format.

May import `events`, artifacts and parts only; what is made of an answer is in `agents`.
"""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID

from postsale.aggregates.artifacts import Digest
from postsale.aggregates.parts import Arguments, Ppm
from postsale.events import Count, Event, Id, Personal, Text, UtcDatetime


class PlanRequested(Event):
    """A planner is about to be asked: written first, so that what left the building is known whatever happens. Its id is the question's key."""

    wire_name: ClassVar[str] = "agent/plan-requested@1"
    trigger_id: UUID
    agent: Id
    policy: Digest
    rule: Id  # the row that hands over
    attempt: Count  # from 1, over all questions about this trigger
    timeout_s: Count
    planner: Id
    model: Text
    settings: dict[Id, Text]
    prompt: Digest
    prompt_version: Id  # name@version
    options: tuple[Id, ...]  # what may be chosen
    facts: Count  # how many were shown
    oldest_at: UtcDatetime  # of the question and the facts it shows
    fact_position: Count  # facts up to this position were known
    content: Personal[Arguments] | None = None  # canonical JSON: instructions, data, schema
    content_mac: Text  # keyed digest of it


class PlanReceived(Event):
    """What a planner answered, word for word, before anything was made of it; or why it did not."""

    wire_name: ClassVar[str] = "agent/plan-received@1"
    trigger_id: UUID
    request_id: UUID
    attempt: Count
    status: Literal["answered", "too-long", "failed"]
    answer: Personal[Arguments] | None = None  # cut where it is too long
    answer_mac: Text = ""  # keyed digest of what is kept
    answer_chars: Count = 0  # of all that was said
    model: Text = ""  # as the planner itself names it
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    took_ms: Count = 0
    propensity_ppm: Ppm | None = None  # how likely the choice was, where the planner draws
    reason: Text = ""  # why it failed: the kind of fault, never its words
    retry_at: UtcDatetime | None = None  # when it is asked again; None: no more
