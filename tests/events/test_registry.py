"""Wire names: an allow-list that is never imported by name; upcasters read what was stored before."""

import subprocess
import sys
from typing import Any, ClassVar

import orjson
import pytest

from postsale.aggregates.signals import InvoicePaid, Signal
from postsale.errors import BadDeclaration, InvalidInput, UnknownWireName, UpcastFailed
from postsale.events import Event, Registry, decode, encode_payload, registry
from postsale.events.model import decode_payload

from .kinds import Everything, stored

CANARY = "jane.canary@example.org"


class Grown(Event):
    """The current version of a kind that had two before; their classes are gone."""

    wire_name: ClassVar[str] = "tests.events/grown@3"
    amount_minor: int
    currency: str


@registry.upcaster("tests.events/grown@1", "tests.events/grown@2")
def _named_units(fields: dict[str, Any]) -> dict[str, Any]:
    fields["amount_minor"] = fields.pop("euros") * 100
    return fields


@registry.upcaster("tests.events/grown@2", "tests.events/grown@3")
def _with_currency(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "currency": "EUR"}


class Shaky(Event):
    wire_name: ClassVar[str] = "tests.events/shaky@6"


@registry.upcaster("tests.events/shaky@1", "tests.events/shaky@6")
def _raises(fields: dict[str, Any]) -> dict[str, Any]:
    raise ValueError(f"cannot read {fields['who']}")


@registry.upcaster("tests.events/shaky@2", "tests.events/shaky@6")
def _returns_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    return None  # type: ignore[return-value]


@registry.upcaster("tests.events/shaky@3", "tests.events/shaky@6")
def _returns_what_json_cannot_hold(fields: dict[str, Any]) -> dict[str, Any]:
    return {"a": {1, 2}}


@registry.upcaster("tests.events/shaky@4", "tests.events/shaky@6")
def _returns_nan(fields: dict[str, Any]) -> dict[str, Any]:
    return {"a": float("nan")}


def test_events_of_every_earlier_version_are_read_as_the_current_one() -> None:
    now = Grown(amount_minor=4900, currency="EUR")
    assert decode(stored("tests.events/grown@1", b'{"euros":49}')).data == now
    assert decode(stored("tests.events/grown@2", b'{"amount_minor":4900}')).data == now
    assert decode(stored("tests.events/grown@3", b'{"amount_minor":4900,"currency":"EUR"}')).data == now
    assert stored("tests.events/grown@1", b'{"euros":49}').fields() == {"amount_minor": 4900, "currency": "EUR"}


def test_an_upcaster_cannot_change_what_its_caller_holds() -> None:
    fields = {"euros": 49}
    registry.upcast("tests.events/grown@1", fields)
    assert fields == {"euros": 49}


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_an_upcaster_that_fails_names_the_event_and_the_place_but_no_value(version: int) -> None:
    event = stored(f"tests.events/shaky@{version}", orjson.dumps({"who": CANARY}), position=12)
    with pytest.raises(UpcastFailed) as caught:
        decode(event)
    assert (caught.value.wire_name, caught.value.position) == (event.wire_name, 12)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_an_upcaster_that_raises_says_in_which_file() -> None:
    with pytest.raises(UpcastFailed, match=r"ValueError at test_registry\.py:\d+"):
        stored("tests.events/shaky@1", b'{"who":"x"}').fields()


@pytest.mark.parametrize(
    "name", ["os:system", "os.system", "subprocess/popen@1", "antigravity", "this", "../../x", "", "tests.events/everything@2"]
)
def test_a_stored_name_that_nobody_registered_is_a_typed_error_before_anything_is_imported(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(UnknownWireName) as caught:
        decode(stored(name, b"{}", position=3))
    assert (caught.value.wire_name, caught.value.position) == (name, 3)
    assert set(sys.modules) == before
    assert name not in registry
    with pytest.raises(UnknownWireName):
        stored(name, b"{}", position=3).fields()  # not even as it lies


def test_a_stored_name_that_points_at_a_module_does_not_load_it() -> None:
    code = (
        "import sys, postsale.events as e, postsale.events.model as m\n"
        "from postsale.errors import UnknownWireName\n"
        "for name in ('antigravity:fly', 'antigravity', 'antigravity/fly@1', 'this/is@1'):\n"
        "    try: m.decode_payload(name, b'{}')\n"
        "    except UnknownWireName: continue\n"
        "    sys.exit(1)\n"
        "sys.exit('antigravity' in sys.modules or 'this' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "billing",
        "billing/paid",
        "billing/paid@0",
        "billing/paid@01",
        "Billing/paid@1",
        "billing/paid@1 ",
        "billing/paid@1\n",
        "a/b/c@1",
        "/x@1",
        "a.b@1",
        "os:system@1",
    ],
)
def test_a_malformed_wire_name_is_refused_when_the_class_is_declared(name: str) -> None:
    with pytest.raises(BadDeclaration, match="is not of the form"):
        type("Bad", (Event,), {"wire_name": name, "__module__": __name__, "__annotations__": {}})
    assert name not in registry


