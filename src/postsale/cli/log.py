"""`postsale log …`: verify the log, sign its heads, prove an event, check somebody else's proof. Prints; decides nothing."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.markup import escape

from postsale.audit import BudgetReport, DispositionReport, check_budgets, check_dispositions
from postsale.cli.chapters import log_archive, log_chapters
from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    Commands,
    Db,
    Json,
    TenantName,
    counts,
    emit,
    err,
    hint,
    opened,
    opened_store,
    out,
    progress,
    table,
    tame,
    tenant_among,
    tenant_of,
)
from postsale.errors import InvalidInput, NoteInvalid
from postsale.events import SECOND_US, SystemClock, iso
from postsale.store import Checkpoint, FileAnchor, VerifierKey, VerifyReport, check_proof, prove, verify

log_app = Commands(
    no_args_is_help=True, help="The log itself: prove that nothing was changed or left out; archive old chapters.", epilog=EXIT_CODES
)

Keys = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="KEY|FILE", help="The log's public key, as `postsale log key` prints it, or a file of keys. Repeatable."),
]
_SHOWN = 50  # problems
_NOTE = re.compile("(?:[^\n]+\n)+\n(?:\N{EM DASH} [^\n]*\n)+")


log_app.command("chapters")(log_chapters)
log_app.command("archive")(log_archive)


@log_app.command("verify")
def log_verify(
    db: Db = DEFAULT_DB,
    anchor: Annotated[Path | None, typer.Option("--anchor", help="A file of checkpoints kept outside the log.")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", metavar="NOTE", help="A file with a checkpoint, or several. Repeatable.")
    ] = None,
    key: Keys = None,
    dispositions: Annotated[
        bool, typer.Option("--dispositions", help="Also check that every trigger has exactly one decision, and every decision a trigger.")
    ] = False,
    budgets: Annotated[
        bool, typer.Option("--budgets", help="Also check every entry of every budget: double entry, a reason for each, no limit passed.")
    ] = False,
    grace: Annotated[
        float, typer.Option("--grace", min=0, help="With --dispositions: seconds that a trigger may wait for its decision.")
    ] = 0,
    json: Json = False,
) -> None:
    """Recompute every leaf from the stored bytes; names each event that was changed. Needs no secret. Exit status 1 when one was.

    Compares with the checkpoints that the log keeps, and with those given: only they show that the end was not cut off and
    that nothing was rewritten as a whole.
    """
    notes = [note for path in checkpoint or () for note in _checkpoints(path)]
    keys = verifier_keys(key)
    with opened_store(db) as store:
        if anchor:
            notes += FileAnchor(anchor).notes()
        with progress("verifying", store.head(), quiet=json) as advance:
            report = verify(store, _steps(advance), against=notes, keys=keys)
        decided = None
        if dispositions and report.ok:
            since_us = SystemClock().now_us() - round(grace * SECOND_US) if grace else None
            decided = check_dispositions(store, since_us=since_us)
        kept = check_budgets(store) if budgets and report.ok else None
        if json:
            more = {"dispositions": decided, "budgets": kept}
            emit(report.to_dict() | {name: found.to_dict() for name, found in more.items() if found is not None})
        else:
            _show(report, compared=bool(notes))
            if decided is not None:
                _show_dispositions(decided)
            if kept is not None:
                _show_budgets(kept)
            if any("key was not given" in warning for warning in report.warnings):
                hint("postsale log key > log.key")
                hint(f"postsale log verify{f' --anchor {shlex.quote(str(anchor))}' if anchor else ''} --key log.key")
        raise typer.Exit(0 if report.ok and all(found is None or found.ok for found in (decided, kept)) else 1)


def _show_dispositions(found: DispositionReport) -> None:
    numbers = {"triggers": found.triggers, "decisions": found.decisions, "waiting": found.waiting}
    counts("Dispositions", numbers)
    if found.dispositions:
        counts("As they were decided, before anybody answered", found.dispositions)
    if found.ok:
        out.print("[green]Every trigger has exactly one decision, and every decision a trigger.[/]")
        return
    rows = [(p.position, p.what, str(p.id), escape(p.reason)) for p in found.problems[:_SHOWN]]
    table("[red]Not one to one[/]", ("position", "what", "id", "why"), rows)
    if len(found.problems) > _SHOWN:
        out.print(f"[dim]… and {len(found.problems) - _SHOWN:,} more (--json)[/]")


def _show_budgets(found: BudgetReport) -> None:
    counts("Budgets", {"budgets": found.budgets, "entries": found.entries, "reservations not settled yet": found.open})
    if found.ok:
        out.print(
            "[green]Every entry has its reason and its counterpart, the accounts sum to zero, and no limit was passed.[/]", soft_wrap=True
        )
        return
    rows = [(p.position, p.what, escape(p.stream), escape(p.reason)) for p in found.problems[:_SHOWN]]
    table("[red]Budgets that do not add up[/]", ("position", "what", "stream", "why"), rows)
    if len(found.problems) > _SHOWN:
        out.print(f"[dim]… and {len(found.problems) - _SHOWN:,} more (--json)[/]")


def _show(report: VerifyReport, *, compared: bool) -> None:
    counts("Verified", {"events": report.events, "problems": len(report.problems)})
    heads = [(escape(tame(t)), f"{size:,}", f"{report.signed.get(t, 0):,}", root) for t, (size, root) in report.roots.items()]
    table("Tree heads", ("tenant", "events", "signed", "root"), heads, right=("events", "signed"))
    for warning in report.warnings:
        out.print(f"[yellow]Warning[/]  {escape(tame(warning))}", soft_wrap=True)
    if report.first_problem:
        position, reason = report.first_problem
        where = f"First wrong event  position {position:,}" if position else "The log as a whole"
        out.print(f"[bold red]{where}[/]  {escape(tame(reason))}", soft_wrap=True)
        table("[red]Problems[/]", ("position", "what is wrong"), [(p, escape(r)) for p, r in report.problems[:_SHOWN]])
        if len(report.problems) > _SHOWN:
            out.print(f"[dim]… and {len(report.problems) - _SHOWN:,} more (--json)[/]")
    elif compared:
        out.print("[green]Every event is what was recorded, and the log continues every checkpoint that was given.[/]", soft_wrap=True)
    else:
        out.print("[green]Every event is what was recorded.[/]")
        if not report.signed:
            out.print("[dim]Only a checkpoint that is kept elsewhere shows whether its end was cut off:[/]", soft_wrap=True)
            hint("postsale log checkpoint --anchor FILE")


def _steps(advance: Callable[[int], None]) -> Callable[[int], None]:
    """`verify` reports how far it is; a bar wants how much more."""
    done = 0

    def at(position: int) -> None:
        nonlocal done
        advance(position - done)
        done = position

    return at


@log_app.command("checkpoint")
def log_checkpoint(
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    anchor: Annotated[
        Path | None, typer.Option("--anchor", help="Also append it to this file, out of reach of who writes the log.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign the head of a tenant's tree, or of every tenant's, and print the checkpoint: a note to keep elsewhere.

    Refuses (exit status 1) when the log does not continue what was signed before.
    """
    with opened(db) as ps:
        tenants = [tenant_of(ps, tenant).name] if tenant else ps.log.store.tenants()
        if not tenants:
            tenant_among(tenants, None)
        signed = [(name, ps.checkpoint(name, FileAnchor(anchor) if anchor else None)) for name in tenants]
        if json:
            emit([{"tenant": name, **_members(checkpoint), "note": checkpoint.text} for name, checkpoint in signed])
            return
        sys.stdout.write("\n".join(checkpoint.text for _, checkpoint in signed))
        if anchor is None:
            err.print("[dim]Keep it where whoever can write the log cannot: --anchor FILE, or send it to somebody.[/]", soft_wrap=True)


