"""What every command shares: the options, opening the database, tables and JSON, errors and exit codes.

Prints; decides nothing. May import `app` and everything below it.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, time
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from postsale.access import Person
from postsale.agents import Agent
from postsale.app import PostSale, Tenant
from postsale.errors import (
    AnchorUnavailable,
    ApprovalRefused,
    CheckpointRefused,
    IdentityConflict,
    InvalidInput,
    KeyUnavailable,
    LogDamaged,
    MappingInvalid,
    NotAllowed,
    NotCheckpointed,
    NoteInvalid,
    PolicyInvalid,
    PostSaleError,
    ReplayDiverged,
    SealBroken,
    StoreUnavailable,
    UnknownCustomer,
    UnknownDecision,
    UnknownEvent,
)
from postsale.projections import CUSTOMER_HEALTH, HealthModel
from postsale.store import Store, open_store

_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140  # a pipe has no width of its own
out = Console(highlight=False, width=_WIDTH)
err = Console(stderr=True, highlight=False)

EXIT_CODES = """Exit status: 0 done · 1 a check found something wrong · 2 the input is wrong · 3 refused · 4 not found · 5 the database or its keys cannot be used
Environment: POSTSALE_DB · POSTSALE_TENANT · POSTSALE_TOKEN (act as its owner) · POSTSALE_IMPORT (modules that declare your own signals) · POSTSALE_HEALTH (module:NAME of your health model)"""

_STATUS: tuple[tuple[tuple[type[PostSaleError], ...], int], ...] = (
    ((LogDamaged, ReplayDiverged, SealBroken, CheckpointRefused, NoteInvalid), 1),
    ((InvalidInput, MappingInvalid, PolicyInvalid, IdentityConflict), 2),
    ((ApprovalRefused, NotAllowed), 3),
    ((UnknownCustomer, UnknownDecision, UnknownEvent, NotCheckpointed), 4),
    ((StoreUnavailable, KeyUnavailable, AnchorUnavailable), 5),
)

_WILD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

DEFAULT_DB = "sqlite:///postsale.db"
_given: dict[str, str] = {}  # options of this command that the next one will need too

Db = Annotated[str, typer.Option("--db", envvar="POSTSALE_DB", help="Database URL.", show_default=True)]
TenantName = Annotated[
    str | None, typer.Option("--tenant", envvar="POSTSALE_TENANT", help="Tenant; may be left out while the database has only one.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
AsOf = Annotated[str | None, typer.Option("--as-of", help="What was true then: a date (its end, UTC) or an RFC 3339 time.")]
KnownAt = Annotated[
    str | None, typer.Option("--known-at", help="Only what was recorded by then: a date (its end, UTC) or an RFC 3339 time.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]


def status_of(error: PostSaleError) -> int:
    """The exit status of an error; see EXIT_CODES."""
    return next((code for kinds, code in _STATUS if isinstance(error, kinds)), 2)


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
def opened(db: str, agents: Sequence[Agent] = (), *, create: bool = False) -> Iterator[PostSale]:
    """An open database; without `create` a missing one is an error that says how to make one."""
    _expect(db, create=create)
    with PostSale.open(db, agents=agents, health=_health()) as ps:
        yield ps


@contextmanager
def opened_store(db: str) -> Iterator[Store]:
    """The log alone, without its keys: whoever has only a copy of it can verify it."""
    _expect(db, create=False)
    with closing(open_store(db)) as store:
        yield store


def _expect(db: str, *, create: bool) -> None:
    _given.clear()
    if db != os.environ.get("POSTSALE_DB", DEFAULT_DB):
        _given["--db"] = db
    path = db.removeprefix("sqlite:///")
    if not create and db.startswith("sqlite:///") and not os.path.exists(path):
        raise StoreUnavailable(url=db, reason="there is no such database; start with `postsale demo` or `postsale ingest`")


def _health() -> HealthModel:
    """The model that POSTSALE_HEALTH names as module:NAME, else the shipped one."""
    name = os.environ.get("POSTSALE_HEALTH")
    if not name:
        return CUSTOMER_HEALTH
    module, _, attribute = name.partition(":")
    found = getattr(imported(module), attribute, None)
    if not isinstance(found, HealthModel):
        raise InvalidInput(what="environment", field="POSTSALE_HEALTH", reason="expected module:NAME of a HealthModel")
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


def emit(value: Any) -> None:
    """JSON on standard output, one document."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode() + "\n")


def tame(text: str) -> str:
    """Text without what moves the cursor or turns the direction of writing: a terminal shows it, and does nothing else with it."""
    return text if text.isascii() and text.isprintable() else _WILD.sub("\N{REPLACEMENT CHARACTER}", text)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A table for people; says so when there is nothing in it."""
    view = Table(title=tame(title), title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        short = column in right or column in {"id", "when", "customer", "agent"}
        view.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=short)
    for row in rows:
        view.add_row(*("" if cell is None else tame(str(cell)) for cell in row))
    if view.row_count:
        out.print(view)
    else:
        out.print(f"[bold]{title}[/]: none")


def hint(command: str, *, as_of: str | None = None, known_at: str | None = None) -> None:
    """What to type next, with the options that were given to this command."""
    more = {**_given, **({"--as-of": as_of} if as_of else {}), **({"--known-at": known_at} if known_at else {})}
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
