"""A process that has loaded the library, and forks for each command: a test of what a command does need not wait for its import.

    python -m tests.nursery SOCKET                    the nursery; it ends with its standard input
    python -I -S nursery_client.py SOCKET WORD …      one command: its words, folder, environment and streams go to a fork of the nursery

A fork is a process of its own, with its own end. What it does not show is that a command imports what it needs and starts from
nothing: tests/cli/test_commands.py starts a session of commands from nothing too, and tests/docs/test_snippets.py one tutorial.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from contextlib import suppress
from functools import cache
from io import BufferedReader, BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import NoReturn

CLIENT = Path(__file__).with_name("nursery_client.py")


@cache
def nursery() -> str:
    """The socket of this test process's nursery, started at the first use."""
    folder = tempfile.mkdtemp(prefix="postsale-nursery-")
    path = os.path.join(folder, "s")
    env = {k: v for k, v in os.environ.items() if not k.startswith("POSTSALE_")}
    words = [sys.executable, "-W", "error", "-m", "tests.nursery", path]
    started = subprocess.Popen(words, cwd=CLIENT.parents[1], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def stop() -> None:
        started.communicate()
        os.unlink(path)
        os.rmdir(folder)

    atexit.register(stop)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return path


def forked(*words: str) -> list[str]:
    """The words that start a fork, of `postsale` with its arguments, or of `python -c` with a text and its arguments."""
    return [sys.executable, "-I", "-S", str(CLIENT), nursery(), *words]


def _load() -> None:
    """All that every command imports, less the rooms that look at the environment as they are imported."""


def _become(order: dict[str, object]) -> int:
    """What the order says, here; returns the exit status."""
    words, environ = order["words"], order["environ"]
    assert isinstance(words, list)
    assert isinstance(environ, dict)
    os.chdir(str(order["folder"]))
    os.environ.clear()
    os.environ.update(environ)
    sys.dont_write_bytecode = bool(environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[:0] = ["", *(p for p in environ.get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path)]
    sys.stdin, sys.stdout = TextIOWrapper(BufferedReader(FileIO(0)), "utf-8"), TextIOWrapper(BufferedWriter(FileIO(1, "w")), "utf-8")
    sys.stderr = TextIOWrapper(BufferedWriter(FileIO(2, "w")), "utf-8", "backslashreplace", line_buffering=True)
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = words[:1] if words[0] == "-c" else words
    try:
        if words[0] == "-c":
            sys.argv += words[2:]
            exec(compile(words[1], "<string>", "exec", dont_inherit=True), sys.modules["__main__"].__dict__)
        else:
            from postsale.cli import main

            main()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _answer(client: socket.socket) -> NoReturn:
    """The life of a fork. One that is killed answers nothing, and its client sees that."""
    head, received, *_ = socket.recv_fds(client, 4, 100)
    received = [fcntl.fcntl(fd, fcntl.F_DUPFD, 500) for fd in received]  # out of the way of what they shall be
    client = socket.socket(fileno=fcntl.fcntl(client.detach(), fcntl.F_DUPFD_CLOEXEC, 500))
    text = bytearray()
    while len(text) < int.from_bytes(head, "big"):
        text += client.recv(1 << 20)
    order = json.loads(text)
    os.closerange(0, 499)
    for fd, number in zip(received, order["files"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    status = _become(order)
    threading._shutdown()  # as an interpreter ends, less the taking apart of what it has loaded
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    client.sendall(bytes([status & 255]))
    os._exit(status & 255)


def _serve(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        os.write(1, b"ready\n")
        while True:
            readable, _, _ = select.select([0, listening], [], [])
            if 0 in readable:
                return
            client, _ = listening.accept()
            with client:
                if os.fork() == 0:
                    listening.detach()
                    _answer(client)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


if __name__ == "__main__":
    del sys.path[0]  # of the tests; a command finds what its own folder and environment name
    _load()
    gc.collect()
    gc.freeze()
    _serve(sys.argv[1])
