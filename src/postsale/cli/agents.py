"""`postsale decision`, `approval` and `agent`: what agents decided, what waits for a person, how far agents may go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer
from rich.markup import escape

from postsale.aggregates.artifacts import EVERY_AGENT
from postsale.app import PostSale, Tenant
from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    AsOf,
    Commands,
    Db,
    Json,
    KnownAt,
    Reason,
    TenantName,
    emit,
    hint,
    opened,
    out,
    parse_time,
    person,
    table,
    tenant_of,
)
from postsale.cli.named import agent_named
from postsale.errors import InvalidInput, UnknownDecision
from postsale.projections.journal import Entry

decision_app = Commands(no_args_is_help=True, help="What agents decided, why, and whether it can be reproduced.", epilog=EXIT_CODES)
approval_app = Commands(
    no_args_is_help=True,
    help="What waits for a person. You act as the operating-system user, or as the owner of the token in POSTSALE_TOKEN.",
    epilog=EXIT_CODES,
)
agent_app = Commands(no_args_is_help=True, help="How far agents may go, and the switch that stops them.", epilog=EXIT_CODES)

DecisionId = Annotated[str, typer.Argument(help="The decision's id, or its first characters.")]
_ID_PREFIX = re.compile(r"[0-9A-Fa-f-]+\Z")
AnyDecision = Annotated[str, typer.Argument(help="The decision's id, its first characters, or: last")]
_COLOUR = {"acted": "green", "awaiting": "yellow", "suppressed": "dim", "failed": "red"}


def find(tenant: Tenant, prefix: str) -> UUID:
    """The decision whose id begins so. UnknownDecision when none does, InvalidInput when several do."""
    found = [e.id for e in tenant.decisions() if str(e.id).startswith(prefix.lower())]
    if not found:
        shown = prefix[:36] if _ID_PREFIX.match(prefix) else "that begins so"
        raise UnknownDecision(tenant=tenant.name, decision_id=shown)
    if len(found) > 1:
        raise InvalidInput(what="argument", field="decision", reason=f"{len(found)} decisions begin so; see: postsale decision list")
    return found[0]


def newest_or(tenant: Tenant, name: str) -> UUID:
    """As `find`; "last" is the newest decision. For commands that only read: what is approved is named."""
    if name == "last" and (entries := tenant.decisions()):
        return entries[-1].id
    return find(tenant, name)


def decision_rows(entries: Sequence[Entry], names: dict[str, str]) -> list[tuple[object, ...]]:
    return [
        (
            str(e.id)[:8],
            f"{e.decided_at:%Y-%m-%d %H:%M}",
            escape(names.get(e.stream.id, e.stream.id[:8])),
            escape(e.agent),
            escape(e.recorded.condition),
            e.action or "nothing",
            f"[{_COLOUR[e.disposition]}]{e.disposition}[/]" + (f" by {e.suppressed_by}" if e.suppressed_by else ""),
        )
        for e in entries
    ]


# ---------------------------------------------------------------- decisions


@decision_app.command("list")
def decision_list(
    customer: Annotated[str | None, typer.Argument(help="Only this customer's.")] = None,
    disposition: Annotated[str | None, typer.Option("--disposition", help="acted, awaiting, suppressed or failed.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many in the table; --json gives all.")] = 30,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    json: Json = False,
) -> None:
    """Decisions, the newest last, each with its one current disposition."""
    if disposition is not None and disposition not in _COLOUR:
        raise InvalidInput(what="option", field="--disposition", reason=f"expected one of {', '.join(_COLOUR)}")
    with opened(db) as ps:
        t = tenant_of(ps, tenant)
        entries = [
            e for e in t.decisions(customer, as_of=parse_time(as_of), known_at=parse_time(known_at)) if disposition in (None, e.disposition)
        ]
        if json:
            emit([e.to_dict() for e in entries])
            return
        table(
            "Decisions",
            ("id", "when", "customer", "agent", "condition", "action", "disposition"),
            decision_rows(entries[-limit:], t.names()),
        )
        if len(entries) > limit:
            out.print(f"[dim]… and {len(entries) - limit:,} before these (--limit, --json)[/]")
        if entries:
            hint(f"postsale decision explain {str(entries[-1].id)[:8]}")


@decision_app.command("explain")
def decision_explain(decision: AnyDecision, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """What was known, which policy and row, each guardrail, who approved, what left, what came of it."""
    with opened(db) as ps:
        t = tenant_of(ps, tenant)
        explanation = t.explain(newest_or(t, decision))
        if json:
            emit(explanation.to_dict())
            return
        out.print(escape(str(explanation)))
        name = t.names().get(explanation.decision.stream.id, "")
        as_of, known = explanation.decision.decided_at.isoformat(), explanation.known_at
        hint(f"postsale customer why {escape(name)}", as_of=as_of, known_at=known.isoformat() if known else None)
        hint(f"postsale decision replay {str(explanation.decision.id)[:8]}")


# ---------------------------------------------------------------- approvals


@approval_app.command("approve")
def approval_approve(
    decision: DecisionId,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is recorded.")] = "",
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Let the decision's effects leave, once, if nothing it was bound to has changed."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        id_ = find(t, decision)
        done = t.approve(id_, by=by, reason=reason)
        _settled(id_, "approved" if done else "one yes of several", by.login, json)
        asked = None if done or json else next((e.asked for e in t.approvals() if e.id == id_), None)
        if asked is not None:
            out.print(f"{len(asked.signed)} of {asked.people} people said yes; nothing leaves before the rest do.")


@approval_app.command("reject")
def approval_reject(decision: DecisionId, reason: Reason, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Say no; the reason is recorded."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        id_ = find(t, decision)
        t.reject(id_, by=by, reason=reason)
        _settled(id_, "rejected", by.login, json)


@decision_app.command("override")
def decision_override(decision: DecisionId, reason: Reason, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Set a decision aside: effects that have not left are cancelled; the reason is recorded. For those that have, see `postsale undo`."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        id_ = find(t, decision)
        t.override(id_, by=by, reason=reason)
        _settled(id_, "set aside", by.login, json)


@decision_app.command("settle")
def decision_settle(
    decision: DecisionId,
    effect: Annotated[UUID, typer.Argument(help="The effect: its idempotency key in `decision explain --json`.")],
    reason: Reason,
    happened: Annotated[bool, typer.Option("--happened/--did-not-happen", help="What you found where the effect would be.")],
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Say what became of an effect whose outcome nobody knows. DECISION may be the whole id of an undo's order."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        id_ = _order(decision) or find(t, decision)
        t.settle(id_, effect, happened=happened, by=by, reason=reason)
        _settled(id_, f"settled: it {'happened' if happened else 'did not happen'}", by.login, json)


def _order(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _settled(decision_id: UUID, what: str, by: str, json: bool) -> None:
    if json:
        emit({"decision_id": str(decision_id), "result": what, "by": by})
        return
    out.print(f"{what.capitalize()} by [bold]{escape(by)}[/].")
    hint(
        "postsale run"
        if what == "approved"
        else "postsale approval list"
        if what in {"rejected", "one yes of several"}
        else "postsale decision list"
    )


# ---------------------------------------------------------------- agents


AgentName = Annotated[str, typer.Argument(help="renewal-rescue, churn-outreach, or a policy file.")]


@agent_app.command("list")
def agent_list(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Agents that were named here, and how far each may go."""
    with opened(db) as ps:
        t = tenant_of(ps, tenant)
        rows = [(name, t.agent(name).control) for name in t.agent_names()]
        if json:
            emit([{"agent": name, "mode": c.mode, "paused": c.paused, "retired": c.retired} for name, c in rows])
            return
        switch = [("[red]retired[/]" if c.retired else "[red]paused[/]" if c.paused else "on") for _, c in rows]
        table("Agents", ("agent", "mode", "switch"), [(escape(n), c.mode, s) for (n, c), s in zip(rows, switch, strict=True)])
        if not rows:
            hint("postsale agent observe renewal-rescue --reason 'first look'")


