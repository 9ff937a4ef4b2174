"""`postsale projection …`: read models for whoever runs them: how far they are, building another version beside, and putting it live.

Prints; decides nothing. May import `app` and everything below it.
"""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer
from rich.markup import escape

from postsale.app import PostSale
from postsale.app.operating import features as feature_rows
from postsale.app.operating import view as view_row
from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    AsOf,
    Commands,
    Db,
    Json,
    counts,
    emit,
    hint,
    imported,
    opened,
    out,
    parse_time,
    person,
    span,
    steps,
    table,
)
from postsale.cli.named import AgentNames, named_agents
from postsale.cli.running import say, until_told
from postsale.errors import InvalidInput
from postsale.events import SECOND_US, iso, to_us
from postsale.projections import Features, HealthModel, Progress
from postsale.projections.comparing import SAMPLES, compare
from postsale.projections.projector import Turn
from postsale.projections.retention import prune, versions
from postsale.projections.runner import States

projection_app = Commands(
    no_args_is_help=True,
    epilog=EXIT_CODES,
    help="""Read models: how far they are, which version is live, building another beside it.

A change of features is a new version with a view of its own. Build it (`rebuild`), look at what differs (`diff`), put it live (`switch`); `switch --back` undoes that. Until then agents of the new release do nothing; afterwards those of the old one.

NAME is module:NAME of your Features or HealthModel; left out, it is the health model in use (POSTSALE_HEALTH).""",
)

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="module:NAME of Features or a HealthModel. [default: the health model]")]


def _declared(ps: PostSale, name: str | None) -> type[Features]:
    if name is None:
        return ps.model.features
    module, colon, attribute = name.partition(":")
    found = getattr(imported(module), attribute, None) if colon else None
    if isinstance(found, HealthModel):
        return found.features
    if isinstance(found, type) and issubclass(found, Features) and found is not Features:
        return found
    raise InvalidInput(
        what="option", field="NAME", reason="expected module:NAME of a class of Features or of a HealthModel, such as release_1:Health"
    )


