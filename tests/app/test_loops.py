"""Feedback loops, provoked for real: between two agents, between two customers, through waits. Depth stops them, and nothing is lost."""

from __future__ import annotations

from datetime import timedelta

from postsale.agents import Agent, Policy
from postsale.aggregates.signals import ReferralInvited, SurveyAnswered
from postsale.app import Tenant
from postsale.audit import check_dispositions
from postsale.events import ManualClock
from postsale.projections.journal import Entry
from tests.app.referred import Invite, Program, Uninvite, inviter
from tests.app.support import ANNA, NOON, failed, opened, paid

LOOP = """
name = "{name}"
version = 1
owner = "cs"
description = "One side of a loop."

[inputs]
failed_payments = "integer"
days_since_last_payment = "integer"

[[trigger]]
id = "{name}"
when = {{ {when} }}

[[rule]]
id = "write"
action = "write"
tool = "acme.invite@1"
arguments = {{ customer = "$customer", text = "x" }}
approval = "none"
because = "It is so."
{more}
[guardrails]
purpose = "service"
max_depth = 2
approval_expires_h = 48
"""


def side(name: str, when: str, more: str = "") -> Agent:
    return Agent(Policy.from_toml(LOOP.format(name=name, when=when, more=more)))


def told(acme: Tenant, customer: str) -> list[tuple[str, int, str]]:
    return [(e.agent, e.recorded.depth, e.suppressed_by or e.disposition) for e in acme.decisions(customer)]


def effect(entry: Entry) -> str:
    (key,) = entry.effects
    return str(key)


def test_two_agents_that_answer_each_other_over_one_customer_are_stopped_by_depth_and_each_trigger_has_its_disposition() -> None:
    """One writes when a payment fails, which brings a payment; the other writes when one is paid, which brings a failure."""
    clock, tool = ManualClock(NOON), Invite()
    chaser, thanker = side("chaser", 'failed_payments = ">= 1"'), side("thanker", 'failed_payments = "0", days_since_last_payment = "0"')
    with opened(None, clock=clock, agents=[chaser, thanker], tools=[tool, Uninvite()], sandbox=False) as ps:
        acme = ps.tenant("acme")
        for agent in (chaser, thanker):
            acme.agent(agent).act(reason="test", by=ANNA)
        acme.record("c", failed("f0", NOON))
        ps.run_once()
        for n in range(1, 8):
            newest = acme.decisions("c")[-1]
            if newest.disposition != "acted":
                break
            clock.advance(timedelta(minutes=1))
            at = NOON + timedelta(minutes=n)
            acme.returned(effect(newest), paid(f"p{n}", at) if newest.agent == "chaser" else failed(f"f{n}", at))
            ps.run_once()
        assert told(acme, "c") == [
            ("chaser", 0, "acted"),
            ("thanker", 1, "acted"),
            ("chaser", 2, "acted"),
            ("thanker", 3, "depth:2"),
        ]
        assert len(tool.calls) == 3
        report = check_dispositions(ps.log.store)
        assert (report.ok, report.triggers, report.waiting) == (True, 4, 0)
        clock.advance(timedelta(days=2))
        acme.record("c", failed("outside", NOON + timedelta(days=2)))
        ps.run_once()
        assert told(acme, "c")[-1] == ("chaser", 0, "acted"), "what comes from outside begins a chain of its own"


def test_a_loop_is_not_taken_for_news_because_something_else_moved_in_the_same_round() -> None:
    """Between two rounds an outsider's answers move another agent's condition first, each time: the loop is as deep as it is."""
    clock, tool = ManualClock(NOON), Invite()
    chaser, thanker = side("chaser", 'failed_payments = ">= 1"'), side("thanker", 'failed_payments = "0", days_since_last_payment = "0"')
    bored = Agent(
        Policy.from_toml(
            LOOP.format(name="bored", when='survey_score = "<= 5"', more="").replace("[inputs]", '[inputs]\nsurvey_score = "integer"')
        )
    )
    with opened(None, clock=clock, agents=[bored, chaser, thanker], tools=[tool, Uninvite()], sandbox=False) as ps:
        acme = ps.tenant("acme")
        for agent in (chaser, thanker):
            acme.agent(agent).act(reason="test", by=ANNA)
        acme.record("c", failed("f0", NOON))
        ps.run_once()
        for n in range(1, 8):
            newest = [e for e in acme.decisions("c") if e.agent != "bored"][-1]
            if newest.disposition != "acted":
                break
            clock.advance(timedelta(minutes=1))
            at = NOON + timedelta(minutes=n)
            said = {"source": "test", "id": f"s{n}", "occurred_at": at}
            acme.record("c", SurveyAnswered(**said, survey="nps", score=1 if n % 2 else 9))
            acme.returned(effect(newest), paid(f"p{n}", at) if newest.agent == "chaser" else failed(f"f{n}", at))
            acme.record("c", SurveyAnswered(**{**said, "id": f"t{n}"}, survey="nps", score=2 if n % 2 else 8))
            ps.run_once()
        assert [x for x in told(acme, "c") if x[0] != "bored"] == [
            ("chaser", 0, "acted"),
            ("thanker", 1, "acted"),
            ("chaser", 2, "acted"),
            ("thanker", 3, "depth:2"),
        ]
        assert len(tool.calls) == 3
        assert check_dispositions(ps.log.store).ok


