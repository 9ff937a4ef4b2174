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
    """A table whose first column names the row and whose other columns are numbers, or words where they hold spaces."""
    columns = [text(cell) for cell in head]
    body = []
    for row in rows:
        first, *rest = [text(cell) for cell in row]
        cells = [tag("td", cell, class_="num" if _number(cell) else None) for cell in rest]
        body.append(tag("tr", tag("th", first, scope="row"), *cells))
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in columns)))
    return tag(
        "div",
        tag("table", tag("caption", caption), top, tag("tbody", *body)),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _number(cell: str) -> bool:
    return bool(re.fullmatch(r"[+−±–]?[\d.,]*(?: (?:%|[A-Z]{3}))?", cell)) and bool(cell)
