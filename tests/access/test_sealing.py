"""Sealing: what is sealed opens in its own place for those who may see it, and nowhere else; destroyed means masked for ever."""

import base64
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.access import (
    FileVault,
    SubjectKey,
    TenantKeys,
    Unsealer,
    blind_index,
    content_mac,
    fact_id,
    nothing,
    open_blob,
    seal_blob,
    seal_fields,
)
from postsale.aggregates.identity import contact, foreign
from postsale.aggregates.signals import TicketOpened
from postsale.errors import KeyUnavailable, SealBroken
from postsale.events import MASKED, SEALED, SYSTEM, Event, Header, Lane, StoredEvent, StreamId, canonical, decode

from .vaults import in_memory, opened

CANARY = "jane.canary@example.org"
STREAM = StreamId("acme", "customers", "c1")
EVENT = UUID(int=7)
WIRE = TicketOpened.wire_name
PERSON = "person-1"


@pytest.fixture
def vault() -> FileVault:
    return in_memory()


def sealed_event(
    vault: FileVault, fields: dict[str, Any], names: tuple[str, ...] = ("subject",), subject: str = PERSON
) -> tuple[StoredEvent, Header]:
    fields = dict(fields)
    key = vault.subjects("acme", [subject], create=True)[subject]
    done = seal_fields(fields, names, key, STREAM, EVENT, WIRE)
    header = Header(actor=SYSTEM, source="zendesk", source_id="1", subjects=(subject,), sealed=dict.fromkeys(done, (subject, key.id)))
    return stored(fields, header), header


def stored(fields: dict[str, Any], header: Header, **changed: Any) -> StoredEvent:
    values: dict[str, Any] = {
        "position": 5,
        "stream": STREAM,
        "lane": Lane.FACT,
        "version": 5,
        "event_id": EVENT,
        "wire_name": WIRE,
        "schema": bytes(16),
        "occurred_at_us": 0,
        "recorded_at_us": 5,
        "content_mac": bytes(16),
        "header": header.to_bytes(),
        "data": canonical(fields),
        "salt": bytes(16),
        "leaf_index": 0,
        "leaf": bytes(32),
    }
    return StoredEvent(**{**values, **changed})


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | texts
    | st.lists(texts, max_size=3)
    | st.dictionaries(texts, texts, max_size=3)
)


@given(st.dictionaries(st.text("abcdef", min_size=1), values, min_size=1), st.data())
def test_what_was_sealed_opens_to_the_same_bytes_and_the_rest_stays_in_the_clear(fields: dict[str, Any], data: st.DataObject) -> None:
    vault = in_memory()
    names = tuple(data.draw(st.sets(st.sampled_from([*fields, "absent"]))))
    event, header = sealed_event(vault, fields, names)
    assert set(header.sealed) == set(names) - {"absent"}
    kept = orjson.loads(event.data)
    assert {k: v for k, v in kept.items() if k not in names} == {k: v for k, v in fields.items() if k not in names}
    assert all(set(kept[name]) == {SEALED} for name in header.sealed)
    assert Unsealer(vault)(event, header) == canonical(fields)


def test_a_sealed_value_is_nowhere_in_the_stored_bytes_and_two_seals_of_it_differ(vault: FileVault) -> None:
    first, _ = sealed_event(vault, {"subject": CANARY})
    second, _ = sealed_event(vault, {"subject": CANARY})
    for event in (first, second):
        assert CANARY.encode() not in event.data + event.header
        assert base64.b64encode(CANARY.encode())[:12] not in event.data
    assert first.data != second.data


@pytest.mark.parametrize(
    "moved",
    [
        {"event_id": UUID(int=8)},
        {"stream": STREAM._replace(id="c2")},
        {"stream": STREAM._replace(category="aliases")},
        {"wire_name": "ticketing/ticket-opened@2"},
    ],
    ids=lambda m: next(iter(m)) + str(m),
)
def test_a_ciphertext_in_the_place_of_another_event_does_not_open(vault: FileVault, moved: dict[str, Any]) -> None:
    event, header = sealed_event(vault, {"subject": CANARY})
    with pytest.raises(SealBroken) as caught:
        Unsealer(vault)(event._replace(**moved), header)
    assert (caught.value.field, caught.value.position) == ("subject", 5)
    assert CANARY not in str(caught.value)


def test_a_ciphertext_in_another_field_does_not_open(vault: FileVault) -> None:
    event, header = sealed_event(vault, {"subject": CANARY, "comment": "fine"}, ("subject", "comment"))
    fields = orjson.loads(event.data)
    fields["subject"], fields["comment"] = fields["comment"], fields["subject"]
    with pytest.raises(SealBroken):
        Unsealer(vault)(stored(fields, header), header)


