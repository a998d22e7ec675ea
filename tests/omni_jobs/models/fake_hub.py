"""A model hub on the loopback: the paths that huggingface_hub asks, with LFS files at a second address.

    /api/models/ID/revision/REVISION   the list of files, with sizes and digests
    /ID/resolve/COMMIT/FILE            small files as they are; large ones are a redirect to the store
    STORE/SHA256                       ranges, no token wanted (and none may come)

What can go wrong is an attribute, set by the test.
"""

import hashlib
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ID, COMMIT = "nvidia/Tiny-Omni-FP8", "24e67ea000b7c2837fc8f9488aa2008524fac8ba"
PAGE = b"<!doctype html><title>Welcome to the hotel</title>"
PIECE_BYTES = 16 << 10


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    range: str | None
    token: str | None
    at_store: bool


@dataclass
class FakeHub:
    """
    Attributes:
        cuts: after so many bytes of an answer the connection is dead; by file, one cut each time.
        bent: files whose last byte comes as another one.
        token: wanted for everything but the store.
        gated: the files want a token that the list does not.
        status: answered to every request for a file.
        pages: an HTML page is answered, with 200, by `list` or `files`.
        ranges: whether the store serves them.
        shift: so many bytes too far on does every range begin.
        pause_s: between pieces of 16 KiB.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    cuts: dict[str, list[int]] = field(default_factory=dict)
    bent: set[str] = field(default_factory=set)
    token: str = ""
    gated: bool = False
    status: int = 0
    pages: str = ""
    ranges: bool = True
    shift: int = 0
    sizes: bool = True
    pause_s: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    sent_bytes: dict[str, int] = field(default_factory=dict)
    url: str = ""
    store_url: str = ""

    @classmethod
    def of(cls, directory: Path, **more: bytes) -> "FakeHub":
        """The files of a directory and, as any repository has them, code and pickles."""
        files = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
        files |= {"modeling.py": b"raise SystemExit('run')", "pytorch_model.bin": b"\x80\x04", "old.pt": b"\x80\x04"}
        files |= {"README.md": b"# Tiny", "folder/config.json": b"{}", "chat_template.jinja": b"{{ messages }}"}
        return cls(files | {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"} | more)

    def names(self, method: str = "GET") -> set[str]:
        """Of the files that were asked for."""
        return {one.path.rpartition("/")[2] for one in self.asked if "/resolve/" in one.path and one.method == method}

    def ranges_of(self, name: str) -> list[str | None]:
        path = f"/{digest(self.files[name])}"
        return [one.range for one in self.asked if one.path == path]


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".pt")) or name == "tokenizer.json"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Connections are cut here, by us and by clients that are killed: nobody needs to read that."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    class Answer(_Answer):
        def __init__(self, *given: Any) -> None:
            self.hub = hub
            super().__init__(*given)

    servers = [Server(("127.0.0.1", 0), Answer) for _ in range(2)]
    # Another host, for the client: what it tells the one it does not tell the other.
    hub.url, hub.store_url = (
        f"http://{host}:{server.server_port}" for host, server in zip(("127.0.0.1", "localhost"), servers, strict=True)
    )
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *given: object) -> None:
        return None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        at_store = self.headers["Host"] == urlsplit(self.hub.store_url).netloc
        token = self.headers.get("Authorization")
        self.hub.asked.append(Asked(self.command, path, self.headers.get("Range"), token, at_store))
        if at_store:
            self._stored(path.removeprefix("/"))
        elif self.hub.token and token != f"Bearer {self.hub.token}":
            self._refuse(401, "RepoNotFound" if token is None else "", "Invalid username or password.")
        elif listed := re.fullmatch(r"/api/models/(.+)/revision/(.+)", path):
            self._list(*listed.groups())
        elif resolved := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*resolved.groups())
        else:
            self._refuse(404, "", "Not Found")

    def _list(self, id: str, revision: str) -> None:
        if self.hub.pages == "list":
            return self._send(PAGE, {"Content-Type": "text/html"})
        if id != ID:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        if revision not in ("main", self.hub.commit):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [self._sibling(name, data) for name, data in self.hub.files.items()]
        body = json.dumps({"id": id, "modelId": id, "sha": self.hub.commit, "siblings": siblings}).encode()
        return self._send(body, {"Content-Type": "application/json"})

    def _sibling(self, name: str, data: bytes) -> dict[str, Any]:
        if not self.hub.sizes:
            return {"rfilename": name}
        one: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
        if is_large(name):
            one["lfs"] = {"sha256": digest(data), "size": len(data), "pointerSize": 134}
        return one

    def _resolve(self, id: str, revision: str, name: str) -> None:
        hub = self.hub
        if hub.gated:
            return self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo", "Access is restricted.")
        if hub.status:
            return self._refuse(hub.status, "", "Not now")
        if hub.pages == "files":
            return self._send(PAGE, {"Content-Type": "text/html"})
        if id != ID or revision not in ("main", hub.commit) or name not in hub.files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        data = hub.files[name]
        headers = {"X-Repo-Commit": hub.commit, "Accept-Ranges": "bytes"}
        if not is_large(name):
            return self._file(name, {**headers, "ETag": f'"{git_sha1(data)}"'})
        sha = digest(data)
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha}"'}
        return self._send(b"", {**headers, "Location": f"{hub.store_url}/{sha}?Signature=secret"}, 302)

    def _stored(self, sha: str) -> None:
        names = [name for name, data in self.hub.files.items() if digest(data) == sha]
        if "Authorization" in self.headers or not names:
            return self._refuse(400, "", "Only one auth mechanism allowed")
        return self._file(names[0], {"ETag": f'"{sha}"'})

    def _file(self, name: str, headers: dict[str, str]) -> None:
        data = self.hub.files[name]
        if name in self.hub.bent:
            data = data[:-1] + bytes([data[-1] ^ 1])
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is None or not self.hub.ranges:
            return self._send(data, {**headers, "Content-Type": "application/octet-stream"}, name=name)
        start = int(asked[1]) + self.hub.shift
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self._send(data[start:], headers, 206, name)

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        coded = {"X-Error-Code": code} if code else {}
        self._send(body, {"Content-Type": "application/json", "X-Error-Message": message, **coded}, status)

    def _send(self, body: bytes, headers: dict[str, str], status: int = 200, name: str = "") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.hub.cuts.get(name)
        cut = cuts.pop(0) if cuts else None
        try:
            self._pieces(body if cut is None else body[:cut], name)
            if cut is not None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            self.close_connection = True

    def _pieces(self, body: bytes, name: str) -> None:
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            self.wfile.write(piece)
            self.hub.sent_bytes[name] = self.hub.sent_bytes.get(name, 0) + len(piece)
            if self.hub.pause_s:
                threading.Event().wait(self.hub.pause_s)
