"""Who acts: authenticated people. How they were authenticated is a fact that is passed in, never a flag that is believed.

May import `events`, `errors` and the vault only.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from postsale.access.vault import KeyVault
from postsale.errors import InvalidInput, NotAllowed
from postsale.events import Actor, Id, invalid_input

_LOGIN: Final = TypeAdapter(Id)


class Person(NamedTuple):
    """A person and how they proved who they are: `os-user`, `token`, or the name of the caller's own method."""

    login: str
    authenticated_by: str

    @property
    def actor(self) -> Actor:
        return Actor("person", self.login)


def os_user() -> Person:
    """The owner of this process, from the operating system's user database; environment variables are not asked."""
    import pwd

    uid = os.getuid()
    try:
        return Person(pwd.getpwuid(uid).pw_name, "os-user")
    except KeyError:
        return Person(f"uid-{uid}", "os-user")


def _digest(token: str) -> bytes:
    return hashlib.sha256(b"postsale token\x00" + token.encode(errors="surrogatepass")).digest()


def issue_token(vault: KeyVault, login: str) -> str:
    """A new random token for a person; only its digest is kept. Shown once. InvalidInput for a name that no event can hold."""
    try:
        _LOGIN.validate_python(login, strict=True)
    except ValidationError as error:
        raise InvalidInput(what="token", field="login", reason=invalid_input("token", error).reason) from None
    token = "pst_" + secrets.token_urlsafe(32)
    vault.add_token("*", login, _digest(token))
    return token


def authenticate(vault: KeyVault, token: str) -> Person:
    """The person a token belongs to; NotAllowed for any other token."""
    login = vault.token_owner(_digest(token))
    if login is None:
        raise NotAllowed(actor="the bearer of this token", action="act here", reason="the token is not known to this key vault")
    return Person(login, "token")
