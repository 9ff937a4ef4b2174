"""`postsale authority`, `approval delegate`, `case` and `upcoming`: who may say yes, open risk cases, and what waits for its time."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated, cast, get_args

import typer
from rich.markup import escape

from postsale.aggregates.risk import Stage
from postsale.cli.agents import approval_app
from postsale.cli.approvals import minor_units
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
    opened,
    out,
    parse_time,
    person,
    table,
    tenant_of,
)
from postsale.cli.named import AgentNames, named_agents
from postsale.errors import InvalidInput
from postsale.events import from_us, iso, money_text

authority_app = Commands(
    no_args_is_help=True, help="Who may approve what: roles with limits, and delegations. An agent never has authority.", epilog=EXIT_CODES
)
case_app = Commands(no_args_is_help=True, help="Open risk cases.", epilog=EXIT_CODES)
Login = Annotated[str, typer.Argument(help="A person's login.")]
Role = Annotated[str, typer.Argument(help="A role, as policies name it.")]


Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        parser=minor_units,
        metavar="MINOR",
        help="Up to this amount per proposal, in minor units (50000 is 500.00 EUR); none: any amount.",
    ),
]
CurrencyCode = Annotated[str | None, typer.Option("--currency", help="Of the limit: ISO 4217, such as EUR.")]


# ---------------------------------------------------------------- authority


@authority_app.command("list")
def authority_list(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Roles and delegations as they stand."""
    with opened(db) as ps:
        t = tenant_of(ps, tenant)
        now, now_us = t.authority.now, ps.clock.now_us()
        if json:
            emit(
                {
                    "roles": [
                        {"person": who, "role": role, "limit_minor": limit.minor, "currency": limit.currency}
                        for (who, role), limit in sorted(now.roles.items())
                    ],
                    "delegations": [
                        {
                            "id": str(x.id),
                            "giver": x.giver,
                            "taker": x.taker,
                            "role": x.role,
                            "limit_minor": x.limit.minor,
                            "currency": x.limit.currency,
                            "begin": iso(x.begin_us),
                            "end": iso(x.end_us),
                            "reason": x.reason,
                        }
                        for x in now.delegations.values()
                    ],
                }
            )
            return
        some = [(escape(who), escape(role), _limit(limit.minor, limit.currency)) for (who, role), limit in sorted(now.roles.items())]
        table("Roles", ("person", "role", "up to"), some)
        given = [
            (
                str(x.id)[:8],
                escape(x.giver),
                escape(x.taker),
                escape(x.role),
                _limit(x.limit.minor, x.limit.currency),
                f"{from_us(x.begin_us):%Y-%m-%d %H:%M}",
                f"{from_us(x.end_us):%Y-%m-%d %H:%M}",
                "now" if x.holds(now_us) else "later" if now_us < x.begin_us else "over",
            )
            for x in now.delegations.values()
        ]
        if given:
            table("Delegations", ("id", "of", "to", "role", "up to", "from", "until", ""), given)


def _limit(minor: int | None, currency: str | None) -> str:
    return "any amount" if minor is None or currency is None else money_text(minor, currency)


