"""Targets: what models are to say of customers. Who is asked about, what counts as the outcome, and from which features.

A target is declared once, in code: two declarations of features (before and after), a pure function that says what counts, and one
that says who is asked about. Those that ship are over the shipped signals; `replace(CHURN, label=…, version=2)` changes one. Pure;
imports signals, features, priors, scoring, fold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from postsale.aggregates.signals import (
    AccountChurned,
    CancellationScheduled,
    ReferralInvited,
    RenewalCalledFinally,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionStarted,
)
from postsale.errors import BadDeclaration
from postsale.events import DAY_US, canonical
from postsale.projections.customer_health import CustomerHealth
from postsale.projections.declaring import count, last_seen, latest
from postsale.projections.features import Features
from postsale.projections.folding import FeatureValues
from postsale.projections.priors import CHURN_PRIOR, EXPANSION_PRIOR, REFERRAL_PRIOR, RENEWAL_PRIOR
from postsale.projections.scoring import LogisticModel

_TERMS: Final = (SubscriptionStarted, SubscriptionChanged)
_AFTER_DUE_DAYS: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Target:
    """One question about customers. `label` and `eligible` are pure: values in, a truth out.

    `features` is what a model may know, `inputs` those of it that are fitted; `after` is folded over what happened in
    (as_of, as_of + horizon]. `label(before, after)` says whether the outcome occurred, `eligible(before, horizon_us)` who is asked
    about. `prior` ranks customers until a model is trained. BadDeclaration for an input that is not declared, or a name no input can have.
    """

    name: str
    version: int
    owner: str
    outcome: str  # in words; {days} is the horizon
    features: type[Features]
    inputs: tuple[str, ...]
    after: type[Features]
    label: Callable[[FeatureValues, FeatureValues], bool]
    eligible: Callable[[FeatureValues, int], bool]
    prior: LogisticModel | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.name[0].isalpha() or not all(c.islower() or c.isdigit() or c == "_" for c in self.name):
            raise BadDeclaration(what=f"target {self.name!r}", reason="the name must be of a-z, 0-9 and '_', and begin with a letter")
        declared = {*self.features.leaves, *(d.name for d in self.features.deriveds)}
        if missing := [name for name in self.inputs if name not in declared]:
            raise BadDeclaration(what=f"target {self.name!r}", reason=f"{self.features.__name__} declares no {', '.join(missing)}")
        if self.prior is not None and (self.prior.name != self.name or self.prior.calibration is not None):
            raise BadDeclaration(what=f"target {self.name!r}", reason="its prior has another name, or is calibrated and so no prior")

    def __repr__(self) -> str:
        return f"<Target {self.name} version {self.version}>"

    @property
    def digest(self) -> str:
        """64 hex digits over name, version, outcome, both declarations and the inputs. The two functions count by the version."""
        parts = [self.name, self.version, self.outcome, self.features.digest, self.after.digest, list(self.inputs)]
        return hashlib.sha256(canonical(parts)).hexdigest()


# ---------------------------------------------------------------- what happened afterwards

Times = Mapping[str, int]


class CustomerOutcome(Features, version=1, owner="postsale"):
    """What became of a customer within a horizon: terms, cancellations, ends, the CRM's word, referrals."""

    lost = count(AccountChurned)
    terms_at = last_seen(_TERMS, by=lambda e: e.subscription_id)
    trial_started_at = last_seen(SubscriptionStarted, where=lambda e: e.trial, by=lambda e: e.subscription_id)
    trial_changed_at = last_seen(SubscriptionChanged, where=lambda e: e.trial, by=lambda e: e.subscription_id)
    mrr_by = latest(_TERMS, lambda e: e.mrr_minor, by=lambda e: e.subscription_id)
    currency_by = latest(_TERMS, lambda e: e.currency, by=lambda e: e.subscription_id)
    cancelled_at = last_seen(CancellationScheduled, by=lambda e: e.subscription_id)
    ended_at = last_seen(SubscriptionEnded, by=lambda e: e.subscription_id)
    called = latest(RenewalCalledFinally, lambda e: e.call)
    called_for = latest(
        RenewalCalledFinally, lambda e: e.renews_at, unit="us", description="the end of the contract that `called` is about"
    )
    invited = count(ReferralInvited)


def _running_after(before: FeatureValues, after: FeatureValues) -> set[str]:
    """Subscriptions that run at the horizon's end: those from before and new ones, less what ended and did not begin again."""
    terms: Times = after["terms_at"]
    ended: Times = after["ended_at"]
    return {s for s in {*before["running"], *terms} if s not in ended or terms.get(s, -1) > ended[s]}


def _churned(before: FeatureValues, after: FeatureValues) -> bool:
    """The CRM closed the account as lost, or no subscription runs any more."""
    return bool(after["lost"]) or not _running_after(before, after)


