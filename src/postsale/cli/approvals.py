"""`postsale approval list|show|edit|escalate|escalations`: what waits for a person, for whom and until when, and saying something else instead.

Prints; decides nothing. May import `app` and everything below it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer
from rich.markup import escape

from postsale.app import PostSale, Tenant
from postsale.cli.agents import DecisionId, approval_app, find
from postsale.cli.common import (
    DEFAULT_DB,
    AsOf,
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
from postsale.errors import InvalidInput, PostSaleError
from postsale.events import decode, from_us, money_text
from postsale.projections.journal import Entry


def minor_units(text: str) -> int:
    """An amount as it is typed. `500.00` is refused: it would be read as five euros."""
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter("expected whole minor units: 50000 is 500.00 EUR")
    return int(text)


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
