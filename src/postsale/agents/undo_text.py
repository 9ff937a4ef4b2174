"""An undo plan as a tree that a person wants to read before saying yes. Pure; imports the plan only."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from postsale.agents.undo import Item, Plan
from postsale.aggregates.budgets import amount_text


def tree(plan: Plan, names: Mapping[str, str] | None = None) -> str:
    """Decisions under the decisions that caused them, in the order in which they were taken; what is done is done from the leaves up."""
    names = names or {}
    by: dict[UUID, list[Item]] = {}
    for item in reversed(plan.items):
        by.setdefault(item.decision, []).append(item)
    under: dict[UUID | None, list[UUID]] = {}
    for id_, items in by.items():
        parent = items[0].parent
        under.setdefault(parent if parent in by else None, []).append(id_)
    lines = [_head(plan)]

    def walk(id_: UUID, before: str, branch: str, below: str) -> None:
        first = by[id_][0]
        caused = "" if first.parent is None else "caused by it: " if first.parent in by else "caused by what needs no undo: "
        who = names.get(first.customer, first.customer[:8])
        lines.append(f"{before}{branch}{caused}{first.agent} did {first.action} for {who} (decision {str(id_)[:8]})")
        children = under.get(id_, [])
        said = [text for item in by[id_] for text in (_line(item),)]
        for n, text in enumerate(said):
            last = n == len(said) - 1 and not children
            lines.append(f"{before}{below}{'└─ ' if last else '├─ '}{text}")
        for n, child in enumerate(children):
            last = n == len(children) - 1
            walk(child, before + below, "└─ " if last else "├─ ", "   " if last else "│  ")

    for root in under.get(None, []):
        lines.append("")
        walk(root, "", "", "")
    return "\n".join(lines)


def _head(plan: Plan) -> str:
    people = len({item.customer for item in plan.items})
    name = plan.scope.name if plan.scope.by == "tool" else plan.scope.name[:12]
    what = [
        f"{plan.count('undo')} to take back",
        f"{plan.count('cancel')} to cancel before {'they leave' if plan.count('cancel') != 1 else 'it leaves'}",
        f"{plan.count('by-hand')} for a person to do by hand",
    ]
    done = f", {plan.done} taken back already" if plan.done else ""
    return f"Undo of {plan.scope.by} {name}, {people} customer{'s' * (people != 1)}: {', '.join(what)}{done}.  Plan {plan.digest[:12]}"


def _line(item: Item) -> str:
    match item.what:
        case "cancel":
            return "cancel what has not left; the decision is set aside"
        case "undo":
            back = "".join(f"; {amount_text(r.amount, r.unit)} go back to {r.budget} {r.period}" for r in item.back)
            return f"take back {item.tool} with {item.with_tool}{back}"
        case "by-hand":
            return f"CANNOT BE UNDONE {item.tool}: {item.because}. By hand: {item.by_hand}"
