"""How kinds may change: a stored version never does. The folder of schemas is the history; this compares it with the code.

A version is read in two directions: code of today reads bytes of all times, and in a rolling deploy code of yesterday reads bytes
of today. Events forbid unknown fields, so even one more optional field stops the second. Hence the rule: prose may change, and
nothing else. Imports the registry and the schemas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from postsale.errors import BreakingChange, InvalidInput
from postsale.events.model import Registry, registry, version_of
from postsale.events.schemas import NULL, Schema, is_sealed, schema_of, schema_text, shape_of, worded

Breaks = Literal["stored", "rolling", "history"]
"""`stored`: events in the log would be unreadable or mean something else. `rolling`: processes that still run the old code would
refuse new events. `history`: a version is declared whose schema nobody has kept yet."""

Change = tuple[str, Breaks]

_MORE_IS_WIDER: Final = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_LESS_IS_WIDER: Final = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_LISTS: Final = ("oneOf", "allOf", "prefixItems")
_APART: Final = frozenset(
    {"type", "format", "$ref", "properties", "required", "additionalProperties", "items", "propertyNames", "default", "anyOf", *_LISTS}
)
_REFUSED: Final = "which code that knows this version as it was refuses"
_OTHERWISE: Final = "{} is read in another way than before"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a check of schemas fails."""

    wire_name: str
    what: str
    breaks: Breaks
    todo: str

    def __str__(self) -> str:
        return f"{self.wire_name}: {self.what} — {self.todo}"

    def to_dict(self) -> dict[str, str]:
        return {"wire_name": self.wire_name, "what": self.what, "breaks": self.breaks, "todo": self.todo}


# ---------------------------------------------------------------- the folder


def file_name(wire_name: str) -> str:
    """`area/what@1` is kept in `area.what@1.json`."""
    return wire_name.replace("/", ".") + ".json"


def stored_schemas(folder: Path) -> dict[str, dict[str, Any]]:
    """The schemas that a folder holds, by wire name; a folder that does not exist holds none. InvalidInput names a bad file."""
    out: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        area, dot, what = path.stem.rpartition(".")
        wire_name = f"{area}/{what}"
        try:
            schema = orjson.loads(path.read_bytes())
            shape_of(schema)
            version_of(wire_name)
        except (ValueError, KeyError, TypeError, AttributeError):
            dot = ""
        if not dot:
            raise InvalidInput(
                what="schemas", field=path.name, reason="expected the schema of a kind, area.what@1.json, as `write` makes it"
            )
        out[wire_name] = schema
    return out


def check_schemas(folder: Path, module: str, known: Registry = registry) -> list[Finding]:
    """Compare the kinds that an imported module declares with the history in a folder; [] is good.

    Every stored version must still be read, and in the shape it had; every declared version must be stored. One folder holds the
    kinds of one module and of those below it. Raises BadDeclaration for versions from which no chain of upcasters leads to the
    newest, InvalidInput for a bad file or when there are no kinds at all.
    """
    kept = stored_schemas(folder)
    kinds = set(known.kinds(module))
    if not kept and not kinds:
        raise InvalidInput(what="schemas", field="module", reason=f"{module} declares no kind of event, and there is no history of any")
    known.check_chains(sorted(kinds | {name.partition("@")[0] for name in kept if name in known}))
    out: list[Finding] = []
    for wire_name, schema in kept.items():
        cls = known.declared(wire_name)
        if cls is not None:
            out += [Finding(wire_name, what, breaks, _advice(wire_name, known)) for what, breaks in changes(schema, schema_of(cls))]
        elif wire_name not in known:
            todo = "keep its class, or add an upcaster from it"
            out.append(Finding(wire_name, "nothing reads it any more, and stored events would be unreadable", "stored", todo))
    for cls in known.classes(module):
        if cls.wire_name not in kept:
            missing = f"{file_name(cls.wire_name)} is not there"
            out.append(Finding(cls.wire_name, missing, "history", "write the schemas and commit them"))
    return out


