"""Health of customers now and at any past time, over merged streams: single reads from the log, lists in one pass.

Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from postsale.access import Unsealer
from postsale.aggregates.identity import CUSTOMERS, IDENTITY_KINDS, MergedInto, SplitFrom, StreamJoined, StreamParted
from postsale.aggregates.risk import RiskCaseClosed, RiskCaseOpened
from postsale.app.directory import Directory, Name
from postsale.events import Lane, StreamId
from postsale.projections.bulk import fold_all
from postsale.projections.folding import Fold, State
from postsale.projections.health import HealthModel, Score
from postsale.store.contract import Query
from postsale.store.log import Log

_CASE = frozenset({"risk/case-opened", "risk/case-closed"})


@dataclass(frozen=True, slots=True)
class CustomerRow:
    """One line of the customer list."""

    ref: str
    names: tuple[Name, ...]
    score: float | None
    band: str | None
    value_micro: int | None
    segment: str | None
    stage: str | None  # of its lifecycle
    row: str  # of the health model
    open_case: bool
    position: int  # of the newest fact that the score rests on, 0 without any
    last_fact_us: int | None

    @property
    def name(self) -> str:
        """The first id it was recorded under, for people."""
        return self.names[0].id if self.names else self.ref

    @property
    def ended(self) -> bool:
        """Every subscription ended, or the account was closed: there is nothing left to lose."""
        return self.stage == "churned"

    @property
    def at_risk(self) -> bool:
        """Band poor and not ended, or an open risk case."""
        return (self.band == "poor" and not self.ended) or self.open_case

    def to_dict(self) -> dict[str, Any]:
        return {
            "customer": self.names[0].id if self.names else None,
            "ref": self.ref,
            "score": self.score,
            "band": self.band,
            "segment": self.segment,
            "stage": self.stage,
            "row": self.row,
            "at_risk": self.at_risk,
            "open_case": self.open_case,
        }


@dataclass(frozen=True, slots=True)
class Membership:
    """Which streams make up which customer, of a whole tenant, at one time."""

    joined: dict[StreamId, tuple[StreamId, ...]]  # customer -> other streams
    merged: frozenset[StreamId]  # customers that are part of another one
    open_cases: frozenset[StreamId]


def membership(log: Log, tenant: str, as_of_us: int | None, known_at_us: int | None) -> Membership:
    """Folded from the few events that change it."""
    joined: dict[StreamId, tuple[StreamId, ...]] = {}
    merged: set[StreamId] = set()
    cases: dict[StreamId, int] = {}
    query = Query(tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=_CASE | IDENTITY_KINDS, known_at_us=known_at_us)
    for event in log.events(query):
        if event.stored.kind in _CASE and as_of_us is not None and event.stored.occurred_at_us > as_of_us:
            continue
        stream = event.stored.stream
        match event.data:
            case StreamJoined(category=category, id=id_):
                joined[stream] = (*joined.get(stream, ()), StreamId(tenant, category, id_))
            case StreamParted(category=category, id=id_):
                joined[stream] = tuple(s for s in joined.get(stream, ()) if s != StreamId(tenant, category, id_))
            case MergedInto():
                merged.add(stream)
            case SplitFrom():
                merged.discard(stream)
            case RiskCaseOpened():
                cases[stream] = cases.get(stream, 0) + 1
            case RiskCaseClosed():
                cases[stream] = cases.get(stream, 0) - 1
    return Membership(joined, frozenset(merged), frozenset(s for s, n in cases.items() if n > 0))


def states_of(
    log: Log, fold: Fold, tenant: str, as_of_us: int | None, known_at_us: int | None, known: Iterable[str] = ()
) -> Iterator[tuple[StreamId, State, int]]:
    """Every customer's state over all its streams, and the time to finish it at; by stream. `as_of_us` None is now.

    `known`: references of customers that are listed although no fact that the fold reads is known about them.
    """
    now_us = log.clock.now_us()
    states = dict(fold_all(log.store, fold, tenant, as_of_us, known_at_us))
    members = membership(log, tenant, as_of_us, known_at_us)
    prefix = f"{tenant}/{CUSTOMERS}/"
    own = {StreamId(tenant, CUSTOMERS, key.removeprefix(prefix)) for key in states if key.startswith(prefix)}
    own |= {StreamId(tenant, CUSTOMERS, ref) for ref in known}
    for stream in sorted(own | members.joined.keys()):
        if stream in members.merged:
            continue
        state = states.get(str(stream)) or fold.empty()
        for other in members.joined.get(stream, ()):
            if str(other) in states:
                state = fold.merge(state, states[str(other)])
        yield stream, state, max(now_us, fold.newest_us(state) or 0) if as_of_us is None else as_of_us


def scores(
    log: Log, model: HealthModel, tenant: str, as_of_us: int | None, known_at_us: int | None, known: Iterable[str] = ()
) -> Iterator[tuple[StreamId, State, Score, bool]]:
    """Every customer's state and score, with whether a risk case is open; by stream. `as_of_us` None is now, as in `health_of`.

    `known`: references of customers that are listed although no fact of the model is known about them.
    """
    open_cases = membership(log, tenant, as_of_us, known_at_us).open_cases
    for stream, state, at_us in states_of(log, model.fold, tenant, as_of_us, known_at_us, known):
        yield stream, state, model.score(model.fold.finish(state, at_us)), stream in open_cases


def customer_rows(
    log: Log, directory: Directory, model: HealthModel, tenant: str, as_of_us: int | None, known_at_us: int | None, unseal: Unsealer
) -> list[CustomerRow]:
    """Every customer, the least healthy first, those without any score last."""
    names = directory.names(tenant, unseal)
    rows = []
    now = as_of_us is None and known_at_us is None
    for stream, state, score, case in scores(log, model, tenant, as_of_us, known_at_us, names if now else ()):
        fold = model.fold
        rows.append(
            CustomerRow(
                stream.id,
                names.get(stream.id, ()),
                score.score,
                score.band,
                score.value_micro,
                score.applied.segment,
                score.applied.stage,
                score.applied.name,
                case,
                fold.position(state),
                fold.newest_us(state),
            )
        )
    return sorted(rows, key=lambda r: (r.value_micro is None, r.value_micro or 0, r.names, r.ref))
