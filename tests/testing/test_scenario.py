"""The testing kit: exact decisions and effects, a clock that stands, tools that are sandboxes, and no network."""

from __future__ import annotations

import asyncio
import socket
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from postsale.agents import Agent, FunctionPlanner, Policy, Prompt, RenewalRescue
from postsale.agents.tools import Receipt, Tool
from postsale.agents.tools.sandbox import Email
from postsale.errors import InvalidInput, ToolUnreachable
from postsale.testing import Scenario, asked, consent, decision, effect, given, no_network
from tests.agents.planned import CALL, PROMPT, policy
from tests.agents.planned import agent as planned
from tests.agents.world import DUNNING
from tests.app.support import failed, paid, subscribed

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
AGENT = Agent(Policy.from_toml(DUNNING))
TASK = effect("crm.create_task@1", customer="cus_1", title="Payment failing", note="3 failed.")


def start(**more: Any) -> Scenario:
    return given(AGENT, ("cus_1", subscribed("s", NOON - timedelta(days=90))), at=NOON, **more)


def test_what_is_decided_and_done_is_compared_exactly() -> None:
    start().when(("cus_1", failed("f", attempt=3))).then(decision("cus_1", "acted", "task"), effects=[TASK]).close()


@pytest.mark.parametrize(
    ("decisions", "effects", "says"),
    [
        ((), [TASK], "other decisions"),
        ((decision("cus_1", "acted", "email"),), [TASK], "expected  Decision"),
        ((decision("cus_2", "acted", "task"),), [TASK], "found     Decision"),
        ((decision("cus_1", "acted", "task"),) * 2, [TASK], "other decisions"),
        ((decision("cus_1", "acted", "task"),), [], "expected  none"),
        ((decision("cus_1", "acted", "task"),), [effect("crm.create_task@1", customer="cus_1")], "other effects"),
    ],
)
def test_anything_else_fails_and_shows_both_sides(decisions: Any, effects: Any, says: str) -> None:
    with start().when(("cus_1", failed("f", attempt=3))) as scenario, pytest.raises(AssertionError, match=says):
        scenario.then(*decisions, effects=effects)


def test_a_story_goes_on_and_time_passes_only_when_told() -> None:
    scenario = start().when(("cus_1", failed("f", attempt=1))).then(decision("cus_1", "suppressed", suppressed_by="policy:wait"))
    scenario.when(timedelta(days=1), ("cus_1", paid("p", NOON + timedelta(days=1)))).then()
    at = NOON + timedelta(days=1, hours=1)
    scenario.when(timedelta(hours=1), ("cus_1", failed("g", at, attempt=3))).then(decision("cus_1", "acted", "task"), effects=[TASK])
    assert scenario.clock.now_us() == int(at.timestamp()) * 1_000_000
    scenario.close()


def test_the_past_is_only_observed() -> None:
    past = [("cus_1", failed("f", NOON - timedelta(days=1), attempt=3)), consent("cus_1", "email")]
    with given(AGENT, *past, at=NOON) as scenario:
        assert [e.suppressed_by for e in scenario.tenant.decisions()] == ["autonomy:observe"]
        scenario.when(timedelta(days=1)).then()
    with pytest.raises(InvalidInput, match="that is for `when`"):
        given(AGENT, ("cus_1", failed("f", NOON + timedelta(days=1))), at=NOON)


def test_a_proposal_waits_and_a_command_is_decided() -> None:
    with start(mode="propose").when(asked("cus_1")) as scenario:
        scenario.then(decision("cus_1", "suppressed", suppressed_by="policy:wait"))
        scenario.when(("cus_1", failed("f", attempt=3))).then(decision("cus_1", "awaiting", "task"))


def test_a_shipped_agent_is_tested_in_three_lines() -> None:
    past = [("cus_1", subscribed("s", NOON - timedelta(days=9))), consent("cus_1", "email")]
    with given(RenewalRescue(), *past, at=NOON) as s:
        s.when(("cus_1", failed("f", attempt=2))).then(
            decision("cus_1", "acted", "email"),
            decision("cus_1", "suppressed", "email", suppressed_by="frequency:1/7d"),  # it is unwell too
            effects=[effect("email.send@1", customer="cus_1", template="payment-failing")],
        )


# ---------------------------------------------------------------- network


class Mailer(Tool):
    """A tool that calls a server somewhere."""

    name, version, kind, input, output = "email.send", 1, "idempotent", Email, Receipt
    host = "192.0.2.1"  # reserved for documentation: nobody is there

    def call(self, arguments: Email, *, idempotency_key: str, timeout_s: float) -> Receipt:
        with socket.socket() as s:
            s.settimeout(0.01)
            s.connect((self.host, 25))
        return Receipt(receipt="sent")


def test_a_tool_that_reaches_for_the_network_gets_none_and_the_effect_does_not_happen() -> None:
    text = DUNNING.replace('segment = "smb"', 'segment = "is missing"')
    past = [("cus_1", subscribed("s", NOON - timedelta(days=9))), consent("cus_1", "email")]
    with given(Agent(Policy.from_toml(text)), *past, at=NOON, tools=[Mailer()]) as s:
        s.when(("cus_1", failed("f", attempt=3))).then(decision("cus_1", "acted", "email"), effects=[])
        assert "ToolUnreachable" in str(s.entries[0].history)


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection(("192.0.2.1", 9), timeout=0.01),
        lambda: socket.getaddrinfo("example.com", 80),
        lambda: socket.gethostbyname("example.com"),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9)),
        lambda: asyncio.run(asyncio.open_connection("example.com", 80)),
    ],
    ids=["connect", "getaddrinfo", "gethostbyname", "sendto", "asyncio"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_beyond_this_machine_everything_is_refused(reach: Any) -> None:
    with no_network(), pytest.raises(ToolUnreachable):
        reach()


def test_it_is_refused_in_other_threads_too_and_only_inside() -> None:
    refused: list[BaseException] = []

    def other() -> None:
        try:
            socket.getaddrinfo("example.com", 80)
        except BaseException as error:
            refused.append(error)

    with no_network(), no_network():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert [type(e) for e in refused] == [ToolUnreachable]
    listening = socket.create_server(("127.0.0.1", 0))
    with no_network(), listening, socket.create_connection(listening.getsockname()) as near:
        assert near.getpeername() == listening.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", 9))


def test_a_planner_that_is_a_function_is_part_of_the_story() -> None:
    with given(planned(lambda _: CALL), ("cus_1", subscribed("s", NOON)), at=NOON) as story:
        story.when(("cus_1", failed("f", attempt=2))).then(
            decision("cus_1", "acted", "task"), effects=[effect("crm.create_task@1", customer="cus_1", title="Call", note="Say hello.")]
        )
    with given(planned(lambda _: "no plan"), ("cus_1", subscribed("s", NOON)), at=NOON) as story:
        story.when(("cus_1", failed("f", attempt=2))).then(decision("cus_1", "failed", "plan"))


def test_a_planner_that_leaves_this_process_is_refused_with_a_typed_error() -> None:
    real = Agent(policy(), planners=[FunctionPlanner("retention", lambda _: CALL, simulated=False)], prompts=[Prompt.from_toml(PROMPT)])
    with (
        given(real, ("cus_1", subscribed("s", NOON)), at=NOON) as story,
        pytest.raises(ToolUnreachable, match="planner retention during a test"),
    ):
        story.when(("cus_1", failed("f", attempt=2)))
    with given(real, ("cus_1", subscribed("s", NOON)), at=NOON, network=True) as story:
        assert [e.disposition for e in story.when(("cus_1", failed("f", attempt=2))).entries] == ["acted"]
