"""A proxy before an S3 server that treats requests as networks and busy servers do; each seed is another story.

    busy       503 SlowDown, the server never hears of it
    reset      the connection is gone before the server hears of it
    lost       the server has done it, the connection is gone before it can say so
    cut        half of an object comes, and then nothing
    conflict   409 to who puts an object where there is none, as S3 answers while another one is doing so

`conditions=False` leaves `If-None-Match` out of what it passes on, as servers do that do not know it.
"""

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("busy", "reset", "lost", "cut", "conflict")
HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"})
ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'


@dataclass
class Faults:
    """What happens to requests; may be changed while the proxy runs."""

    chance: random.Random
    share: float
    """Of the requests that meet a fault."""
    conditions: bool = True
    met: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, method: str, conditional: bool) -> str | None:
        """What happens to a request."""
        with self.lock:
            if self.chance.random() >= self.share:
                return None
            fault = self.chance.choice(FAULTS)
            fault = (
                "reset" if (fault == "cut" and method != "GET") or (fault == "conflict" and not conditional) else fault
            )
            self.met[fault] += 1
            return fault


@contextmanager
def faulty(endpoint: str, seed: int, share: float, conditions: bool = True) -> Iterator[tuple[str, Faults]]:
    """(endpoint of the proxy, what it does)."""
    faults = Faults(random.Random(seed), share, conditions)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(urlsplit(endpoint).netloc, faults))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", faults
    finally:
        server.shutdown()
        server.server_close()


def _handler(upstream: str, faults: Faults) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one answer, one packet: small ones do not wait for an acknowledgement
        disable_nagle_algorithm = True

        def answer(self) -> None:
            if self.headers.get("Expect", "").lower() == "100-continue":
                self.wfile.flush()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            conditional = "If-None-Match" in self.headers and self.command in ("PUT", "POST")
            fault = faults.next(self.command, conditional)
            if fault == "reset":
                return self.vanish()
            if fault == "busy":
                return self.refuse(503, "SlowDown")
            if fault == "conflict":
                return self.refuse(409, "ConditionalRequestConflict")
            status, headers, content = self.passed_on(body)
            if fault == "lost":
                return self.vanish()
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in HOP:
                    self.send_header(name, value)
            if self.command != "HEAD" and not any(name.lower() == "content-length" for name, _ in headers):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault == "cut" and content:
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                return self.vanish()
            if self.command != "HEAD":
                self.wfile.write(content)
            self.wfile.flush()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

        def passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP | {"expect"}}
            if not faults.conditions:
                headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
            connection = http.client.HTTPConnection(upstream, timeout=60)
            try:
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()

        def refuse(self, status: int, code: str) -> None:
            content = ERROR.format(code=code).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            self.wfile.flush()

        def vanish(self) -> None:
            """Resets the connection."""
            with suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RD)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # the client is gone
                super().handle()

        def finish(self) -> None:
            with suppress(OSError):
                super().finish()

    return Handler
