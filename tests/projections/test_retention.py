"""Of earlier versions' views only those go that nobody can come back to, and that nobody folds."""

from __future__ import annotations

import pytest

from postsale.errors import LeaseHeld
from postsale.events import SYSTEM_TENANT
from postsale.projections import Fold, Projector
from postsale.projections.retention import prune, versions
from postsale.store.contract import LeaseName

from .logs import whole
from .test_deployments import World, pulse

VERSIONS = [pulse(90, n) for n in range(1, 5)]


def world(partitions: int = 1) -> World:
    """Four versions are folded; 3 is live, 2 was before it, 4 is being made ready."""
    w = World(40)
    for features in VERSIONS:
        w.runner(features, partitions=partitions).catch_up()
    for features in VERSIONS[:3]:
        w.deployments.switch(w.store, w.runner(features, partitions=partitions), by="ann", reason="next")
    return w


def kept(w: World) -> dict[int, str | None]:
    return {one.version: one.kept for one in versions(w.views, w.deployments, w.leases(), "Pulse")}


@pytest.mark.parametrize("partitions", [1, 4])
def test_the_live_version_the_one_before_it_and_the_next_one_stay_as_they_are(partitions: int) -> None:
    w = world(partitions)
    w.views.write("Pulsed.v1.0123456789ab", {"k": b"1"}, checkpoint=5, expected=0)
    before = w.views.views()
    assert kept(w) == {
        1: None,
        2: "a switch back leads to it",
        3: "it is live",
        4: "it is newer than version 2, and may be the next one",
    }
    found = prune(w.views, w.deployments, w.leases(), "Pulse")
    assert (found[0].position, found[0].rows) == (40, 12)
    assert w.views.views() == [info for info in before if not info.view.startswith("Pulse.v1.")] != before
    for features in VERSIONS[1:]:
        runner = w.runner(features, partitions=partitions)
        assert (runner.position(), runner.digest()) == (40, whole(w.store, Fold(features)))
    w.deployments.back("Pulse", by="ann", reason="back")
    assert prune(w.views, w.deployments, w.leases(), "Pulse") == versions(w.views, w.deployments, w.leases(), "Pulse")
    assert kept(w)[2] == "it is live"
    assert kept(w)[3] == "a switch back leads to it"


def test_a_view_that_a_projector_folds_stays_until_it_gives_its_lease_back() -> None:
    w = world(4)
    projector = Projector(w.store, [w.runner(VERSIONS[0], partitions=4)], w.leases("worker-7"), clock=w.clock)
    projector.turn()
    assert prune(w.views, w.deployments, w.leases(), "Pulse")[0].kept == "it is folded by worker-7"
    assert kept(w)[1] is not None
    projector.drain()
    prune(w.views, w.deployments, w.leases(), "Pulse")
    assert 1 not in kept(w)


def test_a_view_that_is_being_rebuilt_stays() -> None:
    w = world()
    runner = w.runner(VERSIONS[0])
    w.deployments.rebuild(w.store, runner, w.leases(), stop=lambda: True)
    assert kept(w)[1] == "a rebuild of it is under way or was given up half-way"
    w.deployments.rebuild(w.store, runner, w.leases())
    with w.leases("builder").held(LeaseName(SYSTEM_TENANT, f"rebuild/{runner.base}")):
        assert kept(w)[1] == "it is folded by builder"
        with pytest.raises(LeaseHeld):
            w.deployments.rebuild(w.store, runner, w.leases())
    assert kept(w)[1] is None
    prune(w.views, w.deployments, w.leases(), "Pulse")
    assert {name.partition(".v")[2][0] for name in w.names()} == {"2", "3", "4"}


def test_before_anything_is_live_everything_stays() -> None:
    w = World(10)
    w.runner(VERSIONS[0]).catch_up()
    assert set(kept(w).values()) == {"nothing was ever put live"}
    assert prune(w.views, w.deployments, w.leases(), "Pulse")[0].kept is not None
    assert versions(w.views, w.deployments, w.leases(), "Nothing") == []
