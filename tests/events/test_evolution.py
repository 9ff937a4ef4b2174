"""What a change of a stored version is called; that history is not overwritten; that every version leads to the newest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from postsale.errors import BadDeclaration, BreakingChange, InvalidInput
from postsale.events import (
    MAX_INT,
    Count,
    Event,
    Id,
    Int,
    Personal,
    Registry,
    Text,
    check_schemas,
    schema_digest,
    schema_of,
    write_schemas,
)
from postsale.events.evolution import changes

from .versions import STRICT, even, part, version

POINT = part("Point", x=Count, y=Annotated[Int, Field(le=100)])

# ---------------------------------------------------------------- what a finding says


REFUSED = "which code that knows this version as it was refuses"
AS_IT_WAS = {"amount_minor": Count, "note": (Text | None, None), "by": Personal[Text], "at": POINT, "tags": list[Id], "n": (Count, 1)}
SAID: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "type": ({"amount_minor": str}, [("field `amount_minor` was integer, is now string", "stored")]),
    "rename": ({"amount_minor": None, "amount": Count}, [("field `amount_minor` is now called `amount`", "stored")]),
    "removed": ({"note": None}, [("field `note` is gone", "stored")]),
    "added": ({"more": (Int | None, None)}, [(f"field `more` is new, {REFUSED}", "rolling")]),
    "added, required": ({"more": Int}, [("field `more` is new and required: stored events do not have it", "stored")]),
    "now required": (
        {"note": Text},
        [("field `note` was optional, is now required", "stored"), ("field `note` may no longer be null", "stored")],
    ),
    "bound lower": ({"n": (Annotated[Count, Field(le=9)], 1)}, [(f"field `n`: maximum was {MAX_INT}, is now 9", "stored")]),
    "bound higher": (
        {"n": (Annotated[Int, Field(ge=-5)], 1)},
        [(f"field `n`: minimum was 0, is now -5: more is taken, {REFUSED}", "rolling")],
    ),
    "default": ({"n": (Count, 2)}, [("field `n` meant 1 where it is missing, now means 2", "stored")]),
    "personal": ({"note": (Personal[Text] | None, None)}, [("field `note` is now personal", "stored")]),
    "not personal": ({"by": Text}, [("field `by` is no longer personal", "stored")]),
    "validator": (
        {"amount_minor": Annotated[Count, AfterValidator(even)]},
        [("field `amount_minor` was validated by nothing, is now validated by even", "stored")],
    ),
    "inside": (
        {"at": part("Point", x=Text, y=Annotated[Int, Field(le=100)])},
        [("field `at.x` was integer, is now string", "stored")],
    ),
    "items": (
        {"tags": list[Text]},
        [
            ("field `tags[]`: maxLength was 200, is now 4000: more is taken, " + REFUSED, "rolling"),
            ("field `tags[]`: minLength was 1, is now nothing: more is taken, " + REFUSED, "rolling"),
            ("field `tags[]` was validated by _check_id, is now validated by _check_text", "stored"),
        ],
    ),
    "values": (
        {"note": (dict[Id, Literal["a", "c"]] | None, None)},
        [("field `note` was string, is now object of one of 'a', 'c'", "stored")],
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_a_finding_names_the_field_and_says_what_it_was_and_what_it_is(case: str) -> None:
    edits, said = SAID[case]
    now = {name: f for name, f in (AS_IT_WAS | edits).items() if f is not None}
    assert changes(schema_of(version(AS_IT_WAS)), schema_of(version(now))) == said


def test_allowed_values_that_come_and_go_are_named() -> None:
    old, new = (schema_of(version({"a": t})) for t in (Literal["x", "y"], Literal["y", "z"]))
    assert changes(old, new) == [("field `a` no longer takes 'x'", "stored"), (f"field `a` now takes 'z', {REFUSED}", "rolling")]


def test_unknown_fields_that_are_taken_or_refused_are_a_finding_about_the_whole_event() -> None:
    strict, loose = schema_of(version({})), schema_of(version({}, model_config=ConfigDict(extra="ignore")))
    assert changes(strict, loose) == [(f"the event now takes unknown fields, {REFUSED}", "rolling")]
    assert changes(loose, strict) == [("the event no longer takes unknown fields", "stored")]


def test_validators_of_a_field_and_of_the_whole_event_count_whatever_json_schema_can_say() -> None:
    def whole(self: Any) -> Any:
        return self

    plain = schema_of(version({"n": Count}))
    with_one = schema_of(version({"n": Count}, even=field_validator("n")(lambda cls, n: even(n))))
    with_all = schema_of(version({"n": Count}, whole=model_validator(mode="after")(whole)))
    assert "field `n` was validated by nothing" in changes(plain, with_one)[0][0]
    assert "the event was validated by nothing" in changes(plain, with_all)[0][0]


def test_prose_order_and_names_of_classes_are_no_change_and_leave_the_digest_as_it_is() -> None:
    first = version({"a": Count, "b": Literal["x", "y"], "c": POINT, "d": (Id | None, None)}, doc="One thing.")
    other = part("Place", y=Annotated[Int, Field(le=100)], x=Annotated[Count, Field(title="across")])
    second = version(
        {"b": Literal["y", "x"], "c": Annotated[other, Field(description="where")], "a": Count, "d": (None | Id, None)}, doc="Another."
    )
    assert schema_of(first) != schema_of(second)
    assert changes(schema_of(first), schema_of(second)) == []
    assert schema_digest(first) == schema_digest(second)
    assert schema_digest(version({"a": Int})) != schema_digest(version({"a": Count}))


class Tree(BaseModel):
    model_config = STRICT
    leaf: Count
    more: list[Tree] = []


class Bush(BaseModel):
    model_config = STRICT
    leaf: Count
    more: list[Bush] = []


class Thorns(BaseModel):
    model_config = STRICT
    leaf: Text
    more: list[Thorns] = []


def test_types_that_hold_themselves_are_compared_too() -> None:
    tree, bush, thorns = (schema_of(version({"t": t})) for t in (Tree, Bush, Thorns))
    assert changes(tree, bush) == []
    assert changes(tree, thorns) == [("field `t.leaf` was integer, is now string", "stored")]


# ---------------------------------------------------------------- a field that may be None


@pytest.mark.parametrize("field", [Int | None, (Int | None, 5), Any, (Literal["a"] | None, "a")])
def test_a_field_whose_none_would_be_read_as_something_else_is_refused_when_it_is_declared(field: Any) -> None:
    with pytest.raises(BadDeclaration, match=r"Pair\.maybe: None is not stored"):
        version({"maybe": field})


# ---------------------------------------------------------------- the history


class World:
    """Kinds of a module that does not exist, in a registry of its own, and the folder with their history."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry = folder, Registry()

    def kind(self, name: str, module: str = "acme.signals", **fields: Any) -> type[Event]:
        spec = {"__module__": module, "__annotations__": fields, "__qualname__": f"K{name}"}
        cls = type("K", (Event,), spec)
        cls.wire_name = name
        self.registry.add(cls)
        return cls

    def upcaster(self, old: str, new: str, module: str = "acme.signals") -> None:
        def function(fields: dict[str, Any]) -> dict[str, Any]:
            return fields

        function.__module__, function.__qualname__ = module, f"{old} to {new}"
        self.registry.upcaster(old, new)(function)

    def after(self, *without: str) -> World:
        """The same folder, and code that has lost some kinds."""
        world = World(self.folder)
        world.registry._classes = {n: c for n, c in self.registry._classes.items() if n not in without}
        return world

    def check(self, module: str = "acme") -> list[str]:
        return [str(finding) for finding in check_schemas(self.folder, module, self.registry)]

    def write(self) -> list[str]:
        return [path.name for path in write_schemas(self.folder, "acme", self.registry)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "schemas")
    world.kind("acme/paid@1", amount_minor=Count)
    world.kind("acme.web/seen@1", page=Id)
    assert world.write() == ["acme.web.seen@1.json", "acme.paid@1.json"]
    return world


