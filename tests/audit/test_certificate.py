"""The certificate of a replay: what it says, that it is signed over exactly that, and that nothing else passes for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.access import nothing
from postsale.agents import RenewalRescue
from postsale.app import PostSale
from postsale.audit import Certificate, check_certificate
from postsale.audit.certificate import FORMAT
from postsale.errors import NoteInvalid
from postsale.events import ManualClock
from postsale.store import Checkpoint, VerifierKey
from postsale.store.notes import ED25519, sign
from tests.app.support import ANNA, NOON, cancelled, failed, opened, subscribed
from tests.cli.support import run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, VerifierKey, Path]:
    """Of a log in a file: two customers, the shipped agent and health model, a checkpoint in the middle."""
    folder = tmp_path_factory.mktemp("certified")
    with opened(folder, agents=[RenewalRescue()], clock=ManualClock(NOON)) as ps:
        acme = ps.tenant("acme")
        acme.agent("renewal-rescue").propose(reason="so that there are intents", by=ANNA)
        for n in range(2):
            acme.record(f"cus_{n}", subscribed(f"s{n}", mrr_minor=90_000))
            acme.record(f"cus_{n}", failed(f"f{n}", attempt=3))
        ps.run_once()
        ps.checkpoint("acme")
        acme.record("cus_0", cancelled("c0"))
        ps.run_once()
        return acme.certify(), ps.verifier_key("acme"), folder


def test_it_says_what_was_replayed_over_which_log_by_which_code_and_how(made: tuple[Certificate, VerifierKey, Path]) -> None:
    certificate, key, folder = made
    said = certificate.document
    report = certificate.report
    assert certificate.ok
    assert said["format"] == FORMAT
    assert f"postsale/{said['log']}/{said['tenant']}" == key.name
    assert said["counts"] == {"decisions": report.decisions, "same": report.decisions, "different": 0, "unverifiable": 0}
    assert said["word"] == report.word
    assert said["results"] == {"digest": report.results_digest, "lines": report.decisions}
    with opened(folder) as ps:
        assert (said["tree"]["size"], said["tree"]["root"]) == (report.head.size, ps.verify().roots["acme"][1])
    (code,) = said["code"]["deciders"].values()
    assert code["recorded"] == {code["installed"]: report.decisions}
    assert said["code"]["health"]["recorded"].keys() == {said["code"]["health"]["installed"]}
    assert certificate.to_json() == orjson.dumps(said, option=orjson.OPT_SORT_KEYS) + b"\n"


def test_it_is_checked_offline_with_the_logs_key_and_continues_its_checkpoint(made: tuple[Certificate, VerifierKey, Path]) -> None:
    certificate, key, _ = made
    checked = check_certificate(certificate.to_json(), [key])
    assert (checked.ok, checked.clean, checked.reason) == (True, True, "")
    assert checked.checkpoint is not None
    assert 0 < checked.checkpoint.size < certificate.document["tree"]["size"]
    assert checked.to_dict()["counts"] == certificate.document["counts"]


def test_an_auditor_who_may_unseal_nothing_replays_with_the_same_result(made: tuple[Certificate, VerifierKey, Path]) -> None:
    """Arguments are told by their keyed digests."""
    certificate, _, folder = made
    with opened(folder, may_see=nothing) as ps:
        report = ps.tenant("acme").replay_many()
    assert (report.ok, report.results_digest) == (True, certificate.report.results_digest)
    assert report.intents > 0


def test_another_key_no_key_and_no_signature_prove_nothing(made: tuple[Certificate, VerifierKey, Path], tmp_path: Path) -> None:
    certificate, key, folder = made
    other = VerifierKey(key.name, ED25519, bytes(32))
    for keys in ([], [other]):
        assert check_certificate(certificate.to_json(), keys).reason == "it is not signed by a key that was given"
    with opened(folder) as ps:
        unsigned = ps.tenant("acme").certify(sign=False)
    assert unsigned.document["signatures"] == []
    assert not check_certificate(unsigned.to_json(), [key]).ok


def _signed_again(document: dict[str, Any], key: VerifierKey, ps: PostSale) -> bytes:
    """As whoever holds the key could sign anything."""
    text = orjson.dumps({k: v for k, v in document.items() if k != "signatures"}, option=orjson.OPT_SORT_KEYS).decode() + "\n"
    note = sign(text, key, lambda raw: ps.log.vault.sign("acme", raw))
    signed = {**document, "signatures": note.rpartition("\n\n")[2].splitlines()}
    return orjson.dumps(signed, option=orjson.OPT_SORT_KEYS) + b"\n"


def test_a_signed_document_that_cannot_be_true_is_refused(made: tuple[Certificate, VerifierKey, Path]) -> None:
    """Counts that do not add up, a word the sandbox does not carry, a tree that is not the checkpoint's, differences left out."""
    certificate, key, folder = made
    said = certificate.document
    with opened(folder) as ps:
        assert check_certificate(_signed_again(said, key, ps), [key]).ok
        enforced = said["sandbox"]["enforced"]
        for changes, reason in (
            ({"counts": {**said["counts"], "same": 1}}, "its counts do not add up"),
            ({"counts": {**said["counts"], "same": -1, "different": said["counts"]["decisions"] + 1}}, "its counts do not add up"),
            ({"counts": {**said["counts"], "same": 0, "different": said["counts"]["same"]}}, "it does not tell what it counts"),
            ({"counts": {**said["counts"], "same": 0, "unverifiable": said["counts"]["same"]}}, "it does not tell what it counts"),
            ({"word": "checked" if enforced else "certified"}, "of a sandbox that was none of that kind"),
            ({"tree": {**said["tree"], "root": "00" * 32}}, "its tree does not continue its checkpoint"),
            ({"consistency": []}, "its tree does not continue its checkpoint"),
            ({"format": "another"}, "it is not a certificate of this kind"),
            ({"more": 1}, "it is not a certificate of this kind"),
        ):
            checked = check_certificate(_signed_again({**said, **changes}, key, ps), [key])
            assert not checked.ok, changes
            assert reason in checked.reason


