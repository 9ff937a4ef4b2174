"""What time brings through whole runs: idle customers, restarts, lost views, policies that change; each thing once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from postsale.agents import Agent, Policy
from postsale.app import PostSale
from postsale.events import ManualClock
from postsale.store import Query
from tests.agents.test_approval_rules import CALENDAR, ladder
from tests.agents.test_timed import HEAD, MONDAYS, SLAS, WAIT

from .support import ANNA, NOON, Where, failed, opened, subscribed

WHOLE = HEAD + CALENDAR + WAIT + MONDAYS + SLAS


def agent(text: str = WHOLE) -> Agent:
    return Agent(Policy.from_toml(text))


def kinds(ps: PostSale) -> Counter[str]:
    return Counter(e.kind for e in ps.log.store.read(Query(tenant="acme")))


def test_an_idle_customer_s_schedule_wakes_the_run_once_a_week(where: Where) -> None:
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[agent()]) as ps:
        ps.tenant("acme").record("cus_42", subscribed("s1"))
        ps.run_once()  # on Monday at noon, after nine: the policy is active from here on
        ps.run_once()
        assert kinds(ps)["schedule/came"] == 0
        for week in (1, 2):
            clock.move_to(datetime(2026, 3, 2 + 7 * week, 7, 59, 59, tzinfo=UTC))
            assert ps.run_once().raised == 0
            clock.advance(timedelta(seconds=1))
            assert [ps.run_once().raised for _ in range(3)] == [1, 0, 0]
            assert kinds(ps)["schedule/came"] == week


def test_a_policy_that_is_activated_in_the_morning_comes_round_in_the_afternoon_for_those_nobody_visits() -> None:
    clock = ManualClock(NOON)
    with opened(None, clock=clock, agents=[agent(HEAD)]) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_42", subscribed("s1"))
        ps.run_once()
        text = HEAD + '[[schedule]]\nid = "today"\nat = "15:00"\nweekdays = ["mon"]\nzone = "UTC"\n'
        acme.activate(Policy.from_toml(text.replace("version = 1", "version = 2")), reason="weekly look", by=ANNA, widens=True)
        clock.advance(timedelta(minutes=5))
        assert ps.run_once().raised == 0
        clock.move_to(NOON + timedelta(hours=3))
        assert ps.run_once().raised == 1


def test_waits_and_terms_survive_a_restart_and_lost_views_and_fire_once(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    for step in range(4):
        with opened(tmp_path, clock=clock, agents=[agent()]) as ps:
            acme = ps.tenant("acme")
            if step == 0:
                acme.agent("dunning").act(reason="test", by=ANNA)
                acme.record("cus_42", failed("f1", attempt=2))
            report = ps.run_once()
            if step == 0:
                assert (report.decided, report.called) == (1, 1)
                clock.advance(timedelta(days=7))
            if step == 1:
                assert kinds(ps)["wait/ended"] == 1
                ps.views.drop("rounds/acme")
            assert kinds(ps)["risk/sla-breached"] == (0 if step == 0 else 1)  # of the stage; the first action was in time
        if step == 2:
            clock.move_to(NOON)  # moved back
    with opened(tmp_path, clock=clock, agents=[agent()]) as ps:
        assert kinds(ps)["wait/ended"] == 1
        assert kinds(ps)["schedule/came"] == 1
        assert kinds(ps)["agent/decision-recorded"] == 3


def test_two_workers_at_once_have_everything_once(where: Where) -> None:
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[agent()]) as ps:
        acme = ps.tenant("acme")
        acme.agent("dunning").act(reason="test", by=ANNA)
        acme.record("cus_42", failed("f1", attempt=2))
        ps.run_once()
        clock.advance(timedelta(days=7))
        stream = ps.directory.customer("acme", "cus_42")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: ps.engine.attend(stream), range(8)))
        counted = kinds(ps)
        assert (counted["wait/ended"], counted["schedule/came"], counted["risk/sla-breached"]) == (1, 1, 1)


def test_a_request_goes_up_by_the_run_that_is_due_then_and_says_what_is_next(where: Where) -> None:
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[agent(ladder())]) as ps:
        acme = ps.tenant("acme")
        acme.agent("dunning").propose(reason="test", by=ANNA)
        acme.record("cus_42", failed("f1", attempt=2))
        ps.run_once()
        (first,) = [due for due in acme.upcoming() if due.what == "approval"]
        assert (first.name, first.told, first.at) == ("lead", "then: escalate", datetime(2026, 3, 3, 12, tzinfo=UTC))
        clock.move_to(first.at)
        ps.run_once()
        (second,) = [due for due in acme.upcoming() if due.what == "approval"]
        assert (second.name, second.told) == ("head", "then: lapse")
        assert kinds(ps)["approval/escalated"] == 1
        clock.move_to(second.at)
        assert ps.run_once().lapsed == 1
        assert acme.approvals() == []


def test_what_is_to_come_names_waits_terms_and_schedules_in_their_order() -> None:
    clock = ManualClock(NOON)
    with opened(None, clock=clock, agents=[agent()]) as ps:
        acme = ps.tenant("acme")
        acme.agent("dunning").act(reason="test", by=ANNA)
        acme.record("cus_42", failed("f1", attempt=2))
        ps.run_once()
        assert [(due.what, due.name) for due in acme.upcoming()] == [("sla", "plan"), ("schedule", "mondays"), ("wait", "no-login")]
        ((ref, case),) = acme.cases()
        assert acme.move_case(case.case_id, "saving", reason="we talk", by=ANNA)
        assert not acme.move_case(case.case_id, "saving", reason="we talk", by=ANNA)
        assert [due.what for due in acme.upcoming()] == ["schedule", "wait"]
        assert {due.customer_ref for due in acme.upcoming()} == {ref}
