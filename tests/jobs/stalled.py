"""An S3 server that begins an answer and never ends it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from jobs.settings import Settings


@contextmanager
def stalled_s3(body: bytes, stalls: str, **settings: object) -> Iterator[Settings]:
    """Settings of a store whose every object has this content, but where the name ends in `stalls` it never comes."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._head(200, len(body))

        def do_GET(self) -> None:
            first, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or len(body)) + 1, len(body))
            self._head(206, end - start)
            if self.path.endswith(stalls):
                released.wait()
            self.wfile.write(body[start:end])

        def _head(self, status: int, length: int) -> None:
            self.send_response(status)
            for name, value in (
                ("Content-Length", str(length)),
                ("ETag", '"1"'),
                ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
            ):
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield Settings(s3_endpoint=endpoint, s3_access_key="key", s3_secret_key="secret", **settings)
    finally:
        released.set()
        server.shutdown()
        server.server_close()
