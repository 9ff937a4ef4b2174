"""Personal fields: found wherever they are declared, refused where they would be stored in the clear, masked when sealed."""

import copy
import pickle
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Optional

import pytest
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypeAliasType, TypedDict

from postsale.errors import BadDeclaration, InvalidInput
from postsale.events import MASKED, SEALED, Event, Id, Masked, Personal, Text, encode_payload
from postsale.events.model import decode_payload

from .kinds import Everything


class Model(BaseModel):
    name: Personal[Text]


class Deep(BaseModel):
    inner: list[Model]


class Root(RootModel[Personal[str]]):
    pass


@dataclass
class Record:
    name: Personal[str]


class Keys(TypedDict):
    name: Personal[str]


class Row(NamedTuple):
    name: Personal[str]


Alias = TypeAliasType("Alias", Personal[str])
HIDDEN = {
    "a list": list[Personal[str]],
    "a tuple": tuple[Personal[Text], ...],
    "a mapping": dict[str, Personal[Text]],
    "an optional list": list[Personal[str]] | None,
    "a union": Personal[str] | int,
    "a model": Model,
    "a model in a list": list[Model],
    "a model in a model": Deep,
    "an optional model": Model | None,
    "a root model": Root,
    "a dataclass": Record,
    "a typed dict": Keys,
    "a named tuple": Row,
    "a dataclass in a mapping": dict[str, Record],
    "an alias in a list": list[Alias],
}


@pytest.mark.parametrize("annotation", HIDDEN.values(), ids=HIDDEN.keys())
def test_a_personal_mark_anywhere_but_outermost_is_refused_because_it_would_be_stored_in_the_clear(annotation: Any) -> None:
    with pytest.raises(BadDeclaration, match="Personal"):
        type("Leaky", (Event,), {"__annotations__": {"field": annotation}, "__module__": __name__})


OPEN = {
    "plain": Personal[Text],
    "optional": Personal[Text] | None,
    "Optional": Optional[Personal[Text]],  # noqa: UP045 - the older spelling
    "with a bound": Annotated[Personal[Text], Field(description="who")],
    "an alias": Alias,
    "an optional alias": Alias | None,
    "of a mapping": Personal[dict[str, str]],
}


@pytest.mark.parametrize("annotation", OPEN.values(), ids=OPEN.keys())
def test_a_personal_field_may_be_optional_and_holds_any_type(annotation: Any) -> None:
    kind = type("Open", (Event,), {"__annotations__": {"field": annotation, "other": Id}, "__module__": __name__})
    assert kind.personal_fields == {"field"}


def test_a_field_that_is_inherited_stays_personal() -> None:
    class Child(Everything):
        wire_name: ClassVar[str] = "tests.events/child@1"

    assert Child.personal_fields == {"secret", "letters"}


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: Masked()])
def test_there_is_one_mask_whatever_is_done_to_it(travel: Any) -> None:
    assert travel(MASKED) is MASKED
    assert str(MASKED) == repr(MASKED) == "•••"


@pytest.mark.parametrize("field", ["secret", "letters"])
def test_a_sealed_value_is_masked_even_where_the_field_could_hold_such_a_mapping(field: str) -> None:
    event: Any = decode_payload(Everything.wire_name, b'{"%b":{"%b":"1.abc"}}' % (field.encode(), SEALED.encode()))
    assert getattr(event, field) is MASKED


def test_a_masked_value_cannot_be_stored_again() -> None:
    for event in (Everything(secret=MASKED), Everything(secret={SEALED: "1.abc"})):
        with pytest.raises(InvalidInput) as caught:
            encode_payload(event)
        assert caught.value.field == "secret"


@pytest.mark.parametrize("bad", [{SEALED: 1}, {SEALED: "1.abc", "more": 1}, {}, {"sealed": "1.abc"}])
def test_only_the_exact_sealed_form_is_masked(bad: Any) -> None:
    with pytest.raises(InvalidInput):
        Everything(secret=bad)


def test_a_masked_event_survives_pickling_and_copying() -> None:
    event = Everything(secret=MASKED)
    assert pickle.loads(pickle.dumps(event)).secret is MASKED
    assert copy.deepcopy(event).secret is MASKED


def test_an_event_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Everything().name = "other"  # type: ignore[misc]
