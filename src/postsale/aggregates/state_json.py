"""States as JSON and back, exactly: every field of every dataclass, mappings in their order. For snapshots; no event is stored so.

Driven by the types of the fields, so that a field that is added to a state is covered without a change here. Imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import orjson
from pydantic import BaseModel

S = TypeVar("S")


def to_json(state: object) -> Any:
    """A state as JSON types; equal states whose mappings have equal orders give equal JSON. TypeError for a type no state has."""
    hint: Any = type(state)
    return _codec(hint).write(state)


def from_json(cls: type[S], value: Any) -> S:
    """The state that gave `value`. ValueError, TypeError or LookupError for what no state gave, as far as its shape tells."""
    hint: Any = cls
    return _codec(hint).read(value)  # type: ignore[no-any-return]


class _Codec(NamedTuple):
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


@cache
def _codec(hint: Any) -> _Codec:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (int, str, bool, NoneType, Any) or origin is Literal:
        return _Codec(_as_it_is, _as_it_is)
    if hint is UUID:
        return _Codec(str, UUID)
    if origin in (Union, UnionType):
        (some,) = (_codec(t) for t in inner if t is not NoneType)
        return _Codec(lambda v: None if v is None else some.write(v), lambda v: None if v is None else some.read(v))
    if isinstance(origin, type) and issubclass(origin, Mapping):  # as pairs: a key may be a tuple
        key, item = map(_codec, inner)
        return _Codec(
            lambda v: [[key.write(k), item.write(x)] for k, x in v.items()],
            lambda v: {key.read(k): item.read(x) for k, x in v},
        )
    if origin is frozenset:
        item = _codec(inner[0])
        return _Codec(lambda v: sorted(map(item.write, v)), lambda v: frozenset(map(item.read, v)))
    if origin is tuple and inner[-1] is ...:
        item = _codec(inner[0])
        return _Codec(lambda v: [item.write(x) for x in v], lambda v: tuple(map(item.read, v)))
    if origin is tuple:
        return _sequence(inner, tuple, lambda *items: items)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return _Codec(lambda v: v.model_dump(mode="json"), lambda v: hint.model_validate_json(orjson.dumps(v)))
    if isinstance(hint, type) and is_dataclass(hint):
        names, hints = [f.name for f in fields(hint)], get_type_hints(hint)
        return _sequence([hints[name] for name in names], lambda v: [getattr(v, name) for name in names], hint)
    if isinstance(hint, type) and issubclass(hint, tuple):
        return _sequence(list(get_type_hints(hint).values()), tuple, hint)
    raise TypeError(f"a state cannot hold a {hint}")


def _sequence(hints: Any, items: Callable[[Any], Any], make: Callable[..., Any]) -> _Codec:
    """A fixed number of values of these types, by position."""
    codecs = tuple(map(_codec, hints))
    return _Codec(
        lambda v: [codec.write(x) for codec, x in zip(codecs, items(v), strict=True)],
        lambda v: make(*[codec.read(x) for codec, x in zip(codecs, v, strict=True)]),
    )