def write_schemas(folder: Path, module: str, known: Registry = registry) -> list[Path]:
    """Write the schema of each version that a module declares; returns the files that changed.

    Raises BreakingChange, and writes nothing, when a stored version would change: history is not healed by writing it again.
    A version that no log holds yet is taken back by deleting its file. Raises what `check_schemas` raises.
    """
    breaking = [f"  {finding}" for finding in check_schemas(folder, module, known) if finding.breaks != "history"]
    if breaking:
        raise BreakingChange(changes="\n".join(breaking))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for cls in known.classes(module):
        path, text = folder / file_name(cls.wire_name), schema_text(cls)
        if not path.is_file() or path.read_bytes() != text.encode():
            path.write_bytes(text.encode())
            written.append(path)
    return written


def _advice(wire_name: str, known: Registry) -> str:
    newest = known.versions(wire_name.partition("@")[0])[-1]
    if newest != wire_name:
        return f"put it back as it was; what is new belongs into @{version_of(newest)} or a later one"
    return f"declare @{version_of(newest) + 1} and an upcaster"


# ---------------------------------------------------------------- what changed


def changes(old: Schema, new: Schema) -> list[Change]:
    """What differs between two schemas of one version, in words, and what that breaks; [] exactly when their shapes are equal."""
    return list(_compare("", shape_of(old), shape_of(new)))


def _compare(path: str, old: Schema, new: Schema) -> Iterator[Change]:
    """What changed at a path: "" is the event, `a.b` a field, `a[]` its items, `a.*` its values."""
    if _same(old, new):
        return
    before, after = _branches(old), _branches(new)
    found = [*_marks(path, old, new), *_keywords(path, _around(old), _around(new))]
    if len(before) == len(after):
        for a, b in zip(before, after, strict=True):
            found += _single(path, a, b)
    else:
        found.append(_became(path, old, new))
    yield from found or [(_OTHERWISE.format(_at(path)), "stored")]


def _same(a: Any, b: Any) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)  # in Python, 1 and True would be equal


def _at(path: str) -> str:
    return f"field `{path}`" if path else "the event"


def _became(path: str, old: Schema, new: Schema) -> Change:
    if worded(old) == worded(new):
        return _OTHERWISE.format(_at(path)), "stored"
    return f"{_at(path)} was {worded(old)}, is now {worded(new)}", "stored"


def _branches(shape: Schema) -> list[Schema]:
    """The alternatives of a value, less null and the sealed form."""
    return [b for b in shape["anyOf"] if b != NULL and not is_sealed(b)] if "anyOf" in shape else [shape]


def _around(shape: Schema) -> Schema:
    """What is said about all alternatives together."""
    return {k: v for k, v in shape.items() if k != "anyOf"} if "anyOf" in shape else {}


def _marks(path: str, old: Schema, new: Schema) -> Iterator[Change]:
    """Personal or not, null or not."""
    (personal, null), (personal_now, null_now) = (
        (any(map(is_sealed, shape.get("anyOf", ()))), NULL in shape.get("anyOf", ())) for shape in (old, new)
    )
    if personal != personal_now:
        yield f"{_at(path)} {'is now' if personal_now else 'is no longer'} personal", "stored"
    if null and not null_now:
        yield f"{_at(path)} may no longer be null", "stored"
    if null_now and not null:
        yield f"{_at(path)} may now be null, {_REFUSED}", "rolling"


