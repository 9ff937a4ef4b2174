"""Models in the log: trained on it, published and activated by people, read by agents, replayed, watched, refused when they do not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from postsale import PostSale, Tenant
from postsale.access import Person
from postsale.agents import Agent, Policy
from postsale.aggregates.artifacts import ArtifactActivated, ArtifactPublished, ArtifactRetired, content_digest, model_stream
from postsale.aggregates.signals import AccountChurned, InvoicePaid
from postsale.errors import InvalidInput, ModelRefused, NotAllowed, NotLive, ReplayDiverged, TooFewOutcomes, UnknownModel
from postsale.events import Lane, ManualClock, from_us
from postsale.projections import Component, Features, HealthModel, count
from postsale.projections.customer_health import CustomerHealth
from postsale.projections.journal import Entry
from postsale.projections.model_card import CardScorer, Measures, ModelCard
from postsale.projections.modelling import prior_card
from postsale.projections.priors import CHURN_PRIOR
from postsale.projections.scoring import LogisticModel, Number, Platt, Probability, Rank, sigmoid
from postsale.projections.targets import CHURN, TARGETS
from postsale.store.contract import Query

from .modelled import HORIZON, NOW, SPLIT, signals
from .support import ANNA, NOON, Where, failed, opened, paid, subscribed
from .test_scores import RESCUE

DAY = timedelta(days=1)
MEASURES = Measures(
    rows=100, customers=100, positives=20, base_rate_ppm=200_000, auc_ppm=800_000, auc_low_ppm=700_000, auc_high_ppm=900_000,
    brier_ppm=100_000, brier_skill_ppm=300_000, calibration_error_ppm=10_000, said_ppm=200_000, lift_ppm=3_000_000, calibration=(), periods=(),
)  # fmt: skip


def card(offset: float = 2.0, *, made: Any = NOON, gives: str = "probability", valid_days: int = 180) -> ModelCard:
    """A calibrated model of churn over the shipped features, as a training gives it."""
    base = prior_card(CHURN, made_at_us=int(made.timestamp() * 1_000_000))
    model = CHURN_PRIOR.model_copy(update={"calibration": Platt(slope=1.0, offset=offset, calibrated_on="rows")})
    fields = {"model": model, "gives": gives, "measures": MEASURES, "valid_days": valid_days}
    return ModelCard.from_json(base.model_copy(update=fields).content)


def activated(tenant: Tenant, its: ModelCard) -> None:
    tenant.models.publish(its, reason="trained", by=ANNA)
    assert tenant.models.activate(its.name, its.digest[:12], reason="reads well", by=ANNA)


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def learnt() -> Iterator[tuple[PostSale, ModelCard]]:
    """A tenant with a past, and a model of churn that was trained on it."""
    with opened(None, clock=ManualClock(NOW)) as ps:
        ps.tenant("acme").record_many(signals())
        yield ps, ps.tenant("acme").models.train("churn", horizon=HORIZON, split_at=SPLIT, knowledge="claimed")


def test_a_model_is_fitted_before_the_split_and_measured_after_it(learnt: tuple[PostSale, ModelCard]) -> None:
    """It finds what drives leaving, in measures that beat the base rate, and says so on its card; the same log gives the same card."""
    ps, its = learnt
    assert its.trained is not None
    assert its.measures is not None
    m = its.measures
    assert (its.gives, its.name, its.outcome) == ("probability", "churn", "the customer leaves within 60 days")
    assert its.trained.outcome == CHURN.digest
    assert its.trained.positives >= 30
    assert m.rows > m.customers > m.positives > 10
    assert m.auc_low_ppm > 500_000 < m.auc_ppm < m.auc_high_ppm <= 1_000_000
    assert m.brier_skill_ppm > 0
    assert m.lift_ppm > 2_000_000
    assert sum(row.rows for row in m.calibration) == sum(p.rows for p in m.periods) == m.rows
    assert min(p.as_of_us for p in m.periods) == int(SPLIT.timestamp()) * 1_000_000
    assert its == ps.tenant("acme").models.train("churn", horizon=HORIZON, split_at=SPLIT, knowledge="claimed")
    assert ModelCard.from_json(its.content).digest == its.digest == content_digest(its.content)


def coefficients(its: ModelCard) -> dict[str, float]:
    assert isinstance(its.model, LogisticModel)
    return {"": its.model.intercept} | {t.feature: t.coefficient for t in its.model.terms if isinstance(t, Number)}


def test_what_happened_after_the_split_changes_no_coefficient(learnt: tuple[PostSale, ModelCard]) -> None:
    """Another log, in which everybody may die after the split, gives the same coefficients, and other measures."""
    _, its = learnt
    with opened(None, clock=ManualClock(NOW)) as ps:
        early = [(c, s) for c, s in signals() if s.occurred_at <= SPLIT]
        acme = ps.tenant("acme")
        acme.record_many(early)
        with pytest.raises(TooFewOutcomes) as refused:  # nobody uses anything any more, so everybody who is left is alike
            acme.models.train("churn", horizon=HORIZON, split_at=SPLIT, knowledge="claimed")
        assert refused.value.part == "measuring"
        later = [(c, s) for c, s in signals(seed=5) if s.occurred_at > SPLIT and not s.wire_name.startswith("billing/subscription-ended")]
        ends = [(c, s) for c, s in signals(seed=5) if s.occurred_at > SPLIT and s.wire_name.startswith("billing/subscription-ended")]
        acme.record_many([*later, *ends[::2]])
        other = acme.models.train("churn", horizon=HORIZON, split_at=SPLIT, knowledge="claimed")
    ours, theirs = its.model.model_dump(), other.model.model_dump()
    assert {k: v for k, v in ours.items() if k in ("intercept", "terms")} == {
        k: v for k, v in theirs.items() if k in ("intercept", "terms")
    }
    assert other.measures != its.measures


@pytest.mark.parametrize("target", ["renewal", "expansion", "referral"])
def test_every_shipped_target_trains_on_shipped_signals(learnt: tuple[PostSale, ModelCard], target: str) -> None:
    """Each has rows of both outcomes here; what a coin decides gives a rank only, and the card says why."""
    ps, _ = learnt
    its = ps.tenant("acme").models.train(target, horizon=HORIZON, split_at=SPLIT, knowledge="claimed", every=60 * DAY)
    assert its.measures is not None
    assert 0 < its.measures.positives < its.measures.rows
    if its.gives == "rank":
        assert its.measures.auc_low_ppm <= 500_000 or its.measures.brier_skill_ppm <= 0 or "quarter" in its.use
        assert "order" in its.use or "reading" in its.use


def test_too_few_outcomes_are_refused_with_what_to_do(learnt: tuple[PostSale, ModelCard]) -> None:
    ps, _ = learnt
    models = ps.tenant("acme").models
    with pytest.raises(TooFewOutcomes, match=r"at least 30 of each.*later split") as early:
        models.train("churn", horizon=HORIZON, split_at=SPLIT - 380 * DAY, knowledge="claimed")
    assert early.value.part == "training"
    with pytest.raises(InvalidInput, match="no horizon of 60 days"):
        models.train("churn", horizon=HORIZON, split_at=NOW - 30 * DAY, knowledge="claimed")
    with pytest.raises(TooFewOutcomes):  # recorded today: nothing was known then
        models.train("churn", horizon=HORIZON, split_at=SPLIT)
    with pytest.raises(InvalidInput, match=r"no such target.*churn, renewal, expansion, referral"):
        models.train("upgrade", horizon=HORIZON, split_at=SPLIT)


# ---------------------------------------------------------------- publishing and activating


def test_a_model_is_published_activated_retired_and_rolled_back_by_people(where: Where) -> None:
    """Each step is an event on the model's stream with person and reason; the log survives, the state is read from it."""
    first, second = card(2.0), card(1.0)
    with opened(where) as ps:
        models = ps.tenant("acme").models
        assert models.publish(first, reason="trained", by=ANNA)
        assert not models.publish(first, reason="again", by=ANNA)
        assert models.history("churn").active is None
        assert models.activate("churn", first.digest[:12], reason="reads well", by=ANNA)
        assert not models.activate("churn", first.digest, reason="again", by=ANNA)
        models.publish(second, reason="newer rows", by=ANNA)
        models.activate("churn", second.digest[:12], reason="newer", by=Person("ben", "os-user"))
        models.activate("churn", first.digest[:12], reason="the newer one is worse", by=ANNA)
        assert models.retire("churn", reason="not needed", by=ANNA)
        assert not models.retire("churn", reason="again", by=ANNA)
        history = models.history("churn")
        assert [(t.digest, t.approver, t.reason) for t in history.turns] == [
            (first.digest, "anna", "reads well"),
            (second.digest, "ben", "newer"),
            (first.digest, "anna", "the newer one is worse"),
            ("", "anna", "not needed"),
        ]
        assert history.active is None
        assert [(p.card, p.by) for p in history.published] == [(first, "anna"), (second, "anna")]
        stream = model_stream("acme", "churn")
        kinds = [type(e.data) for e in ps.log.events(Query(tenant="acme", streams=(stream,), lane=Lane.DECISION))]
        assert kinds == [ArtifactPublished, ArtifactActivated, ArtifactPublished, ArtifactActivated, ArtifactActivated, ArtifactRetired]
        assert models.names() == ["churn"]


