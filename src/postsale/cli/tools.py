"""`postsale tool`: what effects may leave through, and how it does. Prints; decides nothing."""

from __future__ import annotations

from rich.markup import escape

from postsale.app.tools import contract_dict
from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    AsOf,
    Commands,
    Db,
    Json,
    KnownAt,
    TenantName,
    emit,
    opened,
    out,
    parse_time,
    table,
    tenant_of,
)

tool_app = Commands(no_args_is_help=True, help="What effects leave through, and how it does.", epilog=EXIT_CODES)
_COLOUR = {"closed": "green", "half-open": "yellow", "open": "red"}


@tool_app.command("list")
def tool_list(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Tools by contract: those installed here, and those that decisions named."""
    with opened(db) as ps:
        tools = tenant_of(ps, tenant).tools()
        if json:
            emit([contract_dict(t.contract) if t.contract else {"tool": t.tool, "digests": sorted(t.record.digests)} for t in tools])
            return
        rows = []
        for t in tools:
            if t.contract is None:
                rows.append((escape(t.tool), "[yellow]not installed here[/]", "", "", "", ""))
                continue
            c = contract_dict(t.contract)
            kept = "sandbox" if c["sandbox"] else "real"
            rows.append((escape(t.tool), kept, c["kind"], c["risk_tier"], escape(c["undo"] or "none"), c["digest"][:12]))
        table("Tools", ("tool", "here", "kind", "risk", "undo", "contract"), rows)


@tool_app.command("status")
def tool_status(db: Db = DEFAULT_DB, tenant: TenantName = None, as_of: AsOf = None, known_at: KnownAt = None, json: Json = False) -> None:
    """How tools have done, and whose circuit is open. The circuit is as it is now, also with --as-of."""
    with opened(db) as ps:
        tools = tenant_of(ps, tenant).tools(as_of=parse_time(as_of), known_at=parse_time(known_at))
        if json:
            emit([t.to_dict() for t in tools])
            return
        rows = []
        for t in tools:
            effects, circuit = t.record.effects, f"[{_COLOUR[t.circuit]}]{t.circuit}[/]"
            if t.waits_until is not None:
                circuit += f" until {t.waits_until:%Y-%m-%d %H:%M:%S}"
            done, bad = effects["succeeded"], effects["failed"]
            waiting = sum(effects[s] for s in ("held", "ready", "started", "retry"))
            reason = escape(t.reason or t.record.last_reason)
            rows.append((escape(t.tool), circuit, done, bad, waiting, effects["unknown"], t.record.attempts, reason))
        table("Tools", ("tool", "circuit", "done", "failed", "waiting", "unknown", "attempts", "newest failure"), rows)
        if any(t.record.effects["unknown"] for t in tools):
            out.print("[yellow]A person must look at effects whose outcome is unknown.[/]")