@log_app.command("key")
def log_key(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """The public key that verifies a tenant's checkpoints, or every tenant's: give it to auditors before they need it."""
    with opened(db) as ps:
        tenants = [tenant_of(ps, tenant).name] if tenant else ps.log.store.tenants()
        keys = {name: str(ps.verifier_key(name)) for name in tenants}
        if json:
            emit([{"tenant": name, "key": key} for name, key in keys.items()])
        else:
            sys.stdout.writelines(f"{key}\n" for key in keys.values())


@log_app.command("prove")
def log_prove(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="An event id, or a position.")],
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the proof to this file.")] = None,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", metavar="NOTE", help="Under this checkpoint, not the newest.")] = None,
) -> None:
    """Prove to somebody without the log that an event is in it. The proof shows tenant, stream, kind and version, and no contents."""
    with opened_store(db) as store:
        known = store.tenants()
        name = tenant_among(known if tenant else [name for name in known if not name.startswith("_")], tenant)
        under = Checkpoint.parse(_checkpoints(checkpoint)[0]) if checkpoint else None
        proof = prove(store, name, _event(event), under)
        document = proof.to_json()
        if out_file is None:
            sys.stdout.write(document.decode())
            return
        try:
            out_file.write_bytes(document)
        except OSError as error:
            raise InvalidInput(what="option", field="--out", reason=f"it cannot be written ({error.strerror})") from None
        out.print(
            f"Event {proof.leaf_index:,} of {proof.checkpoint.size:,} of tenant {escape(name)}: {escape(str(out_file))}", soft_wrap=True
        )
        out.print(f"[dim]→ postsale log check-proof {escape(str(out_file))} --key KEY   (KEY: postsale log key)[/]", soft_wrap=True)


