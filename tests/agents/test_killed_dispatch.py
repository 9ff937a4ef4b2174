"""SIGKILL and SIGSTOP at every step of one effect, from the trigger to its result: the receiving server's own record has it once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postsale.access import FileVault
from postsale.aggregates.identity import customer_stream
from postsale.events import Lane, StreamId, SystemClock
from postsale.store import Query, SQLiteStore
from postsale.store.log import Log
from postsale.testing import Answer, Request, Shape, ToolServer
from tests.agents.killed_dispatch import STREAM
from tests.agents.shapes import Receiver, Slack

Run = Callable[..., int]
TORTURE = bool(os.environ.get("POSTSALE_TORTURE"))
pytestmark = pytest.mark.torture


class Naive(Receiver):
    """It counts whatever comes."""

    def handle(self, request: Request) -> Answer:
        before, self.effects = self.effects, []
        answer = super().handle(request)
        self.effects = before + self.effects
        return answer


SHAPES: dict[str, type[Shape]] = {"idempotent": Receiver, "queryable": Slack, "unsafe": Naive}


@pytest.fixture(scope="module")
def process() -> Iterator[Run]:
    """Runs of `killed_dispatch`, each in a process of its own: 0, minus the signal that it died of, or its number when it stands still."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.agents.killed_dispatch"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        stdin, stdout = nursery.stdin, nursery.stdout

        def run(
            folder: Path,
            server: ToolServer,
            kind: str,
            *,
            minutes: int,
            die_at: int = 0,
            many: int = 0,
            still: int = 0,
            go_on: int | None = None,
        ) -> int:
            order: dict[str, object] = {"folder": str(folder), "url": server.url, "kind": kind, "minutes": minutes, "die_at": die_at}
            order = {**order, "many": many, "still": still} if go_on is None else {"go_on": go_on}
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
            return int(stdout.readline())

        yield run


def kinds(folder: Path, stream: StreamId = STREAM) -> list[str]:
    store = SQLiteStore(folder / "log.db")
    log = Log(store, FileVault(folder / "log.keys"), SystemClock())
    found = [r.stored.kind for r in log.events(Query(tenant="acme", streams=(stream,), lane=Lane.DECISION))]
    store.close()
    return found


def check(folder: Path, kind: str, effects: list[str], seen: str) -> None:
    told = kinds(folder)
    assert told.count("agent/decision-recorded") == 1, seen
    if kind == "unsafe":
        assert len(effects) <= 1, seen
        assert told[-1] in {"effect/succeeded", "effect/unknown"}, (seen, told)
        assert (told[-1] != "effect/succeeded") or effects, seen
    else:
        assert len(effects) == 1, (seen, told)
        assert told[-1] == "effect/succeeded", (seen, told)


@pytest.mark.parametrize("kind", list(SHAPES))
def test_killed_at_every_step_in_turn_the_effect_is_there_once(kind: str, process: Run, tmp_path: Path) -> None:
    died, ready, seen = 0, tmp_path / "ready", set()
    ready.mkdir()
    with ToolServer(SHAPES[kind]()) as server:
        assert process(ready, server, kind, minutes=0, die_at=-1) == 0
    for step in range(1, 200):
        folder = shutil.copytree(ready, tmp_path / str(step))
        with ToolServer(SHAPES[kind]()) as server:
            status = process(folder, server, kind, minutes=0, die_at=step)
            if status == 0:
                break  # it has fewer steps
            assert status == -signal.SIGKILL
            died += 1
            told = kinds(folder)
            seen.add((told[-1] if told else "", len(server.shape.effects)))
            assert process(folder, server, kind, minutes=6) == 0
            check(folder, kind, server.shape.effects, f"killed at step {step}")
    assert 8 <= died < 199
    assert seen >= {("", 0), ("agent/decision-recorded", 0), ("effect/started", 0), ("effect/started", 1), ("effect/succeeded", 1)}


