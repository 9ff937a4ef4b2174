"""Flags: read once, recorded with variant and reason, never read again; a source that is down gives the declared default, said so."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

from postsale import PostSale
from postsale.access import Unsealer
from postsale.agents import Agent, Policy
from postsale.agents.adapters.openfeature import OpenFeatureFlags
from postsale.agents.flags import FlagInput, FlagReading, read_flags
from postsale.agents.rederive import rederive
from postsale.aggregates.decisions import DecisionRecorded
from postsale.audit import explain, what_if
from postsale.errors import MissingExtra, PolicyInvalid
from tests.agents.world import DUNNING, World

GATED = (
    DUNNING.replace("[inputs]", '[inputs]\ncredits = "boolean"')
    .replace('when = { segment = "vip" }', 'when = { segment = "vip", credits = true }')
    .replace("[guardrails]", '[flags.credits]\nkey = "retention.credits"\ndefault = false\n\n[guardrails]')
)


class Source:
    """A source that counts what it is asked, and may be down."""

    def __init__(self, value: Any = True) -> None:
        self.value, self.asked, self.down = value, list[tuple[str, str, str]](), False

    def read(self, key: str, default: Any, *, tenant: str, customer: str) -> FlagReading:
        self.asked.append((key, tenant, customer))
        if self.down:
            raise ConnectionError("canary@example.com")
        return FlagReading(self.value, "on", "TARGETING_MATCH")


def world(source: Any = None) -> World:
    w = World([Agent(Policy.from_toml(GATED))])
    w.engine.flags = source
    w.mode("act")
    return w


def decided(w: World) -> DecisionRecorded:
    event = w.decision(w.one_decision()).data
    policy = w.engine.desk.active_policy("acme", "dunning")[0]
    assert policy is not None
    assert rederive(event, event.arguments, policy, w.engine.desk.mac("acme")).difference is None
    return event


def test_a_flag_decides_and_is_recorded_with_its_variant_and_reason() -> None:
    source = Source()
    event = decided(world(source))
    assert event.rule == "credit"
    assert event.evidence["credits"] is True
    assert event.flags == {"credits": True, "credits.variant": "on", "credits.reason": "TARGETING_MATCH"}
    assert source.asked == [("retention.credits", "acme", "c1")], "once, and by the random reference only"


def test_an_explanation_says_who_said_so() -> None:
    for source, told in ((Source(), "credits = True  (flag on, TARGETING_MATCH)"), (None, "credits = False  (flag, NO_SOURCE)")):
        w = world(source)
        assert f"    {told}\n" in str(explain(w.log, "acme", w.one_decision(), Unsealer(w.log.vault)))


def test_it_is_not_read_again_when_the_decision_is_made_again() -> None:
    source = Source()
    event = decided(world(source))
    source.value = False
    policy = Policy.from_toml(GATED)
    again = rederive(event, event.arguments, policy, None)
    assert (again.event.rule, again.event.flags["credits"], len(source.asked)) == ("credit", True, 1)


@pytest.mark.parametrize(
    ("source", "reason"),
    [(None, "NO_SOURCE"), (Source("yes"), "TYPE_MISMATCH: it gave a str"), (Source(1), "TYPE_MISMATCH: it gave a int")],
)
def test_without_a_source_or_with_another_type_the_declared_default_is_used_and_said(source: Any, reason: str) -> None:
    event = decided(world(source))
    assert (event.rule, event.flags) == ("task", {"credits": False, "credits.variant": "", "credits.reason": reason})


def test_a_source_that_is_down_gives_the_default_and_nothing_of_its_message_is_kept() -> None:
    source = Source()
    source.down = True
    event = decided(world(source))
    assert (event.rule, event.flags["credits.reason"]) == ("task", "ERROR: ConnectionError")
    assert "canary" not in event.model_dump_json()


class Unsayable:
    def __str__(self) -> str:
        raise ConnectionError("canary@example.com")


@pytest.mark.parametrize("said", [None, (True, "on", "x"), "yes", FlagReading(True, Unsayable(), "x")])  # type: ignore[arg-type]
def test_a_source_that_says_what_is_no_reading_gives_the_default_and_the_decision_is_made(said: Any) -> None:
    class Wrong:
        def read(self, *_: Any, **__: Any) -> Any:
            return said

    event = decided(world(Wrong()))
    assert event.rule == "task"
    assert str(event.flags["credits.reason"]).startswith("ERROR: ")
    assert "canary" not in event.model_dump_json()


def test_a_source_that_hangs_is_left_behind_once_and_asked_again_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postsale.agents.flags.TIMEOUT_S", 0.05)
    back, waits = threading.Event(), list[threading.Thread]()

    class Hanging:
        def read(self, *_: Any, **__: Any) -> FlagReading:
            waits.append(threading.current_thread())
            back.wait()
            return FlagReading(True, "on", "TARGETING_MATCH")

    source = Hanging()
    event = decided(world(source))
    assert (event.rule, event.flags["credits.reason"]) == ("task", "ERROR: no answer within 0.05 s")
    again = decided(world(source))
    assert (again.rule, again.flags["credits.reason"], len(waits)) == ("task", "ERROR: it still hangs", 1)
    back.set()
    waits[0].join()
    monkeypatch.setattr("postsale.agents.flags.TIMEOUT_S", 5.0)
    assert decided(world(source)).rule == "credit"


@given(value=st.one_of(st.none(), st.floats(), st.text(), st.integers(), st.booleans(), st.binary()), text=st.text())
def test_whatever_a_source_says_what_is_recorded_is_of_the_declared_type_and_printable(value: Any, text: str) -> None:
    class Any_:
        def read(self, *_: Any, **__: Any) -> Any:
            return FlagReading(value, text, text)

    for kind, default, of in (("boolean", True, bool), ("integer", 7, int), ("text", "a", str)):
        read = read_flags({"f": FlagInput(key="k", default=default)}, {"f": kind}, Any_(), tenant="t", customer="c")  # type: ignore[dict-item]
        assert type(read["f"]) is of
        assert all(isinstance(v, str) and v.isprintable() for k, v in read.items() if k != "f")


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('credits = "boolean"\n', "", "rule 'credit', when.credits"),
        ("[flags.credits]", "[flags.other]", "flags.other"),
        ("default = false", 'default = "no"', "flags.credits.default"),
        ('failed_payments = ">= 1"', 'failed_payments = ">= 1", credits = true', "trigger 'failing', when.credits"),
        ('bound_to = ["failed_payments"]', 'bound_to = ["credits"]', "guardrails.bound_to"),
    ],
)
def test_a_flag_that_is_declared_wrong_is_refused_by_its_place(old: str, new: str, where: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        Policy.from_toml(GATED.replace(old, new, 1))
    assert caught.value.where in {where, "flags.credits"}


def test_a_policy_without_flags_keeps_its_digest() -> None:
    assert '"flags"' not in Policy.from_toml(DUNNING).content


# ---------------------------------------------------------------- OpenFeature


class Failing(InMemoryProvider):
    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        raise ConnectionError("down")


@pytest.fixture
def domain() -> Iterator[str]:
    yield "postsale-tests"
    api.clear_providers()


def seen(flag: InMemoryFlag[Any], context: EvaluationContext) -> FlagResolutionDetails[Any]:
    on = context.targeting_key == "c1" and context.attributes["tenant"] == "acme"
    return FlagResolutionDetails(value=on, variant="on" if on else "off", reason="TARGETING_MATCH")


def test_a_real_provider_of_openfeature_is_asked_for_the_customer(domain: str) -> None:
    flags = {"retention.credits": InMemoryFlag("off", {"on": True, "off": False}, context_evaluator=seen)}
    api.set_provider(InMemoryProvider(flags), domain)
    event = decided(world(OpenFeatureFlags(domain)))
    assert (event.rule, event.flags["credits"], event.flags["credits.variant"]) == ("credit", True, "on")
    assert event.flags["credits.reason"] == "TARGETING_MATCH"


@pytest.mark.parametrize(("provider", "reason"), [(InMemoryProvider({}), "FLAG_NOT_FOUND"), (Failing({}), "GENERAL")])
def test_a_flag_that_openfeature_cannot_resolve_is_the_default_and_says_so(domain: str, provider: Any, reason: str) -> None:
    api.set_provider(provider, domain)
    event = decided(world(OpenFeatureFlags(domain)))
    assert (event.rule, event.flags["credits"], event.flags["credits.reason"]) == ("task", False, f"ERROR: {reason}")


def test_texts_and_integers_are_read_too(domain: str) -> None:
    api.set_provider(InMemoryProvider({"n": InMemoryFlag("a", {"a": 7}), "t": InMemoryFlag("a", {"a": "blue"})}), domain)
    source = OpenFeatureFlags(domain)
    assert source.read("n", 1, tenant="t", customer="c")[:2] == (7, "a")
    assert source.read("t", "red", tenant="t", customer="c")[:2] == ("blue", "a")


def test_without_the_extra_an_error_names_it() -> None:
    code = (
        "import sys; sys.modules['openfeature'] = None\n"
        "from postsale.agents.adapters.openfeature import OpenFeatureFlags\n"
        "from postsale.errors import MissingExtra\n"
        "try: OpenFeatureFlags()\nexcept MissingExtra as e: print(e.extra)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "flags\n"
    assert issubclass(MissingExtra, ImportError)


def test_a_log_is_opened_with_its_flags() -> None:
    source = Source()
    with PostSale.open("memory:", flags=source) as ps:
        assert ps.engine.flags is source
        assert ps.engine_of([]).flags is source


@pytest.mark.parametrize(("recorded", "acts"), [(True, True), (None, False)])
def test_what_if_takes_the_recorded_flag_and_the_default_where_none_was_recorded(recorded: bool | None, acts: bool) -> None:
    w = world(Source()) if recorded else World()
    w.mode("act")
    decided(w)
    candidate = Policy.from_toml(GATED.replace("version = 1", "version = 2").replace('segment = "vip", credits', "credits"))
    agent = Agent(candidate)

    def values(customer: Any, at_us: int, known_at_us: int) -> Any:
        return agent.values(customer, w.engine.health.read(customer, at_us, agent.wanted), at_us)

    found = what_if(w.log, "acme", candidate, values, begin_us=0, end_us=w.clock.now_us())
    assert found.decisions == 1
    assert (found.unreadable, bool(found.after["offers EUR"])) == (0, acts)