def test_a_history_is_written_once_and_agrees_with_the_code_it_was_written_from(world: World) -> None:
    assert world.check() == []
    assert world.write() == []
    assert orjson.loads((world.folder / "acme.paid@1.json").read_bytes())["required"] == ["amount_minor"]


def test_a_changed_version_is_named_and_is_not_healed_by_writing_again(world: World) -> None:
    before = {path.name: path.read_bytes() for path in world.folder.iterdir()}
    world.kind("acme/paid@1", amount_minor=str)
    said = "acme/paid@1: field `amount_minor` was integer, is now string — declare @2 and an upcaster"
    assert world.check() == [said]
    with pytest.raises(BreakingChange, match=re.escape(said)):
        world.write()
    assert {path.name: path.read_bytes() for path in world.folder.iterdir()} == before
    (world.folder / "acme.paid@1.json").unlink()  # no log holds it yet: taken back on purpose
    assert world.write() == ["acme.paid@1.json"]


def test_prose_is_written_again(world: World) -> None:
    world.kind("acme/paid@1", amount_minor=Annotated[Count, Field(description="of the invoice")])
    assert world.check() == []
    assert world.write() == ["acme.paid@1.json"]


def test_a_wire_name_that_nothing_reads_any_more_is_a_finding_until_an_upcaster_reads_it(world: World) -> None:
    later = world.after("acme/paid@1")
    gone = "acme/paid@1: nothing reads it any more, and stored events would be unreadable — keep its class, or add an upcaster from it"
    assert later.check() == [gone]
    later.kind("acme/paid@2", amount_minor=Count)
    assert later.check() == [gone, "acme/paid@2: acme.paid@2.json is not there — write the schemas and commit them"]
    later.upcaster("acme/paid@1", "acme/paid@2")
    assert later.write() == ["acme.paid@2.json"]
    assert later.check() == []
    assert (world.folder / "acme.paid@1.json").is_file()  # history, although no class declares it any more


