"""Policies: typed decision tables with triggers, guardrails and an outcome; data, never code.

Lives here: a policy as a whole, loading, its canonical content and digest. Its sections are in `policy_sections`,
what makes one valid in `policy_check`, how it prints and differs in `policy_text`. No evidence, no clock, no tools. May import
aggregates (digest), events, errors.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, JsonValue, ValidationError

from postsale.agents.approval_rules import ApprovalRules
from postsale.agents.budget_policy import Budget
from postsale.agents.calendar import Calendar
from postsale.agents.conversation import Conversation
from postsale.agents.expressions import Cell, InputType, Value, all_of, parse_cell
from postsale.agents.flags import FlagInput
from postsale.agents.holdout import Holdout
from postsale.agents.policy_sections import Autonomy, Cells, Guardrails, Outcome, Rule, Trigger
from postsale.agents.regions import Box, box_of
from postsale.agents.schedules import Schedule
from postsale.agents.sla import Sla
from postsale.agents.tables import Name, Table
from postsale.agents.waits import WaitFor
from postsale.aggregates.artifacts import content_digest
from postsale.errors import PolicyInvalid
from postsale.events import Id, Text, canonical

NO_ACTION = "none"
_SOME = Field(min_length=1, max_length=50)
_STORED = "stored"  # the validation context of a policy that the log holds
Hit = Literal["first", "unique", "any", "priority", "collect", "output-order"]
SEVERAL: frozenset[Hit] = frozenset({"collect", "output-order"})  # hit policies under which several rows decide together


class Policy(Table):
    """A decision table with everything that limits it. Immutable; equal content has an equal digest, wherever it was written."""

    name: Name
    version: Annotated[int, Field(ge=1, le=1_000_000)]
    owner: Id
    description: Text
    inputs: dict[Id, InputType]
    flags: dict[Id, FlagInput] | None = None  # inputs whose value is a flag's
    hit: Hit = "first"
    widens: bool | None = None  # declares that this version lets the agent do more than the one before it
    priorities: tuple[Name, ...] | None = None  # actions, the most important first; for `priority` and `output-order`
    tree: dict[str, JsonValue] | None = None  # the table as a tree, from which `rules` follow; see `tree`
    triggers: Annotated[tuple[Trigger, ...], Field(alias="trigger", max_length=100)] = ()
    rules: Annotated[tuple[Rule, ...], Field(alias="rule", min_length=1, max_length=500)]
    options: Annotated[Annotated[tuple[Rule, ...], Field(min_length=1, max_length=200)] | None, Field(alias="option")] = (
        None  # what planners may choose
    )
    guardrails: Guardrails
    holdout: Holdout | None = None  # whom it leaves alone, at random
    autonomy: Autonomy | None = None
    budgets: Annotated[Annotated[tuple[Budget, ...], Field(min_length=1, max_length=20)] | None, Field(alias="budget")] = None
    outcome: Outcome | None = None
    conversation: Conversation | None = None
    approvals: ApprovalRules | None = None
    calendar: Calendar | None = None  # of business hours
    schedules: Annotated[Annotated[tuple[Schedule, ...], _SOME] | None, Field(alias="schedule")] = None
    waits: Annotated[Annotated[tuple[WaitFor, ...], _SOME] | None, Field(alias="wait")] = None
    slas: Annotated[Annotated[tuple[Sla, ...], _SOME] | None, Field(alias="sla")] = None

    def model_post_init(self, context: Any, /) -> None:
        """Every policy object is a valid one: compiling and checking is part of making it."""
        from postsale.agents.policy_check import check

        check(self, stored=context == _STORED)

    # ------------------------------------------------------------ making one

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The policy in a TOML file. Raises PolicyInvalid naming the place, OSError when there is no such file."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise PolicyInvalid(policy=path.name, where="the file", reason="not valid UTF-8") from None
        return cls.from_toml(text, name=path.name)

    @classmethod
    def from_toml(cls, text: str, *, name: str = "policy") -> Self:
        """The policy in a TOML text; `name` stands for it in errors until its own name is known."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PolicyInvalid(policy=name, where="the file", reason=f"not TOML: {error}") from None
        except RecursionError:
            raise PolicyInvalid(policy=name, where="the file", reason="nested too deeply") from None
        return cls._validated(data, name)

    @classmethod
    def from_json(cls, content: str) -> Self:
        """The policy that `content` of an earlier one holds. Round trip: `Policy.from_json(p.content) == p`.

        One that was published is read by every later version: what is refused in new policies only is not refused here.
        """
        return cls._validated(content, "policy", _STORED)

    @classmethod
    def _validated(cls, data: str | Mapping[str, Any], name: str, context: str | None = None) -> Self:
        plain: Any = data
        if isinstance(data, Mapping):
            name = str(data.get("name", name))[:100]
            if "tree" in data:
                from postsale.agents.tree import grow

                data = grow(data, name)
            try:
                data = canonical(data).decode()
            except TypeError:
                raise PolicyInvalid(policy=name, where="the file", reason="a value that JSON does not have") from None
        try:
            return cls.model_validate_json(data, context=context)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = _place(first["loc"], plain if isinstance(plain, Mapping) else {})
            raise PolicyInvalid(policy=name, where=where, reason=first["msg"].removeprefix("Value error, ")) from None

    # ------------------------------------------------------------ its identity

    @cached_property
    def content(self) -> str:
        """Canonical JSON: what the log keeps. From it alone, any decision can be made again."""
        return canonical(self.model_dump(mode="json", by_alias=True, exclude_none=True)).decode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `content`, hex: the name of exactly this version."""
        return content_digest(self.content)

    # ------------------------------------------------------------ compiled

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rules, compiled, in order."""
        return tuple(Row(rule, all_of(self.cells(rule.when, f"rule {rule.id!r}, when"))) for rule in self.rules)

    @cached_property
    def choices(self) -> tuple[Row, ...]:
        """The options, compiled, in order."""
        return tuple(Row(o, all_of(self.cells(o.when, f"option {o.id!r}, when"))) for o in self.options or ())

    @property
    def acts(self) -> tuple[Rule, ...]:
        """Everything that may be done: the rules and the options."""
        return (*self.rules, *(self.options or ()))

    @cached_property
    def boxes(self) -> tuple[Box, ...]:
        """What each rule matches, in order."""
        return tuple(box_of(self.cells(rule.when, f"rule {rule.id!r}, when"), self.inputs) for rule in self.rules)

    def deciding(self, matching: Sequence[Rule]) -> tuple[tuple[Rule, ...], str]:
        """Which of the rules that match decide, in order; none, and why, where the hit policy refuses."""
        if not matching:
            return (), "no-rule"
        acting = tuple(r for r in matching if r.action != NO_ACTION) or tuple(matching[:1])
        match self.hit:
            case "first":
                return (matching[0],), ""
            case "unique":
                return ((matching[0],), "") if len(matching) == 1 else ((), "not-unique")
            case "any":
                same = all(r.output == matching[0].output for r in matching)
                return ((matching[0],), "") if same else ((), "not-any")
            case "priority":
                return (min(matching, key=self.rank),), ""
            case "collect":
                return acting, ""
            case "output-order":
                return tuple(sorted(acting, key=self.rank)), ""

    def rank(self, rule: Rule) -> int:
        """Its action's place among `priorities`, 0 the most important; "none" is last unless it is listed."""
        order = self.priorities or ()
        return order.index(rule.action) if rule.action in order else len(order)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """The triggers, compiled, in order."""
        out = []
        for t in self.triggers:
            until = None if t.until is None else all_of(self.cells(t.until, f"trigger {t.id!r}, until"))
            out.append(Condition(t.id, all_of(self.cells(t.when, f"trigger {t.id!r}, when")), until))
        return tuple(out)

    def cells(self, when: Cells, where: str) -> dict[str, Cell]:
        """The parsed cells of a `when`; PolicyInvalid names the cell. Cells must name declared inputs."""
        out = {}
        for name, cell in when.items():
            if name not in self.inputs:
                raise PolicyInvalid(policy=self.name, where=f"{where}.{name}", reason="this input is not declared under [inputs]")
            out[name] = parse_cell(cell, self.inputs[name], policy=self.name, where=f"{where}.{name}")
        return out

    def holds(self, when: Cells, where: str, values: Mapping[str, Value]) -> bool:
        """Whether a condition holds; an empty one does."""
        return bool(all_of(self.cells(when, where))(values))

    @property
    def timed(self) -> bool:
        """Whether time alone may ask it, beyond what its conditions say."""
        return bool(self.schedules or self.waits or self.slas)

    @property
    def zone(self) -> str | None:
        """The zone of whoever has none of their own: the calendar's, else that of the quiet hours; None where the policy names none."""
        if self.calendar is not None:
            return self.calendar.zone
        return self.guardrails.quiet_hours.default_zone if self.guardrails.quiet_hours else None

    @property
    def channels(self) -> tuple[str, ...]:
        """Every channel that a row may use, sorted."""
        return tuple(sorted({r.channel for r in self.acts if r.channel}))

    @property
    def by_tier(self) -> bool:
        """Whether a limit asks how risky tools are."""
        return self.guardrails.tool_risk is not None or any(b.weights is not None for b in self.budgets or ())

    @property
    def tools(self) -> tuple[str, ...]:
        """Every tool that a row may name, sorted."""
        return tuple(sorted({r.tool for r in self.acts if r.tool}))

    # ------------------------------------------------------------ for people

    def table(self) -> str:
        """The policy as a table that a customer-success lead can read."""
        from postsale.agents.policy_text import table

        return table(self)

    def __str__(self) -> str:
        return self.table()

    def changes(self, other: Policy) -> tuple[Change, ...]:
        """What changes from this policy to `other`, rows by id; () when their digests are equal."""
        from postsale.agents.policy_text import changes

        return changes(self, other)

    def diff(self, other: Policy) -> list[str]:
        """`changes` in words, one line each."""
        return [str(change) for change in self.changes(other)]


