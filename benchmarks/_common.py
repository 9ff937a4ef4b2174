"""What benchmarks share: the same typed work for ours and for the peer, timing, and the form of a measure. No benchmark itself.

The peer of the log is the `eventsourcing` library as its documentation sets it up: frozen dataclasses, its `Mapper` with the JSON
transcoder, its application recorder. Both sides are durable (SQLite: WAL, synchronous=FULL, which is what upstream leaves it at).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from eventsourcing.domain import DomainEvent
from eventsourcing.persistence import DatetimeAsISO, DecimalAsStr, JSONTranscoder, Mapper, UUIDAsHex

from postsale.access import FileVault
from postsale.aggregates.identity import customer_stream
from postsale.aggregates.signals import InvoicePaid, Signal, TicketSolved, UsageObserved
from postsale.events import Actor, NewEvent, StreamId, SystemClock
from postsale.store import Store
from postsale.store.log import Cause, Log

CAUSE: Final = Cause(actor=Actor("source", "benchmark"))
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)

T = TypeVar("T")


# ---------------------------------------------------------------- the work


@dataclass(frozen=True)
class _Paid(DomainEvent):
    source: str
    id: str
    occurred_at: datetime
    amount_minor: int
    currency: str
    invoice_id: str


@dataclass(frozen=True)
class _Used(DomainEvent):
    source: str
    id: str
    occurred_at: datetime
    feature: str
    count: int
    active_users: int


@dataclass(frozen=True)
class _Solved(DomainEvent):
    source: str
    id: str
    occurred_at: datetime
    ticket_id: str
    first_reply_min: int


_KINDS: Final[list[tuple[type[Signal], type[DomainEvent]]]] = [(InvoicePaid, _Paid), (UsageObserved, _Used), (TicketSolved, _Solved)]


@dataclass(frozen=True)
class Item:
    """One event in both worlds: our signal with its stream, upstream's domain event with its originator and version."""

    stream: StreamId
    signal: Signal
    domain_event: DomainEvent


def each_item(customers: int) -> Iterator[Item]:
    """Events of three kinds without end, in random order over the customers, always the same ones."""
    rand = random.Random(7)
    ids = [UUID(int=rand.getrandbits(128)) for _ in range(customers)]
    streams = [customer_stream("acme", f"{id_.int >> 64:016x}") for id_ in ids]
    versions = [0] * len(ids)
    for number in itertools.count():
        who = rand.randrange(len(ids))
        versions[who] += 1
        ours, theirs = _KINDS[number % 3]
        fields: dict[str, Any] = {"source": "billing", "id": f"evt_{number:09d}", "occurred_at": _START + timedelta(seconds=number)}
        if ours is InvoicePaid:
            fields |= {"amount_minor": 4_900 + number % 97, "currency": "EUR", "invoice_id": f"in_{number:09d}"}
        elif ours is UsageObserved:
            fields |= {"feature": f"feature-{number % 12}", "count": number % 50, "active_users": number % 9}
        else:
            fields |= {"ticket_id": f"t_{number:09d}", "first_reply_min": number % 240}
        event = theirs(originator_id=ids[who], originator_version=versions[who], timestamp=_START, **fields)
        yield Item(streams[who], ours(**fields), event)


def make_items(size: int, customers: int | None = None) -> list[Item]:
    """The first `size` of `each_item`, over a fiftieth as many customers unless given."""
    return list(itertools.islice(each_item(customers or max(1, size // 50)), size))


def batches(work: Sequence[T], size: int) -> list[Sequence[T]]:
    return [work[at : at + size] for at in range(0, len(work), size)]


# ---------------------------------------------------------------- both sides


@contextmanager
def a_log(store: Store) -> Iterator[Log]:
    """The typed door of `store`, with keys in memory; closes the store."""
    vault = FileVault.in_memory()
    try:
        yield Log(store, vault, SystemClock())
    finally:
        store.close()
        vault.close()


def facts(log: Log, items: Sequence[Item]) -> list[NewEvent]:
    """What `record` makes of signals, resolved already."""
    return [log.fact(item.stream, item.signal, said_of=item.stream.id, subject=item.stream.id, cause=CAUSE) for item in items]


def a_mapper() -> Mapper[UUID]:
    transcoder = JSONTranscoder()
    for transcoding in (UUIDAsHex(), DecimalAsStr(), DatetimeAsISO()):
        transcoder.register(transcoding)
    return Mapper(transcoder)


# ---------------------------------------------------------------- timing


def seconds_in_threads(run: Callable[[int], None], threads: int) -> float:
    """Seconds until `run(0)` … `run(threads - 1)`, one per thread, have all ended; the first error is raised."""
    errors: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            run(index)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=guarded, args=(index,)) for index in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    if errors:
        raise errors[0]
    return seconds


def fastest(rounds: int, **runs: Callable[[Path], float]) -> dict[str, float]:
    """Seconds of each run's fastest round. Runs take turns, each time in an empty directory, so that noise hits all alike."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            with tempfile.TemporaryDirectory() as directory:
                gc.collect()
                best[name] = min(best[name], run(Path(directory)))
    return best


# ---------------------------------------------------------------- results


def measure(
    name: str,
    value: float,
    unit: str,
    *,
    goal: float | None = None,
    peer: float | None = None,
    limit: float | None = None,
    most: bool = False,
) -> dict[str, Any]:
    """One measure. `most`: the goal is the most that is allowed, not the least."""
    digits = 0 if unit.endswith("/s") else 2
    met = goal is None or (value <= goal if most else value >= goal)
    peer, limit = (None if other is None else round(other, digits) for other in (peer, limit))
    return {"name": name, "value": round(value, digits), "unit": unit, "goal": goal, "met": met, "peer": peer, "limit": limit}


def options(doc: str | None, argv: list[str] | None, *, size: int, rounds: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--size", type=int, default=size, help="events")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds of each measure")
    return parser.parse_args(argv)


def report(name: str, measures: list[dict[str, Any]], *, only_json: bool) -> dict[str, Any]:
    """Print the measures; the last line is the JSON that programs read."""
    result = {"benchmark": name, "measures": measures}
    if not only_json:
        for row in measures:
            print(row)
    print(json.dumps(result))
    return result
