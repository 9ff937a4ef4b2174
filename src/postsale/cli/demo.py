"""`postsale demo`: a vendor's quarter, end to end, on embedded SQLite, with time moving; then a look into everything it left."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from postsale.agents import RenewalRescue
from postsale.app import PostSale, RecordReport, Tenant
from postsale.cli.agents import decision_rows
from postsale.cli.common import counts, emit, out, progress, table
from postsale.events import ManualClock
from postsale.simulator import TROUBLED, ConsentGivenAt, Delivery, EffectsLeft, Vendor

_TENANT = "acme"
_DAYS = 91
_LOOK = ("decision list", "decision explain last", "approval list", "log verify")


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where to put the demo's database.")] = Path("postsale-demo"),
    seed: Annotated[int, typer.Option("--seed", help="The same seed tells the same story.")] = 3,
    customers: Annotated[int, typer.Option("--customers", min=5, max=2_000)] = 60,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """A vendor's quarter: five sources, late and doubled signals, one agent from observing to acting, a proof at the end."""
    start = datetime(2026, 7, 1, tzinfo=UTC)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("demo.db", "demo.db-wal", "demo.db-shm", "demo.keys", "demo.views", "demo.views-wal", "demo.views-shm"):
        (folder / name).unlink(missing_ok=True)  # an earlier demo's, and nothing else: the folder may be anybody's
    url = f"sqlite:///{folder / 'demo.db'}"
    clock = ManualClock(start)
    with PostSale.open(url, agents=[RenewalRescue()], clock=clock) as ps:
        acme = ps.tenant(_TENANT)
        recorded = _live_through(ps, acme, clock, Vendor(seed, customers=customers, start=start, days=_DAYS, model=TROUBLED), quiet=json)
        story = _tell(ps, acme, recorded, quiet=json)
    story["tampering"] = _tamper(folder, quiet=json)
    if json:
        emit({"db": url, "tenant": _TENANT, **story})
        return
    out.print()
    out.print("[dim]→ Look around (the demo's quarter is over, so say as of when):[/]")
    as_of = f"--as-of {start + timedelta(days=_DAYS - 1):%Y-%m-%d}"
    out.print(f"    export POSTSALE_DB={url}")
    for command in (f"customer list --at-risk {as_of}", f"customer why {story['example_customer']} {as_of}", *_LOOK):
        out.print(f"    {_program()} {command}")


def _program() -> str:
    """What to type for this program: its path where it is not on PATH, as after `make demo`."""
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "postsale" and not shutil.which("postsale") else "postsale"


def _live_through(ps: PostSale, acme: Tenant, clock: ManualClock, vendor: Vendor, *, quiet: bool) -> RecordReport:
    """Day by day: what arrives is recorded, then the agent runs. It observes for a month, proposes for a month, acts, and proposes in the last week."""
    agent = acme.agent("renewal-rescue")
    steps = {
        0: ("observe", "first month: watch"),
        30: ("propose", "its decisions looked right"),
        61: ("act", "30 days without a rejection"),
        vendor.days - 7: ("propose", "quarter end: a person looks at everything"),
    }
    total, left = RecordReport(), EffectsLeft(ps, _TENANT)
    with progress(f"{vendor.days} days of {vendor.customers} customers", vendor.days, quiet=quiet) as advance:
        for day in range(vendor.days):
            if day in steps:
                mode, reason = steps[day]
                getattr(agent, mode)(reason=reason)
            clock.move_to(vendor.start + timedelta(days=day, hours=13))
            arrivals = vendor.day(day - 1) if day else []  # what came yesterday, all of it
            signals = [(a.customer, a.signal) for a in arrivals if isinstance(a, Delivery)]
            part = acme.record_many(signals)
            total.recorded += part.recorded
            total.duplicates += part.duplicates
            total.rejects += part.rejects
            _consent(acme, [a for a in arrivals if isinstance(a, ConsentGivenAt)])
            ps.run_once()
            vendor.act(left.new())  # customers respond to what left for them
            if day % 2:  # every other day somebody looks at the queue, and lets the older half of it pass
                for waiting in acme.approvals()[::2]:
                    if day < vendor.days - 8:
                        acme.approve(waiting.id, reason="agreed with the account's owner")
                        ps.run_once()
            advance(1)
    return total


