"""Classes that claim to be the same version of one kind, made as tests need them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from postsale.events import Event

NAME = "tests.evolution/pair@1"
STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


def even(n: int) -> int:
    if n % 2:
        raise ValueError("expected an even number")
    return n


def turned(n: int) -> int:
    """A validator that changes the value, also of one that was stored."""
    return -n


def part(name: str, **fields: Any) -> type[BaseModel]:
    return type(name, (BaseModel,), {"__annotations__": fields, "__module__": __name__, "model_config": STRICT})


def version(fields: dict[str, Any], doc: str = "", **more: Any) -> type[Event]:
    """A class of this version with these fields: an annotation, or (annotation, default). Takes the place of the one before it."""
    annotations = {name: f[0] if isinstance(f, tuple) else f for name, f in fields.items()}
    defaults = {name: f[1] for name, f in fields.items() if isinstance(f, tuple)}
    names = {"__module__": __name__, "__qualname__": "Pair", "__doc__": doc, "wire_name": NAME, "__annotations__": annotations}
    return type("Pair", (Event,), {**names, **defaults, **more})
