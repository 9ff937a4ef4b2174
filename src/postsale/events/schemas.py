"""The shape of each version of a kind: its JSON Schema, the digest that events carry, and the list of kinds that people read.

What a schema says is what decoding does: JSON Schema, and under `x-…` what JSON Schema has no word for. How shapes may change
is in `evolution.py`. Imports the registry.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from postsale.events.ids import Lane
from postsale.events.model import SEALED, Event, Registry, registry

Schema = Mapping[str, Any]

_PROSE: Final = frozenset({"title", "description", "examples", "deprecated", "$comment", "$defs"})
_LISTS: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_MAPS: Final = frozenset({"properties", "patternProperties"})
_INNER: Final = frozenset({"items", "additionalProperties", "propertyNames"})
NULL: Final[Schema] = {"type": "null"}
_OPTIONS: Final = ("strict", "tz_constraint", "now_op", "strip_whitespace", "to_lower", "to_upper", "coerce_numbers_to_str")
_UNITS: Final = {
    "minor": "minor units",
    "us": "µs",
    "ms": "ms",
    "s": "s",
    "min": "min",
    "days": "days",
    "ppm": "ppm",
    "micro": "millionths",
}


class _Decoding(GenerateJsonSchema):
    """JSON Schema, and beside it what else pydantic does when it reads: functions by name, and options that change what is accepted."""

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        out = super().generate_inner(schema)
        more = {f"x-{option}": schema[option] for option in _OPTIONS if option in schema}
        if schema["type"] == "model":
            config = schema.get("config", {})
            if not config.get("strict"):
                more["x-strict"] = False
            more |= {f"x-{key}": value for key, value in config.items() if key.startswith(("str_", "coerce_")) and value}
        if schema["type"].startswith("function-"):
            function = schema["function"]["function"]
            more["x-validators"] = [*out.get("x-validators", ()), getattr(function, "__qualname__", type(function).__qualname__)]
        return {**out, **more}


def schema_of(cls: type[Event]) -> dict[str, Any]:
    """JSON Schema of a version. `x-validators` names the functions that look at a value after its type."""
    schema = cls.model_json_schema(schema_generator=_Decoding)
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    if name and f'"#/$defs/{name}"' not in json.dumps(schema["$defs"]):  # referred to from nowhere else: stands at the top
        top, rest = schema["$defs"].pop(name), {k: v for k, v in schema.items() if k != "$ref" and (k != "$defs" or v)}
        return {**top, **rest}
    return schema


def shape_of(schema: Schema) -> dict[str, Any]:
    """A schema in normal form: without prose, definitions in their place, what has no order sorted. Equal shapes read the same."""
    return _shape(schema, schema.get("$defs", {}), ())  # type: ignore[no-any-return]


def _shape(node: Any, definitions: Schema, within: tuple[str, ...]) -> Any:
    if isinstance(node, bool):
        return node
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        if name in within:
            return {"$ref": len(within) - within.index(name)}  # so many definitions further out: names of classes are no shape
        validators = [*definitions[name].get("x-validators", ()), *node.get("x-validators", ())]
        node = {
            **definitions[name],
            **{k: v for k, v in node.items() if k != "$ref"},
            **({"x-validators": validators} if validators else {}),
        }
        return _shape(node, definitions, (*within, name))

    def inner(value: Any) -> Any:
        return _shape(value, definitions, within)

    out: dict[str, Any] = {}
    for key, value in node.items():
        if key in _PROSE:
            continue
        if key in _MAPS:
            out[key] = {name: inner(v) for name, v in value.items()}
        elif key in _LISTS:
            out[key] = [inner(v) for v in value]
            if key == "anyOf":
                out[key].sort(key=lambda branch: branch == NULL)  # the place of null alone does not matter
        elif key in _INNER:
            out[key] = inner(value)
        elif key in {"enum", "required"}:
            out[key] = sorted(value, key=json.dumps)
        elif key == "const":
            out["enum"] = [value]
        elif key == "discriminator":
            out[key] = value["propertyName"]
        else:
            out[key] = value
    return out


@functools.cache
def schema_digest(cls: type[Event]) -> bytes:
    """16-byte BLAKE2b of the wire name and its shape: which shape the writer believed in. Prose does not count."""
    return hashlib.blake2b(json.dumps([cls.wire_name, shape_of(schema_of(cls))], sort_keys=True).encode(), digest_size=16).digest()


def schema_text(cls: type[Event]) -> str:
    """The schema as a file holds it."""
    return orjson.dumps(schema_of(cls), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n"


# ---------------------------------------------------------------- for people


def is_sealed(shape: Schema) -> bool:
    """Whether this is the branch of a union that makes a field personal."""
    return set(shape.get("properties", ())) == {SEALED}


def worded(shape: Schema) -> str:
    """A shape in a few words, such as `integer`, `string (date-time) or null`, `one of 'a', 'b'`."""
    if "enum" in shape:
        return "one of " + ", ".join(map(repr, shape["enum"]))
    for key in ("anyOf", "oneOf", "allOf"):
        if key in shape:
            return " or ".join(worded(branch) for branch in shape[key] if not is_sealed(branch))
    match shape.get("type"):
        case None:
            return "the same again" if "$ref" in shape else "anything"
        case "array":
            return f"array of {worded(shape['items'])}" if "items" in shape else "array"
        case "object" if isinstance(shape.get("additionalProperties"), dict):
            return f"object of {worded(shape['additionalProperties'])}"
        case kind:
            return f"{kind} ({shape['format']})" if "format" in shape else str(kind)


@dataclass(frozen=True, slots=True)
class FieldOf:
    """One stored field of a kind."""

    name: str
    type: str  # in the words of JSON Schema
    unit: str  # from the ending of the name: `_s`, `_minor`, …; "" without one
    personal: bool
    required: bool


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of event as people look it up."""

    wire_name: str  # of the newest version
    versions: tuple[str, ...]  # every wire name that can be read, the newest last
    cls: type[Event]
    lane: Lane  # facts come from sources, decisions are taken here
    description: str
    fields: tuple[FieldOf, ...]  # without those of the envelope

    @property
    def module(self) -> str:
        return self.cls.__module__

    def to_dict(self) -> dict[str, Any]:
        fields = [{"name": f.name, "type": f.type, "unit": f.unit, "personal": f.personal, "required": f.required} for f in self.fields]
        return {
            "wire_name": self.wire_name,
            "versions": list(self.versions),
            "module": self.module,
            "lane": self.lane.name.lower(),
            "description": self.description,
            "fields": fields,
        }