@projection_app.command("status")
def projection_status(name: Name = None, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """How far each read model is behind the log, what is live, who folds it, and which streams wait behind an event nobody can read."""
    with opened(db) as ps:
        rows = ps.projections() if name is None else [view_row(ps, ps.runner_of(_declared(ps, name)))]
        if json:
            emit(rows)
            return
        table(
            "Projections",
            ("projection", "live", "at position", "behind", "oldest waits", "rows", "dead letters"),
            [
                (
                    row["projection"],
                    _live(row),
                    f"{row['position']:,}",
                    f"{row['lag_events']:,}",
                    "" if row["lag_seconds"] is None else span(row["lag_seconds"]),
                    f"{row['rows']:,}",
                    row["dead_letters"],
                )
                for row in rows
            ],
            right=("at position", "behind", "oldest waits", "rows", "dead letters"),
        )
        first = rows[0]
        for holder, shares in first["folded_by"].items():
            out.print(f"[dim]{escape(holder)} folds {len(shares)} of {len(first['shares'])}.[/]")
        for view in first["building"]:
            out.print(f"[yellow]A rebuild of {escape(view)} is under way or was given up half-way.[/]")
            hint("postsale projection rebuild")
        if first["parked"]:
            shown = [(p["key"], p["position"], p["wire_name"], escape(p["reason"]), p["waiting"]) for p in first["parked"][:20]]
            table("[red]Dead letters[/]", ("stream", "position", "event", "why", "wait behind it"), shown, right=("wait behind it",))
            hint("postsale projection retry")


def _live(row: dict[str, Any]) -> str:
    if "version" not in row:
        return ""
    return f"version {row['version']}" if row["live"] else f"no: version {row['live_version']} is"


@projection_app.command("rebuild")
def projection_rebuild(
    name: Name = None,
    engine: Annotated[
        str, typer.Option("--engine", help="fold: one fact after another. duckdb: all history at once, in memory (extra batch).")
    ] = "fold",
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Fold the whole log anew beside the view that serves, and let the new one serve once it is complete.

    Live traffic goes on, and is folded too. Ctrl-C or SIGTERM ends it after the batch under way; run it again to resume.
    """
    states = _states(engine)
    with opened(db) as ps, until_told() as told, steps(quiet=json) as advance:
        runner = ps.runner_of(_declared(ps, name))
        done = ps.deployments.rebuild(
            ps.log.store, runner, ps.leases, on_progress=lambda p: advance("folding", p.to_position, p.target), stop=told, states=states
        )
        live = ps.deployments.live(runner.fold.name)
    progress = done.progress
    if json:
        emit({**progress._asdict(), "build": done.build, "serves": done.serves})
    elif done.serves:
        by = "facts folded" if states is None else f"facts folded after {escape(engine)}'s states"
        counts("Rebuilt", {by: progress.events, "up to position": progress.to_position})
        if live is None or live.declared.digest == runner.fold.features.digest:
            out.print("[green]The new build serves.[/]")
            hint(f"postsale projection status{_named(name)}")
        else:
            out.print(f"[green]The new build is complete.[/] Version {live.declared.version} stays live until you switch. Compare first:")
            hint(f"postsale projection diff OLD{_named(name)}   (OLD: module:NAME of version {live.declared.version})")
            hint(f'postsale projection switch{_named(name)} --reason "…"')
    else:
        counts("Stopped", {"at position": progress.to_position, "of": progress.target})
        out.print("The old build serves on; the new one is kept as far as it is.")
        hint(f"postsale projection rebuild{_named(name)}")
    raise typer.Exit(0 if done.serves else 1)


def _named(name: str | None) -> str:
    """The argument of the command that is typed next: the declaration that this one was about."""
    return f" {escape(shlex.quote(name))}" if name else ""


def _states(engine: str) -> States | None:
    match engine:
        case "fold":
            return None
        case "duckdb":
            from postsale.projections.handover import duckdb_states  # needs an extra

            return duckdb_states
    raise InvalidInput(what="option", field="--engine", reason="expected fold or duckdb")


@projection_app.command("diff")
def projection_diff(
    old: Annotated[
        str | None, typer.Argument(metavar="OLD", help="module:NAME of the version to compare with: keep its class until the switch.")
    ] = None,
    new: Annotated[str | None, typer.Argument(metavar="[NEW]", help="module:NAME of the other. [default: the health model]")] = None,
    as_of: AsOf = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Examples of each feature that differs.")] = SAMPLES,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Compare two versions of a projection row by row, as far as both are folded. Exit status 1 when a finished value differs, or one was never folded."""
    if old is None:
        reason = (
            "is missing: which version to compare with. Type: postsale projection diff module:OLD [module:NEW], such as release_1:Health"
        )
        raise InvalidInput(what="argument", field="OLD", reason=reason)
    with opened(db) as ps:
        one, other = (ps.runner_of(_declared(ps, name)) for name in (old, new))
        at_us = ps.clock.now_us() if (at := parse_time(as_of)) is None else to_us(at)
        with steps(quiet=json) as advance:
            rows = one.status().rows
            seen = 0

            def more(n: int) -> None:
                nonlocal seen
                seen += n
                advance("comparing", seen, max(rows, seen))

            found = compare(one, other, at_us, samples=samples, on_progress=more)
        head = ps.log.store.head()
        unfolded = [runner.view for runner in (one, other) if head and not runner.position()]
    if json:
        emit(
            {
                **found._asdict(),
                "features": {n: {"rows": d.rows, "samples": [s._asdict() for s in d.samples]} for n, d in found.features.items()},
            }
        )
        raise typer.Exit(0 if found.same and not unfolded else 1)
    if unfolded:
        out.print(f"[red]There is nothing to compare yet:[/] {escape(' and '.join(unfolded))} was never folded.")
        hint("postsale projection rebuild")
        raise typer.Exit(1)
    totals = {"rows": found.rows, "differ": found.differing, "only in old": found.only_old, "only in new": found.only_new}
    counts(f"Compared at {iso(found.as_of_us)}, up to position {found.position:,}", totals)
    for what, names in (("Only in new", found.added), ("Only in old", found.removed)):
        if names:
            out.print(f"[dim]{what}: {escape(', '.join(names))}[/]")
    lines = [(n, f"{d.rows:,}" if i == 0 else "", s.key, s.old, s.new) for n, d in found.features.items() for i, s in enumerate(d.samples)]
    if found.features:
        table(
            "Features that differ",
            ("feature", "rows", "for example", "old", "new"),
            [tuple(map(escape, map(str, line))) for line in lines],
            right=("rows",),
        )
    else:
        out.print("[green]No finished value differs.[/]")
    if found.position < head:
        out.print(f"[yellow]One of them is {head - found.position:,} positions behind the log.[/]")
        hint(f"postsale projection rebuild{_named(new)}")
    else:
        hint(f'postsale projection switch{_named(new)} --reason "…"')
    raise typer.Exit(0 if found.same else 1)


@projection_app.command("switch")
def projection_switch(
    name: Name = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, in a sentence of yours; it is kept. Must be given.")] = "",
    back: Annotated[bool, typer.Option("--back", help="Put live again what was live before the last switch.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Put this release's version of a projection live, once it is folded up to the head of the log; agents of the other one stop."""
    with opened(db) as ps, steps(quiet=json) as advance:
        features, who = _declared(ps, name), person(ps).login

        def told(progress: Progress) -> None:
            advance("folding", progress.to_position, progress.target)

        if back:
            live = ps.deployments.back(features.__name__, by=who, reason=reason)
        else:
            live = ps.deployments.switch(ps.log.store, ps.runner_of(features), by=who, reason=reason, on_progress=told)
    if json:
        emit({**live._asdict(), "declared": live.declared._asdict(), "previous": live.previous and live.previous._asdict()})
        return
    by = f"by {escape(live.by)}" if live.by else "as the first that was folded"  # nobody switched to it
    out.print(f"[green]{escape(live.projection)} version {live.declared.version} is live[/] since {iso(live.since_us)}, {by}.")
    if live.previous is not None:
        out.print(f"[dim]Before it: version {live.previous.version}. Its view is kept.[/]")
        hint(f'postsale projection switch{_named(name)} --back --reason "…"')


@projection_app.command("prune")
def projection_prune(
    name: Name = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Drop views of versions before the live one and the one that a switch back leads to, unless somebody folds them. The log is not touched."""
    with opened(db) as ps:
        projection = _declared(ps, name).__name__
        found = (versions if dry_run else prune)(ps.views, ps.deployments, ps.leases, projection)
    if json:
        emit([{"view": v.name, "version": v.version, "position": v.position, "rows": v.rows, "kept": v.kept} for v in found])
        return
    goes = "would go" if dry_run else "[red]dropped[/]"
    table(
        f"Views of {escape(projection)}",
        ("version", "view", "at position", "rows", "what"),
        [(v.version, v.name, f"{v.position:,}", f"{v.rows:,}", goes if v.kept is None else f"kept: {escape(v.kept)}") for v in found],
        right=("version", "at position", "rows"),
    )
    if dry_run and any(v.kept is None for v in found):
        hint(f"postsale projection prune{_named(name)}")


@projection_app.command("retry")
def projection_retry(name: Name = None, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Fold streams that were parked behind an unreadable event again, through upcasters as they are now. Exit status 1 when some still wait."""
    with opened(db) as ps:
        runner = ps.runner_of(_declared(ps, name))
        before = len(runner.parked())
        still = runner.retry()
    if json:
        emit({"freed": before - len(still), "parked": [parked._asdict() for parked in still]})
    else:
        counts("Retried", {"freed": before - len(still), "still parked": len(still)})
    raise typer.Exit(1 if still else 0)


@projection_app.command("run")
def projection_run(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="module:NAME of Features or a HealthModel. [default: the health model]")
    ] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Keep read models up to date until SIGTERM or Ctrl-C, beside other processes that do the same. No agent runs, nothing is sent.

    Prints a line when it is ready: its views are where the log was when it began. Then it finishes its batch, gives its leases back and ends.
    """
    with opened(db) as ps, until_told() as told:
        wanted: list[str | None] = [*names] if names else [None]
        projector = ps.projector([_declared(ps, name) for name in wanted])
        said_ready, last_trouble, folded = False, None, 0

        def turned(turn: Turn) -> None:
            nonlocal said_ready, last_trouble, folded
            folded += turn.events
            if projector.ready and not said_ready:
                said_ready = True
                say(json, "ready", {"position": ps.log.store.head()})
            if projector.trouble != last_trouble:
                last_trouble = projector.trouble
                say(json, "trouble" if last_trouble else "well again", {"why": last_trouble} if last_trouble else {})
            if told():
                projector.stop()

        began_us = ps.clock.now_us()
        projector.run(turned)
        say(json, "stopped", {"facts folded": folded, "seconds": (ps.clock.now_us() - began_us) // SECOND_US})


@projection_app.command("features")
def projection_features(agent: AgentNames = None, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Every feature of the health model with its unit and who reads it: what a change or a removal would reach.

    Exit status 1 when a deprecated feature still has a reader.
    """
    with opened(db) as ps:
        rows = feature_rows(ps, named_agents(ps, agent))
    wrong = [row for row in rows if row["deprecated"] and row["read_by"]]
    if json:
        emit(rows)
        raise typer.Exit(1 if wrong else 0)
    table(
        "Features",
        ("feature", "kind", "unit", "read by"),
        [(r["feature"], r["kind"], r["unit"], ", ".join(r["read_by"]) or "[dim]nobody here[/]") for r in rows],
    )
    for row in wrong:
        out.print(
            f"[yellow]{escape(row['feature'])} is deprecated: {escape(row['deprecated'])}. Still read by {escape(', '.join(row['read_by']))}.[/]"
        )
    raise typer.Exit(1 if wrong else 0)
