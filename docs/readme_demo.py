"""Pastes the demo's output, shortened, into the README: `python -m docs.readme_demo`. tests/docs compares the figures."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def shortened(output: str) -> str:
    """The first three at risk, the first four values, the last six guardrails; the rest of those lists is an ellipsis."""
    lines = [line.rstrip() for line in output.splitlines()]
    _keep(lines, "At risk", slice(0, 4), "")
    _keep(lines, "  Known", slice(0, 4), "    ")
    _keep(lines, "  Guardrails", slice(-6, None), "    ")
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if line.startswith("→"))]).strip()


def _keep(lines: list[str], head: str, part: slice, indent: str) -> None:
    """Of the block below a heading, as far as it is indented alike, keep a part."""
    start = lines.index(head) + 1
    end = start
    while lines[end].startswith(indent) and lines[end] != "Decisions":
        end += 1
    block = lines[start:end]
    kept = block[part]
    if len(kept) < len(block):
        lines[start:end] = [*kept, f"{indent}…"] if part.start == 0 else [f"{indent}…", *kept]


def main() -> None:
    """Run the demo in an empty folder and replace the first text block of the README."""
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "110"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "postsale.cli", "demo"], cwd=folder, env=env, capture_output=True, text=True, check=True
        )
    before, fence, rest = README.read_text().partition("```text\n")
    README.write_text(before + fence + shortened(done.stdout) + "\n" + "```" + rest.partition("```")[2])


if __name__ == "__main__":
    main()
