"""The bytes that go into a log are for ever: here they are, for fixed keys and inputs. A faster encoder must write the same.

The values were taken from the first release that wrote them. If one of these fails, mend the code; never the value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from postsale.access import SubjectKey, TenantKeys
from postsale.aggregates.decisions import ConsentGiven
from postsale.aggregates.identity import customer_stream
from postsale.aggregates.signals import InvoicePaid, Signal, SurveyAnswered, UsageObserved
from postsale.errors import InvalidInput
from postsale.events import Actor, Header, ManualClock, Origin, encode_payload, iso, to_us
from postsale.store import MemoryStore, Submission
from postsale.store.log import Cause, Draft, Log
from postsale.store.plan import Known, mentions, plan

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
HERE = customer_stream("acme", "c1")
KEYS = TenantKeys("0123456789abcdef", b"c" * 32, b"b" * 32, b"d" * 32)


class FixedKeys:
    """As much of a vault as writing needs, with keys that are known beforehand."""

    def tenant(self, tenant: str) -> TenantKeys:
        return KEYS

    def subjects(self, tenant: str, refs: Iterable[str], *, create: bool) -> Mapping[str, SubjectKey]:
        return {ref: SubjectKey("5ea1", b"s" * 32) for ref in refs}


def a_log() -> Log:
    return Log(MemoryStore(), FixedKeys(), ManualClock(NOON))


class Grade(Enum):
    GOOD = "good"


class Part(BaseModel):
    zeta: int = 1
    alpha: str | None = None


class Rich(Signal):
    """Fields of every shape that JSON has."""

    wire_name: ClassVar[str] = "tests.bytes/rich@1"
    zulu: float = 0.1
    text: str = ""
    part: Part = Part()
    parts: tuple[Part, ...] = ()
    grade: Grade = Grade.GOOD
    at: datetime | None = None
    loose: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    flag: bool = False


LINK = UUID("12345678-1234-8234-9234-123456789abc")
FACTS: dict[str, tuple[Signal, dict[str, Any]]] = {
    "plain": (
        InvoicePaid(source="stripe", id="in_1", occurred_at=NOON, amount_minor=4900, currency="EUR"),
        {"said_of": "stripe\x00c1", "subject": "c1", "cause": Cause(actor=Actor("source", "stripe"))},
    ),
    "imported": (
        InvoicePaid(
            source="stripe",
            id="in_2",
            occurred_at=NOON + timedelta(microseconds=7),
            available_at=NOON + timedelta(days=1, microseconds=1),
            order="0007",
            contact="con_1",
            amount_minor=0,
            currency="JPY",
            invoice_id="in_2",
            items=3,
        ),
        {
            "said_of": "x",
            "subject": "9f",
            "index": 2,
            "raw": b'{"id":"in_2"}',
            "source_item": b"row 2",
            "cause": Cause(
                actor=Actor("source", "csv"),
                origin=Origin.IMPORT,
                causation_id=LINK,
                correlation_id=LINK,
                depth=3,
                trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
        },
    ),
    "unicode": (
        UsageObserved(source="produkt", id='ü"\\é', occurred_at=NOON.astimezone(timezone(timedelta(hours=2))), feature="größe", count=7),
        {"said_of": "produkt\x00größe", "subject": 'c"ü', "cause": Cause()},
    ),
    "at 1970": (
        UsageObserved(source="s", id="1", occurred_at=datetime(1970, 1, 1, tzinfo=UTC), available_at=datetime(1970, 1, 1, tzinfo=UTC), feature="f"),
        {"said_of": "", "subject": "c1", "cause": Cause(), "raw": b""},
    ),
    "before 1970": (
        UsageObserved(source="s", id="1", occurred_at=datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), feature="f", errors=1),
        {"said_of": "", "subject": "c1", "cause": Cause()},
    ),
    "rich": (
        Rich(
            source="s",
            id="1",
            occurred_at=NOON,
            zulu=1e22,
            text="\x7f\u2028é😀",
            part=Part(alpha="a"),
            parts=(Part(), Part(zeta=2)),
            at=NOON + timedelta(milliseconds=1),
            loose={"b": [1, None, 1.5], "a": {"z": True, "y": None}},
            flag=True,
        ),
        {"said_of": "s", "subject": "c1", "cause": Cause()},
    ),
}  # fmt: skip

GOLDEN: dict[str, tuple[str, str, str, str]] = {
    "plain": (
        "33cc8287faba8e93840b85f5076d38d3",
        "18ef51416e5a18ef7379bcd4872851b2",
        '{"actor":["source","stripe"],"content_key":"0123456789abcdef","origin":"live","source":"stripe","source_id":"in_1","subjects":["c1"],"v":1}',
        '{"amount_minor":4900,"currency":"EUR"}',
    ),
    "imported": (
        "4228eecf73ed873986385bee3d7b666c",
        "9b40bff10ef68348542440d2cd58b6c4",
        '{"actor":["source","csv"],"available_at_us":1772539200000001,"causation_id":"12345678-1234-8234-9234-123456789abc","content_key":"0123456789abcdef","correlation_id":"12345678-1234-8234-9234-123456789abc","depth":3,"origin":"import","raw_mac":"a131862d1d01ff4fa21682c64f924aed","signal_index":2,"source":"stripe","source_id":"in_2","source_order":"0007","subjects":["9f"],"trace":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","v":1}',
        '{"amount_minor":0,"currency":"JPY","invoice_id":"in_2","items":3}',
    ),
    "unicode": (
        "819fd2a4ec2584c09960be15d9cc4cde",
        "0d50effdd60a5777bde7c968963f4613",
        '{"actor":["system","postsale"],"content_key":"0123456789abcdef","origin":"live","source":"produkt","source_id":"ü\\"\\\\é","subjects":["c\\"ü"],"v":1}',
        '{"count":7,"errors":0,"feature":"größe"}',
    ),
    "at 1970": (
        "c495526aa6e281d3b97c5e5a553f0ede",
        "6bb9c0294da9253d29fb851255d1812e",
        '{"actor":["system","postsale"],"available_at_us":0,"content_key":"0123456789abcdef","origin":"live","raw_mac":"ded892603e43beaa3a41cd86e7f480e3","source":"s","source_id":"1","subjects":["c1"],"v":1}',
        '{"count":1,"errors":0,"feature":"f"}',
    ),
    "before 1970": (
        "c495526aa6e281d3b97c5e5a553f0ede",
        "f569b320090a60e3b39852d9317f3577",
        '{"actor":["system","postsale"],"content_key":"0123456789abcdef","origin":"live","source":"s","source_id":"1","subjects":["c1"],"v":1}',
        '{"count":1,"errors":1,"feature":"f"}',
    ),
    "rich": (
        "c495526aa6e281d3b97c5e5a553f0ede",
        "82c3593937b27265c0da6cae852e9418",
        '{"actor":["system","postsale"],"content_key":"0123456789abcdef","origin":"live","source":"s","source_id":"1","subjects":["c1"],"v":1}',
        '{"at":"2026-03-02T12:00:00.001000Z","flag":true,"grade":"good","loose":{"a":{"y":null,"z":true},"b":[1,null,1.5]},"part":{"alpha":"a","zeta":1},"parts":[{"zeta":1},{"zeta":2}],"text":"\x7f\u2028é😀","zulu":1e+22}',
    ),
}  # event id, content_mac, header, data


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_has_exactly_these_bytes(name: str) -> None:
    signal, how = FACTS[name]
    new = a_log().fact(HERE, signal, **how)
    assert (new.event_id.hex, new.content_mac.hex(), new.header.decode(), new.data.decode()) == GOLDEN[name]
    assert new.occurred_at_us == to_us(signal.occurred_at)


def test_a_sealed_fact_has_exactly_these_bytes_around_its_ciphertext() -> None:
    signal = SurveyAnswered(source="s", id="1", occurred_at=NOON, survey="nps", score=3, comment="canary")
    new = a_log().fact(HERE, signal, said_of="c1", subject="c1", cause=Cause())
    assert new.event_id.hex == "c495526aa6e281d3b97c5e5a553f0ede"
    assert new.content_mac.hex() == "39b46d343ec440cb7e6ba0cb44d54c6a"
    header = b'{"actor":["system","postsale"],"content_key":"0123456789abcdef","origin":"live","sealed":{"comment":["c1","5ea1"]},"source":"s","source_id":"1","subjects":["c1"],"v":1}'
    assert new.header == header
    start, end = b'{"comment":{"$sealed":"1.', b'"},"higher_is_better":true,"scale_max":10,"scale_min":0,"score":3,"survey":"nps"}'
    assert (new.data[: len(start)], new.data[-len(end) :]) == (start, end)


def test_a_decision_has_exactly_these_bytes() -> None:
    event = ConsentGiven(channel="email", purpose="service", evidence="form 7")
    new = a_log().decision(HERE, 4, Draft(event, LINK, 5, Cause(actor=Actor("person", "ann"), depth=1), "c1"))
    assert new.content_mac.hex() == "08705601634d8f681b629ec32057851f"
    assert new.header == b'{"actor":["person","ann"],"content_key":"0123456789abcdef","depth":1,"origin":"live","subjects":["c1"],"v":1}'
    assert new.data == b'{"channel":"email","evidence":"form 7","purpose":"service"}'


def test_a_leaf_is_exactly_this() -> None:
    signal, how = FACTS["plain"]
    submissions = [Submission((a_log().fact(HERE, signal, **how)._replace(schema=b"0123456789abcdef"),))]
    known = Known(position=6, recorded_at_us=9, leaf_counts={"acme": 3}, versions={}, ids={}, breaches={}, tokens={})
    planned = plan(submissions, mentions(submissions), known, now_us=5, salts=bytes(range(16)), limit_bytes=10_000)
    (row,) = planned.rows
    assert (row.position, row.version, row.recorded_at_us, row.leaf_index, row.salt) == (7, 7, 10, 3, bytes(range(16)))
    assert row.leaf.hex() == "208c6f9803c03e8e399846dbafce5c6986fabf3ce182d0160ee72e521f8187eb"


# ---------------------------------------------------------------- the same for any input, by the textbook


def mac(key: bytes, *parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(len(part).to_bytes(8, "big") + part for part in parts), key=key, digest_size=16).digest()


def is_id(text: str) -> bool:
    try:
        UsageObserved(source=text, id="1", occurred_at=NOON, feature="f")
    except InvalidInput:
        return False
    return True


ids = st.text(st.characters(exclude_categories=["C", "Z"], include_characters='"\\/'), min_size=1, max_size=8).filter(is_id)
moments = st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1), timezones=st.just(UTC))
causes = st.builds(
    Cause,
    actor=st.builds(Actor, ids, ids),
    causation_id=st.none() | st.uuids(),
    correlation_id=st.none() | st.uuids(),
    depth=st.integers(0, 5),
    trace=st.just("") | ids,
    origin=st.sampled_from(Origin),
)
LOG = a_log()  # one for all examples, so that what it remembers of one cannot change the next


@given(
    cause=causes,
    sources=st.lists(ids, min_size=1, max_size=2),
    source_id=ids,
    at=moments,
    available=st.none() | moments,
    order=st.none() | ids,
    subject=st.text(max_size=5),
    said_of=st.text(max_size=5),
    index=st.integers(0, 2**32 - 1),
    item=st.none() | st.binary(max_size=5),
    raw=st.none() | st.binary(max_size=5),
    comment=st.none() | st.just("sealed"),
)
def test_a_fact_is_what_the_textbook_says_for_any_input(
    cause: Cause,
    sources: list[str],
    source_id: str,
    at: datetime,
    available: datetime | None,
    order: str | None,
    subject: str,
    said_of: str,
    index: int,
    item: bytes | None,
    raw: bytes | None,
    comment: str | None,
) -> None:
    for source in sources:
        signal = SurveyAnswered(
            source=source, id=source_id, occurred_at=at, available_at=available, order=order, survey="nps", score=3, comment=comment
        )
        new = LOG.fact(HERE, signal, said_of=said_of, subject=subject, cause=cause, index=index, source_item=item, raw=raw)
        header = Header(
            actor=cause.actor,
            origin=cause.origin,
            source=source,
            source_id=source_id,
            signal_index=index,
            source_order=order or "",
            available_at_us=None if available is None else to_us(available),
            raw_mac="" if raw is None else mac(KEYS.content, raw).hex(),
            content_key=KEYS.id,
            causation_id=cause.causation_id,
            correlation_id=cause.correlation_id,
            depth=cause.depth,
            trace=cause.trace,
            subjects=(subject,),
            sealed={"comment": (subject, "5ea1")} if comment else {},
        )
        assert new.header == header.to_bytes()
        clear = encode_payload(signal)
        parts = (signal.wire_name.encode(), iso(to_us(at)).encode(), said_of.encode(), clear) if item is None else (item,)
        assert new.content_mac == mac(KEYS.content, *parts)
        id_ = bytearray(mac(KEYS.dedup, source.encode(), source_id.encode(), index.to_bytes(4, "big")))
        id_[6], id_[8] = id_[6] & 0x0F | 0x80, id_[8] & 0x3F | 0x80  # RFC 9562: version 8, variant
        assert (type(new.event_id), new.event_id) == (UUID, UUID(bytes=bytes(id_)))
        assert (new.event_id.version, new.occurred_at_us) == (8, to_us(at))
        if comment is None:
            assert new.data == clear
