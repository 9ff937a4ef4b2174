"""Pastes the demo's output into the README: `python -m docs.readme_demo`. tests/docs compares the figures."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def shortened(output: str) -> str:
    """Up to what to type next."""
    lines = [line.rstrip() for line in output.splitlines()]
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if line.startswith("→"))]).strip()


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
