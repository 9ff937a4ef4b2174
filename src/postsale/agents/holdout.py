"""Hold-outs: customers whom agents leave alone, drawn at random, so that what agents change can be told from what would have come anyway.

The draw is a digest of the hold-out's name and the customer's random reference: the same whenever and by whomever it is asked for, and no
two names agree but by chance. Pure; imports the tables, aggregates and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import Field

from postsale.agents.tables import Name, Table
from postsale.aggregates.decisions import Scalar, Verdict

_PPM = 1_000_000


class Holdout(Table):
    """Who is left alone. Policies that name the same one leave the same customers alone; another name draws anew."""

    name: Name
    percent: Annotated[int, Field(ge=1, le=99)]  # of customers


class Drawn(NamedTuple):
    """One customer's number in a hold-out, and the share below which it is held out, in parts per million."""

    name: str
    held_out_ppm: int
    draw_ppm: int

    @property
    def held(self) -> bool:
        return self.draw_ppm < self.held_out_ppm

    @property
    def verdict(self) -> Verdict:
        """Passed where the customer is not held out."""
        share = f"{self.held_out_ppm // 10_000} %"
        reason = f"left alone, with {share} of all customers, so that effects can be told" if self.held else "not held out"
        return Verdict(guardrail="holdout", rule=f"holdout:{self.name}", passed=not self.held, reason=reason)

    def scalars(self) -> dict[str, Scalar]:
        """As a decision records it, in its context; `drawn_of` is the inverse."""
        return {"holdout": self.name, "held_out_ppm": self.held_out_ppm, "draw_ppm": self.draw_ppm}


def draw(holdout: Holdout | None, customer: str) -> Drawn | None:
    """A customer's number, by its random reference; None without a hold-out."""
    if holdout is None:
        return None
    digest = hashlib.blake2b(f"{holdout.name}\x1f{customer}".encode(), digest_size=8).digest()
    return Drawn(holdout.name, holdout.percent * 10_000, int.from_bytes(digest, "big") * _PPM >> 64)


def drawn_of(context: Mapping[str, Scalar]) -> Drawn | None:
    """What a decision recorded; None where it was made without a hold-out."""
    name, share, number = (context.get(key) for key in ("holdout", "held_out_ppm", "draw_ppm"))
    return Drawn(name, share, number) if isinstance(name, str) and type(share) is int and type(number) is int else None
