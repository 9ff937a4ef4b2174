"""Why a value is what it is: per component and per event, in figures that sum exactly. Pure: facts in, an answer out.

Two figures per event, and per event and component. `contribution_micro` is the change of the value when the event is added, events
in position order; it telescopes, so the contributions sum exactly to the value, and those to a component to the component's.
`without_micro` is the value less the value folded again without that one event; these do not sum over events, because events share
credit. Also what it was before, when the band last changed, and the smallest change into the next band. The arithmetic is in
`effects`, `changes` and `crossing`. Imports them, `health`, `fold`, events and errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from heapq import nsmallest
from itertools import pairwise
from typing import Any, Final

from postsale.errors import InvalidInput
from postsale.events import DAY_US, from_us, iso, to_us
from postsale.projections.changes import LOOK_BACK_DAYS, Changed, last_change
from postsale.projections.crossing import ALONE, TOGETHER, Crossing, Move, crossings
from postsale.projections.effects import Gauge, Reading, leaving_out
from postsale.projections.folding import Fact
from postsale.projections.health import POINT_MICRO, Applied, Contribution, HealthModel, Score, points

TREND_DAYS: Final = 30
_STEADY_MICRO: Final = POINT_MICRO  # less than a point either way is no direction


@dataclass(frozen=True, slots=True)
class Trend:
    """The value now less the value 30 days before, both by what is known now: the customer moved, not our knowledge.

    Facts that arrived late are in both values; history that was imported today has a trend today.
    """

    before_micro: int | None  # None: there was no input then
    change_micro: int | None  # None when either value is
    direction: str | None  # up, down, steady (less than one point)
    before_at: datetime


@dataclass(frozen=True, slots=True)
class ComponentEffect:
    """What one event did to one component's part in the value."""

    name: str
    contribution_micro: int
    without_micro: int | None  # as of the event


@dataclass(frozen=True, slots=True)
class EventEffect:
    """What one event did to the value. Both figures are the sums of those of `components`, which leaves out who got and gave nothing."""

    position: int
    kind: str
    occurred_at: datetime
    recorded_at: datetime
    contribution_micro: int
    without_micro: int | None  # None: without it there would be no value at all
    components: tuple[ComponentEffect, ...]


@dataclass(frozen=True, slots=True)
class Before:
    """The value at an earlier time, by what is known now."""

    at: datetime
    value_micro: int | None
    score: float | None
    band: str | None
    change_micro: int | None  # since then; None when either value is
    components: Mapping[str, int]  # since then, by component; they sum to the change of what was counted: no value counts as 0


