"""`postsale db …`: what is done to a database as a whole, by whoever looks after it. Nothing here happens by itself.

`migrate` is about a log in a file, `init` and `check` about one in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from postsale.app.files import on_server, shown
from postsale.cli.common import EXIT_CODES, Json, Schema, counts, emit, existing_file, hint, out, steps, table
from postsale.errors import Unsupported
from postsale.projections.views_postgres_schema import projector_role, views_schema, views_sql
from postsale.store import scheme_of
from postsale.store.migrations import migrate, pending
from postsale.store.plan import DEFAULT_CHAPTER
from postsale.store.postgres_init import init_sql, login_sql
from postsale.store.postgres_schema import DEFAULT_SCHEMA, Roles

if TYPE_CHECKING:
    import psycopg

db_app = typer.Typer(
    no_args_is_help=True, help="The database itself: make a log in PostgreSQL, check it, bring a file to this release.", epilog=EXIT_CODES
)

Url = Annotated[str, typer.Argument(metavar="URL", envvar="POSTSALE_DB", help="Database URL, such as sqlite:///postsale.db.")]


@db_app.command("migrate")
def db_migrate(
    url: Url,
    check: Annotated[bool, typer.Option("--check", help="Only say what would be done; exit status 1 when something would.")] = False,
    backup: Annotated[
        Path | None, typer.Option("--backup", help="Where the copy of the log goes first. [default: beside it, named after its version]")
    ] = None,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Make no copy: you have one.")] = False,
    json: Json = False,
) -> None:
    """Bring a log that an earlier release wrote to this one: back it up, migrate it in one transaction, verify it. Stop its writers first."""
    path = existing_file(url)
    todo = pending(path)
    if check:
        if json:
            emit({"pending": [{"version": version, "what": what} for version, what in todo]})
        elif todo:
            table("To be done", ("version", "what it brings"), [(version, escape(what)) for version, what in todo])
            hint(f"postsale db migrate {escape(url)}")
        else:
            out.print("[green]This log is of this release.[/]")
        raise typer.Exit(1 if todo else 0)
    target = None if no_backup or not todo else backup or _free(path, todo[0][0] - 1)
    with steps(quiet=json) as advance:
        done = migrate(path, backup=target, on_progress=advance)
    if json:
        emit(
            {
                "version_before": done.version_before,
                "version_after": done.version_after,
                "backup": done.backup,
                "verified": done.report.to_dict(),
            }
        )
    else:
        if done.version_before == done.version_after:
            counts("Nothing to migrate", {"version": done.version_after, "events": done.report.events})
        else:
            counts("Migrated", {"from version": done.version_before, "to version": done.version_after, "events": done.report.events})
        table("Tree heads", ("tenant", "events", "root"), [(t, f"{size:,}", root) for t, (size, root) in done.report.roots.items()])
        if done.backup:
            out.print(f"The log as it was is in {escape(str(done.backup))}; delete it when you no longer want to go back.", soft_wrap=True)
        if done.report.problems:
            table("[red]Problems[/]", ("position", "what is wrong"), [(p, escape(r)) for p, r in done.report.problems[:50]])
            out.print("They were there before: a migration changes no stored byte.")
        else:
            out.print("[green]Every event is what was recorded.[/]")
    raise typer.Exit(1 if done.report.problems else 0)


def _free(path: Path, version: int) -> Path:
    """A name beside the log that no file has."""
    name = f"{path.name}.version-{version}"
    return next(file for n in count() if not (file := path.with_name(name if not n else f"{name}.{n}")).exists())


# ---------------------------------------------------------------- PostgreSQL

Server = Annotated[str, typer.Argument(metavar="URL", envvar="POSTSALE_DB", help="Database URL, such as postgresql://login@host/database.")]


@db_app.command("init")
def db_init(
    url: Server,
    schema: Schema = DEFAULT_SCHEMA,
    chapter: Annotated[
        int, typer.Option("--chapter-events", min=1, help="Events of a chapter, the unit of archiving. Cannot be changed later.")
    ] = DEFAULT_CHAPTER,
    app_role: Annotated[str | None, typer.Option("--app-role", help="Login of the service: made if it is not there, and let in.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it, with the login of URL. Without: only print the SQL.")] = False,
) -> None:
    """Make a log in a PostgreSQL database: its schema, tables, roles and policies. Prints the SQL for review; --apply runs it.

    The login is a superuser's, or one with CREATEROLE that may create schemas in the database. It owns nothing afterwards.
    """
    _postgresql(url)
    roles = (*Roles.of(schema)[:2], projector_role(schema))
    parts = [init_sql(schema, chapter=chapter), views_sql(schema)]
    if app_role is not None:
        parts.append("-- The login of the service.\n" + login_sql(app_role, roles))
    if not apply:
        script = "\n".join(parts)
        typer.echo(
            f"-- A postsale log in the schema {schema}: all or nothing, and nothing that is there is changed.\nBEGIN;\n\n{script}\nCOMMIT;"
        )
        _then(url, schema, app_role, roles, mark="-- ")
        return
    with _connected(url) as db:
        from postsale.store.postgres_admin import apply_init, apply_missing, members

        if not apply_init(db, "\n".join(parts), schema):
            if apply_missing(db, views_schema(schema), views_sql(schema)):
                out.print(f"[green]Made[/] an empty schema for the views of the log in {schema}; the next run folds them from it.")
            else:
                out.print(f"There is a log in the schema {schema} already: nothing was changed.")
            if app_role is not None:
                out.print(f"The login {app_role} is as it was. To make it and let it in, type:\n", soft_wrap=True)
                typer.echo(login_sql(app_role, roles))
            hint(f"postsale db check {escape(shown(url))}{_option(schema)}")
            return
        out.print(f"[green]Made[/] a log in the schema {schema} of {escape(shown(url))}.")
        if others := [name for name in members(db, schema) if name != app_role]:
            out.print(f"[yellow]These logins were members of its roles before, and may use it too:[/] {', '.join(others)}", soft_wrap=True)
        _then(url, schema, app_role, roles)


def _then(url: str, schema: str, app_role: str | None, roles: tuple[str, ...], *, mark: str = "") -> None:
    """What to type next."""
    login = app_role or "postsale_app"
    lines = ["", "Next, for the login of the service:" if app_role else "Next, a login of its own for the service:"]
    if app_role is None:
        lines.append(f"  CREATE ROLE {login} LOGIN NOINHERIT; GRANT {', '.join(roles)} TO {login};")
    lines += [f"  \\password {login}", "then use it in the URL, and see that all is well:"]
    lines.append(f"  postsale db check {_as(login, url)}{_option(schema)}")
    for line in lines:
        typer.echo(f"{mark}{line}".rstrip())


@db_app.command("check")
def db_check(url: Server, schema: Schema = DEFAULT_SCHEMA, json: Json = False) -> None:
    """Look at everything that the log's promises need of a server, a database and a login; say what to type where something is wrong."""
    _postgresql(url)
    with _connected(url) as db:
        from postsale.store.postgres_admin import may_act_as, stored_version
        from postsale.store.postgres_checks import checks

        judged = checks(db, schema)
        if all(check.ok for check in judged):
            judged.append(stored_version(db, schema))
        runs, login = may_act_as(db, projector_role(schema)), db.info.user
    wrong = [check for check in judged if not check.ok]
    if json:
        emit({"ok": not wrong, "may_run": runs, "checks": [_facts(check) for check in judged]})
    else:
        rows = [("[green]✓[/]" if c.ok else "[red]✗[/]", c.name.replace("_", " "), "" if c.ok else escape(c.what)) for c in judged]
        table(f"The database at {escape(shown(url))}", ("", "check", "found"), rows)
        for check in wrong:
            out.print(f"\n[bold]{check.name.replace('_', ' ')}[/]: {escape(check.what)}; expected {escape(check.wanted)}.", soft_wrap=True)
            out.print(escape(check.fix), soft_wrap=True)
        if not wrong and not runs:  # enough for a service that leaves runs to another
            out.print(
                f"This login records and reads. To call run_once it needs: GRANT {projector_role(schema)} TO {login};", soft_wrap=True
            )
    raise typer.Exit(1 if wrong else 0)


def _facts(check: Any) -> dict[str, Any]:
    return {"name": check.name, "ok": check.ok} | ({} if check.ok else {"found": check.what, "expected": check.wanted, "todo": check.fix})


def _postgresql(url: str) -> None:
    if not on_server(url):
        raise Unsupported(what=f"a database with {scheme_of(url)} here", supported="postgresql://login@host/database")


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection; errors without the password."""
    from postsale.store import postgres_admin  # needs an extra

    with postgres_admin.connected(url, shown(url)) as db:
        yield db


def _as(login: str, url: str) -> str:
    """The URL with another login, and no password."""
    scheme, _, rest = shown(url).partition("://")
    return f"{scheme}://{login}@{rest.rpartition('@')[2]}"


def _option(schema: str) -> str:
    return "" if schema == DEFAULT_SCHEMA else f" --schema {schema}"
