"""Files: every shape of JSON file gives the same items, a bad part is one refused item, and the rest continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postsale.errors import InvalidInput, MappingInvalid, Unsupported
from postsale.ingest import ITEM_LIMIT, Item, count_hint, open_items, to_quarantine
from postsale.ingest.documents import elements

from .support import CANARY, DIGEST, envelope, outcome, said, write
from .test_cloudevents import EVENT
from .test_stripe import INVOICE

EVENTS = [envelope("invoice.paid", INVOICE, id=f"evt_{n}") for n in (1, 2, 3)]


def read(path: Path, kind: Any = "stripe") -> list[Item]:
    return list(open_items(kind, path, digest=DIGEST))


SHAPES = {
    "array": json.dumps(EVENTS),
    "pretty array": "\n  " + json.dumps(EVENTS, indent=2) + "\n",
    "lines": "\n".join(json.dumps(event) for event in EVENTS) + "\n",
    "lines with CRLF, blank lines, no last end": "\r\n\r\n".join(json.dumps(event) for event in EVENTS),
    "API list": json.dumps({"object": "list", "data": EVENTS, "has_more": False}),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_shape_of_file_gives_the_same_items(shape: str, mark: bytes, tmp_path: Path) -> None:
    items = read(write(tmp_path, mark + SHAPES[shape].encode(), "events.json"))
    assert [item.where for item in items] == ["item 1", "item 2", "item 3"]
    assert [signal.id for item in items for signal in item.signals] == ["evt_1", "evt_2", "evt_3"]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_single_object_is_one_item(indent: int | None, tmp_path: Path) -> None:
    (item,) = read(write(tmp_path, json.dumps(EVENTS[0], indent=indent), "event.json"))
    assert outcome(item) == "signals"


@pytest.mark.parametrize("text", ["", "\n\n", "[]", " [ ] "])
def test_an_empty_file_or_array_has_no_items(text: str, tmp_path: Path) -> None:
    assert read(write(tmp_path, text, "events.json")) == []


def test_a_bad_line_is_one_refused_item_and_the_rest_continues(tmp_path: Path) -> None:
    good = json.dumps(EVENTS[0]).encode()
    bad = [b'{"id": "evt_9", ' + CANARY.encode(), b"\xff\xfe", b'{"a\x00": 1}', b"[1]", b'{"x": "' + b"y" * 10_000_000 + b'"}']
    items = read(write(tmp_path, b"\n".join([good, *bad, good]), "events.ndjson"))
    assert [outcome(item) for item in items] == ["signals", *["error"] * 5, "signals"]
    assert [item.where for item in items if item.error] == [f"item {n}" for n in range(2, 7)]
    assert all(CANARY not in said(item) for item in items)
    assert max(len(item.raw) for item in items) < ITEM_LIMIT  # what is kept of 10 MB is bounded


def test_two_over_long_lines_that_differ_only_at_their_ends_are_not_the_same_content(tmp_path: Path) -> None:
    long = b"{" + b" " * (2 * ITEM_LIMIT)
    first, second = read(write(tmp_path, long + b"1\n" + long + b"2\n", "events.ndjson"))
    assert first.raw == second.raw
    assert first.source_item != second.source_item


def test_a_first_bad_line_does_not_hide_that_the_file_has_lines(tmp_path: Path) -> None:
    text = '{"broken\n' + json.dumps(EVENTS[0])
    assert [outcome(item) for item in read(write(tmp_path, text, "events.json"))] == ["error", "signals"]


def test_a_bad_element_is_one_refused_item_and_a_broken_off_array_ends_in_one(tmp_path: Path) -> None:
    good = json.dumps(EVENTS[0])
    mixed = write(tmp_path, f'[{good}, {{"a": NaN}}, 7, "text, with [ and \\" in it", {good}]', "a.json")
    assert [outcome(item) for item in read(mixed)] == ["signals", "error", "error", "error", "signals"]
    cut = write(tmp_path, f"[{good}, {good[:-30]}", "b.json")
    assert [outcome(item) for item in read(cut)] == ["signals", "error"]
    followed = write(tmp_path, f"[{good}] {CANARY}", "c.json")
    assert [outcome(item) for item in read(followed)] == ["signals", "error"]


@given(
    st.lists(
        st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3)),
        max_size=6,
    ),
    st.booleans(),
)
def test_the_elements_of_an_array_are_its_elements(values: list[Any], spaced: bool) -> None:
    text = json.dumps(values, indent=1 if spaced else None)
    found = list(elements(text.encode()))
    assert [json.loads(line.raw) for line in found] == values
    assert all(line.problem is None for line in found)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80), st.sampled_from(["x.json", "x.ndjson"]))
def test_any_file_is_read_to_its_end_without_a_crash(tmp_path: Path, raw: bytes, name: str) -> None:
    for kind in ("stripe", "cloudevents"):
        assert {outcome(item) for item in read(write(tmp_path, raw, name), kind)} <= {"error", "ignored"}


def test_cloudevents_come_as_one_as_a_batch_and_as_lines(tmp_path: Path) -> None:
    batch = [EVENT, EVENT | {"id": "e-2"}]
    for name, text in (("a.json", json.dumps(batch)), ("a.ndjson", "\n".join(map(json.dumps, batch)))):
        assert [signal.id for item in read(write(tmp_path, text, name), "cloudevents") for signal in item.signals] == ["e-1", "e-2"]
    assert len(read(write(tmp_path, json.dumps(EVENT, indent=1), "b.json"), "cloudevents")) == 1


def test_what_is_wrong_with_the_call_or_the_file_raises_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        open_items("stripe", tmp_path / "absent.json", digest=DIGEST)
    with pytest.raises(InvalidInput, match="cannot be read"):
        open_items("stripe", tmp_path, digest=DIGEST)
    with pytest.raises(MappingInvalid, match="needs a mapping"):
        open_items("table", tmp_path / "absent.csv", digest=DIGEST)
    with pytest.raises(Unsupported, match="stripe, cloudevents, table"):
        open_items("hubspot", tmp_path, digest=DIGEST)  # type: ignore[arg-type]


def test_the_count_hint_counts_lines_and_knows_when_it_does_not_know(tmp_path: Path) -> None:
    assert count_hint("stripe", write(tmp_path, SHAPES["lines"], "a.ndjson")) == 3
    for text in (SHAPES["array"], SHAPES["pretty array"], json.dumps(EVENTS[0], indent=1)):
        assert count_hint("stripe", write(tmp_path, text, "a.json")) is None


def test_the_quarantine_keeps_a_file_of_one_item_that_the_same_connector_reads_again(tmp_path: Path) -> None:
    (item,) = read(write(tmp_path, b'{"id": 1}', "a.ndjson"))
    kept = to_quarantine("acme", item, 5, lambda body: b"sealed:" + body, digest=DIGEST)
    assert (kept.tenant, kept.source, kept.received_at_us, kept.status) == ("acme", "stripe", 5, "waiting")
    assert kept.body == b'sealed:{"id": 1}'
    assert kept.reason == str(item.error)
    assert len(kept.id) == 32


def test_the_same_failure_has_one_quarantine_id_and_another_reason_content_or_tenant_another() -> None:
    first, second = (outcome_item(event) for event in (EVENTS[0] | {"type": 1}, EVENTS[1] | {"type": 1}))

    def id_of(item: Item, tenant: str = "acme", reason: str | None = None) -> str:
        return to_quarantine(tenant, item, 1, bytes, digest=DIGEST, reason=reason).id

    ids = {id_of(first), id_of(second), id_of(first, "other"), id_of(first, reason="content conflict")}
    assert len(ids) == 4
    assert id_of(first) == id_of(first)


def test_an_item_that_was_not_refused_needs_a_reason() -> None:
    with pytest.raises(InvalidInput, match="no reason is given"):
        to_quarantine("acme", outcome_item(EVENTS[0]), 1, bytes, digest=DIGEST)


def outcome_item(event: dict[str, Any]) -> Item:
    from postsale.ingest import stripe

    return stripe.signals(event)
