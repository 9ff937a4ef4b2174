"""What an event is: the base model, personal fields, and the registry of wire names. Types of fields are in `fields.py`.

Facts are an open registry: subclass, give a wire name, done. Nothing here knows a particular kind of event.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Final, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import core_schema

from postsale.errors import BadDeclaration, InvalidInput, UnknownWireName, UpcastFailed

_FIELD = re.compile(r"[A-Za-z0-9_$]{1,64}\Z")
_BRANCHES: Final = frozenset({"bool", "int", "str", "float", "none"})  # what pydantic calls the branches of a union
_WIRE = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*/[a-z0-9-]+@[1-9][0-9]{0,3}\Z")
_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER | orjson.OPT_UTC_Z


def canonical(value: object) -> bytes:
    """JSON with sorted keys and integers below 2^53: the one byte form that is hashed, compared and sealed."""
    # Copied, because orjson's own object is the front of a kilobyte: many kept ones cost malloc twenty times what encoding costs.
    return b"%b" % orjson.dumps(value, option=_CANONICAL)


# ---------------------------------------------------------------- personal fields


class Masked:
    """What a reader without the right (or after erasure) sees in place of a personal value."""

    _only: ClassVar[Masked | None] = None

    def __new__(cls) -> Masked:
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    def __reduce__(self) -> tuple[Any, ...]:
        return (Masked, ())

    def __repr__(self) -> str:
        return "•••"

    __str__ = __repr__

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        field = core_schema.typed_dict_field(core_schema.str_schema())
        sealed = core_schema.typed_dict_schema({SEALED: field}, extra_behavior="forbid")
        masked = core_schema.no_info_after_validator_function(lambda _: MASKED, sealed)
        either = core_schema.json_or_python_schema(masked, core_schema.union_schema([core_schema.is_instance_schema(cls), masked]))
        return core_schema.custom_error_schema(either, custom_error_type=_NOT_MASKED, custom_error_message="not a sealed value")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        return {"type": "object", "properties": {SEALED: {"type": "string"}}, "required": [SEALED], "additionalProperties": False}


SEALED: Final = "$sealed"
_NOT_MASKED: Final = "not_masked"  # the error of the branch that sealed values take: never the one to report
MASKED: Final = Masked()


class _PersonalMark:
    def __repr__(self) -> str:
        return "Personal"


T = TypeVar("T")
_MARK: Final = _PersonalMark()
Personal = Annotated[Masked | T, Field(union_mode="left_to_right"), _MARK]  # a sealed value is masked, whatever T accepts
"""A field about a person: sealed under the subject's key before it is stored, `MASKED` to whoever may not unseal it."""


# ---------------------------------------------------------------- events


class Event(BaseModel):
    """Something that happened, immutable. Subclasses declare `wire_name`, which is the storage format, for ever.

    To change fields, declare `…@2` and register an upcaster; never edit a stored version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    wire_name: ClassVar[str]
    envelope_fields: ClassVar[frozenset[str]] = frozenset()  # kept in the envelope, not in `data`
    personal_fields: ClassVar[frozenset[str]] = frozenset()  # derived from `Personal[...]`
    _not_in_data: ClassVar[set[str]] = set()  # `envelope_fields` as pydantic takes them

    def __init__(self, /, **data: Any) -> None:
        try:
            self.__pydantic_validator__.validate_python(data, self_instance=self)
            return
        except ValidationError as error:
            refusal = invalid_input(type(self).__name__, error)
        raise refusal  # out here, because pydantic's error, as context, would carry the input

    # Tells pydantic that this __init__ only validates, so that decoding does not go through it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "wire_name" in cls.model_fields:
            raise BadDeclaration(what=cls.__qualname__, reason="wire_name belongs to the class; annotate it with ClassVar[str]")
        if "wire_name" not in cls.__dict__ and hasattr(cls, "wire_name"):
            raise BadDeclaration(what=cls.__qualname__, reason=f"it inherits the wire name {cls.wire_name!r}; give it one of its own")
        cls._not_in_data = set(cls.envelope_fields)
        cls.personal_fields = frozenset(name for name, info in cls.model_fields.items() if _is_personal_info(info, cls, name))
        if "wire_name" in cls.__dict__:
            for name, info in cls.model_fields.items():
                if _takes_none(info.annotation) and (info.is_required() or info.default is not None):
                    raise BadDeclaration(
                        what=f"{cls.__qualname__}.{name}", reason="None is not stored: a field that may be None needs the default None"
                    )
            registry.add(cls)

    @property
    def kind(self) -> str:
        """The wire name without its version: what policies and features name."""
        return self.wire_name.partition("@")[0]

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """For logs and tracebacks, which are no place for personal values."""
        for name, value in super().__repr_args__():
            yield name, MASKED if name in self.personal_fields and value is not None else value

    def payload(self) -> dict[str, Any]:
        """The fields that are stored as `data`: everything but the envelope's, unset optional fields left out."""
        return self.__pydantic_serializer__.to_python(self, exclude=self._not_in_data, exclude_none=True)  # type: ignore[no-any-return]


