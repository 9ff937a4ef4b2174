"""Real processes over a view with features across customers: killed, stood still, dropped from under readers; it ends as the whole log says."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from postsale import PostSale
from postsale.errors import UnknownCustomer, ViewMoved
from postsale.events import to_us
from postsale.projections import MemoryViews, Runner
from postsale.projections.projector import share_lease
from postsale.projections.views import Views
from postsale.store import Leases
from tests.nursery import Fork

from . import ring_process
from .ring_process import CUSTOMERS, FOLD, runner_of, served, step
from .support import NOON, Server, Where, place_of

Process = subprocess.Popen[str]


@contextmanager
def processes(where: Where) -> Iterator[Callable[[str, object], Process]]:
    """Start one with a role; all are gone at the end."""
    url, options = place_of(where)
    running: list[Process] = []

    def start(role: str, argument: object) -> Process:
        running.append(Fork(ring_process.__file__, url, json.dumps(options), role, argument, stdout=subprocess.PIPE))
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


def entries(runner: Runner, views: Views) -> list[str]:
    return [key for key, _ in views.scan(runner.names().aside, "belongs/")]


def check_whole(ps: PostSale, say: str) -> None:
    """The view, its entries and what is read from it are those of a fold over everything."""
    runner, views = served(ps), MemoryViews()
    again = runner_of(ps, views=views)
    again.catch_up()
    assert (runner.position(), runner.digest()) == (ps.log.store.head(), again.digest()), say
    assert runner._members is not None
    said = {entry for key, row in runner.rows() for entry in runner._members.index(key, FOLD.load(row))}
    assert set(entries(runner, ps.views)) == said != set(), say
    check_reads(ps, say)


def check_reads(ps: PostSale, say: str) -> None:
    """Every customer by the view, against one without rows, which reads the log; nobody writes meanwhile."""
    acme, runner, now = ps.tenant("acme"), served(ps), to_us(NOON)
    for n in range(CUSTOMERS):
        try:
            streams = acme.customer(f"cus_{n}").fact_streams
        except UnknownCustomer:
            continue
        expected = runner_of(ps, views=MemoryViews()).read_state(streams)
        values = dict(FOLD.finish(expected.state, now, expected.related))
        ways = [runner.read_state(streams), runner.kept(streams)]
        for read in (ways[0], *(way for way in ways[1:] if way.position == ps.log.store.head())):
            assert dict(FOLD.finish(read.state, now, read.related)) == values, say


def test_a_rebuild_killed_midway_under_writers_and_resumed_ends_as_a_fold_over_everything(lasting: Where) -> None:
    """Rows, entries of members and approximate counts, in four shares; and while builds come and go under a reader, each read is right."""
    seed = random.getrandbits(32)
    rng, (url, options) = random.Random(seed), place_of(lasting)
    with PostSale.open(url, **options) as ps, processes(lasting) as start:
        for n in range(120):
            step(ps, rng, f"first-{n}")
        served(ps).catch_up()
        writer = start("write", seed)
        line(writer)
        ended(start("rebuild", 2), -signal.SIGKILL)
        ended(writer)
        check_reads(ps, f"seed {seed}")
        rebuilds = [start("rebuild", 0)]
        while rebuilds[-1].poll() is None:
            check_reads(ps, f"seed {seed}")
        from_position, serves = ended(rebuilds[-1]).split()
        assert (int(from_position) > 0, serves) == (True, "True"), seed
        caught_up(served(ps))
        check_whole(ps, f"seed {seed}")


def test_of_a_projector_that_stood_still_beyond_its_lease_nothing_is_stored(server: Server) -> None:
    """Two fold; one is stopped, the other takes its shares, and both go on when it wakes up: under writers, and with moves of members."""
    seed = random.getrandbits(32)
    url, options = place_of(server)
    with PostSale.open(url, **options) as ps, processes(server) as start:
        for n in range(60):
            step(ps, random.Random(seed + n), f"first-{n}")
        projectors = [start("project", 1.0) for _ in range(2)]
        assert [line(projector) for projector in projectors] == ["ready", "ready"]
        until(lambda: all(holds(ps, projector) for projector in projectors), f"both have shares, seed {seed}")
        writer = start("write", seed)
        line(writer)
        projectors[0].send_signal(signal.SIGSTOP)
        ended(writer)
        until(lambda: served(ps).position() == ps.log.store.head(), f"the other folds on, seed {seed}")
        check_whole(ps, f"seed {seed}")
        projectors[0].send_signal(signal.SIGCONT)
        until(lambda: holds(ps, projectors[0]), f"it has shares again, seed {seed}")
        for n in range(30):
            step(ps, random.Random(seed - n), f"last-{n}")
        until(lambda: served(ps).position() == ps.log.store.head(), f"both fold on, seed {seed}")
        for projector in projectors:
            projector.send_signal(signal.SIGTERM)
            assert ended(projector) == "stopped"
        check_whole(ps, f"seed {seed}")


def caught_up(runner: Runner) -> None:
    while True:
        try:
            runner.catch_up()
            return
        except ViewMoved:
            continue


def holds(ps: PostSale, projector: Process) -> bool:
    names = [share_lease(served(ps).view, n) for n in range(4)]
    held = [found.holder for name in names if (found := Leases(ps.log.store.kv).look(name)) is not None]
    return any(f"process {projector.pid} " in holder for holder in held)


def until(condition: Callable[[], bool], what: str) -> None:
    """Await a condition; a minute without it is a failure."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)
