"""Rule decisions and effects, everything recorded on a durable SQLite log; effects go to a server in a process of its own.

`python -m benchmarks.agents --json --size 2000`. The limits, in the same run: for decisions the bare deciding, with nothing read and
nothing recorded; for dispatch the same requests sent by the same client with no log. Before a rate is reported, the server's own
record must have each effect exactly once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from benchmarks._common import fastest, measure, options, report, seconds_in_threads
from postsale.access import FileVault, Person
from postsale.agents import Agent, Policy
from postsale.agents.adapters.webhook import Webhook
from postsale.agents.decide import Case, decide
from postsale.agents.engines import EmbeddedEngine
from postsale.agents.guardrails import Context
from postsale.agents.tools import Tool, Toolbox
from postsale.agents.tools.sandbox import Task
from postsale.aggregates.decisions import ReadRef
from postsale.aggregates.identity import customer_stream
from postsale.aggregates.signals import InvoicePaymentFailed
from postsale.events import Lane, StoredEvent, StreamId, SystemClock, derive_id
from postsale.store import Query, SQLiteStore
from postsale.store.log import Cause, Log

DECISIONS_GOAL, DISPATCH_GOAL = 2_000.0, 500.0
THREADS = 8
_SECRET = "a-secret-that-is-long-enough"
_POLICY = """
name = "dunning"
version = 1
owner = "benchmarks"
description = "A task for whoever's payment fails twice."
[inputs]
failed_payments = "integer"
mrr_minor = "integer"
segment = "text"
[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }
[[rule]]
id = "large"
when = { segment = "enterprise", mrr_minor = "> 1000000" }
action = "none"
because = "A person has it."
[[rule]]
id = "task"
when = { failed_payments = ">= 1" }
action = "task"
tool = "bench.task@1"
arguments = { customer = "$customer", title = "Payment failing", note = "$because" }
approval = "none"
because = "{failed_payments} failed."
[guardrails]
purpose = "service"
max_depth = 2
[[guardrails.frequency]]
count = 5
days = 30
"""


class BenchTask(Webhook):
    """A task at a server that counts each key once."""

    name, version, input = "bench.task", 1, Task


class Bench:
    """A log with one failed payment per customer, watched: a trigger each."""

    def __init__(self, folder: Path, size: int, tool: Tool) -> None:
        clock = SystemClock()
        self.log = Log(SQLiteStore(folder / "log.db", clock=clock), FileVault(folder / "log.keys"), clock)
        self.engine = EmbeddedEngine(self.log, [Agent(Policy.from_toml(_POLICY))], Toolbox([tool], sandbox=False))
        self.engine.set_mode("acme", "dunning", "act", person=Person("benchmarks", "os-user"), reason="benchmark")
        self.streams = [customer_stream("acme", f"c{i:06d}") for i in range(size)]
        now = datetime.now(UTC)
        facts = []
        for stream in self.streams:
            failed = InvoicePaymentFailed(source="bench", id=stream.id, occurred_at=now, amount_minor=4_900, currency="EUR", attempt=2)
            facts.append(self.log.fact(stream, failed, said_of=stream.id, subject=stream.id, cause=Cause()))
        for at in range(0, size, 1_000):
            self.log.append(facts[at : at + 1_000])
        for stream in self.streams:
            self.engine.watch(stream, self._fact(stream))

    def _fact(self, stream: StreamId) -> StoredEvent:
        return next(iter(self.log.store.read(Query(tenant=stream.tenant, streams=(stream,), lane=Lane.FACT))))

    def decide(self, stream: StreamId) -> None:
        for trigger in list(self.log.customer(stream).pending):
            self.engine.handle(stream, trigger)

    def close(self) -> None:
        self.log.store.close()
        self.log.vault.close()


# ---------------------------------------------------------------- the server


class Server:
    """A process of its own that counts keys."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def counts(self) -> dict[str, int]:
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/count")
        found: dict[str, int] = json.loads(connection.getresponse().read())
        connection.close()
        return found


