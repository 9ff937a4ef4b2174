"""The projector: keeps views up to date for as long as it runs, side by side with other processes that do the same.

Who folds which share of a view is settled by leases in the log; what is folded, and how it is committed, is the runner's. Imports
the runner, the store's contract and leases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from postsale.errors import LeaseLost, StoreUnavailable, ViewMoved
from postsale.events import SECOND_US, SYSTEM_TENANT, Clock, SystemClock
from postsale.projections.freshness import Pace, RealPace
from postsale.projections.runner import Runner
from postsale.store.contract import LeaseName, Store
from postsale.store.leases import Lease, Leases

TTL_S: Final = 10.0
"""How long a share of a killed projector waits for the next one, in seconds."""

_LOOK_S: Final = 0.01  # how late new events are noticed where the store cannot tell
_BACK_OFF_S: Final = (0.1, 0.5, 2.0, 5.0)
_SLICE_S: Final = 0.1  # how late `stop` may be noticed while it waits


def share_lease(view: str, share: int) -> LeaseName:
    """The lease of whoever folds a share of a view."""
    return LeaseName(SYSTEM_TENANT, f"projection/{view}/{share}")


class Turn(NamedTuple):
    """What one turn did: facts folded, and whether there is more to fold at once."""

    events: int
    more: bool


class Projector:
    """Folds `runners`, each with a view of its own, over one log. `run` until `stop`; a turn at a time for tests and loops of your own.

    Shares of a view are divided evenly among the projectors that are alive: each holds a lease per share, and writes under its
    fencing token, so one that was paused finds itself fenced off. While the log or the views cannot be used it waits and tries
    again; `trouble` says why. A stream with an event that cannot be read is parked by the runner, and folded again by whoever takes
    its share next. For one thread; `stop`, `ready` and `held` from any.
    """

    def __init__(
        self,
        store: Store,
        runners: Iterable[Runner],
        leases: Leases,
        *,
        clock: Clock | None = None,
        ttl_s: float = TTL_S,
        pace: Pace | None = None,
    ) -> None:
        """`ttl_s`: the length of a lease; it is renewed long before. `clock` decides when to look for other projectors."""
        self._store = store
        self._clock: Clock = clock or SystemClock()
        self._jobs = [_Job(runner, leases, self._clock, ttl_s) for runner in runners]
        self._pace: Pace = pace or RealPace()
        self._stopped = False  # not an Event: a signal handler sets it, perhaps in the middle of the wait of one
        self._ttl_s = ttl_s
        self._target = 0
        self.ready = False
        """Whether the views have once been where the log was when this projector began."""
        self.trouble: str | None = None
        """Why the newest turn failed, None when it did not."""

    @property
    def held(self) -> dict[str, tuple[int, ...]]:
        """The shares that are this projector's now, by view."""
        return {job.view: tuple(sorted(job.leases)) for job in self._jobs}

    def stop(self) -> None:
        """Finish the batch under way, give the leases back, end `run`. Safe in a signal handler."""
        self._stopped = True

    def run(self, on_turn: Callable[[Turn], None] | None = None) -> None:
        """Fold until `stop`. Raises only what is no fault of the log's or the views' places, such as LogDamaged."""
        failures = 0
        try:
            while not self._stopped:
                turn = self.turn()
                failures = failures + 1 if self.trouble else 0
                if on_turn is not None:
                    on_turn(turn)
                if failures:
                    self._back_off(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1])
                elif not turn.more:
                    self._idle()
        finally:
            self.drain()

    def _idle(self) -> None:
        """Until there is something new, or leases are to be seen to. Asks the log for its head, and nothing else of anybody."""
        if not any(job.leases for job in self._jobs):
            self._pace.pause(_SLICE_S)
            return
        with suppress(StoreUnavailable):  # the next turn says so
            for _ in range(max(1, int(self._ttl_s / 6 / _LOOK_S))):
                if self._stopped or self._store.wait(self._target, _LOOK_S):
                    return

    def _back_off(self, seconds: float) -> None:
        end = self._pace.now() + seconds
        while not self._stopped and (left := end - self._pace.now()) > 0:
            self._pace.pause(min(_SLICE_S, left))

    def turn(self) -> Turn:
        """Take and keep leases, and fold one batch of each view. Never waits."""
        events, more, self.trouble = 0, False, None
        try:
            self._target = self._store.head()
            for job in self._jobs:
                done, left = job.turn(self._target)
                events, more = events + done, more or left
            if not self.ready:
                self.ready = all(job.reached() for job in self._jobs)
        except StoreUnavailable as error:
            self.trouble = str(error)
        return Turn(events, more)

    def drain(self) -> None:
        """Give every lease back, so that the next projector need not wait for its end."""
        for job in self._jobs:
            with suppress(StoreUnavailable):
                job.release()