def test_only_a_person_with_a_reason_changes_what_scores() -> None:
    its = card()
    with opened(None) as ps:
        models = ps.tenant("acme").models
        with pytest.raises(InvalidInput, match="reason"):
            models.publish(its, reason=" ", by=ANNA)
        with pytest.raises(NotAllowed):
            models.publish(its, reason="trained", by=Person("", "os-user"))
        models.publish(its, reason="trained", by=ANNA)
        with pytest.raises(NotAllowed):
            models.activate("churn", its.digest, reason="an agent thinks so", by=Person("agent", " "))
        with pytest.raises(InvalidInput, match="reason"):
            models.activate("churn", its.digest, reason="", by=ANNA)
        for digest in ("0" * 12, its.digest[:3], ""):
            with pytest.raises(UnknownModel):
                models.activate("churn", digest, reason="r", by=ANNA)
        with pytest.raises(InvalidInput, match="no target has this name"):
            models.publish(
                its.model_copy(update={"model": CHURN_PRIOR.model_copy(update={"name": "luck"}), "gives": "rank"}), reason="r", by=ANNA
            )


def test_a_model_that_does_not_fit_is_not_activated() -> None:
    """Other features, too old by its own word, another version of its target: refused with a reason, and what was active stays."""
    good, old = card(), card(1.0, made=NOON - 200 * DAY)
    fields = {
        "model": good.model.model_copy(update={"features": "f" * 32}),
        "features": good.features.model_copy(update={"digest": "f" * 32}),
    }
    other = good.model_copy(update=fields)
    assert good.trained is None
    with opened(None) as ps:
        models = ps.tenant("acme").models
        activated(ps.tenant("acme"), good)
        for its, why in [(old, "good for 180 days"), (other, "CustomerHealth version 1.*agents read")]:
            models.publish(its, reason="r", by=ANNA)
            with pytest.raises(ModelRefused, match=why):
                models.activate("churn", its.digest, reason="r", by=ANNA)
        active = models.history("churn").active
        assert active is not None
        assert active.card == good
    with opened(None, targets=[replace(t, version=2) if t is CHURN else t for t in TARGETS]) as ps:
        models = ps.tenant("acme").models
        trained = {
            "trained": {"data_set": "d", "outcome": CHURN.digest, "knowledge": "recorded", "rows": 1, "customers": 1, "positives": 1}
        }
        raw = good.model_dump(mode="json", by_alias=True) | trained
        raw["trained"] |= {"split_us": 0, "horizon_days": 90}
        of_v1 = ModelCard.from_json(json.dumps(raw))
        models.publish(of_v1, reason="r", by=ANNA)
        with pytest.raises(ModelRefused, match="another version of its target than 2"):
            models.activate("churn", of_v1.digest, reason="r", by=ANNA)


