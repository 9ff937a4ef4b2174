"""Decision trees: the flat table that follows from one decides as the tree does, read level by level by a naive evaluator."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from postsale.agents import Agent, Policy
from postsale.agents.expressions import parse_cell
from postsale.agents.rederive import rederive
from postsale.agents.tree import Branch, Level, tree_of
from postsale.agents.widening import widenings
from postsale.errors import PolicyInvalid
from tests.agents.world import DUNNING, World
from tests.shared import examples

INPUTS: dict[str, Any] = {"n": "integer", "s": "text", "b": "boolean"}
VALUES: dict[str, list[Any]] = {"n": [None, *range(-1, 6)], "s": [None, "a", "b", "c"], "b": [None, True, False]}
EVIDENCE = [dict(zip(INPUTS, point, strict=True)) for point in itertools.product(*VALUES.values())]
ACTIONS = ("mail", "call", "gift")

HEAD = """
name = "tree"
version = 1
owner = "cs"
description = "A tree."
[inputs]
n = "integer"
s = "text"
b = "boolean"
[[trigger]]
id = "t"
when = { n = ">= 0" }
[guardrails]
purpose = "service"
"""


def policy(tree: Mapping[str, Any]) -> Policy:
    base = {
        "name": "tree",
        "version": 1,
        "owner": "cs",
        "description": "A tree.",
        "inputs": INPUTS,
        "trigger": [{"id": "t", "when": {"n": ">= 0"}}],
        "guardrails": {"purpose": "service"},
    }
    return Policy._validated({**base, "tree": tree}, "tree")


def holds(when: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(parse_cell(c, INPUTS[n], policy="", where="").test(values[n]) for n, c in when.items())


def naive(level: Level, values: Mapping[str, Any], path: str = "") -> tuple[str, Any] | None:
    """The leaf that decides, by the way to it, and its rule: as the words say, level by level."""
    found: list[tuple[str, Any]] = []
    for node in level.nodes:
        at = f"{path}.{node.id}".lstrip(".")
        if holds(node.when, values):
            inside = naive(node, values, at) if isinstance(node, Branch) else (at, node)
            if inside is not None:
                found.append(inside)
    match level.hit:
        case _ if not found:
            return None
        case "first":
            return found[0]
        case "unique":
            return found[0] if len(found) == 1 else None
        case "any":
            return found[0] if all(rule.output == found[0][1].output for _, rule in found) else None
        case "priority":
            return min(found, key=lambda item: (level.priorities or ()).index(item[1].action))


CELLS: dict[str, list[Any]] = {
    "n": [0, 2, ">= 1", "<= 3", "< 4", "> 0", "!= 2", "between 1 and 3", "in [0, 4]", "not in [1, 3]", "is missing", "is known"],
    "s": ["a", "!= b", "in [a, b]", "not in [c]", "is missing", "is known"],
    "b": [True, False, "!= true", "is missing", "is known"],
}
PARTS: dict[str, list[Any]] = {
    "n": ["< 1", "between 1 and 2", "> 2", "is missing"],
    "s": ["a", "b", "not in [a, b]", "is missing"],
    "b": [True, False, "is missing"],
}


@st.composite
def whens(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(list(INPUTS)), max_size=2, unique=True))
    return {name: draw(st.sampled_from(CELLS[name])) for name in names}


@st.composite
def levels(draw: st.DrawFn, depth: int = 0) -> dict[str, Any]:
    hit = draw(st.sampled_from(["first", "first", "unique", "any", "priority"]))
    size = draw(st.integers(1, 4))
    parts = PARTS[draw(st.sampled_from(list(PARTS)))] if hit == "unique" else []
    name = next((n for n, p in PARTS.items() if p is parts), "")
    action = draw(st.sampled_from(ACTIONS))
    nodes = []
    for k in range(min(size, len(parts)) if parts else size):
        when = {name: parts[k]} if parts else draw(whens())
        if hit != "priority" and depth < 2 and draw(st.integers(0, 2)) == 0 and hit != "any":
            nodes.append({"id": f"x{k}", "when": when, **draw(levels(depth + 1))})
        else:
            does = action if hit == "any" else draw(st.sampled_from(ACTIONS))
            nodes.append({"id": f"x{k}", "when": when, "action": does, "because": f"leaf {k}."})
    return {"hit": hit, "branch": nodes, **({"priorities": list(draw(st.permutations(ACTIONS)))} if hit == "priority" else {})}


@given(levels())
@settings(max_examples=examples(250), suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_the_flat_table_decides_as_the_tree_does_on_every_evidence(tree: dict[str, Any]) -> None:
    try:
        p = policy(tree)
    except PolicyInvalid:
        assume(False)
        raise
    level = tree_of(p)
    assert level is not None
    for values in EVIDENCE:
        rows, _ = p.deciding([row.rule for row in p.rows if row.matches(values)])
        want = naive(level, values)
        got = (rows[0].id, rows[0].output) if rows else None
        assert got == (None if want is None else (want[0], want[1].output)), values
    event(f"levels {max(r.id.count('.') for r in p.rules) + 1}")
    again = Policy.from_json(p.content)
    assert (again.digest, again.rules, again.table()) == (p.digest, p.rules, p.table())


TREE = """
[tree]
hit = "first"

[[tree.branch]]
id = "vip"
when = { s = "a" }
hit = "unique"

[[tree.branch.branch]]
id = "large"
when = { n = ">= 3" }
action = "call"
because = "Large."

