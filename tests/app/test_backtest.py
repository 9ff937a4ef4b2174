"""Back-tests over a log: what was known then and nothing later, the same on every store, and nothing left behind."""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from postsale import PostSale
from postsale.agents import Agent, Policy, RenewalRescue
from postsale.aggregates.identity import foreign
from postsale.aggregates.signals import AccountChurned, ScoreReceived, Signal, SubscriptionEnded, SubscriptionStarted, UsageObserved
from postsale.app import Tenant
from postsale.app.backtest_scores import Labels, Tally, lines_of, span_of
from postsale.app.histories import Histories
from postsale.errors import InvalidInput, UnknownModel
from postsale.events import DAY_US, ManualClock, from_us, to_us
from postsale.projections import CUSTOMER_HEALTH, Features, days, total
from postsale.projections.backtest import Calibration, ScoreBacktest
from postsale.projections.backtest_scores import Said, Score
from postsale.projections.scoring import PPM
from tests.app.modelled import HORIZON, NOW, SPLIT, signals

from .support import ANNA, Where, everything, opened
from .test_scores import RESCUE

DAY = timedelta(days=1)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
END = BEGIN + 300 * DAY


class Use(Features, version=1, owner="tests"):
    """What the tests look at."""

    used = total(UsageObserved, lambda e: e.count, window=days(30))


def terms(kind: type[Signal], id: str, at: datetime, **more: Any) -> Signal:
    fixed = {"subscription_id": "s", "mrr_minor": 100, "interval": "month", "currency": "EUR", "effective_at": at}
    return kind(**{"source": "t", "id": id, "occurred_at": at, **fixed, **more})


def used(id: str, at: datetime, count: int) -> UsageObserved:
    return UsageObserved(source="t", id=id, occurred_at=at, feature="app", count=count)


def story(seed: int = 1, customers: int = 30) -> list[tuple[datetime, str, Signal]]:
    """Who uses little leaves more often; each signal with the time at which it arrives, some of them weeks late."""
    rng, found = random.Random(seed), []
    for n in range(customers):
        name, weak = f"c{n}", rng.random() < 0.4
        found.append((BEGIN, name, terms(SubscriptionStarted, f"s{n}", BEGIN - DAY)))
        ends = BEGIN + rng.randrange(40, 260) * DAY if rng.random() < (0.8 if weak else 0.15) else END
        for k in range(0, 300, 12):
            at = BEGIN + k * DAY
            if at < ends:
                late = rng.randrange(1, 40) * DAY if rng.random() < 0.2 else timedelta(hours=1)
                near = (ends - at) < 60 * DAY and ends < END
                found.append((at + late, name, used(f"u{n}-{k}", at, rng.randrange(1, 10) if near else rng.randrange(8, 50))))
        if ends < END:
            found.append((ends + timedelta(hours=2), name, terms(SubscriptionEnded, f"e{n}", ends)))
    return sorted(found, key=lambda a: (a[0], a[1], a[2].id))


def told(ps: PostSale, arrivals: list[tuple[datetime, str, Signal]], until: datetime = END) -> Tenant:
    """A tenant to whom these signals came when they came."""
    acme, clock = ps.tenant("acme"), ps.clock
    assert isinstance(clock, ManualClock)
    for at, customer, signal in arrivals:
        if at <= until:
            clock.move_to(at)
            acme.record(customer, signal)
    clock.move_to(until)
    return acme


def silent(v: Any) -> Said | None:
    return Said(float(v["used"]))


LITTLE_USE = Score(name="little use", features=Use, of=silent, rising=False)


def looked(acme: Tenant, what: Any = LITTLE_USE, **more: Any) -> ScoreBacktest:
    found = acme.backtest(what, **{"begin": BEGIN + 31 * DAY, "horizon": 60 * DAY, **more})
    assert isinstance(found, ScoreBacktest)
    return found


# ---------------------------------------------------------------- two clocks


