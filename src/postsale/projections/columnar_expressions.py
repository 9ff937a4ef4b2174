"""Expressions as columns: which columns facts bring, and what `expressions.evaluate` means in an engine. No aggregate lives here.

Imports expressions and the algebra of decay; Ibis (extra `batch`) only when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from postsale.errors import BadDeclaration, MissingExtra
from postsale.events import DAY_US
from postsale.projections.algebra import first_weights
from postsale.projections.expressions import Const, Expression, Field, Op, Type
from postsale.projections.features import Features

Table: TypeAlias = Any  # ibis.Table; the extra may not be installed
Column: TypeAlias = Any

_TYPES: Final[dict[Type, str]] = {"int": "int64", "str": "string", "bool": "boolean", "time": "int64"}


def ibis() -> Any:
    """The library. Raises MissingExtra."""
    try:
        import ibis
    except ImportError:
        raise MissingExtra(feature="features over all history", extra="batch") from None
    return ibis


# ---------------------------------------------------------------- columns


def payload_columns(features: type[Features]) -> dict[str, Field]:
    """The columns that the facts must bring, by name, sorted, with the field that each holds; a time is UTC microseconds.

    A column is named `FIELD__TYPE`, because two kinds may hold a field of one name as different types.
    """
    fields: set[Field] = set()
    for leaf in features.leaves.values():
        for part in (leaf.value, leaf.where, leaf.by):
            fields |= fields_of(part)
    columns = {column_of(field): field for field in sorted(fields, key=column_of)}
    if len({name.lower() for name in columns}) < len(columns):
        raise BadDeclaration(what=features.__name__, reason="two fields differ by upper and lower case only, which columns cannot")
    return columns


def parent_columns(features: type[Features]) -> dict[str, str]:
    """By relation the column that says whom a fact's id stands for: a value of the first of the keys, null for nobody."""
    return {relation: parent_column(relation) for relation in features.relations}


def parent_column(relation: str) -> str:
    return f"{relation}__parent"


def column_of(field: Field) -> str:
    return f"{field.name}__{field.type}"


def fact_schema(features: type[Features], keys: Mapping[str, str]) -> dict[str, str]:
    """Names and Ibis types of the columns of the facts; `keys` with their types come first."""
    payload = {name: _TYPES[field.type] for name, field in payload_columns(features).items()}
    return {**keys, "kind": "string", "position": "int64", "occurred_at_us": "int64", **payload}


def fields_of(expression: Expression | None) -> set[Field]:
    match expression:
        case Field():
            return {expression}
        case Op(_, args):
            return set().union(*map(fields_of, args))
    return set()


# ---------------------------------------------------------------- expressions


def translated(expression: Expression, facts: Table) -> Column:
    """The column that holds what `expressions.evaluate` gives for each fact."""
    match expression:
        case Field():
            return facts[column_of(expression)]
        case Const(value, type_):
            return ibis().literal(value, _TYPES[type_])
        case Op("neg", (arg,)):
            return -translated(arg, facts)
        case Op(name, (a, b)):
            left, right = translated(a, facts), translated(b, facts)
            match name:
                case "+":
                    return left + right
                case "-":
                    return left - right
                case "*":
                    return left * right
                case "//":
                    return _floor_division(left, right.nullif(0))[0]
                case "%":
                    return _floor_division(left, right.nullif(0))[1]
                case "==":
                    return left == right
                case "!=":
                    return left != right
                case "<":
                    return left < right
                case "<=":
                    return left <= right
                case ">":
                    return left > right
                case ">=":
                    return left >= right
                case "&":
                    return left & right
                case "|":
                    return left | right
    raise AssertionError(expression)


def _floor_division(a: Column, b: Column) -> tuple[Column, Column]:
    """Quotient and remainder, rounded down as Python does, exact in 64 bits.

    Engines round towards zero, and Ibis divides through floats, which hold 53 bits: so the quotient is found in two steps, the second
    of which divides what the first one left over; that is small enough to be exact.
    """
    remainder = a % b
    remainder = ibis().ifelse((remainder != 0) & ((remainder < 0) != (b < 0)), remainder + b, remainder)
    multiple = a - remainder
    near = (multiple.cast("float64") / b.cast("float64")).round().cast("int64")
    rest = multiple - near * b
    return near + (rest.cast("float64") / b.cast("float64")).round().cast("int64"), remainder


def day_of(us: Column) -> Column:
    """The UTC day. Through floats, and exact: for |us| < 2^53 the quotient's rounding never reaches the next whole number."""
    return (us.cast("float64") / float(DAY_US)).floor().cast("int64")


def weight_of(half_life: int, age: Column) -> Column:
    """`algebra.weight`. A power of two divides a float exactly."""
    halved = (age.cast("float64") / float(half_life)).floor()
    first = ibis().array(list(first_weights(half_life)))[(age - (halved * half_life).cast("int64")).cast("int32")]
    return (first.cast("float64") / ibis().literal(2.0).pow(halved)).floor().cast("int64")


def digest_of(value: Column) -> Column:
    """The hash of `sketch`, as hex: casts write integers in decimal and booleans as `true` and `false` on every engine."""
    return value.cast("string").hexdigest("md5")
