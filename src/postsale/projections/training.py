"""Training rows: the features of customers as they were known at past times, and what came of them later. Pure.

Here live the bitemporal cut-off, the labels and the Arrow table; what is read from a log is `app.training`, what is kept about a
data set is `datasets`. Imports features, fold, events; the table needs the extra `table`.

The cut-off: a fact counts in a row when it had occurred by `as_of` *and* was known by `known_at` = `as_of` + lag. So it enters
every row from max(occurred, known - lag) on, and one pass over a customer's facts in that order, adding each once, gives all its
rows: each the state that the live fold had.
"""

from __future__ import annotations

import json
import typing
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from postsale.errors import InvalidInput, MissingExtra
from postsale.events import canonical
from postsale.projections.algebra import Leaf
from postsale.projections.derived import Derived
from postsale.projections.features import Features
from postsale.projections.fold import Fact, FeatureValues, Fold

Knowledge: TypeAlias = Literal["recorded", "claimed"]
"""When a fact was known: when the log recorded it; or, for backfills, when its source says it was knowable, where it says so."""

LABEL: Final = "label_"
_JSON: Final = {b"postsale": b"json"}


class Known(NamedTuple):
    """A fact of a customer, with the time from which a row may use it and, where it was parted again, until when (exclusive)."""

    enters_us: int
    leaves_us: int | None
    fact: Fact


@dataclass(slots=True)
class Subject:
    """A customer: its points, the facts that its features may use, and the facts that its labels may use."""

    customer: str
    points_us: list[int]
    known: list[Known] = field(default_factory=list)
    later: list[Fact] = field(default_factory=list)
    extra: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # further columns by point


def enters_us(fact: Fact, known_us: int, lag_us: int) -> int:
    """The earliest `as_of` of a row that may use the fact."""
    return max(fact.occurred_at_us, known_us - lag_us)


def rows_known(fold: Fold, subject: Subject) -> Iterator[FeatureValues]:
    """The features at each point, ascending: exactly the facts that had entered, and not left, by then."""
    if any(known.leaves_us is not None for known in subject.known):  # a split customer: what was added cannot be taken away
        for at in subject.points_us:
            here = (k for k in subject.known if k.enters_us <= at and (k.leaves_us is None or at < k.leaves_us))
            yield fold.finish(fold.fold(k.fact for k in here), at)
        return
    facts = sorted(subject.known, key=itemgetter(0))
    state, taken = fold.empty(), 0
    for at in subject.points_us:
        while taken < len(facts) and facts[taken].enters_us <= at:
            fold.add(state, facts[taken].fact)
            taken += 1
        yield fold.finish(state, at)


def rows_later(fold: Fold, subject: Subject, horizon_us: int, until_us: int) -> Iterator[FeatureValues | None]:
    """The outcome within (point, point + horizon] at each point; None where that lies beyond `until_us`: censored."""
    facts = sorted(subject.later, key=lambda f: (f.occurred_at_us, f.position))
    times = [fact.occurred_at_us for fact in facts]
    for at in subject.points_us:
        if at + horizon_us > until_us:
            yield None
        else:
            mine = facts[bisect_right(times, at) : bisect_right(times, at + horizon_us)]
            yield fold.finish(fold.fold(mine), at + horizon_us)


# ---------------------------------------------------------------- the table


