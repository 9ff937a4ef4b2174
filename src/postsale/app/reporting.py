"""A tenant's report: one period read from the log, as of two clocks, for `postsale.report` to tell. Part of the wiring: may import everything
below `app`.

Memory grows with customers, months and decisions of the period, not with usage.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from postsale.agents import SHIPPED
from postsale.agents.budget_policy import per_of
from postsale.agents.editing import edit_of
from postsale.aggregates import asked as a
from postsale.aggregates import decisions as d
from postsale.aggregates.artifacts import EVERY_AGENT, POLICIES, AgentPaused, AgentResumed, ArtifactActivated, AutonomyChanged
from postsale.aggregates.identity import CUSTOMERS
from postsale.aggregates.risk import RiskCaseClosed, RiskCaseOpened
from postsale.app.budgets import budgets
from postsale.app.health import membership
from postsale.app.outcomes import frame_of, outcomes_of, revenue_of
from postsale.errors import InvalidInput
from postsale.events import Lane, StreamId, from_us, to_us
from postsale.projections.customer_health import CUSTOMER_HEALTH
from postsale.projections.folding import Fold, State, fact_of
from postsale.projections.health import FULL_MICRO, POINT_MICRO, HealthModel, Score
from postsale.projections.journal import Entry, Journal, decision_events
from postsale.projections.lifecycle import lifecycle_stage
from postsale.projections.outcomes import Frame
from postsale.projections.runner import CATEGORIES
from postsale.report import AgentYear, Approvals, AtRisk, Budget, Case, Funnel, HealthAt, Quarter, Report, RiskMonth, Turn
from postsale.store.contract import Query

if TYPE_CHECKING:
    from postsale.app.tenant import Tenant

_CASES: Final = frozenset({"risk/case-opened", "risk/case-closed"})
_ANSWERS: Final = (d.ApprovalGranted, d.ApprovalRejected, a.ApprovalReplaced)
_WHO: Final = ("approver", "by", "editor", "on_behalf_of")  # fields of a decision's events that name a person
_MOST_MONTHS: Final = 120
Kind = Literal["acted", "awaiting", "suppressed"]


def report_of(tenant: Tenant, start: datetime, end: datetime, *, as_of: datetime | None, known_at: datetime | None, names: bool) -> Report:
    """See `Tenant.report`."""
    ps = tenant._ps
    log = ps.log
    frame = frame_of(log, start, end, as_of, known_at, "recorded")
    times = [frame.start, *_month_ends(frame)]
    outcomes = outcomes_of(log, tenant.name, frame)
    currency = next(iter(sorted((m.currency for m in outcomes.movements), key=lambda c: -_opening(outcomes.movements, c))), None)
    parts = [Frame(start=b, end=e, as_of=frame.as_of, known_at=frame.known_at) for b, e in _quarters(frame)]
    head = log.store.tree_head(tenant.name)
    newest = next(iter(log.store.read(Query(tenant=tenant.name, known_at_us=to_us(frame.known_at), backward=True, limit=1))), None)
    entries, answered, people = _journal(tenant, frame)
    shown = tenant.names() if names else {}
    health, at_risk = _health(tenant, ps.model, times, frame, shown)
    mine = [e for e in entries if frame.start <= e.decided_at < frame.end]
    return Report(
        tenant=tenant.name,
        start=frame.start,
        end=frame.end,
        as_of=frame.as_of,
        known_at=frame.known_at,
        position=0 if newest is None else newest.position,
        leaves=head.size,
        root=head.root.hex(),
        currency=currency,
        health=health,
        at_risk=at_risk,
        risk=tuple(_risk(tenant, frame, times)),
        mrr=tuple(p for p in outcomes.mrr if p.currency == currency),
        quarters=tuple(
            Quarter(_quarter_name(part.frame), movements, _of(part.retention, "grr", currency), _of(part.retention, "nrr", currency))
            for part in revenue_of(log, tenant.name, parts)
            for movements in part.movements
            if movements.currency == currency and _has(part.retention, currency)
        ),
        measures=outcomes.measures,
        agents=tuple(_agents(tenant, mine, shown, people, frame)),
        approvals=_approvals(mine, answered),
        budgets=tuple(_budgets(tenant, frame)),
        referrals=Funnel(*outcomes.invitations),
        turns=tuple(_turns(tenant, frame)),
    )


# ---------------------------------------------------------------- times


def _month_ends(frame: Frame) -> list[datetime]:
    """The first moments of the months within the period, and its end."""
    out, at = [], frame.start.astimezone(UTC)
    while True:
        at = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
        if at >= frame.end:
            break
        out.append(at)
    if len(out) >= _MOST_MONTHS:
        raise InvalidInput(what="report", field="start", reason=f"expected a period of at most {_MOST_MONTHS} months")
    return [*out, frame.end]


def _quarters(frame: Frame) -> list[tuple[datetime, datetime]]:
    """The period cut where calendar quarters (UTC) begin."""
    cuts = [at for at in _month_ends(frame)[:-1] if at.month in (1, 4, 7, 10)]
    edges = [frame.start, *cuts, frame.end]
    return list(pairwise(edges))


def _quarter_name(frame: Frame) -> str:
    start = frame.start.astimezone(UTC)
    whole = (start.month % 3, start.day, start.hour) == (1, 1, 0) and (frame.end - frame.start).days >= 90
    return f"{start.year} Q{(start.month + 2) // 3}" if whole else f"from {start:%d %b %Y}"


# ---------------------------------------------------------------- customers


def _health(
    tenant: Tenant, model: HealthModel, times: Sequence[datetime], frame: Frame, names: Mapping[str, str]
) -> tuple[tuple[HealthAt, ...], tuple[AtRisk, ...]]:
    """Bands at each time, in one pass: each fact goes to the first of the times by which it had occurred, and states are merged on."""
    log, fold, times_us, known_us = tenant._ps.log, model.fold, [to_us(at) for at in times], to_us(frame.known_at)
    stage = model.stage or (lifecycle_stage if model.features is CUSTOMER_HEALTH.features else None)
    parts = _parts(tenant, fold, times_us, known_us)
    members = membership(log, tenant.name, times_us[-1], known_us)
    states: dict[StreamId, State] = {}
    points = []
    risky: list[tuple[int, str, AtRisk]] = []
    for no, at_us in enumerate(times_us):
        for stream, by_time in parts.items():
            if no in by_time:
                states[stream] = fold.merge(states[stream], by_time[no]) if stream in states else by_time[no]
        bands, left = Counter[str](), 0
        joined = {s for s, others in members.joined.items() if any(other in states for other in others)}
        for stream in ({s for s in states if s.category == CUSTOMERS} | joined) - members.merged:
            state = states.get(stream) or fold.empty()
            for other in members.joined.get(stream, ()):
                state = fold.merge(state, states[other]) if other in states else state
            values = fold.finish(state, at_us)
            its = None if stage is None else stage(values)
            if its is not None and its.name == "churned":
                left += 1
                continue
            score = model.score(values)
            bands[score.band or "none"] += 1
            case = stream in members.open_cases
            if at_us == times_us[-1] and (case or score.band == "poor"):
                told = AtRisk(names.get(stream.id, stream.id[:8]), score.score, case, _worst(score))
                risky.append((score.value_micro or 0, stream.id, told))
        points.append(HealthAt(times[no], bands["good"], bands["fair"], bands["poor"], bands["none"], left))
    return tuple(points), tuple(told for _, _, told in sorted(risky, key=lambda x: (x[0], x[2].customer)))


def _worst(score: Score) -> tuple[tuple[str, int], ...]:
    """The two parts that cost the most."""
    lost = [
        (c.weight * (FULL_MICRO - c.score_micro), c) for c in score.components if c.score_micro is not None and c.score_micro < FULL_MICRO
    ]
    return tuple((c.name, (c.score_micro or 0) // POINT_MICRO) for _, c in sorted(lost, key=lambda x: (-x[0], x[1].name))[:2])


def _parts(tenant: Tenant, fold: Fold, times_us: Sequence[int], known_us: int) -> dict[StreamId, dict[int, State]]:
    parts: dict[StreamId, dict[int, State]] = {}
    query = Query(tenant=tenant.name, lane=Lane.FACT, kinds=fold.kinds, as_of_us=times_us[-1], known_at_us=known_us)
    for stored in tenant._ps.log.store.read(query):
        if stored.stream.category not in CATEGORIES:
            continue
        no = bisect_left(times_us, stored.occurred_at_us)
        by_time = parts.setdefault(stored.stream, {})
        state = by_time.get(no)
        if state is None:
            state = by_time[no] = fold.empty()
        fold.add(state, fact_of(stored))
    return parts


def _risk(tenant: Tenant, frame: Frame, times: Sequence[datetime]) -> Iterator[RiskMonth]:
    query = Query(tenant=tenant.name, category=CUSTOMERS, lane=Lane.DECISION, kinds=_CASES, **_clocks(frame))
    moved = [(r.stored.occurred_at_us, r.data) for r in tenant._ps.log.events(query)]
    for begin, end in pairwise(times):
        b, e = to_us(begin), to_us(end)
        here = [event for at, event in moved if b <= at < e]
        closed = [event for event in here if isinstance(event, RiskCaseClosed)]
        by_then = [event for at, event in moved if at < e]
        open_ = sum(1 if isinstance(event, RiskCaseOpened) else -1 for event in by_then)
        won = sum(event.result == "recovered" for event in closed)
        yield RiskMonth(end, len(here) - len(closed), won, len(closed) - won, open_)


def _opening(movements: Sequence[Any], currency: str) -> int:
    return max((max(m.opening, m.closing) for m in movements if m.currency == currency), default=0)


def _has(measures: Sequence[Any], currency: str | None) -> bool:
    return {m.name for m in measures if m.currency == currency} >= {"grr", "nrr"}


def _of(measures: Sequence[Any], name: str, currency: str | None) -> Any:
    return next(m for m in measures if m.name == name and m.currency == currency)


# ---------------------------------------------------------------- agents


def _clocks(frame: Frame) -> dict[str, Any]:
    return {"as_of_us": frame.as_of_us, "known_at_us": to_us(frame.known_at)}


def _journal(tenant: Tenant, frame: Frame) -> tuple[list[Entry], Mapping[UUID, datetime], re.Pattern[str]]:
    """Every decision as it stands, when a person answered those that waited, and what finds the names of people who did."""
    journal, answered, people = Journal(), dict[UUID, datetime](), set[str]()
    for recorded in decision_events(tenant._ps.log.store, tenant.name, **_clocks(frame)):
        journal.add(recorded.stored, recorded.data)
        if isinstance(recorded.data, _ANSWERS):
            answered.setdefault(recorded.data.decision_id, from_us(recorded.stored.occurred_at_us))
        people |= {who for name in _WHO if isinstance(who := getattr(recorded.data, name, None), str) and who}
    named = "|".join(map(re.escape, sorted(people, key=lambda who: (-len(who), who))))
    return list(journal.entries.values()), answered, re.compile(rf"\b(by|from|for) (?:{named or '(?!)'})(?: \([\w:. -]*\))?(?![\w-])")


def _waited(entry: Entry) -> bool:
    return entry.recorded.disposition == "awaiting"


def _approvals(entries: Sequence[Entry], answered: Mapping[UUID, datetime]) -> Approvals:
    asked = [e for e in entries if _waited(e) and not _edited(e)]
    how = Counter(_answer(e) for e in asked)
    hours = sorted(round((answered[e.id] - e.decided_at).total_seconds() / 3600, 2) for e in asked if e.id in answered)
    return Approvals(
        len(asked), how["approved"], how["edited"], how["rejected"], how["lapsed"], how["overtaken"], how["waiting"], tuple(hours)
    )


def _answer(entry: Entry) -> str:
    if entry.disposition == "awaiting":
        return "waiting"
    by = entry.suppressed_by or ""
    if by == "approval:replaced":
        return "edited"
    if by == "approval:rejected":
        return "rejected"
    if entry.approver is not None or entry.disposition in ("acted", "failed"):
        return "approved"
    return "lapsed" if by.startswith("approval:") else "overtaken"


def _agents(tenant: Tenant, mine: Sequence[Entry], names: Mapping[str, str], people: re.Pattern[str], frame: Frame) -> Iterator[AgentYear]:
    found = {e.agent for e in mine}
    for name in [n for n in SHIPPED if n in found] + sorted(found - set(SHIPPED)):
        own = [e for e in mine if e.agent == name]
        known = [e for e in own if e.outcome is not None]
        rules = Counter(e.suppressed_by for e in own if e.disposition == "suppressed" and e.suppressed_by)
        yield AgentYear(
            name,
            _mode(tenant, name, frame),
            len(own),
            Counter(e.disposition for e in own),
            dict(sorted(rules.items(), key=lambda x: (-x[1], x[0]))),
            sum(_waited(e) for e in own),
            sum(e.outcome == "success" for e in known),
            len(known),
            tuple(_case(kind, e, names, people) for kind, e in _cases(own)),
        )


def _mode(tenant: Tenant, agent: str, frame: Frame) -> str:
    query = Query(tenant=tenant.name, streams=(StreamId(tenant.name, "agents", agent),), lane=Lane.DECISION, **_clocks(frame))
    mode = "observe"
    for recorded in tenant._ps.log.events(query):
        if isinstance(recorded.data, AutonomyChanged):
            mode = recorded.data.mode
    return mode


def _cases(own: Sequence[Entry]) -> Iterator[tuple[Kind, Entry]]:
    """One that acted, one that waited (still, if there is one), and two that different rules suppressed: the newest, and the most telling."""
    waiting = [e for e in own if e.disposition == "awaiting"] or _first([e for e in own if _waited(e)], lambda e: not _edited(e))
    acted = _first([e for e in own if e.disposition == "acted"], lambda e: e not in waiting[-1:])
    acted = _first(acted, lambda e: e.outcome == "success")
    yield from (("acted", e) for e in acted[-1:])
    yield from (("awaiting", e) for e in waiting[-1:])
    suppressed = [e for e in own if e.disposition == "suppressed" and e.suppressed_by is not None and e not in waiting[-1:]]
    of = {(e.suppressed_by or "").partition(":")[0]: e for e in suppressed}  # rules of different kinds, the newest of each
    of = of if len(of) > 1 else {e.suppressed_by or "": e for e in suppressed}
    for e in sorted(of.values(), key=lambda e: (_plain_rule(e.suppressed_by), -e.position))[:2]:
        yield "suppressed", e


def _first(entries: list[Entry], wanted: Callable[[Entry], bool]) -> list[Entry]:
    """Those that are wanted, if there are any."""
    return [e for e in entries if wanted(e)] or entries


def _edited(entry: Entry) -> bool:
    return edit_of(entry.recorded.flags) is not None


def _plain_rule(rule: str | None) -> int:
    """What a reader learns least from comes last: an agent that only watched, a person's own no."""
    kind = (rule or "").partition(":")[0]
    return {"autonomy": 2, "approval": 1}.get(kind, 0)


