"""An agent: a name, a policy and the evidence it offers. Its decisions are its policy's; subclass it to offer more evidence.

Lives here: who decides and by which code. Not here: tools, engines, the log. May import this room's deciding modules.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import ClassVar, TypeVar

from pydantic import TypeAdapter, ValidationError

from postsale.agents.decide import AgentSpec
from postsale.agents.evidence import OFFERED, HealthReading, customer_evidence
from postsale.agents.expressions import InputType
from postsale.agents.faults import caught
from postsale.agents.planner import Planner
from postsale.agents.policy import Policy
from postsale.agents.prompts import Prompt
from postsale.agents.tables import Name
from postsale.aggregates.artifacts import EVERY_AGENT
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import Scalar
from postsale.aggregates.undos import UNDO_AGENT
from postsale.errors import BadDeclaration, PolicyInvalid

_DECIDING = tuple(
    f"postsale.agents.{name}"
    for name in (
        "expressions",
        "limits",
        "flags",
        "planner_policy",
        "policy_sections",
        "policy",
        "templates",
        "policy_check",
        "tree",
        "guardrails",
        "evidence",
        "planner_answer",
        "conversation",
        "calendar",
        "approval_rules",
        "editing",
        "decide",
        "agent",
    )
)
T = TypeVar("T")
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class Agent:
    """Something that decides about customers inside a policy.

    `Agent(policy=Policy.load("mine.toml"))` is an agent. A subclass may add evidence: declare names and types in `offers`
    and return their values from `evidence`; both are code that decides, and its digest is kept with every decision.
    """

    offers: ClassVar[Mapping[str, InputType]] = {}

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        name: str | None = None,
        planners: Iterable[Planner] = (),
        prompts: Iterable[Prompt] = (),
    ) -> None:
        """`name` defaults to the policy's. `planners` are what rows with `action = "plan"` may hand over to; `prompts` are installed
        with the agent where the log knows none of their name. Raises BadDeclaration without a policy, with a name that is not one, for
        two planners or prompts of one name, and for what is no planner."""
        policy = policy or self.default_policy()
        if policy is None:
            raise BadDeclaration(what=type(self).__name__, reason="an agent needs a policy: pass policy=Policy.load(…)")
        self.policy = policy
        try:
            self.name = _NAME.validate_python(name or policy.name)
        except ValidationError:
            raise BadDeclaration(what=type(self).__name__, reason="the name must be 1 to 64 of a-z, 0-9, '.', '_', '-'") from None
        if self.name in {EVERY_AGENT, UNDO_AGENT}:
            raise BadDeclaration(what=type(self).__name__, reason=f'the name "{self.name}" is taken: it stands for a switch of its own')
        self.planners = self._by_name("planners", planners, Planner, "name")  # type: ignore[type-abstract]
        self.prompts = self._by_name("prompts", prompts, Prompt, "id")

    def _by_name(self, what: str, given: Iterable[T], kind: type[T], attribute: str) -> Mapping[str, T]:
        found: dict[str, T] = {}
        for one in given:
            if not isinstance(one, kind):
                raise BadDeclaration(what=type(self).__name__, reason=f"{what}: a {type(one).__name__} is no {kind.__name__}")
            name = getattr(one, attribute)
            if name in found:
                raise BadDeclaration(what=type(self).__name__, reason=f"{what}: two named {name!r}")
            found[name] = one
        return MappingProxyType(found)

    @classmethod
    def default_policy(cls) -> Policy | None:
        """The policy that this kind of agent brings along; None when it brings none."""
        return None

    def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> Mapping[str, Scalar]:  # noqa: ARG002
        """Values for the names in `offers`. Pure: the same state and time give the same values."""
        return {}

    # ------------------------------------------------------------ what the engine asks

    def values(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> dict[str, Scalar]:
        """Everything on offer: the built-in evidence, the reading's features, and what this agent adds. Its faults are exceptions."""
        try:
            own = dict(self.evidence(customer, health, at_us))
        except (Exception, KeyboardInterrupt, SystemExit):  # the latter two: somebody ends this process
            raise
        except BaseException as error:
            raise caught(error) from None
        return _built_in(customer, health, at_us) | own

    def check(self, policy: Policy, features: Mapping[str, InputType | None]) -> None:
        """Return when every input of `policy` is on offer with its declared type; else PolicyInvalid names the input."""
        on_offer: dict[str, InputType | None] = dict(features) | {n: o.type for n, o in OFFERED.items()} | dict(self.offers)
        for name, kind in policy.inputs.items():
            if name in (policy.flags or {}):
                continue
            if name not in on_offer:
                raise PolicyInvalid(policy=policy.name, where=f"inputs.{name}", reason=f"agent {self.name!r} has no such evidence")
            if on_offer[name] not in {kind, None}:
                raise PolicyInvalid(policy=policy.name, where=f"inputs.{name}", reason=f"declared {kind}, but it is {on_offer[name]}")

    @property
    def wanted(self) -> frozenset[str]:
        """Evidence names that the agent's own policy declares."""
        return frozenset(self.policy.inputs)

    @functools.cached_property
    def spec(self) -> AgentSpec:
        """Who decides, by name and code, as a decision records it."""
        cls = type(self)
        return AgentSpec(self.name, f"{cls.__module__}:{cls.__qualname__}", decider_digest(cls), package_version())


_newest: tuple[CustomerAggregate, HealthReading, int, dict[str, Scalar]] | None = None  # what was asked for last; all of it immutable


def _built_in(customer: CustomerAggregate, health: HealthReading, at_us: int) -> dict[str, Scalar]:
    """The built-in evidence, made once for agents that look at one customer in turn."""
    global _newest
    newest = _newest
    if newest is not None and newest[0] is customer and newest[1] is health and newest[2] == at_us:
        return newest[3]
    values = customer_evidence(customer, health, at_us)
    _newest = (customer, health, at_us, values)
    return values


def decider_digest(cls: type[Agent]) -> str:
    """SHA-256, hex, of the source of the deciding modules and of every module that an agent class inherits from.

    A module without source (a prompt) counts by its name alone.
    """
    return _source_digest(tuple(dict.fromkeys([*_DECIDING, *(base.__module__ for base in reversed(cls.__mro__) if base is not object)])))


@functools.cache
def _source_digest(modules: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in modules:
        module = sys.modules.get(name) or importlib.import_module(name)
        try:
            source = inspect.getsource(module)
        except (OSError, TypeError):
            source = f"no source: {name}"
        raw = source.encode()
        digest.update(f"{name}:{len(raw)}:".encode() + raw)
    return digest.hexdigest()


@functools.cache
def package_version() -> str:
    """The installed version of this package; "unknown" when it is run from a bare source tree."""
    try:
        return version("postsale")
    except PackageNotFoundError:
        return "unknown"