@dataclass(frozen=True)
class Health:
    """A customer's health at one time, as known at one time. `why()` explains it."""

    score: float | None  # 0 … 100, two decimals; None when there is no input at all
    band: str | None
    value_micro: int | None
    components: tuple[Contribution, ...]
    trend: Trend
    as_of: datetime
    known_at: datetime
    position: int  # the log was read up to here
    model: str  # digest of the model
    applied: Applied  # the row of the model that weighed it, and why
    _then: Score = field(repr=False, compare=False)  # at `trend.before_at`
    _model: HealthModel = field(repr=False, compare=False)
    _facts: tuple[Fact, ...] = field(repr=False, compare=False)

    @property
    def missing(self) -> dict[str, str]:
        """Components without an input, with the reason. Their weight went to the others."""
        return {c.name: c.missing for c in self.components if c.missing is not None}

    def why(self, *, top: int | None = 20, since: datetime | None = None) -> Why:
        """Which events made this value. Events beyond the `top` by size are summed up; None lists all.

        `since` is what `before` compares with, by default 30 days before; InvalidInput when it is after `as_of`. Time grows with the
        number of facts, and ten times as fast or more with those that are listed.
        """
        return _explain(self, top, since)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; times are RFC 3339."""
        return {
            "score": self.score,
            "band": self.band,
            "value_micro": self.value_micro,
            "components": [_component(c) for c in self.components],
            "missing": self.missing,
            "trend": {
                "before_micro": self.trend.before_micro,
                "change_micro": self.trend.change_micro,
                "direction": self.trend.direction,
                "before_at": _text(self.trend.before_at),
            },
            "as_of": _text(self.as_of),
            "known_at": _text(self.known_at),
            "position": self.position,
            "model": self.model,
            "row": self.applied._asdict(),
        }


@dataclass(frozen=True)
class Why:
    """The explanation of one `Health`. `str()` is for a person, `to_dict()` for programs."""

    health: Health
    events: tuple[EventEffect, ...]  # greatest contribution first
    others: int  # further events that are not listed
    others_micro: int  # and the sum of their contributions
    others_components: Mapping[str, int]  # that sum by component
    without_component: Mapping[str, int | None]  # the value less the value if this component had no input; None: no value then
    before: Before

    @cached_property
    def last_change(self) -> Changed[str | None] | None:
        """When the band last changed, within 366 days; None when it did not. Computed when it is first asked for."""
        h = self.health
        return last_change(h._model.fold, h._facts, to_us(h.as_of), lambda values: h._model.score(values).band)

    @cached_property
    def crossings(self) -> tuple[Crossing, ...]:
        """The smallest change into the next band, up and then down; where there is no band that way, none. Computed when first asked for."""
        h = self.health
        return crossings(h._model, h._facts, to_us(h.as_of))

    def to_dict(self) -> dict[str, Any]:
        """JSON types. Σ components = Σ events + others = value, in micro-points, and so for each component by itself."""
        events = [
            {
                "position": e.position,
                "kind": e.kind,
                "occurred_at": _text(e.occurred_at),
                "recorded_at": _text(e.recorded_at),
                "contribution_micro": e.contribution_micro,
                "without_micro": e.without_micro,
                "components": [
                    {"name": c.name, "contribution_micro": c.contribution_micro, "without_micro": c.without_micro} for c in e.components
                ],
            }
            for e in self.events
        ]
        others = {"events": self.others, "contribution_micro": self.others_micro, "components": dict(self.others_components)}
        before, change = self.before, self.last_change
        return {
            **self.health.to_dict(),
            "events": events,
            "others": others,
            "without_component": dict(self.without_component),
            "before": {
                "at": _text(before.at),
                "value_micro": before.value_micro,
                "score": before.score,
                "band": before.band,
                "change_micro": before.change_micro,
                "components": dict(before.components),
            },
            "last_change": None
            if change is None
            else {
                "at": iso(change.at_us),
                "before": change.before,
                "after": change.after,
                "position": change.cause.position if change.cause else None,
                "kind": change.cause.kind if change.cause else None,
            },
            "crossings": [
                {
                    "direction": c.direction,
                    "band": c.band,
                    "moves": None if c.moves is None else [move.to_dict() for move in c.moves],
                    "facts": c.facts,
                    "reached": c.reached,
                    "value_micro": c.value_micro,
                    "tried": c.tried,
                }
                for c in self.crossings
            ],
        }

    def __str__(self) -> str:
        h, trend = self.health, self.health.trend
        if h.score is None:
            return "\n".join([f"health: none, there is no input at {_text(h.as_of)}", *(f"  {n}: {r}" for n, r in h.missing.items())])
        lines = [f"health {h.score:.2f} {h.band} at {_text(h.as_of)}, as known at {_text(h.known_at)}"]
        if trend.before_micro is None or trend.change_micro is None:
            lines.append(f"{TREND_DAYS} days before: no value")
        else:
            lines.append(f"{TREND_DAYS} days before: {points(trend.before_micro):.2f} ({trend.direction}, {_signed(trend.change_micro)})")
        lines += self._told()
        lines += ["", f"{'component':<14}{'weight':>7}{'score':>8}{'points':>12}"]
        for c in h.components:
            if c.score_micro is not None:
                lines.append(f"{c.name:<14}{c.weight:>7}{points(c.score_micro):>8.2f}{_signed(c.contribution_micro):>12}")
        lines += [f"{c.name:<14}{c.weight:>7}       –           –  {c.missing}" for c in h.components if c.missing]
        lines += ["", f"{'position':>8}  {'event':<34}{'occurred':<11}{'points':>12}{'without it':>13}"]
        for e in self.events:
            without = "no value" if e.without_micro is None else _signed(-e.without_micro)
            lines.append(f"{e.position:>8}  {e.kind:<34}{_text(e.occurred_at)[:10]:<11}{_signed(e.contribution_micro):>12}{without:>13}")
        if self.others:
            lines.append(f"{'':>8}  {f'{self.others} other events':<45}{_signed(self.others_micro):>12}")
        lines.append(f"{'':>8}  {'together':<45}{_signed(h.value_micro or 0):>12}")
        return "\n".join(lines)

    def _told(self) -> list[str]:
        """What it was before, since when the band is what it is, and what would change it."""
        lines, h, before = [], self.health, self.before
        if before.at != h.trend.before_at:
            was = f"{before.score:.2f} {before.band}" if before.score is not None else "no value"
            moved = [f"{name} {_signed(micro)}" for name, micro in before.components.items() if micro]
            change = (
                "" if before.change_micro is None else f" ({_signed(before.change_micro)} since: {', '.join(moved) or 'nothing moved'})"
            )
            lines.append(f"at {_text(before.at)}: {was}{change}")
        if self.last_change is None:
            lines.append(f"{h.band} for at least {LOOK_BACK_DAYS} days")
        else:
            cause = self.last_change.cause
            why = f"event {cause.position}, {cause.kind}" if cause else "as time passed"
            lines.append(f"{h.band} since {iso(self.last_change.at_us)}, {self.last_change.before or 'no value'} before: {why}")
        if h.applied.row or h.applied.segment or h.applied.stage:
            lines.append(f"weighed as {h.applied.name}: {h.applied.reason}")
        for c in self.crossings:
            if c.moves is None or c.value_micro is None:
                told = f"no change found, of {c.tried} tried (up to {TOGETHER} facts, or up to {ALONE} of one kind)"
            else:
                beyond = "" if c.reached == c.band else f" {c.reached}"
                told = f"{' and '.join(map(_move, c.moves))} → {points(c.value_micro):.2f}{beyond}"
            lines.append(f"{c.direction} to {c.band}: {told}")
        return lines


def explain_health(model: HealthModel, facts: Sequence[Fact], as_of_us: int, known_at_us: int, *, position: int | None = None) -> Health:
    """The health that `facts` of one customer give at `as_of_us`, as known at `known_at_us` (both inclusive).

    Facts may come in any order; those that occurred or were recorded later are left out. `position` is how far the log was
    read, by default the last fact used.
    """
    known = sorted((f for f in facts if f.recorded_at_us <= known_at_us and f.occurred_at_us <= as_of_us), key=lambda f: f.position)
    used = tuple(f for f in known if f.kind in model.fold.kinds)
    before_us = as_of_us - TREND_DAYS * DAY_US
    state = model.fold.fold(f for f in used if f.occurred_at_us <= before_us)
    then = model.score(model.fold.finish(state, before_us))
    for fact in used:
        if fact.occurred_at_us > before_us:
            model.fold.add(state, fact)
    score, before = model.score(model.fold.finish(state, as_of_us)), then.value_micro
    change = None if before is None or score.value_micro is None else score.value_micro - before
    return Health(
        score=score.score,
        band=score.band,
        value_micro=score.value_micro,
        components=score.components,
        trend=Trend(before, change, None if change is None else direction(change), from_us(before_us)),
        as_of=from_us(as_of_us),
        known_at=from_us(known_at_us),
        position=position if position is not None else max((f.position for f in known), default=0),
        model=model.digest,
        applied=score.applied,
        _then=then,
        _model=model,
        _facts=used,
    )


def direction(change_micro: int) -> str:
    if abs(change_micro) < _STEADY_MICRO:
        return "steady"
    return "up" if change_micro > 0 else "down"


def _explain(health: Health, top: int | None, since: datetime | None) -> Why:
    model, facts = health._model, health._facts
    fold, as_of_us = model.fold, to_us(health.as_of)
    gauge = Gauge(model, as_of_us)
    # What a model gives without any fact is credited to the first one, so that the parts sum.
    readings = [gauge.reading._replace(value_micro=None), *map(gauge.add, facts)]
    score = model.weigh(gauge.reading.judged, gauge.reading.applied)
    changes = [(new.value_micro or 0) - (old.value_micro or 0) for old, new in pairwise(readings)]
    ranking = (len(changes) if top is None else top, range(len(changes)))
    shown = nsmallest(*ranking, key=lambda i: (-abs(changes[i]), i))
    rests = {i: model.score(fold.finish(state, as_of_us)) for i, state in leaving_out(fold, facts, shown)}
    effects = tuple(
        _effect(facts[i], changes[i], _parts(model, readings[i]), _parts(model, readings[i + 1]), score, rests[i]) for i in shown
    )
    left = {c.name: c.contribution_micro for c in score.components}
    for effect in effects:
        for part in effect.components:
            left[part.name] -= part.contribution_micro
    judged = [(c.score_micro, c.missing) for c in score.components]
    without: dict[str, int | None] = {}
    for index, c in enumerate(score.components):
        rest = model.weigh([*judged[:index], (None, "left out"), *judged[index + 1 :]], score.applied).value_micro
        without[c.name] = None if rest is None or score.value_micro is None else score.value_micro - rest
    return Why(
        health=health,
        events=effects,
        others=len(changes) - len(shown),
        others_micro=sum(changes) - sum(changes[i] for i in shown),
        others_components=left,
        without_component=without,
        before=_before(health, score, health.trend.before_at if since is None else since),
    )


def _parts(model: HealthModel, reading: Reading) -> list[int]:
    """What each component gave."""
    if reading.value_micro is None:
        return [0] * len(reading.judged)
    return [c.contribution_micro for c in model.weigh(reading.judged, reading.applied).components]


def _effect(fact: Fact, change: int, old: Sequence[int], new: Sequence[int], score: Score, rest: Score) -> EventEffect:
    no_rest = rest.value_micro is None or score.value_micro is None
    parts = []
    for was, now, all_, left in zip(old, new, score.components, rest.components, strict=True):
        moved, without = now - was, all_.contribution_micro - left.contribution_micro
        if moved or without:
            parts.append(ComponentEffect(all_.name, moved, None if no_rest else without))
    total = None if rest.value_micro is None or score.value_micro is None else score.value_micro - rest.value_micro
    at, known = from_us(fact.occurred_at_us), from_us(fact.recorded_at_us)
    return EventEffect(fact.position, fact.kind, at, known, change, total, tuple(parts))


def _before(health: Health, score: Score, at: datetime) -> Before:
    at_us = to_us(at)
    if at_us > to_us(health.as_of):
        raise InvalidInput(what="why", field="since", reason=f"expected a time up to {_text(health.as_of)}")
    if at == health.trend.before_at:
        then = health._then
    else:
        fold = health._model.fold
        then = health._model.score(fold.finish(fold.fold(f for f in health._facts if f.occurred_at_us <= at_us), at_us))
    pairs = zip(score.components, then.components, strict=True)
    moved = {now.name: now.contribution_micro - was.contribution_micro for now, was in pairs}
    change = None if then.value_micro is None or score.value_micro is None else score.value_micro - then.value_micro
    return Before(from_us(at_us), then.value_micro, then.score, then.band, change, moved)


def _move(move: Move) -> str:
    n = len(move.facts)
    if move.action == "add":
        return f"{n} more × {move.lever}"
    which = ", ".join(str(f.position) for f in move.facts[:5]) + (", …" if n > 5 else "")
    return f"without the newest {n} × {move.lever} ({which})"


def _component(c: Contribution) -> dict[str, Any]:
    return {
        "name": c.name,
        "weight": c.weight,
        "score_micro": c.score_micro,
        "contribution_micro": c.contribution_micro,
        "missing": c.missing,
    }


def _text(at: datetime) -> str:
    return iso(to_us(at))


def _signed(micro: int) -> str:
    """Points with all six decimals: what is shown sums exactly."""
    return f"{'-' if micro < 0 else '+'}{abs(micro) // POINT_MICRO}.{abs(micro) % POINT_MICRO:06d}"
