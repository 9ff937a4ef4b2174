"""A worker that reserves from slices of one budget until it is killed: `python -m tests.agents.escrow_worker LOG SEED`, a line per reservation."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from uuid import UUID

from postsale.access import FileVault
from postsale.agents.budget import budget_stream, slice_stream
from postsale.agents.escrow import Escrow
from postsale.agents.policy_sections import Budget
from postsale.aggregates.budgets import BudgetCommitted, BudgetReserved
from postsale.errors import ContentConflict, VersionConflict
from postsale.events import SystemClock
from postsale.store import SQLiteStore
from postsale.store.log import Cause, Draft, Log

PERIOD = "2026-11"
BUDGET = Budget(name="retention", amount_minor=20_000, currency="EUR", per="month")


def log_of(folder: Path) -> Log:
    clock = SystemClock()
    return Log(SQLiteStore(folder / "log.db", clock=clock), FileVault(folder / "log.keys"), clock)


def reserve(log: Log, escrow: Escrow, id_: UUID, minor: int) -> bool:
    """One decision's money, as the desk takes it: False when the budget does not have it."""
    while True:
        purse = escrow.purse(log, "acme", BUDGET, PERIOD, minor)
        if purse.left_minor < minor:
            return False
        stream = budget_stream("acme", BUDGET.name) if purse.slice is None else slice_stream("acme", purse.slice)
        now_us = log.clock.now_us()
        taken = BudgetReserved(decision_id=id_, period=PERIOD, amount_minor=minor, currency="EUR")
        events = [log.decision(stream, purse.version, Draft(taken, UUID(int=id_.int ^ 1), now_us, Cause()))]
        if id_.int % 3 == 0:
            spent = Draft(BudgetCommitted(decision_id=id_), UUID(int=id_.int ^ 2), now_us, Cause())
            events.append(log.decision(stream, purse.version + 1, spent))
        try:
            log.append(events)
        except (ContentConflict, VersionConflict):
            continue
        return True


def main() -> None:
    log, rand = log_of(Path(sys.argv[1])), random.Random(int(sys.argv[2]))
    escrow = Escrow(lease_s=float(sys.argv[3]), share=8)
    while reserve(log, escrow, UUID(int=rand.getrandbits(126) << 2), rand.randrange(1, 120)):
        sys.stdout.write("1\n")
        sys.stdout.flush()
    sys.stdout.write("0\n")


if __name__ == "__main__":
    main()
