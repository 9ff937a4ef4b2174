"""Who is who: waiting ids, links, merges, splits, contacts, tenants; and many writers who meet a new customer at once."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest

from postsale.agents import RenewalRescue
from postsale.aggregates.identity import ALIASES, contact, foreign
from postsale.aggregates.signals import Signal, SurveyAnswered, TicketOpened
from postsale.app import PostSale
from postsale.errors import IdentityConflict, InvalidInput, UnknownCustomer
from postsale.events import MASKED, ManualClock, from_us
from tests.nursery import Fork

from .support import ANNA, NOON, Where, arguments, cancelled, failed, head, opened, paid, subscribed, used

HUBSPOT = foreign("hubspot", "8812")


def count(ps: PostSale, customer: Any, **clocks: Any) -> int:
    return sum(s.count for s in ps.tenant("acme").customer(customer, **clocks).facts.values())


# ---------------------------------------------------------------- links


def test_facts_under_a_foreign_id_wait_and_count_after_the_link(where: Where) -> None:
    """Before the link nobody is known by that id; after it, what waited counts, whoever asks by whichever id."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_42", paid("p1"))
        acme.record(HUBSPOT, failed("f1"))
        assert count(ps, "cus_42") == 1
        with pytest.raises(UnknownCustomer):
            acme.customer(HUBSPOT)
        assert len(acme.customers()) == 1
        clock.advance(timedelta(hours=1))
        before = clock.now_us()
        clock.advance(timedelta(hours=1))
        assert acme.link(HUBSPOT, "cus_42")
        acme.record(HUBSPOT, failed("f2"))
        assert count(ps, "cus_42") == count(ps, HUBSPOT) == 3
        assert acme.health("cus_42").to_dict() == acme.health(HUBSPOT).to_dict()
        assert [r.value_micro for r in acme.customers()] == [acme.health("cus_42").value_micro]

        known_at = from_us(before)
        assert count(ps, "cus_42", known_at=known_at) == 1
        assert [e.stored.kind for e in acme.timeline("cus_42", known_at=known_at)] == ["billing/invoice-paid"]
        (row,) = acme.customers(known_at=known_at)
        assert row.value_micro == acme.health("cus_42", known_at=known_at).value_micro
        assert count(ps, "cus_42", as_of=NOON) == 3  # who is who has no time in the world


def test_linking_again_changes_nothing_and_to_another_is_refused(where: Where) -> None:
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("a", paid("1"))
        acme.record("b", paid("2"))
        assert acme.link(HUBSPOT, "a")
        before = head(ps)
        assert not acme.link(HUBSPOT, "a")
        with pytest.raises(IdentityConflict):
            acme.link(HUBSPOT, "b")
        with pytest.raises(UnknownCustomer):
            acme.link(foreign("hubspot", "2"), "nobody")
        with pytest.raises(InvalidInput):
            acme.link(foreign("hubspot", "\x00"), "a")
        assert head(ps) == before


def test_a_second_id_of_the_tenants_own_can_be_linked_before_it_is_used(where: Where) -> None:
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_42", paid("1"))
        assert acme.link("customer-42", "cus_42")
        acme.record("customer-42", paid("2"))
        assert count(ps, "cus_42") == 2
        assert [n.id for n in acme.customers()[0].names] == ["cus_42", "customer-42"]


