"""E-mail over a real SMTP server that refuses, breaks off, hangs and lies: at most one message, and bounces name their effect."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from postsale.agents.adapters.smtp import SmtpMessage
from postsale.agents.tools import Toolbox
from postsale.aggregates.signals import MessageBounced, MessageDelivered
from postsale.errors import BadDeclaration, InvalidInput
from postsale.ingest.bounces import bounce
from postsale.testing import dispatched

ADDRESS = "canary.bird@example.com"
ARGUMENTS = {"customer": "c1", "template": "we-miss-you"}
BEFORE = ("greeting-close", "mail-451", "rcpt-451", "rcpt-550", "rcpt-close", "data-close")
AFTER = ("end-451", "end-554", "end-close", "end-hang")


def write(customer: str, template: str) -> EmailMessage | None:
    if customer != "c1":
        return None
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Care <care@acme.example>", f"Ünal <{ADDRESS}>", f"Für Sie: {template}"
    message.set_content(".\n..ein Punkt\nGrüße\n.\n")
    return message


class Mailbox:
    """What the server took over, and how it misbehaves, one fault a connection."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.envelope_ids: list[str] = []
        self.faults: list[str] = []
        self.now = ""
        self.over = asyncio.Event()

    def fault(self, step: str, server: Any) -> str | None:
        name, _, what = self.now.partition("-")
        if name != step:
            return None
        if what == "close":
            server.transport.abort()
            return "421 gone"
        return f"{what} {ADDRESS} is not liked"

    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]) -> list[str]:
        self.now = self.faults.pop(0) if self.faults else ""
        session.host_name = hostname
        if self.now == "greeting-close":
            server.transport.abort()
        return [*responses[:-1], "250-DSN", responses[-1]]

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        envelope.mail_from = address
        return self.fault("mail", server) or "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        envelope.rcpt_tos.append(address)
        return self.fault("rcpt", server) or "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.now == "data-close":
            server.transport.abort()
            return "421 gone"
        self.taken.append(envelope.content)
        if self.now == "end-hang":
            await self.over.wait()
        return self.fault("end", server) or "250 OK"


class WithDsn(SMTP):
    """The server does not know RFC 3461: its parameters are kept here and taken off."""

    async def smtp_MAIL(self, arg: str | None) -> None:
        path, _, parameters = (arg or "").partition(" ENVID=")
        if parameters:
            self.event_handler.envelope_ids.append(parameters)
        await super().smtp_MAIL(path)

    async def smtp_RCPT(self, arg: str | None) -> None:
        await super().smtp_RCPT((arg or "").partition(" NOTIFY=")[0])


class Server(Controller):
    def factory(self) -> SMTP:
        return WithDsn(self.handler, **self.SMTP_kwargs)

    def __init__(self, mailbox: Mailbox, **more: Any) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        super().__init__(mailbox, hostname="127.0.0.1", port=port, **more)


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, Server]]:
    box = Mailbox()
    server = Server(box)
    server.start()
    yield box, server
    server.loop.call_soon_threadsafe(box.over.set)
    server.stop()


def tool(server: Server, **more: Any) -> SmtpMessage:
    made = SmtpMessage("127.0.0.1", server.port, write, domain="acme.example", **{"starttls": False, **more})
    made.timeout_s = 1.0  # type: ignore[misc]
    return made


def test_a_message_arrives_whole_with_its_effects_key_and_dots_at_line_starts(mailbox: tuple[Mailbox, Server]) -> None:
    box, server = mailbox
    intent, kinds = dispatched(tool(server), ARGUMENTS)
    assert kinds[-1] == "effect/succeeded"
    (raw,) = box.taken
    assert f"Message-ID: <effect.{intent}@acme.example>".encode() in raw
    assert b"Auto-Submitted: auto-generated" in raw
    assert b"\r\n.\r\n..ein Punkt" in raw
    assert box.envelope_ids == [str(intent)]


@pytest.mark.parametrize("fault", [*BEFORE, *AFTER])
def test_through_a_fault_at_most_one_message_is_taken_over_and_what_is_not_known_goes_to_a_person(
    fault: str, mailbox: tuple[Mailbox, Server]
) -> None:
    box, server = mailbox
    box.faults = [fault]
    _, kinds = dispatched(tool(server), ARGUMENTS)
    if fault == "rcpt-550":
        assert (len(box.taken), kinds[-1]) == (0, "effect/failed")
    elif fault == "data-close":  # the message had left when the connection broke
        assert (len(box.taken), kinds[-1]) == (0, "effect/unknown")
    elif fault in BEFORE:
        assert (len(box.taken), kinds[-1]) == (1, "effect/succeeded")
    else:
        assert (len(box.taken), kinds[-1]) == (1, "effect/unknown")


@pytest.mark.parametrize("fault", [*BEFORE, *AFTER])
def test_no_reply_and_no_address_gets_into_a_reason(fault: str, mailbox: tuple[Mailbox, Server]) -> None:
    box, server = mailbox
    box.faults = [fault]
    result = Toolbox([tool(server)], sandbox=False).call("email.send@1", ARGUMENTS, idempotency_key=str(uuid4()))
    assert result.status in {"retry", "refused"}
    assert "canary" not in result.reason


