"""Back-tests of scores over a tenant's own log: which score is meant, its rows as they were known, the lines that agents act on.

Part of the wiring: may import everything below `app`. What the figures are is `projections.backtest`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

from postsale.agents.expressions import all_of
from postsale.agents.policy import Policy
from postsale.aggregates.artifacts import ArtifactActivated
from postsale.app.histories import Histories
from postsale.errors import InvalidInput
from postsale.events import DAY_US, from_us, iso, to_us
from postsale.projections.backtest import TOP, Asked, Row, ScoreBacktest, judge
from postsale.projections.backtest_scores import Said, Score, feature_score, health_score, said, scorer_score
from postsale.projections.folding import Fact, FeatureValues, Fold
from postsale.projections.health import HealthModel
from postsale.projections.model_card import PRIOR_DAYS, CardScorer, ModelCard
from postsale.projections.scoring import Scorer, WarehouseScorer, WarehouseScores, as_evidence
from postsale.projections.targets import Target
from postsale.projections.training import Knowledge, Subject, rows_known

if TYPE_CHECKING:
    from postsale.app.tenant import Tenant

GOOD = frozenset({"renewal", "expansion", "referral"})
"""Shipped targets whose outcome is welcome: there, good health makes it likelier."""

Progress = Callable[[int, int], None]
_ACTIVATED = frozenset({ArtifactActivated.wire_name.partition("@")[0]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When to look, how far ahead, and for what. Times in microseconds."""

    target: Target
    cutoffs_us: tuple[int, ...]
    horizon_us: int
    until_us: int  # what lies beyond is not over
    knowledge: Knowledge

    @property
    def days(self) -> int:
        """The horizon in whole days."""
        return self.horizon_us // DAY_US


@dataclass(slots=True)
class Tally:
    """Rows that are in no figure."""

    censored: int = 0
    unscored: int = 0
    not_asked: int = 0


class Labelled(NamedTuple):
    """A customer at a cut-off that the target asks about and whose horizon is over."""

    at_us: int
    before: FeatureValues
    positive: bool
    came_us: int | None  # the fact that made it so, and after which it stayed so


def span_of(
    target: Target, begin_us: int, end_us: int | None, horizon_us: int, every_us: int | None, knowledge: Knowledge, now_us: int
) -> Span:
    """Cut-offs from `begin_us` on: the first of each month (UTC), or each `every_us`. InvalidInput when no horizon is over."""
    if horizon_us < DAY_US or (every_us is not None and every_us < DAY_US):
        raise InvalidInput(what="backtest", field="horizon", reason="expected at least a day, for the horizon and between cut-offs")
    if knowledge not in ("recorded", "claimed"):
        raise InvalidInput(what="backtest", field="knowledge", reason="expected recorded or claimed")
    last_us = now_us - horizon_us
    cutoffs = _cutoffs(begin_us, last_us if end_us is None else end_us, every_us)
    if not cutoffs or cutoffs[0] > last_us:
        reason = f"no horizon of {horizon_us // DAY_US} days from then on is over; begin on {iso(last_us)[:10]} or before"
        raise InvalidInput(what="backtest", field="begin", reason=reason)
    return Span(target=target, cutoffs_us=cutoffs, horizon_us=horizon_us, until_us=now_us, knowledge=knowledge)


def _cutoffs(begin_us: int, end_us: int, every_us: int | None) -> tuple[int, ...]:
    if every_us is not None:
        return tuple(range(begin_us, end_us + 1, every_us))
    found, at = [], begin_us
    while at <= end_us:
        found.append(at)
        month = from_us(at).astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        at = to_us(month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1))
    return tuple(found)


# ---------------------------------------------------------------- which score


def given_score(tenant: Tenant, what: str | Score | Scorer | HealthModel, span: Span, *, rising: bool | None) -> Score:
    """The score that is meant, with the lines at which the policies of this tenant ask about it."""
    ps = tenant._ps
    match what:
        case str():
            score = score_of(tenant, what, span, rising=rising)
        case Score():
            score = _turned(what, rising)
        case HealthModel():
            score = health_score(what, rising=span.target.name in GOOD if rising is None else rising)
        case _:
            score = _turned(scorer_score(what, ps.model.features), rising)
    names = (
        {"health", "health_band"} if what == "health" else {*as_evidence(what.partition("@")[0], None)} if isinstance(what, str) else set()
    )
    active = [tenant.policy(agent.policy.name) or agent.policy for agent in ps.engine.agents.values()]
    return replace(score, lines={**score.lines, **lines_of(active, frozenset(names))})


