"""`postsale run`: projections, agents and outbox once, or a simulation of the past into a database of its own."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from postsale.agents import SHIPPED
from postsale.aggregates.artifacts import MODES
from postsale.app.working import Working
from postsale.cli.common import (
    DEFAULT_DB,
    AsOf,
    Db,
    Json,
    TenantName,
    counts,
    emit,
    hint,
    opened,
    out,
    parse_time,
    progress,
    table,
    tenant_of,
)
from postsale.cli.named import AgentNames, named_agents, refuse_retired
from postsale.cli.running import say, until_told
from postsale.errors import InvalidInput


def run(
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    agent: AgentNames = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate", help="Bring the past up to --as-of into a database of its own and run the agents there once, as of then."
        ),
    ] = False,
    into: Annotated[
        str | None, typer.Option("--into", help="URL of the simulation's database, a file. [default: beside a file, else here]")
    ] = None,
    mode: Annotated[str, typer.Option("--mode", help="With --simulate: how far the agents may go there: observe, propose or act.")] = "act",
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for another process's run.")] = 0,
    engine: Annotated[
        str, typer.Option("--engine", help="embedded: once, here. temporal: until SIGTERM or Ctrl-C, beside others that do the same.")
    ] = "embedded",
    address: Annotated[str, typer.Option("--address", help="With --engine temporal: the server's host and port.")] = "127.0.0.1:7233",
    namespace: Annotated[str, typer.Option("--namespace", help="With --engine temporal.")] = "default",
    resync: Annotated[
        bool,
        typer.Option("--resync", help="With --engine temporal: its database is new or was lost; call for everybody who has anything open."),
    ] = False,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Do the work that waits, once: catch up projections, let the named agents decide, send what is due.

    On SIGTERM or Ctrl-C it finishes what it has begun, gives its lease back and ends, with status 1 when it left anybody to the next run.

    With --engine temporal, go on doing so: call the workflows of whoever is to be visited, and be one of the workers that visit.
    """
    if engine not in ("embedded", "temporal"):
        raise InvalidInput(what="run", field="--engine", reason="expected embedded or temporal")
    if engine == "temporal":
        if simulate:
            raise InvalidInput(what="run", field="--engine", reason="a simulation runs here: leave it out")
        _on_temporal(db, agent, address, namespace, resync, json)
        return
    at = parse_time(as_of)
    if simulate != (at is not None):
        raise InvalidInput(what="run", field="--as-of", reason="--simulate and --as-of go together")
    how = next((m for m in MODES if m == mode), None)
    if how is None:
        raise InvalidInput(what="run", field="--mode", reason=f"expected one of {', '.join(MODES)}")
    with opened(db) as ps:
        agents = named_agents(ps, agent)
        refuse_retired(ps, agents)
        if simulate and at is not None:
            with progress("simulating", None, quiet=json) as advance:
                result = ps.simulate(tenant_of(ps, tenant).name, at, agents=agents, into=into, mode=how, on_progress=advance)
            report, url = result.report, result.url
        else:
            with until_told() as told, progress("running", None, quiet=json) as advance:
                report, url = ps.run_once(agents=agents, on_progress=advance, wait_s=wait, stopped=told), ps.url
    if json:
        emit({**report.to_dict(), "db": url})
        raise typer.Exit(1 if report.problems or report.stopped else 0)
    counts("Run", report.to_dict()["counts"])
    for where, who in report.downgraded:
        out.print(
            f"[yellow]{escape(who)} went one step back[/] ({escape(where)}), by its policy's criteria: postsale agent review {escape(who)}"
        )
    if report.dispositions:
        counts("Dispositions", dict(report.dispositions))
    elif agents:
        out.print("[dim]No agent had anything to decide.[/]")
    else:
        out.print(f"[dim]No agent was named, so none decided. Name one: --agent {next(iter(SHIPPED))}[/]")
    if simulate:
        out.print(f"The simulation is in [bold]{escape(url)}[/]; the database it came from is unchanged.")
    if report.problems:
        table("[red]Not visited[/]", ("customer", "why"), [(stream, escape(why)) for stream, why in report.problems[:20]])
        raise typer.Exit(1)
    if report.called:
        out.print("[dim]Effects went to the sandbox. Real tools run in your own process: PostSale.open(…, tools=[…], sandbox=False).[/]")
    if report.stopped:
        out.print("[yellow]It was told to end[/]: what it had begun is done, and the next run does the rest.")
        raise typer.Exit(1)
    next_ = "postsale approval list" if report.dispositions.get("awaiting") else "postsale decision list"
    hint(next_, db=url if simulate else None)


def _on_temporal(db: str, agent: AgentNames, address: str, namespace: str, resync: bool, json: bool) -> None:
    from postsale.agents.engines.temporal import TemporalEngine  # needs an extra

    with opened(db) as ps:
        agents = named_agents(ps, agent)
        refuse_retired(ps, agents)
        if not agents:
            raise InvalidInput(what="run", field="--agent", reason=f"name at least one, such as {next(iter(SHIPPED))}")
        steps = ps.engine_of(agents)
        with TemporalEngine(steps, address, namespace=namespace) as engine:
            working = Working(ps, engine)
            said_ready, last_trouble = False, None

            def turned() -> None:
                nonlocal said_ready, last_trouble
                if not said_ready:
                    said_ready = True
                    say(json, "ready", {"engine": engine.name, "address": address, "agents": ", ".join(steps.agents)})
                if working.trouble != last_trouble:
                    last_trouble = working.trouble
                    say(json, "trouble" if last_trouble else "well again", {"why": last_trouble} if last_trouble else {})

            with until_told(working.stop):
                working.run(everybody=resync, on_turn=turned)
            say(json, "stopped", {"called": working.called})
