"""What agents changed, from a tenant's own log: customers on whom they acted beside those whom chance held out. Part of the wiring.

A customer enters with the first decision under the hold-out that acted, asked, or would have, had the draw not left it alone. Up to
there the arms differ by chance only; whatever is different afterwards, an agent changed. May import everything below `app`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from postsale.agents.holdout import drawn_of
from postsale.agents.policy import Policy
from postsale.aggregates.artifacts import POLICIES, ArtifactPublished, untouched
from postsale.aggregates.decisions import DecisionRecorded
from postsale.aggregates.identity import CUSTOMERS
from postsale.app.health import Membership, membership
from postsale.app.outcomes import values_of
from postsale.audit.estimate import Difference, difference
from postsale.errors import InvalidInput
from postsale.events import DAY_US, Lane, to_us
from postsale.projections import outcomes as o
from postsale.projections.folding import FeatureValues
from postsale.projections.outcomes.revenue import FORGOTTEN
from postsale.projections.runner import CATEGORIES
from postsale.store.contract import Query
from postsale.store.log import Log

CHANGED: Final = "the share that is held out changed within the period: ask for each part of it alone"
_LOST: Final = "lost"


class _Entry(NamedTuple):
    """A customer's entry: when, into which arm, and the policy whose goal counts."""

    at_us: int
    held_out: bool
    percent: int
    agent: str
    policy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What acting changed of one outcome, per customer; without an estimate, why there is none."""

    name: str
    unit: str
    population: str
    estimate: Difference | None
    why: str = ""
    excluded: Mapping[str, int]
    currency: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "population": self.population,
            "estimate": None if self.estimate is None else self.estimate.to_dict(),
            "no_estimate_because": self.why or None,
            "excluded": dict(self.excluded),
            "currency": self.currency,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectReport:
    """The effects of the agents under one hold-out, or of one of them."""

    frame: o.Frame
    holdout: str
    percent: tuple[int, ...]  # that were in force, ascending
    agents: tuple[str, ...]  # whose decisions brought customers in
    treated: int
    held_out: int
    excluded: Mapping[str, int]
    effects: tuple[Effect, ...]

    def effect(self, name: str, currency: str | None = None) -> Effect:
        """The effect on this outcome; of several currencies the one that is named. InvalidInput when there is none, or more than one."""
        found = [e for e in self.effects if e.name == name and currency in (None, e.currency)]
        if len(found) != 1:
            known = ", ".join(e.name + (f" in {e.currency}" if e.currency else "") for e in self.effects)
            raise InvalidInput(what="effect", field="name", reason=f"expected one of: {known}")
        return found[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            **self.frame.to_dict(),
            "holdout": self.holdout,
            "percent": list(self.percent),
            "agents": list(self.agents),
            "treated": self.treated,
            "held_out": self.held_out,
            "excluded": dict(self.excluded),
            "effects": [e.to_dict() for e in self.effects],
        }


def effects_of(log: Log, tenant: str, frame: o.Frame, holdout: str | None = None, agent: str | None = None) -> tuple[EffectReport, ...]:
    """By name of the hold-out: of customers that entered in the period, as they are at its end. InvalidInput where nobody was held out."""
    members = membership(log, tenant, None, to_us(frame.known_at))
    entered = _entered(log, tenant, frame, members, agent)
    if holdout is not None:
        entered = {name: of for name, of in entered.items() if name == holdout}
    found = []
    for name in sorted(entered):
        entries, excluded = _of_period(entered[name], frame)
        if entries:
            found.append((name, entries, excluded))
    if not found:
        who = f" of {agent}" if agent is not None else ""
        named = f"a hold-out named {holdout!r}" if holdout is not None else "a hold-out"
        reason = f"no decision{who} in this period began under {named}, so there is no estimate: put [holdout] into the policy, and wait"
        raise InvalidInput(what="effect", field="holdout", reason=reason)
    values = values_of(log, tenant, frame, members, (o.Revenue, o.Advocacy))
    goals = _goals(log, tenant, frame, members, {e.policy for _, entries, _ in found for e in entries.values()})
    reports = []
    for name, entries, excluded in found:
        effects = [*_revenue(entries, values[o.Revenue], frame), _goal(entries, goals, frame), _referred(entries, values[o.Advocacy])]
        reports.append(
            EffectReport(
                frame=frame,
                holdout=name,
                percent=tuple(sorted({e.percent for e in entries.values()})),
                agents=tuple(sorted({e.agent for e in entries.values()})),
                treated=sum(not e.held_out for e in entries.values()),
                held_out=sum(e.held_out for e in entries.values()),
                excluded=dict(excluded),
                effects=tuple(effects),
            )
        )
    return tuple(reports)


# ---------------------------------------------------------------- who entered


def _entered(log: Log, tenant: str, frame: o.Frame, members: Membership, agent: str | None) -> dict[str, dict[str, list[_Entry]]]:
    """By hold-out and account, the first entry under each reference that is part of it now."""
    whole = {part.id: stream.id for stream, parts in members.joined.items() for part in parts if part.category == CUSTOMERS}
    query = Query(
        tenant=tenant,
        category=CUSTOMERS,
        lane=Lane.DECISION,
        kinds=frozenset({"agent/decision-recorded"}),
        as_of_us=frame.as_of_us,
        known_at_us=to_us(frame.known_at),
    )
    first: dict[tuple[str, str], _Entry] = {}
    for recorded in log.events(query):
        event, ref = recorded.data, recorded.stored.stream.id
        assert isinstance(event, DecisionRecorded)
        drawn = drawn_of(event.context)
        if drawn is None or agent not in (None, event.agent) or not _would_act(event):
            continue
        entry = _Entry(to_us(event.decided_at), drawn.held, drawn.held_out_ppm // 10_000, event.agent, event.policy)
        first.setdefault((drawn.name, ref), entry)
    found: dict[str, dict[str, list[_Entry]]] = {}
    for (name, ref), entry in first.items():
        found.setdefault(name, {}).setdefault(whole.get(ref, ref), []).append(entry)
    return found


def _would_act(event: DecisionRecorded) -> bool:
    """Whether nothing but the draw decided. Whoever is held out is never asked of a planner, so all who were asked are its counterpart."""
    held = (event.suppressed_by or "").startswith("holdout:")
    return held or event.disposition in {"acted", "awaiting"} or "plan.status" in event.flags


def _of_period(entered: Mapping[str, Sequence[_Entry]], frame: o.Frame) -> tuple[dict[str, _Entry], Counter[str]]:
    entries, excluded = {}, Counter[str]()
    for ref, of in entered.items():
        first = min(of)
        if len({e.held_out for e in of}) > 1:
            excluded["merged from both arms"] += 1
        elif first.at_us < frame.start_us:
            excluded["entered before the period"] += 1
        elif first.at_us < frame.end_us:
            entries[ref] = first
    return entries, excluded


# ---------------------------------------------------------------- what became of them


def _effect(
    name: str,
    unit: str,
    population: str,
    entries: Mapping[str, _Entry],
    read: Callable[[str, _Entry], float | str],
    *,
    currency: str | None = None,
) -> Effect:
    """`read` gives a customer's value, or why it has none."""
    arms: tuple[list[float], list[float]] = ([], [])
    excluded = Counter[str]()
    for ref in sorted(entries):
        value = read(ref, entries[ref])
        if isinstance(value, str):
            excluded[value] += 1
        else:
            arms[entries[ref].held_out].append(value)
    same = len({e.percent for e in entries.values()}) == 1
    estimate = difference(*arms) if same else CHANGED
    why = estimate if isinstance(estimate, str) else ""
    found = None if isinstance(estimate, str) else estimate
    return Effect(name=name, unit=unit, population=population, estimate=found, why=why, excluded=dict(excluded), currency=currency)