def test_cus_42_the_contact_is_not_cus_42_the_customer(where: Where) -> None:
    """Kind and source are part of an id: the same text names four different things."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_42", paid("1"))
        others = [contact("cus_42"), contact("cus_42", "zendesk"), foreign("zendesk", "cus_42")]
        for n, other in enumerate(others):
            acme.record(other, paid(f"x{n}"))
            with pytest.raises(UnknownCustomer):
                acme.customer(other)
        assert count(ps, "cus_42") == 1
        assert acme.link(others[0], "cus_42")
        assert count(ps, "cus_42") == 2


def test_the_same_ids_in_two_tenants_never_meet(where: Where) -> None:
    """Customer id, contact, signal id and source are all the same; both are stored and neither sees the other."""
    with opened(where) as ps:
        north, south = ps.tenant("north"), ps.tenant("south")
        signal = SurveyAnswered(source="s", id="1", occurred_at=NOON, survey="nps", score=3, contact="eve", comment="secret plan")
        for tenant in (north, south):
            assert tenant.record("cus_42", signal).stored
            assert tenant.record(HUBSPOT, failed("f")).stored
        assert north.customer("cus_42").stream != south.customer("cus_42").stream
        assert {e.stored.stream for e in north.timeline("cus_42")}.isdisjoint({e.stored.stream for e in south.timeline("cus_42")})
        north.record("cus_42", paid("only-north"))
        north.link(HUBSPOT, "cus_42")
        assert sum(s.count for s in south.customer("cus_42").facts.values()) == 1
        with pytest.raises(UnknownCustomer):
            south.customer(HUBSPOT)
        with pytest.raises(UnknownCustomer):
            ps.tenant("west").customer("cus_42")
        assert set(north.names()).isdisjoint(south.names())


# ---------------------------------------------------------------- contacts


def test_a_persons_fields_are_sealed_under_the_person(where: Where) -> None:
    """Destroying one contact's key masks that person's words and nobody else's."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        ticket: dict[str, Any] = {"source": "zendesk", "occurred_at": NOON, "ticket_id": "t"}
        acme.record("cus_42", TicketOpened(**ticket, id="1", contact="eve", subject="from eve"))
        acme.record("cus_42", TicketOpened(**ticket, id="2", contact="bob", subject="from bob"))
        acme.record("cus_42", TicketOpened(**ticket, id="3", subject="from nobody"))
        acme.record("cus_7", TicketOpened(**ticket, id="4", contact="eve", subject="from eve, elsewhere"))
        one, two, three = (e for e in acme.timeline("cus_42"))
        (four,) = acme.timeline("cus_7")
        assert one.header.subjects == four.header.subjects
        assert len({one.header.subjects, two.header.subjects, three.header.subjects}) == 3
        assert three.header.subjects == (acme.customer("cus_42").ref,)
        ps.log.vault.destroy("acme", one.header.subjects[0])
        assert [e.data.subject for e in acme.timeline("cus_42")] == [MASKED, "from bob", "from nobody"]  # type: ignore[attr-defined]
        assert [e.data.subject for e in acme.timeline("cus_7")] == [MASKED]  # type: ignore[attr-defined]
        assert ps.verify().problems == []
        before = head(ps)
        with pytest.raises(Exception, match="destroyed"):
            acme.record("cus_42", TicketOpened(**ticket, id="5", contact="eve", subject="again"))
        assert head(ps) == before


def test_a_contact_of_a_waiting_id_is_linked_when_the_account_is_known(where: Where) -> None:
    with opened(where) as ps:
        acme = ps.tenant("acme")
        ticket: dict[str, Any] = {"source": "zendesk", "occurred_at": NOON, "ticket_id": "t", "contact": "eve"}
        acme.record(HUBSPOT, TicketOpened(**ticket, id="1", subject="early"))
        acme.record("cus_42", paid("p"))
        acme.link(HUBSPOT, "cus_42")
        acme.record(HUBSPOT, TicketOpened(**ticket, id="2", subject="late"))
        subjects = [e.data.subject for e in acme.timeline("cus_42") if isinstance(e.data, TicketOpened)]
        assert subjects == ["early", "late"]


# ---------------------------------------------------------------- merges and splits


