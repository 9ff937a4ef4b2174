"""What features are declared with: `count`, `total`, `latest` and the others, each a leaf over signals, and `across` customers.

How a leaf is kept is `algebra`, how it is folded is `folding`; the class that holds leaves is in `features`. Imports `tracing`,
`algebra`, events and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar, overload

from postsale.errors import BadDeclaration
from postsale.events import Event, registry
from postsale.projections.algebra import HALF_LIVES, Across, Leaf, Moment, Operation, Window
from postsale.projections.tracing import trace

S = TypeVar("S", bound=Event)
K = TypeVar("K")
V = TypeVar("V")
Kind = type[S] | tuple[type[S], ...]
Where = Callable[[S], bool] | None
Window_ = Window | None

_LONGEST: Final = 3_660
_LONGEST_HALF_LIFE: Final = 180  # days, so that what is kept stays within ten years


def days(n: int) -> Window:
    """A window of the last `n` whole UTC days, today's included; 1 to 3,660."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= _LONGEST:
        raise BadDeclaration(what="days", reason=f"expected a whole number from 1 to {_LONGEST}")
    return Window(n)


# ---------------------------------------------------------------- leaves


def _leaf(
    operation: Operation,
    kind: Any,
    value: Any,
    where: Any,
    by: Any,
    window: Any,
    unit: str,
    description: str,
    types: tuple[str, ...] = (),
    half_life: Any = None,
) -> Leaf[Any]:
    kinds: tuple[type[Event], ...] = kind if isinstance(kind, tuple) else (kind,)
    what = f"{operation}({', '.join(getattr(k, '__name__', repr(k)) for k in kinds)})"
    if not kinds:
        raise BadDeclaration(what=what, reason="expected at least one signal class")
    for cls in kinds:
        if not (isinstance(cls, type) and issubclass(cls, Event)) or "wire_name" not in cls.__dict__:
            raise BadDeclaration(what=what, reason="expected signal classes with a wire name of their own")
        if not registry.is_current(cls.wire_name):
            raise BadDeclaration(what=what, reason=f"{cls.wire_name} has a later version; name the class that reads it")
    if window is not None and not isinstance(window, Window):
        raise BadDeclaration(what=what, reason="window= expects days(n)")
    leaf: Leaf[Any] = Leaf(
        operation=operation,
        kinds=tuple(sorted({cls.wire_name.partition("@")[0] for cls in kinds})),
        value=None if value is None else trace(what, kinds, value),
        where=None if where is None else trace(f"{what}, where=", kinds, where),
        by=None if by is None else trace(f"{what}, by=", kinds, by),
        window=window,
        half_life=half_life,
        unit=unit,
        description=description,
    )
    if leaf.where is not None and leaf.where.type != "bool":
        raise BadDeclaration(what=what, reason=f"where= gives {leaf.where.type}, expected a boolean")
    if types and (leaf.value is None or leaf.value.type not in types):
        raise BadDeclaration(what=what, reason=f"the accessor gives {leaf.value and leaf.value.type}, expected {' or '.join(types)}")
    return leaf


@overload
def count(
    kind: Kind[S], *, by: Callable[[S], K], where: Where[S] = None, window: Window_ = None, unit: str = "events", description: str = ""
) -> Leaf[Mapping[K, int]]: ...
@overload
def count(
    kind: Kind[S], *, by: None = None, where: Where[S] = None, window: Window_ = None, unit: str = "events", description: str = ""
) -> Leaf[int]: ...
def count(
    kind: Any, *, by: Any = None, where: Any = None, window: Window_ = None, unit: str = "events", description: str = ""
) -> Leaf[Any]:
    """How many facts; 0 when there is none."""
    return _leaf("count", kind, None, where, by, window, unit, description)


@overload
def total(
    kind: Kind[S],
    value: Callable[[S], int | None],
    *,
    by: Callable[[S], K],
    where: Where[S] = None,
    window: Window_ = None,
    unit: str = "",
    description: str = "",
) -> Leaf[Mapping[K, int]]: ...
@overload
def total(
    kind: Kind[S],
    value: Callable[[S], int | None],
    *,
    by: None = None,
    where: Where[S] = None,
    window: Window_ = None,
    unit: str = "",
    description: str = "",
) -> Leaf[int]: ...
def total(
    kind: Any, value: Any, *, by: Any = None, where: Any = None, window: Window_ = None, unit: str = "", description: str = ""
) -> Leaf[Any]:
    """The exact sum of an integer; 0 when there is none. Never sum money of several currencies: use `by=lambda e: e.currency`."""
    return _leaf("total", kind, value, where, by, window, unit, description, ("int",))


