"""`postsale demo`: a vendor's year, end to end, on embedded SQLite, with time moving; then tables and a report of everything it left.

Prints and writes; the year itself is `simulator.year`. May import the simulator and everything below it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from postsale.app import PostSale, Tenant
from postsale.cli.common import counts, emit, out, progress, table
from postsale.cli.report import write
from postsale.events import ManualClock
from postsale.report import Report, page, words
from postsale.simulator import TROUBLED, Story, Vendor, Year, compared, year_agents

_TENANT = "acme"
_START = datetime(2026, 1, 1, tzinfo=UTC)
_MODEL = TROUBLED.changed(consent_marketing=0.65)
_OWN = ("demo.db", "demo.db-wal", "demo.db-shm", "demo.keys", "demo.views", "demo.views-wal", "demo.views-shm", "demo.html")
_MODES = ("observe", "propose", "act")


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where to put the demo's database and report.")] = Path("postsale-demo"),
    seed: Annotated[int, typer.Option("--seed", help="The same seed tells the same story.")] = 4,
    customers: Annotated[int, typer.Option("--customers", min=5, max=2_000)] = 29,
    days: Annotated[int, typer.Option("--days", min=30, max=730, help="How long the story is.")] = 365,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """A vendor's year: five sources, late and doubled signals, seven agents from observing to acting, an erasure, a proof, a report."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _OWN:
        (folder / name).unlink(missing_ok=True)  # an earlier demo's, and nothing else: the folder may be anybody's
    url, report_file = f"sqlite:///{folder / 'demo.db'}", folder / "demo.html"
    vendor = Vendor(seed, customers=customers, start=_START, days=days, model=_MODEL)
    with PostSale.open(url, agents=year_agents(), clock=ManualClock(_START)) as ps:
        acme = ps.tenant(_TENANT)
        year = Year(ps, _TENANT, vendor)
        with progress(f"{days} days of {customers} customers", days, quiet=json) as advance:
            lived = year.live(advance)
        erased = _erase(ps, acme, lived)
        report = _report(acme, vendor, lived, erased, seed)
        write(report_file, page(report))
        story = _story(ps, acme, lived, report) | {"erased": erased}
    story["tampering"] = _tamper(folder)
    if json:
        emit({"db": url, "tenant": _TENANT, "report_file": str(report_file), **story})
        return
    _tell(report, lived, story)
    out.print()
    out.print(f"[bold]→ The whole year as a page:[/] {escape(str(report_file))}", soft_wrap=True)
    out.print("[dim]→ Look around (the demo's year is over, so say as of when):[/]")
    as_of = f"--as-of {vendor.start + timedelta(days=days - 1):%Y-%m-%d}"
    out.print(f"    export POSTSALE_DB={url}", soft_wrap=True)
    for command in (f"customer why {story['example_customer']} {as_of}", "decision explain last", "approval list", "log verify"):
        out.print(f"    {_program()} {command}")


def _program() -> str:
    """What to type for this program: its path where it is not on PATH, as after `make demo`."""
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "postsale" and not shutil.which("postsale") else "postsale"


# ---------------------------------------------------------------- after the year


def _erase(ps: PostSale, acme: Tenant, lived: Story) -> dict[str, Any] | None:
    """Destroy the key of one customer who asked for it: it is read no more, and every proof still holds. None where nobody asked."""
    if not lived.erasures:
        return None
    asked = lived.erasures[0]
    ref, before = acme.customer(asked.customer).ref, ps.log.store.tree_head(_TENANT)
    ps.log.vault.destroy(_TENANT, ref)
    after = ps.verify()
    return {
        "asked": len(lived.erasures),
        "ref": ref,
        "name_now": acme.names()[ref],
        "head_unchanged": after.roots[_TENANT] == (before.size, before.root.hex()),
        "problems": len(after.problems),
    }


