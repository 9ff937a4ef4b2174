"""A run that is told to end: what has begun comes to its end, the lease is given back, and the next run makes the rest."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest

from postsale.agents import Agent
from postsale.agents.tools import Receipt, Tool, ToolKind, ToolModel
from postsale.agents.work import TOGETHER
from postsale.audit import check_dispositions
from postsale.events import ManualClock
from postsale.store import Query
from postsale.testing.tool_contract import one_effect
from tests.agents.world import ANNA

from .support import NOON, failed, opened

CUSTOMERS = TOGETHER + 20


class Said(ToolModel):
    customer: str


class Calls(Tool):
    """Keeps the keys it was called with."""

    name = "test.call"
    kind: ClassVar[ToolKind] = "unsafe"
    input = Said

    def __init__(self) -> None:
        self.keys: list[str] = []

    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Receipt:
        self.keys.append(idempotency_key)
        return Receipt()


def test_told_to_end_at_the_first_call_it_records_what_has_left_and_the_next_run_does_the_rest_once(tmp_path: Path) -> None:
    tool, clock = Calls(), ManualClock(NOON)
    agent = Agent(one_effect(tool, {"customer": "$customer"}))
    with opened(tmp_path, clock=clock, agents=[agent], tools=[tool], sandbox=False) as ps:
        acme = ps.tenant("acme")
        acme.record_many([(f"cus_{n}", failed(f"f{n}")) for n in range(CUSTOMERS)])
        acme.agent("contract").act(reason="test", by=ANNA)
        first = ps.run_once(stopped=lambda: bool(tool.keys))
        told = Counter(e.kind for e in ps.log.store.read(Query(tenant="acme")))
        assert first.stopped
        assert 1 <= first.visited == len(tool.keys) < CUSTOMERS
        assert told["effect/started"] == told["effect/succeeded"] == len(tool.keys)
        rest = ps.run_once(wait_s=0)
        assert (rest.stopped, first.visited + rest.visited) == (False, CUSTOMERS)
        assert max(Counter(tool.keys).values()) == 1
        assert len(tool.keys) == CUSTOMERS
        found = check_dispositions(ps.log.store)
        assert (found.problems, found.waiting, found.triggers) == ([], 0, CUSTOMERS)
        causes = {
            e.header.causation_id for n in range(CUSTOMERS) for e in acme.timeline(f"cus_{n}") if e.stored.kind == "agent/trigger-raised"
        }
        assert len(causes) == CUSTOMERS  # each by the fact that moved it


SCRIPT = """
import os, sys
from postsale.app.rounds import Rounds
cause, seen = Rounds._cause, []
def told(self, stream, *a):
    seen.append(stream)
    if len(seen) == {at}:
        os.kill(os.getpid(), {number})
    return cause(self, stream, *a)
Rounds._cause = told
sys.argv = ["postsale", "run", "--json", "--db", {db!r}, "--agent", "renewal-rescue"]
from postsale.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_told_to_end_finishes_what_it_began_gives_its_lease_back_and_says_that_something_is_left(
    number: signal.Signals, tmp_path: Path
) -> None:
    """The signal is real, and comes from the process itself before its 31st visit."""
    db, many = f"sqlite:///{tmp_path / 'log.db'}", 60
    with opened(tmp_path) as ps:
        ps.tenant("acme").record_many([(f"cus_{n}", failed(f"f{n}", attempt=2)) for n in range(many)])

    def run(at: int) -> tuple[int, dict[str, Any]]:
        script = SCRIPT.format(at=at, number=int(number), db=db)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)

    status, report = run(31)
    assert (status, report["stopped"], report["counts"]["visited"]) == (1, True, 31)
    status, report = run(0)  # at once: nobody holds the lease
    assert (status, report["stopped"], report["counts"]["visited"]) == (0, False, many - 31)
    with opened(tmp_path) as ps:
        found = check_dispositions(ps.log.store)
        assert (found.problems, found.waiting, found.triggers) == ([], 0, many)