@overload
def latest(
    kind: Kind[S],
    value: Callable[[S], V],
    *,
    by: Callable[[S], K],
    where: Where[S] = None,
    window: Window_ = None,
    unit: str = "",
    description: str = "",
) -> Leaf[Mapping[K, V]]: ...
@overload
def latest(
    kind: Kind[S],
    value: Callable[[S], V],
    *,
    by: None = None,
    where: Where[S] = None,
    window: Window_ = None,
    unit: str = "",
    description: str = "",
) -> Leaf[V | None]: ...
def latest(
    kind: Any, value: Any, *, by: Any = None, where: Any = None, window: Window_ = None, unit: str = "", description: str = ""
) -> Leaf[Any]:
    """The value of the fact with the greatest (occurred_at, position) that has one; a time reads as UTC microseconds."""
    return _leaf("latest", kind, value, where, by, window, unit, description)


@overload
def first_seen(
    kind: Kind[S], *, by: Callable[[S], K], where: Where[S] = None, window: Window_ = None, description: str = ""
) -> Leaf[Mapping[K, int]]: ...
@overload
def first_seen(
    kind: Kind[S], *, by: None = None, where: Where[S] = None, window: Window_ = None, description: str = ""
) -> Leaf[int | None]: ...
def first_seen(kind: Any, *, by: Any = None, where: Any = None, window: Window_ = None, description: str = "") -> Leaf[Any]:
    """`occurred_at` of the earliest fact, UTC microseconds."""
    return _leaf("first_seen", kind, None, where, by, window, "us", description)


@overload
def last_seen(
    kind: Kind[S], *, by: Callable[[S], K], where: Where[S] = None, window: Window_ = None, description: str = ""
) -> Leaf[Mapping[K, int]]: ...
@overload
def last_seen(
    kind: Kind[S], *, by: None = None, where: Where[S] = None, window: Window_ = None, description: str = ""
) -> Leaf[int | None]: ...
def last_seen(kind: Any, *, by: Any = None, where: Any = None, window: Window_ = None, description: str = "") -> Leaf[Any]:
    """`occurred_at` of the newest fact, UTC microseconds."""
    return _leaf("last_seen", kind, None, where, by, window, "us", description)


@overload
def minimum(
    kind: Kind[S],
    value: Callable[[S], int | None],
    *,
    by: Callable[[S], K],
    where: Where[S] = None,
    window: Window_ = None,
    unit: str = "",
    description: str = "",
) -> Leaf[Mapping[K, int]]: ...
@overload
def minimum(
    kind: Kind[S],
    value: Callable[[S], int | None],
    *,
    by: None = None,
    where: Where[S] = None,
    window: Window_ = None,
    unit: str = "",
    description: str = "",
) -> Leaf[int | None]: ...
def minimum(
    kind: Any, value: Any, *, by: Any = None, where: Any = None, window: Window_ = None, unit: str = "", description: str = ""
) -> Leaf[Any]:
    """The smallest integer, None when there is none."""
    return _leaf("minimum", kind, value, where, by, window, unit, description, ("int",))


@overload
def maximum(
    kind: Kind[S],
    value: Callable[[S], int | None],
    *,
    by: Callable[[S], K],
    where: Where[S] = None,
    window: Window_ = None,
    unit: str = "",
    description: str = "",
) -> Leaf[Mapping[K, int]]: ...
@overload
def maximum(
    kind: Kind[S],
    value: Callable[[S], int | None],
    *,
    by: None = None,
    where: Where[S] = None,
    window: Window_ = None,
    unit: str = "",
    description: str = "",
) -> Leaf[int | None]: ...
def maximum(
    kind: Any, value: Any, *, by: Any = None, where: Any = None, window: Window_ = None, unit: str = "", description: str = ""
) -> Leaf[Any]:
    """The greatest integer, None when there is none."""
    return _leaf("maximum", kind, value, where, by, window, unit, description, ("int",))


@overload
def distinct(
    kind: Kind[S],
    value: Callable[[S], object],
    *,
    by: Callable[[S], K],
    where: Where[S] = None,
    window: Window_ = None,
    approximate: bool = False,
    unit: str = "",
    description: str = "",
) -> Leaf[Mapping[K, int]]: ...
@overload
def distinct(
    kind: Kind[S],
    value: Callable[[S], object],
    *,
    by: None = None,
    where: Where[S] = None,
    window: Window_ = None,
    approximate: bool = False,
    unit: str = "",
    description: str = "",
) -> Leaf[int]: ...
def distinct(
    kind: Any,
    value: Any,
    *,
    by: Any = None,
    where: Any = None,
    window: Window_ = None,
    approximate: bool = False,
    unit: str = "",
    description: str = "",
) -> Leaf[Any]:
    """How many different values, exactly. The values are kept: memory grows with their number.

    `approximate` keeps no values but at most 4,096 small integers (some 32 kB as stored, once per key of `by=` and day of the window):
    a HyperLogLog, with a relative standard error of 1.04/√4,096 = 1.6 %; near 10,000 values, where its two estimators meet, it is up to
    3 % too high on top. Every engine gives the same whole number.
    """
    operation: Operation = "approximate_distinct" if approximate else "distinct"
    return _leaf(operation, kind, value, where, by, window, unit, description)


