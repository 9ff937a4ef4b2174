"""The algebra: what each leaf keeps, how two kept parts become one, and what is read from it.

Every leaf is a commutative monoid over (occurred_at, position): facts may arrive in any order and in any grouping. Kept state
is plain lists and dicts of integers, strings and booleans. No declaration syntax, no store, no clock. Imports `expressions` and `sketch`.

A leaf's state nests from the outside in: tiles of one UTC day (if it has a window), keys (if it has `by=`), then the innermost
part, called a cell. Null rule: a fact whose value, key or condition is None does not count for that leaf. Tie rule: of two
facts at the same time the later position is the latest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from postsale.events import DAY_US
from postsale.projections import sketch
from postsale.projections.expressions import Expression, Type, as_json

V = TypeVar("V", covariant=True)
Operation = Literal[
    "count", "total", "latest", "first_seen", "last_seen", "minimum", "maximum", "distinct", "approximate_distinct", "decayed", "history"
]


class Window(NamedTuple):
    """The last `days` whole UTC days, the day of `as_of` included."""

    days: int


class Moment(NamedTuple):
    """One fact of a `history`. Moments are in order of (at_us, position)."""

    at_us: int  # occurred_at
    position: int
    kind: str  # wire name without version
    value: Any  # None where the leaf reads no value


class Across(NamedTuple):
    """Whose facts a leaf reads: those of the customers whose `relation` names this one."""

    relation: str  # name of a `latest` leaf over a text, the id of the one they belong to
    source: str  # the system whose ids these are; "" for the tenant's own


@dataclass(frozen=True, eq=False, kw_only=True)
class Leaf(Generic[V]):
    """One declared feature over facts. `V` is the type of its finished value; made by `count`, `total` and their kin."""

    operation: Operation
    kinds: tuple[str, ...]  # wire names without version, sorted
    value: Expression | None = None
    where: Expression | None = None
    by: Expression | None = None
    window: Window | None = None  # of `decayed` what is left of its half-life
    half_life: int | None = None  # days; of `decayed` only
    unit: str = ""
    description: str = ""
    name: str = ""  # set by the class that declares it
    across: Across | None = None  # folded as any leaf; read from the merged states of the members
    through: Leaf[Any] | None = None  # the relation as it was given to `across`, until the class names it

    def definition(self) -> dict[str, Any]:
        """What determines its numbers, as JSON; unit and description do not."""
        decay = {} if self.half_life is None else {"half_life_days": self.half_life, "weights": WEIGHT_ONE}
        across = {} if self.across is None else {"across": list(self.across)}
        return {
            "name": self.name,
            "operation": self.operation,
            "kinds": list(self.kinds),
            "value": as_json(self.value),
            "where": as_json(self.where),
            "by": as_json(self.by),
            "window_days": self.window.days if self.window else None,
            **decay,
            **across,
        }


# ---------------------------------------------------------------- cells


def _later(a: list[Any] | None, b: list[Any] | None) -> list[Any] | None:
    if a is None or b is None:
        return b if a is None else a
    return a if (a[0], a[1]) >= (b[0], b[1]) else b


def _least(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)


def _most(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return max(a, b)


@dataclass(frozen=True, slots=True)
class _Cell:
    """The innermost monoid of an operation, and the code that adds one fact to it.

    In `fresh` and `more`, `{c}` is the cell's place, `{o}` the cell as it is, `{v}` the value, `{k}` the kind; `at` and `pos` are the fact's.
    `more` is one statement; a cell that is not there yet is set to `fresh` instead.
    """

    zero: Callable[[], Any]
    merge: Callable[[Any, Any], Any]
    finish: Callable[[Any], Any]
    fresh: str
    more: str
    keyed: Literal["", "value", "position", "register"] = field(default="")  # what the cell's own keys are, if it has some


def _same(cell: Any) -> Any:
    return cell


def _none() -> None:
    return None


_CELLS: Final[dict[str, _Cell]] = {
    "count": _Cell(int, lambda a, b: a + b, _same, "1", "{c} = {o} + 1"),
    "total": _Cell(int, lambda a, b: a + b, _same, "0 + {v}", "{c} = {o} + {v}"),  # 0 + refuses text
    "latest": _Cell(
        _none,
        _later,
        lambda cell: None if cell is None else cell[2],
        "[at, pos, {v}]",
        "if at > {o}[0] or (at == {o}[0] and pos > {o}[1]): {c} = [at, pos, {v}]",
    ),
    "first_seen": _Cell(_none, _least, _same, "at", "if at < {o}: {c} = at"),
    "last_seen": _Cell(_none, _most, _same, "at", "if at > {o}: {c} = at"),
    "minimum": _Cell(_none, _least, _same, "0 + {v}", "if {v} < {o}: {c} = {v}"),
    "maximum": _Cell(_none, _most, _same, "0 + {v}", "if {v} > {o}: {c} = {v}"),
    "distinct": _Cell(dict, lambda a, b: {**a, **b}, len, "{{{v}: 1}}", "{o}[{v}] = 1", "value"),
    "approximate_distinct": _Cell(dict, sketch.merged, sketch.estimate, "mark({{}}, {v})", "mark({o}, {v})", "register"),
    "decayed": _Cell(int, lambda a, b: a + b, lambda cell: float(cell) / WEIGHT_ONE, "0 + {v}", "{c} = {o} + {v}"),
    "history": _Cell(
        dict, lambda a, b: {**a, **b}, lambda cell: moments(cell), "{{pos: [at, {k}, {v}]}}", "{o}[pos] = [at, {k}, {v}]", "position"
    ),
}


def moments(cell: Mapping[int, Any]) -> tuple[Moment, ...]:
    """What a `history` reads from `position: [at_us, kind, value]`."""
    return tuple(sorted(Moment(at, position, kind, value) for position, (at, kind, value) in cell.items()))


# ---------------------------------------------------------------- decay

WEIGHT_ONE: Final = 1_000_000  # what a value of today weighs; weights are whole, so that every engine sums the same
HALF_LIVES: Final = WEIGHT_ONE.bit_length()  # after so many nothing is left


@cache
def first_weights(half_life: int) -> tuple[int, ...]:
    """Weights of the ages 0 … half_life - 1 in days."""
    return tuple(round(WEIGHT_ONE * 2 ** (-age / half_life)) for age in range(half_life))


def weight(half_life: int, age: int) -> int:
    """What a value weighs after `age` whole days: halved, and rounded down, after each half-life."""
    return first_weights(half_life)[age % half_life] >> age // half_life


# ---------------------------------------------------------------- leaves


def empty(leaf: Leaf[Any]) -> Any:
    """The state that no fact has touched: the neutral element of `merge`."""
    return {} if leaf.window or leaf.by is not None else _CELLS[leaf.operation].zero()


def emit(leaf: Leaf[Any], slot: str, kind: str, value: str, where: str, by: str) -> list[str]:
    """Python lines that add one fact of `kind` to the state at `slot`; `value`, `where` and `by` are local names, or empty."""
    cell = _CELLS[leaf.operation]
    conditions = [where] if where else []
    conditions += [f"{name} is not None" for name in (value, by) if name]
    texts = {"v": value or _WITHOUT_VALUE.get(leaf.operation, ""), "k": repr(kind)}
    inside: list[str] = []
    if not leaf.window and leaf.by is None:
        if cell.zero() is None:
            inside += [
                f"o = {slot}",
                f"if o is None: {slot} = " + cell.fresh.format(**texts),
                "el" + cell.more.format(c=slot, o="o", **texts),
            ]
        else:
            inside.append(cell.more.format(c=slot, o=slot, **texts))
    else:
        inside.append(f"c = {slot}")
        key, fresh_tile = by, []
        if leaf.window:
            days = leaf.window.days
            key, fresh_tile = "tile", [f"    if len(c) >= {2 * days}: drop_old_tiles(c, {days})"]
            if by:
                inside += ["o = c.get(tile)", "if o is None:", *fresh_tile, "    o = c[tile] = {}", "c = o"]
                key, fresh_tile = by, []
        more = cell.more.format(c=f"c[{key}]", o="o", **texts)
        inside += [
            f"if {key} in c:",
            f"    o = c[{key}]",
            f"    {more}",
            "else:",
            *fresh_tile,
            f"    c[{key}] = " + cell.fresh.format(**texts),
        ]
    return [f"if {' and '.join(conditions)}:", *("    " + line for line in inside)] if conditions else inside


def refinish(leaf: Leaf[Any], state: Any, as_of_us: int, value: Any, tile: int, before: Any) -> Any:
    """What `finish` gives now, where `value` was finished at the same time before one fact of `tile` was added.

    The fact occurred by then, and within the window. `before` is what `state` held at `tile`, for a leaf with a window and without `by`.
    """
    cell = _CELLS[leaf.operation]
    if leaf.by is not None or cell.finish is not _same:
        return finish(leaf, state, as_of_us)
    if leaf.window is None:
        return state
    now = state.get(tile)  # a tile within the window of `as_of` is never dropped
    if leaf.operation in _SUMS:
        return value if now is None else value + now - (before or 0)
    return cell.merge(value, now)


_SUMS: Final = frozenset({"count", "total"})
_WITHOUT_VALUE: Final = {"decayed": "1", "history": "None"}


def merge(leaf: Leaf[Any], a: Any, b: Any) -> Any:
    """The state of the facts of both, sharing nothing with `a` or `b`."""
    depth = (leaf.window is not None) + (leaf.by is not None)
    merged = _merge(_CELLS[leaf.operation].merge, a, b, depth)
    if leaf.window:
        drop_old_tiles(merged, leaf.window.days)
    return merged


def _merge(cells: Callable[[Any, Any], Any], a: Any, b: Any, depth: int) -> Any:
    if depth == 0:
        return cells(a, b)  # cells are replaced, never changed in place, but for those with keys, whose merge is new
    out = {key: copy(value) for key, value in a.items()}
    for key, value in b.items():
        out[key] = _merge(cells, out[key], value, depth - 1) if key in out else copy(value)
    return out


def copy(state: Any) -> Any:
    """A state that shares nothing with the given one."""
    if isinstance(state, dict):
        return {key: value if type(value) is int else copy(value) for key, value in state.items()}  # most are integers
    return [copy(value) for value in state] if isinstance(state, list) else state


def drop_old_tiles(tiles: dict[int, Any], days: int) -> None:
    """Keep the newest tile and the `days - 1` before it: all that any `as_of` at or after the newest fact can read.

    This is the normal form. What it drops now it would drop after any further fact too, so it may run at any time, or never.
    """
    if len(tiles) > 1:
        oldest = max(tiles) - days
        for tile in [tile for tile in tiles if tile <= oldest]:
            del tiles[tile]


def finish(leaf: Leaf[Any], state: Any, as_of_us: int) -> Any:
    """The value at `as_of_us`, which must not be before the newest fact. With `by=` a dict by key, sorted by key."""
    cell = _CELLS[leaf.operation]
    if not state and (leaf.window or leaf.by is not None):  # most leaves of most customers
        return {} if leaf.by is not None else cell.finish(cell.zero())
    if leaf.window:
        last = as_of_us // DAY_US
        first = last - leaf.window.days
        tiles = [_weighed(leaf, part, last - tile) for tile, part in state.items() if first < tile <= last]
        if leaf.by is None:
            if leaf.operation in ("count", "total", "decayed"):
                return cell.finish(sum(tiles))
            state = cell.zero()
            for part in tiles:
                state = cell.merge(state, part)
        else:
            state = {}
            for part in tiles:
                for key, value in part.items():
                    state[key] = cell.merge(state[key], value) if key in state else value
    if leaf.by is None:
        return cell.finish(state)
    return {key: cell.finish(state[key]) for key in sorted(state)}


def _weighed(leaf: Leaf[Any], part: Any, age: int) -> Any:
    if leaf.half_life is None:
        return part
    by = weight(leaf.half_life, age)
    return {key: value * by for key, value in part.items()} if leaf.by is not None else part * by


def restore(leaf: Leaf[Any], state: Any) -> Any:
    """A state read from JSON, where every key is text, with its keys as they were."""
    levels: list[Callable[[str], Any]] = []
    if leaf.window:
        levels.append(int)
    if leaf.by is not None:
        levels.append(_KEYS[leaf.by.type])
    keyed = _CELLS[leaf.operation].keyed
    if keyed in ("position", "register"):
        levels.append(int)
    elif keyed and leaf.value is not None:
        levels.append(_KEYS[leaf.value.type])
    return _restore(state, levels)


_KEYS: Final[Mapping[Type, Callable[[str], Any]]] = {"int": int, "time": int, "str": _same, "bool": "true".__eq__}


def _restore(state: Any, levels: list[Callable[[str], Any]]) -> Any:
    if not levels or all(level is _same for level in levels):
        return state
    key_of, rest = levels[0], levels[1:]
    return {key_of(key): _restore(value, rest) for key, value in state.items()}
