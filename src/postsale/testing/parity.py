"""That one declaration gives one answer: folded live, folded in parts, computed by DuckDB over all history, or handed from one to the other.

`assert_parity(Billing)` makes its own facts from the declaration, or takes yours. No claims about shipped projections here. Needs the extra `batch`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from postsale.events import DAY_US, MAX_INT, iso, registry
from postsale.projections import Fact, Features, FeatureValues, Fold, Leaf, Related
from postsale.projections.columnar import empty_values, finished_rows, fold_state, state_table, value_table
from postsale.projections.columnar_duckdb import duckdb_connection, read, table
from postsale.projections.columnar_expressions import Table
from postsale.projections.expressions import Const, Expression, Field, Op, evaluate
from postsale.projections.feeding import facts_table, fields_read
from postsale.projections.related import exchanged, gathered
from postsale.store.segments import pyarrow

Facts = Sequence[tuple[str, Fact]]
Engine = Callable[[Any, Callable[[Table], Table]], list[dict[str, Any]]]
"""`engine(arrow_facts, expression)`: rows of an expression over the facts, as Python; `expression` makes it from an Ibis table."""

_WEEK: Final = 7
_KEYS: Final = 12
_NOBODY: Final = "nobody has this id"
_ONLY_NAMED: Final = "nothing is known of this key"


def duckdb_engine(facts: Any, expression: Callable[[Table], Table]) -> list[dict[str, Any]]:
    """DuckDB in this process."""
    with duckdb_connection() as connection:
        connection.register("facts", facts)
        return [row for batch in read(connection, expression(table(connection, "facts"))) for row in batch.to_pylist()]


def assert_parity(
    features: type[Features],
    facts: Facts | None = None,
    *,
    seed: int | None = None,
    engines: Mapping[str, Engine] | None = None,
    ids: Mapping[str, str] | None = None,
) -> None:
    """AssertionError, naming seed, key, feature and both values, when two ways of computing `features` differ over the same facts.

    Compared with the plain fold, byte for byte: any order, any split into parts that are merged, stored and loaded again; each engine's
    state; and an engine's state up to a position with the live fold from the next one on. And by value, at several times, some before
    the newest fact: each engine's finished features. `facts` are yours, by key, positions ascending; else random ones, see
    `random_facts`. `engines` are DuckDB unless given.

    Features `across` customers are compared with the naive reading instead: of each key whose member it is by its newest fact then, and
    all the facts of the members folded as one. `ids` say which key an id stands for: those of `random_ids` with random facts, else each key is its own id.
    """
    seed = random.randrange(2**32) if seed is None else seed
    rng = random.Random(seed)
    if ids is None:
        ids = random_ids(seed) if facts is None else {key: key for key, _ in facts}
    facts = random_facts(features, seed) if facts is None else list(facts)
    check = _Check(features, facts, seed, ids)
    check.fold_in_any_order(rng)
    check.exchanged(rng)
    for name, engine in ({"DuckDB": duckdb_engine} if engines is None else engines).items():
        check.state(name, engine)
        check.handover(name, engine, rng)
        check.values(name, engine, rng)


class _Check:
    def __init__(self, features: type[Features], facts: Facts, seed: int, ids: Mapping[str, str]) -> None:
        self._features, self._facts, self._seed, self._ids = features, facts, seed, ids
        self._fold = Fold(features)
        self._expected = self._states(facts)

    def _states(self, facts: Iterable[tuple[str, Fact]], into: dict[str, Any] | None = None) -> dict[str, Any]:
        states = {} if into is None else into
        for key, fact in facts:
            if fact.kind in self._fold.kinds:
                self._fold.add(states.setdefault(key, self._fold.empty()), fact)
        return states

    def _same(self, way: str, states: dict[str, Any]) -> None:
        fold = self._fold
        names = ("newest", "position", *self._features.leaves)
        for key in sorted({*states, *self._expected}):
            found, expected = states.get(key, fold.empty()), self._expected.get(key, fold.empty())
            if fold.dump(found) != fold.dump(expected):
                for name, one, other in zip(names, found, expected, strict=True):
                    self._equal(f"state {way}", key, name, one, other)
                raise AssertionError(self._say(f"state {way}", key, "bytes", fold.dump(found), fold.dump(expected)))

    def _equal(self, way: str, key: str, name: str, found: Any, expected: Any) -> None:
        if found != expected or type(found) is not type(expected):
            raise AssertionError(self._say(way, key, name, found, expected))

    def _say(self, way: str, key: str, name: str, found: object, expected: object) -> str:
        return f"{self._features.__name__}.{name} of {key}, {way}: {found!r}, the fold gives {expected!r} (seed={self._seed})"

    def fold_in_any_order(self, rng: random.Random) -> None:
        fold = self._fold
        shuffled = rng.sample(self._facts, len(self._facts))
        self._same("folded in another order", self._states(shuffled))
        cut = rng.randrange(len(shuffled) + 1)
        one, other = self._states(shuffled[:cut]), self._states(shuffled[cut:])
        parts = {
            key: fold.load(fold.dump(fold.merge(one.get(key, fold.empty()), fold.load(fold.dump(other.get(key, fold.empty()))))))
            for key in {*one, *other}
        }
        self._same("folded in two parts and merged", parts)

    def _states_by(self, engine: Engine, facts: Facts) -> dict[str, Any]:
        rows = engine(self._table(facts), lambda t: state_table(self._features, t, keys=["key"]))
        return {row["key"]: fold_state(self._features, row) for row in rows}

    def state(self, name: str, engine: Engine) -> None:
        self._same(f"by {name}", self._states_by(engine, self._facts))

    def handover(self, name: str, engine: Engine, rng: random.Random) -> None:
        if not self._facts:
            return
        cut = rng.choice([fact.position for _, fact in self._facts])
        before = [pair for pair in self._facts if pair[1].position <= cut]
        states = {key: self._fold.load(self._fold.dump(state)) for key, state in self._states_by(engine, before).items()}
        after = [pair for pair in self._facts if pair[1].position > cut]
        self._same(f"by {name} up to position {cut}, folded from there", self._states(after, states))

    def values(self, name: str, engine: Engine, rng: random.Random) -> None:
        """At one time for all, and at several times for each key at once, as training rows ask."""
        times = sorted({fact.occurred_at_us for _, fact in self._facts}) or [0]
        facts, newest = self._table(self._facts), times[-1]
        rows = engine(facts, lambda t: value_table(self._features, t, keys=["key"], as_of=newest))
        self._values_at(f"by {name}", newest, rows)
        points = sorted({newest + 3 * DAY_US, *(rng.choice(times) + rng.randrange(2) for _ in range(3))})
        pa = pyarrow()
        each = [facts.append_column("point_us", pa.array([at] * facts.num_rows, pa.int64())) for at in points]
        keys = ["key", "point_us"]
        rows = engine(pa.concat_tables(each), lambda t: value_table(self._features, t, keys=keys, as_of="point_us"))
        for at in points:
            self._values_at(f"by {name} at points", at, [row for row in rows if row["point_us"] == at])

    def _values_at(self, way: str, as_of: int, rows: list[dict[str, Any]]) -> None:
        way = f"{way} as of {iso(as_of)}"
        found = {row["key"]: row for row in finished_rows(self._features, rows)}
        every = self._naively(as_of)
        if extra := found.keys() - every.keys():
            raise AssertionError(self._say(way, min(extra), "(row)", "a row", "none"))
        for key, values in every.items():
            row = found.get(key) or empty_values(self._features)
            for feature, expected in values.items():
                self._equal(way, key, feature, row[feature], expected)
            if key in found:
                self._equal(way, key, "newest_us", found[key]["newest_us"], values.newest_us)

    # ------------------------------------------------------------ across customers

    def _who(self, _: str, id_: str) -> str | None:
        return self._ids.get(id_)

    def _table(self, facts: Facts) -> Any:
        return facts_table(self._features, facts, self._who)

    def _naively(self, as_of: int) -> dict[str, FeatureValues]:
        """Finished values by the plainest means: the facts of a member are found by its key, and those of all members folded as one."""
        by_key: dict[str, list[Fact]] = {}
        for key, fact in self._facts:
            if fact.kind in self._fold.kinds and fact.occurred_at_us <= as_of:
                by_key.setdefault(key, []).append(fact)
        belongs: dict[str, dict[str, list[Fact]]] = {}  # whom they belong to, relation, facts of all members
        for key, facts in by_key.items():
            for relation in self._features.relations:
                parent = self._ids.get(_named(self._features.leaves[relation], facts) or "")
                if parent not in (None, key):
                    belongs.setdefault(str(parent), {}).setdefault(relation, []).extend(facts)
        out = {}
        for key in by_key.keys() | belongs.keys():
            theirs = belongs.get(key, {})
            together = {relation: self._fold.fold(facts) for relation, facts in theirs.items()}
            states = {
                name: self._fold.part(together.get(leaf.across.relation) or self._fold.empty(), name)
                for name, leaf in self._features.leaves.items()
                if leaf.across is not None
            }
            all_ = [fact for facts in theirs.values() for fact in facts]
            newest = max((fact.occurred_at_us for fact in all_), default=None)
            related = Related(newest, max((fact.position for fact in all_), default=0), states)
            out[key] = self._fold.finish(self._fold.fold(by_key.get(key, ())), as_of, related)
        return out

    def exchanged(self, rng: random.Random) -> None:
        """Members' states, folded in another order and merged, against the naive reading."""
        if not self._features.relations:
            return
        times = sorted({fact.occurred_at_us for _, fact in self._facts}) or [0]
        for as_of in {times[-1], times[-1] + 3 * DAY_US, *(rng.choice(times) for _ in range(3))}:
            states = self._states(pair for pair in rng.sample(self._facts, len(self._facts)) if pair[1].occurred_at_us <= as_of)
            order = dict(rng.sample(list(states.items()), len(states)))
            theirs = exchanged(self._fold, order, self._who)
            every = self._naively(as_of)
            way = f"exchanged as of {iso(as_of)}"
            for key in every.keys() | states.keys() | theirs.keys():
                state, related = states.get(key) or self._fold.empty(), theirs.get(key) or gathered(self._fold, ())
                found = self._fold.finish(state, as_of, related)
                for feature, expected in every[key].items():
                    self._equal(way, key, feature, found[feature], expected)
                self._equal(way, key, "newest_us", found.newest_us, every[key].newest_us)


