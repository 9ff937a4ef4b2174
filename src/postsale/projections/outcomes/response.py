"""How soon and how often somebody acts: risk episodes, triggers, agent by agent, and tickets. Pure.

An episode of an account begins when a condition of an agent became true by a fact or by time passing, or a risk case was opened, and
ends with the first action: an effect that happened outside a sandbox, or a person moving the case. What happens in between belongs to it;
a case that is closed before any action ends it unanswered. Schedules, waits and terms that ask an agent are no crossing of a threshold.
Imports `aggregates`, `using`, intervals, measure and folds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from postsale.aggregates import decisions as d
from postsale.aggregates import timed as t
from postsale.aggregates.risk import RiskCaseClosed, RiskCaseMoved, RiskCaseOpened
from postsale.events import DAY_US, Event
from postsale.projections.folding import FeatureValues
from postsale.projections.outcomes.intervals import wilson
from postsale.projections.outcomes.measure import Frame, Measure
from postsale.projections.outcomes.using import median_measure

_READ: Final[tuple[type[Event], ...]] = (
    d.TriggerRaised,
    d.DecisionRecorded,
    d.EffectSucceeded,
    RiskCaseOpened,
    RiskCaseMoved,
    RiskCaseClosed,
    t.ScheduleCame,
    t.WaitEnded,
    t.SlaWarned,
    t.SlaBreached,
)
KINDS: Final = frozenset(cls.wire_name.partition("@")[0] for cls in _READ)
"""The kinds of event of the decision lane that are read here."""
_HOUR_US: Final = DAY_US // 24
_MINUTE_US: Final = _HOUR_US // 60


class Happened(NamedTuple):
    """An event of an account's decision lane."""

    ref: str  # the account it belongs to
    at_us: int
    position: int
    event_id: UUID
    event: Event


class Episode(NamedTuple):
    """An account at high risk, and what came first: an action, or the end of what is known."""

    ref: str
    since_us: int
    until_us: int
    acted: bool


def episodes(happened: Iterable[Happened], as_of_us: int, conditions: Collection[str] | None = None) -> list[Episode]:
    """By account and time. `conditions` are those that mean risk, as `agent/condition`; None: each of every agent."""
    events = sorted(happened, key=lambda h: (h.ref, h.at_us, h.position))
    timed = {h.event_id for h in events if isinstance(h.event, t.ScheduleCame | t.WaitEnded | t.SlaWarned | t.SlaBreached)}
    found: list[Episode] = []
    since: dict[str, int] = {}
    for ref, at, _, _, event in events:
        match event:
            case RiskCaseOpened():
                since.setdefault(ref, at)
            case d.TriggerRaised(agent=agent, condition=condition, cause=cause, causing_event=causing):
                risk = conditions is None or f"{agent}/{condition}" in conditions
                if risk and cause != "command" and causing not in timed:
                    since.setdefault(ref, at)
            case d.EffectSucceeded(sandbox=False) | RiskCaseMoved() | RiskCaseClosed() if ref in since:
                found.append(Episode(ref, since.pop(ref), at, not isinstance(event, RiskCaseClosed)))
            case _:
                pass
    found += [Episode(ref, at, as_of_us, acted=False) for ref, at in since.items()]
    return sorted(found)


