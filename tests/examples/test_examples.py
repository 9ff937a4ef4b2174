"""The examples that users copy: short, public names only, and they run in an empty folder."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from docs.generate import MODULES
from tests.ingest.support import third_party
from tests.postgres import as_documented

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ON_DATA = {
    "cdnow_purchases": ("cdnow/CDNOW_sample.txt", {"customers": (2_357, 2_357), "MAE": (0.5, 0.80), "RMSE": (1.0, 1.65)}),
    "telco_churn": ("telco/Telco-Customer-Churn.csv", {"customers": (7_043, 7_043), "AUC": (0.84, 0.90), "Brier": (0.1, 0.14)}),
}
"""Scripts over public data sets: what they read, and the bounds of what they must say."""

EVERY = sorted(EXAMPLES.glob("*.py"))
SCRIPTS = [path for path in EVERY if path.stem not in ON_DATA]
PUBLIC = {"postsale", "postsale.agents", "postsale.agents.tools", "postsale.projections", "postsale.testing"}
SHORT = [*SCRIPTS, EXAMPLES / "custom_policy.toml", EXAMPLES / "planner.toml"]

SAYS = {
    "custom_policy": ["First row that matches", "row call", "suppressed by autonomy:observe"],
    "custom_projection": ["health 70.00 fair", "together", "+70.000000"],
    "custom_signal": ["stored: True", "stored again: False", "acme.webinars/attended@1 {'webinar': 'onboarding', 'stayed_min': 42}"],
    "related_customers": ["ann: friends paid {'EUR': 1800} in 2 invoices", "bob: friends paid {} in 0 invoices"],
    "planner": ["3 attempts have failed. Somebody should talk to them."],
    "own_transaction": ["invoices: inv_2\nsignals:  inv_2"],
    "custom_tool": ["your CRM is called here, within 30 s: Call about failing payments", "→ succeeded", "effect succeeded: confirmed"],
}


def named(path: Path) -> str:
    return path.stem


def test_the_promised_examples_are_there() -> None:
    """A custom signal, projection, policy and tool, features of related customers, and a transaction of one's own."""
    assert {path.stem for path in SCRIPTS} == SAYS.keys()
    assert {path.stem for path in EVERY} == SAYS.keys() | ON_DATA.keys()


@pytest.mark.parametrize("path", SHORT, ids=lambda p: p.name)
def test_an_example_is_under_25_lines(path: Path) -> None:
    """Blank lines are not counted; comments are."""
    assert sum(1 for line in path.read_text().splitlines() if line.strip()) < 25


@pytest.mark.parametrize("path", EVERY, ids=named)
def test_an_example_uses_public_names_only(path: Path) -> None:
    """Modules that the documentation names, and nothing that begins with an underscore. Those over data may use all of the reference."""
    public = PUBLIC if path in SCRIPTS else {*PUBLIC, *MODULES}
    for node in ast.walk(ast.parse(path.read_text())):
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_"), node.attr
        for module in modules:
            if module.partition(".")[0] == "postsale":
                assert module in public or module.startswith("postsale.aggregates."), module


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_an_example_runs_in_an_empty_folder_and_says_what_it_shows(path: Path, tmp_path: Path) -> None:
    """With warnings as errors; it leaves nothing behind."""
    here = tmp_path / "here"
    here.mkdir()
    with as_documented(tmp_path) if "DATABASE_URL" in path.read_text() else nullcontext({}) as more:
        env = {**os.environ, "PYTHONWARNINGS": "error", **more}
        done = subprocess.run([sys.executable, str(path)], cwd=here, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    for text in SAYS[path.stem]:
        assert text in done.stdout
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", sorted(ON_DATA))
def test_an_example_over_public_data_reaches_what_is_known_to_be_reachable(name: str, tmp_path: Path) -> None:
    """CDNOW: expected purchases on the second 39 weeks. Telco: churn, cross-validated. The bounds below say that nothing leaked."""
    data, bounds = ON_DATA[name]
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), str(third_party(data))]
    env = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for figure, (least, most) in bounds.items():
        said = re.search(rf"\b{figure} ([0-9.]+[0-9])", done.stdout)
        assert said is not None, done.stdout
        assert least <= float(said[1]) <= most, done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ON_DATA)
def test_an_example_over_data_says_how_to_name_the_file(name: str) -> None:
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"python examples/{name}.py {Path(ON_DATA[name][0]).name}" in done.stderr
