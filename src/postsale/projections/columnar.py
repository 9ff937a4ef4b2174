"""Declarations as columnar queries: the same leaves, by the same rules, as one Ibis expression for DuckDB or Spark.

Two functions, both lazy: they build an expression and run nothing.

    state_table(features, facts, keys=["key"])                  mergeable state, to be handed to a live fold
    value_table(features, facts, keys=["key"], as_of=…)         finished leaves at a time: one number, or one column of the facts

`facts` is an Ibis table with one row per fact: the columns of `keys`, none of them null; `kind` (wire name without version), `position` and
`occurred_at_us` (int64); and one column for each name in `payload_columns(features)`, null where the fact does not hold the
field; what it says of kinds that the features do not read it of, does not matter. Other columns are ignored, and so are facts of kinds that no leaf reads. `keys` are what is
grouped by: a customer, or a customer and a point in time of a training set, where `as_of` names the point's column.

A row of either result has the keys, `newest_us` and `position` (of the facts that count), and one column per leaf, by its name.
Features `across` customers are kept by `state_table` as what each gives, like any leaf; `value_table` reads them of the members. For that the facts
bring one more text column per relation, `parent_columns(features)`: whom the fact's id stands for (a value of the first of the keys), null
for nobody. With further keys members and those they belong to meet at equal ones. Who has members alone has a row too.

Keys without a fact have no row; `empty_values` is what they would read. Derived features are Python: `finished_rows` adds them.

Where engines differ by nature, this holds: integers are 64 bits wide, and a sum or product beyond them is an error of the engine, never
a wrong number (the fold alone counts on); floor division and remainder round down; a null value, key or condition does not count;
of two facts at one time the later position is the latest. No store, no connection here. Imports features, algebra and expressions; needs the extra `batch`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from postsale.errors import BadDeclaration
from postsale.events import DAY_US
from postsale.projections import algebra
from postsale.projections.algebra import WEIGHT_ONE, Leaf, Moment
from postsale.projections.columnar_expressions import (
    Column,
    Table,
    day_of,
    digest_of,
    ibis,
    parent_column,
    parent_columns,
    translated,
    weight_of,
)
from postsale.projections.expressions import Expression
from postsale.projections.features import Features
from postsale.projections.sketch import REGISTER_DIGITS, register_and_rank

_RESERVED: Final = ("newest_us", "position", "kind", "occurred_at_us")


# ---------------------------------------------------------------- cells

_TILE, _KEY, _REGISTER, _CELL = "tile", "key", "register", "cell"
SKETCH: Final = "approximate_distinct"
_KEEP_NULLS: Final = frozenset({"latest", "history", "distinct"})  # whose aggregates do not pass over null values by themselves


class _Query:
    """The facts that count, with the value, key and condition of each leaf as columns of their own."""

    def __init__(
        self, features: type[Features], leaves: Iterable[Leaf[Any]], facts: Table, keys: Sequence[str], as_of: int | str | None
    ) -> None:
        self.keys = list(keys)
        self.leaves = list(leaves)
        for leaf in self.leaves:
            if leaf.name in (*self.keys, *_RESERVED):
                raise BadDeclaration(what=f"{features.__name__}.{leaf.name}", reason="this name is a column of every result or of the keys")
        lib = ibis()
        kinds = sorted({kind for leaf in features.leaves.values() for kind in leaf.kinds})  # all count towards `newest_us` and `position`
        facts = facts.filter(facts.kind.isin(kinds))
        columns: dict[str, Column] = {key: facts[key] for key in self.keys}
        columns |= {
            "one_": lib.literal(1, "int64"),
            "kind_": facts.kind,
            "at_": facts.occurred_at_us,
            "pos_": facts.position,
            "tile_": day_of(facts.occurred_at_us),
        }
        today: Column = None
        if as_of is not None:
            at = facts[as_of] if isinstance(as_of, str) else lib.literal(as_of, "int64")
            facts = facts.filter(facts.occurred_at_us <= at)
            today = day_of(facts[as_of]) if isinstance(as_of, str) else lib.literal(as_of // DAY_US, "int64")
            columns["today_"] = today
        columns |= {name: facts[name] for name in parent_columns(features).values() if name in facts.columns}
        names: dict[Expression, str] = {}
        for leaf in self.leaves:
            for part in (leaf.value, leaf.by):
                if part is not None and part not in names:
                    names[part] = f"x{len(names)}_"
                    columns[names[part]] = translated(part, facts)
        self.hashes: dict[str, tuple[str, str]] = {}  # by leaf, of its value: the columns of the register and of the hash
        for leaf in self.leaves:
            if leaf.operation == SKETCH and leaf.value is not None:
                self.hashes[leaf.name] = register, name = f"register_{names[leaf.value]}", f"md5_{names[leaf.value]}"
                columns[name] = digest = digest_of(translated(leaf.value, facts))
                columns[register] = digest.left(REGISTER_DIGITS)
        conditions: dict[str, str] = {}
        for leaf in self.leaves:
            condition = facts.kind.isin(leaf.kinds) if len(leaf.kinds) < len(kinds) else None
            if leaf.where is not None:
                where = translated(leaf.where, facts)
                condition = where if condition is None else condition & where
            if leaf.window and today is not None:
                inside = columns["tile_"] > today - leaf.window.days  # and not after today: such facts were left out above
                condition = inside if condition is None else condition & inside
            if condition is not None:
                conditions[leaf.name] = f"if_{leaf.name}"
                columns[conditions[leaf.name]] = condition
        self.names, self._conditions = names, conditions
        self.facts = facts.select(**columns)

    def _condition(self, leaf: Leaf[Any], t: Table, *, nulls: bool) -> Column | None:
        """Whether a fact counts; with `nulls` perhaps also when its value is null, for aggregates that pass over those by themselves."""
        parts = [t[self._conditions[leaf.name]]] if leaf.name in self._conditions else []
        if leaf.value is not None and not nulls:
            parts.append(t[self.names[leaf.value]].notnull())
        if leaf.window and _newest(leaf) in t.columns:
            parts.append(t.tile_ > t[_newest(leaf)] - leaf.window.days)
        return functools.reduce(operator.and_, parts) if parts else None

    def cell(self, leaf: Leaf[Any], t: Table, *, finish: bool) -> Column:
        """The aggregate that makes the leaf's cell, null when no fact counts; with `finish` the value that is read from it."""
        value: Column = t[self.names[leaf.value]] if leaf.value is not None else None
        where = self._condition(leaf, t, nulls=leaf.operation not in _KEEP_NULLS)
        if leaf.operation == "decayed":
            value = t.one_ if value is None else value
            if finish and leaf.half_life is not None:
                # What does not count is not multiplied: it may be beyond 64 bits then, and nobody asked for it.
                counts = value if where is None else ibis().ifelse(where, value, ibis().null("int64"))
                value = counts * weight_of(leaf.half_life, t.today_ - t.tile_)
        match leaf.operation:
            case "count":
                return t.count(where=where).nullif(0)
            case "total" | "decayed":
                # Through a decimal, because DuckDB sums in 128 bits, and Ibis drops a cast to what it takes the sum for already.
                exact = value.sum(where=where).cast("decimal(38, 0)").cast("int64")
                return exact.cast("float64") / float(WEIGHT_ONE) if finish and leaf.operation == "decayed" else exact
            case "first_seen":
                return t.at_.min(where=where)
            case "last_seen":
                return t.at_.max(where=where)
            case "minimum":
                return value.min(where=where)
            case "maximum":
                return value.max(where=where)
            case "distinct":
                return value.nunique(where=where).nullif(0) if finish else _filled(value.collect(where=where, distinct=True))
            case "approximate_distinct":
                # The least hash of a register is the one of the greatest rank; texts of hex digits compare the same everywhere.
                return t[self.hashes[leaf.name][1]].min(where=where)
            case "latest":
                last = ibis().struct({"at": t.at_, "pos": t.pos_, "v": value}).max(where=where)
                return last["v"] if finish else last
            case "history":
                moment = {"pos": t.pos_, "at": t.at_, "kind": t.kind_}
                return _filled(ibis().struct(moment if value is None else {**moment, "v": value}).collect(where=where))
        raise AssertionError(leaf.operation)

    def parent(self, relation: Leaf[Any]) -> Table:
        """By keys whom they belong to, where that is somebody else."""
        t, name = self.facts, parent_column(relation.name)
        if name not in t.columns:
            raise BadDeclaration(what=name, reason="the facts lack this column: whom each fact's id stands for, null for nobody")
        where = self._condition(relation, t, nulls=False)
        last = ibis().struct({"at": t.at_, "pos": t.pos_, "parent": t[name]}).max(where=where)
        links = t.group_by(self.keys).aggregate(parent_=last["parent"])
        return links.filter(links.parent_.notnull() & (links.parent_ != links[self.keys[0]]))

    def base(self, cells: Mapping[str, Column]) -> Table:
        t = self.facts
        return t.group_by(self.keys).aggregate(newest_us=t.at_.max(), position=t.pos_.max(), **cells)

    def joined(self, base: Table, parts: Iterable[Table], order: Sequence[str]) -> Table:
        for part in parts:
            base = _with(base, part, self.keys)
        return base.select(*self.keys, "newest_us", "position", *order)

    def grains(self, *, windows: bool) -> tuple[list[Leaf[Any]], list[tuple[dict[str, str], list[Leaf[Any]]]]]:
        """The leaves that need no more than the keys, then the others by what they are grouped by within them."""
        found: dict[tuple[tuple[str, str], ...], list[Leaf[Any]]] = {}
        for leaf in self.leaves:
            grain = {_TILE: "tile_"} if windows and leaf.window else {}
            if leaf.by is not None:
                grain[_KEY] = self.names[leaf.by]
            if leaf.name in self.hashes:
                grain[_REGISTER] = self.hashes[leaf.name][0]
            found.setdefault(tuple(grain.items()), []).append(leaf)
        plain = found.pop((), [])
        return plain, [(dict(grain), leaves) for grain, leaves in found.items()]

    def nested(self, leaves: Sequence[Leaf[Any]], grain: Mapping[str, str], *, finish: bool) -> Table:
        """Leaves that share a grain: cells by keys and grain, then one array of structs per leaf."""
        t = self.facts
        for part in (_KEY, _REGISTER):
            if part in grain:
                t = t.filter(t[grain[part]].notnull())
        if _TILE in grain:
            t = self._in_windows(t, leaves)
        grouped = t.group_by(*self.keys, **{f"{name}_": t[column] for name, column in grain.items()})
        cells = grouped.aggregate(**{leaf.name: self.cell(leaf, t, finish=finish) for leaf in leaves})
        out = {}
        for leaf in leaves:
            row = {name: cells[f"{name}_"] for name in grain}
            out[leaf.name] = ibis().struct({**row, _CELL: cells[leaf.name]}).collect(where=cells[leaf.name].notnull())
        return cells.group_by(self.keys).aggregate(**out)

    def _in_windows(self, t: Table, leaves: Sequence[Leaf[Any]]) -> Table:
        """The facts of the tiles that the normal form has: those less than a window before the leaf's newest tile. See `drop_old_tiles`.

        Left out before they are grouped: most of a long history is older than its windows.
        """
        newest = {_newest(leaf): t.tile_.max(where=self._condition(leaf, t, nulls=False)) for leaf in leaves}
        t = _with(t, t.group_by(self.keys).aggregate(**newest), self.keys)
        return t.filter(functools.reduce(operator.or_, [self._condition(leaf, t, nulls=False) for leaf in leaves]))


