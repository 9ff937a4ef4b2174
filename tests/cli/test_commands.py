"""Every command: its help, its tables, its JSON, its exit status; who approves; what a damaged or missing database says."""

from __future__ import annotations

import json
import os
import pwd
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from postsale import PostSale
from postsale.agents.agent import package_version
from postsale.aggregates.signals import UsageObserved
from postsale.cli.commands import app
from postsale.cli.common import EXIT_CODES

from .support import Done, from_nothing, process, run

ME = pwd.getpwuid(os.getuid()).pw_name
AS_OF = "2026-09-29"


def commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(group, click.Group) and not hasattr(group, "commands"):
        return [path]
    return [path, *(c for name, sub in group.commands.items() for c in commands(sub, (*path, name)))]


COMMANDS = sorted(commands(typer.main.get_command(app)))


def test_the_commands_are_those_that_are_promised() -> None:
    """A command that disappears is noticed."""
    promised = """
        demo, ingest stripe, ingest cloudevents, ingest table, run, customer list, customer show, customer timeline, customer why,
        decision list, decision explain, decision replay, decision whatif, policy list, policy show, policy diff, policy activate, prompt list, prompt show, prompt diff, prompt activate, agent review, agent retire, undo plan, undo approve, undo run, undo status, approval list, approval approve, approval reject, projection status,
        quarantine list, quarantine retry, agent list, tool list, tool status, agent observe, agent propose, agent act, agent pause, agent resume,
        token issue, schemas check, schemas list, schemas write, log verify, log checkpoint, log key, log prove, log check-proof,
        log chapters, log archive, db migrate, snapshots drop, projection rebuild, projection diff, projection switch, projection retry,
        projection run, projection features, approval show, approval edit, approval escalate, approval escalations, approval delegate,
        report, authority list, authority grant, authority revoke, authority end, case list, case move, upcoming, backtest"""
    assert {tuple(c.split()) for c in re.split(r",\s+", promised.strip())} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "postsale")
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    """It says what it does; groups and the root state the exit codes."""
    done = run(*command, "--help", env={"COLUMNS": "200"})
    assert done.code == 0, done.err
    assert done.err == ""
    assert "Usage:" in done.out
    flat = re.sub(r"[\s│╭╮╰╯─]+", " ", done.out)
    assert len(flat) > 100
    if (*command, "list") in COMMANDS or not command:
        assert "Exit status: 0 done" in flat


# ---------------------------------------------------------------- reads


def first_decision(db: str, **with_: Any) -> dict[str, Any]:
    found = [d for d in run("decision", "list", "--json", "--db", db).json() if all(d[k] == v for k, v in with_.items())]
    return found[0]


def reads(customer: str, decision: str) -> list[tuple[str, ...]]:
    return [
        ("customer", "list"),
        ("customer", "list", "--at-risk", "--as-of", AS_OF),
        ("customer", "list", "--known-at", "2026-08-01", "--as-of", "2026-08-01T00:00:00+02:00"),
        ("customer", "show", customer),
        ("customer", "show", customer, "--as-of", AS_OF, "--known-at", AS_OF),
        ("customer", "timeline", customer, "--as-of", "2026-07-20"),
        ("customer", "why", customer, "--as-of", AS_OF),
        ("decision", "list"),
        ("decision", "list", customer),
        ("decision", "list", "--disposition", "suppressed", "--limit", "2"),
        ("decision", "list", "--known-at", "2026-07-15"),
        ("decision", "explain", decision),
        ("decision", "replay", decision),
        ("approval", "list"),
        ("approval", "show", decision),
        ("approval", "escalations"),
        ("authority", "list"),
        ("case", "list"),
        ("upcoming",),
        ("projection", "status"),
        ("projection", "features"),
        ("quarantine", "list"),
        ("agent", "list"),
        ("tool", "list"),
        ("tool", "status"),
        ("tool", "status", "--known-at", "2026-07-15"),
        ("log", "verify"),
    ]


