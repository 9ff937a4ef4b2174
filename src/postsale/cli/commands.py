"""The commands, by what they are about. Each opens the database, asks `app`, and prints a table or JSON.

The demo is in `demo.py`; reading files in is in `ingest.py`; verifying and proving is in `log.py`; read models are in `projections.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from postsale.agents.agent import package_version
from postsale.cli.agents import agent_app, approval_app, decision_app
from postsale.cli.backtest import backtest
from postsale.cli.budgets import budget_app
from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    AsOf,
    Commands,
    Db,
    Json,
    KnownAt,
    TenantName,
    counts,
    emit,
    hint,
    opened,
    out,
    parse_time,
    table,
    tenant_of,
)
from postsale.cli.db import db_app
from postsale.cli.demo import demo
from postsale.cli.export import export_app
from postsale.cli.health import health_app
from postsale.cli.ingest import ingest_app, quarantine_app
from postsale.cli.log import log_app
from postsale.cli.models import model_app
from postsale.cli.outcomes import outcome_app
from postsale.cli.people import authority_app, case_app, upcoming
from postsale.cli.policies import policy_app
from postsale.cli.projections import projection_app
from postsale.cli.prompts import prompt_app
from postsale.cli.replay import decision_replay, log_check_certificate
from postsale.cli.report import report
from postsale.cli.run import run
from postsale.cli.schemas import schemas_app
from postsale.cli.tools import tool_app
from postsale.cli.undo import undo_app
from postsale.cli.using import using_dict, using_lines
from postsale.cli.whatif import decision_whatif
from postsale.events import Masked
from postsale.projections.model_card import figure
from postsale.projections.outcomes import Adoption, Advocacy, Expansion, Onboarding

app = Commands(
    name="postsale",
    help="Record what customers do and what agents decide in one immutable log; score health; act inside policy; prove it.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
customer_app = Commands(no_args_is_help=True, help="Who is healthy, who is at risk, and why.", epilog=EXIT_CODES)
snapshots_app = Commands(no_args_is_help=True, help="Kept states of customers with a long past; derived from the log.", epilog=EXIT_CODES)
token_app = Commands(no_args_is_help=True, help="Access tokens for people who approve through a program.", epilog=EXIT_CODES)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        out.print(package_version())
        raise typer.Exit


decision_app.command("replay")(decision_replay)
decision_app.command("whatif")(decision_whatif)
log_app.command("check-certificate")(log_check_certificate)

app.command()(demo)
app.command()(run)
app.command()(report)
app.command()(upcoming)
app.command()(backtest)
app.add_typer(ingest_app, name="ingest")
app.add_typer(customer_app, name="customer")
app.add_typer(health_app, name="health")
app.add_typer(outcome_app, name="outcome")
app.add_typer(decision_app, name="decision")
app.add_typer(approval_app, name="approval")
app.add_typer(authority_app, name="authority")
app.add_typer(case_app, name="case")
app.add_typer(agent_app, name="agent")
app.add_typer(tool_app, name="tool")
app.add_typer(model_app, name="model")
app.add_typer(undo_app, name="undo")
app.add_typer(policy_app, name="policy")
app.add_typer(budget_app, name="budget")
app.add_typer(prompt_app, name="prompt")
app.add_typer(projection_app, name="projection")
app.add_typer(snapshots_app, name="snapshots")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(log_app, name="log")
app.add_typer(schemas_app, name="schemas")
app.add_typer(export_app, name="export")
app.add_typer(token_app, name="token")
app.add_typer(db_app, name="db")

CustomerId = Annotated[str, typer.Argument(help="The customer's id, as you record it.")]
_BAND = {"poor": "[red]poor[/]", "fair": "[yellow]fair[/]", "good": "[green]good[/]"}


# ---------------------------------------------------------------- customers


@customer_app.command("list")
def customer_list(
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    at_risk: Annotated[bool, typer.Option("--at-risk", help="Only in band poor and not ended, or with an open risk case.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many rows in the table; --json gives all.")] = 30,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    json: Json = False,
) -> None:
    """Customers with their health, the least healthy first."""
    with opened(db) as ps:
        rows = tenant_of(ps, tenant).customers(at_risk=at_risk, as_of=parse_time(as_of), known_at=parse_time(known_at))
        if json:
            emit([row.to_dict() for row in rows])
            return
        shown = [
            (
                escape(row.name),
                f"{row.score:.2f}" if row.score is not None else "–",
                _BAND.get(row.band or "", "–"),
                "risk case" if row.open_case else "ended" if row.ended else "",
            )
            for row in rows[:limit]
        ]
        table("Customers at risk" if at_risk else "Customers", ("customer", "health", "band", ""), shown, right=("health",))
        if len(rows) > limit:
            out.print(f"[dim]… and {len(rows) - limit:,} more (--limit, --json)[/]")
        if rows:
            hint(f"postsale customer why {escape(rows[0].name)}", as_of=as_of, known_at=known_at)


@customer_app.command("show")
def customer_show(
    customer: CustomerId, db: Db = DEFAULT_DB, tenant: TenantName = None, as_of: AsOf = None, known_at: KnownAt = None, json: Json = False
) -> None:
    """One customer's state: facts by kind, consents, open matters."""
    with opened(db) as ps:
        t = tenant_of(ps, tenant)
        at, known = parse_time(as_of), parse_time(known_at)
        state, health = t.customer(customer, as_of=at, known_at=known), t.health(customer, as_of=at, known_at=known)
        lifecycle, scores = t.lifecycle(customer, as_of=at, known_at=known), t.models.scores(customer, as_of=at, known_at=known)
        using = [t.features(f, customer, as_of=at, known_at=known) for f in (Onboarding, Adoption, Advocacy, Expansion)]
        if json:
            said = {"lifecycle": lifecycle.to_dict(), "scores": [score.to_dict() for score in scores]}
            said |= {
                name: using_dict(values) for name, values in zip(("onboarding", "adoption", "advocacy", "expansion"), using, strict=True)
            }
            emit({"customer": customer, "state": state.to_dict(), "health": health.to_dict(), **said})
            return
        out.print(
            f"[bold]{escape(customer)}[/]  health {health.score if health.score is not None else '–'} {_BAND.get(health.band or '', '')}"
        )
        out.print(escape(str(lifecycle)))
        for line in using_lines(*using):
            out.print(escape(line))
        for score in scores:
            out.print(f"{escape(score.name)}: {figure(score.scored)} [dim]{escape(score.outcome)}[/]")
        table(
            "Facts",
            ("kind", "count", "latest"),
            [(k, f"{s['count']:,}", s["latest_at"]) for k, s in state.to_dict()["facts"].items()],
            right=("count",),
        )
        table(
            "Consents",
            ("channel", "purpose", "given"),
            [(escape(c), escape(p), "yes" if given else "no") for (c, p), given in state.consents.items()],
        )
        table(
            "Open decisions",
            ("decision", "agent", "disposition"),
            [(k, escape(o.agent), o.disposition) for k, o in state.decisions.items()],
        )
        hint(f"postsale customer timeline {escape(customer)}", as_of=as_of, known_at=known_at)


