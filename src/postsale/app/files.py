"""Where the files of a log lie: keys and views beside the database, under its name."""

from __future__ import annotations

from pathlib import Path


def beside(database: Path, suffix: str) -> Path:
    """`NAME.keys` for `NAME.db`. Any other name is kept whole (`shop.eu.keys`), so that `shop.eu` and `shop.us` share nothing."""
    return database.with_suffix(suffix) if database.suffix in {"", ".db"} else database.with_name(database.name + suffix)