@pytest.mark.parametrize("index", range(len(reads("", ""))))
def test_every_read_gives_a_table_for_people_and_json_for_programs(index: int, demo: tuple[Path, dict[str, Any]]) -> None:
    folder, story = demo
    db = f"sqlite:///{folder / 'demo.db'}"
    command = reads(story["example_customer"], story["explained"]["id"][:8])[index]
    as_json = run(*command, "--json", "--db", db)
    assert (as_json.code, as_json.err) == (0, "")
    json.dumps(as_json.json(), allow_nan=False)
    people = run(*command, env={"POSTSALE_DB": db, "POSTSALE_TENANT": "acme", "COLUMNS": "200"})
    assert (people.code, people.err) == (0, "")
    assert people.out.strip()
    assert not people.out.lstrip().startswith(("{", "["))
    assert "Traceback" not in people.out


@pytest.mark.parametrize("command", [("decision", "list"), ("customer", "timeline"), ("customer", "why"), ("customer", "list")])
def test_in_80_columns_no_date_is_cut_no_row_wraps_and_nothing_is_lost(command: tuple[str, ...], demo: tuple[Path, dict[str, Any]]) -> None:
    folder, story = demo
    who = () if command[1] == "list" else (story["example_customer"],)
    where = ("--db", f"sqlite:///{folder / 'demo.db'}", "--as-of", AS_OF, "--known-at", AS_OF)
    narrow, wide = (process(*command, *who, *where, COLUMNS=width) for width in ("80", "200"))
    assert (narrow.code, narrow.err) == (0, "")
    assert Counter("".join(narrow.out.split())) == Counter("".join(wide.out.split()))
    dates = re.compile(r"\b\d{4}-\d\d-\d\d\b")
    assert len(dates.findall(narrow.out)) == len(dates.findall(wide.out))
    _, found, rows = narrow.out.partition("position  event" if command[1] == "why" else "\n")
    assert found
    assert max(len(line) for line in rows.splitlines()[1:] if not line.startswith(("→", "…"))) <= 80


def test_a_title_is_not_cut_to_the_width_of_its_table(tmp_path: Path) -> None:
    name = "a-customer-with-an-identifier-that-is-longer-than-the-table-below-it-is-wide-by-far"
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with PostSale.open(url) as ps:
        ps.tenant("acme").record(name, UsageObserved(source="app", id="1", occurred_at=datetime(2026, 1, 1, tzinfo=UTC), feature="export"))
    assert f"Timeline of {name}" in process("customer", "timeline", name, "--db", url, COLUMNS="60").out


def test_an_event_of_a_timeline_is_proved_by_the_id_that_the_timeline_gives(db: str) -> None:
    with PostSale.open(db) as ps:
        customer = ps.tenant("acme").customers()[0].name
    assert run("log", "checkpoint", "--db", db).code == 0
    event = run("customer", "timeline", customer, "--db", db, "--json").json()[0]
    assert run("log", "prove", event["id"], "--db", db).out == run("log", "prove", str(event["position"]), "--db", db).out


def test_dates_of_the_command_line_are_ends_of_days_and_times_have_zones(demo: tuple[Path, dict[str, Any]]) -> None:
    """A date means its last microsecond in UTC; a time without a zone is refused; the last day of the calendar is a day."""
    folder, story = demo
    db = f"sqlite:///{folder / 'demo.db'}"
    why = ("customer", "why", story["example_customer"], "--json", "--db", db, "--as-of")
    assert run(*why, "2026-09-01").json()["as_of"] == "2026-09-01T23:59:59.999999Z"
    assert run(*why, "2026-09-01T12:00:00+02:00").json()["as_of"] == "2026-09-01T10:00:00.000000Z"
    assert run(*why, "9999-12-31").code == 0
    for bad in ("2026-09-01T12:00:00", "yesterday", "2026-13-01", "", "0000-00-00"):
        done = run(*why, bad)
        assert (done.code, done.out) == (2, ""), bad


