"""The application with a cache in Redis: the same answers with it, without it, and when it is stopped in between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from postsale.errors import InvalidInput, Unsupported
from postsale.projections import Runner
from tests.valkey import Server as Cache

from .support import Where, opened, paid


@pytest.fixture(scope="module")
def cache() -> Iterator[Cache]:
    server = Cache()
    server.start()
    yield server
    server.remove()


def test_stopping_the_cache_changes_no_answer(where: Where, cache: Cache) -> None:
    """Of the view, of health, of what agents would read; what was hot is hot again when it is back."""
    cache.start()
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


@pytest.mark.parametrize(("url", "error"), [("http://x:secret-word@h", Unsupported), ("redis://h:secret-word", InvalidInput)])
def test_a_cache_that_is_none_is_refused_without_repeating_its_url(url: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        opened(None, hot=url)
    assert "secret-word" not in str(caught.value)
