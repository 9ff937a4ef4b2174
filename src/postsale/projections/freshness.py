"""Freshness: a write's receipt as a token that reads can demand, and the waiting for it. No fold, no view.

Positions become readable in their order, so one number says everything about what a read has seen. Imports errors and the
store's contract.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from postsale.errors import InvalidInput, StaleRead
from postsale.store.contract import Store

WITHIN_S: Final = 2.0
"""How long a read waits for what was demanded, in seconds, unless told otherwise."""

_POLL_S: Final = 0.01


class Written(Protocol):
    """The receipt of a write: what `record` returns."""

    @property
    def position(self) -> int:
        """Of the event in the log."""
        ...


AtLeast: TypeAlias = Written | int
"""The receipt of a write, or a position of the log: a read has seen every event up to it."""


class Pace(Protocol):
    """How time passes while something is waited for."""

    def now(self) -> float:
        """Seconds, which never go back."""
        ...

    def pause(self, seconds: float) -> None:
        """Let this much pass."""
        ...


class RealPace:
    """The time of this machine."""

    def now(self) -> float:
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


def position_of(at_least: AtLeast) -> int:
    """The position that a receipt stands for. InvalidInput for what is neither a receipt nor a position."""
    position = at_least if isinstance(at_least, int) else getattr(at_least, "position", None)
    if isinstance(position, bool) or not isinstance(position, int) or position < 0:
        raise InvalidInput(what="read", field="at_least", reason="expected the receipt of a write, or a position of the log")
    return position


def await_log(store: Store, at_least: AtLeast, within_s: float = WITHIN_S) -> None:
    """Return once the log can be read up to `at_least`; 0 seconds only look.

    Raises StaleRead after `within_s` seconds, as when the write is in a transaction that has not committed yet.
    """
    position = position_of(at_least)
    if position and not store.wait(position - 1, within_s):
        raise StaleRead(what="the log", position=store.head(), at_least=position, within_s=within_s)


def await_position(what: str, look: Callable[[], int], at_least: AtLeast, within_s: float, pace: Pace) -> int:
    """The position that `look` gives, once it is `at_least`. Raises StaleRead, naming `what`, after `within_s` seconds."""
    wanted, end = position_of(at_least), pace.now() + within_s
    while (position := look()) < wanted:
        left = end - pace.now()
        if left <= 0:
            raise StaleRead(what=what, position=position, at_least=wanted, within_s=within_s)
        pace.pause(min(_POLL_S, left))
    return position
