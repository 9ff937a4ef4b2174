"""The notebook in examples/ is what its code gives today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_notebook_runs_and_comes_out_as_it_is_kept() -> None:
    """In a real kernel: sources, printed texts and tables are equal, and both pictures are there."""
    command = [sys.executable, "-m", "docs.notebook", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (ROOT / "examples" / "health_and_training.ipynb").read_text().count('"image/png"') == 2
