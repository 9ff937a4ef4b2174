"""The whole chain on both engines, through SIGKILL of workers, of Temporal's server and of the process that records: the receiving server's
own record, the log's dispositions, the budgets' sums and the canonical hashes judge."""

from __future__ import annotations

import difflib
import itertools
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from postsale.agents.engines.temporal import TemporalEngine
from postsale.errors import EngineUnavailable
from postsale.events import SECOND_US
from postsale.testing.engine_site import Site
from postsale.testing.engine_stage import Drive, Stage, embedded
from tests.agents.chain_story import CHAPTERS, CUSTOMERS, ChainStage, Teller
from tests.agents.engine_process import AWAY, HEARTBEAT_S
from tests.agents.engine_processes import on_temporal, processes, temporal_turn
from tests.agents.killed_shop import judge
from tests.temporal import server

TORTURE = bool(os.environ.get("POSTSALE_TORTURE"))
FAULTS = ["close-after", "500-after", "500", "half-after", "close"]
pytestmark = pytest.mark.torture
long = pytest.mark.skipif(not TORTURE, reason="long; set POSTSALE_TORTURE=1")
Note = Callable[[str, object], None]
"""Keeps a figure in the report of a run (`--junitxml`; `junit_family` in pyproject is the one that has room for them)."""
Driven = Callable[[Site], AbstractContextManager[Drive]]


@cache
def reference() -> tuple[dict[str, list[str]], dict[str, str]]:
    """Lines and hashes of the chain on the embedded engine, with nobody killed."""
    with tempfile.TemporaryDirectory() as folder, ChainStage.at(Path(folder) / "site", embedded) as stage:
        stage.tell()
        judge(stage.ps, stage.server.shop, CUSTOMERS, "the embedded engine")
        assert not stage.asked_again
        return stage.told(), stage.hashes()


def assert_the_same(stage: ChainStage, seen: str) -> None:
    """Its effects, dispositions and sums are those of the chain, and its hashes those of the embedded engine.

    Who was killed while a planner answered asks again when the answer is not waited for any more, and decides then: that is another story.
    """
    judge(stage.ps, stage.server.shop, CUSTOMERS, seen)
    if not stage.asked_again:
        lines, hashes = reference()
        told = stage.told()
        diffs = [difflib.unified_diff(lines.get(name, []), told.get(name, []), name, name, n=0) for name in {*told, *lines}]
        apart = "\n".join(line for diff in diffs for line in diff)
        assert not apart, f"{seen}\n{apart}"
        assert stage.hashes() == hashes, seen


def deaths(stage: ChainStage) -> list[str]:
    """What the workers that were killed would have done next."""
    file = Path(stage.site.folder) / "deaths"
    return file.read_text().split() if file.exists() else []


def patiently(drive: Callable[[], None]) -> None:
    """Until there was a server from its beginning to its end: somebody may kill it in between."""
    for _ in range(50):
        with suppress(EngineUnavailable):
            drive()
            return
    raise AssertionError("the server does not come back")


def workers(*die_at: list[int]) -> Driven:
    return lambda site: on_temporal(site, *die_at)


def recorder(stage: ChainStage, address: str, steps: Iterator[int], killed: list[int], away: tuple[int, ...] = ()) -> Teller:
    """Chapters happen in a process that dies at the next one of `steps`, again and again, until it lives to its end."""

    def tell(chapter: str) -> None:
        while True:
            status = processes().order("tell", stage.site, chapter=chapter, address=address, die_at=next(steps))
            assert status in {0, -signal.SIGKILL, *away}, (chapter, status)
            if status != -signal.SIGKILL:
                return
            killed.append(status)
            stage.site.lease_clock.move_to(stage.site.lease_clock.now_us() + 61 * SECOND_US)

    return tell


@long
def test_the_chain_comes_to_the_same_on_temporal_as_on_the_embedded_engine(tmp_path: Path) -> None:
    with ChainStage.at(tmp_path / "site", on_temporal) as stage:
        stage.tell()
        assert not stage.asked_again
        assert_the_same(stage, "nobody is killed")


