"""Commands about the health model: its weights as a table or a file, whether a file is right, and what another one changes.

They open no database. The model is the one that POSTSALE_HEALTH names, else the shipped one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from postsale.cli.common import EXIT_CODES, Commands, Json, emit, health_model, out, table
from postsale.projections import HealthModel
from postsale.projections.weighing import differences, load_weights, weights_table, write_weights

health_app = Commands(no_args_is_help=True, help="The health model: weights and bands by segment and stage.", epilog=EXIT_CODES)

File = Annotated[Path, typer.Argument(help="A TOML file of weights, as `postsale health show --toml` writes one.")]


@health_app.command("show")
def health_show(
    file: Annotated[Path | None, typer.Argument(help="A TOML file of weights; by default those in use.")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="As a file of weights to begin from.")] = False,
    json: Json = False,
) -> None:
    """What counts how much, for whom, and where the bands lie."""
    model = health_model() if file is None else load_weights(file, health_model())
    if toml:
        typer.echo(write_weights(model), nl=False)
    elif json:
        emit(_as_dict(model))
    else:
        header, lines = weights_table(model)
        title = f"{escape(model.name)} version {model.version}, weights version {model.weighing or 'of the code'}"
        table(title, tuple(map(escape, header)), [tuple(map(escape, line)) for line in lines], right=tuple(map(escape, header[1:])))
        out.print(f"[dim]digest {model.digest}; of several rows the first that fits a customer applies[/]")


@health_app.command("check")
def health_check(file: File, json: Json = False) -> None:
    """Whether a file of weights can be used; what is wrong is named, with exit status 2."""
    model = load_weights(file, health_model())
    if json:
        emit(_as_dict(model))
    else:
        out.print(f"ok: weights version {model.weighing}, {len(model.rows)} rows beside the default, digest {model.digest}")


@health_app.command("diff")
def health_diff(
    file: File,
    other: Annotated[Path | None, typer.Argument(help="The file to compare with; by default FILE is compared with what is in use.")] = None,
    json: Json = False,
) -> None:
    """What the second file changes against the first; with one file, what it changes against the weights in use."""
    first = health_model() if other is None else load_weights(file, health_model())
    second = load_weights(file if other is None else other, health_model())
    found = differences(first, second)
    if json:
        emit({"before": first.digest, "after": second.digest, "differences": [d._asdict() for d in found]})
    elif found:
        table("Changes", ("row", "what", "before", "after"), [tuple(map(escape, d)) for d in found])
    else:
        out.print("no difference")


def _as_dict(model: HealthModel) -> dict[str, Any]:
    rows = [
        {"name": name, "weights": model.weights(row), "bands": dict(model.bands_of(row))}
        for row, name in enumerate(["default", *(r.name for r in model.rows)])
    ]
    return {
        "model": model.name,
        "model_version": model.version,
        "version": model.weighing,
        "digest": model.digest,
        "segment": model.segment,
        "stages": list(model.stages),
        "rows": rows,
    }
