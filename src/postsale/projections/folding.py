"""The live fold: facts in, mergeable state, finished values out. One `Fold` per declaration.

One Python function is generated with a branch for each kind of signal, which updates all the leaves that read it; the source is made
only of traced trees, whose names and constants are quoted. No store, no clock: `as_of` comes in. Imports features, events, errors.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias, TypeVar

import orjson

from postsale.errors import InvalidInput
from postsale.events import DAY_US, SEALED, Event, StoredEvent, canonical, decode, iso, registry, to_us
from postsale.projections import algebra
from postsale.projections.algebra import Leaf
from postsale.projections.derived import Derived
from postsale.projections.expressions import Emitter, time_us
from postsale.projections.features import Features
from postsale.projections.sketch import mark

V = TypeVar("V")

State: TypeAlias = list[Any]
"""`[newest occurred_at or None, greatest position, leaf …]`, leaves by name. Lists, dicts, integers, strings, booleans, None."""

_NEWEST, _POSITION, _HEAD = 0, 1, 2
_SEALED: Final = SEALED.encode()


class Fact(NamedTuple):
    """A signal as a fold sees it: no sealed field, no envelope beyond its order and its two times."""

    kind: str  # wire name without version
    position: int
    occurred_at_us: int  # true in the world
    recorded_at_us: int  # known to us
    fields: dict[str, Any]  # the payload of the current version, JSON types


def fact_of(stored: StoredEvent) -> Fact:
    """The fact a stored event holds, upcast to the current version, personal fields left out.

    Raises UnknownWireName, UpcastFailed, or InvalidInput when stored bytes are not such a payload.
    """
    cls = registry.get(stored.wire_name, stored.position)
    current = registry.is_current(stored.wire_name)
    if not current:
        decode(stored)  # what an upcaster made was never validated before
    fields = _open(cls, stored.fields())
    data = stored.data
    if not current or _SEALED in data or b"\\u" in data:  # rare: to look at each value costs as much as the rest
        fields = _unsealed(fields)
    return Fact(stored.kind, stored.position, stored.occurred_at_us, stored.recorded_at_us, fields)


def fact_from(signal: Event, position: int, *, recorded_at_us: int | None = None) -> Fact:
    """A fact straight from a signal, as if recorded at `position`; for tests, notebooks and data that is not in a log."""
    at = to_us(signal.occurred_at) if hasattr(signal, "occurred_at") else 0
    known = at if recorded_at_us is None else recorded_at_us
    return Fact(signal.kind, position, at, known, _unsealed(_open(type(signal), orjson.loads(canonical(signal.payload())))))


def _open(cls: type[Event], fields: dict[str, Any]) -> dict[str, Any]:
    for name in cls.personal_fields:
        fields.pop(name, None)
    return fields


def _unsealed(fields: dict[str, Any]) -> dict[str, Any]:
    for name in [name for name, value in fields.items() if isinstance(value, dict) and SEALED in value]:
        del fields[name]
    return fields


class Related(NamedTuple):
    """What the members of a customer have together, for features `across` customers; made by `related`."""

    newest_us: int | None  # occurred_at of the newest fact of any member
    position: int
    states: Mapping[str, Any]  # by name of the leaf that reads across


class FeatureValues(Mapping[str, Any]):
    """Finished values by feature name, leaves and derived. `values.of(Billing.paid)` is typed."""

    __slots__ = ("_values", "as_of_us", "newest_us", "position")

    def __init__(self, values: dict[str, Any], as_of_us: int, newest_us: int | None, position: int) -> None:
        self._values = values
        self.as_of_us = as_of_us
        self.newest_us = newest_us  # occurred_at of the newest fact, None without facts
        self.position = position  # of the last fact folded, 0 without facts

    def of(self, feature: Leaf[V] | Derived[V]) -> V:
        """The value of a declared feature, with its declared type."""
        return self._values[feature.name]  # type: ignore[no-any-return]

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"FeatureValues(as_of={iso(self.as_of_us)}, {self._values!r})"


_DUMP: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER | orjson.OPT_NON_STR_KEYS
_LONG_INTEGER: Final = re.compile(rb"[0-9]{19}")  # beyond what orjson reads exactly


class Fold:
    """Folds facts of one key (a customer) into the state of one declaration.

    A fact must be added once: duplicates are the log's to refuse. Order does not matter: any order, and any split into parts
    that are merged, gives a state with the same `digest`. Memory is bounded by the windows, the keys of `by=` and the values
    of `distinct` (approximate: 4,096 small integers).
    """

    def __init__(self, features: type[Features]) -> None:
        self.features = features
        self.name = features.__name__
        self.digest_of_features = features.digest
        self._leaves = tuple(features.leaves.values())
        self.relations = features.relations
        self._place = {leaf.name: i for i, leaf in enumerate(self._leaves, _HEAD)}
        self.kinds = frozenset(kind for leaf in self._leaves for kind in leaf.kinds)
        self._windows = [(i, leaf.window.days) for i, leaf in enumerate(self._leaves, _HEAD) if leaf.window]
        self._add = _adder(self.name, sorted(self.kinds), self._leaves)
        self.add = self._add  # type: ignore[method-assign,assignment]  # one call less for every fact
        placed = tuple(enumerate(self._leaves, _HEAD))
        places = [(i, leaf.window and leaf.window.days, bool(leaf.window) and leaf.by is None, leaf) for i, leaf in placed]
        self._reading = {kind: tuple(place for place in places if kind in place[3].kinds) for kind in self.kinds}
        self._derived_from = {kind: _derived_from(features, {place[3].name for place in mine}) for kind, mine in self._reading.items()}

    def empty(self) -> State:
        """The state of no facts: the neutral element of `merge`."""
        return [None, 0, *map(algebra.empty, self._leaves)]

    def add(self, state: State, fact: Fact) -> None:
        """Add one fact to `state`, in place; a fact of a kind that no leaf reads changes nothing.

        InvalidInput when a field does not hold its declared type; the state is then to be thrown away.
        """
        self._add(state, fact)

    def fold(self, facts: Iterable[Fact]) -> State:
        """The state of these facts."""
        state, add = self.empty(), self._add
        for fact in facts:
            add(state, fact)
        return state

    def merge(self, a: State, b: State) -> State:
        """The state of the facts of both; commutative and associative; shares nothing with them."""
        newest = max((n for n in (a[_NEWEST], b[_NEWEST]) if n is not None), default=None)
        parts = (algebra.merge(leaf, a[i], b[i]) for i, leaf in enumerate(self._leaves, _HEAD))
        return [newest, max(a[_POSITION], b[_POSITION]), *parts]

    def copy(self, state: State) -> State:
        """A state that later `add`s to the given one do not touch."""
        return algebra.copy(state)  # type: ignore[no-any-return]

    def newest_us(self, state: State) -> int | None:
        """`occurred_at` of the newest fact in it: the earliest `as_of` that `finish` answers."""
        return state[_NEWEST]  # type: ignore[no-any-return]

    def position(self, state: State) -> int:
        """The greatest position in it, 0 without facts."""
        return state[_POSITION]  # type: ignore[no-any-return]

    def finish(self, state: State, as_of_us: int, related: Related | None = None) -> FeatureValues:
        """Every feature's value at `as_of_us`; a window is the whole UTC days (day of as_of - n, day of as_of].

        Exact for any `as_of_us` at or after the newest fact. An earlier one is InvalidInput, never a guess: fold again with
        the facts that occurred by then. Features `across` customers are read from `related`; without it they are InvalidInput too.
        """
        newest, position, states = state[_NEWEST], state[_POSITION], state[_HEAD:]
        if self.relations:
            if related is None:
                reason = "it reads across customers, and nothing was given about the members; see postsale.projections.related"
                raise InvalidInput(what=self.name, field="related", reason=reason)
            newest = max((n for n in (newest, related.newest_us) if n is not None), default=None)
            position = max(position, related.position)
            states = [own if leaf.across is None else related.states[leaf.name] for leaf, own in zip(self._leaves, states, strict=True)]
        if newest is not None and as_of_us < newest:
            reason = f"the state holds a fact of {iso(newest)}; fold again with the facts that occurred by then"
            raise InvalidInput(what=self.name, field="as_of", reason=reason)
        values = {leaf.name: algebra.finish(leaf, part, as_of_us) for leaf, part in zip(self._leaves, states, strict=True)}
        for derived in self.features.deriveds:
            values[derived.name] = derived(*(values[name] for name in derived.needs))
        return FeatureValues(values, as_of_us, newest, position)

    def part(self, state: State, name: str) -> Any:
        """What a state keeps of one leaf."""
        return state[self._place[name]]

    def follow(self, values: FeatureValues, state: State, fact: Fact) -> set[str]:
        """Add `fact` to `state`, and bring `values`, which was finished from it, up to date in place, at the time it was finished for.

        The fact must have occurred by then. Only what it can change is computed again. Returns the names of the features whose value
        is another one now.
        """
        as_of_us, held, changed = values.as_of_us, values._values, set[str]()
        tile = fact.occurred_at_us // DAY_US
        day = as_of_us // DAY_US - tile
        reading = [r for r in self._reading.get(fact.kind, ()) if r[1] is None or day < r[1]]
        before = [state[index].get(tile) if tiled else None for index, _, tiled, _ in reading]
        self._add(state, fact)
        for (index, _, _, leaf), cell in zip(reading, before, strict=True):
            name = leaf.name
            value = algebra.refinish(leaf, state[index], as_of_us, held[name], tile, cell)
            if value != held[name]:
                held[name] = value
                changed.add(name)
        if changed:
            for derived in self._derived_from[fact.kind]:
                if not changed.isdisjoint(derived.needs):
                    value = derived(*[held[name] for name in derived.needs])
                    if value != held[derived.name]:
                        held[derived.name] = value
                        changed.add(derived.name)
        values.newest_us, values.position = state[_NEWEST], state[_POSITION]
        return changed

    def dump(self, state: State) -> bytes:
        """Canonical JSON: the same facts give the same bytes. Brings `state` into normal form."""
        for index, days in self._windows:
            algebra.drop_old_tiles(state[index], days)
        try:
            return orjson.dumps(state, option=_DUMP)
        except TypeError:  # an integer of 2^53 or more: the same JSON, by the slower encoder
            return json.dumps(_text_keys(state), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def load(self, raw: bytes) -> State:
        """The state that `dump` wrote; InvalidInput for bytes of another declaration's shape."""
        try:
            state = json.loads(raw) if _LONG_INTEGER.search(raw) else orjson.loads(raw)
        except ValueError:
            state = None
        if not isinstance(state, list) or len(state) != len(self._leaves) + _HEAD:
            raise InvalidInput(what=self.name, field="state", reason="not a state of this declaration; rebuild the view")
        return state[:_HEAD] + [algebra.restore(leaf, state[i]) for i, leaf in enumerate(self._leaves, _HEAD)]

    def digest(self, state: State) -> str:
        """SHA-256 of the canonical bytes, hex: equal exactly when the states are."""
        return hashlib.sha256(self.dump(state)).hexdigest()