# ---------------------------------------------------------------- exit status


def test_exit_0_and_1_verify(db: str) -> None:
    """A sound log is 0. One flipped byte of one stored event is 1 and the event's position is named."""
    assert run("log", "verify", "--db", db).code == 0
    path = Path(db.removeprefix("sqlite:///"))
    raw = bytearray(path.read_bytes())
    at = raw.find(b'"amount_minor":')
    raw[at + len(b'"amount_minor":')] ^= 1
    path.write_bytes(bytes(raw))
    done = run("log", "verify", "--json", "--db", db)
    assert done.code == 1
    ((position, reason),) = [tuple(p.values()) if isinstance(p, dict) else tuple(p) for p in done.json()["problems"]]
    table = run("log", "verify", "--db", db)
    assert table.code == 1
    assert str(position) in table.out
    assert reason


def test_exit_1_a_decision_that_was_altered_does_not_replay(db: str) -> None:
    from tests.app.support import execute
    from tests.app.test_promises import triggers_of

    decision = first_decision(db)
    path = Path(db.removeprefix("sqlite:///"))
    execute(
        path,
        *(f"DROP TRIGGER {name}" for name in triggers_of(path)),
        'UPDATE events SET data = CAST(replace(CAST(data AS TEXT), \'"rationale":"\', \'"rationale":"Not \') AS BLOB)',
    )
    done = run("decision", "replay", decision["id"], "--db", db)
    assert (done.code, done.out) == (1, "")
    assert "ReplayDiverged" in done.err
    assert "rationale" in done.err


BAD_INPUT: list[tuple[str, ...]] = [
    ("customer", "list", "--as-of", "tomorrow"),
    ("customer", "list", "--tenant", "NoSuch!"),
    ("customer", "list", "--limit", "0"),
    ("customer", "list", "--no-such-option"),
    ("customer",),
    ("run", "--simulate"),
    ("customer", "list", "--tenant", "nope"),
    ("decision", "list", "--disposition", "nonsense"),
    ("run", "--as-of", AS_OF),
    ("run", "--simulate", "--as-of", AS_OF, "--mode", "obey"),
    ("run", "--agent", "nobody"),
    ("run", "--agent", "no_such_module:Agent"),
    ("agent", "act", "nobody", "--reason", "r"),
    ("agent", "act", "renewal-rescue", "--reason", " "),
    ("agent", "act", "renewal-rescue"),
    ("approval", "reject", "x"),
    ("quarantine", "retry", "0000"),
    ("token", "issue", ""),
    ("ingest", "table", "no-such-file.csv", "--mapping", "no-such-mapping.toml"),
]


@pytest.mark.parametrize("command", BAD_INPUT, ids=" ".join)
def test_exit_2_bad_input(command: tuple[str, ...], demo: tuple[Path, dict[str, Any]]) -> None:
    """Standard output stays empty, so that a program never reads half an answer."""
    done = run(*command, env={"POSTSALE_DB": f"sqlite:///{demo[0] / 'demo.db'}"})
    assert done.code == 2, done
    assert "Traceback" not in done.err


