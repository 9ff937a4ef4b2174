"""Frozen dataclasses with some fields changed, at half of what `dataclasses.replace` costs: states are folded by it, event by event.

May import nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")


def replace(of: T, /, **changes: Any) -> T:
    """As `dataclasses.replace`, for a class with slots, two fields or more and no `__post_init__`. TypeError for a field it has not."""
    cls = type(of)
    values_of, places, setters = _shape(cls)  # type: ignore[arg-type]
    values = list(values_of(of))
    for name, value in changes.items():
        try:
            values[places[name]] = value
        except KeyError:
            raise TypeError(f"{cls.__name__} has no field {name!r}") from None
    changed = object.__new__(cls)
    for set_, value in zip(setters, values, strict=True):  # what a frozen class's constructor does field by field, at less
        set_(changed, value)
    return changed


@cache
def _shape(cls: type) -> tuple[attrgetter[tuple[Any, ...]], dict[str, int], list[Callable[[Any, Any], None]]]:
    """What reads all fields at once, the place of each among them, and what sets each."""
    names = [field.name for field in fields(cls)]
    if len(names) < 2 or hasattr(cls, "__post_init__"):
        raise TypeError(f"{cls.__name__} goes through its constructor: use dataclasses.replace")
    return attrgetter(*names), {name: place for place, name in enumerate(names)}, [getattr(cls, name).__set__ for name in names]
