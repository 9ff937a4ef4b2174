"""From a refused item to what the quarantine keeps. Pure: the key and the seal are passed in."""

from __future__ import annotations

from collections.abc import Callable

from postsale.errors import InvalidInput
from postsale.events import canonical
from postsale.ingest.items import Digest, Item
from postsale.store.contract import QuarantineItem


def to_quarantine(
    tenant: str, item: Item, received_at_us: int, seal: Callable[[bytes], bytes], *, digest: Digest, reason: str | None = None
) -> QuarantineItem:
    """The quarantine's record of an item. `reason` replaces the item's own error, as for a ContentConflict.

    The body, sealed, is a file of one item that the same connector reads again: a table's header line and the row, or one JSON
    document (a Parquet row is kept as JSON text: to retry it, ingest the file again). The id is a keyed digest of tenant,
    source, content and reason: the same failure is kept once, and nothing can be guessed from it. InvalidInput when the item
    was not refused and no reason is given.
    """
    if reason is None:
        if item.error is None:
            raise InvalidInput(what="quarantine", field="item", reason="it was not refused and no reason is given")
        reason = str(item.error)
    material = canonical([tenant, item.source, reason]) + item.source_item
    return QuarantineItem(
        id=digest(material)[:32],
        tenant=tenant,
        source=item.source,
        reason=reason,
        received_at_us=received_at_us,
        body=seal(item.context + item.raw),
    )
