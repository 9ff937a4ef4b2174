"""Terms of risk cases: how soon somebody acts, how long a case may stay in a stage. A warning and a breach, each once.

Pure; may import the tables, the calendar, aggregates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from postsale.agents.calendar import due_us
from postsale.agents.tables import Name, Within
from postsale.aggregates.customer import CustomerAggregate, RiskCase
from postsale.aggregates.risk import Stage
from postsale.aggregates.timed import SlaBreached, SlaWarned
from postsale.events import from_us

if TYPE_CHECKING:
    from postsale.agents.policy import Policy


class Sla(Within):
    """A term. `first-action` runs from the opening of a case until the first effect that happened, of any agent, or until a person moved
    the case; `stage` while the case is in `stage`. It asks the agent, with this id as condition, at the events in `asks`.
    """

    id: Name
    measure: Literal["first-action", "stage"]
    stage: Stage | None = None
    warn_percent: Annotated[int, Field(ge=1, le=99)] | None = None  # of the elapsed term; None: no warning
    asks: tuple[Literal["warning", "breach"], ...] = ()

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if (self.stage is None) is (self.measure == "stage"):
            raise ValueError('stage: it belongs to measure = "stage", and only there')
        if "warning" in self.asks and self.warn_percent is None:
            raise ValueError("asks: without warn_percent there is no warning")
        return self


@dataclass(frozen=True, slots=True)
class Term:
    """One running term of one case."""

    sla: Sla
    case: RiskCase
    since_us: int
    warn_us: int | None
    due_us: int
    warned: bool
    breached: bool

    @property
    def next_us(self) -> int | None:
        """When it has something to say next."""
        if self.breached:
            return None
        return self.due_us if self.warned or self.warn_us is None else self.warn_us


def terms(c: CustomerAggregate, agent: str, policy: Policy) -> Iterator[Term]:
    """The terms that run for this customer's open cases."""
    for sla in policy.slas or ():
        for case in c.cases.values():
            if sla.measure == "first-action" and case.acted_us is not None:
                continue
            if sla.measure == "stage" and case.stage != sla.stage:
                continue
            since = case.opened_at_us if sla.measure == "first-action" else case.stage_since_us
            end = due_us(since, sla, policy.calendar)
            warn = None if sla.warn_percent is None else _share(since, end, sla, policy)
            said = {what for a, s, at, what in case.missed if (a, s, at) == (agent, sla.id, since)}
            yield Term(sla, case, since, warn, end, "warned" in said, "breached" in said)


def _share(since_us: int, end_us: int, sla: Sla, policy: Policy) -> int:
    """The given share of the term, of its open hours where it is counted in those."""
    percent = sla.warn_percent or 0
    if sla.within_business_h is not None and policy.calendar is not None:
        return policy.calendar.after(since_us, policy.calendar.between(since_us, end_us) * percent // 100)
    return since_us + (end_us - since_us) * percent // 100


def missed(term: Term, agent: str, now_us: int) -> SlaWarned | SlaBreached | None:
    """What is to be said now: the breach, else the warning, each once; a warning that was overtaken by its breach is not made up."""
    says: dict[str, Any] = {
        "case_id": term.case.case_id,
        "agent": agent,
        "sla": term.sla.id,
        "since": from_us(term.since_us),
        "due_at": from_us(term.due_us),
    }
    if not term.breached and now_us >= term.due_us:
        return SlaBreached(**says)
    if not term.breached and not term.warned and term.warn_us is not None and now_us >= term.warn_us:
        return SlaWarned(**says)
    return None
