"""Generates docs/reference and schemas/ from the code: `python -m docs.generate`, or `--check` to fail when they are stale.

Nothing is written by hand below docs/reference and schemas/, and what stands in schemas/ is history: a stored version is not
overwritten by another shape, and no file there is deleted. Reads only the public names (`__all__`) of public modules.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from typing import Any, get_origin, get_overloads

from postsale.events import check_schemas, kinds_in, registry

ROOT = Path(__file__).resolve().parent.parent
MODULES = (
    "postsale",
    "postsale.app",
    "postsale.agents",
    "postsale.agents.tools",
    "postsale.agents.adapters.hubspot",
    "postsale.agents.adapters.pydantic_ai",
    "postsale.agents.adapters.salesforce",
    "postsale.agents.adapters.segment",
    "postsale.agents.adapters.slack",
    "postsale.agents.adapters.smtp",
    "postsale.agents.adapters.stripe",
    "postsale.agents.adapters.webhook",
    "postsale.agents.engines.temporal",
    "postsale.ingest.bounces",
    "postsale.aggregates.identity",
    "postsale.aggregates.signals",
    "postsale.aggregates.decisions",
    "postsale.aggregates.plans",
    "postsale.aggregates.risk",
    "postsale.aggregates.budgets",
    "postsale.aggregates.asked",
    "postsale.aggregates.conversations",
    "postsale.aggregates.authority",
    "postsale.aggregates.timed",
    "postsale.aggregates.artifacts",
    "postsale.aggregates.customer",
    "postsale.aggregates.evolve",
    "postsale.projections",
    "postsale.projections.outcomes",
    "postsale.projections.related",
    "postsale.projections.training",
    "postsale.projections.datasets",
    "postsale.projections.scoring",
    "postsale.projections.priors",
    "postsale.projections.purchases",
    "postsale.projections.spending",
    "postsale.projections.targets",
    "postsale.projections.modelling",
    "postsale.projections.model_card",
    "postsale.projections.drift",
    "postsale.projections.fitting",
    "postsale.projections.metrics",
    "postsale.projections.backtest",
    "postsale.projections.backtest_scores",
    "postsale.ingest",
    "postsale.app.working",
    "postsale.audit",
    "postsale.audit.backtest",
    "postsale.access",
    "postsale.events",
    "postsale.store",
    "postsale.store.migrations",
    "postsale.store.recorders",
    "postsale.simulator",
    "postsale.simulator.past",
    "postsale.testing",
    "postsale.errors",
)


def public_names(module: Any) -> list[str]:
    """What a module exports: `__all__`, else the public classes and functions that it defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    own = [n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__]
    return sorted(n for n in own if inspect.isclass(vars(module)[n]) or inspect.isfunction(vars(module)[n]))


def _type(annotation: Any) -> str:
    """An annotation as it is written in the code."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"ForwardRef\('(.*?)'\)", r"\1", text)
    return re.sub(r"\b(?:typing|collections\.abc|datetime|uuid|postsale(?:\.\w+)*)\.(?=\w)", "", text)


def _default(value: Any) -> str:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, (bool, int, float, str, tuple, type(None))):
        return repr(value)
    if isinstance(value, frozenset):
        return f"frozenset({{{', '.join(sorted(map(repr, value)))}}})" if value else "frozenset()"
    return getattr(value, "__name__", "…")


def _parameter(p: inspect.Parameter) -> str:
    mark = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
    kind = "" if p.annotation is p.empty else f": {_type(p.annotation)}"
    default = "" if p.default is p.empty else f" = {_default(p.default)}" if kind else f"={_default(p.default)}"
    return f"{mark}{p.name}{kind}{default}"


def _signature(value: Any) -> str:
    """Parameters and result, less `self`."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    parts: list[str] = []
    star = False
    for p in signature.parameters.values():
        if p.name in {"self", "cls"} and p.annotation is p.empty:
            continue
        if p.kind is p.KEYWORD_ONLY and not star:
            parts.append("*")
        star = star or p.kind in {p.KEYWORD_ONLY, p.VAR_POSITIONAL}
        parts.append(_parameter(p))
    result = signature.return_annotation
    arrow = "" if inspect.isclass(value) or result is signature.empty else f" -> {_type(result)}"
    if parts == ["*args", "**kwargs"]:
        return ""  # a Protocol's
    line = f"({', '.join(parts)}){arrow}"
    return line if len(line) < 100 else "(\n    " + ",\n    ".join(parts) + f",\n){arrow}"


