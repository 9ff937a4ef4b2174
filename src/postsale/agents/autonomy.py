"""Autonomy reviewed: what a policy's criteria say of an agent's own past, for each segment. A review promotes nobody.

Pure; may import projections, policy, aggregates, events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from postsale.agents.editing import edit_of
from postsale.agents.policy import Policy
from postsale.agents.policy_sections import Downgrade, Promotion, Retirement
from postsale.aggregates.artifacts import MODES, Mode
from postsale.events import DAY_US, to_us
from postsale.projections.journal import Entry


@dataclass(frozen=True, slots=True)
class Criterion:
    """One criterion with what was found. `found` is None where there is nothing to take a share of, which meets no minimum."""

    name: str  # as in the policy
    found: int | None  # a number, or whole percent
    needed: str  # in words, such as "at least 50"
    met: bool


@dataclass(frozen=True, slots=True)
class Review:
    """What the criteria say. `segment` is None for all customers together."""

    agent: str
    segment: str | None
    mode: Mode  # how far it may go there now
    promotes_to: Mode | None  # the next step, where there are criteria for it
    promotion: tuple[Criterion, ...]
    downgrade: tuple[Criterion, ...]  # met: a reason to go one step back
    retirement: tuple[Criterion, ...] = ()  # met: a reason to retire the policy

    @property
    def ready(self) -> bool:
        """Whether everything is met before a person may promote it."""
        return bool(self.promotion) and all(c.met for c in self.promotion)

    @property
    def missing(self) -> tuple[Criterion, ...]:
        return tuple(c for c in self.promotion if not c.met)

    @property
    def reasons(self) -> tuple[Criterion, ...]:
        """Why it should go one step back; () where it need not."""
        return tuple(c for c in self.downgrade if c.met) if self.mode != "observe" else ()

    @property
    def retire(self) -> tuple[Criterion, ...]:
        """Why its policy should be retired; () where it need not. A review retires nothing."""
        return tuple(c for c in self.retirement if c.met)

    def to_dict(self) -> dict[str, Any]:
        def rows(criteria: Sequence[Criterion]) -> list[dict[str, Any]]:
            return [{"name": c.name, "found": c.found, "needed": c.needed, "met": c.met} for c in criteria]

        return {
            "agent": self.agent,
            "segment": self.segment,
            "mode": self.mode,
            "promotes_to": self.promotes_to,
            "ready": self.ready,
            "promotion": rows(self.promotion),
            "downgrade": rows(self.downgrade),
            "downgrade_now": bool(self.reasons),
            "retirement": rows(self.retirement),
            "retire_now": bool(self.retire),
        }


def review(policy: Policy, agent: str, mode: Mode, entries: Iterable[Entry], now_us: int) -> list[Review]:
    """All customers together, then each segment that the policy or the past names, by name. Decisions of other agents are left out."""
    mine = [e for e in entries if e.agent == agent]
    autonomy = policy.autonomy
    out = [_review(policy, agent, None, mode, mine, now_us)]
    if autonomy is not None and autonomy.by is not None:
        by: dict[str, list[Entry]] = {name: [] for name in autonomy.segments}
        for entry in mine:
            value = entry.recorded.evidence.get(autonomy.by)
            if value is not None:
                by.setdefault(str(value), []).append(entry)
        for name in sorted(by):
            most = autonomy.segments.get(name, autonomy.otherwise)
            there = min(mode, most, key=MODES.index)
            out.append(_review(policy, agent, name, there, by[name], now_us))
    return out


def lower(mode: Mode) -> Mode:
    """One step back; observing is the last."""
    return MODES[max(0, MODES.index(mode) - 1)]


def _review(policy: Policy, agent: str, segment: str | None, mode: Mode, entries: Sequence[Entry], now_us: int) -> Review:
    autonomy = policy.autonomy
    to: Mode | None = MODES[MODES.index(mode) + 1] if mode != "act" else None
    asked: Promotion | None = None if autonomy is None or to is None else getattr(autonomy, to)
    down, over = (None, None) if autonomy is None else (autonomy.downgrade, autonomy.retire)
    of_policy = [e for e in entries if e.recorded.policy == policy.digest]
    return Review(
        agent,
        segment,
        mode,
        to if asked is not None else None,
        () if asked is None else _promotion(asked, _within(entries, asked.window_days, now_us)),
        () if down is None else _against(down, _within(entries, down.window_days, now_us)),
        () if over is None else _against(over, _within(of_policy, over.window_days, now_us)),
    )


def _within(entries: Sequence[Entry], days: int, now_us: int) -> list[Entry]:
    return [e for e in entries if to_us(e.decided_at) >= now_us - days * DAY_US]


def _promotion(asked: Promotion, entries: Sequence[Entry]) -> tuple[Criterion, ...]:
    answered = [e for e in entries if _answer(e) is not None]
    outcomes = [e for e in entries if e.outcome is not None]
    out = [_least("decisions", len(entries), asked.decisions), _least("answered", len(answered), asked.answered)]
    if asked.approved_percent:
        out.append(_share("approved_percent", sum(_answer(e) is True for e in answered), len(answered), asked.approved_percent))
    if asked.failed_percent < 100:
        failed = _percent(sum(e.disposition == "failed" for e in entries), len(entries))
        out.append(
            Criterion("failed_percent", failed, f"at most {asked.failed_percent} %", failed is None or failed <= asked.failed_percent)
        )
    if asked.success_percent:
        out.append(_share("success_percent", sum(e.outcome == "success" for e in outcomes), len(outcomes), asked.success_percent))
    return tuple(out)


def _against(asked: Downgrade | Retirement, entries: Sequence[Entry]) -> tuple[Criterion, ...]:
    """What speaks against going on as it is."""
    enough, answered = len(entries) >= asked.decisions, [e for e in entries if _answer(e) is not None]
    of = {
        "rejected_percent": _percent(sum(_answer(e) is False for e in answered), len(answered)),
        "failed_percent": _percent(sum(e.disposition == "failed" for e in entries), len(entries)),
        "overridden_percent": _percent(sum(e.suppressed_by == "override" for e in entries), len(entries)),
    }
    out = []
    for name, found in of.items():
        limit = getattr(asked, name)
        if limit is not None:
            out.append(
                Criterion(
                    name,
                    found,
                    f"{limit} % or more, of {asked.decisions} decisions at least",
                    enough and found is not None and found >= limit,
                )
            )
    if isinstance(asked, Retirement) and asked.success_percent is not None:
        outcomes = [e for e in entries if e.outcome is not None]
        found = _percent(sum(e.outcome == "success" for e in outcomes), len(outcomes))
        low = enough and found is not None and found <= asked.success_percent
        out.append(Criterion("success_percent", found, f"{asked.success_percent} % or less, of {asked.decisions} decisions at least", low))
    return tuple(out)


def _answer(entry: Entry) -> bool | None:
    """What a person said to a proposal; None: nobody was asked, or nobody answered; what a person edited is not the agent's."""
    if entry.approver is None or edit_of(entry.recorded.flags) is not None:
        return None
    return entry.suppressed_by != "approval:rejected"


def _least(name: str, found: int, needed: int) -> Criterion:
    return Criterion(name, found, f"at least {needed}", found >= needed)


def _share(name: str, some: int, of: int, needed: int) -> Criterion:
    found = _percent(some, of)
    return Criterion(name, found, f"at least {needed} %", found is not None and found >= needed)


def _percent(some: int, of: int) -> int | None:
    """Whole percent, rounded down; None of nothing."""
    return some * 100 // of if of else None
