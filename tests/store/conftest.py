"""A clock that stands, and every kind of store, for the tests that ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.store.stores import STORES

from postsale.events import ManualClock
from postsale.store import Store
from postsale.testing.store_building import START


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    with closing(STORES[request.param](tmp_path, clock)) as store:
        yield store