def test_a_second_class_under_the_same_wire_name_is_refused_and_the_first_still_reads() -> None:
    with pytest.raises(BadDeclaration, match=r"already belongs to .*Everything"):

        class Impostor(Event):
            wire_name: ClassVar[str] = "tests.events/everything@1"

    assert registry.get("tests.events/everything@1") is Everything


def test_declaring_the_same_class_again_replaces_it_as_a_reload_does() -> None:
    def declare() -> type[Event]:
        class Again(Event):
            wire_name: ClassVar[str] = "tests.events/again@1"

        return Again

    first, second = declare(), declare()
    assert first is not second
    assert registry.get("tests.events/again@1") is second


def test_a_subclass_of_a_kind_needs_a_wire_name_of_its_own_or_nobody_could_read_its_events() -> None:
    with pytest.raises(BadDeclaration, match="inherits the wire name 'billing/invoice-paid@1'"):

        class MyInvoicePaid(InvoicePaid):
            cost_centre: str


def test_a_wire_name_that_would_become_a_field_is_refused() -> None:
    with pytest.raises(BadDeclaration, match="ClassVar"):

        class Forgetful(Event):
            wire_name: str = "tests.events/forgetful@1"  # type: ignore[misc]

    assert "tests.events/forgetful@1" not in registry


def test_a_wire_name_without_annotation_is_as_good() -> None:
    class Plain(Event):
        wire_name = "tests.events/plain@1"

    assert registry.get("tests.events/plain@1") is Plain
    assert Plain().kind == "tests.events/plain"


def test_an_event_without_a_wire_name_cannot_be_stored() -> None:
    class Base(Signal):
        """Common fields; not a kind."""

    with pytest.raises(BadDeclaration, match="no wire name"):
        encode_payload(
            Base(source="s", id="1", occurred_at=Everything.__pydantic_validator__.validate_json(b'{"at":"2026-03-01T00:00:00Z"}').at)
        )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a/b@2", "a/b@1"),
        ("a/b@1", "a/b@1"),
        ("a/b@1", "a/c@2"),
        ("a/b", "a/b@2"),
        ("a/b@1", "a/b"),
        ("os:system", "a/b@2"),
        ("a/b@x", "a/b@y"),
    ],
)
def test_an_upcaster_leads_to_a_later_version_of_the_same_kind(old: str, new: str) -> None:
    with pytest.raises(BadDeclaration):
        Registry().upcaster(old, new)(lambda fields: fields)


def test_a_second_upcaster_from_the_same_version_is_refused() -> None:
    with pytest.raises(BadDeclaration, match="already"):
        registry.upcaster("tests.events/grown@1", "tests.events/grown@3")(lambda fields: fields)
    assert decode(stored("tests.events/grown@1", b'{"euros":1}')).data == Grown(amount_minor=100, currency="EUR")


def test_an_upcaster_to_a_version_nobody_declared_leaves_the_kind_unknown() -> None:
    mine = Registry()
    mine.upcaster("tests.events/lost@1", "tests.events/lost@2")(lambda fields: fields)
    with pytest.raises(UnknownWireName) as caught:
        mine.get("tests.events/lost@1", 4)
    assert caught.value.wire_name == "tests.events/lost@1"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'{"flag":true', b'{"flag":true}}', b'{"flag":1}', b'{"surprise":1}', b'{"count":NaN}'],
)
@pytest.mark.parametrize("wire_name", ["tests.events/everything@1", "tests.events/grown@1"])
def test_stored_bytes_that_do_not_fit_their_kind_are_a_typed_error_that_names_the_event(wire_name: str, data: bytes) -> None:
    with pytest.raises((InvalidInput, UpcastFailed), match="position 8"):
        decode(stored(wire_name, data, position=8))


def test_the_envelope_speaks_for_itself_even_where_the_payload_repeats_its_fields() -> None:
    data = b'{"amount_minor":1,"currency":"EUR","source":"forged","id":"forged","occurred_at":"2001-01-01T00:00:00Z"}'
    said = {"source": "stripe", "id": "evt_1", "occurred_at": "2026-03-01T12:00:00Z"}
    signal = decode_payload(InvoicePaid.wire_name, data, said)
    assert isinstance(signal, InvoicePaid)
    assert (signal.source, signal.id, signal.occurred_at.year) == ("stripe", "evt_1", 2026)
