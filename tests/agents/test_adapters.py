"""The shipped adapters over HTTP, each against a real server of its vendor's shape that hangs, refuses, breaks off, lies and repeats."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from postsale.agents.adapters.hubspot import HubSpotCloseTask, HubSpotTask
from postsale.agents.adapters.salesforce import SalesforceCloseTask, SalesforceTask
from postsale.agents.adapters.segment import SegmentTrack, Track
from postsale.agents.adapters.slack import Post, SlackMessage
from postsale.agents.adapters.stripe import StripeCredit, StripeWithdrawCredit
from postsale.agents.adapters.webhook import Webhook, sign, verify
from postsale.agents.tools import Tool, Toolbox, ToolModel, ToolRefused, ToolUnavailable, ToolUncertain
from postsale.agents.tools.sandbox import Credit, Task, TaskRef
from postsale.errors import BadDeclaration, InvalidInput
from postsale.testing import Answer, Request, ToolContract, ToolServer
from tests.agents.shapes import TOKEN, HubSpot, Receiver, Salesforce, Segment, Slack, Stripe

TASK = {"customer": "c1", "title": "Call them", "note": "Payment failing", "due_in_days": 3}


def noon() -> datetime:
    return datetime(2026, 1, 5, 12, tzinfo=UTC)


def known(customer: str) -> str | None:
    return {"c1": "cus_9"}.get(customer)


class Told(ToolModel):
    customer: str
    text: str


class Tell(Webhook):
    """A webhook of an application's own."""

    name, version, input = "acme.tell", 1, Told


class TestHubSpot(ToolContract):
    arguments = TASK

    def make_tool(self, url: str) -> Tool:
        return HubSpotTask(TOKEN, known, now=noon, base_url=url)

    def make_shape(self) -> HubSpot:
        return HubSpot()


class TestSalesforce(ToolContract):
    arguments = TASK

    def make_tool(self, url: str) -> Tool:
        return SalesforceTask(url, TOKEN, known, now=noon)

    def make_shape(self) -> Salesforce:
        return Salesforce()


class TestStripe(ToolContract):
    arguments = {"customer": "c1", "amount_minor": 500, "currency": "EUR", "terms": "One month."}  # noqa: RUF012

    def make_tool(self, url: str) -> Tool:
        return StripeCredit(TOKEN, known, base_url=url)

    def make_shape(self) -> Stripe:
        return Stripe()


class TestSlack(ToolContract):
    arguments = {"customer": "c1", "text": "They are leaving."}  # noqa: RUF012

    def make_tool(self, url: str) -> Tool:
        return SlackMessage(TOKEN, "C1", base_url=url)

    def make_shape(self) -> Slack:
        return Slack()


class TestSegment(ToolContract):
    arguments = {"customer": "c1", "event": "credit-offered"}  # noqa: RUF012

    def make_tool(self, url: str) -> Tool:
        return SegmentTrack("write-key", base_url=url)

    def make_shape(self) -> Segment:
        return Segment()


class TestWebhook(ToolContract):
    arguments = {"customer": "c1", "text": "They are leaving."}  # noqa: RUF012

    def make_tool(self, url: str) -> Tool:
        return Tell(f"{url}/hooks?from=postsale", TOKEN, clock=lambda: 1_000.0)

    def make_shape(self) -> Receiver:
        return Receiver()


class TestUnsafeWebhook(TestWebhook):
    """The same request to a receiver that promises nothing: it counts whatever comes."""

    def make_tool(self, url: str) -> Tool:
        class Blind(Tell):
            kind = "unsafe"

        return Blind(url, TOKEN, clock=lambda: 1_000.0)

    def make_shape(self) -> Receiver:
        class Naive(Receiver):
            def handle(self, request: Request) -> Answer:
                before, self.effects = self.effects, []
                answer = super().handle(request)
                self.effects = before + self.effects
                return answer

        return Naive()


def call(tool: Tool, arguments: ToolModel, key: str = "k1") -> Any:
    return tool.call(arguments, idempotency_key=key, timeout_s=5.0)


# ---------------------------------------------------------------- what each vendor gets


