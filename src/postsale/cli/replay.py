"""`postsale decision replay` and `postsale log check-certificate`: decisions made again, and the document that says so. Prints; decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from postsale.agents import Agent
from postsale.audit import ReplayReport, check_certificate
from postsale.audit.replay_compare import CIRCUMSTANCE, ERASED, NOT_HERE, OTHER_CODE, RETIRED, THIRD_PARTY, UNREADABLE
from postsale.cli.agents import newest_or
from postsale.cli.common import (
    DEFAULT_DB,
    Db,
    Json,
    TenantName,
    counts,
    emit,
    hint,
    opened,
    out,
    parse_time,
    steps,
    table,
    tame,
    tenant_of,
)
from postsale.cli.log import Keys, read_file, verifier_keys
from postsale.cli.named import agent_named
from postsale.errors import InvalidInput, ReplayDiverged

_SHOWN = 30
_MEANING = {
    ERASED: "the arguments are erased, and so is the key of their digest",
    OTHER_CODE: "other deciding code is installed than the code that decided",
    NOT_HERE: "the deciding code is not installed, or cannot be loaded on its own",
    RETIRED: "another version of the read model or its model is installed",
    THIRD_PARTY: "it came from outside the log, and was taken as recorded",
    CIRCUMSTANCE: "it tells what happened around the process",
    UNREADABLE: "an event of a kind that is not known here",
}


def decision_replay(
    decision: Annotated[str | None, typer.Argument(help="One decision: its id, its first characters, or: last")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every decision of the tenant.")] = False,
    agent: Annotated[
        str | None, typer.Option("--agent", help="Only this agent's: its name; for an agent of your own code, module:Agent.")
    ] = None,
    customer: Annotated[str | None, typer.Option("--customer", help="Only about this customer.")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="Decided from this date or RFC 3339 time on.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Decided up to this date (its end, UTC) or time.")] = None,
    certificate: Annotated[Path | None, typer.Option("--certificate", help="Write the signed certificate to this file.")] = None,
    sign: Annotated[bool, typer.Option("--sign/--no-sign", help="Sign the certificate with the tenant's key.")] = True,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Decide again from the log alone, in a process without sockets, files or programs: the intents, and the evidence they rest on.

    "certified" is said where the kernel holds that process (Linux, seccomp), "checked" elsewhere. What cannot be had again is counted
    by reason. Exit status 1 when anything differs, or deciding code tries to reach the world.
    """
    narrowed = any(value is not None for value in (agent, customer, begin, end))
    if (decision is not None) + every + narrowed == 0 or (decision is not None and (every or narrowed)) or (every and narrowed):
        raise InvalidInput(
            what="argument", field="decision", reason="name one decision, or --all, or narrow by --agent, --customer, --from, --to"
        )
    own = agent_named(agent) if agent is not None and (":" in agent or agent.endswith(".toml")) else None
    agents: list[Agent] = [own] if own is not None else []
    at = parse_time(f"{begin}T00:00:00Z" if begin is not None and len(begin) == 10 else begin)
    with opened(db, agents=agents) as ps:
        t = tenant_of(ps, tenant)
        ids = (newest_or(t, decision),) if decision is not None else ()
        with steps(quiet=json) as step:

            def advance(done: int, of: int) -> None:
                step("replaying", done, of)

            by = own.name if own is not None else agent
            if certificate is None:
                report = t.replay_many(ids, agent=by, customer=customer, begin=at, end=parse_time(end), on_progress=advance)
            else:
                made = t.certify(ids, agent=by, customer=customer, begin=at, end=parse_time(end), sign=sign, on_progress=advance)
                report = made.report
                try:
                    certificate.write_bytes(made.to_json())
                except OSError as error:
                    raise InvalidInput(
                        what="option", field="--certificate", reason=f"the file cannot be written ({error.strerror})"
                    ) from None
        if json:
            emit(report.to_dict())
        elif decision is not None and report.different:
            one, first = report.different[0], report.different[0].differences[0]
            raise ReplayDiverged(
                decision_id=str(one.decision_id), where=first.where, recorded=first.recorded, regenerated=first.regenerated
            )
        else:
            _show(report)
            if certificate is not None:
                out.print(f"Certificate: {escape(str(certificate))}", soft_wrap=True)
                if sign:
                    hint(f"postsale log key > log.key; postsale log check-certificate {escape(str(certificate))} --key log.key")
        raise typer.Exit(0 if report.ok else 1)