def test_no_model_is_activated_while_the_features_that_it_takes_are_not_live() -> None:
    its = card()
    with opened(None) as ps:
        acme = ps.tenant("acme")
        acme.models.publish(its, reason="r", by=ANNA)
        ps.deployments.require(CustomerHealth)
        name = CustomerHealth.__name__

        Other = type(name, (Features,), {"paid": count(InvoicePaid)}, version=2, owner="tests")
        ps.deployments.switch(Other, by="anna", reason="tests")
        with pytest.raises(NotLive):
            acme.models.activate("churn", its.digest, reason="r", by=ANNA)


def test_a_rank_is_not_activated_where_an_active_policy_asks_for_a_probability() -> None:
    """Before the policy is active it may be, and then the policy's floor is never met: it fails closed."""
    rank = prior_card(CHURN, made_at_us=int(NOON.timestamp() * 1_000_000))
    with opened(None, agents=[Agent(RESCUE, name="rescue")]) as ps:
        acme = ps.tenant("acme")
        acme.models.publish(rank, reason="a start", by=ANNA)
        assert acme.models.activate("churn", rank.digest, reason="nobody asks yet", by=ANNA)
        acme.models.retire("churn", reason="test", by=ANNA)
        acme.activate(RESCUE, reason="tried", by=ANNA)
        with pytest.raises(ModelRefused, match="'rescue' acts only on a probability"):
            acme.models.activate("churn", rank.digest, reason="why not", by=ANNA)


