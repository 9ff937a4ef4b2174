"""The way in by name: a kind of source and a file give items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingOf
from pathlib import Path
from typing import Final, Literal, get_args

from postsale.errors import InvalidInput, MappingInvalid, Unsupported
from postsale.ingest import cloudevents, stripe
from postsale.ingest.documents import Line, documents, open_file
from postsale.ingest.items import ITEM_LIMIT, Digest, Item, refused
from postsale.ingest.mapping import Mapping
from postsale.ingest.table import read_table

Kind = Literal["stripe", "cloudevents", "table"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)


def open_items(
    kind: Kind,
    path: str | Path,
    mapping: Mapping | None = None,
    *,
    digest: Digest,
    options: stripe.Options = stripe.DEFAULT,
    customer_source: str = "",
) -> Iterator[Item]:
    """The items of a file, in file order, read as they are asked for.

    `stripe`: event envelopes as one object, an array, an API list (`"object": "list"`) or one a line. `cloudevents`: one, an
    array (batch), or one a line. `table`: needs a `mapping`. Bad items come as items with an error; what raises is the file as
    a whole: InvalidInput when it cannot be read, MappingInvalid when it does not fit, Unsupported for another kind.
    """
    path = Path(path)
    if kind == "table":
        if mapping is None:
            raise MappingInvalid(mapping="(none)", where="file", reason="a table needs a mapping")
        return read_table(path, mapping, digest=digest)
    if kind not in KINDS:
        raise Unsupported(what=f"source kind {kind!r}", supported=", ".join(KINDS))
    open_file(path, kind).close()
    if kind == "stripe":
        return _stripe(path, options)
    return _cloudevents(path, customer_source)


def count_hint(kind: Kind, path: str | Path, mapping: Mapping | None = None) -> int | None:
    """About how many items the file holds, for a progress bar; None where only reading it would tell."""
    path = Path(path)
    if kind == "table" and mapping is not None and mapping.format == "parquet":
        from postsale.ingest.rows import parquet_rows

        return parquet_rows(path, mapping.name)
    with open_file(path, kind) as file:
        if kind != "table":
            first = next((line for line in iter(lambda: file.readline(ITEM_LIMIT), b"") if line.strip()), b"").strip()
            if first and not first.endswith(b"}"):  # an array, or one object over several lines
                return None
        file.seek(0)
        count, last = 0, b"\n"
        while block := file.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    count += last != b"\n"
    return max(0, count - 1) if kind == "table" and mapping is not None and mapping.header else count


def _stripe(path: Path, options: stripe.Options) -> Iterator[Item]:
    for line in documents(path, "stripe event", _stripe_list):
        where = f"item {line.number}"
        yield _broken(line, "stripe event", where, stripe.LIVE) or stripe.item(line.raw, options=options, where=where)


def _cloudevents(path: Path, customer_source: str) -> Iterator[Item]:
    for line in documents(path, "cloudevent"):
        where = f"item {line.number}"
        yield _broken(line, "cloudevent", where, "cloudevents") or cloudevents.item(line.raw, customer_source=customer_source, where=where)


def _broken(line: Line, what: str, where: str, source: str) -> Item | None:
    if line.problem is None:
        return None
    return refused(line.content, line.raw, InvalidInput(what=what, field="(whole)", reason=line.problem), where, source)


def _stripe_list(document: object) -> Sequence[object] | None:
    if isinstance(document, MappingOf) and document.get("object") == "list" and isinstance(document.get("data"), list):
        held: list[object] = document["data"]
        return held
    return None
