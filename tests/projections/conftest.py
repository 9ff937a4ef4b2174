"""Every kind of views, for the tests that ask for `views`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from postsale.projections import MemoryViews, SqliteViews, Views
from postsale.projections.views_postgres import PostgresViews
from tests.postgres import new_log


@pytest.fixture(scope="module")
def pg() -> Iterator[tuple[str, str]]:
    """URL and schema of a log whose views a module's tests share; each opens them for a log of its own, which empties them."""
    with new_log() as log:
        yield log


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def views(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Views]:
    """Empty views of each kind."""
    opened: Views
    if request.param == "memory":
        opened = MemoryViews()
    elif request.param == "sqlite":
        opened = SqliteViews(tmp_path / "postsale.views", "log-1")
    else:
        url, schema = request.getfixturevalue("pg")
        opened = PostgresViews(url, uuid4().hex, schema=schema)
    yield opened
    opened.close()
