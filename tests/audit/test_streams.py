"""The canonical hash: what it is over is fixed, what only one log has does not move it, and everything that was said does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from postsale.access import Unsealer
from postsale.aggregates.signals import InvoicePaymentFailed
from postsale.audit import stream_hash
from postsale.audit.streams import canonical_lines
from postsale.errors import KeyUnavailable
from postsale.events import Event, Recorded
from postsale.store import Query
from postsale.testing.engine_stage import Stage, embedded, staged

Before = Callable[[Stage], None]


def nothing(_: Stage) -> None:
    """Nothing happens."""


def told(folder: Path, before: Before = nothing, amount_minor: int = 4900) -> list[Recorded[Event]]:
    """The events of one customer with two tries of an effect, after something else has happened in the log."""
    with staged(folder, embedded) as s:
        s.begins()
        before(s)
        s.server.faults.append("500")
        at = s.now()
        s.tenant.record("a", InvoicePaymentFailed(source="s", id="1", occurred_at=at, amount_minor=amount_minor, currency="EUR", attempt=2))
        s.settle()
        s.wait(hours=1)
        stream = s.tenant.customer("a").stream
        return list(s.ps.log.events(Query(tenant=stream.tenant, streams=(stream,)), Unsealer(s.ps.log.vault)))


def test_it_is_sha_256_over_a_line_of_canonical_json_an_event(tmp_path: Path) -> None:
    events = told(tmp_path / "a")
    lines = canonical_lines(events)
    assert stream_hash(events) == hashlib.sha256(b"\n".join([*lines, b""])).hexdigest()
    name, stream, lane, id_, at_us, header, payload = json.loads(lines[0])
    assert (name, lane, at_us) == ("billing/invoice-payment-failed@1", "fact", events[0].stored.occurred_at_us)
    assert (stream, id_) == (str(events[0].stored.stream), str(events[0].event_id))
    assert header["source_id"] == "1"
    assert payload["amount_minor"] == 4900
    assert [json.dumps(json.loads(line), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() for line in lines] == lines
    for word in (b"recorded_at", b'"position":', b"salt", b"state_hash", b"content_key", b"trace"):
        assert not any(word in line.replace(b'"fact_position":', b"") for line in lines), word


def test_positions_salts_keys_of_subjects_and_the_time_of_recording_do_not_move_it(tmp_path: Path) -> None:
    def elsewhere(s: Stage) -> None:
        for n in range(5):
            s.pays(f"other{n}")

    one, two = told(tmp_path / "a"), told(tmp_path / "b", elsewhere)
    assert [e.position for e in one] != [e.position for e in two]
    assert [e.stored.salt for e in one] != [e.stored.salt for e in two]
    # The second customer's reference is another one; its own stream apart, the two tell the same.
    lines = [
        [
            line.replace(str(events[0].stored.stream).encode(), b"S").replace(events[0].stored.stream.id.encode() + b'"', b'R"')
            for line in canonical_lines(events)
        ]
        for events in (one, two)
    ]
    kinds = [[json.loads(line)[0] for line in told_] for told_ in lines]
    assert kinds[0] == kinds[1]
    decision = [next(json.loads(line)[6]["read_set"] for line in told_ if b"decision-recorded" in line) for told_ in lines]
    assert [r["fact_position"] for r in decision[0]] == [r["fact_position"] for r in decision[1]] == [1]


def test_the_same_story_has_the_same_hash_and_another_amount_another(tmp_path: Path) -> None:
    assert stream_hash(told(tmp_path / "a")) == stream_hash(told(tmp_path / "b"))
    assert stream_hash(told(tmp_path / "c", amount_minor=4901)) != stream_hash(told(tmp_path / "d"))


def test_each_event_and_its_place_counts(tmp_path: Path) -> None:
    events = told(tmp_path / "a")
    whole = stream_hash(events)
    for n in range(len(events)):
        assert stream_hash(events[:n] + events[n + 1 :]) != whole
    assert stream_hash([events[1], events[0], *events[2:]]) != whole


def test_without_attempts_a_second_try_is_not_told_but_what_came_of_it_is(tmp_path: Path) -> None:
    events = told(tmp_path / "a")
    kinds = [json.loads(line)[0] for line in canonical_lines(events, attempts=False)]
    assert [e.stored.kind for e in events].count("effect/started") == 2
    assert "effect/started@1" not in kinds
    assert kinds.count("effect/succeeded@1") == 1
    done = [e for e in events if e.stored.kind != "effect/succeeded"]
    assert stream_hash(done, attempts=False) != stream_hash(events, attempts=False)


def test_what_is_masked_has_no_hash(tmp_path: Path) -> None:
    with staged(tmp_path / "a", embedded) as s:
        s.begins()
        s.fails("a")
        stream = s.tenant.customer("a").stream
        masked = list(s.ps.log.events(Query(tenant=stream.tenant, streams=(stream,))))
    assert masked
    with pytest.raises(KeyUnavailable, match="masked"):
        stream_hash(masked)
