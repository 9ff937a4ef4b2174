"""Decision trees: tables in tables, each with its own hit policy, that are the same as one flat table, whose rows decide.

A branch matches when its condition holds and something in it matches. A row of the flat table is a leaf with every condition on the way
to it, and is named by that way: `vip.large`. The flat table is read from the top. Pure; may import policy, regions, expressions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import orjson
from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, ValidationError

from postsale.agents.expressions import Cell, InputType, cell_of, parse_cell
from postsale.agents.policy import Policy
from postsale.agents.policy_sections import Cells, Rule
from postsale.agents.regions import HIGH, LOW, Box, Values, box_of, meet, point_in, shown, values_of
from postsale.agents.tables import Name
from postsale.errors import PolicyInvalid

MAX_DEPTH = 8
_MOST_LISTED = 50
Single = Literal["first", "unique", "any", "priority"]
_HITS: dict[Single, str] = {
    "first": "the first that matches",
    "unique": "the only one that matches",
    "any": "any that matches; all that match say the same",
    "priority": "of those that match, the most important action",
}


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True, populate_by_name=True
    )


def _kind(value: Any) -> str:
    return "branch" if isinstance(value, Branch) or (isinstance(value, dict) and "branch" in value) else "rule"


class Level(_Model):
    """One table of a tree: branches and leaves, and which of those that match decides."""

    hit: Single = "first"
    priorities: tuple[Name, ...] | None = None  # actions, the most important first; for `priority`, whose entries are leaves
    nodes: Annotated[tuple[Node, ...], Field(alias="branch", min_length=1, max_length=100)]


class Branch(Level):
    """A table that is asked only where a condition holds."""

    id: Name
    when: Cells = {}


Node = Annotated[Annotated[Rule, Tag("rule")] | Annotated[Branch, Tag("branch")], Discriminator(_kind)]
Level.model_rebuild()
Branch.model_rebuild()


def grow(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A policy's data with the flat table of its tree beside it. Raises PolicyInvalid by the place in the tree."""
    if "rule" in data:
        raise PolicyInvalid(policy=name, where="tree", reason="a policy has rows or a tree, not both")
    if data.get("hit", "first") != "first":
        raise PolicyInvalid(policy=name, where="hit", reason="a tree says at each of its levels which of those that match decides")
    try:
        tree = Level.model_validate_json(orjson.dumps(data["tree"]))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise PolicyInvalid(policy=name, where=_place(first["loc"], data["tree"]), reason=first["msg"]) from None
    except TypeError:
        raise PolicyInvalid(policy=name, where="tree", reason="a value that JSON does not have") from None
    inputs = data.get("inputs")
    if not isinstance(inputs, Mapping):
        raise PolicyInvalid(policy=name, where="inputs", reason="Field required")
    rows = [rule.model_dump(mode="json", exclude_none=True) for rule in _Flat(name, inputs).rows(tree)]
    return {**data, "tree": tree.model_dump(mode="json", by_alias=True, exclude_none=True), "rule": rows}


def tree_of(policy: Policy) -> Level | None:
    """The tree that a policy is; None for a flat table."""
    return None if policy.tree is None else Level.model_validate_json(orjson.dumps(policy.tree))


def check(policy: Policy) -> None:
    """Return when the policy's rows are those of its tree, and its levels keep to their hit policies; else PolicyInvalid."""
    tree = tree_of(policy)
    if tree is None:
        return
    flat = _Flat(policy.name, policy.inputs)
    if tuple(flat.rows(tree)) != policy.rules:
        raise PolicyInvalid(policy=policy.name, where="tree", reason="its rows are not those of its tree")
    flat.levels(tree, "", {})


