"""Risk cases: who opened them and why, how long they were in each stage, what came of them, and whether terms were kept. Pure.

Terms are those of the policies, which count business hours where they say so: what is read here is that one was warned of or missed.
Imports `aggregates`, `response`, `using`, measure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from postsale.aggregates import decisions as d
from postsale.aggregates import timed as t
from postsale.aggregates.risk import RiskCaseClosed, RiskCaseMoved, RiskCaseOpened
from postsale.events import DAY_US, iso
from postsale.projections.outcomes.measure import Frame, Measure
from postsale.projections.outcomes.response import Happened, share
from postsale.projections.outcomes.using import median_measure

STAGES: Final = ("at-risk", "plan-in-place", "saving")
A_PERSON: Final = "a person"
_HOUR_US: Final = DAY_US // 24


@dataclass(frozen=True, slots=True)
class Case:
    """One risk case as it stands at `as_of`."""

    ref: str
    case_id: UUID
    opened_by: str  # agent/condition, or "a person"
    reason: str
    stays: tuple[tuple[str, int, int], ...]  # stage, from, to; the last of an open case lasts until `as_of`
    result: Literal["recovered", "lost"] | None  # None: open
    closing: str  # why it was closed; "" while it is open
    missed: bool  # a term

    @property
    def opened_us(self) -> int:
        return self.stays[0][1]

    @property
    def until_us(self) -> int:
        return self.stays[-1][2]

    def hours(self, stage: str) -> float:
        """In this stage, all stays together."""
        return sum(to - since for name, since, to in self.stays if name == stage) / _HOUR_US

    def to_dict(self) -> dict[str, Any]:
        return {
            "ref": self.ref,
            "case_id": str(self.case_id),
            "opened_at": iso(self.opened_us),
            "opened_by": self.opened_by,
            "reason": self.reason,
            "hours": {stage: round(self.hours(stage), 3) for stage in STAGES if any(stage == s for s, _, _ in self.stays)},
            "result": self.result,
            "closed_at": None if self.result is None else iso(self.until_us),
            "closing": self.closing,
            "missed_a_term": self.missed,
        }


def cases(happened: Sequence[Happened], frame: Frame) -> list[Case]:
    """Risk cases opened in the period, by time and reference."""
    events = sorted(happened, key=lambda h: (h.at_us, h.position))
    triggers = {h.event_id: f"{h.event.agent}/{h.event.condition}" for h in events if isinstance(h.event, d.TriggerRaised)}
    opened: dict[UUID, tuple[str, str, str]] = {}
    passed: dict[UUID, list[tuple[str, int]]] = {}
    closed: dict[UUID, tuple[int, Literal["recovered", "lost"] | None, str]] = {}
    missed: set[UUID] = set()
    for h in events:
        match h.event:
            case RiskCaseOpened(case_id=id_, reason=reason, trigger_id=trigger):
                by = A_PERSON if trigger is None else triggers.get(trigger, "an agent")
                opened[id_], passed[id_] = (h.ref, by, reason), [("at-risk", h.at_us)]
            case RiskCaseMoved(case_id=id_, stage=stage) if id_ in passed:
                passed[id_].append((stage, h.at_us))
            case RiskCaseClosed(case_id=id_, result=result, reason=reason):
                closed[id_] = (h.at_us, result, reason)
            case t.SlaBreached(case_id=id_):
                missed.add(id_)
            case _:
                pass
    found = []
    for id_, (ref, by, reason) in opened.items():
        stages = passed[id_]
        if not frame.start_us <= stages[0][1] < frame.end_us:
            continue
        ending = closed.get(id_)
        end_us, closing = (frame.as_of_us, "") if ending is None else (ending[0], ending[2])
        ends = [*(since for _, since in stages[1:]), end_us]
        stays = tuple((stage, since, to) for (stage, since), to in zip(stages, ends, strict=True))
        found.append(Case(ref, id_, by, reason, stays, None if ending is None else ending[1], closing, id_ in missed))
    return sorted(found, key=lambda c: (c.opened_us, c.ref, str(c.case_id)))


def case_measures(found: Sequence[Case], happened: Sequence[Happened], frame: Frame) -> list[Measure]:
    """Of cases opened in the period: recovered and lost of those that are closed, terms kept, and how long they were in each stage."""
    ended = [c for c in found if c.result is not None]
    still = Counter({"still open": len(found) - len(ended)}) if len(found) > len(ended) else Counter[str]()
    closed = "risk cases opened in the period and closed since"
    made = [
        share(f"cases-{result}", sum(c.result == result for c in ended), len(ended), closed, frame, still)
        for result in ("recovered", "lost")
    ]
    terms = any(isinstance(h.event, t.SlaWarned | t.SlaBreached) for h in happened)
    judged = [c for c in found if c.missed or c.result is not None] if terms else []
    out = {"still open, nothing missed": len(found) - len(judged)} if terms else {"no term was ever warned of or missed": len(found)}
    kept = sum(not c.missed for c in judged)
    note = "by the terms of the policies, in their business hours where they say so"
    population = "risk cases opened in the period that are closed or missed a term"
    made.append(share("sla-risk-cases", kept, len(judged), population, frame, {k: n for k, n in out.items() if n}, note if judged else ""))
    for stage in STAGES:
        waits = [w for c in found for w in _waits(c, stage)]
        made.append(
            median_measure(f"case-time-{stage}", waits, frame, "stays in this stage of cases opened in the period", {}, unit="hours")
        )
    return made


def _waits(c: Case, stage: str) -> Iterator[tuple[int, bool]]:
    for i, (name, since, to) in enumerate(c.stays):
        if name == stage:
            yield to - since, c.result is not None or i + 1 < len(c.stays)
