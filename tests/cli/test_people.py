"""`approval show|edit|escalate|delegate`, `authority`, `case` and `upcoming`: what people type, and what is refused with which status."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from postsale import PostSale
from postsale.access import Person
from postsale.agents import Agent, Policy
from postsale.aggregates.signals import InvoicePaymentFailed
from tests.agents.test_approval_rules import ladder
from tests.agents.test_timed import WAIT
from tests.cli.support import run

ME = getpass.getuser()
ANNA = Person("anna", "token")
TEXT = ladder() + WAIT.replace("nudge", "task") + '[[sla]]\nid = "look"\nmeasure = "first-action"\nwithin_days = 30\n'


@pytest.fixture
def db(tmp_path: Path) -> str:
    """A proposal that waits under rules, with a risk case; this user holds the first role."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    (tmp_path / "dunning.toml").write_text(TEXT)
    text = TEXT.replace(
        'title = "Payment failing", note = "$because" }', 'title = "Payment failing", note = "$because" }\nrisk_case = true'
    )
    with PostSale.open(url, agents=[Agent(Policy.from_toml(text))]) as ps:
        acme = ps.tenant("acme")
        acme.agent("dunning").propose(reason="test", by=ANNA)
        acme.authority.grant(ME, "cs-lead", limit_minor=5000, currency="EUR", reason="staff list", by=ANNA)
        at = datetime.now(UTC) - timedelta(minutes=1)
        acme.record("cus_42", InvoicePaymentFailed(source="b", id="f1", occurred_at=at, amount_minor=100, currency="EUR", attempt=2))
        assert ps.run_once().decided == 1
    return url


def waiting(db: str) -> dict[str, object]:
    (one,) = run("approval", "list", "--db", db, "--json").json()
    found: dict[str, object] = one
    return found


def test_the_list_says_for_whom_it_waits_until_when_and_what_changed_since(db: str) -> None:
    one = waiting(db)
    assert (one["level"], one["role"], one["then"], one["people"], one["changed_since"]) == ("lead", "cs-lead", "escalate", 1, [])
    shown = run("approval", "list", "--db", db).out
    assert "cs-lead (lead)" in shown
    with PostSale.open(db, agents=[Agent(Policy.from_toml(TEXT))]) as ps:
        at = datetime.now(UTC)
        fact = InvoicePaymentFailed(source="b", id="f2", occurred_at=at, amount_minor=100, currency="EUR", attempt=3)
        ps.tenant("acme").record("cus_42", fact)
    assert waiting(db)["changed_since"] == ["failed_payments"]
    shown = run("approval", "show", str(one["id"]), "--db", db).out
    assert "failed_payments" in shown
    assert shown.splitlines()[1].split() == ["what", "says"]


def test_a_request_is_shown_with_arguments_levels_and_history(db: str) -> None:
    id_ = str(waiting(db)["id"])
    said = run("approval", "show", id_[:8], "--db", db, "--json").json()
    assert said["arguments"][0]["title"] == "Payment failing"
    assert [level["name"] for level in said["levels"]] == ["lead", "head"]
    assert said["history"][0]["what"] == "awaiting"
    assert "(now)" in run("approval", "show", id_, "--db", db).out


def test_an_edit_is_a_new_proposal_that_its_editor_may_not_approve(db: str) -> None:
    id_ = str(waiting(db)["id"])
    for wrong in (("--set", "colour=red"), ("--set", "title"), ("--set", "7.title=x"), ("--amount", "5"), ()):
        assert run("approval", "edit", id_, "--reason", "better", *wrong, "--db", db).code == 2
    said = run("approval", "edit", id_, "--reason", "better", "--set", "title=Call=today", "--db", db, "--json").json()
    assert said["replaces"] == id_
    new = waiting(db)
    assert (new["id"], new["editor"]) == (said["decision_id"], ME)
    shown = run("approval", "show", said["decision_id"], "--db", db, "--json").json()
    assert shown["arguments"][0]["title"] == "Call=today"
    refused = run("approval", "approve", said["decision_id"], "--db", db)
    assert (refused.code, "whoever edited" in refused.err) == (3, True)
    assert run("approval", "approve", id_, "--db", db).code == 3
    assert run("decision", "replay", said["decision_id"], "--db", db).code == 0


def test_a_request_goes_up_and_is_listed_among_escalations(db: str) -> None:
    id_ = str(waiting(db)["id"])
    assert run("approval", "escalations", "--db", db, "--json").json() == []
    assert run("approval", "escalate", id_, "--reason", "not mine", "--db", db, "--json").json()["level"] == "head"
    (up,) = run("approval", "escalations", "--db", db, "--json").json()
    assert (up["role"], up["escalations"][0]["what"]) == ("cs-head", f"escalated to head by {ME}: not mine")
    assert "not mine" in run("approval", "escalations", "--db", db).out
    assert run("approval", "escalate", id_, "--reason", "again", "--db", db).code == 3
    assert run("approval", "approve", id_, "--db", db).code == 3  # cs-lead is not enough any more