def test_each_row_is_what_a_read_gave_then(where: Where) -> None:
    """At every cut-off, of every customer: the features that were known then, and what came within the horizon, found by asking the log itself."""
    arrivals = story(seed=11, customers=8)
    seen: list[tuple[str, int, int]] = []

    def watched(v: Any) -> Said | None:
        seen.append(("", v.as_of_us, v["used"]))
        return Said(float(v["used"]))

    with opened(where, clock=ManualClock(BEGIN)) as ps:
        acme = told(ps, arrivals)
        found = looked(acme, Score(name="watched", features=Use, of=watched, rising=False))
        expected, positives = [], 0
        ends = {customer: signal.occurred_at for _, customer, signal in arrivals if isinstance(signal, SubscriptionEnded)}
        for at_us in found.asked.cutoffs_us:
            at = datetime.fromtimestamp(at_us / 1_000_000, UTC)
            for n in range(8):
                if ends.get(f"c{n}", END) + timedelta(hours=2) > at:  # the end arrives two hours later: till then it runs, as known
                    expected.append(("", at_us, acme.features(Use, f"c{n}", as_of=at, known_at=at)["used"]))
                    positives += at < ends.get(f"c{n}", END) <= at + 60 * DAY
        assert found.whole is not None
        assert sorted(seen) == sorted(expected)
        assert found.whole.base.hits == positives > 2


def test_nothing_that_came_late_changes_what_was_said_before(where: Where) -> None:
    """Facts that arrive after the last cut-off, though they occurred before, and ones after the horizon: the figures are the same, one by one."""
    arrivals = story(customers=12)
    last = BEGIN + 120 * DAY
    with opened(where, clock=ManualClock(BEGIN)) as ps:
        acme = told(ps, arrivals)
        before = looked(acme, end=last)
        for n in range(12):  # what nobody knew then: everybody used it a lot, even in the last days
            acme.record(f"c{n}", used(f"late{n}", last - 2 * DAY, 10_000))
        for n in range(5):  # the outcome, after the horizon
            acme.record(f"c{n}", AccountChurned(source="t", id=f"gone{n}", occurred_at=last + 61 * DAY))
        assert looked(acme, end=last) == before


def test_a_late_link_changes_nothing_before_it(where: Where) -> None:
    """Facts waited under another system's id, and the link came later: rows before it do not have them, rows after it do."""
    with opened(where, clock=ManualClock(BEGIN)) as ps:
        acme, clock = ps.tenant("acme"), ps.clock
        assert isinstance(clock, ManualClock)
        for n in range(4):
            acme.record(f"c{n}", terms(SubscriptionStarted, f"s{n}", BEGIN - DAY))
        seen: list[int] = []

        def watched(v: Any) -> Said | None:
            seen.append(v["used"])
            return Said(0.0)

        for k in range(0, 150, 10):
            clock.move_to(BEGIN + k * DAY)
            acme.record(foreign("product", "p1"), used(f"u{k}", BEGIN + k * DAY, 1))
        clock.move_to(BEGIN + 150 * DAY)
        score = Score(name="watched", features=Use, of=watched)
        looked(acme, score, end=BEGIN + 80 * DAY, every=10 * DAY)
        assert set(seen) == {0}
        acme.link(foreign("product", "p1"), "c1")
        seen.clear()
        looked(acme, score, end=BEGIN + 80 * DAY, every=10 * DAY)
        assert set(seen) == {0}
        clock.move_to(BEGIN + 240 * DAY)
        seen.clear()
        looked(acme, score, begin=BEGIN + 151 * DAY, end=BEGIN + 152 * DAY)
        assert sorted(seen) == [0, 0, 0, 2]


def test_what_is_not_over_is_left_out_and_counted(where: Where) -> None:
    """A cut-off 59 days before the end of a horizon of 60 has no outcome yet; by default nobody looks there."""
    with opened(where, clock=ManualClock(BEGIN)) as ps:
        acme = told(ps, story(customers=10))
        assert looked(acme).asked.censored == 0
        more = looked(acme, end=END)
        assert more.asked.censored > 0
        assert more.whole == looked(acme).whole
        with pytest.raises(InvalidInput, match="no horizon of 60 days"):
            looked(acme, begin=END - 59 * DAY)


