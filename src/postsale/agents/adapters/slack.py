"""Slack: a message to one of your channels. Shape: api.slack.com, chat.postMessage with metadata, conversations.history.

Slack has no idempotency keys: the key travels in the message's metadata, and the channel's history is asked before a second sending.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from postsale.agents.adapters.http import Answer, Client, HttpTool, deadline
from postsale.agents.tools.contract import Rate, Receipt, ToolModel
from postsale.errors import ToolRefused, ToolUnavailable, ToolUncertain
from postsale.events import Id, Text

URL = "https://slack.com"
_EVENT: Final = "postsale_effect"
_NOT_NOW: Final = frozenset({"not_authed", "invalid_auth", "account_inactive", "token_revoked", "token_expired", "missing_scope"})
_PERHAPS: Final = frozenset({"internal_error", "fatal_error", "request_timeout", "service_unavailable", "ratelimited", "rate_limited"})


class Post(ToolModel):
    """What colleagues are told about a customer."""

    customer: Id
    text: Text


class SlackMessage(HttpTool):
    """A message in a channel, with a link to the customer when `link` is given."""

    name, version, kind, input = "collaboration.post", 1, "queryable", Post
    risk_tier = "low"
    rate = Rate(1, 1.0)  # a message a second and channel

    def __init__(
        self,
        token: str,
        channel: str,
        *,
        link: str = "",
        looks_back: int = 5,
        base_url: str = URL,
        client: Client | None = None,
    ) -> None:
        """`link` may hold {customer}. `looks_back`: pages of 200 messages in which a key is looked for."""
        super().__init__(base_url, headers={"Authorization": f"Bearer {token}"}, client=client)
        self._channel, self._link, self._looks_back = channel, link, looks_back

    def call(self, arguments: Post, *, idempotency_key: str, timeout_s: float) -> Receipt:
        text = arguments.text + (f"\n{self._link.format(customer=arguments.customer)}" if self._link else "")
        message = {
            "channel": self._channel,
            "text": text,
            "metadata": {"event_type": _EVENT, "event_payload": {"key": idempotency_key}},
        }
        sent = self._ok(self.send("POST", "/api/chat.postMessage", deadline_s=deadline(timeout_s), json=message))
        return Receipt(receipt=self.expect(sent, "ts"))

    def query(self, idempotency_key: str, *, timeout_s: float) -> Receipt | None:
        by, cursor = deadline(timeout_s), ""
        for _ in range(self._looks_back):
            params = {"channel": self._channel, "include_all_metadata": "true", "limit": "200", **({"cursor": cursor} if cursor else {})}
            page = self._ok(self.send("GET", "/api/conversations.history", deadline_s=by, params=params)).json
            messages = page.get("messages")
            if not isinstance(messages, list):
                raise ToolUncertain(tool=self.ref.name, reason="its answer is not what it answers")
            for message in messages:
                metadata = message.get("metadata") if isinstance(message, Mapping) else None
                payload = metadata.get("event_payload") if isinstance(metadata, Mapping) else None
                if isinstance(payload, Mapping) and payload.get("key") == idempotency_key:
                    return Receipt(receipt=str(message.get("ts", ""))[:200])
            following = page.get("response_metadata")
            cursor = str(following.get("next_cursor") or "") if isinstance(following, Mapping) else ""
            if not cursor:
                return None
        raise ToolUncertain(tool=self.ref.name, reason="the channel's history is longer than what is looked through")

    def _ok(self, answer: Answer) -> Answer:
        """Slack tells errors in answers that have status 200."""
        body: Any = answer.json
        if not isinstance(body, Mapping) or not isinstance(body.get("ok"), bool):
            raise ToolUncertain(tool=self.ref.name, reason="its answer is not what it answers")
        if body["ok"]:
            return answer
        code = str(body.get("error", ""))
        reason = f"error {code}" if code.isascii() and code.replace("_", "").isalnum() and len(code) <= 64 else "an error without a code"
        if code in _PERHAPS:
            raise ToolUncertain(tool=self.ref.name, reason=reason)
        raise (ToolUnavailable if code in _NOT_NOW else ToolRefused)(tool=self.ref.name, reason=reason)
