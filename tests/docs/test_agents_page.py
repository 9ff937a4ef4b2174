"""The page of the shipped agents says what their policies say."""

from __future__ import annotations

from docs.agents_table import PAGE, page, table

from postsale.agents import SHIPPED


def test_the_table_of_agents_is_made_from_their_policies_the_most_important_first() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
    order = [line.split(" | ")[1].strip("`") for line in table().splitlines()[2:]]
    assert order == list(SHIPPED)
    assert len({cls().policy.conversation.priority for cls in SHIPPED.values() if cls().policy.conversation}) == len(SHIPPED)