def test_what_came_and_went_came_when_it_came_to_stay() -> None:
    """Ended in February, begun again, ended in March for good: the loss is in March, and of one that came back there is none."""
    with opened(None, clock=ManualClock(BEGIN)) as ps:
        arrivals: list[tuple[datetime, str, Signal]] = []
        for name, ends in (("stays", (40,)), ("goes", (40, 70))):
            arrivals += [(BEGIN, name, terms(SubscriptionStarted, f"{name}0", BEGIN - DAY))]
            arrivals += [(BEGIN + k * DAY, name, terms(SubscriptionEnded, f"{name}{k}", BEGIN + k * DAY)) for k in ends]
            arrivals += [(BEGIN + 50 * DAY, name, terms(SubscriptionStarted, f"{name}50", BEGIN + 50 * DAY))]
        acme = told(ps, sorted(arrivals, key=lambda a: (a[0], a[1])))
        span = span_of(
            acme.models.target("churn"), to_us(BEGIN + 31 * DAY), to_us(BEGIN + 32 * DAY), 60 * DAY_US, None, "recorded", to_us(END)
        )
        labels = Labels(span)
        histories = Histories.read(ps.log, "acme", "recorded")
        found = [label for subject in histories.of(span.cutoffs_us, labels.kinds) for label in labels.of(subject, Tally())]
    assert {label.came_us for label in found if label is not None} == {None, to_us(BEGIN + 70 * DAY)}
    assert sorted(label.positive for label in found if label is not None) == [False, True]


# ---------------------------------------------------------------- one answer


def test_every_store_gives_the_same_figures(tmp_path: Path, server: Any) -> None:
    """Memory, a file and PostgreSQL; and the same again, score and agent, whatever the references of customers are, to the last digit."""
    found = []
    for where in (None, tmp_path, server, None):
        with opened(where, clock=ManualClock(BEGIN)) as ps:
            acme = told(ps, story(seed=11, customers=8))
            score = looked(acme)
            agent = acme.backtest(RenewalRescue(), begin=BEGIN + 31 * DAY, horizon=60 * DAY, every=30 * DAY)
            assert looked(acme) == score
            found.append((score, agent))
    assert all(one == found[0] for one in found[1:])


def test_a_score_that_is_shuffled_in_time_does_worse() -> None:
    """The same numbers, each said of its customer at another time: what they knew of the time is gone."""
    with opened(None, clock=ManualClock(BEGIN)) as ps:
        acme = told(ps, story(seed=3, customers=60))
        true = looked(acme)
        said: dict[int, list[float]] = {}

        def shuffled(v: Any) -> Said | None:
            return Said(float(random.Random(f"{v.as_of_us} {v['used']}").choice(said[v.as_of_us])))

        def kept(v: Any) -> Said | None:
            said.setdefault(v.as_of_us, []).append(v["used"])
            return Said(0.0)

        looked(acme, Score(name="kept", features=Use, of=kept))
        false = looked(acme, Score(name="shuffled", features=Use, of=shuffled, rising=False))
        assert true.whole is not None
        assert false.whole is not None
        assert true.whole.auc_interval is not None
        assert (true.whole.auc or 0) > 0.7 > (false.whole.auc or 1)
        assert true.whole.auc_interval.low > 0.5


# ---------------------------------------------------------------- which score


@pytest.fixture(scope="module")
def learnt() -> Iterator[Tenant]:
    """A tenant with a past, a model of churn that was trained on the first part of it and published, and scores of a warehouse."""
    with opened(None, clock=ManualClock(NOW)) as ps:
        acme = ps.tenant("acme")
        acme.record_many(signals())
        card = acme.models.train("churn", horizon=HORIZON, split_at=SPLIT, knowledge="claimed")
        acme.models.publish(card, reason="a test", by=ANNA)
        yield acme


def claimed(acme: Tenant, what: Any, **more: Any) -> ScoreBacktest:
    found = acme.backtest(what, **{"begin": SPLIT - 120 * DAY, "horizon": HORIZON, "every": 30 * DAY, "knowledge": "claimed", **more})
    assert isinstance(found, ScoreBacktest)
    return found


