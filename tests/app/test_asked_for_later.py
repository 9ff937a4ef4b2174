"""What a person asks an agent for a time to come: given once, at its time, whatever crashes, clocks and merges do in between."""

from __future__ import annotations

import signal
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from postsale.access import Person
from postsale.agents import RenewalRescue, asking
from postsale.aggregates.customer import CustomerAggregate
from postsale.app import PostSale, Tenant
from postsale.errors import InvalidInput, NotAllowed, UnknownCustomer
from postsale.events import ManualClock
from postsale.store import Query
from postsale.store.timers import Timers
from tests.nursery import Fork

from .support import ANNA, NOON, Where, head, opened, subscribed

LATER = NOON + timedelta(days=3)
AGENT = "renewal-rescue"


def asked(where: Where, clock: ManualClock) -> tuple[PostSale, Tenant]:
    ps = opened(where, clock=clock, agents=[RenewalRescue()])
    acme = ps.tenant("acme")
    acme.record("cus_42", subscribed("s1"))
    ps.run_once()
    return ps, acme


def commands(ps: PostSale, tenant: str = "acme") -> list[str]:
    return [e.kind for e in ps.log.store.read(Query(tenant=tenant)) if e.kind in {"customer/command-issued", "agent/trigger-raised"}]


def test_a_command_for_later_is_given_at_its_time_once_and_decided_in_the_same_run(where: Where) -> None:
    clock = ManualClock(NOON)
    ps, acme = asked(where, clock)
    with ps:
        before = head(ps)
        trigger = acme.ask("cus_42", AGENT, "look-again", reason="they asked for time", by=ANNA, at=LATER)
        assert trigger == acme.ask("cus_42", AGENT, "look-again", reason="they asked for time", by=ANNA, at=LATER)
        assert head(ps) == before  # it is not a fact before its time
        clock.move_to(LATER - timedelta(microseconds=1))
        assert ps.run_once().given == 0
        clock.move_to(LATER)
        report = ps.run_once()
        assert (report.given, report.decided) == (1, 1)
        (decision,) = acme.decisions("cus_42")
        assert (decision.recorded.trigger_id, decision.recorded.condition) == (trigger, "look-again")
        issued = next(e for e in acme.timeline("cus_42") if e.stored.kind == "customer/command-issued")
        assert str(issued.header.actor) == "person:anna"
        clock.advance(timedelta(days=1))
        assert ps.run_once().given == 0
        assert commands(ps) == ["customer/command-issued", "agent/trigger-raised"]


def test_asked_at_two_times_it_is_given_twice_and_by_two_people_too(where: Where) -> None:
    clock = ManualClock(NOON)
    ps, acme = asked(where, clock)
    with ps:
        times = [LATER, LATER + timedelta(hours=1)]
        triggers = {
            acme.ask("cus_42", AGENT, "look-again", reason="r", by=by, at=at) for at in times for by in (ANNA, Person("ben", "token"))
        }
        assert len(triggers) == 4
        clock.move_to(times[0])
        assert ps.run_once().given == 2
        clock.move_to(times[1])
        assert ps.run_once().given == 2
        assert {d.recorded.trigger_id for d in acme.decisions("cus_42")} == triggers


def test_a_command_that_waits_can_be_withdrawn(where: Where) -> None:
    clock = ManualClock(NOON)
    ps, acme = asked(where, clock)
    with ps:
        trigger = acme.ask("cus_42", AGENT, "look-again", reason="r", by=ANNA, at=LATER)
        assert not ps.tenant("globex").withdraw(trigger)
        assert acme.withdraw(str(trigger))
        assert not acme.withdraw(trigger)
        clock.move_to(LATER)
        assert ps.run_once().given == 0
        given = acme.ask("cus_42", AGENT, "look-again", reason="r", by=ANNA, at=NOON)  # its time has come
        assert ps.run_once().given == 1
        assert not acme.withdraw(given)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"at": datetime(2026, 3, 9)}, InvalidInput),
        ({"at": datetime(2300, 1, 1, tzinfo=UTC)}, InvalidInput),
        ({"reason": " "}, InvalidInput),
        ({"by": Person("", "os-user")}, NotAllowed),
        ({"customer": "cus_43"}, UnknownCustomer),
        ({"agent": "nobody"}, InvalidInput),
    ],
)
def test_what_cannot_be_asked_now_cannot_be_asked_for_later(where: Where, change: dict[str, Any], error: type[Exception]) -> None:
    ps, acme = asked(where, ManualClock(NOON))
    with ps:
        how: dict[str, Any] = {"customer": "cus_42", "agent": AGENT, "command": "look", "reason": "r", "by": ANNA, "at": LATER} | change
        with pytest.raises(error):
            acme.ask(how.pop("customer"), how.pop("agent"), how.pop("command"), **how)
        assert list(Timers(ps.log.store.kv, "acme").due(2**53)) == []