def test_a_ciphertext_in_another_tenant_does_not_open_even_under_the_same_key(vault: FileVault) -> None:
    event, header = sealed_event(vault, {"subject": CANARY})
    keys = vault.subjects("acme", [PERSON], create=False)
    assert Unsealer(vault).open(event, header, keys) == {"subject": CANARY}
    with pytest.raises(SealBroken):
        Unsealer(vault).open(event._replace(stream=STREAM._replace(tenant="other")), header, keys)


def test_a_ciphertext_of_another_person_does_not_open(vault: FileVault) -> None:
    event, _ = sealed_event(vault, {"subject": CANARY})
    other = vault.subjects("acme", ["person-2"], create=True)["person-2"]
    forged = Header(actor=SYSTEM, sealed={"subject": ("person-2", other.id)})
    with pytest.raises(SealBroken):
        Unsealer(vault)(event, forged)


def test_every_flipped_byte_of_a_sealed_value_is_found(vault: FileVault) -> None:
    event, header = sealed_event(vault, {"subject": "no"})
    raw = base64.urlsafe_b64decode(orjson.loads(event.data)["subject"][SEALED].removeprefix("1."))
    for index in range(len(raw)):
        bent = bytearray(raw)
        bent[index] ^= 1
        fields = {"subject": {SEALED: "1." + base64.urlsafe_b64encode(bent).decode()}}
        with pytest.raises(SealBroken):
            Unsealer(vault)(stored(fields, header), header)


@pytest.mark.parametrize(
    "value",
    [
        "in the clear",
        3,
        None,
        {},
        {SEALED: 3},
        {SEALED: None},
        {SEALED: ""},
        {SEALED: "1."},
        {SEALED: "1.AAAA"},
        {SEALED: "1.é"},
        {SEALED: "x"},
        [],
    ],
    ids=repr,
)
def test_what_is_not_a_sealed_value_is_a_broken_seal_and_never_another_error(vault: FileVault, value: Any) -> None:
    _, header = sealed_event(vault, {"subject": CANARY})
    for fields in ({"subject": value}, {}, [], 3):
        with pytest.raises(SealBroken):
            Unsealer(vault)(stored(fields, header), header)  # type: ignore[arg-type]
    with pytest.raises(SealBroken):
        Unsealer(vault)(stored({}, header, data=b"{"), header)


@pytest.mark.parametrize("prefix", ["", "2.", "1"])
def test_another_format_of_seal_is_not_guessed_at(vault: FileVault, prefix: str) -> None:
    event, header = sealed_event(vault, {"subject": CANARY})
    text = orjson.loads(event.data)["subject"][SEALED].removeprefix("1.")
    with pytest.raises(SealBroken):
        Unsealer(vault)(stored({"subject": {SEALED: prefix + text}}, header), header)


def read(vault: FileVault, event: StoredEvent, *args: Any) -> Any:
    signal: Event = decode(event, Unsealer(vault, *args)).data
    assert isinstance(signal, TicketOpened)
    return signal.subject


def test_after_its_key_is_destroyed_a_value_is_masked_and_nothing_more_can_be_sealed(vault: FileVault) -> None:
    event, _ = sealed_event(vault, {"ticket_id": "t", "subject": CANARY})
    assert read(vault, event) == CANARY
    vault.destroy("acme", PERSON)
    assert read(vault, event) is MASKED
    for _ in range(2):
        with pytest.raises(KeyUnavailable, match="destroyed by an erasure"):
            vault.subjects("acme", [PERSON], create=True)
    with pytest.raises(KeyUnavailable):
        vault.subjects("acme", ["somebody else", PERSON], create=True)
    assert vault.subjects("acme", [PERSON], create=False) == {}


def test_a_key_made_anew_after_a_restore_does_not_open_the_old_value_but_masks_it(vault: FileVault) -> None:
    event, _ = sealed_event(vault, {"ticket_id": "t", "subject": CANARY})
    other = in_memory()
    other.subjects("acme", [PERSON], create=True)
    assert read(other, event) is MASKED
    assert read(in_memory(), event) is MASKED


def test_without_the_right_to_see_a_value_is_masked_and_the_right_is_asked_for_each_time(vault: FileVault) -> None:
    event, _ = sealed_event(vault, {"ticket_id": "t", "subject": CANARY})
    rights = {"subject"}
    asked: list[tuple[StreamId, str, str]] = []

    def may_see(stream: StreamId, subject: str, field: str) -> bool:
        asked.append((stream, subject, field))
        return field in rights

    assert read(vault, event, may_see) == CANARY
    rights.clear()
    assert read(vault, event, may_see) is MASKED
    assert asked == [(STREAM, PERSON, "subject")] * 2
    assert read(vault, event, nothing) is MASKED


