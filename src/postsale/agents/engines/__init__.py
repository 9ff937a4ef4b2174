"""Engines: what drives agents. `embedded` is the log itself. Deciders never import this room."""

from postsale.agents.engines.embedded import EmbeddedEngine
from postsale.agents.engines.engine import Attended, Engine
from postsale.agents.engines.steps import Steps, Visited

__all__ = ["Attended", "EmbeddedEngine", "Engine", "Steps", "Visited"]
