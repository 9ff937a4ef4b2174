"""Why a value is what it is: per component and per event, in figures that sum exactly. Pure: facts in, an answer out.

Two figures per event. `contribution_micro` is the change of the value when the event is added, events in position order; it
telescopes, so the contributions sum exactly to the value. `without_micro` is the value less the value folded again without that
one event; these do not sum, because events share credit. Imports `health`, `fold`, events and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from postsale.events import DAY_US, from_us, iso, to_us
from postsale.projections.fold import Fact
from postsale.projections.health import POINT_MICRO, Contribution, HealthModel, Score, points

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
class EventEffect:
    """What one event did to the value."""

    position: int
    kind: str
    occurred_at: datetime
    recorded_at: datetime
    contribution_micro: int
    without_micro: int | None  # None: without it there would be no value at all


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
    _model: HealthModel = field(repr=False, compare=False)
    _facts: tuple[Fact, ...] = field(repr=False, compare=False)

    @property
    def missing(self) -> dict[str, str]:
        """Components without an input, with the reason. Their weight went to the others."""
        return {c.name: c.missing for c in self.components if c.missing is not None}

    def why(self, *, top: int | None = 20) -> Why:
        """Which events made this value. Events beyond the `top` by size are summed up; None lists all.

        Time grows with the number of facts, times `top`.
        """
        return _explain(self, top)

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
        }


@dataclass(frozen=True)
class Why:
    """The explanation of one `Health`. `str()` is for a person, `to_dict()` for programs."""

    health: Health
    events: tuple[EventEffect, ...]  # greatest contribution first
    others: int  # further events that are not listed
    others_micro: int  # and the sum of their contributions

    def to_dict(self) -> dict[str, Any]:
        """JSON types. Σ components = Σ events + others = value, in micro-points."""
        events = [
            {
                "position": e.position,
                "kind": e.kind,
                "occurred_at": _text(e.occurred_at),
                "recorded_at": _text(e.recorded_at),
                "contribution_micro": e.contribution_micro,
                "without_micro": e.without_micro,
            }
            for e in self.events
        ]
        others = {"events": self.others, "contribution_micro": self.others_micro}
        return {**self.health.to_dict(), "events": events, "others": others}

    def __str__(self) -> str:
        h, trend = self.health, self.health.trend
        if h.score is None:
            return "\n".join([f"health: none, there is no input at {_text(h.as_of)}", *(f"  {n}: {r}" for n, r in h.missing.items())])
        lines = [f"health {h.score:.2f} {h.band} at {_text(h.as_of)}, as known at {_text(h.known_at)}"]
        if trend.before_micro is None or trend.change_micro is None:
            lines.append(f"{TREND_DAYS} days before: no value")
        else:
            lines.append(f"{TREND_DAYS} days before: {points(trend.before_micro):.2f} ({trend.direction}, {_signed(trend.change_micro)})")
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


def explain_health(model: HealthModel, facts: Sequence[Fact], as_of_us: int, known_at_us: int, *, position: int | None = None) -> Health:
    """The health that `facts` of one customer give at `as_of_us`, as known at `known_at_us` (both inclusive).

    Facts may come in any order; those that occurred or were recorded later are left out. `position` is how far the log was
    read, by default the last fact used.
    """
    known = sorted((f for f in facts if f.recorded_at_us <= known_at_us and f.occurred_at_us <= as_of_us), key=lambda f: f.position)
    used = tuple(f for f in known if f.kind in model.fold.kinds)
    score = _score(model, used, as_of_us)
    before_us = as_of_us - TREND_DAYS * DAY_US
    before = _score(model, [f for f in used if f.occurred_at_us <= before_us], before_us).value_micro
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
        _model=model,
        _facts=used,
    )


def _score(model: HealthModel, facts: Sequence[Fact], as_of_us: int) -> Score:
    return model.score(model.fold.finish(model.fold.fold(facts), as_of_us))


def direction(change_micro: int) -> str:
    if abs(change_micro) < _STEADY_MICRO:
        return "steady"
    return "up" if change_micro > 0 else "down"


def _explain(health: Health, top: int | None) -> Why:
    model, facts = health._model, health._facts
    fold, as_of_us = model.fold, to_us(health.as_of)
    state, value = fold.empty(), 0
    changes: list[tuple[int, Fact]] = []
    for fact in facts:
        fold.add(state, fact)
        now = model.score(fold.finish(state, as_of_us)).value_micro or 0
        changes.append((now - value, fact))
        value = now
    ranked = sorted(changes, key=lambda change: (-abs(change[0]), change[1].position))
    shown = ranked if top is None else ranked[:top]
    effects = []
    for contribution, fact in shown:
        rest = _score(model, [f for f in facts if f is not fact], as_of_us).value_micro
        without = None if rest is None or health.value_micro is None else health.value_micro - rest
        at, known = from_us(fact.occurred_at_us), from_us(fact.recorded_at_us)
        effects.append(EventEffect(fact.position, fact.kind, at, known, contribution, without))
    return Why(health, tuple(effects), len(ranked) - len(shown), sum(c for c, _ in ranked[len(shown) :]))


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
