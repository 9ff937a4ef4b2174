"""The typed door: sealing and digests on the way in, customers on the way out, and decisions that are taken again after a race."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from postsale.access import FileVault, Unsealer
from postsale.aggregates import commands
from postsale.aggregates.anomalies import ANOMALIES, ClockWentBack
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import ConsentGiven
from postsale.aggregates.identity import customer_stream
from postsale.aggregates.signals import InvoicePaid, SurveyAnswered
from postsale.errors import ConditionFailed, ContentConflict, InvalidInput, KeyUnavailable, VersionConflict
from postsale.events import MASKED, Actor, Event, ManualClock, Origin, StreamId, derive_id
from postsale.store import MemoryStore, NoneSince, Query, SQLiteStore
from postsale.store.log import Cause, Draft, Log

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
HERE = customer_stream("acme", "c1")
SOURCE = Cause(actor=Actor("source", "test"))


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    clock = ManualClock(NOON)
    store = MemoryStore(clock=clock) if request.param == "memory" else SQLiteStore(tmp_path / "log.db", clock=clock)
    with closing(store), closing(FileVault.in_memory()) as vault:
        yield Log(store, vault, clock)


def paid(id: str = "1", **more: Any) -> InvoicePaid:
    return InvoicePaid(**{"source": "s", "id": id, "occurred_at": NOON, "amount_minor": 1, "currency": "EUR"} | more)


def fact(log: Log, signal: Any, stream: StreamId = HERE, said_of: str = "c1", **more: Any) -> Any:
    return log.fact(stream, signal, **{"said_of": said_of, "subject": stream.id, "cause": SOURCE} | more)


def consent(channel: str) -> Any:
    return lambda c: commands.give_consent(c, channel, "service", "form")


# ---------------------------------------------------------------- facts


def test_the_id_of_a_fact_comes_from_tenant_source_id_and_index_alone(log: Log) -> None:
    """Other content, customer or time: the same id. Another tenant, source, id or index: another one."""
    base = fact(log, paid()).event_id
    same = [fact(log, paid(amount_minor=2)), fact(log, paid(), customer_stream("acme", "c2")), fact(log, paid(), said_of="other")]
    assert {e.event_id for e in same} == {base}
    others = [
        fact(log, paid("2")),
        fact(log, paid(source="t")),
        fact(log, paid(), index=1),
        fact(log, paid(), customer_stream("other", "c1")),
    ]
    assert len({base, *(e.event_id for e in others)}) == 5


def test_content_is_compared_by_the_signal_and_whom_it_was_said_of_or_by_the_source_item(log: Log) -> None:
    """Without an item: every field, its time and the id it came under. With an item: the item alone."""
    base = fact(log, paid()).content_mac
    assert fact(log, paid(), customer_stream("acme", "c2")).content_mac == base  # the stream is ours, not the source's
    for other in (
        fact(log, paid(amount_minor=2)),
        fact(log, paid(occurred_at=NOON + timedelta(microseconds=1))),
        fact(log, paid(), said_of="c2"),
        fact(log, paid(invoice_id="i")),
    ):
        assert other.content_mac != base
    by_item = fact(log, paid(), source_item=b"row")
    assert fact(log, paid(amount_minor=9), said_of="x", source_item=b"row").content_mac == by_item.content_mac
    assert fact(log, paid(), source_item=b"row 2").content_mac != by_item.content_mac


def test_content_digests_are_keyed(log: Log) -> None:
    """The same fact in another log has another digest and id: neither can be guessed from outside."""
    with closing(FileVault.in_memory()) as vault:
        other = Log(log.store, vault, log.clock)
        assert fact(other, paid()).content_mac != fact(log, paid()).content_mac
        assert fact(other, paid()).event_id != fact(log, paid()).event_id


def test_personal_fields_are_sealed_and_only_those(log: Log) -> None:
    signal = SurveyAnswered(source="s", id="1", occurred_at=NOON, survey="nps", score=3, comment="canary")
    new = fact(log, signal)
    assert b"canary" not in new.data + new.header
    assert b'"score":3' in new.data
    log.append([new])
    (masked,) = log.events(Query())
    assert isinstance(masked.data, SurveyAnswered)
    assert masked.data.comment is MASKED
    (clear,) = log.events(Query(), Unsealer(log.vault))
    assert clear.data == signal
    assert clear.header.sealed.keys() == {"comment"}


def test_a_fact_without_its_personal_field_needs_no_key(log: Log) -> None:
    """An absent field is not sealed: nothing says later whether there was one."""
    log.vault.destroy("acme", "c1")
    log.append([fact(log, SurveyAnswered(source="s", id="1", occurred_at=NOON, survey="nps", score=3))])
    with pytest.raises(KeyUnavailable):
        fact(log, SurveyAnswered(source="s", id="2", occurred_at=NOON, survey="nps", score=3, comment="x"))


def test_the_envelope_says_where_a_fact_came_from(log: Log) -> None:
    """Source, order, claimed time, cause and origin are kept beside the data, never in it."""
    cause_id = derive_id("cause")
    cause = Cause(actor=Actor("source", "csv"), origin=Origin.IMPORT, causation_id=cause_id, correlation_id=cause_id, depth=2, trace="t")
    signal = paid(order="007", available_at=NOON + timedelta(hours=1))
    log.append([fact(log, signal, cause=cause, raw=b"raw bytes")])
    (e,) = log.events(Query())
    h = e.header
    assert (h.source, h.source_id, h.source_order, h.origin, h.depth, h.trace) == ("s", "1", "007", Origin.IMPORT, 2, "t")
    assert (h.causation_id, h.correlation_id, h.actor) == (cause_id, cause_id, cause.actor)
    assert h.available_at_us == int((NOON + timedelta(hours=1)).timestamp()) * 1_000_000
    assert h.raw_mac
    assert b"raw bytes" not in e.stored.data + e.stored.header
    assert b"occurred_at" not in e.stored.data


# ---------------------------------------------------------------- transact


def test_transact_appends_what_was_decided_and_returns_it(log: Log) -> None:
    (done,) = log.transact(HERE, consent("email"), cause=SOURCE)
    assert isinstance(done.data, ConsentGiven)
    assert (done.stored.version, done.header.actor) == (1, SOURCE.actor)
    assert log.transact(HERE, consent("email"), cause=SOURCE) == []
    assert log.store.head() == 1


def test_transact_returns_only_its_own_events(log: Log) -> None:
    """Not those of other streams that were stored in between, nor earlier ones of its own."""
    log.transact(HERE, consent("a"), cause=SOURCE)
    log.append([fact(log, paid())])
    both: Any = lambda c: (*consent("b")(c), *consent("c")(c))  # noqa: E731
    assert [e.data.channel for e in log.transact(HERE, both, cause=SOURCE)] == ["b", "c"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("meanwhile", ["another kind", "the same kind", "the same event"])
def test_who_loses_a_race_decides_again_on_the_new_state(log: Log, meanwhile: str) -> None:
    """Whatever the other writer stored first under the version that was read, an event with the same id included."""
    rounds: list[int] = []

    def decide(c: CustomerAggregate) -> tuple[Event, ...]:
        rounds.append(c.version)
        if len(rounds) == 1:
            rule = {
                "another kind": lambda c: commands.withdraw_consent(c, "phone", "service", "call"),
                "the same kind": consent("phone"),
                "the same event": consent("email"),
            }[meanwhile]
            log.transact(HERE, rule, cause=SOURCE)
        return commands.give_consent(c, "email", "service", "form")

    done = log.transact(HERE, decide, cause=SOURCE)
    assert log.customer(HERE).may_contact("email", "service")
    if meanwhile == "the same event":
        assert log.customer(HERE).version == 1  # it is the same event: stored once
    else:
        assert rounds == [0, 1]
        assert [e.stored.version for e in done] == [2]


def test_a_race_that_is_always_lost_ends_with_the_conflict(log: Log) -> None:
    number = iter(range(1_000))

    def decide(c: CustomerAggregate) -> tuple[Event, ...]:
        log.transact(HERE, consent(f"channel-{next(number)}"), cause=SOURCE)
        return commands.withdraw_consent(c, "email", "service", "r")

    with pytest.raises((VersionConflict, ContentConflict)):
        log.transact(HERE, decide, cause=SOURCE)
    assert not log.customer(HERE).consents.get(("email", "service"), False)


def test_what_decide_raises_and_what_a_condition_says_comes_through(log: Log) -> None:
    def refuse(_: CustomerAggregate) -> tuple[Event, ...]:
        raise InvalidInput(what="test", field="x", reason="no")

    with pytest.raises(InvalidInput):
        log.transact(HERE, refuse, cause=SOURCE)
    log.append([fact(log, paid())])
    since = NoneSince((HERE,), frozenset({"billing/invoice-paid"}), 0)
    with pytest.raises(ConditionFailed):
        log.transact(HERE, consent("email"), cause=SOURCE, conditions=[since])
    assert log.store.head() == 1


# ---------------------------------------------------------------- customers


def joined(log: Log, other: StreamId, at: datetime = NOON) -> None:
    from postsale.aggregates.identity import StreamJoined

    version = log.customer(HERE).version
    event = StreamJoined(category=other.category, id=other.id, why="merge")
    at_us = int(at.timestamp()) * 1_000_000
    log.append([log.decision(HERE, version, Draft(event, derive_id("join", other, version), at_us, SOURCE))])


def test_a_customer_is_the_fold_of_all_its_streams_by_position(log: Log) -> None:
    """The newest payload of a kind wins across streams; decisions of joined customers are not its own."""
    other = customer_stream("acme", "c2")
    log.append([fact(log, paid("1", occurred_at=NOON - timedelta(days=2)))])
    log.append([fact(log, paid("2", amount_minor=7), other)])
    log.transact(other, consent("email"), cause=SOURCE)
    joined(log, other)
    log.append([fact(log, paid("3", occurred_at=NOON - timedelta(days=1)))])
    c = log.customer(HERE)
    assert c.facts["billing/invoice-paid"].count == 3
    assert c.latest("billing/invoice-paid", "amount_minor") == 7
    assert not c.may_contact("email", "service")
    assert (c.position, c.version) == (5, 1)


def test_who_is_who_counts_for_every_as_of_but_not_before_it_was_known(log: Log) -> None:
    other = customer_stream("acme", "c2")
    log.append([fact(log, paid("1", occurred_at=NOON - timedelta(days=9)), other)])
    before = log.clock.now_us()
    assert isinstance(log.clock, ManualClock)
    log.clock.advance(timedelta(days=1))
    joined(log, other, NOON + timedelta(days=1))
    day = 86_400_000_000
    assert log.customer(HERE, as_of_us=before - 5 * day).facts["billing/invoice-paid"].count == 1
    assert log.customer(HERE, as_of_us=before - 10 * day).facts == {}
    assert log.customer(HERE, known_at_us=before).facts == {}


def test_a_customer_nobody_wrote_about_is_empty(log: Log) -> None:
    assert log.customer(HERE) == CustomerAggregate(stream=HERE)


def test_a_clock_that_went_back_a_day_is_recorded_once_an_hour_and_order_is_by_position(log: Log) -> None:
    clock = log.clock
    assert isinstance(clock, ManualClock)
    log.append([log.fact(HERE, paid("1"), said_of="c1", subject="c1", cause=SOURCE)])
    clock.advance(timedelta(milliseconds=-900))
    log.append([log.fact(HERE, paid("2"), said_of="c1", subject="c1", cause=SOURCE)])
    assert log.store.versions([ANOMALIES]) == [0]  # as clocks of several machines differ
    clock.advance(timedelta(days=-1))
    for n in range(3, 6):
        log.append([log.fact(HERE, paid(str(n)), said_of="c1", subject="c1", cause=SOURCE)])
        again = Log(log.store, log.vault, clock)  # another process
        again.append([again.fact(HERE, paid(f"{n} again"), said_of="c1", subject="c1", cause=SOURCE)])
    (noticed,) = log.events(Query(streams=(ANOMALIES,)))
    assert noticed.data == ClockWentBack(behind_us=86_400_900_002)
    clock.advance(timedelta(hours=1))
    log.append([log.fact(HERE, paid("later"), said_of="c1", subject="c1", cause=SOURCE)])
    assert log.store.versions([ANOMALIES]) == [2]
    assert [event.recorded_at_us for event in log.store.read(Query())] == sorted(
        {event.recorded_at_us for event in log.store.read(Query())}
    )
    clock.advance(timedelta(days=2))
    log.append([log.fact(HERE, paid("caught up"), said_of="c1", subject="c1", cause=SOURCE)])
    assert log.store.versions([ANOMALIES]) == [2]
