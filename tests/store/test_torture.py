"""Writers and tailing readers in several processes, killed at random; an oracle that shares no code with the store counts what is missing.

The oracle reads the workers' journals and the tables themselves through the database's own driver.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.postgres import new_log, server
from tests.store.torture_worker import lines, open_, submission

from postsale.store import verify

WORKER = Path(__file__).with_name("torture_worker.py")
SHORT = (3_000, 12)  # events, kills
LONG = (100_000, 300)
WRITERS, THREADS, TAILERS = 3, 4, 2

long = [pytest.mark.torture, pytest.mark.skipif("POSTSALE_TORTURE" not in os.environ, reason="long; set POSTSALE_TORTURE=1")]
SIZES = [pytest.param(*SHORT, id="short"), pytest.param(*LONG, id="long", marks=long)]

Rows = list[tuple[int, str, str]]
"""Position, event id in hex, data; as the database holds them."""


@dataclass
class Worker:
    """One worker and its lives."""

    command: list[str]
    journal: Path
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, *self.command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def torture(spec: dict[str, Any], directory: Path, events: int, kills: int, seed: int) -> tuple[list[Worker], list[Worker]]:
    """Run to about `events` acknowledged events with `kills` SIGKILLs in between; everyone is dead or done at the end."""
    rand = random.Random(seed)

    def worker(role: str, number: int, *rest: int) -> Worker:
        journal = directory / f"{role}-{number}.txt"
        return Worker([str(WORKER), role, json.dumps(spec), str(journal), *map(str, rest)], journal)

    writers = [worker("writer", n, seed % 1_000_000 * 10 + n, -(-events // WRITERS), THREADS) for n in range(WRITERS)]
    tailers = [worker("tailer", n) for n in range(TAILERS)]
    try:
        for kill in range(kills):
            # Spread over the run: a kill is due when its share of the acknowledgements is there, whatever the machine's speed.
            due = events * kill // (kills + 1)
            while _acknowledged(writers) < due and any(w.process.poll() is None for w in writers):
                time.sleep(0.005)  # between looks at files that other processes write
            victim = rand.choice([w for w in writers if w.process.poll() is None] + tailers)
            victim.kill()
            victim.start()
        for w in writers:
            _, error = w.process.communicate()
            assert w.process.returncode == 0, f"seed {seed}: {error}"
        head = max(
            int(line[2]) + len(submission(int(w.command[4]), int(line[1])).events) - 1
            for w in writers
            for line in lines(w.journal)
            if line[0] == "ack"
        )
        deadline = time.monotonic() + 120
        while any(_seen(t.journal, head) is False for t in tailers):
            assert time.monotonic() < deadline, f"seed {seed}: a tailing reader never came to position {head}"
            time.sleep(0.005)
    finally:
        for w in (*writers, *tailers):
            if w.process.poll() is None:
                w.kill()
    return writers, tailers


def _acknowledged(writers: list[Worker]) -> int:
    """Roughly how many events: 8.3 a submission on average."""
    return int(8.3 * sum(w.journal.read_bytes().count(b"\nack ") for w in writers if w.journal.exists()))


def _seen(journal: Path, position: int) -> bool:
    found = lines(journal)
    return bool(found) and int(found[-1][1]) >= position


def judge(rows: Rows, writers: list[Worker], tailers: list[Worker], seed: int) -> int:
    """0 lost, 0 torn, 0 skipped, 0 duplicated. Returns the number of events."""
    assert [position for position, _, _ in rows] == list(range(1, len(rows) + 1)), f"seed {seed}: positions have gaps"
    ids = [id_ for _, id_, _ in rows]
    assert len(set(ids)) == len(ids), f"seed {seed}: an event is there twice"
    at = dict(zip(ids, range(1, len(ids) + 1), strict=True))
    for w in writers:
        number_of_writer = int(w.command[4])
        for line in lines(w.journal):
            if line[0] == "ack":
                expected = [event.event_id.hex for event in submission(number_of_writer, int(line[1])).events]
                first = int(line[2])
                assert ids[first - 1 : first - 1 + len(expected)] == expected, f"seed {seed}: acknowledged {line} is not where it was said"
    parts: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for position, id_, data in rows:
        writer, number, index, count, _ = json.loads(data)
        parts.setdefault((writer, number), []).append((index, count))
        assert at[id_] == position
    for whose, found in parts.items():
        assert found == [(index, found[0][1]) for index in range(found[0][1])], f"seed {seed}: submission {whose} is torn"
    for t in tailers:
        seen = [(int(line[1]), line[2]) for line in lines(t.journal)]
        assert seen == list(enumerate(ids[: len(seen)], 1)), f"seed {seed}: a tailing reader skipped, repeated or mistook an event"
        assert len(seen) == len(ids), f"seed {seed}: a tailing reader stopped early"
    return len(rows)


def sqlite_rows(path: Path) -> Rows:
    with closing(sqlite3.connect(path)) as db:
        return [(p, bytes(i).hex(), bytes(d).decode()) for p, i, d in db.execute("SELECT position, event_id, data FROM events ORDER BY 1")]


def postgres_rows(schema: str) -> Rows:
    with psycopg.connect(server()) as db:
        return [
            (p, bytes(i).hex(), bytes(d).decode())
            for p, i, d in db.execute(f"SELECT position, event_id, data FROM {schema}.events ORDER BY 1")
        ]


@pytest.fixture(params=["sqlite", "postgres"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[dict[str, Any], Callable[[], Rows]]]:
    if request.param == "sqlite":
        path = tmp_path / "log.db"
        yield {"sqlite": str(path)}, lambda: sqlite_rows(path)
    else:
        with new_log(chapter=1_000) as (url, schema):
            yield {"postgres": url, "schema": schema}, lambda: postgres_rows(schema)


@pytest.mark.parametrize(("events", "kills"), SIZES)
def test_killed_writers_and_readers_lose_tear_skip_and_repeat_nothing(
    log: tuple[dict[str, Any], Callable[[], Rows]], tmp_path: Path, events: int, kills: int, record_property: Callable[[str, object], None]
) -> None:
    spec, rows = log
    seed = random.getrandbits(32)
    writers, tailers = torture(spec, tmp_path, events, kills, seed)
    count = judge(rows(), writers, tailers, seed)
    assert count >= events, f"seed {seed}: only {count} events"
    record_property("events", count)
    with closing(open_(spec)) as store:
        report = verify(store)
    assert (report.ok, report.events) == (True, count), f"seed {seed}: {report.problems[:3]}"


def test_the_oracle_notices_each_kind_of_fault(tmp_path: Path) -> None:
    """A judge that cannot condemn is none."""
    seed = 7
    number = next(n for n in range(1, 100) if len(submission(seed, n).events) == 5)
    events = submission(seed, number).events
    journal, tailed = tmp_path / "writer.txt", tmp_path / "tailer.txt"
    journal.write_text(f"intent {number}\nack {number} 1\n")
    rows = [(position, event.event_id.hex, event.data.decode()) for position, event in enumerate(events, 1)]
    tailed.write_text("".join(f"seen {position} {id_}\n" for position, id_, _ in rows))
    writer, tailer = Worker.__new__(Worker), Worker.__new__(Worker)
    writer.command, writer.journal, tailer.journal = ["", "", "", "", str(seed)], journal, tailed
    assert judge(rows, [writer], [tailer], seed) == 5
    twice = [*rows, (6, rows[0][1], rows[0][2])]
    torn = rows[:3]
    gap = [*rows[:2], *rows[3:]]
    swapped = [rows[0], (2, rows[2][1], rows[2][2]), (3, rows[1][1], rows[1][2]), *rows[3:]]
    for bad in (twice, torn, gap, swapped, []):
        with pytest.raises(AssertionError):
            judge(bad, [writer], [tailer], seed)
    for bad_tail in ("seen 1 x\n", "".join(f"seen {p} {i}\n" for p, i, _ in rows[1:]), ""):
        tailed.write_text(bad_tail)
        with pytest.raises(AssertionError):
            judge(rows, [writer], [tailer], seed)
