"""Who reads which feature: other features, the components of a health model, the policies of agents. For whoever wants to change one.

Reads declarations and the code of components; runs neither. May import this room, projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any, Final

from postsale.agents.agent import Agent
from postsale.agents.evidence import OFFERED
from postsale.projections import HealthModel

_BEHIND: Final = {
    "subscribed": ("known", "running"),
    "cancellation_scheduled": ("known", "cancelling"),
    "days_to_cancellation": ("known", "cancelling"),
}
"""Evidence whose value comes from features of other names."""
_HEALTH: Final = frozenset({"health", "health_band", "health_trend"})


def consumers(model: HealthModel, agents: Iterable[Agent] = ()) -> dict[str, tuple[str, ...]]:
    """Every feature of the model's declaration with what reads it, in words; () where nothing here does.

    A component is asked by its code: every feature that it, or a function of its module that it calls, names as a constant. Who
    reads features in code of their own, in a notebook or a warehouse, is not known here.
    """
    features = model.features
    found: dict[str, list[str]] = {name: [] for name in [*features.leaves, *(d.name for d in features.deriveds)]}

    def reads(names: Iterable[str], who: str) -> None:
        for name in names:
            if name in found and who not in found[name]:
                found[name].append(who)

    for derived in features.deriveds:
        reads(derived.needs, f"feature {derived.name}")
    scored: set[str] = set()
    for component in model.components:
        named = {*_named(component.score), *([component.fresh] if component.fresh is not None else [])}
        scored |= named
        reads(sorted(named), f"component {component.name} of {model.name}")
    for agent in agents:
        wanted = agent.wanted
        reads(sorted(wanted), f"agent {agent.name}")
        for name in sorted(wanted & _BEHIND.keys() & OFFERED.keys()):
            reads(_BEHIND[name], f"agent {agent.name}, through {name}")
        if wanted & _HEALTH:
            reads(sorted(scored), f"agent {agent.name}, through health")
    return {name: tuple(who) for name, who in found.items()}


def _named(function: Callable[..., Any]) -> set[str]:
    """Every string and attribute that a function's code names, and those of functions of its module that it names."""
    found: set[str] = set()
    todo: list[FunctionType] = [function] if isinstance(function, FunctionType) else []
    seen: set[FunctionType] = set()
    while todo:
        here = todo.pop()
        seen.add(here)
        names = set(_constants(here.__code__))
        found |= names
        called = (here.__globals__.get(name) for name in names)
        todo += [f for f in called if isinstance(f, FunctionType) and f.__module__ == here.__module__ and f not in seen]
    return found


def _constants(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _constants(constant)
