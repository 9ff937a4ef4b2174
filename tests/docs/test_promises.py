"""docs/promises.md names tests; each of them exists, and each promise has a state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = re.split(r"^## ", (ROOT / "docs" / "promises.md").read_text(), flags=re.MULTILINE)[1:]
NAMED = re.compile(r"`((?:tests|src)/[\w/]+\.py)::(\w+)`")
NOT_YET = {9}


def test_all_ten_promises_are_there_in_order() -> None:
    """Under the numbers that the design gives them."""
    assert [int(section.partition(".")[0]) for section in SECTIONS] == list(range(1, 11))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.partition("\n")[0])
def test_a_promise_says_what_holds_it_and_what_is_missing(section: str) -> None:
    """Held or not yet, never neither; what is not yet held says what is missing; each named test exists."""
    not_yet = int(section.partition(".")[0]) in NOT_YET
    assert ("**Not yet held fully.**" in section) == not_yet
    assert ("**Held" in section) == (not not_yet)
    assert ("Missing:" in section) == not_yet
    named = NAMED.findall(section)
    assert len(named) >= 4
    assert "::" not in NAMED.sub("", section).replace("`file::test`", "")  # no name is written so that it would not be checked
    for file, name in named:
        source = (ROOT / file).read_text()
        assert re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", source, re.MULTILINE), f"{file} has no {name}"