def test_a_published_model_is_judged_on_what_it_was_not_fitted_on_and_is_as_good_as_its_card_says(learnt: Tenant) -> None:
    """The cut-offs before its split are marked and in no figure; on the others it tells customers apart, and its probabilities come true."""
    (published,) = learnt.models.history("churn").published
    found = claimed(learnt, f"churn@{published.digest[:12]}")
    assert [p.seen for p in found.periods] == [p.at_us < int(SPLIT.timestamp()) * 1_000_000 for p in found.periods]
    measures = published.card.measures
    assert found.whole is not None
    assert measures is not None
    assert found.whole.rows == measures.rows
    assert found.whole.base.hits == measures.positives
    assert found.whole.auc == pytest.approx(measures.auc_ppm / PPM, abs=1e-6)
    assert found.gives == "probability"
    assert isinstance(found.calibration, Calibration)
    assert found.calibration.within
    assert found.calibration.brier == pytest.approx(measures.brier_ppm / PPM, abs=1e-6)
    with pytest.raises(UnknownModel):
        claimed(learnt, "churn@ffffffff")


def test_a_probability_of_something_else_is_only_a_rank(learnt: Tenant) -> None:
    """Of another horizon than it was trained for; so is a prior, which was fitted on nobody's outcomes, and no time is its own."""
    (published,) = learnt.models.history("churn").published
    other = claimed(learnt, f"churn@{published.digest[:12]}", horizon=HORIZON + 30 * DAY)
    prior = claimed(learnt, "prior:churn")
    assert (other.gives, prior.gives) == ("rank", "rank")
    assert "not calibrated" in str(prior.calibration)
    assert not any(p.seen for p in prior.periods)
    assert prior.whole is not None
    assert (prior.whole.auc or 0) > 0.55


def test_health_is_judged_by_its_bands_and_a_feature_by_itself(learnt: Tenant) -> None:
    """Lower health makes leaving likelier and renewing less so; the lines are the worst band, and the worst two."""
    health, field = claimed(learnt, "health", threshold=60), claimed(learnt, "feature:usage_30d", rising=False)
    assert health.whole is not None
    assert field.whole is not None
    assert [c.name for c in health.whole.cuts] == ["top 5 %", "top 10 %", "top 20 %", "band poor", "band poor or fair", "threshold 60"]
    assert (health.whole.auc or 0) > 0.6 < (field.whole.auc or 0)
    assert sum(b.rate.of for b in health.bands) == health.whole.rows
    assert sum(b.lost.hits for b in health.bands) == health.bands[0].lost.of > 0
    renewal = claimed(learnt, CUSTOMER_HEALTH, target="renewal")
    assert renewal.whole is not None
    assert (renewal.whole.auc or 0) > 0.5


@pytest.mark.parametrize("name", ["churn", "renewal", "expansion", "referral"])
def test_every_prior_is_judged_by_its_own_target(learnt: Tenant, name: str) -> None:
    """In words, with its horizon; a rank; somebody has the outcome, somebody has not."""
    found = claimed(learnt, f"prior:{name}", target=name, every=90 * DAY)
    assert found.whole is not None
    assert found.whole.auc is not None
    assert (found.gives, found.asked.target) == ("rank", name)
    assert "60 days" in found.asked.outcome


def test_the_lines_are_those_at_which_agents_act() -> None:
    """A trigger's cells about the score alone, so `health <= 50` is the band poor; a floor of probability, which no rank satisfies."""
    with opened(None, clock=ManualClock(BEGIN), agents=[RenewalRescue()]) as ps:
        found = looked(told(ps, story(customers=15)), "health")
    assert found.whole is not None
    lines = {cut.name: cut for cut in found.whole.cuts}
    trigger = lines["renewal-rescue/unwell"]
    assert dataclasses.replace(trigger, name="band poor") == lines["band poor"]
    assert trigger.precision.of > 0
    ((name, floor),) = lines_of([RESCUE], frozenset({"churn_probability_ppm"})).items()
    assert name == "rescue, floor 10 %"
    assert [floor(said) for said in (Said(0.1, True), Said(0.09, True), Said(0.9, False))] == [True, False, False]


