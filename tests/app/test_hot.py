"""The application with a cache in Redis: the same answers with it, without it, and when it is stopped in between."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from postsale.errors import InvalidInput, StaleRead, Unsupported
from postsale.projections import CustomerHealth, Fold, Runner
from postsale.projections.bulk import read_facts
from tests.valkey import Server as Cache

from .support import Where, opened, paid


@pytest.fixture(scope="module")
def valkey() -> Iterator[Cache]:
    server = Cache()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def cache(valkey: Cache) -> Cache:
    """Running, and empty."""
    valkey.start()
    with valkey.client() as client:
        client.flushdb()
    return valkey


def test_stopping_the_cache_changes_no_answer(where: Where, cache: Cache) -> None:
    """Of the view, of health, of what agents would read; what was hot is hot again when it is back."""
    with opened(where, hot=cache.url) as ps:
        acme = ps.tenant("acme")
        receipts = [acme.record(f"cus_{n % 4}", paid(f"in_{n}")) for n in range(12)]
        ps.run_once()
        streams = [acme.customer(f"cus_{n}").stream for n in range(4)]
        with cache.client() as client:
            assert client.dbsize() == 4

        def answers() -> list[object]:
            fold = ps.runner.fold
            kept = [fold.digest(ps.runner.kept([s], at_least=receipts[n + 8], within_s=0).state) for n, s in enumerate(streams)]
            now = [fold.digest(ps.runner.read_state([s]).state) for s in streams]
            return [kept, now, [acme.health(f"cus_{n}").score for n in range(4)], acme.customers()]

        with_it = answers()
        assert with_it[0] == with_it[1]
        cache.kill()
        assert answers() == with_it
        receipts.append(acme.record("cus_0", paid("in_12")))
        ps.run_once()
        read = ps.runner.kept(streams[:1], at_least=receipts[-1], within_s=0)
        plain = Runner(ps.log.store, ps.views, ps.runner.fold, partitions=ps.runner.partitions)
        assert read == plain.kept(streams[:1])
        cache.start()
        assert ps.runner.kept(streams[:1], at_least=receipts[-1], within_s=0) == read


def test_a_tenant_reads_features_by_way_of_the_cache_and_gets_the_logs_answer(where: Where, cache: Cache) -> None:
    """With a cache that lags, that gives garbage, that is stopped and empty; a receipt is honoured, and so is a time in the past."""
    with opened(where, hot=cache.url) as ps:
        acme = ps.tenant("acme")
        for n in range(12):
            acme.record(f"cus_{n % 4}", paid(f"in_{n}"))
        ps.run_once()

        def of_the_log(customer: str) -> dict[str, object]:
            streams = acme.customer(customer).fact_streams
            fold = Fold(CustomerHealth)
            state = fold.fold(read_facts(ps.log.store, streams, kinds=fold.kinds))
            return dict(fold.finish(state, ps.clock.now_us()))

        def check(position: int = 0) -> None:
            for n in range(4):
                read = acme.features(CustomerHealth, f"cus_{n}", at_least=position, within_s=0)
                assert dict(read) == of_the_log(f"cus_{n}")

        def hits() -> int:
            with cache.client() as client:
                return int(client.info("stats")["keyspace_hits"])

        before = hits()
        check()
        assert hits() == before + 4
        receipt = acme.record("cus_0", paid("in_12"))  # which the view and the cache do not have yet
        check(receipt.position)
        assert acme.features(CustomerHealth, "cus_0").position == receipt.position
        with pytest.raises(StaleRead):
            check(receipt.position + 1)
        assert acme.features(CustomerHealth, "cus_0", as_of=datetime(2020, 1, 1, tzinfo=UTC))["purchases"] == 0
        with cache.client() as client:
            for key in list(client.scan_iter()):
                client.set(key, client.get(key)[:-1] + b"#")
        check()
        cache.kill()
        check()
        cache.start()
        check()
        ps.runner.drop()  # the rows in the cache are of a view that is no more
        acme.record("cus_1", paid("in_13"))
        check()


def test_rows_of_a_view_that_another_process_dropped_are_none_at_once(cache: Cache) -> None:
    with opened(None, hot=cache.url) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_0", paid("in_1"))
        ps.run_once()
        answer = acme.features(CustomerHealth, "cus_0")
        stream, runner = acme.customer("cus_0").stream, ps.runner
        other = runner.fold.dump(runner.fold.empty())  # as of another course of the log
        runner._hot.put_many(runner.view, runner._secret(runner.names()), {str(stream): other}, ps.log.store.head())
        assert acme.features(CustomerHealth, "cus_0") != answer
        ps.views.drop(*runner.names().all)
        assert acme.features(CustomerHealth, "cus_0") == answer


def test_what_hot_rows_say_of_events_that_the_log_does_not_have_is_not_believed(cache: Cache) -> None:
    with opened(None, hot=cache.url) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_0", paid("in_1"))
        ps.run_once()
        stream, runner = acme.customer("cus_0").stream, ps.runner
        answer = acme.features(CustomerHealth, "cus_0")
        ahead = runner.fold.dump(runner.fold.merge(runner.read_state([stream]).state, runner.read_state([stream]).state))
        with cache.client() as client:
            client.flushdb()
        runner._hot.put_many(runner.view, runner._secret(runner.names()), {str(stream): ahead}, ps.log.store.head() + 1)
        assert acme.features(CustomerHealth, "cus_0") == answer


@pytest.mark.parametrize(("url", "error"), [("http://x:secret-word@h", Unsupported), ("redis://h:secret-word", InvalidInput)])
def test_a_cache_that_is_none_is_refused_without_repeating_its_url(url: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        opened(None, hot=url)
    assert "secret-word" not in str(caught.value)
