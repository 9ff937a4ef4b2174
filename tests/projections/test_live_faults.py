"""Real processes over one log: a rebuild that is killed and resumed under live writers, projectors that are killed or stood still.

Whatever happens to them, the view ends as a fold over the whole log, byte for byte.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postsale.errors import ViewMoved
from postsale.projections import CustomerHealth, Fold, Runner, Views
from postsale.projections.projector import share_lease
from postsale.store import Leases, Query, Store
from tests.nursery import Fork
from tests.postgres import new_log

from . import live_worker
from .logs import Facts, whole

FOLD = Fold(CustomerHealth)
Place = tuple[str, str, str]
Process = subprocess.Popen[str]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """URL, schema and file of views, for processes."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'log.db'}", "-", str(tmp_path / "log.views")
    else:
        with new_log() as (url, schema):
            yield url, schema, "-"


@contextmanager
def opened(place: Place) -> Iterator[tuple[Store, Views, Runner]]:
    store, views = live_worker.opened(*place)
    yield store, views, live_worker.runner_of(store, views, 1 if place[1] == "-" else 4)
    views.close()
    store.close()


@contextmanager
def processes() -> Iterator[Callable[..., Process]]:
    """Start one with a role; all are gone at the end."""
    running: list[Process] = []

    def start(place: Place, role: str, argument: object) -> Process:
        assert __package__ is not None
        root = str(Path(__file__).parents[__package__.count(".") + 1])
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
        running.append(Fork("-m", f"{__package__}.live_worker", *place, role, argument, env=env, stdout=subprocess.PIPE))
        return running[-1]

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.communicate()


def line(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: Process, code: int = 0) -> str:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said.strip()


def caught_up(runner: Runner) -> None:
    while True:
        try:
            runner.catch_up()
            return
        except ViewMoved:
            continue


@pytest.mark.parametrize("commits", [1, 7])
def test_a_rebuild_killed_midway_under_live_writers_and_resumed_ends_with_the_digest_of_the_whole_log(place: Place, commits: int) -> None:
    """The old build serves meanwhile, up to date; the resumed one goes on where the killed one was."""
    seed = random.getrandbits(32)
    with opened(place) as (store, _, runner), processes() as start:
        Facts(seed).append(store, 1_500)
        runner.catch_up()
        served = runner.view
        writers = [start(place, "write", seed + n) for n in (1, 2)]
        for writer in writers:
            line(writer)  # both are writing
        ended(start(place, "rebuild", commits), -signal.SIGKILL)
        assert runner.view == served
        caught_up(runner)
        for stream in sorted({e.stream for e in store.read(Query(limit=40))})[:3]:
            read = runner.read_state([stream])
            assert FOLD.digest(read.state) == FOLD.digest(runner.folded(stream, read.position)), seed
        resumed = start(place, "rebuild", 0)
        from_position, serves = ended(resumed).split()
        assert (int(from_position) >= commits * live_worker.BATCH, serves) == (True, "True"), seed
        for writer in writers:
            ended(writer)
        assert runner.view == f"{served}~1"
        caught_up(runner)
        assert store.head() == 1_500 + 2 * 1_000
        assert runner.digest() == whole(store, FOLD), seed


def test_a_disk_that_is_full_in_the_middle_of_a_rebuild_leaves_what_serves_and_the_rebuild_goes_on_when_there_is_space(
    tmp_path: Path,
) -> None:
    """The kernel refuses to let a file grow; the error is typed, the old build serves on, and nothing of the new one is half-written."""
    seed = random.getrandbits(32)
    place = f"sqlite:///{tmp_path / 'log.db'}", "-", str(tmp_path / "log.views")
    with opened(place) as (store, _, runner):
        Facts(seed, customers=1_500).append(store, 1_500)
        runner.catch_up()
        served, digest = runner.view, runner.digest()
        assert digest == whole(store, FOLD), seed
    limit = max(path.stat().st_size for path in tmp_path.iterdir()) + 4_096
    with processes() as start:
        assert "views file log.views" in ended(start(place, "full", limit)), seed
        with opened(place) as (_, _, runner):
            assert (runner.view, runner.digest()) == (served, digest), seed
        from_position, serves = ended(start(place, "rebuild", 0)).split()
        assert (int(from_position) > 0, serves) == (True, "True"), seed
    with opened(place) as (_, _, runner):
        assert (runner.view, runner.digest()) == (f"{served}~1", digest), seed


@pytest.mark.parametrize("trouble", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stood still"])
def test_when_a_projector_is_lost_the_others_take_its_shares_and_nothing_is_lost_or_counted_twice(trouble: signal.Signals) -> None:
    """Three share a view on a server; one is killed, or stands still beyond its leases and wakes up again, while two write."""
    seed = random.getrandbits(32)
    with new_log() as (url, schema), processes() as start:
        place = (url, schema, "-")
        with opened(place) as (store, _, runner):
            Facts(seed).append(store, 300)
            projectors = [start(place, "project", 1.0) for _ in range(3)]
            for projector in projectors:
                assert line(projector) == "ready"
            writers = [start(place, "write", seed + n) for n in (1, 2)]
            for writer in writers:
                line(writer)
            projectors[0].send_signal(trouble)
            for writer in writers:
                ended(writer)
            until(lambda: runner.position() == store.head(), f"the others fold on, seed {seed}")
            digest = whole(store, FOLD)
            assert runner.digest() == digest, seed
            if trouble == signal.SIGSTOP:
                projectors[0].send_signal(signal.SIGCONT)
                until(lambda: holds(store, runner, projectors[0]), "it has shares again, perhaps those that it remembers")
                Facts(seed + 3).append(store, 200)
                until(lambda: runner.position() == store.head(), f"all three fold on, seed {seed}")
                digest = whole(store, FOLD)
            for projector in projectors[0 if trouble == signal.SIGSTOP else 1 :]:
                projector.send_signal(signal.SIGTERM)
                assert ended(projector) == "stopped"
            assert runner.digest() == digest, seed


def holds(store: Store, runner: Runner, projector: Process) -> bool:
    names = [share_lease(runner.view, n) for n in range(runner.partitions)]
    held = [found.holder for name in names if (found := Leases(store.kv).look(name)) is not None]
    return any(f"process {projector.pid} " in holder for holder in held)


def until(condition: Callable[[], bool], what: str) -> None:
    """Await a condition; a minute without it is a failure."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
