"""Bulk folds answer for every customer of a tenant as of a time and as known at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import InvoicePaid, UsageObserved
from postsale.events import Lane, StreamId, encode_payload
from postsale.projections import CustomerHealth, Fold, fact_of, fold_all, read_facts

from .customers import day, signal
from .list_store import ListStore

FOLD = Fold(CustomerHealth)
STREAMS = [StreamId(t, c, i) for t in ("acme", "other") for c in ("customers", "aliases", "referrals") for i in ("1", "2")]


def log_of(rows):
    store = ListStore()
    for stream, n, late in rows:
        store.now_us = day(n + late)
        store.record(STREAMS[stream], signal(InvoicePaid if n % 2 else UsageObserved, n))
    return store


rows = st.lists(st.tuples(st.integers(0, len(STREAMS) - 1), st.integers(0, 100), st.sampled_from([0, 0, 20])), max_size=20)


@given(rows, st.one_of(st.none(), st.integers(0, 120)), st.one_of(st.none(), st.integers(0, 120)))
def test_every_customer_of_the_tenant_is_folded_from_what_had_occurred_and_was_known(rows, as_of, known):
    store = log_of(rows)
    as_of_us, known_us = (None if n is None else day(n) for n in (as_of, known))
    got = {key: FOLD.digest(state) for key, state in fold_all(store, FOLD, "acme", as_of_us, known_us)}
    expected = {}
    for stream in STREAMS:
        facts = [
            fact_of(e)
            for e in store.events
            if e.stream == stream
            and (as_of_us is None or e.occurred_at_us <= as_of_us)
            and (known_us is None or e.recorded_at_us <= known_us)
        ]
        if facts and stream.tenant == "acme" and stream.category != "referrals":
            expected[str(stream)] = FOLD.digest(FOLD.fold(facts))
    assert got == expected
    assert list(got) == sorted(got)


def test_the_decision_lane_is_not_folded():
    store = ListStore()
    store.put(STREAMS[0], InvoicePaid.wire_name, encode_payload(signal(InvoicePaid, 1)), day(1), Lane.DECISION)
    assert list(fold_all(store, FOLD, "acme")) == []


def test_facts_are_read_by_stream_kind_and_both_times_and_no_stream_means_none():
    store = log_of([(0, 1, 0), (0, 2, 0), (1, 3, 0), (0, 5, 20)])
    one = STREAMS[0]
    assert [f.position for f in read_facts(store, [one])] == [1, 2, 4]
    assert [f.position for f in read_facts(store, STREAMS[:2])] == [1, 2, 3, 4]
    assert [f.position for f in read_facts(store, [one], kinds=frozenset({"billing/invoice-paid"}))] == [1, 4]
    assert [f.position for f in read_facts(store, [one], as_of_us=day(4))] == [1, 2]
    assert [f.position for f in read_facts(store, [one], known_at_us=day(24))] == [1, 2]
    assert read_facts(store, []) == []