def test_exit_2_several_tenants_must_be_named(db: str, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text(event("1"))
    assert run("ingest", "cloudevents", str(file), "--tenant", "second", "--db", db).code == 0
    done = run("customer", "list", "--db", db)
    assert done.code == 2
    assert "acme, second" in done.err
    assert run("customer", "list", "--db", db, "--tenant", "second").code == 0


def test_exit_3_refused(db: str) -> None:
    """An approval that was used, and a token that is not known."""
    waiting = run("approval", "list", "--json", "--db", db).json()
    used = first_decision(db, disposition="acted")["id"]
    for id_ in (used, *(w["id"] for w in waiting[:1])):
        done = run("approval", "approve", id_, "--db", db, env={"POSTSALE_TOKEN": "pst_forged"})
        assert done.code == 3
        assert "pst_forged" not in done.err
    assert run("approval", "approve", used, "--db", db).code == 3
    assert run("approval", "reject", used, "--reason", "r", "--db", db).code == 3


def test_exit_4_not_found(db: str) -> None:
    for command in (
        ("customer", "show", "cus_unheard_of"),
        ("customer", "why", "cus_unheard_of"),
        ("customer", "timeline", "cus_unheard_of"),
        ("decision", "list", "cus_unheard_of"),
        ("decision", "explain", "ffffffff-ffff"),
        ("decision", "replay", "zzz"),
        ("approval", "approve", "ffffffff-ffff"),
        ("approval", "reject", "ffffffff-ffff", "--reason", "r"),
    ):
        done = run(*command, "--db", db)
        assert (done.code, done.out) == (4, ""), command
        assert "Traceback" not in done.err


def test_exit_5_a_missing_database_says_how_to_make_one_and_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    for command in (("customer", "list"), ("run",), ("log", "verify"), ("token", "issue", "anna"), ("agent", "list")):
        done = run(*command, "--db", f"sqlite:///{path}")
        assert (done.code, done.out) == (5, ""), command
        assert "no such database" in done.err
    assert list(tmp_path.iterdir()) == []


def test_exit_5_keys_that_are_missing_or_open_to_others(db: str) -> None:
    """A key file that others may read is refused with the way to mend it; a missing one is never replaced."""
    keys = Path(db.removeprefix("sqlite:///")).with_suffix(".keys")
    keys.chmod(0o644)
    done = run("customer", "list", "--db", db)
    assert done.code == 5
    assert "chmod 600" in done.err
    keys.unlink()
    missing = run("customer", "list", "--db", db)
    assert missing.code == 5
    assert "POSTSALE_KEYS" in missing.err
    assert not keys.exists()
    assert run("log", "verify", "--db", db).code == 0  # whoever has only the log can verify it


def test_exit_5_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, but quite long " * 100)
    done = run("customer", "list", "--db", f"sqlite:///{tmp_path / 'notes.db'}")
    assert done.code == 5
    assert (tmp_path / "notes.db").read_text().startswith("not a database")


def test_every_documented_exit_status_is_one_of_these_tests() -> None:
    assert re.findall(r"(\d) [a-z]", EXIT_CODES.splitlines()[0]) == ["0", "1", "2", "3", "4", "5"]


# ---------------------------------------------------------------- who acts


def waiting(db: str) -> str:
    """A decision that waits for a person, made to wait by proposing again."""
    found = run("approval", "list", "--json", "--db", db).json()
    assert found, "the demo left nothing waiting"
    return str(found[0]["id"])


@pytest.fixture
def proposed(tmp_path: Path) -> str:
    """A database in which one proposal of a policy file waits, made moments ago."""
    from datetime import UTC, datetime

    from postsale import PostSale
    from postsale.agents import Agent, Policy
    from tests.app.support import failed

    url = f"sqlite:///{tmp_path / 'proposed.db'}"
    example = Path(__file__).resolve().parents[2] / "examples" / "custom_policy.toml"
    with PostSale.open(url, agents=[Agent(Policy.load(example))]) as ps:
        acme = ps.tenant("acme")
        acme.agent("kind-words").propose(reason="test")
        acme.record("cus_42", failed("f", datetime.now(UTC), attempt=3))
        ps.run_once()
        assert len(acme.approvals()) == 1
    return url


def test_the_approver_is_the_operating_systems_user_whatever_the_environment_says(proposed: str) -> None:
    """A real process with lying USER, LOGNAME and HOME."""
    lies = {"USER": "mallory", "LOGNAME": "mallory", "LNAME": "mallory", "USERNAME": "mallory", "SUDO_USER": "mallory"}
    id_ = waiting(proposed)
    done = process("approval", "approve", id_, "--json", "--db", proposed, **lies)
    assert done.code == 0, done.err
    assert done.json() == {"decision_id": id_, "result": "approved", "by": ME}
    assert run("decision", "explain", id_, "--json", "--db", proposed).json()["approver"] == ME
    again = process("approval", "approve", id_, "--db", proposed, **lies)
    assert again.code == 3


def test_a_token_acts_as_its_owner(proposed: str) -> None:
    issued = run("token", "issue", "dora", "--json", "--db", proposed).json()
    assert issued["login"] == "dora"
    id_ = waiting(proposed)
    done = run("approval", "approve", id_[:13], "--reason", "fine", "--json", "--db", proposed, env={"POSTSALE_TOKEN": issued["token"]})
    assert done.json()["by"] == "dora"
    report = run("run", "--agent", str(Path(__file__).resolve().parents[2] / "examples" / "custom_policy.toml"), "--json", "--db", proposed)
    assert report.json()["counts"]["called"] == 1
    explained = run("decision", "explain", id_, "--json", "--db", proposed).json()
    assert (explained["approver"], explained["effects"][0]["status"]) == ("dora", "succeeded")


def test_a_rejection_says_who_and_why(proposed: str) -> None:
    id_ = waiting(proposed)
    done = run("approval", "reject", id_, "--reason", "not now", "--db", proposed)
    assert done.code == 0
    assert ME in done.out
    entry = run("decision", "explain", id_, "--json", "--db", proposed).json()
    assert (entry["disposition"], entry["suppressed_by"], entry["approver"]) == ("suppressed", "approval:rejected", ME)


def test_agents_are_stepped_paused_and_resumed(db: str) -> None:
    """Each prints where it stands now and who said so; the list agrees."""
    for step, mode, paused in (("observe", "observe", False), ("act", "act", False), ("pause", "act", True), ("resume", "act", False)):
        done = run("agent", step, "renewal-rescue", "--reason", "test", "--json", "--db", db)
        assert done.json() == {"agent": "renewal-rescue", "mode": mode, "paused": paused, "retired": False, "by": ME}
        assert {"agent": "renewal-rescue", "mode": mode, "paused": paused, "retired": False} in run(
            "agent", "list", "--json", "--db", db
        ).json()
    assert run("agent", "pause", "all", "--reason", "stop", "--db", db).code == 0
    assert run("agent", "list", "--json", "--db", db).json()[0]["paused"]


# ---------------------------------------------------------------- demo


def _told(story: dict[str, Any]) -> str:
    """A story without what is random by design: references, and ids and digests that are made from them, salts or keys."""
    text = json.dumps({k: v for k, v in story.items() if k not in ("db", "report_file")}, sort_keys=True)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID", text)
    return re.sub(r"[0-9a-f]{32,64}", "HEX", text)


def test_the_same_seed_tells_the_same_story(tmp_path: Path) -> None:
    """Only random references, what is derived from them, and the database's place differ; another seed tells another story."""
    one, again, other = (
        run("demo", "--json", "--customers", "8", "--days", "40", "--seed", seed, "--folder", str(tmp_path / str(no))).json()
        for no, seed in enumerate(("3", "3", "4"))
    )
    assert _told(one) == _told(again)
    assert one["tampering"]["problems"]
    assert _told(other) != _told(one)
    pages = [re.sub(r"[0-9a-f]{64}|explain [0-9a-f]{8}", "RANDOM", (tmp_path / str(no) / "demo.html").read_text()) for no in range(3)]
    assert pages[0] == pages[1], "to the byte, but for the root of the log and the ids of decisions"
    assert pages[0] != pages[2]


def test_the_demo_removes_nothing_but_its_own_files(tmp_path: Path) -> None:
    """In a folder that has other things in it, twice, as tables."""
    (tmp_path / "thesis.txt").write_text("three years of work")
    (tmp_path / "tampered.db").write_text("somebody's")
    for _ in range(2):
        done = run("demo", "--customers", "5", "--days", "30", "--folder", str(tmp_path))
        assert done.code == 0
        assert "found at position" in done.out
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("demo.")) == ["tampered.db", "thesis.txt"]
    assert (tmp_path / "tampered.db").read_text() == "somebody's"


