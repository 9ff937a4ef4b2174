"""Webhooks: a signed POST to an endpoint of your own, and the check that its receiver makes.

Subclass `Webhook` with a name and an input. The receiver must count each `Idempotency-Key` once: with that the tool is idempotent.
The signature is `t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.key.body">` in the header `Postsale-Signature`.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from postsale.agents.adapters.http import Client, HttpTool, deadline
from postsale.agents.tools.contract import Receipt, ToolKind
from postsale.errors import BadDeclaration, InvalidInput
from postsale.events import canonical

SIGNATURE = "Postsale-Signature"


class Webhook(HttpTool):
    """POSTs `{"arguments": …, "effect": key, "tool": name@version}`; any 2xx is done, and JSON with a text `receipt` is its receipt."""

    kind: ClassVar[ToolKind] = "idempotent"

    def __init__(self, url: str, secret: str, *, clock: Callable[[], float] = time.time, client: Client | None = None) -> None:
        """`secret` is shared with the receiver, of 16 characters or more."""
        if len(secret) < 16:
            raise BadDeclaration(what=type(self).__name__, reason="expected a secret of 16 characters or more")
        parts = urlsplit(url)
        super().__init__(f"{parts.scheme}://{parts.netloc}", client=client)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._secret, self._clock = secret, clock

    def call(self, arguments: BaseModel, *, idempotency_key: str, timeout_s: float) -> Receipt:
        said = {"arguments": arguments.model_dump(mode="json"), "effect": idempotency_key, "tool": self.ref.name}
        body = canonical(said)
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": idempotency_key,
            SIGNATURE: sign(body, idempotency_key, self._secret, int(self._clock())),
        }
        answer = self.send("POST", self._path, deadline_s=deadline(timeout_s), headers=headers, content=body)
        given: Any = answer.json.get("receipt", "") if isinstance(answer.json, Mapping) else ""
        return Receipt(receipt=given if isinstance(given, str) and len(given) <= 200 and given.isprintable() else "")


def sign(body: bytes, key: str, secret: str, at_s: int) -> str:
    """The header's value for a body, the effect's key and a time in whole Unix seconds."""
    signed = b"%d.%s.%s" % (at_s, key.encode(), body)
    return f"t={at_s},v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def verify(body: bytes, key: str | None, signature: str | None, secrets: Sequence[str], now_s: float, tolerance_s: int = 300) -> None:
    """Return when one of the secrets signed exactly this body and key, at most `tolerance_s` from now; else InvalidInput.

    For the receiver. `body` as received, before any parsing; several secrets during a rotation.
    """
    stamp, _, given = (signature or "")[:200].partition(",")
    at = stamp.removeprefix("t=")
    if not key or not stamp.startswith("t=") or not (at.isascii() and at.isdecimal() and len(at) <= 12) or not given.startswith("v1="):
        raise InvalidInput(what="webhook", field=SIGNATURE, reason="expected a key, and t=…,v1=…")
    good = False
    for secret in secrets:
        good |= hmac.compare_digest(sign(body, key, secret, int(at)).encode(), f"t={at},{given}".encode("utf-8", "replace"))
    if not good:
        raise InvalidInput(what="webhook", field=SIGNATURE, reason="it does not fit the body and key under the given secrets")
    if abs(now_s - int(at)) > tolerance_s:
        raise InvalidInput(what="webhook", field=SIGNATURE, reason=f"signed more than {tolerance_s} s from now")
