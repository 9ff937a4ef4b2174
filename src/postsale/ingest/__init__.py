"""From sources to signals: connectors, mappings, quality gates. Pure: bytes and rows become items; the app records them.

`open_items` reads a file; `stripe.signals`, `stripe.verify` and `cloudevents.signals` take what a web framework received.
May import `store.contract` (types only), `aggregates`, `events` and `errors`.
"""

from postsale.ingest import cloudevents, stripe
from postsale.ingest.items import ITEM_LIMIT, Digest, Item, keyed_digest
from postsale.ingest.mapping import Mapping
from postsale.ingest.quarantine import to_quarantine
from postsale.ingest.sources import KINDS, Kind, count_hint, open_items
from postsale.ingest.table import read_table

__all__ = [
    "ITEM_LIMIT",
    "KINDS",
    "Digest",
    "Item",
    "Kind",
    "Mapping",
    "cloudevents",
    "count_hint",
    "keyed_digest",
    "open_items",
    "read_table",
    "stripe",
    "to_quarantine",
]
