"""Rule decisions and effects, everything recorded on a durable SQLite log; effects go to a server in a process of its own.

`python -m benchmarks.agents --json --size 2000`. The limits, in the same run: for decisions the bare deciding, with nothing read and
nothing recorded; for dispatch the same requests sent by the same client with no log. Singly is a visit for each customer, on one thread or
on several; together is what `postsale run` does. Before a rate is reported, the server's own record must have each effect exactly once.

From trigger to effect: facts are recorded by a schedule, whatever becomes of them, and time runs from when a fact was due to be recorded
until the server, by its own record, had the effect.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from benchmarks._common import fastest, measure, options, report, seconds_in_threads
from benchmarks._policy import dunning
from postsale.access import FileVault, Person
from postsale.agents import Agent
from postsale.agents.adapters.webhook import Webhook
from postsale.agents.decide import Case, decide
from postsale.agents.engines import EmbeddedEngine
from postsale.agents.engines.edges import watching
from postsale.agents.engines.engine import Visit
from postsale.agents.guardrails import Context
from postsale.agents.tools import Tool, Toolbox
from postsale.agents.tools.sandbox import Task
from postsale.agents.work import Work, load, together
from postsale.aggregates.decisions import ReadRef
from postsale.aggregates.identity import customer_stream
from postsale.aggregates.signals import InvoicePaymentFailed
from postsale.events import Lane, StoredEvent, StreamId, SystemClock, derive_id
from postsale.store import Query, SQLiteStore
from postsale.store.log import Cause, Log

DECISIONS_GOAL, DISPATCH_GOAL = 2_000.0, 500.0
RATE, P99_GOAL_MS = 200, 150.0  # triggers per second that are offered
THREADS = 8
_SECRET = "a-secret-that-is-long-enough"


class BenchTask(Webhook):
    """A task at a server that counts each key once."""

    name, version, input = "bench.task", 1, Task


class Bench:
    """A log with one failed payment per customer, watched: a trigger each."""

    def __init__(self, folder: Path, size: int, tool: Tool) -> None:
        clock = SystemClock()
        self.log = Log(SQLiteStore(folder / "log.db", clock=clock), FileVault(folder / "log.keys"), clock)
        self.engine = EmbeddedEngine(self.log, [Agent(dunning("bench.task@1"))], Toolbox([tool], sandbox=False))
        self.engine.set_mode("acme", "dunning", "act", person=Person("benchmarks", "os-user"), reason="benchmark")
        self.streams = [customer_stream("acme", f"c{i:06d}") for i in range(size)]
        now = datetime.now(UTC)
        facts = []
        for stream in self.streams:
            failed = InvoicePaymentFailed(source="bench", id=stream.id, occurred_at=now, amount_minor=4_900, currency="EUR", attempt=2)
            facts.append(self.log.fact(stream, failed, said_of=stream.id, subject=stream.id, cause=Cause()))
        for at in range(0, size, 1_000):
            self.log.append(facts[at : at + 1_000])
        fact_of = {event.stream: event for event in self.log.store.read(Query(tenant="acme", lane=Lane.FACT))}
        self.together(lambda engine, stream: _watched(engine, stream, fact_of[stream]))

    def together(self, work: Callable[[EmbeddedEngine, StreamId], Work[Any]]) -> list[Any]:
        """Do a work for each customer, many at a time; what each returned."""
        engine = self.engine.pooled()
        done = dict(together(engine.desk, (work(engine, stream) for stream in self.streams)))
        for result in done.values():
            if isinstance(result, Exception):
                raise result
        return [done[no] for no in range(len(self.streams))]

    def decide(self, stream: StreamId) -> None:
        for trigger in list(self.log.customer(stream).pending):
            self.engine.handle(stream, trigger)

    def close(self) -> None:
        self.log.store.close()
        self.log.vault.close()


def _watched(engine: EmbeddedEngine, stream: StreamId, fact: StoredEvent) -> Work[int]:
    raised, _, _ = yield from watching(engine, (yield from load(stream)), fact, None)
    return raised


# ---------------------------------------------------------------- the server


class Server:
    """A process of its own that counts keys."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def counts(self) -> dict[str, int]:
        return self._get("/count")

    def times(self) -> dict[str, float]:
        """When the effects of each customer arrived, by `time.monotonic`."""
        return self._get("/times")

    def _get(self, path: str) -> dict[str, Any]:
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", path)
        found: dict[str, Any] = json.loads(connection.getresponse().read())
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


def deciding(folder: Path, size: int, how: str) -> float:
    bench = Bench(folder, size, BenchTask("http://127.0.0.1:9/", _SECRET))
    try:
        if how == "threads":
            return in_threads(bench.streams, bench.decide)
        start = time.perf_counter()
        if how == "together":
            made = sum(len(done.decided) for done in bench.together(lambda engine, stream: engine.visiting(stream)))
            if made != size:
                raise AssertionError(f"{made} decisions, expected {size}")
        else:
            for stream in bench.streams:
                bench.decide(stream)
        return time.perf_counter() - start
    finally:
        bench.close()