# ---------------------------------------------------------------- ingest and quarantine


def event(id: str, **over: Any) -> str:
    body: dict[str, Any] = {"specversion": "1.0", "type": "billing/invoice-paid", "source": "shop", "id": id, "subject": "cus_1"}
    body |= {"time": "2026-03-01T12:00:00Z", "data": {"amount_minor": 100, "currency": "EUR"}} | over
    return json.dumps(body) + "\n"


MAPPING = """
name = "sales"
source = "shop"
format = "csv"
time_zone = "UTC"
customer = "customer"

[[signal]]
kind = "billing/invoice-paid"
id = ["order"]
occurred_at = { column = "day", format = "%Y-%m-%d" }

[signal.fields]
amount_minor = { column = "amount", type = "money", currency = "EUR" }
currency = { value = "EUR" }
"""


def ingest(*argv: str, db: str) -> dict[str, Any]:
    done = run("ingest", *argv, "--json", "--db", db)
    assert done.code == 0, done.err
    report: dict[str, Any] = done.json()
    assert report["recorded"] + report["duplicates"] + report["quarantined"] + report["ignored"] == report["items"]
    return report


def told(report: dict[str, Any]) -> tuple[int, ...]:
    return tuple(report[k] for k in ("recorded", "duplicates", "quarantined", "ignored"))


