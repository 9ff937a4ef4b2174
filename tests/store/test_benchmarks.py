"""The benchmarks of the store and of training rows run, small, and print what they promise."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.nursery import forked

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["append", "growth", "live", "proofs", "read", "rebuild", "scale", "training_rows", "verify"])
def test_a_benchmark_prints_its_measures_as_its_last_line(name: str) -> None:
    command = forked("-m", f"benchmarks.{name}", "--json", "--size", "400", "--rounds", "1")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["benchmark"] == name
    assert last["measures"]
    for measure in last["measures"]:
        assert set(measure) == {"name", "value", "unit", "goal", "met", "peer", "limit"}
        assert measure["value"] > 0
