"""SIGKILL of workers, of Temporal's server, of the process that calls its workflows, and of embedded runs: the same stories, the same hashes."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postsale.agents.engines.temporal import TemporalEngine
from postsale.events import SECOND_US
from postsale.testing import Answer, Request
from postsale.testing.engine_contract import STORIES, assert_same
from postsale.testing.engine_site import Site
from postsale.testing.engine_stage import Drive, Stage, staged
from tests.agents.engine_process import HEARTBEAT_S
from tests.agents.engine_processes import on_temporal, processes, temporal_turn
from tests.postgres import new_log
from tests.temporal import server

TORTURE = bool(os.environ.get("POSTSALE_TORTURE"))
SEEDS = range(20 if TORTURE else 1)
pytestmark = pytest.mark.torture


def leases_run_out(site: Site) -> None:
    """What a killed process held is free after a minute, which passes on the clock of leases alone."""
    site.lease_clock.move_to(site.lease_clock.now_us() + 61 * SECOND_US)


@pytest.mark.parametrize("again", SEEDS)
def test_workers_killed_at_random_steps_change_nothing_but_the_number_of_attempts(again: int, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    rand = random.Random(seed)
    die_at = [[rand.randrange(1, 25) for _ in range(3)] for _ in range(2)]

    @contextmanager
    def driven(site: Site) -> Iterator[Drive]:
        with on_temporal(site, *die_at) as drive:
            yield drive

    with staged(tmp_path / "site", driven) as stage:
        stage.attempts = False
        STORIES["unhurried"](stage)
        assert_same(stage, "unhurried", f"seed {seed}: {die_at}")
        assert (Path(stage.site.folder) / "deaths").read_text(), f"seed {seed}: {die_at}"


@pytest.mark.parametrize("name", ["approved", "retried"])
def test_temporals_server_killed_with_calls_on_its_hands_changes_nothing(name: str, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    rand = random.Random(seed)

    @contextmanager
    def driven(site: Site) -> Iterator[Drive]:
        with (
            processes().worker(site),
            site.open() as ps,
            TemporalEngine(ps.engine, server().address, heartbeat_s=HEARTBEAT_S) as engine,
        ):

            def turn(stage: Stage) -> None:
                ps.run_once(engine=engine)
                if rand.random() < 0.4:
                    server().kill()
                    server().start()
                temporal_turn(ps, engine, stage)

            yield turn

    with staged(tmp_path / "site", driven) as stage:
        STORIES[name](stage)
        assert_same(stage, name, f"seed {seed}")


def killed_first(do: Callable[[Site, int], int], seed: int, killed: list[int]) -> Callable[[Site], None]:
    """A process that lives, every second time after one that died at a random step."""
    rand = random.Random(seed)

    def turn(site: Site) -> None:
        if not killed or rand.random() < 0.5:
            status = do(site, rand.randrange(1, 20 if killed else 3))  # every run has two steps: it takes its lease and gives it back
            assert status in (0, -signal.SIGKILL), status
            if status:
                killed.append(status)
                leases_run_out(site)
        assert do(site, 0) == 0

    return turn


@pytest.mark.parametrize("again", SEEDS)
def test_a_relay_killed_at_random_steps_forgets_nobody_and_calls_nobody_into_doing_a_thing_twice(again: int, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    killed: list[int] = []
    dying = killed_first(lambda site, at: int(processes().order("relay", site, address=server().address, die_at=at)), seed, killed)

    @contextmanager
    def driven(site: Site) -> Iterator[Drive]:
        with on_temporal(site) as drive:

            def turn(stage: Stage) -> None:
                dying(site)
                drive(stage)

            yield turn

    with staged(tmp_path / "site", driven) as stage:
        STORIES["approved"](stage)
        assert_same(stage, "approved", f"seed {seed}")
    assert killed, f"seed {seed}"


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_embedded_runs_killed_at_random_steps_change_nothing_but_the_number_of_attempts(where: str, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    killed: list[int] = []
    dying = killed_first(lambda site, at: int(processes().order("run", site, die_at=at)), seed, killed)

    @contextmanager
    def driven(site: Site) -> Iterator[Drive]:
        yield lambda _: dying(site)

    @contextmanager
    def place() -> Iterator[dict[str, str]]:
        if where == "sqlite":
            yield {}
        else:
            with new_log() as (url, schema):
                yield {"url": url, "schema": schema}

    with place() as at, staged(tmp_path / "site", driven, **at) as stage:
        stage.attempts = False
        STORIES["unhurried"](stage)
        assert_same(stage, "unhurried", f"seed {seed}")
    assert killed, f"seed {seed}"


def test_after_the_loss_of_temporals_whole_database_the_log_calls_everybody_again(tmp_path: Path) -> None:
    """What raised a trigger was told to nobody but Temporal; later an effect waits for its timer there."""
    lost: list[int] = []

    @contextmanager
    def driven(site: Site) -> Iterator[Drive]:
        with site.open() as ps:

            def turn(stage: Stage) -> None:
                with TemporalEngine(ps.engine, server().address, heartbeat_s=HEARTBEAT_S) as engine:
                    if ps.run_once(engine=engine).visited and len(lost) < 2:  # it has been told now, and no worker has looked
                        server().forget()
                        lost.append(ps.run_once(engine=engine, everybody=True).visited)
                    with engine.worker():
                        temporal_turn(ps, engine, stage)

            yield turn

    with staged(tmp_path / "site", driven) as stage:
        STORIES["retried"](stage)
        assert_same(stage, "retried")
    assert lost[0] == 1


def test_a_worker_told_to_end_in_the_middle_of_a_call_records_what_came_of_it_and_ends_well(tmp_path: Path) -> None:
    """SIGTERM to its process while the tool is about to answer: the call is not broken off, and nobody has to make it again."""

    @contextmanager
    def driven(site: Site) -> Iterator[Drive]:
        with site.open() as ps, TemporalEngine(ps.engine, server().address, heartbeat_s=HEARTBEAT_S) as engine:
            yield lambda _: ps.run_once(engine=engine)

    with staged(tmp_path / "site", driven) as stage:
        pid = processes().order("worker", stage.site, address=server().address, die_at=[])
        shape = stage.server.shape

        class Telling:
            effects = shape.effects

            def handle(self, request: Request) -> Answer:
                os.kill(pid, signal.SIGTERM)
                return shape.handle(request)

        stage.server.shape = Telling()
        stage.begins()
        stage.fails("a")
        assert processes().order("ended", stage.site, pid=pid) == 0
        assert [stage.kinds("a").count(f"effect/{kind}") for kind in ("started", "succeeded")] == [1, 1]
        assert len(shape.effects) == 1
