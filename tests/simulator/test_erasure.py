"""People who ask to be forgotten in the middle of the story: their keys go, the story goes on, proofs hold, outcomes count what has no name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from postsale.agents import RenewalRescue
from postsale.aggregates.identity import ExternalId
from postsale.aggregates.signals import ContactProfiled, Signal
from postsale.app import PostSale, Tenant
from postsale.errors import KeyUnavailable
from postsale.events import MASKED, ManualClock, Masked
from postsale.simulator import SOURCES, TROUBLED, ConsentGivenAt, Delivery, EffectsLeft, ErasureRequestedAt, Vendor

START, DAYS = datetime(2026, 1, 5, tzinfo=UTC), 70
MODEL = TROUBLED.changed(erasures_per_year=4.0)


@dataclass
class Told:
    """What was recorded of the story, and of whom nothing may be known any more."""

    ps: PostSale
    vendor: Vendor
    contacts: set[str] = field(default_factory=set)
    refs: set[str] = field(default_factory=set)
    refused: list[tuple[Signal, Exception]] = field(default_factory=list)
    recorded: int = 0

    @property
    def acme(self) -> Tenant:
        return self.ps.tenant("acme")


def forget(ps: PostSale, contact: str) -> set[str]:
    """As a user would wire it: the person's key under every source that knows them."""
    known = ps.directory.resolve("acme", [ExternalId("contact", source, contact) for source in SOURCES])
    refs = {place.linked.ref for place in known.values() if place.linked is not None}
    for ref in refs:
        ps.log.vault.destroy("acme", ref)
    return refs


def told(seed: int, *, forgets: bool) -> Told:
    clock, vendor = ManualClock(START), Vendor(seed, customers=14, start=START, days=DAYS, model=MODEL)
    told = Told(PostSale.open("memory:", agents=[RenewalRescue()], clock=clock), vendor)
    acme, left = told.acme, EffectsLeft(told.ps, "acme")
    acme.agent("renewal-rescue").act(reason="a test")
    for day in range(DAYS):
        clock.move_to(START + timedelta(days=day + 1, hours=13))
        arrivals = vendor.day(day)
        deliveries = [a for a in arrivals if isinstance(a, Delivery)]
        report = acme.record_many((a.customer, a.signal) for a in deliveries)
        told.refused += [(deliveries[reject.index].signal, reject.error) for reject in report.rejects]
        told.recorded += report.recorded
        for a in arrivals:
            if isinstance(a, ConsentGivenAt):
                acme.consent(a.customer, a.channel, a.purpose, given=a.given, evidence="form")
            elif isinstance(a, ErasureRequestedAt) and forgets:
                told.contacts.add(a.contact)
                told.refs |= forget(told.ps, a.contact)
        if day % 10 == 9:
            told.ps.run_once()
            vendor.act(left.new())
    return told


@pytest.fixture(scope="module", params=[4])
def forgotten(request: pytest.FixtureRequest) -> Iterator[Told]:
    story = told(request.param, forgets=True)
    with story.ps:
        yield story


def test_what_the_forgotten_said_is_masked_and_everybody_elses_words_are_not(forgotten: Told) -> None:
    assert len(forgotten.contacts) >= 3
    names = {f"Person {contact}" for contact in forgotten.contacts}
    seen: dict[bool, list[object]] = {True: [], False: []}
    for name in forgotten.vendor.outcomes():
        for event in forgotten.acme.timeline(name):
            gone = bool(forgotten.refs & {*event.header.subjects})
            if (said := getattr(event.data, "name", None)) is not None:
                seen[gone].append(said)
    assert seen[True] == [MASKED] * len(seen[True]) != []
    assert not any(isinstance(said, Masked) or said in names for said in seen[False])


def test_the_story_goes_on_and_outcomes_are_the_same_without_the_names(forgotten: Told) -> None:
    """What the forgotten did without a word of theirs is a fact like any other; what bears their name is refused."""
    contact = min(forgotten.contacts)
    again = ContactProfiled(source="crm", id="again", occurred_at=START, contact=contact, name="Person again")
    with pytest.raises(KeyUnavailable):
        forgotten.acme.record(contact.partition("-")[0], again)
    whole = told(4, forgets=False)
    with whole.ps:
        assert forgotten.refused == whole.refused == []
        assert forgotten.recorded == whole.recorded
        assert [e.recorded.rule for e in forgotten.acme.decisions()] == [e.recorded.rule for e in whole.acme.decisions()]
        assert forgotten.vendor.outcomes() == whole.vendor.outcomes()
        # Outcomes read no name: what was recorded counts on.
        one, other = (t.acme.outcomes(START + timedelta(days=2), START + timedelta(days=DAYS)) for t in (forgotten, whole))
        for a, b in zip(one.measures, other.measures, strict=True):
            assert (a.name, a.value, a.n, dict(a.excluded)) == (b.name, b.value, b.n, dict(b.excluded))


def test_proofs_hold_and_decisions_are_made_again_after_people_were_forgotten(forgotten: Told) -> None:
    report = forgotten.ps.verify()
    assert (report.problems, report.events > 1_000) == ([], True)
    again = forgotten.acme.replay_many()
    assert (again.different, again.decisions > 0) == ([], True)
