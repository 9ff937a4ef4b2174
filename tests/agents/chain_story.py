"""The whole chain as a story that any engine is told: fact, triggers, evidence, a planner's answer, decisions, an edit, an escalation, a
delegate's and a second person's yes, claims, tools, callbacks, outcomes, an undo.

Each chapter does what people and sources would do again after a crash, and nothing that is done; between chapters the engine comes to rest
and time passes, so that whatever was killed is tried again, and decisions have the same times however often that happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from postsale.access import Person
from postsale.agents import Policy
from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed
from postsale.app import PostSale, Tenant
from postsale.errors import ApprovalRefused
from postsale.events import from_us
from postsale.projections.journal import Entry
from postsale.store import Leases
from postsale.testing.engine_site import TENANT, Site
from postsale.testing.engine_stage import Stage
from tests.agents.killed_chain import BEN, CARA, DORA, EMIL, LADDER, SAVER, opened, prepare, take_back
from tests.agents.killed_shop import ServerWithShop
from tests.agents.world import ANNA

CUSTOMERS: Final = 1
REST_MINUTES: Final = 10  # longer than a killed process's claim of an effect, or its question to a planner, is waited for


class ChainSite(Site):
    """A site with the agents and the tools of the chain."""

    def open(self, step: Callable[[], None] = lambda: None) -> PostSale:
        url = "" if self.url.startswith("sqlite") else self.url
        refs = (f"c{n}" for n in range(1, CUSTOMERS + 1))
        ps = opened(Path(self.folder), self.tools, url, self.schema, step, new_ref=lambda: next(refs))
        ps.leases = Leases(ps.log.store.kv, self.lease_clock)
        return ps


# ---------------------------------------------------------------- chapters


def _entries(ps: PostSale) -> Iterator[Entry]:
    for n in range(CUSTOMERS):
        yield from ps.tenant(TENANT).decisions(f"cus_{n}")


def _of(ps: PostSale, agent: str, disposition: str) -> list[Entry]:
    return [e for e in _entries(ps) if (e.recorded.agent, e.disposition) == (agent, disposition)]


def _yes(ps: PostSale, agent: str, by: Person) -> None:
    for entry in _of(ps, agent, "awaiting"):
        with suppress(ApprovalRefused):
            ps.tenant(TENANT).approve(entry.id, reason="fine", by=by)


def fails(ps: PostSale) -> None:
    for n in range(CUSTOMERS):
        at = from_us(ps.clock.now_us())
        fact = {"source": "s", "id": f"f{n}", "occurred_at": at, "amount_minor": 4900, "currency": "EUR"}
        ps.tenant(TENANT).record(f"cus_{n}", InvoicePaymentFailed(**fact))


def is_lessened(ps: PostSale) -> None:
    for entry in _of(ps, "dunning", "awaiting"):
        if "edit.replaces" not in (entry.recorded.flags or {}):
            ps.tenant(TENANT).edit(entry.id, amount_minor=3_000, reason="less will do", by=BEN)


def is_passed_on(ps: PostSale) -> None:
    acme: Tenant = ps.tenant(TENANT)
    for entry in _of(ps, "dunning", "awaiting"):
        asked = ps.log.customer(ps.decision_stream(acme.name, entry.id)).decisions[entry.id].asked
        if asked is not None and asked.level == 0:
            acme.escalate(entry.id, reason="too much for me", by=CARA)


def the_delegate_agrees(ps: PostSale) -> None:
    _yes(ps, "dunning", EMIL)


def the_second_person_agrees(ps: PostSale) -> None:
    _yes(ps, "dunning", DORA)


def the_planned_one_is_agreed_to(ps: PostSale) -> None:
    _yes(ps, "saver", ANNA)


def they_pay(ps: PostSale) -> None:
    at = from_us(ps.clock.now_us())
    for entry in _entries(ps):
        for key, status in entry.effects.items():
            if status == "succeeded":
                paid = {"source": "shop", "id": f"paid-{key}", "occurred_at": at, "amount_minor": 4900, "currency": "EUR"}
                ps.tenant(TENANT).returned(key, InvoicePaid(**paid))


def it_is_taken_back(ps: PostSale) -> None:
    take_back(ps.tenant(TENANT), Policy.from_toml(LADDER).digest)


def the_planned_one_is_taken_back(ps: PostSale) -> None:
    take_back(ps.tenant(TENANT), SAVER.digest)


CHAPTERS: Final[dict[str, Callable[[PostSale], None]]] = {
    f.__name__: f
    for f in (
        fails,
        is_lessened,
        is_passed_on,
        the_delegate_agrees,
        the_second_person_agrees,
        the_planned_one_is_agreed_to,
        they_pay,
        it_is_taken_back,
        the_planned_one_is_taken_back,
    )
}
AGAIN: Final = ("it_is_taken_back", "the_planned_one_is_taken_back")  # once more at the end: what was killed under way is finished


# ---------------------------------------------------------------- telling

Teller = Callable[[str], None]
"""Has a chapter happen at the clock's time, whoever does it and dies of it."""


class ChainStage(Stage):
    """A stage for the chain; `tell` tells it to its end."""

    server: ServerWithShop

    @classmethod
    @contextmanager
    def at(cls, folder: Path, driven: Callable[[Site], Any], **place: str) -> Iterator[Self]:
        with ServerWithShop() as server:
            site = ChainSite.make(folder, server.url, **place)
            with site.open() as ps, driven(site) as drive:
                prepare(ps, CUSTOMERS)
                stage = cls(ps, site, server, drive)
                stage.attempts = False
                yield stage

    def tell(self, teller: Teller | None = None) -> None:
        for chapter in (*CHAPTERS, *AGAIN):
            if teller is None:
                CHAPTERS[chapter](self.ps)
            else:
                teller(chapter)
            self.settle()
            self.wait(minutes=REST_MINUTES)

    @property
    def asked_again(self) -> bool:
        """Whether a planner was asked a second time because who asked was killed: then the decision is a later one."""
        return self.kinds("cus_0").count("agent/plan-requested") > 1
