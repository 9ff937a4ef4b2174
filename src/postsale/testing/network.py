"""No network in tests: inside `no_network`, whatever reaches beyond this machine is refused, in every thread. Imports reach, errors."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from postsale.agents import reach
from postsale.errors import ToolUnreachable

_REACHING = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}
"""Audit events of Python, and which argument is the address."""

_lock = threading.Lock()
_depth = 0
_hooked = False


@contextmanager
def no_network() -> Iterator[None]:
    """Inside, a connection, a datagram or a look-up of a name raises ToolUnreachable, unless it stays on this machine; so does asking
    a planner that is no function or test model, wherever its model runs. Nests.

    Holds for all threads of the process, and for code that calls Python's sockets; a library with sockets of its own in C is not seen.
    """
    global _depth, _hooked
    with _lock:
        if not _hooked:
            sys.addaudithook(_refuse)  # cannot be taken out again; outside of the context it does nothing
            _hooked = True
        _depth += 1
    try:
        with reach.no_models("a test"):
            yield
    finally:
        with _lock:
            _depth -= 1


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    at = _REACHING.get(event) if _depth else None
    if at is None:
        return
    address = args[at] if at < len(args) else None
    host = address[0] if isinstance(address, tuple) and address else address
    if (isinstance(address, tuple) or event.startswith("socket.get")) and not _here(host):
        raise ToolUnreachable(tool="the network", during="a test")


def _here(host: Any) -> bool:
    """Whether a host is this machine. What is not an address and not "localhost" would have to be looked up first."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in {None, "", "localhost"}:
        return True
    try:
        return ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False
