"""Training rows from a log: which customers existed when, which facts were theirs and known, what agents decided about them.

Part of the wiring: may import everything below `app`. What a row is, is `projections.training`; what is kept about a data set is
`projections.datasets`. Reads the facts of the kinds that are asked for; memory grows with their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Final

from postsale.access import TenantKeys
from postsale.aggregates.decisions import DecisionRecorded
from postsale.aggregates.identity import CUSTOMERS
from postsale.app.lineage import EVER, Lineage, Part
from postsale.app.related import Ids
from postsale.errors import InvalidInput
from postsale.events import Header, Lane, StoredEvent, StreamId, to_us
from postsale.projections.algebra import Leaf
from postsale.projections.columnar_duckdb import duckdb_connection
from postsale.projections.columnar_expressions import column_of
from postsale.projections.datasets import Declared, Manifest, pseudonym
from postsale.projections.expressions import Field
from postsale.projections.features import Features
from postsale.projections.feeding import load_facts
from postsale.projections.folding import Fact, Fold, fact_of
from postsale.projections.journal import Entry, read_journal
from postsale.projections.related import Who, all_named
from postsale.projections.runner import CATEGORIES
from postsale.projections.training import TREATMENT, Knowledge, Known, Subject, enters_us, pyarrow, training_table
from postsale.projections.training_columns import known_facts, training_columns
from postsale.store.checkpoints import tree_of
from postsale.store.contract import Query
from postsale.store.log import Log

_CLAIM: Final = b'"available_at_us"'


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """A data set: an Arrow table and what it is. `table.to_pandas()` and `polars.from_arrow(table)` make frames of it."""

    table: Any  # pyarrow.Table
    manifest: Manifest

    def __repr__(self) -> str:
        """What it is, not what is in it."""
        m = self.manifest
        return f"TrainingRows({m.name!r}, {m.rows:,} rows of {m.customers:,} customers, {len(m.columns)} columns, data set {m.id[:12]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked for; see `Tenant.training_rows`. Times in microseconds."""

    name: str
    features: type[Features]
    outcome: type[Features] | None = None
    horizon_us: int = 0
    knowledge: Knowledge = "recorded"
    lag_us: int = 0
    at_us: tuple[int, ...] = ()  # every customer that was known at each of these
    points: tuple[tuple[str, int], ...] | None = None  # reference and time
    agent: str | None = None  # treatment columns; alone, its decisions are the points
    until_us: int | None = None
    known_at_us: int | None = None

    def __post_init__(self) -> None:
        def refuse(field: str, reason: str) -> None:
            raise InvalidInput(what="training_rows", field=field, reason=reason)

        if not self.name or len(self.name) > 100 or not self.name.isprintable():
            refuse("name", "expected 1 to 100 printable characters: the data set is remembered by it")
        if self.knowledge not in ("recorded", "claimed"):
            refuse("knowledge", "expected recorded or claimed")
        if self.lag_us < 0:
            refuse("lag", "is negative; a row cannot be scored before the time that it is about")
        if self.at_us and self.points is not None:
            refuse("at", "expected times for every customer, or points, not both")
        if not self.at_us and self.points is None and self.agent is None:
            refuse("at", "expected times, points, or the agent whose decisions are the points")
        if (self.outcome is None) != (self.horizon_us <= 0):
            refuse("within", "an outcome needs a horizon above 0, and a horizon an outcome")
        if self.outcome is not None and self.outcome.relations:
            refuse("outcome", "reads across customers; a label is what came of the customer's own facts after the point")


# ---------------------------------------------------------------- the rows


