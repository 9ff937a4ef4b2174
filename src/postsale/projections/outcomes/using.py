"""Onboarding, time to value, adoption, surveys and referrals of a tenant, from finished values of its customers. Pure.

A customer's own figures are its features (`declared`); here they become measures with population, exclusions and interval.
Imports intervals, measure and folds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final, Literal, NamedTuple

from postsale.events import DAY_US, iso
from postsale.projections.folding import FeatureValues
from postsale.projections.outcomes.intervals import LEVEL, difference_interval, median_time, wilson
from postsale.projections.outcomes.measure import Frame, Interval, Measure

SATISFIED: Final = 750_000
"""Three quarters of the scale: 4 and 5 of 1 to 5, good of good and bad."""

Customers = Mapping[str, FeatureValues]


def median_measure(
    name: str,
    waits: Sequence[tuple[int, bool]],
    frame: Frame,
    population: str,
    excluded: Mapping[str, int],
    *,
    unit: Literal["hours", "days"] = "days",
) -> Measure:
    """The Kaplan-Meier median of times in microseconds; who has not got there counts as waiting for that long."""
    found, per = median_time(waits), DAY_US if unit == "days" else DAY_US // 24
    there = sum(happened for _, happened in waits)
    interval = None
    if found.median is not None and found.low is not None:
        high = float("inf") if found.high is None else round(found.high / per, 6)
        interval = Interval(round(found.low / per, 6), high, LEVEL, "Kaplan-Meier, log-log limits (Brookmeyer and Crowley)")
    return Measure(
        name=name,
        value=None if found.median is None else round(found.median / per, 6),
        unit=unit,
        population=population,
        n=len(waits),
        numerator=there,
        denominator=len(waits),
        excluded=dict(excluded),
        interval=interval,
        frame=frame,
        note=f"{len(waits) - there} are still waiting and count as such" if there < len(waits) else "",
    )


def onboarding(customers: Customers, frame: Frame) -> list[Measure]:
    """Of customers that began in the period: median time to value, and the share that finished the plan, by `as_of`. Values of `Onboarding`."""
    waits: list[tuple[int, bool]] = []
    excluded, plans, began, done = Counter[str](), Counter[str](), 0, 0
    for v in customers.values():
        start = v["began_at"]
        if start is None:
            excluded["nothing says when it began"] += 1
            continue
        if not frame.start_us <= start < frame.end_us:
            continue
        began += 1
        if v["value_at"] is not None and v["value_at"] < start:
            excluded["value came before the beginning"] += 1
        else:
            ttv = v["time_to_value"]
            waits.append((frame.as_of_us - start, False) if ttv is None else (ttv, True))
        if v["progress"] is None:
            plans["no onboarding plan"] += 1
        else:
            done += v["progress"] >= 1
    n, cohort = began - plans.total(), f"began {iso(frame.start_us)[:10]} to {iso(frame.end_us)[:10]}"
    finished = Measure(
        name="onboarding-finished",
        value=round(done / n, 9) if n else None,
        unit="ratio",
        population="customers that began in the period and have a plan",
        n=n,
        numerator=done,
        denominator=n,
        excluded=dict(plans),
        interval=wilson(done, n),
        cohort=cohort,
        frame=frame,
    )
    return [median_measure("time-to-value", waits, frame, "customers that began in the period", excluded), finished]


_ADOPTION: Final = (
    ("breadth", "features", "customers with usage in the 30 days to the end", lambda v: v["breadth"] or None),
    ("depth", "uses per active user", "customers with active users in the 30 days to the end", lambda v: v["depth"]),
    ("stickiness", "ratio", "customers with a login in the 30 days to the end", lambda v: v["stickiness"]),
    ("licence-utilisation", "ratio", "customers whose seats are known", lambda v: v["utilisation"]),
)


def adoption(customers: Customers, frame: Frame) -> list[Measure]:
    """The median customer's breadth, depth, stickiness and licence utilisation; values of `Adoption` finished just before the end."""
    return [_middle(name, unit, population, read, customers, frame) for name, unit, population, read in _ADOPTION]