def _heading(level: str, name: str, *signatures: str) -> list[str]:
    """A name, and below it how it is called."""
    called = [f"{name.removeprefix('.')}{signature}" for signature in signatures if len(signature) > 2]
    fenced = ["```python", *called, "```", ""] if called else []
    return [f"{level} `{name}{'()' if signatures == ('()',) else ''}`", "", *fenced]


def _doc(value: Any) -> str:
    if inspect.isclass(value) and "__doc__" not in value.__dict__:
        return ""
    text = value.__doc__ or ""
    if inspect.isclass(value) and (text.startswith(value.__name__ + "(") or text == "An enumeration."):
        return ""  # the text that dataclass, NamedTuple or Enum writes
    return inspect.cleandoc(text) if inspect.isclass(value) or callable(value) else ""


def _annotations(cls: type) -> dict[str, str]:
    """Field types as written, of the class and its bases."""
    out: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("postsale"):
            out |= {name: _type(annotation) for name, annotation in inspect.get_annotations(base).items()}
    return out


@cache
def _parsed(module: str) -> tuple[list[str], ast.Module]:
    """A module's lines and its tree, read once: `inspect.getsource` would parse a module again for each of its classes."""
    source = inspect.getsource(sys.modules[module])
    return source.splitlines(), ast.parse(source)


def _source(cls: type) -> str:
    """A class as it is written."""
    lines, tree = _parsed(cls.__module__)
    body: list[ast.stmt] = tree.body
    found = None
    for name in cls.__qualname__.split("."):
        found = next((s for s in body if isinstance(s, ast.ClassDef) and s.name == name), None)
        if found is None:
            return inspect.getsource(cls)  # declared within a function
        body = found.body
    assert found is not None
    return "\n".join(lines[found.lineno - 1 : found.end_lineno])


def _remarks(cls: type) -> dict[str, str]:
    """What stands in a comment behind a field."""
    out: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("postsale"):
            found = re.findall(r"^    (\w+): [^#\n]*#\s+(?!type:|noqa)(.*)$", _source(base), re.MULTILINE)
            out |= {name: remark.strip() for name, remark in found}
    return out


def _field_table(cls: type, names: Iterable[str], marks: Callable[[str], list[str]]) -> list[str]:
    types, remarks = _annotations(cls), _remarks(cls)
    lines = ["| field | type | |", "|---|---|---|"]
    for name in names:
        text = "; ".join([*marks(name), *([remarks[name]] if name in remarks else [])])
        kind = re.sub(r"\bPersonal\[(\w+)\]", r"\1", types.get(name, ""))
        cells = (f"`{name}`", f"`{kind}`" if kind else "", text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""] if len(lines) > 2 else []


def _fields(cls: type) -> list[str]:
    """The fields of a model, dataclass or named tuple, with types and remarks. Every signal's envelope fields are told once."""
    model = getattr(cls, "model_fields", None)
    if isinstance(model, dict) and model:
        told = cls.envelope_fields if getattr(cls, "wire_name", None) and hasattr(cls, "envelope_fields") else frozenset()
        personal = getattr(cls, "personal_fields", frozenset())

        def marks(name: str) -> list[str]:
            return ["personal"] * (name in personal) + ["optional"] * (not model[name].is_required())

        lines = _field_table(cls, [n for n in model if n not in told], marks)
        return [*([f"Wire name `{cls.wire_name}`; recorded with the fields of `Signal`." if told else ""]), "", *lines]
    if is_dataclass(cls):
        return _field_table(cls, [f.name for f in fields(cls) if not f.name.startswith("_")], lambda _: [])
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _field_table(cls, cls._fields, lambda _: [])
    if issubclass(cls, Enum):
        return ["Members: " + ", ".join(f"`{m.name}` = {m.value!r}" for m in cls) + ".", ""]
    return []


@cache
def _documented() -> frozenset[type]:
    """The classes that have an entry of their own."""
    modules = [importlib.import_module(name) for name in MODULES]
    values = (getattr(module, name) for module in modules for name in public_names(module))
    return frozenset(value for value in values if inspect.isclass(value))


