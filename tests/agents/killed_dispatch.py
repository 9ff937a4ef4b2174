"""A process that has one effect and dies at a step of it by SIGKILL, or stands still there: `python -m tests.agents.killed_dispatch`,
a JSON line per run, or `{"go_on": PID}` for one that stands still.

It forks for each run, so that a run costs no start of an interpreter. A step is the moment before each thing that anybody else can see,
which is also the moment after the one before: a write to the log or to its records, a connection, a piece sent or received; and the end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from postsale.access import FileVault, Person
from postsale.agents import Agent
from postsale.agents.adapters.slack import SlackMessage
from postsale.agents.adapters.webhook import Webhook
from postsale.agents.engines import EmbeddedEngine
from postsale.agents.engines.engine import Visit
from postsale.agents.tools import Rate, Tool, Toolbox
from postsale.aggregates.identity import customer_stream
from postsale.aggregates.signals import InvoicePaymentFailed
from postsale.events import ManualClock, NewEvent
from postsale.store import SQLiteStore
from postsale.store.log import Cause, Log
from postsale.testing.tool_contract import one_effect
from tests.agents.shapes import TOKEN
from tests.agents.test_adapters import Told

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
ARGUMENTS = {"customer": "c1", "text": "They are leaving."}
STREAM = customer_stream("acme", "c1")


class Hook(Webhook):
    name, version, input = "acme.hook", 1, Told
    max_attempts, breaker_after, rate = 50, 50, Rate(5, 1.0)


class BlindHook(Hook):
    kind = "unsafe"


class Message(SlackMessage):
    max_attempts, breaker_after, rate = 50, 50, Rate(5, 1.0)


def tool_of(kind: str, url: str) -> Tool:
    if kind == "queryable":
        return Message(TOKEN, "C1", base_url=url)
    return (Hook if kind == "idempotent" else BlindHook)(url, TOKEN, clock=lambda: 1_000.0)


class Steps:
    """Counts steps, and dies at one of them; or stands still there, and does `woken` when it goes on."""

    def __init__(self, die_at: int, woken: Callable[[], None] | None = None) -> None:
        self.die_at, self.woken, self.done = die_at, woken, 0
        self.last_word: Callable[[str], None] = lambda _: None  # with what would have come next

    def step(self, of: str = "end") -> None:
        self.done += 1
        if self.done == self.die_at:
            self.last_word(of)
            if self.woken is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # one sent to the process lets this thread run on for a while
                self.woken()

    def before(self, owner: Any, *names: str) -> None:
        for name in names:
            setattr(owner, name, self._wrapped(name, getattr(owner, name)))

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if name.startswith("recv") and self.done + 1 == self.die_at:
                select.select([args[0]], [], [])  # minutes pass when it is gone: the other side has done what it does with the request
            self.step(name)
            return function(*args, **kwargs)

        return wrapped


def run(folder: Path, url: str, kind: str, minutes: int, die_at: int, many: int = 0, still: int = 0) -> None:
    """Set up what is missing, then visit the customer at START plus minutes; without `die_at` until nothing waits any more.

    `many`: visit so many customers together. `still`: it does not die but stands still, and when it goes on so many minutes have passed.
    """
    clock = ManualClock(START + timedelta(minutes=minutes))
    store = SQLiteStore(folder / "log.db", clock=clock)
    tool = tool_of(kind, url)
    log = Log(store, FileVault(folder / "log.keys"), clock)
    engine = EmbeddedEngine(log, [Agent(one_effect(tool, ARGUMENTS))], Toolbox([tool], sandbox=False))
    engine.install("acme", "contract")
    engine.set_mode("acme", "contract", "act", person=Person("tests", "os-user"), reason="test")
    streams = [customer_stream("acme", f"c{i}") for i in range(1, (many or 1) + 1)]
    facts = []
    for stream in streams:
        failed = InvoicePaymentFailed(source="test", id=stream.id, occurred_at=START, amount_minor=1, currency="EUR")
        facts.append(log.fact(stream, failed, said_of=stream.id, subject=stream.id, cause=Cause()))
    log.append(facts)

    def attend(causes: list[NewEvent | None]) -> int | None:
        """When to come back."""
        if not many:
            (cause,) = causes
            return engine.attend(STREAM, cause and store.find("acme", cause.event_id)).next_due_us
        visits = [Visit(s, cause and store.find("acme", cause.event_id)) for s, cause in zip(streams, causes, strict=True)]
        due = []
        for _, done in engine.attend_many(visits):
            if isinstance(done, Exception):
                raise done
            due.append(done.next_due_us)
        return min((x for x in due if x is not None), default=None)

    if die_at >= 0:

        def woken() -> None:
            clock.advance(timedelta(minutes=still))
            real = time.monotonic
            time.monotonic = lambda: real() + 60 * still

        steps = Steps(die_at, woken if still else None)
        steps.before(store, "append")
        steps.before(store.kv, "put")
        steps.before(socket.socket, "connect", "send", "sendall", "recv")
        due = attend([*facts])
        while due is not None and not die_at:
            clock.move_to(max(due, clock.now_us()))
            due = attend([None] * len(streams))
        steps.step()
    store.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, closing(socket.create_server(("127.0.0.1", 0))) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        run(Path(folder), url, "idempotent", 0, -1)  # what is computed once in a process is there before it forks
    for line in sys.stdin:
        order = json.loads(line)
        if "go_on" in order:
            child = order["go_on"]
            os.kill(child, signal.SIGCONT)
        else:
            child = os.fork()
        if not child:
            try:
                run(Path(order.pop("folder")), **order)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, os.WUNTRACED)
        sys.stdout.write(f"{child if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
