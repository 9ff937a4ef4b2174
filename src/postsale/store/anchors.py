"""Anchors: where checkpoints are kept outside the log. The one here is a file that only grows. Imports checkpoints and errors.

A line of the file is a JSON object with the member `note`: a checkpoint as it was signed. Nothing in it is trusted: who reads it
verifies the signatures, and a line that cannot be read takes nothing from the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import orjson

from postsale.errors import AnchorUnavailable, NoteInvalid
from postsale.store.checkpoints import Checkpoint


class FileAnchor:
    """Checkpoints in a file, of any number of logs. Put it where whoever can write the log cannot: it is as good as its place.

    It is only appended to, with one write a checkpoint, so several processes may share it and the file may be append-only.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def publish(self, checkpoint: Checkpoint) -> None:
        """Append it, on the disk when this returns; nothing when the file has it already. Creates the file, mode 0644."""
        try:
            if self.path.exists() and checkpoint.text in self.notes():
                return
            line = orjson.dumps({"note": checkpoint.text}) + b"\n"
            file = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o644)
            try:
                size = os.fstat(file).st_size
                if size and os.pread(file, 1, size - 1) != b"\n":  # whoever wrote last was stopped in the middle
                    line = b"\n" + line
                if os.write(file, line) != len(line):
                    raise AnchorUnavailable(anchor=self.path.name, reason="not all could be written: the disk is full")
                os.fsync(file)
            finally:
                os.close(file)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise self._unavailable(error) from None

    def latest(self, origin: str) -> Checkpoint | None:
        """The largest checkpoint of this origin, None when there is none, or no file. Lines that are no checkpoint are passed over."""
        newest: Checkpoint | None = None
        notes = list(self.notes()) if self.path.exists() else []
        for note in reversed(notes):  # the last one is nearly always the largest, and reading one costs more than its size
            if note.startswith(origin + "\n") and (newest is None or _size(note) > newest.size):
                try:
                    found = Checkpoint.parse(note)
                except NoteInvalid:
                    continue
                newest = found
        return newest

    def notes(self) -> Iterator[str]:
        """Every note in the file, oldest first, for `verify(…, against=…)`; a line that cannot be read is given as it is.

        A last line without its end is passed over: its checkpoint was never acknowledged. Raises AnchorUnavailable.
        """
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n") and line != b"\n":
                        yield _note(line)
        except OSError as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: OSError) -> AnchorUnavailable:
        return AnchorUnavailable(anchor=self.path.name, reason=error.strerror or type(error).__name__)


def _note(line: bytes) -> str:
    try:
        note = orjson.loads(line)["note"]
    except (ValueError, TypeError, KeyError, IndexError):
        note = None
    return note if isinstance(note, str) else line.decode(errors="replace")


def _size(note: str) -> int:
    line = note.split("\n", 2)[1]
    return int(line) if line.isascii() and line.isdigit() and len(line) < 20 else 0


def _sync_folder(folder: Path) -> None:
    """A new name is durable only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
