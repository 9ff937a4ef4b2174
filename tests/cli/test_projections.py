"""`postsale projection …`: a version is built, compared, put live and taken back from the command line; a service keeps views until SIGTERM."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from postsale import PostSale
from postsale.aggregates.signals import InvoicePaid
from tests.nursery import Fork

from .support import process, run

RELEASE = """
from postsale.aggregates.signals import InvoicePaid, TicketOpened
from postsale.projections import Component, Features, HealthModel, count, days


def _paid(v):
    return min(100, v["paid"]) * 1_000_000


class Health(Features, version={version}, owner="tests"{more}):
    paid = count(InvoicePaid, window=days({window}))
    tickets = count(TicketOpened, unit="tickets")


MODEL = HealthModel("health", {version}, Health, (Component("paid", 1, _paid),))
NO_MODEL = 7
"""


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two modules of a user's own in the current folder."""
    names = []
    for version, window, more in ((1, 400, ""), (2, 30, ', deprecated={"paid": "read `settled`"}')):
        name = f"release_{uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(RELEASE.format(version=version, window=window, more=more))
        names.append(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return names[0], names[1]


def test_a_new_version_is_built_compared_put_live_and_taken_back(db: str, releases: tuple[str, str]) -> None:
    """Each command says what to type next."""
    old, new = ({"POSTSALE_DB": db, "POSTSALE_HEALTH": f"{name}:MODEL"} for name in releases)
    assert run("projection", "switch", "--reason", "first", env=old).code == 0
    assert run("run", env=old).code == 0
    too_early = run("projection", "diff", f"{releases[0]}:Health", env=new)
    assert (too_early.code, "was never folded" in too_early.out) == (1, True)
    assert run("projection", "diff", f"{releases[0]}:Health", "--json", env=new).code == 1
    built = run("projection", "rebuild", "--json", env=new).json()
    assert built["serves"]
    assert built["to_position"] == built["target"] > 0
    row = run("projection", "status", "--json", env=new).json()[0]
    assert re.fullmatch(r"Health\.v2\.\w+~1", row["projection"])
    assert (row["version"], row["live"], row["live_version"]) == (2, False, 1)
    assert "no: vers" in run("projection", "status", env=new).out
    differs = run("projection", "diff", f"{releases[0]}:Health", env=new)
    assert differs.code == 1
    assert "Features that differ" in differs.out
    assert "paid" in differs.out
    as_json = run("projection", "diff", f"{releases[0]}:MODEL", f"{releases[1]}:Health", "--samples", "1", "--json", env=new)
    assert (as_json.code, list(as_json.json()["features"])) == (1, ["paid"])
    assert len(as_json.json()["features"]["paid"]["samples"]) == 1
    assert run("projection", "diff", f"{releases[1]}:Health", env=new).code == 0
    missing = run("projection", "diff", env=new)
    assert (missing.code, "postsale projection diff module:OLD" in missing.err) == (2, True)
    assert run("projection", "switch", env=new).code == 2  # without a reason
    switched = run("projection", "switch", "--reason", "seen", env=new)
    assert "version 2 is live" in switched.out
    assert run("projection", "status", "--json", env=old).json()[0]["live"] is False
    back = run("projection", "switch", "--back", "--reason", "no", "--json", env=new).json()
    assert (back["declared"]["version"], back["previous"]["version"], back["reason"]) == (1, 2, "no")
    assert run("projection", "status", "--json", env=old).json()[0]["live"] is True


def test_views_of_versions_before_the_last_two_go_and_the_table_says_why_others_stay(
    db: str, releases: tuple[str, str], tmp_path: Path
) -> None:
    third = f"release_{uuid4().hex}"
    (tmp_path / f"{third}.py").write_text(RELEASE.format(version=3, window=10, more=""))
    every = [{"POSTSALE_DB": db, "POSTSALE_HEALTH": f"{name}:MODEL"} for name in (*releases, third)]
    for n, env in enumerate(every):
        assert run("projection", "switch", "--reason", f"{n}", env=env).code == 0
    said = run("projection", "prune", "--dry-run", env=every[2])
    assert "would go" in said.out
    assert "postsale projection prune" in said.out
    for rows in (run("projection", "prune", flag, "--json", env=every[2]).json() for flag in ("--dry-run", "--json")):
        assert [(row["version"], row["kept"]) for row in rows] == [(1, None), (2, "a switch back leads to it"), (3, "it is live")]
    assert "dropped" not in (left := run("projection", "prune", env=every[2])).out
    assert "a switch back" in left.out
    assert run("projection", "switch", "--back", "--reason", "no", env=every[2]).code == 0


def test_an_agent_of_a_release_that_is_not_live_is_refused_with_its_own_exit_status(
    db: str, releases: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(
        """name = "mine"\nversion = 1\nowner = "cs"\ndescription = "d"\n[inputs]\nhealth = "integer"\n"""
        """[[trigger]]\nid = "low"\nwhen = { health = "< 1" }\n[[rule]]\nid = "note"\nwhen = { health = "< 1" }\naction = "none"\n"""
        """because = "low"\n[guardrails]\npurpose = "service"\n[outcome]\non = ["billing/invoice-paid"]\nwithin_days = 9\n"""
    )
    old, new = ({"POSTSALE_DB": db, "POSTSALE_HEALTH": f"{name}:MODEL"} for name in releases)
    assert run("projection", "switch", "--reason", "first", env=old).code == 0
    refused = run("run", "--agent", "mine.toml", env=new)
    assert refused.code == 3, refused
    assert "NotLive" in refused.err
    assert "projection" in refused.err


def test_status_of_one_of_your_own_and_a_rebuild_by_either_engine_give_the_same_view(db: str, releases: tuple[str, str]) -> None:
    name = f"{releases[0]}:Health"
    digests = []
    for engine in ("fold", "duckdb"):
        assert run("projection", "rebuild", name, "--engine", engine, "--db", db).code == 0
        with PostSale.open(db) as ps:
            digests.append(ps.runner_of(sys.modules[releases[0]].Health).digest())
    assert digests[0] == digests[1]
    (row,) = run("projection", "status", name, "--json", "--db", db).json()
    assert (row["lag_events"], row["dead_letters"], row["building"]) == (0, 0, [])
    assert run("projection", "retry", name, "--json", "--db", db).json() == {"freed": 0, "parked": []}


def test_a_rebuild_says_whether_its_version_is_live_and_what_to_type_until_it_is(db: str, releases: tuple[str, str]) -> None:
    old, new = (f"{name}:MODEL" for name in releases)
    assert run("projection", "switch", old, "--reason", "first", "--db", db).code == 0
    assert "The new build serves." in run("projection", "rebuild", old, "--db", db).out
    done = run("projection", "rebuild", new, "--db", db)
    assert done.code == 0
    assert "Version 1 stays live until you switch" in done.out
    assert f'postsale projection switch {new} --reason "…"' in done.out
    assert "The new build serves." not in done.out
    refused = run("projection", "switch", new, "--db", db)
    assert (refused.code, "--reason" in refused.err) == (2, True)


def test_the_first_version_is_live_without_a_switch_and_a_switch_to_it_says_so(db: str, releases: tuple[str, str]) -> None:
    name = f"{releases[0]}:Health"
    assert "facts folded after duckdb's states" in run("projection", "rebuild", name, "--engine", "duckdb", "--db", db).out
    assert "as the first that was folded." in run("projection", "switch", name, "--reason", "it is good", "--db", db).out


@pytest.mark.parametrize("name", ["nonsense", "postsale.projections:Nope", "postsale.projections:Features", "{}:NO_MODEL"])
def test_what_is_no_declaration_is_refused_by_name(db: str, releases: tuple[str, str], name: str) -> None:
    for command in (("status",), ("prune",), ("rebuild",), ("diff",), ("switch", "--reason", "x"), ("retry",), ("run",)):
        done = run("projection", command[0], name.format(releases[0]), *command[1:], "--db", db)
        assert (done.code, "NAME" in done.err) == (2, True), (command, done)
    assert run("projection", "rebuild", "--engine", "spark", "--db", db).code == 2


def test_features_say_who_reads_them_and_a_deprecated_one_that_is_read_is_wrong(db: str, releases: tuple[str, str]) -> None:
    shipped = {row["feature"]: row for row in run("projection", "features", "--agent", "renewal-rescue", "--json", "--db", db).json()}
    assert "component payments of customer-health" in shipped["paid_90d"]["read_by"]
    assert "agent renewal-rescue" in shipped["mrr_minor"]["read_by"]
    done = run("projection", "features", "--db", db, env={"POSTSALE_HEALTH": f"{releases[1]}:MODEL"})
    assert done.code == 1
    assert "read `settled`" in done.out
    assert "nobody here" in done.out


def test_a_service_folds_until_sigterm_then_gives_its_leases_back_and_ends_well(db: str) -> None:
    """A real process: it says when it is ready, folds what is recorded meanwhile, and leaves at the signal with exit status 0."""
    command, env = ("postsale", "projection", "run", "--json", "--db", db), os.environ | {"COLUMNS": "120"}
    service = Fork(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    try:
        assert service.stdout is not None
        assert json.loads(service.stdout.readline())["event"] == "ready"
        with PostSale.open(db) as ps:
            held = ps.projections()[0]["folded_by"]
            assert [f"process {service.pid}" in holder for holder in held] == [True]
            acme = ps.tenant("acme")
            paid = InvoicePaid(source="test", id="live", occurred_at=datetime.now(UTC), amount_minor=1, currency="EUR")
            receipt = acme.record("a-new-customer", paid)
            read = ps.runner.kept([acme.customer("a-new-customer").stream], at_least=receipt, within_s=60)
            assert ps.runner.fold.position(read.state) == receipt.position
        service.send_signal(signal.SIGTERM)
        said, trouble = service.communicate(timeout=60)
    finally:
        service.kill()
    assert (service.returncode, trouble) == (0, "")
    assert json.loads(said)["event"] == "stopped"
    with PostSale.open(db) as ps:
        assert ps.projections()[0]["folded_by"] == {}


def test_a_rebuild_that_is_told_to_end_says_how_to_resume_and_the_next_one_does(db: str, tmp_path: Path) -> None:
    """SIGINT at its very beginning, from the process itself: the handler lets the batch under way end."""
    script = (
        "import os, signal, sys\n"
        "from postsale.projections import runner\n"
        "advance = runner.Runner.advance\n"
        "def once(*a, **k):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return advance(*a, **k)\n"
        "runner.Runner.advance = once\n"
        "runner._BATCH_BYTES = 1\n"
        f"sys.argv = ['postsale', 'projection', 'rebuild', '--json', '--db', {db!r}]\n"
        "from postsale.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    half = json.loads(done.stdout)
    assert half["serves"] is False
    assert 0 < half["to_position"] < half["target"]
    assert "half-way" in run("projection", "status", "--db", db).out
    whole = run("projection", "rebuild", "--json", "--db", db).json()
    assert (whole["serves"], whole["from_position"], whole["build"]) == (True, half["to_position"], half["build"])
    assert process("projection", "status", "--db", db, cwd=tmp_path).code == 0
