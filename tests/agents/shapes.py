"""The other sides of the shipped adapters: as much of each vendor's API as an adapter uses, with a record of what counted."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from postsale.agents.adapters.webhook import SIGNATURE, verify
from postsale.errors import InvalidInput
from postsale.testing import Answer, Request

TOKEN = "a-token-that-is-long-enough"


class _Shape:
    def __init__(self) -> None:
        self.effects: list[str] = []

    def handle(self, request: Request) -> Answer:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Answer(401, {"message": "who are you?"})
        return self.authorised(request)

    def authorised(self, request: Request) -> Answer:
        raise NotImplementedError


class HubSpot(_Shape):
    """Tasks by a unique property, associations, status changes."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[str, dict[str, Any]] = {}
        self.associations: set[tuple[str, str]] = set()

    def authorised(self, request: Request) -> Answer:
        match (request.method, request.path.strip("/").split("/")):
            case ("POST", ["crm", "v3", "objects", "tasks", "batch", "upsert"]):
                (item,) = request.json["inputs"]
                if "hs_timestamp" not in item["properties"] or item["properties"][item["idProperty"]] != item["id"]:
                    return Answer(400, {"status": "error", "category": "VALIDATION_ERROR"})
                known = next((id_ for id_, t in self.tasks.items() if t[item["idProperty"]] == item["id"]), None)
                id_ = known or str(900 + len(self.tasks))
                self.tasks[id_] = {**self.tasks.get(id_, {}), **item["properties"]}
                if known is None:
                    self.effects.append(item["id"])
                return Answer(200, {"status": "COMPLETE", "results": [{"id": id_, "new": known is None, "properties": self.tasks[id_]}]})
            case ("PUT", ["crm", "v4", "objects", "tasks", id_, "associations", "default", "companies", company]):
                if id_ not in self.tasks:
                    return Answer(404, {"status": "error", "category": "OBJECT_NOT_FOUND"})
                self.associations.add((id_, company))
                return Answer(200, {"status": "COMPLETE"})
            case ("PATCH", ["crm", "v3", "objects", "tasks", id_]) if id_ in self.tasks:
                self.tasks[id_] |= request.json["properties"]
                return Answer(200, {"id": id_})
        return Answer(404, {"status": "error", "category": "OBJECT_NOT_FOUND"})


class Salesforce(_Shape):
    """Upsert of a Task by its external id, update by its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[str, dict[str, Any]] = {}
        self.by_key: dict[str, str] = {}

    def authorised(self, request: Request) -> Answer:
        match (request.method, [unquote(x) for x in request.path.strip("/").split("/")]):
            case ("PATCH", ["services", "data", _, "sobjects", "Task", "Postsale_Effect__c", key]):
                created = key not in self.by_key
                id_ = self.by_key.setdefault(key, f"00T{len(self.by_key):012d}AAA")
                self.tasks[id_] = request.json
                if created:
                    self.effects.append(key)
                return Answer(201 if created else 200, {"id": id_, "success": True, "errors": [], "created": created})
            case ("PATCH", ["services", "data", _, "sobjects", "Task", id_]) if id_ in self.tasks:
                self.tasks[id_] |= request.json
                return Answer(204)
        return Answer(404, [{"errorCode": "NOT_FOUND", "message": "no"}])


class Stripe(_Shape):
    """Balance transactions with idempotency keys; the balance is what a customer owes."""

    def __init__(self) -> None:
        super().__init__()
        self.balance = 0
        self.seen: dict[str, tuple[dict[str, str], Answer]] = {}

    def authorised(self, request: Request) -> Answer:
        form, key = request.form, request.headers.get("idempotency-key", "")
        if request.path != "/v1/customers/cus_9/balance_transactions":
            return Answer(404, {"error": {"type": "invalid_request_error", "code": "resource_missing"}})
        if key in self.seen:
            before, answer = self.seen[key]
            return answer if before == form else Answer(400, {"error": {"type": "idempotency_error"}})
        self.balance += int(form["amount"])
        self.effects.append(key)
        answer = Answer(200, {"id": f"cbtxn_{len(self.effects)}", "object": "customer_balance_transaction", "amount": int(form["amount"])})
        self.seen[key] = form, answer
        return answer


class Slack(_Shape):
    """Messages with metadata, and the channel's history, two to a page. It never leaves a repetition out."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []

    def authorised(self, request: Request) -> Answer:
        if request.path == "/api/chat.postMessage":
            if request.json["channel"] != "C1":
                return Answer(200, {"ok": False, "error": "channel_not_found"})
            ts = f"17000000{len(self.messages):02d}.000100"
            self.messages.insert(0, {"ts": ts, "text": request.json["text"], "metadata": request.json["metadata"]})
            self.effects.append(request.json["metadata"]["event_payload"]["key"])
            return Answer(200, {"ok": True, "channel": "C1", "ts": ts})
        if request.path == "/api/conversations.history" and request.query.get("include_all_metadata") == "true":
            at = int(request.query.get("cursor", "0"))
            page = self.messages[at : at + 2]
            more = {"response_metadata": {"next_cursor": str(at + 2)}} if len(self.messages) > at + 2 else {}
            return Answer(200, {"ok": True, "messages": page, "has_more": bool(more), **more})
        return Answer(200, {"ok": False, "error": "unknown_method"})


class Segment(_Shape):
    """Events, left out when their messageId was there."""

    def handle(self, request: Request) -> Answer:
        if not request.headers.get("authorization", "").startswith("Basic ") or request.path != "/v1/track":
            return Answer(401, {"message": "no"})
        if request.json["messageId"] not in self.effects:
            self.effects.append(request.json["messageId"])
        return Answer(200, {"success": True})


class Receiver(_Shape):
    """A receiver of webhooks that checks the signature and counts each key once."""

    def handle(self, request: Request) -> Answer:
        key = request.headers.get("idempotency-key")
        try:
            verify(request.body, key, request.headers.get(SIGNATURE.lower()), [TOKEN], 1_000.0)
        except InvalidInput:
            return Answer(400, {"code": "bad_signature"})
        assert key is not None
        assert request.json["effect"] == key
        if key not in self.effects:
            self.effects.append(key)
        return Answer(202, {"receipt": f"r-{self.effects.index(key)}"})
