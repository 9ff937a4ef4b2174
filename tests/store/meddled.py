"""A log's records with something else happening between two calls: what other workers and crashes do at the worst moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from postsale.store import Kept


class Meddled:
    """A log's records, with something else happening just before a chosen call. Calls go to the real thing."""

    def __init__(self, kv: Any) -> None:
        self.kv = kv
        self.left = 0
        self.meanwhile: Callable[[], object] | None = None

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0 and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return getattr(self.kv, name)(*args, **kwargs)

    def get(self, *args: Any) -> Kept | None:
        return self._call("get", *args)  # type: ignore[no-any-return]

    def put(self, *args: Any, **kwargs: Any) -> int | None:
        return self._call("put", *args, **kwargs)  # type: ignore[no-any-return]

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        return self._call("delete", *args, **kwargs)  # type: ignore[no-any-return]

    def scan(self, *args: Any, **kwargs: Any) -> list[Kept]:
        return self._call("scan", *args, **kwargs)  # type: ignore[no-any-return]
