"""E-mail over SMTP: at most once. Standard library only. Shape: RFC 5321; the effect's key is in the Message-ID and the envelope id.

Nothing in SMTP tells whether a message whose acknowledgement was lost has arrived, so the tool is unsafe: until the message's first
byte has left, a failure is certain and it is tried again; from then on anything but the server's acceptance goes to a person.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Any

from postsale.agents.tools.contract import Receipt, Tool
from postsale.agents.tools.sandbox import Email, SendEmail
from postsale.errors import BadDeclaration, ToolRefused, ToolUnavailable, ToolUncertain

LOCAL_PART = "effect."  # of Message-IDs, before the effect's key; `ingest.bounces` looks for it
Write = Callable[[str, str], EmailMessage | None]
"""(customer reference, template) -> the message with From, To, Subject and text; None when there is nobody to write to."""


class SmtpMessage(Tool):
    """A message to the customer. Addresses and texts are yours: `write` makes the message on your side."""

    name, version, kind, input = SendEmail.name, 1, "unsafe", Email
    timeout_s = 60.0

    def __init__(
        self,
        host: str,
        port: int,
        write: Write,
        *,
        domain: str,
        login: tuple[str, str] | None = None,
        starttls: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`domain` is yours, for Message-IDs. Without `starttls` no login is sent. Raises BadDeclaration for a login in the clear."""
        if login is not None and not starttls:
            raise BadDeclaration(what=type(self).__name__, reason="a login is sent over TLS only")
        self._host, self._port, self._write, self._domain = host, port, write, domain
        self._login, self._tls = login, (tls or ssl.create_default_context()) if starttls else None

    def call(self, arguments: Email, *, idempotency_key: str, timeout_s: float) -> Receipt:
        message = self._write(arguments.customer, arguments.template)
        if message is None:
            raise ToolRefused(tool=self.ref.name, reason="nobody to write to")
        sender, to = parseaddr(str(message["From"]))[1], parseaddr(str(message["To"]))[1]
        if not sender or not to:
            raise ToolRefused(tool=self.ref.name, reason="the message has no sender, or nobody it goes to")
        del message["Message-ID"]
        message["Message-ID"] = f"<{LOCAL_PART}{idempotency_key}@{self._domain}>"
        message["Auto-Submitted"] = "auto-generated"
        body = message.as_bytes(policy=message.policy.clone(linesep="\r\n"))
        failure: Exception | None = None
        try:
            smtp = self._ready(sender, to, idempotency_key, timeout_s)
        except (OSError, smtplib.SMTPException) as error:  # SMTPException's text may hold the address
            failure = ToolUnavailable(tool=self.ref.name, reason=f"nothing was sent: {type(error).__name__}")
        if failure is not None:
            raise failure
        try:
            return self._data(smtp, body, idempotency_key)
        finally:
            smtp.close()

    def _ready(self, sender: str, to: str, key: str, timeout_s: float) -> smtplib.SMTP:
        """A server that has said 354: it waits for the message."""
        smtp = smtplib.SMTP(self._host, self._port, timeout=timeout_s / 2)
        try:
            self._step(smtp.ehlo())
            if self._tls is not None:
                self._step(smtp.starttls(context=self._tls))
                self._step(smtp.ehlo())
            if self._login is not None:
                smtp.login(*self._login)
            dsn = smtp.has_extn("dsn")  # RFC 3461: bounces then name the effect
            self._step(smtp.mail(sender, [f"ENVID={key}"] if dsn else []))
            self._step(smtp.rcpt(to, ["NOTIFY=SUCCESS,FAILURE"] if dsn else []))
            self._step(smtp.docmd("DATA"), wanted=354)
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _step(self, reply: tuple[int, Any], wanted: int = 250) -> None:
        code = reply[0]
        if code == wanted or (wanted == 250 and 200 <= code < 300):
            return
        if 500 <= code < 600 and code not in {530, 535}:  # those are about who sends, and may be mended
            raise ToolRefused(tool=self.ref.name, reason=f"reply {code}")
        raise ToolUnavailable(tool=self.ref.name, reason=f"reply {code}")

    def _data(self, smtp: smtplib.SMTP, body: bytes, key: str) -> Receipt:
        failure: Exception
        try:
            lines = body.replace(b"\r\n.", b"\r\n..")
            lines = b"." + lines if lines.startswith(b".") else lines
            smtp.send(lines + (b"" if lines.endswith(b"\r\n") else b"\r\n") + b".\r\n")
            code, _ = smtp.getreply()
            if code == 250:
                return Receipt(receipt=f"{LOCAL_PART}{key}@{self._domain}")
            failure = ToolUncertain(tool=self.ref.name, reason=f"reply {code} after the message")
        except (OSError, smtplib.SMTPException) as error:
            failure = ToolUncertain(tool=self.ref.name, reason=f"it broke off: {type(error).__name__}")
        raise failure