@pytest.mark.parametrize(("kind", "patient"), [("idempotent", True), ("queryable", True), ("queryable", False), ("unsafe", True)])
def test_a_worker_that_stands_still_at_every_step_in_turn_and_goes_on_after_another_did_the_work_does_nothing_twice(
    kind: str, patient: bool, process: Run, tmp_path: Path
) -> None:
    """Between the last look at the clock and the last piece that is sent nobody can look again: there only the other side can tell.

    It does when it knows the key (idempotent), and when it is not patient: then it has given up a request that is not whole by now.
    """
    stood, ready, late = 0, tmp_path / "ready", list[int]()
    ready.mkdir()
    with ToolServer(SHAPES[kind]()) as server:
        assert process(ready, server, kind, minutes=0, die_at=-1) == 0
    for step in range(1, 200):
        folder = shutil.copytree(ready, tmp_path / str(step))
        with ToolServer(SHAPES[kind]()) as server:
            pid = process(folder, server, kind, minutes=0, die_at=step, still=6)
            if pid == 0:
                break  # it has fewer steps
            assert pid > 0
            stood += 1
            assert process(folder, server, kind, minutes=6) == 0
            by_others = len(server.shape.effects)
            if not patient:
                server.give_up()
            assert process(folder, server, kind, minutes=6, go_on=pid) == 0
            if len(server.shape.effects) > by_others and by_others:
                late.append(step)
            assert process(folder, server, kind, minutes=20) == 0
            if step not in late:
                check(folder, kind, server.shape.effects, f"stood still at step {step}")
    assert 8 <= stood < 199
    assert len(late) == (kind == "queryable" and patient), late


@pytest.mark.parametrize("kind", list(SHAPES))
@pytest.mark.parametrize("round_", range(40 if TORTURE else 3))
def test_killed_again_and_again_at_random_steps_the_effect_is_there_once(kind: str, round_: int, process: Run, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    rand = random.Random(seed)
    with ToolServer(SHAPES[kind]()) as server:
        statuses = []
        for again in range(8):
            if rand.random() < 0.3:
                server.faults.append(rand.choice(["close-after", "500-after", "500", "half-after", "429"]))
            statuses.append(process(tmp_path, server, kind, minutes=6 * again, die_at=rand.randrange(1, 16)))
        server.faults.clear()
        assert process(tmp_path, server, kind, minutes=60) == 0
        assert set(statuses) <= {0, -signal.SIGKILL}
        check(tmp_path, kind, server.shape.effects, f"seed {seed}: {statuses}")


MANY = 5


@pytest.mark.parametrize("kind", list(SHAPES))
@pytest.mark.parametrize("round_", range(20 if TORTURE else 2))
def test_killed_at_random_steps_of_visits_made_together_each_effect_is_there_once(
    kind: str, round_: int, process: Run, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    rand = random.Random(seed)
    with ToolServer(SHAPES[kind]()) as server:
        statuses = []
        for again in range(6):
            if rand.random() < 0.3:
                server.faults.append(rand.choice(["close-after", "500-after", "500", "half-after"]))
            statuses.append(process(tmp_path, server, kind, minutes=6 * again, die_at=rand.randrange(1, 40), many=MANY))
        server.faults.clear()
        assert process(tmp_path, server, kind, minutes=60, many=MANY) == 0
        seen = f"seed {seed}: {statuses}"
        assert set(statuses) <= {0, -signal.SIGKILL}, seen
        told = [kinds(tmp_path, customer_stream("acme", f"c{i}")) for i in range(1, MANY + 1)]
        assert all(x.count("agent/decision-recorded") == 1 for x in told), (seen, told)
        if kind != "unsafe":
            assert {x[-1] for x in told} == {"effect/succeeded"}, (seen, told)
            assert len(server.shape.effects) == MANY, seen
        else:
            assert {x[-1] for x in told} <= {"effect/succeeded", "effect/unknown"}, (seen, told)
            assert sum(x[-1] == "effect/succeeded" for x in told) <= len(server.shape.effects) <= MANY, seen