def bare_deciding(size: int) -> float:
    """The same decisions from values at hand: pure, nothing read, nothing kept."""
    agent = Agent(dunning("bench.task@1"))
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


def dispatching(folder: Path, size: int, server: Server, pooled: bool) -> float:
    tool = BenchTask(f"{server.url}/tasks", _SECRET)
    bench = Bench(folder, size, tool)
    try:
        bench.together(lambda engine, stream: engine.visiting(stream))
        before = server.counts()
        if pooled:
            start = time.perf_counter()
            bench.together(lambda engine, stream: engine.outbox.dispatching(stream))
            seconds = time.perf_counter() - start
        else:
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


def from_trigger_to_effect(folder: Path, offsets_s: Sequence[float], server: Server) -> list[float]:
    """Seconds from when each fact was due to be recorded until its effect had arrived, ascending."""
    tool = BenchTask(f"{server.url}/tasks", _SECRET)
    bench = Bench(folder, 0, tool)
    log, engine, store = bench.log, bench.engine, bench.log.store
    refs = [f"t{i:06d}" for i in range(len(offsets_s))]
    due: dict[str, float] = {}
    failed: list[BaseException] = []

    def record() -> None:
        began = time.monotonic()
        try:
            for ref, offset_s in zip(refs, offsets_s, strict=True):
                due[ref] = began + offset_s
                time.sleep(max(0.0, due[ref] - time.monotonic()))
                stream, now = customer_stream("acme", ref), datetime.now(UTC)
                fact = InvoicePaymentFailed(source="bench", id=ref, occurred_at=now, amount_minor=4_900, currency="EUR", attempt=2)
                log.append([log.fact(stream, fact, said_of=ref, subject=ref, cause=Cause())])
        except BaseException as error:
            failed.append(error)

    try:
        before, at, seen = server.counts(), store.head(), 0
        source = threading.Thread(target=record)
        source.start()
        while seen < len(refs) and not failed:
            store.wait(at, 1.0)
            facts = list(store.read(Query(tenant="acme", lane=Lane.FACT, after=at)))
            at = facts[-1].position if facts else at
            seen += len(facts)
            for _, done in engine.attend_many(Visit(fact.stream, fact) for fact in facts):
                if isinstance(done, Exception):
                    raise done
        source.join()
        if failed:
            raise failed[0]
        after, arrived = server.counts(), server.times()
        got = {name: after[name] - before[name] for name in after}
        if got != {"keys": len(refs), "requests": len(refs)}:
            raise AssertionError(f"the server's record has {got}, expected each of {len(refs)} effects once")
        return sorted(arrived[ref] - due[ref] for ref in refs)
    finally:
        tool.close()
        bench.close()


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=800, rounds=1)
    size = chosen.size
    with a_server() as server:
        seconds = fastest(
            chosen.rounds,
            one=lambda folder: deciding(folder, size, "one"),
            many=lambda folder: deciding(folder, size, "threads"),
            together=lambda folder: deciding(folder, size, "together"),
            bare=lambda _: bare_deciding(size),
            dispatch=lambda folder: dispatching(folder, size, server, pooled=False),
            pooled=lambda folder: dispatching(folder, size, server, pooled=True),
            send=lambda _: bare_sending(size, server),
        )
        with tempfile.TemporaryDirectory() as folder:
            waits = from_trigger_to_effect(Path(folder), [i / RATE for i in range(min(size, 5 * RATE))], server)
    rate = {name: size / taken for name, taken in seconds.items()}
    measures = [
        measure("rule decisions, recorded, 1 thread", rate["one"], "decisions/s", limit=rate["bare"]),
        measure(f"rule decisions, recorded, {THREADS} threads", rate["many"], "decisions/s", limit=rate["bare"]),
        measure("rule decisions, recorded, together", rate["together"], "decisions/s", goal=DECISIONS_GOAL, limit=rate["bare"]),
        measure(f"effects, recorded, {THREADS} threads", rate["dispatch"], "effects/s", limit=rate["send"]),
        measure("effects, recorded, together", rate["pooled"], "effects/s", goal=DISPATCH_GOAL, limit=rate["send"]),
        measure(f"from trigger to effect, median at {RATE} triggers/s", 1_000 * waits[len(waits) // 2], "ms", most=True),
        measure(
            f"from trigger to effect, p99 at {RATE} triggers/s", 1_000 * waits[len(waits) * 99 // 100], "ms", goal=P99_GOAL_MS, most=True
        ),
    ]
    return report("agents", measures, only_json=chosen.json)


if __name__ == "__main__":
    main()
