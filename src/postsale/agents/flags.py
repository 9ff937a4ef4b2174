"""Flags as inputs of a policy: asked for once, recorded with variant and reason, never asked for again.

A policy declares `[flags.NAME]` beside `NAME` among its inputs. Its value is evidence as any other; a source that is down, or says
something of another type, or says nothing in time, gives the declared default, and the reason says so. May import expressions,
aggregates' values, events.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Mapping
from typing import Annotated, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from postsale.agents.expressions import InputType
from postsale.aggregates.decisions import Scalar
from postsale.events import MAX_INT

FlagValue = bool | int | str
NO_SOURCE = "NO_SOURCE"
FAILED = "failed"  # under this name a decision records that what surrounds it broke
TIMEOUT_S = 5.0
"""For so long a source is waited for, a flag."""
_MOST = 200
_stuck: dict[int, tuple[FlagSource, threading.Thread]] = {}  # sources that were left behind while they hung; asked again when they are back


class FlagInput(BaseModel):
    """Which flag an input is, and its value where nobody can say."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    key: Annotated[str, Field(min_length=1, max_length=_MOST)]
    default: FlagValue


class FlagReading(NamedTuple):
    """What a source said: a value, which variant it is, and why."""

    value: FlagValue
    variant: str = ""
    reason: str = ""


class FlagSource(Protocol):
    """Where flags come from. It learns a customer by its random reference only."""

    def read(self, key: str, default: FlagValue, *, tenant: str, customer: str) -> FlagReading:
        """The flag for this customer now, within TIMEOUT_S. It may raise: the default is then used, and why is recorded."""
        ...


def read_flags(
    declared: Mapping[str, FlagInput],
    inputs: Mapping[str, InputType],
    source: FlagSource | None,
    *,
    tenant: str,
    customer: str,
) -> dict[str, Scalar]:
    """Every declared flag, asked once: as a decision records it, `NAME`, `NAME.variant`, `NAME.reason`. Never raises."""
    out: dict[str, Scalar] = {}
    for name, flag in sorted(declared.items()):
        found = FlagReading(flag.default, "", NO_SOURCE) if source is None else _asked(source, flag, tenant, customer)
        if not fits(found.value, inputs[name]):
            found = FlagReading(flag.default, "", f"TYPE_MISMATCH: it gave a {type(found.value).__name__}")
        out |= {name: found.value, f"{name}.variant": found.variant, f"{name}.reason": found.reason}
    return out


def _asked(source: FlagSource, flag: FlagInput, tenant: str, customer: str) -> FlagReading:
    """What the source says; the default, and why, where it raises, hangs, or says what is no reading. One thread at most hangs with it."""
    if id(source) in _stuck and _stuck[id(source)][1].is_alive():
        return FlagReading(flag.default, "", "ERROR: it still hangs")
    _stuck.pop(id(source), None)
    box: list[FlagReading] = []

    def ask() -> None:
        try:
            found = source.read(flag.key, flag.default, tenant=tenant, customer=customer)
            read = FlagReading(found.value, _plain(found.variant), _plain(found.reason))
        except BaseException as error:  # the type only: a message may hold anything
            read = FlagReading(flag.default, "", f"ERROR: {type(error).__name__}")
        box.append(read)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(ask,), daemon=True, name="postsale-flag")
    thread.start()
    thread.join(TIMEOUT_S)
    if box:
        return box[0]
    _stuck[id(source)] = source, thread
    return FlagReading(flag.default, "", f"ERROR: no answer within {TIMEOUT_S:g} s")


def values_of(declared: Mapping[str, FlagInput], recorded: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The values among what was recorded; the default of a flag that was not read then."""
    return {name: recorded.get(name, flag.default) for name, flag in declared.items()}


def fits(value: object, kind: InputType) -> bool:
    """Whether a value is of an input's type, and small enough to be recorded."""
    match kind:
        case "boolean":
            return type(value) is bool
        case "integer":
            return type(value) is int and abs(value) <= MAX_INT
        case "text":
            return type(value) is str and value.isprintable() and len(value) <= _MOST


def _plain(text: object) -> str:
    return "".join(ch if ch.isprintable() else " " for ch in str(text or ""))[:_MOST]
