"""Every kind of log for the tests that ask for `where`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import new_log

from .support import Server, Where


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Where]:
    if request.param == "postgres":
        yield request.getfixturevalue("server")
    else:
        yield None if request.param == "memory" else tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A fresh log on PostgreSQL; its keys are in the test's folder."""
    with new_log() as (url, schema):
        yield Server(url, schema, tmp_path / "postsale.keys")


@pytest.fixture(params=["sqlite", "postgres"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """A log that other processes can open too."""
    return request.getfixturevalue("server") if request.param == "postgres" else tmp_path
