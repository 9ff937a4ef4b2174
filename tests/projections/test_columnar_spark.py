"""The same expressions on Spark give the same answers; skipped, with the reason printed, without Java 17."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys

import pytest

if shutil.which("java") is None:
    pytest.skip("no Java here: Spark needs version 17", allow_module_level=True)


def test_spark_gives_what_the_fold_gives_and_never_a_sum_that_wrapped():
    seed = random.getrandbits(32)
    run = subprocess.run(
        [sys.executable, "-m", "tests.projections.spark_parity", str(seed)], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, f"seed {seed}: {run.stderr[-3000:]}"
    assert run.stdout.splitlines() == ["parity held", "overflow raised", "spark.sql.ansi.enabled refused"], seed