# ---------------------------------------------------------------- agents


def rescue_decides(ps: PostSale, clock: ManualClock, n: int) -> Entry:
    """A payment of one more customer fails, and the agent decides about it."""
    acme = ps.tenant("acme")
    acme.record(f"cus_{n}", subscribed(f"s{n}", from_us(clock.now_us()) - 9 * DAY))
    acme.record(f"cus_{n}", paid(f"p{n}", from_us(clock.now_us()) - 8 * DAY))
    ps.run_once()
    clock.advance(DAY)
    acme.record(f"cus_{n}", failed(f"f{n}", from_us(clock.now_us())))
    ps.run_once()
    return acme.decisions(f"cus_{n}")[-1]


def test_a_decision_names_the_active_model_and_replays_with_it_after_another_was_activated(where: Where) -> None:
    """The first lets the agent act, the second does not; each decision is made again, its score too, by the model that it names."""
    clock, sure, unsure = ManualClock(NOON), card(2.0), card(-9.0)
    with opened(where, clock=clock, agents=[Agent(RESCUE, name="rescue")]) as ps:
        acme = ps.tenant("acme")
        acme.agent("rescue").act(reason="tried", by=ANNA)
        without = rescue_decides(ps, clock, 0)
        assert without.suppressed_by == "probability:churn>=10%"  # no model: not known
        activated(acme, sure)
        acts = rescue_decides(ps, clock, 1)
        assert acts.disposition == "acted"
        assert f"churn:{sure.digest}" in (acts.recorded.model or "")
        activated(acme, unsure)
        suppressed = rescue_decides(ps, clock, 2)
        assert suppressed.suppressed_by == "probability:churn>=10%"
        assert f"churn:{unsure.digest}" in (suppressed.recorded.model or "")
        acme.models.retire("churn", reason="test", by=ANNA)
        assert rescue_decides(ps, clock, 3).recorded.evidence["churn_probability_ppm"] is None
        for entry, models in [(without, ()), (acts, ("churn",)), (suppressed, ("churn",))]:
            assert acme.replay(entry.id).models == models


def test_a_recorded_score_that_the_named_model_does_not_give_is_found() -> None:
    """The scorer is made to give another figure for the same digest, as a change of the library's arithmetic would."""
    clock, its = ManualClock(NOON), card(2.0)
    with opened(None, clock=clock, agents=[Agent(RESCUE, name="rescue")]) as ps:
        acme = ps.tenant("acme")
        activated(acme, its)
        entry = rescue_decides(ps, clock, 1)
        assert acme.replay(entry.id).models == ("churn",)
        other = card(1.9)
        ps.models._cards[its.digest] = other
        ps.models._known.clear()
        with pytest.raises(ReplayDiverged, match="churn_probability_ppm"):
            acme.replay(entry.id)


def test_a_decision_does_not_outlive_the_model_that_it_read() -> None:
    """Another model is activated between reading and appending: the decision is made again, by that one."""
    clock, sure, unsure = ManualClock(NOON), card(2.0), card(-9.0)
    with opened(None, clock=clock, agents=[Agent(RESCUE, name="rescue")]) as ps:
        acme = ps.tenant("acme")
        acme.agent("rescue").act(reason="tried", by=ANNA)
        activated(acme, sure)
        desk, turned = ps.engine.desk, []
        append = desk.append

        def meddle(customer: Any, change: Any) -> Any:
            if not turned and any(d.event.kind == "agent/decision-recorded" for d in change.drafts):
                turned.append(True)
                activated(acme, unsure)
            return append(customer, change)

        desk.append = meddle  # type: ignore[method-assign]
        ps.engine.under = lambda lease: ps.engine  # type: ignore[method-assign]
        entry = rescue_decides(ps, clock, 1)
        assert turned
        assert f"churn:{unsure.digest}" in (entry.recorded.model or "")
        assert entry.disposition == "suppressed"