def _newest(leaf: Leaf[Any]) -> str:
    return f"newest_{leaf.name}_"


def _filled(array: Column) -> Column:
    """Null for an array of nothing: DuckDB gives that, Spark an empty one."""
    return ibis().ifelse(array.length() > 0, array, ibis().null(array.type()))


# ---------------------------------------------------------------- the two tables


def state_table(features: type[Features], facts: Table, *, keys: Sequence[str]) -> Table:
    """Mergeable state per key, in normal form: what `fold_state` turns into the very state that a fold over these facts has.

    A leaf without window and `by=` is its cell: an integer; for `latest` a struct `at, pos, v`; for `distinct` an array of values;
    for `history` an array of structs `pos, at, kind, v`; null when no fact counts. Else it is an array of structs with `tile` (UTC day, if it has a window), `key` (if it has
    `by=`) and `cell`, in no order; null or empty when no fact counts. An approximate `distinct` is always such an array, with
    `register` too, and the register's least hash as `cell`.
    """
    query = _Query(features, features.leaves.values(), facts, keys, None)
    plain, nested = query.grains(windows=True)
    base = query.base({leaf.name: query.cell(leaf, query.facts, finish=False) for leaf in plain})
    return query.joined(base, [query.nested(leaves, grain, finish=False) for grain, leaves in nested], list(features.leaves))


