"""HTML as text, escaped: an element is a function of attributes and content, and only `Raw` is taken as it is. Pure; imports nothing of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_WILD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")


class Raw(str):
    """Markup that was made here."""

    __slots__ = ()


Content = str | int | float | Raw | None | Iterable["Content"]


def text(content: Content) -> Raw:
    """Content as markup: anything but Raw is escaped, and what turns the direction of writing is replaced."""
    if content is None:
        return Raw("")
    if isinstance(content, Raw):
        return content
    if isinstance(content, str):
        return Raw(escape(_WILD.sub("\N{REPLACEMENT CHARACTER}", content), quote=True))
    if isinstance(content, int | float):
        return Raw(f"{content:g}" if isinstance(content, float) else str(content))
    return Raw("".join(text(one) for one in content))


def tag(name: str, /, *content: Content, **attributes: str | float | int | None) -> Raw:
    """An element. `class_` is class, `_` in names is `-`; an attribute that is None is left out."""
    shown = "".join(f' {_name(key)}="{text(value)}"' for key, value in attributes.items() if value is not None)
    if name in {"meta", "line", "rect", "path", "circle", "polygon", "br"}:
        return Raw(f"<{name}{shown}>" if name in {"meta", "br"} else f"<{name}{shown}/>")
    return Raw(f"<{name}{shown}>{text(content)}</{name}>")


def _name(key: str) -> str:
    return {"viewBox": "viewBox", "preserveAspectRatio": "preserveAspectRatio"}.get(key) or key.rstrip("_").replace("_", "-")


def table(caption: str, head: Iterable[Content], rows: Iterable[Iterable[Content]]) -> Raw:
    """A table whose first column names the row; columns of numbers are at the right."""
    made = [[text(cell) for cell in row] for row in rows]
    titles = [text(cell) for cell in head]
    numbers = [at > 0 and all(_number(row[at]) for row in made) for at in range(len(titles))]
    kinds = ["num" if number else None for number in numbers]
    top = tag("tr", *(tag("th", cell, scope="col", class_=kind) for cell, kind in zip(titles, kinds, strict=True)))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)))
        for row in made
    ]
    whole = tag("table", tag("caption", caption), tag("thead", top), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _number(cell: str) -> bool:
    return bool(re.fullmatch(r"[+−±–]?[\d.,]*(?: (?:%|[A-Z]{3}))?", cell)) and bool(cell)