[[tree.branch.branch]]
id = "small"
when = { n = "< 3" }
action = "mail"
because = "Small."

[[tree.branch]]
id = "rest"
action = "none"
because = "Nobody."
"""


def test_a_tree_is_printed_as_one_and_its_rows_are_named_by_the_way_to_them() -> None:
    p = Policy.from_toml(HEAD + TREE)
    assert [(r.id, r.when) for r in p.rules] == [
        ("vip.large", {"s": "a", "n": ">= 3"}),
        ("vip.small", {"s": "a", "n": "< 3"}),
        ("rest", {}),
    ]
    text = p.table()
    assert "Of these, the first that matches\n  ├─ vip: s a: the only one that matches\n" in text
    assert "  │  ├─ large: n >= 3 → call (Large.)\n  │  └─ small: n < 3 → mail (Small.)\n  └─ rest: always → nothing (Nobody.)" in text


def test_what_changes_between_two_trees_is_said_by_row_and_by_level() -> None:
    old = Policy.from_toml(HEAD + TREE)
    new = Policy.from_toml(HEAD + TREE.replace('hit = "unique"', 'hit = "first"').replace('">= 3"', '">= 4"').replace('"< 3"', '"< 4"'))
    assert old.digest != new.digest
    said = old.diff(new)
    assert "tree 'vip'.hit: unique → first" in said
    assert "rule 'vip.large'.when.n: >= 3 → >= 4" in said
    assert old.diff(Policy.from_toml(HEAD + TREE)) == []
    flat = Policy.from_toml(HEAD + '[[rule]]\nid = "rest"\naction = "none"\nbecause = "Nobody."\n')
    assert "rule 'vip.large' removed" in old.diff(flat)
    assert "tree 'vip' removed" in old.diff(flat)


def test_widening_is_judged_on_the_rows_of_a_tree() -> None:
    old = Policy.from_toml(HEAD + TREE)
    new = Policy.from_toml(HEAD + TREE.replace('id = "rest"\naction = "none"', 'id = "rest"\naction = "mail"'))
    assert [w.where for w in widenings(old, new)] == ["rule 'rest'"]
    assert widenings(new, old) == ()


@pytest.mark.parametrize(
    ("old", "new", "where", "reason"),
    [
        ('n = "< 3"', 'n = "<= 3"', "tree 'vip.small', when", "overlaps with 'large' beside it: both match with n 3"),
        ('when = { n = ">= 3" }', 'when = { s = "b" }', "tree 'vip.large', when.s", "never holds"),
        ('when = { n = ">= 3" }', "when = { x = 3 }", "tree 'vip.large', when.x", "not declared"),
        ('id = "small"', 'id = "large"', "rule 'vip.large'", "twice"),
        (
            'id = "rest"\naction = "none"\nbecause = "Nobody."',
            'id = "vip"\n[[tree.branch.branch]]\nid = "x"\naction = "none"\nbecause = "Nobody."',
            "tree 'vip', id",
            "twice",
        ),
        ('hit = "unique"', 'hit = "priority"', "tree 'vip', branch 'large'", "no place"),
        ('hit = "unique"', 'hit = "collect"', "tree 'vip', hit", "Input should be"),
        ('because = "Small."', "", "tree 'vip.small', because", "required"),
        ('hit = "unique"', 'hit = "unique"\npriorities = ["mail"]', "tree 'vip', priorities", "mean nothing"),
        ("[tree]", '[[rule]]\nid = "r"\naction = "none"\nbecause = "x"\n[tree]', "tree", "not both"),
        ('id = "small"', f'id = "{"s" * 64}"', f"tree 'vip.{'s' * 64}', id", "64"),
    ],
)
def test_a_tree_that_cannot_work_is_refused_by_the_way_to_it(old: str, new: str, where: str, reason: str) -> None:
    with pytest.raises(PolicyInvalid, match=reason) as caught:
        Policy.from_toml(HEAD + TREE.replace(old, new, 1))
    assert caught.value.where == where


def test_rows_that_are_not_those_of_the_tree_are_refused_in_a_new_policy() -> None:
    p = Policy.from_toml(HEAD + TREE)
    data = p.model_dump(mode="json", by_alias=True, exclude_none=True)
    data["rule"][0]["when"]["n"] = ">= 1"
    with pytest.raises(PolicyInvalid, match="not those of its tree"):
        Policy.model_validate_json(json.dumps(data))


def test_an_agent_decides_by_a_tree_and_the_decision_is_made_again_from_its_record() -> None:
    rows = DUNNING[DUNNING.index("[[rule]]") : DUNNING.index("[guardrails]")]
    tree = """
[tree]
[[tree.branch]]
id = "pattern"
when = { failed_payments = ">= 2" }
[[tree.branch.branch]]
id = "task"
action = "task"
tool = "crm.create_task@1"
arguments = { customer = "$customer", title = "Payment failing", note = "$because" }
approval = "none"
because = "{failed_payments} failed."

"""
    w = World([Agent(Policy.from_toml(DUNNING.replace(rows, tree)))])
    w.mode("act")
    (id_,) = w.attend(w.failed("c1", 2)).decided
    made = w.decision(id_).data
    assert (made.rule, made.disposition) == ("pattern.task", "acted")
    active = w.engine.desk.active_policy("acme", "dunning")[0]
    assert active is not None
    assert rederive(made, made.arguments, active, w.engine.desk.mac("acme")).difference is None