def _show(report: ReplayReport) -> None:
    numbers = {report.word: report.counts["same"], "different": report.counts["different"], "unverifiable": report.counts["unverifiable"]}
    counts("Replayed", {"decisions": report.decisions, **numbers, "effect intents": report.intents})
    where = f"in the sandbox {report.sandbox.name}" + (
        "" if report.sandbox.enforced else ", which Python holds and no kernel: no certificate"
    )
    if report.ok and report.counts["same"]:
        out.print(f"[green]The same bytes[/], and the same evidence from the log, {where}.", soft_wrap=True)
    if report.reasons:
        reasons = [(reason, f"{report.reasons[reason]:,}", _MEANING[reason]) for reason in _MEANING if report.reasons[reason]]
        table("[yellow]Could not be had again[/]", ("reason", "decisions", "what it means"), reasons, right=("decisions",))
    if report.missing:
        missing = [(escape(name), error) for name, error in sorted(report.missing.items())]
        table("[yellow]Could not be loaded in the sandbox[/]", ("what", "error"), missing)
    if report.different:
        rows = [
            (
                str(o.decision_id)[:8],
                f"{o.decided_at:%Y-%m-%d %H:%M}",
                escape(o.agent),
                escape(d.where),
                escape(d.recorded),
                escape(d.regenerated),
            )
            for o in report.different[:_SHOWN]
            for d in o.differences[:3]
        ]
        table("[red]Different[/]", ("id", "when", "agent", "where", "recorded", "made again"), rows)
        if len(report.different) > _SHOWN:
            out.print(f"[dim]… and {len(report.different) - _SHOWN:,} more decisions (--json)[/]")
        hint(f"postsale decision explain {str(report.different[0].decision_id)[:8]}")
        hint("postsale log verify")
    if report.strays:
        table("[red]Follow from no decision[/]", ("position", "what"), [(p, escape(what)) for p, what in report.strays[:_SHOWN]])


def log_check_certificate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file that `postsale decision replay --certificate` wrote.")],
    key: Keys = None,
    json: Json = False,
) -> None:
    """Check a certificate of a replay, without the log and offline. Exit status 1 when it is none, or when it says that something differs."""
    keys = verifier_keys(key)
    if not keys:
        raise InvalidInput(what="option", field="--key", reason="whose log? Ask its owner for what `postsale log key` prints")
    checked = check_certificate(read_file("FILE", file), keys)
    found = checked.document
    if json:
        emit(checked.to_dict())
    elif found is None:
        out.print(f"[bold red]No certificate[/]  {escape(tame(checked.reason))}", soft_wrap=True)
    else:
        colour, told = ("green", "Nothing differs.") if checked.clean else ("red", "It says that something differs.")
        out.print(f"[{colour}]Signed by the log, and true within itself. {told}[/]", soft_wrap=True)
        numbers, tree, deciders = found["counts"], found["tree"], found["code"]["deciders"]
        rows = [
            ("log", f"{found['log']}, tenant {found['tenant']}"),
            ("tree", f"{tree['size']:,} events, root {tree['root']}"),
            (
                "checkpoint",
                "none" if checked.checkpoint is None else f"{checked.checkpoint.size:,} events, signed {checked.checkpoint.signed_at}",
            ),
            (
                "decisions",
                f"{numbers['decisions']:,}: {numbers['same']:,} {found['word']}, {numbers['different']:,} different, {numbers['unverifiable']:,} unverifiable",
            ),
            ("sandbox", found["sandbox"]["name"]),
            *((f"unverifiable, {reason}", f"{n:,}") for reason, n in found["unverifiable"].items()),
            *(
                (f"code {name}", "as it decided" if one["recorded"].keys() == {one["installed"]} else "not as it decided")
                for name, one in deciders.items()
            ),
            ("results", found["results"]["digest"]),
        ]
        for name, value in rows:
            out.print(f"  {escape(tame(str(name)))}: {escape(tame(str(value)))}", soft_wrap=True)
    raise typer.Exit(0 if checked.clean else 1)