def _named(relation: Leaf[Any], facts: Iterable[Fact]) -> str | None:
    """The text of the newest of these facts that counts for the relation."""
    found: list[tuple[int, int, str]] = []
    for fact in facts:
        counts = fact.kind in relation.kinds and (relation.where is None or evaluate(relation.where, fact.fields) is True)
        value = evaluate(relation.value, fact.fields) if counts and relation.value is not None else None
        if value is not None:
            found.append((fact.occurred_at_us, fact.position, value))
    return max(found)[2] if found else None


# ---------------------------------------------------------------- facts


def random_facts(features: type[Features], seed: int, *, size: int = 400, keys: int = _KEYS) -> list[tuple[str, Fact]]:
    """Facts of the kinds that `features` reads, and of one that it does not, by key; the same seed gives the same facts.

    Many at equal times, on the edges of UTC days, before 1970, late by days; optional fields are absent, or hold values around the constants that
    conditions compare with. A field that says whose member a key is holds one of `random_ids`, few for a key: members move, belong to
    themselves, to one another, to nobody.
    """
    rng = random.Random(seed)
    reads = fields_read(features)
    constants = _constants(features)
    named = {leaf.value for leaf in (features.leaves[relation] for relation in features.relations)}
    ids = [*random_ids(seed, keys=keys), _NOBODY]
    longest = max((leaf.window.days for leaf in features.leaves.values() if leaf.window), default=_WEEK)
    start = rng.choice([20_000, 20_000, -3]) * DAY_US
    out: list[tuple[str, Fact]] = []
    for position in range(1, size + 1):
        kind = rng.choice([*sorted(reads), *sorted(reads), "nobody/reads-this"])
        known = start + position * 3 * longest * DAY_US // size
        at = known - rng.choice([0, 0, 0, rng.randrange(DAY_US), rng.randrange(2 * longest * DAY_US)])
        at = rng.choice([at, at // DAY_US * DAY_US, at // DAY_US * DAY_US - 1, out[-1][1].occurred_at_us if out else at])
        fields: dict[str, Any] = {}
        key = rng.randrange(keys)
        for field in sorted(reads.get(kind, ()), key=repr):
            required = registry.get(registry.versions(kind)[-1]).model_fields[field.name].is_required()
            if required or rng.random() > 0.15:
                fields[field.name] = _value(field, constants, rng)
                if field in named and rng.random() > 0.1:
                    fields[field.name] = ids[(key * 5 + rng.randrange(4)) % len(ids)]
        out.append((f"k{key}", Fact(kind, position, at, known, fields)))
    return out


def random_ids(seed: int, *, keys: int = _KEYS) -> dict[str, str]:
    """Ids for the keys of `random_facts`: some keys have two, as after a merge, one has no facts, and two keys have none."""
    rng = random.Random(seed + 1)
    ids = {f"id{n}": f"k{n % max(1, keys - 2)}" for n in range(keys + 4)}
    return ids | {f"id{rng.randrange(keys)}": _ONLY_NAMED}


def _value(field: Field, constants: Mapping[Field, set[Any]], rng: random.Random) -> Any:
    near = sorted(constants.get(field, ()), key=repr)
    match field.type:
        case "int":
            known = [value + step for value in near for step in (-1, 0, 1)]
            return rng.choice([rng.randrange(-9, 10), rng.randrange(10**6), 0, *(value for value in known if abs(value) <= MAX_INT)])
        case "str":
            return rng.choice([*near, *near, "a", "b", "c", "ü\n\"'{"])
        case "bool":
            return rng.random() < 0.5
        case "time":
            return iso(rng.choice([20_000, 20_001, -2]) * DAY_US + rng.choice([0, 1, rng.randrange(DAY_US)]))


def _constants(features: type[Features]) -> dict[Field, set[Any]]:
    """What the declaration compares each field with."""
    found: dict[Field, set[Any]] = {}

    def visit(expression: Expression | None) -> None:
        if not isinstance(expression, Op):
            return
        for one in expression.args:
            visit(one)
            for other in expression.args:
                if isinstance(one, Field) and isinstance(other, Const):
                    found.setdefault(one, set()).add(other.value)

    for leaf in features.leaves.values():
        for part in (leaf.value, leaf.where, leaf.by):
            visit(part)
    return found