def _renewed(before: FeatureValues, after: FeatureValues) -> bool:
    """As the CRM settled this very renewal; where it did not: not lost, and a subscription runs that is not cancelled since its terms were last set."""
    if after["called_for"] == before["renews_at"] and after["called"] in ("renew", "expand", "contract", "churn"):
        return bool(after["called"] != "churn")
    terms: Times = after["terms_at"]
    cancelled: Times = after["cancelled_at"]

    def leaving(s: str) -> bool:
        return cancelled[s] >= terms.get(s, -1) if s in cancelled else s in before["cancelling"] and s not in terms

    return not after["lost"] and any(not leaving(s) for s in _running_after(before, after))


def _expanded(before: FeatureValues, after: FeatureValues) -> bool:
    """Monthly revenue at the horizon's end is above that at its beginning, in the same currency. Trials are no revenue."""
    terms: Times = after["terms_at"]
    trial = {s for s, at in terms.items() if at in (after["trial_started_at"].get(s), after["trial_changed_at"].get(s))}
    billed = {*before["billed"], *terms} & _running_after(before, after) - trial
    mrr = {**before["mrr_by"], **after["mrr_by"]}
    currency = {**before["currency_by"], **after["currency_by"]}
    return {currency[s] for s in billed} == {before["currency"]} and sum(mrr[s] for s in billed) > before["mrr_minor"]


def _referred(before: FeatureValues, after: FeatureValues) -> bool:  # noqa: ARG001
    """The customer invited somebody."""
    return bool(after["invited"])


# ---------------------------------------------------------------- who is asked about


def _subscribes(before: FeatureValues, horizon_us: int) -> bool:  # noqa: ARG001
    """A subscription runs, and the account was not closed."""
    return bool(before["running"]) and not before["churned"]


def _falls_due(before: FeatureValues, horizon_us: int) -> bool:
    """… and the contract falls due within the horizon, early enough that an end within a week of it is still seen."""
    due, at = before["renews_at"], before.as_of_us
    return _subscribes(before, horizon_us) and due is not None and at < due <= at + horizon_us - _AFTER_DUE_DAYS * DAY_US


def _pays(before: FeatureValues, horizon_us: int) -> bool:
    """… and its monthly revenue is known, in one currency."""
    return _subscribes(before, horizon_us) and before["mrr_minor"] is not None


def _is_customer(before: FeatureValues, horizon_us: int) -> bool:
    """A subscription runs, or something was ever bought, and the account was not closed."""
    return not before["churned"] and (_subscribes(before, horizon_us) or bool(before["purchases"]))


# ---------------------------------------------------------------- what ships

_CARE: Final = (
    "failed_90d",
    "last_usage",
    "usage_30d",
    "usage_prior_30d",
    "active_users",
    "tickets_30d",
    "escalations_90d",
    "survey_micro",
)

CHURN: Final = Target(
    name="churn",
    version=1,
    owner="postsale",
    outcome="the customer leaves within {days} days",
    features=CustomerHealth,
    inputs=(*_CARE, "cancelling", "mrr_minor", "began_at"),
    after=CustomerOutcome,
    label=_churned,
    eligible=_subscribes,
    prior=CHURN_PRIOR,
)
"""Whether a customer with a running subscription has none at the horizon's end, or the CRM closed it as lost."""

RENEWAL: Final = Target(
    name="renewal",
    version=1,
    owner="postsale",
    outcome="the contract that falls due within {days} days is renewed",
    features=CustomerHealth,
    inputs=(*_CARE, "cancelling", "mrr_minor", "began_at", "renews_at"),
    after=CustomerOutcome,
    label=_renewed,
    eligible=_falls_due,
    prior=RENEWAL_PRIOR,
)
"""Whether a contract that falls due within the horizon goes on; the risk is what is missing to certainty."""

EXPANSION: Final = Target(
    name="expansion",
    version=1,
    owner="postsale",
    outcome="the customer's monthly revenue rises within {days} days",
    features=CustomerHealth,
    inputs=(*_CARE, "cancelling", "mrr_minor", "seats", "began_at"),
    after=CustomerOutcome,
    label=_expanded,
    eligible=_pays,
    prior=EXPANSION_PRIOR,
)
"""Whether monthly revenue at the horizon's end is above that at its beginning."""

REFERRAL: Final = Target(
    name="referral",
    version=1,
    owner="postsale",
    outcome="the customer refers another within {days} days",
    features=CustomerHealth,
    inputs=(*_CARE, "purchases", "last_purchase", "cancelling", "began_at"),
    after=CustomerOutcome,
    label=_referred,
    eligible=_is_customer,
    prior=REFERRAL_PRIOR,
)
"""Whether the customer invites somebody."""

TARGETS: Final = (CHURN, RENEWAL, EXPANSION, REFERRAL)


def by_name(targets: Sequence[Target]) -> dict[str, Target]:
    """Targets by name. BadDeclaration for a name twice."""
    found = {target.name: target for target in targets}
    if len(found) < len(targets):
        raise BadDeclaration(what="targets", reason="two targets share a name")
    return found
