"""What the tests start ends with the process that runs them: none of it is left behind, however that process ends."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.nursery import ROOT, forked, nursery

_STANDS = "import time; time.sleep(1_000)"
_RUNS = {
    "a fork of the nursery": (f"from tests.nursery import Fork; started = Fork('-c', {_STANDS!r}); ready()", "tests.nursery", 2),
    "a fork that a command waits for": (
        f"import subprocess; from tests.nursery import forked; started = subprocess.Popen(forked('-c', {_STANDS!r})); ready()",
        "tests.nursery",
        2,
    ),
    "a server of Temporal": ("from tests.temporal import server; server(); ready()", "start-dev", 1),
    "a cache": ("from tests.valkey import Server; Server().start(); ready()", "valkey-server", 1),
}
# Whoever is started in the background inherits a SIGINT that is ignored.
_READY = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\ndef ready():\n    print('ready', flush=True)\n"


def descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, more = {pid}, {pid}
    while more:
        more = {child for child, parent in parents.items() if parent in more} - found
        found |= more
    return found - {pid}


def named(pids: set[int], word: str) -> int:
    found = 0
    for pid in pids:
        with suppress(OSError):
            found += word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel by prctl")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("what", _RUNS)
def test_nothing_is_left_behind(what: str, end: signal.Signals) -> None:
    text, word, many = _RUNS[what]
    command = [sys.executable, "-c", f"{_READY}{text}\ntime.sleep(1_000)"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as tests:
        assert tests.stdout is not None
        assert tests.stdout.readline() == b"ready\n"
        limit = time.monotonic() + 60
        while named(left := descendants(tests.pid), word) < many:
            assert time.monotonic() < limit, "it did not start"
            select.select([], [], [], 0.01)
        ends = []
        for pid in left:
            with suppress(ProcessLookupError):
                ends.append(os.pidfd_open(pid))
        tests.send_signal(end)
        tests.wait(60)
        try:
            for fd in ends:
                assert select.select([fd], [], [], 30)[0], "a process was left behind"
        finally:
            for fd in ends:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                os.close(fd)


def test_the_nursery_outlives_whoever_was_killed_while_asking() -> None:
    for sent in (b"", (1_000).to_bytes(4, "big") + b"{"):
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(nursery())
            link.sendall(sent)
    assert subprocess.run(forked("-c", "raise SystemExit(7)"), check=False, timeout=60).returncode == 7
