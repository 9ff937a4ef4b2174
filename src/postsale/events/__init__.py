"""Events: the envelope, the registry of wire names, field types, personal fields, ids and clocks.

Knows no particular kind of event and no store. Imports only the errors.
"""

from postsale.events.clock import DAY_US, SECOND_US, Clock, ManualClock, SystemClock, from_us, iso, iso_of, to_us
from postsale.events.envelope import SYSTEM, Actor, FactHeaders, Header, NewEvent, Origin, Recorded, StoredEvent, Unseal, decode
from postsale.events.evolution import Finding, check_schemas, write_schemas
from postsale.events.fields import MAX_INT, AmountMinor, Count, Currency, Id, Int, Text, UtcDatetime, minor_digits
from postsale.events.ids import SYSTEM_TENANT, Lane, StreamId, check_tenant, derive_id, uuid_of
from postsale.events.model import (
    MASKED,
    SEALED,
    Event,
    Masked,
    Personal,
    Registry,
    canonical,
    decode_payload,
    encode_payload,
    invalid_input,
    registry,
    stored_fields,
    to_json,
)
from postsale.events.schemas import FieldOf, Kind, kinds_in, schema_digest, schema_of

__all__ = [
    "DAY_US",
    "MASKED",
    "MAX_INT",
    "SEALED",
    "SECOND_US",
    "SYSTEM",
    "SYSTEM_TENANT",
    "Actor",
    "AmountMinor",
    "Clock",
    "Count",
    "Currency",
    "Event",
    "FactHeaders",
    "FieldOf",
    "Finding",
    "Header",
    "Id",
    "Int",
    "Kind",
    "Lane",
    "ManualClock",
    "Masked",
    "NewEvent",
    "Origin",
    "Personal",
    "Recorded",
    "Registry",
    "StoredEvent",
    "StreamId",
    "SystemClock",
    "Text",
    "Unseal",
    "UtcDatetime",
    "canonical",
    "check_schemas",
    "check_tenant",
    "decode",
    "decode_payload",
    "derive_id",
    "encode_payload",
    "from_us",
    "invalid_input",
    "iso",
    "iso_of",
    "kinds_in",
    "minor_digits",
    "registry",
    "schema_digest",
    "schema_of",
    "stored_fields",
    "to_json",
    "to_us",
    "uuid_of",
    "write_schemas",
]