class Rows:
    """One question to one tenant's log."""

    def __init__(self, log: Log, tenant: str, question: Question) -> None:
        self._log = log
        self._tenant = tenant
        self._q = question
        newest = next(iter(log.store.read(Query(known_at_us=question.known_at_us, backward=True, limit=1))), None)
        self._position = newest.position if newest else 0
        now_us = log.clock.now_us() if question.known_at_us is None else question.known_at_us
        self._known_at_us = max(now_us, newest.recorded_at_us if newest else 0) if question.known_at_us is None else now_us
        self._until_us = now_us if question.until_us is None else question.until_us
        self._lineage = Lineage.read(log, tenant, self._position)

    def made(self, keys: TenantKeys, *, by_query: bool | None = None) -> TrainingRows:
        """The table and its manifest: by DuckDB where the extra `batch` is installed, else by the fold, the same rows.

        Raises MissingExtra, InvalidInput, StoreUnavailable, and what an unreadable event raises.
        """
        if by_query is None:
            by_query = find_spec("duckdb") is not None and find_spec("ibis") is not None
        table, refs = self._by_query(keys) if by_query else self._by_fold(keys)
        if self._q.agent is not None:
            table = self._with_treatment(table, refs)
        return TrainingRows(table, self._manifest(table, keys))

    def nobody_claims(self) -> bool:
        """Whether claimed knowledge was asked for of facts none of which has a claim: then it is what recorded knowledge is."""
        if self._q.knowledge != "claimed" or not self._q.at_us:
            return False
        kinds = frozenset(kind for leaf in self._q.features.leaves.values() for kind in leaf.kinds)
        query = Query(tenant=self._tenant, lane=Lane.FACT, kinds=kinds, upto=self._position)
        facts = [_CLAIM in stored.header for stored in self._log.store.read(query)]
        return bool(facts) and not any(facts)

    def _asked(self) -> dict[str, Any]:
        q = self._q
        everybody = bool(q.at_us)
        return {
            "lag_us": q.lag_us,
            "outcome": q.outcome,
            "horizon_us": q.horizon_us,
            "until_us": self._until_us,
            "only_known": everybody,
        }

    def _ids(self, named: Iterable[tuple[str, str]]) -> Ids:
        ever = self._q.knowledge == "claimed"
        return Ids.read(self._log, self._tenant, self._q.features.relations, named, self._lineage, ever=ever)

    def _merged(self, ref: str) -> list[tuple[int, int | None]]:
        """When a customer was part of another one, by time of knowledge."""
        if self._q.knowledge == "claimed":
            return [(EVER, None)] if self._lineage.survivor(ref, None) != ref else []
        return list(self._lineage.spans_merged(ref))

    def _whole(self, ref: str, at: int) -> str:
        """The customer that this one was part of, as a row at this point may know it. Who is who is not claimed by sources: then, as known in the end."""
        return self._lineage.survivor(ref, None if self._q.knowledge == "claimed" else at + self._q.lag_us)

    @cached_property
    def _named_points(self) -> set[tuple[str, int]] | None:
        """The points that were named one by one; None for every customer at each time."""
        if self._q.at_us:
            return None
        named = self._q.points if self._q.points is not None else [(e.stream.id, _decided_us(e)) for e in self._decisions]
        return {(self._whole(ref, at), at) for ref, at in named}

    def _parts(self, ref: str) -> list[Part]:
        """The streams of a customer as its rows may know them."""
        parts = self._lineage.of(ref, self._tenant)
        return [Part(p.stream, EVER) for p in parts if p.until_us is None] if self._q.knowledge == "claimed" else parts

    # ------------------------------------------------------------ by query

    def _by_query(self, keys: TenantKeys) -> tuple[Any, dict[str, str]]:
        pa, q, query = pyarrow(), self._q, Query(tenant=self._tenant, upto=self._position)
        claimed = q.knowledge == "claimed"
        text, number = pa.string(), pa.int64()

        def register(name: str, columns: dict[str, Any], rows: Iterable[tuple[Any, ...]]) -> None:
            given = list(rows)
            arrays = [pa.array([row[i] for row in given], kind) for i, kind in enumerate(columns.values())]
            connection.register(name, pa.table(arrays, names=list(columns)))

        with duckdb_connection() as connection:
            load_facts(connection, q.features, self._log.store, query, name="facts_read", available=claimed)
            known_facts(connection, "facts", claimed=claimed)
            streams = "SELECT key FROM facts_read"
            if q.outcome is not None:
                load_facts(connection, q.outcome, self._log.store, query, name="later_read")
                known_facts(connection, "later", claimed=False)
                streams += " UNION SELECT key FROM later_read"
            own = f"SELECT DISTINCT key AS stream, substr(key, {len(self._prefix) + 1}) AS ref FROM ({streams}) WHERE starts_with(key, $prefix)"
            connection.execute(f"CREATE TEMP TABLE own AS {own}", {"prefix": self._prefix})
            joined = [(str(p.stream), ref, p.since_us, p.until_us) for ref in self._lineage.parts for p in self._parts(ref)[1:]]
            register("joined", {"stream": text, "ref": text, "since_us": number, "until_us": number}, joined)
            ever = f"SELECT stream, ref, {EVER}::BIGINT AS since_us, NULL::BIGINT AS until_us FROM own"
            connection.execute(f"CREATE TEMP TABLE owners AS {ever} UNION ALL FROM joined")
            ends = [(str(s), ref) for ref in self._lineage.refs() for s in self._lineage.in_the_end(ref, self._tenant)]
            everybody = "SELECT ref FROM owners"
            register("ends", {"stream": text, "ref": text}, ends)
            connection.execute("CREATE TEMP TABLE later_owners AS SELECT stream, ref FROM own UNION FROM ends")
            if q.features.relations:
                pairs = {(name, id_) for name in q.features.relations for id_ in _ids_read(connection, q.features.leaves[name])}
                ids, span = self._ids(pairs), {"since_us": number, "until_us": number}
                register("who", {"relation": text, "id": text, "ref": text, **span}, ids.spans())
                register("merged", {"ref": text, **span}, ((ref, *s) for ref in self._lineage.merges for s in self._merged(ref)))
                everybody += " UNION SELECT ref FROM who"
            if (named := self._named_points) is not None:
                register("points", {"ref": text, "as_of_us": number}, named)
            else:
                register("times", {"as_of_us": number}, [(at,) for at in q.at_us])
                connection.execute(
                    f"CREATE TEMP TABLE points AS SELECT ref, as_of_us FROM (SELECT DISTINCT ref FROM ({everybody})) CROSS JOIN times"
                )
                gone = [(ref, at) for ref in self._lineage.merges for at in q.at_us if self._whole(ref, at) != ref]
                register("gone", {"ref": text, "as_of_us": number}, gone)
                connection.execute("DELETE FROM points WHERE (ref, as_of_us) IN (SELECT (ref, as_of_us) FROM gone)")
            refs = [ref for (ref,) in connection.execute("SELECT DISTINCT ref FROM points").fetchall()]
            names = {pseudonym(keys.blind, ref): ref for ref in refs}
            register("names", {"ref": text, "customer": text}, [(ref, name) for name, ref in names.items()])
            return training_columns(connection, q.features, **self._asked()), names

    @property
    def _prefix(self) -> str:
        return f"{self._tenant}/{CUSTOMERS}/"

    # ------------------------------------------------------------ by fold

    def _by_fold(self, keys: TenantKeys) -> tuple[Any, dict[str, str]]:
        facts, relations, fold = self._read_facts(), self._q.features.relations, Fold(self._q.features)
        ids = self._ids(all_named(fold, (fold.fold([f]) for own in facts.values() for _, f in own))) if relations else Ids()
        customers = {stream.id for stream in facts if stream.category == CUSTOMERS} | self._lineage.parts.keys() | ids.refs()
        points: dict[str, list[int]] = {}
        if (named := self._named_points) is not None:
            for ref, at in sorted(named):
                points.setdefault(ref, []).append(at)
        else:
            points = {ref: [at for at in self._q.at_us if self._whole(ref, at) == ref] for ref in customers}
        names = {pseudonym(keys.blind, ref): ref for ref in points}
        others = {pseudonym(keys.blind, ref): ref for ref in customers - points.keys()} if relations else {}  # anybody may be a member
        subjects = (self._subject(ref, name, points.get(ref, []), facts) for name, ref in {**names, **others}.items())

        def who(at: int) -> Who[str]:
            find = ids.who(at + self._q.lag_us)

            def pseudonymous(relation: str, id_: str) -> str | None:
                ref = find(relation, id_)
                return None if ref is None else pseudonym(keys.blind, ref)

            return pseudonymous

        return training_table(self._q.features, subjects, **self._asked(), who=who), names

    def _read_facts(self) -> dict[StreamId, list[tuple[int, Fact]]]:
        """The facts of the kinds that are asked for, by stream, each with the time from which it was known."""
        kinds = {kind for cls in (self._q.features, self._q.outcome) if cls for leaf in cls.leaves.values() for kind in leaf.kinds}
        found: dict[StreamId, list[tuple[int, Fact]]] = {}
        claimed = self._q.knowledge == "claimed"
        query = Query(tenant=self._tenant, lane=Lane.FACT, kinds=frozenset(kinds), upto=self._position)
        for stored in self._log.store.read(query):
            if stored.stream.category in CATEGORIES:
                known_us = claimed_us(stored) if claimed else stored.recorded_at_us
                found.setdefault(stored.stream, []).append((known_us, fact_of(stored)))
        return found

    def _subject(self, ref: str, name: str, points: list[int], facts: Mapping[StreamId, list[tuple[int, Fact]]]) -> Subject:
        lag_us, known, later = self._q.lag_us, [], []
        for part in self._parts(ref):
            leaves = None if part.until_us is None else part.until_us - lag_us
            known += [Known(enters_us(f, max(us, part.since_us), lag_us), leaves, f) for us, f in facts.get(part.stream, ())]
        if self._q.outcome is not None:
            for stream in sorted(self._lineage.in_the_end(ref, self._tenant)):
                later += [fact for _, fact in facts.get(stream, ())]
        merged = [(since - lag_us, None if until is None else until - lag_us) for since, until in self._merged(ref)]
        return Subject(name, points, known, later, merged)

    # ------------------------------------------------------------ treatment

    @cached_property
    def _decisions(self) -> list[Entry]:
        """The agent's decisions, oldest first, with what had become of each by the end."""
        entries = read_journal(self._log.store, self._tenant, known_at_us=self._known_at_us)
        return [entry for entry in entries if entry.agent == self._q.agent and entry.position <= self._position]

    def _with_treatment(self, table: Any, refs: Mapping[str, str]) -> Any:
        pa = pyarrow()
        at, texts, numbers = pa.timestamp("us", tz="UTC"), pa.list_(pa.string()), pa.list_(pa.int64())
        decided: dict[str, list[Entry]] = {}
        for entry in self._decisions:
            decided.setdefault(entry.stream.id, []).append(entry)
        customers, times = table.column("customer").to_pylist(), table.column("as_of").cast(pa.int64()).to_pylist()
        rows = [self._treatment(decided.get(refs[name], ()), us) for name, us in zip(customers, times, strict=True)]
        for name, kind in zip(TREATMENT, (at, pa.string(), pa.string(), texts, numbers, pa.int64()), strict=True):
            table = table.append_column(name, pa.array([row.get(name) for row in rows], kind))
        return table

    def _treatment(self, entries: Iterable[Entry], at: int) -> Mapping[str, Any]:
        """The first decision from the point on, within the horizon where there is one; at the point itself without."""
        entry = next((e for e in entries if at <= _decided_us(e) <= at + self._q.horizon_us), None)
        if entry is None:
            return {}
        recorded: DecisionRecorded = entry.recorded
        chosen = next((e.propensity_ppm for e in recorded.eligible if e.action == recorded.action and e.rule == recorded.rule), None)
        return {
            "decided_at": _decided_us(entry),
            "treatment": recorded.action if entry.disposition == "acted" else None,
            "disposition": entry.disposition,
            "eligible_actions": [e.action for e in recorded.eligible],
            "eligible_propensity_ppm": [e.propensity_ppm for e in recorded.eligible],
            "propensity_ppm": chosen,
        }

    # ------------------------------------------------------------ the manifest

    def _manifest(self, table: Any, keys: TenantKeys) -> Manifest:
        q, store = self._q, self._log.store
        newest = Query(tenant=self._tenant, upto=self._position, backward=True, limit=1)
        size = next((stored.leaf_index + 1 for stored in store.read(newest)), 0)
        return Manifest(
            name=q.name,
            tenant=self._tenant,
            log_id=store.log_id,
            position=self._position,
            tree_size=size,
            tree_root=tree_of(store, self._tenant).root(size).hex(),
            known_at_us=self._known_at_us,
            knowledge=q.knowledge,
            lag_us=q.lag_us,
            horizon_us=q.horizon_us,
            until_us=self._until_us,
            features=_declared(q.features),
            outcome=None if q.outcome is None else _declared(q.outcome),
            agent=q.agent,
            key_id=keys.id,
            rows=table.num_rows,
            censored=sum(table.column("censored").to_pylist()) if q.outcome is not None else 0,
            customers=len(set(table.column("customer").to_pylist())),
            columns=tuple((field.name, str(field.type)) for field in table.schema),
            sha256=table_digest(table),
            written_by=f"postsale {version('postsale')}, pyarrow {pyarrow().__version__}",
        )


