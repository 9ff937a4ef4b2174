"""A process that has loaded the library, and forks for each command: a test of what a process does need not wait for its import.

    python -m tests.nursery SOCKET                    the nursery; it ends with its standard input, and its forks with it
    python -I -S nursery_client.py SOCKET WORD …      one command: its words, folder, environment and files go to a fork of the nursery

A fork is a process of its own, with its own end: it is killed, stopped and waited for as any other. What it does not show is that a
command imports what it needs and starts from nothing: tests/cli/test_commands.py starts a session of commands from nothing too, and
tests/docs/test_snippets.py a tutorial.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from contextlib import suppress
from functools import cache
from io import BufferedReader, BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from tests.ending import with_this_parent

CLIENT = Path(__file__).with_name("nursery_client.py")
ROOT = CLIENT.parents[1]


@cache
def nursery() -> str:
    """The socket of this test process's nursery, started at the first use."""
    folder = tempfile.mkdtemp(prefix="postsale-nursery-")
    path = os.path.join(folder, "s")
    env = {k: v for k, v in os.environ.items() if not k.startswith("POSTSALE_")}
    words = [sys.executable, "-W", "error", "-m", "tests.nursery", path]
    started = subprocess.Popen(words, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def stop() -> None:
        started.communicate()
        os.unlink(path)
        os.rmdir(folder)

    atexit.register(stop)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return path


def forked(*words: object) -> list[str]:
    """The words that start a fork: of `postsale` with its arguments, or of `python` with `-c TEXT`, `-m MODULE` or a file, and its arguments."""
    return [sys.executable, "-I", "-S", str(CLIENT), nursery(), *map(str, words)]


class Fork(subprocess.Popen[str]):
    """The same as `subprocess.Popen([sys.executable, *words], text=True, …)`; its `pid` is the fork's, so that signals reach it."""

    def __init__(self, *words: object, **more: Any) -> None:
        self._link = socket.socket(socket.AF_UNIX)
        super().__init__([str(word) for word in words], text=True, **more)

    def _execute_child(self, args: Any, *more: Any) -> None:  # type: ignore[override]
        folder, environ, ends = more[4], more[5], more[9:15]  # the ends of three pipes: theirs and ours, ours and theirs, ours and theirs
        order = {"words": args, "folder": str(folder or os.getcwd()), "environ": dict(environ or os.environ), "files": [0, 1, 2]}
        text = json.dumps(order).encode()
        self._link.connect(nursery())
        files = [given if given != -1 else number for number, given in enumerate((ends[0], ends[3], ends[5]))]
        socket.send_fds(self._link, [len(text).to_bytes(4, "big")], files)
        self._link.sendall(text)
        self.pid = int.from_bytes(self._link.recv(4, socket.MSG_WAITALL), "big")
        self._child_created = True
        self._close_pipe_fds(*ends)

    def stand_still(self) -> None:
        """SIGSTOP; returns when every thread of it stands, which only a parent is told."""
        self.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        while any(stat.read_text().rpartition(")")[2].split()[0] != "T" for stat in threads.glob("*/stat")):
            time.sleep(0.001)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._link], [], [], timeout)[0]:
            self.returncode = int.from_bytes(self._link.recv(4, socket.MSG_WAITALL), "big", signed=True)
            self._link.close()
        return self.returncode

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        return self._ended(0)

    def _wait(self, timeout: float | None) -> int:
        if (status := self._ended(timeout)) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status


def _load() -> None:
    """All that every command imports, less the rooms that look at the environment as they are imported."""


def _become(order: dict[str, Any]) -> int:
    """What the order says, here; returns the exit status."""
    words, environ = order["words"], order["environ"]
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(environ)
    sys.dont_write_bytecode = bool(environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[:0] = [p for p in environ.get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path]
    sys.stdin, sys.stdout = TextIOWrapper(BufferedReader(FileIO(0)), "utf-8"), TextIOWrapper(BufferedWriter(FileIO(1, "w")), "utf-8")
    sys.stderr = TextIOWrapper(BufferedWriter(FileIO(2, "w")), "utf-8", "backslashreplace", line_buffering=True)
    sys.modules["__main__"] = types.ModuleType("__main__")
    while words[0] in ("-W", "-B"):
        words = words[2:] if words[0] == "-W" else words[1:]
    how, sys.argv = words[0], words[1:] if words[0] == "-m" else words
    try:
        if how == "postsale":
            sys.path.insert(0, "")
            from postsale.cli import main

            main()
        elif how == "-c":
            sys.path.insert(0, "")
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec", dont_inherit=True), sys.modules["__main__"].__dict__)
        elif how == "-m":
            sys.path.insert(0, os.getcwd())
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.realpath(how)))
            runpy.run_path(how, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _live(order: bytes, received: list[int], files: list[int]) -> NoReturn:
    """The life of a fork."""
    received = [fcntl.fcntl(fd, fcntl.F_DUPFD, 500) for fd in received]  # out of the way of what they shall be
    os.closerange(0, 499)
    for fd, number in zip(received, files, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    status = _become(json.loads(order))
    threading._shutdown()  # as an interpreter ends, less the taking apart of what it has loaded
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 255)


def _serve(path: str) -> None:
    waiting: dict[int, socket.socket] = {}
    here = os.getpid()
    died, told = os.pipe()
    os.set_blocking(told, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        os.write(1, b"ready\n")
        while True:
            readable = select.select([0, died, listening], [], [])[0]
            if 0 in readable:
                return
            if died in readable:
                os.read(died, 1024)
                with suppress(ChildProcessError):
                    while (end := os.waitpid(-1, os.WNOHANG))[0]:
                        with waiting.pop(end[0]) as client, suppress(OSError):
                            client.sendall(os.waitstatus_to_exitcode(end[1]).to_bytes(4, "big", signed=True))
            if listening in readable:
                client, _ = listening.accept()
                head, received, *_ = socket.recv_fds(client, 4, 100)
                order = bytearray()
                while len(order) < int.from_bytes(head, "big") and (more := client.recv(1 << 20)):
                    order += more
                if not head or len(order) < int.from_bytes(head, "big"):  # whoever asked was killed meanwhile
                    client.close()
                    for fd in received:
                        os.close(fd)
                    continue
                files = json.loads(order)["files"]
                if (pid := os.fork()) == 0:
                    with_this_parent(here)
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _live(bytes(order), received, files)
                for fd in received:
                    os.close(fd)
                waiting[pid] = client
                with suppress(OSError):
                    client.sendall(pid.to_bytes(4, "big"))


if __name__ == "__main__":
    del sys.path[0], sys.modules["tests"], sys.modules["tests.ending"]  # a command finds what its own folder and environment name
    _load()
    gc.collect()
    gc.freeze()
    _serve(sys.argv[1])
