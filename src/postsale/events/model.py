"""What an event is: the base model, field types with bounds, personal fields, and the registry of wire names.

Facts are an open registry: subclass, give a wire name, done. Nothing here knows a particular kind of event.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, TypeVar, Union, get_args, get_origin

import orjson
from iso4217 import Currency as _Iso4217
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import core_schema

from postsale.errors import BadDeclaration, InvalidInput, UnknownWireName, UpcastFailed

MAX_INT: Final = 2**53 - 1  # what JSON, DuckDB and JavaScript all carry exactly
_WIRE = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*/[a-z0-9-]+@[1-9][0-9]{0,3}\Z")
_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER | orjson.OPT_UTC_Z


def canonical(value: object) -> bytes:
    """JSON with sorted keys and integers below 2^53: the one byte form that is hashed, compared and sealed."""
    return orjson.dumps(value, option=_CANONICAL)


# ---------------------------------------------------------------- field types

_FORBIDDEN: Final = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, lone surrogates, private, unassigned, separators
_CONFUSING: Final = frozenset("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _check_id(text: str) -> str:
    if text.isascii() and text.isprintable() and text == text.strip():
        return text
    _refuse_unprintable(text, allowed="")
    if text != text.strip() or unicodedata.normalize("NFKC", text) != text:
        raise ValueError("expected no outer blanks and no look-alike characters (NFKC form)")
    if any(ch in _CONFUSING for ch in text):
        raise ValueError("expected no invisible or direction-changing characters")
    return text


def _check_text(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        _refuse_unprintable(text, allowed="\n\t\r")
    return text


def _refuse_unprintable(text: str, *, allowed: str) -> None:
    for ch in text:
        if ch not in allowed and unicodedata.category(ch) in _FORBIDDEN:
            raise ValueError("expected no control characters, NUL or lone surrogates")


def _check_currency(code: str) -> str:
    try:
        _Iso4217(code)
    except ValueError:
        raise ValueError("expected an ISO 4217 alphabetic code in capitals, such as EUR") from None
    return code


def minor_digits(currency: str) -> int:
    """How many decimal digits the minor unit of an ISO 4217 currency has (EUR 2, JPY 0, KWD 3)."""
    return int(_Iso4217(currency).exponent or 0)


Id = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_id)]
Text = Annotated[str, Field(max_length=4_000), AfterValidator(_check_text)]
Currency = Annotated[str, Field(min_length=3, max_length=3), AfterValidator(_check_currency)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
AmountMinor = Annotated[int, Field(ge=0, le=MAX_INT)]  # in minor units of the currency beside it
Int = Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)]
UtcDatetime = AwareDatetime


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
        sealed = core_schema.typed_dict_schema({SEALED: core_schema.typed_dict_field(core_schema.str_schema())}, extra_behavior="forbid")
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), core_schema.no_info_after_validator_function(lambda _: MASKED, sealed)]
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        return {"type": "object", "properties": {SEALED: {"type": "string"}}, "required": [SEALED], "additionalProperties": False}


SEALED: Final = "$sealed"
MASKED: Final = Masked()


class _PersonalMark:
    def __repr__(self) -> str:
        return "Personal"


T = TypeVar("T")
_MARK: Final = _PersonalMark()
Personal = Annotated[T | Masked, _MARK]
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

    def __init__(self, /, **data: Any) -> None:
        try:
            self.__pydantic_validator__.validate_python(data, self_instance=self)
        except ValidationError as error:
            raise invalid_input(type(self).__name__, error) from None

    # Tells pydantic that this __init__ only validates, so that decoding does not go through it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.personal_fields = frozenset(name for name, info in cls.model_fields.items() if _is_personal_info(info, cls, name))
        if "wire_name" in cls.__dict__:
            registry.add(cls)

    @property
    def kind(self) -> str:
        """The wire name without its version: what policies and features name."""
        return self.wire_name.partition("@")[0]

    def payload(self) -> dict[str, Any]:
        """The fields that are stored as `data`: everything but the envelope's, unset optional fields left out."""
        return self.model_dump(exclude=set(self.envelope_fields) or None, exclude_none=True)


