"""Files beside the log: two logs in one folder share nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.agents import RenewalRescue
from postsale.app import PostSale
from postsale.app.files import beside, keys_path, shown
from postsale.errors import InvalidInput, NotAllowed, Unsupported
from postsale.events import ManualClock

from .support import ANNA, NOON, Where, head, opened, paid


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


# ---------------------------------------------------------------- a server has no beside


SERVER = "postgresql://me@host/base"


@given(
    user=st.text("abc.-_%2", min_size=1, max_size=8),
    secret=st.text(st.characters(codec="utf-8", exclude_characters="&\x00"), min_size=6, max_size=20),
    scheme=st.sampled_from(["postgresql", "postgres"]),
    how=st.integers(0, 2),
)
def test_a_url_is_never_shown_with_its_password(user: str, secret: str, scheme: str, how: int) -> None:
    """Wherever it stands, also one that should have been percent-encoded; the rest is shown."""
    secret = f"<{secret}>"
    url = [
        f"{scheme}://{user}:{secret}@host:5432/base?application_name=x",
        f"{scheme}://{user}@host/base?connect_timeout=3&password={secret}&application_name=x",
        f"{scheme}://{user}:{secret}@/base?host=/run/x&sslpassword={secret}",
    ][how]
    assert secret not in shown(url)
    assert user in shown(url)


@pytest.mark.parametrize("url", ["sqlite:///a@b/x:y.db", "memory:", "postgresql:///base", "postgresql://host:5432/base", SERVER])
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert shown(url) == url


def test_keys_of_a_log_on_a_server_are_where_the_argument_or_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins; without both it is an error that names both, before anything is connected to."""
    monkeypatch.setenv("POSTSALE_KEYS", "/etc/postsale.keys")
    assert keys_path(SERVER, "own.keys") == Path("own.keys")
    assert keys_path(SERVER, None) == Path("/etc/postsale.keys")
    for value in ("", None):
        monkeypatch.setenv("POSTSALE_KEYS", value) if value is not None else monkeypatch.delenv("POSTSALE_KEYS")
        with pytest.raises(InvalidInput, match=r"keys=PATH.*POSTSALE_KEYS") as caught:
            PostSale.open("postgresql://me:secret@127.0.0.1:1/base")
        assert "secret" not in str(caught.value)


def test_keys_of_any_other_log_have_their_place_and_are_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's are the server's; an argument is refused, and no file is made."""
    monkeypatch.setenv("POSTSALE_KEYS", str(tmp_path / "server.keys"))
    PostSale.open(f"sqlite:///{tmp_path / 'log.db'}").close()
    assert not (tmp_path / "server.keys").exists()
    for url in (f"sqlite:///{tmp_path / 'other.db'}", "memory:"):
        with pytest.raises(InvalidInput, match="keys"):
            PostSale.open(url, keys=tmp_path / "x.keys")
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("url", ["postsale.db", "sqlite:/postsale.db", "postgresql+psycopg://me:secret@host/base"])
def test_of_a_url_of_no_kind_the_url_is_told_to_be_wrong_and_not_the_keys(url: str) -> None:
    with pytest.raises(Unsupported, match="postgresql://host/database") as caught:
        PostSale.open(url, keys="own.keys")
    assert "secret" not in str(caught.value)


def test_the_scheme_of_another_librarys_url_is_named() -> None:
    with pytest.raises(Unsupported, match=r"the scheme 'postgresql\+psycopg'"):
        PostSale.open("postgresql+psycopg://me:secret@host/base")


def test_views_may_be_kept_elsewhere(lasting: Where, tmp_path: Path) -> None:
    """In a file or in memory; the log's own place stays empty, and any other place is refused."""
    with opened(lasting, views=f"sqlite:///{tmp_path / 'fast.views'}") as ps:
        ps.tenant("acme").record("cus_1", paid("in_1"))
        assert ps.run_once().folded == 1
        assert [info.checkpoint for info in ps.views.views() if "!" not in info.view] == [head(ps)]
    with opened(lasting) as ps:
        assert ps.views.views() == []
    with opened(lasting, views="memory:") as ps:
        assert ps.run_once().folded == 1
    for place in ("postgresql://elsewhere/x", "fast.views", "redis://x"):
        with pytest.raises(Unsupported):
            opened(lasting, views=place)
