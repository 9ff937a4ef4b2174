"""Releases that declare other features side by side: read models of both are folded, agents act on the live one alone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from postsale.agents import Agent
from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed
from postsale.errors import NotLive
from postsale.events import to_us
from postsale.projections import Component, Features, Fold, HealthModel, MemoryViews, Runner, count, days
from postsale.projections.comparing import compare

from .support import ANNA, NOON, Where, failed, opened, paid
from .test_agents import Mailer, policy


def release(version: int) -> HealthModel:
    """The health of one release: the same projection, read from another window."""

    class Health(Features, version=version, owner="tests"):
        paid = count(InvoicePaid, window=days(30 * version))
        failures = count(InvoicePaymentFailed)

    return HealthModel("health", version, Health, (Component("paid", 1, lambda v: min(100, v["paid"]) * 1_000_000),))


def run_by(where: Where, version: int, mailer: Mailer, **more):
    return opened(where, health=release(version), agents=[Agent(policy("mailer"))], tools=[mailer], sandbox=False, **more)


def test_agents_of_a_release_whose_projection_is_not_live_do_nothing_until_it_is(tmp_path: Path) -> None:
    """Its read model is folded all the same; what would have been decided is decided after the switch, once; then the old one is refused."""
    mailer = Mailer()
    with run_by(tmp_path, 1, mailer) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("in_1", NOON - timedelta(days=1)))
        acme.consent("cus_1", "email", "service", evidence="form")
        acme.agent("mailer").act(reason="trusted", by=ANNA)
        ps.run_once()
    with run_by(tmp_path, 2, mailer) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", failed("f_1"))
        with pytest.raises(NotLive) as caught:
            ps.run_once()
        assert (caught.value.version, caught.value.live_version) == (2, 1)
        assert (acme.decisions(), mailer.sent) == ([], [])
        assert ps.runner.position() == ps.log.store.head()
        assert acme.health("cus_1").position  # people read what they like
        old = Runner(ps.log.store, ps.views, Fold(release(1).features), build=ps.deployments.build_of("Health"))
        assert compare(old, ps.runner, to_us(NOON)).same
        ps.deployments.switch(ps.log.store, ps.runner, by="anna", reason="compared")
        report = ps.run_once()
        assert (report.decided, len(mailer.sent)) == (1, 1)
    with run_by(tmp_path, 1, mailer) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", failed("f_2"))
        with pytest.raises(NotLive):
            ps.run_once()
        assert len(mailer.sent) == 1
        ps.deployments.back("Health", by="anna", reason="trouble")
        ps.run_once()


def test_a_person_cannot_approve_on_values_of_a_version_that_is_not_live(tmp_path: Path) -> None:
    """The decision waits on: evidence is read again at the approval, and that reading is refused."""
    mailer = Mailer()
    with run_by(tmp_path, 1, mailer) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", failed("f_1"))
        acme.consent("cus_1", "email", "service", evidence="form")
        acme.agent("mailer").propose(reason="new", by=ANNA)
        ps.run_once()
        (waiting,) = acme.approvals()
    with run_by(tmp_path, 2, mailer) as ps:
        with pytest.raises(NotLive):
            ps.tenant("acme").approve(waiting.id, by=ANNA)
        assert [d.id for d in ps.tenant("acme").approvals()] == [waiting.id]


def test_without_agents_any_release_may_run_and_its_view_is_ready_for_the_switch(where: Where) -> None:
    with opened(where, health=release(1)) as ps:
        ps.tenant("acme").record("cus_1", paid("in_1"))
        ps.run_once()
        ps.deployments.require(ps.model.features)
        other = Runner(ps.log.store, MemoryViews(), release(2).fold)
        other.catch_up()
        assert ps.deployments.live("Health") is not None


def test_a_projector_of_the_application_keeps_its_views_and_those_of_your_own(where: Where) -> None:
    class Payments(Features, version=1, owner="tests"):
        paid = count(InvoicePaid)

    with opened(where) as ps:
        receipts = [ps.tenant("acme").record(f"cus_{n}", paid(f"in_{n}")) for n in range(5)]
        projector = ps.projector([ps.model.features, Payments])
        while projector.turn().more:
            pass
        reader = ps.runner_of(Payments)
        for customer in ps.tenant("acme").customers():
            state = reader.kept([ps.tenant("acme").customer(customer.name).stream], at_least=receipts[-1], within_s=0).state
            assert reader.fold.finish(state, to_us(NOON))["paid"] == 1
        assert ps.runner.position() == receipts[-1].position
        projector.drain()