def _is_personal(annotation: Any, cls: type, name: str, *, top: bool = True, within: tuple[type, ...] = ()) -> bool:
    """Whether a field is `Personal[...]` or `Personal[...] | None`; refuses the mark anywhere deeper, where it would be stored in the clear."""
    if _MARK in getattr(annotation, "__metadata__", ()):
        if not top:
            raise BadDeclaration(what=f"{cls.__name__}.{name}", reason="Personal[...] must be the outermost type of its field")
        return True
    if hasattr(annotation, "__value__"):  # a `type` alias
        return _is_personal(annotation.__value__, cls, name, top=top, within=within)
    if isinstance(annotation, type) and annotation not in within:  # types may hold themselves
        inner = (*within, annotation)
        if any(_is_personal(field, annotation, n, within=inner) for n, field in _nested(annotation).items()):
            raise BadDeclaration(what=f"{cls.__name__}.{name}", reason="a nested type has Personal[...] fields; move them to the event")
    optional = get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation)
    return any(_is_personal(arg, cls, name, top=top and optional, within=within) for arg in get_args(annotation))


def _nested(annotation: type) -> dict[str, Any]:
    """The fields of a model, dataclass, TypedDict or NamedTuple with their types; of any other type none."""
    if issubclass(annotation, BaseModel):
        return {n: Annotated[i.annotation, *i.metadata] if i.metadata else i.annotation for n, i in annotation.model_fields.items()}
    if any(hasattr(annotation, mark) for mark in ("__dataclass_fields__", "__total__", "_fields")):
        return get_type_hints(annotation, include_extras=True)
    return {}


def _is_personal_info(info: Any, cls: type, name: str) -> bool:
    return _MARK in info.metadata or _is_personal(info.annotation, cls, name)


def _takes_none(annotation: Any) -> bool:
    annotation = getattr(annotation, "__value__", annotation)  # a `type` alias
    if get_origin(annotation) is Annotated:
        return _takes_none(get_args(annotation)[0])
    union = get_origin(annotation) in (Union, UnionType)
    return any(map(_takes_none, get_args(annotation))) if union else annotation in (None, type(None), Any)


