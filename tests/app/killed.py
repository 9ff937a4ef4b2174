"""A process that records batches and runs agents until it is killed; run by the crash test.

python killed.py URL OPTIONS SEED FIRST OUTBOX LIFE

From batch FIRST on, two minutes after noon for each LIFE before: "batch N" after each acknowledged batch, "run N" after each run.
"""

from __future__ import annotations

import json
import os
import random
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from postsale import PostSale
from postsale.agents import RenewalRescue
from postsale.agents.tools import Receipt, Tool
from postsale.agents.tools.sandbox import Email, Task
from postsale.aggregates.signals import Signal
from postsale.events import ManualClock
from tests.app.support import ANNA, NOON, failed, paid, subscribed, used

CUSTOMERS = 8
LIFE = timedelta(minutes=2)  # longer than a dead run is waited for


class _ToFile(Tool):
    """Appends its key to a file: what really left the building, retries included."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Receipt:
        with self.path.open("a") as file:
            file.write(idempotency_key + "\n")
            file.flush()
            os.fsync(file.fileno())
        return Receipt(receipt="done")


class FileTask(_ToFile):
    name, version, kind, input = "crm.create_task", 1, "idempotent", Task


class FileEmail(_ToFile):
    name, version, kind, input = "email.send", 1, "queryable", Email

    def query(self, idempotency_key: str, *, timeout_s: float) -> Receipt | None:
        done = self.path.exists() and idempotency_key in self.path.read_text().split()
        return Receipt(receipt="done") if done else None


def batch(seed: int, number: int) -> list[tuple[str, Signal]]:
    """The same batch for the same seed and number, always."""
    rand = random.Random(f"{seed}/{number}")
    out: list[tuple[str, Signal]] = []
    for n in range(rand.choice([3, 40, 150])):
        customer, at = f"cus_{rand.randrange(CUSTOMERS)}", NOON - timedelta(minutes=rand.randrange(60 * 24 * 40))
        kind = rand.choice([paid, failed, failed, used, used, subscribed])
        more: dict[str, Any] = {"attempt": rand.choice([1, 2, 3])} if kind is failed else {"contact": "eve"} if kind is used else {}
        out.append((customer, kind(f"{number}-{n}", at, **more)))
    return out


def opened(url: str, options: str, outbox: Path, clock: ManualClock) -> PostSale:
    tools = [FileTask(outbox), FileEmail(outbox)]
    return PostSale.open(url, agents=[RenewalRescue()], tools=tools, sandbox=False, clock=clock, **json.loads(options))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(url: str, options: str, seed: int, first: int, outbox: Path, life: int) -> None:
    number = first
    with opened(url, options, outbox, ManualClock(NOON + life * LIFE)) as ps:
        acme = ps.tenant("acme")
        acme.agent("renewal-rescue").act(reason="test", by=ANNA)
        say("ready")
        while True:
            acme.record_many(batch(seed, number))
            say(f"batch {number}")
            if number == 0:
                for n in range(CUSTOMERS):
                    acme.record(f"cus_{n}", paid(f"first-{n}"))
                    acme.consent(f"cus_{n}", "email", "service", evidence="form")
            ps.run_once()
            say(f"run {number}")
            number += 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]), int(sys.argv[6]))
