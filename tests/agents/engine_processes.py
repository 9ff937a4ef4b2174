"""Processes that drive agents, as tests order them."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from postsale.agents.engines.temporal import TemporalEngine
from postsale.app import PostSale
from postsale.testing.engine_site import Site
from postsale.testing.engine_stage import Drive, Stage
from tests.agents.engine_process import HEARTBEAT_S
from tests.temporal import server


class Processes:
    """The process that forks the others."""

    def __init__(self) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "tests.agents.engine_process"]
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(self.stop)

    def order(self, do: str, site: Site, **more: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, "kind": type(site).__name__, "site": site.to_dict(), **more}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    @contextmanager
    def worker(self, site: Site, die_at: Sequence[int] = ()) -> Iterator[int]:
        """A worker on Temporal; it drains at the end."""
        pid = self.order("worker", site, address=server().address, die_at=list(die_at))
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGTERM)
            assert self.order("ended", site, pid=pid) == 0


@cache
def processes() -> Processes:
    """This test process's; started at the first use."""
    return Processes()


@contextmanager
def several(site: Site) -> Iterator[Drive]:
    """The embedded engine in two processes at a time; one does what waits, and the others see that it does."""

    def turn(_: Stage) -> None:
        assert processes().order("turn", site, processes=2) < 2

    yield turn
    assert processes().order("done", site) == [0, 0]


@contextmanager
def on_temporal(site: Site, *die_at: Sequence[int]) -> Iterator[Drive]:
    """Workers in processes of their own, one for each list of steps at which they die; the relay is here."""
    with ExitStack() as stack:
        for steps in die_at or ((),):
            stack.enter_context(processes().worker(site, steps))
        ps = stack.enter_context(site.open())
        engine = stack.enter_context(TemporalEngine(ps.engine, server().address, heartbeat_s=HEARTBEAT_S))
        yield lambda stage: temporal_turn(ps, engine, stage)


def temporal_turn(ps: PostSale, engine: TemporalEngine, stage: Stage) -> None:
    """The relay, the workflows that it calls, and what Temporal's timers would call if its clock were the story's."""
    ps.run_once(engine=engine)
    for stream in stage.streams():
        engine.settle(stream)
    now = stage.site.clock.now_us()
    late = [stream for stream in stage.streams() if (due := ps.engine.due_us(stream)) is not None and due <= now]
    for stream in late:
        engine.attend(stream)
    for stream in late:
        engine.settle(stream)
