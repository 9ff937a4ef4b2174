"""Tracing: an accessor lambda is called once, when it is declared, with a recording proxy, and becomes an expression.

Here lives the proxy. Nothing may enter the tree whose meaning differs between engines: integers, strings, booleans and times only,
no branching, no calls, no floats. Imports `expressions`, `events` and `errors`; knows no leaf and no fold.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NoReturn, Union, get_args, get_origin

from postsale.errors import BadDeclaration
from postsale.events import MAX_INT, Event
from postsale.projections.expressions import LOGIC, Const, Expression, Field, Op, Type

_ARITHMETIC: Final = frozenset({"+", "-", "*", "//", "%"})
_ORDER: Final = frozenset({"<", "<=", ">", ">="})


def trace(what: str, kinds: tuple[type[Event], ...], accessor: Callable[[Any], Any]) -> Expression:
    """The tree of `accessor`, called once per kind with a recording proxy.

    Raises BadDeclaration naming the reason: a field the kind lacks, keeps in the envelope, or holds sealed; a value that is not
    int, str, bool or time; anything but field access, comparison and integer arithmetic; kinds that disagree.
    """
    _refuse_code(what, accessor)
    trees = [_traced(what, kind, accessor) for kind in kinds]
    for kind, tree in zip(kinds, trees, strict=True):
        if tree != trees[0]:
            raise BadDeclaration(what=what, reason=f"{kinds[0].__name__} and {kind.__name__} hold it as different types")
    return trees[0]


def _traced(what: str, kind: type[Event], accessor: Callable[[Any], Any]) -> Expression:
    result = accessor(_Payload(what, kind))
    if not isinstance(result, _Value):
        raise BadDeclaration(what=what, reason=f"the accessor returned {type(result).__name__}, not a value of the event")
    return result._node


_REFUSED_CODE: Final = {
    "CALL": "a call",
    "IS_OP": "`is`, which cannot be recorded; an absent field counts as nothing already",
    "CONTAINS_OP": "`in`, which cannot be recorded; declare one feature per value",
    "MAKE_FUNCTION": "a nested function",
    "FORMAT_": "text formatting",
    "STORE_GLOBAL": "an assignment",
    "STORE_ATTR": "an assignment",
}


def _refuse_code(what: str, accessor: object) -> None:
    """Refuse code whose branches or calls would be decided once, at declaration, and not per event."""
    if not isinstance(accessor, types.FunctionType):
        raise BadDeclaration(what=what, reason="the accessor must be a lambda or a plain function")
    for instruction in dis.get_instructions(accessor):
        for prefix, reason in _REFUSED_CODE.items():
            if instruction.opname.startswith(prefix):
                raise BadDeclaration(what=what, reason=f"the accessor uses {reason}")
        if "JUMP" in instruction.opname:
            raise BadDeclaration(
                what=what,
                reason="the accessor branches (`if`, `and`, `or`, `a < b < c`); join conditions by `&` and `|`, each in parentheses",
            )


class _Payload:
    """Stands for the event while an accessor is traced."""

    __slots__ = ("_kind", "_what")

    def __init__(self, what: str, kind: type[Event]) -> None:
        self._what = what
        self._kind = kind

    def __getattr__(self, name: str) -> _Value:
        return _Value(self._what, _field(self._what, self._kind, name))


def _field(what: str, kind: type[Event], name: str) -> Field:
    def refuse(reason: str) -> NoReturn:
        raise BadDeclaration(what=what, reason=f"{kind.__name__}.{name} {reason}")

    if name in kind.envelope_fields:
        refuse("is kept in the envelope; for times use first_seen or last_seen")
    if name not in kind.model_fields:
        refuse("does not exist")
    if name in kind.personal_fields:
        refuse("is personal: it is sealed, and no feature may read it")
    types_ = _types_of(kind.model_fields[name].annotation)
    if len(types_) != 1 or None in types_:
        refuse("is not an integer, text, boolean or time")
    return Field(name, types_.pop())  # type: ignore[arg-type]


_TYPES: Final[dict[type, Type]] = {int: "int", str: "str", bool: "bool", datetime: "time"}


def _types_of(annotation: Any) -> set[Type | None]:
    """The types that a field's annotation admits, optional or not; None stands for one that features cannot hold."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _types_of(args[0])
    if origin is Literal:
        return {_TYPES.get(type(arg)) for arg in args if arg is not None}
    if origin in (Union, types.UnionType):
        return set().union(*(_types_of(arg) for arg in args if arg is not type(None)))
    if getattr(annotation, "__name__", "") == "AwareDatetime":  # pydantic's is a class of its own, not a datetime
        return {"time"}
    return {_TYPES.get(annotation) if isinstance(annotation, type) else None}