def _members(cls: type) -> list[str]:
    lines: list[str] = []
    parts = [base for base in cls.__mro__[1:] if base.__module__.startswith("postsale.") and base not in _documented()]
    members = dict(vars(cls))
    for part in parts:
        members |= {name: member for name, member in vars(part).items() if name not in members}
    for name, member in members.items():
        function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if isinstance(member, cached_property):
            function = member = property(member.func)
        if name.startswith("_") or not (inspect.isfunction(function) or isinstance(member, property)):
            continue
        target = member.fget if isinstance(member, property) else function
        text = inspect.cleandoc(target.__doc__ or "") if target is not None else ""
        if text:
            result = inspect.signature(target).return_annotation if isinstance(member, property) and target is not None else ""
            if isinstance(member, property):
                lines += [f"### `.{name}: {_type(result)}`", "", text, ""]
            else:
                lines += [*_heading("###", f".{name}", _signature(function)), text, ""]
    return lines


def _constant(name: str, value: Any) -> list[str]:
    """A constant or a type: how it is assigned, and the text that stands below that or behind it."""
    text, note = "", ""
    for module in [m for n, m in sorted(sys.modules.items()) if n.startswith("postsale") and vars(m).get(name) is value]:
        source, tree = _parsed(module.__name__)
        for statement, after in zip(tree.body, [*tree.body[1:], None], strict=True):
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            if not any(isinstance(t, ast.Name) and t.id == name for t in targets) or not isinstance(statement, (ast.Assign, ast.AnnAssign)):
                continue
            text = ast.unparse(statement.value) if statement.value is not None else ""
            note = source[(statement.end_lineno or 1) - 1].partition("  # ")[2]
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                note = inspect.cleandoc(after.value.value)
    kind = f"`{text}`" if 0 < len(text) < 200 else f"A `{type(value).__name__}`."
    return [f"## `{name}`", "", kind, "", note[:1].upper() + note[1:], ""]


def reference(name: str) -> str:
    """One module's page, in Markdown."""
    module = importlib.import_module(name)
    note = "<!-- Generated by `make docs`; edit the docstrings instead. -->"
    lines = [f"# {name}", "", note, "", inspect.cleandoc(module.__doc__ or ""), ""]
    elsewhere = public_names(importlib.import_module("postsale")) if name == "postsale.app" else []
    for public in [n for n in public_names(module) if n not in elsewhere]:
        value = getattr(module, public)
        if inspect.isclass(value):
            plain = issubclass(value, (BaseException, Enum, tuple)) or hasattr(value, "model_fields") or is_dataclass(value)
            signature = "" if plain else _signature(value)
            lines += [*_heading("##", public, signature), _doc(value), "", *_fields(value), *_members(value)]
        elif inspect.ismodule(value):
            lines += [f"## `{public}`", "", inspect.cleandoc(value.__doc__ or ""), ""]
            for inner in public_names(value):
                if inspect.isfunction(vars(value)[inner]):
                    lines += [*_heading("###", f"{public}.{inner}", _signature(vars(value)[inner])), _doc(vars(value)[inner]), ""]
        elif inspect.isfunction(inspect.unwrap(value)) if callable(value) and get_origin(value) is None else False:
            forms = get_overloads(value) or [inspect.unwrap(value)]
            lines += [*_heading("##", public, *map(_signature, forms)), _doc(value), ""]
        else:
            lines += _constant(public, value)
    return _squeeze(lines)


