"""Every snippet of the README and of docs/ runs, in order, in one empty folder per page."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from tests.nursery import forked
from tests.postgres import as_documented, binary, empty_database
from tests.temporal import server as temporal

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "reference" not in p.parts and "adr" not in p.parts)]
FROM_NOTHING = ROOT / "docs/tutorials/backend-developer.md"  # here each process loads the library itself, as a reader's does
FENCE = re.compile(r"^```(python|console|toml)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"# → (.*)$")
NOT_HERE = ("make ", "pip ", "dbt ", "git ", "cd ", "python3 -m venv ", ". .venv/")  # what CI does itself; dbt runs in test_dbt_package


def blocks(page: Path) -> list[tuple[str, str, str]]:
    return [(m[1], m[2] or "", m[3]) for m in FENCE.finditer(page.read_text())]


WITH_CODE = [page for page in PAGES if blocks(page)]


def checked(text: str) -> str:
    """Python source in which each expression with a comment `# → value` is compared with that value."""
    lines = text.splitlines()

    class Checks(ast.NodeTransformer):
        def visit_Expr(self, node: ast.Expr) -> ast.stmt:
            said = SHOWN.search(lines[(node.end_lineno or 1) - 1])
            if said is None:
                return node
            return ast.parse(f"shows(({ast.unparse(node.value)}), {said[1].strip()!r})").body[0]

    return ast.unparse(ast.fix_missing_locations(Checks().visit(ast.parse(text))))


def script(text: str) -> str:
    """The `$ ` lines of a console block as one shell script, less what installs or builds."""
    commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    return "\n".join(c for c in commands if not c.startswith(NOT_HERE))


def surroundings(code: str, folder: Path) -> AbstractContextManager[dict[str, str]]:
    """What a page assumes: a Temporal server, a database that it makes a log in, a log in a database, or nothing."""
    if "TEMPORAL_ADDRESS" in code:
        return nullcontext({"TEMPORAL_ADDRESS": temporal().address})
    if "ADMIN_URL" in code:
        return empty_database(folder)
    return as_documented(folder) if "DATABASE_URL" in code else nullcontext({})


PRELUDE = """
import subprocess
def shows(value, text):
    assert text in (repr(value), str(value)), f"shown as {text!r}, is {value!r}"
def shell(text):
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, (text, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
space = {"__name__": "snippet", "shows": shows}
"""


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_snippet_of_a_page_runs_in_order(page: Path, tmp_path: Path) -> None:
    """Python blocks of a page share a process, and say what they say; each console block is a shell script in the same folder."""
    folder, bin_ = tmp_path / "folder", tmp_path / "bin"
    folder.mkdir()
    bin_.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    python = {"postsale": f'"{sys.executable}" -m postsale.cli', "python3": f'"{sys.executable}"'}
    if page != FROM_NOTHING:
        python["postsale"] = " ".join(f'"{word}"' for word in forked("postsale"))
    for name, program_ in (python | {name: f'"{binary(name)}"' for name in ("psql", "pg_dump", "pg_restore")}).items():
        (bin_ / name).write_text(f'#!/bin/sh\nexec {program_} "$@"\n')
        (bin_ / name).chmod(0o755)
    program: list[str] = []
    for language, file, text in blocks(page):
        if file:
            program.append(f"import pathlib; pathlib.Path({file!r}).write_text({text!r})")
        elif language == "python":
            program.append(f"exec(compile({checked(text)!r}, {page.name!r}, 'exec'), space)")
        elif language == "console" and script(text):
            program.append(f"shell({script(text)!r})")
    base = {**os.environ, "PYTHONWARNINGS": "error", "NO_COLOR": "1", "COLUMNS": "120", "PATH": f"{bin_}:{os.environ['PATH']}"}
    for name in ("POSTSALE_DB", "POSTSALE_KEYS", "POSTSALE_SCHEMA", "POSTSALE_TENANT", "POSTSALE_TOKEN"):
        base.pop(name, None)
    code = PRELUDE + "\n".join(program)
    with surroundings(code, tmp_path) as more:
        command = [sys.executable, "-c", code] if page == FROM_NOTHING else forked("-c", code)
        done = subprocess.run(command, cwd=folder, env={**base, **more}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_wrong_value_in_a_snippet_is_noticed() -> None:
    """The check of `# → value` checks."""
    space: dict[str, object] = {}
    exec(PRELUDE, space)
    exec(checked("1 + 1  # → 2"), space)
    with pytest.raises(AssertionError, match="shown as '3', is 2"):
        exec(checked("if True:\n    1 + 1  # → 3"), space)


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
