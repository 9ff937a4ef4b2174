"""`given`: where a test begins, of a projection's rows or of an agent's decisions. May import this room and what is below it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, overload

from postsale.agents import Agent
from postsale.agents.tools import Tool
from postsale.aggregates.artifacts import Mode
from postsale.projections import CUSTOMER_HEALTH, Features, HealthModel
from postsale.testing import rows
from postsale.testing.scenario import Past, Scenario


@overload
def given(of: type[Features], *past: rows.Event) -> rows.Given: ...


@overload
def given(
    of: Agent,
    *past: Past,
    at: datetime,
    mode: Mode = "act",
    tools: Sequence[Tool] = (),
    health: HealthModel = CUSTOMER_HEALTH,
    network: bool = False,
) -> Scenario: ...


def given(of: type[Features] | Agent, *past: Any, **how: Any) -> rows.Given | Scenario:
    """A past, and whose: a declaration of features, whose rows follow (`then`), or an agent, to which something happens (`when`).

    Of features: these events, in this order, about these customers; ids of the tenant's own are plain strings.

    Of an agent: what was said about customers until `at`, and what they agreed to. Signals are recorded when they occurred, in that
    order; what they ask of the agent it only observes. From then on it may go as far as `mode`. `tools` are called for real instead of
    the sandbox; `network` lets them, and everything else, reach beyond this machine. Raises what recording raises, InvalidInput for a
    signal after `at`.
    """
    if isinstance(of, Agent):
        return Scenario(of, past, **how)
    return rows.given(of, *past, **how)
