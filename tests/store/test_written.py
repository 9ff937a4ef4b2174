"""What was just written, read again without decoding, is what decoding gives."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aggregates.strategies import START, START_US, STREAM, customer_events

from postsale.access import FileVault
from postsale.aggregates.decisions import ConsentGiven
from postsale.events import Event, ManualClock, StoredEvent, decode, derive_id
from postsale.store import MemoryStore, Query
from postsale.store.log import Cause, Draft, Log
from postsale.store.written import Written

EVENTS = st.lists(customer_events, min_size=1, max_size=4)


def wrote(events: list[Any]) -> tuple[Written, list[StoredEvent]]:
    clock = ManualClock(START)
    log = Log(MemoryStore(clock=clock), FileVault.in_memory(), clock)
    drafts = [Draft(event, derive_id("written", no), START_US, Cause()) for no, event in enumerate(events)]
    made, written = log.decisions(STREAM, 0, drafts), Written()
    log.append(made)
    for event, new in zip(events, made, strict=True):
        written.keep(event, new)
    return written, list(log.store.read(Query(tenant=STREAM.tenant)))


@settings(max_examples=150)
@given(EVENTS)
def test_an_event_of_any_kind_is_what_its_bytes_say_with_personal_fields_masked(events: list[Event]) -> None:
    written, stored = wrote(events)
    for event in stored:
        assert written.read(event) == decode(event).data


def test_what_is_stored_under_a_known_id_with_other_bytes_is_decoded() -> None:
    written, (stored,) = wrote([ConsentGiven(channel="email", purpose="service", evidence="asked")])
    other = stored._replace(data=stored.data.replace(b"email", b"phone"))
    assert other != stored
    assert written.read(other) == decode(other).data
    assert written.read(stored) == decode(stored).data
    renamed = stored._replace(wire_name="consent/withdrawn@1")
    assert written.read(renamed) == decode(renamed).data


def test_only_the_newest_are_kept_and_the_others_are_decoded() -> None:
    events: list[Any] = [ConsentGiven(channel=f"c{no}", purpose="service", evidence="asked") for no in range(600)]
    written, stored = wrote(events)
    assert [written.read(event) for event in stored] == events
    assert written.read(stored[-1]) is events[-1]
    assert written.read(stored[0]) is not events[0]
