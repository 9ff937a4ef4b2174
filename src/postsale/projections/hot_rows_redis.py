"""Hot rows in Redis, or in a server that speaks its protocol. What a cache of rows promises is in `hot_rows`.

The server is believed in nothing: each entry is sealed with a code made from the view's secret, which it never sees, so it can give an
entry back, give an older one, or give none. Imports the errors. Needs the extra `redis`; importing this module without it raises MissingExtra.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from postsale.errors import InvalidInput, MissingExtra
from postsale.projections.freshness import Pace, RealPace

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError:
    raise MissingExtra(feature="a cache in Redis", extra="redis") from None

T = TypeVar("T")

_POSITION: Final = 16  # decimal digits, which Lua reads exactly up to 2^53
_CODE: Final = 16  # bytes
_CHUNK: Final = 200  # keys of one call
_REST_S: Final = 1.0  # after a failure the server is left alone for so long: reads do not wait for a dead one again and again

# Entries begin with their position. What does not is no entry of ours and makes room.
_PUT: Final = f"""
for i, key in ipairs(KEYS) do
    local kept = tonumber(redis.pcall('GETRANGE', key, 0, {_POSITION - 1}))
    if not kept or kept <= tonumber(ARGV[1]) then
        redis.call('SET', key, ARGV[1] .. ARGV[i + 2], 'EX', ARGV[2])
    end
end
"""


class RedisHotRows:
    """A cache of rows at `url` (`redis://`, `rediss://`, `unix://`) for the log `log_id`; connects at first use, and again after a failure.

    A server that is down, slow, full or wrong costs at most `timeout_s` seconds once a second, and no answer. Entries that nobody
    renews go after `keep_s` seconds.
    """

    def __init__(self, url: str, log_id: str, *, timeout_s: float = 0.1, keep_s: int = 86_400, pace: Pace | None = None) -> None:
        """Raises InvalidInput for a URL that is none; its text is not repeated, for it may hold a password."""
        try:
            self._client: Any = redis.Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
            )
        except ValueError:
            raise InvalidInput(what="open", field="hot", reason="expected redis://HOST:PORT/DB, rediss://… or unix://PATH") from None
        self._put = self._client.register_script(_PUT)
        self._log_id, self._keep_s = log_id, keep_s
        self._pace: Pace = pace or RealPace()
        self._lock = threading.Lock()
        self._again_at: float | None = None  # while the server is left alone
        self.failures = 0
        """How often the server could not be used or gave what is no entry of ours, since this process began."""

    def __repr__(self) -> str:
        return "RedisHotRows()"

    def get_many(self, view: str, secret: bytes, keys: Sequence[str]) -> dict[str, tuple[int, bytes | None]]:
        names = [self._name(view, secret, key) for key in keys]
        raws = self._ask(lambda: self._client.mget(names)) if names else []
        found: dict[str, tuple[int, bytes | None]] = {}
        if not isinstance(raws, list) or len(raws) != len(names):
            return found
        wrong = []
        for key, name, raw in zip(keys, names, raws, strict=True):
            if raw is None:
                continue
            entry = _opened(secret, name, raw)
            if entry is None:
                wrong.append(name)
            else:
                found[key] = entry
        if wrong:
            with self._lock:
                self.failures += 1
            self._ask(lambda: self._client.delete(*wrong))
        return found

    def put_many(self, view: str, secret: bytes, rows: Mapping[str, bytes | None], position: int) -> None:
        prefix = f"{position:0{_POSITION}d}".encode()
        entries = iter([(name := self._name(view, secret, key), _sealed(secret, name, prefix, row)) for key, row in rows.items()])
        while part := list(islice(entries, _CHUNK)):
            arguments: list[Any] = [prefix, self._keep_s, *(entry for _, entry in part)]
            if self._ask(lambda: self._put(keys=[name for name, _ in part], args=arguments) or True) is None:  # noqa: B023
                return

    def _name(self, view: str, secret: bytes, key: str) -> str:
        """Nothing of the key or the secret can be read from it."""
        said = "\x00".join((self._log_id, view, key)).encode()
        return "postsale:" + hmac.digest(secret, b"name" + said, hashlib.sha256)[:_CODE].hex()

    def _ask(self, call: Callable[[], T]) -> T | None:
        with self._lock:
            if self._again_at is not None and self._pace.now() < self._again_at:
                return None
        try:
            answer = call()
        except (redis.RedisError, OSError, ValueError, UnicodeError):
            self._failed()
            return None
        with self._lock:
            self._again_at = None
        return answer

    def _failed(self) -> None:
        with self._lock:
            self.failures += 1
            self._again_at = self._pace.now() + _REST_S

    def close(self) -> None:
        self._client.close()


def _code(secret: bytes, name: str, prefix: bytes, rest: bytes) -> bytes:
    return hmac.digest(secret, b"row" + name.encode() + prefix + rest, hashlib.sha256)[:_CODE]


def _sealed(secret: bytes, name: str, prefix: bytes, row: bytes | None) -> bytes:
    """What follows the position: the code, whether there is a row, the row."""
    rest = b"-" if row is None else b"+" + row
    return _code(secret, name, prefix, rest) + rest


def _opened(secret: bytes, name: str, raw: object) -> tuple[int, bytes | None] | None:
    """Position and row of an entry; None for what is none of ours."""
    if not isinstance(raw, bytes) or len(raw) <= _POSITION + _CODE:
        return None
    prefix, code, rest = raw[:_POSITION], raw[_POSITION : _POSITION + _CODE], raw[_POSITION + _CODE :]
    if not hmac.compare_digest(code, _code(secret, name, prefix, rest)):
        return None
    return int(prefix), rest[1:] if rest[:1] == b"+" else None
