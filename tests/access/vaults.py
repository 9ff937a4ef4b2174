"""Vaults that are closed at the end of the test that opened them."""

from contextlib import ExitStack, closing
from pathlib import Path

from postsale.access import FileVault

still_open = ExitStack()


def opened(path: Path, *, create: bool = True) -> FileVault:
    return still_open.enter_context(closing(FileVault(path, create=create)))


def in_memory() -> FileVault:
    return still_open.enter_context(closing(FileVault.in_memory()))