def _ids_read(connection: Any, relation: Leaf[Any]) -> list[str]:
    """Every id that a fact of a relation names."""
    if not isinstance(relation.value, Field):
        raise AssertionError("a text is a field: texts are not calculated with")
    column = column_of(relation.value)
    rows = connection.execute(
        f'SELECT DISTINCT "{column}" FROM facts_read WHERE "{column}" IS NOT NULL AND list_contains($kinds, kind)',
        {"kinds": list(relation.kinds)},
    )
    return [id_ for (id_,) in rows.fetchall()]


def table_digest(table: Any) -> str:
    """SHA-256, hex, of the table as one Arrow IPC stream of one batch."""
    pa = pyarrow()
    # Copied row by row: what an engine left below a null is no part of the table, and differs from run to run.
    copied = table.combine_chunks().take(pa.array(range(table.num_rows), pa.int64())).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(copied)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _declared(features: type[Features]) -> Declared:
    return Declared(features.__name__, features.version, features.digest, features.owner)


def claimed_us(stored: StoredEvent) -> int:
    """When the source says that the fact was knowable; when it was recorded, where the source says nothing."""
    if _CLAIM not in stored.header:
        return stored.recorded_at_us
    claimed = Header.from_bytes(stored.header).available_at_us
    return stored.recorded_at_us if claimed is None else claimed


def _decided_us(entry: Entry) -> int:
    return to_us(entry.decided_at)


def microseconds(span: timedelta | None) -> int:
    """A span in microseconds; 0 for None."""
    return 0 if span is None else span // timedelta(microseconds=1)


def ascending(times: Iterable[datetime]) -> tuple[int, ...]:
    """Times in microseconds, ascending, each once."""
    return tuple(sorted({to_us(at) for at in times}))
