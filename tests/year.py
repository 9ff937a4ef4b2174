"""The demo's year as it is by default, lived once for all tests that look at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from tests.shared import once


class Lived(NamedTuple):
    """A copy of the demo's folder, and what it printed as JSON."""

    folder: Path
    story: dict[str, Any]

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'demo.db'}"


def the_year(factory: pytest.TempPathFactory) -> Lived:
    """The default demo, as its command lives it, in a process of its own."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "postsale.cli", "demo", "--json", "--folder", str(folder)]
        done = subprocess.run(command, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, check=True, timeout=580)
        (folder / "story.json").write_bytes(done.stdout)

    made, folder = once(factory, "year", make), factory.mktemp("year")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return Lived(folder, orjson.loads((folder / "story.json").read_bytes()))
