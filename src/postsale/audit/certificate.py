"""The certificate of a replay: a JSON document of what was made again, over which log, by which code, in which sandbox; signed, if wanted.

Format `postsale-replay-certificate@1`: canonical JSON (sorted keys, integers, no floats) and a newline; `docs/how-to/certify-a-replay.md`
tells its members. Signatures are those of a signed note (c2sp.org/signed-note) whose text is the document without its member
`signatures`, and a newline. May import everything below `audit`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from postsale.agents.agent import package_version
from postsale.audit.replay_compare import REASONS, TAKEN_AS_RECORDED
from postsale.audit.replay_report import ReplayReport, told
from postsale.errors import NoteInvalid
from postsale.events import canonical
from postsale.projections.health import HealthModel
from postsale.store.checkpoints import Checkpoint, latest_checkpoint, origin_of, tree_of, verifier_key
from postsale.store.log import Log
from postsale.store.notes import ED25519, Note, VerifierKey, sign
from postsale.store.proofs import verify_consistency

FORMAT: Final = "postsale-replay-certificate@1"
MAX_BYTES: Final = 16_000_000
_LISTED: Final = 1_000  # differences that the document tells in full; it counts all
_MEMBERS: Final = frozenset(
    {
        "format", "log", "tenant", "scope", "tree", "checkpoint", "consistency", "word", "sandbox", "counts", "unverifiable",
        "unverifiable_values", "taken_as_recorded", "different", "strays", "code", "results", "made_at_us", "signatures",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Certificate:
    """A report as a document."""

    report: ReplayReport
    document: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Nothing differs."""
        return self.report.ok

    def to_json(self) -> bytes:
        """The document to hand out; `check_certificate` reads it."""
        return canonical(self.document) + b"\n"


def certificate(log: Log, report: ReplayReport, model: HealthModel | None, *, signed: bool) -> Certificate:
    """The certificate of a replay that was bound to the tree. Signed by the tenant's key, which signs checkpoints, too.

    The newest checkpoint that the log keeps goes with it, with the proof that the tree continues it. Raises KeyUnavailable, NoteInvalid.
    """
    head = report.head
    kept = latest_checkpoint(log.store, report.tenant)
    kept = kept if kept is not None and 0 < kept.size <= head.size else None
    proof = [] if kept is None else tree_of(log.store, report.tenant).consistency(kept.size, head.size)
    document: dict[str, Any] = {
        "format": FORMAT,
        "log": report.log_id,
        "tenant": report.tenant,
        "scope": report.scope.to_dict(),
        "tree": {"position": head.position, "size": head.size, "root": head.root.hex()},
        "checkpoint": kept.text if kept is not None else None,
        "consistency": [hash_.hex() for hash_ in proof],
        "word": report.word,
        "sandbox": {"name": report.sandbox.name, "enforced": report.sandbox.enforced},
        "counts": {"decisions": report.decisions, **{name: report.counts[name] for name in ("same", "different", "unverifiable")}},
        "unverifiable": {reason: report.reasons[reason] for reason in REASONS if report.reasons[reason]},
        "unverifiable_values": {reason: report.values[reason] for reason in REASONS if report.values[reason]},
        "taken_as_recorded": list(TAKEN_AS_RECORDED),
        "different": [told(outcome) for outcome in report.different[:_LISTED]],
        "strays": [{"position": position, "what": what} for position, what in report.strays],
        "code": {
            "package": package_version(),
            "python": platform.python_version(),
            "deciders": {
                name: {"recorded": dict(digests), "installed": report.installed.get(name)} for name, digests in report.deciders.items()
            },
            "health": {"recorded": dict(report.models), "installed": model.digest if model is not None else None},
        },
        "results": {"digest": report.results_digest, "lines": report.decisions},
        "made_at_us": log.clock.now_us(),
        "signatures": [],
    }
    if signed:
        key = verifier_key(log.store, log.vault, report.tenant)
        note = sign(_text(document), key, partial(log.vault.sign, report.tenant))
        document["signatures"] = note.rpartition("\n\n")[2].splitlines()
    return Certificate(report, document)


