"""How the rebuild of the health projection grows: time of an event and peak memory, from the smallest number of events to the largest.

`python -m benchmarks.growth --json --size 4000000`. Each number is measured in a process of its own, which fills a view in a file from
archive segments, or from a SQLite log, as `postsale projection rebuild --engine duckdb` does, and says its peak memory. Customers grow
with the events, a hundred to each; what DuckDB may use does not, and beyond that it spills. The data is the same for every number: the
first so many events. It is written by the archive's own writer, in a private directory, gone at the end: 160 bytes an event, the
view 2 kB a customer, and what DuckDB spills.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

from benchmarks._common import batches, measure, report
from benchmarks.rebuild import HEADER, SPAN_DAYS, START_US, Segments, a_fact
from postsale.events import DAY_US, Lane, NewEvent, StoredEvent, StreamId, canonical, registry, schema_digest
from postsale.projections import CUSTOMER_HEALTH, Runner, SqliteViews
from postsale.projections.handover import duckdb_states
from postsale.store import SQLiteStore, Store, Submission, segments
from postsale.store.segments import Segment

GOAL: Final = 1.2  # times the time of an event in the smallest number, at most
SMALLEST: Final = 1_000_000
LOG: Final = 1_000_000  # a log of more events takes longer to write than the rest
EVENTS_OF_A_CUSTOMER: Final = 100
CHAPTER: Final = 262_144
_PAYLOADS: Final = 20_000


# ---------------------------------------------------------------- the events


@cache
def _payloads() -> list[tuple[str, bytes, bytes]]:
    """Wire name, shape and payload of as many different facts."""
    rng = random.Random(7)
    found = []
    for number in range(_PAYLOADS):
        kind, fields = a_fact(rng, START_US + number)
        name = registry.versions(kind)[-1]
        found.append((name, schema_digest(registry.get(name)), canonical(fields)))
    return found


def events_of(chapter: int, last: int) -> Iterator[NewEvent]:
    """The events of a chapter, up to a position. Each is about one of the customers that there are by then, and occurred at any time."""
    rng = random.Random(f"chapter {chapter}")
    payloads, draw = _payloads(), rng.random
    for position in range(chapter * CHAPTER + 1, min((chapter + 1) * CHAPTER, last) + 1):
        name, schema, data = payloads[int(draw() * _PAYLOADS)]
        stream = StreamId("acme", "customers", f"{int(draw() * (position // EVENTS_OF_A_CUSTOMER + 1)):016x}")
        at = START_US + int(draw() * SPAN_DAYS * DAY_US)
        yield NewEvent(stream, Lane.FACT, None, UUID(int=rng.getrandbits(128)), name, schema, at, rng.randbytes(16), HEADER, data)


def write_chapter(folder: Path, last: int, chapter: int) -> Segment:
    """A chapter as the archive writes it."""
    first = chapter * CHAPTER + 1
    rng = random.Random(f"leaves {chapter}")
    stored = (
        StoredEvent(
            position, e.stream, e.lane, position, e.event_id, e.wire_name, e.schema, e.occurred_at_us, START_US + position, e.content_mac,
            e.header, e.data, rng.randbytes(16), position - 1, rng.randbytes(32),
        )
        for position, e in enumerate(events_of(chapter, last), first)
    )  # fmt: skip
    bounds: dict[str, Any] = {"log_id": "benchmark", "chapter": chapter, "first": first, "last": min((chapter + 1) * CHAPTER, last)}
    path = folder / f"{chapter}.partial"
    segments.write(path, stored, **bounds)
    segment = segments.describe(path, **bounds)
    segments.keep(path, segment)
    return replace(segment, directory=str(folder))


def write_log(path: Path, after: int, last: int) -> None:
    """Append the events after one position up to another."""
    with closing(SQLiteStore(path, durable=False)) as store:
        for chapter in range(after // CHAPTER, -(-last // CHAPTER)):
            wanted = [e for position, e in enumerate(events_of(chapter, last), chapter * CHAPTER + 1) if position > after]
            for work in batches(wanted, 5_000):
                store.append([Submission(tuple(work))])


# ---------------------------------------------------------------- one rebuild, in a process of its own


def rebuild(source: str, last: int, memory_mb: int) -> dict[str, float]:
    """Fill a view from a folder of segments or a log, up to a position: seconds, processor seconds, peak memory and size of the view."""
    place = Path(source)
    if place.is_dir():
        kept: list[Segment] = pickle.loads((place / "segments").read_bytes())
        store = cast(Store, Segments([(segment, None) for segment in kept if segment.first <= last]))
    else:
        store = SQLiteStore(place)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder, closing(SqliteViews(Path(folder) / "views", "benchmark")) as views:
        before = _megabytes()
        start, cpu = time.perf_counter(), time.process_time()
        runner = Runner(store, views, CUSTOMER_HEALTH.fold)
        events = runner.compute(partial(duckdb_states, memory_mb=memory_mb))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        if events != runner.position():
            raise SystemExit(f"{events} events were folded of {runner.position()}")
        return {"events": events, "seconds": seconds, "cpu": cpu, "before": before, "peak": _megabytes(), "rows": runner.status().rows}


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024


def measured(source: Path, last: int, memory_mb: int, rounds: int) -> dict[str, float]:
    """The fastest of some rebuilds, and the greatest memory of all."""
    command = [sys.executable, "-m", "benchmarks.growth", "--rebuild", str(source), "--size", str(last), "--memory-mb", str(memory_mb)]
    done = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(rounds)]
    return {**min(done, key=lambda one: one["seconds"]), "peak": max(one["peak"] for one in done)}


# ---------------------------------------------------------------- growing


def sizes(smallest: int, largest: int) -> list[int]:
    """From the smallest, each twice the one before, to the largest."""
    found = [smallest]
    while found[-1] * 2 < largest:
        found.append(found[-1] * 2)
    return [*found, largest] if found[-1] < largest else found


def growth(what: str, found: dict[int, dict[str, float]], memory_mb: int) -> list[dict[str, Any]]:
    smallest, largest = min(found), max(found)
    each = {size: one["seconds"] / size * 1e6 for size, one in found.items()}
    cpu = {size: one["cpu"] / size * 1e6 for size, one in found.items()}
    measures = []
    for size in found:
        measures.append(measure(f"{what}, {size} events, time of one", each[size], "us", peer=cpu[size]))
        measures.append(measure(f"{what}, {size} events, peak memory", found[size]["peak"], "MB", limit=memory_mb))
    worst = max(each[size] / each[smallest] for size in found if size > smallest)
    measures.append(measure(f"{what}, time of an event, {largest} to {smallest} events, the worst", worst, "ratio", goal=GOAL, most=True))
    worst = max(cpu[size] / cpu[smallest] for size in found if size > smallest)
    measures.append(measure(f"{what}, processor time of an event, the worst", worst, "ratio", goal=GOAL, most=True))
    return measures


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--size", type=int, default=4 * SMALLEST, help="the largest number of events; 50,000,000 need 20 GB")
    parser.add_argument("--rounds", type=int, default=1, help="rebuilds of each number")
    parser.add_argument("--memory-mb", type=int, default=1_024, help="what DuckDB may use")
    parser.add_argument("--rebuild", metavar="SOURCE", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.rebuild:
        print(json.dumps(found := rebuild(options.rebuild, options.size, options.memory_mb)))
        return dict(found)
    measures = []
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder = Path(name) / "segments"
        folder.mkdir()
        with ProcessPoolExecutor(os.cpu_count()) as workers:
            written = []
            for segment in workers.map(partial(write_chapter, folder, options.size), range(-(-options.size // CHAPTER))):
                written.append(segment)
                print(f"\r{segment.last:,} of {options.size:,} events written", end="", file=sys.stderr)
        print(file=sys.stderr)
        (folder / "segments").write_bytes(pickle.dumps(written))
        bounds = [segment.last for segment in written]  # whole chapters
        smallest = min(SMALLEST, max(1, options.size // 4))
        wanted = sorted({next(last for last in bounds if last >= size) for size in sizes(smallest, options.size)})
        measures += growth("from segments", _each(folder, wanted, options), options.memory_mb) if len(wanted) > 1 else []
        log, largest = Path(name) / "log.db", min(LOG, options.size)
        of_log: dict[int, dict[str, float]] = {}
        at = 0
        for size in sizes(max(1, largest // 4), largest):
            write_log(log, at, size)
            at = size
            of_log |= _each(log, [size], options)
        measures += growth("from the SQLite log", of_log, options.memory_mb)
    return report("growth", measures, only_json=options.json)


def _each(source: Path, wanted: list[int], options: argparse.Namespace) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for size in wanted:
        found[size] = measured(source, size, options.memory_mb, options.rounds)
        print(f"{source.name}: {json.dumps(found[size])}", file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