def test_a_stale_model_gives_a_rank_and_satisfies_no_floor() -> None:
    """Active all the while: the day on which it is too old by its own word, its probability is not known any more."""
    clock, its = ManualClock(NOON), card(2.0, valid_days=10)
    with opened(None, clock=clock, agents=[Agent(RESCUE, name="rescue")]) as ps:
        acme = ps.tenant("acme")
        acme.agent("rescue").act(reason="tried", by=ANNA)
        activated(acme, its)
        assert rescue_decides(ps, clock, 1).disposition == "acted"
        clock.advance(10 * DAY)
        entry = rescue_decides(ps, clock, 2)
        assert entry.suppressed_by == "probability:churn>=10%"
        assert entry.recorded.evidence["churn_probability_ppm"] is None
        assert isinstance(entry.recorded.evidence["churn_rank_ppm"], int)
        (score,) = acme.models.scores("cus_2")
        assert (score.status, type(score.scored)) == ("stale", Rank)


def test_a_model_over_features_that_changed_says_nothing() -> None:
    """The log is opened with a health model of other features: the active model is over the former ones, and scores nobody."""

    class Fewer(Features, version=2, owner="tests"):
        paid = count(InvoicePaid)

    its = card()
    with opened(None) as ps:
        activated(ps.tenant("acme"), its)
        ps.tenant("acme").record("cus_1", subscribed("s"))
        assert ps.tenant("acme").models.scores("cus_1")[0].status == "active"
        ps.model = HealthModel(name="other", version=1, features=Fewer, components=(Component("paid", 1, lambda v: v["paid"]),))
        (score,) = ps.tenant("acme").models.scores("cus_1")
        assert (score.status, score.scored, score.parts) == ("features changed", None, ())


# ---------------------------------------------------------------- what is said of a customer


def test_contributions_sum_exactly_to_the_log_odds_and_the_score_is_their_curve() -> None:
    its = card(2.0)
    with opened(None) as ps:
        acme = ps.tenant("acme")
        activated(acme, its)
        acme.record("cus_1", subscribed("s", NOON - 9 * DAY))
        acme.record("cus_1", failed("f", NOON - DAY))
        acme.record("gone", paid("p", NOON - DAY))
        (score,) = acme.models.scores("cus_1")
        assert sum(part.log_odds_micro for part in score.parts) == score.log_odds_micro
        by_feature = {part.feature: part.log_odds_micro for part in score.parts}
        assert by_feature["failed_90d"] == 600_000
        assert isinstance(score.scored, Probability)
        assert score.scored.probability_ppm == round(1_000_000 * sigmoid(score.log_odds_micro / 1_000_000 + 2.0))
        assert math.isclose(score.log_odds_micro / 1e6, sum(by_feature.values()) / 1e6)
        (other,) = acme.models.scores("gone")
        assert (other.status, other.scored) == ("not asked about", None)  # no subscription runs
        assert acme.models.scores("cus_1", known_at=NOON - DAY) == []  # nothing was active, nor known, then


def test_a_scorer_in_code_gives_way_to_the_active_model_of_its_name_and_comes_back() -> None:
    clock, its = ManualClock(NOON), card(2.0)
    own = CHURN_PRIOR.model_copy(update={"intercept": 5.0})
    with opened(None, clock=clock, agents=[Agent(RESCUE, name="rescue")], scorers=[own]) as ps:
        acme = ps.tenant("acme")
        assert f"churn:{own.digest}" in (rescue_decides(ps, clock, 1).recorded.model or "")
        activated(acme, its)
        said = rescue_decides(ps, clock, 2).recorded
        assert f"churn:{its.digest}" in (said.model or "")
        assert own.digest not in (said.model or "")
        assert [s.digest for s in ps.scoring("acme")] == [its.digest]
        acme.models.retire("churn", reason="test", by=ANNA)
        assert ps.scoring("acme") == (own,)


