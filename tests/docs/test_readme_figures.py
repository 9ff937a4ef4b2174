"""The output in the README is a real one: its figures are those of the demo as it runs now."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import orjson

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_figures_in_the_readme_are_those_of_the_demo(tmp_path: Path) -> None:
    """Ids and tree heads differ from run to run, because references and keys are random; nothing else does."""
    env = {**os.environ, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "postsale.cli", "demo", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True, timeout=300)
    story = orjson.loads(done.stdout)
    shown = README.read_text().partition("```text\n")[2].partition("```")[0]
    first = re.search(r"Signals +recorded ([\d,]+) · doubled ([\d,]+) · rejected ([\d,]+)", shown)
    assert first is not None
    assert [int(n.replace(",", "")) for n in first.groups()] == list(story["signals"].values())
    assert {m[1]: int(m[2]) for m in re.finditer(r"^(good|fair|poor) +(\d+) +█", shown, re.MULTILINE)} == story["health"]
    assert {m[1]: int(m[2]) for m in re.finditer(r"^(acted|awaiting|failed|suppressed by \S+) +(\d+)$", shown, re.MULTILINE)} == story[
        "dispositions"
    ]
    assert re.findall(r"^(cus_\d+) +[\d.]+  ", shown, re.MULTILINE) == story["at_risk"][:3]
    verified = re.search(r"Verified +([\d,]+) events, 0 problems", shown)
    assert verified is not None
    assert int(verified[1].replace(",", "")) == story["verified"]["events"]
    assert story["tampering"]["problems"]
