"""Signed notes and cosignatures: as others publish them, and nothing else."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.signing import Pair

from postsale.errors import InvalidInput, NoteInvalid
from postsale.events import to_us
from postsale.store.checkpoints import Checkpoint
from postsale.store.leaves import EMPTY_ROOT
from postsale.store.notes import COSIGNATURE, ED25519, Note, VerifierKey, sign

# Published with golang.org/x/mod/sumdb/note.
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
ENOCH = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
PETER_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
NOTE = f"{TEXT}\n{PETER}{ENOCH}"

# A checkpoint that a public Certificate Transparency log published, with the cosignatures of public witnesses.
ARCHE_KEY = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
REMORA_KEY = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
STAGEMOLE_KEY = "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv"
ARCHE = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
"""


def test_the_note_that_go_publishes_verifies_under_each_of_its_keys() -> None:
    peter, enoch = VerifierKey.parse(PETER_KEY), VerifierKey.parse(ENOCH_KEY)
    note = Note.parse(NOTE)
    assert note.text == TEXT
    assert note.signed_by([peter]) == {peter: None}
    assert note.signed_by([peter, enoch]) == {peter: None, enoch: None}
    assert note.signed_by([]) == {}
    assert Note.parse(NOTE.encode()) == note


def test_the_note_that_go_publishes_is_made_byte_for_byte() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    peter = Ed25519PrivateKey.from_private_bytes(PETER_SEED)
    assert sign(TEXT, VerifierKey.parse(PETER_KEY), peter.sign) == f"{TEXT}\n{PETER}"


def test_a_checkpoint_of_a_public_log_verifies_with_its_witnesses() -> None:
    log, remora, stagemole = (VerifierKey.parse(key) for key in (ARCHE_KEY, REMORA_KEY, STAGEMOLE_KEY))
    checkpoint = Checkpoint.parse(ARCHE)
    assert (checkpoint.origin, checkpoint.size, checkpoint.at_us) == (log.name, 1432088532, None)
    assert checkpoint.note.signed_by([log, remora, stagemole]) == {log: None, remora: 0x6A122120, stagemole: 0x6A122120}
    assert str(checkpoint) == ARCHE
    with pytest.raises(NoteInvalid, match="not over this text"):
        Checkpoint.parse(ARCHE.replace("1432088532", "1432088533")).note.signed_by([remora])


@pytest.mark.parametrize("text", [PETER_KEY, ENOCH_KEY, ARCHE_KEY, REMORA_KEY, STAGEMOLE_KEY])
def test_a_verifier_key_is_read_and_written_alike_and_no_part_of_it_is_one(text: str) -> None:
    key = VerifierKey.parse(text)
    assert str(key) == text
    assert key.type == (COSIGNATURE if text in (REMORA_KEY, STAGEMOLE_KEY) else ED25519)
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            if end - start < len(text):
                with pytest.raises(InvalidInput):
                    VerifierKey.parse(text[start:end])
    for at in range(len(text)):
        with pytest.raises(InvalidInput):
            VerifierKey.parse(text[:at] + chr(ord(text[at]) + 1) + text[at + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # published: wrong length, right id
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # published: unknown algorithm, right id
        "",
        "++",
        PETER_KEY + "\n",
        PETER_KEY.replace("c74f20a3", "C74F20A3"),
        PETER_KEY.replace("PeterNeumann", "Peter\u00a0Neumann"),
    ],
)
def test_what_is_not_a_verifier_key_is_invalid_input(text: str) -> None:
    with pytest.raises(InvalidInput):
        VerifierKey.parse(text)


@pytest.mark.parametrize(
    "note",
    [
        "",
        TEXT,
        TEXT + "\n",
        f"{TEXT}\n{PETER[:-1]}",
        f"{TEXT}{PETER}",
        f"\x01{TEXT}\n{PETER}",
        f"{TEXT}\r\n{PETER}",
        f"{TEXT}\n{PETER}".encode() + b"\xff\n",
        f"{TEXT}\ud800\n{PETER}",
        f"{TEXT}\n{PETER}Unexpected line.\n",
        f"{TEXT}\n{PETER}\n",
        f"{TEXT}\n{PETER.replace('PeterNeumann', 'Bad Name')}",
        f"{TEXT}\n{PETER.replace('PeterNeumann', 'Bad+Name')}",
        f"{TEXT}\n{PETER.replace('PeterNeumann', '')}",
        f"{TEXT}\n{PETER.replace('—', '-')}",
        f"{TEXT}\n{PETER.replace('=', '')}",
        f"{TEXT}\n{PETER.replace('nAM=', 'nAN=')}",  # the same bytes by a lax reader
        f"{TEXT}\n— PeterNeumann x08goA==\n",
        f"{TEXT}\n{PETER * 101}",
        "x" * 1_000_001,
    ],
)
def test_what_is_not_a_note_is_a_typed_error(note: str | bytes) -> None:
    with pytest.raises(NoteInvalid):
        Note.parse(note)


@given(st.data())
def test_one_changed_character_anywhere_makes_no_other_text_signed(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(NOTE) - 1))
    changed = NOTE[:at] + data.draw(st.characters(exclude_characters=NOTE[at])) + NOTE[at + 1 :]
    try:
        note = Note.parse(changed)
        signed = note.signed_by([VerifierKey.parse(PETER_KEY)])
    except NoteInvalid:
        return
    assert not signed or note.text == TEXT