@pytest.mark.parametrize("name", ["weather", "feature:weather", "warehouse:weather", "churn"])
def test_a_score_that_there_is_not_is_refused_by_name(learnt: Tenant, name: str) -> None:
    """`churn` too: by claims of sources nobody knows which model scored when."""
    with pytest.raises(InvalidInput):
        claimed(learnt, name)


def test_a_name_alone_is_what_scored_then() -> None:
    """Before a version was activated nothing was said; from then on, the version that was active, and none after it was retired."""
    with opened(None, clock=ManualClock(BEGIN)) as ps:
        acme, clock = ps.tenant("acme"), ps.clock
        assert isinstance(clock, ManualClock)
        for at, customer, signal in story(customers=10):
            for due, step in ((100, "publish"), (200, "retire")):
                if clock.now_us() < int((BEGIN + due * DAY).timestamp() * 1e6) <= int(at.timestamp() * 1e6):
                    clock.move_to(BEGIN + due * DAY)
                    if step == "publish":
                        card = acme.models.prior("churn")
                        acme.models.publish(card, reason="a test", by=ANNA)
                        ps.run_once()
                        acme.models.activate("churn", card.digest, reason="a test", by=ANNA)
                    else:
                        acme.models.retire("churn", reason="a test", by=ANNA)
            clock.move_to(at)
            acme.record(customer, signal)
        clock.move_to(END)
        found = looked(acme, "churn", every=10 * DAY)
        scored = [(p.at_us / 1e6 - BEGIN.timestamp()) / 86_400 for p in found.periods]
        assert (min(scored), max(scored)) == (101, 191)
        assert found.asked.unscored > 0


def test_scores_that_a_warehouse_sent_are_judged_as_it_sent_them() -> None:
    """The newest of the version that is named, where it was not too old; calibration only if it says that they are probabilities."""
    with opened(None, clock=ManualClock(BEGIN)) as ps:
        arrivals = story(customers=20)
        ends = {customer: signal.occurred_at for _, customer, signal in arrivals if isinstance(signal, SubscriptionEnded)}
        for k in range(20, 240, 20):
            at = BEGIN + k * DAY
            for n in range(20):
                soon = at < ends.get(f"c{n}", END) <= at + 90 * DAY
                said = {"model": "churn", "model_version": "7", "outcome": "leaves", "value_ppm": 900_000 if soon else 100_000}
                for means in ("probability", "rank"):
                    model = {"model": "churn" if means == "probability" else "order", "means": means}
                    score = ScoreReceived(source="w", id=f"{means}{n}-{k}", occurred_at=at, **{**said, **model})  # type: ignore[arg-type]
                    arrivals.append((at, f"c{n}", score))
        acme = told(ps, sorted(arrivals, key=lambda a: (a[0], a[1], a[2].id)))
        found, order = looked(acme, "warehouse:churn@7"), looked(acme, "warehouse:order@7")
        assert found.whole is not None
        assert (found.gives, order.gives) == ("probability", "rank")
        assert (found.whole.auc or 0) > 0.9
        assert order.whole == found.whole
        assert looked(acme, "warehouse:churn@8").whole is None


# ---------------------------------------------------------------- nothing is left behind


