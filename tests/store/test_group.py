"""Ctrl-C at every moment of an append: raised where the interpreter may raise it, after each call, not only where it is convenient."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

from tests.postgres import new_log

from postsale.errors import InvalidInput, StoreUnavailable
from postsale.events import StoredEvent, StreamId
from postsale.store import Appended, Query, SQLiteStore, verify
from postsale.store.contract import Outcome, Submission
from postsale.store.group import Groups
from postsale.store.postgres import Patience, PostgresStore
from postsale.testing import Events
from postsale.testing.store_building import each, one, stored

PATIENCE_S = 20.0
MODULES = (
    "/group.py",
    "/sqlite.py",
    "/postgres.py",
    "/postgres_link.py",
    "/contextlib.py",
)  # where the moments are; calls further in are theirs


def interrupted(run: Callable[[], object]) -> Iterator[str]:
    """Run again and again, each time with a KeyboardInterrupt one moment later, until there are no more moments. Yields where it was."""
    at = 0
    while True:
        at += 1
        moments, where = 0, ""

        def moment(frame: FrameType, what: str, arg: Any) -> None:
            nonlocal moments, where
            if what in ("call", "c_return") and frame.f_code.co_filename.endswith(MODULES):
                moments += 1
                if moments == at:  # noqa: B023  # used up before the next round
                    sys.setprofile(None)
                    where = f"{frame.f_code.co_name}, line {frame.f_lineno}, {what}"
                    raise KeyboardInterrupt

        sys.setprofile(moment)
        try:
            run()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        if not where:
            assert at > 10
            return
        yield where


def test_an_append_interrupted_at_any_moment_leaves_no_other_waiting_for_ever() -> None:
    events, lock = Events(seed=1), threading.Lock()
    served: list[int] = []
    others: list[threading.Thread] = []

    def commit(submissions: list[Submission]) -> list[Outcome]:
        if not others:  # the first commit of a round: let two wait behind it
            for _ in range(2):
                others.append(threading.Thread(target=lambda: served.append(len(groups.do(each(events.fact())))), daemon=True))
                others[-1].start()
            while sum(not waiting.done for waiting in groups._waiting) < 2:
                threading.Event().wait(0.0001)
        return [Appended((), (), (), False) for _ in submissions]

    groups = Groups(commit, lock)
    for where in interrupted(lambda: groups.do(each(events.fact()))):
        last = threading.Thread(target=groups.do, args=(each(events.fact()),), daemon=True)
        last.start()
        for threads in ([last], others):  # the last may be the first to commit, and then starts the others
            for thread in threads:
                thread.join(PATIENCE_S)
                assert not thread.is_alive(), f"interrupted in {where}: somebody waits for ever"
        others.clear()
    assert set(served) == {1}


def test_an_append_interrupted_at_any_moment_leaves_the_log_to_others(tmp_path: Path) -> None:
    events, path = Events(seed=2), tmp_path / "log.db"
    with closing(SQLiteStore(path, durable=False)) as store, closing(SQLiteStore(path, durable=False, busy_timeout_s=0)) as other:
        for where in interrupted(lambda: store.append(each(events.fact()))):
            for whose in (other, store):  # `other` stands for another process
                results: list[Any] = []
                thread = threading.Thread(target=lambda: results.extend(whose.append(each(events.fact()))), daemon=True)  # noqa: B023
                thread.start()
                thread.join(PATIENCE_S)
                assert results, f"interrupted in {where}: {whose} cannot append"
                assert stored(results[0]).stored
        assert verify(store).ok


def test_a_call_interrupted_at_any_moment_gives_its_connection_back() -> None:
    events, patience = Events(seed=3), Patience(connection=2.0)
    with new_log() as (url, schema), closing(PostgresStore(url, schema=schema, max_connections=1, patience=patience)) as store:
        calls: list[Callable[[], object]] = [
            lambda: store.append(each(events.fact())),
            lambda: list(store.read(Query(limit=1))),
            lambda: store.latest([events.stream()]),
        ]
        for call in calls:
            for where in interrupted(call):
                try:
                    stored(store.append(each(events.fact()))[0])
                except StoreUnavailable as error:
                    raise AssertionError(f"interrupted in {where}: the connection is gone") from error
        assert verify(store).ok


def test_threads_that_look_at_once_share_a_transaction_and_each_gets_what_it_asked() -> None:
    events, seen = Events(seed=4), list[list[StreamId]]()
    nobody = events.stream(id="no\0body")  # which the server cannot be asked for
    found: dict[int, list[StoredEvent | None] | InvalidInput] = {}
    with new_log() as (url, schema), closing(PostgresStore(url, schema=schema)) as store:
        streams = [events.stream("acme" if n % 2 else "zeta") for n in range(8)]
        for no, stream in enumerate(streams):
            for version in range(no):
                stored(store.append(one(events.decision(stream, version)))[0])
        asked = {no: [nobody] if no == 3 else [streams[no], streams[(no + 3) % 8]] for no in range(8)}
        every = threading.Barrier(8)

        def look(no: int) -> None:
            every.wait(PATIENCE_S)
            try:
                found[no] = store.latest(asked[no])
            except InvalidInput as error:
                found[no] = error

        work = store._looking._work

        def watched(streams: list[StreamId]) -> list[StoredEvent | None]:
            seen.append(streams)
            while len(seen) == 1 and len(store._looking._waiting) < 8:  # the first looks on until all the others wait behind it
                threading.Event().wait(0.0001)
            return work(streams)

        store._looking._work = watched
        threads = [threading.Thread(target=look, args=(no,), daemon=True) for no in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert isinstance(found.pop(3), InvalidInput)
    versions = {no: [None if x is None else (x.stream, x.version) for x in its] for no, its in found.items()}  # type: ignore[union-attr]
    assert versions == {no: [(s, streams.index(s)) if streams.index(s) else None for s in its] for no, its in asked.items() if no != 3}
    assert max(map(len, seen)) >= 2 * 6, "the others shared one look"
