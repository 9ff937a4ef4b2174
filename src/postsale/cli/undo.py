"""`postsale undo`: what agents did is taken back: planned, approved by a person, carried out once. Prints; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.markup import escape

from postsale.agents.tools import Tool
from postsale.agents.undo_items import Undo
from postsale.app import PostSale, Tenant
from postsale.app.undoing import TenantUndos
from postsale.cli.agents import find
from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    Commands,
    Db,
    Json,
    Reason,
    TenantName,
    emit,
    hint,
    imported,
    opened,
    out,
    person,
    table,
    tenant_of,
)
from postsale.errors import InvalidInput

undo_app = Commands(no_args_is_help=True, help="Take back what agents did, and everything that came of it.", epilog=EXIT_CODES)

Tools = Annotated[
    str | None, typer.Option("--tools", help="module:NAME of your real tools, a list. Without it tools are sandboxes: nothing leaves.")
]
UndoId = Annotated[str, typer.Argument(metavar="UNDO", help="The beginning of the undo's plan, as `undo plan --propose` printed it.")]
_COLOUR = {"undone": "green", "cancelled": "green", "failed": "red", "unknown": "red"}


@contextmanager
def _tenant(db: str, tenant: str | None, tools: str | None) -> Iterator[tuple[PostSale, Tenant]]:
    with opened(db, tools=_named(tools)) as ps:
        yield ps, tenant_of(ps, tenant)


def _named(name: str | None) -> list[Tool]:
    if name is None:
        return []
    module, colon, attribute = name.partition(":")
    found = getattr(imported(module), attribute, None) if colon else None
    found = found() if callable(found) else found
    if not isinstance(found, list | tuple) or not all(isinstance(tool, Tool) for tool in found):
        raise InvalidInput(
            what="option", field="--tools", reason="expected module:NAME of a list of tools, or of a function that gives one"
        )
    return list(found)


def _find(undos: TenantUndos, prefix: str) -> Undo:
    """The newest undo whose plan's digest begins so; one that is still open before others."""
    found = [u for u in undos.list() if u.digest.startswith(prefix.lower())]
    if len({u.digest for u in found}) != 1:
        reason = "no undo begins so" if not found else "several undos begin so"
        raise InvalidInput(what="argument", field="undo", reason=f"{reason}; see: postsale undo status")
    return next((u for u in reversed(found) if u.state.open), found[-1])


@undo_app.command("plan")
def undo_plan(
    decision: Annotated[str | None, typer.Option("--decision", help="A decision's id, or its first characters.")] = None,
    policy: Annotated[str | None, typer.Option("--policy", help="A policy's digest, or its first characters.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="A model's digest, or its first characters.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="A prompt's digest, or its first characters.")] = None,
    tool: Annotated[str | None, typer.Option("--tool", help="A tool's NAME@VERSION.")] = None,
    propose: Annotated[bool, typer.Option("--propose", help="Record the plan, so that it can be approved.")] = False,
    tools: Tools = None,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Everything that descends from one of these, as a tree, and how it is taken back. Changes nothing without --propose."""
    with _tenant(db, tenant, tools) as (ps, t):
        named = None if decision is None else find(t, decision)
        scope = {"decision": named, "policy": policy, "model": model, "prompt": prompt, "tool": tool}
        undo = None
        if propose:
            undo, plan = t.undos.propose(**scope, by=person(ps))  # type: ignore[arg-type]
        else:
            plan = t.undos.plan(**scope)  # type: ignore[arg-type]
        if json:
            emit({**plan.to_dict(), "undo": None if undo is None else str(undo.id)})
            return
        out.print(escape(t.undos.tree(plan)), soft_wrap=True)
        if undo is not None:
            hint(f"postsale undo approve {plan.digest[:12]} --reason …")
        elif not plan.empty:
            out.print("[dim]Nothing is recorded yet. Add --propose, so that a person can approve it.[/]")


@undo_app.command("approve")
def undo_approve(
    undo: UndoId, reason: Reason, tools: Tools = None, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False
) -> None:
    """Say yes to exactly this plan. Refused (exit status 3) when the log moved so that it would be another one."""
    with _tenant(db, tenant, tools) as (ps, t):
        found = _find(t.undos, undo)
        done = t.undos.approve(found.id, reason=reason, by=person(ps), digest=found.digest)
        if json:
            emit(done.to_dict())
            return
        out.print(f"Approved. Plan {done.digest[:12]} may be carried out, once.")
        hint(f"postsale undo run {done.digest[:12]}")


@undo_app.command("run")
def undo_run(undo: UndoId, tools: Tools = None, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Carry out an approved undo, or go on with one that was stopped. A second time it does nothing. Exit status 1: a person must look."""
    with _tenant(db, tenant, tools) as (_, t):
        done = t.undos.run(_find(t.undos, undo).id)
        if json:
            emit(done.to_dict())
        else:
            _print(t, done)
    if any(_COLOUR.get(ended.status) == "red" for ended in done.items):
        raise typer.Exit(1)


@undo_app.command("status")
def undo_status(
    undo: Annotated[str | None, typer.Argument(metavar="[UNDO]", help="One undo; without it all of them.")] = None,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Undos and how far they are; one of them item by item."""
    with _tenant(db, tenant, None) as (_, t):
        if undo is not None:
            one = _find(t.undos, undo)
            emit(one.to_dict()) if json else _print(t, one)
            return
        every = t.undos.list()
        if json:
            emit([u.to_dict() for u in every])
            return
        rows = []
        for u in every:
            p, a = u.proposed, u.state.approved
            done = sum(e.status in {"undone", "cancelled"} for e in u.items)
            rows.append((u.digest[:12], u.state.status, f"{p.by} {escape(p.name[:24])}", f"{done}/{len(u.items)}", a.approver if a else ""))
        table("Undos", ("plan", "status", "of", "done", "approved by"), rows)


def _print(t: Tenant, undo: Undo) -> None:
    names, state = t.names(), undo.state
    approved = f", approved by {state.approved.approver}: {state.approved.reason}" if state.approved else ""
    out.print(f"Undo {undo.digest[:12]} of {undo.proposed.by} {escape(undo.proposed.name[:24])}: [bold]{state.status}[/]{escape(approved)}")
    rows = [
        (
            str(e.item.decision)[:8],
            escape(names.get(e.item.customer, e.item.customer[:8])),
            escape(e.item.with_tool or "cancel"),
            f"[{_COLOUR.get(e.status, 'yellow')}]{e.status}[/]",
            escape(e.why),
        )
        for e in undo.items
    ]
    if rows:
        table("", ("decision", "customer", "with", "status", "why"), rows)
    for e in undo.items:
        if e.status == "unknown":
            out.print("[red]Nobody knows whether an effect was taken back.[/] Look where it would be, and say so:")
            hint(f"postsale decision settle {e.item.order_id} {e.item.undo_id} --happened --reason …   (or --did-not-happen)")
    for item in undo.by_hand:
        who = names.get(item.customer, item.customer[:8])
        out.print(f"[yellow]By hand[/] {escape(f'{who}, {item.tool}: {item.because}. {item.by_hand}')}", soft_wrap=True)
    if any(e.status == "ordered" for e in undo.items):
        out.print("[dim]What a tool keeps waiting is sent by the next run: postsale run, or this again.[/]")
