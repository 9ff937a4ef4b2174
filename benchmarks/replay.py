"""Decisions made again from the log alone, intents and evidence, in the sandbox, and compared.

`python -m benchmarks.replay --json --size 1500`. Each customer has twelve facts and three decisions. The limit, in the same run: the
same deciding with everything at hand, nothing read, folded, sent or compared. The start of the sandbox is in the time; it is measured
by itself, too. There is no peer: nobody else makes evidence again.
"""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks._common import fastest, measure, options, report
from benchmarks._policy import dunning
from benchmarks.agents import bare_deciding
from postsale.access import Person
from postsale.agents import Agent
from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed, UsageObserved
from postsale.app import PostSale
from postsale.audit.replay_again import Models
from postsale.audit.replay_judge import Judge
from postsale.events import ManualClock, SystemClock, from_us

GOAL_PER_MINUTE = 20_000.0
DECISIONS_EACH = 3


def fill(folder: Path, size: int) -> str:
    """A log with `size` decisions; its URL."""
    url = f"sqlite:///{folder / 'log.db'}"
    clock = ManualClock(from_us(SystemClock().now_us()))
    with PostSale.open(url, agents=[Agent(dunning("crm.create_task@1", health=True))], clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.agent("dunning").act(reason="benchmark", by=Person("benchmarks", "os-user"))
        customers = [f"cus_{n}" for n in range(max(1, size // DECISIONS_EACH))]
        for turn in range(DECISIONS_EACH):
            at = from_us(clock.now_us())
            for who in customers:
                acme.record(who, InvoicePaid(source="b", id=f"p{turn}{who}", occurred_at=at, amount_minor=4_900, currency="EUR"))
                for n in range(2):
                    acme.record(who, UsageObserved(source="b", id=f"u{turn}{n}{who}", occurred_at=at, feature="search", count=n + 1))
            ps.run_once()  # what failed is over
            clock.advance(timedelta(minutes=1))
            at = from_us(clock.now_us())
            for who in customers:
                acme.record(who, InvoicePaymentFailed(source="b", id=f"f{turn}{who}", occurred_at=at, amount_minor=4_900, currency="EUR"))
            ps.run_once()
            clock.advance(timedelta(minutes=1))
    return url


def replayed(url: str) -> tuple[float, int]:
    """Seconds, and how many decisions."""
    with PostSale.open(url) as ps:
        start = time.perf_counter()
        found = ps.tenant("acme").replay_many()
        seconds = time.perf_counter() - start
        if not found.ok or found.counts["same"] != found.decisions:
            raise SystemExit(f"not every decision was made again alike: {found.to_dict()['counts']}")
        return seconds, found.decisions


def started(url: str) -> float:
    with PostSale.open(url) as ps:
        start = time.perf_counter()
        with Judge({}, Models(ps.model)):
            return time.perf_counter() - start


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=1_500, rounds=2)
    with TemporaryDirectory() as directory:
        url = fill(Path(directory), chosen.size)
        count = replayed(url)[1]
        best = fastest(
            chosen.rounds, ours=lambda _: replayed(url)[0], start=lambda _: started(url), bare=lambda _: bare_deciding(chosen.size)
        )
    per_minute = 60 * count / best["ours"]
    measures = [
        measure("decisions made again", per_minute, "decisions/min", goal=GOAL_PER_MINUTE, limit=60 * chosen.size / best["bare"]),
        measure("start of the sandbox", best["start"], "s"),
    ]
    return report("replay", measures, only_json=chosen.json)


if __name__ == "__main__":
    main()