def test_a_simulation_scores_by_what_is_active(tmp_path: Any) -> None:
    its = card(2.0)
    with opened(tmp_path) as ps:
        acme = ps.tenant("acme")
        activated(acme, its)
        acme.record("cus_1", subscribed("s", NOON - 9 * DAY))
        acme.record("cus_1", failed("f", NOON - DAY))
        there = ps.simulate("acme", NOON, agents=[Agent(RESCUE, name="rescue")])
    with PostSale.open(there.url, clock=ManualClock(NOON)) as made:
        (entry,) = made.tenant("acme").decisions()
        assert isinstance(entry.recorded.evidence["churn_probability_ppm"], int)


def test_a_target_of_ones_own_is_on_offer_and_policies_may_ask_for_it() -> None:
    its = replace(CHURN, name="silence", prior=None)
    text = RESCUE.content.replace("churn_", "silence_").replace('"of":"churn"', '"of":"silence"')
    policy = Policy.from_json(text)
    with opened(None, agents=[Agent(policy, name="rescue")], targets=[*TARGETS, its]) as ps:
        assert "silence" in ps.models.names
        with pytest.raises(InvalidInput, match="has none; train a model"):
            ps.tenant("acme").models.prior("silence")


def test_a_card_that_gives_ranks_never_gives_a_probability() -> None:
    """Although its model is calibrated; and no card may claim a probability without a calibration and measures."""
    its = card(2.0, gives="rank")
    with opened(None) as ps:
        ps.tenant("acme").record("cus_1", subscribed("s"))
        values = ps.tenant("acme").features(CustomerHealth, "cus_1")
    assert isinstance(its.model.score(values), Probability)
    assert isinstance(CardScorer(its, its.digest).score(values), Rank)
    with pytest.raises(InvalidInput, match="calibrated and measured"):
        ModelCard.from_json(prior_card(CHURN, made_at_us=0).content.replace('"gives":"rank"', '"gives":"probability"'))


# ---------------------------------------------------------------- watching


def watched(seed: int, **how: Any) -> Any:
    """A model of churn trained half-way, then time goes on with customers that `how` describes; what a check says at the end."""
    clock = ManualClock(SPLIT + 90 * DAY)
    with opened(None, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record_many((c, s) for c, s in signals(400) if s.occurred_at <= from_us(clock.now_us()))
        its = acme.models.train("churn", horizon=30 * DAY, split_at=SPLIT, knowledge="claimed", valid_days=how.pop("valid_days", 180))
        assert its.gives == "probability", its.use
        activated(acme, its)
        assert acme.models.check("churn", knowledge="claimed").says == "too early"
        then = from_us(clock.now_us())
        clock.move_to(int((SPLIT + 210 * DAY).timestamp() * 1_000_000))
        acme.record_many((c, s) for c, s in how["later"](400) if then < s.occurred_at <= SPLIT + 210 * DAY)
        return acme.models.check("churn", knowledge="claimed")


def test_a_model_whose_world_stays_as_it_was_is_ok() -> None:
    found = watched(5, later=lambda n: signals(n))
    assert (found.says, found.ok) == ("ok", True), found.why
    assert found.later is not None
    assert found.later.positives >= 10


def test_a_model_whose_probabilities_come_wrong_is_to_be_recalibrated() -> None:
    """Customers look as before, and more of them leave."""

    def more_leave(n: int) -> Any:
        for i, (customer, signal) in enumerate(signals(n)):
            yield customer, signal
            if i % 12 == 0 and signal.wire_name.startswith("billing/invoice-paid") and signal.occurred_at > SPLIT + 90 * DAY:
                at = signal.occurred_at
                yield customer, AccountChurned(source="crm", id=f"{customer}-{i}", occurred_at=at, available_at=at)

    found = watched(5, later=more_leave)
    assert found.says == "recalibrate", found.to_dict()
    assert "happened" in found.why[-1]


def test_a_model_whose_customers_are_others_now_is_to_be_trained_anew() -> None:
    """Use falls to nothing for everybody: the score's spread is another one."""
    found = watched(5, later=lambda n: ((c, s) for c, s in signals(n) if not s.wire_name.startswith("product/")))
    assert found.says == "train anew"
    assert {d.of for d in found.drift if d.shifted} >= {"", "usage_30d", "last_usage"}


def test_a_model_that_is_too_old_is_stale() -> None:
    found = watched(5, later=lambda n: signals(n), valid_days=100)
    assert (found.says, found.ok) == ("stale", False)
    assert "good for 100 days" in found.why[0]