class _Value:
    """Stands for a value while an accessor is traced; records what is done with it, refuses what cannot be recorded."""

    __slots__ = ("_node", "_what")
    _what: str
    _node: Expression

    def __init__(self, what: str, node: Expression) -> None:
        self._what = what
        self._node = node

    def _refuse(self, reason: str) -> NoReturn:
        raise BadDeclaration(what=self._what, reason=f"the accessor uses {reason}")

    def _const(self, other: object) -> Expression:
        if isinstance(other, _Value):
            return other._node
        if isinstance(other, bool):
            return Const(other, "bool")
        if isinstance(other, int):
            if abs(other) > MAX_INT:
                self._refuse("an integer beyond 2^53")
            return Const(other, "int")
        if not isinstance(other, str):
            self._refuse(f"a {type(other).__name__}; expected an integer, text or boolean")
        return Const(other, "str")

    def _op(self, name: str, other: object, *, swapped: bool = False) -> _Value:
        node = self._const(other)
        args = (node, self._node) if swapped else (self._node, node)
        left, right = args[0].type, args[1].type
        if name in LOGIC:
            if (left, right) != ("bool", "bool") or isinstance(other, bool):
                self._refuse(f"`{name}` on {left} and {right}; it joins conditions, each in parentheses")
            return _Value(self._what, Op(name, args, "bool"))
        if name in _ARITHMETIC:
            if (left, right) != ("int", "int"):
                self._refuse(f"`{name}` on {left} and {right}; only integers are calculated with")
            return _Value(self._what, Op(name, args, "int"))
        if left != right:
            self._refuse(f"`{name}` between {left} and {right}")
        if name in _ORDER and left not in ("int", "time"):
            self._refuse(f"`{name}` on {left}; only integers and times are ordered")
        return _Value(self._what, Op(name, args, "bool"))

    def __add__(self, other: object) -> _Value:
        return self._op("+", other)

    def __radd__(self, other: object) -> _Value:
        return self._op("+", other, swapped=True)

    def __sub__(self, other: object) -> _Value:
        return self._op("-", other)

    def __rsub__(self, other: object) -> _Value:
        return self._op("-", other, swapped=True)

    def __mul__(self, other: object) -> _Value:
        return self._op("*", other)

    def __rmul__(self, other: object) -> _Value:
        return self._op("*", other, swapped=True)

    def __floordiv__(self, other: object) -> _Value:
        return self._op("//", other)

    def __rfloordiv__(self, other: object) -> _Value:
        return self._op("//", other, swapped=True)

    def __mod__(self, other: object) -> _Value:
        return self._op("%", other)

    def __rmod__(self, other: object) -> _Value:
        return self._op("%", other, swapped=True)

    def __and__(self, other: object) -> _Value:
        return self._op("&", other)

    def __rand__(self, other: object) -> _Value:
        return self._op("&", other, swapped=True)

    def __or__(self, other: object) -> _Value:
        return self._op("|", other)

    def __ror__(self, other: object) -> _Value:
        return self._op("|", other, swapped=True)

    def __neg__(self) -> _Value:
        if self._node.type != "int":
            self._refuse(f"`-` on {self._node.type}")
        return _Value(self._what, Op("neg", (self._node,), "int"))

    def __eq__(self, other: object) -> _Value:  # type: ignore[override]
        return self._op("==", other)

    def __ne__(self, other: object) -> _Value:  # type: ignore[override]
        return self._op("!=", other)

    def __lt__(self, other: object) -> _Value:
        return self._op("<", other)

    def __le__(self, other: object) -> _Value:
        return self._op("<=", other)

    def __gt__(self, other: object) -> _Value:
        return self._op(">", other)

    def __ge__(self, other: object) -> _Value:
        return self._op(">=", other)

    def __bool__(self) -> NoReturn:
        self._refuse("a value as a condition (`not`, `and`, `or`, `in`)")

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse(f"the attribute {name!r} of a value")


def _refusing(reason: str) -> Callable[..., NoReturn]:
    def refuse(self: _Value, *_: object) -> NoReturn:
        self._refuse(reason)

    return refuse


for _name, _reason in {
    "truediv": "`/`, which gives a float; use `//`, or divide in a @derived feature",
    "pow": "`**`",
    "matmul": "`@`",
    "divmod": "`divmod`",
    "lshift": "`<<`",
    "rshift": "`>>`",
    "xor": "`^`",
}.items():
    setattr(_Value, f"__{_name}__", _refusing(_reason))
    setattr(_Value, f"__r{_name}__", _refusing(_reason))
for _name in (
    "invert",
    "pos",
    "abs",
    "call",
    "getitem",
    "iter",
    "len",
    "contains",
    "hash",
    "str",
    "format",
    "int",
    "float",
    "index",
    "round",
):
    setattr(_Value, f"__{_name}__", _refusing(f"`__{_name}__` of a value"))