def test_every_changed_byte_of_it_is_noticed(made: tuple[Certificate, VerifierKey, Path]) -> None:
    certificate, key, _ = made
    raw = certificate.to_json()
    for at in range(0, len(raw), max(1, len(raw) // 199)):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        assert not check_certificate(changed, [key]).ok, at
    assert not check_certificate(raw[:-1], [key]).ok
    assert not check_certificate(json.dumps(certificate.document, indent=1), [key]).ok


@given(
    st.one_of(
        st.binary(max_size=200), st.text(max_size=200), st.dictionaries(st.text(max_size=8), st.integers(), max_size=5).map(json.dumps)
    )
)
def test_whatever_is_given_is_answered(document: bytes | str) -> None:
    """Never an exception."""
    key = VerifierKey("postsale/x/acme", ED25519, bytes(32))
    assert not check_certificate(document, [key]).ok


def test_a_certificate_never_passes_for_a_checkpoint(made: tuple[Certificate, VerifierKey, Path]) -> None:
    """One key signs both: the texts cannot be taken for one another."""
    certificate, _, _ = made
    said = certificate.document
    text = orjson.dumps({k: v for k, v in said.items() if k != "signatures"}, option=orjson.OPT_SORT_KEYS).decode()
    with pytest.raises(NoteInvalid):
        Checkpoint.parse(f"{text}\n\n{said['signatures'][0]}\n")


# ---------------------------------------------------------------- the command line


def test_the_command_line_replays_a_range_writes_a_certificate_and_checks_it(
    made: tuple[Certificate, VerifierKey, Path], tmp_path: Path
) -> None:
    certificate, key, folder = made
    db, file = f"sqlite:///{folder / 'log.db'}", tmp_path / "certificate.json"
    done = run("decision", "replay", "--all", "--certificate", str(file), "--db", db)
    assert done.code == 0, done.err
    assert f"decisions {certificate.report.decisions}" in done.out
    assert "The same bytes" in done.out
    checked = run("log", "check-certificate", str(file), "--key", str(key))
    assert checked.code == 0, checked.out
    assert "Nothing differs" in checked.out
    assert run("log", "check-certificate", str(file), "--key", str(key), "--json").json()["clean"] is True
    file.write_bytes(file.read_bytes().replace(b'"different":0', b'"different":1'))
    refused = run("log", "check-certificate", str(file), "--key", str(key))
    assert refused.code == 1
    assert "No certificate" in refused.out


def test_the_command_line_asks_which_decisions(made: tuple[Certificate, VerifierKey, Path]) -> None:
    _, _, folder = made
    db = f"sqlite:///{folder / 'log.db'}"
    for which in ((), ("--all", "--agent", "renewal-rescue"), ("last", "--all"), ("--from", "tomorrow")):
        assert run("decision", "replay", *which, "--db", db).code == 2, which
    said = run("decision", "replay", "--agent", "renewal-rescue", "--from", f"{NOON:%Y-%m-%d}", "--json", "--db", db).json()
    assert said["ok"]
    assert sum(said["counts"].values()) == said["decisions"] > 0
    assert run("log", "check-certificate", "no-such-file", "--key", "x").code == 2


def test_a_difference_is_a_table_a_person_can_read_and_status_1(made: tuple[Certificate, VerifierKey, Path], tmp_path: Path) -> None:
    """One decision whose stored reason was altered, by somebody who can write the file."""
    import shutil

    from tests.app.support import execute
    from tests.app.test_promises import triggers_of

    _, _key, folder = made
    for name in ("log.db", "log.keys"):
        shutil.copy(folder / name, tmp_path / name)
    path = tmp_path / "log.db"
    change = 'UPDATE events SET data = CAST(replace(CAST(data AS TEXT), \'"rationale":"\', \'"rationale":"Not \') AS BLOB)'
    execute(path, *(f"DROP TRIGGER {name}" for name in triggers_of(path)), change)
    done = run("decision", "replay", "--all", "--db", f"sqlite:///{path}")
    assert done.code == 1
    assert "rationale" in done.out
    assert "Different" in done.out
    bound = run("decision", "replay", "--all", "--certificate", str(tmp_path / "c.json"), "--db", f"sqlite:///{path}")
    assert bound.code == 1
    assert "LogDamaged" in bound.err
    assert not (tmp_path / "c.json").exists()
