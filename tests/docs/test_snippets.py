"""Every snippet of the README and of docs/ runs, in order, in one empty folder per page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "reference" not in p.parts and "adr" not in p.parts)]
FENCE = re.compile(r"^```(python|console|toml)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SLOW = {"make demo", "make test"}  # what CI does itself


def blocks(page: Path) -> list[tuple[str, str, str]]:
    return [(m[1], m[2] or "", m[3]) for m in FENCE.finditer(page.read_text())]


WITH_CODE = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_snippet_of_a_page_runs_in_order(page: Path, tmp_path: Path) -> None:
    """Python blocks of a page share a process; shell lines that start with `$ postsale` run with the same folder."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    program: list[str] = []
    for language, file, text in blocks(page):
        if file:
            program.append(f"import pathlib; pathlib.Path({file!r}).write_text({text!r})")
        elif language == "python":
            program.append(f"exec(compile({text!r}, {page.name!r}, 'exec'), space)")
        elif language == "console":
            commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
            program += [f"run({shlex.split(c)!r})" for c in commands if c not in SLOW and shlex.split(c)[0] == "postsale"]
    prelude = (
        "import subprocess, sys\nspace = {'__name__': 'snippet'}\n"
        "def run(argv):\n"
        "    done = subprocess.run([sys.executable, '-m', 'postsale.cli', *argv[1:]], capture_output=True, text=True)\n"
        "    assert done.returncode == 0, (argv, done.returncode, done.stdout[-2000:], done.stderr[-2000:])\n"
    )
    env = {**os.environ, "PYTHONWARNINGS": "error", "NO_COLOR": "1", "COLUMNS": "120"}
    env.pop("POSTSALE_DB", None)
    code = prelude + "\n".join(program)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_pages_with_snippets_were_found() -> None:
    """A page whose fences are written differently would silently not run."""
    assert ROOT / "README.md" in WITH_CODE
    assert len(WITH_CODE) >= 4


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link of the README and docs names a file that exists."""
    broken = []
    for page in [*PAGES, *(ROOT / "docs" / "adr").glob("*.md"), ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