@overload
def decayed(
    kind: Kind[S],
    value: Callable[[S], int | None] | None = None,
    *,
    half_life: Window,
    by: Callable[[S], K],
    where: Where[S] = None,
    unit: str = "",
    description: str = "",
) -> Leaf[Mapping[K, float]]: ...
@overload
def decayed(
    kind: Kind[S],
    value: Callable[[S], int | None] | None = None,
    *,
    half_life: Window,
    by: None = None,
    where: Where[S] = None,
    unit: str = "",
    description: str = "",
) -> Leaf[float]: ...
def decayed(
    kind: Any, value: Any = None, *, half_life: Window, by: Any = None, where: Any = None, unit: str = "", description: str = ""
) -> Leaf[Any]:
    """The sum of an integer (of 1 for each fact without `value`) that weighs half as much after each `half_life=days(n)`; n up to 180.

    Facts age by whole UTC days. Weights are whole millionths, so that every engine gives the same float; after 20 half-lives nothing is left.
    """
    if not isinstance(half_life, Window) or half_life.days > _LONGEST_HALF_LIFE:
        raise BadDeclaration(what="decayed", reason=f"half_life= expects days(n), n up to {_LONGEST_HALF_LIFE}")
    window = Window(half_life.days * HALF_LIVES)
    types = () if value is None else ("int",)
    return _leaf("decayed", kind, value, where, by, window, unit, description, types, half_life=half_life.days)


@overload
def history(
    kind: Kind[S], value: Any = None, *, window: Window, by: Callable[[S], K], where: Where[S] = None, unit: str = "", description: str = ""
) -> Leaf[Mapping[K, tuple[Moment, ...]]]: ...
@overload
def history(
    kind: Kind[S], value: Any = None, *, window: Window, by: None = None, where: Where[S] = None, unit: str = "", description: str = ""
) -> Leaf[tuple[Moment, ...]]: ...
def history(
    kind: Any, value: Any = None, *, window: Window, by: Any = None, where: Any = None, unit: str = "", description: str = ""
) -> Leaf[Any]:
    """The facts of the window themselves, in order of (occurred_at, position): what a state machine or sessions are derived from.

    Give it to a `@derived` function, which sees each as a `Moment`. With `value`, facts without one do not count. The facts are kept: memory
    grows with their number in the window.
    """
    if not isinstance(window, Window):
        raise BadDeclaration(what="history", reason="window= expects days(n): what is kept must be bounded")
    return _leaf("history", kind, value, where, by, window, unit, description)


# ---------------------------------------------------------------- across customers


def across(relation: Leaf[str | None], feature: Leaf[V], *, source: str = "") -> Leaf[V]:
    """The feature over all the facts of the customers that belong to this one, its members: referred friends, an account's subsidiaries.

        invited_by = latest(ReferralAccepted, lambda e: e.referrer)
        friends_paid = across(invited_by, total(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency))

    `relation`, a feature of the same class, is read of each member at the same two times; its value is an id of the one it belongs to: the
    tenant's own, or that of `source`. Who is linked or merged later ends at the customer that is left; an id that nobody has relates to
    nobody, and nobody is a member of itself. A member that moves takes all its facts along. One step only: what members read across does not count.
    """
    what = f"across({getattr(relation, 'operation', relation)!s})"
    if not isinstance(relation, Leaf) or relation.operation != "latest" or relation.by is not None:
        raise BadDeclaration(what=what, reason="the relation must be a latest(…) of this class, without by=")
    if relation.window is not None:
        raise BadDeclaration(what=what, reason="the relation has a window; it holds until a later fact names somebody else")
    if relation.value is None or relation.value.type != "str":
        raise BadDeclaration(what=what, reason=f"the relation gives {relation.value and relation.value.type}, expected the text of an id")
    if relation.across is not None or relation.through is not None:
        raise BadDeclaration(what=what, reason="the relation is itself read across customers; it must be the member's own")
    if not isinstance(feature, Leaf):
        raise BadDeclaration(what=what, reason="expected a feature over signals; derive from the result instead")
    if feature.through is not None:
        raise BadDeclaration(what=what, reason="the feature is already read across customers; one step is all there is")
    if feature.name:
        raise BadDeclaration(what=what, reason=f"{feature.name} belongs to another class; declare the feature here")
    if not isinstance(source, str):
        raise BadDeclaration(what=what, reason="source= expects the name of a system, or nothing for the tenant's own ids")
    return replace(feature, through=relation, across=Across("", source))
