"""How long after it was offered a signal is in the health view, while a thousand a second arrive. Part of `benchmarks.live`.

Signals are offered at fixed times, whether or not the ones before are done, by the threads of this process, each of which records one at a
time, durably; a projector in a process of its own folds. Time runs from when a signal was due to be recorded to the commit of the view that
holds it, so a stall counts against everything that was due in it. The limit is the same up to the answer of `record`: nothing can be
seen before it is stored.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks._common import measure, seconds_in_threads
from postsale import PostSale
from postsale.aggregates.signals import InvoicePaid, Signal, TicketOpened, UsageObserved
from postsale.projections.projector import Turn
from postsale.store.postgres_schema import DEFAULT_SCHEMA

GOAL_MS = 50.0
OFFERED_PER_S = 1_000
_THREADS = 32
_CUSTOMERS = 200


def visible(size: int, folder: Path) -> list[dict[str, Any]]:
    """Measures for a file, and for a server where there is one to start; `size` signals each."""
    measures = _measures("SQLite", size, f"sqlite:///{folder / 'live.db'}", {})
    with _server() as server:
        if server is not None:
            url, schema = server
            measures += _measures("PostgreSQL", size, url, {"schema": schema, "keys": str(folder / "live.keys-pg")})
    return measures


def _measures(where: str, size: int, url: str, options: dict[str, str]) -> list[dict[str, Any]]:
    with PostSale.open(url, **options) as ps:  # type: ignore[arg-type]
        acme = ps.tenant("acme")
        acme.record_many((f"cus_{n}", _signal(-1, n)) for n in range(_CUSTOMERS))  # who they are is known before
        command = [sys.executable, "-m", "benchmarks._visible", url, options.get("schema", DEFAULT_SCHEMA), options.get("keys", "")]
        projector = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert projector.stdout is not None
            projector.stdout.readline()  # ready
            due, stored = _offer(ps, size)
            ps.runner.kept([], at_least=0)
            last = max(position for position, _ in stored.values())
            while ps.runner.position() < last:
                time.sleep(0.05)
            said, _ = projector.communicate("stop\n", timeout=60)
        finally:
            projector.kill()
        commits = [tuple(map(int, line.split())) for line in said.splitlines()]
        positions, seconds = [p for p, _ in commits], [ns / 1e9 for _, ns in commits]
        seen = sorted(1_000 * (seconds[bisect_left(positions, position)] - due[i]) for i, (position, _) in stored.items())
        answered = sorted(1_000 * (at - due[i]) for i, (_, at) in stored.items())
        _check(ps)
    p99, limit = seen[len(seen) * 99 // 100], answered[len(answered) * 99 // 100]
    median = seen[len(seen) // 2]
    rate = size / (max(at for _, at in stored.values()) - min(due.values()))
    return [
        measure(f"append to visible in health, p99, {OFFERED_PER_S}/s offered, {where}", p99, "ms", goal=GOAL_MS, limit=limit, most=True),
        measure(
            f"append to visible in health, median, {OFFERED_PER_S}/s offered, {where}", median, "ms", limit=answered[len(answered) // 2]
        ),
        measure(f"recorded while offered, {where}", rate, "events/s", limit=OFFERED_PER_S),
    ]


def _offer(ps: PostSale, size: int) -> tuple[dict[int, float], dict[int, tuple[int, float]]]:
    """When each was due, and where and when it was stored."""
    acme, start = ps.tenant("acme"), time.monotonic() + 0.1
    due = {i: start + i / OFFERED_PER_S for i in range(size)}
    stored: dict[int, tuple[int, float]] = {}
    lock = threading.Lock()

    def record(thread: int) -> None:
        for i in range(thread, size, _THREADS):
            time.sleep(max(0.0, due[i] - time.monotonic()))
            receipt = acme.record(f"cus_{i % _CUSTOMERS}", _signal(i, i))
            with lock:
                stored[i] = receipt.position, time.monotonic()

    seconds_in_threads(record, _THREADS)
    return due, stored


def _signal(number: int, customer: int) -> Signal:
    rand = random.Random(number * 7 + customer)
    how: dict[str, Any] = {"source": "bench", "id": f"{number}-{customer}", "occurred_at": datetime.now(UTC) - timedelta(seconds=1)}
    kind = rand.randrange(3)
    if kind == 0:
        return InvoicePaid(**how, amount_minor=rand.randrange(100, 9_000), currency="EUR")
    return TicketOpened(**how, ticket_id=f"t{number}") if kind == 1 else UsageObserved(**how, feature="export", count=rand.randrange(9))


def _check(ps: PostSale) -> None:
    """Stop unless the view holds what the log says about every customer."""
    acme, reader = ps.tenant("acme"), ps.runner
    for row in acme.customers()[:20]:
        streams = acme.customer(row.name).fact_streams
        if reader.fold.digest(reader.kept(streams).state) != reader.fold.digest(reader.read_state(streams).state):
            raise SystemExit(f"customer {row.ref}: the view is not what the log says")


@contextmanager
def _server() -> Iterator[tuple[str, str] | None]:
    """A log on a server of this process's own, if one can be started here."""
    try:
        from tests.postgres import new_log
    except ImportError:
        yield None
        return
    with new_log() as log:
        yield log


def project(url: str, schema: str, keys: str) -> None:
    """Fold until told to stop; say after each commit how far the view is, and when."""
    with PostSale.open(url, **({"schema": schema, "keys": keys} if keys else {})) as ps:  # type: ignore[arg-type]
        projector, commits = ps.projector(), list[str]()

        def until_told() -> None:
            sys.stdin.readline()
            projector.stop()

        threading.Thread(target=until_told, daemon=True).start()
        said = False

        def turned(turn: Turn) -> None:
            nonlocal said
            if turn.events:
                commits.append(f"{ps.runner.position()} {time.monotonic_ns()}")
            if projector.ready and not said:
                said = True
                print("ready", flush=True)

        projector.run(turned)
        print("\n".join(commits))


def small(size: int) -> int:
    """How many signals are offered in a benchmark of this size: ten seconds' worth at 200,000."""
    return max(200, size // 20)


def run(size: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return visible(small(size), Path(folder))


if __name__ == "__main__":
    project(*sys.argv[1:4])