def _middle(
    name: str, unit: str, population: str, read: Callable[[FeatureValues], float | None], customers: Customers, frame: Frame
) -> Measure:
    found = sorted(value for v in customers.values() if (value := read(v)) is not None)
    missing = len(customers) - len(found)
    return Measure(
        name=name,
        value=round(float(median(found)), 9) if found else None,
        unit=unit,
        population=population,
        n=len(found),
        excluded={"not known": missing} if missing else {},
        frame=frame,
        note="the median customer",
    )


def surveys(customers: Customers, frame: Frame) -> list[Measure]:
    """NPS and CSAT of the answers first given in the period, as they stand at `as_of`; values of `Answers`."""

    def answers(name: str) -> list[int]:
        return [score for v in customers.values() for at, score in v[name] if frame.start_us <= at < frame.end_us]

    nps, csat = answers("nps"), answers("csat")
    plus, minus, n = sum(s >= 9 for s in nps), sum(s <= 6 for s in nps), len(nps)
    good = sum(s >= SATISFIED for s in csat)
    return [
        Measure(
            name="nps",
            value=round(100 * (plus - minus) / n, 7) if n else None,
            unit="-100 to 100",
            population="answers on a scale of 0 to 10",
            n=n,
            numerator=plus - minus,
            denominator=n,
            interval=difference_interval(plus, minus, n),
            frame=frame,
            note=f"{plus} promoters, {minus} detractors" if n else "",
        ),
        Measure(
            name="csat",
            value=round(good / len(csat), 9) if csat else None,
            unit="ratio",
            population="answers; satisfied from three quarters of the scale",
            n=len(csat),
            numerator=good,
            denominator=len(csat),
            interval=wilson(good, len(csat)),
            frame=frame,
        ),
    ]


class Invitations(NamedTuple):
    """Invitations of a period and how far they came by `as_of`."""

    invited: int
    clicked: int
    registered: int
    converted: int  # and not withdrawn


def invitations(customers: Customers, frame: Frame) -> Invitations:
    """The steps between an invitation and a customer; values of `Advocacy`."""
    invited = clicked = registered = converted = 0
    for v in customers.values():
        for r, at in v["invited_at"].items():
            if frame.start_us <= at < frame.end_us:
                invited += 1
                clicked += r in v["clicked_at"]
                registered += r in v["registered_at"]
                converted += r in v["converted_at"] and r not in v["withdrawn_at"]
    return Invitations(invited, clicked, registered, converted)


def referrals(customers: Customers, frame: Frame) -> list[Measure]:
    """What became by `as_of` of the invitations of the period; values of `Advocacy`. Each name says its denominator."""
    invites = clicks = converted = clicked_converted = sharers = 0
    withdrawn = 0
    for v in customers.values():
        own = [r for r, at in v["invited_at"].items() if frame.start_us <= at < frame.end_us]
        sharers += bool(own)
        for r in own:
            if r in v["withdrawn_at"] and r not in v["converted_at"]:
                withdrawn += 1
            bought = r in v["converted_at"] and r not in v["withdrawn_at"]
            invites += 1
            converted += bought
            if r in v["clicked_at"]:
                clicks += 1
                clicked_converted += bought
    note = f"{withdrawn} withdrawn, counted as not converted" if withdrawn else ""

    def share(name: str, hits: int, n: int, population: str) -> Measure:
        return Measure(
            name=name,
            value=round(hits / n, 9) if n else None,
            unit="ratio",
            population=population,
            n=n,
            numerator=hits,
            denominator=n,
            interval=wilson(hits, n),
            frame=frame,
            note=note,
        )

    def k(name: str, users: int, population: str) -> Measure:
        value = round(converted / users, 9) if users else None  # invites / users x converted / invites
        told = f"{invites} invites, {converted} converted"
        return Measure(
            name=name,
            value=value,
            unit="customers per customer",
            population=population,
            n=users,
            numerator=converted,
            denominator=users,
            frame=frame,
            note=told,
        )

    return [
        share("referral-conversion-per-invite", converted, invites, "invitations of the period"),
        share("referral-conversion-per-click", clicked_converted, clicks, "invitations of the period that were clicked"),
        k("k-factor-per-customer", len(customers), "all customers with a fact of advocacy or onboarding"),
        k("k-factor-per-sharer", sharers, "customers that invited somebody in the period"),
    ]
