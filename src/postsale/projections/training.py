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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from postsale.errors import InvalidInput, MissingExtra
from postsale.events import canonical
from postsale.projections.algebra import Leaf
from postsale.projections.derived import Derived
from postsale.projections.features import Features
from postsale.projections.folding import Fact, FeatureValues, Fold, State
from postsale.projections.related import Who, exchanged, gathered

Knowledge: TypeAlias = Literal["recorded", "claimed"]
"""When a fact was known: when the log recorded it; or, for backfills, when its source says it was knowable, where it says so."""

LABEL: Final = "label_"
TREATMENT: Final = ("decided_at", "treatment", "disposition", "eligible_actions", "eligible_propensity_ppm", "propensity_ppm")
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
    merged: Sequence[tuple[int, int | None]] = ()  # times of rows at which it is part of another customer: from, until (exclusive)

    def merged_at(self, at_us: int) -> bool:
        return any(since <= at_us and (until is None or at_us < until) for since, until in self.merged)


def enters_us(fact: Fact, known_us: int, lag_us: int) -> int:
    """The earliest `as_of` of a row that may use the fact."""
    return max(fact.occurred_at_us, known_us - lag_us)


def rows_known(fold: Fold, subject: Subject) -> Iterator[FeatureValues]:
    """The features at each point, ascending: exactly the facts that had entered, and not left, by then."""
    for at, state in zip(subject.points_us, states_known(fold, subject, subject.points_us), strict=True):
        yield fold.finish(state, at)


def states_known(fold: Fold, subject: Subject, times: Sequence[int]) -> Iterator[State]:
    """The state at each of these times, ascending; each is to be read before the next one is asked for."""
    if any(known.leaves_us is not None for known in subject.known):  # a split customer: what was added cannot be taken away
        for at in times:
            here = (k for k in subject.known if k.enters_us <= at and (k.leaves_us is None or at < k.leaves_us))
            yield fold.fold(k.fact for k in here)
        return
    facts = sorted(subject.known, key=itemgetter(0))
    state, taken = fold.empty(), 0
    for at in times:
        while taken < len(facts) and facts[taken].enters_us <= at:
            fold.add(state, facts[taken].fact)
            taken += 1
        yield state


def rows_related(fold: Fold, subjects: Sequence[Subject], who: Callable[[int], Who[str]]) -> dict[tuple[str, int], FeatureValues]:
    """The features at each point where some are read across customers, by (customer, point); `who(as_of)` as a row of then may know it.

    `subjects` are all customers, those without points too. Time grows with customers times different points.
    """
    times = sorted({at for subject in subjects for at in subject.points_us})
    known = [(subject, frozenset(subject.points_us), states_known(fold, subject, times)) for subject in subjects]
    found = {}
    for at in times:
        states = {subject.customer: next(each) for subject, _, each in known}
        apart = {s.customer: states[s.customer] for s, _, _ in known if fold.position(states[s.customer]) and not s.merged_at(at)}
        related = exchanged(fold, apart, who(at))
        for subject, points, _ in known:
            if at in points:
                name = subject.customer
                found[name, at] = fold.finish(states[name], at, related.get(name) or gathered(fold, ()))
    return found


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
    only_known: bool = False,
    who: Callable[[int], Who[str]] | None = None,
) -> Any:
    """An Arrow table: `customer`, `as_of`, `known_at`, a column per feature, and, with an outcome, `censored` and `label_…`.

    Ordered by (as_of, customer). Keyed features are maps; times are UTC timestamps; labels of censored rows are null. `only_known`:
    without points at which no fact counts. With features `across` customers `subjects` are all customers, and `who` as in `rows_related`. InvalidInput for a number beyond 64 bits, or a feature named like another column.
    """
    pa = pyarrow()
    fold, later = Fold(features), Fold(outcome) if outcome else None
    found: list[tuple[int, str, FeatureValues, FeatureValues | None]] = []
    across: dict[tuple[str, int], FeatureValues] = {}
    if fold.relations:
        subjects = list(subjects)
        across = rows_related(fold, subjects, who or (lambda _: lambda _relation, _id: None))
    for subject in subjects:
        labels = rows_later(later, subject, horizon_us, until_us) if later else repeat(None)
        mine = (across[subject.customer, at] for at in subject.points_us) if fold.relations else rows_known(fold, subject)
        for at, values, label in zip(subject.points_us, mine, labels, strict=False):
            if values.newest_us is not None or not only_known:
                found.append((at, subject.customer, values, label))
    found.sort(key=itemgetter(0, 1))
    columns = _columns(features, [row[2] for row in found], "")
    censored = None
    if outcome is not None:
        censored = pa.array([row[3] is None for row in found], pa.bool_())
        columns += _columns(outcome, [row[3] for row in found], LABEL)
    customer = pa.array([row[1] for row in found], pa.string())
    return assembled(customer, pa.array([row[0] for row in found], pa.int64()), lag_us, columns, censored)