def _report(acme: Tenant, vendor: Vendor, lived: Story, erased: dict[str, Any] | None, seed: int) -> Report:
    made = acme.report(vendor.start, vendor.start + timedelta(days=vendor.days), names=True)
    notes = [
        f"The sources reported {lived.recorded.recorded:,} signals, {lived.late:,} of them more than two days late; {lived.recorded.duplicates:,}"
        f" came a second time and changed nothing, and {lived.corrected:,} put an earlier one right.",
        f"Customers agreed to be written to {lived.consents['given']:,} times, and took it back {lived.consents['withdrawn']:,} times.",
    ]
    if erased is not None:
        notes.append(
            f"{erased['asked']:,} people asked to be forgotten. For one of them it was carried out: the key was destroyed, so the name reads {erased['name_now']},"
            " and every proof still holds."
        )
    twin = compared(vendor, lived.months, made.currency or vendor.model.currency)
    return replace(made, seed=seed, twin=twin, notes=tuple(notes))


def _story(ps: PostSale, acme: Tenant, lived: Story, report: Report) -> dict[str, Any]:
    decisions = acme.decisions()
    waiting = [e for e in decisions if e.disposition == "awaiting"]
    chosen = waiting[0] if waiting else next((e for e in reversed(decisions) if e.disposition == "acted"), decisions[-1])
    hidden = {"•••"}
    risky = [r.customer for r in report.at_risk if r.customer not in hidden]
    verified, last = ps.verify(), report.health[-1]
    return {
        "signals": {"recorded": lived.recorded.recorded, "duplicates": lived.recorded.duplicates, "rejected": len(lived.recorded.rejects)},
        "health": {b: n for b, n in (("good", last.good), ("fair", last.fair), ("poor", last.poor), ("no score", last.unscored)) if n},
        "at_risk": [r.customer for r in report.at_risk],
        "dispositions": dict(Counter(e.disposition if not e.suppressed_by else f"suppressed by {e.suppressed_by}" for e in decisions)),
        "waiting": len(waiting),
        "steps": [step.to_dict() for step in lived.steps],
        "what_if": None if lived.what_if is None else {"decisions": lived.what_if.decisions, "changed": len(lived.what_if.changed)},
        "example_customer": risky[0] if risky else next(name for name in acme.names().values() if name not in hidden),
        "explained": acme.explain(chosen.id).to_dict(),
        "replayed": acme.replay(chosen.id).to_dict(),
        "verified": verified.to_dict(),
        "report": report.to_dict(),
    }


def _tamper(folder: Path) -> dict[str, object]:
    """Flip one byte of a stored event in a copy of the database, and see that it is found and named."""
    copy = folder / "demo-tampered.db"
    for suffix in ("db", "keys"):
        shutil.copyfile(folder / f"demo.{suffix}", folder / f"demo-tampered.{suffix}")
    (folder / "demo-tampered.keys").chmod(0o600)
    raw = bytearray(copy.read_bytes())
    at = raw.find(b'"amount_minor":')
    raw[at + len(b'"amount_minor":')] ^= 1
    copy.write_bytes(bytes(raw))
    with PostSale.open(f"sqlite:///{copy}") as ps:
        problems = ps.verify().problems
    for left in folder.glob("demo-tampered.*"):
        left.unlink()
    return {"problems": [{"position": p, "reason": r} for p, r in problems]}


# ---------------------------------------------------------------- for people