def test_roles_and_delegations_are_given_listed_and_ended(db: str) -> None:
    assert run("authority", "grant", "cara", "cs-head", "--reason", "staff list", "--db", db).code == 0
    assert run("authority", "grant", ME, "cs-head", "--reason", "why not", "--db", db).code == 3
    assert run("authority", "grant", "dunning", "cs-head", "--reason", "x", "--db", db).code == 3
    until = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    made = run("approval", "delegate", "ben", "cs-lead", "--until", until, "--reason", "leave", "--db", db, "--json").json()
    assert made["giver"] == ME
    listed = run("authority", "list", "--db", db, "--json").json()
    assert {r["person"] for r in listed["roles"]} == {ME, "cara"}
    assert [x["taker"] for x in listed["delegations"]] == ["ben"]
    shown = run("authority", "list", "--db", db).out
    assert "50.00 EUR" in shown
    assert "now" in shown
    assert run("authority", "end", made["delegation_id"][:8], "--reason", "back", "--db", db).code == 0
    assert run("authority", "end", made["delegation_id"][:8], "--reason", "back", "--db", db).code == 2
    assert run("authority", "revoke", "cara", "cs-head", "--reason", "left", "--db", db, "--json").json()["revoked"] is True


def test_cases_are_listed_and_moved_and_what_is_to_come_is_in_order(db: str, tmp_path: Path) -> None:
    (case,) = run("case", "list", "--db", db, "--json").json()
    assert (case["stage"], case["first_action_at"], case["missed"]) == ("at-risk", None, [])
    assert "not yet" in run("case", "list", "--db", db).out
    assert run("case", "move", case["id"][:8], "lost", "--reason", "x", "--db", db).code == 2
    coming = run("upcoming", "--agent", str(tmp_path / "dunning.toml"), "--db", db, "--json").json()
    assert [x["what"] for x in coming] == ["approval", "sla"]
    assert run("case", "move", case["id"][:8], "saving", "--reason", "we talk", "--db", db, "--json").json()["moved"] is True
    assert run("case", "list", "--db", db, "--json").json()[0]["first_action_at"] is not None
    assert "lead" in run("upcoming", "--agent", str(tmp_path / "dunning.toml"), "--db", db).out


def test_an_amount_is_typed_in_whole_minor_units_and_shown_as_money(db: str) -> None:
    """`500.00` must not become five euros."""
    grant = ("authority", "grant", "zoe", "cs-lead", "--currency", "EUR", "--reason", "x", "--db", db, "--limit")
    for wrong in ("500.00", "-1", "5e2", "1_000", "x"):
        refused = run(*grant, wrong)
        assert (refused.code, "50000 is 500.00 EUR" in " ".join(refused.err.split())) == (2, True), wrong
    assert run("authority", "list", "--db", db, "--json").json()["roles"][0]["person"] == ME
    assert "up to 500.00 EUR" in run(*grant, "50000").out
    assert run("approval", "edit", str(waiting(db)["id"]), "--amount", "20.00", "--reason", "x", "--db", db).code == 2


def test_who_may_not_approve_is_told_how_a_role_is_given(db: str) -> None:
    id_ = str(waiting(db)["id"])
    assert run("approval", "escalate", id_, "--reason", "not mine", "--db", db).code == 0
    assert f"postsale authority grant {ME} cs-head" in run("approval", "approve", id_, "--db", db).err


def test_the_level_that_is_asked_now_is_marked_only_while_it_is_asked(db: str) -> None:
    id_ = str(waiting(db)["id"])
    assert run("approval", "approve", id_, "--db", db).code == 0
    assert "(now)" not in run("approval", "show", id_, "--db", db).out


def test_the_first_of_two_yeses_says_that_another_is_asked_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    text = TEXT.replace("people = 1", "people = 2", 1)
    with PostSale.open(url, agents=[Agent(Policy.from_toml(text))]) as ps:
        acme = ps.tenant("acme")
        acme.agent("dunning").propose(reason="test", by=ANNA)
        acme.authority.grant(ME, "cs-lead", reason="staff list", by=ANNA)
        failed = InvoicePaymentFailed(source="b", id="f1", occurred_at=datetime.now(UTC), amount_minor=100, currency="EUR", attempt=2)
        acme.record("cus_42", failed)
        ps.run_once()
    id_ = str(waiting(url)["id"])
    assert "1 of 2 people said yes" in run("approval", "approve", id_, "--db", url).out


def test_a_run_that_leaves_proposals_says_where_they_are_and_an_agent_that_is_not_there_is_told_as_such(db: str, tmp_path: Path) -> None:
    fact = InvoicePaymentFailed(source="b", id="f9", occurred_at=datetime.now(UTC), amount_minor=100, currency="EUR", attempt=2)
    with PostSale.open(db) as ps:
        ps.tenant("acme").record("cus_43", fact)
    ran = run("run", "--agent", str(tmp_path / "dunning.toml"), "--db", db)
    assert (ran.code, "→ postsale approval list" in ran.out) == (0, True)
    for name, why in (("nofile.toml", "there is no such file"), ("postsale.agents:Policy", "'Policy' there is no agent")):
        refused = run("run", "--agent", name, "--db", db)
        assert (refused.code, why in refused.err) == (2, True)


def test_in_80_columns_what_waits_is_read_without_the_column_of_which_nothing_changed(db: str) -> None:
    shown = run("approval", "list", "--db", db, env={"COLUMNS": "80"}).out
    head = shown.splitlines()[1].split()
    assert head == ["id", "customer", "agent", "action", "for", "until", "because"]
    assert max(len(line) for line in shown.splitlines() if not line.startswith("→")) <= 80
