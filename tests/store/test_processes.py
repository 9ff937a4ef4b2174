"""Real processes: killed in the middle of appends, and racing each other for one file."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from tests.nursery import Fork

from postsale.store import Query, SQLiteStore, verify
from postsale.testing import Events
from postsale.testing.store_building import each, positions, stored

WRITER = Path(__file__).with_name("writer.py")
KILLS = int(os.environ.get("POSTSALE_KILLS", "10"))
MANY_KILLS = int(os.environ.get("POSTSALE_TORTURE_KILLS", "200"))


@contextmanager
def writer(what: str, path: Path, *args: int) -> Iterator[subprocess.Popen[str]]:
    """A writer that has opened the log; killed at the end if it still runs."""
    with Fork(WRITER, what, path, *args, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def killed_writers(path: Path, kills: int, seed: int) -> None:
    rand = random.Random(seed)
    acknowledged: list[tuple[int, list[UUID]]] = []
    for _ in range(kills):
        with writer("crash", path, rand.getrandbits(32)) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(rand.randrange(25))]
            process.kill()  # SIGKILL, wherever it is by now
            lines += process.stdout.readlines()
        for line in lines:
            if line.endswith("\n"):  # the last line may be cut off by the kill
                first, ids = line.split()
                acknowledged.append((int(first), [UUID(hex=id) for id in ids.split(",")]))
        with closing(SQLiteStore(path)) as store:
            report = verify(store)
            assert report.problems == [], f"seed {seed}"
            log = list(store.read(Query()))
        assert [event.position for event in log] == list(range(1, len(log) + 1)), f"seed {seed}"
        for first, ids in acknowledged:
            assert [event.event_id for event in log[first - 1 : first - 1 + len(ids)]] == ids, f"seed {seed}: acknowledged and not there"
        # A submission ends with its decision: were one torn, the log would end with a fact.
        assert not log or log[-1].wire_name == "test/decided@1", f"seed {seed}: torn"
    assert len(acknowledged) > kills, f"seed {seed}: too little happened"


def test_a_killed_writer_loses_nothing_it_acknowledged_and_tears_nothing(tmp_path: Path) -> None:
    killed_writers(tmp_path / "log.db", KILLS, random.getrandbits(32))


@pytest.mark.torture
@pytest.mark.skipif("POSTSALE_TORTURE" not in os.environ, reason="long; set POSTSALE_TORTURE=1")
def test_many_killed_writers_lose_nothing(tmp_path: Path) -> None:
    killed_writers(tmp_path / "log.db", MANY_KILLS, random.getrandbits(32))


def test_among_processes_exactly_one_wins_each_version(tmp_path: Path) -> None:
    path, rounds, seed = tmp_path / "log.db", 40, random.getrandbits(32)
    with ExitStack() as stack:
        processes = [stack.enter_context(writer("race", path, seed + index, rounds)) for index in range(3)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [process.communicate()[0].splitlines() for process in processes]
    for version in range(rounds):
        assert sorted(lines[version] for lines in results) == [f"lost {version}"] * 2 + [f"won {version}"], f"seed {seed}"
    with closing(SQLiteStore(path)) as store:
        assert [event.version for event in store.read(Query())] == list(range(1, rounds + 1))
        assert verify(store).ok


def test_a_tailing_reader_skips_nothing_while_processes_append(tmp_path: Path) -> None:
    path, rounds, seed = tmp_path / "log.db", 60, random.getrandbits(32)
    tailed: list[int] = []
    with closing(SQLiteStore(path)) as store, ExitStack() as stack:
        processes = [stack.enter_context(writer("tail", path, seed + index, rounds)) for index in range(3)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        while True:
            ended = all(process.poll() is not None for process in processes)
            tailed += positions(store, Query(after=tailed[-1] if tailed else 0))
            if ended:
                break
        assert [process.stdout and process.stdout.read() for process in processes] == ["done\n"] * 3
        assert tailed == list(range(1, 3 * 3 * rounds + 1)), f"seed {seed}"
        assert verify(store).ok


def test_a_killed_writer_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with writer("crash", path, 1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
        with closing(SQLiteStore(path, busy_timeout_s=0)) as store:
            assert stored(store.append(each(Events(2).fact()))[0]).stored
