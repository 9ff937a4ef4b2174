"""A demo's database, made once, and a copy of it for tests that change it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.shared import once

from .support import run


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a small demo, up to the end of September, and its story."""

    def make(folder: Path) -> None:
        done = run("demo", "--json", "--customers", "14", "--days", "273", "--seed", "3", "--folder", str(folder))
        assert done.code == 0, done.err
        (folder / "story.json").write_text(done.out)

    made, folder = once(tmp_path_factory, "demo", make), tmp_path_factory.mktemp("demo")
    shutil.copytree(made, folder, dirs_exist_ok=True)  # reads bring views up to date, each test process in its own copy
    return folder, json.loads((folder / "story.json").read_text())


@pytest.fixture
def db(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> str:
    """The URL of a copy that the test may change."""
    for name in ("demo.db", "demo.keys", "demo.views"):
        shutil.copy2(demo[0] / name, tmp_path / name)
    return f"sqlite:///{tmp_path / 'demo.db'}"
