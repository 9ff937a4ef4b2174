"""Replaying through the app, on SQLite and PostgreSQL: what agents decided is made again from the log, whichever holds it."""

from __future__ import annotations

from datetime import timedelta

from postsale.agents import RenewalRescue
from postsale.events import ManualClock

from .support import ANNA, NOON, Where, cancelled, failed, head, opened, paid, subscribed


def test_decisions_are_certified_from_any_log_and_nothing_is_written(where: Where) -> None:
    """Two customers over a month, approvals and effects among it; the certificate signs what the log's own tree says."""
    clock = ManualClock(NOON)
    with opened(where, agents=[RenewalRescue()], clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.agent("renewal-rescue").propose(reason="a month", by=ANNA)
        for n in range(2):
            acme.record(f"cus_{n}", subscribed(f"s{n}", mrr_minor=90_000))
            acme.record(f"cus_{n}", failed(f"f{n}", attempt=3))
        ps.run_once()
        for entry in acme.approvals():
            acme.approve(entry.id, by=ANNA, reason="fine")
        ps.run_once()
        clock.advance(timedelta(days=20))
        acme.record("cus_0", paid("p0", NOON + timedelta(days=20)))
        acme.record("cus_1", cancelled("c1", NOON + timedelta(days=20)))
        ps.run_once()
        before = head(ps)
        certificate = acme.certify()
        assert head(ps) == before
        report = certificate.report
        assert (report.counts, report.reasons) == ({"same": len(acme.decisions())}, {})
        assert report.decisions >= 2
        assert report.intents >= 1
        assert report.head.root.hex() == ps.verify().roots["acme"][1]
