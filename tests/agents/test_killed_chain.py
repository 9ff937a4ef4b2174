"""SIGKILL at every step of the whole chain, from the fact to the undo; the record of the receiving server, the log and its sums judge."""

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

from postsale.events import SECOND_US, to_us
from postsale.testing.engine_site import FileClock
from tests.agents.killed_chain import opened, prepare
from tests.agents.killed_shop import ServerWithShop, judge
from tests.agents.world import NOON
from tests.postgres import new_log

TORTURE = bool(os.environ.get("POSTSALE_TORTURE"))
EVERY = (1, 1) if TORTURE else (14, 40)  # so many steps apart, in the first pass and the second; where it begins is drawn
PASS_S = 7 * 60  # by then a killed process's lease and claim are over
pytestmark = pytest.mark.torture
Run = Callable[..., list[int]]


@pytest.fixture(scope="module")
def processes() -> Iterator[Run]:
    """Passes of `killed_chain`, one for each `die_at`, all at once, each in a process of its own: how each ended."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.agents.killed_chain"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        stdin, stdout = nursery.stdin, nursery.stdout

        def run(place: Place, *die_at: int) -> list[int]:
            order = {"folder": str(place.folder), "tools": place.server.url, "customers": place.customers, "url": place.url}
            stdin.write(json.dumps([{**order, "schema": place.schema, "die_at": at} for at in die_at]) + "\n")
            stdin.flush()
            place.clock.move_to(place.clock.now_us() + PASS_S * SECOND_US)
            ends: list[int] = json.loads(stdout.readline())
            return ends

        yield run


class Place:
    """A log, its clock and the server that its tools call."""

    def __init__(self, folder: Path, server: ServerWithShop, customers: int, url: str = "", schema: str = "postsale") -> None:
        self.folder, self.server, self.customers, self.url, self.schema = folder, server, customers, url, schema

    @property
    def clock(self) -> FileClock:
        return FileClock(self.folder / "clock")

    def made(self) -> Place:
        self.folder.mkdir()
        self.clock.move_to(to_us(NOON))
        with opened(self.folder, self.server.url, self.url, self.schema) as ps:
            prepare(ps, self.customers)
        return self

    def judge(self, seen: str) -> None:
        with opened(self.folder, self.server.url, self.url, self.schema) as ps:
            judge(ps, self.server.shop, self.customers, seen)


def finish(run: Run, place: Place, seen: str) -> None:
    for _ in range(6):
        if run(place, 0) == [0]:
            return
    raise AssertionError(f"{seen}: it does not come to its end")


@pytest.mark.parametrize("passes", [0, 1])
def test_killed_at_every_step_of_the_chain_in_turn_each_effect_is_there_once_and_every_sum_holds(
    passes: int, processes: Run, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    died, every = 0, EVERY[passes]
    with ServerWithShop() as server:
        ready = Place(tmp_path / "ready", server, 1).made()
        for _ in range(passes):
            assert processes(ready, 0) == [3]
        effects, paths = list(server.shop.effects), list(server.shop.paths)
    for step in range(random.randrange(1, every + 1), 1_000, every):
        seen = f"pass {passes}, killed at step {step}"
        with ServerWithShop() as server:
            server.shop.effects, server.shop.paths = list(effects), list(paths)
            place = Place(tmp_path / str(step), server, 1)
            shutil.copytree(ready.folder, place.folder)
            (status,) = processes(place, step)
            if status != -signal.SIGKILL:
                assert status in {0, 3}, seen
                break  # it has fewer steps
            died += 1
            finish(processes, place, seen)
            place.judge(seen)
        shutil.rmtree(place.folder)
    record_property("seen", f"pass {passes}: {died} killed, each at a step of its own")
    assert died >= (25 if TORTURE else 1)


@pytest.mark.parametrize("round_", range(10 if TORTURE else 1))
def test_two_processes_on_one_postgresql_killed_at_random_steps_bring_every_chain_to_its_end_once(
    round_: int, processes: Run, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    rand, ends = random.Random(seed), list[list[int]]()
    with ServerWithShop() as server, new_log() as (url, schema):
        place = Place(tmp_path / "log", server, 2, url, schema).made()
        for _ in range(6 if TORTURE else 3):
            if rand.random() < 0.5:
                server.faults.append(rand.choice(["close-after", "500-after", "500", "half-after"]))
            ends.append(processes(place, rand.randrange(1, 90), rand.randrange(1, 90)))
        server.faults.clear()
        assert {e for pair in ends for e in pair} <= {0, 3, -signal.SIGKILL}, f"seed {seed}: {ends}"
        finish(processes, place, f"seed {seed}: {ends}")
        place.judge(f"seed {seed}: {ends}")
