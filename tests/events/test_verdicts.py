"""A verdict on two schemas of one version is what the decoder does with what the encoder stored."""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, AwareDatetime, Field

from postsale.events import (
    MASKED,
    MAX_INT,
    AmountMinor,
    Count,
    Currency,
    Event,
    Id,
    Int,
    Personal,
    Text,
    UtcDatetime,
    canonical,
    encode_payload,
    registry,
    schema_of,
)
from postsale.events.evolution import changes
from postsale.events.model import decode_payload

from .versions import NAME, even, part, turned, version

INTS = [0, 1, 2, 100, 101, MAX_INT]
WORDS = ["a", "b", "c", "EUR", "XYZ", "x" * 201, "Aa", "q\tq", " a "]
TIME = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
POINT = part("Point", x=Count, y=Annotated[Int, Field(le=100)])
TYPES: dict[str, tuple[Any, list[Any]]] = {  # each with values that only it, or only some others, take
    "count": (Count, INTS),
    "amount": (AmountMinor, INTS),  # reads as a Count does
    "int": (Int, [-1, *INTS]),
    "small": (Annotated[int, Field(ge=0, le=100)], INTS[:4]),
    "even": (Annotated[Int, AfterValidator(even)], [0, -2, 100]),
    "turned": (Annotated[Int, AfterValidator(turned)], [1, -100]),
    "flag": (bool, [True, False]),
    "ratio": (float, [0.0, 0.5, -1e300]),
    "number or flag": (bool | Int, [True, -1, *INTS]),
    "number or text": (Int | Text, [*INTS, "a", ""]),
    "id": (Id, ["a", "b", "c", "EUR", "XYZ"]),
    "text": (Text, ["", *WORDS]),
    "plain": (str, ["", "\x00", *WORDS]),
    "capitals": (Annotated[str, Field(pattern="^[A-Z]*$")], ["", "EUR", "XYZ"]),
    "currency": (Currency, ["EUR", "JPY"]),
    "three": (Annotated[str, Field(min_length=3, max_length=3)], ["EUR", "abc"]),
    "lax": (Annotated[int, Field(strict=False)], [-1, *INTS]),
    "time": (UtcDatetime, [TIME, TIME.replace(year=1700)]),
    "aware": (AwareDatetime, [TIME, TIME.replace(year=1)]),
    "any time": (dt.datetime, [TIME, TIME.replace(tzinfo=None)]),
    "uuid": (UUID, [UUID(int=7)]),
    "two": (Literal["a", "b"], ["a", "b"]),
    "two, turned": (Literal["b", "a"], ["a", "b"]),
    "three words": (Literal["a", "b", "c"], ["a", "b", "c"]),
    "one or a": (Literal[1, "a"], [1, "a"]),
    "yes or a": (Literal[True, "a"], [True, "a"]),
    "list": (list[Count], [[], [1, MAX_INT]]),
    "tuple": (tuple[Count, ...], [[], [1, MAX_INT]]),
    "pair": (tuple[Count, Text], [[1, ""]]),
    "map": (dict[str, Int], [{}, {"a": -1, "": 0}]),
    "map of ids": (dict[Id, Int], [{}, {"a": -1}]),
    "point": (POINT, [{"x": 1, "y": 100}]),
    "point, renamed": (part("Place", y=Annotated[Int, Field(le=100)], x=Count), [{"x": 1, "y": 100}]),
    "point, wider": (part("Point", x=Count, y=Int), [{"x": 1, "y": 101}]),
    "point, more": (part("Point", x=Count, y=Annotated[Int, Field(le=100)], z=Int), [{"x": 1, "y": 100, "z": 3}]),
    "points": (list[POINT], [[], [{"x": 1, "y": 2}]]),
    "personal": (Personal[Text], [*WORDS, {"$sealed": "1.x"}]),
    "sealed alike": (dict[str, str], [{"$sealed": "1.x"}, {"a": "b"}]),
}
OPTIONAL = {f"{name}?": ((t | None if name != "flag" else None | t, None), [None, *values]) for name, (t, values) in TYPES.items()}
DEFAULTED = {
    "anything": ((Any, None), [None, 1, "a", [1]]),
    "count = 1": ((Count, 1), [1, 2]),
    "count = 2": ((Count, 2), [1, 2]),
    "flag = yes": ((bool, True), [True, False]),
}
FIELDS: dict[str, tuple[Any, list[Any]]] = TYPES | OPTIONAL | DEFAULTED
ALIKE = [{"count", "amount"}, {"two", "two, turned"}, {"point", "point, renamed"}, {"list", "tuple"}]

