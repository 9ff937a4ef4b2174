"""Faults of code that is not ours: what would end whoever called becomes an exception like others, under the same name.

Libraries raise things that are no `Exception`: a cancelled task, a panic of native code, an exit. Imports nothing.
"""

from __future__ import annotations


def caught(error: BaseException) -> Exception:
    """An Exception as it is; anything else as one of the same name, without its words."""
    return error if isinstance(error, Exception) else type(type(error).__name__, (RuntimeError,), {})()
