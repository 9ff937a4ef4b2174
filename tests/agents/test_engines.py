"""Every engine tells the same stories: the embedded one in several processes over PostgreSQL, and Temporal's real server with its workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from postsale.testing import EngineContract
from postsale.testing.engine_site import Site
from postsale.testing.engine_stage import Drive
from tests.agents.engine_processes import on_temporal, several
from tests.postgres import new_log


class TestSeveralProcessesOverPostgres(EngineContract):
    def driven(self, site: Site) -> AbstractContextManager[Drive]:
        return several(site)

    @contextmanager
    def place(self) -> Iterator[dict[str, Any]]:
        with new_log() as (url, schema):
            yield {"url": url, "schema": schema}


class TestTemporal(EngineContract):
    def driven(self, site: Site) -> AbstractContextManager[Drive]:
        return on_temporal(site)
