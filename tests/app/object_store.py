"""An object store for tests: moto's S3 behind a door that can misbehave, on a port of its own, in a thread of this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pyarrow.fs
from moto.moto_api._internal import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Environ = dict[str, Any]
Mood = Callable[[Environ], str]
"""What becomes of a request: "" is answered, "busy" gets 503 unasked, "cut" is answered and the answer lost, "short" says of a file that is there (HEAD) that it is empty."""


class ObjectStore:
    """S3 at `url(…)`. `mood` is asked about each request, `tag` is what every ETag of an answer to `tagged` says; `asked` lists methods and paths."""

    def __init__(self) -> None:
        self.mood: Mood = lambda _: ""
        self.tag, self.tagged = "", ("HEAD", "GET")
        self.asked: list[str] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def url(self, path: str) -> str:
        return f"s3://{path}?endpoint_override={self.address}&scheme=http&region=us-east-1"

    def files(self) -> Any:
        """The store as pyarrow sees it, on a good day."""
        return pyarrow.fs.S3FileSystem(endpoint_override=self.address, scheme="http", region="us-east-1", allow_bucket_creation=True)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        moto_api_backend.reset()

    def _answer(self, environ: Environ, start: Any) -> Iterable[bytes]:
        self.asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        mood = self.mood(environ)
        if mood == "busy":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"]

        def tagged(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            if self.tag and environ["REQUEST_METHOD"] in self.tagged:
                headers = [(name, self.tag if name.lower() == "etag" else value) for name, value in headers]
            if mood == "short":
                headers = [(name, "0" if name.lower() == "content-length" else value) for name, value in headers]
            return start(status, headers, *more)

        answer = self._app(environ, tagged)
        if mood == "cut":
            list(answer)
            environ["werkzeug.socket"].shutdown(2)
            raise ConnectionResetError
        return answer


@contextmanager
def object_store(bucket: str) -> Iterator[ObjectStore]:
    """A store with an empty bucket. Its keys are for nothing; no other machine is asked for any."""
    keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_EC2_METADATA_DISABLED": "true"}
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    with mock.patch.dict("os.environ", keys):
        store = ObjectStore()
        try:
            store.files().create_dir(bucket)
            yield store
        finally:
            store.close()