def test_while_the_vault_is_down_reads_are_masked_and_sealing_fails(tmp_path: Path) -> None:
    vault = opened(tmp_path / "keys")
    event, _ = sealed_event(vault, {"ticket_id": "t", "subject": CANARY})
    vault.close()
    assert read(vault, event) is MASKED
    with pytest.raises(KeyUnavailable):
        sealed_event(vault, {"subject": CANARY})


# ---------------------------------------------------------------- loose bytes


@given(st.binary(max_size=200))
def test_loose_bytes_open_again_until_their_key_is_gone(raw: bytes) -> None:
    vault = in_memory()
    sealed = seal_blob(vault, "acme", "q1", raw)
    assert open_blob(vault, "acme", "q1", sealed) == raw
    assert len(raw) < 4 or raw not in sealed
    vault.destroy("acme", "q1")
    assert open_blob(vault, "acme", "q1", sealed) is None


@pytest.mark.parametrize("bent", [b"", b"short", bytes(12), bytes(60)], ids=len)
def test_altered_loose_bytes_are_a_broken_seal(vault: FileVault, bent: bytes) -> None:
    seal_blob(vault, "acme", "q1", b"body")
    with pytest.raises(SealBroken):
        open_blob(vault, "acme", "q1", bent)


def test_loose_bytes_do_not_open_for_another_subject(vault: FileVault) -> None:
    one, two = (seal_blob(vault, "acme", subject, b"body") for subject in ("q1", "q2"))
    with pytest.raises(SealBroken):
        open_blob(vault, "acme", "q1", two)
    assert open_blob(vault, "acme", "q1", one) == b"body"


# ---------------------------------------------------------------- keyed digests


def test_the_same_content_id_and_delivery_look_different_in_two_tenants_and_without_the_keys(vault: FileVault) -> None:
    ours, theirs = vault.tenant("acme"), vault.tenant("other")
    elsewhere = in_memory().tenant("acme")
    guess = TenantKeys("", bytes(32), bytes(32), bytes(32))
    for other in (theirs, elsewhere, guess):
        assert content_mac(ours, b"yes") != content_mac(other, b"yes")  # a value as easy to guess as any
        assert blind_index(ours, foreign("stripe", "cus_1")) != blind_index(other, foreign("stripe", "cus_1"))
        assert fact_id(ours, "stripe", "evt_1", 0) != fact_id(other, "stripe", "evt_1", 0)
        assert ours.id != other.id
    assert len({ours.content, ours.blind, ours.dedup, theirs.content, theirs.blind, theirs.dedup}) == 6


def test_keyed_digests_are_the_same_for_the_same_tenant_after_a_restart(tmp_path: Path) -> None:
    def digests() -> tuple[object, ...]:
        vault = opened(tmp_path / "keys")
        keys = vault.tenant("acme")
        vault.close()
        return content_mac(keys, b"a", b"b"), blind_index(keys, contact("c", "crm")), fact_id(keys, "s", "i", 3)

    assert digests() == digests()


parts = st.lists(st.binary(max_size=4), max_size=4).map(tuple)
with closing(FileVault.in_memory()) as _vault:
    KEYS = _vault.tenant("acme")


@given(parts, parts)
def test_parts_of_a_digest_cannot_run_into_each_other(a: tuple[bytes, ...], b: tuple[bytes, ...]) -> None:
    assert (content_mac(KEYS, *a) == content_mac(KEYS, *b)) == (a == b)


def test_kind_source_and_id_of_an_external_id_cannot_run_into_each_other() -> None:
    ids = [foreign("ab", "c"), foreign("a", "bc"), foreign("", "abc"), contact("c", "ab"), contact("abc")]
    assert len({blind_index(KEYS, external) for external in ids}) == len(ids)


@given(st.text("ab", max_size=3), st.text("ab", max_size=3), st.integers(0, 2**32 - 1))
def test_the_id_of_a_fact_is_a_valid_uuid_of_version_8_and_names_its_delivery(source: str, source_id: str, index: int) -> None:
    made = fact_id(KEYS, source, source_id, index)
    assert (made.version, made.variant) == (8, "specified in RFC 4122")
    assert made == fact_id(KEYS, source, source_id, index)
    assert made != fact_id(KEYS, source + "a", source_id, index)
    assert made != fact_id(KEYS, source, source_id, (index + 1) % 2**32)


def test_a_subject_key_is_32_random_bytes(vault: FileVault) -> None:
    keys = vault.subjects("acme", ["a", "b", "a"], create=True)
    assert set(keys) == {"a", "b"}
    assert all(isinstance(k, SubjectKey) and len(k.key) == 32 for k in keys.values())
    assert keys["a"] != keys["b"]
    assert vault.subjects("acme", ["a", "b"], create=True) == keys
    assert vault.subjects("other", ["a"], create=False) == {}
