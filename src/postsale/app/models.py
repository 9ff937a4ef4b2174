"""Models of one tenant: trained on its log, published, activated and retired by people, watched, and what they say of a customer.

Part of the wiring: may import everything below `app`. How a card is made is `projections.modelling`, what the log says of models
is `agents.models`; here it is checked that what is to score can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from postsale.access import Person
from postsale.agents.models import ModelHistory, Published
from postsale.aggregates.artifacts import POLICIES
from postsale.aggregates.identity import ExternalId
from postsale.app.training import Question, Rows, TrainingRows
from postsale.errors import InvalidInput, ModelRefused, NotLive, UnknownModel
from postsale.events import DAY_US, Lane, iso, to_us
from postsale.projections.drift import Checked, checked
from postsale.projections.fitting import require_fitting
from postsale.projections.folding import FeatureValues
from postsale.projections.model_card import OTHER_SCORES, VALID_DAYS, CardScorer, ModelCard
from postsale.projections.modelling import Labelled, labelled, make_card, prior_card
from postsale.projections.scoring import Part, Scored
from postsale.projections.targets import Target
from postsale.projections.training import Knowledge, feature_rows
from postsale.store.contract import Query

if TYPE_CHECKING:
    from postsale.app.tenant import Tenant

BACK_DAYS: Final = 730
Status = Literal["active", "not asked about", "stale", "target changed", "features changed"]


@dataclass(frozen=True, slots=True)
class ModelScore:
    """What an active model says of one customer, and why.

    `parts` are what each feature puts into the log-odds, in millionths, and sum to `log_odds_micro` exactly. Only log-odds add up: the
    score is a curve of their sum, so no part is so many percent of it. A model of purchases has no parts.
    """

    name: str
    outcome: str
    digest: str
    scored: Scored | None
    status: Status
    parts: tuple[Part, ...]
    log_odds_micro: int

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        kind = None if self.scored is None else type(self.scored).__name__.lower()
        number = None if self.scored is None else next(getattr(self.scored, n) for n in self.scored.__slots__)
        return {
            "model": self.name,
            "outcome": self.outcome,
            "digest": self.digest,
            "status": self.status,
            "kind": kind,
            "value": number,
            "log_odds_micro": self.log_odds_micro,
            "parts": [{"feature": p.feature or None, "log_odds_micro": p.log_odds_micro} for p in self.parts],
        }


class TenantModels:
    """Models of one tenant. Get it from `Tenant.models`."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._ps = tenant._ps
        self._models = self._ps.models

    # ------------------------------------------------------------ making

    def train(
        self,
        target: str | Target,
        *,
        horizon: timedelta,
        split_at: datetime,
        every: timedelta = timedelta(days=30),
        since: datetime | None = None,
        knowledge: Knowledge = "recorded",
        owner: str | None = None,
        valid_days: int = VALID_DAYS,
    ) -> ModelCard:
        """A card for a target, fitted on rows whose outcome was over at `split_at` and measured on rows from then on; nothing is published.

        A row is each customer that is asked about, each `every` from `split_at` on, while its horizon is over by now; and back
        from `split_at` less the horizon to `since` (default two years before the split). Needs the extra `models`. Raises
        TooFewOutcomes, MissingExtra, InvalidInput for a split after which no horizon is over.
        """
        require_fitting()
        its, horizon_us, every_us = self.target(target), horizon // timedelta(microseconds=1), every // timedelta(microseconds=1)
        split_us, now_us = to_us(split_at), self._ps.clock.now_us()
        since_us = split_us - BACK_DAYS * DAY_US if since is None else to_us(since)
        if every_us < DAY_US or horizon_us < DAY_US or horizon_us % DAY_US:
            raise InvalidInput(what="model", field="horizon", reason="expected whole days, and rows at most one a day")
        late = range(split_us, now_us - horizon_us + 1, every_us)
        if not late:
            reason = f"no horizon of {horizon.days} days from then on is over; choose a day up to {iso(now_us - horizon_us)[:10]}"
            raise InvalidInput(what="model", field="split_at", reason=reason)
        early = range(split_us - horizon_us, max(0, since_us) - 1, -every_us)
        rows, made = self._rows(its, (*early, *late), horizon_us, knowledge)
        version = len(self._models.history(self._tenant.name, its.name).published) + 1
        return make_card(
            its, rows, made.manifest, split_us=split_us, version=version, owner=owner or its.owner, valid_days=valid_days
        )  # fmt: skip

    def prior(self, target: str | Target) -> ModelCard:
        """The card of a target's prior: a rank, fitted on nobody's outcomes. InvalidInput for a target without one."""
        return prior_card(self.target(target), made_at_us=self._ps.clock.now_us())

    def target(self, target: str | Target) -> Target:
        """The target of a name, or itself. InvalidInput for one that this was not opened with."""
        if isinstance(target, str):
            if target not in self._ps.targets:
                reason = f"no such target; there are: {', '.join(self._ps.targets)}"
                raise InvalidInput(what="model", field="target", reason=reason)
            return self._ps.targets[target]
        if self._ps.targets.get(target.name) != target:
            reason = "the log was not opened with this target: PostSale.open(…, targets=[…]), so that agents know its name"
            raise InvalidInput(what="model", field="target", reason=reason)
        return target

    def _rows(
        self, target: Target, at_us: Sequence[int], horizon_us: int, knowledge: Knowledge, until_us: int | None = None
    ) -> tuple[Labelled, TrainingRows]:
        question = Question(
            name=f"model/{target.name}",
            features=target.features,
            outcome=target.after,
            horizon_us=horizon_us,
            knowledge=knowledge,
            at_us=tuple(sorted(at_us)),
            until_us=until_us,
        )
        made = Rows(self._ps.log, self._tenant.name, question).made(self._ps.log.vault.tenant(self._tenant.name))
        self._tenant._datasets.remember(made.manifest, made.table.column("customer").to_pylist())
        return labelled(made.table, target, horizon_us), made

    # ------------------------------------------------------------ in the log

    def names(self) -> list[str]:
        """Names under which a model was published here."""
        return self._models.published_names(self._tenant.name)

    def history(self, name: str) -> ModelHistory:
        """Every version that was published under a name, and every change of what scores. UnknownModel when there is none."""
        history = self._models.history(self._tenant.name, name)
        if not history.published:
            raise UnknownModel(tenant=self._tenant.name, model=repr(name[:64]))
        return history

    def find(self, name: str, digest: str) -> Published:
        """The version of a name whose digest begins so. UnknownModel when there is none, or more than one."""
        return self._models.find(self._tenant.name, name, digest)

    def publish(self, card: ModelCard, *, reason: str, by: Person | None = None) -> bool:
        """Put a card into the log, by a person; False when it is there. It scores when it is activated. InvalidInput for a name that no agent could read."""
        if card.name not in self._models.names:
            reason_ = f"no target has this name, so no agent could read its score; there are: {', '.join(self._models.names)}"
            raise InvalidInput(what="model", field="name", reason=reason_)
        return self._models.publish(self._tenant.name, card, person=self._ps.person(by), reason=reason)

    def activate(self, name: str, digest: str, *, reason: str, by: Person | None = None) -> bool:
        """Make a published version the one that scores, by a person; False when it is already. The former one again is a rollback.

        Raises ModelRefused for one over features that are not the health model's, that is too old, or that gives a rank where an
        active policy asks for a probability; NotLive while that health model's projection is not live; UnknownModel.
        """
        published = self.find(name, digest)
        self._require_fit(published)
        return self._models.activate(self._tenant.name, published, person=self._ps.person(by), reason=reason)

    def retire(self, name: str, *, reason: str, by: Person | None = None) -> bool:
        """Let no version of a name score any more, by a person; False when none did."""
        return self._models.retire(self._tenant.name, name, person=self._ps.person(by), reason=reason)

    def _require_fit(self, published: Published) -> None:
        card, features = published.card, self._ps.model.features

        def refuse(reason: str, todo: str) -> None:
            raise ModelRefused(model=card.name, digest=published.digest[:12], reason=reason, todo_next=todo)

        if card.features.digest != features.digest:
            found, live = card.features, f"{features.__name__} version {features.version} ({features.digest[:12]})"
            refuse(
                f"it takes {found.name} version {found.version} ({found.digest[:12]}), and agents read {live}",
                "Train it anew over these features, or run the code that declares its own.",
            )
        try:
            card.score(self._ps.model.fold.finish(self._ps.model.fold.empty(), self._ps.clock.now_us()))
        except InvalidInput as error:
            refuse(f"it cannot score a customer: {error.field}, {error.reason}", f"Train it over {features.__name__}.")
        self._ps.deployments.require(features)
        if card.made_at_us > self._ps.clock.now_us() + DAY_US:  # clocks differ a little
            refuse(f"it says that it was made on {iso(card.made_at_us)[:10]}, which is to come", "Mend the clock that it was made by.")
        if card.stale_at(self._ps.clock.now_us()):
            old = iso(card.made_at_us)[:10]
            refuse(f"it was made on {old} and says that it is good for {card.valid_days} days", "Train it anew.")
        target = self._ps.targets.get(card.name)
        if target is not None and not CardScorer(card, published.digest, target).of_this_target:
            refuse(f"it was trained for another version of its target than {target.version}", "Train it anew for the target as it is.")
        asking = self._policies_that_ask(card.name)
        if asking and card.gives != "probability":
            refuse(
                f"it gives a {card.gives}, and the policy {asking[0]!r} acts only on a probability of {card.name!r}",
                "Train a model that is calibrated, or activate a policy without [guardrails.probability].",
            )

    def _policies_that_ask(self, name: str) -> list[str]:
        """Active policies with a floor of probability for this model."""
        query = Query(tenant=self._tenant.name, category=POLICIES, lane=Lane.DECISION, kinds=frozenset({"artifact/activated"}))
        found = []
        for policy_name in sorted({stored.stream.id for stored in self._ps.log.store.read(query)}):
            policy = self._tenant.policy(policy_name)
            floor = policy.guardrails.probability if policy is not None else None
            if floor is not None and floor.of == name:
                found.append(policy_name)
        return found

    # ------------------------------------------------------------ what they say

    def scores(self, customer: str | ExternalId, *, as_of: datetime | None = None, known_at: datetime | None = None) -> list[ModelScore]:
        """What each active model says of a customer, with its contributions, by name; as known at `known_at`, by what scored then."""
        features, tenant = self._ps.model.features, self._tenant
        active = self._models.active(tenant.name, known_at_us=None if known_at is None else to_us(known_at)).scorers
        if not active:
            return []
        if known_at is None:
            values = tenant.features(features, customer, as_of=as_of)
        else:
            values = tenant.features(features, customer, as_of=as_of or known_at, known_at=known_at)
        found = []
        for scorer in active:
            card, status = scorer.card, _status(scorer, values, features.digest)
            parts = () if status in ("features changed", "not asked about") else card.parts(values)
            scored = None if status == "features changed" else scorer.score(values)
            total = sum(part.log_odds_micro for part in parts)
            found.append(ModelScore(card.name, card.outcome, scorer.digest, scored, status, parts, total))
        return found

    # ------------------------------------------------------------ watching

    def check(self, name: str, *, knowledge: Knowledge = "recorded") -> Checked:
        """How the active model of a name does since it was activated: drift of its scores and inputs now, calibration on outcomes that are over.

        Recomputed from the log by the same training rows. `knowledge` as in `train`. Raises UnknownModel when none is active, InvalidInput
        for a model of purchases, MissingExtra.
        """
        active = self.history(name).active
        if active is None:
            raise UnknownModel(tenant=self._tenant.name, model=f"{name[:64]!r} that is active")
        if name in OTHER_SCORES:
            raise InvalidInput(what="model", field="name", reason="expected a model of a yes-or-no outcome")
        card, target, now_us = active.card, self.target(name), self._ps.clock.now_us()
        since_us = self.history(name).turns[-1].at_us
        if card.features.digest != target.features.digest:
            return checked(card, active.digest, since_us, now_us, features_live=False)
        horizon_us = (card.trained.horizon_days if card.trained else 90) * DAY_US
        times = list(range(now_us - horizon_us, since_us - 1, -horizon_us))
        later = None
        if times:
            later, _ = self._rows(target, times, horizon_us, knowledge)
        rows, _ = self._now(target, now_us, knowledge)
        asked = [v for v in rows if target.eligible(v, horizon_us)]
        live = self._ps.model.features.digest == card.features.digest and self._is_live()
        return checked(card, active.digest, since_us, now_us, features_live=live, now=asked, later=later)

    def _is_live(self) -> bool:
        try:
            self._ps.deployments.require(self._ps.model.features)
        except NotLive:
            return False
        return True

    def _now(self, target: Target, now_us: int, knowledge: Knowledge) -> tuple[list[Any], TrainingRows]:
        question = Question(name=f"check/{target.name}", features=target.features, at_us=(now_us,), knowledge=knowledge)
        made = Rows(self._ps.log, self._tenant.name, question).made(self._ps.log.vault.tenant(self._tenant.name))
        self._tenant._datasets.remember(made.manifest, made.table.column("customer").to_pylist())
        return list(feature_rows(made.table, target.features)), made


def _status(scorer: CardScorer, values: FeatureValues, live: str) -> Status:
    if scorer.features != live:
        return "features changed"
    if not scorer.asks(values):
        return "not asked about"
    if not scorer.of_this_target:
        return "target changed"
    return "stale" if scorer.card.stale_at(values.as_of_us) else "active"