def test_a_change_of_an_old_version_is_not_to_be_moved_into_the_next_one(world: World) -> None:
    world.kind("acme/paid@2", amount_minor=Count)
    world.upcaster("acme/paid@1", "acme/paid@2")
    world.write()
    world.kind("acme/paid@1", amount_minor=Int)
    assert world.check() == [
        f"acme/paid@1: field `amount_minor`: minimum was 0, is now {-MAX_INT}: more is taken, {REFUSED}"
        " — put it back as it was; what is new belongs into @2 or a later one"
    ]


def test_versions_without_a_way_to_the_newest_are_a_bad_declaration(world: World) -> None:
    world.kind("acme/paid@3", amount_minor=Count)
    with pytest.raises(BadDeclaration, match="acme/paid@1: no upcaster leads from acme/paid@1 towards acme/paid@3"):
        world.check()
    world.upcaster("acme/paid@1", "acme/paid@2")
    with pytest.raises(BadDeclaration, match="acme/paid@1: no upcaster leads from acme/paid@2 towards acme/paid@3"):
        world.write()
    world.upcaster("acme/paid@2", "acme/paid@3")
    assert world.write() == ["acme.paid@3.json"]
    world.upcaster("acme/paid@3", "acme/paid@4")
    with pytest.raises(BadDeclaration, match="acme/paid@4: upcasters lead to it, and no class declares it"):
        world.check()


def test_only_kinds_of_the_module_and_below_belong_to_its_history(world: World) -> None:
    world.kind("acmes/other@1", module="acmes")
    world.kind("acme/below@1", module="acme.deep.down")
    assert world.check() == ["acme/below@1: acme.below@1.json is not there — write the schemas and commit them"]


def test_a_module_without_kinds_and_a_file_that_is_no_schema_are_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match="nothing declares no kind"):
        check_schemas(world.folder / "none", "nothing", world.registry)
    for name, text in [("notes.json", "{}"), ("a.b@x.json", "{}"), ("a.b@1.json", "["), ("a.b@2.json", '{"$ref":"#/$defs/x"}')]:
        (world.folder / name).write_text(text)
        with pytest.raises(InvalidInput, match=re.escape(name)):
            world.check()
        (world.folder / name).unlink()