@log_app.command("check-proof")
def log_check_proof(
    proof: Annotated[Path, typer.Argument(metavar="PROOF", help="The file that `postsale log prove` wrote.")],
    key: Keys = None,
    witness: Annotated[
        list[str] | None,
        typer.Option("--witness", metavar="KEY|FILE", help="It must be cosigned by this witness, too (C2SP cosignature key). Repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Check a proof, without the log and offline. Exit status 1 when it proves nothing."""
    keys = verifier_keys(key)
    if not keys:
        raise InvalidInput(what="option", field="--key", reason="whose log? Ask its owner for what `postsale log key` prints")
    checked = check_proof(read_file("PROOF", proof), keys, verifier_keys(witness))
    if json:
        emit(checked.to_dict())
    elif checked.shown is None or checked.checkpoint is None:
        out.print(f"[bold red]Not proved[/]  {escape(tame(checked.reason))}", soft_wrap=True)
    else:
        shown = checked.shown
        out.print("[green]Proved: this event was in the log, at this place, when the checkpoint was signed.[/]", soft_wrap=True)
        rows = [
            ("log", checked.checkpoint.origin),
            ("event", f"{shown.wire_name}, version {shown.version} of {shown.tenant}/{shown.category}/{shown.id}"),
            ("place", f"number {shown.leaf_index:,} from 0, of {checked.checkpoint.size:,}"),
            ("signed", checked.checkpoint.signed_at),
            *((f"cosigned by {name}", _when(time_s)) for name, time_s in checked.cosigned.items()),
        ]
        for name, value in rows:
            out.print(f"  {escape(tame(name))}: {escape(tame(value))}", soft_wrap=True)
    raise typer.Exit(0 if checked.ok else 1)


# ---------------------------------------------------------------- what is given


def verifier_keys(given: Iterable[str] | None) -> list[VerifierKey]:
    """Verifier keys, or files with one a line."""
    keys = []
    for value in given or ():
        try:
            found = [VerifierKey.parse(line) for line in value.split()]
        except InvalidInput:
            found = [VerifierKey.parse(line) for line in read_file("--key", Path(value)).decode(errors="replace").split()]
        if not found:
            raise InvalidInput(what="option", field="--key", reason="empty")
        keys += found
    return keys


def _checkpoints(path: Path) -> list[str]:
    """The notes of a file, one after the other; InvalidInput when it holds anything else."""
    text = read_file("--checkpoint", path).decode(errors="replace")
    notes = _NOTE.findall(text)
    reason = "" if notes and not _NOTE.sub("", text).strip("\n") else "text without a signature"
    for note in notes:
        try:
            Checkpoint.parse(note)
        except NoteInvalid as error:
            reason = error.reason
    if reason:
        raise InvalidInput(what="option", field="--checkpoint", reason=f"not a file of checkpoints: {reason}")
    return notes


def read_file(field: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(what="option", field=field, reason=f"the file cannot be read ({error.strerror})") from None


def _event(text: str) -> UUID | int:
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput(what="argument", field="EVENT", reason="expected an event id or a position") from None


def _when(time_s: int) -> str:
    try:
        return f"at {iso(time_s * 1_000_000)}"
    except InvalidInput:  # beyond the year 9999
        return f"{time_s} s after 1970"


def _members(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"size": checkpoint.size, "root": checkpoint.root.hex(), "signed_at_us": checkpoint.at_us}
