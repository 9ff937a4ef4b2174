"""Explaining, masking and proving: an auditor's view of one decision, from the log alone."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from postsale.access import nothing
from postsale.agents import Agent, Policy
from postsale.agents.tools import Toolbox
from postsale.app import PostSale
from postsale.errors import ReplayDiverged, UnknownDecision
from postsale.events import ManualClock
from tests.app.support import ANNA, NOON, failed, opened, paid
from tests.app.test_agents import Mailer, policy, world


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    """A decision that was approved, sent, and had its outcome; explained."""
    ps, acme, _, clock = world(tmp_path, "required")
    with ps:
        ps.run_once()
        (entry,) = acme.decisions()
        acme.approve(entry.id, by=ANNA, reason="they are dear to us")
        ps.run_once()
        clock.advance(timedelta(days=1))
        acme.record("cus_42", paid("p", NOON + timedelta(days=1)))
        ps.run_once()
        explanation = acme.explain(entry.id)
        return {"dict": explanation.to_dict(), "text": str(explanation), "ps": ps, "folder": tmp_path, "id": entry.id}


def test_an_explanation_has_everything_an_auditor_asks_for(told: dict[str, Any]) -> None:
    """Trigger, cause, evidence, policy with owner, verdicts, approver, effects, outcome; in the order it happened."""
    d = told["dict"]
    assert d["trigger"]["condition"] == "failing"
    assert d["trigger"]["cause"]["kind"] == "billing/invoice-payment-failed"
    assert (d["trigger"]["cause"]["source"], d["trigger"]["cause"]["source_id"]) == ("stripe", "f1")
    assert d["known"]["evidence"] == {"failed_payments": 1}
    assert d["known"]["context"]["consent.email"] is True
    assert d["known"]["read_set"][0]["stream"].startswith("acme/customers/")
    assert (d["policy"]["name"], d["policy"]["owner"], d["policy"]["approver"]) == (
        "mailer",
        "cs",
        "nobody",
    )  # it was installed, not approved
    assert d["policy"]["content"]["rule"][0]["id"] == "mail"
    assert d["decider"]["code"] == "postsale.agents.agent:Agent"
    assert [v["guardrail"] for v in d["verdicts"]][:2] == ["kill-switch", "identity"]
    assert all(v["passed"] and v["reason"] for v in d["verdicts"])
    assert (d["approver"], d["disposition"], d["outcome"]) == ("anna", "acted", "success")
    assert [e["status"] for e in d["effects"]] == ["succeeded"]
    assert d["effects"][0]["arguments"]["text"] == "1 failed."
    assert [h["what"].split()[0] for h in d["history"]] == ["awaiting", "approved", "effect", "effect", "outcome:"]
    for word in ("Because", "stripe f1", "failed_payments = 1", "owner cs", "pass", "acme.mail@1", "approved by anna", "outcome: success"):
        assert word in told["text"]


def test_an_explanation_is_json_all_the_way_down(told: dict[str, Any]) -> None:
    """The standard library's encoder takes it, and it comes back the same."""
    assert json.loads(json.dumps(told["dict"], allow_nan=False)) == told["dict"]


def test_every_other_answer_for_programs_is_json_too(tmp_path: Path) -> None:
    ps, acme, _, _ = world(tmp_path, "required")
    with ps:
        ps.run_once()
        (entry,) = acme.decisions()
        answers: list[Any] = [
            acme.health("cus_42").to_dict(),
            acme.health("cus_42").why().to_dict(),
            acme.customer("cus_42").to_dict(),
            [row.to_dict() for row in acme.customers()],
            entry.to_dict(),
            acme.replay(entry.id).to_dict(),
            acme.explain(entry.id).to_dict(),
            ps.verify().to_dict(),
            ps.run_once().to_dict(),
            [item.to_dict() for item in acme.quarantine()],
            ps.projections(),
        ]
        for answer in answers:
            json.dumps(answer, allow_nan=False)


def test_an_auditor_who_may_see_nothing_sees_masks_and_every_proof_verifies(told: dict[str, Any]) -> None:
    """Names and arguments are "•••"; evidence, verdicts, replay and verification are the same."""
    with opened(told["folder"], may_see=nothing, clock=ManualClock(NOON + timedelta(days=1))) as ps:
        acme = ps.tenant("acme")
        masked = acme.explain(told["id"]).to_dict()
        clear = told["dict"]
        assert [e["arguments"] for e in masked["effects"]] == ["•••"]
        assert {k: v for k, v in masked.items() if k != "effects"} == {k: v for k, v in clear.items() if k != "effects"}
        assert set(acme.names().values()) == {"•••"}
        assert acme.customers()[0].name == "•••"
        replayed = acme.replay(told["id"])
        assert replayed.intents == 1
        report = ps.verify()
        assert report.problems == []
    with opened(told["folder"]) as ps:
        assert ps.verify().roots == report.roots


