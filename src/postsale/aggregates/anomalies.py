"""What a log noticed about its own surroundings, as events of the stream `_system/log/anomalies`. May import `events` only."""

from __future__ import annotations

from typing import ClassVar, Final

from postsale.events import SYSTEM_TENANT, Event, StreamId

ANOMALIES: Final = StreamId(SYSTEM_TENANT, "log", "anomalies")


class ClockWentBack(Event):
    """A writer's clock was behind what the log had recorded already: `recorded_at` went on from there, a microsecond an event.

    Order is by position as ever; until the clock has caught up, `recorded_at` says less than it does elsewhere.
    """

    wire_name: ClassVar[str] = "log/clock-went-back@1"
    behind_us: int  # how far, µs
