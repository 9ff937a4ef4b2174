"""A fork of the nursery is a process as others are: it ends as it ends, hears signals, and sees its own words, folder and environment."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.nursery import Fork, forked

ENDS = {"": 0, "raise SystemExit(7)": 7, "raise SystemExit('no')": 1, "1 / 0": 1, "import os; os.kill(os.getpid(), 9)": -signal.SIGKILL}


@pytest.mark.parametrize(("text", "status"), ENDS.items())
def test_it_ends_as_it_ends(text: str, status: int) -> None:
    assert subprocess.run(forked("-c", text), stderr=subprocess.DEVNULL, check=False).returncode == status
    with Fork("-c", text, stderr=subprocess.DEVNULL) as fork:
        assert fork.wait(60) == status


def test_it_sees_its_own_words_folder_and_environment_and_nothing_of_the_tests(tmp_path: Path) -> None:
    text = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['A'], len(os.environ) < 3, 'tests' in sys.modules)"
    done = subprocess.run(forked("-c", text, "a b"), cwd=tmp_path, env={"A": "1"}, capture_output=True, text=True, check=True)
    assert done.stdout == f"['a b'] {tmp_path} 1 True False\n"
    assert subprocess.run(forked("-c", "import tests"), cwd=tmp_path, env={}, capture_output=True, check=False).returncode == 1


def test_its_warnings_are_errors() -> None:
    done = subprocess.run(forked("-c", "import warnings; warnings.warn('x')"), capture_output=True, text=True, check=False)
    assert (done.returncode, "UserWarning" in done.stderr) == (1, True)


def test_it_reads_writes_and_hears_signals_under_its_own_number() -> None:
    text = "import os\nfor line in open(0): print(os.getpid(), line, end='', flush=True)"
    with Fork("-c", text, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as fork:
        assert fork.stdin is not None
        assert fork.stdout is not None
        assert fork.pid != os.getpid()

        def said(word: str) -> str:
            fork.stdin.write(word + "\n")
            fork.stdin.flush()
            return fork.stdout.readline()

        assert said("one") == f"{fork.pid} one\n"
        fork.stand_still()
        assert fork.poll() is None
        fork.send_signal(signal.SIGCONT)
        assert said("two") == f"{fork.pid} two\n"
        fork.kill()
        assert fork.wait(60) == -signal.SIGKILL


def test_it_reads_what_a_shell_gives_it_under_a_number_of_its_own(tmp_path: Path) -> None:
    command = " ".join(f"'{word}'" for word in forked("-c", "import sys; print(open(sys.argv[1]).read())"))
    done = subprocess.run(["bash", "-c", f"{command} <(echo beside)"], capture_output=True, text=True, check=True)
    assert done.stdout == "beside\n\n"