def response(happened: Sequence[Happened], frame: Frame, conditions: Collection[str] | None = None) -> list[Measure]:
    """Of the period: time to response, the share of at-risk accounts with an action, and of triggers with a disposition."""
    begun = [e for e in episodes(happened, frame.as_of_us, conditions) if frame.start_us <= e.since_us < frame.end_us]
    waits = [(e.until_us - e.since_us, e.acted) for e in begun]
    accounts = {e.ref for e in begun}
    triggers = {h.event_id for h in happened if isinstance(h.event, d.TriggerRaised) and frame.start_us <= h.at_us < frame.end_us}
    decided = {h.event.trigger_id for h in happened if isinstance(h.event, d.DecisionRecorded)}
    reached, disposed = len({e.ref for e in begun if e.acted}), len(triggers & decided)
    return [
        median_measure("time-to-response", waits, frame, "risk episodes that began in the period", {}, unit="hours"),
        share("coverage-at-risk-accounts", reached, len(accounts), "accounts with a risk episode that began in the period", frame),
        share(
            "coverage-triggers",
            disposed,
            len(triggers),
            "triggers of the period; covered once a decision was recorded, whatever it was",
            frame,
        ),
    ]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What one agent made of the triggers of the period, as it was decided."""

    agent: str
    triggers: int
    waiting: int  # not decided yet
    dispositions: Mapping[str, int]  # acted, awaiting, suppressed, failed
    suppressed_by: Mapping[str, int]  # kind of rule, such as policy, consent, frequency, holdout

    def to_dict(self) -> dict[str, Any]:
        return {
            "agent": self.agent,
            "triggers": self.triggers,
            "waiting": self.waiting,
            "dispositions": dict(self.dispositions),
            "suppressed_by": dict(self.suppressed_by),
        }


def coverage(happened: Sequence[Happened], frame: Frame) -> list[Coverage]:
    """By agent, the disposition of each of its triggers of the period."""
    decided = {h.event.trigger_id: h.event for h in happened if isinstance(h.event, d.DecisionRecorded)}
    raised: dict[str, list[d.DecisionRecorded | None]] = {}
    for h in happened:
        if isinstance(h.event, d.TriggerRaised) and frame.start_us <= h.at_us < frame.end_us:
            raised.setdefault(h.event.agent, []).append(decided.get(h.event_id))
    made = []
    for agent in sorted(raised):
        decisions = [event for event in raised[agent] if event is not None]
        by = Counter(event.disposition for event in decisions)
        why = Counter((event.suppressed_by or "").partition(":")[0] for event in decisions if event.disposition == "suppressed")
        made.append(
            Coverage(agent, len(raised[agent]), len(raised[agent]) - len(decisions), dict(sorted(by.items())), dict(sorted(why.items())))
        )
    return made


def share(
    name: str, hits: int, n: int, population: str, frame: Frame, excluded: Mapping[str, int] | None = None, note: str = ""
) -> Measure:
    """A proportion with its Wilson interval."""
    return Measure(
        name=name,
        value=round(hits / n, 9) if n else None,
        unit="ratio",
        population=population,
        n=n,
        numerator=hits,
        denominator=n,
        excluded=excluded or {},
        interval=wilson(hits, n),
        frame=frame,
        note=note,
    )


# ---------------------------------------------------------------- tickets


def tickets(customers: Mapping[str, FeatureValues], frame: Frame, reply_within_us: int | None = None) -> list[Measure]:
    """Tickets opened in the period: time to the first public reply and to the solution, wall-clock; with a term, the share that kept it.

    Values of `Support`. A ticket whose opening is not known is not counted.
    """
    replies: list[tuple[int, bool]] = []
    solved: list[tuple[int, bool]] = []
    for v in customers.values():
        for ticket, at in v["opened_at"].items():
            if not frame.start_us <= at < frame.end_us:
                continue
            told = v["reply_min"].get(ticket, v["solved_reply_min"].get(ticket))
            replied = v["replied_at"].get(ticket)
            wait = told * _MINUTE_US if told is not None else None if replied is None else replied - at
            replies.append((frame.as_of_us - at, False) if wait is None else (max(0, wait), True))
            end = v["solved_at"].get(ticket)
            end = None if end is None or v["reopened_at"].get(ticket, end - 1) > end else end  # it is open again
            solved.append((frame.as_of_us - at, False) if end is None else (max(0, end - at), True))
    population = "tickets opened in the period"
    made = [
        median_measure("first-reply-time", replies, frame, population, {}, unit="hours"),
        median_measure("resolution-time", solved, frame, population, {}, unit="hours"),
    ]
    if reply_within_us is not None:
        running = sum(not there and wait <= reply_within_us for wait, there in replies)
        kept = sum(there and wait <= reply_within_us for wait, there in replies)
        out = {"not answered, and the term is not over": running} if running else {}
        note = f"{reply_within_us / _HOUR_US:g} hours, wall-clock"
        made.append(share("sla-first-reply", kept, len(replies) - running, population, frame, out, note))
    return made
