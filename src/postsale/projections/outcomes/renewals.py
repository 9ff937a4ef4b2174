"""Contracts that ended in a period: who renewed, and how the three calls did beside that. Pure.

A contract end counts when it was in force as the period opened or just before that end, or when a final call names it. It was renewed
when a subscription still runs 30 days later: billing's word; of a customer without subscriptions the final call says. A date that was moved
is, to the log, a renewal before its time: correct a wrong date by a fact with the same `occurred_at`.
Imports books, intervals, measure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from postsale.events import DAY_US, iso
from postsale.projections.algebra import Moment
from postsale.projections.outcomes.books import Book
from postsale.projections.outcomes.intervals import wilson
from postsale.projections.outcomes.measure import Frame, Measure

GRACE_DAYS: Final = 30
VOICES: Final = ("model", "manager", "final")
_VOICE: Final = {
    "crm/renewal-called-by-model": "model",
    "crm/renewal-called-by-manager": "manager",
    "crm/renewal-called-finally": "final",
}
_KEPT: Final = {"renew": True, "expand": True, "contract": True, "churn": False}


@dataclass(frozen=True, slots=True)
class Renewal:
    """One contract end, what each voice called it, and what became of it. The calls stand side by side and are never combined."""

    ref: str
    renews_at_us: int
    model: str | None
    manager: str | None
    final: str | None
    renewed: bool | None  # None: not settled yet, or nobody says
    by: str | None  # whose word that is: billing or final
    why: str = ""  # of None

    def to_dict(self) -> dict[str, Any]:
        return {
            "ref": self.ref,
            "renews_at": iso(self.renews_at_us),
            "calls": {"model": self.model, "manager": self.manager, "final": self.final},
            "renewed": self.renewed,
            "by": self.by,
            "why": self.why,
        }


def due_in(book: Book, start_us: int, end_us: int) -> bool:
    """Whether the contract end that was in force at the start lies in the period."""
    known = _in_force(book.dues, start_us)
    return known is not None and start_us <= known < end_us


def _in_force(dues: Sequence[Moment], us: int) -> int | None:
    return next((m.value for m in reversed(dues) if m.at_us < us), None)


def renewals(books: Sequence[Book], frame: Frame) -> list[Renewal]:
    """Every contract end of the period, by time and reference."""
    found = []
    for book in books:
        for end_us in sorted(_ends(book, frame)):
            calls = _calls(book, end_us)
            renewed, by, why = _outcome(book, end_us, frame, calls.get("final"))
            found.append(Renewal(book.ref, end_us, calls.get("model"), calls.get("manager"), calls.get("final"), renewed, by, why))
    return sorted(found, key=lambda r: (r.renews_at_us, r.ref))


def _ends(book: Book, frame: Frame) -> Iterator[int]:
    ends = {m.value for m in book.dues if _in_force(book.dues, m.value) == m.value}
    named = {m.position: m.value for m in book.called_for}
    ends |= {named[m.position] for m in book.calls if _VOICE[m.kind] == "final" and m.position in named}
    opening = _in_force(book.dues, frame.start_us)
    ends |= set() if opening is None else {opening}
    return (at for at in ends if frame.start_us <= at < frame.end_us)


def _calls(book: Book, end_us: int) -> dict[str, str]:
    """The newest call of each voice about this end; a forecast counts only if it was made before it."""
    about = {m.position for m in book.called_for if m.value == end_us}
    newest: dict[str, str] = {}
    for m in book.calls:
        voice = _VOICE[m.kind]
        if m.position in about and (voice == "final" or m.at_us < end_us):
            newest[voice] = m.value
    return newest


def _outcome(book: Book, end_us: int, frame: Frame, final: str | None) -> tuple[bool | None, str | None, str]:
    billed = any(s[0] < end_us and s[3] in ("billed", "paused") for statements in book.statements.values() for s in statements)
    later = end_us + GRACE_DAYS * DAY_US
    if book.forgotten:
        return None, None, "terms older than ten years"
    if billed and not book.at(end_us + 1).running and not book.at(min(later, frame.as_of_us + 1)).running:
        return False, "billing", ""
    if billed and later <= frame.as_of_us:
        return book.at(later).running, "billing", ""
    if final in _KEPT:
        return _KEPT[final], "final", ""
    return None, None, f"within {GRACE_DAYS} days of its end" if billed else "neither billing nor a final call says"


def renewal_rate(found: Sequence[Renewal], frame: Frame) -> Measure:
    """Contracts renewed by contracts that ended in the period."""
    settled = [r for r in found if r.renewed is not None]
    hits, n = sum(r.renewed is True for r in settled), len(settled)
    by = Counter(r.by for r in settled)
    return Measure(
        name="renewal-rate",
        value=round(hits / n, 9) if n else None,
        unit="ratio",
        population="contracts that ended in the period and are settled",
        n=n,
        numerator=hits,
        denominator=n,
        excluded=dict(Counter(r.why for r in found if r.renewed is None)),
        interval=wilson(hits, n),
        frame=frame,
        note=", ".join(f"{count} by {'billing' if who == 'billing' else 'the final call'}" for who, count in sorted(by.items(), key=str)),
    )


def hit_rates(found: Sequence[Renewal], frame: Frame) -> list[Measure]:
    """Of each voice: how often it was right about kept or lost, where it called at all. `unsure` is no call; the final call is held against billing only."""
    made = []
    for voice in VOICES:
        hits = n = 0
        excluded = Counter[str]()
        for r in found:
            call = getattr(r, voice)
            if r.renewed is None:
                excluded[r.why] += 1
            elif call is None:
                excluded["no call"] += 1
            elif call == "unsure":
                excluded["unsure"] += 1
            elif voice == "final" and r.by != "billing":
                excluded["billing does not say"] += 1
            else:
                n += 1
                hits += _KEPT[call] is r.renewed
        made.append(
            Measure(
                name=f"call-hits-{voice}",
                value=round(hits / n, 9) if n else None,
                unit="ratio",
                population="settled contract ends that it called kept or lost",
                n=n,
                numerator=hits,
                denominator=n,
                excluded=dict(excluded),
                interval=wilson(hits, n),
                frame=frame,
            )
        )
    return made