def _case(kind: Kind, e: Entry, names: Mapping[str, str], people: re.Pattern[str]) -> Case:
    then = tuple((at, people.sub(r"\1 a person", told)) for at, told in e.history[1:])
    return Case(
        kind,
        e.id,
        names.get(e.stream.id, e.stream.id[:8]),
        e.decided_at,
        e.recorded.condition,
        e.action,
        e.recorded.rationale,
        e.suppressed_by or e.recorded.rule or "",
        then,
        then[0][0] if kind == "awaiting" and e.disposition != "awaiting" and then else None,
    )


def _budgets(tenant: Tenant, frame: Frame) -> Iterator[Budget]:
    """Those of money: each currency of each budget."""
    entered = budgets(tenant._ps, tenant.name, **_clocks(frame))
    money = sorted((b for b in entered if len(b.unit) == 3), key=lambda b: (b.name, b.unit))
    for (name, currency), periods in groupby(money, key=lambda b: (b.name, b.unit)):
        rows = list(periods)
        months = {b.period: (b.committed - b.compensated, b.reserved) for b in rows if b.reserved or b.committed or b.released}
        limits = [limit for b in rows for limit in b.limits.values()]
        yield Budget(name, currency, min(limits, default=None), per_of(rows[-1].period), months)


def _turns(tenant: Tenant, frame: Frame) -> Iterator[Turn]:
    """What people changed about agents and policies in the period, in the order of the log."""
    found = []
    for category in ("agents", POLICIES):
        first = set[str]()
        query = Query(tenant=tenant.name, category=category, lane=Lane.DECISION, **_clocks(frame))
        for recorded in tenant._ps.log.events(query):
            at, event, position = from_us(recorded.stored.occurred_at_us), recorded.data, recorded.stored.position
            match event:
                case AutonomyChanged():
                    turn = Turn(at, "autonomy", event.agent, event.mode, event.reason)
                case AgentPaused():
                    turn = Turn(at, "kill switch", _everyone(event.agent), "thrown", event.reason)
                case AgentResumed():
                    turn = Turn(at, "kill switch", _everyone(event.agent), "lifted", event.reason)
                case ArtifactActivated() if event.name in first:
                    turn = Turn(at, "policy", event.name, event.digest[:12], event.reason)
                case ArtifactActivated():
                    first.add(event.name)  # the one that came with its agent
                    continue
                case _:
                    continue
            if frame.start <= at < frame.end:
                found.append((position, turn))
    yield from (turn for _, turn in sorted(found, key=lambda x: x[0]))


def _everyone(agent: str) -> str:
    return "every agent" if agent == EVERY_AGENT else agent