def _derived_from(features: type[Features], names: set[str]) -> tuple[Derived[Any], ...]:
    """The derived features that need one of these, or need one that does, each after those it needs."""
    out = []
    for derived in features.deriveds:
        if not names.isdisjoint(derived.needs):
            names = names | {derived.name}
            out.append(derived)
    return tuple(out)


def _text_keys(state: Any) -> Any:
    if isinstance(state, dict):
        return {str(k).lower() if isinstance(k, bool) else str(k): _text_keys(v) for k, v in state.items()}
    return [_text_keys(v) for v in state] if isinstance(state, list) else state


def _adder(name: str, kinds: Sequence[str], leaves: tuple[Leaf[Any], ...]) -> Callable[[State, Fact], None]:
    """The generated function `add(s, fact)`: a branch for each kind. One function, because to find and call another costs as much as a leaf."""
    lines = ["kind, pos, at, _, f = fact", "try:"]
    for number, kind in enumerate(kinds):
        lines += [f"    {'el' if number else ''}if kind == {kind!r}:", *("        " + line for line in _branch(kind, leaves))]
    lines += ["except (TypeError, ValueError, AttributeError): refuse(fact)"]

    def refuse(fact: Fact) -> NoReturn:
        what = f"{fact.kind} at position {fact.position}"
        raise InvalidInput(what=what, field="data", reason=f"does not fit what {name} declares about it") from None

    scope: dict[str, Any] = {"time_us": time_us, "drop_old_tiles": algebra.drop_old_tiles, "mark": mark, "refuse": refuse}
    body = "\n    ".join(lines)
    exec(f"def add(s, fact):\n    {body}\n", scope)
    return scope["add"]  # type: ignore[no-any-return]


def _branch(kind: str, leaves: tuple[Leaf[Any], ...]) -> list[str]:
    """Lines for a fact of one kind: times, then expressions, then the leaves that read it."""
    emitter = Emitter()
    updates: list[str] = []
    mine = [(i, leaf) for i, leaf in enumerate(leaves, _HEAD) if kind in leaf.kinds]
    for index, leaf in mine:
        names = [emitter.name(part) if part is not None else "" for part in (leaf.value, leaf.where, leaf.by)]
        updates += algebra.emit(leaf, f"s[{index}]", kind, *names)
    lines = [*emitter.lines, "o = s[0]", "if o is None or at > o: s[0] = at", "if pos > s[1]: s[1] = pos"]
    if any(leaf.window for _, leaf in mine):
        lines.append(f"tile = at // {DAY_US}")
    return lines + updates
