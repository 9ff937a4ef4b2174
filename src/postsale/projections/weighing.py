"""The weights of a health model as a file: TOML in and out, as a table, and what differs between two. Pure.

What a component judges is code; how much it counts, for whom, and where the bands lie is data that other people than programmers own.
A file names the model that it weighs, so that weights meant for other components are refused. Imports health and errors.

    model = "customer-health"
    model_version = 1
    version = 3
    weights = { payments = 25, usage = 25, … }     # every component
    bands = { poor = 50, fair = 75, good = 100 }   # the greatest whole score of each, ascending

    [[rows]]                                       # the first that fits applies
    segment = "enterprise"                         # one of the two, or both
    stage = "onboarding"
    weights = { usage = 10, adoption = 40 }        # the others keep theirs; 0 leaves a component out
    bands = { poor = 40, fair = 70, good = 100 }   # if other than above
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from postsale.errors import BadDeclaration
from postsale.projections.health import DEFAULT_ROW, Bands, HealthModel, Row

_TOP: Final = frozenset({"model", "model_version", "version", "weights", "bands", "rows"})
_ROW: Final = frozenset({"segment", "stage", "weights", "bands"})
_MOST_BYTES: Final = 1_000_000


class Difference(NamedTuple):
    """One thing that is otherwise in the second model."""

    row: str  # its name, "default" for the default, "" for the model as a whole
    what: str  # version, order of rows, weight of NAME, bands, row
    before: str  # "–" where there is none
    after: str


def load_weights(path: Path | str, model: HealthModel) -> HealthModel:
    """`model` with the weights, bands and rows of a TOML file. BadDeclaration for one that cannot be read, or as `read_weights`."""
    try:
        raw = Path(path).read_bytes()
        if len(raw) > _MOST_BYTES:
            raise BadDeclaration(what=f"weights {Path(path).name!r}", reason=f"larger than {_MOST_BYTES:,} bytes")
        text = raw.decode()
    except OSError as error:
        raise BadDeclaration(what=f"weights {Path(path).name!r}", reason=f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadDeclaration(what=f"weights {Path(path).name!r}", reason="not UTF-8") from None
    return read_weights(text, model, name=Path(path).name)


def read_weights(text: str, model: HealthModel, *, name: str = "weights") -> HealthModel:
    """`model` with the weights, bands and rows that a TOML text gives it.

    BadDeclaration, naming the place, for a text that is not TOML, for another model or version, an unknown key, a component without a
    weight, and whatever `HealthModel` refuses.
    """
    what = f"weights {name!r}"

    def refuse(reason: str) -> BadDeclaration:
        return BadDeclaration(what=what, reason=reason)

    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise refuse(f"not TOML: {error}") from None
    _known(what, "the file", given, _TOP)
    for key in ("model", "model_version", "version", "weights", "bands"):
        if key not in given:
            raise refuse(f"{key!r} is missing")
    if (given["model"], given["model_version"]) != (model.name, model.version):
        told = f"{given['model']!r} version {given['model_version']!r}"
        raise refuse(f"weighs {told}, and the model here is {model.name!r} version {model.version}")
    if type(given["version"]) is not int or given["version"] < 1:
        raise refuse("version must be a whole number from 1")
    weights = _numbers(what, "weights", given["weights"])
    names = [c.name for c in model.components]
    if missing := [n for n in names if n not in weights]:
        raise refuse(f"no weight for {', '.join(missing)}")
    if unknown := [n for n in weights if n not in names]:
        raise refuse(f"weights {', '.join(unknown)}, not a component; there are: {', '.join(names)}")
    rows = given.get("rows", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise refuse("rows are written as [[rows]]")
    return replace(
        model,
        components=tuple(replace(c, weight=weights[c.name]) for c in model.components),
        bands=_bands(what, "bands", given["bands"]),
        rows=tuple(_row(what, index, row) for index, row in enumerate(rows, 1)),
        weighing=given["version"],
    )


def _row(what: str, index: int, given: Mapping[str, Any]) -> Row:
    place = f"row {index}"
    _known(what, place, given, _ROW)
    for key in ("segment", "stage"):
        if key in given and (not isinstance(given[key], str) or not given[key]):
            raise BadDeclaration(what=what, reason=f"{place}: {key} must be text")
    bands = _bands(what, f"{place}, bands", given["bands"]) if "bands" in given else None
    return Row(given.get("segment"), given.get("stage"), _numbers(what, f"{place}, weights", given.get("weights", {})), bands)


def _known(what: str, place: str, given: Mapping[str, Any], keys: frozenset[str]) -> None:
    if unknown := sorted(given.keys() - keys):
        raise BadDeclaration(what=what, reason=f"{place} has {', '.join(unknown)}; expected {', '.join(sorted(keys))}")


def _numbers(what: str, place: str, given: Any) -> dict[str, int]:
    if not isinstance(given, dict) or any(type(value) is not int for value in given.values()):
        raise BadDeclaration(what=what, reason=f"{place}: expected names with whole numbers")
    return dict(given)


def _bands(what: str, place: str, given: Any) -> Bands:
    return tuple(_numbers(what, place, given).items())


# ---------------------------------------------------------------- out


def write_weights(model: HealthModel) -> str:
    """The TOML that `read_weights` reads as this model; of weights declared in code it is version 1."""
    lines = [f"model = {_text(model.name)}", f"model_version = {model.version}", f"version = {model.weighing or 1}"]
    lines += [f"weights = {_table(model.weights())}", f"bands = {_table(dict(model.bands))}"]
    for row in model.rows:
        lines += ["", "[[rows]]"]
        lines += [f"{key} = {_text(value)}" for key, value in (("segment", row.segment), ("stage", row.stage)) if value is not None]
        lines += [f"weights = {_table(row.weights)}"] if row.weights else []
        lines += [f"bands = {_table(dict(row.bands))}"] if row.bands is not None else []
    return "\n".join(lines) + "\n"


def _table(values: Mapping[str, int]) -> str:
    return "{ " + ", ".join(f"{name if name.isidentifier() and name.isascii() else _text(name)} = {n}" for name, n in values.items()) + " }"


def _text(value: str) -> str:
    escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else "\\" + c if c in '"\\' else c for c in value)
    return f'"{escaped}"'


def weights_table(model: HealthModel) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and lines: a column for each row of the model, the default first; a line for each component and each band."""
    rows = range(len(model.rows) + 1)
    header = ("", *(_name(model, row) for row in rows))
    weights, bands = [model.weights(row) for row in rows], [dict(model.bands_of(row)) for row in rows]
    lines = [(c.name, *(str(column[c.name] or "–") for column in weights)) for c in model.components]
    lines += [(f"{name} up to", *(str(column[name]) for column in bands)) for name, _ in model.bands]
    return header, lines


