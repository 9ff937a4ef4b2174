"""A demo's database, made once in each worker, and a copy of it for tests that change it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from .support import run


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a small demo, and its story."""
    folder = tmp_path_factory.mktemp("demo")
    done = run("demo", "--json", "--customers", "14", "--seed", "3", "--folder", str(folder))
    assert done.code == 0, done.err
    return folder, done.json()


@pytest.fixture
def db(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> str:
    """The URL of a copy that the test may change."""
    for name in ("demo.db", "demo.keys", "demo.views"):
        shutil.copy2(demo[0] / name, tmp_path / name)
    return f"sqlite:///{tmp_path / 'demo.db'}"
