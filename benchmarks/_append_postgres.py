"""The PostgreSQL half of `benchmarks.append`: ours with everything on (ids, leaves, row-level security), upstream's recorder, bare COPY.

A real server from a package, as in the tests, with its settings as they come: fsync and synchronous_commit on. Each round has a
database or schema of its own. Upstream's best batch is the best of three sizes: one insert of 1,500 events and more may hang there.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from tests.postgres import new_log, server

from benchmarks._common import Item, a_log, facts, fastest, make_items, measure
from postsale.access import FileVault
from postsale.events import SystemClock
from postsale.store import Query
from postsale.store.log import Log
from postsale.store.postgres import PostgresStore
from postsale.store.postgres_schema import EVENT_COLUMNS

BATCHES: Final = (1_000, 5_000)
UPSTREAM_BATCHES: Final = (250, 500, 1_000)
GOAL_BATCH: Final = 3.0  # times upstream's best batch
GOAL_COPY: Final = 0.2  # of bare COPY
GOALS_THREADS: Final = {1: 0.8, 8: 1.5, 32: 4.0}  # times upstream's with as many
PROCESSES: Final = 4

_numbers = itertools.count()


def ours(run: Callable[[Log, Sequence[Item], int], float], items: Sequence[Item], number: int) -> Callable[[Path], float]:
    def timed(_: Path) -> float:
        with new_log() as (url, schema), a_log(PostgresStore(url, schema=schema)) as log:
            return run(log, items, number)

    return timed


def upstream(run: Callable[[Any, Sequence[Item], int], float], items: Sequence[Item], number: int) -> Callable[[Path], float]:
    def timed(_: Path) -> float:
        name = f"upstream_{next(_numbers)}"
        with psycopg.connect(server(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}".encode())
            info = psycopg.conninfo.conninfo_to_dict(server())
            datastore = PostgresDatastore(
                name, str(info["host"]), str(info.get("port", 5432)), "postgres", "", pool_size=40, max_overflow=20
            )
            try:
                recorder = PostgresApplicationRecorder(datastore)
                recorder.create_table()
                return run(recorder, items, number)
            finally:
                datastore.close()
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    return timed


def copy_alone(items: Sequence[Item]) -> Callable[[Path], float]:
    """The same stored bytes, by binary COPY into one bare table in one transaction."""

    def timed(_: Path) -> float:
        with new_log() as (url, schema), a_log(PostgresStore(url, schema=schema)) as log:
            log.append(facts(log, items))
            rows = [
                (e.position, 1, 1, 0, e.version, e.event_id.bytes, 1, *e[7:])  # from occurred_at on, fields and columns have one order
                for e in log.store.read(Query())
            ]
        types = [type_ for _, type_ in EVENT_COLUMNS]
        with psycopg.connect(server(), autocommit=True) as db:
            db.execute(f"CREATE TABLE bare ({', '.join(f'{name} {type_}' for name, type_ in EVENT_COLUMNS)})".encode())
            start = time.perf_counter()
            with db.cursor().copy("COPY bare FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(types)
                for row in rows:
                    copy.write_row(row)
            seconds = time.perf_counter() - start
            db.execute("DROP TABLE bare")
        return seconds

    return timed


def in_processes(events: int) -> Callable[[Path], float]:
    """One event a call from each of several processes: they take turns at the head of the log."""

    def timed(directory: Path) -> float:
        with new_log() as (url, schema):
            keys = directory / "log.keys"
            with closing(FileVault(keys)) as vault:
                vault.tenant("acme")
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks._append_postgres", url, schema, str(keys), str(events)]
            workers = [
                subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for n in range(PROCESSES)
            ]
            for worker in workers:
                assert worker.stdout is not None
                worker.stdout.readline()  # it is connected
            start = time.perf_counter()
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write("go\n")
                worker.stdin.flush()
            ends = [worker.communicate()[0] for worker in workers]
            seconds = time.perf_counter() - start
            assert all(json.loads(end) == {"appended": events} for end in ends), ends
            return seconds

    return timed


def postgres_measures(
    items: Sequence[Item],
    rounds: int,
    *,
    log_in_batches: Callable[[Log, Sequence[Item], int], float],
    log_in_threads: Callable[[Log, Sequence[Item], int], float],
    upstream_in_batches: Callable[[Any, Sequence[Item], int], float],
    upstream_in_threads: Callable[[Any, Sequence[Item], int], float],
) -> list[dict[str, Any]]:
    peers = {f"peer_{batch}": upstream(upstream_in_batches, items, batch) for batch in UPSTREAM_BATCHES}
    mine = {f"ours_{batch}": ours(log_in_batches, items, batch) for batch in BATCHES}
    best = fastest(rounds, **peers, **mine, limit=copy_alone(items))
    rate = {name: len(items) / seconds for name, seconds in best.items()}
    peer = max(rate[name] for name in peers)
    top = max(rate[name] for name in mine)
    found = [measure(f"PostgreSQL, {b} a batch", rate[f"ours_{b}"], "events/s", peer=peer, limit=rate["limit"]) for b in BATCHES]
    found += [
        measure("PostgreSQL, best batch, of the peer's best batch", top / peer, "ratio", goal=GOAL_BATCH, peer=1),
        measure("PostgreSQL, best batch, of bare COPY", top / rate["limit"], "ratio", goal=GOAL_COPY, limit=1),
    ]
    for threads, goal in GOALS_THREADS.items():
        few = items[: max(threads, len(items) // 100 * (1 if threads == 1 else 4))]
        pair = fastest(rounds, ours=ours(log_in_threads, few, threads), peer=upstream(upstream_in_threads, few, threads))
        name = f"PostgreSQL, one event a call from {threads} thread{'s' if threads > 1 else ''}"
        found += [
            measure(name, len(few) / pair["ours"], "events/s", peer=len(few) / pair["peer"]),
            measure(f"{name}, of the peer", pair["peer"] / pair["ours"], "ratio", goal=goal, peer=1),
        ]
    each = max(1, len(items) // 400)
    seconds = fastest(rounds, ours=in_processes(each))["ours"]
    return [*found, measure(f"PostgreSQL, one event a call from {PROCESSES} processes", PROCESSES * each / seconds, "events/s")]


def _process(url: str, schema: str, keys: str, events: str, number: str) -> None:
    items = make_items(int(events) * PROCESSES)[int(number) :: PROCESSES]
    with closing(PostgresStore(url, schema=schema)) as store, closing(FileVault(Path(keys))) as vault:
        log = Log(store, vault, SystemClock())
        print("ready", flush=True)
        sys.stdin.readline()
        for item in items:
            log.append(facts(log, (item,)))
    print(json.dumps({"appended": len(items)}))


if __name__ == "__main__":
    _process(*sys.argv[1:])
