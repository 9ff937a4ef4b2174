"""JSON from outside, read strictly: what two readers could understand differently is refused, with the path of the field.

Refused: invalid UTF-8, duplicate keys, NaN and infinities, lone surrogates, NUL, integers from 2^53, nesting beyond 64.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from postsale.errors import InvalidInput
from postsale.events import MAX_INT
from postsale.ingest.items import ITEM_LIMIT, safe_name

MAX_DEPTH: Final = 64


class _Duplicate(dict[str, Any]):
    key: str


class _NotANumber:
    pass


_NAN: Final = _NotANumber()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    marked = _Duplicate(found)
    for key, _ in pairs:
        if key in seen:
            marked.key = key
            break
        seen.add(key)
    return marked


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= 20 else MAX_INT + 1


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=lambda _: _NAN, parse_int=_integer, strict=True)


def parse(raw: bytes, what: str, *, limit: int = ITEM_LIMIT) -> Any:
    """The value of one JSON text; InvalidInput names the field (`a.b.0.c`) or `(whole)`, never a value."""
    if len(raw) > limit:
        raise InvalidInput(what=what, field="(whole)", reason=f"longer than {limit} bytes")
    value: Any = None
    reason = ""
    try:
        value = _DECODER.decode(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason = f"not valid UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        reason = f"not JSON at character {error.pos}"
    except RecursionError:
        reason = "nested too deeply"
    if reason:  # raised out here so that no context carries the text
        raise InvalidInput(what=what, field="(whole)", reason=reason)
    check(value, what)
    return value


def check(value: object, what: str) -> None:
    """Raise InvalidInput for the first part of a JSON-like value that JSON cannot carry exactly."""
    problem = _problem(value, "", 0)
    if problem is not None:
        raise InvalidInput(what=what, field=problem[0] or "(whole)", reason=problem[1])


def _problem(value: object, path: str, depth: int) -> tuple[str, str] | None:
    if value is None or value is True or value is False:
        return None
    if isinstance(value, str):
        return _text_problem(value, path)
    if isinstance(value, int):
        return None if -MAX_INT <= value <= MAX_INT else (path, "expected an integer below 2^53")
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, "expected a finite number")
    if value is _NAN:
        return path, "expected a finite number, not NaN or Infinity"
    if depth >= MAX_DEPTH:
        return path, "nested too deeply"
    if isinstance(value, Mapping):
        return _object_problem(value, path, depth)
    if isinstance(value, list | tuple):
        for index, part in enumerate(value):
            found = _problem(part, f"{path}.{index}" if path else str(index), depth + 1)
            if found is not None:
                return found
        return None
    return path, "expected a JSON type"


def _object_problem(value: Mapping[Any, Any], path: str, depth: int) -> tuple[str, str] | None:
    if isinstance(value, _Duplicate):
        return _join(path, value.key), "the same key twice"
    for key, part in value.items():
        if not isinstance(key, str) or _text_problem(key, path) is not None:
            return path, "expected text keys without NUL or lone surrogates"
        found = _problem(part, _join(path, key), depth + 1)
        if found is not None:
            return found
    return None


def _text_problem(text: str, path: str) -> tuple[str, str] | None:
    if text.isascii():
        return (path, "contains NUL") if "\0" in text else None
    if "\0" in text:
        return path, "contains NUL"
    return (path, "contains a lone surrogate") if any("\ud800" <= ch <= "\udfff" for ch in text) else None


def _join(path: str, key: str) -> str:
    return f"{path}.{safe_name(key)}" if path else safe_name(key)
