"""The simulator's benchmark runs, small, and prints what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_benchmark_prints_its_measures_as_its_last_line() -> None:
    command = [sys.executable, "-m", "benchmarks.simulator", "--json", "--size", "3", "--rounds", "1"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["benchmark"] == "simulator"
    for measure in last["measures"]:
        assert set(measure) == {"name", "value", "unit", "goal", "met", "peer", "limit"}
        assert measure["value"] > 0
