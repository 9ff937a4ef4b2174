"""The command line under hostile names and files: a readable error or plain text, never a traceback, never a command to the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from postsale.agents import RenewalRescue
from postsale.aggregates.signals import AccountProfiled
from tests.app.support import ANNA, NOON, opened, paid, subscribed, url_of


def postsale(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "postsale.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "140", "PYTHONIOENCODING": "utf-8", **(env or {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


@pytest.mark.parametrize("module", ["..", "", "a b", "a..b", "-"])
def test_what_is_no_name_of_a_module_is_an_error_of_one_line(tmp_path: Path, module: str) -> None:
    """An agent or a POSTSALE_IMPORT that cannot be a module is bad input, not a traceback."""
    with opened(tmp_path):
        pass
    done = postsale("run", "--db", url_of(tmp_path), "--agent", f"{module}:agent", cwd=tmp_path)
    assert (done.returncode, done.stderr.startswith("InvalidInput"), "Traceback" in done.stderr) == (2, True, False), done.stderr


def test_a_module_that_lacks_another_one_is_not_said_to_be_missing_itself(tmp_path: Path) -> None:
    """The message names the module that is missing, and who imports it."""
    (tmp_path / "mine.py").write_text("import nowhere_to_be_found\n", encoding="utf-8")
    done = postsale("customer", "list", "--db", url_of(tmp_path), cwd=tmp_path, env={"POSTSALE_IMPORT": "mine"})
    assert done.returncode == 2
    assert "no module 'nowhere_to_be_found' here, which 'mine' imports" in done.stderr


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path: Path) -> None:
    """A command and a customer called like a closing tag are shown, and break no table."""
    tag = "[/red]"
    with opened(tmp_path, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.record(tag, subscribed("s1", NOON - timedelta(days=100)))
        acme.ask(tag, "renewal-rescue", tag, reason="look", by=ANNA)
        ps.run_once()
    for command in (["decision", "list"], ["customer", "list"], ["customer", "timeline", tag]):
        done = postsale(*command, "--db", url_of(tmp_path), cwd=tmp_path)
        assert (done.returncode, tag in done.stdout) == (0, True), done.stderr


def test_a_file_name_with_markup_or_control_sequences_is_read_like_any_other(tmp_path: Path) -> None:
    """On a terminal the progress bar shows the name; neither a tag nor an escape sequence in it does anything."""
    event = '{"specversion":"1.0","id":"1","source":"x","type":"billing/invoice-paid@1","subject":"c","time":"2026-01-01T00:00:00Z",'
    name = "a[][red]\x1b]0;title\x07.json"
    (tmp_path / name).write_text(event + '"data":{"amount_minor":1,"currency":"EUR"}}', encoding="utf-8")
    (tmp_path / "[").mkdir()
    (tmp_path / "[" / "b].json").write_text("", encoding="utf-8")
    for file in (name, "[/b].json"):
        done = postsale("ingest", "cloudevents", file, "--db", url_of(tmp_path), cwd=tmp_path, env={"FORCE_COLOR": "1"})
        assert done.returncode == 0, done.stderr
        assert "\x1b]0" not in done.stdout + done.stderr


def test_text_of_events_cannot_turn_or_overwrite_what_the_terminal_shows(tmp_path: Path) -> None:
    """A carriage return or a change of direction in a customer's name is shown as a replacement character."""
    with opened(tmp_path) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("in_1"))
        acme.record("cus_1", AccountProfiled(source="crm", id="p1", occurred_at=NOON, name="Good\rEvil\u202elive"))
    done = postsale("customer", "timeline", "cus_1", "--db", url_of(tmp_path), cwd=tmp_path)
    assert "name=Good\N{REPLACEMENT CHARACTER}Evil\N{REPLACEMENT CHARACTER}live" in done.stdout


def test_a_policy_that_is_not_text_is_refused_in_one_line(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 in a policy file are bad input, not a traceback."""
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with opened(tmp_path):
        pass
    done = postsale("run", "--db", url_of(tmp_path), "--agent", "bad.toml", cwd=tmp_path)
    assert (done.returncode, "not valid UTF-8" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
