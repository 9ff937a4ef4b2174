"""`postsale prompt`: versions are listed, printed, compared and activated; what is in the log is what was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from postsale import PostSale
from postsale.agents import Prompt
from tests.agents.planned import PROMPT
from tests.cli.support import run

NEWER = PROMPT.replace("version = 3", "version = 4").replace("You keep", "Keep")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a.toml").write_text(PROMPT)
    (tmp_path / "b.toml").write_text(NEWER)
    (tmp_path / "changed.toml").write_text(PROMPT.replace("keep", "lose"))
    monkeypatch.chdir(tmp_path)
    PostSale.open().close()
    return tmp_path


def test_a_version_is_activated_listed_shown_and_compared(files: Path) -> None:
    for name, said in (("a.toml", "retention@3"), ("b.toml", "retention@4")):
        done = run("prompt", "activate", name, "--reason", "reviewed", "--tenant", "acme")
        assert done.code == 0, done.err
        assert said in done.out
        assert "may be used from now on" in done.out
    assert "may be used already" in run("prompt", "activate", "a.toml", "--reason", "again").out
    listed = run("prompt", "list", "--json").json()
    assert [(x["name"], x["version"], x["digest"], x["reason"]) for x in listed] == [
        ("retention", 3, Prompt.from_toml(PROMPT).digest, "reviewed"),
        ("retention", 4, Prompt.from_toml(NEWER).digest, "reviewed"),
    ]
    assert "retention@3" in run("prompt", "list").out
    assert "You keep customers. {failed_payments}" in run("prompt", "show", "retention@3").out
    assert run("prompt", "show", "retention@4", "--json").json()["instructions"].startswith("Keep customers.")
    lines = run("prompt", "diff", "retention@3", "b.toml").out.splitlines()
    assert lines[:2] == ["--- retention@3", "+++ retention@4"]
    assert "+Keep customers. {failed_payments} payments failed; their segment is {segment}." in lines
    assert run("prompt", "diff", "a.toml", "retention@3", "--json").json()["diff"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "retention@9"), "no such version was published here"),
        (("show", "retention"), "expected a prompt file (.toml), or NAME@VERSION"),
        (("activate", "none.toml", "--reason", "x"), "there is no such file"),
        (("activate", "changed.toml", "--reason", "x"), "published with other content"),
        (("activate", "a.toml", "--reason", " "), "expected a reason"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(files: Path, arguments: tuple[str, ...], says: str) -> None:
    run("prompt", "activate", "a.toml", "--reason", "reviewed", "--tenant", "acme")
    before = run("prompt", "list", "--json").json()
    done = run("prompt", *arguments)
    assert done.code != 0
    assert says in " ".join(done.err.split())
    assert run("prompt", "list", "--json").json() == before
