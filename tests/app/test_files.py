"""Files beside the log: two logs in one folder share nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from postsale.agents import RenewalRescue
from postsale.app import PostSale
from postsale.app.files import beside
from postsale.errors import NotAllowed
from postsale.events import ManualClock

from .support import ANNA, NOON, head, paid


@pytest.mark.parametrize(
    ("name", "keys"),
    [("log.db", "log.keys"), ("log", "log.keys"), ("shop.eu", "shop.eu.keys"), ("a.b.db", "a.b.keys"), ("x.sqlite", "x.sqlite.keys")],
)
def test_keys_and_views_carry_the_name_of_their_database(tmp_path: Path, name: str, keys: str) -> None:
    """Only the ending .db is replaced; any other name is kept whole."""
    PostSale.open(f"sqlite:///{tmp_path / name}").close()
    assert (tmp_path / keys).exists()
    assert beside(tmp_path / name, ".views").exists()


def test_two_logs_whose_names_differ_after_the_dot_share_neither_keys_nor_views(tmp_path: Path) -> None:
    """A token of one opens nothing in the other, and opening one does not empty the other's read models."""
    eu, us = (f"sqlite:///{tmp_path / name}" for name in ("shop.eu", "shop.us"))
    with PostSale.open(eu, agents=[RenewalRescue()], clock=ManualClock(NOON)) as one:
        one.tenant("acme").record("cus_1", paid("in_1"))
        one.run_once()
        token = one.issue_token(ANNA.login)
        with PostSale.open(us, agents=[RenewalRescue()], clock=ManualClock(NOON)) as other, pytest.raises(NotAllowed):
            other.authenticate(token)
        assert {p["position"] for p in one.projections()} == {head(one)}
