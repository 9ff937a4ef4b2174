"""`postsale decision whatif`: history decided again under a candidate policy, for people and for a step of CI. Prints; decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from postsale.agents import Policy
from postsale.aggregates.artifacts import MODES
from postsale.aggregates.budgets import is_money
from postsale.audit import Estimate, WhatIf
from postsale.cli.common import DEFAULT_DB, Db, Json, TenantName, emit, hint, opened, out, parse_time, table, tenant_of
from postsale.errors import InvalidInput
from postsale.events import money_text

_SHOWN = 30
_FAIL_ON = ("widen", "change")


def decision_whatif(
    policy: Annotated[Path, typer.Option("--policy", help="The candidate, a policy file (.toml).")],
    begin: Annotated[str, typer.Option("--from", help="From this date or RFC 3339 time on.")],
    end: Annotated[str | None, typer.Option("--to", help="Up to this date (its end, UTC) or time. [default: now]")] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="As if the agent could observe, propose or act. [default: as it could then]")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option("--fail-on", help="Exit status 1 when it widens without declaring it (widen), or changes a decision (change)."),
    ] = None,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """What would have been decided under another policy: for whom, why, at what cost in contacts and money. Changes nothing."""
    if fail_on not in {None, *_FAIL_ON}:
        raise InvalidInput(what="option", field="--fail-on", reason=f"expected one of {', '.join(_FAIL_ON)}")
    how = next((m for m in MODES if m == mode), None)
    if mode is not None and how is None:
        raise InvalidInput(what="option", field="--mode", reason=f"expected one of {', '.join(MODES)}")
    if not policy.is_file():
        raise InvalidInput(what="option", field="--policy", reason="there is no such file")
    at = parse_time(f"{begin}T00:00:00Z" if len(begin) == 10 else begin)
    assert at is not None
    with opened(db) as ps:
        found = tenant_of(ps, tenant).what_if(Policy.load(policy), begin=at, end=parse_time(end), mode=how)
        undeclared = bool(found.widens) and not found.policy.widens
        if json:
            emit(found.to_dict())
        else:
            _show(found, undeclared=undeclared)
        raise typer.Exit(1 if (fail_on == "widen" and undeclared) or (fail_on == "change" and found.changed) else 0)


def _sum(name: str, value: int, sign: str = "") -> str:
    """A sum as people read it: offers and some budgets are money, everything else is counted."""
    unit = name.rpartition(" ")[2]
    if not (name.startswith(("offers ", "budget ")) and is_money(unit)):
        return f"{value:{sign},}"
    plus = "+" if sign and value >= 0 else ""
    return plus + money_text(value, unit).partition(" ")[0]


def _show(found: WhatIf, *, undeclared: bool) -> None:
    p = found.policy
    told = f"{found.decisions:,} decisions, {len(found.changed):,} would be others"
    if found.unplanned:
        told += f", {found.unplanned:,} cannot be decided again: their planner was never asked"
    if found.unreadable:
        told += f", {found.unreadable:,} cannot be decided again: their evidence is gone"
    if found.edits:
        told += f"; edits by people, which stay as they are: {found.edits:,}"
    out.print(f"[bold]{escape(p.name)} v{p.version}[/]  {told}")
    names = sorted({*found.before, *found.after})
    rows = [(escape(n), _sum(n, found.before[n]), _sum(n, found.after[n]), _sum(n, found.after[n] - found.before[n], "+")) for n in names]
    table("In sum", ("", "before", "after", "difference"), rows, right=("before", "after", "difference"))
    changed = [
        (
            str(c.decision_id)[:8],
            f"{c.decided_at:%Y-%m-%d %H:%M}",
            c.customer[:8],
            escape(str(c.before)),
            escape(str(c.after)),
            escape(c.why),
        )
        for c in found.changed[:_SHOWN]
    ]
    table("Would be decided otherwise", ("id", "when", "customer", "before", "after", "why"), changed)
    if len(found.changed) > _SHOWN:
        out.print(f"[dim]… and {len(found.changed) - _SHOWN:,} more (--json)[/]")
    if found.widens:
        table(
            "[yellow]It allows more than the active policy[/]", ("where", "what"), [(escape(w.where), escape(str(w))) for w in found.widens]
        )
        for title, refs in (("Customers it would newly touch", found.touched), ("Customers it would be asked about today", found.asked)):
            if refs:
                more = f" … and {len(refs) - _SHOWN:,} more" if len(refs) > _SHOWN else ""
                out.print(f"[yellow]{title}[/]  {' '.join(ref[:8] for ref in refs[:_SHOWN])}{more}", soft_wrap=True)
        if undeclared:
            out.print("[red]It does not declare this[/] (widens = true), so it will not be activated.")
    elif not found.against:
        out.print("[dim]No policy of this name was active: there is nothing to tell widening against.[/]")
    said = str(found.value) if isinstance(found.value, Estimate) else f"No estimate: {found.value}."
    out.print(f"[bold]Worth[/]  {escape(said)}", soft_wrap=True)
    if found.changed:
        hint(f"postsale decision explain {str(found.changed[0].decision_id)[:8]}")