class _Flat:
    def __init__(self, policy: str, inputs: Mapping[str, InputType]) -> None:
        self.policy, self.inputs = policy, inputs

    def bad(self, path: str, what: str, reason: str) -> PolicyInvalid:
        return PolicyInvalid(policy=self.policy, where=f"tree {path!r}, {what}" if path else f"tree, {what}", reason=reason)

    def rows(self, level: Level, path: str = "", when: Cells | None = None) -> Iterator[Rule]:
        """The leaves in the order in which the flat table is read."""
        if path.count(".") >= MAX_DEPTH:
            raise self.bad(path, "branch", f"more than {MAX_DEPTH} levels")
        for node in self.ordered(level, path):
            at = f"{path}.{node.id}".lstrip(".")
            both = self.together(when or {}, node.when, at)
            if isinstance(node, Branch):
                yield from self.rows(node, at, both)
            else:
                if len(at) > 64:
                    raise self.bad(at, "id", "the way to it is longer than 64 characters: shorten the ids")
                yield node.model_copy(update={"id": at, "when": both})

    def ordered(self, level: Level, path: str) -> Sequence[Rule | Branch]:
        """The entries of a level, the more important first where importance decides."""
        if level.hit != "priority":
            if level.priorities is not None:
                raise self.bad(path, "priorities", f'they mean nothing under hit = "{level.hit}"')
            return level.nodes
        order = level.priorities or ()
        for node in level.nodes:
            if isinstance(node, Branch):
                raise self.bad(path, f"branch {node.id!r}", "where importance decides, every entry is a leaf")
            if node.action not in order:
                raise self.bad(path, f"branch {node.id!r}", f"{node.action!r} has no place among the priorities")
        return sorted(cast("tuple[Rule, ...]", level.nodes), key=lambda rule: order.index(rule.action))

    def together(self, a: Cells, b: Cells, path: str) -> Cells:
        """Both conditions as one: an input that both name has one cell that says what both say."""
        out = dict(a)
        for name, cell in b.items():
            if name not in self.inputs:
                raise self.bad(path, f"when.{name}", "this input is not declared under [inputs]")
            if name not in a:
                out[name] = cell
                continue
            one, other = (
                parse_cell(c, self.inputs[name], policy=self.policy, where=f"tree {path!r}, when.{name}") for c in (a[name], cell)
            )
            both = values_of(one, self.inputs[name]) & values_of(other, self.inputs[name])
            if not both:
                raise self.bad(path, f"when.{name}", f"{other} never holds where {one} does, on the way to it")
            said = _said(both)
            if said is None:
                raise self.bad(path, f"when.{name}", f"{one}, on the way to it, and {other} cannot be said in one condition")
            out[name] = cast(JsonValue, str(said))
        return out

    def levels(self, level: Level, path: str, when: Cells) -> list[tuple[Rule, Box]]:
        """Every leaf below, with what it matches. Raises PolicyInvalid where several entries match that must not."""
        out: list[tuple[Rule, Box]] = []
        per_node: list[list[tuple[Rule, Box]]] = []
        seen: set[str] = set()
        for node in level.nodes:
            at = f"{path}.{node.id}".lstrip(".")
            if node.id in seen:
                raise self.bad(at, "id", "this id is used twice at this level")
            seen.add(node.id)
            both = self.together(when, node.when, at)
            leaves = self.levels(node, at, both) if isinstance(node, Branch) else [(node, self.box(both, at))]
            if level.hit in {"unique", "any"}:
                for earlier, others in zip(level.nodes, per_node, strict=False):
                    self.apart(level, earlier.id, others, at, leaves)
            per_node.append(leaves)
            out += leaves
        return out

    def apart(self, level: Level, earlier: str, others: list[tuple[Rule, Box]], path: str, leaves: list[tuple[Rule, Box]]) -> None:
        for rule, box in leaves:
            for other, its in others:
                met = meet(box, its)
                if met is None or (level.hit == "any" and rule.output == other.output):
                    continue
                why = "both match" if level.hit == "unique" else "both match and do not say the same"
                example = shown(point_in(met) or {})
                raise self.bad(path, "when", f"it overlaps with {earlier!r} beside it: {why} with {example}")

    def box(self, when: Cells, path: str) -> Box:
        cells = {n: parse_cell(c, self.inputs[n], policy=self.policy, where=f"tree {path!r}, when.{n}") for n, c in when.items()}
        return box_of(cells, self.inputs)


