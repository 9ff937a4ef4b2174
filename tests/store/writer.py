"""A process that appends until it is killed; run by the crash and race tests. Prints what was acknowledged, a line each, flushed.

python writer.py crash PATH SEED        facts and decisions; "positions event-id,…" per submission
python writer.py race PATH SEED ROUNDS  every version of one decision stream; "won VERSION" or "lost VERSION"
python writer.py tail PATH SEED ROUNDS  batches of facts; nothing printed but "done"
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from postsale.errors import VersionConflict
from postsale.events import StreamId
from postsale.store import Appended, SQLiteStore, Submission
from postsale.testing import Events


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def crash(store: SQLiteStore, seed: int) -> None:
    events, rand = Events(seed), random.Random(seed)
    stream = events.stream()
    say("ready")
    while True:
        submissions = []
        version = store.versions([stream])[0]
        for _ in range(rand.choice([1, 1, 3])):
            facts = tuple(events.fact(data=b"x" * rand.choice([10, 10, 9_000])) for _ in range(rand.choice([1, 2, 30])))
            submissions.append(Submission((*facts, events.decision(stream, version))))
            version += 1
        for submission, outcome in zip(submissions, store.append(submissions), strict=True):
            assert isinstance(outcome, Appended), outcome
            say(f"{outcome.positions[0]} {','.join(event.event_id.hex for event in submission.events)}")


def race(store: SQLiteStore, seed: int, rounds: int) -> None:
    events = Events(seed)
    stream = StreamId("acme", "customers", "contended")
    say("ready")
    sys.stdin.readline()
    for version in range(rounds):
        (outcome,) = store.append([Submission((events.decision(stream, version),))])
        assert isinstance(outcome, Appended | VersionConflict), outcome
        say(f"{'won' if isinstance(outcome, Appended) else 'lost'} {version}")


def tail(store: SQLiteStore, seed: int, rounds: int) -> None:
    events = Events(seed)
    say("ready")
    sys.stdin.readline()
    for _ in range(rounds):
        (outcome,) = store.append([Submission((events.fact(), events.fact(), events.fact()))])
        assert isinstance(outcome, Appended), outcome
    say("done")


if __name__ == "__main__":
    what, path, seed, *rest = sys.argv[1:]
    {"crash": crash, "race": race, "tail": tail}[what](SQLiteStore(Path(path), busy_timeout_s=60), int(seed), *map(int, rest))
