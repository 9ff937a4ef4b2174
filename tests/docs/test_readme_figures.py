"""The output in the README is a real one: its figures are those of the demo as it runs now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.year import the_year

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_figures_in_the_readme_are_those_of_the_demo(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tree heads differ from run to run, because references, salts and keys are random; nothing else does."""
    story = the_year(tmp_path_factory).story
    shown = README.read_text().partition("```text\n")[2].partition("```")[0]
    first = re.search(r"Signals +recorded ([\d,]+) · doubled ([\d,]+) · rejected ([\d,]+)", shown)
    assert first is not None
    assert [int(n.replace(",", "")) for n in first.groups()] == list(story["signals"].values())
    assert {m[1]: int(m[2]) for m in re.finditer(r"^(good|fair|poor) +(\d+) +█", shown, re.MULTILINE)} == story["health"]
    agents = re.findall(r"^([a-z-]+) +\d\d \w+ +\d\d \w+ +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) ", shown, re.MULTILINE)
    kinds = ("awaiting", "acted", "suppressed", "failed")
    told = [(a["name"], a["triggers"], a["waited"], *(a["dispositions"].get(kind, 0) for kind in kinds)) for a in story["report"]["agents"]]
    assert [(name, *map(int, numbers)) for name, *numbers in agents] == told
    approvals = re.search(r"Approvals +asked (\d+) · approved (\d+) · edited (\d+) · rejected (\d+) · lapsed (\d+) · waiting (\d+)", shown)
    assert approvals is not None
    names = ("asked", "approved", "edited", "rejected", "lapsed", "waiting")
    assert [int(n) for n in approvals.groups()] == [story["report"]["approvals"][name] for name in names]
    kept = re.search(r"^customers kept +(\d+) +(\d+) ", shown, re.MULTILINE)
    assert kept is not None
    line = story["report"]["twin"]["lines"][0]
    assert (int(kept[1]), int(kept[2])) == (line["with_agents"], line["without"])
    verified = re.search(r"Verified +([\d,]+) events, 0 problems", shown)
    assert verified is not None
    assert int(verified[1].replace(",", "")) == story["verified"]["events"]
    assert story["tampering"]["problems"]
