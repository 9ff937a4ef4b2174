"""A process that drives agents on an engine with workers elsewhere: it calls for whoever is to be visited, and does a share of the visits.

Any number of such processes may run; one of them at a time calls. Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Protocol

from postsale.agents.engines import Engine
from postsale.errors import EngineUnavailable, LeaseHeld, LeaseLost, NotLive, StoreUnavailable, ViewMoved

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale

_LOOKS: Final = 5  # at the log, of a second each, until the next turn: commands and days have their time without an event


class EngineWithWorkers(Engine, Protocol):
    """An engine whose visits are made by workers, such as a TemporalEngine."""

    def worker(self) -> AbstractContextManager[None]: ...


class Working:
    """Runs until it is stopped. What it learnt from the log is called for at least once, whichever process dies when."""

    def __init__(self, ps: PostSale, engine: EngineWithWorkers) -> None:
        self._ps = ps
        self._engine = engine
        self._stopped = False  # not an Event: a signal handler sets it, perhaps in the middle of the wait of one
        self.called = 0
        """Customers that this process has called for."""
        self.trouble: str | None = None
        """Why the newest turn failed, None when it did not."""

    def stop(self) -> None:
        """Call for nobody more, finish the steps under way, end `run`. Safe in a signal handler."""
        self._stopped = True

    def run(self, *, everybody: bool = False, on_turn: Callable[[], None] = lambda: None) -> None:
        """Work until `stop`. `everybody`: the engine's own store was lost or is new, so the first turn calls for all who have anything open.

        Raises EngineUnavailable when the engine does not answer at the start; later it is waited for, and so are log and lease.
        """
        store = self._ps.log.store
        with self._engine.worker():
            while not self._stopped:
                head = 0
                try:
                    head = store.head()
                    report = self._ps.run_once(engine=self._engine, everybody=everybody, wait_s=0, stopped=lambda: self._stopped)
                    self.called += report.visited
                    everybody, self.trouble = False, None
                except LeaseHeld:  # another process calls
                    self.trouble = None
                except (EngineUnavailable, StoreUnavailable, LeaseLost, NotLive, ViewMoved) as error:
                    self.trouble = str(error)
                on_turn()
                self._rest(head)

    def _rest(self, head: int) -> None:
        for _ in range(_LOOKS):
            if self._stopped:
                return
            try:
                if self._ps.log.store.wait(head, 1.0) and self.trouble is None:
                    return
            except StoreUnavailable as error:
                self.trouble = str(error)
                threading.Event().wait(1.0)
