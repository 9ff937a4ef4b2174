"""A version of a policy is retired: nothing decides under it, what it left open is settled, what it decided stands and is replayed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from postsale.agents import Agent, Policy
from postsale.agents.budget import Page, Sums
from postsale.agents.control import retire_policy
from postsale.agents.tools import ToolUnavailable
from postsale.aggregates.artifacts import ArtifactActivated, ArtifactRetired
from postsale.aggregates.timed import WaitBegan, WaitEnded
from postsale.app import Tenant
from postsale.audit import check_dispositions
from postsale.errors import ApprovalRefused, InvalidInput, NotAllowed, PolicyWidens
from postsale.events import Lane, ManualClock
from postsale.store.contract import Query
from tests.app.referred import Credit, Uncredit
from tests.app.support import ANNA, NOON, Where, failed, opened, paid

CREDITS = """
name = "credits"
version = {version}
owner = "cs"
description = "A credit for a failed payment."

[inputs]
failed_payments = "integer"

[[trigger]]
id = "failing"
when = {{ failed_payments = ">= 1" }}

[[rule]]
id = "large"
when = {{ failed_payments = ">= 3" }}
action = "large"
tool = "acme.credit@1"
offer = {{ kind = "credit", amount_minor = 9000, currency = "EUR", terms = "Once." }}
authority_limit_minor = 1000
arguments = {{ customer = "$customer", amount_minor = "$offer.amount_minor", currency = "EUR" }}
because = "{{failed_payments}} failed."

[[rule]]
id = "small"
action = "small"
tool = "acme.credit@1"
offer = {{ kind = "credit", amount_minor = 500, currency = "EUR", terms = "Once." }}
authority_limit_minor = 1000
arguments = {{ customer = "$customer", amount_minor = "$offer.amount_minor", currency = "EUR" }}
because = "{{failed_payments}} failed."

[[wait]]
id = "still-failing"
after = "small"
unless = ["billing/invoice-paid"]
within_days = 7

[guardrails]
purpose = "service"
approval_expires_h = 48
bound_to = ["failed_payments"]