def kinds_in(module: str = "", known: Registry = registry) -> list[Kind]:
    """The kinds that this module, or one below it, declares, by wire name; "" is all that were imported."""
    newest = ((known.declared(names[-1]), tuple(names)) for names in map(known.versions, known.kinds(module)))
    return [_kind(cls, names) for cls, names in newest if cls is not None]


def _kind(cls: type[Event], versions: tuple[str, ...]) -> Kind:
    shape = shape_of(schema_of(cls))
    required = shape.get("required", ())
    types = {name: worded(shape["properties"][name]) for name in cls.model_fields if name not in cls.envelope_fields}
    fields = tuple(
        FieldOf(name, type_, _unit(name, type_, types.keys()), name in cls.personal_fields, name in required)
        for name, type_ in types.items()
    )
    lane = Lane.FACT if cls.envelope_fields else Lane.DECISION
    return Kind(cls.wire_name, versions, cls, lane, inspect.cleandoc(cls.__doc__ or ""), fields)


def _unit(name: str, type_: str, names: Collection[str]) -> str:
    """The unit that a number's name ends with; "" when it names none. Beside `x_max`, `x_min` is a minimum and no minutes."""
    stem, underscore, ending = name.rpartition("_")
    is_number = underscore and type_.startswith(("integer", "number"))
    return _UNITS.get(ending, "") if is_number and not (ending == "min" and f"{stem}_max" in names) else ""
