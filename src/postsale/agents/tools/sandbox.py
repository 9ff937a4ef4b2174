"""Sandbox tools: the shipped contracts, recorded instead of carried out. Nothing leaves; each key counts once.

May import the tool contract and events. A real adapter declares the same contract and replaces its sandbox.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel

from postsale.agents.tools.contract import Receipt, Tool, ToolModel, Undo
from postsale.events import AmountMinor, Count, Currency, Id, Text, canonical


class Call(NamedTuple):
    """One recorded call."""

    tool: str
    idempotency_key: str
    arguments: Mapping[str, Any]


class Ledger:
    """Where sandbox calls are kept: in memory, or in a JSON-lines file that several processes may share."""

    def __init__(self, path: Path | str | None = None) -> None:
        self._path = None if path is None else Path(path)
        self._calls: dict[str, Call] = {}
        self._lock = threading.Lock()

    def record(self, call: Call) -> bool:
        """Keep the call unless its key is there already; durable before it returns. True when it was new."""
        with self._lock:
            if self._path is None:
                new = call.idempotency_key not in self._calls
                self._calls.setdefault(call.idempotency_key, call)
                return new
            with self._path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                raw = file.read()
                if any(known.idempotency_key == call.idempotency_key for known in _parse(raw)):
                    return False
                torn = b"\n" if raw and not raw.endswith(b"\n") else b""  # a crash in mid-line: end it, or this call joins it
                file.write(torn + canonical([call.tool, call.idempotency_key, dict(call.arguments)]) + b"\n")
                file.flush()
                os.fsync(file.fileno())
                return True

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call that counted, in order."""
        if self._path is None:
            return tuple(self._calls.values())
        return tuple(_parse(self._path.read_bytes())) if self._path.exists() else ()


def _parse(raw: bytes) -> list[Call]:
    out: list[Call] = []
    for line in raw.splitlines():
        try:
            tool, key, arguments = orjson.loads(line)
        except ValueError:
            continue  # a line torn by a crash: that call never returned
        out.append(Call(tool, key, arguments))
    return out


class SandboxTool(Tool):
    """A contract whose calls are recorded in a ledger."""

    sandbox = True
    output = Receipt

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger if ledger is not None else Ledger()

    def call(self, arguments: BaseModel, *, idempotency_key: str, timeout_s: float) -> Receipt:  # noqa: ARG002
        self.ledger.record(Call(self.ref.name, idempotency_key, arguments.model_dump(mode="json")))
        return Receipt(receipt=f"sandbox-{idempotency_key}")

    def query(self, idempotency_key: str, *, timeout_s: float) -> Receipt | None:  # noqa: ARG002
        found = any(c.idempotency_key == idempotency_key for c in self.ledger.calls)
        return Receipt(receipt=f"sandbox-{idempotency_key}") if found else None


class Task(ToolModel):
    """What a person is asked to do about a customer."""

    customer: Id
    title: Text
    note: Text = ""
    due_in_days: Count = 0


class CreateTask(SandboxTool):
    """A task for the account's owner in the CRM."""

    name, version, kind, input = "crm.create_task", 1, "idempotent", Task
    risk_tier = "low"
    undo = Undo("crm.close_task@1", {"customer": "$arguments.customer", "task": "$receipt"})


class TaskRef(ToolModel):
    """A task by the receipt of its creation."""

    customer: Id
    task: Text


class CloseTask(SandboxTool):
    """A task is closed without anything done."""

    name, version, kind, input = "crm.close_task", 1, "idempotent", TaskRef
    risk_tier = "low"


class Email(ToolModel):
    """A message from a template; the address is looked up on the sending side."""

    customer: Id
    template: Id


class SendEmail(SandboxTool):
    """A message to the customer."""

    name, version, kind, input = "email.send", 1, "queryable", Email
    by_hand = "A message cannot be called back: write to the customer that it was sent in error."


class Credit(ToolModel):
    """An amount in minor units of `currency` that is offered to the customer."""

    customer: Id
    amount_minor: AmountMinor
    currency: Currency
    terms: Text


class OfferCredit(SandboxTool):
    """A credit or voucher on the customer's account."""

    name, version, kind, input = "billing.offer_credit", 1, "idempotent", Credit
    risk_tier = "high"
    undo = Undo(
        "billing.withdraw_credit@1",
        {
            "customer": "$arguments.customer",
            "credit": "$receipt",
            "amount_minor": "$arguments.amount_minor",
            "currency": "$arguments.currency",
        },
    )


class CreditRef(ToolModel):
    """A credit by the receipt of its offer, and the amount that is taken back."""

    customer: Id
    credit: Text
    amount_minor: AmountMinor
    currency: Currency


class WithdrawCredit(SandboxTool):
    """A credit that was offered is taken off the customer's account."""

    name, version, kind, input = "billing.withdraw_credit", 1, "idempotent", CreditRef
    risk_tier = "high"


def shipped(ledger: Ledger) -> tuple[SandboxTool, ...]:
    """The contracts that the shipped policies name, and those that take their effects back."""
    return (CreateTask(ledger), CloseTask(ledger), SendEmail(ledger), OfferCredit(ledger), WithdrawCredit(ledger))


_COPIED = ("name", "version", "kind", "input", "output", "risk_tier", "undo", "by_hand", "timeout_s", "max_attempts", "backoff_s")


def sandbox_of(tool: Tool, ledger: Ledger) -> SandboxTool:
    """A stand-in with the contract of `tool`: same name, kind, input and digest, but it only records, and has no limits."""
    made = type(f"Sandbox{type(tool).__name__}", (SandboxTool,), {k: getattr(tool, k) for k in _COPIED})(ledger)
    assert isinstance(made, SandboxTool)
    return made
