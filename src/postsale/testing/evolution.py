"""For your own kinds: that stored versions stay as they are, and that upcasters read them. No claims of ours here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from postsale.events import Event, canonical, check_schemas, decode_payload, encode_payload, registry

_ENVELOPE = {"source": "test", "id": "1", "occurred_at": "2026-01-01T00:00:00Z"}


def assert_schemas_kept(module: str, folder: str | Path = "schemas") -> None:
    """AssertionError, with a line for each finding, when `postsale schemas check` would find something.

    Imports `module`; compares the kinds that it, and what it imports below it, declares. Raises BadDeclaration for a version from
    which no chain of upcasters leads to the newest.
    """
    import_module(module)
    findings = check_schemas(Path(folder), module)
    if findings:
        raise AssertionError("\n".join(map(str, findings)))


def upcasted(wire_name: str, fields: Mapping[str, Any]) -> Event:
    """The event that the fields of a stored version are read as today, through the decoder of the log.

    Every upcaster runs twice: AssertionError when the results differ, as with a clock, a random number or a counter in it.
    Raises UnknownWireName, UpcastFailed, and InvalidInput when the result does not fit the newest version.
    """
    stored = canonical(fields)
    envelope = _ENVELOPE if registry.get(wire_name).envelope_fields else None
    first, second = (decode_payload(wire_name, stored, envelope) for _ in range(2))
    if encode_payload(first) != encode_payload(second):
        raise AssertionError(f"an upcaster of {wire_name} is not pure: it gives different results for the same event")
    return first