def test_merge_and_split_are_a_round_trip_with_facts_in_between(where: Where) -> None:
    """In between, both ids give the survivor with everything; afterwards each has its own again, later facts included."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("a", paid("a1"))
        acme.record("b", failed("b1"))
        acme.record(HUBSPOT, used("h1"))
        acme.link(HUBSPOT, "b")
        alone = {name: acme.customer(name).ref for name in ("a", "b")}
        known_before = [e.recorded_at for e in acme.timeline("b")][-1]
        clock.advance(timedelta(days=1))

        assert acme.merge("b", into="a", reason="one company", by=ANNA)
        assert not acme.merge("b", into="a", reason="one company", by=ANNA)
        acme.record("b", failed("b2"))
        acme.record("a", paid("a2"))
        acme.record(HUBSPOT, used("h2"))
        assert acme.customer("a") == acme.customer("b") == acme.customer(HUBSPOT)
        assert count(ps, "a") == 6
        assert [row.ref for row in acme.customers()] == [alone["a"]]
        assert acme.customers()[0].value_micro == acme.health("b").value_micro
        # As known before the merge they were two.
        assert acme.customer("b", known_at=known_before).ref == alone["b"]
        assert count(ps, "b", known_at=known_before) == 2
        assert count(ps, "a", known_at=known_before) == 1
        assert {row.ref for row in acme.customers(known_at=known_before)} == set(alone.values())

        assert acme.split("b", reason="two after all", by=ANNA)
        assert not acme.split("b", reason="two after all", by=ANNA)
        assert (count(ps, "a"), count(ps, "b"), count(ps, HUBSPOT)) == (2, 4, 4)
        assert {name: acme.customer(name).ref for name in ("a", "b")} == alone
        assert acme.merge("b", into="a", reason="and again", by=ANNA)
        assert count(ps, "b") == 6
        assert ps.verify().problems == []


def test_agents_look_at_what_waited_when_it_is_linked(where: Where) -> None:
    """Several facts waited: their link is news, and the condition that they make true is a trigger of the customer."""
    with opened(where, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_42", used("u"))
        for n in (1, 2, 3):
            acme.record(HUBSPOT, failed(f"f{n}", attempt=n))
        assert ps.run_once().raised == 0
        acme.record(HUBSPOT, failed("f4", attempt=3))
        acme.link(HUBSPOT, "cus_42")
        report = ps.run_once()
        assert report.problems == []
        assert "payment-failing" in [e.recorded.condition for e in acme.decisions("cus_42")]


def test_an_id_that_was_linked_to_a_merged_customer_goes_with_it(where: Where) -> None:
    """While merged it counts for the survivor; split off, the customer has it, with what waited and what came since."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        for name in "abc":
            acme.record(name, paid(name))
        acme.record(HUBSPOT, used("h1"))
        acme.merge("c", into="b", reason="r", by=ANNA)
        acme.merge("b", into="a", reason="r", by=ANNA)
        assert acme.link(HUBSPOT, "c")
        assert not acme.link(HUBSPOT, "a")
        acme.record(HUBSPOT, used("h2"))
        assert [count(ps, name) for name in ("a", "b", "c", HUBSPOT)] == [5] * 4
        acme.split("b", reason="r", by=ANNA)
        assert [count(ps, name) for name in ("a", "b", "c", HUBSPOT)] == [1, 4, 4, 4]
        acme.split("c", reason="r", by=ANNA)
        assert [count(ps, name) for name in ("a", "b", "c", HUBSPOT)] == [1, 1, 3, 3]


def test_merges_that_contradict_are_refused(where: Where) -> None:
    with opened(where) as ps:
        acme = ps.tenant("acme")
        for name in "abc":
            acme.record(name, paid(name))
        with pytest.raises(IdentityConflict):
            acme.merge("a", into="a", reason="r", by=ANNA)
        acme.merge("b", into="a", reason="r", by=ANNA)
        with pytest.raises(IdentityConflict):
            acme.merge("b", into="c", reason="r", by=ANNA)
        with pytest.raises(IdentityConflict):
            acme.merge("a", into="b", reason="r", by=ANNA)
        acme.merge("a", into="c", reason="r", by=ANNA)
        assert count(ps, "b") == 3
        with pytest.raises(IdentityConflict):
            acme.split("b", reason="r", by=ANNA)
        acme.split("a", reason="r", by=ANNA)
        acme.split("b", reason="r", by=ANNA)
        assert [count(ps, name) for name in "abc"] == [1, 1, 1]


