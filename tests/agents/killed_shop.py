"""The other side of the chain's tools, and the judgement of a chain that is over: by its record, by the log and by the sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from postsale.app import PostSale
from postsale.audit import check_budgets, check_dispositions
from postsale.store import Query
from postsale.testing import Answer, Request, ToolServer
from tests.agents.killed_chain import GIVEN_BACK, SPENT


class Shop:
    """It leaves out what it was told before, but for the queryable tool, which counts each time; and says whether a key was there."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.paths: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None  # happens while the caller of an effect waits for its answer

    def handle(self, request: Request) -> Answer:
        key = request.headers["idempotency-key"]
        if request.method == "GET":
            return Answer(200 if key in self.effects else 404, {})
        if request.path == "/billing.offer_credit" or key not in self.effects:
            self.effects.append(key)
            self.paths.append(request.path)
        self.meanwhile()
        return Answer(200, {})


class ServerWithShop(ToolServer):
    """One that knows which shape it has."""

    def __init__(self) -> None:
        self.shop = Shop()
        super().__init__(self.shop)


def judge(ps: PostSale, shop: Shop, n: int, seen: str) -> None:
    """Of so many customers each effect was had once and taken back once, every trigger has its disposition, every sum holds."""
    assert Counter(shop.paths) == {"/billing.offer_credit": n, "/shop.gift": n, "/shop.back": 2 * n}, (seen, shop.paths)
    assert max(Counter(shop.effects).values()) == 1, seen
    found = check_dispositions(ps.log.store)
    assert (found.problems, found.waiting, found.triggers) == ([], 0, 3 * n), seen
    assert ps.verify().problems == [], seen
    told = Counter(e.kind for e in ps.log.store.read(Query(tenant="acme")))
    for kind, each in {
        "agent/decision-recorded": 3,
        "approval/replaced": 1,
        "approval/escalated": 1,
        "approval/signed": 2,
        "approval/granted": 2,
        "agent/plan-received": 1,
        "billing/invoice-payment-failed": 1,
        "billing/invoice-paid": 2,
        "effect/succeeded": 4,
        "agent/outcome-observed": 2,
        "undo/ordered": 2,
    }.items():
        assert told[kind] == each * n, (seen, kind, told)
    assert told["undo/finished"] == 2, seen
    kept = check_budgets(ps.log.store)
    assert (kept.problems, kept.open) == ([], 0), seen
    rows = ps.tenant("acme").budgets()
    assert [row.name for row in rows] == sorted(SPENT), seen
    for row in rows:
        spent, back = SPENT[row.name] * n, 0 if row.name == "mail" else SPENT[row.name] * n  # no contact is unmade
        assert (row.reserved, row.committed, row.compensated) == (0, spent, back), (seen, row)
        assert row.released == GIVEN_BACK.get(row.name, 0) * n, (seen, row)
        assert row.left == min(row.limits.values()) - spent + back - row.in_slices, (seen, row)