def invalid_input(what: str, error: ValidationError) -> InvalidInput:
    """The first problem of a pydantic error as our typed error: the field's path and a reason, never the value."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    first = next((e for e in found if e["type"] != _NOT_MASKED), found[0])
    # Branches of unions are no fields, and a key may itself be personal: what does not look like a field's name is left out.
    names = [str(part) for part in first["loc"] if _FIELD.match(str(part)) and part not in _BRANCHES]
    path = ".".join(names) or ("(unknown field)" if first["loc"] else "(whole)")
    reason = "expected one of the known tags" if first["type"] == "union_tag_invalid" else first["msg"]
    return InvalidInput(what=what, field=path, reason=reason.removeprefix("Value error, "))


def encode_payload(event: Event) -> bytes:
    """Canonical JSON of the payload; InvalidInput names the field that JSON cannot carry exactly."""
    what = type(event).__name__
    if not hasattr(event, "wire_name"):
        raise BadDeclaration(what=what, reason="it has no wire name, so it cannot be stored")
    fields = event.payload()
    try:
        raw = canonical(fields)
    except (orjson.JSONEncodeError, TypeError):
        return to_json(what, fields, canonical)
    return _finite(what, fields, raw)


def to_json(what: str, fields: Mapping[str, object], dumps: Callable[[object], bytes] = orjson.dumps) -> bytes:
    """JSON of fields, never with a value changed on the way; InvalidInput names the field that JSON cannot carry exactly."""
    try:
        raw = dumps(fields)
    except (orjson.JSONEncodeError, TypeError):
        for name, value in fields.items():
            try:
                dumps(value)
            except (orjson.JSONEncodeError, TypeError):
                raise InvalidInput(
                    what=what, field=_field_name(name), reason="expected valid Unicode text, integers below 2^53, and JSON types"
                ) from None
        raise InvalidInput(what=what, field="(unknown field)", reason="expected text as names of fields") from None
    return _finite(what, fields, raw)


def _finite(what: str, fields: Mapping[str, object], raw: bytes) -> bytes:
    """`raw`, the JSON of fields; InvalidInput names the one that it does not carry."""
    if b"null" in raw:  # how orjson writes NaN and infinity
        for name, value in fields.items():
            if not _is_finite(value):
                raise InvalidInput(what=what, field=_field_name(name), reason="expected a finite number")
    return raw


_ALWAYS_FINITE: Final = frozenset({str, int, bool, NoneType, datetime, UUID})  # passed over without a call: nearly all there is


def _is_finite(value: object) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(map(_is_finite, [v for v in value.values() if type(v) not in _ALWAYS_FINITE]))
        case list() | tuple():
            return all(map(_is_finite, [v for v in value if type(v) not in _ALWAYS_FINITE]))
    return True


def _field_name(name: object) -> str:
    return name if isinstance(name, str) and _FIELD.match(name) else "(unknown field)"


# ---------------------------------------------------------------- the registry

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


class Registry:
    """Wire names and the classes that read them. An allow-list: a stored name is looked up here and never imported."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Event]] = {}
        self._upcasters: dict[str, tuple[str, Upcaster]] = {}

    def add(self, cls: type[Event]) -> None:
        """Register a kind. The same wire name for another class is a BadDeclaration."""
        name = cls.wire_name
        if not _WIRE.match(name):
            raise BadDeclaration(what=cls.__qualname__, reason=f"wire name {name!r} is not of the form area/what-happened@1")
        known = self._classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise BadDeclaration(
                what=cls.__qualname__, reason=f"wire name {name!r} already belongs to {known.__module__}.{known.__qualname__}"
            )
        self._classes[name] = cls

    def upcaster(self, old: str, new: str) -> Callable[[Upcaster], Upcaster]:
        """Decorate a pure function that turns the stored fields of `old` into those of `new` (the next version)."""

        def register(function: Upcaster) -> Upcaster:
            what = f"upcaster {old} → {new}"
            if not (_WIRE.match(old) and _WIRE.match(new)):
                raise BadDeclaration(what=what, reason="both must be wire names of the form area/what-happened@1")
            (old_kind, _, old_version), (new_kind, _, new_version) = old.partition("@"), new.partition("@")
            if old_kind != new_kind or int(new_version) <= int(old_version):
                raise BadDeclaration(what=what, reason="must lead to a later version of the same kind")
            known = self._upcasters.get(old)
            if known is not None and _place(known[1]) != _place(function):
                raise BadDeclaration(what=what, reason=f"there is one from {old} already: {'.'.join(_place(known[1]))}")
            self._upcasters[old] = (new, function)
            return function

        return register

    def __contains__(self, wire_name: str) -> bool:
        return wire_name in self._classes or wire_name in self._upcasters

    def __iter__(self) -> Any:
        return iter(sorted(self._classes))

    def get(self, wire_name: str, position: int | None = None) -> type[Event]:
        """The class that reads this wire name (after upcasting); UnknownWireName when there is none."""
        name = wire_name
        while name in self._upcasters:
            name = self._upcasters[name][0]
        try:
            return self._classes[name]
        except KeyError:
            raise UnknownWireName(wire_name=wire_name, position=position) from None

    def upcast(self, wire_name: str, fields: Mapping[str, Any], position: int | None = None) -> dict[str, Any]:
        """Fields of a stored version as the current version's, JSON types; UpcastFailed names the event and the step.

        Each step gets a copy of its own and gives JSON, so that no upcaster can change what its caller or another one holds.
        """
        return orjson.loads(self._upcast(wire_name, to_json(wire_name, fields, canonical), position))  # type: ignore[no-any-return]

    def _upcast(self, wire_name: str, data: bytes, position: int | None) -> bytes:
        step = wire_name
        while step in self._upcasters:
            newer, function = self._upcasters[step]
            try:
                fields = orjson.loads(data)
            except orjson.JSONDecodeError:
                fields = None
            if not isinstance(fields, dict):
                raise not_json(wire_name, position)
            failed = partial(UpcastFailed, wire_name=wire_name, position=position, step=step)
            try:
                fields = function(fields)
            except Exception as error:  # any defect of a user's function becomes one typed error
                # Not chained: the message of the cause may repeat a value, and values may be personal.
                raise failed(reason=f"{type(error).__name__} {_last_line(error)}") from None
            if not isinstance(fields, dict):
                raise failed(reason=f"a result of type {type(fields).__name__}, not dict")
            try:
                data = to_json(wire_name, fields, canonical)
            except InvalidInput as error:
                raise failed(reason=f"field {error.field}: {error.reason}") from None
            step = newer
        return data

    def is_current(self, wire_name: str) -> bool:
        return wire_name not in self._upcasters

    def versions(self, kind: str) -> list[str]:
        """The wire names of a kind that a class or an upcaster knows, the newest last."""
        names = {*self._classes, *self._upcasters, *(newer for newer, _ in self._upcasters.values())}
        return sorted((name for name in names if name.partition("@")[0] == kind), key=version_of)

    def declared(self, wire_name: str) -> type[Event] | None:
        """The class that declares exactly this version."""
        return self._classes.get(wire_name)

    def classes(self, module: str = "") -> list[type[Event]]:
        """The classes, by wire name, that this module or one below it declares; "" is all."""
        return [self._classes[name] for name in self if _is_in(module, self._classes[name])]

    def kinds(self, module: str = "") -> list[str]:
        """The kinds, by name, of which a class or an upcaster is declared in this module or in one below it; "" is all."""
        names = [cls.wire_name for cls in self.classes(module)]
        names += [name for name, (_, function) in self._upcasters.items() if _is_in(module, function)]
        return sorted({name.partition("@")[0] for name in names})

    def check_chains(self, kinds: Iterable[str]) -> None:
        """That every version of these kinds is read as the newest one; BadDeclaration names a version from which no chain leads there."""
        for kind in kinds:
            *_, newest = names = self.versions(kind)
            for name in names:
                last = name
                while last in self._upcasters:
                    last = self._upcasters[last][0]
                if last != newest:
                    raise BadDeclaration(what=name, reason=f"no upcaster leads from {last} towards {newest}")
            if newest not in self._classes:
                raise BadDeclaration(what=newest, reason="upcasters lead to it, and no class declares it")