@contextmanager
def a_server() -> Iterator[Server]:
    command = [sys.executable, "-m", "benchmarks._effects_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            process.terminate()


# ---------------------------------------------------------------- what is timed


def in_threads(streams: list[StreamId], do: Callable[[StreamId], Any]) -> float:
    """Seconds for all streams, spread over THREADS threads."""

    def run(index: int) -> None:
        for stream in streams[index::THREADS]:
            do(stream)

    return seconds_in_threads(run, THREADS)


def deciding(folder: Path, size: int, threads: bool) -> float:
    bench = Bench(folder, size, BenchTask("http://127.0.0.1:9/", _SECRET))
    try:
        if threads:
            return in_threads(bench.streams, bench.decide)
        start = time.perf_counter()
        for stream in bench.streams:
            bench.decide(stream)
        return time.perf_counter() - start
    finally:
        bench.close()


def bare_deciding(size: int) -> float:
    """The same decisions from values at hand: pure, nothing read, nothing kept."""
    agent = Agent(Policy.from_toml(_POLICY))
    refs = Toolbox([BenchTask("http://127.0.0.1:9/", _SECRET)]).refs
    evidence = {"failed_payments": 1, "mrr_minor": 0, "segment": None}
    context = Context(local_time="12:00", time_zone="UTC", consent={}, touches={30: 0})
    start = time.perf_counter()
    for i in range(size):
        case = Case(
            trigger_id=derive_id("bench", i),
            condition="failing",
            depth=0,
            mode="act",
            decided_at_us=1_700_000_000_000_000,
            read_set=(ReadRef(stream="acme/customers/c", fact_position=1, decision_version=0),),
            evidence=evidence,
            context=context,
            tools=refs,
        )
        decide(agent.spec, agent.policy, case, lambda _: "0" * 64)
    return time.perf_counter() - start


def dispatching(folder: Path, size: int, server: Server) -> float:
    tool = BenchTask(f"{server.url}/tasks", _SECRET)
    bench = Bench(folder, size, tool)
    try:
        in_threads(bench.streams, bench.decide)
        before = server.counts()
        seconds = in_threads(bench.streams, bench.engine.outbox.dispatch)
        after = server.counts()
        got = {name: after[name] - before[name] for name in after}
        if got != {"keys": size, "requests": size}:
            raise AssertionError(f"the server's record has {got}, expected each of {size} effects once")
        return seconds
    finally:
        tool.close()
        bench.close()


def bare_sending(size: int, server: Server) -> float:
    """The same client and requests, with no log behind them."""
    tool = BenchTask(f"{server.url}/tasks", _SECRET)
    streams = [customer_stream("acme", f"c{i:06d}") for i in range(size)]

    def send(stream: StreamId) -> None:
        task = Task(customer=stream.id, title="Payment failing", note="1 failed.")
        tool.call(task, idempotency_key=f"bare-{time.perf_counter_ns()}-{stream.id}", timeout_s=30.0)

    try:
        return in_threads(streams, send)
    finally:
        tool.close()


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=2_000, rounds=3)
    size = chosen.size
    with a_server() as server:
        seconds = fastest(
            chosen.rounds,
            one=lambda folder: deciding(folder, size, threads=False),
            many=lambda folder: deciding(folder, size, threads=True),
            bare=lambda _: bare_deciding(size),
            dispatch=lambda folder: dispatching(folder, size, server),
            send=lambda _: bare_sending(size, server),
        )
    rate = {name: size / taken for name, taken in seconds.items()}
    measures = [
        measure("rule decisions, recorded, 1 thread", rate["one"], "decisions/s", limit=rate["bare"]),
        measure(f"rule decisions, recorded, {THREADS} threads", rate["many"], "decisions/s", goal=DECISIONS_GOAL, limit=rate["bare"]),
        measure(f"effects, recorded, {THREADS} threads", rate["dispatch"], "effects/s", goal=DISPATCH_GOAL, limit=rate["send"]),
    ]
    return report("agents", measures, only_json=chosen.json)


if __name__ == "__main__":
    main()
