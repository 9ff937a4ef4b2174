"""Training and watching models on a tenant's log: split by time, refused on too few outcomes, held against what came later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from postsale import PostSale
from postsale.aggregates.artifacts import content_digest
from postsale.aggregates.signals import AccountChurned, Signal
from postsale.errors import InvalidInput, TooFewOutcomes
from postsale.events import ManualClock, to_us
from postsale.projections.drift import Checked
from postsale.projections.model_card import ModelCard
from postsale.projections.scoring import LogisticModel, Number
from postsale.projections.targets import CHURN

from .modelled import HORIZON, NOW, SPLIT, signals
from .support import opened
from .test_models import activated

DAY = timedelta(days=1)
HALF = SPLIT + 90 * DAY
END = SPLIT + 210 * DAY


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
    ours, theirs = coefficients(its), coefficients(other)  # keys of customers differ between logs, and sums of floats with their order
    assert ours.keys() == theirs.keys()
    assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=1e-9)
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


# ---------------------------------------------------------------- watching


@pytest.fixture(scope="module")
def half() -> ModelCard:
    """A model of churn within 30 days, as it was trained at HALF."""
    with opened(None, clock=ManualClock(HALF)) as ps:
        acme = ps.tenant("acme")
        acme.record_many((c, s) for c, s in signals(300) if s.occurred_at <= HALF)
        its = acme.models.train("churn", horizon=30 * DAY, split_at=SPLIT, knowledge="claimed")
        assert its.gives == "probability", its.use
        return its


def watched(its: ModelCard, later: Callable[[int], Iterable[tuple[str, Signal]]]) -> Checked:
    """The model is activated at HALF; what a check says at END, with what `later` says came in between."""
    clock = ManualClock(HALF)
    with opened(None, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record_many((c, s) for c, s in signals(300) if s.occurred_at <= HALF)
        activated(acme, its)
        assert acme.models.check("churn", knowledge="claimed").says == "too early"
        clock.move_to(to_us(END))
        acme.record_many((c, s) for c, s in later(300) if HALF < s.occurred_at <= END)
        return acme.models.check("churn", knowledge="claimed")


def test_a_model_whose_world_stays_as_it_was_is_ok(half: ModelCard) -> None:
    found = watched(half, signals)
    assert (found.says, found.ok) == ("ok", True), found.why
    assert found.later is not None
    assert found.later.positives >= 10


def test_a_model_whose_probabilities_come_wrong_is_to_be_recalibrated(half: ModelCard) -> None:
    """Customers look as before, and more of them leave."""

    def more_leave(n: int) -> Any:
        for i, (customer, signal) in enumerate(signals(n)):
            yield customer, signal
            if i % 12 == 0 and signal.wire_name.startswith("billing/invoice-paid") and signal.occurred_at > HALF:
                at = signal.occurred_at
                yield customer, AccountChurned(source="crm", id=f"{customer}-{i}", occurred_at=at, available_at=at)

    found = watched(half, more_leave)
    assert found.says == "recalibrate", found.to_dict()
    assert "happened" in found.why[-1]


def test_a_model_whose_customers_are_others_now_is_to_be_trained_anew(half: ModelCard) -> None:
    """Use falls to nothing for everybody: the score's spread is another one."""
    found = watched(half, lambda n: ((c, s) for c, s in signals(n) if not s.wire_name.startswith("product/")))
    assert found.says == "train anew"
    assert {d.of for d in found.drift if d.shifted} >= {"", "usage_30d", "last_usage"}


def test_a_model_that_is_too_old_is_stale(half: ModelCard) -> None:
    found = watched(half.model_copy(update={"valid_days": 100}), signals)
    assert (found.says, found.ok) == ("stale", False)
    assert "good for 100 days" in found.why[0]
