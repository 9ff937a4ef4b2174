"""One request over HTTP, and what its answer means for an effect: done, never, not now, or perhaps.

Needs the extra `tools` (httpx); importing this module without it raises MissingExtra. Each request has a connection of its own: a
server that answers twice on one connection would otherwise answer the next effect with it. Redirects are not followed. Whatever is
kept as a reason is a status, an error's code or a class name: never a body, an address or a header.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import orjson

from postsale.agents.tools.contract import Tool
from postsale.errors import BadDeclaration, MissingExtra, ToolRefused, ToolUnavailable, ToolUncertain

try:
    import httpx
except ImportError:
    raise MissingExtra(feature="tools over HTTP", extra="tools") from None

MAX_ANSWER_BYTES: Final = 1_000_000
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
_NOTHING_LEFT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

Client = httpx.Client
Find = Callable[[str], str | None]
"""A customer's random reference -> its id or address on the other side; None when there is none."""


class Answer(NamedTuple):
    """A whole answer. `json` is None for a body that is empty or none."""

    status: int
    headers: Mapping[str, str]
    json: Any
    empty: bool


class HttpTool(Tool):
    """A tool whose effect is a request. Subclasses write `call` with `self.send`, and `error_code` for how their vendor names errors."""

    def __init__(self, base_url: str, *, headers: Mapping[str, str] | None = None, client: Client | None = None) -> None:
        """`client` is one of yours, such as with a proxy or certificates of your own. Raises BadDeclaration unless it is https, or here."""
        parts = urlsplit(base_url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise BadDeclaration(what=type(self).__name__, reason="expected an https:// URL: credentials and arguments are sent to it")
        self._base = base_url.rstrip("/")
        self._headers = {"Accept-Encoding": "identity", **(headers or {})}  # what is counted is what arrives
        if client is None:  # without TLS no certificates: loading them takes longer than a request here
            one_each = httpx.Limits(max_keepalive_connections=0)
            client = httpx.Client(limits=one_each, follow_redirects=False, verify=parts.scheme == "https")
        self._client = client

    def close(self) -> None:
        """Give its connections back."""
        self._client.close()

    @staticmethod
    def error_code(body: Any) -> str:
        """The vendor's own short code in the body of an error; "" for none."""
        return str(body.get("code", "")) if isinstance(body, Mapping) else ""

    def send(
        self,
        method: str,
        path: str,
        *,
        deadline_s: float,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """A 2xx answer, read whole by `deadline_s` on the monotonic clock.

        Raises ToolRefused, ToolUnavailable, ToolUncertain. Of an unsafe tool only a request that never left is ToolUnavailable.
        """
        answer = self._exchange(method, path, deadline_s, {**self._headers, **(headers or {})}, json, form, content, params)
        if 200 <= answer.status < 300:
            return answer
        raise self._error(answer)

    def _exchange(
        self,
        method: str,
        path: str,
        deadline_s: float,
        headers: Mapping[str, str],
        json: Any,
        form: Mapping[str, str] | None,
        content: bytes | None,
        params: Mapping[str, str] | None,
    ) -> Answer:
        tool, left_s = self.ref.name, deadline_s - time.monotonic()
        if left_s <= 0:
            raise ToolUncertain(tool=tool, reason="no time was left for another request")
        body: dict[str, Any] = {"data": form} if form is not None else {"content": content} if content is not None else {}

        def in_time(event: str, _info: Mapping[str, Any]) -> None:
            """A process that stood still while it connected, or before the body, does not send any more: by now another one may have."""
            if event.endswith((".send_request_headers.started", ".send_request_body.started")) and time.monotonic() > deadline_s:
                raise ToolUncertain(tool=tool, reason="no time was left when it was to be sent")

        if json is not None:
            body = {"content": orjson.dumps(json)}
            headers = {"Content-Type": "application/json", **headers}
        try:
            body["extensions"] = {"trace": in_time}
            with self._client.stream(method, self._base + path, headers=headers, params=params, timeout=left_s, **body) as response:
                raw = bytearray()
                for piece in response.iter_bytes():
                    raw += piece
                    if len(raw) > MAX_ANSWER_BYTES:
                        raise ToolUncertain(tool=tool, reason="its answer is too long")
                    if time.monotonic() > deadline_s:
                        raise ToolUncertain(tool=tool, reason="its answer did not end in time")
                return Answer(response.status_code, response.headers, _json(bytes(raw)), not raw)
        except _NOTHING_LEFT as error:
            failure: Exception = ToolUnavailable(tool=tool, reason=f"nothing was sent: {type(error).__name__}")
        except (httpx.HTTPError, httpx.StreamError) as error:
            failure = ToolUncertain(tool=tool, reason=f"it broke off: {type(error).__name__}")
        raise failure  # out here: the cause's text may hold an address

    def _error(self, answer: Answer) -> ToolRefused | ToolUnavailable | ToolUncertain:
        tool, status = self.ref.name, answer.status
        code = self.error_code(answer.json)
        reason = f"status {status}" + (f": {code}" if _CODE.match(code) else "")
        wait_s = _retry_after_s(answer.headers)
        certain = self.kind != "unsafe"  # whoever must not be asked twice is not believed that nothing happened
        if status == 429 and certain:
            return ToolUnavailable(tool=tool, reason=reason, retry_after_s=wait_s)
        if status in {401, 403, 407} and certain:
            return ToolUnavailable(tool=tool, reason=reason)
        if status >= 500 or status < 400 or status in {401, 403, 407, 408, 409, 425, 429}:
            return ToolUncertain(tool=tool, reason=reason, retry_after_s=wait_s)
        return ToolRefused(tool=tool, reason=reason)

    def expect(self, answer: Answer, *path: str | int) -> str:
        """The text at a path of the answer's JSON. ToolUncertain when it is not there: the request was taken, the answer is garbage."""
        found = answer.json
        for step in path:
            try:
                found = found[step]
            except (TypeError, LookupError):
                found = None
        if not isinstance(found, str) or not 1 <= len(found) <= 200 or not found.isprintable():
            raise ToolUncertain(tool=self.ref.name, reason="its answer is not what it answers")
        return found

    def on_the_other_side(self, find: Find, customer: str) -> str:
        """The customer's id there. ToolRefused when there is none."""
        found = find(customer)
        if not found:
            raise ToolRefused(tool=self.ref.name, reason="the customer is not known there")
        return found


def deadline(timeout_s: float) -> float:
    """By when, on the monotonic clock, a call that begins now must be over: a little before the outbox gives up on it."""
    return time.monotonic() + timeout_s * 0.9


def segment(value: str) -> str:
    """A value as one segment of a path."""
    return quote(value, safe="")


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw) if raw else None
    except ValueError:
        return None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds (RFC 9110, 10.2.3); a date counts from the answer's own `Date`."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal() and len(value) <= 9:
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))).total_seconds())
    except (ValueError, TypeError):
        return None