def _single(path: str, old: Schema, new: Schema) -> Iterator[Change]:
    """One alternative, as it was and as it is."""
    values = "enum" in old and "enum" in new  # allowed values may be of several types
    if any(old.get(k) != new.get(k) for k in ("format", "$ref")) or (old.get("type") != new.get("type") and not values):
        yield _became(path, old, new)
        return
    yield from _fields(path, old, new)
    for key, inner in (("items", f"{path}[]"), ("propertyNames", f"{path} (its keys)"), ("additionalProperties", f"{path}.*")):
        a, b = old.get(key, True), new.get(key, True)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _compare(inner, a, b)
        elif (a, b) == (False, True):
            yield f"{_at(path)} now takes unknown fields, {_REFUSED}", "rolling"
        elif (a, b) == (True, False):
            yield f"{_at(path)} no longer takes unknown fields", "stored"
        elif a != b:
            yield _became(path, old, new)
    for key in _LISTS:
        a, b = old.get(key, ()), new.get(key, ())
        if len(a) != len(b):
            yield _became(path, old, new)
        else:
            for one, other in zip(a, b, strict=True):
                yield from _compare(path, one, other)
    yield from _keywords(path, old, new)


def _fields(path: str, old: Schema, new: Schema) -> Iterator[Change]:
    """Fields of an object: gone, renamed, new, required, what a missing one means, and each one's own changes."""
    before, after = old.get("properties", {}), new.get("properties", {})
    needed, needed_now = set(old.get("required", ())), set(new.get("required", ()))
    prefix = f"{path}." if path else ""
    gone, fresh = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    for name in gone:
        alike = [n for n in fresh if after[n] == before[name]]
        if len(alike) == 1 and sum(before[n] == before[name] for n in gone) == 1:
            fresh.remove(alike[0])
            yield f"{_at(prefix + name)} is now called `{alike[0]}`", "stored"
        else:
            yield f"{_at(prefix + name)} is gone", "stored"
    for name in fresh:
        if name in needed_now:
            yield f"{_at(prefix + name)} is new and required: stored events do not have it", "stored"
        else:
            yield f"{_at(prefix + name)} is new, {_REFUSED}", "rolling"
    for name in sorted(before.keys() & after.keys()):
        field = _at(prefix + name)
        a, b = ({k: v for k, v in shape[name].items() if k != "default"} for shape in (before, after))
        default, default_now = (_default(shape[name]) for shape in (before, after))
        if name in needed_now - needed:
            yield f"{field} was optional, is now required", "stored"
        elif name in needed - needed_now:
            yield f"{field} was required, is now optional: code that knows it as required refuses events without it", "rolling"
        elif default != default_now:
            yield f"{field} meant {default} where it is missing, now means {default_now}", "stored"
        yield from _compare(prefix + name, a, b)


def _keywords(path: str, old: Schema, new: Schema) -> Iterator[Change]:
    """Bounds, patterns, allowed values, checks and options."""
    for key in sorted((old.keys() | new.keys()) - _APART):
        a, b = old.get(key), new.get(key)
        if _same(a, b):
            continue
        if key == "x-validators":
            yield f"{_at(path)} was validated by {_said(a)}, is now validated by {_said(b)}", "stored"  # a validator may change values
        elif key == "enum" and a is not None and b is not None:
            for value in (v for v in a if not any(_same(v, other) for other in b)):
                yield f"{_at(path)} no longer takes {value!r}", "stored"
            for value in (v for v in b if not any(_same(v, other) for other in a)):
                yield f"{_at(path)} now takes {value!r}, {_REFUSED}", "rolling"
        elif _wider(key, a, b):
            yield f"{_at(path)}: {key} was {_said(a)}, is now {_said(b)}: more is taken, {_REFUSED}", "rolling"
        else:
            yield f"{_at(path)}: {key.removeprefix('x-')} was {_said(a)}, is now {_said(b)}", "stored"


def _wider(key: str, old: Any, new: Any) -> bool:
    """Whether everything that was accepted still is, and means the same."""
    if old is None or new is None:
        return new is None and not key.startswith("x-")
    return (key in _MORE_IS_WIDER and new > old) or (key in _LESS_IS_WIDER and new < old)


def _default(shape: Schema) -> str:
    return json.dumps(shape["default"], sort_keys=True) if "default" in shape else "a computed value"


def _said(value: Any) -> str:
    if value is None:
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value)
