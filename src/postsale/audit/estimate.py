"""What a policy would have been worth, from decisions whose probabilities were recorded; a refusal where they give no support. Pure.

Inverse propensity weighting with an empirical Bernstein interval (Maurer and Pontil, 2009): it holds for any distribution of bounded
values and any number of decisions, and is wide where there are few. Imports nothing of ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LEAST = 30  # decisions; below it no interval says anything


@dataclass(frozen=True, slots=True)
class Sample:
    """One decision whose outcome is known."""

    success: bool
    agrees: bool  # the candidate takes the action that was taken
    chance: float  # that the candidate's action had when it was decided, as recorded; 0: none, or it is not known


@dataclass(frozen=True, slots=True)
class Estimate:
    """Successes per decision, as a share. The interval holds with the given confidence."""

    value: float
    low: float
    high: float
    decisions: int
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "value": round(self.value, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
            "decisions": self.decisions,
            "confidence": self.confidence,
        }

    def __str__(self) -> str:
        return f"{self.value:.3f} successes per decision, {self.low:.3f} to {self.high:.3f} ({self.confidence:.0%}, {self.decisions} decisions)"


def estimate(samples: Sequence[Sample], confidence: float = 0.95) -> Estimate | str:
    """The candidate's value with its interval, or why there is none."""
    unsupported = sum(s.chance <= 0 for s in samples)
    if unsupported:
        return (
            f"in {unsupported} of {len(samples)} decisions the candidate does what had no recorded chance: nothing is known of its outcome"
        )
    if len(samples) < LEAST:
        return f"{len(samples)} decisions with a known outcome are too few; at least {LEAST} are needed"
    weighted = [s.success / s.chance if s.agrees else 0.0 for s in samples]
    n, most = len(samples), max(1 / s.chance for s in samples)
    mean = math.fsum(weighted) / n
    variance = math.fsum((x - mean) ** 2 for x in weighted) / (n - 1)
    log = math.log(4 / (1 - confidence))
    half = math.sqrt(2 * variance * log / n) + 7 * most * log / (3 * (n - 1))
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), n, confidence)