def score_of(tenant: Tenant, name: str, span: Span, *, rising: bool | None) -> Score:
    """The score a text names. InvalidInput for a name that is none.

    `health`; a model's name: what scored then, as the log knew it; `NAME@DIGEST`: one published version over all of history; `prior:NAME`;
    `warehouse:MODEL@VERSION`; `feature:NAME`, of the health model's declaration.
    """
    ps, target, (kind, _, rest) = tenant._ps, span.target, name.partition(":")
    features = ps.model.features
    if name == "health":
        return health_score(ps.model, rising=target.name in GOOD if rising is None else rising)
    if kind == "feature":
        return feature_score(features, rest, rising=rising is not False)
    if kind == "warehouse" and "@" in rest:
        model, _, version = rest.rpartition("@")
        return _turned(scorer_score(WarehouseScorer(model, version, target.outcome), WarehouseScores, name=name), rising)
    if kind == "prior":
        card = tenant.models.prior(rest)
        return _turned(_of_card(tenant, card, card.digest, name, span), rising)
    if "@" in name:
        model, _, digest = name.partition("@")
        published = tenant.models.find(model, digest)
        return _turned(_of_card(tenant, published.card, published.digest, name, span), rising)
    own = next((s for s in ps.scorers if s.name == name), None)
    if own is not None and name not in tenant.models.names():
        return _turned(scorer_score(own, features), rising)
    if name in ps.models.names:
        return _turned(_as_it_scored(tenant, name, span), rising)
    known = ["health", *ps.models.names, "NAME@DIGEST", "prior:NAME", "warehouse:MODEL@VERSION", "feature:NAME"]
    raise InvalidInput(what="backtest", field="score", reason=f"no such score; there are: {', '.join(known)}")


def _turned(score: Score, rising: bool | None) -> Score:
    return score if rising is None else replace(score, rising=rising)


def _of_card(tenant: Tenant, card: ModelCard, digest: str, name: str, span: Span) -> Score:
    target = tenant._ps.targets.get(card.name)
    features = target.features if target is not None else tenant._ps.model.features
    scorer = CardScorer(card, digest, target)
    until = None if card.trained is None else card.trained.split_us
    score = scorer_score(scorer, features, name=name, fitted_until_us=until)
    return replace(score, of=lambda values: _said(scorer, values, span))


def _said(scorer: Scorer, values: FeatureValues, span: Span) -> Said | None:
    """What a model says; no probability of another outcome, or within another horizon, than the one that is asked about."""
    it = said(scorer.name, scorer.score(values))
    if it is None or not it.probability or not isinstance(scorer, CardScorer):
        return it
    trained = scorer.card.trained
    days = PRIOR_DAYS if trained is None else trained.horizon_days
    return it if (scorer.name, days) == (span.target.name, span.days) else it._replace(probability=False)


def _as_it_scored(tenant: Tenant, name: str, span: Span) -> Score:
    """At each time the version that was active in the log by then: before the first one was, nothing is said."""
    if span.knowledge == "claimed":
        reason = "nobody claims when a model scored; name a version, such as NAME@DIGEST or prior:NAME"
        raise InvalidInput(what="backtest", field="score", reason=reason)
    ps, then = tenant._ps, dict[int, Scorer | None]()

    def of(values: FeatureValues) -> Said | None:
        at = values.as_of_us
        if at not in then:
            active = ps.models.active(tenant.name, known_at_us=at).scorers
            then[at] = next((s for s in active if s.name == name and s.features == ps.model.features.digest), None)
        scorer = then[at]
        return None if scorer is None else _said(scorer, values, span)

    return Score(name=name, features=ps.model.features, of=of)


def lines_of(policies: Sequence[Policy], evidence: frozenset[str]) -> Mapping[str, Callable[[Said], bool]]:
    """What policies ask of this score alone: a trigger's cells about it, a floor of probability."""
    lines: dict[str, Callable[[Said], bool]] = {}
    for policy in policies:
        for trigger in policy.triggers:
            mine = {name: cell for name, cell in trigger.when.items() if name in evidence}
            if mine:
                asks = all_of(policy.cells(mine, f"trigger {trigger.id!r}, when"))
                lines[f"{policy.name}/{trigger.id}"] = lambda said, asks=asks: asks(said.evidence)  # type: ignore[misc]
        floor = policy.guardrails.probability
        if floor is not None and floor.input in evidence:
            least = floor.at_least_percent / 100
            lines[f"{policy.name}, floor {floor.at_least_percent} %"] = lambda said, least=least: said.probability and said.value >= least  # type: ignore[misc]
    return lines


