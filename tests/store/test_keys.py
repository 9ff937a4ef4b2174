"""A log and its keys belong together: under other keys nothing is recorded, and an auditor without them can still verify."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from tests.app.support import bytes_of, head, opened, paid

from postsale.access import FileVault
from postsale.errors import KeyUnavailable


@pytest.mark.parametrize("beside", ["empty", "another log's"])
def test_a_log_beside_keys_that_are_not_its_own_records_nothing_twice(tmp_path: Path, beside: str) -> None:
    """Under other keys every known id would look new: it is refused, and the log stays as it is; with its own keys it goes on."""
    with opened(tmp_path) as ps:
        ps.tenant("acme").record("cus_1", paid("in_1"))
    keys = tmp_path / "log.keys"
    keys.rename(tmp_path / "safe")
    keys.touch(mode=0o600)
    if beside == "another log's":
        with closing(FileVault(keys)) as other:
            other.tenant("acme")
    before = bytes_of(tmp_path)
    with opened(tmp_path) as ps:
        acme = ps.tenant("acme")
        with pytest.raises(KeyUnavailable, match="other keys"):
            acme.record("cus_1", paid("in_1"))
        with pytest.raises(KeyUnavailable, match="other keys"):
            acme.customer("cus_1")
        assert ps.verify().ok, "an auditor without the keys can still verify"
        assert head(ps) == 2
    assert len(bytes_of(tmp_path)) == len(before)
    (tmp_path / "safe").replace(keys)
    with opened(tmp_path) as ps:
        assert not ps.tenant("acme").record("cus_1", paid("in_1")).stored


def test_one_damaged_event_locks_nobody_out(tmp_path: Path) -> None:
    """Keys are compared with two events, so that a flipped byte in one is for `verify` to name, not a reason to refuse the keys."""
    with opened(tmp_path) as ps:
        acme = ps.tenant("acme")
        acme.record_many([(f"cus_{i}", paid(f"in_{i}")) for i in range(3)])
        key = ps.log.vault.tenant("acme").id.encode()
    log = tmp_path / "log.db"
    raw = bytearray(log.read_bytes())
    raw[raw.rfind(key)] ^= 1
    log.write_bytes(raw)
    with opened(tmp_path) as ps:
        assert not ps.tenant("acme").record("cus_1", paid("in_1")).stored
        assert len(ps.verify().problems) == 1
