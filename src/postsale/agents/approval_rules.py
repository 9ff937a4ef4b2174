"""The `[approvals]` table of a policy: how many people, which roles, until when, and what silence means. Never a default for silence.

Lives here: the table, what makes it valid, the request it makes, and whose answer counts. Pure; may import the tables, the calendar,
aggregates. Who holds which role comes in as a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from pydantic import Field

from postsale.agents.calendar import due_us
from postsale.agents.tables import Name, Table, Within
from postsale.aggregates.asked import ANYONE, ApprovalAsked, ApprovalEscalated, Asked, AskedLevel, OnTimeout
from postsale.aggregates.authority import Authority, Right
from postsale.events import from_us, iso, money_text, to_us

if TYPE_CHECKING:
    from postsale.agents.policy import Policy

Bad = Callable[[str, str], None]


class Level(Within):
    """People who may answer, how long they have, and what their silence means."""

    name: Name
    role: Name | None = None  # None: any authenticated person
    on_timeout: OnTimeout


class ApprovalRules(Table):
    """How people answer this policy's proposals. Higher levels may always answer; a level's time runs from the end of the one before.

    Saying no and changing a proposal ask for the roles that a yes asks for, without its limit in money: neither spends any.
    """

    people: Annotated[int, Field(ge=1, le=5)] = 1
    edits: Literal["anyone", "other"] = "other"
    rejected_by: Name | None = None  # a role that may say no, beside those that may say yes; "anyone": any authenticated person
    edited_by: Name | None = None  # likewise who may change a proposal
    levels: Annotated[tuple[Level, ...], Field(alias="level", min_length=1, max_length=10)]


def check_rules(policy: Policy, bad: Bad) -> None:
    """Call `bad(where, reason)` for what cannot be."""
    rules = policy.approvals
    if rules is None:
        return
    if len({level.name for level in rules.levels}) < len(rules.levels):
        bad("approvals.level", "the same name twice")
    for level in rules.levels[:-1]:
        if level.on_timeout != "escalate":
            bad(f"approvals.level {level.name!r}, on_timeout", 'a level follows, so silence can only mean "escalate"')
    last = rules.levels[-1]
    where = f"approvals.level {last.name!r}, on_timeout"
    if last.on_timeout == "escalate":
        bad(where, 'there is no level above it: say "lapse" or "reject"')
    if last.on_timeout != "approve":
        return
    if rules.people > 1:
        bad(where, "where several people have to say yes, silence is no yes")
    for row in (*policy.rules, *(policy.options or ())):
        if row.plan is not None:
            bad(where, f"rule {row.id!r} hands over to a planner, and silence approves nothing that a planner chose")
        if row.action == "none":
            continue
        if row.risk != "low" or row.offer is not None:
            bad(where, f'silence approves only what is of low risk and promises nothing: rule {row.id!r} needs risk = "low" and no offer')


def ends_us(rules: ApprovalRules, policy: Policy, begin_us: int) -> list[int]:
    """When each level's time is over."""
    out: list[int] = []
    for level in rules.levels:
        out.append(due_us(out[-1] if out else begin_us, level, policy.calendar))
    return out


def asked_of(policy: Policy, decision_id: UUID, decided_at_us: int, editor: str | None = None) -> ApprovalAsked | None:
    """The request that goes with a decision that waits; None where the policy has no rules for it."""
    rules = policy.approvals
    if rules is None:
        return None
    levels = tuple(
        AskedLevel(name=level.name, role=level.role, until=from_us(until), on_timeout=level.on_timeout)
        for level, until in zip(rules.levels, ends_us(rules, policy, decided_at_us), strict=True)
    )
    return ApprovalAsked(
        decision_id=decision_id,
        people=rules.people,
        edits=rules.edits,
        editor=editor,
        levels=levels,
        rejected_by=rules.rejected_by,
        edited_by=rules.edited_by,
    )


def escalations(decision_id: UUID, asked: Asked, now_us: int) -> tuple[ApprovalEscalated, ...]:
    """The levels whose time is over without an answer, each once, whatever the clock does."""
    out = []
    for index in range(asked.level, len(asked.levels) - 1):
        level = asked.levels[index]
        if now_us < to_us(level.until):
            break
        why = f"{level.name} did not answer until {iso(to_us(level.until))}"
        out.append(ApprovalEscalated(decision_id=decision_id, level=index + 1, name=asked.levels[index + 1].name, reason=why))
    return tuple(out)


def is_over(asked: Asked, now_us: int) -> bool:
    """Whether the last level's time is over."""
    return now_us >= to_us(asked.levels[-1].until)


def right_to_settle(asked: Asked, beside: str | None, authority: Authority, login: str, decision_id: UUID, now_us: int) -> Right | str:
    """Why this person may say no to a proposal, or change it; else, in words, why not. `beside`: the role that may as well."""
    if beside == ANYONE:
        return Right(None)
    level = asked.level + len(escalations(decision_id, asked, now_us))
    roles = [at.role for at in asked.levels[level:]] + ([] if beside is None else [beside])
    if None in roles:
        return Right(None)
    named = [role for role in dict.fromkeys(roles) if role is not None]
    for role in named:
        right = authority.right(login, role, None, None, now_us)
        if right is not None:
            return right
    return f"{login} has no authority as {' or '.join(named)}; somebody gives it: postsale authority grant {login} {named[0]} --reason …"


def right_to_answer(
    asked: Asked, level: int, authority: Authority, login: str, minor: int | None, currency: str | None, now_us: int
) -> Right | str:
    """Why this person's yes counts at this level or above it; else, in words, why it does not."""
    others = {x for s in asked.signed for x in (s.approver, s.principal)}
    if login in others:
        return f"{login} has answered already, and {asked.people} different people have to"
    if asked.edits == "other" and asked.editor == login:
        return "whoever edited a proposal does not approve it"
    wanted = []
    for at in asked.levels[level:]:
        if at.role is None:
            return Right(None)
        right = authority.right(login, at.role, minor, currency, now_us)
        wanted.append(at.role)
        if right is None:
            continue
        if right.on_behalf_of in others:
            return f"{right.on_behalf_of} has answered already: a delegate's yes is the same person's"
        if asked.edits == "other" and asked.editor is not None and right.on_behalf_of == asked.editor:
            return "whoever edited a proposal does not approve it, nor does their delegate"
        return right
    amount = "" if minor is None else f" up to {money_text(minor, currency) if currency else minor}"
    roles = list(dict.fromkeys(wanted))
    return f"{login} has no authority as {' or '.join(roles)}{amount}; somebody gives it: postsale authority grant {login} {roles[0]} --reason …"