def test_two_customers_whose_invitations_bring_each_other_back_are_stopped_by_depth_and_each_trigger_has_its_disposition() -> None:
    """Who is invited by one is asked to invite, and invites the first one again, days later each time: no cap on contacts is near."""
    text = LOOP.format(name="again", when='days_since_referral_invited = "0"', more="").replace(
        'failed_payments = "integer"', 'days_since_referral_invited = "integer"'
    )
    p = Program(None, Agent(Policy.from_toml(text)))
    with p.ps:
        p.acme.record("one", ReferralInvited(**p.said(), referral_id="r0"))
        p.run()
        pair = ("one", "two")
        for n in range(6):
            entry = p.acme.decisions(pair[n % 2])[-1]
            if entry.disposition != "acted":
                break
            p.run(days=3)  # the condition falls everywhere
            p.invited(p.effect(pair[n % 2], "again"), customer=pair[(n + 1) % 2])
            p.run()
        assert told(p.acme, "one") == [("again", 0, "acted"), ("again", 2, "acted")]
        assert told(p.acme, "two") == [("again", 1, "acted"), ("again", 3, "depth:2")]
        assert p.called("acme.invite") == 3
        report = check_dispositions(p.ps.log.store)
        assert (report.ok, report.triggers, report.waiting) == (True, 4, 0)


def test_an_agent_that_waits_for_its_own_effect_and_then_acts_again_is_stopped_by_depth() -> None:
    wait = '[[wait]]\nid = "silent"\nafter = "write"\nunless = ["product/usage-observed"]\nwithin_days = 7\n'
    p = Program(None, side("nudger", 'failed_payments = ">= 1"', wait))
    with p.ps:
        p.acme.record("c", failed("f", NOON))
        p.run()
        for _ in range(5):
            p.run(days=8)
        assert told(p.acme, "c") == [
            ("nudger", 0, "acted"),
            ("nudger", 1, "acted"),
            ("nudger", 2, "acted"),
            ("nudger", 3, "depth:2"),
        ]
        assert p.called("acme.invite") == 3
        assert check_dispositions(p.ps.log.store).ok


def test_what_a_breached_term_of_a_case_that_an_agent_opened_brings_is_deeper_and_after_a_persons_move_it_is_not() -> None:
    opens = "risk_case = true\n"
    sla = '[[sla]]\nid = "soon"\nmeasure = "stage"\nstage = "{stage}"\nwithin_h = 24\nasks = ["breach"]\n'
    both = opens + sla.format(stage="at-risk") + sla.format(stage="plan-in-place").replace('"soon"', '"planned"')
    p = Program(None, side("opener", 'failed_payments = ">= 1"', both))
    with p.ps:
        p.acme.record("c", failed("f", NOON))
        p.run()
        p.run(hours=25)
        ((_, case),) = p.acme.cases()
        p.acme.move_case(case.case_id, "plan-in-place", reason="called them", by=ANNA)
        p.run()
        p.run(hours=25)
        assert [(e.recorded.condition, e.recorded.depth) for e in p.acme.decisions("c")] == [("opener", 0), ("soon", 1), ("planned", 0)]
        assert check_dispositions(p.ps.log.store).ok


def test_a_schedule_is_no_deeper_than_the_calendar_which_no_effect_brings_forward() -> None:
    daily = '[[schedule]]\nid = "daily"\nweekdays = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]\nat = "09:00"\nzone = "UTC"\n'
    p = Program(None, side("daily-look", 'failed_payments = ">= 1"', daily))
    with p.ps:
        p.acme.record("c", failed("f", NOON))
        p.run()
        for _ in range(4):
            p.run(days=1)
        assert {e.recorded.depth for e in p.acme.decisions("c")} == {0}
        assert sum(e.recorded.condition == "daily" for e in p.acme.decisions("c")) == 4


def test_an_invitation_is_followed_no_deeper_than_its_policy_allows() -> None:
    p = Program(None, inviter(depth=0))
    with p.ps:
        p.promoter("a")
        p.run()
        key = p.effect("a", "inviter")
        p.acme.returned(key, SurveyAnswered(**p.said(), survey="nps", score=10), customer="b")
        p.run()
        assert told(p.acme, "b") == [("inviter", 1, "depth:0")]
