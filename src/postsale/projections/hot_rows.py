"""Hot rows: the contract of a cache in front of a view's rows. The one in Redis is `hot_rows_redis`. Imports nothing of ours.

Each row carries the position up to which it holds every fact of its stream, so an old row is never a wrong one, only an older one:
who demands more looks in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class HotRows(Protocol):
    """A cache of rows by view and key. Thread-safe. Never raises: what it cannot do is left undone, what it cannot give left out.

    What it gives is a row that was put by somebody who knew the same secret, for that view and key and as of that position. A view
    has another secret each time it is folded from nothing; it is kept with the view, never in the cache.
    """

    def get_many(self, view: str, secret: bytes, keys: Sequence[str]) -> dict[str, tuple[int, bytes | None]]:
        """Positions and rows; None where the stream had no row as of that position."""
        ...

    def put_many(self, view: str, secret: bytes, rows: Mapping[str, bytes | None], position: int) -> None:
        """Keep rows as of a position, unless newer ones are kept."""
        ...

    def close(self) -> None:
        """Give up connections; what was put stays."""
        ...