class _Job:
    """One view: which of its shares are ours, by the leases we hold."""

    def __init__(self, runner: Runner, leases: Leases, clock: Clock, ttl_s: float) -> None:
        self._runner, self._leases, self._clock, self._ttl_s = runner, leases, clock, ttl_s
        self.view = runner.view
        self.leases: dict[int, Lease] = {}
        self._place: tuple[int, Lease] | None = None  # our number among the projectors alive
        self._look_at_us = 0
        self._start: int | None = None

    def turn(self, head: int) -> tuple[int, bool]:
        if self._start is None:
            self._start = head
        names = self._runner.names()
        if names.view != self.view:  # another build is served now
            self.release()
            self.view = names.view
        self._keep()
        every_us = int(self._ttl_s * SECOND_US) // 6
        if not self._look_at_us - every_us <= self._clock.now_us() < self._look_at_us:
            self._settle()
            self._runner.look_again()
            self._look_at_us = self._clock.now_us() + every_us
        if not self.leases:
            return 0, False
        shares = {n: lease.token for n, lease in self.leases.items()}
        try:
            at, events = self._runner.advance(shares, head, names=names)
        except ViewMoved:
            return 0, True  # somebody without a lease, such as `run_once`, folded too: look again from where it has come to
        except LeaseLost:
            held = set(self.leases)
            self._look_at_us = 0
            self._keep(renew=True)
            if held == set(self.leases):
                # The leases are ours, so the view was written under tokens of another course of the log, which was put back since.
                self._runner.drop()
            return 0, True
        return events, at < head

    def reached(self) -> bool:
        return self._start is not None and self._runner.position() >= self._start

    def _keep(self, *, renew: bool = False) -> None:
        """Renew what is ours in good time, and forget what is not any more."""
        for n, lease in list(self.leases.items()):
            try:
                lease.renew() if renew else lease.keep()
            except LeaseLost:
                del self.leases[n]
        if self._place is not None:
            try:
                self._place[1].keep()
            except LeaseLost:
                self._place = None

    def _settle(self) -> None:
        """Take a number among the projectors alive, and as many shares as are ours by their count."""
        total = self._runner.partitions
        places = [LeaseName(SYSTEM_TENANT, f"projector/{self.view}/{n}") for n in range(total)]
        if self._place is None:
            for n, name in enumerate(places):
                if (lease := self._leases.acquire(name, self._ttl_s)) is not None:
                    self._place = n, lease
                    break
        if self._place is None:  # as many as there are shares work already: stand by
            return
        mine = self._place[0]
        alive = [n for n, name in enumerate(places) if n == mine or self._leases.look(name) is not None]
        fair = total // len(alive) + (alive.index(mine) < total % len(alive))
        for n in sorted(self.leases)[fair:]:
            self.leases.pop(n).release()
        for n in ((mine * total // len(alive) + i) % total for i in range(total)):
            if len(self.leases) >= fair:
                break
            if n not in self.leases and (taken := self._leases.acquire(share_lease(self.view, n), self._ttl_s)) is not None:
                try:
                    self._runner.claim({n: taken.token})
                except StoreUnavailable:
                    taken.release()
                    raise
                except (ViewMoved, LeaseLost):
                    pass  # found out again at the next batch
                self.leases[n] = taken

    def release(self) -> None:
        held = [*self.leases.values(), *([self._place[1]] if self._place is not None else [])]
        self.leases, self._place, self._look_at_us = {}, None, 0
        for lease in held:
            lease.release()
