"""Watching a model: whether those it scores are still those it was fitted on, and whether its probabilities come true. Pure.

Bounds and their sources are in `metrics`. What comes out says what to do: nothing, wait, recalibrate, or train anew. Imports
model_card, modelling, metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from postsale.events import DAY_US, iso
from postsale.projections.folding import FeatureValues
from postsale.projections.metrics import calibration_z, stability_bound, stability_index
from postsale.projections.model_card import Measures, ModelCard
from postsale.projections.modelling import Labelled, measured, ppm, said, spread
from postsale.projections.scoring import PPM, LogisticModel

MODERATE: Final = 0.1
SHIFTED: Final = 0.25
Z_BOUND: Final = 2.575829  # two-sided, 1 %
LEAST: Final = 10  # customers with, and without, the outcome before calibration is judged
Says = Literal["ok", "too early", "recalibrate", "train anew", "stale"]


@dataclass(frozen=True, slots=True)
class Drift:
    """How far customers now are from the training rows, in one figure. `of` is "" for the score, else a feature."""

    of: str
    index_ppm: int  # population stability index
    chance_ppm: int  # below this it may be chance, so few rows are there
    shifted: bool  # at 0.25 or above, and above what chance does


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check of an active model found. `says` is what to do about it, `why` the reasons."""

    name: str
    digest: str
    says: Says
    why: tuple[str, ...]
    since_us: int  # when it was activated
    age_days: int
    valid_days: int
    rows: int  # customers that are asked about now
    drift: tuple[Drift, ...]
    later: Measures | None  # on rows since the activation whose horizon is over; None while there are too few
    calibration_z_ppm: int | None  # Spiegelhalter's, in millionths; None where it is not judged

    @property
    def ok(self) -> bool:
        """Whether nothing is to be done."""
        return self.says in ("ok", "too early")

    def to_dict(self) -> dict[str, Any]:
        """For programs; no personal data."""
        return {
            "model": self.name,
            "digest": self.digest,
            "says": self.says,
            "why": list(self.why),
            "active_since": iso(self.since_us),
            "age_days": self.age_days,
            "valid_days": self.valid_days,
            "rows": self.rows,
            "drift": [{"of": d.of or None, "index_ppm": d.index_ppm, "chance_ppm": d.chance_ppm, "shifted": d.shifted} for d in self.drift],
            "later": None if self.later is None else self.later.model_dump(mode="json"),
            "calibration_z_ppm": self.calibration_z_ppm,
        }


def checked(
    card: ModelCard,
    digest: str,
    since_us: int,
    now_us: int,
    *,
    features_live: bool,
    now: Sequence[FeatureValues] = (),
    later: Labelled | None = None,
) -> Checked:
    """Judge an active model: its age and features, those it is asked about `now`, and rows since its activation whose horizon is over.

    Rows of `later` should lie a horizon apart, so that no outcome counts twice. Stale comes first, then drift (train anew), then calibration.
    """
    model, why = card.model, []
    stale = [] if features_live else ["its features are not those that are live: it scores nobody"]
    if card.stale_at(now_us):
        stale.append(f"it says that it is good for {card.valid_days} days: from then on it gives ranks, and no probability")
    drift: tuple[Drift, ...] = ()
    measures, z = None, None
    if isinstance(model, LogisticModel) and features_live:
        drift = _drift(card, model, now)
        shifted = [d for d in drift if d.shifted]
        why += [f"{d.of or 'the score'} has shifted: index {d.index_ppm / PPM:.2f}, bound {SHIFTED:.2f}" for d in shifted]
        if later is not None and _enough(later):
            p = said(model, later.values)
            measures, z = measured(model, later), calibration_z(later.labels, p)
    off = z is not None and card.gives == "probability" and abs(z) > Z_BOUND
    if off and measures is not None and z is not None:
        said_, came = measures.said_ppm / 10_000, measures.base_rate_ppm / 10_000
        why.append(f"on outcomes since its activation it said {said_:.1f} % and {came:.1f} % happened; z {z:+.1f}, bound {Z_BOUND:.2f}")
    says: Says = "ok" if measures is not None else "too early"
    if stale:
        says = "stale"
    elif any(d.shifted for d in drift if not d.of):
        says = "train anew"
    elif off:
        says = "recalibrate"
    if not stale and not why and says == "too early":
        why.append("too few outcomes since its activation are over to judge its probabilities; its drift is within bounds")
    age = (now_us - card.made_at_us) // DAY_US
    return Checked(
        card.name, digest, says, (*stale, *why), since_us, age, card.valid_days, len(now), drift, measures,
        None if z is None else ppm(z) if abs(z) < PPM else PPM * PPM,
    )  # fmt: skip


def _enough(rows: Labelled) -> bool:
    having = {c for c, y in zip(rows.customers, rows.labels, strict=True) if y}
    without = {c for c, y in zip(rows.customers, rows.labels, strict=True) if not y}
    return min(len(having), len(without)) >= LEAST


def _drift(card: ModelCard, model: LogisticModel, now: Sequence[FeatureValues]) -> tuple[Drift, ...]:
    if not now:
        return ()
    parts = [model.parts(v) for v in now]
    columns = {"": [sum(p.log_odds_micro for p in row) for row in parts]}
    columns |= {term.feature: [row[i + 1].log_odds_micro for row in parts] for i, term in enumerate(model.terms)}
    found = []
    for h in card.histograms:
        rows = spread(h.edges, columns[h.of])
        index, chance = stability_index(h.rows, rows), stability_bound(len(h.rows), sum(h.rows), len(now))
        found.append(Drift(h.of, ppm(index), ppm(chance), index >= SHIFTED and index > chance))
    return tuple(found)