def test_a_back_test_writes_nothing_and_can_be_ended(lasting: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither events, nor keys, nor data sets, nor files: of a score, of an agent, and of one that was ended in the middle."""
    rehearsals = tmp_path / "rehearsals"
    rehearsals.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rehearsals))
    held: list[bool] = []
    with opened(lasting, clock=ManualClock(BEGIN)) as ps:
        acme = told(ps, story(seed=11, customers=8))
        before, seen = everything(ps), list[tuple[int, int]]()
        acme.backtest(RenewalRescue(), begin=BEGIN + 31 * DAY, horizon=60 * DAY, every=30 * DAY, on_progress=lambda *n: seen.append(n))
        looked(acme)
        assert everything(ps) == before
        assert acme.datasets() == []
        assert seen == [(i, seen[-1][1]) for i in range(1, len(seen) + 1)]
        assert seen[-1][0] == seen[-1][1]

        class Enough(Exception):
            pass

        def stop(done: int, _: int) -> None:
            held.append(any(rehearsals.iterdir()))
            if done == 3:
                raise Enough

        with pytest.raises(Enough):
            acme.backtest(RenewalRescue(), begin=BEGIN + 31 * DAY, horizon=60 * DAY, every=30 * DAY, on_progress=stop)
        with pytest.raises(Enough):
            looked(acme, on_progress=stop)
        assert everything(ps) == before
        assert held == [True] * 3 + [False] * 3
        assert not list(rehearsals.iterdir())


# ---------------------------------------------------------------- agents

POLICY = """
name = "quiet"
version = 1
owner = "anna"
description = "Call whoever has become quiet."

[inputs]
days_since_last_usage = "integer"
subscribed = "boolean"

[[trigger]]
id = "quiet"
when = { subscribed = true, days_since_last_usage = ">= 30" }

[[rule]]
id = "call"
when = { subscribed = true }
action = "call"
tool = "crm.create_task@1"
arguments = { customer = "$customer", title = "Call", note = "$because", due_in_days = 7 }
because = "quiet for {days_since_last_usage} days"
approval = "none"

[guardrails]
purpose = "service"
"""


def quiet(ps: PostSale) -> Tenant:
    """c0 and c1 fall silent in March, c0 leaves in May; c2 and c3 go on, c3 leaves in May."""
    arrivals: list[tuple[datetime, str, Signal]] = []
    for n in range(4):
        arrivals.append((BEGIN, f"c{n}", terms(SubscriptionStarted, f"s{n}", BEGIN - DAY)))
        last = 65 if n < 2 else 280
        arrivals += [(BEGIN + k * DAY, f"c{n}", used(f"u{n}-{k}", BEGIN + k * DAY, 5)) for k in range(0, last, 5)]
    for n in (0, 3):
        arrivals.append((BEGIN + 130 * DAY, f"c{n}", terms(SubscriptionEnded, f"e{n}", BEGIN + 130 * DAY)))
    return told(ps, sorted(arrivals, key=lambda a: (a[0], a[1])))


def test_an_agents_figures_are_those_of_a_hand_calculation(where: Where) -> None:
    """It would call c0 and c1 at the first look 30 days after their last use. One of them leaves: precision 1/2; at those times 2 of 4 leave."""
    with opened(where, clock=ManualClock(BEGIN)) as ps:
        found = quiet(ps).backtest(Policy.from_toml(POLICY), begin=BEGIN + 31 * DAY, end=BEGIN + 200 * DAY, horizon=90 * DAY)
    assert (found.triggers, dict(found.dispositions), found.problems) == (2, {"acted": 2}, 0)
    assert (found.precision.hits, found.precision.of) == (1, 2)
    assert (found.random, found.lift) == (0.5, 1.0)
    assert (found.coverage.hits, found.coverage.of) == (1, 2)  # of c0 and c3, who left
    looks = [31 + 15 / 24 + 7 * k for k in range(30)]
    first = next(at for at in looks if at >= 60 + 30)
    assert found.median_days == pytest.approx(130 - first, abs=0.06)
    assert (found.cost.decisions, found.cost.contacts, found.cost.approvals, dict(found.cost.offers)) == (2, 0, 0, {})
    assert found.per_reached() == {"decisions": 2.0, "contacts": 0.0, "approvals": 0.0}
    assert isinstance(found.worth, str)


def test_customers_on_whom_the_agent_truly_acted_near_are_in_no_figure() -> None:
    """It ran for real and called c0: what became of c0 says nothing of what becomes of those whom nobody calls."""
    policy = Policy.from_toml(POLICY)
    with opened(None, clock=ManualClock(BEGIN), agents=[Agent(policy)]) as ps:
        acme = ps.tenant("acme")
        acme.agent("quiet").act(reason="a test", by=ANNA)
        clock = ps.clock
        assert isinstance(clock, ManualClock)
        acme.record("c0", terms(SubscriptionStarted, "s0", BEGIN - DAY))
        acme.record("c0", used("u0", BEGIN, 5))
        clock.move_to(BEGIN + 40 * DAY)
        ps.run_once()
        (real,) = acme.decisions()
        assert real.disposition == "acted"
        acme.record("c1", terms(SubscriptionStarted, "s1", BEGIN))
        acme.record("c1", used("u1", BEGIN + 40 * DAY, 5))
        clock.move_to(BEGIN + 100 * DAY)
        acme.record("c0", terms(SubscriptionEnded, "e0", BEGIN + 100 * DAY))
        acme.record("c1", terms(SubscriptionEnded, "e1", BEGIN + 100 * DAY))
        clock.move_to(BEGIN + 250 * DAY)
        found = acme.backtest(policy, begin=BEGIN + 31 * DAY, end=BEGIN + 120 * DAY, horizon=90 * DAY)
        decisions = len(acme.decisions())
    assert dict(found.left_out) == {"quiet truly acted near": 1}
    assert (found.precision.hits, found.precision.of, found.coverage.hits, found.coverage.of) == (1, 1, 1, 1)
    assert decisions == 1
    assert "too few" in str(found.worth)


def test_an_agent_that_observes_would_reach_nobody() -> None:
    """Suppressed by its autonomy, and told so."""
    with opened(None, clock=ManualClock(BEGIN)) as ps:
        found = quiet(ps).backtest(Policy.from_toml(POLICY), begin=BEGIN + 31 * DAY, end=BEGIN + 200 * DAY, mode="observe")
    assert dict(found.dispositions) == {"suppressed by autonomy:observe": 2}
    assert (found.precision.value, found.random, found.lift, found.coverage.hits, found.per_reached()) == (None, None, None, 0, None)


def test_an_imported_past_is_lived_through_as_its_sources_claim_that_it_was_known() -> None:
    """Everything was recorded on one day; by claims the agent would have decided as it would have in a log that was there then, by records never."""
    how: dict[str, Any] = {"begin": BEGIN + 31 * DAY, "end": BEGIN + 200 * DAY}
    with opened(None, clock=ManualClock(BEGIN)) as ps:
        then = quiet(ps).backtest(Policy.from_toml(POLICY), **how)
        facts = [(e.data, e.stored.recorded_at_us) for n in range(4) for e in ps.tenant("acme").timeline(f"c{n}")]
        owners = [f"c{n}" for n in range(4) for _ in ps.tenant("acme").timeline(f"c{n}")]
    with opened(None, clock=ManualClock(END)) as ps:
        acme = ps.tenant("acme")
        for owner, (data, known_us) in zip(owners, facts, strict=True):
            if isinstance(data, Signal):
                acme.record(owner, data.model_copy(update={"available_at": from_us(known_us)}))
        by_claims, by_records = (acme.backtest(Policy.from_toml(POLICY), knowledge=k, **how) for k in ("claimed", "recorded"))  # type: ignore[call-overload]
    assert {**by_claims.to_dict(), "knowledge": "recorded"} == then.to_dict()
    assert by_records.triggers == 0


def test_nothing_that_came_late_changes_what_an_agent_would_have_decided(where: Where) -> None:
    """Use of which nobody knew for months: at the time the customer was quiet."""
    with opened(where, clock=ManualClock(BEGIN)) as ps:
        acme = quiet(ps)
        before = acme.backtest(Policy.from_toml(POLICY), begin=BEGIN + 31 * DAY, end=BEGIN + 200 * DAY)
        for k in range(65, 200, 5):
            acme.record("c0", used(f"late{k}", BEGIN + k * DAY, 5))
        assert acme.backtest(Policy.from_toml(POLICY), begin=BEGIN + 31 * DAY, end=BEGIN + 200 * DAY) == before
