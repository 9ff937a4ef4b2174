"""Running the command line: in this process for speed, in a real one where that is the point."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tests.nursery import forked


class Done(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def run(*argv: str, env: dict[str, str] | None = None) -> Done:
    """`postsale ARGV …` through its own entry point, in this process."""
    from postsale.cli import common, main

    out, err, code = io.StringIO(), io.StringIO(), 0
    cleared = {k: v for k, v in os.environ.items() if not k.startswith("POSTSALE_")} | {"COLUMNS": "160"} | (env or {})
    # The width is read when the console is made, which was whenever a test first imported it.
    wide = mock.patch.object(common.out, "_width", int(cleared["COLUMNS"]))
    surroundings = mock.patch.dict(os.environ, cleared, clear=True), mock.patch.object(sys, "argv", ["postsale", *argv])
    with wide, surroundings[0], surroundings[1], redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(code, out.getvalue(), err.getvalue())


def process(*argv: str, cwd: Path | None = None, **env: str) -> Done:
    """`postsale ARGV …` in a process of its own; warnings are errors there too."""
    return _ended(forked("postsale", *argv), cwd, env)


def from_nothing(*argv: str, cwd: Path | None = None, **env: str) -> Done:
    """The same in a process that has not loaded the library yet: where it is the start that is tested."""
    return _ended([sys.executable, "-W", "error", "-m", "postsale.cli", *argv], cwd, env)


def _ended(command: list[str], cwd: Path | None, env: dict[str, str]) -> Done:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("POSTSALE_")}
    done = subprocess.run(command, env=inherited | {"COLUMNS": "160"} | env, cwd=cwd, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)