def test_it_is_given_to_the_customer_that_its_customer_is_part_of_by_then(where: Where) -> None:
    clock = ManualClock(NOON)
    ps, acme = asked(where, clock)
    with ps:
        acme.record("cus_43", subscribed("s2"))
        acme.ask("cus_42", AGENT, "look-again", reason="r", by=ANNA, at=LATER)
        acme.merge("cus_42", into="cus_43", reason="the same", by=ANNA)
        clock.move_to(LATER)
        assert ps.run_once().given == 1
        (decision,) = acme.decisions("cus_43")
        assert decision.stream == ps.directory.customer("acme", "cus_43")


def test_a_clock_moved_back_gives_nothing_twice(where: Where) -> None:
    clock = ManualClock(NOON)
    ps, acme = asked(where, clock)
    with ps:
        acme.ask("cus_42", AGENT, "look-again", reason="r", by=ANNA, at=LATER)
        given = 0
        for days in (2, 4, 1, 3, 5):
            clock.move_to(NOON + timedelta(days=days))
            given += ps.run_once().given
        assert given == 1
        assert commands(ps).count("customer/command-issued") == 1


def test_a_crash_between_giving_and_forgetting_gives_it_once(where: Where) -> None:
    """The command is in the log and its timer is still set, as after a kill; by then the customer may even be part of another."""
    clock = ManualClock(NOON)
    ps, acme = asked(where, clock)
    with ps:
        acme.record("cus_43", subscribed("s2"))
        for n in range(2):
            acme.ask("cus_42", AGENT, f"look-{n}", reason="r", by=ANNA, at=LATER)
        clock.move_to(LATER)
        desk = ps.engine.desk
        for timer in asking.waiting(desk, "acme"):
            asking.give(desk, timer, asking.stream_of(timer))
            Timers(ps.log.store.kv, "acme").set(timer.id, timer.due_us, timer.payload)
        acme.merge("cus_42", into="cus_43", reason="the same", by=ANNA)
        assert ps.run_once().given == 2
        assert commands(ps).count("customer/command-issued") == commands(ps).count("agent/trigger-raised") == 2
        assert ps.run_once().given == 0


def test_one_command_that_cannot_be_given_holds_up_no_other(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(NOON)
    ps, acme = asked(where, clock)
    with ps:
        acme.record("cus_43", subscribed("s2"))
        for customer in ("cus_42", "cus_43"):
            acme.ask(customer, AGENT, "look", reason="r", by=ANNA, at=LATER)
        broken = ps.directory.customer("acme", "cus_42")
        real = ps.log.customer

        def customer(stream: Any, **at: Any) -> CustomerAggregate:
            if stream == broken:
                raise InvalidInput(what="x", field="y", reason="unreadable")
            return real(stream, **at)

        clock.move_to(LATER)
        monkeypatch.setattr(ps.log, "customer", customer)
        report = ps.run_once()
        assert report.given == 1
        assert [stream for stream, _ in report.problems] == [str(broken)]
        monkeypatch.undo()
        assert ps.run_once().given == 1


_GIVE = """
import json, sys
from datetime import datetime
from postsale import PostSale
from postsale.agents import RenewalRescue
from postsale.events import ManualClock
url, options, at = sys.argv[1:]
with PostSale.open(url, agents=[RenewalRescue()], clock=ManualClock(datetime.fromisoformat(at)), **json.loads(options)) as ps:
    print("ready", flush=True)
    print(ps.run_once(wait_s=0).given, flush=True)
"""


def test_killed_runs_give_each_command_once(lasting: Where) -> None:
    """Real SIGKILL, sooner or later after the run began, until one run comes through."""
    from .support import arguments

    clock = ManualClock(NOON)
    ps, acme = asked(lasting, clock)
    with ps:
        for n in range(30):
            acme.ask("cus_42", AGENT, f"look-{n}", reason="r", by=ANNA, at=LATER + timedelta(seconds=n % 7))
    for life in range(30):
        at = LATER + timedelta(minutes=2 + 2 * life)
        with Fork("-c", _GIVE, *arguments(lasting), at.isoformat(), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            if life < 3:
                with opened(lasting, clock=clock) as watch:
                    want = head(watch) + 4
                    while head(watch) < want and process.poll() is None:
                        watch.log.store.wait(head(watch), 0.05)
                process.send_signal(signal.SIGKILL)
            elif process.stdout.readline():
                break
    clock.move_to(LATER + timedelta(hours=3))
    with opened(lasting, clock=clock, agents=[RenewalRescue()]) as ps:
        assert ps.run_once().given == 0
        assert commands(ps).count("customer/command-issued") == commands(ps).count("agent/trigger-raised") == 30
        decisions = ps.tenant("acme").decisions("cus_42")
        assert len(decisions) == len({d.recorded.trigger_id for d in decisions}) == 30
