"""Where engine contracts happen: one log with its clock, one agent whose policy has every limit, tools that call a server which counts.

Any process can open it: all of it is in a folder, or on the PostgreSQL that its URL names. What happens there is told in `engine_stage`.
May import `app` and everything below it.
"""

from __future__ import annotations

import http.client
import itertools
import json
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import ClassVar, Final, Self
from urllib.parse import urlsplit

from postsale.access import FileVault
from postsale.agents import Agent, Policy
from postsale.agents.tools import Receipt, Tool, ToolKind, ToolModel
from postsale.app import PostSale
from postsale.errors import ToolRefused, ToolUncertain
from postsale.events import to_us
from postsale.store import Leases
from postsale.testing.tool_server import Answer, Request

TENANT: Final = "acme"
START: Final = datetime(2026, 11, 16, 12, 0, tzinfo=UTC)  # a Monday; 13:00 in Berlin
POLICY: Final = """
name = "engines"
version = 1
owner = "tests"
description = "Something for every limit."
hit = "first"

[inputs]
failed_payments = "integer"
days_since_last_payment = "integer"
mrr_minor = "integer"
segment = "text"
time_zone = "text"

[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }

[[trigger]]
id = "silent"
when = { days_since_last_payment = ">= 30" }

[[rule]]
id = "credit"
when = { segment = "vip" }
action = "offer"
tool = "shop.credit@1"
channel = "email"
offer = { kind = "credit", amount_minor = "$mrr_minor", currency = "EUR", terms = "One month." }
authority_limit_minor = 1000
arguments = { customer = "$customer", text = "$offer.terms" }
risk_case = true
because = "{failed_payments} failed."

[[rule]]
id = "mail"
when = { segment = "smb" }
action = "email"
tool = "shop.mail@1"
channel = "email"
arguments = { customer = "$customer", text = "pay" }
approval = "none"
because = "{failed_payments} failed."

[[rule]]
id = "ring"
when = { segment = "phone" }
action = "ring"
tool = "shop.ring@1"
arguments = { customer = "$customer", text = "$because" }
approval = "none"
because = "{failed_payments} failed."

[[rule]]
id = "sue"
when = { segment = "hostile" }
action = "sue"
tool = "shop.credit@1"
arguments = { customer = "$customer", text = "see you in court" }
approval = "none"
risk = "high"
because = "{failed_payments} failed."

[[rule]]
id = "task"
when = { failed_payments = ">= 2" }
action = "task"
tool = "shop.credit@1"
arguments = { customer = "$customer", text = "$because" }
approval = "none"
because = "{failed_payments} failed."

[[rule]]
id = "greet"
when = { days_since_last_payment = ">= 30", failed_payments = 0 }
action = "task"
tool = "shop.credit@1"
arguments = { customer = "$customer", text = "$because" }
approval = "none"
because = "Nothing for {days_since_last_payment} days."

[[rule]]
id = "wait"
action = "none"
because = "Once is no pattern."

[guardrails]
purpose = "service"
max_depth = 0
must_not_have_changed = ["billing/invoice-paid"]
bound_to = ["failed_payments"]
approval_expires_h = 48

[[guardrails.frequency]]
count = 1
days = 30

[[guardrails.sequence]]
id = "after-a-complaint"
kinds = ["ticketing/ticket-escalated"]
within_days = 30

[guardrails.quiet_hours]
start = "20:00"
end = "08:00"
default_zone = "Europe/Berlin"

[[budget]]
name = "retention"
unit = "EUR"
limit = 6000
per = "month"

[guardrails.appetite]
act = "medium"
propose = "medium"

[autonomy]
by = "segment"
segments = { watched = "observe" }
otherwise = "act"

[outcome]
on = ["billing/invoice-paid"]
within_days = 14
"""


class _Said(ToolModel):
    customer: str
    text: str


class _Counted(Tool):
    """POSTs its key and arguments; the server counts."""

    kind: ClassVar[ToolKind] = "idempotent"
    input = _Said
    timeout_s = 5.0
    breaker_after = max_attempts = 50

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc

    def call(self, arguments: _Said, *, idempotency_key: str, timeout_s: float) -> Receipt:
        connection = http.client.HTTPConnection(self._address, timeout=timeout_s)
        try:
            connection.request("POST", f"/{self.name}", arguments.model_dump_json(), {"Idempotency-Key": idempotency_key})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ToolUncertain(tool=self.ref.name, reason=type(error).__name__) from None
        finally:
            connection.close()
        if answer.status >= 500:
            raise ToolUncertain(tool=self.ref.name, reason=f"status {answer.status}")
        if answer.status != 200:
            raise ToolRefused(tool=self.ref.name, reason=f"status {answer.status}")
        return Receipt(receipt=json.loads(body)["receipt"])


class _Credit(_Counted):
    name = "shop.credit"


class _Mail(_Counted):
    name = "shop.mail"


class _Ring(_Counted):
    name = "shop.ring"
    kind: ClassVar[ToolKind] = "unsafe"


class Counter:
    """The other side of the tools: counts each key once, but every call of the unsafe one."""

    def __init__(self) -> None:
        self.effects: list[str] = []

    def handle(self, request: Request) -> Answer:
        key = request.headers["idempotency-key"]
        if key not in self.effects or request.path == "/shop.ring":
            self.effects.append(key)
        return Answer(200, {"receipt": f"r-{key[:8]}"})


class FileClock:
    """A clock that stands, the same for every process: the time in microseconds in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def now_us(self) -> int:
        return int(self._path.read_text())

    def move_to(self, us: int) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(us))
        fresh.replace(self._path)


@cache
def _keys() -> bytes:
    """One tenant's keys for all stages, so that ids and digests agree between them."""
    with tempfile.TemporaryDirectory() as folder:
        vault = FileVault(Path(folder) / "keys")
        vault.tenant(TENANT)
        vault.close()
        return (Path(folder) / "keys").read_bytes()


@dataclass(frozen=True)
class Site:
    """Where a log is, as any process opens it."""

    folder: str
    tools: str  # URL of the server that counts
    url: str
    schema: str = "postsale"

    @classmethod
    def make(cls, folder: Path, tools: str, url: str | None = None, schema: str = "postsale") -> Self:
        """A fresh one, in a file of the folder unless `url` names a log on PostgreSQL."""
        folder.mkdir(parents=True, exist_ok=True)
        site = cls(str(folder), tools, url or f"sqlite:///{folder / 'log.db'}", schema)
        (folder / "log.keys").write_bytes(_keys())
        (folder / "log.keys").chmod(0o600)
        site.clock.move_to(to_us(START))
        site.lease_clock.move_to(to_us(START))
        return site

    @property
    def clock(self) -> FileClock:
        return FileClock(Path(self.folder) / "clock")

    @property
    def lease_clock(self) -> FileClock:
        """The clock of leases: it is moved on to have a killed process's lease expire, while the story stands still."""
        return FileClock(Path(self.folder) / "lease-clock")

    def open(self) -> PostSale:
        """The log with its agent and tools."""
        refs = (f"c{n}" for n in itertools.count(1))
        ps = PostSale.open(
            self.url,
            agents=[Agent(Policy.from_toml(POLICY))],
            tools=[_Credit(self.tools), _Mail(self.tools), _Ring(self.tools)],
            sandbox=False,
            clock=self.clock,
            schema=self.schema,
            keys=None if self.url.startswith("sqlite") else Path(self.folder) / "log.keys",
            new_ref=lambda: next(refs),
        )
        ps.leases = Leases(ps.log.store.kv, self.lease_clock)
        return ps

    def to_dict(self) -> dict[str, str]:
        return asdict(self)
