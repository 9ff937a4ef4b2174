"""Intervals and medians: Wilson, bootstrap and linearised ratios, a difference of shares, Kaplan-Meier. Pure arithmetic.

Every function is deterministic: the bootstrap draws from a generator with a fixed seed. Imports `measure` only.

Sources: E. B. Wilson, JASA 22 (1927); B. Efron, Annals of Statistics 7 (1979), percentiles; W. G. Cochran, Sampling Techniques (1977),
ch. 6, ratios; R. G. Newcombe, Statistics in Medicine 17 (1998) and G. Zou, A. Donner, ibid. 27 (2008), differences; E. L. Kaplan,
P. Meier, JASA 53 (1958); R. Brookmeyer, J. Crowley, Biometrics 38 (1982), with the log-log transformation.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final, NamedTuple

from postsale.projections.outcomes.measure import Interval

LEVEL: Final = 0.95
_Z: Final = 1.959963984540054
_DRAWS: Final = 1_000
_MANY: Final = 1_000  # above, resampling costs seconds and the linearised interval agrees
_FEW: Final = 5  # below, a resampled interval is far too narrow


def _wilson(hits: int, n: int) -> tuple[float, float]:
    share, z2 = hits / n, _Z * _Z
    middle, half = share + z2 / (2 * n), _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    return (0.0 if hits == 0 else low, 1.0 if hits == n else high)  # exact at the ends, where rounding is not


def wilson(hits: int, n: int) -> Interval | None:
    """Of a proportion; None of nobody."""
    if not n:
        return None
    low, high = _wilson(hits, n)
    return Interval(round(low, 9), round(high, 9), LEVEL, "Wilson score")


def ratio_interval(parts: Sequence[int], wholes: Sequence[int]) -> Interval | None:
    """Of sum(parts) / sum(wholes) over customers; None below five of them, and where all have the same ratio: of what was never seen it
    knows nothing, and an interval without width would claim certainty."""
    n, whole = len(wholes), sum(wholes)
    if n < _FEW or not whole or all(p * whole == w * sum(parts) for p, w in zip(parts, wholes, strict=True)):
        return None
    ratio = sum(parts) / whole
    if n > _MANY:
        spread = math.fsum((p - ratio * w) ** 2 for p, w in zip(parts, wholes, strict=True)) * n / (n - 1)
        half = _Z * math.sqrt(spread) / whole
        return Interval(round(max(0.0, ratio - half), 9), round(ratio + half, 9), LEVEL, "linearised ratio, normal (Cochran)")
    draw, pairs = random.Random(n), sorted(zip(parts, wholes, strict=True))  # whatever the order of customers, whose references are random
    found = []
    for _ in range(_DRAWS):
        sample = draw.choices(pairs, k=n)
        found.append(sum(p for p, _ in sample) / sum(w for _, w in sample))
    found.sort()
    tail = round(_DRAWS * (1 - LEVEL) / 2)
    low, high = min(found[tail], ratio), max(found[_DRAWS - 1 - tail], ratio)
    return Interval(round(low, 9), round(high, 9), LEVEL, f"percentile bootstrap over customers, {_DRAWS} draws (Efron)")


def difference_interval(plus: int, minus: int, n: int) -> Interval | None:
    """Of (plus - minus) / n for two shares of the same answers, times 100: an NPS; None of nobody."""
    if not n:
        return None
    p, d = plus / n, minus / n
    (p_low, p_high), (d_low, d_high) = _wilson(plus, n), _wilson(minus, n)
    together = -math.sqrt(p * d / ((1 - p) * (1 - d))) if p < 1 and d < 1 else 0.0  # shares of one whole move against each other
    below = (p - p_low) ** 2 + (d_high - d) ** 2 - 2 * together * (p - p_low) * (d_high - d)
    above = (p_high - p) ** 2 + (d - d_low) ** 2 - 2 * together * (p_high - p) * (d - d_low)
    low, high = max(-1.0, p - d - math.sqrt(below)), min(1.0, p - d + math.sqrt(above))
    return Interval(round(100 * low, 7), round(100 * high, 7), LEVEL, "square-and-add of Wilson limits (Newcombe; Zou and Donner)")


class Survival(NamedTuple):
    """The median of a time to something that has not happened to everybody yet."""

    median: int | None  # None: less than half got there
    low: int | None
    high: int | None  # None: open


def median_time(waits: Sequence[tuple[int, bool]]) -> Survival:
    """The Kaplan-Meier median of (time, happened) pairs; who did not get there was watched for that long and counts as such."""
    at_risk, alive, spent = len(waits), 1.0, 0.0
    median = low = high = None
    for time in sorted({t for t, happened in waits if happened}):
        at_risk = sum(1 for t, _ in waits if t >= time)
        gone = sum(1 for t, happened in waits if happened and t == time)
        alive *= 1 - gone / at_risk
        spent += gone / (at_risk * (at_risk - gone)) if at_risk > gone else math.inf
        lower, upper = _limits(alive, spent)
        low = time if low is None and lower <= 0.5 else low
        median = time if median is None and alive <= 0.5 + 1e-12 else median
        high = time if high is None and upper < 0.5 else high
    return Survival(median, low if median is not None else None, high if median is not None else None)


def _limits(alive: float, spent: float) -> tuple[float, float]:
    """Of a survival probability, by Greenwood's variance on the log-log scale."""
    if alive <= 0 or math.isinf(spent):
        return 0.0, 0.0
    if alive >= 1:
        return 1.0, 1.0
    half = _Z * math.sqrt(spent) / abs(math.log(alive))
    return alive ** math.exp(half), alive ** math.exp(-half)
