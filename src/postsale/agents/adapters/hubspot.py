"""HubSpot: tasks of a company. Shape: developers.hubspot.com, CRM tasks (batch upsert by a unique property) and associations v4.

It takes a property of tasks that has unique values, made once in HubSpot (`postsale_effect` unless named otherwise): the effect's key
is kept in it, so that the same effect again is the same task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from postsale.agents.adapters.http import Client, Find, HttpTool, deadline, segment
from postsale.agents.tools.contract import Rate, Receipt
from postsale.agents.tools.sandbox import CloseTask, CreateTask, Task, TaskRef

URL = "https://api.hubapi.com"


class _HubSpot(HttpTool):
    rate = Rate(100, 10.0)  # a private app's burst; the daily allowance is HubSpot's to say

    def __init__(self, token: str, *, base_url: str = URL, client: Client | None = None) -> None:
        super().__init__(base_url, headers={"Authorization": f"Bearer {token}"}, client=client)

    @staticmethod
    def error_code(body: Any) -> str:
        return str(body.get("category", "")) if isinstance(body, Mapping) else ""


class HubSpotTask(_HubSpot):
    """A task at the customer's company. Idempotent: two requests, of which each may be repeated."""

    name, version, kind, input = CreateTask.name, 1, "idempotent", Task
    risk_tier, undo = CreateTask.risk_tier, CreateTask.undo

    def __init__(
        self,
        token: str,
        company_of: Find,
        *,
        key_property: str = "postsale_effect",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        base_url: str = URL,
        client: Client | None = None,
    ) -> None:
        super().__init__(token, base_url=base_url, client=client)
        self._company_of, self._key_property, self._now = company_of, key_property, now

    def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
        by, company = deadline(timeout_s), self.on_the_other_side(self._company_of, arguments.customer)
        due = self._now() + timedelta(days=arguments.due_in_days)
        task = {
            self._key_property: idempotency_key,
            "hs_task_subject": arguments.title,
            "hs_task_body": arguments.note,
            "hs_task_status": "NOT_STARTED",
            "hs_timestamp": due.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        inputs = [{"idProperty": self._key_property, "id": idempotency_key, "properties": task}]
        made = self.send("POST", "/crm/v3/objects/tasks/batch/upsert", deadline_s=by, json={"inputs": inputs})
        id_ = self.expect(made, "results", 0, "id")
        self.send("PUT", f"/crm/v4/objects/tasks/{segment(id_)}/associations/default/companies/{segment(company)}", deadline_s=by)
        return Receipt(receipt=id_)


class HubSpotCloseTask(_HubSpot):
    """A task is completed."""

    name, version, kind, input = CloseTask.name, 1, "idempotent", TaskRef
    risk_tier = CloseTask.risk_tier

    def call(self, arguments: TaskRef, *, idempotency_key: str, timeout_s: float) -> Receipt:  # noqa: ARG002
        path = f"/crm/v3/objects/tasks/{segment(arguments.task)}"
        done = self.send("PATCH", path, deadline_s=deadline(timeout_s), json={"properties": {"hs_task_status": "COMPLETED"}})
        return Receipt(receipt=self.expect(done, "id"))
