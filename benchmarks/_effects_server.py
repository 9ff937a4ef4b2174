"""A server for the agents benchmark, in a process of its own: takes effects, counts each key once. No measure here.

`python -m benchmarks._effects_server` prints its port. `GET /count` answers with the keys and requests that it has seen, `GET /times`
with when each customer's first effect arrived, in seconds of the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import time


class Effects:
    """One connection at a time is served to its end; keys are those of the header `Idempotency-Key`."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.requests = 0
        self.arrived: list[tuple[float, bytes]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(b":") for line in head.split(b"\r\n")[1:])}
                said = await reader.readexactly(int(headers.get(b"content-length", b"0")))
                if head.startswith(b"GET /count"):
                    body = b'{"keys": %d, "requests": %d}' % (len(self.keys), self.requests)
                elif head.startswith(b"GET /times"):
                    times: dict[str, float] = {}
                    for at, what in self.arrived:
                        times.setdefault(json.loads(what)["arguments"]["customer"], at)
                    body = json.dumps(times).encode()
                else:
                    self.arrived.append((time.monotonic(), said))
                    self.requests += 1
                    self.keys.add(headers[b"idempotency-key"])
                    body = b'{"receipt": "r%d"}' % self.requests
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main() -> None:
    server = await asyncio.start_server(Effects().serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
