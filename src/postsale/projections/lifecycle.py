"""Lifecycle stages: where a customer is on the way from its start to its end, read from facts. Pure.

| stage | from when |
|---|---|
| onboarding | the relationship began: the profile's date, else the first terms, purchase or usage |
| adoption | 90 days after that |
| renewal | 90 days before the contract ends unless renewed, when onboarding is over; until that moment |
| leaving | every running subscription is cancelled |
| churned | every subscription ended, or the CRM closed the account |

The last row of the table that holds is the stage. A customer who comes back is where its first start puts it. Not known without any
of these facts. A customer of a model of your own has the stages that its `stage` tells. Imports health, changes, fold and events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from postsale.events import DAY_US, from_us, iso, to_us
from postsale.projections.changes import LOOK_BACK_DAYS, last_change
from postsale.projections.folding import Fact, FeatureValues, Fold
from postsale.projections.health import Stage

STAGES: Final = ("onboarding", "adoption", "renewal", "leaving", "churned")
ONBOARDING_DAYS: Final = 90
RENEWAL_DAYS: Final = 90


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """A customer's stage at one time, as known at one time."""

    stage: str | None  # None: nothing says that the customer ever began
    reason: str | None
    since: datetime | None  # when it began; None: more than 366 days before, or no stage
    before: str | None  # the stage before that
    position: int | None  # of the fact that began it; None: time did, or `since` is None
    as_of: datetime
    known_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """JSON types; times are RFC 3339."""
        return {
            "stage": self.stage,
            "reason": self.reason,
            "since": None if self.since is None else iso(to_us(self.since)),
            "before": self.before,
            "position": self.position,
            "as_of": iso(to_us(self.as_of)),
            "known_at": iso(to_us(self.known_at)),
        }

    def __str__(self) -> str:
        if self.stage is None:
            return "no lifecycle stage: nothing says that the customer ever began"
        since = f"for more than {LOOK_BACK_DAYS} days" if self.since is None else f"since {iso(to_us(self.since))[:10]}"
        return f"{self.stage} {since}: {self.reason}"


def read_lifecycle(
    fold: Fold, stage: Callable[[FeatureValues], Stage | None], facts: Sequence[Fact], as_of_us: int, known_at_us: int
) -> Lifecycle:
    """The stage that `facts` of one customer give at `as_of_us`, as known at `known_at_us` (both inclusive), and since when.

    Facts may come in any order; those that occurred or were recorded later are left out. On which day it began is exact, and the
    moment of that day is one of those at which it did (see `changes.last_change`).
    """
    used = [f for f in facts if f.recorded_at_us <= known_at_us and f.occurred_at_us <= as_of_us and f.kind in fold.kinds]

    def name(values: FeatureValues) -> str | None:
        found = stage(values)
        return None if found is None else found.name

    now = stage(fold.finish(fold.fold(used), as_of_us))
    change = last_change(fold, used, as_of_us, name) if now is not None else None
    return Lifecycle(
        stage=None if now is None else now.name,
        reason=None if now is None else now.reason,
        since=None if change is None else from_us(change.at_us),
        before=None if change is None else change.before,
        position=change.cause.position if change is not None and change.cause is not None else None,
        as_of=from_us(as_of_us),
        known_at=from_us(known_at_us),
    )


def lifecycle_stage(values: FeatureValues) -> Stage | None:
    """The stage at `values.as_of_us`, for values of `CustomerHealth`; None when nothing says that the customer ever began."""
    now = values.as_of_us
    if values["churned"]:
        return Stage("churned", f"the CRM closed the account on {_day(values['churned_at'])}")
    running, cancelling = values["running"], values["cancelling"]
    if values["known"] and not running:
        return Stage("churned", f"the last subscription ended on {_day(max(values['ended_at'].values()))}")
    if running and len(cancelling) == len(running):
        return Stage(
            "leaving", f"every running subscription is cancelled, the last on {_day(max(values['cancelled_at'][s] for s in running))}"
        )
    began = values["began_at"]
    if began is None or began > now:
        return None
    days = (now - began) // DAY_US
    if days < ONBOARDING_DAYS:
        return Stage("onboarding", f"began on {_day(began)}, {days} days before")
    renews = values["renews_at"]
    if renews is not None and now <= renews <= now + RENEWAL_DAYS * DAY_US:
        return Stage("renewal", f"the contract ends on {_day(renews)} unless it is renewed")
    return Stage("adoption", f"began on {_day(began)}, {days} days before")


def _day(us: int) -> str:
    return iso(us)[:10]
