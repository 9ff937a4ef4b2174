"""Engines: what drives agents. `embedded` is the log itself. Deciders never import this room."""

from postsale.agents.engines.embedded import Attended, EmbeddedEngine

__all__ = ["Attended", "EmbeddedEngine"]