def test_cloudevents_are_ingested_counted_and_refused_with_reasons(tmp_path: Path) -> None:
    """A good one, a doubled one, one of an unknown kind, one with other content, one of the future, one that is no JSON."""
    db, file = f"sqlite:///{tmp_path / 'log.db'}", tmp_path / "events.ndjson"
    lines = [
        event("1"),
        event("1"),
        event("2", type="nobody/knows"),
        event("1", subject="cus_2"),
        event("3", time="2254-01-01T00:00:00Z"),
        "{broken\n",
    ]
    file.write_text("".join(lines))
    report = ingest("cloudevents", str(file), db=db)
    assert told(report) == (1, 1, 4, 0)
    waits = run("quarantine", "list", "--json", "--db", db).json()
    assert len(waits) == 4  # what is counted as quarantined is there
    reasons = " ".join(w["reason"] for w in waits)
    for word in ("nobody/knows is not a registered kind", "other content", "occurred_at", "JSON"):
        assert word in reasons
    assert told(ingest("cloudevents", str(file), db=db)) == (0, 2, 4, 0)
    assert len(run("quarantine", "list", "--json", "--db", db).json()) == 4
    table = run("ingest", "cloudevents", str(file), "--db", db)
    assert "quarantined 4" in table.out
    assert run("quarantine", "retry", "--all", "--json", "--db", db).json() == {"tried": 4, "recorded": 0, "still waiting": 4}


def test_a_table_is_ingested_and_a_corrected_mapping_gets_its_rows_out_of_quarantine(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path / 'log.db'}"
    (tmp_path / "sales.csv").write_text("order,customer,day,amount\n1,ann,2026-02-01,12.50\n2,ann,2026-02-02,7\n3,bob,02.02.2026,9.99\n")
    mapping, better = tmp_path / "sales.toml", tmp_path / "better.toml"
    mapping.write_text(MAPPING)
    better.write_text(MAPPING.replace("%Y-%m-%d", "%d.%m.%Y"))
    args = ("table", str(tmp_path / "sales.csv"), "--mapping", str(mapping))
    assert told(ingest(*args, db=db)) == (2, 0, 1, 0)
    assert told(ingest(*args, db=db)) == (0, 2, 1, 0)
    (item,) = run("quarantine", "list", "--json", "--db", db).json()
    retry = ("quarantine", "retry", item["id"][:12], "--json", "--db", db)
    assert run(*retry).json() == {"tried": 1, "recorded": 0, "still waiting": 1}
    assert run(*retry, "--mapping", str(better)).json() == {"tried": 1, "recorded": 1, "still waiting": 0}
    assert run("quarantine", "list", "--json", "--db", db).json() == []
    (bob,) = [c for c in run("customer", "list", "--json", "--db", db).json() if c["customer"] == "bob"]
    assert bob["score"] is not None
    timeline = run("customer", "timeline", "bob", "--json", "--db", db).json()
    assert [e["data"] for e in timeline] == [{"amount_minor": 999, "currency": "EUR"}]


