"""Fitting the vendor to a log of your own, by the method of moments: parameters are moved until the statistics of the simulated story are
those of the log. Says what it fitted, from how much, and what it could not, where the default stays.

Parameters that a statistic shows directly are read off; the others are found by simulating. The latent layer and what actions do are not to
be seen in a log: those keep their values. May import `store` and everything below it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from postsale.simulator.model import SOURCES, VendorModel
from postsale.simulator.statistics import Stat, Statistics, statistics_of, statistics_of_story
from postsale.simulator.vendor import Vendor
from postsale.store.log import Log

_ENOUGH = 20  # events or trials below which a statistic says too little
_A_SEASON = 300  # days
_READ: Mapping[str, str] = {
    "annual_share": "contracts of a year",
    "auto_renews": "automatic renewals",
    "growth_per_year": "newcomers a year",
    "trial_share": "trials of newcomers",
    "reopened": "reopened",
    "resolution_sigma": "log minutes' deviation",
    "nps_answered": "nps answers",
    "csat_answered": "csat answers",
    "discounts": "discounts",
    "invite_clicked": "clicks",
    "invite_registered": "registrations",
    "invite_converted": "conversions",
    "wrong": "revised answers",
    "corrected_days": "days until revised",
    "weekend": "weekends",
    "seats_sigma": "log seats' deviation",
    "price_sigma": "log price's deviation",
}
_READ_LOG: Mapping[str, str] = {
    "seats_median": "log seats",
    "price_median_minor": "log price",
    "resolution_median_min": "log minutes",
}
_SCALED: Mapping[str, str] = {
    "uses_per_seat": "uses a seat and working day",
    "holidays": "holidays",
    "tickets_per_week": "tickets a year",
    "escalated": "escalations",
    "refunds": "refunds",
    "monthly_leaving": "left a month a year",
    "sponsor_leaves_per_year": "sponsors left a year",
    "owner_leaves_per_year": "owners a year",
    "expansions_per_year": "more seats a year",
    "contractions_per_year": "fewer seats a year",
    "pauses_per_year": "pauses a year",
    "events_per_year": "events a year",
    "reviews_per_year": "reviews a year",
    "advocacy_per_year": "advocacy a year",
    "invites_per_year": "invitations a year",
}
_CARDS, _LOST = "first charges failed", "lost at renewal"


class Moment(NamedTuple):
    """One statistic that parameters were fitted to: in the log, in the fitted model's own story, and of how many things in the log."""

    statistic: str
    observed: float
    simulated: float
    n: int


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model fitted to statistics. `fitted` says by parameter what it was fitted to, `kept` why another one has its former value."""

    model: VendorModel
    fitted: Mapping[str, Moment]
    kept: Mapping[str, str]
    statistics: Statistics

    def __str__(self) -> str:
        """For people: a line per parameter."""
        lines = [
            f"{name:26} {_shown(getattr(self.model, name))}  {m.statistic}: {m.observed:.3g} in the log, {m.simulated:.3g} simulated (n {m.n})"
            for name, m in self.fitted.items()
        ]
        return "\n".join([*lines, *(f"{name:26} kept: {why}" for name, why in self.kept.items())])


def fit(
    log: Log,
    tenant: str,
    *,
    base: VendorModel | None = None,
    repeated: float | None = None,
    seed: int = 1,
    customers: int = 200,
    rounds: int = 4,
) -> Fitted:
    """A vendor whose statistics are those of a tenant's log. `base` has the values of all that cannot be fitted (default `VendorModel()`).

    `repeated`: the share of deliveries that came again, which a log that keeps each once cannot show: duplicates / (recorded + duplicates)
    of your reports. Simulates `rounds` + 1 stories of `customers` customers. Raises InvalidInput for a tenant without subscriptions.
    """
    return fit_statistics(statistics_of(log, tenant), base=base, repeated=repeated, seed=seed, customers=customers, rounds=rounds)


def fit_statistics(
    seen: Statistics,
    *,
    base: VendorModel | None = None,
    repeated: float | None = None,
    seed: int = 1,
    customers: int = 200,
    rounds: int = 4,
) -> Fitted:
    """As `fit`, to statistics at hand."""
    model = base if base is not None else VendorModel()
    n = seen.numbers
    enough = {name: stat for name, stat in n.items() if stat.n >= _ENOUGH}
    model = model.changed(**_bounded(_read(enough, repeated, model)))
    for number in range(rounds):
        story = _simulated(model, seen, seed + number, customers)
        # A story of few customers has chances of its own: whole steps first, then a running mean over stories of several seeds.
        model = model.changed(**_bounded(_nearer(model, enough, story, seen.days, 1 / max(1, number))))
    final = _simulated(model, seen, seed + rounds, customers)

    pairs = {**_READ, **_READ_LOG, **_SCALED, "archetypes": _CARDS, "renewal_base": _LOST}
    if seen.days >= _A_SEASON:
        pairs |= {"season": "cosine", "season_peak": "sine"}
    fitted = {
        p: Moment(s, n[s].value, final[s].value, n[s].n)
        for p, s in pairs.items()
        if s in enough and (n[s].value > 0 or p in ("season", "season_peak"))
    }
    delays = {s: n[f"delay {s}"] for s in SOURCES if f"delay {s}" in enough}
    if delays:
        whole = sum(stat.n for stat in delays.values())
        mean = sum(stat.value * stat.n for stat in delays.values()) / whole
        told = sum(model.delay_h[s] * stat.n for s, stat in delays.items()) / whole
        fitted["delay_h"] = Moment(f"median delays of {', '.join(delays)}, as means, in hours", mean, told, whole)
    if repeated is not None:
        fitted["repeated"] = Moment("share of repeated deliveries, as given", repeated, model.repeated / (1 + model.repeated), 0)
    return Fitted(model, dict(sorted(fitted.items())), _kept(fitted, pairs, n, seen.days), seen)


def _read(n: Mapping[str, Stat], repeated: float | None, model: VendorModel) -> dict[str, Any]:
    out: dict[str, Any] = {p: n[s].value for p, s in _READ.items() if s in n and n[s].value > 0}
    out |= {p: math.exp(n[s].value) for p, s in _READ_LOG.items() if s in n}
    out["delay_h"] = dict(model.delay_h) | {s: min(240.0, max(1e-6, n[f"delay {s}"].value)) for s in SOURCES if f"delay {s}" in n}
    if repeated is not None:
        out["repeated"] = repeated / (1 - repeated) if repeated < 0.5 else 1.0  # of first deliveries
    return out


def _simulated(model: VendorModel, seen: Statistics, seed: int, customers: int) -> Mapping[str, Stat]:
    story = Vendor(seed, customers=customers, start=seen.start, days=seen.days, model=model)
    return statistics_of_story(story.story()).numbers


def _nearer(model: VendorModel, seen: Mapping[str, Stat], told: Mapping[str, Stat], days: int, step: float) -> dict[str, Any]:
    """The next values: in proportion for rates and shares, by log-odds for renewals, by difference for the season."""
    out: dict[str, Any] = {}
    for parameter, name in _SCALED.items():
        if name in seen and seen[name].value > 0 and name in told:
            before = getattr(model, parameter)
            out[parameter] = before * _ratio(seen[name], told[name]) ** step
    if _CARDS in seen and seen[_CARDS].value > 0:
        ratio = _ratio(seen[_CARDS], told[_CARDS]) ** step
        cards = [a.model_copy(update={"card_fails_per_year": min(20.0, a.card_fails_per_year * ratio)}) for a in model.archetypes]
        out["archetypes"] = tuple(cards)
    if _LOST in seen:
        out["renewal_base"] = model.renewal_base + step * (_log_odds(told[_LOST]) - _log_odds(seen[_LOST]))
    if days >= _A_SEASON and "cosine" in seen:
        peak = 2 * math.pi * model.season_peak / 365
        cosine = model.season * math.cos(peak) + step * (seen["cosine"].value - told["cosine"].value)
        sine = model.season * math.sin(peak) + step * (seen["sine"].value - told["sine"].value)
        out["season"] = math.hypot(cosine, sine)
        out["season_peak"] = math.atan2(sine, cosine) % (2 * math.pi) * 365 / (2 * math.pi)
    return out


def _ratio(seen: Stat, told: Stat) -> float:
    """At most a factor of four at once: a story in which it hardly happens says little."""
    return min(4.0, max(0.25, seen.value / told.value)) if told.value > 0 else 4.0


def _log_odds(stat: Stat) -> float:
    """Of a share that may be 0 or 1: half a case is added to each side."""
    hits = stat.value * stat.n
    return math.log((hits + 0.5) / (stat.n - hits + 0.5))


def _bounded(values: dict[str, Any]) -> dict[str, Any]:
    """Within what the model accepts."""
    out = dict(values)
    for name, value in values.items():
        if isinstance(value, float):
            limits = {type(m).__name__: m for m in VendorModel.model_fields[name].metadata}
            low, high = limits["Ge"].ge, limits["Le"].le
            out[name] = min(high, max(low, value))
    return out


def _kept(fitted: Mapping[str, Moment], pairs: Mapping[str, str], n: Mapping[str, Stat], days: int) -> dict[str, str]:
    out = {}
    for name in sorted(set(VendorModel.model_fields) - set(fitted)):
        if name in pairs:
            stat = n.get(pairs[name], Stat(0.0, 0))
            out[name] = (
                f"too little of {pairs[name]}: {stat.n} seen, {_ENOUGH} needed" if stat.n < _ENOUGH else f"no {pairs[name]} were seen"
            )
        elif name in ("season", "season_peak"):
            out[name] = f"{days} days are seen, {_A_SEASON} needed"
        elif name == "delay_h":
            out[name] = "no source delivered enough live signals"
        elif name == "repeated":
            out[name] = "a log keeps each delivery once; give the share of your reports"
        else:
            out[name] = "not to be told from a log"
    return out


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:d}" if isinstance(value, int) else "…"
