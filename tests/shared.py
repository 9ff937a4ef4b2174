"""What is dear to make and only read is made by one of the test processes of a run, for all of them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name, which `make` filled; whoever comes while it does waits. Nobody may write in it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, made = root / name, root / f"{name}.made"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def examples(many: int) -> int:
    """Of a property that is dear or sees much in one example: so many in the torture run, a third of them in the suite."""
    return many if os.environ.get("POSTSALE_TORTURE") else max(many // 3, 1)