def test_stripe_envelopes_are_ingested(tmp_path: Path) -> None:
    """A payment and its repetition, and an event about something else."""
    db, file = f"sqlite:///{tmp_path / 'log.db'}", tmp_path / "events.json"
    invoice = {"object": "invoice", "id": "in_1", "customer": "cus_9", "amount_paid": 4900, "currency": "eur", "status": "paid"}
    paid = {
        "id": "evt_1",
        "object": "event",
        "created": 1_770_000_000,
        "type": "invoice.paid",
        "livemode": True,
        "data": {"object": invoice},
    }
    other = paid | {"id": "evt_2", "type": "account.updated", "data": {"object": {"object": "account", "id": "acct_1"}}}
    file.write_text(json.dumps([paid, paid | {"pending_webhooks": 3}, other]))
    report = ingest("stripe", str(file), db=db)
    assert told(report) == (1, 1, 0, 1)
    assert list(report["ignored_reasons"].values()) == [1]
    shown = run("customer", "show", "cus_9", "--json", "--db", db).json()
    assert shown["state"]["facts"]["billing/invoice-paid"]["latest"]["amount_minor"] == 4900


def test_a_retired_agent_is_named_as_such_when_it_is_to_run(db: str) -> None:
    assert run("agent", "retire", "churn-outreach", "--reason", "done", "--db", db).code == 0
    done = run("run", "--agent", "churn-outreach", "--db", db)
    assert done.code == 2
    assert "churn-outreach is retired, for good" in done.err
    assert "postsale agent list" in done.err
    assert run("run", "--agent", "renewal-rescue", "--db", db).code == 0


def test_an_import_is_followed_by_no_decision(tmp_path: Path) -> None:
    db, file = f"sqlite:///{tmp_path / 'log.db'}", tmp_path / "events.ndjson"
    file.write_text(event("1", type="billing/invoice-payment-failed", data={"amount_minor": 100, "currency": "EUR", "attempt": 3}))
    assert ingest("cloudevents", str(file), db=db)["recorded"] == 1
    run("agent", "act", "renewal-rescue", "--reason", "test", "--db", db)
    assert run("run", "--json", "--db", db).json()["counts"]["raised"] == 0


def test_a_whole_session_in_processes_that_start_from_nothing(tmp_path: Path) -> None:
    """Ingest, look, simulate, explain: each a process of its own that finds the database by the environment."""
    db, file = f"sqlite:///{tmp_path / 'log.db'}", tmp_path / "events.ndjson"
    file.write_text("".join(event(f"{n}", time=f"2025-{n:02}-01T12:00:00Z") for n in range(1, 7)))
    steps: list[tuple[str, ...]] = [
        ("ingest", "cloudevents", str(file)),
        ("run", "--simulate", "--as-of", "2025-10-15", "--agent", "churn-outreach", "--json"),
    ]
    done: list[Done] = [from_nothing(*step, POSTSALE_DB=db) for step in steps]
    assert [d.code for d in done] == [0, 0], done
    simulated = done[1].json()
    assert simulated["counts"]["decided"] >= 1
    assert simulated["db"] != db
    (decision, *_) = run("decision", "list", "--json", "--db", simulated["db"]).json()
    explained = from_nothing("decision", "explain", decision["id"], POSTSALE_DB=simulated["db"])
    assert "churn-outreach" in explained.out
    assert run("decision", "list", "--json", "--db", db).json() == []


