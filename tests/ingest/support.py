"""What the ingest tests share: a digest, a canary, where third-party data lies, envelopes around recorded bodies."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from postsale.ingest import Item, keyed_digest
from postsale.ingest import Mapping as TableMapping

DIGEST = keyed_digest(b"a key for tests only, not secret")
CANARY = "canary.bird@example.com"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def third_party(name: str) -> Path:
    """A file or folder of ../shared/data; skips, saying so, where that folder is absent."""
    path = _DATA / name
    if not path.exists():
        pytest.skip(f"third-party data ../shared/data/{name} is absent; it is not part of this repository")
    return path


def example(name: str) -> TableMapping:
    return TableMapping.load(EXAMPLES / f"{name}.toml")


def envelope(kind: str, body: Mapping[str, Any], **over: Any) -> dict[str, Any]:
    """A Stripe event around a resource, as Stripe would send it."""
    event = {
        "id": "evt_1",
        "object": "event",
        "api_version": "2020-08-27",
        "created": 1_700_000_000,
        "data": {"object": dict(body)},
        "livemode": True,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }
    return event | over


def said(item: Item) -> str:
    """Everything about an item that may be shown or logged; not its bytes, its customer or its signals."""
    parts = [item.where, item.ignored or "", item.source, *item.flags]
    if item.error is not None:
        parts += [str(item.error), repr(item.error), *traceback.format_exception(item.error), repr(item.error.__context__)]
    return "\n".join(parts)


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def outcome(item: Item) -> str:
    """Which of the three an item is; asserts that it is exactly one."""
    states = {"signals": bool(item.signals), "ignored": item.ignored is not None, "error": item.error is not None}
    assert sum(states.values()) == 1, states
    return next(name for name, holds in states.items() if holds)
