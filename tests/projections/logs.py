"""Random facts of customers in a real log, for tests of what follows it; the same seed writes the same facts."""

from __future__ import annotations

import random
from collections.abc import Sequence

from postsale.aggregates.signals import InvoicePaid, Signal, TicketOpened, UsageObserved
from postsale.events import Actor, Header, Lane, NewEvent, StreamId, derive_id, encode_payload, to_us
from postsale.projections import Fold, MemoryViews, Runner
from postsale.store import Appended, Store, Submission

from .customers import signal

KINDS: Sequence[type[Signal]] = (InvoicePaid, UsageObserved, TicketOpened)


class Facts:
    """Facts of `customers` customers; ids are in the seed's name, so that no two writers make the same."""

    def __init__(self, seed: int, customers: int = 12) -> None:
        self.seed, self._rand, self._customers, self._made = seed, random.Random(seed), customers, 0

    def next(self) -> NewEvent:
        n, self._made = self._made, self._made + 1
        said = signal(self._rand.choice(KINDS), n // 4 - self._rand.randrange(3))
        stream = StreamId("acme", "customers", f"c{self._rand.randrange(self._customers)}")
        return fact(stream, said, f"{self.seed}-{n}")

    def append(self, store: Store, count: int) -> int:
        """Append so many in one submission; the position of the last."""
        (outcome,) = store.append([Submission(tuple(self.next() for _ in range(count)))])
        assert isinstance(outcome, Appended), outcome
        return outcome.positions[-1]


def fact(stream: StreamId, said: Signal, id: str) -> NewEvent:
    header = Header(actor=Actor("source", "test"), source="test", source_id=id).to_bytes()
    data = encode_payload(said)
    return NewEvent(stream, Lane.FACT, None, derive_id(id), said.wire_name, bytes(16), to_us(said.occurred_at), bytes(16), header, data)


def whole(store: Store, fold: Fold) -> str:
    """The digest of a fold over everything that is in the log now."""
    runner = Runner(store, MemoryViews(), fold)
    runner.catch_up()
    return runner.digest()
