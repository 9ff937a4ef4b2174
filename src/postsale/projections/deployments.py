"""Deployments: which version of a projection is live, which build of its view serves, and how another takes its place.

One small record per projection, beside the log: it outlives the views, which may be dropped at any time. Every change compares and
sets, so of two that switch at once one is told. Folds nothing by itself. Imports the runner, and the store's contract and leases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import orjson

from postsale.errors import InvalidInput, NotLive, ViewMoved
from postsale.events import SYSTEM_TENANT, Clock, SystemClock, canonical
from postsale.projections.features import Features
from postsale.projections.runner import Progress, Runner, States
from postsale.store.contract import KeyValue, LeaseName, Store
from postsale.store.leases import Leases

SPACE: Final = "projections"
_NEAR: Final = 2_000  # positions behind the head at which a build counts as caught up: a batch, which the next run folds


class Declared(NamedTuple):
    """A version of a declaration, by its content."""

    version: int
    digest: str


class Live(NamedTuple):
    """What is live of one projection."""

    projection: str
    declared: Declared
    previous: Declared | None  # where `back` leads
    builds: dict[str, int]  # which build of a view serves, by the view's name; 0 where none was ever rebuilt
    building: dict[str, int]  # builds under way, or given up half-way
    since_us: int
    by: str
    reason: str


class Rebuilt(NamedTuple):
    """How far a rebuild came, and whether its build serves now."""

    progress: Progress
    build: int
    serves: bool


class Deployments:
    """The live versions of one log's projections. Thread-safe. Whoever is first to be asked about is live, until a switch."""

    def __init__(self, kv: KeyValue, clock: Clock | None = None) -> None:
        self._kv = kv
        self._clock: Clock = clock or SystemClock()

    def live(self, projection: str) -> Live | None:
        """What is live of a projection; None when nothing was ever asked of it."""
        return self._get(projection)[0]

    def all(self) -> list[Live]:
        """What is live of every projection, by name."""
        return [_load(kept.key, kept.value) for kept in self._kv.scan(SPACE, SYSTEM_TENANT)]

    def require(self, features: type[Features]) -> None:
        """Return when this declaration is live, or nothing was yet, and it is from now on. Raises NotLive."""
        name, mine = features.__name__, _declared(features)
        live = self.live(name) or self._recorded(features)
        if live.declared.digest != mine.digest:
            v, d = live.declared
            raise NotLive(projection=name, version=mine.version, digest=mine.digest[:12], live_version=v, live_digest=d[:12])

    def build_of(self, projection: str) -> Callable[[str], int]:
        """Which build of a view of this projection serves, asked anew each time: what a `Runner` takes as `build`."""

        def build(view: str) -> int:
            live = self.live(projection)
            return live.builds.get(view, 0) if live is not None else 0

        return build

    # ------------------------------------------------------------ building beside

    def rebuild(
        self,
        store: Store,
        runner: Runner,
        leases: Leases,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
        states: States | None = None,
    ) -> Rebuilt:
        """Fold the whole log into a new build of the runner's view, beside the one that serves, then let it serve instead.

        Races live traffic: what is appended meanwhile is folded too. A rebuild that was stopped or killed is resumed by the next.
        `states` (such as `handover.duckdb_states`) computes what the log holds now at once, before that. The old build is dropped
        once nobody is sent to it. Raises LeaseHeld when another process rebuilds the same view.
        """
        name, view = runner.fold.name, runner.base
        self._recorded(runner.fold.features)
        with leases.held(LeaseName(SYSTEM_TENANT, f"rebuild/{view}")) as lease:
            live = self._change(name, lambda now: _begun(_must(now), view))
            build = live.building[view]
            beside = runner.at_build(build)

            def told(progress: Progress) -> None:
                lease.keep()
                if on_progress is not None:
                    on_progress(progress)

            if states is not None and not any(beside.status().checkpoints):
                beside.compute(states, told)
            progress = _caught_up(store, beside, told, stop)
            if progress.to_position < progress.target or stop():
                return Rebuilt(progress, build, False)

            def serving(now: Live | None) -> Live:
                lease.renew()  # after the record was read: whoever stood still since, and lost the lease, finds the record changed
                return _served(_must(now), view, build)

            self._change(name, serving)
            for old in range(build):  # also one that a killed rebuild left behind
                runner.at_build(old).drop()
            return Rebuilt(progress, build, True)

    # ------------------------------------------------------------ switching

    def switch(
        self,
        store: Store,
        runner: Runner,
        *,
        by: str,
        reason: str,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Live:
        """Put the runner's declaration live, once its view is folded up to the log's head; agents of the other stop at once.

        What was live stays `previous`, with its view. Nothing changes when it is live already. Raises InvalidInput without a reason.
        """
        if not reason.strip():
            raise InvalidInput(what="switch", field="reason", reason='expected a reason, which is kept: reason=… or --reason "…"')
        mine = _declared(runner.fold.features)
        _caught_up(store, runner, on_progress, lambda: False)

        def change(now: Live | None) -> Live:
            if now is None:
                return Live(runner.fold.name, mine, None, {}, {}, self._clock.now_us(), by, reason)
            if now.declared.digest == mine.digest:
                return now
            return now._replace(declared=mine, previous=now.declared, since_us=self._clock.now_us(), by=by, reason=reason)

        return self._change(runner.fold.name, change)

    def back(self, projection: str, *, by: str, reason: str) -> Live:
        """Put live again what was live before the last switch; what is live now becomes `previous`. At once: its view is caught up later.

        Raises InvalidInput without a reason, or when there is nothing to go back to.
        """
        if not reason.strip():
            raise InvalidInput(what="switch", field="reason", reason='expected a reason, which is kept: reason=… or --reason "…"')

        def change(now: Live | None) -> Live:
            if now is None or now.previous is None:
                raise InvalidInput(what="switch", field="projection", reason="no other version was live before")
            return now._replace(declared=now.previous, previous=now.declared, since_us=self._clock.now_us(), by=by, reason=reason)

        return self._change(projection, change)

    # ------------------------------------------------------------ the record

    def _recorded(self, features: type[Features]) -> Live:
        """The record of this projection, made where there is none, whichever of its versions is live."""
        name, mine = features.__name__, _declared(features)
        return self._change(name, lambda now: now or Live(name, mine, None, {}, {}, self._clock.now_us(), "", "the first to run"))

    def _get(self, projection: str) -> tuple[Live | None, int]:
        kept = self._kv.get(SPACE, SYSTEM_TENANT, projection)
        return (None, 0) if kept is None else (_load(projection, kept.value), kept.revision)

    def _change(self, projection: str, change: Callable[[Live | None], Live]) -> Live:
        while True:
            now, revision = self._get(projection)
            then = change(now)
            if then == now or self._kv.put(SPACE, SYSTEM_TENANT, projection, _dump(then), expected=revision) is not None:
                return then


def _caught_up(store: Store, runner: Runner, on_progress: Callable[[Progress], None] | None, stop: Callable[[], bool]) -> Progress:
    """Fold until the view is where the log is, but for what arrives just now."""
    while True:
        try:
            progress = runner.catch_up(on_progress=on_progress, stop=stop)
        except ViewMoved:
            continue  # another process folds the same view: go on from where it has come to
        if stop() or store.head() - progress.to_position < _NEAR:
            return progress


def _declared(features: type[Features]) -> Declared:
    return Declared(features.version, features.digest)


def _must(live: Live | None) -> Live:
    if live is None:
        raise AssertionError("a record that was just made is there")
    return live


def _begun(live: Live, view: str) -> Live:
    if view in live.building:
        return live
    return live._replace(building={**live.building, view: live.builds.get(view, 0) + 1})


def _served(live: Live, view: str, build: int) -> Live:
    return live._replace(builds={**live.builds, view: build}, building={v: n for v, n in live.building.items() if v != view})


def _dump(live: Live) -> bytes:
    content: dict[str, Any] = live._asdict()
    content.pop("projection")
    return canonical(content | {"declared": list(live.declared), "previous": None if live.previous is None else list(live.previous)})


def _load(projection: str, raw: bytes) -> Live:
    d = orjson.loads(raw)
    previous = None if d["previous"] is None else Declared(*d["previous"])
    return Live(projection, Declared(*d["declared"]), previous, d["builds"], d["building"], d["since_us"], d["by"], d["reason"])
