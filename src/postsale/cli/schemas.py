"""`postsale schemas`: the kinds of event that there are, and whether code still reads what was stored in earlier versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from postsale.cli.common import EXIT_CODES, Json, counts, emit, hint, imported, out, table
from postsale.events import Kind, check_schemas, kinds_in, write_schemas

schemas_app = typer.Typer(
    no_args_is_help=True, help="Kinds of event, their versions, and whether stored ones can still be read.", epilog=EXIT_CODES
)

Module = Annotated[str, typer.Argument(help="The module that declares your kinds, such as mypackage.signals.")]
Folder = Annotated[
    Path, typer.Option("--dir", file_okay=False, help="The folder with the schema of every version; keep it under version control.")
]
_BREAKS = {"stored": "[red]stored events[/]", "rolling": "[red]rolling deploys[/]", "history": "[yellow]not kept yet[/]"}


@schemas_app.command("check")
def schemas_check(module: Module, folder: Folder = Path("schemas"), json: Json = False) -> None:
    """Compare your kinds with the stored schemas; exit status 1 when a stored version was changed, or one is not kept yet."""
    imported(module)
    findings = check_schemas(folder, module)
    if json:
        emit([finding.to_dict() for finding in findings])
    elif not findings:
        kinds = kinds_in(module)
        counts("[green]Every stored version is read as it was[/]", {"kinds": len(kinds), "versions": sum(len(k.versions) for k in kinds)})
    else:
        rows = [(f.wire_name, _BREAKS[f.breaks], escape(f.what), escape(f.todo)) for f in findings]
        table("Versions that are not as they are stored", ("event", "breaks", "what", "to do"), rows)
        if all(f.breaks == "history" for f in findings):
            hint(f"postsale schemas write {module} --dir {folder}")
    raise typer.Exit(1 if findings else 0)


@schemas_app.command("write")
def schemas_write(module: Module, folder: Folder = Path("schemas"), json: Json = False) -> None:
    """Keep the schema of each version that is new. A stored version that was changed is refused: exit status 1, nothing written."""
    imported(module)
    written = [str(path) for path in write_schemas(folder, module)]
    if json:
        emit(written)
    else:
        counts("Schemas", {"written": len(written)})
        for path in written:
            out.print(f"  {escape(path)}")


@schemas_app.command("list")
def schemas_list(
    module: Annotated[str | None, typer.Argument(help="Only kinds that this module declares. [default: all that are imported]")] = None,
    json: Json = False,
) -> None:
    """Every kind of event: its versions, its lane, its fields."""
    if module is not None:
        imported(module)
    kinds = kinds_in(module or "")
    if json:
        emit([kind.to_dict() for kind in kinds])
        return
    rows = [(k.wire_name + _earlier(k), k.lane.name.lower(), escape(_first_sentence(k.description)), _fields(k)) for k in kinds]
    table("Kinds of event", ("event", "lane", "what it says", "fields"), rows)
    if kinds:
        out.print("[dim]? may be left out · • is personal, sealed under a key of the person it is about[/]")


def _earlier(kind: Kind) -> str:
    before = [name.partition("@")[2] for name in kind.versions[:-1]]
    return f" [dim]reads @{', @'.join(before)}[/]" if before else ""


def _first_sentence(text: str) -> str:
    return text.partition("\n\n")[0].replace("\n", " ").partition(". ")[0].rstrip(".")


def _fields(kind: Kind) -> str:
    names = (("[bold]{}[/]{}" if f.required else "{}{}[dim]?[/]").format(f.name, "•" * f.personal) for f in kind.fields)
    return ", ".join(names)
