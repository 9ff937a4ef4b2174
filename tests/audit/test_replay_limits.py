"""Replay from the log alone knows what limits, flags, slices of budgets, undo and retirement made of decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from postsale import PostSale
from postsale.agents import Agent, Policy
from postsale.agents.escrow import Escrow
from postsale.agents.flags import FlagReading
from postsale.aggregates.signals import AccountProfiled, SubscriptionStarted
from postsale.events import ManualClock
from tests.agents.test_flags import GATED
from tests.agents.world import ANNA, NOON
from tests.app.support import failed

LIMITS = """tool_risk = { act = "medium", by = "segment", segments = { vip = "high" } }
blast_radius = { decisions = 2, hours = 1 }
authority = { amount_minor = 6000, currency = "EUR", days = 30 }
bound_to"""
LIMITED = GATED.replace("bound_to", LIMITS, 1).replace("authority_limit_minor = 1000", "authority_limit_minor = 90000")


class On:
    def read(self, *_: Any, **__: Any) -> FlagReading:
        return FlagReading(True, "on", "STATIC")


def test_everything_these_make_of_decisions_is_made_again_from_the_log(tmp_path: Path) -> None:
    agent, clock = Agent(Policy.from_toml(LIMITED)), ManualClock(NOON)
    url = f"sqlite:///{tmp_path}/log.db"
    terms = {"subscription_id": "s", "mrr_minor": 4900, "interval": "month", "currency": "EUR", "effective_at": NOON}
    with PostSale.open(url, agents=[agent], clock=clock, flags=On(), escrow=Escrow(share=2)) as ps:
        acme = ps.tenant("acme")
        acme.agent(agent).act(reason="go")
        for n in range(3):
            acme.record(f"c{n}", AccountProfiled(source="crm", id=f"p{n}", occurred_at=NOON, segment="vip"))
            acme.record(f"c{n}", SubscriptionStarted(source="b", id=f"s{n}", occurred_at=NOON, **terms))
            acme.consent(f"c{n}", "email", "service", evidence="form")
            acme.record(f"c{n}", failed(f"f{n}", attempt=2))
        ps.run_once()
        ends = [e.disposition for e in acme.decisions()]
        assert sorted(ends) == ["acted", "acted", "suppressed"]
        undo, _ = acme.undos.propose(decision=next(e.id for e in acme.decisions() if e.disposition == "acted"), by=ANNA)
        acme.undos.approve(undo.id, reason="x", by=ANNA)
        assert acme.undos.run(undo.id).state.status == "finished"
        acme.agent("dunning").retire(reason="old", by=ANNA)
        report = acme.replay_many()
        assert (report.different, report.strays) == ([], [])
        assert report.decisions == 3
