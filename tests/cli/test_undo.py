"""`postsale undo`: planned as a tree, approved by name of the plan, carried out once, shown in `decision explain`."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest import mock

import pytest

from postsale import PostSale
from postsale.agents import Agent, Policy
from postsale.cli import common
from postsale.cli.undo import _print
from postsale.events import ManualClock
from tests.agents.world import DUNNING, NOON
from tests.app.support import failed
from tests.cli.support import run


@pytest.fixture
def where(tmp_path: Path) -> tuple[str, ...]:
    """A log in which an agent made a task for each of two customers."""
    url = f"sqlite:///{tmp_path}/log.db"
    agent = Agent(Policy.from_toml(DUNNING))
    with PostSale.open(url, agents=[agent], clock=ManualClock(NOON)) as ps:
        acme = ps.tenant("acme")
        acme.agent(agent).act(reason="go")
        for n in (1, 2):
            acme.record(f"cus_{n}", failed(f"evt_{n}", attempt=2))
        ps.run_once()
    return ("--db", url, "--tenant", "acme")


def policy_of(where: tuple[str, ...]) -> str:
    policy: str = run("decision", "explain", "last", *where, "--json").json()["policy"]["digest"]
    return policy


def test_planned_approved_run_and_explained(where: tuple[str, ...]) -> None:
    policy = policy_of(where)
    plan = run("undo", "plan", "--policy", policy[:10], *where)
    assert plan.code == 0
    assert "2 customers: 2 to take back" in plan.out
    assert "dunning did task for cus_1" in plan.out
    assert "Nothing is recorded yet" in plan.out
    assert run("undo", "status", *where, "--json").json() == []
    proposed = run("undo", "plan", "--policy", policy, "--propose", *where, "--json").json()
    digest = proposed["digest"]
    assert (proposed["counts"]["undo"], len(proposed["items"])) == (2, 2)
    assert run("undo", "run", digest[:12], *where).code == 3
    assert run("undo", "approve", digest[:12], "--reason", "wrong", *where, "--json").json()["status"] == "approved"
    done = run("undo", "run", digest[:12], *where)
    assert done.code == 0
    assert done.out.count("undone") == 2
    again = run("undo", "run", digest[:12], *where, "--json").json()
    assert again["finished"] == {"undone": 2, "cancelled": 0, "failed": 0}
    assert "finished" in run("undo", "status", *where).out
    assert run("undo", "status", digest[:6], *where, "--json").json()["items"][0]["status"] == "undone"
    assert "succeeded, taken back" in run("decision", "explain", "last", *where).out
    assert list(run("decision", "explain", "last", *where, "--json").json()["undone"].values()) == ["succeeded"]
    assert run("undo", "plan", "--policy", policy, "--propose", *where).code == 3


def test_by_decision_and_by_tool(where: tuple[str, ...]) -> None:
    last = run("decision", "list", *where, "--json").json()[-1]["id"]
    assert run("undo", "plan", "--decision", last[:8], *where, "--json").json()["counts"]["undo"] == 1
    assert run("undo", "plan", "--tool", "crm.create_task@1", *where, "--json").json()["counts"]["undo"] == 2


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("plan",), 2),
        (("plan", "--policy", "zz"), 2),
        (("plan", "--decision", "00000000"), 4),
        (("plan", "--decision", "00000000", "--tool", "x@1"), 4),
        (("plan", "--tool", "crm.create_task@1", "--policy", "00"), 2),
        (("plan", "--tool", "crm.create_task@1", "--tools", "nonsense"), 2),
        (("approve", "00", "--reason", "x"), 2),
        (("run", "00"), 2),
        (("status", "00"), 2),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_status(where: tuple[str, ...], argv: tuple[str, ...], code: int) -> None:
    assert run("undo", *argv, *where).code == code


def test_a_plan_that_the_log_overtook_is_refused(where: tuple[str, ...]) -> None:
    digest = run("undo", "plan", "--tool", "crm.create_task@1", "--propose", *where, "--json").json()["digest"]
    with PostSale.open(where[1], agents=[Agent(Policy.from_toml(DUNNING))], clock=ManualClock(NOON)) as ps:
        ps.tenant("acme").record("cus_3", failed("evt_3", attempt=2))
        ps.run_once()
    refused = run("undo", "approve", digest[:12], "--reason", "x", *where)
    assert (refused.code, "the log moved" in refused.err) == (3, True)


def test_what_is_known_is_not_settled_and_a_decision_is_set_aside(where: tuple[str, ...]) -> None:
    last = run("decision", "explain", "last", *where, "--json").json()
    effect = last["effects"][0]["idempotency_key"]
    settled = run("decision", "settle", last["id"], effect, "--happened", "--reason", "looked", *where)
    assert settled.code == 2
    assert "not waiting for somebody to look" in settled.err
    assert run("decision", "settle", "00000000", effect, "--happened", "--reason", "looked", *where).code == 4
    aside = run("decision", "override", last["id"][:8], "--reason", "by mistake", *where, "--json")
    assert (aside.code, aside.json()["result"]) == (0, "set aside")
    assert run("decision", "explain", "last", *where, "--json").json()["disposition"] == "suppressed"


def test_what_nobody_knows_says_what_to_type(where: tuple[str, ...]) -> None:
    """An undo whose effect's outcome is unknown: the order and its effect are there to be typed."""
    digest = run("undo", "plan", "--tool", "crm.create_task@1", "--propose", *where, "--json").json()["digest"]
    run("undo", "approve", digest[:12], "--reason", "wrong", *where)
    run("undo", "run", digest[:12], *where)
    with PostSale.open(where[1]) as ps:
        (undo,) = ps.tenant("acme").undos.list()
        item = undo.items[0].item
        told = run("undo", "status", digest[:12], *where, "--json").json()["items"][0]
        assert (told["order"], told["order_effect"]) == (str(item.order_id), str(item.undo_id))
        lost = replace(undo, items=(replace(undo.items[0], status="unknown"),))
        with redirect_stdout(StringIO()) as out, mock.patch.object(common.out, "_width", 300):
            _print(ps.tenant("acme"), lost)
    line = next(line for line in out.getvalue().splitlines() if "decision settle" in line)
    settled = run(*line.partition("postsale ")[2].partition(" --happened")[0].split(), "--happened", "--reason", "looked", *where)
    assert "not waiting for somebody to look" in settled.err  # the ids are those of the order: it is known what became of it
