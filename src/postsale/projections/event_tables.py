"""Events as tables with typed columns, one table per kind, generated from the kinds themselves: what leaves for a warehouse, and frames.

Personal fields are masks whoever asks, and references to customers are pseudonyms, the same as in data sets of training rows. Here
live columns and rows; files are in `export`. Imports datasets' pseudonyms, events, errors; Arrow tables need the extra `table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from postsale.aggregates.artifacts import AgentPaused, AgentResumed, ArtifactActivated, ArtifactRetired, AutonomyChanged
from postsale.aggregates.asked import ApprovalAsked, ApprovalEscalated, ApprovalReplaced, ApprovalSigned
from postsale.aggregates.authority import AuthorityDelegated, DelegationRevoked, RoleGranted, RoleRevoked
from postsale.aggregates.decisions import ApprovalGranted, ApprovalRejected, DecisionOverridden
from postsale.aggregates.identity import AliasLinked, MergedInto, SplitFrom, StreamJoined, StreamParted
from postsale.errors import BadDeclaration
from postsale.events import MASKED, Event, Kind, Recorded, StreamId, canonical, kinds_in, schema_of
from postsale.events.schemas import is_sealed, shape_of
from postsale.projections.datasets import pseudonym
from postsale.projections.training import pyarrow

Type: TypeAlias = Literal["bool", "int", "float", "text", "time", "json", "key", "mask"]
"""What a column holds. `json` is canonical JSON; `key` a pseudonym, 32 hex digits; `mask` is ••• where there is a personal value."""


class Column(NamedTuple):
    """A column of a table of events."""

    name: str
    type: Type
    unit: str = ""
    required: bool = False
    description: str = ""


ENVELOPE: Final = (
    Column("_position", "int", required=True, description="Place in the log; unique, rising."),
    Column("_event_id", "text", required=True, description="Id of the event; unique in the tenant."),
    Column("_key", "key", required=True, description="Pseudonym of the stream's id: of the customer, where _category is customers."),
    Column("_category", "text", required=True, description="What the stream is about: customers, aliases, agents, …"),
    Column("_lane", "text", required=True, description="fact or decision."),
    Column("_version", "int", required=True, description="Place in the stream's lane; of a fact, its position."),
    Column("_wire_name", "text", required=True, description="Kind and version in which the event was stored; it is read as the newest."),
    Column("_occurred_at", "time", required=True, description="When it was true in the world."),
    Column("_recorded_at", "time", required=True, description="When the log knew it; rises with _position."),
    Column("_available_at", "time", description="When it was knowable, as its source claims; backfills only."),
    Column("_origin", "text", required=True, description="live, import or simulation."),
    Column("_source", "text", description="The system that reported it."),
    Column("_actor_kind", "text", required=True, description="person, agent, system or source."),
    Column("_actor", "text", description="Name of the agent, source or part of the system; of a person a pseudonym."),
    Column("_causation_id", "text", description="_event_id of what led to it."),
    Column("_correlation_id", "text", description="_event_id at which the chain began."),
    Column("_depth", "int", required=True, description="Length of the chain; 0 for what came from outside."),
)
"""The columns that every table begins with. No field of an event begins with an underscore."""

_KEYS: Final[dict[type[Event], tuple[str, ...]]] = {
    AliasLinked: ("ref", "account"),
    StreamJoined: ("id",),
    StreamParted: ("id",),
    MergedInto: ("survivor",),
    SplitFrom: ("survivor",),
    ApprovalGranted: ("approver",),
    ApprovalRejected: ("approver", "on_behalf_of"),
    ApprovalAsked: ("editor",),
    ApprovalSigned: ("approver", "on_behalf_of"),
    ApprovalEscalated: ("by",),
    ApprovalReplaced: ("editor", "on_behalf_of"),
    RoleGranted: ("person", "owner"),
    RoleRevoked: ("person", "owner"),
    AuthorityDelegated: ("giver", "taker"),
    DelegationRevoked: ("owner",),
    DecisionOverridden: ("by",),
    AutonomyChanged: ("owner",),
    AgentPaused: ("owner",),
    AgentResumed: ("owner",),
    ArtifactActivated: ("owner", "approver"),
    ArtifactRetired: ("approver",),
}
"""Fields that name a customer or a person at work, which leave as pseudonyms. Names of streams within JSON are found by their form."""

_TYPES: Final[dict[str, Type]] = {"boolean": "bool", "integer": "int", "number": "float", "string": "text"}
_LANES: Final = ("fact", "decision")
_NAMES_HELD: Final = 65_536
_TOGETHER: Final = 65_536


@dataclass(frozen=True, slots=True)
class EventTable:
    """The table of one kind of event, at its newest version."""

    name: str  # of the kind, for SQL: billing__invoice_paid
    kind: Kind
    columns: tuple[Column, ...]  # the envelope's, then the fields in the order of their declaration

    @property
    def wire_name(self) -> str:
        return self.kind.wire_name

    @property
    def version(self) -> int:
        return int(self.wire_name.partition("@")[2])


def event_tables(module: str = "") -> dict[str, EventTable]:
    """The tables of the kinds that this module, or one below it, declares, by kind; "" is all that were imported.

    Raises BadDeclaration for two kinds whose tables would have one name.
    """
    tables: dict[str, EventTable] = {}
    names: dict[str, str] = {}
    for kind in kinds_in(module):
        table = _table(kind)
        wire = kind.wire_name.partition("@")[0]
        if (other := names.setdefault(table.name, wire)) != wire:
            raise BadDeclaration(what=wire, reason=f"its table would have the name of that of {other}: {table.name}")
        tables[wire] = table
    return tables


def table_of(cls: type[Event]) -> EventTable:
    """The table of the kind that this class reads."""
    return event_tables()[cls.wire_name.partition("@")[0]]


def _table(kind: Kind) -> EventTable:
    name = kind.wire_name.partition("@")[0].replace("/", "__").replace("-", "_").replace(".", "_")
    shapes = shape_of(schema_of(kind.cls))["properties"]
    keys = _KEYS.get(kind.cls, ())
    columns = [
        Column(f.name, "key" if f.name in keys else "mask" if f.personal else _type(shapes[f.name]), f.unit, f.required)
        for f in kind.fields
    ]
    return EventTable(name, kind, (*ENVELOPE, *columns))


def _type(shape: Any) -> Type:
    branches = [branch for branch in shape.get("anyOf", [shape]) if branch.get("type") != "null" and not is_sealed(branch)]
    found = {_plain(branch) for branch in branches}
    return found.pop() if len(found) == 1 else "json"


def _plain(shape: Any) -> Type:
    if "enum" in shape:
        return "text" if all(isinstance(value, str) for value in shape["enum"]) else "json"
    if shape.get("format") == "date-time":
        return "time"
    return _TYPES.get(str(shape.get("type")), "json")


# ---------------------------------------------------------------- rows


class Rows:
    """Rows of one table, gathered until they are taken as Arrow. `blind` is the tenant's key that makes pseudonyms."""

    def __init__(self, table: EventTable, blind: bytes) -> None:
        self.table = table
        self._key = lru_cache(_NAMES_HELD)(partial(pseudonym, blind))
        self._fields = table.columns[len(ENVELOPE) :]
        self._rows: list[tuple[Any, ...]] = []
        self.schema = arrow_schema(table)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, recorded: Recorded[Event]) -> None:
        """Take in an event of the table's kind, as `decode` gives it."""
        stored, header, payload = recorded.stored, recorded.header, recorded.data.payload()
        stream, actor = stored.stream, header.actor
        envelope = (
            stored.position,
            str(stored.event_id),
            self._key(stream.id),
            stream.category,
            _LANES[stored.lane],
            stored.version,
            stored.wire_name,
            stored.occurred_at_us,
            stored.recorded_at_us,
            header.available_at_us,
            header.origin.value,
            header.source or None,
            actor.kind,
            self._key(actor.id) if actor.kind == "person" else actor.id,
            None if header.causation_id is None else str(header.causation_id),
            None if header.correlation_id is None else str(header.correlation_id),
            header.depth,
        )
        self._rows.append((*envelope, *(self._cell(column.type, payload.get(column.name), stream) for column in self._fields)))

    def _cell(self, type_: Type, value: Any, stream: StreamId) -> Any:
        if value is None:
            return None
        match type_:
            case "mask":
                return str(MASKED)
            case "key":
                return self._key(value)
            case "json":
                return canonical(self._hidden(value, f"{stream.tenant}/")).decode()
            case "text":
                return value if type(value) is str else str(getattr(value, "value", value))  # an id, a date, a member of an Enum
        return value

    def _hidden(self, value: Any, prefix: str) -> Any:
        """A nested value in which streams are named by category and pseudonym."""
        match value:
            case str() if value.startswith(prefix) and value.count("/") == 2:
                _, category, id_ = value.split("/")
                return f"{category}/{self._key(id_)}"
            case dict():
                return {self._hidden(name, prefix): self._hidden(inner, prefix) for name, inner in value.items()}
            case list() | tuple():
                return [self._hidden(inner, prefix) for inner in value]
            case StreamId():
                return f"{value.category}/{self._key(value.id)}"
        return value

    def take(self) -> Any:
        """The rows as an Arrow table, in the order in which they were added; none are left."""
        pa = pyarrow()
        columns = zip(*self._rows, strict=True) if self._rows else [[] for _ in self.schema]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        self._rows = []
        return pa.table(arrays, schema=self.schema)


def arrow_schema(table: EventTable) -> Any:
    """The Arrow schema of a table. Times are microseconds in UTC."""
    pa = pyarrow()
    text = pa.string()
    of = {
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "text": text,
        "time": pa.timestamp("us", tz="UTC"),
        "json": text,
        "key": text,
        "mask": text,
    }
    return pa.schema([pa.field(c.name, of[c.type], metadata={b"postsale": c.type.encode()}) for c in table.columns])


def event_frame(table: EventTable, events: Iterable[Recorded[Event]], blind: bytes) -> Any:
    """The events of one kind as an Arrow table, exactly as `export` writes them. Memory: the table."""
    pa = pyarrow()
    return pa.concat_tables(_taken(Rows(table, blind), events), promote_options="none").combine_chunks()


def _taken(rows: Rows, events: Iterable[Recorded[Event]]) -> Iterator[Any]:
    for event in events:
        rows.add(event)
        if len(rows) >= _TOGETHER:
            yield rows.take()
    yield rows.take()