def _text(document: dict[str, Any]) -> str:
    """What is signed. One line: a checkpoint has three or more, so that neither can pass for the other."""
    return canonical({name: value for name, value in document.items() if name != "signatures"}).decode() + "\n"


# ---------------------------------------------------------------- checked without the log


@dataclass(frozen=True, slots=True)
class CheckedCertificate:
    """The outcome of a check. Only with `ok` does the document say anything; whether something differed is `clean`."""

    ok: bool
    reason: str = ""  # why not
    document: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None

    @property
    def clean(self) -> bool:
        """Genuine, and nothing that could be had again differed."""
        return self.ok and self.document is not None and not self.document["counts"]["different"] and not self.document["strays"]

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        if not self.ok or self.document is None:
            return {"ok": False, "reason": self.reason}
        return {"ok": True, "clean": self.clean, **{name: self.document[name] for name in sorted(_MEMBERS - {"format", "signatures"})}}


def check_certificate(document: bytes | str, keys: Iterable[VerifierKey]) -> CheckedCertificate:
    """Whether a document is a certificate that the log of one of these keys signed, and whether it is one within itself.

    Needs no log and trusts nothing in the document. Whatever it holds, the answer is a CheckedCertificate.
    """
    try:
        found = _parse(document)
        origin = origin_of(found["log"], found["tenant"])
        own = [key for key in keys if key.type == ED25519 and key.name == origin]
        if not Note.parse(_text(found) + "\n" + "".join(f"{line}\n" for line in found["signatures"])).signed_by(own):
            return CheckedCertificate(False, "it is not signed by a key that was given")
        reason, checkpoint = _inconsistent(found, origin, own)
    except NoteInvalid as error:
        return CheckedCertificate(False, f"its signature: {error.reason}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, MemoryError) as error:
        return CheckedCertificate(False, f"it is not a certificate of this kind ({type(error).__name__})")
    return CheckedCertificate(False, reason) if reason else CheckedCertificate(True, "", found, checkpoint)


def _inconsistent(found: dict[str, Any], origin: str, keys: list[VerifierKey]) -> tuple[str, Checkpoint | None]:
    """Why it cannot be true, "" when it can; and its checkpoint."""
    counts, tree = found["counts"], found["tree"]
    parts = [counts[name] for name in ("same", "different", "unverifiable")]
    numbers = [*parts, counts["decisions"], tree["size"], tree["position"], *found["unverifiable"].values()]
    if any(type(n) is not int or n < 0 for n in numbers) or sum(parts) != counts["decisions"] or found["results"]["lines"] != sum(parts):
        return "its counts do not add up", None
    if len(found["different"]) != min(counts["different"], _LISTED) or (counts["unverifiable"] and not found["unverifiable"]):
        return "it does not tell what it counts", None
    if found["word"] != ("certified" if found["sandbox"]["enforced"] is True else "checked"):
        return f"it says {str(found['word'])[:20]!r} of a sandbox that was none of that kind", None
    if found["checkpoint"] is None:
        return "", None
    checkpoint = Checkpoint.parse(found["checkpoint"])
    if checkpoint.origin != origin or not checkpoint.note.signed_by(keys):
        return "its checkpoint is not one of its log", None
    path = [bytes.fromhex(hash_) for hash_ in found["consistency"]]
    if not verify_consistency(checkpoint.size, checkpoint.root, tree["size"], bytes.fromhex(tree["root"]), path):
        return "its tree does not continue its checkpoint", None
    return "", checkpoint


def _parse(document: bytes | str) -> dict[str, Any]:
    """ValueError, TypeError or KeyError for what is none, and for one in other bytes than its own."""
    raw = document.encode() if isinstance(document, str) else document
    if len(raw) > MAX_BYTES:
        raise ValueError("too long")
    found = json.loads(raw)
    if not isinstance(found, dict) or found.keys() != _MEMBERS or found["format"] != FORMAT:
        raise ValueError("another format")
    if type(found["log"]) is not str or type(found["tenant"]) is not str or type(found["signatures"]) is not list:
        raise TypeError("another type")
    if canonical(found) + b"\n" != raw:  # also a member twice: of two readers each would see another one
        raise ValueError("not in canonical form")
    return found
