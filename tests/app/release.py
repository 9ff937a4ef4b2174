"""One process of a deploy: `python release.py FOLDER` with the code of some release, module `webinars`, on its path.

Takes a command per line as a JSON list, answers with a line of JSON: the result, or {"error", "message", …} with the error's fields.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import webinars  # type: ignore[import-not-found]

from postsale import PostSale
from postsale.agents import RenewalRescue
from postsale.errors import PostSaleError
from postsale.events import ManualClock, StreamId
from postsale.projections import Fold, fact_of
from postsale.store import Query

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Process:
    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'log.db'}"
        self.ps = PostSale.open(url, clock=ManualClock(NOON), health=webinars.MODEL, agents=[RenewalRescue()])
        self.acme = self.ps.tenant("acme")

    def attend(self, customer: str, id: str, minutes: int, question: str | None = None) -> list[Any]:
        """Record that somebody stayed so long, in the version that this release writes."""
        signal = webinars.attended(source="zoom", id=id, occurred_at=NOON - timedelta(days=1), minutes=minutes, question=question)
        receipt = self.acme.record(customer, signal)
        return [receipt.stored, receipt.position]

    def ingest(self, file: str) -> dict[str, Any]:
        return self.acme.ingest("cloudevents", file).to_dict()

    def run(self) -> dict[str, Any]:
        return self.ps.run_once().to_dict()

    def parked(self) -> list[dict[str, Any]]:
        return [parked._asdict() for parked in self.ps.runner.parked()]

    def view(self) -> dict[str, int]:
        """By customer, the total that the view holds."""
        return self._totals(self.ps.views.scan(self.ps.runner.view))

    def folded(self) -> dict[str, int]:
        """The same by folding the log from its start, without any view."""
        fold, states = Fold(webinars.Webinars), {}
        for stored in self.ps.log.store.read(Query(tenant="acme", kinds=fold.kinds)):
            fold.add(states.setdefault(str(stored.stream), fold.empty()), fact_of(stored))
        return self._totals((key, fold.dump(state)) for key, state in states.items())

    def _totals(self, rows: Any) -> dict[str, int]:
        names, fold = self.acme.names(), Fold(webinars.Webinars)
        return {names[StreamId(*key.split("/", 2)).id]: fold.finish(fold.load(raw), 2**52)["stayed"] for key, raw in rows}

    def feature(self, customer: str) -> int:
        return self.acme.features(webinars.Webinars, customer)["stayed"]

    def latest(self, customer: str) -> Any:
        return self.acme.customer(customer).latest("acme.webinars/attended", "stayed")

    def kinds(self) -> list[str]:
        return [stored.wire_name for stored in self.ps.log.store.read(Query(tenant="acme", kinds=frozenset({"acme.webinars/attended"})))]

    def asked(self, customer: str) -> list[Any]:
        return [event.data.payload().get("asked") for event in self.acme.timeline(customer)]

    def quarantine(self) -> int:
        return len(self.acme.quarantine())

    def retry_quarantine(self) -> dict[str, int]:
        return self.acme.retry_quarantine()


def main(folder: Path) -> None:
    process = Process(folder)
    for line in sys.stdin:
        name, *arguments = orjson.loads(line)
        try:
            answer = getattr(process, name)(*arguments)
        except PostSaleError as error:
            answer = {"error": type(error).__name__, "message": str(error), **error.fields()}
        sys.stdout.write(orjson.dumps(answer, default=str).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
