"""Models in the log: trained on it, published and activated by people, read by agents, replayed, watched, refused when they do not fit."""

from __future__ import annotations

import json
import math
import re
import subprocess
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from postsale import PostSale, Tenant
from postsale.access import Person
from postsale.agents import Agent, Policy
from postsale.aggregates.artifacts import ArtifactActivated, ArtifactPublished, ArtifactRetired, model_stream
from postsale.aggregates.signals import InvoicePaid
from postsale.errors import InvalidInput, ModelRefused, NotAllowed, NotLive, ReplayDiverged, UnknownModel
from postsale.events import Lane, ManualClock, from_us
from postsale.projections import Component, Features, Fold, HealthModel, Runner, count
from postsale.projections.customer_health import CustomerHealth
from postsale.projections.journal import Entry
from postsale.projections.model_card import CardScorer, Measures, ModelCard, expected_card
from postsale.projections.modelling import prior_card
from postsale.projections.priors import CHURN_PRIOR
from postsale.projections.purchases import PurchaseModel
from postsale.projections.scoring import Expected, Platt, Probability, Rank, sigmoid
from postsale.projections.targets import CHURN, TARGETS
from postsale.projections.views import MemoryViews
from postsale.store.contract import Query
from tests.nursery import forked

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
        ps.deployments.switch(ps.log.store, Runner(ps.log.store, MemoryViews(), Fold(Other)), by="anna", reason="tests")
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
        report = acme.replay_many()
        assert (report.ok, dict(report.counts), dict(report.reasons)) == (True, {"same": 4}, {})


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
        store, turned = ps.log.store, []
        append = store.append

        def meddle(submissions: Any) -> Any:
            kinds = {event.wire_name.partition("@")[0] for submission in submissions for event in submission.events}
            if not turned and "agent/decision-recorded" in kinds:
                turned.append(True)
                activated(acme, unsure)
            return append(submissions)

        store.append = meddle  # type: ignore[method-assign]
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


HUGE = {
    "an intercept beyond all bounds": ('"intercept":-2.0', '"intercept":1e308'),
    "a coefficient beyond all bounds": ('"coefficient":0.6', '"coefficient":-1e308'),
    "a scale of almost nothing": ('"scale":30.0', '"scale":1e-308'),
    "a calibration beyond all bounds": ('"offset":2.0', '"offset":1e308'),
    "a number that is none": ('"intercept":-2.0', '"intercept":NaN'),
    "a key that is there twice": ('"intercept":-2.0', '"intercept":-2.0,"intercept":9.0'),
    "a time beyond 53 bits": ('"made_at_us":', '"made_at_us":1152921504606846976,"valid_days":9,"made_at":'),
}


@pytest.mark.parametrize("what", HUGE)
def test_a_card_with_numbers_that_cannot_be_meant_is_refused_where_it_is_read(what: str) -> None:
    old, new = HUGE[what]
    content = card(2.0).content
    assert old in content
    content = content.replace(old, new)
    if what == "a time beyond 53 bits":
        content = re.sub(r',"valid_days":9,"made_at":[0-9]+', "", content)
    with pytest.raises(InvalidInput):
        ModelCard.from_json(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace('"failed_90d"', '"no_such_feature"'), "no_such_feature"),
        (lambda text: re.sub(r'"made_at_us":[0-9]+', f'"made_at_us":{int((NOON + 9 * DAY).timestamp() * 1e6)}', text), "to come"),
    ],
)
def test_a_card_that_can_score_nobody_or_is_from_the_future_is_not_activated(change: Any, reason: str) -> None:
    """A feature that the declaration does not have; a day that keeps the card from ever being too old."""
    its = ModelCard.from_json(change(card(2.0).content))
    with opened(None) as ps:
        models = ps.tenant("acme").models
        models.publish(its, reason="trained", by=ANNA)
        with pytest.raises(ModelRefused, match=reason):
            models.activate("churn", its.digest, reason="r", by=ANNA)
        assert models.history("churn").active is None


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


def test_a_model_of_purchases_is_a_card_and_evidence_as_well() -> None:
    """What is expected is no probability and no rank; the card of it cannot say otherwise."""
    purchases = PurchaseModel(
        name="purchases", version=1, owner="tests", features=CustomerHealth.digest, purchases="purchases", first="first_purchase",
        last="last_purchase", horizon_days=90, r=0.243, alpha=30.9, a=0.793, b=2.426,
    )  # fmt: skip
    its = expected_card(purchases, CustomerHealth, made_at_us=int(NOON.timestamp() * 1_000_000))
    with opened(None) as ps:
        acme = ps.tenant("acme")
        activated(acme, its)
        for n in range(3):
            acme.record("cus_1", paid(f"p{n}", NOON - (30 * n + 5) * DAY))
        acme.record("cus_2", subscribed("s"))
        ps.run_once()
        stream = ps.directory.customer("acme", "cus_1")
        reading = ps.readings.subject(stream, int(NOON.timestamp() * 1_000_000), frozenset()).reading
        (score,) = acme.models.scores("cus_1")
        assert isinstance(score.scored, Expected)
        assert reading.features["purchases_expected_micro"] == score.scored.expected_micro > 500_000
        assert reading.features["purchases_probability_ppm"] is None
        assert (score.parts, score.log_odds_micro) == ((), 0)
        assert acme.models.scores("cus_2")[0].scored is None  # who has bought nothing has no rate
        with pytest.raises(InvalidInput, match="yes-or-no"):
            acme.models.check("purchases")
    with pytest.raises(InvalidInput, match="what is expected"):
        ModelCard.from_json(its.content.replace('"gives":"expected"', '"gives":"rank"'))


@pytest.mark.parametrize("missing", ["pyarrow", "sklearn", "scipy"])
def test_training_names_one_extra_that_brings_all_it_needs_before_any_work_is_done(missing: str) -> None:
    code = f"""
import sys
from datetime import UTC, datetime, timedelta
sys.modules[{missing!r}] = None
from postsale import PostSale
from postsale.errors import MissingExtra
with PostSale.open("memory:") as ps:
    try: ps.tenant("acme").models.train("churn", horizon=timedelta(days=90), split_at=datetime(2025, 1, 1, tzinfo=UTC))
    except MissingExtra as error: print(error)
"""
    done = subprocess.run(forked("-c", code), capture_output=True, text=True, check=True)
    assert "postsale[models]" in done.stdout