def value_table(features: type[Features], facts: Table, *, keys: Sequence[str], as_of: int | str) -> Table:
    """Finished leaves per key at `as_of`: UTC microseconds, or the name of a column that is the same for all facts of a key.

    A fact that occurred after its `as_of` does not count; whether it was known by then is for the caller to filter. Counts,
    sums and distinct counts are 0 where no fact counts, other leaves null; a `history` is an array of structs `pos, at, kind, v`. With `by=` a leaf is an array of structs `key` and
    `cell`, in no order, null or empty without facts. An approximate `distinct` is an array of structs `register` and `cell` (its least hash), with `key`
    if it has `by=`: what it comes to, `finished_value` says.
    """
    own = [leaf for leaf in features.leaves.values() if leaf.across is None]
    if not features.relations:
        return _values(features, own, facts, keys, as_of)
    parts = [(own, _values(features, own, facts, keys, as_of))]
    for relation in features.relations:
        theirs = [leaf for leaf in features.leaves.values() if leaf.across is not None and leaf.across.relation == relation]
        read = _of_members(features, features.leaves[relation], facts, keys, as_of)
        parts.append((theirs, _values(features, theirs, read, keys, as_of)))
    every = functools.reduce(lambda a, b: a.union(b), [part.select(*keys, "newest_us", "position") for _, part in parts])
    out = every.group_by(list(keys)).aggregate(newest_us=every.newest_us.max(), position=every.position.max())
    for _, part in parts:
        out = _with(out, part.drop("newest_us", "position"), keys)
    filled = {
        leaf.name: out[leaf.name].fill_null(0) for leaf in features.leaves.values() if empty_of(leaf) == 0 and leaf.operation != SKETCH
    }
    return out.mutate(**filled).select(*keys, "newest_us", "position", *features.leaves)


