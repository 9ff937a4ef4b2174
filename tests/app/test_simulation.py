"""Simulations: where they may go, and as of when."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from postsale import PostSale
from postsale.agents import ChurnOutreach, RenewalRescue
from postsale.errors import InvalidInput
from postsale.events import Lane, Origin

from .support import NOON, head, opened, paid, subscribed


@pytest.mark.parametrize(
    ("as_of", "into", "field"),
    [
        (NOON.replace(year=9999), None, "as_of"),
        (NOON + timedelta(days=400), None, "as_of"),
        (NOON, "memory:", "into"),
        (NOON, "there.db", "into"),
        (NOON, "postgresql://there", "into"),
    ],
)
def test_a_simulation_that_cannot_be_is_refused_before_anything_is_made(
    tmp_path: Path, as_of: datetime, into: str | None, field: str
) -> None:
    """A time beyond all clocks, or a place that is no database file, is bad input; no file appears and the log is unchanged."""
    with opened(tmp_path) as ps:
        ps.tenant("acme").record("cus_1", subscribed("s1", NOON - timedelta(days=100)))
        before, files = head(ps), sorted(p.name for p in tmp_path.iterdir())
        with pytest.raises(InvalidInput) as caught:
            ps.simulate("acme", as_of, agents=[RenewalRescue()], into=into)
        assert caught.value.field == field
        assert (head(ps), sorted(p.name for p in tmp_path.iterdir())) == (before, files)
    assert not Path("memory:").exists()


def test_a_simulation_as_of_the_end_of_today_is_allowed(tmp_path: Path) -> None:
    """A date means its last microsecond, which today is still to come."""
    with opened(tmp_path) as ps:
        ps.tenant("acme").record("cus_1", subscribed("s1", NOON - timedelta(days=100)))
        assert ps.simulate("acme", NOON.replace(hour=23), agents=[RenewalRescue()]).copied


def test_a_simulation_knows_each_fact_on_the_day_its_source_claims_it_was_knowable(tmp_path: Path) -> None:
    """Time moves day by day: a fact of March is not known in February, and one that was published late is known late."""
    late = NOON - timedelta(days=10)
    signals = [paid(f"p{n}", NOON - timedelta(days=n)) for n in range(60, 0, -1)]
    signals.append(paid("published late", NOON - timedelta(days=50), available_at=late))
    with opened(tmp_path) as ps:
        assert ps.tenant("acme").record_many([("cus_1", signal) for signal in signals], origin=Origin.IMPORT).rejects == []
        done = ps.simulate("acme", NOON, agents=[ChurnOutreach()])
    with PostSale.open(done.url) as there:
        facts = [e for e in there.tenant("acme").timeline("cus_1") if e.stored.lane is Lane.FACT]
        assert len(facts) == 61
        for fact in facts:
            knowable = late if fact.header.source_id == "published late" else fact.occurred_at
            assert fact.recorded_at.date() == knowable.date()
