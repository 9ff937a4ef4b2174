"""A TCP proxy in front of a PostgreSQL server: cuts connections where a test asks for it, and plays a transaction pooler.

It reads as much of the protocol as that needs: the type and length of each message.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo

Message = tuple[bytes, bytes]
"""Type (one byte; empty for the first message of a client) and everything, length included."""


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = source.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def messages(source: socket.socket, *, first: bool = False) -> Iterator[Message]:
    """What one side says, message by message, until it hangs up."""
    with suppress(EOFError, OSError):
        while True:
            kind = b"" if first else _exactly(source, 1)
            length = _exactly(source, 4)
            yield kind, kind + length + _exactly(source, int.from_bytes(length) - 4)
            first = False


class Proxy:
    """Passes everything on. `cut_after(text)`: the next client message with this text reaches the server, no answer comes back."""

    def __init__(self, url: str) -> None:
        parts = conninfo_to_dict(url)
        self._path = f"{parts['host']}/.s.PGSQL.{parts.get('port') or 5432}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = make_conninfo(url, host="127.0.0.1", port=self._listener.getsockname()[1], sslmode="disable", gssencmode="disable")
        self.cuts = 0
        self._cut: bytes | None = None
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, text: bytes) -> None:
        self._cut = text

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._path)
            except OSError:
                client.close()
                continue
            for run in (self._ask, self._answer):
                threading.Thread(target=run, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        for _, message in messages(client, first=True):
            cut = self._cut is not None and self._cut in message
            if cut:
                self._cut = None
                client.shutdown(socket.SHUT_RDWR)  # before the server can answer
                self.cuts += 1
            try:
                server.sendall(message)
            except OSError:
                break
            if cut:
                # The server answers into the void; it hangs up when it is done.
                with suppress(OSError):
                    server.shutdown(socket.SHUT_WR)
                return
        with suppress(OSError):
            server.close()

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                client.sendall(data)
        for side in (client, server):
            with suppress(OSError):
                side.close()

    def close(self) -> None:
        self._listener.close()


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