def assembled(customer: Any, as_of_us: Any, lag_us: int, columns: Sequence[tuple[Any, Any]], censored: Any) -> Any:
    """The table, of columns that are in order: fields with their arrays. InvalidInput for a name twice."""
    pa = pyarrow()
    at = pa.timestamp("us", tz="UTC")
    marks = [] if censored is None else [(pa.field("censored", pa.bool_()), censored)]
    first = sum(not field.name.startswith(LABEL) for field, _ in columns) if censored is not None else len(columns)
    every = [
        (pa.field("customer", pa.string()), customer),
        (pa.field("as_of", at), as_of_us.cast(at)),
        (pa.field("known_at", at), pa.compute.add(as_of_us, lag_us).cast(at)),
        *columns[:first],
        *marks,
        *columns[first:],
    ]
    names = [field.name for field, _ in every]
    for name in names:
        if names.count(name) > 1 or name in TREATMENT:
            raise InvalidInput(what="training rows", field=name, reason="a feature has the name of another column; rename it")
    return pa.Table.from_arrays([array for _, array in every], schema=pa.schema([field for field, _ in every])).combine_chunks()


def _columns(features: type[Features], rows: Sequence[FeatureValues | None], prefix: str) -> list[tuple[Any, Any]]:
    """The columns of finished rows; null where there is no row."""
    every: list[Leaf[Any] | Derived[Any]] = [*columns_of(features), *features.deriveds]
    return [_column(features, d, [None if row is None else row[d.name] for row in rows], prefix) for d in every]


def columns_of(features: type[Features]) -> list[Leaf[Any]]:
    """The leaves that have a column: a `history` has none, but what is derived from it."""
    return [leaf for leaf in features.leaves.values() if leaf.operation != "history"]


def derived_columns(features: type[Features], values: dict[str, list[Any]], prefix: str) -> list[tuple[Any, Any]]:
    """The columns of the derived features, calculated in Python over the values of the leaves that they need, as a fold gives them."""
    out = []
    for derived in features.deriveds:
        values[derived.name] = [derived(*row) for row in zip(*(values[name] for name in derived.needs), strict=True)]
        out.append(_column(features, derived, values[derived.name], prefix))
    return out


def _column(features: type[Features], declared: Leaf[Any] | Derived[Any], values: list[Any], prefix: str) -> tuple[Any, Any]:
    pa = pyarrow()
    kind = arrow_type(declared)
    if kind is None:
        values = [None if value is None else canonical(value).decode() for value in values]
    elif pa.types.is_map(kind):
        values = [None if value is None else list(value.items()) for value in values]
    try:
        column = pa.array(values, pa.string() if kind is None else kind)
    except (OverflowError, pa.ArrowInvalid):
        reason = "a value does not fit its column; numbers have 64 bits"
        raise InvalidInput(what=features.__name__, field=declared.name, reason=reason) from None
    return pa.field(prefix + declared.name, column.type, metadata=_JSON if kind is None else None), column


def values_of(column: Any) -> list[Any]:
    """A column's values as a fold gives them: times as microseconds, maps as dicts."""
    types, kind = pyarrow().types, column.type
    if types.is_timestamp(kind):
        column = column.cast(pyarrow().int64())
    elif types.is_map(kind) and types.is_timestamp(kind.item_type):
        column = column.cast(pyarrow().map_(kind.key_type, pyarrow().int64()))
    values: list[Any] = column.to_pylist()
    return [None if value is None else dict(value) for value in values] if types.is_map(kind) else values


def arrow_type(declared: Leaf[Any] | Derived[Any]) -> Any:
    """The Arrow type of a feature's column; None for a derived one whose type has none: then canonical JSON."""
    pa = pyarrow()
    types = {"int": pa.int64(), "str": pa.string(), "bool": pa.bool_(), "time": pa.timestamp("us", tz="UTC")}
    if isinstance(declared, Leaf):
        operation, value = declared.operation, declared.value
        kind = types["time"] if operation in ("first_seen", "last_seen") else types["int"]
        if operation == "latest" and value is not None:
            kind = types[value.type]
        if operation == "decayed":
            kind = pa.float64()
        return kind if declared.by is None else pa.map_(types[declared.by.type], kind)
    hint = typing.get_type_hints(declared.function)["return"]
    plain = [arg for arg in typing.get_args(hint) if arg is not type(None)] if type(None) in typing.get_args(hint) else [hint]
    simple = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_(), tuple[str, ...]: pa.list_(pa.string())}
    return simple.get(plain[0]) if len(plain) == 1 else None


def feature_rows(table: Any, features: type[Features]) -> Iterator[FeatureValues]:
    """The rows of a training table as the values that scorers take: the inverse of how the table was made, less histories."""
    times = table.column("as_of").cast(pyarrow().int64()).to_pylist()
    for at, values in zip(times, _values(table, features, ""), strict=True):
        yield FeatureValues(values, at, None, 0)


def outcome_rows(table: Any, outcome: type[Features], horizon_us: int) -> Iterator[FeatureValues | None]:
    """What happened within the horizon of each row, as values of the outcome's declaration; None for a censored row."""
    times = table.column("as_of").cast(pyarrow().int64()).to_pylist()
    for at, censored, values in zip(times, table.column("censored").to_pylist(), _values(table, outcome, LABEL), strict=True):
        yield None if censored else FeatureValues(values, at + horizon_us, None, 0)


def _values(table: Any, features: type[Features], prefix: str) -> Iterator[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    for name in (*(leaf.name for leaf in columns_of(features)), *(d.name for d in features.deriveds)):
        values = values_of(table.column(prefix + name))
        if table.schema.field(prefix + name).metadata == _JSON:
            values = [None if value is None else json.loads(value) for value in values]
        columns[name] = values
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))