def test_the_policy_is_explained_as_it_was_active_when_it_decided(tmp_path: Path) -> None:
    """Published by the owner, replaced, and brought back by somebody else: each decision names its own activation."""
    clock, mailer = ManualClock(NOON), Mailer()
    first = policy(approval="required")
    second = Policy.from_toml(_changed(first))
    with PostSale.open(f"sqlite:///{tmp_path / 'log.db'}", clock=clock, agents=[Agent(first, name="desk")], tools=[mailer]) as ps:
        acme = ps.tenant("acme")
        ids = []
        for n, (active, by) in enumerate(((first, None), (second, ANNA), (first, ANNA))):
            from postsale.agents import control

            control.activate_policy(ps.engine.desk, "acme", active, person=by, reason=f"step {n}", widens=n == 2)
            acme.record(f"cus_{n}", failed(f"f{n}"))
            ps.run_once()
            ids.append(acme.decisions(f"cus_{n}")[0].id)
        policies = [acme.explain(id_).policy for id_ in ids]
        assert [p.reason for p in policies] == ["step 0", "step 1", "step 2"]
        assert [p.approver for p in policies] == ["nobody", "anna", "anna"]
        assert [p.name for p in policies] == ["mailer"] * 3  # the agent is called otherwise
        assert policies[0].digest == policies[2].digest != policies[1].digest
        assert all(p.content for p in policies)
        assert all(acme.replay(id_) for id_ in ids)


def _changed(first: Policy) -> str:
    from tests.app.test_agents import CALLS

    return CALLS.format(name=first.name, approval="required").replace("days = 30", "days = 31")


def test_what_no_decision_is_cannot_be_explained_or_replayed(tmp_path: Path) -> None:
    """Other events have ids too: a fact's, a trigger's."""
    ps, acme, _, _ = world(tmp_path)
    with ps:
        ps.run_once()
        for event in acme.timeline("cus_42"):
            if event.stored.kind != "agent/decision-recorded":
                with pytest.raises(UnknownDecision):
                    acme.explain(event.event_id)
                with pytest.raises(UnknownDecision):
                    acme.replay(event.event_id)


def test_a_decision_whose_policy_is_not_in_the_log_cannot_be_replayed(tmp_path: Path) -> None:
    """An archive without its policies is named as such; nothing is guessed."""
    from postsale.audit import replay
    from postsale.store import MemoryStore, Submission
    from postsale.store.log import Log
    from tests.app.support import NOON as AT

    ps, acme, _, _ = world(None)
    with ps:
        ps.run_once()
        (entry,) = acme.decisions()
        stored = ps.log.store.find("acme", entry.id)
        assert stored is not None
        bare = Log(MemoryStore(clock=ManualClock(AT)), ps.log.vault, ManualClock(AT))
        from postsale.events import NewEvent

        s = stored
        bare.store.append(
            [
                Submission(
                    (NewEvent(s.stream, s.lane, 0, s.event_id, s.wire_name, s.schema, s.occurred_at_us, s.content_mac, s.header, s.data),)
                )
            ]
        )
        with pytest.raises(ReplayDiverged) as caught:
            replay(bare, "acme", entry.id, ps.unsealer)
        assert caught.value.where == "policy"


def test_erasing_a_customers_key_masks_the_arguments_and_keeps_the_proof(tmp_path: Path) -> None:
    """Arguments are sealed under the customer: destroyed, they are masked everywhere, and the decision still replays."""
    ps, acme, _, _ = world(tmp_path)
    with ps:
        ps.run_once()
        (entry,) = acme.decisions()
        ps.log.vault.destroy("acme", entry.stream.id)
        explanation = acme.explain(entry.id)
        assert [e.arguments for e in explanation.effects] == ["•••"]
        replayed = acme.replay(entry.id)
        assert replayed.intents == 1
        assert ps.verify().problems == []


def test_explaining_and_replaying_write_nothing(tmp_path: Path) -> None:
    ps, acme, mailer, _ = world(tmp_path)
    with ps:
        ps.run_once()
        (entry,) = acme.decisions()
        before, sent = ps.log.store.head(), list(mailer.sent)
        for _ in range(3):
            acme.explain(entry.id)
            acme.replay(entry.id)
            ps.verify()
        assert (ps.log.store.head(), mailer.sent) == (before, sent)


def test_a_toolbox_is_never_asked_during_an_audit(tmp_path: Path) -> None:
    """Explain and replay work in a log that was opened with no agents and an empty toolbox."""
    ps, acme, _, _ = world(tmp_path)
    with ps:
        ps.run_once()
        (entry,) = acme.decisions()
    with opened(tmp_path) as ps:
        assert isinstance(ps._toolbox, Toolbox)
        assert ps.tenant("acme").explain(entry.id).effects
        assert ps.tenant("acme").replay(entry.id).arguments_checked


class Custom(Agent):
    """An agent of somebody's own code."""


def test_replay_says_when_the_deciding_code_is_not_here(tmp_path: Path) -> None:
    """A class that this log was not opened with: the bytes are compared all the same, and the answer does not claim more."""
    with opened(tmp_path, agents=[Custom(policy())], tools=[Mailer()]) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_42", failed("f1"))
        ps.run_once()
        (entry,) = acme.decisions()
        assert acme.replay(entry.id).decider_is_installed
    with opened(tmp_path) as ps:
        assert not ps.tenant("acme").replay(entry.id).decider_is_installed