[[budget]]
name = "retention"
unit = "EUR"
limit = 100000
per = "year"
"""


class Breaking(Credit):
    """The tool of the test, which may be down."""

    down = False
    meanwhile: Callable[[], None] | None = None  # what somebody else does while the first call is under way

    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Any:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        if self.down:
            raise ToolUnavailable(tool="acme.credit@1", reason="down")
        return super().call(arguments, idempotency_key=idempotency_key, timeout_s=timeout_s)


class Shop:
    """A log with one decision awaiting, one effect that has not left, one wait, one trigger that is pending."""

    def __init__(self, where: Where = None) -> None:
        self.clock, self.tool = ManualClock(NOON), Breaking()
        self.policy = Policy.from_toml(CREDITS.format(version=1))
        agent = Agent(self.policy)
        self.ps = opened(where, clock=self.clock, agents=[agent], tools=[self.tool, Uncredit()], sandbox=False)
        self.acme: Tenant = self.ps.tenant("acme")
        self.acme.agent(agent).act(reason="test", by=ANNA)

    def filled(self) -> Shop:
        self.acme.record("done", failed("f1", attempt=1))
        self.ps.run_once()
        self.tool.down = True
        self.acme.record("asked", failed("f2", attempt=3))
        self.acme.record("late", failed("f3", attempt=1))
        self.ps.run_once()
        self.acme.record("pending", failed("f4", attempt=1))
        self.acme.ask("pending", "credits", "look", reason="please", by=ANNA)
        assert [e.disposition for e in self.acme.decisions()] == ["acted", "awaiting", "acted"]
        assert self.sums() == Sums(available=-10_000, reserved=9_500, committed=500)
        return self

    def sums(self) -> Sums:
        return self.ps.engine.desk.budget("acme", "retention").sums(Page("EUR", "2026"))

    def said(self, kind: type[Any]) -> list[Any]:
        query = Query(tenant="acme", lane=Lane.DECISION)
        return [r.data for r in self.ps.log.events(query) if isinstance(r.data, kind)]


def test_what_waits_under_a_retired_version_is_settled_each_in_its_way_and_its_money_is_released(where: Where) -> None:
    shop = Shop(where).filled()
    acme = shop.acme
    with shop.ps:
        assert acme.retire_policy(shop.policy.digest[:12], reason="too generous", by=ANNA) == 4
        by = {acme.names()[e.stream.id]: e for e in acme.decisions()}
        assert {n: (e.disposition, e.suppressed_by) for n, e in by.items()} == {
            "done": ("acted", None),
            "asked": ("suppressed", "override"),
            "late": ("suppressed", "override"),
            "pending": ("suppressed", "kill-switch:policy-retired"),
        }
        assert list(by["late"].effects.values()) == ["cancelled"]
        assert "retired: too generous" in str(by["asked"].history)
        assert shop.sums() == Sums(available=-500, committed=500, released=9_500)
        (ended,) = shop.said(WaitEnded)
        assert ended.result == "gone"
        (retired,) = shop.said(ArtifactRetired)
        assert (retired.digest, retired.approver, retired.reason) == (shop.policy.digest, "anna", "too generous")
        with pytest.raises(ApprovalRefused):
            acme.approve(by["asked"].id, by=ANNA)
        at = shop.ps.log.store.head()
        assert acme.retire_policy(shop.policy.digest, reason="again", by=ANNA) == 0
        assert shop.ps.log.store.head() == at
        assert check_dispositions(shop.ps.log.store).ok


def test_nothing_decides_under_a_retired_version_until_a_person_activates_one_which_is_a_new_recorded_act(where: Where) -> None:
    shop = Shop(where).filled()
    acme, tool = shop.acme, shop.tool
    with shop.ps:
        acme.retire_policy(shop.policy.digest, reason="too generous", by=ANNA)
        tool.down = False
        before = len(acme.decisions())
        acme.record("new", failed("f9", attempt=1))
        shop.ps.run_once(everybody=True)
        assert (len(acme.decisions()), acme.policy("credits"), len(tool.calls)) == (before, None, 1)
        assert acme.activate(shop.policy, reason="it was not the policy", by=ANNA)
        acme.record("newer", failed("f10", attempt=1))
        shop.ps.run_once()
        assert acme.decisions("newer")[-1].disposition == "acted"
        assert len(shop.said(ArtifactActivated)) == 2
        assert shop.said(ArtifactActivated)[-1].reason == "it was not the policy"
        assert check_dispositions(shop.ps.log.store).ok


def test_what_a_retired_version_decided_is_replayed_explained_and_certified_as_ever() -> None:
    shop = Shop().filled()
    acme = shop.acme
    with shop.ps:
        acme.retire_policy(shop.policy.digest, reason="too generous", by=ANNA)
        for entry in acme.decisions():
            assert acme.replay(entry.id).policy == shop.policy.digest
            assert shop.policy.name in str(acme.explain(entry.id))
        certificate = acme.certify(sign=False)
        assert certificate.ok, certificate.document
        assert (certificate.report.counts, certificate.report.reasons) == ({"same": 4}, {}), "its content and its code are to be had"


def test_another_version_decides_on_when_an_older_one_is_retired_which_only_loses_what_it_left_open() -> None:
    shop = Shop().filled()
    acme = shop.acme
    with shop.ps:
        second = Policy.from_toml(CREDITS.format(version=2))
        acme.activate(second, reason="new", by=ANNA)
        assert acme.retire_policy(shop.policy.digest, reason="old", by=ANNA) == 2, (
            "the approval and the effect: not the trigger, nor the wait"
        )
        shop.tool.down = False
        shop.ps.run_once()
        assert [e.disposition for e in acme.decisions("pending")] == ["acted", "acted"], "by the fact and by the command"
        assert {e.recorded.policy for e in acme.decisions("pending")} == {second.digest}
        assert check_dispositions(shop.ps.log.store).ok


def test_a_version_is_retired_by_a_person_with_a_reason_and_only_one_that_is_known() -> None:
    shop = Shop().filled()
    with shop.ps:
        at = shop.ps.log.store.head()
        with pytest.raises(InvalidInput, match="begins so"):
            shop.acme.retire_policy("ffff", reason="x", by=ANNA)
        with pytest.raises(InvalidInput, match="begins so"):
            shop.acme.retire_policy("", reason="x", by=ANNA)
        with pytest.raises(InvalidInput, match="reason"):
            shop.acme.retire_policy(shop.policy.digest, reason=" ", by=ANNA)
        with pytest.raises(NotAllowed):
            shop.acme.retire_policy(shop.policy.digest, reason="x", by="anna")  # type: ignore[arg-type]
        assert shop.ps.log.store.head() == at


def test_an_approval_meant_for_a_version_that_was_retired_but_not_settled_yet_is_void() -> None:
    shop = Shop().filled()
    with shop.ps:
        waiting = shop.acme.decisions("asked")[-1]
        retire_policy(shop.ps.engine.desk, "acme", shop.policy, person=ANNA, reason="and then the process died")
        with pytest.raises(ApprovalRefused, match="retired"):
            shop.acme.approve(waiting.id, by=ANNA)
        assert shop.acme.retire_policy(shop.policy.digest, reason="finished", by=ANNA) == 3
        assert shop.sums() == Sums(available=-500, committed=500, released=9_500)


def test_a_paid_invoice_still_ends_what_was_decided_before() -> None:
    shop = Shop().filled()
    with shop.ps:
        shop.acme.retire_policy(shop.policy.digest, reason="x", by=ANNA)
        shop.acme.record("done", paid("p1", NOON))
        assert shop.ps.run_once().problems == []


def test_no_effect_leaves_under_a_version_that_was_retired_although_the_process_died_before_anything_was_settled(where: Where) -> None:
    shop = Shop(where).filled()
    with shop.ps:
        retire_policy(shop.ps.engine.desk, "acme", shop.policy, person=ANNA, reason="and then the process died")
        shop.tool.down, before = False, len(shop.tool.calls)
        shop.clock.advance(timedelta(hours=2))
        shop.ps.run_once(everybody=True)
        late = shop.acme.decisions("late")[-1]
        assert (len(shop.tool.calls), list(late.effects.values())) == (before, ["cancelled"])
        assert "retired" in str(late.history)
        assert shop.sums() == Sums(available=-9_500, reserved=9_000, committed=500, released=500), "the approval waits to be settled"


@pytest.mark.parametrize("down", [True, False])
def test_a_call_that_was_under_way_when_its_version_was_retired_is_not_made_again_and_nothing_is_waited_for(down: bool) -> None:
    shop = Shop()
    shop.tool.down = down
    shop.tool.meanwhile = lambda: shop.acme.retire_policy(shop.policy.digest, reason="too generous", by=ANNA)
    with shop.ps:
        shop.acme.record("c", failed("f1", attempt=1))
        shop.ps.run_once()
        shop.tool.down = False
        for hours in (1, 2, 240):
            shop.clock.advance(timedelta(hours=hours))
            shop.ps.run_once(everybody=True)
        (entry,) = shop.acme.decisions()
        assert (len(shop.tool.calls), list(entry.effects.values())) == ((0, ["cancelled"]) if down else (1, ["succeeded"]))
        assert shop.sums() == (Sums(released=500) if down else Sums(available=-500, committed=500))
        assert shop.said(WaitBegan) == []
        assert check_dispositions(shop.ps.log.store).ok


def test_a_version_that_allows_more_than_the_one_that_was_retired_has_to_say_so() -> None:
    shop = Shop().filled()
    wider = Policy.from_toml(CREDITS.format(version=2).replace("limit = 100000", "limit = 900000"))
    with shop.ps:
        shop.acme.retire_policy(shop.policy.digest, reason="too generous", by=ANNA)
        with pytest.raises(PolicyWidens):
            shop.acme.activate(wider, reason="by the back door", by=ANNA)
        assert shop.acme.policy("credits") is None
        assert shop.acme.activate(wider, reason="approved by finance", by=ANNA, widens=True)
