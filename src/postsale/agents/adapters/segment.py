"""Analytics, Segment-shaped: that something was done about a customer, as an event. Shape: segment.com/docs, HTTP tracking API.

The effect's key is the event's `messageId`, by which Segment leaves out repetitions for about a day.
"""

from __future__ import annotations

import base64

from postsale.agents.adapters.http import Client, Find, HttpTool, deadline
from postsale.agents.tools.contract import Receipt, ToolModel
from postsale.errors import ToolUncertain
from postsale.events import Id, Text

URL = "https://api.segment.io"


class Track(ToolModel):
    """What was done about whom."""

    customer: Id
    event: Id
    note: Text = ""


class SegmentTrack(HttpTool):
    """An event of the customer. `user_of` gives the id under which analytics know the customer, by default the random reference."""

    name, version, kind, input = "analytics.track", 1, "idempotent", Track
    risk_tier = "low"
    key_lives_s = 20 * 3_600.0

    def __init__(
        self, write_key: str, *, user_of: Find = lambda customer: customer, base_url: str = URL, client: Client | None = None
    ) -> None:
        basic = base64.b64encode(f"{write_key}:".encode()).decode()
        super().__init__(base_url, headers={"Authorization": f"Basic {basic}"}, client=client)
        self._user_of = user_of

    def call(self, arguments: Track, *, idempotency_key: str, timeout_s: float) -> Receipt:
        event = {
            "userId": self.on_the_other_side(self._user_of, arguments.customer),
            "event": arguments.event,
            "properties": {"note": arguments.note} if arguments.note else {},
            "messageId": idempotency_key,
        }
        answer = self.send("POST", "/v1/track", deadline_s=deadline(timeout_s), json=event)
        if not isinstance(answer.json, dict) or answer.json.get("success") is not True:
            raise ToolUncertain(tool=self.ref.name, reason="its answer is not what it answers")
        return Receipt(receipt=idempotency_key)
