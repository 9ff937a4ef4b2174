"""The error tree: every class says what was found and what to do, carries fields, and travels between processes."""

import copy
import dataclasses
import pickle
import re
import subprocess
import sys
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from postsale import errors
from postsale.errors import ContentConflict, InvalidInput, PostSaleError, SealBroken, UnknownWireName

CLASSES = sorted(
    (c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, PostSaleError)),
    key=lambda c: c.__name__,
)
TEXT = "a {value} with {} braces"  # a value that looks like a template must be shown as it is


def example(cls: type[PostSaleError], *, empty: bool = False) -> PostSaleError:
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for number, field in enumerate(dataclasses.fields(cls), start=41):
        hint = hints[field.name]
        optional = get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)
        kind = next(t for t in (get_args(hint) or (hint,)) if t is not type(None))
        values[field.name] = None if optional and empty else number if kind is int else f"{TEXT} {number}"
    return cls(**values)


def placeholders(cls: type[PostSaleError]) -> set[str]:
    return set(re.findall(r"\{(\w+)", cls.found + cls.expected + cls.todo))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_error_is_the_same_after_copying_and_after_pickling(cls: type[PostSaleError], travel: Any) -> None:
    error = example(cls)
    again = travel(error)
    assert type(again) is cls
    assert (again.fields(), str(again), repr(again)) == (error.fields(), str(error), repr(error))


@pytest.mark.parametrize("cls", CLASSES)
def test_the_message_shows_what_was_found_expected_and_to_do_with_every_named_field_filled_in(cls: type[PostSaleError]) -> None:
    error = example(cls)
    text = str(error)
    for part in (cls.found, cls.expected, cls.todo):
        assert part.format(**error.fields()) in text
    assert cls.found
    assert text.endswith(".") or cls.todo


@pytest.mark.parametrize("cls", CLASSES)
def test_every_placeholder_of_a_message_is_a_field_of_its_class(cls: type[PostSaleError]) -> None:
    assert placeholders(cls) <= {f.name for f in dataclasses.fields(cls)}


@pytest.mark.parametrize("cls", CLASSES)
def test_a_message_without_its_optional_fields_does_not_say_none(cls: type[PostSaleError]) -> None:
    assert "None" not in str(example(cls, empty=True))


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_docstring_and_is_caught_by_the_root(cls: type[PostSaleError]) -> None:
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}(")  # what dataclass writes when there is none
    with pytest.raises(PostSaleError):
        raise example(cls)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.InvalidInput, ValueError),
        (errors.BadDeclaration, TypeError),
        (errors.MissingExtra, ImportError),
        (errors.UnknownCustomer, LookupError),
        (errors.UnknownDecision, LookupError),
        (errors.NotAllowed, PermissionError),
    ],
)
def test_where_python_has_a_word_for_it_the_error_is_caught_by_that_word_too(cls: type[PostSaleError], builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise example(cls)


def test_the_quarantine_is_named_only_where_there_is_one() -> None:
    values = {
        "tenant": "acme",
        "source": "stripe",
        "source_id": "evt_1",
        "stored_position": 3,
        "stored_digest": "aa",
        "offered_digest": "bb",
    }
    assert "Quarantined" not in str(ContentConflict(**values))
    assert "Quarantined as q1." in str(ContentConflict(**values, quarantine_id="q1"))


def test_an_invalid_input_names_the_model_the_field_and_the_next_step() -> None:
    text = str(InvalidInput(what="InvoicePaid", field="currency", reason="expected EUR"))
    assert text == "InvoicePaid.currency: expected EUR. Correct it and try again; nothing was changed."


def test_an_unknown_kind_names_its_wire_name_and_position() -> None:
    assert str(UnknownWireName(wire_name="os:system", position=7)).startswith("event kind 'os:system' (position 7); expected a wire name")


def test_a_broken_seal_names_the_field_and_the_position() -> None:
    assert "sealed field 'name' at position 9 does not open" in str(SealBroken(field="name", position=9))


def test_what_users_import_in_their_tests_names_its_extra_without_pytest() -> None:
    """In a process where pytest cannot be imported."""
    code = """
import sys
sys.modules["pytest"] = None
from postsale.errors import MissingExtra
try: import postsale.testing
except MissingExtra as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "postsale[testing]" in done.stdout
