"""Tools through the app: how each has done, whose circuit is open, and what comes back of an effect."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from postsale.agents.tools import ToolUnavailable
from postsale.aggregates.signals import MessageBounced
from postsale.app import PostSale, Tenant
from postsale.errors import ContentConflict, InvalidInput
from postsale.events import ManualClock

from .support import NOON, Where, failed, paid
from .test_agents import Mailer, only, world


def down() -> None:
    raise ToolUnavailable(tool="acme.mail@1", reason="down")


def status(acme: Tenant, tool: str = "acme.mail@1") -> dict[str, Any]:
    (found,) = (t for t in acme.tools() if t.tool == tool)
    return found.to_dict()


def sent(where: Where) -> tuple[PostSale, Tenant, Mailer, ManualClock]:
    ps, acme, mailer, clock = world(where)
    ps.run_once()
    assert len(mailer.sent) == 1
    return ps, acme, mailer, clock


def bounced(id: str = "b1", permanent: bool = True) -> MessageBounced:
    return MessageBounced(source="mail-host", id=id, occurred_at=NOON, channel="email", permanent=permanent, code="5.1.1")


def test_a_tool_says_how_it_has_done_and_what_its_contract_is(where: Where) -> None:
    ps, acme, _, _ = sent(where)
    with ps:
        found = status(acme)
        assert found["record"]["effects"] == {"succeeded": 1}
        assert (found["record"]["attempts"], found["record"]["failed_attempts"], found["record"]["sandboxed"]) == (1, 0, 0)
        assert found["record"]["digests"] == [found["contract"]["digest"]]
        assert (found["circuit"], found["waits_until"]) == ("closed", None)
        assert status(acme, "email.send@1")["record"]["effects"] == {}


def test_a_tool_that_is_down_shows_its_failures_and_its_open_circuit_until_it_answers(where: Where) -> None:
    ps, acme, mailer, clock = world(where)
    with ps:
        mailer.meanwhile = down
        Mailer.breaker_after, before = 2, Mailer.breaker_after
        try:
            ps.run_once()
            clock.advance(timedelta(seconds=5))
            ps.run_once()
        finally:
            Mailer.breaker_after = before
        found = status(acme)
        assert (found["circuit"], found["failures_in_a_row"], found["reason"]) == ("open", 2, "down")
        assert found["record"]["effects"] == {"retry": 1}
        assert (found["record"]["attempts"], found["record"]["failed_attempts"]) == (2, 2)
        mailer.meanwhile = lambda: None
        clock.advance(timedelta(minutes=1))
        assert status(acme)["circuit"] == "half-open"
        ps.run_once()
        found = status(acme)
        assert (found["circuit"], found["record"]["effects"], found["record"]["last_reason"]) == ("closed", {"succeeded": 1}, "down")


def test_what_waits_for_a_person_counts_as_held_and_what_a_person_refused_as_cancelled() -> None:
    ps, acme, _, _ = world(None, approval="required")
    with ps:
        ps.run_once()
        assert status(acme)["record"]["effects"] == {"held": 1}
        acme.reject(only(acme).id, reason="no")
        assert status(acme)["record"]["effects"] == {"cancelled": 1}


def test_what_comes_back_of_an_effect_is_a_fact_of_its_customer_caused_by_it_and_as_deep(where: Where) -> None:
    ps, acme, _, _ = sent(where)
    with ps:
        (effect,) = only(acme).effects
        receipt = acme.returned(effect, bounced())
        again = acme.returned(str(effect), bounced())
        assert (receipt.stored, again.stored, again.position) == (True, False, receipt.position)
        (fact,) = [r for r in acme.timeline("cus_42") if r.stored.kind == "messaging/message-bounced"]
        (started,) = [r for r in acme.timeline("cus_42") if r.stored.kind == "effect/started"]
        assert fact.header.causation_id == started.event_id
        assert fact.header.correlation_id == only(acme).recorded.trigger_id
        assert fact.header.depth == only(acme).recorded.depth + 1


def test_what_comes_back_of_no_effect_of_ours_or_twice_with_other_content_is_refused(where: Where) -> None:
    ps, acme, _, _ = sent(where)
    with ps:
        (effect,) = only(acme).effects
        acme.returned(effect, bounced())
        head = ps.log.store.head()
        with pytest.raises(ContentConflict):
            acme.returned(effect, bounced(permanent=False))
        for wrong in (uuid4(), "no-uuid", only(acme).id):
            with pytest.raises(InvalidInput):
                acme.returned(wrong, bounced("b2"))
        with pytest.raises(InvalidInput):
            ps.tenant("other").returned(effect, bounced("b3"))
        assert ps.log.store.head() == head


def test_a_loop_of_effects_and_what_comes_back_is_stopped_by_its_depth() -> None:
    """Each message is answered by a payment that fails because of it, which would be answered by a message, and so on."""
    ps, acme, mailer, clock = world(None)
    with ps:
        ps.run_once()
        for i in range(1, 6):
            effects = acme.decisions("cus_42")[-1].effects
            clock.advance(timedelta(days=31))  # no cap on contacts stops it
            acme.record("cus_42", paid(f"p{i}", NOON + timedelta(days=31 * i)))  # the condition falls
            ps.run_once()
            for effect in effects:
                acme.returned(effect, failed(f"loop{i}", NOON + timedelta(days=31 * i, seconds=1)))
            ps.run_once()
        depths = [(e.recorded.depth, e.disposition) for e in acme.decisions("cus_42")]
        assert depths == [(0, "acted"), (1, "acted"), (2, "acted"), (3, "suppressed")]
        assert len(mailer.sent) == 3