@pytest.mark.parametrize("again", range(10 if TORTURE else 1))
def test_everybody_killed_at_random_changes_nothing_that_the_chain_comes_to(again: int, tmp_path: Path, record_property: Note) -> None:
    """Workers, the process that records, the server at rest and in mid-call, or gone while something is recorded; and tools that fail."""
    seed = random.randrange(2**32)
    rand, often = random.Random(seed), 1.0 if TORTURE else 0.3
    die_at = [[rand.randrange(1, 30) for _ in range(3)] for _ in range(2)] if TORTURE else [[rand.randrange(1, 30)]]
    steps = (rand.randrange(1, 20) if rand.random() < 0.5 * often else 0 for _ in itertools.count())
    killed, restarts = list[int](), 0

    def may_restart(probability: float) -> None:
        nonlocal restarts
        if rand.random() < probability * often:
            restarts += 1
            server().restart()

    @contextmanager
    def driven(site: Site) -> Iterator[Drive]:
        with on_temporal(site, *die_at) as drive:

            def turn(stage: Stage) -> None:
                may_restart(0.1)
                patiently(lambda: drive(stage))

            yield turn

    with ChainStage.at(tmp_path / "site", driven) as stage:
        stage.server.shop.meanwhile = lambda: may_restart(0.2)
        inner = recorder(stage, server().address, steps, killed, (AWAY,))

        def tell(chapter: str) -> None:
            if rand.random() < 0.3:
                stage.server.faults.append(rand.choice(FAULTS))
            if rand.random() < 0.2 * often:  # it is recorded while there is no server
                server().kill()
                inner(chapter)
                server().start()
            else:
                inner(chapter)

        stage.tell(tell)
        seen = f"seed {seed}: workers {die_at}, {len(deaths(stage))} died; {len(killed)} recorders died; {restarts} restarts; asked again: {stage.asked_again}"
        record_property("seen", seen)
        assert_the_same(stage, seen)


@long
def test_a_worker_killed_at_every_step_in_turn_changes_nothing_but_the_number_of_attempts(tmp_path: Path, record_property: Note) -> None:
    again, died = 0, list[str]()
    for step in itertools.count(1):
        with ChainStage.at(tmp_path / str(step), workers([step])) as stage:
            stage.tell()
            assert_the_same(stage, f"a worker killed at step {step}")
            if not deaths(stage):
                break  # it has fewer steps
            died += deaths(stage)
            again += stage.asked_again
    record_property("seen", f"{len(died)} workers killed, each before a step of its own: {died}; the planner was asked again {again} times")
    assert {"append", "planner", "connect", "sendall", "recv_into"} <= {*died}, died
    assert died.count("connect") >= 2, died  # both tools' calls
    assert again <= 2


@long
def test_temporals_server_killed_at_every_turn_and_during_every_call_of_a_tool_changes_nothing(
    tmp_path: Path, record_property: Note
) -> None:
    restarts = list[None]()

    def restarted() -> None:
        restarts.append(server().restart())

    @contextmanager
    def driven(site: Site) -> Iterator[Drive]:
        with (
            processes().worker(site),
            site.open() as ps,
            TemporalEngine(ps.engine, server().address, heartbeat_s=HEARTBEAT_S) as engine,
        ):

            def turn(stage: Stage) -> None:
                ps.run_once(engine=engine)
                restarted()
                patiently(lambda: temporal_turn(ps, engine, stage))

            yield turn

    with ChainStage.at(tmp_path / "site", driven) as stage:
        stage.server.shop.meanwhile = restarted
        stage.tell()
        record_property("seen", f"{len(restarts)} restarts")
        assert not stage.asked_again
        assert_the_same(stage, f"{len(restarts)} restarts")


@long
def test_the_process_that_records_killed_again_and_again_in_every_chapter_a_step_later_each_time_changes_nothing_on_temporal(
    tmp_path: Path, record_property: Note
) -> None:
    """Each chapter in a process that dies at its first step, then at its second, and so on, until it comes to its end."""
    killed = list[int]()
    with ChainStage.at(tmp_path / "site", on_temporal) as stage:
        each = {chapter: recorder(stage, server().address, itertools.count(1), killed) for chapter in CHAPTERS}
        stage.tell(lambda chapter: each[chapter](chapter))
        record_property("seen", f"{len(killed)} killed")
        assert not stage.asked_again
        assert_the_same(stage, f"{len(killed)} killed")
    assert len(killed) >= len(CHAPTERS)


@long
@pytest.mark.parametrize("chapter", list(CHAPTERS))
def test_the_process_that_records_and_decides_killed_again_and_again_in_a_chapter_a_step_later_each_time_changes_nothing(
    chapter: str, tmp_path: Path, record_property: Note
) -> None:
    """On the embedded engine. It asks the planner itself, in the first chapter, and is killed there too."""
    killed = list[int]()
    with ChainStage.at(tmp_path / "site", embedded) as stage:
        dying = recorder(stage, "", itertools.count(1), killed)
        stage.tell(lambda told: dying(told) if told == chapter else CHAPTERS[told](stage.ps))
        record_property("seen", f"{chapter}: {len(killed)} killed")
        assert stage.asked_again == (chapter == "fails")
        assert_the_same(stage, f"{chapter}: {len(killed)} killed")
    assert killed
