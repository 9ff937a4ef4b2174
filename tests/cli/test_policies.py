"""`postsale policy`: what is printed of one, and what of a difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from postsale import PostSale
from postsale.agents import Agent, Policy
from postsale.events import ManualClock
from tests.agents.planned import PROMPT
from tests.agents.world import DUNNING, NOON
from tests.app.support import failed
from tests.cli.support import run

CHANGED = (
    DUNNING.replace("count = 2", "count = 3").replace('id = "wait"', 'id = "later"').replace('segment = "smb"', 'segment = "in [smb, mid]"')
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    for name, text in (("a.toml", DUNNING), ("b.toml", CHANGED)):
        (tmp_path / name).write_text(text)
    return str(tmp_path / "a.toml"), str(tmp_path / "b.toml")


def test_a_difference_is_a_table_of_rows_added_removed_and_changed(files: tuple[str, str]) -> None:
    done = run("policy", "diff", *files)
    assert done.code == 0, done.err
    words = [tuple(line.split()[:3]) for line in done.out.splitlines()[2:]]
    assert words == [
        ("guardrails", "changed", "frequency"),
        ("rule", "'wait'", "removed"),
        ("rule", "'later'", "added"),
        ("rule", "'mail'", "changed"),
    ]
    assert "in [smb, mid]" in done.out


def test_a_difference_is_json_with_every_value_before_and_after(files: tuple[str, str]) -> None:
    said = run("policy", "diff", *files, "--json").json()
    assert said["from"]["digest"] == Policy.from_toml(DUNNING).digest
    assert said["changes"][-1] == {
        "where": "rule 'mail'",
        "what": "changed",
        "field": "when.segment",
        "before": "smb",
        "after": "in [smb, mid]",
    }
    assert run("policy", "diff", files[0], files[0], "--json").json()["changes"] == []


def test_a_policy_is_shown_whether_in_a_file_shipped_or_active(files: tuple[str, str], tmp_path: Path) -> None:
    assert "at most 2 contacts in 30 days" in run("policy", "show", files[0]).out
    assert "save-cancelling" in run("policy", "show", "renewal-rescue").out
    db = f"sqlite:///{tmp_path / 'log.db'}"
    with PostSale.open(db, agents=[Agent(Policy.from_toml(DUNNING))]) as ps:
        ps.engine.install("acme", "dunning")
    shown = run("policy", "show", "active:dunning", "--db", db, "--json").json()
    assert shown["digest"] == Policy.from_toml(DUNNING).digest
    assert run("policy", "show", "active:other", "--db", db).code == 2
    assert run("policy", "show", "nothing.toml").code == 2


def test_a_version_is_retired_by_the_first_characters_of_its_digest_and_the_log_still_verifies(tmp_path: Path) -> None:
    db, policy = f"sqlite:///{tmp_path / 'log.db'}", Policy.from_toml(DUNNING)
    agent = Agent(policy)
    with PostSale.open(db, agents=[agent], clock=ManualClock(NOON)) as ps:
        acme = ps.tenant("acme")
        acme.agent(agent).propose(reason="go")
        acme.record("cus_1", failed("evt_1", attempt=2))
        ps.run_once()
        assert [e.disposition for e in acme.decisions()] == ["awaiting"]
    where = ("--db", db, "--tenant", "acme")
    assert run("policy", "retire", "ffff", "--reason", "wrong", *where).code == 2
    assert run("policy", "retire", policy.digest[:8], *where).code == 2, "a reason is needed"
    assert run("policy", "retire", policy.digest[:8], "--reason", "wrong", *where, "--json").json()["settled"] == 1
    assert run("policy", "show", "active:dunning", *where).code == 2
    assert "0 open matters" in run("policy", "retire", policy.digest[:8], "--reason", "wrong", *where).out
    assert "retired: wrong" in run("decision", "explain", "last", *where).out
    assert run("decision", "replay", "last", *where).code == 0
    assert run("log", "verify", "--dispositions", *where[:2]).code == 0


def test_every_version_is_listed_with_what_was_said_of_it_last(tmp_path: Path) -> None:
    where = ("--db", f"sqlite:///{tmp_path / 'log.db'}", "--tenant", "acme")
    (tmp_path / "a.toml").write_text(DUNNING)
    (tmp_path / "b.toml").write_text(CHANGED)
    PostSale.open(where[1]).close()
    for file in "ab":
        assert run("policy", "activate", str(tmp_path / f"{file}.toml"), "--widens", "--reason", f"try {file}", *where).code == 0
    first, second = (Policy.from_toml(text).digest for text in (DUNNING, CHANGED))
    assert [(x["name"], x["digest"], x["status"], x["reason"]) for x in run("policy", "list", *where, "--json").json()] == [
        ("dunning", first, "replaced", "try a"),
        ("dunning", second, "active", "try b"),
    ]
    assert run("policy", "retire", second[:8], "--reason", "wrong", *where).code == 0
    shown = run("policy", "list", *where).out
    assert second[:12] in shown
    assert "retired" in shown
    assert "wrong" in shown


@pytest.mark.parametrize("name", ["renewal-rescue", "churn-outreach", "examples/custom_policy.toml", "examples/planner.toml"])
def test_what_is_shown_of_a_policy_is_not_wider_than_a_page(name: str) -> None:
    path = Path(__file__).resolve().parents[2] / name
    lines = run("policy", "show", str(path) if path.is_file() else name).out.splitlines()
    assert len(lines) > 10
    assert max(map(len, lines)) <= 100


def test_one_contact_is_one_contact(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(DUNNING.replace("count = 2", "count = 1"))
    assert "at most 1 contact in 30 days" in run("policy", "show", str(tmp_path / "a.toml")).out


def test_a_prompt_that_is_taken_for_a_policy_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(PROMPT)
    done = run("policy", "show", str(tmp_path / "a.toml"))
    assert done.code == 2
    assert "is a prompt, not a policy" in done.err
    assert "postsale prompt show" in done.err
