"""Generates the table of docs/agents.md from the shipped policies: `python -m docs.agents_table`, or `--check` to fail when it is stale."""

from __future__ import annotations

import sys
from pathlib import Path

from postsale.agents import SHIPPED, Policy
from postsale.agents.policy import NO_ACTION
from postsale.agents.policy_sections import Cells

PAGE = Path(__file__).resolve().parent / "agents.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def table() -> str:
    """Every shipped agent, the most important first, with what its policy says."""
    policies = sorted((cls().policy for cls in SHIPPED.values()), key=lambda p: p.conversation.priority if p.conversation else 0)
    head = ["Priority", "Agent", "Asked when", "Looks at", "Does", "Ends before its time when", "Success", "Contacts at most"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_row(p))} |" for p in policies)])


def _row(p: Policy) -> list[str]:
    talk, g = p.conversation, p.guardrails
    does = dict.fromkeys(f"{r.action} (`{r.tool}`)" for r in p.rules if r.action != NO_ACTION)
    not_while = [f"never: {s.id}" for s in g.sequence or ()]
    stops = [f"{s.id}: {_when(s.when)}" for s in (talk.stop if talk else ())]
    return [
        str(talk.priority if talk else ""),
        f"`{p.name}`",
        "<br>".join(f"{t.id}: {_when(t.when)}" for t in p.triggers),
        ", ".join(f"`{name}`" for name in p.inputs),
        "<br>".join([*does, *not_while]),
        "<br>".join(stops),
        f"{' or '.join(f'`{kind}`' for kind in p.outcome.on)} within {p.outcome.within_days} days" if p.outcome else "",
        "<br>".join(f"{f.count} in {f.days} days" for f in g.frequency) + f"<br>consent for {g.purpose}",
    ]


def _when(cells: Cells) -> str:
    return ", ".join(f"{name} {_cell(cell)}" for name, cell in cells.items())


def _cell(cell: object) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return str(cell)


def page() -> str:
    """The page with the table as it has to be."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("docs/agents.md is stale: python -m docs.agents_table" if PAGE.read_text(encoding="utf-8") != page() else 0)
    PAGE.write_text(page(), encoding="utf-8")