def _is_personal(annotation: Any, cls: type, name: str, *, top: bool = True) -> bool:
    """Whether a field is `Personal[...]` or `Personal[...] | None`; refuses the mark anywhere deeper, where it would be stored in the clear."""
    if _MARK in getattr(annotation, "__metadata__", ()):
        if not top:
            raise BadDeclaration(what=f"{cls.__name__}.{name}", reason="Personal[...] must be the outermost type of its field")
        return True
    if (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and any(_is_personal_info(i, annotation, n) for n, i in annotation.model_fields.items())
    ):
        raise BadDeclaration(what=f"{cls.__name__}.{name}", reason="a nested model has Personal[...] fields; move them to the event")
    optional = get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation)
    return any(_is_personal(arg, cls, name, top=top and optional) for arg in get_args(annotation))


def _is_personal_info(info: Any, cls: type, name: str) -> bool:
    return _MARK in info.metadata or _is_personal(info.annotation, cls, name)


def invalid_input(what: str, error: ValidationError) -> InvalidInput:
    """The first problem of a pydantic error as our typed error: the field's path and a reason, never the value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = ".".join(str(part) for part in first["loc"]) or "(whole)"
    return InvalidInput(what=what, field=path, reason=first["msg"].removeprefix("Value error, "))


def encode_payload(event: Event) -> bytes:
    """Canonical JSON of the payload; InvalidInput names the field that JSON cannot carry exactly."""
    fields = event.payload()
    try:
        return canonical(fields)
    except (orjson.JSONEncodeError, TypeError):
        for name, value in fields.items():
            try:
                canonical(value)
            except (orjson.JSONEncodeError, TypeError):
                raise InvalidInput(
                    what=type(event).__name__, field=name, reason="expected valid Unicode text, integers below 2^53, and JSON types"
                ) from None
        raise


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
            if old.partition("@")[0] != new.partition("@")[0] or int(new.partition("@")[2]) <= int(old.partition("@")[2]):
                raise BadDeclaration(what=f"upcaster {old} → {new}", reason="must lead to a later version of the same kind")
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

    def upcast(self, wire_name: str, fields: dict[str, Any], position: int | None = None) -> dict[str, Any]:
        """Fields of a stored version as the current version's; UpcastFailed names the event."""
        name = wire_name
        while name in self._upcasters:
            newer, function = self._upcasters[name]
            try:
                fields = function(dict(fields))
            except Exception as error:  # any defect of a user's function becomes one typed error
                raise UpcastFailed(wire_name=name, position=position, reason=type(error).__name__) from error
            name = newer
        return fields

    def is_current(self, wire_name: str) -> bool:
        return wire_name not in self._upcasters


registry: Final = Registry()


@functools.cache
def schema_digest(cls: type[Event]) -> bytes:
    """16-byte BLAKE2b of the kind's JSON Schema: which shape the writer believed in."""
    return hashlib.blake2b(canonical(cls.model_json_schema()), digest_size=16).digest()


def decode_payload(wire_name: str, data: bytes, envelope: Mapping[str, str] | None = None, position: int | None = None) -> Event:
    """The event that `data` holds. `envelope` carries the values of `envelope_fields` as JSON strings.

    Raises UnknownWireName, UpcastFailed, or InvalidInput when stored bytes do not fit their declared kind.
    """
    cls = registry.get(wire_name, position)
    if not registry.is_current(wire_name):
        data = canonical(registry.upcast(wire_name, orjson.loads(data), position))
    if envelope:
        head = orjson.dumps(envelope)
        data = head if data == b"{}" else head[:-1] + b"," + data[1:]
    try:
        return cls.__pydantic_validator__.validate_json(data)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise invalid_input(f"{wire_name} at position {position}", error) from None
