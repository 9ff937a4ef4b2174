"""Salesforce: tasks of an account. Shape: REST API, "Insert or Update (Upsert) a Record Using an External ID", and "Update a Record".

It takes a field of Task that is an external id and unique, made once in Salesforce (`Postsale_Effect__c` unless named otherwise).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from postsale.agents.adapters.http import Client, Find, HttpTool, deadline, segment
from postsale.agents.tools.contract import Receipt
from postsale.agents.tools.sandbox import CloseTask, CreateTask, Task, TaskRef

API = "v61.0"


class _Salesforce(HttpTool):
    def __init__(self, instance_url: str, token: str, *, client: Client | None = None) -> None:
        super().__init__(instance_url, headers={"Authorization": f"Bearer {token}"}, client=client)

    @staticmethod
    def error_code(body: Any) -> str:
        first = body[0] if isinstance(body, list) and body else None
        return str(first.get("errorCode", "")) if isinstance(first, dict) else ""


class SalesforceTask(_Salesforce):
    """A task at the customer's account. Idempotent: the effect's key is the record's external id."""

    name, version, kind, input = CreateTask.name, 1, "idempotent", Task
    risk_tier, undo = CreateTask.risk_tier, CreateTask.undo

    def __init__(
        self,
        instance_url: str,
        token: str,
        account_of: Find,
        *,
        key_field: str = "Postsale_Effect__c",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        client: Client | None = None,
    ) -> None:
        super().__init__(instance_url, token, client=client)
        self._account_of, self._key_field, self._now = account_of, key_field, now

    def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
        account = self.on_the_other_side(self._account_of, arguments.customer)
        task = {
            "Subject": arguments.title,
            "Description": arguments.note,
            "WhatId": account,
            "Status": "Not Started",
            "ActivityDate": (self._now() + timedelta(days=arguments.due_in_days)).date().isoformat(),
        }
        path = f"/services/data/{API}/sobjects/Task/{segment(self._key_field)}/{segment(idempotency_key)}"
        return Receipt(receipt=self.expect(self.send("PATCH", path, deadline_s=deadline(timeout_s), json=task), "id"))


class SalesforceCloseTask(_Salesforce):
    """A task is completed. The answer to an update is empty."""

    name, version, kind, input = CloseTask.name, 1, "idempotent", TaskRef
    risk_tier = CloseTask.risk_tier

    def call(self, arguments: TaskRef, *, idempotency_key: str, timeout_s: float) -> Receipt:  # noqa: ARG002
        path = f"/services/data/{API}/sobjects/Task/{segment(arguments.task)}"
        self.send("PATCH", path, deadline_s=deadline(timeout_s), json={"Status": "Completed"})
        return Receipt(receipt=arguments.task)