def _values(features: type[Features], leaves: Sequence[Leaf[Any]], facts: Table, keys: Sequence[str], as_of: int | str) -> Table:
    query = _Query(features, leaves, facts, keys, as_of)
    plain, nested = query.grains(windows=False)
    cells = {}
    for leaf in plain:
        cell = query.cell(leaf, query.facts, finish=True)
        cells[leaf.name] = cell.fill_null(0) if empty_of(leaf) == 0 else cell
    parts = [query.nested(leaves, grain, finish=True) for grain, leaves in nested]
    return query.joined(query.base(cells), parts, [leaf.name for leaf in leaves])


def _of_members(features: type[Features], relation: Leaf[Any], facts: Table, keys: Sequence[str], as_of: int | str) -> Table:
    """The facts of members as facts of those they belong to: the first of the keys is exchanged."""
    links = _Query(features, [relation], facts, keys, as_of).parent(relation)
    links = links.rename({f"{key}_member_": key for key in keys})
    joined = facts.inner_join(links, [facts[key] == links[f"{key}_member_"] for key in keys])
    return joined.mutate(**{keys[0]: joined.parent_}).drop("parent_", *(f"{key}_member_" for key in keys))


def _with(t: Table, other: Table, keys: Sequence[str]) -> Table:
    """The columns of another table too, which has at most one row for the keys."""
    other = other.rename({f"{key}_right_": key for key in keys})
    joined = t.left_join(other, [t[key] == other[f"{key}_right_"] for key in keys])
    return joined.drop(*(f"{key}_right_" for key in keys))