def pyarrow() -> Any:
    """The library. Raises MissingExtra."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.ipc
    except ImportError:
        raise MissingExtra(feature="training rows", extra="table") from None
    return pyarrow


def training_table(
    features: type[Features],
    subjects: Iterable[Subject],
    *,
    lag_us: int = 0,
    outcome: type[Features] | None = None,
    horizon_us: int = 0,
    until_us: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Any:
    """An Arrow table: `customer`, `as_of`, `known_at`, a column per feature, and, with an outcome, `censored` and `label_…`.

    Ordered by (as_of, customer). `extra` are further columns with their Arrow types. Keyed features are maps; times are UTC
    timestamps; labels of censored rows are null. InvalidInput for a number beyond 64 bits, or a feature named like another column.
    """
    pa = pyarrow()
    fold, later = Fold(features), Fold(outcome) if outcome else None
    head: dict[str, list[Any]] = {"customer": [], "as_of": []}
    known: list[FeatureValues] = []
    labels: list[FeatureValues | None] = []
    more: dict[str, list[Any]] = {name: [] for name in extra or {}}
    for subject in subjects:
        head["customer"] += [subject.customer] * len(subject.points_us)
        head["as_of"] += subject.points_us
        known += rows_known(fold, subject)
        if later is not None:
            labels += rows_later(later, subject, horizon_us, until_us)
        for name, values in more.items():
            values += [subject.extra.get(at, {}).get(name) for at in subject.points_us]
    at = pa.timestamp("us", tz="UTC")
    columns: list[tuple[Any, Any]] = [
        (pa.field("customer", pa.string()), pa.array(head["customer"], pa.string())),
        (pa.field("as_of", at), pa.array(head["as_of"], at)),
        (pa.field("known_at", at), pa.array([us + lag_us for us in head["as_of"]], at)),
    ]
    columns += _columns(features, known, "")
    if outcome is not None:
        columns.append((pa.field("censored", pa.bool_()), pa.array([row is None for row in labels], pa.bool_())))
        columns += _columns(outcome, labels, LABEL)
    columns += [(pa.field(name, kind), pa.array(more[name], kind)) for name, kind in (extra or {}).items()]
    names = [field.name for field, _ in columns]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(what="training rows", field=name, reason="a feature has the name of another column; rename it")
    table = pa.Table.from_arrays([array for _, array in columns], schema=pa.schema([field for field, _ in columns]))
    return table.sort_by([("as_of", "ascending"), ("customer", "ascending")]).combine_chunks()


def _columns(features: type[Features], rows: Sequence[FeatureValues | None], prefix: str) -> list[tuple[Any, Any]]:
    pa = pyarrow()
    out = []
    every: list[Leaf[Any] | Derived[Any]] = [*features.leaves.values(), *features.deriveds]
    for declared in every:
        name, kind = declared.name, arrow_type(declared)
        values = [None if row is None else row[name] for row in rows]
        if kind is None:
            values = [None if value is None else canonical(value).decode() for value in values]
        elif pa.types.is_map(kind):
            values = [None if value is None else list(value.items()) for value in values]
        try:
            column = pa.array(values, pa.string() if kind is None else kind)
        except (OverflowError, pa.ArrowInvalid):
            raise InvalidInput(what=features.__name__, field=name, reason="a value does not fit its column; numbers have 64 bits") from None
        out.append((pa.field(prefix + name, column.type, metadata=_JSON if kind is None else None), column))
    return out


def arrow_type(declared: Leaf[Any] | Derived[Any]) -> Any:
    """The Arrow type of a feature's column; None for a derived one whose type has none: then canonical JSON."""
    pa = pyarrow()
    types = {"int": pa.int64(), "str": pa.string(), "bool": pa.bool_(), "time": pa.timestamp("us", tz="UTC")}
    if isinstance(declared, Leaf):
        operation, value = declared.operation, declared.value
        kind = types["time"] if operation in ("first_seen", "last_seen") else types["int"]
        if operation == "latest" and value is not None:
            kind = types[value.type]
        return kind if declared.by is None else pa.map_(types[declared.by.type], kind)
    hint = typing.get_type_hints(declared.function)["return"]
    plain = [arg for arg in typing.get_args(hint) if arg is not type(None)] if type(None) in typing.get_args(hint) else [hint]
    simple = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_(), tuple[str, ...]: pa.list_(pa.string())}
    return simple.get(plain[0]) if len(plain) == 1 else None


def feature_rows(table: Any, features: type[Features]) -> Iterator[FeatureValues]:
    """The rows of a training table as the values that scorers take: the inverse of how the table was made."""
    pa = pyarrow()
    columns: dict[str, list[Any]] = {}
    for name in (*features.leaves, *(d.name for d in features.deriveds)):
        column = table.column(name)
        kind, is_json = column.type, table.schema.field(name).metadata == _JSON
        if pa.types.is_timestamp(kind):
            column = column.cast(pa.int64())
        elif pa.types.is_map(kind) and pa.types.is_timestamp(kind.item_type):
            column = column.cast(pa.map_(kind.key_type, pa.int64()))
        values = column.to_pylist()
        if is_json:
            values = [None if value is None else json.loads(value) for value in values]
        elif pa.types.is_map(kind):
            values = [None if value is None else dict(value) for value in values]
        columns[name] = values
    times = table.column("as_of").cast(pa.int64()).to_pylist()
    for at, *values in zip(times, *columns.values(), strict=True):
        yield FeatureValues(dict(zip(columns, values, strict=True)), at, None, 0)
