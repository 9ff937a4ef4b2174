"""The key file: private, durable, shared by processes, and a typed error whenever it cannot be used."""

import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from postsale.access import FileVault, Person, authenticate, issue_token, os_user
from postsale.errors import KeyUnavailable, NotAllowed
from tests.nursery import Fork

from .vaults import in_memory, opened

TENANT, SUBJECT = "acme", "person-1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "postsale.keys"


@pytest.fixture
def private_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def use(vault: FileVault) -> dict[str, Callable[[], object]]:
    """Every way to use a vault."""
    return {
        "tenant": lambda: vault.tenant("new-tenant"),
        "read": lambda: vault.subjects(TENANT, [SUBJECT], create=False),
        "create": lambda: vault.subjects(TENANT, [SUBJECT], create=True),
        "destroy": lambda: vault.destroy(TENANT, SUBJECT),
        "verifier": lambda: vault.verifier("new-tenant", create=True),
        "sign": lambda: vault.sign("new-tenant", b"message"),
        "issue": lambda: issue_token(vault, "maria"),
        "authenticate": lambda: authenticate(vault, "pst_unknown"),
    }


with closing(FileVault.in_memory()) as _vault:
    USES = list(use(_vault))

# ---------------------------------------------------------------- the file


@pytest.mark.usefixtures("private_umask")
def test_the_key_file_is_private_even_where_the_umask_hides_nothing(path: Path) -> None:
    vault = opened(path)
    vault.tenant(TENANT)
    assert oct(path.stat().st_mode & 0o777) == oct(0o600)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666, 0o660, 0o601])
def test_a_key_file_that_others_may_use_is_refused_and_the_message_says_how_to_mend_it(path: Path, mode: int) -> None:
    opened(path).close()
    path.chmod(mode)
    with pytest.raises(KeyUnavailable, match=f"mode is {mode:04o}.*chmod 600 postsale.keys"):
        opened(path)
    path.chmod(0o600)
    opened(path).tenant(TENANT)


def test_a_missing_key_file_beside_a_log_that_needs_it_is_refused_and_not_made_anew(path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="missing"):
        opened(path, create=False)
    assert not path.exists()
    opened(path).close()
    opened(path, create=False).tenant(TENANT)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 40, b"SQLite format 3\x00" + bytes(100)])
def test_a_file_that_is_no_key_file_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(KeyUnavailable):
        opened(path).tenant(TENANT)
    assert path.read_bytes() == content


def test_a_place_where_no_file_can_be_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "no such folder" / "keys", tmp_path / "file" / "keys", tmp_path / ("x" * 300), tmp_path):
        with pytest.raises(KeyUnavailable):
            opened(path)


@pytest.mark.parametrize("how", USES)
def test_a_closed_vault_is_a_typed_error(path: Path, how: str) -> None:
    vault = opened(path)
    vault.close()
    with pytest.raises(KeyUnavailable):
        use(vault)[how]()


@pytest.mark.parametrize("how", USES)
def test_a_vault_whose_file_was_overwritten_is_a_typed_error(path: Path, how: str) -> None:
    vault = opened(path)
    vault.tenant(TENANT)
    path.write_bytes(os.urandom(path.stat().st_size))
    with pytest.raises(KeyUnavailable):
        use(vault)[how]()


@pytest.mark.parametrize("how", [how for how in USES if how not in {"read", "authenticate"}])
def test_a_vault_that_another_process_keeps_locked_is_a_typed_error_and_works_again_afterwards(path: Path, how: str) -> None:
    vault = opened(path)
    vault._db.execute("PRAGMA busy_timeout=1")  # the one thing a test may not wait for
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(KeyUnavailable, match=r"postsale\.keys"):
        use(vault)[how]()
    other.execute("ROLLBACK")
    other.close()
    vault.tenant(TENANT)
    assert set(vault.subjects(TENANT, [SUBJECT], create=True)) == {SUBJECT}


def test_keys_survive_closing_and_a_destroyed_key_stays_destroyed(path: Path) -> None:
    vault = opened(path)
    tenant, keys = vault.tenant(TENANT), vault.subjects(TENANT, [SUBJECT, "person-2"], create=True)
    vault.destroy(TENANT, SUBJECT)
    vault.destroy(TENANT, SUBJECT)
    vault.destroy(TENANT, "never seen")
    vault.close()
    again = opened(path)
    assert again.tenant(TENANT) == tenant
    assert again.subjects(TENANT, [SUBJECT, "person-2", "never seen"], create=False) == {"person-2": keys["person-2"]}
    for gone in (SUBJECT, "never seen"):
        with pytest.raises(KeyUnavailable):
            again.subjects(TENANT, [gone], create=True)


