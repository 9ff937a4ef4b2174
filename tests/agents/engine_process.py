"""A process that forks others which drive agents: `python -m tests.agents.engine_process`, a JSON line per order, a JSON line per answer.

turn    {"do", "site", "processes"}: so many processes, the same each time, do what waits, once, on the embedded engine, all at once;
        answers with how often one found another at it
run     {"do", "site", "die_at"}: a process of its own does what waits on the embedded engine; answers with how it ended
done    {"do", "site"}: the processes of `turn` end
tell    {"do", "site", "chapter", "address", "die_at"}: one process has a chapter of the chain happen and calls Temporal's workflows, or without
        an address does what waits on the embedded engine; answers with how it ended
relay   {"do", "site", "address", "die_at"}: one process calls Temporal's workflows, once; answers with how it ended
worker  {"do", "site", "address", "die_at"}: a worker that is started again when it dies; answers with the process to send SIGTERM to

`die_at` is the step, or for a worker the steps of one start after another, at which a process kills itself by SIGKILL; 0 is never. A step
is the moment before anything that others can see: a write to the log or to its records, a connection, a piece sent or received.
Nothing outlives the process that forked it. An order names the class of its site.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from postsale.agents.engines.temporal import TemporalEngine
from postsale.errors import EngineUnavailable, LeaseHeld
from postsale.testing.engine_contract import reference
from postsale.testing.engine_site import Site
from tests.agents.chain_story import CHAPTERS, ChainSite
from tests.agents.killed_dispatch import Steps

_PR_SET_PDEATHSIG = 1
HEARTBEAT_S = 1.0
AWAY = 2
"""How a process ends that found no Temporal server."""
SITES: dict[str, type[Site]] = {"Site": Site, "ChainSite": ChainSite}


def forked(work: Callable[[], None]) -> int:
    """The process that does the work. SIGTERM is blocked there from its first moment, so that it is never lost between two handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return child
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def armed(ps: Any, die_at: int, steps: Steps | None = None) -> Steps:
    steps = steps or Steps(0)
    steps.done, steps.die_at = 0, die_at
    steps.before(ps.log.store, "append")
    steps.before(ps.log.store.kv, "put")
    steps.before(socket.socket, "connect", "sendall", "recv_into")  # not send and recv, by which an event loop wakes itself
    return steps


def run(site: Site, die_at: int) -> None:
    with site.open() as ps:
        armed(ps, die_at)
        ps.run_once()


def turns(site: Site, line: socket.socket) -> None:
    with site.open() as ps:
        while line.recv(1):
            try:
                ps.run_once(wait_s=0)
                line.send(b"1")
            except LeaseHeld:
                line.send(b"0")


def open_turns(site: Site) -> tuple[socket.socket, int]:
    here, there = socket.socketpair()
    pid = os.fork()
    if pid:
        there.close()
        return here, pid
    here.close()
    try:
        turns(site, there)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def relay(site: Site, address: str, die_at: int) -> None:
    with site.open() as ps, TemporalEngine(ps.engine, address, heartbeat_s=HEARTBEAT_S) as engine:
        steps = armed(ps, die_at)
        steps.before(TemporalEngine, "attend")
        steps.before(ps.views, "write")
        ps.run_once(engine=engine)
        steps.step()


def tell(site: ChainSite, chapter: str, address: str, die_at: int) -> None:
    steps = Steps(0)
    with site.open(steps.step) as ps, TemporalEngine(ps.engine, address, heartbeat_s=HEARTBEAT_S) as engine:
        armed(ps, die_at, steps)
        steps.before(TemporalEngine, "attend")
        steps.before(ps.views, "write")
        CHAPTERS[chapter](ps)
        try:
            ps.run_once(engine=engine if address else None, wait_s=0)
        except EngineUnavailable:
            os._exit(AWAY)
        steps.step()


def died(site: Site, step: str) -> None:
    with open(f"{site.folder}/deaths", "a") as deaths:
        deaths.write(f"{step} ")


def worker(site: Site, address: str, die_at: int) -> None:
    steps = Steps(0)
    steps.last_word = partial(died, site)
    opened = site.open(partial(steps.step, "planner")) if isinstance(site, ChainSite) else site.open()
    with opened as ps, TemporalEngine(ps.engine, address, heartbeat_s=HEARTBEAT_S) as engine:
        armed(ps, die_at, steps)
        try:
            with engine.worker():
                signal.sigwait([signal.SIGTERM])
        except EngineUnavailable:
            os._exit(AWAY)  # there was no server to begin with: it is started again, as whatever keeps processes alive would do


def minded(site: Site, address: str, die_at: list[int]) -> None:
    running: list[int] = []
    over = False

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal over
        over = True
        for pid in running:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    for step in itertools.chain(die_at, itertools.repeat(0)):
        running[:] = [forked(lambda step=step: worker(site, address, step))]  # type: ignore[misc]
        if over:  # it was told before this one was known
            os.kill(running[0], signal.SIGTERM)
        status = ended(running[0])
        if over:
            assert status in {0, -signal.SIGKILL, AWAY}, status
        if over or status == 0:
            return


class Orders:
    """What may be ordered."""

    def __init__(self) -> None:
        self.turning: dict[str, list[tuple[socket.socket, int]]] = {}

    def turn(self, site: Site, processes: int) -> int:
        if site.folder not in self.turning:
            self.turning[site.folder] = [open_turns(site) for _ in range(processes)]
        for line, _ in self.turning[site.folder]:
            line.send(b"1")
        return [line.recv(1) for line, _ in self.turning[site.folder]].count(b"0")

    def done(self, site: Site) -> list[int]:
        processes = self.turning.pop(site.folder, [])
        for line, _ in processes:
            line.shutdown(socket.SHUT_RDWR)  # a process forked since may hold it open
            line.close()
        return [ended(pid) for _, pid in processes]

    def run(self, site: Site, die_at: int) -> int:
        return ended(forked(lambda: run(site, die_at)))

    def relay(self, site: Site, address: str, die_at: int) -> int:
        return ended(forked(lambda: relay(site, address, die_at)))

    def tell(self, site: ChainSite, chapter: str, address: str, die_at: int) -> int:
        return ended(forked(lambda: tell(site, chapter, address, die_at)))

    def worker(self, site: Site, address: str, die_at: list[int]) -> int:
        return forked(lambda: minded(site, address, die_at))

    def ended(self, site: Site, pid: int) -> int:
        return ended(pid)


def main() -> None:
    orders = Orders()
    reference("acted")  # what is computed once in a process is there before it forks
    for line in sys.stdin:
        order = json.loads(line)
        do, site = getattr(orders, order.pop("do")), SITES[order.pop("kind")](**order.pop("site"))
        sys.stdout.write(json.dumps(do(site, **order)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
