"""Risk cases by hand: who opened them, time in stages, what came of them, terms; and what agents made of their triggers."""

from __future__ import annotations

import pytest

from postsale.aggregates import decisions as d
from postsale.projections.outcomes import case_measures, cases, coverage
from postsale.projections.outcomes.cases import A_PERSON
from postsale.projections.outcomes.measure import Measure

from .test_response import Story, id_of
from .world import at, frame, named, us


def decided(name: str, disposition: d.Disposition, by: str | None = None) -> d.DecisionRecorded:
    return d.DecisionRecorded(
        trigger_id=id_of(name), agent="rescue", condition="unwell", depth=0, mode="act", decided_at=at(3), read_set=(), evidence={}, context={},
        policy="0" * 64, tools={}, decider="m:C", decider_digest="0" * 64, package_version="1", flags={}, eligible=(), verdicts=(),
        rationale="test", disposition=disposition, suppressed_by=by,
    )  # fmt: skip


def measured(story: Story, end: float = 10) -> list[Measure]:
    return case_measures(cases(story.happened, frame(0, end)), story.happened, frame(0, end))


def test_cases_recovered_and_lost_terms_kept_and_time_in_each_stage() -> None:
    """a: at risk 2 days, plan 3 days, recovered. b: at risk 4 days, lost, its term missed. c: at risk since 5 days, still open."""
    story = Story().opened("a", 1).moved("a", 3, "plan-in-place").closed("a", 6).opened("b", 1).breached("b", 2).closed("b", 5, lost=True)
    story.opened("c", 5)
    found = measured(story)
    recovered, lost, terms = (named(found, name) for name in ("cases-recovered", "cases-lost", "sla-risk-cases"))
    assert (recovered.numerator, recovered.denominator, dict(recovered.excluded)) == (1, 2, {"still open": 1})
    assert (lost.numerator, lost.denominator, dict(lost.excluded)) == (1, 2, {"still open": 1})
    assert (terms.numerator, terms.denominator, dict(terms.excluded)) == (1, 2, {"still open, nothing missed": 1})
    assert named(found, "case-time-at-risk").value == 4 * 24.0  # 2 and 4 days, and more than 5
    assert (named(found, "case-time-plan-in-place").value, named(found, "case-time-saving").value) == (3 * 24.0, None)


def test_each_case_says_who_opened_it_why_how_long_it_took_and_what_came_of_it() -> None:
    """a: by an agent's condition; 2 days at risk, 1 saving, 1 at risk again, lost after 4. b: by a person, open for 3 days."""
    story = Story().raised("a", 1, name="t").opened("a", 1, trigger="t").moved("a", 3, "saving").moved("a", 4, "at-risk")
    story.breached("a", 4.5).closed("a", 5, lost=True).opened("b", 7)
    a, b = cases(story.happened, frame(0, 10))
    assert (a.opened_by, a.reason, a.result, a.closing, a.missed) == ("rescue/unwell", "test", "lost", "test", True)
    assert (a.hours("at-risk"), a.hours("saving"), a.until_us) == (3 * 24.0, 24.0, us(5))
    assert (b.opened_by, b.result, b.closing, b.missed, b.hours("at-risk")) == (A_PERSON, None, "", False, 3 * 24.0)
    told = a.to_dict()
    assert (told["hours"], told["closed_at"][:10], told["missed_a_term"]) == ({"at-risk": 72.0, "saving": 24.0}, "2026-01-06", True)
    assert b.to_dict()["closed_at"] is None


@pytest.mark.parametrize(("start", "end", "refs"), [(0, 10, ["a", "b"]), (2, 10, ["b"]), (0, 5, ["a"])])
def test_a_case_belongs_to_the_period_in_which_it_was_opened(start: float, end: float, refs: list[str]) -> None:
    story = Story().opened("a", 1).opened("b", 5).closed("a", 9)
    assert [c.ref for c in cases(story.happened, frame(start, end, 10))] == refs


def test_without_any_term_nothing_is_said_about_terms() -> None:
    terms = named(measured(Story().opened("a", 1).closed("a", 2)), "sla-risk-cases")
    assert (terms.value, terms.n, dict(terms.excluded)) == (None, 0, {"no term was ever warned of or missed": 1})


def test_what_each_agent_made_of_its_triggers_is_counted_as_it_was_decided() -> None:
    """Of five triggers: one acted on, two suppressed by kinds of rule, one not decided yet, one of before the period."""
    story = Story().raised("a", 1, name="t1").raised("b", 1, name="t2").raised("c", 1, name="t3").raised("d", 2, name="t4")
    story.raised("e", -1, name="t0")
    story.on("a", 3, decided("t1", "acted")).on("b", 3, decided("t2", "suppressed", "consent:email/service"))
    story.on("c", 3, decided("t3", "suppressed", "policy:watch"))
    (found,) = coverage(story.happened, frame(0, 10))
    assert (found.agent, found.triggers, found.waiting) == ("rescue", 4, 1)
    assert (found.dispositions, found.suppressed_by) == ({"acted": 1, "suppressed": 2}, {"consent": 1, "policy": 1})
