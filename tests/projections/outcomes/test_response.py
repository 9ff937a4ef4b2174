"""Time to response, coverage, risk cases and tickets by hand."""

from __future__ import annotations

from uuid import UUID, uuid5

from postsale.aggregates import decisions as d
from postsale.aggregates import timed as t
from postsale.aggregates.risk import RiskCaseClosed, RiskCaseMoved, RiskCaseOpened, Stage
from postsale.aggregates.signals import TicketOpened, TicketReopened, TicketReplied, TicketSolved
from postsale.events import Event
from postsale.projections.outcomes import Episode, Happened, Support, episodes, response, tickets

from .world import Customer, at, frame, named, us

SPACE = UUID(int=5)
HOUR = 1 / 24


def id_of(name: str) -> UUID:
    return uuid5(SPACE, name)


class Story:
    """What happened, in days."""

    def __init__(self) -> None:
        self.happened: list[Happened] = []

    def on(self, ref: str, day: float, event: Event, name: str = "") -> Story:
        n = len(self.happened) + 1
        self.happened.append(Happened(ref, us(day), n, id_of(name or f"e{n}"), event))
        return self

    def opened(self, ref: str, day: float, trigger: str | None = None) -> Story:
        return self.on(ref, day, RiskCaseOpened(case_id=id_of(ref), reason="test", trigger_id=id_of(trigger) if trigger else None))

    def moved(self, ref: str, day: float, stage: Stage) -> Story:
        return self.on(ref, day, RiskCaseMoved(case_id=id_of(ref), stage=stage, reason="test"))

    def closed(self, ref: str, day: float, *, lost: bool = False) -> Story:
        return self.on(ref, day, RiskCaseClosed(case_id=id_of(ref), result="lost" if lost else "recovered", reason="test"))

    def raised(self, ref: str, day: float, condition: str = "unwell", cause: str = "fact", by: str = "fact", name: str = "") -> Story:
        return self.on(ref, day, d.TriggerRaised(agent="rescue", condition=condition, cause=cause, causing_event=id_of(by)), name)

    def effect(self, ref: str, day: float, *, sandbox: bool = False) -> Story:
        return self.on(ref, day, d.EffectSucceeded(intent_id=id_of("i"), decision_id=id_of("d"), attempt=1, sandbox=sandbox))

    def breached(self, ref: str, day: float) -> Story:
        says = {"case_id": id_of(ref), "agent": "rescue", "sla": "first", "since": at(day - 1), "due_at": at(day)}
        return self.on(ref, day, t.SlaBreached(**says))


def test_time_to_response_runs_from_the_crossing_to_the_first_action() -> None:
    """a: 6 h until an effect; b: 18 h until a person moves the case; c: nobody for the 10 days that are left. Two of three are there after 18 h."""
    story = (
        Story().raised("a", 1).raised("a", 1.1).effect("a", 1 + 6 * HOUR).opened("b", 2).moved("b", 2 + 18 * HOUR, "saving").raised("c", 10)
    )
    found = response(story.happened, frame(0, 20))
    time = named(found, "time-to-response")
    assert (time.value, time.unit, time.n, time.numerator) == (18.0, "hours", 3, 2)
    accounts = named(found, "coverage-at-risk-accounts")
    assert (accounts.numerator, accounts.denominator) == (2, 3)


def test_a_sandbox_a_schedule_and_a_command_neither_begin_nor_end_an_episode() -> None:
    story = Story().raised("a", 1).effect("a", 2, sandbox=True)
    assert episodes(story.happened, us(9)) == [Episode("a", us(1), us(9), acted=False)]
    came = t.ScheduleCame(agent="rescue", schedule="monthly", due_at=at(1), day="2026-01-02", zone="UTC", zone_of="utc", raised=True)
    quiet = Story().on("b", 1, came, "tick").raised("b", 1, cause="time", by="tick").raised("b", 2, cause="command")
    assert episodes(quiet.happened, us(9)) == []
    assert len(episodes(Story().raised("b", 1, cause="time").happened, us(9))) == 1


def test_only_conditions_that_mean_risk_count_where_they_are_named() -> None:
    story = Story().raised("a", 1, "upsell").raised("b", 1, "unwell")
    assert [e.ref for e in episodes(story.happened, us(9), {"rescue/unwell"})] == ["b"]


def test_after_an_action_the_next_crossing_is_another_episode_and_a_closed_case_ends_one_unanswered() -> None:
    story = Story().raised("a", 1).effect("a", 2).raised("a", 5).effect("a", 6).opened("b", 1).closed("b", 4, lost=True)
    assert episodes(story.happened, us(9)) == [
        Episode("a", us(1), us(2), acted=True),
        Episode("a", us(5), us(6), acted=True),
        Episode("b", us(1), us(4), acted=False),
    ]


def test_first_replies_are_wall_clock_and_a_ticket_without_one_still_waits() -> None:
    """Replies after 2 h (told in minutes), 5 h (by their times) and never; one was opened before. Within 4 h: 1 of 3; the newest has time left."""
    c = Customer().on(1, TicketOpened, ticket_id="a").on(1.5, TicketReplied, ticket_id="a", after_min=120)
    c.on(2, TicketOpened, ticket_id="b").on(2 + 5 * HOUR, TicketReplied, ticket_id="b").on(3, TicketSolved, ticket_id="b")
    c.on(4, TicketReopened, ticket_id="b")
    c.on(3, TicketOpened, ticket_id="never").on(-1, TicketOpened, ticket_id="before").on(10 - HOUR, TicketOpened, ticket_id="newest")
    found = tickets({"c": c.values(Support, 10)}, frame(0, 10), us(4 * HOUR) - us(0))
    first, term = named(found, "first-reply-time"), named(found, "sla-first-reply")
    assert (first.value, first.n, first.numerator) == (5.0, 4, 2)
    assert (term.numerator, term.denominator, dict(term.excluded)) == (1, 3, {"not answered, and the term is not over": 1})
    assert term.note == "4 hours, wall-clock"
    assert named(found, "resolution-time").numerator == 0  # b is open again
