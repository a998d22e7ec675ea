"""What stands between a worker and a server, and lets things go wrong: on the way to PostgreSQL, and to S3."""

import http.client
import random
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from omni_jobs.embedded.ports import LOOPBACK

# The end of a transaction, or of a statement that writes and stands alone: what it was, and that the server is idle.
COMMITTED = re.compile(rb"C\x00{3}.(COMMIT|UPDATE \d+|INSERT \d+ \d+)\x00Z\x00{3}\x05I\Z", re.DOTALL)


class Wire:
    """A line to PostgreSQL that breaks after every so many commits: the server has them, no answer comes back."""

    def __init__(self, url: str, *, every: int, most: int) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or LOOPBACK, parts.port or 5432)
        self._listener = socket.create_server((LOOPBACK, 0))
        port = self._listener.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@{LOOPBACK}:{port}"))
        self._every, self._most, self._seen, self.cut = every, most, 0, 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._there, args=(client, server), daemon=True).start()
                threading.Thread(target=self._back, args=(client, server), daemon=True).start()

    def _breaks(self) -> bool:
        with self._lock:
            self._seen += 1
            breaks = self._seen % self._every == 0 and self.cut < self._most
            self.cut += breaks
            return breaks

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
        _end(client, server)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if COMMITTED.search(data) and self._breaks():
                    break
                client.sendall(data)
        _end(client, server)


def _end(*ends: socket.socket) -> None:
    for one in ends:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


@dataclass(slots=True)
class Faults:
    """Shares of requests, 0..1. Of puts: `refused` (500, nothing stored), `hung` (no answer, nothing stored),
    `lied` (stored, then 500), `short` (half of it is stored, and 200). Of gets: `cut` (the line breaks half-way).
    """

    refused: float = 0.0
    hung: float = 0.0
    lied: float = 0.0
    short: float = 0.0
    cut: float = 0.0


class Quiet(ThreadingHTTPServer):
    """A client that was killed, or gave up, is nothing to tell of."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Proxy:
    """An HTTP proxy in front of an object store, for puts and gets of objects; the rest goes through."""

    HANG_S = 1.0

    def __init__(self, faults: Faults, *, seed: int = 1) -> None:
        self.faults, self.target = faults, ""
        self.counts: dict[str, int] = {"puts": 0, "gets": 0, "refused": 0, "hung": 0, "lied": 0, "short": 0, "cut": 0}
        self._short: set[str] = set()
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._server = Quiet((LOOPBACK, 0), _handler(self))
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self, method: str, path: str) -> str:
        """What happens to this request."""
        names = {"PUT": ("refused", "hung", "lied", "short"), "GET": ("cut",)}.get(method, ())
        with self._lock:
            self.counts[f"{method.lower()}s"] = self.counts.get(f"{method.lower()}s", 0) + 1
            rolled, chosen = self._random.random(), ""
            for name in names:
                share = getattr(self.faults, name)
                if name == "short" and "/media/" in path:
                    continue
                if rolled < share:
                    chosen = name
                    break
                rolled -= share
            if chosen:
                self.counts[chosen] += 1
            if method == "PUT" and chosen not in ("refused", "hung"):
                (self._short.add if chosen == "short" else self._short.discard)(path)
            return chosen

    def is_short(self, path: str) -> bool:
        return path in self._short


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pieces: list[bytes] = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)

        def _pass(self) -> None:
            body, (path, _, query) = self._body(), self.path.partition("?")
            # A key has a bucket before it; a listing asks for the bucket alone.
            fault = proxy.fault(self.command, path) if path.strip("/").count("/") else ""
            if fault == "refused":
                return self._answer(500, {}, b"<Error><Code>InternalError</Code></Error>")
            if fault == "hung":
                time.sleep(proxy.HANG_S)
                self.close_connection = True
                return
            status, headers, data = self._ask(body)
            if fault == "lied":
                return self._answer(500, {}, b"<Error><Code>InternalError</Code></Error>")
            if self.command == "GET" and status == 200 and not query and proxy.is_short(path):
                # A store that keeps half vouches for half.
                headers = {name: value for name, value in headers.items() if not _SUMS.match(name)}
                data = data[: len(data) // 2]
            self._answer(status, headers, data, cut=fault == "cut")

        def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            upstream = http.client.HTTPConnection(urlsplit(proxy.target).netloc, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            try:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    upstream.putheader(name, value)
                upstream.putheader("Content-Length", str(len(body)))
                upstream.endheaders(body)
                answer = upstream.getresponse()
                data = answer.read()
                kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
                if self.command == "HEAD":
                    kept["Content-Length"] = answer.getheader("Content-Length", "0")
                return answer.status, kept, data
            finally:
                upstream.close()

        def _answer(self, status: int, headers: dict[str, str], data: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if self.command != "HEAD" and status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = self.close_connection or cut

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    return Handler


_SUMS = re.compile(r"etag|x-amz-checksum-", re.IGNORECASE)
_HOP = {"connection", "content-length", "transfer-encoding", "expect", "keep-alive"}
