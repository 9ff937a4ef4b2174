"""What every command shares: the options, opening the database, tables and JSON.

Prints; decides nothing. May import `app` and everything below it.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from postsale.access import Person
from postsale.agents import Agent
from postsale.agents.tools import Tool
from postsale.app import PostSale, Tenant
from postsale.app.files import KEYS_VARIABLE, shown
from postsale.cli.cells import Cell, fitting
from postsale.errors import InvalidInput, StoreUnavailable, Unsupported
from postsale.projections import CUSTOMER_HEALTH, HealthModel
from postsale.projections.targets import TARGETS, Target
from postsale.projections.weighing import load_weights
from postsale.store import Store, open_store, scheme_of
from postsale.store.postgres_schema import DEFAULT_SCHEMA

_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140  # a pipe has no width of its own
out = Console(highlight=False, emoji=False, width=_WIDTH)  # a rule may be called :free:
err = Console(stderr=True, highlight=False, emoji=False)

EXIT_CODES = """Exit status: 0 done · 1 a check found something wrong · 2 the input is wrong · 3 refused · 4 not found · 5 the database or its keys cannot be used, or another run is under way
Environment: POSTSALE_DB · POSTSALE_KEYS · POSTSALE_SCHEMA · POSTSALE_TENANT · POSTSALE_TOKEN (act as its owner) · POSTSALE_IMPORT (modules that declare your own signals) · POSTSALE_HEALTH (module:NAME of your health model) · POSTSALE_TARGETS (module:NAME of a list of your targets for models) · POSTSALE_ARCHIVE (where archived chapters were moved to) · POSTSALE_HOT (redis://… that serves rows of read models)"""

_WILD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

DEFAULT_DB = "sqlite:///postsale.db"
_WIDE = 100  # columns of a terminal
_given: dict[str, str] = {}  # options of this command that the next one will need too

Db = Annotated[str, typer.Option("--db", envvar="POSTSALE_DB", help="Database URL: sqlite:///… or postgresql://….", show_default=True)]
Keys = Annotated[str | None, typer.Option("--keys", help=f"Key file of a PostgreSQL log. Without it: {KEYS_VARIABLE}.")]
Schema = Annotated[str, typer.Option("--schema", envvar="POSTSALE_SCHEMA", help="Schema of a PostgreSQL log.")]
TenantName = Annotated[
    str | None, typer.Option("--tenant", envvar="POSTSALE_TENANT", help="Tenant; may be left out while the database has only one.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
AsOf = Annotated[str | None, typer.Option("--as-of", help="What was true then: a date (its end, UTC) or an RFC 3339 time.")]
KnownAt = Annotated[
    str | None, typer.Option("--known-at", help="Only what was recorded by then: a date (its end, UTC) or an RFC 3339 time.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]


class Place(NamedTuple):
    """Where the log at --db is and has its keys, beyond its URL."""

    keys: str | None = None
    schema: str = DEFAULT_SCHEMA


_place = Place()


def place() -> Place:
    """What --keys and --schema said of this command."""
    return _place


class Commands(typer.Typer):
    """A group of commands. One that takes --db takes --keys and --schema beside it, which `opened` and `place` use."""

    def command(self, *args: Any, **how: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:  # type: ignore[override]
        register = super().command(*args, **how)

        def registered(command: Callable[..., None]) -> Callable[..., None]:
            register(_placed(command))
            return command

        return registered


def _placed(command: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(command, eval_str=True)
    if "db" not in signature.parameters:
        return command

    @functools.wraps(command)
    def run(*, keys: str | None, schema: str, **given: Any) -> None:
        global _place
        _place = Place(keys, schema)
        command(**given)

    parameters = []
    for parameter in signature.parameters.values():
        parameters.append(parameter)
        if parameter.name == "db":
            for name, default, annotation in (("keys", None, Keys), ("schema", DEFAULT_SCHEMA, Schema)):
                parameters.append(inspect.Parameter(name, parameter.kind, default=default, annotation=annotation))
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def parse_time(text: str | None) -> datetime | None:
    """A point in time from the command line; a date means its last microsecond in UTC. InvalidInput otherwise."""
    if text is None:
        return None
    try:
        if len(text) == 10:
            return datetime.combine(date.fromisoformat(text), time.max, UTC)
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            what="option", field="time", reason="expected a date such as 2026-09-30 or a time such as 2026-09-30T12:00:00Z"
        ) from None
    if at.tzinfo is None:
        raise InvalidInput(what="option", field="time", reason="expected a time zone, such as Z or +02:00")
    return at


@contextmanager
def opened(db: str, agents: Sequence[Agent] = (), *, create: bool = False, tools: Sequence[Tool] = ()) -> Iterator[PostSale]:
    """An open database; without `create` a missing one is an error that says how to make one."""
    _remember(db)
    path = db.removeprefix("sqlite:///")
    if not create and db.startswith("sqlite:///") and not os.path.exists(path):
        raise StoreUnavailable(url=db, reason="there is no such database; start with `postsale demo` or `postsale ingest`")
    with PostSale.open(
        db,
        agents=agents,
        tools=tools,
        sandbox=not tools,
        health=health_model(),
        targets=targets(),
        keys=_place.keys,
        schema=_place.schema,
        archive=archive_moved(),
        hot=os.environ.get("POSTSALE_HOT") or None,
    ) as ps:
        yield ps


def _remember(db: str) -> None:
    """For the hint at the end: how this command's database is named."""
    _given.clear()
    if db != os.environ.get("POSTSALE_DB", DEFAULT_DB):
        _given["--db"] = shown(db)
    if _place.keys is not None:
        _given["--keys"] = _place.keys
    if _place.schema != os.environ.get("POSTSALE_SCHEMA", DEFAULT_SCHEMA):
        _given["--schema"] = _place.schema


def existing_file(db: str) -> Path:
    """The file of a SQLite URL. Unsupported for another URL, StoreUnavailable when there is no such file."""
    if not db.startswith("sqlite:///"):
        raise Unsupported(what=f"a database with {scheme_of(db)} here", supported="sqlite:///NAME.db")
    path = Path(db.removeprefix("sqlite:///"))
    if not path.exists():
        raise StoreUnavailable(url=db, reason="there is no such database")
    return path


@contextmanager
def opened_store(db: str) -> Iterator[Store]:
    """The log of a database without its keys, which must be there, for whoever looks after it: with a login that owns it, too."""
    _remember(db)
    if db.startswith("sqlite:///"):
        existing_file(db)
    with closing(open_store(db, archive=archive_moved(), schema=_place.schema, as_owner=True)) as store:
        yield store


def archive_moved() -> str | None:
    """Where archived chapters are, if they are no longer where they were archived to."""
    return os.environ.get("POSTSALE_ARCHIVE") or None


def health_model() -> HealthModel:
    """The model that POSTSALE_HEALTH names as module:NAME, or the shipped one with the weights of the file it names; else the shipped one."""
    name = os.environ.get("POSTSALE_HEALTH")
    if not name:
        return CUSTOMER_HEALTH
    if name.endswith(".toml"):
        return load_weights(name, CUSTOMER_HEALTH)
    module, _, attribute = name.partition(":")
    found = getattr(imported(module), attribute, None)
    if not isinstance(found, HealthModel):
        reason = "expected module:NAME of a HealthModel, or a file of weights, NAME.toml"
        raise InvalidInput(what="environment", field="POSTSALE_HEALTH", reason=reason)
    return found


def targets() -> Sequence[Target]:
    """What models can be trained for: the list that POSTSALE_TARGETS names as module:NAME, else those that ship."""
    name = os.environ.get("POSTSALE_TARGETS")
    if not name:
        return TARGETS
    module, _, attribute = name.partition(":")
    found = getattr(imported(module), attribute, None)
    if not isinstance(found, list | tuple) or not all(isinstance(one, Target) for one in found):
        raise InvalidInput(what="environment", field="POSTSALE_TARGETS", reason="expected module:NAME of a list of targets")
    return found


def imported(module: str) -> ModuleType:
    """A module of the user's own, from the current folder or installed. InvalidInput when there is none of this name."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    if not all(part.isidentifier() for part in module.split(".")):
        raise InvalidInput(what="option", field="module", reason="expected the name of a module, such as mypackage.agents")
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        whose = "" if f"{module}.".startswith(f"{missing}.") else f", which {module!r} imports"
        raise InvalidInput(what="option", field="module", reason=f"there is no module {missing!r} here{whose}") from None


def tenant_of(ps: PostSale, name: str | None, *, new: bool = False) -> Tenant:
    """The tenant that was named, or the only one there is. With `new` a name without events yet will do."""
    if name is not None and new:
        _remember_tenant(name)
        return ps.tenant(name)
    return ps.tenant(tenant_among(ps.tenants(), name))


def tenant_among(known: Sequence[str], name: str | None) -> str:
    """The tenant of a database that was named, or its only one. InvalidInput when there is no such, or the choice is not clear."""
    if name is not None and name in known:
        _remember_tenant(name)
        return name
    if name is None and len(known) == 1:
        return known[0]
    listed = ", ".join(known[:8])
    if name is not None:
        reason = f"no such tenant here; there are: {listed or 'none'}"
    else:
        reason = f"the database has {len(known)} tenants ({listed}); say which" if known else "the database is empty; name a tenant"
    raise InvalidInput(what="option", field="--tenant", reason=reason)


def _remember_tenant(name: str) -> None:
    if name != os.environ.get("POSTSALE_TENANT"):
        _given["--tenant"] = name


def person(ps: PostSale) -> Person:
    """Who is acting: the owner of the token in POSTSALE_TOKEN, else the operating-system user. Never a flag."""
    token = os.environ.get("POSTSALE_TOKEN")
    return ps.authenticate(token) if token else ps.person(None)


def span(seconds: float) -> str:
    """A length of time by its two largest units: 2 h 5 min. Below a minute in seconds."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    left, said = int(seconds), []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        said.append((left // size, name))
        left %= size
    first = next(at for at, (number, _) in enumerate(said) if number)
    return " ".join(f"{number} {name}" for number, name in said[first : first + 2] if number)


def emit(value: Any) -> None:
    """JSON on standard output, one document."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode() + "\n")


def tame(text: str) -> str:
    """Text without what moves the cursor or turns the direction of writing: a terminal shows it, and does nothing else with it."""
    return text if text.isascii() and text.isprintable() else _WILD.sub("\N{REPLACEMENT CHARACTER}", text)


_TIMES = frozenset({"when", "until", "since", "first action", "said at", "occurred", "recorded", "received"})


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A table for people; says so when there is nothing in it."""
    view = Table(header_style="dim", box=None, pad_edge=False)
    # On a narrow terminal a time takes two lines: what is left is for the cells of text. No minimum widths: they would crop the table.
    halved = {at for at, column in enumerate(columns) if out.width < _WIDE and column in _TIMES}
    lines = [
        [
            Cell.of(cell.replace(" ", "\n", 1) if at in halved else cell)
            for at, cell in enumerate("" if c is None else tame(str(c)) for c in row)
        ]
        for row in rows
    ]
    whole = {
        at
        for at, column in enumerate(columns)
        if column in right or at in halved or column in {"id", "when", "customer", "stage", "period"} or not (at or column)
    }
    widths = fitting(columns, lines, whole, out.width)
    for at, column in enumerate(columns):
        short = at in whole or (column == "agent" and widths is None)
        width = None if widths is None else widths[at]
        view.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=short, width=width)
    for line in lines:
        view.add_row(*line)
    if view.row_count:
        out.print(f"[bold]{tame(title)}[/]", soft_wrap=True)  # outside, or a table of narrow columns would cut it
        out.print(view)
    else:
        out.print(f"[bold]{title}[/]: none")


def hint(command: str, *, as_of: str | None = None, known_at: str | None = None, db: str | None = None) -> None:
    """What to type next, with the options that were given to this command; `db` is another database than this command's."""
    more = dict(_given) if db is None else {"--db": db, **{name: value for name, value in _given.items() if name == "--tenant"}}
    more |= {**({"--as-of": as_of} if as_of else {}), **({"--known-at": known_at} if known_at else {})}
    options = "".join(f" {name} {shlex.quote(value)}" for name, value in more.items())
    out.print(f"[dim]→ {command}{escape(options)}[/]", soft_wrap=True)


def counts(title: str, values: Mapping[str, int]) -> None:
    out.print(f"[bold]{tame(title)}[/]  " + " · ".join(f"{name} {number:,}" for name, number in values.items()))


@contextmanager
def progress(title: str, total: int | None, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error for work that may take more than a moment; call the function with how much more is done."""
    if quiet or not err.is_terminal:
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(escape(tame(title)), total=total)
        yield lambda n: bar.update(task, advance=n)


@contextmanager
def steps(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for work in several steps; call the function with the step, how much of it is done, and how much there is."""
    if quiet or not err.is_terminal:
        yield lambda _what, _done, _all: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(task, description=escape(tame(what)), completed=done, total=total)
