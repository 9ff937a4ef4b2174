"""Signed notes (c2sp.org/signed-note) and witness cosignatures (c2sp.org/tlog-cosignature) with Ed25519. Pure; imports errors.

Parsing is at least as strict as the reference implementation in Go: whatever is read here is read the same way there.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from postsale.errors import InvalidInput, NoteInvalid

ED25519: Final = 1  # signature type of a log: over the text
COSIGNATURE: Final = 4  # of a witness: over a time and the text
MAX_BYTES: Final = 1_000_000
MAX_SIGNATURES: Final = 100

_DASH: Final = "\N{EM DASH} "
_TIME: Final = struct.Struct(">Q")
_VERIFIER_KEY: Final = re.compile(r"([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")


class VerifierKey(NamedTuple):
    """Whose signature to expect: a name, what kind of signature, and an Ed25519 public key of 32 bytes. Not secret."""

    name: str
    type: int  # ED25519 or COSIGNATURE
    public: bytes

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature line names its key."""
        return sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public).digest()[:4]

    def __str__(self) -> str:
        """NAME+ID+KEY, as Go's sumdb/note and every C2SP tool write it."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.type]) + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Inverse of `str`. InvalidInput for anything else, also for types of keys that are not read here."""
        found = _VERIFIER_KEY.fullmatch(text)
        raw = unbase64(found[3]) if found else None
        if found is None or raw is None or not is_name(found[1]):
            raise InvalidInput(what="verifier key", field="form", reason="expected NAME+8 hex digits+base64")
        if len(raw) != 33 or raw[0] not in (ED25519, COSIGNATURE):
            raise InvalidInput(what="verifier key", field="type", reason="expected an Ed25519 key of a log (type 1) or a witness (type 4)")
        key = cls(found[1], raw[0], raw[1:])
        if key.id.hex() != found[2]:
            raise InvalidInput(what="verifier key", field="id", reason="its name and key do not give its id: a character was changed")
        return key

    def signed_text(self, text: str, time_s: int) -> bytes:
        """What a key of this type signs; `time_s` (POSIX seconds) counts for cosignatures only."""
        return (f"cosignature/v1\ntime {time_s}\n{text}" if self.type == COSIGNATURE else text).encode()


class Signature(NamedTuple):
    """A signature line: whose, and the bytes behind the key id. Says nothing until it is verified."""

    name: str
    key_id: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signature lines. Not verified: see `signed_by`."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, note: str | bytes) -> Note:
        """Split a note. NoteInvalid for anything that is not one."""
        raw = note.encode(errors="surrogatepass") if isinstance(note, str) else note
        if len(raw) > MAX_BYTES:
            raise NoteInvalid(reason=f"longer than {MAX_BYTES} bytes")
        try:
            whole = raw.decode()
        except UnicodeDecodeError:
            raise NoteInvalid(reason="not UTF-8") from None
        if any(character < " " and character != "\n" for character in whole):
            raise NoteInvalid(reason="a control character in it")
        text, blank, lines = whole.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise NoteInvalid(reason="no text, blank line and signature lines that end with a newline")
        signatures = tuple(_signature(line) for line in lines[:-1].split("\n"))
        if len(signatures) > MAX_SIGNATURES:
            raise NoteInvalid(reason=f"more than {MAX_SIGNATURES} signatures")
        return cls(text + "\n", signatures)

    def signed_by(self, keys: Iterable[VerifierKey]) -> dict[VerifierKey, int | None]:
        """Which of these keys signed, with the time of a cosignature (POSIX seconds). Signatures of other keys are passed over.

        NoteInvalid when a line claims to be of one of these keys and is not: then nothing in the note can be relied on.
        """
        by_line = {(key.name, key.id): key for key in keys}
        found: dict[VerifierKey, int | None] = {}
        for signature in self.signatures:
            key = by_line.get((signature.name, signature.key_id))
            if key is None:
                continue
            stamp = _TIME.size if key.type == COSIGNATURE else 0
            if len(signature.raw) != stamp + 64:
                raise NoteInvalid(reason=f"a signature by {key.name} of a wrong length")
            time_s = _TIME.unpack(signature.raw[:stamp])[0] if stamp else 0
            try:
                Ed25519PublicKey.from_public_bytes(key.public).verify(signature.raw[stamp:], key.signed_text(self.text, time_s))
            except (InvalidSignature, ValueError):
                raise NoteInvalid(reason=f"the signature by {key.name} is not over this text") from None
            found.setdefault(key, time_s if stamp else None)
        return found


def sign(text: str, key: VerifierKey, signer: Callable[[bytes], bytes]) -> str:
    """A note with one signature of a log. `text` ends with a newline; `signer` gives the 64 bytes of the private key of `key`."""
    raw = key.id + signer(key.signed_text(text, 0))
    return f"{text}\n{_DASH}{key.name} {base64.b64encode(raw).decode()}\n"


def is_name(name: str) -> bool:
    """Whether this may be the name of a key."""
    return name != "" and "+" not in name and not any(character.isspace() for character in name)


def unbase64(text: str) -> bytes | None:
    """Standard base64 in the one form that encoding gives; None for anything else."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.b64encode(raw).decode() == text else None


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    raw = unbase64(encoded)
    if not line.startswith(_DASH) or not is_name(name) or raw is None or len(raw) < 5:
        raise NoteInvalid(reason="a line that is not a signature below the blank line")
    return Signature(name, raw[:4], raw[4:])
