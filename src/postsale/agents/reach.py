"""Whether an effect may leave here and now: a context that tools ask before they act. Imports the errors only.

Nothing here calls anything. Replay, rebuild, import and audit run inside `no_effects`; simulation inside `simulated_only`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

from postsale.errors import ToolUnreachable


class _Limit(NamedTuple):
    during: str
    allow: Literal["nothing", "simulated"]


_limit: ContextVar[_Limit | None] = ContextVar("postsale_reach", default=None)


@contextmanager
def no_effects(during: str) -> Iterator[None]:
    """Inside, every attempt to reach a tool raises ToolUnreachable naming `during`. Nests; the strictest wins."""
    token = _limit.set(_Limit(during, "nothing"))
    try:
        yield
    finally:
        _limit.reset(token)


@contextmanager
def simulated_only(during: str = "simulation") -> Iterator[None]:
    """Inside, only tools that declare themselves simulated are reachable. Never widens an outer `no_effects`."""
    outer = _limit.get()
    token = _limit.set(outer if outer is not None and outer.allow == "nothing" else _Limit(during, "simulated"))
    try:
        yield
    finally:
        _limit.reset(token)


_models = threading.Lock()
_during: list[str] = []


@contextmanager
def no_models(during: str) -> Iterator[None]:
    """Inside, in every thread of the process, only planners that stay in it are reachable. Nests."""
    with _models:
        _during.append(during)
    try:
        yield
    finally:
        with _models:
            _during.remove(during)


def check_model(planner: str, *, simulated: bool) -> None:
    """Return when a planner may be asked from here; else ToolUnreachable."""
    check(f"planner {planner}", simulated=simulated)
    during = next(iter(_during), None)
    if during is not None and not simulated:
        raise ToolUnreachable(tool=f"planner {planner}", during=during)


def check(tool: str, *, simulated: bool) -> None:
    """Return when `tool` may be reached from here; else ToolUnreachable."""
    limit = _limit.get()
    if limit is None or (limit.allow == "simulated" and simulated):
        return
    raise ToolUnreachable(tool=tool, during=limit.during)
