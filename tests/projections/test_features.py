"""Declarations are checked when they are declared, and have a digest that changes exactly with their numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

import pytest

from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed, Signal
from postsale.errors import BadDeclaration
from postsale.events import DAY_US, Registry, registry
from postsale.projections import (
    Fact,
    Features,
    Fold,
    Leaf,
    Moment,
    count,
    days,
    decayed,
    derived,
    fact_from,
    first_seen,
    fold,
    history,
    last_seen,
    latest,
    maximum,
    minimum,
    total,
)
from postsale.testing import assert_parity

from .support import Everything, Measured


class Billing(Features, version=1, owner="revops"):
    failed = count(InvoicePaymentFailed, window=days(90), unit="charges", description="failed charges")
    paid = count(InvoicePaid, window=days(90))
    owed = total(InvoicePaymentFailed, lambda e: e.amount_minor, by=lambda e: e.currency)

    @derived(unit="ratio")
    def failure_rate(failed: int, paid: int) -> float | None:
        """Of all charges, how many failed."""
        return failed / (failed + paid) if failed + paid else None

    @derived()
    def alarm(failure_rate: float | None) -> bool:
        return failure_rate is not None and failure_rate > 0.5

    @derived()
    def doubled(failure_rate: float) -> float:
        return failure_rate * 2


def test_a_declaration_knows_its_features_with_unit_description_and_owner():
    assert isinstance(Billing.failed, Leaf)
    assert (Billing.failed.name, Billing.failed.unit, Billing.failed.description) == ("failed", "charges", "failed charges")
    assert (Billing.failure_rate.unit, Billing.failure_rate.description) == ("ratio", "Of all charges, how many failed.")
    assert (Billing.version, Billing.owner) == (1, "revops")
    assert list(Billing.leaves) == ["failed", "owed", "paid"]
    assert [d.name for d in Billing.deriveds].index("failure_rate") < [d.name for d in Billing.deriveds].index("alarm")


def test_a_derived_feature_gets_none_only_where_its_annotation_admits_it():
    fold = Fold(Billing)
    values = fold.finish(fold.empty(), 0)
    assert values["failure_rate"] is None
    assert values["doubled"] is None
    assert values["alarm"] is False


def test_a_derived_float_is_rounded_before_anything_compares_it():
    class Third(Features, version=1, owner="x"):
        n = count(Measured)

        @derived()
        def third(n: int) -> float:
            return (n + 1) / 3

    fold = Fold(Third)
    assert fold.finish(fold.empty(), 0).of(Third.third) == 0.333333333


def declare(**members):
    options = {"version": 1, "owner": "x"} | {name: members.pop(name) for name in ("version", "owner", "deprecated") if name in members}
    return type("Declared", (Features,), members, **options)


def test_the_digest_is_stable_across_processes_and_orders_of_declaration():
    one = declare(a=count(Measured), b=total(Measured, lambda e: e.amount))
    other = declare(b=total(Measured, lambda e: e.amount, unit="EUR", description="text"), a=count(Measured), owner="y")
    assert one.digest == other.digest == "5164b1c9384d19ceada3b980cd8869c0"  # a change here is a new view for everybody


def test_the_digest_changes_with_everything_that_changes_a_number():
    variants = [
        declare(a=count(Measured)),
        declare(a=count(Measured), version=2),
        declare(b=count(Measured)),
        declare(a=count(InvoicePaid)),
        declare(a=count((InvoicePaid, Measured))),
        declare(a=count(Measured, window=days(2))),
        declare(a=count(Measured, window=days(3))),
        declare(a=count(Measured, by=lambda e: e.label)),
        declare(a=count(Measured, where=lambda e: e.good)),
        declare(a=count(Measured, where=lambda e: e.amount > 1)),
        declare(a=count(Measured, where=lambda e: e.amount > 2)),
        declare(a=total(Measured, lambda e: e.amount)),
        declare(a=latest(Measured, lambda e: e.amount)),
        declare(a=minimum(Measured, lambda e: e.amount)),
        declare(a=maximum(Measured, lambda e: e.amount)),
        declare(a=first_seen(Measured)),
        declare(a=last_seen(Measured)),
        declare(a=decayed(Measured, half_life=days(2))),
        declare(a=decayed(Measured, half_life=days(3))),
        declare(a=decayed(Measured, lambda e: e.amount, half_life=days(2))),
        declare(a=history(Measured, window=days(40))),  # a decayed sum of two days keeps as many
        declare(a=count(Measured, where=lambda e: (e.amount > 1) & e.good)),
        declare(a=count(Measured, where=lambda e: (e.amount > 1) | e.good)),
        declare(a=count(Measured), d=derived()(_needs_a)),
        type("Other", (Features,), {"a": count(Measured)}, version=1, owner="x"),
    ]
    assert len({v.digest for v in variants}) == len(variants)


def _needs_a(a: int) -> int:
    return a


def _unknown(nope: int) -> int:
    return nope


def _no_annotation(a) -> int:
    return a


def _no_result(a: int):
    return a


def _default(a: int = 3) -> int:
    return a


def _star(*a: int) -> int:
    return 1


def _unresolved(a: NotImported) -> int:  # noqa: F821
    return 1


def _x(y: int) -> int:
    return y


def _y(x: int) -> int:
    return x


class Unnamed(Signal):
    pass


REFUSED = {
    "a half-life that is no window": (lambda: decayed(Measured, half_life=30), "half_life= expects"),
    "a half-life of years": (lambda: decayed(Measured, half_life=days(181)), "up to 180"),
    "a decayed text": (lambda: decayed(Measured, lambda e: e.label, half_life=days(2)), "expected int"),
    "an unbounded history": (lambda: history(Measured, window=None), "must be bounded"),
    "no feature": (dict, "no feature over signals"),
    "version 0": (lambda: {"a": count(Measured), "version": 0}, "version"),
    "version True": (lambda: {"a": count(Measured), "version": True}, "version"),
    "no owner": (lambda: {"a": count(Measured), "owner": ""}, "owner"),
    "a private name": (lambda: {"_a": count(Measured)}, "reserved"),
    "a reserved name": (lambda: {"digest": count(Measured)}, "reserved"),
    "a plain method": (lambda: {"a": count(Measured), "rate": _needs_a}, "@derived"),
    "an unknown parameter": (lambda: {"a": count(Measured), "d": derived()(_unknown)}, "'nope' is not a feature"),
    "no annotation": (lambda: {"a": count(Measured), "d": derived()(_no_annotation)}, "'a' has no annotation"),
    "no result": (lambda: {"a": count(Measured), "d": derived()(_no_result)}, "'return' has no annotation"),
    "a default": (lambda: {"a": count(Measured), "d": derived()(_default)}, "without a default"),
    "a star": (lambda: {"a": count(Measured), "d": derived()(_star)}, "must be plain"),
    "an unresolved annotation": (lambda: {"a": count(Measured), "d": derived()(_unresolved)}, "NotImported"),
    "itself": (lambda: {"b": count(Measured), "a": derived()(_needs_a)}, "a → a"),
    "a cycle": (lambda: {"a": count(Measured), "x": derived()(_x), "y": derived()(_y)}, "x → y → x"),
    "no kind": (lambda: {"a": count(())}, "at least one"),
    "no signal": (lambda: {"a": count(int)}, "signal classes"),
    "no wire name": (lambda: {"a": count(Unnamed)}, "wire name"),
    "no class": (lambda: {"a": count("billing/invoice-paid")}, "signal classes"),
    "a bare window": (lambda: {"a": count(Measured, window=90)}, r"days\(n\)"),
    "an empty window": (lambda: {"a": count(Measured, window=days(0))}, "whole number"),
    "half a day": (lambda: {"a": count(Measured, window=days(0.5))}, "whole number"),
    "an endless window": (lambda: {"a": count(Measured, window=days(10**6))}, "whole number"),
    "a condition that is no condition": (lambda: {"a": count(Measured, where=lambda e: e.amount)}, "expected a boolean"),
    "a sum of text": (lambda: {"a": total(Measured, lambda e: e.label)}, "gives str, expected int"),
    "a sum of flags": (lambda: {"a": total(Measured, lambda e: e.good)}, "gives bool, expected int"),
    "the least text": (lambda: {"a": minimum(Measured, lambda e: e.label)}, "gives str, expected int"),
    "the greatest flag": (lambda: {"a": maximum(Measured, lambda e: e.good)}, "gives bool, expected int"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_declaration_that_cannot_work_is_refused_when_it_is_declared(name):
    members, reason = REFUSED[name]
    with pytest.raises(BadDeclaration, match=reason):
        declare(**members())


def test_a_deprecation_says_what_to_read_instead_and_changes_no_number():
    plain = declare(a=count(Measured), b=count(InvoicePaid))
    going = declare(a=count(Measured), b=count(InvoicePaid), deprecated={"a": "read b"})
    assert (plain.deprecated, going.deprecated) == ({}, {"a": "read b"})
    assert plain.digest == going.digest
    for wrong in ({"c": "read b"}, {"a": ""}):
        with pytest.raises(BadDeclaration, match="deprecated= names features of this class"):
            declare(a=count(Measured), deprecated=wrong)


def test_sessions_and_state_machines_are_derived_from_the_facts_in_their_order():
    class Sessions(Features, version=1, owner="x"):
        steps = history(Measured, lambda e: e.label, window=days(3))

        @derived(unit="sessions")
        def sessions(steps: tuple[Moment, ...]) -> int:
            return sum(1 for before, step in zip((None, *steps), steps, strict=False) if before is None or step.at_us - before.at_us > 100)

        @derived()
        def stage(steps: tuple[Moment, ...]) -> str:
            stage = "new"
            for step in steps:
                stage = {("new", "a"): "tried", ("tried", "b"): "live"}.get((stage, step.value), stage)
            return stage

    its = Fold(Sessions)
    late = [(3, 300, "b"), (1, 500, "b"), (2, 10, "a"), (4, 310, "a"), (5, 10, "b")]  # position, time, label
    state = its.fold(Fact(Measured.wire_name.partition("@")[0], position, at, at, {"label": label}) for position, at, label in late)
    values = its.finish(state, 1_000)
    assert [moment[:2] for moment in values.of(Sessions.steps)] == [(10, 2), (10, 5), (300, 3), (310, 4), (500, 1)]
    assert (values.of(Sessions.sessions), values.of(Sessions.stage)) == (3, "live")


class Steps(Features, version=1, owner="x"):
    """A state machine and sessions, fact by fact."""

    steps = history(Measured, lambda e: e.label, window=days(3))
    by_step = history(Measured, by=lambda e: e.step, window=days(3))

    @fold(steps, start="new")
    def stage(state: str, step: Moment) -> str:
        """How far it got."""
        return {("new", "a"): "tried", ("tried", "b"): "live"}.get((state, step.value), state)

    @fold(by_step, start=[0, None], unit="(sessions, last seen)")
    def sessions(state: list[int | None], step: Moment) -> list[int | None]:
        state[0] = (state[0] or 0) + (state[1] is None or step.at_us - state[1] > DAY_US // 2)  # a state may be changed in place
        state[1] = step.at_us
        return state

    @derived()
    def live(stage: str) -> bool:
        return stage == "live"


def test_a_fold_goes_through_late_facts_in_their_place_and_each_time_from_its_start():
    facts = [(3, 300, "b"), (1, 500, "b"), (2, 10, "a"), (4, 310, "a"), (5, 10, "b")]  # position, time, label
    facts = [Fact(Measured.wire_name.partition("@")[0], p, at, at, {"label": label, "step": p % 2}) for p, at, label in facts]
    its = Fold(Steps)
    for _ in range(2):
        values = its.finish(its.fold(facts), 1_000)
        assert (values.of(Steps.stage), values.of(Steps.live)) == ("live", True)
        assert values.of(Steps.sessions) == {0: [1, 310], 1: [1, 500]}
    assert (its.finish(its.empty(), 1_000).of(Steps.stage), Steps.stage.description, Steps.sessions.unit) == (
        "new",
        "How far it got.",
        "(sessions, last seen)",
    )


def test_a_fold_is_the_same_on_every_engine():
    assert_parity(Steps)


def test_a_fold_over_what_is_no_history_of_its_class_is_refused():
    with pytest.raises(BadDeclaration, match="expected a history"):
        fold(count(Measured), start=0)
    with pytest.raises(BadDeclaration, match="takes the state and the next fact"):
        fold(history(Measured, window=days(3)), start=0)(lambda state: state)
    for elsewhere in (history(Measured, window=days(3)), Steps.steps):
        with pytest.raises(BadDeclaration, match="its history is not a feature of"):
            declare(a=count(Measured), b=fold(elsewhere, start=0)(lambda state, _: state + 1))


def test_declarations_do_not_inherit_and_are_not_instantiated():
    with pytest.raises(BadDeclaration, match="do not inherit"):
        type("Sub", (Everything,), {"a": count(Measured)}, version=1, owner="x")
    with pytest.raises(BadDeclaration, match="not instantiated"):
        Everything()


def test_a_class_that_has_a_later_version_is_refused_because_its_fields_are_never_seen(monkeypatch):
    scratch = Registry()
    scratch._classes.update(registry._classes)
    monkeypatch.setattr("postsale.projections.declaring.registry", scratch)
    scratch.upcaster("tests.projections/measured@1", "tests.projections/measured@2")(dict)
    with pytest.raises(BadDeclaration, match="later version"):
        count(Measured)


def test_a_users_own_signal_counts_like_a_shipped_one():
    class Ours(Signal):
        wire_name: ClassVar[str] = "tests.projections/ours@1"

    class Own(Features, version=1, owner="x"):
        n = count(Ours)

    fold = Fold(Own)
    signal = Ours(source="s", id="1", occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
    state = fold.fold([fact_from(signal, 1)])
    assert fold.finish(state, fold.newest_us(state)).of(Own.n) == 1
