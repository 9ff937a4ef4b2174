"""Keys of tests: an Ed25519 pair under a name, which signs as a log or cosigns as a witness, by the published formats."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from postsale.store.notes import COSIGNATURE, ED25519, VerifierKey


@dataclass
class Pair:
    """A private key made from the name, so that a test that fails can be repeated."""

    name: str

    @property
    def private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(sha256(self.name.encode()).digest())

    @property
    def key(self) -> VerifierKey:
        return VerifierKey(self.name, ED25519, self.private.public_key().public_bytes_raw())

    @property
    def witness_key(self) -> VerifierKey:
        return self.key._replace(type=COSIGNATURE)

    def line(self, text: str) -> str:
        """A log's signature line, written out from c2sp.org/signed-note."""
        key_id = sha256(self.name.encode() + b"\n\x01" + self.key.public).digest()[:4]
        return f"\u2014 {self.name} {base64.b64encode(key_id + self.private.sign(text.encode())).decode()}\n"

    def cosigned(self, text: str, time_s: int) -> str:
        """A witness's signature line, written out from c2sp.org/tlog-cosignature."""
        key_id = sha256(self.name.encode() + b"\n\x04" + self.key.public).digest()[:4]
        signature = self.private.sign(b"cosignature/v1\ntime %d\n" % time_s + text.encode())
        return f"\u2014 {self.name} {base64.b64encode(key_id + struct.pack('>Q', time_s) + signature).decode()}\n"
