"""`postsale budget …`: what is reserved, used up and left; how often a customer may be contacted. Prints; decides nothing."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from postsale.aggregates.budgets import is_money
from postsale.aggregates.conversations import DEFAULT_LIMIT
from postsale.app.budgets import BudgetPeriod
from postsale.cli.common import DEFAULT_DB, EXIT_CODES, Commands, Db, Json, TenantName, emit, opened, out, person, table, tame, tenant_of
from postsale.errors import InvalidInput
from postsale.events import money_text

budget_app = Commands(
    no_args_is_help=True, help="Budgets of money, contacts and risk: what is reserved, used up and left of each.", epilog=EXIT_CODES
)
_COLUMNS = ("budget", "period", "unit", "limit", "reserved", "committed", "released", "came back", "in slices", "left")

_ROOMY = 90  # columns of a terminal from which on what came back of reservations has room beside what is left


@budget_app.command("list")
def budget_list(
    every: Annotated[bool, typer.Option("--all", help="Every period, not only the current one.")] = False,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """What each budget that an active policy names holds in its current period."""
    with opened(db) as ps:
        rows = [row for row in tenant_of(ps, tenant).budgets() if every or row.current]
    _show(rows, json=json)


@budget_app.command("show")
def budget_show(
    name: Annotated[str, typer.Argument(metavar="BUDGET", help="Its name, as policies have it.")],
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Every period of one budget."""
    with opened(db) as ps:
        rows = tenant_of(ps, tenant).budgets(name)
    if not rows:
        raise InvalidInput(what="argument", field="BUDGET", reason="no active policy names it, and nothing was entered in it")
    _show(rows, json=json)


@budget_app.command("contacts")
def budget_contacts(
    channel: Annotated[str | None, typer.Argument(metavar="CHANNEL", help="Such as email; without it, what holds is printed.")] = None,
    at_most: Annotated[int | None, typer.Option("--at-most", min=0, help="Contacts with one customer by all agents together.")] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, help="Within any so many days.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; it is recorded.")] = None,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """How often all agents together may contact one customer, by channel; with CHANNEL, --at-most, --days and --reason it is set."""
    given = [x is not None for x in (channel, at_most, days, reason)]
    if any(given) and not all(given):
        raise InvalidInput(what="option", field="contacts", reason="to set a limit give CHANNEL, --at-most, --days and --reason")
    with opened(db) as ps:
        its = tenant_of(ps, tenant, new=channel is not None)
        if channel is not None and at_most is not None and days is not None and reason is not None:
            by = person(ps)
            done = its.contact_budget(channel, at_most=at_most, days=days, reason=reason, by=by)
            if json:
                emit({"channel": channel, "at_most": at_most, "days": days, "changed": done, "by": by.login})
                return
            said = f"from now on, said {escape(by.login)}" if done else "already"
            out.print(f"At most {at_most} contacts by {escape(tame(channel))} within {days} days {said}.")
            return
        limits = {name: {"at_most": limit.most, "days": limit.days} for name, limit in sorted(its.contact_limits().items())}
    otherwise = {"at_most": DEFAULT_LIMIT.most, "days": DEFAULT_LIMIT.days}
    if json:
        emit({"channels": limits, "otherwise": otherwise})
        return
    rows = [(escape(tame(name)), said["at_most"], said["days"]) for name, said in [*limits.items(), ("every other channel", otherwise)]]
    table(
        "Contacts with one customer by all agents together", ("channel", "at most", "within days"), rows, right=("at most", "within days")
    )


def _show(rows: list[BudgetPeriod], *, json: bool) -> None:
    if json:
        emit([row.to_dict() for row in rows])
        return
    shown = []
    for row in rows:
        limit = min(row.limits.values(), default=None)
        amounts = (limit, row.reserved, row.committed, row.released, row.compensated, row.in_slices, row.left)
        shown.append((escape(tame(row.name)), row.period, escape(tame(row.unit)), *(_amount(n, row.unit) for n in amounts)))
    seldom = {
        "came back": any(row.compensated for row in rows),
        "in slices": any(row.in_slices for row in rows),
        "released": out.width >= _ROOMY,
    }
    kept = [at for at, column in enumerate(_COLUMNS) if seldom.get(column, True)]  # columns of nothing but 0 go, or names would be cut
    table("Budgets", [_COLUMNS[at] for at in kept], [[line[at] for at in kept] for line in shown], right=_COLUMNS[3:])


def _amount(amount: int | None, unit: str) -> str:
    if amount is None:
        return ""
    return money_text(amount, unit).partition(" ")[0] if is_money(unit) else f"{amount:,}"
