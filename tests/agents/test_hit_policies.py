"""Hit policies: which rows decide together, what is refused because two rows overlap, and that it is shown, not guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.agents import Agent, Policy
from postsale.agents.expressions import InputType, Value, all_of, parse_cell
from postsale.agents.regions import Without, box_of, meet, point_in
from postsale.errors import PolicyInvalid
from tests.agents.world import DUNNING, World

INPUTS: dict[str, InputType] = {"n": "integer", "t": "text", "b": "boolean"}

cell_of: dict[str, st.SearchStrategy[object]] = {
    "n": st.one_of(
        st.integers(-3, 3),
        st.builds("{} {}".format, st.sampled_from(["<", "<=", ">", ">=", "!="]), st.integers(-3, 3)),
        st.builds(lambda a, b: f"between {min(a, b)} and {max(a, b)}", st.integers(-3, 3), st.integers(-3, 3)),
        st.builds(lambda op, xs: f"{op} [{', '.join(map(str, xs))}]", st.sampled_from(["in", "not in"]), st.lists(st.integers(-3, 3), min_size=1)),
        st.sampled_from(["is missing", "is known"]),
    ),
    "t": st.sampled_from(["x", "!= x", "in [x, y]", "not in [y, z]", "is missing", "is known"]),
    "b": st.sampled_from([True, False, "!= true", "is missing", "is known"]),
}  # fmt: skip
whens = st.fixed_dictionaries({}, optional=cell_of)
VALUES: dict[str, list[Value]] = {"n": [None, *range(-5, 6)], "t": [None, "x", "y", "z", "other"], "b": [None, True, False]}
POINTS = [{"n": n, "t": t, "b": b} for n in VALUES["n"] for t in VALUES["t"] for b in VALUES["b"]]


def row_test(when: dict[str, object]) -> Callable[[dict[str, Value]], bool]:
    return all_of({name: parse_cell(cell, INPUTS[name], policy="p", where="w") for name, cell in when.items()})


def box(when: dict[str, object]):  # type: ignore[no-untyped-def]
    return box_of({name: parse_cell(cell, INPUTS[name], policy="p", where="w") for name, cell in when.items()}, INPUTS)


@given(a=whens, b=whens)
def test_two_conditions_meet_exactly_where_a_value_satisfies_both(a: dict[str, object], b: dict[str, object]) -> None:
    both = [p for p in POINTS if row_test(a)(p) and row_test(b)(p)]
    met = meet(box(a), box(b))
    assert (met is not None) is bool(both)
    if met is not None:
        found = point_in(met)
        assert found is not None
        full = {"n": None, "t": None, "b": None} | found
        assert row_test(a)(full)
        assert row_test(b)(full)


@given(a=whens, others=st.lists(st.tuples(whens, st.lists(whens, max_size=2)), max_size=4))
def test_a_point_is_found_exactly_where_one_is_left(
    a: dict[str, object], others: list[tuple[dict[str, object], list[dict[str, object]]]]
) -> None:
    def left(p: dict[str, Value]) -> bool:
        return row_test(a)(p) and not any(row_test(b)(p) and not any(row_test(u)(p) for u in unless) for b, unless in others)

    found = point_in(box(a), [Without(box(b), tuple(map(box, unless))) for b, unless in others])
    assert (found is not None) is any(map(left, POINTS))
    if found is not None:
        assert left({"n": None, "t": None, "b": None} | found)


def table(hit: str, *rows: str, extra: str = "") -> str:
    """DUNNING with other rows. A row: `id when action tool channel`."""
    head = DUNNING[: DUNNING.index("[[rule]]")].replace('hit = "first"', f'hit = "{hit}"\n{extra}')
    tail = DUNNING[DUNNING.index("[guardrails]") :]
    out = []
    for row in rows:
        id_, when, action = row.split("|")
        text = f'[[rule]]\nid = "{id_}"\nwhen = {{ {when} }}\naction = "{action}"\nbecause = "{id_} {{failed_payments}}"\n'
        if action == "email":
            text += f'tool = "email.send@1"\nchannel = "email"\narguments = {{ customer = "$customer", template = "{id_}" }}\napproval = "none"\n'
        elif action == "task":
            text += (
                'tool = "crm.create_task@1"\narguments = { customer = "$customer", title = "x", note = "$because" }\napproval = "none"\n'
            )
        out.append(text)
    return head + "\n".join(out) + "\n" + tail


VIP, TWICE, EVERY = 'vip|segment = "vip"|email', 'twice|failed_payments = ">= 2"|task', "every||email"


def test_unique_refuses_rows_that_overlap_and_names_what_they_share() -> None:
    with pytest.raises(PolicyInvalid, match="segment vip, failed_payments 2") as caught:
        Policy.from_toml(table("unique", VIP, TWICE))
    assert caught.value.where == "rule 'twice', when"
    Policy.from_toml(table("unique", VIP, 'rest|segment = "!= vip"|task', 'none|segment = "is missing"|none'))


def test_any_takes_rows_that_overlap_only_where_they_say_the_same() -> None:
    same = 'late|failed_payments = ">= 3"|task'
    policy = Policy.from_toml(table("any", TWICE, same))
    assert [r.id for r in policy.deciding(policy.rules)[0]] == ["twice"]
    with pytest.raises(PolicyInvalid, match="do not say the same"):
        Policy.from_toml(table("any", VIP, TWICE))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (table("priority", VIP, TWICE), "priorities"),
        (table("first", VIP, TWICE, extra='priorities = ["email"]'), "priorities"),
        (table("priority", VIP, TWICE, extra='priorities = ["email", "email"]'), "priorities"),
        (table("priority", VIP, TWICE, extra='priorities = ["email", "call"]'), "priorities"),
        (table("priority", VIP, TWICE, extra='priorities = ["email"]'), "rule 'twice', action"),
    ],
)
def test_priorities_are_complete_and_only_where_they_decide(text: str, where: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        Policy.from_toml(text)
    assert caught.value.where == where


def test_of_several_rows_that_decide_together_one_may_offer() -> None:
    text = DUNNING.replace('hit = "first"', 'hit = "collect"')
    assert Policy.from_toml(text).hit == "collect"
    credit = text[text.index('[[rule]]\nid = "credit"') : text.index('[[rule]]\nid = "mail"')]
    with pytest.raises(PolicyInvalid, match="makes one offer"):
        Policy.from_toml(text.replace('[[rule]]\nid = "mail"', credit.replace('"credit"', '"more"', 1) + '[[rule]]\nid = "mail"'))


def decided(text: str, *, caps: str = "count = 2", segment: str = "vip", mode: str = "act") -> tuple[World, object]:
    w = World([Agent(Policy.from_toml(text.replace("count = 2", caps)))])
    w.mode(mode)
    w.profile(segment=segment)
    w.consent()
    w.attend(w.failed(attempt=3))
    (event,) = w.decisions()
    return w, event


@pytest.mark.parametrize(
    ("hit", "extra", "rules"),
    [
        ("first", "", ["vip"]),
        ("priority", 'priorities = ["task", "email"]', ["twice"]),
        ("priority", 'priorities = ["email", "task"]', ["vip"]),
        ("collect", "", ["vip", "twice"]),
        ("output-order", 'priorities = ["task", "email"]', ["twice", "vip"]),
    ],
)
def test_each_hit_policy_chooses_its_rows_and_the_decision_is_made_again_alike(hit: str, extra: str, rules: list[str]) -> None:
    from postsale.agents.rederive import rederive

    w, event = decided(table(hit, VIP, TWICE, 'wait|failed_payments = ">= 0"|none', extra=extra))
    assert event.disposition == "acted"
    assert event.rule == rules[0]
    templates = {"vip": "email.send@1", "twice": "crm.create_task@1"}
    assert [i.tool for i in event.intents] == [templates[r] for r in rules]
    assert sorted(e.rule for e in event.eligible if e.propensity_ppm) == sorted(rules)
    (policy, _) = w.engine.desk.active_policy("acme", "dunning")
    assert rederive(event, event.arguments, policy, w.engine.desk.mac("acme")).difference is None


def test_rows_that_decide_together_pass_every_guardrail_together() -> None:
    rows = (VIP, EVERY, TWICE)
    assert decided(table("collect", *rows))[1].disposition == "acted"
    _, event = decided(table("collect", *rows), caps="count = 1")
    assert (event.suppressed_by, event.intents) == ("frequency:1/30d", ())


def test_two_effects_of_one_decision_each_leave_once() -> None:
    w, _ = decided(table("collect", VIP, TWICE))
    w.attend()
    assert [c.tool for c in w.toolbox.ledger.calls] == ["email.send@1", "crm.create_task@1"]
    assert len(w.customer().touches) == 1


def test_a_published_policy_with_rows_that_overlap_is_still_read_and_decides_nothing_there() -> None:
    policy = Policy.from_toml(table("first", VIP, TWICE))
    stored = Policy.from_json(policy.content.replace('"hit":"first"', '"hit":"unique"'))
    assert stored.deciding(stored.rules) == ((), "not-unique")
    assert Policy.from_json(stored.content).digest == stored.digest
    stored = Policy.from_json(policy.content.replace('"hit":"first"', '"hit":"any"'))
    assert stored.deciding(stored.rules) == ((), "not-any")


def test_a_policy_of_an_earlier_release_keeps_its_digest() -> None:
    assert Policy.from_toml(DUNNING).digest == "7e0c5b70d320d143e5d7b7607c66ae16389db9147b7debd5bd7f9f84ebb19f3d"
    rescue = Path(__file__).parent / "earlier" / "renewal-rescue-1.toml"
    assert Policy.load(rescue).digest == "71bb786f7cb5abb77103f89db27abaa3493e35e2f92319eaae82f7c265823269"
