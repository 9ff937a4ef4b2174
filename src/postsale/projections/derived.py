"""Derived features: pure functions of other features, named by their parameters; checked and put in order at declaration.

Knows no leaf's inside, no signal and no state. Imports the errors only.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, Generic, TypeVar

from postsale.errors import BadDeclaration

R = TypeVar("R", covariant=True)


@dataclass(frozen=True, eq=False)
class Derived(Generic[R]):
    """A pure function of other features, by their names. Not called, and None, when a feature it needs is None
    and the parameter's annotation does not admit None."""

    function: Callable[..., R]
    unit: str = ""
    description: str = ""
    name: str = ""
    needs: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()  # parameters that accept None

    def __call__(self, *args: Any) -> R | None:
        for name, value in zip(self.needs, args, strict=True):
            if value is None and name not in self.optional:
                return None
        result = self.function(*args)
        # Engines agree to about 1e-14; what is compared with a threshold is rounded first.
        return round(result, 9) if isinstance(result, float) else result  # type: ignore[return-value]


def derived(*, unit: str = "", description: str = "") -> Callable[[Callable[..., R]], Derived[R]]:
    """Declare a feature computed from others. The function takes no self: its parameters name the features it needs.

    It must be pure; every parameter and the result are annotated, built-in types only. Its body is not part of the digest:
    raise the version of the class when you change it.
    """

    def declare(function: Callable[..., R]) -> Derived[R]:
        return Derived(function, unit, description or inspect.getdoc(function) or "")

    return declare


def bound(owner: str, name: str, declared: Derived[Any]) -> Derived[Any]:
    """The declared function with its name and needs; BadDeclaration when a parameter or annotation cannot work."""
    what = f"{owner}.{name}"
    try:
        hints = typing.get_type_hints(declared.function)
    except NameError as error:
        raise BadDeclaration(what=what, reason=f"the annotation {error.name!r} cannot be resolved; use built-in types") from None
    parameters = inspect.signature(declared.function).parameters
    for parameter in parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            raise BadDeclaration(what=what, reason=f"parameter {parameter.name!r} must be plain, without a default")
    for needed in (*parameters, "return"):
        if needed not in hints:
            raise BadDeclaration(what=what, reason=f"{needed!r} has no annotation")
    optional = frozenset(n for n in parameters if NoneType in typing.get_args(hints[n]) or hints[n] in (Any, object))
    return replace(declared, name=name, needs=tuple(parameters), optional=optional)


def ordered(owner: str, leaves: Collection[str], deriveds: Mapping[str, Derived[Any]]) -> tuple[Derived[Any], ...]:
    """The derived features so that each comes after those it needs."""
    done: dict[str, Derived[Any]] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise BadDeclaration(what=f"{owner}.{path[0]}", reason=f"needs itself: {' → '.join((*path, name))}")
        if name in done or name in leaves:
            return
        if name not in deriveds:
            raise BadDeclaration(what=f"{owner}.{path[-1]}", reason=f"parameter {name!r} is not a feature of {owner}")
        for needed in deriveds[name].needs:
            visit(needed, (*path, name))
        done[name] = deriveds[name]

    for name in sorted(deriveds):
        visit(name, ())
    return tuple(done.values())
