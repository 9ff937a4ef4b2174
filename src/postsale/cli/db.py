"""`postsale db …`: what is done to a database as a whole, by whoever looks after it. Nothing here happens by itself."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from postsale.cli.common import EXIT_CODES, Json, counts, emit, existing_file, hint, out, steps, table
from postsale.store.migrations import migrate, pending

db_app = typer.Typer(no_args_is_help=True, help="The database itself: bring it to this release.", epilog=EXIT_CODES)

Url = Annotated[str, typer.Argument(metavar="URL", envvar="POSTSALE_DB", help="Database URL, such as sqlite:///postsale.db.")]


@db_app.callback()
def db_group() -> None:
    """Keeps `migrate` a command of its own while it is the only one."""


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
