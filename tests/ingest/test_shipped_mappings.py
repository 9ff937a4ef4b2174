"""The shipped mappings on the data they are for: every row is accounted for. The data is read in place, never copied."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from postsale.aggregates.signals import InvoicePaid
from postsale.ingest import Item, count_hint, open_items

from .support import DIGEST, example, outcome, third_party


def items(path: Path, name: str) -> list[Item]:
    return list(open_items("table", path, example(name), digest=DIGEST))


def test_the_cdnow_master_is_69659_distinct_purchases_of_23570_customers_in_any_order(tmp_path: Path) -> None:
    path = third_party("cdnow/CDNOW_master.txt")
    found = items(path, "cdnow")
    paid = [signal for item in found for signal in item.signals if isinstance(signal, InvoicePaid)]
    assert len(found) == len(paid) == count_hint("table", path, example("cdnow")) == 69_659
    assert len({item.customer for item in found}) == 23_570
    assert sum(signal.amount_minor == 0 for signal in paid) == 80
    ids = {signal.id for signal in paid}
    assert len(ids) == 69_659
    numbers = Counter(signal.id.partition("#")[2] or "1" for signal in paid)
    assert (numbers["2"], 69_659 - numbers["1"]) == (215, 255)
    assert sum(signal.amount_minor for signal in paid) == _dollars(path)

    header, *lines = path.read_bytes().splitlines(keepends=True)
    random.Random(7).shuffle(lines)
    shuffled = tmp_path / "shuffled.txt"
    shuffled.write_bytes(header + b"".join(lines))
    again = items(shuffled, "cdnow")
    contents = {signal.id: item.source_item for item in found for signal in item.signals}
    assert {signal.id: item.source_item for item in again for signal in item.signals} == contents


def _dollars(path: Path) -> int:
    """The total in cents, read by other means: the cells have two decimals."""
    return sum(int(line.split()[3].replace(".", "")) for line in path.read_text("ascii").splitlines()[1:])


def test_the_cdnow_sample_is_6919_purchases_of_2357_customers() -> None:
    found = items(third_party("cdnow/CDNOW_sample.txt"), "cdnow_sample")
    assert (len(found), len({item.customer for item in found})) == (6_919, 2_357)
    assert len({signal.id for item in found for signal in item.signals}) == 6_919


@pytest.mark.parametrize(
    ("file", "name", "rows", "kinds", "flags", "repeated"),
    [
        ("accounts", "accounts", 500, {"crm/account-profiled": 500}, {}, 0),
        ("subscriptions", "subscriptions", 5_000, {"billing/subscription-started": 5_000, "billing/subscription-ended": 486}, {}, 0),
        ("feature_usage", "usage", 25_000, {"product/usage-observed": 25_000}, {"usage-before-subscription": 19_142}, 21),
        (
            "support_tickets",
            "tickets",
            2_000,
            {
                "ticketing/ticket-opened": 2_000,
                "ticketing/ticket-escalated": 95,
                "ticketing/ticket-solved": 2_000,
                "survey/answered": 1_175,
            },
            {"ticket-before-signup": 1_077},
            0,
        ),
        ("churn_events", "churn", 600, {"crm/account-churned": 600}, {}, 0),
    ],
)
def test_each_ravenstack_row_is_recorded_quarantined_or_ignored(
    file: str, name: str, rows: int, kinds: dict[str, int], flags: dict[str, int], repeated: int
) -> None:
    path = third_party(f"ravenstack/ravenstack_{file}.csv")
    found = items(path, f"ravenstack_{name}")
    states = Counter(outcome(item) for item in found)
    assert sum(states.values()) == len(found) == rows == count_hint("table", path, example(f"ravenstack_{name}"))
    assert states == {"signals": rows}
    assert Counter(signal.kind for item in found for signal in item.signals) == kinds
    assert Counter(flag for item in found for flag in item.flags) == flags
    firsts: dict[str, bytes] = {}
    conflicts = sum(firsts.setdefault(item.signals[0].id, item.source_item) != item.source_item for item in found)
    assert conflicts == repeated  # all with other content: the app quarantines them
