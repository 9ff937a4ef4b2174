"""A process that a test starts ends with the process that runs the tests, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def with_its_parent() -> None:
    """SIGKILL when the thread that forked this process is no more; across `exec` too. As a `preexec_fn`, from a thread that lives on."""
    if _prctl is not None:
        _prctl(_SET_PDEATHSIG, signal.SIGKILL)


def with_this_parent(parent: int) -> None:
    """The same in a fork, whose parent may have gone before it asked."""
    with_its_parent()
    if os.getppid() != parent:
        os._exit(1)
