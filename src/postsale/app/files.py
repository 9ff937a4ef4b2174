"""Where a log's keys and read models are: beside a SQLite file, under its name; for PostgreSQL where you say, and in the database.

Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from postsale.errors import InvalidInput, Unsupported
from postsale.projections.hot_rows import HotRows
from postsale.projections.views import MemoryViews, SqliteViews, Views

KEYS_VARIABLE: Final = "POSTSALE_KEYS"
SHARES: Final = 4
"""Of a view on PostgreSQL: as many processes can fold it at once."""

_FILE: Final = "sqlite:///"
_SERVER: Final = ("postgresql://", "postgres://")
_SECRET: Final = re.compile(r"(?<=://)([^:/?#@]*):.*(?=@)|((?:^|[?&])(?:ssl)?password=)[^&]*", re.IGNORECASE | re.DOTALL)


def beside(database: Path, suffix: str) -> Path:
    """`NAME.keys` for `NAME.db`. Any other name is kept whole (`shop.eu.keys`), so that `shop.eu` and `shop.us` share nothing."""
    return database.with_suffix(suffix) if database.suffix in {"", ".db"} else database.with_name(database.name + suffix)


def file_of(url: str) -> Path | None:
    """The file of a SQLite log; None for any other."""
    name = url.removeprefix(_FILE)
    return Path(name) if name and name != url else None


def on_server(url: str) -> bool:
    """Whether a URL names a PostgreSQL database."""
    return url.startswith(_SERVER)


def shown(url: str) -> str:
    """A URL as it may be printed: without a password."""
    return _SECRET.sub(lambda m: f"{m[1]}:•••" if m[2] is None else f"{m[2]}•••", url)


def keys_path(url: str, keys: Path | str | None) -> Path | None:
    """The key file of a log, None for a log in memory. InvalidInput when it is named where it has its place, or not named where it has none."""
    if on_server(url):
        named = keys or os.environ.get(KEYS_VARIABLE)
        if not named:
            reason = f"a PostgreSQL log keeps its keys in a file outside the database: give keys=PATH, --keys PATH or {KEYS_VARIABLE}"
            raise InvalidInput(what="open", field="keys", reason=reason)
        return Path(named)
    file = file_of(url)
    if keys is not None and (file is not None or url == "memory:"):  # any other URL is itself what is wrong
        raise InvalidInput(
            what="open", field="keys", reason="only a PostgreSQL log has them elsewhere; beside NAME.db they are in NAME.keys"
        )
    return None if file is None else beside(file, ".keys")


def open_views(url: str, views: str | None, log_id: str, *, schema: str) -> Views:
    """The views of a log: those that `views` names (`memory:`, `sqlite:///PATH`), else its own."""
    where = views or url
    if where == "memory:":
        return MemoryViews()
    if on_server(where) and views is None:
        from postsale.projections.views_postgres import PostgresViews  # needs an extra

        return PostgresViews(url, log_id, schema=schema)
    file = file_of(where)
    if file is None:
        raise Unsupported(what="a place for views that is none of ours", supported="memory:, sqlite:///PATH, or nothing: beside the log")
    return SqliteViews(file if views else beside(file, ".views"), log_id)


def open_hot(url: str | None, log_id: str) -> HotRows | None:
    """The cache of hot rows that a URL names; None for none."""
    if url is None:
        return None
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise Unsupported(what="a cache that is none of ours", supported="redis://HOST:PORT/DB, rediss://…, unix://PATH")
    from postsale.projections.hot_rows_redis import RedisHotRows  # needs an extra

    return RedisHotRows(url, log_id)
