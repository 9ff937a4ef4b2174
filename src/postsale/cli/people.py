"""`postsale approval list|show|edit|escalate|escalations`, `authority`, `case` and `upcoming`: who answers until when, and what waits for its time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, cast, get_args
from uuid import UUID

import orjson
import typer
from rich.markup import escape

from postsale.aggregates.decisions import Stage
from postsale.app import PostSale, Tenant
from postsale.cli.agents import DecisionId, approval_app, find
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
from postsale.cli.named import AgentNames, named_agents
from postsale.errors import InvalidInput, PostSaleError
from postsale.events import decode, from_us, iso, money_text
from postsale.projections.journal import Entry

authority_app = Commands(
    no_args_is_help=True, help="Who may approve what: roles with limits, and delegations. An agent never has authority.", epilog=EXIT_CODES
)
case_app = Commands(no_args_is_help=True, help="Open risk cases.", epilog=EXIT_CODES)
Login = Annotated[str, typer.Argument(help="A person's login.")]
Role = Annotated[str, typer.Argument(help="A role, as policies name it.")]


def minor_units(text: str) -> int:
    """An amount as it is typed. `500.00` is refused: it would be read as five euros."""
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter("expected whole minor units: 50000 is 500.00 EUR")
    return int(text)


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


def _until(e: Entry) -> datetime | None:
    return from_us(e.asked.until_us) if e.asked is not None else e.recorded.approval_expires_at


def _who(e: Entry) -> str:
    """Whom it waits for."""
    if e.asked is None:
        return "anyone"
    still = e.asked.people - len(e.asked.signed)
    role = e.asked.now.role or "anyone"
    said = f"{still} of {e.asked.people}: " if e.asked.people > 1 else ""
    return f"{said}{role}" + (f" ({e.asked.now.name})" if e.asked.now.name != role else "")


def _changed(t: Tenant, e: Entry) -> list[str] | None:
    """What changed since; None where this cannot be read here."""
    try:
        return list(t.changed_since(e.id))
    except PostSaleError:
        return None


def _request(e: Entry, changed: list[str] | None) -> dict[str, Any]:
    asked, until = e.asked, _until(e)
    return {
        "expires_at": e.recorded.approval_expires_at,
        "until": None if until is None else until.isoformat(),
        "level": None if asked is None else asked.now.name,
        "role": None if asked is None else asked.now.role,
        "then": "lapse" if asked is None else asked.now.on_timeout,
        "people": 1 if asked is None else asked.people,
        "signed": [] if asked is None else [{"approver": s.approver, "for": s.principal} for s in asked.signed],
        "editor": None if asked is None else asked.editor,
        "changed_since": changed,
    }


@approval_app.command("list")
def approval_list(db: Db = DEFAULT_DB, tenant: TenantName = None, as_of: AsOf = None, known_at: KnownAt = None, json: Json = False) -> None:
    """What waits for a person, the first to expire first: for whom, until when, and what changed since."""
    with opened(db) as ps:
        t = tenant_of(ps, tenant)
        entries = t.approvals(as_of=parse_time(as_of), known_at=parse_time(known_at))
        now = as_of is None and known_at is None
        rows = [(e, _changed(t, e) if now else None) for e in entries]
        if json:
            emit([{**e.to_dict(), **_request(e, changed)} for e, changed in rows])
            return
        names = t.names()
        columns: tuple[str, ...] = ("id", "customer", "agent", "action", "for", "until", "changed", "because")
        lines: list[tuple[str, ...]] = [
            (
                str(e.id)[:8],
                escape(names.get(e.stream.id, "")),
                escape(e.agent),
                escape(e.action or ""),
                escape(_who(e)),
                f"{until:%Y-%m-%d %H:%M}" if (until := _until(e)) else "",
                "?" if changed is None else f"[red]{escape(', '.join(changed))}[/]" if changed else "",
                escape(e.recorded.rationale),
            )
            for e, changed in rows
        ]
        if not any(line[6] for line in lines):  # of none: a column less to read past
            columns, lines = (*columns[:6], columns[7]), [(*line[:6], line[7]) for line in lines]
        table("Waiting for approval", columns, lines)
        if entries:
            hint(f"postsale approval show {str(entries[0].id)[:8]}   then: postsale approval approve {str(entries[0].id)[:8]}")


@approval_app.command("show")
def approval_show(decision: DecisionId, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """One request: what would be done with which arguments, who is asked until when, what was said, and what changed since."""
    with opened(db) as ps:
        t = tenant_of(ps, tenant)
        id_ = find(t, decision)
        entry = next(e for e in t.decisions() if e.id == id_)
        changed = _changed(t, entry) if entry.disposition == "awaiting" else []
        arguments = _arguments(ps, t, id_)
        offer = entry.recorded.offer
        levels = [] if entry.asked is None else [level.model_dump(mode="json") for level in entry.asked.levels]
        if json:
            told = {"arguments": arguments, "offer": None if offer is None else offer.model_dump(), "levels": levels}
            history = [{"at": at.isoformat(), "what": what} for at, what in entry.history]
            emit({**entry.to_dict(), **_request(entry, changed), **told, "history": history})
            return
        rows: list[tuple[object, ...]] = [("disposition", entry.disposition), ("because", escape(entry.recorded.rationale))]
        for intent, given in zip(entry.recorded.intents, arguments or (), strict=False):
            rows += [(f"{intent.tool} {name}", escape(str(value))) for name, value in given.items()]
        rows += [("arguments", "erased, or not yours to read")] if arguments is None and entry.recorded.intents else []
        rows += [("offer", f"{money_text(offer.amount_minor, offer.currency)}: {escape(offer.terms)}")] if offer is not None else []
        rows += [("bound to", ", ".join(entry.recorded.bound_to) or "nothing")]
        rows += [("changed since", "?" if changed is None else ", ".join(changed) or "nothing")]
        for index, level in enumerate(entry.asked.levels if entry.asked is not None else ()):
            now = entry.asked is not None and index == entry.asked.level and entry.disposition == "awaiting"
            mark = " [bold](now)[/]" if now else ""
            rows.append(
                (f"level {level.name}", f"{level.role or 'anyone'} until {level.until:%Y-%m-%d %H:%M}, then {level.on_timeout}{mark}")
            )
        rows += [(f"{at:%Y-%m-%d %H:%M}", escape(what)) for at, what in entry.history]
        table(f"Request {str(id_)[:8]}", ("what", "says"), rows)


@approval_app.command("edit")
def approval_edit(
    decision: DecisionId,
    reason: Reason,
    amount: Annotated[
        int | None, typer.Option("--amount", parser=minor_units, metavar="MINOR", help="The offer, in minor units: 2000 is 20.00 EUR.")
    ] = None,
    terms: Annotated[str | None, typer.Option("--terms", help="The offer's terms.")] = None,
    argument: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of an argument; N.NAME=VALUE of the effect N, from 0.")
    ] = None,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Propose something else instead. It is a new proposal, judged anew; the old one is closed, and somebody has to approve."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        id_ = find(t, decision)
        arguments = _with(ps, t, id_, argument) if argument else None
        new = t.edit(id_, reason=reason, amount_minor=amount, terms=terms, arguments=arguments, by=by)
        if json:
            emit({"decision_id": str(new), "replaces": str(id_), "by": by.login})
            return
        out.print(f"Edited by [bold]{escape(by.login)}[/]: {str(new)[:8]} waits in place of {str(id_)[:8]}.")
        hint(f"postsale approval show {str(new)[:8]}")


def _arguments(ps: PostSale, t: Tenant, decision_id: UUID) -> list[dict[str, Any]] | None:
    """The arguments of each effect; None when they are erased or this user may not read them."""
    stored = ps.log.store.find(t.name, decision_id)
    text = getattr(decode(stored, ps.unsealer).data, "arguments", None) if stored is not None else None
    arguments: list[dict[str, Any]] | None = orjson.loads(text) if isinstance(text, str) else None
    return arguments


def _with(ps: PostSale, t: Tenant, decision_id: UUID, given: list[str]) -> list[dict[str, Any]]:
    """The arguments with these changed; values keep the type that they have."""
    arguments = _arguments(ps, t, decision_id) or []
    for one in given:
        place, equals, value = one.partition("=")
        number, dot, name = place.partition(".")
        index, name = (int(number), name) if dot and number.isdigit() else (0, place)
        if not equals or index >= len(arguments) or name not in arguments[index]:
            raise InvalidInput(what="option", field="--set", reason="expected NAME=VALUE of an argument that the proposal has")
        before = arguments[index][name]
        try:
            arguments[index][name] = value if isinstance(before, str) else type(before)(orjson.loads(value))
        except (ValueError, TypeError):
            raise InvalidInput(what="option", field="--set", reason=f"{name}: expected a {type(before).__name__}") from None
    return arguments


@approval_app.command("escalate")
def approval_escalate(decision: DecisionId, reason: Reason, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Hand it up to the next level of its policy."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        id_ = find(t, decision)
        level = t.escalate(id_, reason=reason, by=by)
        if json:
            emit({"decision_id": str(id_), "level": level, "by": by.login})
            return
        out.print(f"{escape(level)} is asked now, said {escape(by.login)}.")


@approval_app.command("escalations")
def approval_escalations(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """What waits at a higher level than it began at, and why."""
    with opened(db) as ps:
        t = tenant_of(ps, tenant)
        up = [e for e in t.approvals() if e.asked is not None and e.asked.level]
        told = {e.id: [(at, what) for at, what in e.history if what.startswith("escalated")] for e in up}
        if json:
            history = {k: [{"at": at.isoformat(), "what": what} for at, what in v] for k, v in told.items()}
            emit([{**e.to_dict(), **_request(e, _changed(t, e)), "escalations": history[e.id]} for e in up])
            return
        names = t.names()
        rows = [
            (str(e.id)[:8], escape(names.get(e.stream.id, "")), e.action, escape(_who(e)), f"{_until(e):%Y-%m-%d %H:%M}", escape(what))
            for e in up
            for _, what in told[e.id][-1:]
        ]
        table("Escalated", ("id", "customer", "action", "for", "until", "why"), rows)


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
