"""A real HTTP server on this machine that speaks the shape you give it, keeps its own record, and misbehaves on demand.

What counts is its record of effects, not what it answered. No claims here; those are in `tool_contract`.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Protocol, Self
from urllib.parse import parse_qsl, urlsplit

BEFORE: Final = ("hang", "400", "429", "500", "503", "redirect", "close", "garbage-http")
"""Faults of a server that has done nothing."""
AFTER: Final = ("hang-after", "500-after", "503-after", "close-after", "half-after", "twice", "garbage-after", "drip-after", "huge-after")
"""Faults of a server that has had the effect."""
LIES: Final = ("429-after", "401-after")
"""It has had the effect and answers in words that mean that it has not."""
FAULTS: Final = (*BEFORE, *AFTER, *LIES)
CANARY: Final = "canary.bird@example.com"
"""Is in every bad answer: it must not be in a reason."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as received."""

    method: str
    path: str  # without its query
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the shape answers. `body` is JSON, None for an empty one."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Shape(Protocol):
    """How a vendor's API behaves, as far as a tool uses it. Called under a lock."""

    effects: list[str]  # the key of each effect that counted, in order: twice is twice

    def handle(self, request: Request) -> Answer: ...


class ToolServer:
    """A shape behind a real port of the loopback interface. Use it as a context manager; `faults` are used up one a request."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.faults: deque[str] = deque()
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._connections = threading.Lock()  # not the shape's, which is held for as long as an effect takes
        self._waiting: set[Any] = set()  # connections on which no whole request is at hand
        self._over = threading.Event()
        self._http = self._listener()(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def give_up(self) -> None:
        """Close accepted connections on which no whole request has come, as servers do that waited for a minute or so.

        What comes on them later is not taken, whether or not a part of it had come before.
        """
        with self._connections:
            for connection in self._waiting:
                with suppress(OSError):  # the other side is gone
                    connection.shutdown(socket.SHUT_RDWR)

    def _take(self, request: Request) -> tuple[str, Answer]:
        with self._lock:
            self.requests.append(request)
            fault = self.faults.popleft() if self.faults else ""
            return fault, Answer() if fault in BEFORE else self.shape.handle(request)

    def _listener(self) -> type[ThreadingHTTPServer]:
        server = self

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def process_request(self, request: Any, client_address: Any) -> None:
                with server._connections:  # here, and not by its thread, which may begin late
                    server._waiting.add(request)
                super().process_request(request, client_address)

            def shutdown_request(self, request: Any) -> None:
                with server._connections:
                    server._waiting.discard(request)
                super().shutdown_request(request)

        return Listener

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                if len(body) < length:
                    self.close_connection = True
                    return
                with server._connections:
                    server._waiting.discard(self.connection)
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
                fault, answer = server._take(request)
                try:
                    self.close_connection = server._answer(self, fault, answer)
                except OSError:
                    self.close_connection = True  # the other side has given up
                if not self.close_connection:
                    with server._connections:
                        server._waiting.add(self.connection)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = respond

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: a test reads `requests`."""

        return Handler

    def _answer(self, handler: BaseHTTPRequestHandler, fault: str, answer: Answer) -> bool:
        """Write an answer, or what a fault makes of it. Returns whether the connection ends."""
        kind, write = fault.removesuffix("-after"), handler.wfile.write
        good = _http(answer)
        match kind:
            case "":
                write(good)
                return False
            case "hang":
                self._over.wait(30)
            case "400" | "401" | "429" | "500" | "503":
                wait = {"Retry-After": "7"} if kind in {"429", "503"} else {}
                write(_http(Answer(int(kind), {"message": CANARY, "code": CANARY, "error": CANARY}, wait)))
            case "redirect":
                write(_http(Answer(307, None, {"Location": f"{self.url}/elsewhere"})))
            case "close":
                pass
            case "half":
                write(good[: len(good) - 3] if answer.body is not None else good[:10])
            case "twice":
                write(good + good)
                return False
            case "garbage":
                write(_http(Answer(200, [CANARY, {"ok": CANARY, "id": 7}])))
            case "garbage-http":
                write(CANARY.encode() + b"\r\n\r\n")
            case "drip":
                write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
                while not self._over.wait(0.02):
                    write(b" ")
            case "huge":
                write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n")
                while not self._over.is_set():
                    write(b" " * 65_536)
            case _:
                raise AssertionError(f"no such fault: {fault}")
        return True


def _http(answer: Answer) -> bytes:
    body = b"" if answer.body is None else json.dumps(answer.body).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
    lines = [f"HTTP/1.1 {answer.status} Said", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