def _change(ps: PostSale, tenant: str | None, name: str, change: str, reason: str, json: bool) -> None:
    t, by = tenant_of(ps, tenant, new=True), person(ps)
    by_name = change in {"pause", "resume", "retire"} and (name == EVERY_AGENT or name in t.agent_names())
    handle = t.agent(name if by_name else agent_named(name))
    known, state = handle.name, getattr(handle, change)(reason=reason, by=by)
    if json:
        emit({"agent": known, "mode": state.mode, "paused": state.paused, "retired": state.retired, "by": by.login})
    else:
        off = ", [red]retired[/]" if state.retired else ", [red]paused[/]" if state.paused else ""
        out.print(f"{escape(known)}: {state.mode}{off}, said {escape(by.login)}.")


@agent_app.command("review")
def agent_review(
    name: Annotated[str, typer.Argument(help="An agent's name.")],
    downgrade: Annotated[
        bool, typer.Option("--downgrade", help="Take it one step back where there is a reason to. A review never promotes.")
    ] = False,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """What its policy's criteria say of its past: what is met for the next step, what is missing, and whether it should go back.

    Exit status 1 when there is a reason to go back and nobody went.
    """
    with opened(db) as ps:
        handle = tenant_of(ps, tenant).agent(name)
        found = handle.review()
        after = handle.downgrade(by=person(ps)) if downgrade else handle.control
        if json:
            emit({"mode": after.mode, "reviews": [r.to_dict() for r in found]})
        else:
            for r in found:
                where = f"{r.agent}{f', {r.segment}' if r.segment is not None else ''}"
                rows = [
                    (f"to {r.promotes_to}", c.name, c.found, escape(c.needed), "[green]met[/]" if c.met else "missing") for c in r.promotion
                ]
                rows += [("back", c.name, c.found, escape(c.needed), "[red]reached[/]" if c.met else "not reached") for c in r.downgrade]
                over = r.retirement if r.segment is None else ()
                rows += [("retire", c.name, c.found, escape(c.needed), "[red]reached[/]" if c.met else "not reached") for c in over]
                table(escape(f"{where}: may {r.mode}"), ("step", "criterion", "found", "needed", ""), rows, right=("found",))
                if r.ready and r.segment is None:
                    hint(f"postsale agent {r.promotes_to} {escape(r.agent)} --reason 'the criteria are met'")
            if after.mode != found[0].mode:
                out.print(f"It may {after.mode} from now on.")
        raise typer.Exit(1 if found[0].reasons and after.mode == found[0].mode else 0)


@agent_app.command("observe")
def agent_observe(name: AgentName, reason: Reason, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """It decides, and nothing leaves: how every agent begins."""
    with opened(db) as ps:
        _change(ps, tenant, name, "observe", reason, json)


@agent_app.command("propose")
def agent_propose(name: AgentName, reason: Reason, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """A person approves before anything leaves."""
    with opened(db) as ps:
        _change(ps, tenant, name, "propose", reason, json)


@agent_app.command("act")
def agent_act(name: AgentName, reason: Reason, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """It acts within its policy."""
    with opened(db) as ps:
        _change(ps, tenant, name, "act", reason, json)


@agent_app.command("pause")
def agent_pause(
    name: Annotated[str, typer.Argument(help="An agent's name, or: all")],
    reason: Reason,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """The kill switch: from now on no effect leaves, also of decisions that were approved."""
    with opened(db) as ps:
        _change(ps, tenant, name, "pause", reason, json)


@agent_app.command("resume")
def agent_resume(
    name: Annotated[str, typer.Argument(help="An agent's name, or: all")],
    reason: Reason,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Release the kill switch."""
    with opened(db) as ps:
        _change(ps, tenant, name, "resume", reason, json)


@agent_app.command("retire")
def agent_retire(name: AgentName, reason: Reason, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """The last step, for good: it decides nothing more, and what it left open is set aside. A new agent has a new name."""
    with opened(db) as ps:
        _change(ps, tenant, name, "retire", reason, json)