def test_decisions_made_before_a_merge_are_found_under_either_id(where: Where) -> None:
    with opened(where, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.record("a", subscribed("s"))
        acme.record("b", subscribed("s2"))
        acme.record("b", failed("f", attempt=2))
        ps.run_once()
        made = [e.id for e in acme.decisions("b")]
        assert made
        acme.merge("b", into="a", reason="r", by=ANNA)
        assert [e.id for e in acme.decisions("b")] == [e.id for e in acme.decisions("a")] == made


def test_what_a_merged_customer_had_open_still_gets_its_end(where: Where) -> None:
    """A trigger without a decision is decided (and suppressed); an effect that is ready is cancelled; nothing leaves."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.record("a", subscribed("s0"))
        acme.record("b", subscribed("s1"))
        acme.record("b", cancelled("c1"))
        acme.consent("b", "email", "service", evidence="form")
        acme.agent("renewal-rescue").propose(reason="test", by=ANNA)
        ps.run_once()
        waiting = acme.approvals()[0]
        acme.approve(waiting.id, by=ANNA)
        acme.ask("b", "renewal-rescue", "look", reason="asked", by=ANNA)
        acme.merge("b", into="a", reason="r", by=ANNA)
        ps.run_once()
        entries = {e.id: e for e in acme.decisions("a")}
        assert entries[waiting.id].disposition == "failed"
        assert list(entries[waiting.id].effects.values()) == ["cancelled"]
        asked = [e for e in entries.values() if e.recorded.condition == "look"]
        assert [e.suppressed_by for e in asked] == ["identity:merged"]
        assert ps._toolbox.ledger.calls == ()
        clock.advance(timedelta(days=8))
        ps.run_once()
        assert not any(e.disposition == "awaiting" for e in acme.decisions())


def test_a_request_that_waits_when_customers_merge_lapses_in_time(where: Where) -> None:
    """Nobody can approve it any more, and it does not stand in the queue for ever."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.record("a", subscribed("s0"))
        acme.record("b", subscribed("s1"))
        acme.record("b", cancelled("c1"))
        acme.consent("b", "email", "service", evidence="form")
        acme.agent("renewal-rescue").propose(reason="test", by=ANNA)
        ps.run_once()
        waiting = {e.id for e in acme.approvals()}
        assert waiting
        acme.merge("b", into="a", reason="r", by=ANNA)
        clock.advance(timedelta(days=8))
        ps.run_once()
        assert acme.approvals() == []
        assert {e.suppressed_by for e in acme.decisions("b") if e.id in waiting} == {"approval:expired"}


def test_after_a_merge_a_no_of_either_is_a_no(where: Where) -> None:
    """Consent that one of the two had withdrawn is withdrawn for both; what neither said is still no."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("a", paid("a1"))
        acme.record("b", paid("b1"))
        acme.consent("a", "email", "service", evidence="form")
        acme.consent("b", "email", "service", evidence="form")
        acme.consent("b", "email", "service", given=False, evidence="unsubscribed")
        acme.consent("b", "phone", "service", evidence="call")
        acme.merge("b", into="a", reason="r", by=ANNA)
        assert not acme.customer("a").may_contact("email", "service")
        assert not acme.customer("a").may_contact("phone", "service")


# ---------------------------------------------------------------- races


def race(*calls: Callable[[], Any]) -> list[Any]:
    """Run all at the same time; results, or the errors, in order."""
    gate = threading.Barrier(len(calls))
    out: list[Any] = [None] * len(calls)

    def run(index: int, call: Callable[[], Any]) -> None:
        gate.wait()
        try:
            out[index] = call()
        except Exception as error:
            out[index] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


def test_the_same_delivery_for_a_new_customer_from_many_threads_is_stored_once(where: Where) -> None:
    """One is new, the others are told so; none is a conflict; there is one customer and an empty quarantine."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        for n in range(25):
            signal = failed(f"evt_{n}", contact="eve")
            results = race(*[lambda n=n, signal=signal: acme.record(f"cus_{n}", signal) for _ in range(6)])
            assert sorted(r.stored for r in results) == [False] * 5 + [True]
            assert len({r.position for r in results}) == 1
        assert acme.quarantine() == []
        assert len(acme.customers()) == 25


def test_different_deliveries_for_a_new_customer_from_many_threads_meet_in_one_customer(where: Where) -> None:
    with opened(where) as ps:
        acme = ps.tenant("acme")
        for n in range(10):
            results = race(*[lambda n=n, k=k: acme.record(f"cus_{n}", paid(f"evt_{n}_{k}", contact="eve")) for k in range(6)])
            assert all(r.stored for r in results)
            assert count(ps, f"cus_{n}") == 6
        assert len(acme.customers()) == 10
        assert ps.verify().problems == []


def test_consents_links_and_merges_of_one_customer_from_many_threads_are_all_done(where: Where) -> None:
    """They write to one decision lane; who loses a race decides again, and nobody sees an error."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("a", paid("a"))
        for n in range(5):
            acme.record(f"b{n}", paid(f"b{n}"))
            acme.record(foreign("hubspot", f"{n}"), used(f"h{n}"))
        calls: list[Callable[[], Any]] = []
        for n in range(5):
            calls.append(lambda n=n: acme.consent("a", f"channel-{n}", "service", evidence="form"))
            calls.append(lambda n=n: acme.link(foreign("hubspot", f"{n}"), "a"))
            calls.append(lambda n=n: acme.merge(f"b{n}", into="a", reason="r", by=ANNA))
        assert race(*calls) == [True] * 15
        state = acme.customer("a")
        assert (len(state.joined), len(state.consents), count(ps, "a")) == (10, 5, 11)


def test_linking_one_id_from_many_threads_links_it_once(where: Where) -> None:
    """To the same customer: one does it, the others find it done. To different ones: one does it, the others are refused."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("a", paid("a"))
        acme.record("b", paid("b"))
        for n in range(10):
            same = race(*[lambda n=n: acme.link(foreign("x", f"{n}"), "a") for _ in range(4)])
            assert sorted(same) == [False, False, False, True]
            other = race(*[lambda n=n, to=to: acme.link(foreign("y", f"{n}"), to) for to in ("a", "b")])
            assert sorted(type(r).__name__ for r in other) == ["IdentityConflict", "bool"]
        assert len(acme.customer("a").joined) + len(acme.customer("b").joined) == 20


_WRITER = """
import json
import sys
from datetime import UTC, datetime
from postsale import PostSale
from postsale.aggregates.signals import InvoicePaid
url, options, me = sys.argv[1:]
with PostSale.open(url, **json.loads(options)) as ps:
    acme = ps.tenant("acme")
    print("ready", flush=True)
    sys.stdin.readline()
    at = datetime(2026, 3, 2, tzinfo=UTC)
    for n in range(20):
        for id_ in (f"own-{me}-{n}", f"shared-{n}"):
            acme.record(f"cus_{n}", InvoicePaid(source="s", id=id_, occurred_at=at, amount_minor=1, currency="EUR", contact=f"p{n}"))
    print("done", flush=True)
"""


def test_processes_that_record_the_same_new_customers_make_each_once_and_lose_nothing(lasting: Where) -> None:
    """Three processes open a log that is not there yet, and send the same 20 new customers own and shared deliveries."""
    with ExitStack() as stack:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes = [stack.enter_context(Fork("-c", _WRITER, *arguments(lasting), n, **pipes)) for n in range(3)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.communicate()[0] for process in processes] == ["done\n"] * 3
    with opened(lasting) as ps:
        acme = ps.tenant("acme")
        assert sorted(row.name for row in acme.customers()) == sorted(f"cus_{n}" for n in range(20))
        assert all(count(ps, f"cus_{n}") == 4 for n in range(20))
        assert acme.quarantine() == []
        assert len([s for s, _ in ps.directory.links("acme") if s.category == ALIASES]) == 40  # customers and contacts
        assert ps.verify().problems == []


def test_run_once_from_many_threads_does_each_thing_once(lasting: Where) -> None:
    """Read models and agents after concurrent runs are those of one run: no fact folded twice, no decision twice."""
    with opened(lasting, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        items: list[tuple[str, Signal]] = []
        for n in range(30):
            items += [(f"c{n}", subscribed(f"s{n}")), (f"c{n}", failed(f"f{n}", attempt=2))]
        for part in range(3):
            acme.record_many(items[part * 20 : part * 20 + 20])
            results = race(*[ps.run_once] * 4)
            assert not [r for r in results if isinstance(r, Exception)], results
        assert len(acme.decisions()) == len({e.recorded.trigger_id for e in acme.decisions()}) == 60
        digest = ps.runner.digest()
        ps.runner.rebuild()
        assert ps.runner.digest() == digest


_RUNNER = """
import json
import sys
from postsale import PostSale
from postsale.agents import RenewalRescue
with PostSale.open(sys.argv[1], agents=[RenewalRescue()], **json.loads(sys.argv[2])) as ps:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(3):
        ps.run_once()
    print("done", flush=True)
"""


def test_run_once_from_many_processes_does_each_thing_once(lasting: Where) -> None:
    with opened(lasting) as ps:
        items: list[tuple[str, Signal]] = []
        for n in range(40):
            items += [(f"c{n}", subscribed(f"s{n}")), (f"c{n}", failed(f"f{n}", attempt=2))]
        ps.tenant("acme").record_many(items)
    with ExitStack() as stack:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes = [stack.enter_context(Fork("-c", _RUNNER, *arguments(lasting), **pipes)) for _ in range(3)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        ends = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            ends.append(process.communicate())
        assert [end[0] for end in ends] == ["done\n"] * 3, ends
    with opened(lasting) as ps:
        acme = ps.tenant("acme")
        assert len(acme.decisions()) == len({e.recorded.trigger_id for e in acme.decisions()}) == 40
        assert ps.verify().problems == []
