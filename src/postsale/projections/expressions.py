"""Expressions: what an accessor was traced into, a small frozen tree, and what it means.

Here live the tree (`Field`, `Const`, `Op`), the reference interpreter and the emitter of straight-line Python. The tree is what
another engine translates. Imports `events`; `tracing` makes the trees, and knows what may enter one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from postsale.events import to_us

Type = Literal["int", "str", "bool", "time"]
"""What an expression holds. A `time` is integer UTC microseconds; in the payload it is RFC 3339 text."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the payload; None when it is absent."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Const:
    """A constant that was known at declaration."""

    value: int | str | bool
    type: Type


@dataclass(frozen=True, slots=True)
class Op:
    """An operation. Any None among the arguments gives None; so does division by zero. `//` and `%` round down, also below 0.

    `&` and `|` are decided by one argument where it decides: False & None is False, True | None is True.
    """

    name: str  # + - * // % neg == != < <= > >= & |
    args: tuple[Expression, ...]
    type: Type


Expression: TypeAlias = Field | Const | Op

LOGIC: Final = {"&": False, "|": True}  # the argument that decides alone


def as_json(expression: Expression | None) -> list[Any] | None:
    """The tree as JSON: the form that is hashed into a feature's digest."""
    match expression:
        case None:
            return None
        case Field(name, type_):
            return ["field", name, type_]
        case Const(value, type_):
            return ["const", value, type_]
        case Op(name, args):
            return ["op", name, *map(as_json, args)]


# ---------------------------------------------------------------- meaning

_APPLY: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b if b else None,
    "%": lambda a, b: a % b if b else None,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def time_us(text: str) -> int:
    """UTC microseconds of an RFC 3339 time as the payload holds it."""
    return to_us(datetime.fromisoformat(text))


def evaluate(expression: Expression, fields: Mapping[str, Any]) -> Any:
    """The value over one payload, or None. The reference for every engine; `compiled` is the fast form of the same."""
    match expression:
        case Field(name, type_):
            value = fields.get(name)
            return time_us(value) if type_ == "time" and value is not None else value
        case Const(value, _):
            return value
        case Op("neg", (arg,)):
            value = evaluate(arg, fields)
            return None if value is None else -value
        case Op(name, args):
            left, right = (evaluate(arg, fields) for arg in args)
            if name in LOGIC:
                decides = LOGIC[name]
                return decides if decides in (left, right) else None if None in (left, right) else not decides
            return None if left is None or right is None else _APPLY[name](left, right)


class Emitter:
    """Writes expressions as straight-line Python, each shared part once. The payload is the local `f`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._names: dict[Expression, str] = {}

    def name(self, expression: Expression) -> str:
        """The local name (or literal) that holds the value; appends the lines that compute it."""
        if isinstance(expression, Const):
            return repr(expression.value)
        known = self._names.get(expression)
        if known is None:
            code = self._code(expression)
            known = self._names[expression] = f"v{len(self._names)}"
            self.lines.append(f"{known} = {code}")
        return known

    def _code(self, expression: Field | Op) -> str:
        if isinstance(expression, Field):
            get = f"f.get({expression.name!r})"
            return f"None if (x := {get}) is None else time_us(x)" if expression.type == "time" else get
        names = [self.name(arg) for arg in expression.args]
        if expression.name in LOGIC:
            a, b, decides = *names, LOGIC[expression.name]
            return f"{decides} if {a} is {decides} or {b} is {decides} else None if {a} is None or {b} is None else {not decides}"
        none = [f"{n} is None" for n, arg in zip(names, expression.args, strict=True) if not isinstance(arg, Const)]
        if expression.name in ("//", "%"):
            none.append(f"{names[1]} == 0")
        code = f"-({names[0]})" if expression.name == "neg" else f"({names[0]}) {expression.name} ({names[1]})"
        return f"None if {' or '.join(none)} else {code}" if none else code


def compiled(expression: Expression) -> Callable[[Mapping[str, Any]], Any]:
    """A function of the payload that returns what `evaluate` returns, several times faster."""
    emitter = Emitter()
    name = emitter.name(expression)
    body = "\n    ".join([*emitter.lines, f"return {name}"])
    scope: dict[str, Any] = {"time_us": time_us}
    exec(f"def value(f):\n    {body}\n", scope)
    return scope["value"]  # type: ignore[no-any-return]