def _said(values: Values) -> Cell | None:
    """A set of values as one cell; None where the language has none for it."""
    named = sorted((v for v in values.named if v is not None), key=str)
    if values.missing:
        return None if values.spans or named or values.rest else cell_of("missing", ())
    if values.rest:
        return cell_of("not in", tuple(named)) if named else cell_of("known", ())
    if values.kind == "boolean" and len(named) == 2:
        return cell_of("known", ())
    if values.kind != "integer":
        return cell_of("in", tuple(named)) if len(named) > 1 else cell_of("==", tuple(named))
    low, high = values.spans[0][0], values.spans[-1][1]
    if len(values.spans) == 1:
        if low == high:
            return cell_of("==", (low,))
        if (low, high) == (LOW, HIGH):
            return cell_of("known", ())
        return cell_of("<=", (high,)) if low == LOW else cell_of(">=", (low,)) if high == HIGH else cell_of("between", (low, high))
    if (low, high) == (LOW, HIGH):
        gaps = [(a[1] + 1, b[0] - 1) for a, b in zip(values.spans, values.spans[1:], strict=False)]
        return _listed("not in", gaps)
    return _listed("in", list(values.spans)) if low != LOW and high != HIGH else None


def _listed(op: Literal["in", "not in"], spans: Sequence[tuple[int, int]]) -> Cell | None:
    if sum(b - a + 1 for a, b in spans) > _MOST_LISTED:
        return None
    return cell_of(op, tuple(n for a, b in spans for n in range(a, b + 1)))


# ---------------------------------------------------------------- for people


def lines(policy: Policy, tree: Level, row: Any) -> list[str]:
    """The tree, a line each; `row` says what a leaf does."""
    out = [f"Of these, {_HITS[tree.hit]}{_order(tree)}"]

    def walk(level: Level, before: str, path: str) -> None:
        for n, node in enumerate(level.nodes):
            last = n == len(level.nodes) - 1
            cells = policy.cells(node.when, f"tree {path}{node.id!r}")
            words = " and ".join(f"{name} {cell}" for name, cell in sorted(cells.items())) or "always"
            end = f": {_HITS[node.hit]}{_order(node)}" if isinstance(node, Branch) else f" → {row(node)} ({node.because})"
            out.append(f"  {before}{'└─ ' if last else '├─ '}{node.id}: {words}{end}")
            if isinstance(node, Branch):
                walk(node, before + ("   " if last else "│  "), f"{path}{node.id}.")

    walk(tree, "", "")
    return out


def levels_by_path(policy: Policy) -> dict[str, dict[str, Any]]:
    """What each branch says beside its entries, by the way to it: what a comparison of two trees shows beside their rows."""
    out: dict[str, dict[str, Any]] = {}

    def walk(level: Level, path: str) -> None:
        out[path] = level.model_dump(mode="json", exclude_none=True, exclude={"nodes", "id"})
        for node in level.nodes:
            if isinstance(node, Branch):
                walk(node, f"{path}.{node.id}".lstrip("."))

    tree = tree_of(policy)
    if tree is not None:
        walk(tree, "")
    return out


def _order(level: Level) -> str:
    return f" ({', '.join(level.priorities)})" if level.priorities else ""


def _place(loc: tuple[int | str, ...], data: Any) -> str:
    """The way to a node by ids, then the field."""
    path: list[str] = []
    rest: list[str] = []
    for part in loc:
        if isinstance(part, int) and isinstance(data, list) and not rest:
            data = data[part] if part < len(data) else {}
            path.append(str(data.get("id", part + 1))[:64] if isinstance(data, Mapping) else str(part + 1))
        elif part == "branch" and isinstance(data, Mapping) and not rest:
            data = data.get("branch", data)
        elif part not in {"rule", "branch"}:
            rest.append(str(part))
            data = None
    return ", ".join(x for x in (f"tree {'.'.join(path)!r}" if path else "tree", ".".join(rest)) if x)
