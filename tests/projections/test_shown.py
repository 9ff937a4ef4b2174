"""What is shown to users runs: the benchmark, small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run(*arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_the_live_benchmark_compares_equal_folds_and_ends_with_its_json():
    last = json.loads(run("-m", "benchmarks.live", "--json", "--size", "3000", "--rounds", "1").splitlines()[-1])
    assert last["benchmark"] == "live"
    for measure in last["measures"]:
        assert set(measure) == {"name", "value", "unit", "goal", "met", "peer", "limit"}