def test_where_nobody_listens_nothing_was_sent() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    made = SmtpMessage("127.0.0.1", port, write, domain="acme.example", starttls=False)
    result = Toolbox([made], sandbox=False).call("email.send@1", ARGUMENTS, idempotency_key="k")
    assert (result.status, result.ambiguous) == ("retry", False)


def test_a_server_without_tls_gets_neither_login_nor_message(mailbox: tuple[Mailbox, Server]) -> None:
    box, server = mailbox
    made = tool(server, starttls=True, login=("user", "secret"))
    result = Toolbox([made], sandbox=False).call("email.send@1", ARGUMENTS, idempotency_key="k")
    assert (result.status, result.ambiguous, box.taken) == ("retry", False, [])
    with pytest.raises(BadDeclaration, match="TLS"):
        tool(server, login=("user", "secret"))


def test_a_server_whose_certificate_is_not_trusted_gets_nothing_and_one_that_is_does(tmp_path: Any) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "pem"
    unlocked = serialization.NoEncryption()
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unlocked)
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    box = Mailbox()
    server = Server(box, tls_context=context, require_starttls=True)
    server.start()
    try:
        trusting = ssl.create_default_context()
        trusting.load_verify_locations(pem)
        doubting = tool(server, starttls=True)
        result = Toolbox([doubting], sandbox=False).call("email.send@1", ARGUMENTS, idempotency_key="k")
        assert (result.status, result.ambiguous, box.taken) == ("retry", False, [])
        result = Toolbox([tool(server, starttls=True, tls=trusting)], sandbox=False).call("email.send@1", ARGUMENTS, idempotency_key="k")
        assert (result.status, len(box.taken)) == ("done", 1)
    finally:
        server.stop()


def test_nobody_to_write_to_is_a_refusal(mailbox: tuple[Mailbox, Server]) -> None:
    _, server = mailbox
    result = Toolbox([tool(server)], sandbox=False).call("email.send@1", {**ARGUMENTS, "customer": "c2"}, idempotency_key="k")
    assert (result.status, result.reason) == ("refused", "nobody to write to")


# ---------------------------------------------------------------- bounces

EFFECT = UUID("6f9619ff-8b86-5011-b42d-00c04fc964ff")


def notification(action: str = "failed", status: str = "5.1.1", envid: str = str(EFFECT), original: str = "", date: str = "") -> bytes:
    report = f"Reporting-MTA: dns; mx.example.com\r\n{f'Original-Envelope-Id: {envid}' if envid else 'X-None: 1'}\r\n\r\n"
    about = f"Final-Recipient: rfc822; {ADDRESS}\r\nAction: {action}\r\nStatus: {status}\r\n\r\n"
    returned = f"--b\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: {original}\r\nTo: {ADDRESS}\r\n\r\n" if original else ""
    head = (
        f"From: MAILER-DAEMON@example.com\r\nDate: {date or 'Mon, 05 Jan 2026 13:00:00 +0100'}\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
    )
    text = f"--b\r\nContent-Type: text/plain\r\n\r\nSorry, {ADDRESS}\r\n"
    return f"{head}{text}--b\r\nContent-Type: message/delivery-status\r\n\r\n{report}{about}{returned}--b--\r\n".encode()


@pytest.mark.parametrize(("action", "status", "permanent"), [("failed", "5.1.1", True), ("delayed", "4.4.1", False)])
def test_a_bounce_names_its_effect_and_whether_it_is_for_good(action: str, status: str, permanent: bool) -> None:
    found = bounce(notification(action, status))
    assert found is not None
    assert found.effect == EFFECT
    assert isinstance(found.signal, MessageBounced)
    assert (found.signal.permanent, found.signal.code) == (permanent, status)
    assert found.signal.occurred_at == datetime(2026, 1, 5, 12, tzinfo=UTC)
    assert "canary" not in repr(found)


def test_a_bounce_without_our_envelope_id_is_known_by_the_message_id_of_what_came_back() -> None:
    found = bounce(notification(envid="", original=f"<effect.{EFFECT}@acme.example>"))
    assert found is not None
    assert found.effect == EFFECT


def test_a_delivery_is_told_too_and_relays_and_other_messages_are_not() -> None:
    found = bounce(notification("delivered", "2.0.0"))
    assert found is not None
    assert isinstance(found.signal, MessageDelivered)
    assert bounce(notification("relayed", "2.0.0")) is None
    assert bounce(b"Subject: hello\r\n\r\nHow are you?") is None
    assert bounce(b"") is None


def test_the_same_notification_gives_the_same_signal_and_another_one_another() -> None:
    one, two, other = (bounce(raw) for raw in (notification(), notification(), notification(status="5.2.2")))
    assert one == two
    assert one is not None
    assert other is not None
    assert one.signal.id != other.signal.id


@pytest.mark.parametrize(
    "raw",
    [
        notification(envid="", original="<other@example.com>"),
        notification(envid="not-one-of-ours"),
        notification(action="exploded"),
        notification(status="oh no"),
        notification(date="someday"),
        notification().replace(b"Action:", b"Axtion:"),
        b"x" * 10_000_001,
    ],
)
def test_a_notification_that_cannot_be_used_is_an_error_that_names_the_field_and_no_address(raw: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        bounce(raw)
    assert "canary" not in str(caught.value)