def version_of(wire_name: str) -> int:
    return int(wire_name.partition("@")[2])


def _is_in(module: str, what: type | Upcaster) -> bool:
    return not module or f"{what.__module__}.".startswith(f"{module}.")


def _place(function: Upcaster) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def _last_line(error: BaseException) -> str:
    """Where it was raised: file and line, no values."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""


registry: Final = Registry()


def decode_payload(wire_name: str, data: bytes, envelope: Mapping[str, object] | None = None, position: int | None = None) -> Event:
    """The event that `data` holds. `envelope` carries the values of `envelope_fields`: texts and times.

    Raises UnknownWireName, UpcastFailed, or InvalidInput when stored bytes do not fit their declared kind.
    """
    cls = registry.get(wire_name, position)
    if not registry.is_current(wire_name):
        data = registry._upcast(wire_name, data, position)
    if data[:1] != b"{" or data[-1:] != b"}":
        raise not_json(wire_name, position)
    if envelope:  # last, because the last of two equal keys counts: no payload speaks for the envelope
        head = orjson.dumps(envelope)
        data = head if data == b"{}" else data[:-1] + b"," + head[1:]
    try:
        return cls.__pydantic_validator__.validate_json(data)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise invalid_input(f"{wire_name} at position {position}", error) from None


def stored_fields(wire_name: str, data: bytes, position: int | None = None) -> dict[str, Any]:
    """The fields that `data` holds, as the current version's, not validated. Raises what `decode_payload` raises."""
    if wire_name in registry._upcasters or wire_name not in registry._classes:
        registry.get(wire_name, position)
    try:
        fields = orjson.loads(registry._upcast(wire_name, data, position))
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise not_json(wire_name, position)
    return fields


def not_json(wire_name: str, position: int | None) -> InvalidInput:
    return InvalidInput(what=f"{wire_name} at position {position}", field="data", reason="expected a JSON object")