@given(st.one_of(st.binary(), st.text(), st.lists(st.sampled_from([TEXT, "\n", PETER, ENOCH, "— ", "a\n", "1\n"])).map("".join)))
def test_any_bytes_are_a_note_or_a_typed_error(raw: Any) -> None:
    try:
        note = Note.parse(raw)
    except NoteInvalid:
        return
    assert note.signatures
    assert note.text.endswith("\n")


def test_a_false_signature_by_a_known_key_spoils_the_note_and_one_of_an_unknown_key_does_not() -> None:
    log, other = Pair("log"), Pair("other")
    text = "a text\n"
    false = log.line("another text\n")
    assert Note.parse(f"{text}\n{log.line(text)}{other.line('another text' + chr(10))}").signed_by([log.key]) == {log.key: None}
    for lines in (false, log.line(text) + false, false + log.line(text)):
        with pytest.raises(NoteInvalid, match="signature by log"):
            Note.parse(f"{text}\n{lines}").signed_by([log.key])


def test_a_key_of_the_same_name_is_another_key() -> None:
    ours, theirs = Pair("log"), VerifierKey("log", ED25519, Pair("somebody else").key.public)
    assert Note.parse(f"text\n\n{ours.line('text' + chr(10))}").signed_by([theirs]) == {}


@pytest.mark.parametrize("time_s", [0, 1_790_000_000, 2**63 - 1])
def test_a_cosignature_is_over_its_time_and_the_whole_text(time_s: int) -> None:
    witness, text = Pair("witness.example/w1"), "log\n1\nroot\nextension\n"
    note = Note.parse(f"{text}\n{witness.cosigned(text, time_s)}")
    assert note.signed_by([witness.witness_key]) == {witness.witness_key: time_s}
    assert note.signed_by([witness.key]) == {}  # as a log's it is no signature
    with pytest.raises(NoteInvalid):
        Note.parse(f"log\n1\nroot\n\n{witness.cosigned(text, time_s)}").signed_by([witness.witness_key])
    moved = base64.b64decode(witness.cosigned(text, time_s).split(" ")[2])
    moved = moved[:4] + bytes(7) + b"\x07" + moved[12:]
    with pytest.raises(NoteInvalid):
        Note.parse(f"{text}\n— {witness.name} {base64.b64encode(moved).decode()}\n").signed_by([witness.witness_key])


def test_a_signature_of_a_wrong_length_is_false() -> None:
    log, text = Pair("log"), "text\n"
    short = base64.b64encode(log.key.id + log.private.sign(text.encode())[:-1]).decode()
    with pytest.raises(NoteInvalid, match="length"):
        Note.parse(f"{text}\n— log {short}\n").signed_by([log.key])


# ---------------------------------------------------------------- checkpoints

ROOT = base64.b64encode(bytes(range(32))).decode()


def checkpoint(*lines: str) -> str:
    text = "".join(f"{line}\n" for line in lines)
    return f"{text}\n{Pair('log').line(text)}"


def test_a_checkpoint_has_an_origin_a_size_a_root_and_perhaps_a_time() -> None:
    from datetime import UTC, datetime

    found = Checkpoint.parse(checkpoint("log", "7", ROOT, "something else", "time 2027-01-01T12:00:00.000001Z"))
    assert (found.origin, found.size, found.root) == ("log", 7, bytes(range(32)))
    assert found.at_us == to_us(datetime(2027, 1, 1, 12, 0, 0, 1, tzinfo=UTC))
    assert Checkpoint.parse(checkpoint("log", "7", ROOT)).at_us is None
    assert Checkpoint.parse(checkpoint("log", "0", base64.b64encode(EMPTY_ROOT).decode())).size == 0


@pytest.mark.parametrize(
    "lines",
    [
        ("log", "7"),
        ("log", "7", ROOT, ""),
        ("", "7", ROOT),
        ("log", "07", ROOT),
        ("log", "-7", ROOT),
        ("log", "+7", ROOT),
        ("log", " 7", ROOT),
        ("log", "٧", ROOT),
        ("log", "7.0", ROOT),
        ("log", str(2**63), ROOT),
        ("log", "9" * 5_000, ROOT),
        ("log", "7", ROOT[:-1]),
        ("log", "7", ROOT.replace("=", "==")),
        ("log", "7", base64.b64encode(bytes(31)).decode()),
        ("log", "0", ROOT),
        ("log", "7", ROOT, "time 2027-01-01"),
        ("log", "7", ROOT, "time 2027-01-01T12:00:00.000001+00:00"),
        ("log", "7", ROOT, "time 2027-13-01T12:00:00.000001Z"),
        ("log", "7", ROOT, "time 2027-1-01T12:00:00.000001Z"),
        ("log", "7", ROOT, "time 0000-01-01T12:00:00.000001Z"),
    ],
    ids=lambda lines: "/".join(lines)[:40],
)
def test_what_is_not_a_checkpoint_is_a_typed_error(lines: tuple[str, ...]) -> None:
    with pytest.raises(NoteInvalid):
        Checkpoint.parse(checkpoint(*lines))
