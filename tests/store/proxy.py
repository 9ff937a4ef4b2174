"""A TCP proxy in front of a PostgreSQL server: cuts connections where a test asks for it, and plays a transaction pooler.

It reads as much of the protocol as that needs: the type and length of each message.
"""

from __future__ import annotations

import random
import select
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
        port = self._listener.getsockname()[1]
        self.url = make_conninfo(url, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
        self.cuts = 0
        self._cut: bytes | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, text: bytes) -> None:
        self._cut = text

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone would leave `_accept` waiting
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _dial(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._path)
        return server

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), self._dial() as server:
            threading.Thread(target=self._answer, args=(client, server), daemon=True).start()
            for _, message in messages(client, first=True):
                if self._cut is not None and self._cut in message:
                    self._cut = None
                    self.cuts += 1
                    client.shutdown(socket.SHUT_RDWR)  # before the server can answer
                    server.sendall(message)
                    server.shutdown(socket.SHUT_WR)  # it does what it was told, then sees that nobody is there
                    while server.recv(65_536):
                        pass
                    return
                server.sendall(message)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


class Pooler(Proxy):
    """A few connections to the server for any number of clients. Whoever begins a transaction gets one at random, until it ends."""

    def __init__(self, url: str, size: int = 3) -> None:
        self._idle: list[socket.socket] = []
        self._size = size
        self._made = 0
        self._changed = threading.Condition()
        super().__init__(url)

    def close(self) -> None:
        super().close()
        with self._changed:
            for server in self._idle:
                server.close()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError, StopIteration):
            said = messages(client, first=True)
            _, hello = next(said)
            with self._dial() as greeter:  # only for what a client is told at the beginning
                greeter.sendall(hello)
                for kind, message in messages(greeter):
                    client.sendall(message)
                    if kind == b"Z":
                        break
            for kind, message in said:
                if kind == b"X":
                    return
                server = self._take(hello)
                server.sendall(message)
                self._transaction(client, server)

    def _transaction(self, client: socket.socket, server: socket.socket) -> None:
        """Pass messages on until the server is ready and in no transaction."""
        while True:
            for side in select.select([client, server], [], [])[0]:
                kind = _exactly(side, 1)
                length = _exactly(side, 4)
                message = kind + length + _exactly(side, int.from_bytes(length) - 4)
                (client if side is server else server).sendall(message)
                if side is server and kind == b"Z" and message[-1:] == b"I":
                    with self._changed:
                        self._idle.append(server)
                        self._changed.notify()
                    return

    def _take(self, hello: bytes) -> socket.socket:
        with self._changed:
            if self._made < self._size:
                self._made += 1
                server = self._dial()
                server.sendall(hello)
                for kind, _ in messages(server):
                    if kind == b"Z":
                        return server
            self._changed.wait_for(lambda: self._idle)
            return self._idle.pop(random.randrange(len(self._idle)))


@contextmanager
def proxied(url: str, kind: type[Proxy] = Proxy) -> Iterator[Proxy]:
    proxy = kind(url)
    try:
        yield proxy
    finally:
        proxy.close()