def test_a_destroyed_key_is_not_left_in_the_file(path: Path) -> None:
    vault = opened(path)
    refs = [f"person-{n}" for n in range(200)]
    keys = {ref: key.key for ref, key in vault.subjects(TENANT, refs, create=True).items()}
    assert all(key in path.read_bytes() for key in keys.values())
    for ref in refs[::3]:
        vault.destroy(TENANT, ref)
    left = {ref for ref, key in keys.items() if key[:8] in path.read_bytes() or key[-8:] in path.read_bytes()}
    assert left == set(refs) - set(refs[::3])
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no journal that still holds them


def test_many_subjects_are_found_in_one_call(path: Path) -> None:
    vault = opened(path)
    refs = [f"person-{n}" for n in range(1_203)]
    keys = vault.subjects(TENANT, refs, create=True)
    assert list(vault.subjects(TENANT, iter(refs), create=False).items()) == list(keys.items())
    assert len({k.key for k in keys.values()}) == len(refs)


def test_threads_that_ask_at_once_get_the_same_keys(path: Path) -> None:
    vault = opened(path)
    barrier, got = threading.Barrier(8), []

    def ask() -> None:
        barrier.wait()
        got.append((vault.tenant(TENANT), vault.subjects(TENANT, [SUBJECT], create=True)[SUBJECT]))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len(set(got)) == 1


def test_a_key_that_another_writer_made_between_looking_and_making_is_the_one_that_counts(path: Path) -> None:
    ours, theirs = opened(path), opened(path)
    made: list[object] = []

    def just_before_we_write(statement: str) -> None:
        if statement.startswith("BEGIN") and not made:
            made.append(theirs.subjects(TENANT, [SUBJECT], create=True)[SUBJECT])

    ours._db.set_trace_callback(just_before_we_write)
    assert [ours.subjects(TENANT, [SUBJECT], create=True)[SUBJECT]] == made
    assert theirs.subjects(TENANT, [SUBJECT], create=True)[SUBJECT] == made[0]


def test_a_key_that_was_destroyed_between_looking_and_making_is_not_made(path: Path) -> None:
    ours, theirs = opened(path), opened(path)
    ours._db.set_trace_callback(lambda statement: theirs.destroy(TENANT, SUBJECT) if statement.startswith("BEGIN") else None)
    with pytest.raises(KeyUnavailable, match="erasure"):
        ours.subjects(TENANT, [SUBJECT], create=True)


def test_a_tenants_signatures_verify_under_its_public_key_which_survives_closing(path: Path) -> None:
    vault = opened(path)
    assert vault.verifier(TENANT, create=False) is None
    public, other = vault.verifier(TENANT, create=True), vault.verifier("globex", create=True)
    assert public is not None
    assert public != other
    Ed25519PublicKey.from_public_bytes(public).verify(vault.sign(TENANT, b"message"), b"message")
    vault.close()
    again = opened(path)
    assert again.verifier(TENANT, create=False) == again.verifier(TENANT, create=True) == public
    Ed25519PublicKey.from_public_bytes(public).verify(again.sign(TENANT, b"message"), b"message")


def test_a_signing_key_that_another_writer_made_between_looking_and_making_is_the_one_that_counts(path: Path) -> None:
    ours, theirs = opened(path), opened(path)
    made: list[object] = []

    def just_before_we_write(statement: str) -> None:
        if statement.startswith("INSERT") and not made:
            made.append(theirs.verifier(TENANT, create=True))

    ours._db.set_trace_callback(just_before_we_write)
    assert [ours.verifier(TENANT, create=True)] == made
    assert theirs.verifier(TENANT, create=False) == made[0]


def test_a_damaged_signing_key_is_a_typed_error(path: Path) -> None:
    vault = opened(path)
    vault.verifier(TENANT, create=True)
    vault._db.execute("UPDATE signing_keys SET seed = x'00'")
    for use_it in (lambda: vault.verifier(TENANT, create=True), lambda: vault.sign(TENANT, b"message")):
        with pytest.raises(KeyUnavailable, match="signing key"):
            use_it()


def test_a_key_file_made_before_there_were_signing_keys_gets_them(path: Path) -> None:
    vault = opened(path)
    keys = vault.tenant(TENANT)
    vault._db.execute("DROP TABLE signing_keys")
    vault.close()
    assert opened(path, create=False).tenant(TENANT) == keys
    assert opened(path, create=False).verifier(TENANT, create=True)


# ---------------------------------------------------------------- processes

