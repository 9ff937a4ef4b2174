"""How `postsale outcome effect` shows an estimate: both arms, the difference and its interval. Prints; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape

from postsale.app.effects import EffectReport
from postsale.cli.common import out, table
from postsale.events import from_us
from postsale.projections.outcomes import Frame


def show_effects(r: EffectReport) -> None:
    """One hold-out: who was compared, then each outcome."""
    shares = " and ".join(f"{p} %" for p in r.percent)
    who = f"{r.treated:,} acted on, {r.held_out:,} held out ({shares} of customers, hold-out {r.holdout})"
    rows = []
    for e in r.effects:
        found = e.estimate
        name = f"{e.name}{f' {e.currency}' if e.currency else ''}"
        if found is None:
            rows.append((name, "no estimate", e.why, "", "", left_out(e.excluded)))
            continue
        value, low, high, treated, held = (
            _change(x, e.unit) for x in (found.value, found.low, found.high, found.treated_mean, found.held_out_mean)
        )
        rows.append(
            (name, value, f"{low} to {high}", f"{treated} of {found.treated:,}", f"{held} of {found.held_out:,}", left_out(e.excluded))
        )
    columns = ("outcome", "effect", "95 % interval", "acted on", "held out", "left out")
    table(f"Effects {days_of(r.frame)}: {escape(who)}", columns, [tuple(map(escape, row)) for row in rows], right=("effect",))
    out.print(f"  [dim]agents: {escape(', '.join(r.agents))}{escape('; ' + left_out(r.excluded)) if r.excluded else ''}[/]")


def _change(value: float, unit: str) -> str:
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:,.0f}" if unit.startswith("minor units") else f"{value:,.3f}"


def days_of(frame: Frame) -> str:
    """A period for people: its first and its last day."""
    return f"{frame.start:%Y-%m-%d} to {from_us(frame.end_us - 1):%Y-%m-%d}"


def left_out(excluded: Mapping[str, int]) -> str:
    """Who was left out, by reason."""
    return ", ".join(f"{count:,} {reason}" for reason, count in excluded.items())