def _tell(report: Report, lived: Story, story: dict[str, Any]) -> None:
    recorded = lived.recorded
    said = {"recorded": recorded.recorded, "doubled": recorded.duplicates, "rejected": len(recorded.rejects)}
    counts("Signals", {**said, "late": lived.late, "corrected": lived.corrected})
    bands, here = story["health"], max(1, sum(story["health"].values()))
    table("Health", ("band", "customers", ""), [(b, n, "█" * round(40 * n / here)) for b, n in bands.items()], right=("customers",))
    worst = [(escape(r.customer), _score(r.score), ", ".join(f"{n} {v}" for n, v in r.worst)) for r in report.at_risk[:5]]
    table("At risk", ("customer", "health", "what costs most"), worst, right=("health",))
    _tell_agents(report, lived)
    a, f = report.approvals, report.referrals
    counts(
        "Approvals",
        {"asked": a.asked, "approved": a.approved, "edited": a.edited, "rejected": a.rejected, "lapsed": a.lapsed, "waiting": a.waiting},
    )
    counts("Referrals", {"invited": f.invited, "clicked": f.clicked, "registered": f.registered, "bought": f.converted})
    _tell_twin(report)
    for step in lived.steps:
        if step.what != "autonomy":
            out.print(f"[bold]{step.what.capitalize()}[/]  {words.day(step.at)}, {escape(step.agent)}: {escape(step.told)}")
    if (erased := story["erased"]) is not None:
        proof = "every proof still holds" if erased["head_unchanged"] and not erased["problems"] else "[red]THE PROOF BROKE[/]"
        out.print(f"[bold]Erased[/]  a customer's key is destroyed: its name reads {erased['name_now']}, and {proof}")
    intents = story["replayed"]["intents"]
    effects = f"{intents} effect intent{'' if intents == 1 else 's'}"
    out.print(f"[bold]Replayed[/]  a decision, to the same bytes, {effects}, no tool reachable")
    verified, problems = story["verified"], story["tampering"]["problems"]
    out.print(f"[bold]Verified[/]  {verified['events']:,} events, {len(verified['problems'])} problems, tree head {report.root[:16]}…")
    found = f"found at position {problems[0]['position']}: {problems[0]['reason']}" if problems else "[red]NOT FOUND[/]"
    out.print(f"[bold]Tampered[/]  one byte flipped in a copy: {found}")


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:.0f}"


def _tell_agents(report: Report, lived: Story) -> None:
    """Seven rows: since when each observes, proposes and acts, by its criteria, and what came of its decisions."""
    since: dict[tuple[str, str], str] = {}
    for step in lived.steps:
        if step.what == "autonomy":
            since.setdefault((step.agent, step.told.split()[0].rstrip("s:")), f"{step.at:%d %b}")
    rows = [
        (
            escape(a.name),
            *(since.get((a.name, mode), "–") for mode in _MODES[1:]),
            a.triggers,
            a.waited,
            *(a.dispositions.get(kind, 0) for kind in ("awaiting", "acted", "suppressed", "failed")),
            escape(_rules(dict(a.suppressed_by))),
        )
        for a in report.agents
    ]
    head = ("agent", "proposes", "acts", "decided", "asked", "waiting", "acted", "held back", "failed", "most often by")
    table("Seven agents: how many decisions asked a person, and what each is at the end", head, rows, right=head[3:9])


def _rules(suppressed_by: dict[str, int]) -> str:
    """The kind of rule that held most decisions back."""
    kinds = Counter[str]()
    for rule, n in suppressed_by.items():
        kinds[rule.partition(":")[0]] += n
    return f"{kinds.most_common(1)[0][0]} {kinds.most_common(1)[0][1]}" if kinds else ""


def _tell_twin(report: Report) -> None:
    if report.twin is None:
        return
    rows = []
    for line in report.twin.lines:
        counted = line.unit in {"customers", "contracts", "referrals"}
        sums = [f"{n:,}" if counted else words.money(n, line.unit) for n in (line.with_agents, line.without)]
        more = words.signed(line.difference) if counted else words.money(line.difference, line.unit)
        low, high = (f"{x:+.2f}" if counted else f"{x / 100:+,.0f}" for x in (line.low, line.high))
        rows.append((line.name, *sums, more, f"{low} to {high}"))
    n = max(line.customers for line in report.twin.lines)
    head = ("", "with agents", "without", "difference", "mean per customer, 95 %")
    table(f"The same {n} customers with and without agents", head, rows, right=head[1:])
