from collections.abc import Iterator

import pytest

from .vaults import still_open


@pytest.fixture(autouse=True)
def _close_vaults() -> Iterator[None]:
    yield
    still_open.close()
