"""A worker that fires due timers under a lease until it is killed; run by the test that kills it.

python timer_worker.py URL SCHEMA CLOCK NAME     CLOCK: a file that holds the time in microseconds

Prints "fired ID" after each timer that it settled, "idle" once when nothing is due, and waits for a line when it does not get the lease.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.store.lease_worker import JOB, FileClock, say

from postsale.errors import LeaseLost, VersionConflict
from postsale.events import StreamId
from postsale.store import Appended, Leases, Submission, open_store
from postsale.store.timers import Timers
from postsale.testing import Events

STREAM = StreamId("acme", "customers", "reminded")


def main(url: str, schema: str, clock: FileClock, name: str) -> None:
    store = open_store(url, schema=schema)
    leases, timers, events = Leases(store.kv, clock, name), Timers(store.kv, "acme"), Events(7)
    say("ready")
    while (lease := leases.acquire(JOB, 30.0)) is None:
        say("waits")
        sys.stdin.readline()
    for timer in timers.due(clock.now_us()):
        version = store.versions([STREAM])[0]
        mac = timer.due_us.to_bytes(16)  # the same content at each attempt
        event = events.decision(STREAM, version, event_id=timer.event_id, data=b'"%s"' % timer.id.encode(), content_mac=mac)
        (outcome,) = store.append([Submission((event,), (lease.condition,))])
        if isinstance(outcome, LeaseLost | VersionConflict):  # both: somebody else works
            say("lost")
            return
        assert isinstance(outcome, Appended), outcome
        timers.settle(timer)
        say(f"fired {timer.id}")
    say("idle")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], FileClock(Path(sys.argv[3])), sys.argv[4])
