"""Every row, trigger and limit of the shipped policies is there for something: delete any of them, and a story fails.

Pure deciding, no log. The stories are in `stories`; with real facts some of them are told again in `test_seven`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from postsale.agents import SHIPPED, Policy
from postsale.agents.budget_policy import Left, period
from postsale.agents.conversation import Contacts, stop_of
from postsale.agents.decide import AgentSpec, Case, decide
from postsale.agents.guardrails import Context, Past, ToolRef
from postsale.aggregates.artifacts import Mode
from postsale.aggregates.decisions import DecisionRecorded, ReadRef
from postsale.errors import PolicyInvalid
from postsale.events import to_us
from tests.agents.stories import LIMITS, STOPS, STORIES, TRIGGERS, Story
from tests.agents.world import NOON

POLICIES = {name: cls().policy for name, cls in SHIPPED.items() if (cls().policy) is not None}
SPEC = AgentSpec("a", "m:c", "d", "1")


def run(
    policy: Policy, known: Mapping[str, Any], change: Callable[[Context], Context] = lambda c: c, *, depth: int = 0, mode: Mode = "act"
) -> DecisionRecorded:
    """The decision on what is known, at noon, with every consent, money and nobody else about, unless the context is changed."""
    context = Context(
        local_time="12:00",
        time_zone="Europe/Berlin",
        consent=dict.fromkeys(policy.channels, True),
        touches={f.days: 0 for f in policy.guardrails.frequency},
        budgets={b.name: Left(10**9, period(b, to_us(NOON))) for b in policy.budgets or ()},
        priority=None if policy.conversation is None else policy.conversation.priority,
        contacts={c: Contacts(0, 4, 30) for c in policy.channels},
    )
    case = Case(
        trigger_id=UUID(int=1),
        condition="look",
        depth=depth,
        mode=mode,
        decided_at_us=to_us(NOON),
        read_set=(ReadRef(stream="t/customers/c", fact_position=1, decision_version=1),),
        evidence={name: known.get(name) for name in sorted(policy.inputs)},
        context=change(context),
        tools={name: ToolRef(name, "idempotent", "d") for name in policy.tools},
    )
    return decide(SPEC, policy, case, lambda _: "").event


def told(event: DecisionRecorded) -> tuple[str | None, str]:
    by = event.suppressed_by or ""
    if by.startswith("policy:"):
        return event.rule, "none"
    return event.rule, f"suppressed {by}" if by else f"{event.disposition} {event.action}"


def acting(name: str, *, mail: bool = True, action: str | None = None, offers: bool = False) -> Story:
    """A story in which the agent acts: with a mail, with an action, or with an offer."""
    for story in STORIES[name]:
        does = story.comes_to.partition(" ")[2]
        fits = not does.startswith(("call", "offer")) if mail else (does == "offer-credit" or not offers)
        if does and fits and action in {None, does}:
            return story
    raise LookupError(name)


# ---------------------------------------------------------------- what has to hold


def rows(name: str, policy: Policy) -> Iterator[str]:
    for story in STORIES[name]:
        if told(run(policy, story.known)) != (story.row, story.comes_to):
            yield f"row {story.row}: {told(run(policy, story.known))}"


def triggers(name: str, policy: Policy) -> Iterator[str]:
    for id_, known in TRIGGERS[name].items():
        values = {n: known.get(n) for n in policy.inputs}
        up = [c.id for c in policy.conditions if c.up(values, False)]
        if up != [id_]:
            yield f"trigger {id_}: {up}"
    if any(c.up(dict.fromkeys(policy.inputs), False) for c in policy.conditions):
        yield "asked about a customer of whom nothing is known"


def stops(name: str, policy: Policy) -> Iterator[str]:
    for id_, known in STOPS[name].items():
        if stop_of(policy, known) != id_:
            yield f"stop {id_}: {stop_of(policy, known)!r}"


def limits(name: str, policy: Policy) -> Iterator[str]:
    want, mail = LIMITS[name], acting(name)

    def refuses(rule: str, known: Mapping[str, Any], change: Callable[[Context], Context] = lambda c: c, **how: Any) -> Iterator[str]:
        found = run(policy, known, change, **how).suppressed_by
        if found != rule:
            yield f"{rule}: {found}"

    for count, days in want.contacts:
        others = {d: 0 for _, d in want.contacts}
        yield from refuses(f"frequency:{count}/{days}d", mail.known, lambda c, n=count, d=days, o=others: replace(c, touches={**o, d: n}))
    for minute in want.quiet:
        yield from refuses(
            next((f"quiet-hours:{q.start}-{q.end}" for q in [policy.guardrails.quiet_hours] if q), "quiet-hours"),
            mail.known,
            lambda c, at=minute: replace(c, local_time=at),
        )
    for id_, action in want.sequence:
        story = acting(name, mail=False, action=action)
        yield from refuses(f"sequence:{id_}", story.known, lambda c, r=id_: replace(c, past={r: Past(1, False)}))
    yield from refuses(f"depth:{want.depth}", mail.known, depth=want.depth + 1)
    yield from refuses(f"consent:email/{want.purpose}", mail.known, lambda c: replace(c, consent={"email": False}))
    yield from refuses("conversation:other", mail.known, lambda c: replace(c, conversation_with="other"))
    full = {"email": Contacts(4, 4, 30)}
    yield from refuses("contact-budget:email/4/30d", mail.known, lambda c: replace(c, contacts=full))
    if want.money is not None:
        minor, budget = want.money
        offer = acting(name, mail=False, offers=True)
        yield from refuses(
            f"budget:{budget}/2026-11", offer.known, lambda c: replace(c, budgets={**c.budgets, budget: Left(minor - 1, "2026-11")})
        )
        if run(policy, offer.known, lambda c: replace(c, budgets={**c.budgets, budget: Left(minor, "2026-11")})).disposition != "awaiting":
            yield "money that is enough is refused"
    asked = run(policy, mail.known, mode="propose")
    found = {
        "must_not_have_changed": asked.must_not_have_changed == want.changes,
        "bound_to": asked.bound_to == want.bound,
        "approval_expires_h": asked.approval_expires_at is not None
        and (asked.approval_expires_at - NOON).total_seconds() == want.expires_h * 3_600,
        "outcome.on": asked.outcome_kinds == want.outcome[0],
        "outcome.within_days": asked.outcome_by is not None and (asked.outcome_by - NOON).days == want.outcome[1],
        "priority": asked.context.get("priority") == want.priority,
    }
    yield from (what for what, same in found.items() if not same)


def failing(name: str, policy: Policy) -> list[str]:
    return [*rows(name, policy), *triggers(name, policy), *stops(name, policy), *limits(name, policy)]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_story_of_a_shipped_policy_comes_to_what_it_says(name: str) -> None:
    assert failing(name, POLICIES[name]) == []


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_row_trigger_and_stop_has_a_story_of_its_own(name: str) -> None:
    policy = POLICIES[name]
    assert [s.row for s in STORIES[name]] == [r.id for r in policy.rules]
    assert list(TRIGGERS[name]) == [t.id for t in policy.triggers]
    assert policy.conversation is not None
    assert list(STOPS[name]) == [s.id for s in policy.conversation.stop]


# ---------------------------------------------------------------- and each deletion is noticed


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every row, trigger, stop and limit of a policy: what can be deleted from it, the whole and each part of lists."""
    for key, inner in value.items():
        at = (*path, key)
        if path == () and key in {"rule", "trigger"}:
            yield from ((*at, i) for i in range(len(inner)))
        elif path == () and key in {"guardrails", "outcome", "conversation"}:
            yield at
            yield from places(inner, at)
        elif path:
            yield at
            if isinstance(inner, dict):
                yield from places(inner, at)
            elif isinstance(inner, list):
                yield from ((*at, i) for i in range(len(inner)))


def without(data: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    copy = json.loads(json.dumps(data))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return copy  # type: ignore[no-any-return]


def content(name: str) -> dict[str, Any]:
    return json.loads(POLICIES[name].content)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_deleting_any_row_trigger_stop_or_limit_fails_a_story_or_the_policy_itself(name: str) -> None:
    data, unnoticed, refused = content(name), [], 0
    tried = list(places(data))
    for path in tried:
        try:
            policy = Policy.from_json(json.dumps(without(data, path)))
        except PolicyInvalid:
            refused += 1
            continue
        if policy.digest != POLICIES[name].digest and not failing(name, policy):  # equal: the file said what holds anyway
            unnoticed.append(path)
    assert unnoticed == []
    assert len(tried) - refused >= len(POLICIES[name].rules) + len(POLICIES[name].triggers)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_deleting_a_row_fails_the_story_of_that_row(name: str) -> None:
    data = content(name)
    for at, rule in enumerate(data["rule"]):
        policy = Policy.from_json(json.dumps(without(data, ("rule", at))))
        assert any(failed.startswith(f"row {rule['id']}:") for failed in rows(name, policy)), rule["id"]
