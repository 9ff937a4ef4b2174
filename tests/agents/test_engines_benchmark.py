"""The engines benchmark runs, small, has every decision made on both, and prints what it promises."""

from __future__ import annotations

import json

import pytest
from benchmarks import engines

from tests.temporal import server


def test_the_benchmark_prints_its_measures_as_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    engines.main(["--json", "--size", "6", "--rounds", "1", "--address", server().address])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["benchmark"] == "engines"
    for measure in last["measures"]:
        assert set(measure) == {"name", "value", "unit", "goal", "met", "peer", "limit"}
        assert measure["value"] > 0