# ---------------------------------------------------------------- rows


def empty_of(leaf: Leaf[Any]) -> Any:
    """What a leaf reads without facts."""
    return algebra.finish(leaf, algebra.empty(leaf), 0)


def empty_values(features: type[Features]) -> dict[str, Any]:
    """What every feature reads for a key without facts, derived ones included."""
    return _with_derived(features, {name: empty_of(leaf) for name, leaf in features.leaves.items()})


def finished_rows(features: type[Features], rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of a `value_table`, as Python (`RecordBatch.to_pylist`), as a fold's `finish` gives them: `by=` as a dict sorted by
    key, then derived features; further members of a row are kept as they are."""
    nested = [leaf for leaf in features.leaves.values() if leaf.by is not None or leaf.operation in ("history", SKETCH)]
    for row in rows:
        out = dict(row)
        for leaf in nested:
            out[leaf.name] = finished_value(leaf, row[leaf.name])
        yield _with_derived(features, out)


def finished_value(leaf: Leaf[Any], kept: Any) -> Any:
    """What a fold's `finish` gives for a leaf, from its column of a `value_table` as Python."""
    if leaf.operation == SKETCH:
        return algebra.finish(replace(leaf, window=None), _nest(leaf, kept, windows=False), 0)
    read = _moments if leaf.operation == "history" else _same
    if leaf.by is None:
        return read(kept)
    return dict(sorted(((pair[_KEY], read(pair[_CELL])) for pair in kept or ()), key=_first))


def _with_derived(features: type[Features], values: dict[str, Any]) -> dict[str, Any]:
    for derived in features.deriveds:
        values[derived.name] = derived(*(values[name] for name in derived.needs))
    return values


def _same(value: Any) -> Any:
    return value


def _moments(kept: Any) -> tuple[Moment, ...]:
    return algebra.moments(_history(kept or ()))


def _history(kept: Any) -> dict[int, Any]:
    return {part["pos"]: [part["at"], part["kind"], part.get("v")] for part in kept}


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]


def fold_state(features: type[Features], row: Mapping[str, Any]) -> list[Any]:
    """The state of a fold, from a row of a `state_table` as Python."""
    state: list[Any] = [row["newest_us"], row["position"]]
    for name, leaf in features.leaves.items():
        kept = row[name]
        if leaf.window is None and leaf.by is None and leaf.operation != SKETCH:
            state.append(algebra.empty(leaf) if kept is None else _cell(leaf, kept))
        else:
            state.append(_nest(leaf, kept, windows=True))
    return state


def _nest(leaf: Leaf[Any], kept: Any, *, windows: bool) -> dict[Any, Any]:
    levels = [_TILE] if windows and leaf.window else []
    levels += [_KEY] if leaf.by is not None else []
    out: dict[Any, Any] = {}
    for part in kept or ():
        place, steps = out, [part[level] for level in levels]
        if leaf.operation == SKETCH:
            register, cell = register_and_rank(part[_CELL])
            steps.append(register)
        else:
            cell = _cell(leaf, part[_CELL])
        for step in steps[:-1]:
            place = place.setdefault(step, {})
        place[steps[-1]] = cell
    return out


def _cell(leaf: Leaf[Any], kept: Any) -> Any:
    match leaf.operation:
        case "latest":
            return [kept["at"], kept["pos"], kept["v"]]
        case "distinct":
            return dict.fromkeys(kept, 1)
        case "history":
            return _history(kept)
    return kept