@customer_app.command("timeline")
def customer_timeline(
    customer: CustomerId, db: Db = DEFAULT_DB, tenant: TenantName = None, as_of: AsOf = None, known_at: KnownAt = None, json: Json = False
) -> None:
    """Everything that was recorded about a customer, in the order in which it was recorded."""
    with opened(db) as ps:
        events = tenant_of(ps, tenant).timeline(customer, as_of=parse_time(as_of), known_at=parse_time(known_at))
        if json:
            emit([event_dict(e) for e in events])
            return
        table(
            f"Timeline of {escape(customer)}",
            ("position", "occurred", "recorded", "what", "details"),
            [
                (e.position, f"{e.occurred_at:%Y-%m-%d %H:%M}", f"{e.recorded_at:%Y-%m-%d %H:%M}", e.stored.kind, escape(_details(e)))
                for e in events
            ],
            right=("position",),
        )


@customer_app.command("why")
def customer_why(
    customer: CustomerId,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    since: Annotated[str | None, typer.Option("--since", help="Also what it was then, and what moved since; a date or time.")] = None,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    json: Json = False,
) -> None:
    """Why the health is what it is: by component and by event, in parts that sum exactly; what it was before; what would change its band."""
    with opened(db) as ps:
        health = tenant_of(ps, tenant).health(customer, as_of=parse_time(as_of), known_at=parse_time(known_at))
        why = health.why(since=parse_time(since))
        if json:
            emit(why.to_dict())
        else:
            out.print(escape(str(why)))


def event_dict(e: Any) -> dict[str, Any]:
    """One event for programs; personal fields as this reader may see them."""
    payload = {k: str(v) if isinstance(v, Masked) else v for k, v in e.data.payload().items()}
    return {
        "position": e.position,
        "id": str(e.event_id),
        "kind": e.stored.wire_name,
        "lane": e.stored.lane.name.lower(),
        "occurred_at": e.occurred_at,
        "recorded_at": e.recorded_at,
        "source": e.header.source or None,
        "source_id": e.header.source_id or None,
        "actor": str(e.header.actor),
        "data": payload,
    }


_TELLING = ("decision_id", "action", "disposition", "suppressed_by", "rule", "condition", "approver", "reason", "stage", "result")


def _details(e: Any) -> str:
    values = e.data.payload()
    first = {k: str(values[k])[:8] if k.endswith("_id") else values[k] for k in _TELLING if k in values}
    if e.stored.kind == "agent/decision-recorded":
        first = {"decision": str(e.event_id)[:8], **first}
    rest = {k: v for k, v in values.items() if isinstance(v, (str, int, bool, Masked)) and len(str(v)) < 60}
    shown = {**first, **{k: v for k, v in rest.items() if k not in first}}
    return "  ".join(f"{k}={v}" for k, v in list(shown.items())[:6])


# ---------------------------------------------------------------- snapshots, tokens


@snapshots_app.command("drop")
def snapshots_drop(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Delete every snapshot, of one tenant or of all. Nothing is lost: they are made again as customers are read."""
    with opened(db) as ps:
        names = ps.tenants() if tenant is None else [tenant_of(ps, tenant).name]
        dropped = {name: ps.log.snapshots.drop(name) for name in names}
        if json:
            emit(dropped)
        else:
            counts("Dropped", dropped)


@token_app.command("issue")
def token_issue(
    login: Annotated[str, typer.Argument(help="The person it stands for, as approvals will name them.")],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Issue an access token; it is shown once. Use it as POSTSALE_TOKEN."""
    with opened(db) as ps:
        token = ps.issue_token(login)
        if json:
            emit({"login": login, "token": token})
        else:
            out.print(f"{token}\n[dim]Shown once. Set POSTSALE_TOKEN to it to act as {escape(login)}.[/]")
