"""Archives chapter 0 of a PostgreSQL log, and kills itself at a moment. Prints how many there are when none was named.

python killed_postgres.py URL SCHEMA DIRECTORY SINCE KILL_AT
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from postsale.events import SystemClock
from postsale.store import archive_chapter, segments
from postsale.store.postgres import PostgresStore

if __name__ == "__main__":
    url, schema, directory, since, kill_at = sys.argv[1:]
    segments.pyarrow()
    segments.GROUP_ROWS = 4
    store = PostgresStore(url, schema=schema, as_owner=True)
    calls = 0

    def called(frame: FrameType, what: str, arg: object) -> None:
        global calls
        if calls or frame.f_code.co_name == since:
            calls += 1
            if calls == int(kill_at):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(called)
    archive_chapter(store.chapters(), 0, directory, clock=SystemClock())
    sys.setprofile(None)
    store.close()
    sys.stdout.write(f"{calls}\n")
