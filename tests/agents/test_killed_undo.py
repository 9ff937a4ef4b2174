"""SIGKILL at every step of an undo, from the proposal to its end: the receiving server's own record has each effect taken back once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postsale.access import FileVault
from postsale.events import Lane, SystemClock
from postsale.store import Query, SQLiteStore
from postsale.store.log import Log
from postsale.testing import Shape, ToolServer
from tests.agents.killed_undo import CUSTOMERS
from tests.agents.shapes import Receiver
from tests.agents.test_killed_dispatch import Naive

Run = Callable[..., int]
TORTURE = bool(os.environ.get("POSTSALE_TORTURE"))
pytestmark = pytest.mark.torture
SHAPES: dict[str, type[Shape]] = {"idempotent": Receiver, "unsafe": Naive}
N = len(CUSTOMERS)


@pytest.fixture(scope="module")
def process() -> Iterator[Run]:
    """Runs of `killed_undo`, each in a process of its own: 0, or minus the signal that it died of."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.agents.killed_undo"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        stdin, stdout = nursery.stdin, nursery.stdout

        def run(folder: Path, server: ToolServer, kind: str, *, minutes: int, die_at: int = 0) -> int:
            order = {"folder": str(folder), "url": server.url, "kind": kind, "minutes": minutes, "die_at": die_at}
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
            return int(stdout.readline())

        yield run


def kinds(folder: Path) -> Counter[str]:
    store = SQLiteStore(folder / "log.db")
    log = Log(store, FileVault(folder / "log.keys"), SystemClock())
    found = Counter(r.stored.kind for r in log.events(Query(tenant="acme", lane=Lane.DECISION)))
    store.close()
    return found


def check(folder: Path, kind: str, effects: list[str], seen: str) -> None:
    """`effects`: what the server counted of undoing."""
    told = kinds(folder)
    assert (told["undo/ordered"], told["undo/finished"]) == (N, 1), (seen, told)
    assert max(Counter(effects).values(), default=0) <= 1, (seen, effects)
    assert told["effect/succeeded"] + told["effect/unknown"] == 2 * N, (seen, told)
    if kind == "idempotent":
        assert len(effects) == N, (seen, told)
    else:
        assert told["effect/succeeded"] - N <= len(effects) <= N, (seen, told)


def ready(process: Run, folder: Path, kind: str) -> ToolServer:
    folder.mkdir()
    with ToolServer(SHAPES[kind]()) as server:
        assert process(folder, server, kind, minutes=0, die_at=-1) == 0
        assert len(server.shape.effects) == N
    return server


@pytest.mark.parametrize("kind", list(SHAPES))
def test_killed_at_every_step_in_turn_each_effect_is_taken_back_once(kind: str, process: Run, tmp_path: Path) -> None:
    died, seen = 0, set()
    ready(process, tmp_path / "ready", kind)
    for step in range(1, 300):
        folder = shutil.copytree(tmp_path / "ready", tmp_path / str(step))
        with ToolServer(SHAPES[kind]()) as server:
            status = process(folder, server, kind, minutes=1, die_at=step)
            if status == 0:
                check(folder, kind, server.shape.effects, "never killed")
                break  # it has fewer steps
            assert status == -signal.SIGKILL
            died += 1
            told = kinds(folder)
            seen.add((told["undo/begun"], told["undo/ordered"], len(server.shape.effects)))
            for minutes in (7, 13):
                if kinds(folder)["undo/finished"] == 0:
                    assert process(folder, server, kind, minutes=minutes) == 0
            check(folder, kind, server.shape.effects, f"killed at step {step}")
    assert 15 <= died < 299
    assert seen >= {(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 2, 1), (1, 2, 2)}


@pytest.mark.parametrize("kind", list(SHAPES))
@pytest.mark.parametrize("round_", range(30 if TORTURE else 2))
def test_killed_again_and_again_at_random_steps_each_effect_is_taken_back_once(
    kind: str, round_: int, process: Run, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    rand = random.Random(seed)
    folder = tmp_path / "log"
    ready(process, folder, kind)
    with ToolServer(SHAPES[kind]()) as server:
        statuses = []
        for again in range(8):
            if rand.random() < 0.3:
                server.faults.append(rand.choice(["close-after", "500-after", "500", "half-after", "429"]))
            statuses.append(process(folder, server, kind, minutes=1 + 6 * again, die_at=rand.randrange(1, 18)))
        server.faults.clear()
        for minutes in (60, 120):
            assert process(folder, server, kind, minutes=minutes) == 0, f"seed {seed}: {statuses}"
        assert set(statuses) <= {0, -signal.SIGKILL}, f"seed {seed}: {statuses}"
        check(folder, kind, server.shape.effects, f"seed {seed}: {statuses}")