def test_a_hubspot_task_belongs_to_the_company_has_a_due_date_and_can_be_closed() -> None:
    shape = HubSpot()
    with ToolServer(shape) as server:
        receipt = call(HubSpotTask(TOKEN, known, now=noon, base_url=server.url), Task(**TASK)).receipt
        assert shape.tasks[receipt]["hs_task_subject"] == "Call them"
        assert shape.tasks[receipt]["hs_timestamp"] == "2026-01-08T12:00:00Z"
        assert shape.associations == {(receipt, "cus_9")}
        call(HubSpotCloseTask(TOKEN, base_url=server.url), TaskRef(customer="c1", task=receipt), "k2")
        assert shape.tasks[receipt]["hs_task_status"] == "COMPLETED"


def test_a_hubspot_task_whose_association_broke_off_is_one_task_with_its_association_in_the_end() -> None:
    shape = HubSpot()
    with ToolServer(shape) as server:
        tool = HubSpotTask(TOKEN, known, now=noon, base_url=server.url)
        server.faults.extend(["", "500"])
        with pytest.raises(ToolUncertain):
            call(tool, Task(**TASK))
        call(tool, Task(**TASK))
        assert (len(shape.tasks), len(shape.associations)) == (1, 1)


def test_a_salesforce_task_belongs_to_the_account_and_can_be_closed() -> None:
    shape = Salesforce()
    with ToolServer(shape) as server:
        receipt = call(SalesforceTask(server.url, TOKEN, known, now=noon), Task(**TASK)).receipt
        assert (shape.tasks[receipt]["WhatId"], shape.tasks[receipt]["ActivityDate"]) == ("cus_9", "2026-01-08")
        call(SalesforceCloseTask(server.url, TOKEN), TaskRef(customer="c1", task=receipt), "k2")
        assert shape.tasks[receipt]["Status"] == "Completed"


def test_a_stripe_credit_lowers_the_balance_and_its_undo_restores_it_to_the_cent() -> None:
    shape = Stripe()
    with ToolServer(shape) as server:
        given = Credit(customer="c1", amount_minor=500, currency="EUR", terms="One month.")
        tool, back = StripeCredit(TOKEN, known, base_url=server.url), StripeWithdrawCredit(TOKEN, known, base_url=server.url)
        receipt = call(tool, given).receipt
        assert shape.balance == -500
        assert tool.undo is not None
        arguments = tool.undo.of(given.model_dump(), receipt=receipt, intent_id="i")
        call(back, back.input.model_validate(arguments), "k2")
        assert shape.balance == 0


def test_a_stripe_key_that_was_used_with_other_parameters_is_uncertain_and_a_missing_customer_is_refused() -> None:
    with ToolServer(Stripe()) as server:
        tool = StripeCredit(TOKEN, known, base_url=server.url)
        call(tool, Credit(customer="c1", amount_minor=500, currency="EUR", terms="a"))
        with pytest.raises(ToolUncertain, match="idempotency_error"):
            call(tool, Credit(customer="c1", amount_minor=600, currency="EUR", terms="a"))
        gone = StripeCredit(TOKEN, lambda _: "cus_0", base_url=server.url)
        with pytest.raises(ToolRefused, match="resource_missing"):
            call(gone, Credit(customer="c1", amount_minor=500, currency="EUR", terms="a"))


def test_a_currency_that_stripe_counts_otherwise_is_refused_before_anything_is_sent() -> None:
    with ToolServer(Stripe()) as server:
        with pytest.raises(ToolRefused, match="another unit"):
            call(StripeCredit(TOKEN, known, base_url=server.url), Credit(customer="c1", amount_minor=500, currency="ISK", terms="a"))
        assert server.requests == []


def test_slack_is_asked_page_by_page_and_a_history_that_is_too_long_is_no_no() -> None:
    with ToolServer(Slack()) as server:
        tool = SlackMessage(TOKEN, "C1", base_url=server.url, looks_back=2)
        for i in range(5):
            call(tool, Post(customer="c1", text="t"), f"k{i}")
        assert tool.query("k1", timeout_s=5.0) is not None
        with pytest.raises(ToolUncertain, match="longer"):
            tool.query("k0", timeout_s=5.0)
        assert SlackMessage(TOKEN, "C1", base_url=server.url).query("nobody", timeout_s=5.0) is None


def test_slacks_errors_come_with_status_200_and_are_told_apart() -> None:
    with ToolServer(Slack()) as server:
        with pytest.raises(ToolRefused, match="channel_not_found"):
            call(SlackMessage(TOKEN, "C2", base_url=server.url), Post(customer="c1", text="t"))
        link = SlackMessage(TOKEN, "C1", link="https://crm.example/{customer}", base_url=server.url)
        call(link, Post(customer="c1", text="t"))
        assert server.requests[-1].json["text"] == "t\nhttps://crm.example/c1"