def _consent(acme: Tenant, consents: list[ConsentGivenAt]) -> None:
    for c in consents:
        acme.consent(c.customer, c.channel, c.purpose, given=c.given, evidence="their own word")


def _tell(ps: PostSale, acme: Tenant, recorded: RecordReport, *, quiet: bool) -> dict[str, object]:
    rows = acme.customers()
    bands = Counter(row.band or "no score" for row in rows)
    at_risk = [row for row in rows if row.at_risk]
    decisions = acme.decisions()
    dispositions = Counter(e.disposition if not e.suppressed_by else f"suppressed by {e.suppressed_by}" for e in decisions)
    waiting = acme.approvals()
    if not quiet:
        counts("Signals", {"recorded": recorded.recorded, "doubled": recorded.duplicates, "rejected": len(recorded.rejects)})
        table(
            "Health",
            ("band", "customers", ""),
            [(b, bands[b], "█" * round(40 * bands[b] / max(1, len(rows)))) for b in ("good", "fair", "poor", "no score") if bands[b]],
            right=("customers",),
        )
        table(
            "At risk",
            ("customer", "health", "why"),
            [(r.name, f"{r.score:.1f}" if r.score is not None else "–", escape(_short_why(acme, r.name))) for r in at_risk[:6]],
            right=("health",),
        )
        table("Decisions", ("disposition", "count"), [(escape(k), n) for k, n in dispositions.most_common()], right=("count",))
        table(
            "Waiting for a person",
            ("id", "when", "customer", "agent", "condition", "action", "disposition"),
            decision_rows(waiting[:6], acme.names()),
        )
    story: dict[str, object] = {
        "signals": {"recorded": recorded.recorded, "duplicates": recorded.duplicates, "rejected": len(recorded.rejects)},
        "health": dict(bands),
        "at_risk": [r.name for r in at_risk],
        "dispositions": dict(dispositions),
        "waiting": len(waiting),
        "example_customer": at_risk[0].name if at_risk else rows[0].name,
    }
    chosen = waiting[0] if waiting else next((e for e in reversed(decisions) if e.disposition == "acted"), decisions[-1])
    if waiting:
        acme.approve(chosen.id, reason="looks right")
        ps.run_once()
    explanation, replayed, report = acme.explain(chosen.id), acme.replay(chosen.id), ps.verify()
    story |= {"explained": explanation.to_dict(), "replayed": replayed.to_dict(), "verified": report.to_dict()}
    if not quiet:
        out.print(
            "\n[bold]One of them, approved, sent to the sandbox, and explained[/]" if waiting else "\n[bold]One of them, explained[/]"
        )
        out.print(escape(str(explanation)))
        out.print(f"\n[bold]Replayed[/]  the same bytes, {replayed.intents} effect intents, no tool reachable")
        out.print(
            f"[bold]Verified[/]  {report.events:,} events, {len(report.problems)} problems, tree head {next(iter(report.roots.values()))[1][:16]}…"
        )
    return story


def _short_why(acme: Tenant, customer: str) -> str:
    """The two components that cost the most."""
    health = acme.health(customer)
    lost = sorted(
        (c for c in health.components if c.score_micro is not None), key=lambda c: c.weight * ((c.score_micro or 0) - 100_000_000)
    )
    return (
        ", ".join(f"{c.name} {(c.score_micro or 0) // 1_000_000}" for c in lost[:2])
        + f"; {health.trend.direction or 'no trend'} over 30 days"
    )


def _tamper(folder: Path, *, quiet: bool) -> dict[str, object]:
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
    if not quiet:
        found = f"found at position {problems[0][0]}: {problems[0][1]}" if problems else "[red]NOT FOUND[/]"
        out.print(f"[bold]Tampered[/]  one byte flipped in a copy: {found}")
    return {"problems": [{"position": p, "reason": r} for p, r in problems]}
