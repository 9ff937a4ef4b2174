"""Cells of decision tables: a tiny typed condition language, parsed once and compiled to closures. No eval, no I/O.

Lives here: what one cell means. Not here: rows, policies, evidence. Imports the errors only.

    true  false  5  ">= 50000"  "!= 5"  "between 10 and 20" (inclusive)  "in [1, 2]"  "not in [1, 2]"
    "poor"  "!= poor"  "in [poor, fair]"  "'is missing'" (quotes make it a plain text)  "is missing"  "is known"

A missing value (None) satisfies "is missing" and nothing else: not knowing is never a reason to act.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from postsale.errors import PolicyInvalid

InputType = Literal["integer", "text", "boolean"]
Value = bool | int | str | None
Test = Callable[[Value], bool]
Op = Literal["==", "!=", "<", "<=", ">", ">=", "between", "in", "not in", "missing", "known"]

_COMPARE = re.compile(r"(>=|<=|!=|==|=|>|<)\s*(.*)\Z", re.S)
_BETWEEN = re.compile(r"between\s+(\S+)\s+and\s+(\S+)\Z")
_LIST = re.compile(r"(not\s+)?in\s*\[(.*)\]\Z", re.S)
_INT = re.compile(r"-?[0-9]{1,15}(?:_[0-9]{3})*\Z")
_RESERVED = re.compile(r"(?:is|in|not|between)\b")
_MAX_CELL = 500


@dataclass(frozen=True, slots=True)
class Cell:
    """One parsed condition. Equal cells mean the same; `str` is its normal form; `test` decides a value."""

    op: Op
    operands: tuple[Value, ...]
    test: Test = field(compare=False, repr=False)

    def __str__(self) -> str:
        shown = [_show(v) for v in self.operands]
        match self.op:
            case "==":
                return shown[0]
            case "between":
                return f"between {shown[0]} and {shown[1]}"
            case "in" | "not in":
                return f"{self.op} [{', '.join(shown)}]"
            case "missing" | "known":
                return f"is {self.op}"
            case _:
                return f"{self.op} {shown[0]}"


def parse_cell(cell: object, kind: InputType, *, policy: str, where: str) -> Cell:
    """The condition that `cell` states about an input of type `kind`; PolicyInvalid names the cell as `where`."""
    try:
        return _parse(cell, kind)
    except _Bad as bad:
        raise PolicyInvalid(policy=policy, where=where, reason=str(bad)) from None


def cell_of(op: Op, operands: tuple[Value, ...]) -> Cell:
    """The cell with this operator and these values, which fit it."""
    return _make(op, operands)


def all_of(cells: Mapping[str, Cell]) -> Callable[[Mapping[str, Value]], bool]:
    """One closure that is true when every named value satisfies its cell; no cells are always true. Stops at the first false one."""
    tests = tuple((name, cell.test) for name, cell in sorted(cells.items()))

    def matches(values: Mapping[str, Value]) -> bool:
        return all(test(values.get(name)) for name, test in tests)

    return matches


class _Bad(ValueError):
    """What is wrong with a cell; becomes PolicyInvalid, which knows where it stands."""


def _show(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = value and value == value.strip() and not re.search(r"[\[\],'\"]", value) and not _RESERVED.match(value)
        return value if plain and not _COMPARE.match(value) else "'" + value.replace("'", "''") + "'"
    return str(value)


def _parse(cell: object, kind: InputType) -> Cell:
    if isinstance(cell, bool | int):
        return _make("==", (_typed(cell, kind),))
    if not isinstance(cell, str):
        raise _Bad(f'a {type(cell).__name__} where a condition was expected, such as ">= 5", "poor" or true')
    text = cell.strip()
    if not text or len(text) > _MAX_CELL:
        raise _Bad(f"an empty condition, or one of more than {_MAX_CELL} characters")
    if text in {"is missing", "is known"}:
        return _make("missing" if text == "is missing" else "known", ())
    if found := _LIST.match(text):
        items = tuple(_literal(part, kind) for part in _split(found[2]))
        if not items:
            raise _Bad("an empty list, which nothing can satisfy")
        return _make("not in" if found[1] else "in", items)
    if found := _BETWEEN.match(text):
        low, high = _literal(found[1], kind), _literal(found[2], kind)
        _need_integer(kind, "between")
        if int(low or 0) > int(high or 0):
            raise _Bad(f"between {low} and {high} is empty: the lower bound comes first")
        return _make("between", (low, high))
    if found := _COMPARE.match(text):
        op: Op = "==" if found[1] in {"=", "=="} else found[1]  # type: ignore[assignment]
        if op not in {"==", "!="}:
            _need_integer(kind, op)
        return _make(op, (_literal(found[2], kind),))
    if _RESERVED.match(text) and kind != "text":
        raise _Bad(f"{text!r} is not understood; expected a comparison, a list in [ ], between … and …, is missing, or is known")
    if _RESERVED.match(text):
        raise _Bad(f"{text!r} starts like an operator but is not one; put a plain text in single quotes")
    return _make("==", (_literal(text, kind),))


def _need_integer(kind: InputType, op: str) -> None:
    if kind != "integer":
        raise _Bad(f"{op} compares integers, but this input is a {kind}")


def _split(inner: str) -> list[str]:
    """Parts between commas; a comma inside single quotes belongs to the text."""
    parts, depth, start = [], False, 0
    for i, ch in enumerate(inner):
        if ch == "'":
            depth = not depth
        elif ch == "," and not depth:
            parts.append(inner[start:i])
            start = i + 1
    if depth:
        raise _Bad("a quote that is not closed")
    parts.append(inner[start:])
    if len(parts) == 1 and not parts[0].strip():
        return []
    return parts


def _literal(text: str, kind: InputType) -> Value:
    text = text.strip()
    if text.startswith("'") or text.endswith("'"):
        if len(text) < 2 or not (text.startswith("'") and text.endswith("'")) or re.search(r"(?<!')(?:'')*'(?!')", text[1:-1]):
            raise _Bad("a quote that is not closed")
        return _typed(text[1:-1].replace("''", "'"), kind)
    if not text:
        raise _Bad("a value is missing")
    if kind == "integer":
        if not _INT.match(text):
            raise _Bad(f"{text!r} is not an integer")
        return _typed(int(text), kind)
    if kind == "boolean":
        if text not in {"true", "false"}:
            raise _Bad(f"{text!r} is neither true nor false")
        return text == "true"
    if re.search(r"[\[\]\"']", text):
        raise _Bad("brackets and quotes in a text need single quotes around it, and a quote inside is doubled")
    return text


def _typed(value: bool | int | str, kind: InputType) -> Value:
    fits = {"integer": type(value) is int, "boolean": type(value) is bool, "text": type(value) is str}[kind]
    if not fits:
        got = {bool: "boolean", int: "integer"}.get(type(value), "text")
        raise _Bad(f"this input is declared {kind}, but the cell compares it with a {got}")
    return value


def _make(op: Op, operands: tuple[Value, ...]) -> Cell:
    return Cell(op, operands, _compile(op, operands))


def _compile(op: Op, operands: tuple[Value, ...]) -> Test:
    # Every closure but the first answers False for None, and none of them compares an unlike type.
    if op == "missing":
        return lambda v: v is None
    if op == "known":
        return lambda v: v is not None
    if op == "==":
        (same,) = operands
        return lambda v: v is not None and v == same
    if op == "!=":
        (other,) = operands
        return lambda v: v is not None and v != other
    if op in {"in", "not in"}:
        members, wanted = frozenset(operands), op == "in"
        return lambda v: v is not None and (v in members) is wanted
    numbers = [v for v in operands if isinstance(v, int)]
    if op == "between":
        low, high = numbers
        return lambda v: isinstance(v, int) and low <= v <= high
    (bound,) = numbers
    if op == "<":
        return lambda v: isinstance(v, int) and v < bound
    if op == "<=":
        return lambda v: isinstance(v, int) and v <= bound
    if op == ">":
        return lambda v: isinstance(v, int) and v > bound
    return lambda v: isinstance(v, int) and v >= bound
