"""Archives or migrates copies of a log, each in a process that kills itself at another moment. Prints how many moments there are.

python killed.py archive|migrate LOG DIRECTORY COPIES SEED
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from contextlib import closing
from pathlib import Path
from types import FrameType

from postsale.events import SystemClock
from postsale.store import SQLiteStore, archive_chapter, chapters_of, segments, sqlite_archive
from postsale.store.migrations import migrate
from postsale.store.segments import pyarrow


def archive_it(path: Path) -> None:
    with closing(SQLiteStore(path)) as store:
        archive_chapter(chapters_of(store), 0, path.parent / "archive", clock=SystemClock())


def migrate_it(path: Path) -> None:
    migrate(path, backup=path.with_name("backup.db"))


def worked(path: Path, kill_at: int, since: str) -> int:
    """Do it, and count the calls that this takes once a function named `since` is called; at the `kill_at`-th this process is gone."""
    calls = 0

    def called(frame: FrameType, what: str, arg: object) -> None:
        nonlocal calls
        if calls or not since or frame.f_code.co_name == since:
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(called)
    WORK[sys.argv[1]][0](path)
    sys.setprofile(None)
    return calls


def in_child(path: Path, kill_at: int, since: str) -> int:
    """The number of calls, 0 when the child was killed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, b"%d" % worked(path, kill_at, since))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        calls = int(answer.read() or 0)
    _, status = os.waitpid(child, 0)
    assert calls or os.WTERMSIG(status) == signal.SIGKILL
    return calls


WORK = {"archive": (archive_it, "finish"), "migrate": (migrate_it, "verify")}  # and what is called after it was committed

if __name__ == "__main__":
    log, directory, copies, rand = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), random.Random(int(sys.argv[5]))
    pyarrow()  # imported once, before the forks
    segments.GROUP_ROWS = 4
    sqlite_archive.DETACH_ROWS = 3

    def copy(name: str) -> Path:
        (directory / name).mkdir()
        return Path(shutil.copy(log, directory / name / "log.db"))

    after = WORK[sys.argv[1]][1]
    whole, late = in_child(copy("whole"), 0, ""), in_child(copy("late"), 0, after)
    for since, moments in (("", whole - late), (after, late)):
        for at in sorted(rand.sample(range(1, moments), copies // 2)):
            in_child(copy(f"killed {since} {at:06d}"), at, since)
    sys.stdout.write(f"{whole} {late}\n")
