"""What commands share that run until they are told to stop: how they are told, and the lines that they say meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import orjson
import typer
from rich.markup import escape

from postsale.cli.common import out


@contextmanager
def until_told(then: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Whether the process was asked to end, by SIGTERM or Ctrl-C: then it finishes what it does, and ends. Asked again, it ends at once.

    `then` is done in the handler, when it is asked.
    """
    told = False

    def tell(_number: int, _frame: FrameType | None) -> None:
        nonlocal told
        told = True
        for number, handler in before.items():
            signal.signal(number, handler)
        then()

    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.getsignal(number)
        signal.signal(number, tell)
    try:
        yield lambda: told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(json: bool, what: str, values: dict[str, Any]) -> None:
    """One line, at once: whoever started the process waits for it."""
    if json:
        typer.echo(orjson.dumps({"event": what, **values}))
    else:
        out.print(f"[bold]{what}[/]  " + " · ".join(f"{name} {escape(str(value))}" for name, value in values.items()), soft_wrap=True)