def index() -> str:
    """The list of pages, each with the first sentence of its module."""
    lines = [
        "# Reference",
        "",
        "<!-- Generated by `make docs`. -->",
        "",
        "Every public name, from the docstrings. Start with `postsale`.",
        "",
    ]
    lines += ["| module | |", "|---|---|"]
    for name in MODULES:
        first = inspect.cleandoc(importlib.import_module(name).__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        lines.append(f"| [{name}]({name}.md) | {first} |")
    return _squeeze([*lines, "| [events](events.md) | The catalogue: every kind of event that is stored, with its fields. |"])


def catalogue() -> str:
    """Every kind of event that ships: versions, lane, room, meaning, fields, and what reads it."""
    from postsale.aggregates.signals import Signal
    from postsale.events.evolution import file_name

    lines = ["# Event catalogue", "", "<!-- Generated by `make docs`. -->", "", "Every kind that is stored. Wire names are for ever;"]
    lines += ["[how a kind changes](../how-to/change-an-event.md). `postsale schemas list` shows yours too.", ""]
    lines += ["Signals also carry, in the envelope:", "", *_field_table(Signal, sorted(Signal.envelope_fields), lambda _: [])]
    readers = _readers()
    for kind in kinds_in("postsale"):
        room = kind.module.split(".")[1]
        versions = ", ".join(f"[@{name.partition('@')[2]}](../../schemas/{file_name(name)})" for name in kind.versions)
        lines += [f"## `{kind.wire_name.partition('@')[0]}`", "", kind.description, ""]
        lines += [f"Versions: {versions} · {kind.lane.name.lower()} lane · room `{room}`, `{kind.cls.__qualname__}`", ""]
        types, remarks = _annotations(kind.cls), _remarks(kind.cls)
        rows = []
        for field in kind.fields:
            written = re.sub(r"\bPersonal\[(\w+)\]", r"\1", types.get(field.name, ""))
            marks = ["personal"] * field.personal + ["optional"] * (not field.required)
            marks += [field.type] if field.type.startswith("one of") and "Literal" not in written else []
            said = "; ".join([*marks, *([remarks[field.name]] if field.name in remarks else [])])
            rows.append("| " + " | ".join(c.replace("|", "\\|") for c in (f"`{field.name}`", f"`{written}`", field.unit, said)) + " |")
        lines += ["| field | type | unit | |", "|---|---|---|---|", *rows, ""] if rows else []
        reading = readers.get(kind.wire_name.partition("@")[0])
        lines += [f"Read by {', '.join(reading)}.", ""] if reading else []
    return _squeeze(lines)


def _readers() -> dict[str, list[str]]:
    """By kind, the shipped features that count it and the shipped policies that name it."""
    from postsale.agents import SHIPPED
    from postsale.projections import Features

    out: dict[str, list[str]] = {}
    for features in sorted(Features.__subclasses__(), key=lambda cls: cls.__name__):
        for leaf in features.leaves.values() if features.__module__.startswith("postsale.") else ():
            for kind in leaf.kinds:
                out.setdefault(kind, []).append(f"`{features.__name__}.{leaf.name}`")
    for name, agent in SHIPPED.items():
        policy = agent.default_policy()
        named = {*(policy.outcome.on if policy.outcome else ()), *policy.guardrails.must_not_have_changed}
        for kind in named:
            out.setdefault(kind, []).append(f"the policy {name}")
    return out


def schemas() -> dict[str, str]:
    """JSON Schema of every declared version, by file name."""
    from postsale.events.evolution import file_name
    from postsale.events.schemas import schema_text

    return {file_name(cls.wire_name): schema_text(cls) for cls in registry.classes("postsale")}


def _squeeze(lines: list[str]) -> str:
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip() + "\n"


@cache
def outputs() -> dict[Path, str]:
    """Every generated file and what it must hold."""
    pages = {Path("docs/reference") / f"{name}.md": reference(name) for name in MODULES}
    pages |= {Path("docs/reference/events.md"): catalogue(), Path("docs/reference/README.md"): index()}
    return pages | {Path("schemas") / name: text for name, text in schemas().items()}


def main(check: bool, root: Path = ROOT) -> int:
    """Write, or with `check` compare; returns the exit status. A stored version of an event that was changed is never overwritten."""
    for name in MODULES:
        importlib.import_module(name)  # they declare the kinds of events
    broken = [finding for finding in check_schemas(root / "schemas", "postsale") if finding.breaks != "history"]
    for finding in broken:
        sys.stderr.write(f"{finding}\n")
    if broken:
        sys.stderr.write("Stored versions stay as they are. One that no log holds yet is taken back by deleting its file in schemas/.\n")
        return 1
    wanted = outputs()
    have = {p.relative_to(root) for p in (root / "docs/reference").glob("*.*")}
    stale = [p for p, text in wanted.items() if not (root / p).is_file() or (root / p).read_text() != text] + sorted(have - wanted.keys())
    if check:
        for path in stale:
            sys.stderr.write(f"{path} is stale; run: make docs\n")
        return 1 if stale else 0
    for path in have - wanted.keys():
        (root / path).unlink()
    for path, text in wanted.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