@authority_app.command("grant")
def authority_grant(
    login: Login,
    role: Role,
    reason: Reason,
    limit: Limit = None,
    currency: CurrencyCode = None,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Give a role, up to an amount. Nobody gives one to themselves, but the first."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant, new=True), person(ps)
        t.authority.grant(login, role, limit_minor=limit, currency=currency, reason=reason, by=by)
        if json:
            emit({"person": login, "role": role, "limit_minor": limit, "currency": currency, "by": by.login})
            return
        out.print(f"{escape(login)} is {escape(role)}, up to {_limit(limit, currency)}, said {escape(by.login)}.")


@authority_app.command("revoke")
def authority_revoke(login: Login, role: Role, reason: Reason, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Take a role away, and with it what was delegated of it."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        done = t.authority.revoke(login, role, reason=reason, by=by)
        if json:
            emit({"person": login, "role": role, "revoked": done, "by": by.login})
            return
        out.print(f"{escape(login)} is no longer {escape(role)}." if done else f"{escape(login)} was not {escape(role)}.")


@approval_app.command("delegate")
def approval_delegate(
    to: Login,
    role: Role,
    reason: Reason,
    until: Annotated[str, typer.Option("--until", help="Its end: a date (its end, UTC) or an RFC 3339 time.")],
    begin: Annotated[str | None, typer.Option("--from", help="Its beginning: an RFC 3339 time. [default: now]")] = None,
    limit: Limit = None,
    currency: CurrencyCode = None,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Let somebody answer in your place for a time, never beyond your own authority."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        start, end = parse_time(begin) or from_us(ps.clock.now_us()), parse_time(until)
        assert end is not None
        made = t.authority.delegate(
            to, role, begin=start, end=end.astimezone(UTC), reason=reason, limit_minor=limit, currency=currency, by=by
        )
        if json:
            emit({"delegation_id": str(made), "giver": by.login, "taker": to, "role": role})
            return
        out.print(f"{escape(to)} answers as {escape(role)} for {escape(by.login)} until {end:%Y-%m-%d %H:%M}: {str(made)[:8]}.")
        hint(f"postsale authority end {str(made)[:8]} --reason 'back again'")


@authority_app.command("end")
def authority_end(
    delegation: Annotated[str, typer.Argument(help="The delegation's id, or its first characters.")],
    reason: Reason,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """End a delegation before its time. Anybody may."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        found = [id_ for id_ in t.authority.now.delegations if str(id_).startswith(delegation.lower())]
        if len(found) != 1:
            raise InvalidInput(
                what="argument", field="delegation", reason=f"{len(found)} delegations begin so; see: postsale authority list"
            )
        done = t.authority.call_back(found[0], reason=reason, by=by)
        if json:
            emit({"delegation_id": str(found[0]), "ended": done, "by": by.login})
            return
        out.print("It is over." if done else "It was over already.")


# ---------------------------------------------------------------- cases and times


@case_app.command("list")
def case_list(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Open risk cases, the oldest first, with what their terms said so far."""
    with opened(db) as ps:
        t = tenant_of(ps, tenant)
        names, cases = t.names(), t.cases()
        if json:
            emit(
                [
                    {
                        "id": str(case.case_id),
                        "customer_ref": ref,
                        "stage": case.stage,
                        "opened_at": iso(case.opened_at_us),
                        "stage_since": iso(case.stage_since_us),
                        "first_action_at": None if case.acted_us is None else iso(case.acted_us),
                        "missed": [{"agent": a, "sla": s, "since": iso(at), "what": what} for a, s, at, what in sorted(case.missed)],
                        "reason": case.reason,
                    }
                    for ref, case in cases
                ]
            )
            return
        rows = [
            (
                str(case.case_id)[:8],
                escape(names.get(ref, ref[:8])),
                case.stage,
                f"{from_us(case.stage_since_us):%Y-%m-%d %H:%M}",
                "not yet" if case.acted_us is None else f"{from_us(case.acted_us):%Y-%m-%d %H:%M}",
                escape(", ".join(f"{s} {what}" for _, s, _, what in sorted(case.missed, key=lambda x: x[2]))),
                escape(case.reason),
            )
            for ref, case in cases
        ]
        table("Open risk cases", ("id", "customer", "stage", "since", "first action", "terms", "because"), rows)


@case_app.command("move")
def case_move(
    case: Annotated[str, typer.Argument(help="The case's id, or its first characters.")],
    stage: Annotated[str, typer.Argument(help=f"{', '.join(get_args(Stage))}.")],
    reason: Reason,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Say in which stage a case is."""
    if stage not in get_args(Stage):
        raise InvalidInput(what="argument", field="stage", reason=f"expected one of {', '.join(get_args(Stage))}")
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        found = [c.case_id for _, c in t.cases() if str(c.case_id).startswith(case.lower())]
        if len(found) != 1:
            raise InvalidInput(what="argument", field="case", reason=f"{len(found)} open cases begin so; see: postsale case list")
        moved = t.move_case(found[0], cast(Stage, stage), reason=reason, by=by)
        if json:
            emit({"case_id": str(found[0]), "stage": stage, "moved": moved, "by": by.login})
            return
        out.print(f"It is in {stage} now." if moved else f"It is in {stage} already.")


def upcoming(
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    agent: AgentNames = None,
    until: Annotated[str | None, typer.Option("--until", help="Up to a date (its end, UTC) or an RFC 3339 time.")] = None,
    json: Json = False,
) -> None:
    """What waits for its time: approvals, waits, terms of risk cases, outcomes, schedules of the named agents; the first first."""
    with opened(db) as ps:
        agents = named_agents(ps, agent)
    with opened(db, agents) as ps:
        t = tenant_of(ps, tenant)
        found = t.upcoming(parse_time(until))
        if json:
            emit([due.to_dict() for due in found])
            return
        names = t.names()
        rows = [
            (f"{x.at:%Y-%m-%d %H:%M}", x.what, escape(x.name), escape(names.get(x.customer_ref, "")), escape(x.agent), escape(x.told))
            for x in found
        ]
        table("To come (UTC)", ("when", "what", "name", "customer", "agent", ""), rows)
