"""A worker that reserves from slices of budgets of all units until it is killed: `python -m tests.agents.escrow_worker SEED LEASE FOLDER [URL SCHEMA]`.

A line per decision that was stored.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from postsale.access import FileVault
from postsale.agents.budget import Page, budget_stream, ledger_stream
from postsale.agents.budget_policy import Budget, Weights
from postsale.agents.escrow import Escrow
from postsale.aggregates.budgets import BudgetCommitted, BudgetReserved
from postsale.errors import ContentConflict, VersionConflict
from postsale.events import SystemClock, derive_id
from postsale.store import SQLiteStore
from postsale.store.log import Cause, Draft, Log
from postsale.store.postgres import PostgresStore

PERIOD = "2026-11"
MONEY = Budget(name="retention", unit="EUR", limit=20_000, per="month")
MAIL = Budget(name="mail", unit="contacts", channel="email", limit=300, per="month")
RISK = Budget(name="risk", unit="risk", weights=Weights(low=1, medium=5, high=20), limit=900, per="month")
BUDGETS = {b.name: b for b in (MONEY, MAIL, RISK)}


def page_of(budget: Budget) -> Page:
    return Page(budget.counted_in, PERIOD)


@contextmanager
def opened(place: Sequence[str]) -> Iterator[Log]:
    """The log in a folder; with a URL and a schema behind it, one of PostgreSQL whose keys lie there."""
    folder, *database = place
    clock = SystemClock()
    store: Any = (
        PostgresStore(database[0], schema=database[1], clock=clock) if database else SQLiteStore(Path(folder) / "log.db", clock=clock)
    )
    try:
        yield Log(store, FileVault(Path(folder) / "log.keys"), clock)
    finally:
        store.close()


def reserve(log: Log, escrow: Escrow, id_: UUID, wants: int | Mapping[str, int]) -> bool:
    """What one decision needs, as the desk takes it: all of it in one append, or False when some budget does not have it.

    One of three decisions is settled at once, its effect having happened.
    """
    wanted = {"retention": wants} if isinstance(wants, int) else wants
    while True:
        now_us, events = log.clock.now_us(), []
        for name, amount in wanted.items():
            budget, page = BUDGETS[name], page_of(BUDGETS[name])
            purse = escrow.purse(log, budget_stream("acme", name), page, budget.limit, amount)
            if purse.left < amount:
                return False
            stream, entry = ledger_stream("acme", name, purse.slice), {"decision_id": id_, "intent_id": id_, "amount": amount}
            taken = BudgetReserved(**entry, **page._asdict())
            events.append(log.decision(stream, purse.version, Draft(taken, derive_id(id_, name, 1), now_us, Cause())))
            if id_.int % 3 == 0:
                spent = Draft(BudgetCommitted(**entry, **page._asdict()), derive_id(id_, name, 2), now_us, Cause())
                events.append(log.decision(stream, purse.version + 1, spent))
        try:
            log.append(events)
        except (ContentConflict, VersionConflict):
            continue
        return True


def drawn(rand: random.Random) -> dict[str, int]:
    """What a decision needs: money, contacts and risk, or some of them."""
    wants = {"retention": rand.randrange(1, 120), "mail": rand.randrange(1, 3), "risk": rand.choice([1, 5, 20])}
    return {name: wants[name] for name in rand.sample(sorted(wants), rand.randrange(1, 4))}


def main() -> None:
    seed, lease_s, *place = sys.argv[1:]
    with opened(place) as log:
        rand, escrow = random.Random(int(seed)), Escrow(lease_s=float(lease_s), share=8)
        while reserve(log, escrow, UUID(int=rand.getrandbits(126) << 2), drawn(rand)):
            sys.stdout.write("1\n")
            sys.stdout.flush()
        sys.stdout.write("0\n")


if __name__ == "__main__":
    main()
