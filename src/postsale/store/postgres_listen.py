"""Hearing of appends of other processes: LISTEN on a connection of its own. A notification is a hint to look, never a fact.

Needs the extra `postgres`, and a connection straight to the server: behind a transaction pooler nobody can listen.
"""

from __future__ import annotations

import threading
from contextlib import suppress

import psycopg

from postsale.store.postgres_link import PATIENT, Connection


class Listener:
    """Waits for a notification, from whatever thread asks first; the others wait for that one to wake them."""

    def __init__(self, url: str, channel: str) -> None:
        self._url = url
        self._channel = channel
        self._lock = threading.Lock()  # of whoever listens
        self._db: Connection | None = None

    def wait(self, timeout_s: float) -> bool:
        """True after `timeout_s`, or when there was a notification or none can be had; False when another thread listens already."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._db is None:
                db = psycopg.connect(self._url, autocommit=True, **PATIENT)
                db.execute(f"LISTEN {self._channel}".encode(), prepare=False)
                self._db = db  # what was appended before is seen at the next look
            else:
                for _ in self._db.notifies(timeout=timeout_s, stop_after=1):
                    pass
        except psycopg.Error:
            self._drop()  # whoever waits polls; the next one connects again
            return False
        finally:
            self._lock.release()
        return True

    def close(self) -> None:
        self._drop()

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(psycopg.Error):
                db.close()
