"""Agents whose evidence reaches out of the process, each in one way; and logs with a decision of such an agent.

While a decision is recorded each of them does what it does, harmlessly; in a replay it must not be able to.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from postsale.agents import Agent, Policy
from postsale.agents.evidence import HealthReading
from postsale.agents.reach import check
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import Scalar
from tests.agents.world import World

POLICY = """
name = "reaching"
version = 1
owner = "cs"
description = "Whoever has an extra."
[inputs]
extra = "integer"
failed_payments = "integer"
[[trigger]]
id = "extra"
when = { failed_payments = ">= 1" }
[[rule]]
id = "task"
when = { extra = ">= 1" }
action = "task"
tool = "crm.create_task@1"
arguments = { customer = "$customer", title = "Extra", note = "$because" }
approval = "none"
because = "{extra} extra."
[guardrails]
purpose = "service"
"""

LEAKED = os.open(os.devnull, os.O_WRONLY)  # inherited by nobody, and opened again by every process that imports this module
_libc = ctypes.CDLL(None)


def _swallowed() -> None:
    try:
        socket.socket().close()
    except OSError:
        return


def _in_a_thread() -> None:
    thread = threading.Thread(target=os.write, args=(LEAKED, b"x"))
    thread.start()
    thread.join()


def _directly() -> None:
    descriptor = _libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    if descriptor >= 0:
        os.close(descriptor)


def _deleted() -> None:
    try:
        os.unlink("/nonexistent/file")
    except FileNotFoundError:
        return


def _read_a_file() -> None:
    with open(os.devnull) as file:
        file.read()


def _forked() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def _called(number: int, *arguments: int) -> None:
    """A system call by its number of x86_64; harmless where it is allowed, since its arguments are wrong."""
    _libc.syscall(number, *arguments)


def _in_memory() -> None:
    with contextlib.suppress(OSError):
        os.close(os.memfd_create("x"))


WAYS = {
    "io_uring": lambda: _called(425, 0, 0),
    "openat2": lambda: _called(437, -1, 0, 0, 0),
    "the parent's memory": lambda: _called(311, os.getpid(), 0, 0, 0, 0, 0),
    "a signal to the parent": lambda: os.kill(os.getppid(), 0),
    "a file in memory": _in_memory,
    "a file in memory, past Python": lambda: _called(319, 0, 0),
    "a process's descriptor": lambda: _called(438, -1, 0, 0),
    "a vector to a leaked descriptor": lambda: os.writev(LEAKED, [b"x"]),
    "a socket": lambda: socket.socket().close(),
    "a socket, and says nothing of it": _swallowed,
    "a socket, past Python": _directly,
    "a file": _read_a_file,
    "a file away": _deleted,
    "a leaked descriptor": lambda: os.write(LEAKED, b"x"),
    "standard output": lambda: os.write(1, b""),
    "a program": lambda: subprocess.run(["true"], check=True),
    "a process": _forked,
    "a thread that writes": _in_a_thread,
    "a signal": lambda: os.kill(os.getpid(), 0),
    "randomness": lambda: uuid.uuid4(),
    "a module it did not import": lambda: importlib.import_module("this_is_no_module"),
    "nothing": lambda: None,
    "nothing, but prints": lambda: print("x"),  # noqa: T201
}


class Reaching(Agent):
    """Its extra is always 1; on the way there it reaches for something."""

    offers = {"extra": "integer"}  # noqa: RUF012

    def __init__(self, way: str) -> None:
        super().__init__(Policy.from_toml(POLICY))
        self.way = way

    def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> Mapping[str, Scalar]:
        with contextlib.suppress(ModuleNotFoundError):
            WAYS[self.way]()
        return {"extra": 1}


class Endless(Agent):
    """It stands still, or takes memory, or leaves, wherever it is replayed: in a process that has no PATH."""

    offers = {"extra": "integer"}  # noqa: RUF012

    def __init__(self, how: str) -> None:
        super().__init__(Policy.from_toml(POLICY))
        self.how = how

    def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> Mapping[str, Scalar]:
        if "PATH" not in os.environ:
            match self.how:
                case "stands still":
                    while True:
                        time.monotonic()
                case "takes memory":
                    bytearray(1 << 33)
                case "leaves":
                    os._exit(0)
                case "leaves politely":
                    raise SystemExit
                case "talks":
                    os.write(4, b"\xff" * 64)
                case "raises":
                    raise KeyError("what it says is not repeated")
        return {"extra": 1}


class Tempted(Agent):
    """It asks whether a tool is in reach, as every tool does before it acts."""

    offers = {"extra": "integer"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(Policy.from_toml(POLICY))

    def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> Mapping[str, Scalar]:
        check("crm.create_task@1", simulated=True)
        return {"extra": 1}


def decided(agent: Agent, **more: Any) -> World:
    """A log with one decision of this agent about c1, carried out."""
    world = World([agent], **more)
    world.mode("act", agent.name)
    world.attend(world.failed())
    return world