def _revenue(entries: Mapping[str, _Entry], values: Mapping[str, FeatureValues], frame: o.Frame) -> Iterator[Effect]:
    books = {ref: o.Book.of(ref, values[ref]) for ref in entries if ref in values}
    before = {ref: book.at(entries[ref].at_us) for ref, book in books.items()}
    after = {ref: book.at(frame.end_us) for ref, book in books.items()}

    def unread(ref: str) -> str:
        return "no terms known" if ref not in books else FORGOTTEN if books[ref].forgotten else ""

    def lost(ref: str, _: _Entry) -> float | str:
        return unread(ref) or (float(after[ref].lost) if before[ref].customer else "no customer when it entered")

    yield _effect(_LOST, "share", "customers that paid or paused when they entered", entries, lost)
    for currency in sorted({c for ref in before for c in before[ref].mrr}):

        def change(ref: str, _: _Entry, currency: str = currency) -> float | str:
            if (why := unread(ref)) or currency not in before[ref].mrr:
                return why or "no MRR in this currency when it entered"
            if currency not in after[ref].mrr and after[ref].mrr:
                return "changed its currency"
            return float(after[ref].mrr.get(currency, 0) - before[ref].mrr[currency])

        def grew(ref: str, entry: _Entry, change: Callable[[str, _Entry], float | str] = change) -> float | str:
            by = change(ref, entry)
            return by if isinstance(by, str) else float(by > 0)

        paying = "customers with MRR when they entered"
        yield _effect("mrr-change", "minor units a month", paying, entries, change, currency=currency)
        yield _effect("expanded", "share", paying, entries, grew, currency=currency)


