"""A proof for a third party: checked without the log, worth nothing when anything in it is changed, and silent about contents."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.signing import Pair

from postsale.access import FileVault
from postsale.errors import LogDamaged, NotCheckpointed, UnknownEvent
from postsale.events import ManualClock, StoredEvent
from postsale.store import (
    Checkpoint,
    EventProof,
    MemoryStore,
    Query,
    SQLiteStore,
    VerifierKey,
    check_proof,
    prove,
    sign_checkpoint,
    verifier_key,
)
from postsale.store.leaves import commitment, shown_by
from postsale.store.notes import COSIGNATURE, sign
from postsale.testing import Events
from postsale.testing.store_building import each

CLOCK = ManualClock(datetime(2027, 1, 1, tzinfo=UTC))
SCORE = b'{"score":7}'


@dataclass
class Signed:
    store: MemoryStore
    vault: FileVault
    key: VerifierKey
    checkpoint: Checkpoint
    events: list[StoredEvent]  # of tenant acme, by leaf index


@pytest.fixture(scope="module")
def signed() -> Iterator[Signed]:
    """300 facts and 20 decisions of acme among others, signed; one of them a score between 0 and 10."""
    store, events, rand = MemoryStore(clock=CLOCK), Events(seed=11), random.Random(11)
    decided = events.stream()
    for number in range(320):
        store.append(each(events.decision(decided, number // 16) if number % 16 == 0 else events.fact(data=SCORE)))
        if rand.random() < 0.3:
            store.append(each(events.fact(events.stream("globex"))))
    with closing(FileVault.in_memory()) as vault:
        checkpoint = sign_checkpoint(store, vault, CLOCK, "acme")
        yield Signed(store, vault, verifier_key(store, vault, "acme"), checkpoint, list(store.read(Query(tenant="acme"))))


def changed(document: bytes, **members: Any) -> bytes:
    return orjson.dumps({**orjson.loads(document), **members})


# ---------------------------------------------------------------- made and checked


def test_every_event_is_proved_by_id_and_by_position_and_the_proof_says_what_it_is(signed: Signed) -> None:
    for event in signed.events:
        proof = prove(signed.store, "acme", event.position)
        assert proof == prove(signed.store, "acme", event.event_id)
        checked = check_proof(proof.to_json(), [signed.key])
        assert checked.ok, checked.reason
        assert checked.to_dict() == {
            "ok": True,
            "origin": signed.key.name,
            "tenant": "acme",
            "leaf_index": event.leaf_index,
            "stream": str(event.stream),
            "lane": event.lane.name.lower(),
            "version": event.version,
            "kind": event.wire_name,
            "size": 320,
            "root": signed.checkpoint.root.hex(),
            "signed_at_us": CLOCK.now_us(),
            "cosigned": {},
        }


def test_a_proof_is_checked_by_hand_from_the_published_formats_alone(signed: Signed) -> None:
    """What somebody without this library does, by RFC 9162 and c2sp.org: JSON, base64, SHA-256 and Ed25519."""
    from base64 import b64decode

    document = json.loads(prove(signed.store, "acme", signed.events[200].position).to_json())
    body, _, lines = document["checkpoint"].rpartition("\n\n")
    _, size, root, *_ = body.split("\n")
    at, last, hash_ = document["leaf_index"], int(size) - 1, sha256(b"\0" + b64decode(document["commitment"])).digest()
    for sibling in map(b64decode, document["path"]):
        if at % 2 or at == last:
            hash_ = sha256(b"\1" + sibling + hash_).digest()
            while at and at % 2 == 0:
                at, last = at // 2, last // 2
        else:
            hash_ = sha256(b"\1" + hash_ + sibling).digest()
        at, last = at // 2, last // 2
    assert (last, hash_) == (0, b64decode(root))
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    Ed25519PublicKey.from_public_bytes(signed.key.public).verify(b64decode(lines.split(" ")[2])[4:], f"{body}\n".encode())


def test_a_proof_may_be_under_an_earlier_checkpoint_or_one_with_cosignatures() -> None:
    store, events, witness = MemoryStore(), Events(seed=3), Pair("witness.example/w1")
    with closing(FileVault.in_memory()) as vault:
        store.append(each(*(events.fact() for _ in range(5))))
        first = sign_checkpoint(store, vault, CLOCK, "acme")
        store.append(each(*(events.fact() for _ in range(5))))
        sign_checkpoint(store, vault, CLOCK, "acme")
        key = verifier_key(store, vault, "acme")
        cosigned = Checkpoint.parse(first.text + witness.cosigned(first.note.text, 1_800_000_000))
        document = prove(store, "acme", 3, cosigned).to_json()
        checked = check_proof(document, [key], [witness.witness_key])
        assert checked.ok
        assert checked.to_dict()["cosigned"] == {"witness.example/w1": 1_800_000_000}
        assert check_proof(document, [key]).ok
        for checkpoint, other in ((first, witness), (cosigned, Pair("witness.example/w2"))):
            missing = check_proof(prove(store, "acme", 3, checkpoint).to_json(), [key], [other.witness_key])
            assert (missing.ok, missing.reason) == (False, f"its checkpoint is not cosigned by the witness {other.name}")
        with pytest.raises(NotCheckpointed, match="covers 5 events, this one is number 7"):
            prove(store, "acme", 8, first)


def test_what_cannot_be_proved_is_a_typed_error(signed: Signed) -> None:
    for event in (0, -1, 10**12, UUID(int=1), next(signed.store.read(Query(tenant="globex"))).position):
        with pytest.raises(UnknownEvent):
            prove(signed.store, "acme", event)
    with pytest.raises(NotCheckpointed, match="postsale log checkpoint --tenant globex"):
        prove(signed.store, "globex", next(signed.store.read(Query(tenant="globex"))).position)


def test_an_event_whose_bytes_were_changed_cannot_be_proved(tmp_path: Any) -> None:
    events = Events(seed=4)
    with closing(SQLiteStore(tmp_path / "log.db")) as store, closing(FileVault.in_memory()) as vault:
        store.append(each(*(events.fact() for _ in range(5))))
        sign_checkpoint(store, vault, CLOCK, "acme")
        with store.writing() as db:
            db.execute("DROP TRIGGER events_no_update")
            db.execute("UPDATE events SET data = x'7B7D' WHERE position = 3")
        assert prove(store, "acme", 2)
        with pytest.raises(LogDamaged, match="position 3"):
            prove(store, "acme", 3)


# ---------------------------------------------------------------- anything else


def test_a_proof_under_another_key_or_none_proves_nothing(signed: Signed) -> None:
    document = prove(signed.store, "acme", 1).to_json()
    other = verifier_key(signed.store, signed.vault, "globex")
    somebody = Pair(signed.key.name).key
    for keys in ([], [other], [somebody], [signed.key._replace(type=COSIGNATURE)]):
        checked = check_proof(document, keys)
        assert (checked.ok, checked.to_dict()) == (False, {"ok": False, "reason": "its checkpoint is not signed by a key that was given"})
    assert check_proof(document, [other, somebody, signed.key]).ok
    text = signed.checkpoint.note.text  # signed, but by a key that stands for another tree
    assert not check_proof(changed(document, checkpoint=sign(text, other, partial(signed.vault.sign, "globex"))), [other]).ok


def test_a_proof_of_another_events_place_tenant_or_checkpoint_proves_nothing(signed: Signed) -> None:
    one, other = (orjson.loads(prove(signed.store, "acme", signed.events[index].position).to_json()) for index in (5, 6))
    document = orjson.dumps(one)
    for member in ("commitment", "leaf_index", "path"):
        assert not check_proof(changed(document, **{member: other[member]}), [signed.key]).ok
    moved = changed(document, commitment=other["commitment"], path=other["path"])
    assert check_proof(moved, [signed.key]).reason == "its event is of another place than its proof"
    body = signed.checkpoint.note.text.replace("/acme\n", "/globex\n")
    key = Pair(body.partition("\n")[0])  # a log that signs its other tenant's tree under this tenant's name
    forged = changed(document, checkpoint=f"{body}\n{key.line(body)}")
    assert check_proof(forged, [key.key]).reason == "its event is of another place than its proof"


@given(st.data())
def test_one_changed_byte_anywhere_proves_nothing_or_the_same(signed: Signed, data: st.DataObject) -> None:
    document = prove(signed.store, "acme", 100).to_json()
    truth = check_proof(document, [signed.key])
    at = data.draw(st.integers(0, len(document) - 1))
    checked = check_proof(document[:at] + data.draw(st.binary(min_size=1, max_size=1)) + document[at + 1 :], [signed.key])
    assert not checked.ok or checked == truth


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["AAAA", "postsale-proof@1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(["format", "commitment", "leaf_index", "path", "checkpoint"]), anything)
def test_any_value_in_any_member_is_a_refusal_and_never_an_exception(signed: Signed, member: str, value: Any) -> None:
    document = prove(signed.store, "acme", 100).to_json()
    fields = json.loads(document)
    assert check_proof(json.dumps({**fields, member: value}), [signed.key]).ok is (value == fields[member] and type(value) is not float)
    del fields[member]
    assert not check_proof(json.dumps(fields), [signed.key]).ok


@given(st.one_of(st.binary(), st.text(), anything.map(json.dumps)))
def test_any_document_is_a_refusal_and_never_an_exception(signed: Signed, document: Any) -> None:
    assert not check_proof(document, [signed.key]).ok


@pytest.mark.parametrize(
    "document", ["[" * 100_000, '{"format":' * 50_000, "9" * 10_000, " " * 3_000_000, b"\xff", "\ud800", '{"a":1e999}']
)
def test_a_hostile_document_is_a_refusal(signed: Signed, document: Any) -> None:
    assert not check_proof(document, [signed.key]).ok


def test_a_member_twice_is_refused(signed: Signed) -> None:
    document = prove(signed.store, "acme", 100).to_json().decode()
    assert not check_proof(document.replace('"leaf_index"', '"leaf_index": 5, "leaf_index"', 1), [signed.key]).ok


@given(st.binary(max_size=200))
def test_bytes_that_are_no_commitment_are_a_value_error(raw: bytes) -> None:
    try:
        shown = shown_by(raw)
    except ValueError:
        return
    assert len(shown.inner) == 32


def test_a_commitment_shows_exactly_its_own_fields(signed: Signed) -> None:
    for event in signed.events[:40]:
        shown = prove(signed.store, "acme", event.position).shown
        assert (shown.tenant, shown.category, shown.id) == tuple(event.stream)
        assert (shown.leaf_index, shown.lane, shown.version) == (event.leaf_index, event.lane, event.version)
        assert (shown.wire_name, shown.schema) == (event.wire_name, event.schema)
    for cut in (-1, 1):
        with pytest.raises(ValueError, match="commitment"):
            shown_by(_of(event)[:cut] if cut < 0 else _of(event) + b"\0")


def _of(event: StoredEvent) -> bytes:
    fields = event._asdict()
    del fields["leaf"]
    return commitment(**fields)


# ---------------------------------------------------------------- what it gives away


def guesses(proof: EventProof, event: StoredEvent, salt: bytes) -> list[bytes]:
    """Which scores fit the proof, for somebody who knows all of the event but the score, and believes in this salt."""
    found = []
    for score in range(11):
        data = b'{"score":%d}' % score
        numbers = struct.pack(
            ">Q16sqqI", event.position, event.event_id.bytes, event.occurred_at_us, event.recorded_at_us, len(event.header)
        )
        if sha256(salt + numbers + event.header + event.content_mac + data).digest() == proof.shown.inner:
            found.append(data)
    return found


def test_a_score_between_0_and_10_cannot_be_guessed_from_its_proof(signed: Signed) -> None:
    """With the salt it can, so the guessing is right; the proof lacks the salt, and two events of the same contents look different."""
    event, twin, *_ = (event for event in signed.events if event.data == SCORE)
    proof = prove(signed.store, "acme", event.position)
    assert guesses(proof, event, event.salt) == [SCORE]
    document = proof.to_json()
    for believed in (b"", bytes(16), twin.salt, proof.shown.inner[:16], proof.commitment[:16], *proof.path):
        assert guesses(proof, event, believed) == []
    assert proof.shown.inner != prove(signed.store, "acme", twin.position).shown.inner
    hidden = (event.salt, event.data, event.header, event.event_id.bytes, event.content_mac, struct.pack(">q", event.occurred_at_us))
    for secret in hidden:
        assert secret not in proof.commitment
        assert secret.hex().encode() not in document
        assert secret not in document