def differences(a: HealthModel, b: HealthModel) -> tuple[Difference, ...]:
    """What is otherwise in `b`: what counts for whom, row by row by their names, and their order. Equal digests have none."""
    out: list[Difference] = []

    def compare(row: str, what: str, before: object, after: object) -> None:
        if before != after:
            out.append(Difference(row, what, str(before), str(after)))

    compare("", "model", f"{a.name} version {a.version}", f"{b.name} version {b.version}")
    compare("", "features", a.features.digest, b.features.digest)
    compare("", "version of the weights", a.weighing, b.weighing)
    compare("", "segment by", a.segment, b.segment)
    compare("", "order of rows", _order(a), _order(b))
    compare("", "order of components", ", ".join(a.weights()), ", ".join(b.weights()))
    fresh_a, fresh_b = ({c.name: c.fresh for c in model.components} for model in (a, b))
    for component in dict.fromkeys([*fresh_a, *fresh_b]):
        compare("", f"freshness of {component}", fresh_a.get(component) or "–", fresh_b.get(component) or "–")
    places_a, places_b = ({_name(model, i): i for i in range(len(model.rows) + 1)} for model in (a, b))
    for name in dict.fromkeys([*places_a, *places_b]):
        if name not in places_a or name not in places_b:
            before, after = (_told(model, places.get(name)) for model, places in ((a, places_a), (b, places_b)))
            compare(name, "row", before, after)
            continue
        weights_a, weights_b = a.weights(places_a[name]), b.weights(places_b[name])
        for component in dict.fromkeys([*weights_a, *weights_b]):
            compare(name, f"weight of {component}", weights_a.get(component, "–"), weights_b.get(component, "–"))
        compare(name, "bands", _shown(a.bands_of(places_a[name])), _shown(b.bands_of(places_b[name])))
    return tuple(out)


def _name(model: HealthModel, row: int) -> str:
    return model.rows[row - 1].name if row else DEFAULT_ROW


def _told(model: HealthModel, row: int | None) -> str:
    if row is None:
        return "–"
    own = model.rows[row - 1]
    parts = [f"{name} {weight}" for name, weight in own.weights.items()]
    return ", ".join(parts + ([_shown(own.bands)] if own.bands else [])) or "the default's weights"


def _order(model: HealthModel) -> str:
    return ", ".join(row.name for row in model.rows) or "–"


def _shown(bands: Bands) -> str:
    return ", ".join(f"{name} up to {top}" for name, top in bands)
