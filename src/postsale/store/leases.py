"""Leases: which worker does a job, for how long, and the fence that keeps a former holder from writing.

The revision of a record in the space LEASES is the fencing token; it is written when the lease changes hands and at no other time.
How long the holder has it is kept in a record of its own, so that the token stays the same through renewals. Written over the
contract alone; may import errors and events.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

import orjson

from postsale.errors import InvalidInput, LeaseHeld, LeaseLost, StoreUnavailable
from postsale.events import SECOND_US, Clock, SystemClock, canonical, check_tenant, iso
from postsale.store.contract import LEASES, Holds, Kept, KeyValue, LeaseName

TERMS: Final = "lease-terms"
"""The space of records that say until when a lease was renewed; one that names another token than the lease's says nothing."""

TTL_S: Final = 30.0
_POLL_S: Final = 0.1


def this_process() -> str:
    """A name for this process that an operator can find: its number and its machine."""
    return f"process {os.getpid()} on {socket.gethostname()}"


class Held(NamedTuple):
    """Who holds a lease, and until when unless it is renewed (UTC microseconds of the holder's clock)."""

    holder: str
    token: int
    until_us: int


class Leases:
    """The leases of one log, as one worker takes them. Thread-safe. Clocks decide when a lease may change hands; never what is safe.

    A clock that is ahead takes a lease from a holder that is alive, which then finds itself fenced off. A clock that was moved back
    cannot lock a job for ever: whoever has watched an unrenewed lease for its whole term by its own clock may take it.
    """

    def __init__(self, kv: KeyValue, clock: Clock | None = None, holder: str | None = None) -> None:
        """`holder` is shown to whoever waits; by default this process and its machine."""
        self._kv = kv
        self._clock: Clock = clock or SystemClock()
        self._holder = holder if holder is not None else this_process()
        self._watched: dict[LeaseName, tuple[tuple[int, int], int]] = {}  # revisions as first seen, and when

    def acquire(self, name: LeaseName, ttl_s: float = TTL_S) -> Lease | None:
        """Take a lease for `ttl_s` seconds if nobody holds it, or its holder let it expire; else None, at once.

        Not re-entrant: a lease that this worker holds is held. Raises InvalidInput, StoreUnavailable.
        """
        check_tenant(name.tenant)
        ttl_us = int(ttl_s * SECOND_US)
        if ttl_us <= 0:
            raise InvalidInput(what="lease", field="ttl_s", reason="expected more than 0 seconds")
        grant, term = self._kv.get(LEASES, *name), self._kv.get(TERMS, *name)
        if grant is not None and not self._over(name, grant, term):
            return None
        until_us = self._clock.now_us() + ttl_us
        value = canonical({"holder": self._holder, "until_us": until_us, "ttl_us": ttl_us})
        token = self._kv.put(LEASES, *name, value, expected=grant.revision if grant is not None else 0)
        if token is None:
            return None  # somebody else was faster
        self._watched.pop(name, None)
        return Lease(self._kv, self._clock, name, token, self._holder, until_us, ttl_us)

    def _over(self, name: LeaseName, grant: Kept, term: Kept | None) -> bool:
        now_us, (held, ttl_us) = self._clock.now_us(), _held(grant, term)
        if now_us >= held.until_us:
            return True
        marks = (grant.revision, term.revision if term is not None else 0)
        seen, since_us = self._watched.get(name, (None, now_us))
        if seen != marks or now_us < since_us:
            self._watched[name] = (marks, now_us)
            return False
        return now_us - since_us >= ttl_us

    def look(self, name: LeaseName) -> Held | None:
        """Who holds a lease now; None when nobody does or it has expired."""
        grant, term = self._kv.get(LEASES, *name), self._kv.get(TERMS, *name)
        if grant is None or (held := _held(grant, term)[0]).until_us <= self._clock.now_us():
            return None
        return held

    @contextmanager
    def held(self, name: LeaseName, *, ttl_s: float = TTL_S, wait_s: float = 0.0) -> Iterator[Lease]:
        """Hold a lease for the length of a `with` block; call `keep` in it between steps of work.

        Waits at most `wait_s` seconds of real time for another holder, then raises LeaseHeld. Given back at the end, or left to
        expire when the store cannot be written.
        """
        deadline = time.monotonic() + wait_s
        while (lease := self.acquire(name, ttl_s)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                found = self.look(name)
                if found is None:
                    continue  # given back since
                raise LeaseHeld(lease="/".join(name), holder=found.holder, until=iso(found.until_us))
            time.sleep(min(_POLL_S, left))
        try:
            yield lease
        finally:
            with suppress(StoreUnavailable):  # whoever is next waits for its end
                lease.release()


class Lease:
    """The right to do a job until it expires or another worker takes over. Thread-safe. Made by `Leases.acquire`."""

    def __init__(self, kv: KeyValue, clock: Clock, name: LeaseName, token: int, holder: str, until_us: int, ttl_us: int) -> None:
        self._kv = kv
        self._clock = clock
        self._ttl_us = ttl_us
        self.name = name
        self.token = token
        self.holder = holder
        self.until_us = until_us

    def __repr__(self) -> str:
        return f"Lease({'/'.join(self.name)}, token={self.token}, until={iso(self.until_us)})"

    @property
    def condition(self) -> Holds:
        """For appends: holds until another worker has taken the lease, or it was given back."""
        return Holds(self.name, self.token)

    def renew(self) -> None:
        """Hold it for another term from now, with the same token; also when it has expired and nobody took it. Raises LeaseLost."""
        while True:
            term = self._kv.get(TERMS, *self.name)
            # Read after the term: a successor that renews in between makes the write below fail, so its term is never overwritten.
            grant = self._kv.get(LEASES, *self.name)
            if grant is None or grant.revision != self.token:
                raise LeaseLost(lease="/".join(self.name), token=self.token, newest_token=grant.revision if grant is not None else 0)
            until_us = self._clock.now_us() + self._ttl_us
            value = canonical({"token": self.token, "until_us": until_us})
            if self._kv.put(TERMS, *self.name, value, expected=term.revision if term is not None else 0) is not None:
                self.until_us = until_us
                return

    def keep(self) -> None:
        """Renew when a third of the term has passed, or the clock was moved back behind it; costs nothing before. Raises LeaseLost."""
        left_us = self.until_us - self._clock.now_us()
        if not self._ttl_us * 2 // 3 < left_us <= self._ttl_us:
            self.renew()

    def release(self) -> bool:
        """Give it back: the next worker need not wait, and nothing more can be written under it. False when it was lost before."""
        return self._kv.delete(LEASES, *self.name, expected=self.token)


def _held(grant: Kept, term: Kept | None) -> tuple[Held, int]:
    """The holder, and the length of a term in microseconds. A record that cannot be read is a lease that has expired."""
    try:
        written = orjson.loads(grant.value)
        holder, until_us, ttl_us = str(written["holder"]), int(written["until_us"]), int(written["ttl_us"])
        if term is not None and (renewed := orjson.loads(term.value))["token"] == grant.revision:
            until_us = int(renewed["until_us"])
    except (ValueError, LookupError, TypeError):
        return Held("", grant.revision, 0), 0
    return Held(holder, grant.revision, until_us), ttl_us