class Change(NamedTuple):
    """One thing that differs between two policies."""

    where: str  # such as `rule 'mail'`, `guardrails`, `version`
    what: Literal["added", "removed", "changed", "moved"]
    field: str = ""  # of a row or section, such as `when.segment`
    before: Any = None  # JSON types; None: nothing
    after: Any = None

    def __str__(self) -> str:
        place = f"{self.where}.{self.field}" if self.field else self.where
        match self.what:
            case "changed":
                return f"{place}: {_short(self.before)} → {_short(self.after)}"
            case "moved":
                return f"{place} in another order: {', '.join(self.after)}"
            case "added" | "removed":
                return f"{place} {self.what}"

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


def _short(value: Any) -> str:
    return "nothing" if value in (None, [], {}) else str(value)


@dataclass(frozen=True, slots=True)
class Row:
    """A rule and whether it matches."""

    rule: Rule
    matches: Any  # Callable[[Mapping[str, Value]], bool]


@dataclass(frozen=True, slots=True)
class Condition:
    """A trigger's condition and when it is over."""

    id: str
    when: Any
    until: Any

    def up(self, values: Mapping[str, Value], was_up: bool) -> bool:
        """Whether the condition is up now, given that it was; `until` gives it a dead band, so that flapping raises nothing."""
        if self.when(values):
            return True
        return was_up and self.until is not None and not self.until(values)


def _place(loc: tuple[int | str, ...], data: Mapping[str, Any]) -> str:
    """A pydantic path with rows named by their id: `rule 2 'call-owner', offer.currency`."""
    parts, rest = list(loc), ""
    if len(parts) >= 2 and parts[0] in {"rule", "trigger", "option", "schedule", "wait", "sla", "budget"} and isinstance(parts[1], int):
        rows = data.get(str(parts[0]), [])
        row = rows[parts[1]] if isinstance(rows, list) and parts[1] < len(rows) else {}
        id_ = row.get("id", row.get("name")) if isinstance(row, Mapping) else None
        rest = f"{parts[0]} {parts[1] + 1}" + (f" {str(id_)[:64]!r}" if id_ else "")
        parts = parts[2:]
    path = ".".join(str(p) for p in parts if not (isinstance(p, str) and p.startswith(("constrained-", "function-"))))
    return ", ".join(x for x in (rest, path) if x) or "the file"
