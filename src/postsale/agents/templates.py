"""Texts with {inputs} in them: which inputs a text names, and the text with their values. Pure; imports expressions only."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter

from postsale.agents.expressions import Value

BUILT_IN = ("customer", "because", "offer.amount_minor", "offer.currency", "offer.terms")


def placeholders(text: str) -> tuple[str, ...]:
    """Names in braces, in order; ValueError for anything beyond a plain {name} ('{{' and '}}' are braces)."""
    names = []
    for _, name, spec, conversion in Formatter().parse(text):
        if name is None:
            continue
        if spec or conversion or not name.replace("_", "a").replace("-", "a").isalnum():
            raise ValueError(f"{{{name}}} may only be the name of an input")
        names.append(name)
    return tuple(names)


def fill(text: str, values: Mapping[str, Value]) -> str:
    """The text with {input} replaced; a missing value reads "unknown", true and false read "yes" and "no"."""
    if "{" not in text and "}" not in text:
        return text
    out = []
    for literal, name, _, _ in Formatter().parse(text):
        out.append(literal)
        if name is not None:
            value = values.get(name)
            out.append("unknown" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value))
    return "".join(out)