ASK = """
import sys
from postsale.access import FileVault
sys.stdin.readline()  # all start together
vault = FileVault(sys.argv[1])
for n in range(25):
    key = vault.subjects("acme", [f"person-{n}"], create=True)[f"person-{n}"]
    print(key.id, key.key.hex(), vault.tenant("acme").dedup.hex(), vault.tenant(f"t{n}").id, flush=True)
"""


def test_processes_that_make_keys_for_the_same_subjects_at_once_get_the_same_keys(path: Path) -> None:
    assert not path.exists()  # they race for making the file, too
    pipe = subprocess.PIPE
    workers = [Fork("-c", ASK, path, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(3)]
    said = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        out, err = worker.communicate()
        assert (worker.returncode, err) == (0, "")
        said.append(out.splitlines())
    assert len(said[0]) == 25
    assert said[0] == said[1] == said[2]


MAKE = """
import sys
from postsale.access import FileVault
vault = FileVault(sys.argv[1])
n = 0
while True:
    n += 1
    key = vault.subjects("acme", [f"person-{n}"], create=True)[f"person-{n}"]
    print(n, key.id, key.key.hex(), vault.tenant(f"t{n}").id, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 30])
def test_every_key_that_was_handed_out_is_there_after_sigkill(path: Path, lines: int) -> None:
    with Fork("-c", MAKE, path, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        said = [worker.stdout.readline() for _ in range(lines)]
        worker.send_signal(signal.SIGKILL)
        said += worker.stdout.readlines()  # what it said before the signal reached it
    assert worker.returncode == -signal.SIGKILL
    vault = opened(path, create=False)
    whole = [line.split() for line in said if line.endswith("\n")]
    assert len(whole) >= lines
    for number, key_id, key, tenant_id in whole:
        kept = vault.subjects("acme", [f"person-{number}"], create=False)[f"person-{number}"]
        assert (kept.id, kept.key.hex(), vault.tenant(f"t{number}").id) == (key_id, key, tenant_id)
    assert vault.subjects("acme", ["after"], create=True)


# ---------------------------------------------------------------- people


def test_a_token_proves_who_its_bearer_is_and_only_its_digest_is_kept(path: Path) -> None:
    vault = opened(path)
    token = issue_token(vault, "maria")
    assert authenticate(vault, token) == Person("maria", "token")
    assert str(authenticate(vault, token).actor) == "person:maria"
    assert token.encode() not in path.read_bytes()
    assert issue_token(vault, "maria") != token
    vault.close()
    assert authenticate(opened(path), token).login == "maria"


@pytest.mark.parametrize("wrong", ["", "pst_", "maria", "pst_\x00", "é", "\udcff", "x" * 10_000], ids=lambda t: ascii(t)[:12])
def test_any_other_token_is_refused_and_not_repeated(wrong: str) -> None:
    vault = in_memory()
    token = issue_token(vault, "maria")
    for attempt in (wrong, token[:-1], token + " ", token.upper()):
        with pytest.raises(NotAllowed) as caught:
            authenticate(vault, attempt)
        assert len(attempt) < 6 or attempt not in str(caught.value)


def test_the_user_of_the_operating_system_is_not_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    before = os_user()
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER"):
        monkeypatch.setenv(name, "somebody-else")
    assert os_user() == before == Person(pwd.getpwuid(os.getuid()).pw_name, "os-user")


def test_a_user_without_a_name_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_001)
    assert os_user() == Person("uid-4000000001", "os-user")


def test_keys_that_many_threads_wait_for_are_made_in_one_commit(path: Path) -> None:
    def commits() -> int:
        return int.from_bytes(path.read_bytes()[24:28])  # SQLite's file change counter

    with closing(FileVault(path)) as vault, closing(sqlite3.connect(path, isolation_level=None)) as other:
        before = commits()
        other.execute("BEGIN IMMEDIATE")  # nobody can make a key now
        got: dict[int, bytes] = {}

        def ask(who: int) -> None:
            got[who] = vault.subjects(TENANT, [f"person-{who}"], create=True)[f"person-{who}"].key

        threads = [threading.Thread(target=ask, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        while len(vault._asked) < 8:
            assert time.monotonic() < end, "the threads did not come to ask"
        other.execute("ROLLBACK")
        for thread in threads:
            thread.join()
        assert commits() - before == 1
        assert len(set(got.values())) == 8
    with closing(FileVault(path)) as again:
        kept = again.subjects(TENANT, [f"person-{who}" for who in range(8)], create=False)
        assert {who: kept[f"person-{who}"].key for who in range(8)} == got