def with_threshold(score: Score, threshold: float) -> Score:
    """The score with one more line, in its own units: at it or beyond, on the side where the outcome is likelier."""

    def beyond(said: Said) -> bool:
        return said.value >= threshold if score.rising else said.value <= threshold

    return replace(score, lines={**score.lines, f"threshold {threshold:g}": beyond})


# ---------------------------------------------------------------- rows


@dataclass(slots=True)
class Labels:
    """The labels of customers at cut-offs, by one target; folds made once."""

    span: Span
    before: Fold = field(init=False)
    after: Fold = field(init=False)

    def __post_init__(self) -> None:
        self.before, self.after = Fold(self.span.target.features), Fold(self.span.target.after)

    @property
    def kinds(self) -> frozenset[str]:
        return self.before.kinds | self.after.kinds

    def of(self, subject: Subject, tally: Tally) -> Iterator[Labelled | None]:
        """One for each point of the subject; None for those that are in no figure."""
        target, horizon_us = self.span.target, self.span.horizon_us
        times = [fact.occurred_at_us for fact in subject.later]
        for at, before in zip(subject.points_us, rows_known(self.before, subject), strict=True):
            found = None
            if before.newest_us is None:
                pass  # nobody knew it yet
            elif not target.eligible(before, horizon_us):
                tally.not_asked += 1
            elif at + horizon_us > self.span.until_us:
                tally.censored += 1
            else:
                mine = subject.later[bisect_right(times, at) : bisect_right(times, at + horizon_us)]
                positive = bool(target.label(before, self.after.finish(self.after.fold(mine), at + horizon_us)))
                found = Labelled(at, before, positive, self._came(before, mine) if positive else None)
            yield found

    def _came(self, before: FeatureValues, facts: Sequence[Fact]) -> int | None:
        """When the outcome came to stay within the horizon; None when no fact made it so."""
        state, came, was = self.after.empty(), None, self._says(before, self.after.empty(), before.as_of_us)
        for fact in facts:
            if fact.kind not in self.after.kinds:
                continue
            self.after.add(state, fact)
            now = self._says(before, state, fact.occurred_at_us)
            if now != was:
                came, was = (fact.occurred_at_us if now else None), now
        return came

    def _says(self, before: FeatureValues, state: list[object], at_us: int) -> bool:
        return bool(self.span.target.label(before, self.after.finish(state, at_us)))


def rows_of(histories: Histories, score: Score, span: Span, tally: Tally, on_progress: Progress) -> Iterator[Row]:
    """Each customer that is asked about at each cut-off, scored as it was known then."""
    labels, own = Labels(span), Fold(score.features)
    same = score.features is span.target.features
    total = len(histories.customers)
    for done, subject in enumerate(histories.of(span.cutoffs_us, labels.kinds | own.kinds), 1):
        scored = rows_known(own, subject) if not same else iter(())
        for label in labels.of(subject, tally):
            values = next(scored, None)
            if label is None:
                continue
            it = score.of(label.before if values is None else values)
            if it is None:
                tally.unscored += 1
                continue
            value = it.value if score.rising else -it.value
            over = tuple(line(it) for line in score.lines.values())
            yield Row(subject.customer, label.at_us, value, label.positive, label.came_us, it.probability and score.rising, it.band, over)
        on_progress(done, total)


def backtest_score(
    tenant: Tenant, score: Score, span: Span, *, top: Sequence[int] = TOP, on_progress: Progress | None = None
) -> ScoreBacktest:
    """The score over the tenant's log. Reads only. An exception from `on_progress` ends it, and leaves nothing behind."""
    if any(not 0 < percent <= 100 for percent in top):
        raise InvalidInput(what="backtest", field="top", reason="expected percents, 1 to 100")
    tally = Tally()
    histories = Histories.read(tenant._ps.log, tenant.name, span.knowledge)
    rows = list(rows_of(histories, score, span, tally, on_progress or (lambda _done, _all: None)))
    asked = Asked(
        score=score.name,
        target=span.target.name,
        outcome=span.target.outcome.format(days=span.days),
        horizon_days=span.days,
        knowledge=span.knowledge,
        cutoffs_us=span.cutoffs_us,
        fitted_until_us=score.fitted_until_us,
        censored=tally.censored,
        unscored=tally.unscored,
        not_asked=tally.not_asked,
    )
    return judge(asked, rows, top=top, lines=tuple(score.lines), bands=score.bands)