def _referred(entries: Mapping[str, _Entry], values: Mapping[str, FeatureValues]) -> Effect:
    def converted(ref: str, entry: _Entry) -> float:
        v = values.get(ref)
        if v is None:
            return 0.0
        since = {id_ for id_, at in v["invited_at"].items() if at >= entry.at_us}
        return float(len(since & (v["converted_at"].keys() - v["withdrawn_at"].keys())))

    return _effect("referrals-converted", "per customer", "all who entered; invitations since then", entries, converted)


# ---------------------------------------------------------------- the goal of the policy


@dataclass(frozen=True, slots=True)
class _Goals:
    kinds: Mapping[str, tuple[frozenset[str], int]]  # by policy digest: what counts, within how many microseconds
    reached: Mapping[str, Sequence[tuple[int, str]]]  # by account: when, which kind


def _goals(log: Log, tenant: str, frame: o.Frame, members: Membership, digests: set[str]) -> _Goals:
    kinds: dict[str, tuple[frozenset[str], int]] = {}
    published = Query(tenant=tenant, category=POLICIES, lane=Lane.DECISION, kinds=frozenset({"artifact/published"}))
    for recorded in log.events(published):
        event = recorded.data
        if isinstance(event, ArtifactPublished) and event.digest in digests and event.digest not in kinds:
            outcome = Policy.from_json(untouched(recorded.position, event)).outcome
            if outcome is not None:
                kinds[event.digest] = (frozenset(outcome.on), outcome.within_days * DAY_US)
    wanted = frozenset(kind for of, _ in kinds.values() for kind in of)
    if not wanted:
        return _Goals({}, {})
    whole = {part: stream.id for stream, parts in members.joined.items() for part in parts}
    reached: dict[str, list[tuple[int, str]]] = {}
    query = Query(tenant=tenant, lane=Lane.FACT, kinds=wanted, as_of_us=frame.as_of_us, known_at_us=to_us(frame.known_at))
    for stored in log.store.read(query):
        if stored.stream.category in CATEGORIES:
            reached.setdefault(whole.get(stored.stream, stored.stream.id), []).append((stored.occurred_at_us, stored.kind))
    return _Goals(kinds, reached)


def _goal(entries: Mapping[str, _Entry], goals: _Goals, frame: o.Frame) -> Effect:
    def met(ref: str, entry: _Entry) -> float | str:
        if entry.policy not in goals.kinds:
            return "its policy names no outcome"
        kinds, within_us = goals.kinds[entry.policy]
        until_us = entry.at_us + within_us
        if until_us > frame.as_of_us:
            return "the time for its outcome is not over"
        return float(any(entry.at_us < at <= until_us and kind in kinds for at, kind in goals.reached.get(ref, ())))

    return _effect("goal", "share", "all who entered; the outcome of the policy that decided, within its time", entries, met)
