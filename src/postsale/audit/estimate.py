"""What a policy would have been worth, from decisions whose probabilities were recorded; what acting changed, from customers whom chance
held out. A refusal where there is no support. Pure.

Inverse propensity weighting with an empirical Bernstein interval (Maurer and Pontil, 2009): it holds for any distribution of bounded
values and any number of decisions, and is wide where there are few. Imports nothing of ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
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


# ---------------------------------------------------------------- treated less held out

FEWEST = 10  # customers in each arm; below it no interval says anything


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of those who were acted on, less that of those whom chance held out. The interval holds with the given confidence."""

    value: float
    low: float
    high: float
    treated: int
    held_out: int
    treated_mean: float
    held_out_mean: float
    confidence: float
    source: str  # the method, with its reference

    def to_dict(self) -> dict[str, Any]:
        return {
            "value": round(self.value, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
            "treated": {"customers": self.treated, "mean": round(self.treated_mean, 6)},
            "held_out": {"customers": self.held_out, "mean": round(self.held_out_mean, 6)},
            "confidence": self.confidence,
            "source": self.source,
        }


def difference(treated: Sequence[float], held_out: Sequence[float], confidence: float = 0.95) -> Difference | str:
    """One number per customer, in two arms that chance made; or why there is no estimate.

    Shares (only 0 and 1): Newcombe's hybrid of Wilson limits. Other values: Welch's t, which is too narrow where few customers
    have most of the money.
    """
    for name, arm in (("treated", treated), ("held-out", held_out)):
        if len(arm) < FEWEST:
            return f"{len(arm)} {name} customers are too few; at least {FEWEST} are needed"
    a, b = math.fsum(treated) / len(treated), math.fsum(held_out) / len(held_out)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if all(x in (0, 1) for x in (*treated, *held_out)):
        (al, ah), (bl, bh) = _wilson(a, len(treated), z), _wilson(b, len(held_out), z)
        low, high = a - b - math.hypot(a - al, bh - b), a - b + math.hypot(ah - a, b - bl)
        source = "hybrid score of Wilson limits (Newcombe 1998, method 10)"
    else:
        va, vb = _spread(treated, a), _spread(held_out, b)
        if va + vb == 0:
            return "within each arm all customers have the same value: nothing says how much chance could do"
        freedom = (va + vb) ** 2 / (va**2 / (len(treated) - 1) + vb**2 / (len(held_out) - 1))
        half = _student(z, freedom) * math.sqrt(va + vb)
        low, high, source = a - b - half, a - b + half, "difference of means (Welch 1947)"
    return Difference(a - b, low, high, len(treated), len(held_out), a, b, confidence, source)


def _wilson(share: float, n: int, z: float) -> tuple[float, float]:
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def _spread(values: Sequence[float], mean: float) -> float:
    """The variance of a mean."""
    return math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1) / len(values)


def _student(z: float, freedom: float) -> float:
    """Student's quantile from the normal one (Abramowitz and Stegun 26.7.5); off by less than 0.001 from 9 degrees of freedom on."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return z + math.fsum(term / freedom**k for k, term in enumerate(terms, 1))
