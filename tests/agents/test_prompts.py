"""Prompts: what makes one valid, how values go in, how versions are told apart and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.agents import Prompt
from postsale.agents.prompts import shown
from postsale.agents.prompts_log import activate_prompt, known_prompts
from postsale.errors import InvalidInput, PromptInvalid
from tests.agents.planned import PROMPT
from tests.agents.world import ANNA, World

BASE = Prompt.from_toml(PROMPT)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("{segment}", "{seats}", "instructions"),
        ("{segment}", "{segment.__class__}", "instructions"),
        ("{segment}", "{segment!r}", "instructions"),
        ('"segment"]', '"segment", "seats"]', "variables"),
        ("version = 3", "version = 0", "version"),
        ("version = 3", "version = '3'", "version"),
        ('name = "retention"', 'name = "Not A Name"', "name"),
        ('owner = "cs"', "", "owner"),
        ('owner = "cs"', 'owner = "cs"\nmodel = "m"', "model"),
        ('owner = "cs"', "owner =", "the file"),
    ],
)
def test_a_prompt_that_is_wrong_or_names_what_is_not_declared_is_refused_with_the_place(old: str, new: str, where: str) -> None:
    assert old in PROMPT
    with pytest.raises(PromptInvalid) as refused:
        Prompt.from_toml(PROMPT.replace(old, new))
    assert refused.value.where == where


def test_equal_content_has_an_equal_digest_wherever_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("# a comment\n" + PROMPT)
    assert Prompt.load(tmp_path / "p.toml").digest == BASE.digest == Prompt.from_json(BASE.content).digest
    assert Prompt.from_toml(PROMPT.replace("keep", "lose")).digest != BASE.digest
    (tmp_path / "p.toml").write_bytes(b"\xff")
    with pytest.raises(PromptInvalid, match="not valid UTF-8"):
        Prompt.load(tmp_path / "p.toml")


@given(text=st.text())
def test_a_text_from_outside_stays_one_quoted_printable_line(text: str) -> None:
    line = shown(text)
    assert line.startswith('"')
    assert line.endswith('"')
    assert line.isascii()
    assert line.isprintable()
    filled = BASE.fill({"failed_payments": None, "segment": text})
    assert filled == f"You keep customers. unknown payments failed; their segment is {line}.\n"


def test_a_variable_without_a_value_is_refused() -> None:
    with pytest.raises(PromptInvalid, match="'segment' is not among the evidence"):
        BASE.fill({"failed_payments": 1})


def test_a_difference_shows_lines() -> None:
    other = Prompt.from_toml(PROMPT.replace("version = 3", "version = 4").replace("You keep", "Keep"))
    assert [line for line in BASE.diff(other) if line[0] in "+-"] == [
        "--- retention@3",
        "+++ retention@4",
        "-You keep customers. {failed_payments} payments failed; their segment is {segment}.",
        "+Keep customers. {failed_payments} payments failed; their segment is {segment}.",
    ]
    assert BASE.diff(BASE) == []


def test_a_version_is_published_and_activated_once_and_never_with_other_content() -> None:
    w = World()
    desk = w.engine.desk
    assert activate_prompt(desk, w.tenant, BASE, person=ANNA, reason="reviewed")
    head = w.store.head()
    assert not activate_prompt(desk, w.tenant, BASE, person=ANNA, reason="again")
    assert w.store.head() == head
    with pytest.raises(PromptInvalid, match="published with other content"):
        activate_prompt(desk, w.tenant, Prompt.from_toml(PROMPT.replace("keep", "lose")), person=ANNA, reason="x")
    with pytest.raises(InvalidInput):
        activate_prompt(desk, w.tenant, BASE, person=ANNA, reason=" ")
    newer = Prompt.from_toml(PROMPT.replace("version = 3", "version = 10"))
    activate_prompt(desk, w.tenant, newer, person=ANNA, reason="better")
    known = known_prompts(desk, w.tenant)
    assert [(k, v.approver, v.reason) for k, v in known.items()] == [
        ("retention@3", "anna", "reviewed"),
        ("retention@10", "anna", "better"),
    ]
    assert known["retention@3"].prompt == BASE
    assert known_prompts(desk, "other") == {}