# ---------------------------------------------------------------- what all of them do


def test_a_wrong_token_is_mended_by_a_person_and_not_by_giving_up() -> None:
    with ToolServer(HubSpot()) as server, pytest.raises(ToolUnavailable, match="status 401"):
        call(HubSpotTask("wrong", known, base_url=server.url), Task(**TASK))


def test_a_customer_that_is_not_known_there_is_refused_before_anything_is_sent() -> None:
    with ToolServer(HubSpot()) as server:
        with pytest.raises(ToolRefused, match="not known there"):
            call(HubSpotTask(TOKEN, known, base_url=server.url), Task(**{**TASK, "customer": "c2"}))
        assert server.requests == []


def test_credentials_and_arguments_go_to_https_or_to_this_machine_only() -> None:
    for url in ("http://api.example.com", "ftp://127.0.0.1", "api.example.com", "http://127.0.0.1.example.com"):
        with pytest.raises(BadDeclaration, match="https"):
            HubSpotTask(TOKEN, known, base_url=url)
    HubSpotTask(TOKEN, known, base_url="https://api.example.com").close()


def test_an_answer_left_over_on_a_connection_is_not_taken_for_the_next_effects() -> None:
    with ToolServer(Stripe()) as server:
        tool = StripeCredit(TOKEN, known, base_url=server.url)
        credit = Credit(customer="c1", amount_minor=500, currency="EUR", terms="a")
        server.faults.append("twice")
        assert [call(tool, credit, key).receipt for key in ("k1", "k2", "k3")] == ["cbtxn_1", "cbtxn_2", "cbtxn_3"]


def test_ids_of_the_other_side_cannot_leave_their_place_in_a_path() -> None:
    shape = HubSpot()
    with ToolServer(shape) as server:
        call(HubSpotTask(TOKEN, lambda _: "../../x?y=1#z", now=noon, base_url=server.url), Task(**TASK))
        assert server.requests[-1].path.endswith("/companies/..%2F..%2Fx%3Fy%3D1%23z")


def test_the_adapters_undo_with_adapters() -> None:
    tools = [
        HubSpotTask(TOKEN, known),
        HubSpotCloseTask(TOKEN),
        StripeCredit(TOKEN, known),
        StripeWithdrawCredit(TOKEN, known),
        SlackMessage(TOKEN, "C1"),
        SegmentTrack("k"),
    ]
    box = Toolbox(tools, sandbox=False)
    assert [box.get(t.ref.name) is t for t in tools] == [True] * 6
    assert SegmentTrack("k").input is Track


def test_without_the_extra_the_error_names_it() -> None:
    script = "import sys; sys.modules['httpx'] = None\nimport postsale.agents.adapters.hubspot"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "postsale[tools]" in done.stderr


# ---------------------------------------------------------------- signatures


def test_a_receiver_accepts_what_was_signed_and_nothing_else() -> None:
    body, key = b'{"a":1}', str(uuid4())
    good = sign(body, key, TOKEN, 1_000)
    verify(body, key, good, ["another-secret-of-some-length", TOKEN], 1_200.0)
    wrong: list[tuple[bytes, str | None, str | None, list[str], float]] = [
        (b'{"a":2}', key, good, [TOKEN], 1_000.0),
        (body, str(uuid4()), good, [TOKEN], 1_000.0),
        (body, None, good, [TOKEN], 1_000.0),
        (body, key, None, [TOKEN], 1_000.0),
        (body, key, good.replace("t=1000", "t=1001"), [TOKEN], 1_000.0),
        (body, key, good[:-1], [TOKEN], 1_000.0),
        (body, key, "t=1000", [TOKEN], 1_000.0),
        (body, key, "t=١٠٠٠,v1=00", [TOKEN], 1_000.0),
        (body, key, good, ["other"], 1_000.0),
        (body, key, good, [], 1_000.0),
        (body, key, good, [TOKEN], 1_301.0),
        (body, key, good, [TOKEN], 699.0),
    ]
    for case in wrong:
        with pytest.raises(InvalidInput):
            verify(*case)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(BadDeclaration, match="16"):
        Tell("https://example.com/", "short")
