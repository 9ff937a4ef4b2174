"""The contract of a log, first half: what `append` and its conditions promise. Run through `StoreContract`."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from postsale.errors import ConditionFailed, ContentConflict, EventTooLarge, InvalidInput, VersionConflict
from postsale.events import Actor, Header, Lane, ManualClock, NewEvent, StreamId
from postsale.store import Appended, NoneSince, Query, Store, StreamAt, Submission, verify
from postsale.testing.store_building import LIMIT_BYTES, Events, Hooks, each, one, stored


class AppendContract(Hooks):
    """What `append` promises."""

    def test_an_event_comes_back_as_it_was_given(self, store: Store, events: Events) -> None:
        fact, decision = events.fact(), events.decision(events.stream(), 0)
        store.append(each(fact, decision))
        for given, found in zip((fact, decision), store.read(Query()), strict=True):
            for name in NewEvent._fields:
                if name != "expected_version":
                    assert getattr(found, name) == getattr(given, name), name
            assert type(found.event_id) is UUID
            assert type(found.lane) is Lane
            assert type(found.stream) is StreamId
            assert len(found.salt) == 16

    def test_positions_are_gapless_and_recorded_at_increases_even_within_one_tick(self, store: Store, events: Events) -> None:
        outcomes = store.append([*one(events.fact(), events.fact()), *each(events.fact()), *each(events.decision(events.stream(), 0))])
        assert [p for o in outcomes for p in stored(o).positions] == [1, 2, 3, 4]
        times = [event.recorded_at_us for event in store.read(Query())]
        assert times == list(range(times[0], times[0] + 4))
        assert [t for o in outcomes for t in stored(o).recorded_at_us] == times

    def test_a_condition_that_no_log_can_check_fails_alone(self, store: Store, events: Events) -> None:
        conditions: list[Any] = [NoneSince((events.stream(),), frozenset({kind}), 0) for kind in ("a\0b", "\ud800", "")]
        good = [Submission((events.fact(),)) for _ in range(4)]
        bad = [Submission((events.fact(),), (condition,)) for condition in (*conditions, "no condition")]
        outcomes = store.append([submission for pair in zip(good, bad, strict=True) for submission in pair])
        assert [stored(outcome).positions for outcome in outcomes[::2]] == [(1,), (2,), (3,), (4,)]
        assert [type(outcome) for outcome in outcomes[1::2]] == [InvalidInput] * 4

    @pytest.mark.parametrize("count", [1, 100])
    def test_a_lane_is_a_lane_and_not_its_number(self, store: Store, events: Events, count: int) -> None:
        stream = events.stream()
        numbered = Submission(tuple(events.decision(stream, version)._replace(lane=1) for version in range(count)))  # type: ignore[arg-type]
        good, bad = store.append([*each(events.fact()), numbered])
        assert stored(good).positions == (1,)
        assert isinstance(bad, InvalidInput)

    def test_a_clock_moved_back_a_day_keeps_recorded_at_increasing(self, store: Store, events: Events, clock: ManualClock) -> None:
        store.append(each(events.fact()))
        clock.advance(timedelta(days=-1))
        store.append(each(events.fact(), events.fact()))
        clock.advance(timedelta(days=2))
        store.append(each(events.fact()))
        times = [event.recorded_at_us for event in store.read(Query())]
        assert times[1] == times[0] + 1
        assert times[2] == times[1] + 1
        assert times[3] == clock.now_us()

    def test_a_facts_version_is_its_position_and_a_decisions_counts_per_stream(self, store: Store, events: Events) -> None:
        a, b = events.stream(), events.stream()
        outcomes = store.append(
            each(events.fact(a), events.decision(a, 0), events.decision(b, 0), events.fact(b), events.decision(a, 1), events.decision(a, 2))
        )
        assert [stored(o).versions for o in outcomes] == [(1,), (1,), (1,), (4,), (2,), (3,)]
        assert store.versions([a, b, events.stream()]) == [3, 1, 0]

    def test_the_same_submission_again_stores_nothing_and_returns_the_first_result(self, store: Store, events: Events) -> None:
        stream = events.stream()
        submissions = [*one(events.fact(stream), events.decision(stream, 0)), *each(events.fact(stream))]
        first = store.append(submissions)
        again = store.append(submissions)
        assert again == [replace(stored(o), stored=False) for o in first]
        assert store.head() == 3

    def test_a_retry_is_a_success_although_the_version_has_moved_on(self, store: Store, events: Events) -> None:
        stream = events.stream()
        lost = [Submission((events.decision(stream, 0),), (StreamAt(stream, 0),))]
        first = stored(store.append(lost)[0])
        store.append(each(events.decision(stream, 1)))
        assert store.append(lost) == [replace(first, stored=False)]

    def test_a_duplicate_within_one_call_sees_the_first(self, store: Store, events: Events) -> None:
        fact = events.fact()
        first, second = store.append(each(fact, fact))
        assert stored(first).stored
        assert second == replace(stored(first), stored=False)
        assert store.head() == 1

    def test_the_same_id_with_other_content_is_a_conflict_that_names_both(self, store: Store, events: Events) -> None:
        fact = events.fact()
        other = fact._replace(content_mac=b"o" * 16, data=b"{}")
        store.append(each(events.fact(), fact))
        for outcome in (store.append(each(other))[0], store.append(each(other, other))[1]):
            assert isinstance(outcome, ContentConflict)
            assert outcome.stored_position == 2
            assert outcome.stored_digest == fact.content_mac.hex()
            assert outcome.offered_digest == other.content_mac.hex()
            assert (outcome.tenant, outcome.source) == ("acme", "test")
        assert store.head() == 2
        assert store.find("acme", fact.event_id).data == fact.data  # type: ignore[union-attr]

    def test_other_content_within_one_call_is_a_conflict_too(self, store: Store, events: Events) -> None:
        fact = events.fact()
        first, second = store.append(each(fact, fact._replace(content_mac=b"o" * 16)))
        assert stored(first).stored
        assert isinstance(second, ContentConflict)

    def test_content_counts_by_its_mac_alone(self, store: Store, events: Events) -> None:
        fact = events.fact()
        first = stored(store.append(each(fact))[0])
        sealed_again = fact._replace(data=b'{"other":"nonce"}', header=Header(actor=Actor("source", "x")).to_bytes(), occurred_at_us=5)
        assert store.append(each(sealed_again)) == [replace(first, stored=False)]

    def test_a_submission_that_is_there_in_part_is_a_conflict(self, store: Store, events: Events) -> None:
        known, new = events.fact(), events.fact()
        store.append(each(known))
        for submission in (one(known, new), one(new, known)):
            assert isinstance(store.append(submission)[0], ContentConflict)
        assert store.head() == 1

    def test_the_same_id_in_two_tenants_is_two_events(self, store: Store, events: Events) -> None:
        fact = events.fact(events.stream("acme"))
        other = fact._replace(stream=events.stream("globex"), content_mac=b"o" * 16)
        assert [stored(o).stored for o in store.append(each(fact, other))] == [True, True]
        assert store.find("globex", fact.event_id).position == 2  # type: ignore[union-attr]
        assert store.find("initech", fact.event_id) is None

    def test_a_decision_at_the_wrong_version_is_a_conflict(self, store: Store, events: Events) -> None:
        stream = events.stream()
        store.append(each(events.decision(stream, 0)))
        for expected in (0, 2):
            (outcome,) = store.append(each(events.decision(stream, expected)))
            assert isinstance(outcome, VersionConflict)
            assert (outcome.expected_version, outcome.actual_version, outcome.stream) == (expected, 1, str(stream))
        assert store.head() == 1

    def test_decisions_of_one_submission_carry_consecutive_versions(self, store: Store, events: Events) -> None:
        stream = events.stream()
        bad, good = store.append(
            [*one(events.decision(stream, 0), events.decision(stream, 0)), *one(events.decision(stream, 0), events.decision(stream, 1))]
        )
        assert isinstance(bad, VersionConflict)
        assert stored(good).versions == (1, 2)

    def test_a_submission_is_stored_all_or_none(self, store: Store, events: Events) -> None:
        stream = events.stream()
        (outcome,) = store.append(one(events.fact(), events.fact(), events.decision(stream, 1)))
        assert isinstance(outcome, VersionConflict)
        assert store.head() == 0
        assert list(store.read(Query())) == []

    def test_one_submissions_failure_never_affects_its_neighbours(self, store: Store, events: Events) -> None:
        stream, fact = events.stream(), events.fact()
        outcomes = store.append(
            [
                *each(fact),
                *each(events.decision(stream, 7)),
                *each(events.decision(stream, 0)),
                *each(fact._replace(content_mac=b"o" * 16)),
                *each(events.fact(data=b"x" * LIMIT_BYTES)),
                *each(events.fact(wire_name="not a wire name")),
                *one(events.fact(), events.decision(stream, 0)),
                *each(events.decision(stream, 1)),
            ]
        )
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [Appended, VersionConflict, Appended, ContentConflict, EventTooLarge, InvalidInput, VersionConflict, Appended]
        assert [stored(outcomes[i]).positions for i in (0, 2, 7)] == [(1,), (2,), (3,)]
        assert [event.leaf_index for event in store.read(Query())] == [0, 1, 2]
        assert verify(store).ok

    def test_an_event_at_the_limit_is_stored_and_one_beyond_is_too_large(self, store: Store, events: Events) -> None:
        room = LIMIT_BYTES - len(events.fact(header=b"{}").header)
        fits, beyond = store.append(each(events.fact(header=b"{}", data=b"x" * room), events.fact(header=b"{}", data=b"x" * (room + 1))))
        assert stored(fits).stored
        assert isinstance(beyond, EventTooLarge)
        assert (beyond.size_bytes, beyond.limit_bytes) == (LIMIT_BYTES + 1, LIMIT_BYTES)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("stream", StreamId("Not A Tenant", "customers", "c")),
            ("stream", StreamId("acme", "", "c")),
            ("stream", StreamId("acme", "customers", "c\x00")),
            ("stream", StreamId("acme", "customers", "\ud800")),
            ("stream", StreamId("acme", "customers", "c" * 201)),
            ("lane", 2),
            ("expected_version", 0),
            ("event_id", "not a UUID"),
            ("wire_name", "test/seen"),
            ("schema", b"short"),
            ("occurred_at_us", 2**63),
            ("occurred_at_us", 1.5),
            ("content_mac", b"x" * 17),
            ("header", "text"),
            ("data", None),
        ],
    )
    def test_what_no_log_can_hold_is_invalid_input(self, store: Store, events: Events, field: str, value: Any) -> None:
        bad, good = store.append(each(events.fact()._replace(**{field: value}), events.fact()))
        assert isinstance(bad, InvalidInput)
        assert stored(good).positions == (1,)

    def test_a_decision_without_a_version_and_an_id_twice_in_one_submission_are_invalid(self, store: Store, events: Events) -> None:
        fact = events.fact()
        outcomes = store.append([*each(events.decision(events.stream(), 0)._replace(expected_version=None)), *one(fact, fact)])
        assert [type(outcome) for outcome in outcomes] == [InvalidInput, InvalidInput]

    def test_nothing_to_append_is_nothing_stored(self, store: Store, events: Events) -> None:
        stream = events.stream()
        assert store.append([]) == []
        empty, refused = store.append([Submission(()), Submission((), (StreamAt(stream, 3),))])
        assert empty == Appended((), (), (), False)
        assert isinstance(refused, VersionConflict)

    def test_every_error_survives_pickling(self, store: Store, events: Events) -> None:
        stream, fact = events.stream(), events.fact()
        outcomes = store.append(
            [
                *each(fact, fact._replace(content_mac=b"o" * 16), events.decision(stream, 3), events.fact(data=b"x" * LIMIT_BYTES)),
                *each(events.fact(schema=b"")),
                Submission((events.fact(),), (NoneSince((fact.stream,), frozenset({"test/seen"}), 0),)),
            ]
        )
        errors = outcomes[1:]
        assert {type(e) for e in errors} == {ContentConflict, VersionConflict, EventTooLarge, InvalidInput, ConditionFailed}
        for error in errors:
            again = pickle.loads(pickle.dumps(error))
            assert (type(again), str(again)) == (type(error), str(error))


class ConditionContract(Hooks):
    """What conditions promise."""

    def test_a_stream_must_be_at_exactly_the_given_version(self, store: Store, events: Events) -> None:
        policy = events.stream(category="policies")
        store.append(each(events.decision(policy, 0)))
        low, right, high = store.append([Submission((events.fact(),), (StreamAt(policy, v),)) for v in (0, 1, 2)])
        assert isinstance(low, VersionConflict)
        assert (low.expected_version, low.actual_version) == (0, 1)
        assert stored(right).stored
        assert isinstance(high, VersionConflict)

    def test_no_fact_of_a_listed_kind_may_have_arrived_since(self, store: Store, events: Events) -> None:
        stream, other = events.stream(), events.stream()
        store.append(each(events.fact(stream, "usage/seen"), events.fact(stream, "billing/paid"), events.fact(stream, "billing/paid", 2)))

        def ask(streams: tuple[StreamId, ...], kinds: set[str], position: int) -> object:
            return store.append([Submission((events.fact(other, "x/noise"),), (NoneSince(streams, frozenset(kinds), position),))])[0]

        failed = ask((other, stream), {"billing/paid", "billing/failed"}, 1)
        assert isinstance(failed, ConditionFailed)
        assert (failed.stream, failed.wire_name, failed.after_position, failed.at_position) == (str(stream), "billing/paid@1", 1, 2)
        later = ask((stream,), {"billing/paid"}, 2)
        assert isinstance(later, ConditionFailed)
        assert (later.wire_name, later.at_position) == ("billing/paid@2", 3)
        assert stored(ask((stream,), {"billing/paid"}, 3)).stored
        assert stored(ask((stream,), {"usage/seen"}, 1)).stored
        assert stored(ask((other,), {"billing/paid"}, 0)).stored
        assert stored(ask((events.stream(),), {"billing/paid"}, 0)).stored

    def test_a_decision_of_a_listed_kind_does_not_break_the_condition(self, store: Store, events: Events) -> None:
        stream = events.stream()
        store.append(each(events.decision(stream, 0, "billing/paid")))
        (outcome,) = store.append([Submission((events.fact(),), (NoneSince((stream,), frozenset({"billing/paid"}), 0),))])
        assert stored(outcome).stored

    def test_conditions_see_earlier_submissions_of_the_same_call(self, store: Store, events: Events) -> None:
        stream = events.stream()
        none_since = NoneSince((stream,), frozenset({"billing/paid"}), 0)
        outcomes = store.append(
            [
                Submission((events.decision(stream, 0),), (none_since, StreamAt(stream, 0))),
                *each(events.fact(stream, "billing/paid")),
                Submission((events.fact(),), (none_since,)),
                Submission((events.fact(),), (StreamAt(stream, 0),)),
                Submission((events.fact(),), (StreamAt(stream, 1), replace(none_since, position=2))),
            ]
        )
        assert [type(outcome) for outcome in outcomes] == [Appended, Appended, ConditionFailed, VersionConflict, Appended]

    def test_a_submissions_own_facts_do_not_break_its_conditions(self, store: Store, events: Events) -> None:
        stream = events.stream()
        (outcome,) = store.append([Submission((events.fact(stream),), (NoneSince((stream,), frozenset({"test/seen"}), 0),))])
        assert stored(outcome).stored

    def test_a_submission_is_of_one_tenant(self, store: Store, events: Events) -> None:
        (outcome,) = store.append(one(events.fact(events.stream("acme")), events.fact(events.stream("globex"))))
        assert isinstance(outcome, InvalidInput)
        assert store.head() == 0

    def test_conditions_come_before_the_size_limit_and_after_the_ids(self, store: Store, events: Events) -> None:
        fact, stream = events.fact(), events.stream()
        store.append(each(fact))
        wrong = (StreamAt(stream, 9),)
        duplicate, too_large = store.append([Submission((fact,), wrong), Submission((events.fact(data=b"x" * LIMIT_BYTES),), wrong)])
        assert not stored(duplicate).stored
        assert isinstance(too_large, VersionConflict)