def test_markup_in_the_data_is_shown_and_neither_styles_nor_breaks_the_output(tmp_path: Path) -> None:
    """Ids and errors with square brackets, as in an extra's name."""
    from postsale import PostSale
    from tests.app.support import failed, opened

    with opened(tmp_path) as ps:
        assert isinstance(ps, PostSale)
        acme = ps.tenant("acme")
        acme.record("[/]", failed("[red]x[/red]"))
        acme.consent("[/]", "[/]", "[bold]", evidence="[/]")
    db = f"sqlite:///{tmp_path / 'log.db'}"
    for command in (("customer", "list"), ("customer", "show", "[/]"), ("customer", "timeline", "[/]"), ("customer", "why", "[/]")):
        done = run(*command, "--db", db)
        assert done.code == 0, (command, done.err)
    assert "[/]" in run("customer", "list", "--db", db).out
    assert "[bold]" in run("customer", "show", "[/]", "--db", db).out


def test_a_file_of_which_nothing_could_be_read_is_a_failure_for_scripts(tmp_path: Path) -> None:
    """Everything in quarantine is not a success; something recorded beside something refused is one."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    bad, mixed = tmp_path / "bad.ndjson", tmp_path / "mixed.ndjson"
    bad.write_text("nothing of the kind\n")
    mixed.write_text(event("1") + "\nnothing of the kind\n")
    assert run("ingest", "cloudevents", str(bad), "--db", url).code == 1
    assert run("ingest", "cloudevents", str(mixed), "--db", url).code == 0


def test_the_version_is_printed() -> None:
    done = run("--version")
    assert (done.code, done.out.strip()) == (0, package_version())


def test_a_mode_can_be_set_before_the_first_signal(tmp_path: Path) -> None:
    """Whoever installs an agent need not wait for data; a read of a tenant that is not there is still an error."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    (tmp_path / "e.ndjson").write_text(event("1"))
    assert run("ingest", "cloudevents", str(tmp_path / "e.ndjson"), "--tenant", "acme", "--db", url).code == 0
    assert run("agent", "observe", "renewal-rescue", "--reason", "first", "--tenant", "new", "--db", url).code == 0
    assert run("customer", "list", "--tenant", "nope", "--db", url).code == 2


def test_dropped_snapshots_change_no_answer(tmp_path: Path) -> None:
    """A customer with a long past has one after it was looked at; dropped, it is made again at the next look."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    at = datetime(2026, 3, 2, tzinfo=UTC)
    with PostSale.open(url) as ps:
        for tenant, facts in (("acme", 300), ("globex", 3)):
            signals = [UsageObserved(source="app", id=f"u{n}", occurred_at=at, feature="export") for n in range(facts)]
            ps.tenant(tenant).record_many([("cus_1", signal) for signal in signals])
    show = ("customer", "show", "cus_1", "--db", url, "--tenant", "acme", "--json")
    first = run(*show).json()["state"]
    for _ in range(2):
        assert run("snapshots", "drop", "--db", url, "--json").json() == {"acme": 1, "globex": 0}
        assert run("snapshots", "drop", "--db", url, "--json", "--tenant", "acme").json() == {"acme": 0}
        assert run(*show).json()["state"] == first
    assert "acme 1" in run("snapshots", "drop", "--db", url).out
    assert run("snapshots", "drop", "--db", url, "--tenant", "nobody").code == 2


def test_a_run_without_an_agent_says_how_to_name_one(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path}/nobody.db"
    with PostSale.open(db) as ps:
        ps.tenant("acme").record("cus_1", UsageObserved(source="app", id="1", occurred_at=datetime(2026, 5, 4, tzinfo=UTC), feature="x"))
    assert "--agent renewal-rescue" in run("run", "--db", db).out
    assert "No agent had anything to decide." in run("run", "--agent", "renewal-rescue", "--db", db).out