Spec = dict[str, str]


@cache
def made(*spec: tuple[str, str]) -> tuple[type[Event], dict[str, Any]]:
    cls = version({name: FIELDS[key][0] for name, key in spec}, doc=str(spec))
    return cls, schema_of(cls)


def declared(spec: Spec) -> type[Event]:
    cls, _ = made(*spec.items())
    registry.add(cls)  # in the place of the one before it
    return cls


def found_between(old: Spec, new: Spec) -> list[tuple[str, str]]:
    return [*changes(made(*old.items())[1], made(*new.items())[1])]


def stored_as(spec: Spec, values: dict[str, Any]) -> bytes:
    """What the real encoder stores of an event; a sealed field as the log would keep it."""
    sealed = {n: v for n, v in values.items() if isinstance(v, dict) and "$sealed" in v and "personal" in spec[n]}
    event = declared(spec).__pydantic_validator__.validate_json(orjson.dumps(values))
    return canonical(orjson.loads(encode_payload(event.model_copy(update=dict.fromkeys(sealed)))) | sealed)


def read_as(spec: Spec, stored: bytes) -> dict[str, bytes]:
    declared(spec)
    return {name: canonical(repr(v) if v is MASKED else v) for name, v in decode_payload(NAME, stored).payload().items()}


def check(old: Spec, new: Spec, values: dict[str, Any]) -> None:
    """What no finding, or one about rolling deploys alone, promises about bytes that the old code stores."""
    if all(breaks == "rolling" for _, breaks in found_between(old, new)):
        stored = stored_as(old, values)
        before, after = read_as(old, stored), read_as(new, stored)
        assert {name: v for name, v in after.items() if name in old} == before


@pytest.mark.parametrize("old", FIELDS)
def test_of_every_two_types_what_the_verdict_promises_about_a_field_the_decoder_does(old: str) -> None:
    """In both directions: read by newer code, and, where nothing is found, by the older code of a rolling deploy."""
    same = set()
    for new in FIELDS:
        found = found_between({"a": old}, {"a": new})
        assert (found == []) == (found_between({"a": new}, {"a": old}) == [])
        for value in FIELDS[old][1]:
            check({"a": old}, {"a": new}, {"a": value})
        if not found:
            same.add(new)
    alike = next((group for group in ALIKE if old.removesuffix("?") in group), {old.removesuffix("?")})
    assert same == {name + "?" * old.endswith("?") for name in alike}  # nothing else reads the same, and nothing less


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Spec, Spec]:
    """The fields of two classes that claim to be the same version."""
    old = draw(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4))
    new = dict(draw(st.permutations(sorted(old.items()))))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        name = draw(st.sampled_from("abcde"))
        alike = next((group for group in ALIKE if new.get(name) in group), set(FIELDS))
        new[name] = draw(st.sampled_from(sorted(alike)))
    if draw(st.integers(0, 9)) == 0:
        new.pop(draw(st.sampled_from(sorted(new))))
    return old, new


@given(pairs(), st.data())
def test_of_two_random_models_what_the_verdict_promises_the_decoder_does(pair: tuple[Spec, Spec], data: st.DataObject) -> None:
    """No finding: either code reads what the other stores, and reads the same. Only rolling deploys break: the newer code does."""
    old, new = pair

    def some(spec: Spec) -> dict[str, Any]:
        return {name: data.draw(st.sampled_from(FIELDS[key][1]), label=f"{name}, {key}") for name, key in spec.items()}

    check(old, new, some(old))
    check(new, old, some(new))
    assert (found_between(old, new) == []) == (found_between(new, old) == [])
