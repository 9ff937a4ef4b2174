"""Training rows from a log: which customers existed when, which facts were theirs and known, what agents decided about them.

Part of the wiring: may import everything below `app`. What a row is, is `projections.training`; what is kept about a data set is
`projections.datasets`. Reads the facts of the kinds that are asked for; memory grows with their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final

from postsale.access import TenantKeys
from postsale.aggregates.decisions import DecisionRecorded
from postsale.aggregates.identity import CUSTOMERS, IDENTITY_KINDS, MergedInto, SplitFrom, StreamJoined, StreamParted
from postsale.errors import InvalidInput
from postsale.events import Header, Lane, StoredEvent, StreamId, to_us
from postsale.projections.datasets import Declared, Manifest, pseudonym
from postsale.projections.features import Features
from postsale.projections.fold import Fact, fact_of
from postsale.projections.journal import Entry, read_journal
from postsale.projections.training import Knowledge, Known, Subject, enters_us, pyarrow, training_table
from postsale.store.checkpoints import tree_of
from postsale.store.contract import Query
from postsale.store.log import Log

_EVER: Final = -(2**63)
_CLAIM: Final = b'"available_at_us"'


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """A data set: an Arrow table and what it is. `table.to_pandas()` and `polars.from_arrow(table)` make frames of it."""

    table: Any  # pyarrow.Table
    manifest: Manifest


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


# ---------------------------------------------------------------- who was who


@dataclass(slots=True)
class _Part:
    """A stream that belongs to a customer, by time of knowledge: from `since_us` until `until_us`, exclusive."""

    stream: StreamId
    since_us: int
    until_us: int | None = None

    def holds(self, us: int) -> bool:
        return self.since_us <= us and (self.until_us is None or us < self.until_us)


@dataclass(slots=True)
class _History:
    """Which streams made up which customer, and who was part of whom, at every time of knowledge."""

    parts: dict[str, list[_Part]] = field(default_factory=dict)  # by reference, without its own stream
    merges: dict[str, list[tuple[int, str | None]]] = field(default_factory=dict)  # by reference: from when, into whom

    @classmethod
    def read(cls, log: Log, tenant: str, upto: int) -> _History:
        history = cls()
        query = Query(tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=IDENTITY_KINDS, upto=upto)
        for event in log.events(query):
            ref, at = event.stored.stream.id, event.stored.recorded_at_us
            match event.data:
                case StreamJoined(category=category, id=id_):
                    history.parts.setdefault(ref, []).append(_Part(StreamId(tenant, category, id_), at))
                case StreamParted(category=category, id=id_):
                    for part in history.parts.get(ref, ()):
                        if part.stream == StreamId(tenant, category, id_) and part.until_us is None:
                            part.until_us = at
                case MergedInto(survivor=survivor):
                    history.merges.setdefault(ref, []).append((at, survivor))
                case SplitFrom():
                    history.merges.setdefault(ref, []).append((at, None))
        return history

    def survivor(self, ref: str, us: int | None) -> str:
        """The customer that this one was part of, as known at `us` (None: by the end); itself unless merged."""
        into = None
        for at, survivor in self.merges.get(ref, ()):
            if us is None or at <= us:
                into = survivor
        return ref if into is None else self.survivor(into, us)


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
        self._history = _History.read(log, tenant, self._position)
        self._facts = self._read_facts()

    def made(self, keys: TenantKeys) -> TrainingRows:
        """The table and its manifest. Raises MissingExtra, InvalidInput, and what an unreadable event raises."""
        q = self._q
        extra = self._treatment_types() if q.agent is not None else None
        subjects = [self._subject(ref, points, keys) for ref, points in sorted(self._points().items())]
        table = training_table(
            q.features,
            subjects,
            lag_us=q.lag_us,
            outcome=q.outcome,
            horizon_us=q.horizon_us,
            until_us=self._until_us,
            extra=extra,
        )
        return TrainingRows(table, self._manifest(table, keys))

    # ------------------------------------------------------------ facts

    def _read_facts(self) -> dict[StreamId, list[tuple[int, Fact]]]:
        """The facts of the kinds that are asked for, by stream, each with the time from which it was known."""
        kinds = {kind for cls in (self._q.features, self._q.outcome) if cls for leaf in cls.leaves.values() for kind in leaf.kinds}
        found: dict[StreamId, list[tuple[int, Fact]]] = {}
        claimed = self._q.knowledge == "claimed"
        query = Query(tenant=self._tenant, lane=Lane.FACT, kinds=frozenset(kinds), upto=self._position)
        for stored in self._log.store.read(query):
            known_us = _claimed_us(stored) if claimed else stored.recorded_at_us
            found.setdefault(stored.stream, []).append((known_us, fact_of(stored)))
        return found

    def _parts(self, ref: str) -> list[_Part]:
        return [_Part(StreamId(self._tenant, CUSTOMERS, ref), _EVER), *self._history.parts.get(ref, ())]

    def _known(self, ref: str) -> list[Known]:
        """What the rows of a customer may use. By claim, who is who is taken as it is known in the end: links are not claimed."""
        q, out = self._q, []
        for part in self._parts(ref):
            if q.knowledge == "claimed":
                if part.until_us is None:
                    out += [Known(enters_us(f, us, q.lag_us), None, f) for us, f in self._facts.get(part.stream, ())]
                continue
            leaves = None if part.until_us is None else part.until_us - q.lag_us
            out += [Known(enters_us(f, max(us, part.since_us), q.lag_us), leaves, f) for us, f in self._facts.get(part.stream, ())]
        return out

    def _later(self, ref: str) -> list[Fact]:
        """What counts as outcome: all facts of the customer, and of whom it is part of, as known in the end."""
        parts = {part.stream for part in self._parts(self._history.survivor(ref, None)) if part.until_us is None}
        parts |= {StreamId(self._tenant, CUSTOMERS, ref)}
        return [fact for stream in sorted(parts) for _, fact in self._facts.get(stream, ())]

    # ------------------------------------------------------------ points

    def _points(self) -> dict[str, list[int]]:
        """Points by reference, ascending, each once."""
        q = self._q
        found: dict[str, set[int]] = {}
        if q.points is not None:
            for ref, at in q.points:
                found.setdefault(self._whole(ref, at), set()).add(at)
        elif q.at_us:
            kinds = {kind for leaf in q.features.leaves.values() for kind in leaf.kinds}
            for ref in self._customers():
                first = min((k.enters_us for k in self._known(ref) if k.fact.kind in kinds), default=None)
                mine = {at for at in q.at_us if first is not None and first <= at and self._whole(ref, at) == ref}
                if mine:
                    found[ref] = mine
        else:
            for entry in self._decisions:
                found.setdefault(entry.stream.id, set()).add(_decided_us(entry))
        return {ref: sorted(points) for ref, points in found.items()}

    def _whole(self, ref: str, at: int) -> str:
        """The customer that this one was part of, as a row at this point may know it."""
        return self._history.survivor(ref, None if self._q.knowledge == "claimed" else at + self._q.lag_us)

    def _customers(self) -> list[str]:
        own = {stream.id for stream in self._facts if stream.category == CUSTOMERS}
        return sorted(own | self._history.parts.keys())

    def _subject(self, ref: str, points: list[int], keys: TenantKeys) -> Subject:
        later = self._later(ref) if self._q.outcome is not None else []
        extra = {at: self._treatment(ref, at) for at in points} if self._q.agent is not None else {}
        return Subject(pseudonym(keys.blind, ref), points, self._known(ref), later, extra)

    # ------------------------------------------------------------ treatment

    @cached_property
    def _decisions(self) -> list[Entry]:
        """The agent's decisions, oldest first, with what had become of each by the end."""
        entries = read_journal(self._log.store, self._tenant, known_at_us=self._known_at_us)
        return [entry for entry in entries if entry.agent == self._q.agent and entry.position <= self._position]

    @cached_property
    def _decisions_by_customer(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self._decisions:
            found.setdefault(entry.stream.id, []).append(entry)
        return found

    def _treatment_types(self) -> dict[str, Any]:
        pa = pyarrow()
        return {
            "decided_at": pa.timestamp("us", tz="UTC"),
            "treatment": pa.string(),
            "disposition": pa.string(),
            "eligible_actions": pa.list_(pa.string()),
            "eligible_propensity_ppm": pa.list_(pa.int64()),
            "propensity_ppm": pa.int64(),
        }

    def _treatment(self, ref: str, at: int) -> Mapping[str, Any]:
        """The agent's first decision from the point on, within the horizon where there is one; at the point itself without."""
        last = at + self._q.horizon_us
        entry = next((e for e in self._decisions_by_customer.get(ref, ()) if at <= _decided_us(e) <= last), None)
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


def table_digest(table: Any) -> str:
    """SHA-256, hex, of the table as one Arrow IPC stream of one batch."""
    pa = pyarrow()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _declared(features: type[Features]) -> Declared:
    return Declared(features.__name__, features.version, features.digest, features.owner)


def _claimed_us(stored: StoredEvent) -> int:
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
