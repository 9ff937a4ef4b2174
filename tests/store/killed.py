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


def worked(path: Path, kill_at: int) -> int:
    """Do it, and count the calls that this takes; at the `kill_at`-th this process is gone."""
    calls = 0

    def called(frame: FrameType, what: str, arg: object) -> None:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(called)
    WORK[sys.argv[1]](path)
    sys.setprofile(None)
    return calls


def in_child(path: Path, kill_at: int) -> int:
    """The number of calls, 0 when the child was killed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, b"%d" % worked(path, kill_at))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        calls = int(answer.read() or 0)
    _, status = os.waitpid(child, 0)
    assert calls or os.WTERMSIG(status) == signal.SIGKILL
    return calls


WORK = {"archive": archive_it, "migrate": migrate_it}

if __name__ == "__main__":
    log, directory, copies, rand = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), random.Random(int(sys.argv[5]))
    pyarrow()  # imported once, before the forks
    segments.GROUP_ROWS = 4
    sqlite_archive.DETACH_ROWS = 3

    def copy(name: str) -> Path:
        (directory / name).mkdir()
        return Path(shutil.copy(log, directory / name / "log.db"))

    moments = in_child(copy("whole"), 0)
    for number in range(copies):
        at = 1 + moments * number // copies + rand.randrange(moments // copies)
        in_child(copy(f"killed at {at:06d}"), at)
    sys.stdout.write(f"{moments}\n")
