"""The kind of event under which an `eventsourcing` application's events are in the log.

Declared apart from the recorder, so that every reader of the log can decode them without that library. Imports events only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from postsale.events import Event, Int


class OpaqueEvent(Event):
    """An event of an `eventsourcing` application as its mapper made it: nothing in it is looked into, imported or sealed.

    `originator` says what the stream's id was to the application: a UUID or a text. `state` is base64, whatever it holds.
    """

    wire_name: ClassVar[str] = "eventsourcing/event-stored@1"
    originator: Literal["uuid", "text"]
    originator_version: Int
    topic: str
    state: str
