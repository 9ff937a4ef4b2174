"""Lifecycle stages: where a customer is on the way from its start to its end, read from facts. Pure.

| stage | from when |
|---|---|
| onboarding | the relationship began: the profile's date, else the first terms, purchase or usage |
| adoption | 90 days after that |
| renewal | 90 days before the contract ends unless renewed, when onboarding is over; until that moment |
| leaving | every running subscription is cancelled |
| churned | every subscription ended, or the CRM closed the account |

The last row of the table that holds is the stage. A customer who comes back is where its first start puts it. Not known without any
of these facts. Imports health (for `Stage`), features' values and events.
"""

from __future__ import annotations

from typing import Final

from postsale.events import DAY_US, iso
from postsale.projections.fold import FeatureValues
from postsale.projections.health import Stage

STAGES: Final = ("onboarding", "adoption", "renewal", "leaving", "churned")
ONBOARDING_DAYS: Final = 90
RENEWAL_DAYS: Final = 90


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
