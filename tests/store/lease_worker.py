"""A worker under a lease, told by lines on its standard input what to do; run by the tests that stop and kill processes.

python lease_worker.py URL SCHEMA CLOCK NAME SEED     CLOCK: a file that holds the time in microseconds, the same for every process

try    take the lease: "took TOKEN" or "waits"
write  append one event under it: "stored POSITION" or "lost"
loop   append under it, "stored POSITION" each, until "lost" or killed
"""

from __future__ import annotations

import sys
from pathlib import Path

from postsale.errors import LeaseLost
from postsale.events import StreamId
from postsale.store import Appended, LeaseName, Leases, Store, Submission, open_store
from postsale.store.leases import Lease
from postsale.testing import Events

JOB = LeaseName("_system", "job")
TTL_S = 30.0


class FileClock:
    def __init__(self, path: Path) -> None:
        self.path = path

    def now_us(self) -> int:
        return int(self.path.read_text())


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write(store: Store, lease: Lease | None, events: Events, name: str) -> bool:
    assert lease is not None
    (outcome,) = store.append([Submission((events.fact(StreamId("acme", "customers", name)),), (lease.condition,))])
    assert isinstance(outcome, Appended | LeaseLost), outcome
    say(f"stored {outcome.positions[0]}" if isinstance(outcome, Appended) else "lost")
    return isinstance(outcome, Appended)


def main(url: str, schema: str, clock: FileClock, name: str, seed: int) -> None:
    store = open_store(url, schema=schema)
    leases, events, lease = Leases(store.kv, clock, name), Events(seed), None
    say("ready")
    for line in sys.stdin:
        if line == "try\n":
            lease = leases.acquire(JOB, TTL_S)
            say("waits" if lease is None else f"took {lease.token}")
        elif line == "write\n":
            write(store, lease, events, name)
        elif line == "loop\n":
            while write(store, lease, events, name):
                pass


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], FileClock(Path(sys.argv[3])), sys.argv[4], int(sys.argv[5]))
