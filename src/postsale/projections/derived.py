"""Derived features: pure functions of other features, named by their parameters; checked and put in order at declaration.

A `fold` is one too, of the facts that a `history` keeps. Knows no leaf's inside, no signal and no state. Imports algebra and errors.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import reduce
from types import NoneType
from typing import Any, Generic, TypeVar, overload

from postsale.errors import BadDeclaration
from postsale.projections.algebra import Leaf, Moment

R = TypeVar("R", covariant=True)
K = TypeVar("K")
T = TypeVar("T")


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
    over: Leaf[Any] | None = None  # the history that a `fold` goes over, until the class names it

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


@overload
def fold(
    facts: Leaf[tuple[Moment, ...]], *, start: T, unit: str = "", description: str = ""
) -> Callable[[Callable[[T, Moment], T]], Derived[T]]: ...
@overload
def fold(
    facts: Leaf[Mapping[K, tuple[Moment, ...]]], *, start: T, unit: str = "", description: str = ""
) -> Callable[[Callable[[T, Moment], T]], Derived[Mapping[K, T]]]: ...
def fold(facts: Any, *, start: Any, unit: str = "", description: str = "") -> Any:
    """Declare a feature that goes through facts one by one in their order: a state machine, sessions, a streak.

        logins = history(UserLoggedIn, window=days(90))

        @fold(logins, start=(0, None), unit="(streak in days, last day)")
        def streak(state: tuple[int, int | None], login: Moment) -> tuple[int, int | None]: ...

    `facts` is a `history` of the same class; the decorated function takes the state so far (at first a copy of `start`) and the next fact
    by (occurred_at, position), and gives the state after it. With `by=` each key has its own. It must be pure; late facts are gone through in
    their place, because all are gone through each time. Not part of the digest: raise the version of the class when you change it.
    """
    if not isinstance(facts, Leaf) or facts.operation != "history":
        raise BadDeclaration(what="fold", reason="expected a history(…) of the same class: what it goes through must be kept, in order")

    def declare(step: Callable[[Any, Moment], Any]) -> Derived[Any]:
        plain = [p for p in inspect.signature(step).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
        if len(plain) != 2 or len(plain) != len(inspect.signature(step).parameters):
            raise BadDeclaration(what=f"fold({getattr(step, '__name__', '…')})", reason="the function takes the state and the next fact")

        def through(kept: Any) -> Any:
            if facts.by is not None:
                return {key: reduce(step, moments, deepcopy(start)) for key, moments in kept.items()}
            return reduce(step, kept, deepcopy(start))

        return Derived(through, unit, description or inspect.getdoc(step) or "", over=facts)

    return declare


def bound_fold(owner: str, name: str, declared: Derived[Any], members: Mapping[str, object]) -> Derived[Any]:
    """The fold with its name, and that of the history of this class that it goes over."""
    kept = next((n for n, member in members.items() if member is declared.over), None)
    if kept is None:
        raise BadDeclaration(
            what=f"{owner}.{name}", reason=f"its history is not a feature of {owner}; declare it here, by a name of its own"
        )
    return replace(declared, name=name, needs=(kept,), over=None)


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
