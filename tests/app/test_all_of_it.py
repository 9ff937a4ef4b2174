"""One log with everything that may happen to a trigger: it verifies, each trigger with one disposition, and each decision tells why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from postsale.agents import Agent, FunctionPlanner, Policy, Prompt
from postsale.agents.evidence import HealthReading
from postsale.agents.tools import Toolbox
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import Scalar
from tests.agents.planned import PROMPT, Scripted
from tests.agents.planned import policy as planned
from tests.app.referred import Program, inviter, rewarder, welcomer
from tests.app.support import ANNA, NOON, failed, url_of
from tests.cli.support import run

ASKING = """
name = "asker"
version = 1
owner = "cs"
description = "Asks a lead about every credit."

[inputs]
failed_payments = "integer"

[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }

[[rule]]
id = "credit"
action = "credit"
tool = "acme.credit@1"
approval = "required"
offer = { kind = "credit", amount_minor = 500, currency = "EUR", terms = "Once." }
authority_limit_minor = 1000
arguments = { customer = "$customer", amount_minor = "$offer.amount_minor", currency = "EUR" }
because = "{failed_payments} failed."

[guardrails]
purpose = "service"
approval_expires_h = 48

[[budget]]
name = "asking"
unit = "EUR"
limit = 100000
per = "year"

[approvals]
[[approvals.level]]
name = "lead"
role = "lead"
within_h = 24
on_timeout = "lapse"
"""


class Broken(Agent):
    """Its evidence cannot be read once it is asked."""

    def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> Mapping[str, Scalar]:
        if any(t.raised.agent == self.name for t in customer.pending.values()):
            raise ZeroDivisionError
        return {}


def test_a_log_with_loops_undos_faults_circuits_rejections_and_a_retired_policy_verifies_and_tells_why(tmp_path: Path) -> None:
    asker = Agent(Policy.from_toml(ASKING))
    broken = Broken(Policy.from_toml(ASKING.replace('name = "asker"', 'name = "broken"')))
    said = Scripted(*[ValueError("down")] * 20)
    saver = Agent(planned(), planners=[FunctionPlanner("retention", said)], prompts=[Prompt.from_toml(PROMPT)])
    p = Program(tmp_path, inviter(depth=0), welcomer(), rewarder(), asker, broken, saver, tools=Toolbox().all())
    acme = p.acme
    with p.ps:
        acme.authority.grant("anna", "lead", reason="staff", by=ANNA)
        p.promoter("advocate")
        p.run()
        invitation = p.effect("advocate", "inviter")
        p.accepted(invitation, "friend", "advocate")
        p.promoter_again(invitation, "friend")  # a loop, which the inviter's depth stops
        p.run()
        undo, _ = acme.undos.propose(decision=acme.decisions("advocate")[0].id, by=ANNA)
        acme.undos.approve(undo.id, reason="wrong", by=ANNA)
        acme.undos.run(undo.id)
        for n in range(6):
            acme.record(f"c{n}", failed(f"f{n}", p.now()))
        p.run()
        for _ in range(3):
            p.run(minutes=2)
        waiting = [e for e in acme.approvals() if e.agent == "asker"]
        acme.reject(waiting[0].id, reason="no", by=ANNA)
        acme.override(waiting[1].id, reason="the customer called", by=ANNA)
        acme.retire_policy(asker.policy.digest, reason="too costly", by=ANNA)
        p.run(hours=1)
        why = {(e.agent, e.disposition, e.suppressed_by) for e in acme.decisions()}
        assert why >= {
            ("inviter", "acted", None),
            ("inviter", "suppressed", "depth:0"),
            ("welcome", "acted", None),
            ("broken", "failed", None),
            ("saver", "failed", None),
            ("asker", "suppressed", "approval:rejected"),
            ("asker", "suppressed", "override"),
        }
        told = " ".join(str(acme.explain(e.id)) for e in acme.decisions())
        for words in ("taken back", "ZeroDivisionError", "circuit is open", "as lead: no", "retired: too costly", "depth 1"):
            assert words in told, words
        assert acme.certify(sign=False).ok
        triggers = len(acme.decisions())
    verified = run("log", "verify", "--dispositions", "--json", "--db", url_of(tmp_path)).json()
    assert (verified["dispositions"]["ok"], verified["dispositions"]["triggers"], verified["dispositions"]["waiting"]) == (
        True,
        triggers,
        0,
    )
    assert p.now() - NOON < timedelta(days=1)
