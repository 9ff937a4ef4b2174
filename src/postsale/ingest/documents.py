"""Files of JSON documents: one object, an array, or one object a line (NDJSON). Yields bytes; parses nothing but structure.

Lines are streamed in bounded memory. An array or a single document is held whole, up to DOCUMENT_LIMIT.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from postsale.errors import InvalidInput
from postsale.events import canonical
from postsale.ingest.items import ITEM_LIMIT, KEPT_BYTES
from postsale.ingest.strictjson import parse

DOCUMENT_LIMIT: Final = 268_435_456
_TOKENS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_BOM: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A physical line or a document. When `problem` is set, `raw` may be cut and `content` stands for the whole."""

    number: int
    raw: bytes
    content: bytes
    problem: str | None


def open_file(path: Path, what: str) -> BinaryIO:
    """Open for reading; InvalidInput when that is not possible."""
    try:
        return path.open("rb")
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise InvalidInput(what=what, field="file", reason=f"cannot be read: {reason}")


def lines(file: BinaryIO, limit: int = ITEM_LIMIT) -> Iterator[Line]:
    """Physical lines with their ends, numbered from 1. A line beyond `limit` is read past, in bounded memory, as one problem."""
    number = 0
    while raw := file.readline(limit + 1):
        number += 1
        if len(raw) <= limit:
            yield Line(number, raw, raw, None)
            continue
        whole = hashlib.sha256(raw)
        part = raw
        while part and not part.endswith(b"\n"):
            part = file.readline(limit)
            whole.update(part)
        yield Line(number, raw[:KEPT_BYTES], whole.digest(), f"longer than {limit} bytes")


def documents(path: Path, what: str, unwrap: Callable[[object], Sequence[object] | None] | None = None) -> Iterator[Line]:
    """The JSON texts of a file, numbered from 1 (in NDJSON blank lines do not count). InvalidInput when it cannot be read.

    `unwrap` looks at a single document and gives the items it holds, if it is a list in a wrapper; None when it is not.
    """
    with open_file(path, what) as file:
        shape = "lines" if path.suffix in (".ndjson", ".jsonl") else _shape(file, unwrap)
        file.seek(0)
        if shape == "lines":
            number = 0
            for line in lines(file):
                if line.raw.strip().removeprefix(_BOM):
                    number += 1
                    yield line._replace(number=number)
            return
        text = file.read(DOCUMENT_LIMIT + 1).removeprefix(_BOM)
    if len(text) > DOCUMENT_LIMIT:
        raise InvalidInput(what=what, field="file", reason=f"one document of more than {DOCUMENT_LIMIT} bytes; use one object a line")
    if shape == "array":
        yield from elements(text)
    elif text.strip():
        held = None if unwrap is None else _unwrapped(text, what, unwrap)
        parts = [text] if held is None else [canonical(part) for part in held]
        for number, part in enumerate(parts, 1):
            yield _bounded(number, part)


def _unwrapped(text: bytes, what: str, unwrap: Callable[[object], Sequence[object] | None]) -> Sequence[object] | None:
    try:
        return unwrap(parse(text, what, limit=DOCUMENT_LIMIT))
    except InvalidInput:
        return None  # the document itself is then refused, with the reason


def _shape(file: BinaryIO, unwrap: Callable[[object], Sequence[object] | None] | None) -> str:
    """Look at the first lines: "array", "lines" (some line is an object by itself, not a wrapper), or "document"."""
    first = True
    for line in lines(file):
        start = line.raw.removeprefix(_BOM) if line.number == 1 else line.raw
        if first and start.lstrip().startswith(b"["):
            return "array"
        first = first and not start.strip()
        found = _object(start) if start.startswith(b"{") else None
        if found is not None:
            return "lines" if unwrap is None or unwrap(found) is None else "document"
        if line.number == 1_000:
            break
    return "document"


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = parse(text, "line")
    except InvalidInput:
        return None
    return value if isinstance(value, dict) else None


def elements(text: bytes) -> Iterator[Line]:
    """The elements of one JSON array as bytes. What follows a break in the structure is one problem, the last."""
    depth, start, number, closed = 0, 0, 0, False
    for token in _TOKENS.finditer(text):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            start = token.end() if depth == 1 else start
        elif mark in (b"]", b"}"):
            depth -= 1
        elif mark != b"," or depth != 1:
            continue
        if (depth == 1 and mark == b",") or depth == 0:
            element = text[start : token.start()].strip()
            if element or mark == b"," or number:
                number += 1
                yield _bounded(number, element)
            start = token.end()
        if depth == 0:
            closed = mark == b"]" and not text[start:].strip()
            break
    if not closed:
        rest = text[start:]
        yield Line(number + 1, rest[:KEPT_BYTES], hashlib.sha256(rest).digest(), "the array is broken off or followed by something else")


def _bounded(number: int, raw: bytes) -> Line:
    if len(raw) <= ITEM_LIMIT:
        return Line(number, raw, raw, None)
    return Line(number, raw[:KEPT_BYTES], hashlib.sha256(raw).digest(), f"longer than {ITEM_LIMIT} bytes")
