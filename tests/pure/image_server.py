"""A web server that misbehaves on request, for the tests of images."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import lzma
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import zstandard

from cloudify_libvirt.core.image.cache import ImageCache

RAW = hashlib.shake_256(b"a disk").digest(3 << 20)
PACKERS = {
    "gz": gzip.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": zstandard.ZstdCompressor().compress,
    "bz2": bz2.compress,
}


def sha(data: bytes, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, data).hexdigest()


def basic(login: str) -> str:
    """Return the value of the header Authorization."""
    return "Basic " + base64.b64encode(login.encode()).decode()


@dataclass
class Behaviour:
    """What the server does next; tests change it between requests."""

    content: bytes = RAW
    etag: str = '"v1"'
    modified: str = ""
    status: int = 200
    length: bool = True
    chunked: bool = False
    ranges: bool = True
    if_range: bool = True
    encoding: str = ""
    cut_at: list[int] = field(default_factory=list)  # one for each request: bytes of its body before it breaks
    redirect: str = ""
    delay_s: float = 0.0
    files: dict[str, bytes] = field(default_factory=dict)  # other documents, by path; each with its own ETag
    login: str = ""  # USER:PASSWORD, without which nothing is given
    statuses: list[int] = field(default_factory=list)  # one for each request, before `status` counts
    retry_after: str = ""
    stall_at: int | None = None  # bytes of the next body after which the server says nothing more
    stalled: threading.Event = field(default_factory=threading.Event)  # set it to end the stall
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0

    @property
    def versions(self) -> tuple[str, str]:
        return self.etag, self.modified


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_args: Any) -> None:
        pass

    def do_GET(self) -> None:
        behaviour = self.server.behaviour
        behaviour.requests.append((self.path, dict(self.headers)))
        self.protocol_version = "HTTP/1.1"
        self.close_connection = True
        if behaviour.redirect and self.path.startswith("/moved"):
            self.answer(302, b"", Location=behaviour.redirect)
        elif behaviour.login and self.headers.get("Authorization") != basic(behaviour.login):
            self.answer(401, b"who?")
        elif behaviour.statuses or behaviour.status != 200:
            status = behaviour.statuses.pop(0) if behaviour.statuses else behaviour.status
            self.answer(status, b"no", **{"Retry-After": behaviour.retry_after})
        elif self.path in behaviour.files:
            self.small(behaviour.files[self.path])
        elif "" != self.headers.get("If-None-Match", self.headers.get("If-Modified-Since", "")) in behaviour.versions:
            self.answer(304, b"")
        else:
            self.document(behaviour)

    def small(self, content: bytes) -> None:
        etag = f'"{sha(content)}"'
        if self.headers.get("If-None-Match") == etag:
            self.answer(304, b"", ETag=etag)
        else:
            self.answer(200, content, ETag=etag)

    def document(self, behaviour: Behaviour) -> None:
        asked = self.headers.get("Range", "")
        fresh = self.headers.get("If-Range") in behaviour.versions or not behaviour.if_range
        if not (asked and behaviour.ranges and fresh):
            self.answer(200, behaviour.content)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        size = len(behaviour.content)
        if start >= size:
            self.answer(416, b"", **{"Content-Range": f"bytes */{size}"})
            return
        self.answer(206, behaviour.content[start:], **{"Content-Range": f"bytes {start}-{size - 1}/{size}"})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        behaviour = self.server.behaviour
        self.send_response(status)
        named = {"ETag": behaviour.etag, "Last-Modified": behaviour.modified, "Content-Encoding": behaviour.encoding}
        named["Connection"] = "close"
        for name, value in {**named, **headers}.items():
            if value:
                self.send_header(name, value)
        if behaviour.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif behaviour.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        time.sleep(behaviour.delay_s)
        cut = behaviour.cut_at.pop(0) if behaviour.cut_at and status in (200, 206) else None
        if behaviour.stall_at is not None and status in (200, 206):
            body, behaviour.stall_at = body[: behaviour.stall_at], None
            self.wfile.write(body)
            self.wfile.flush()
            behaviour.sent += len(body)
            behaviour.stalled.wait(120)
            return
        self.body(body[:cut], chunked=behaviour.chunked, whole=cut is None)

    def body(self, body: bytes, *, chunked: bool, whole: bool) -> None:
        self.server.behaviour.sent += len(body)
        if chunked:
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:70000], body[70000:]) if part)
            body += b"0\r\n\r\n" if whole else b""
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = Behaviour()

    def handle_error(self, *_request: Any) -> None:
        """Say nothing of clients that go away."""

    def url(self, path: str = "/disk.img", login: str = "", host: str = "127.0.0.1") -> str:
        return f"http://{login and login + '@'}{host}:{self.server_address[1]}{path}"

    def asked(self, path: str) -> int:
        """Return how often a path was asked for."""
        return [seen for seen, _ in self.behaviour.requests].count(path)


@contextmanager
def running() -> Iterator[Server]:
    """Serve from a thread."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def leftovers(cache: ImageCache) -> list[str]:
    """Return what lies in the cache that is no lock, no published image and no index of one."""
    return sorted(path.name for path in (cache.directory / "partial").iterdir())


def images(cache: ImageCache) -> list[str]:
    return sorted(path.name for path in (cache.directory / "images").iterdir())
