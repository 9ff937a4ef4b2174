"""A process of the torture run: a writer or a tailing reader that may be killed at any moment. Journals to a file of its own.

python torture_worker.py writer STORE JOURNAL SEED EVENTS THREADS
python torture_worker.py tailer STORE JOURNAL

STORE is JSON: {"sqlite": path} or {"postgres": url, "schema": name}. A journal line is written whole by one `write` to a file opened
for appending, so what the process has written survives its death:
    intent SUBMISSION       about to be appended for the first time
    ack SUBMISSION FIRST    acknowledged; its first position
    seen POSITION ID        read by a tailer, in the order read
A submission is rebuilt from its number alone, so that the next life of a writer can send again what the last one left open.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from postsale.errors import StoreUnavailable
from postsale.events import Actor, Header, Lane, NewEvent, StreamId
from postsale.store import Appended, Query, SQLiteStore, Store, Submission

SPACE = UUID("b4e7ac52-7c1d-4a43-9d0c-6d1f9a0a3e11")
HEADER = Header(actor=Actor("source", "torture")).to_bytes()
TENANTS = ("acme", "globex")


def open_(spec: dict[str, Any]) -> Store:
    if "sqlite" in spec:
        return SQLiteStore(spec["sqlite"], busy_timeout_s=120, chapter=spec.get("chapter", 1_048_576))
    from postsale.store.postgres import PostgresStore

    return PostgresStore(spec["postgres"], schema=spec["schema"])


def submission(seed: int, number: int) -> Submission:
    """Number `number` of the writer `seed`: 1 to 40 facts, each naming its submission, its place in it and their count."""
    rand = random.Random(f"{seed}/{number}")
    count = rand.choice([1, 1, 1, 2, 5, 40])
    tenant = rand.choice(TENANTS)
    return Submission(
        tuple(
            NewEvent(
                StreamId(tenant, "customers", f"c{rand.randrange(50)}"),
                Lane.FACT,
                None,
                uuid5(SPACE, f"{seed}/{number}/{index}"),
                "test/seen@1",
                b"schema of a test",
                1_790_000_000_000_000 + number,
                rand.randbytes(16),
                HEADER,
                json.dumps([seed, number, index, count, "x" * rand.choice([0, 50, 2_000])]).encode(),
            )
            for index in range(count)
        )
    )


class Journal:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())


def lines(path: Path) -> list[list[str]]:
    """Whole lines only: the last may have been cut by the kill."""
    raw = path.read_bytes() if path.exists() else b""
    return [line.decode().split() for line in raw[: raw.rfind(b"\n") + 1].splitlines()]


def write(store: Store, journal: Journal, path: Path, seed: int, events: int, threads: int) -> None:
    """Until so many events of this writer are acknowledged, its earlier lives counted and what was sent again not."""
    past = lines(path)
    known = {int(line[1]) for line in past if line[0] == "ack"}
    open_intents = {int(line[1]) for line in past if line[0] == "intent"} - known
    rand = random.Random(len(past))
    done = sum(len(submission(seed, number).events) for number in known)
    next_number = 1 + max((int(line[1]) for line in past), default=0)
    lock = threading.Lock()

    def send(numbers: list[int]) -> None:
        nonlocal done
        work = [submission(seed, number) for number in numbers]
        while True:
            try:
                outcomes = store.append(work)
                break
            except StoreUnavailable:  # the server was killed: the ids make it safe to send the same again
                continue
        for number, one, outcome in zip(numbers, work, outcomes, strict=True):
            assert isinstance(outcome, Appended), outcome
            journal.write("ack", number, outcome.positions[0])
            with lock:
                done += len(one.events) if number not in known else 0
                known.add(number)

    def run(share: list[int]) -> None:
        nonlocal next_number
        for number in share:
            send([number])
        while done < events:
            with lock:
                numbers = list(range(next_number, next_number + rand.choice([1, 1, 3, 10])))
                next_number = numbers[-1] + 1
                again = rand.random() < 0.1
            for number in numbers:
                journal.write("intent", number)
            send(numbers)
            if again:  # redelivery: acknowledged already
                send(numbers[:1])

    shares = [sorted(open_intents)[index::threads] for index in range(threads)]
    workers = [threading.Thread(target=run, args=(share,)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def tail(store: Store, journal: Journal, path: Path) -> None:
    """For ever, from where the last life ended."""
    after = max((int(line[1]) for line in lines(path)), default=0)
    while True:
        try:
            store.wait(after, 1.0)
            for event in store.read(Query(after=after, limit=500)):
                journal.write("seen", event.position, event.event_id.hex)
                after = event.position
        except StoreUnavailable:
            continue


if __name__ == "__main__":
    role, spec, journal_path, *rest = sys.argv[1:]
    path = Path(journal_path)
    log = open_(json.loads(spec))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if role == "writer":
        write(log, Journal(path), path, *map(int, rest))
    else:
        tail(log, Journal(path), path)
