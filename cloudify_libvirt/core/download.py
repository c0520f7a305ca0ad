"""HTTP to a file, with resume: what came in is kept with its validators, and the rest is asked for."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

from cloudify_libvirt.core.errors import ImageFailed, InvalidSpec

SCHEMES = ("http", "https")
CHUNK = 1 << 20
_TIMEOUTS_S = (15.0, 60.0)  # to connect; between two pieces of data
_REDIRECTS = 10
_REPORT_EVERY_S = 0.5
_RETRYABLE = {408, 425, 429, 500, 502, 503, 504}
_NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError)


@dataclass(frozen=True)
class Progress:
    """How far a transfer is; ``total_bytes`` is None where the server does not say."""

    done_bytes: int
    total_bytes: int | None
    rate_bytes_s: float


@dataclass(frozen=True)
class Validators:
    """What a server (or a file's ``stat``) says to tell one version of a document from another."""

    etag: str = ""
    modified: str = ""

    @classmethod
    def of(cls, response: requests.Response) -> Validators:
        """Take them from the headers of a response."""
        return cls(response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))

    def if_changed(self) -> dict[str, str]:
        """Return the headers that ask for the document only if it is another version."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.modified}
        return {name: value for name, value in headers.items() if value}

    def if_range(self) -> str:
        """Return the value that makes a range safe to append, or ``""`` (RFC 9110 13.1.5: no weak tags)."""
        return self.modified if not self.etag or self.etag.startswith("W/") else self.etag

    def contradict(self, other: Validators) -> bool:
        """Tell whether both sides name a version, and not the same one (some servers ignore If-Range)."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified))
        return any(ours and theirs and ours != theirs for ours, theirs in pairs)


def public_url(url: str) -> str:
    """Return the URL without what may be secret: user, password, query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?..." if parts.query else "")


class Partial:
    """A file that is still coming in, and its digests so far; a later process can go on with it."""

    def __init__(self, path: Path, algorithms: set[str]) -> None:
        """Take up what an earlier process left at ``path``; with no usable validators start at 0."""
        self.path = path
        self._note = path.with_suffix(".json")
        self._algorithms = algorithms
        self.validators = self._read_note()
        self.resumed = False
        self.size = 0
        self._hashes = {name: hashlib.new(name) for name in algorithms}
        self._file: IO[bytes] = path.open("ab")
        if self.validators.if_range():
            self._take_up()
        else:
            self.restart(self.validators)

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def restart(self, validators: Validators) -> None:
        """Drop what is there; the version that ``validators`` name comes next."""
        self._file.truncate(0)
        self.size, self.resumed, self.validators = 0, False, validators
        self._hashes = {name: hashlib.new(name) for name in self._algorithms}
        self._note.write_text(json.dumps(asdict(validators)))

    def append(self, piece: bytes) -> None:
        """Add the next bytes."""
        self._file.write(piece)
        self._feed(piece)

    def digests(self) -> dict[str, str]:
        """Return ``{algorithm: hex}`` of all that came in."""
        return {name: value.hexdigest() for name, value in self._hashes.items()}

    def _take_up(self) -> None:
        with self.path.open("rb") as file:
            while piece := file.read(CHUNK):
                self._feed(piece)
        self.resumed = self.size > 0

    def _feed(self, piece: bytes) -> None:
        self.size += len(piece)
        for value in self._hashes.values():
            value.update(piece)

    def _read_note(self) -> Validators:
        try:
            return Validators(**json.loads(self._note.read_text()))
        except (OSError, ValueError, TypeError):
            return Validators()


class _Meter:
    def __init__(self, report: Callable[[Progress], None] | None, start: int, total: int | None) -> None:
        self._report, self._start, self._total = report, start, total
        self._began = self._last = time.monotonic()

    def show(self, done: int, *, final: bool = False) -> None:
        now = time.monotonic()
        if self._report is None or (not final and now - self._last < _REPORT_EVERY_S):
            return
        self._last = now
        self._report(Progress(done, self._total, (done - self._start) / max(now - self._began, 1e-6)))


def download(
    url: str, partial: Partial, *, unless: Validators | None = None, progress: Callable[[Progress], None] | None = None
) -> bool:
    """Fill ``partial`` with the document; return False where it still is the version ``unless``.

    A broken transfer goes on where it stopped, for as long as each try gets further than the one before.

    Raises:
        ImageFailed: the server refuses, or the connection brings nothing more. What came is kept.
    """
    best = partial.size
    with requests.Session() as session:
        while True:
            try:
                return _attempt(session, url, partial, unless, progress)
            except _NETWORK_ERRORS as error:
                if partial.size <= best:
                    raise _network_failure(url, error) from (error if public_url(url) == url else None)
                best = partial.size


def _attempt(
    session: requests.Session,
    url: str,
    partial: Partial,
    unless: Validators | None,
    progress: Callable[[Progress], None] | None,
) -> bool:
    headers = {"Accept-Encoding": "identity"}
    if partial.size and partial.validators.if_range():
        headers |= {"Range": f"bytes={partial.size}-", "If-Range": partial.validators.if_range()}
    elif unless:
        headers |= unless.if_changed()
    with _opened(session, url, headers) as response:
        if response.status_code == HTTPStatus.NOT_MODIFIED and unless:
            return False
        if "Range" in headers and not _fits(response, partial):
            partial.restart(Validators())
            return _attempt(session, url, partial, unless, progress)
        _check_status(url, response)
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            partial.restart(Validators.of(response))
        _receive(response, partial, progress)
    return True


def _fits(response: requests.Response, partial: Partial) -> bool:
    """Tell whether the answer to a range request can be used: our range, or the whole document."""
    if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return False
    if response.status_code != HTTPStatus.PARTIAL_CONTENT:
        return True
    starts = response.headers.get("Content-Range", "").startswith(f"bytes {partial.size}-")
    return starts and not partial.validators.contradict(Validators.of(response))


def _receive(response: requests.Response, partial: Partial, progress: Callable[[Progress], None] | None) -> None:
    length = response.headers.get("Content-Length", "")
    total = partial.size + int(length) if length.isdigit() else None
    if total is not None and total - partial.size > shutil.disk_usage(partial.path.parent).free:
        raise OSError(errno.ENOSPC, f"{total} bytes do not fit", str(partial.path))
    meter = _Meter(progress, partial.size, total)
    # Not iter_content: it would undo a Content-Encoding, and the checksum is of the bytes as they are stored.
    for piece in response.raw.stream(CHUNK, decode_content=False):
        partial.append(piece)
        meter.show(partial.size)
    if total is not None and partial.size != total:
        raise requests.ConnectionError(f"{partial.size} of {total} bytes came")
    meter.show(partial.size, final=True)


@contextmanager
def _opened(session: requests.Session, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    """Get ``url``, following redirects, but never from https to http nor to another scheme."""
    for _ in range(_REDIRECTS + 1):
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUTS_S, allow_redirects=False)
        with response:
            if not response.is_redirect:
                yield response
                return
            url = _redirected(url, response.headers["Location"])
    raise ImageFailed("fetch", public_url(url), f"more than {_REDIRECTS} redirects", "Give the final URL.")


def _redirected(url: str, location: str) -> str:
    target = urljoin(url, location)
    scheme, old = urlsplit(target).scheme, urlsplit(url).scheme
    if scheme not in SCHEMES or (old == "https" and scheme != "https"):
        reason = f"it redirects to {public_url(target)}, from {old} to {scheme}"
        raise ImageFailed("fetch", public_url(url), reason, "Give the final URL, if you trust it.")
    return target


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    raise ImageFailed(
        "fetch",
        public_url(url),
        f"the server answers {status} {response.reason}",
        "Try again later." if status in _RETRYABLE else "Check the URL, and that it needs no login.",
        retryable=status in _RETRYABLE,
    )


def _network_failure(url: str, error: Exception) -> Exception:
    # The text of these errors repeats the URL with its query, which may hold a token.
    where = public_url(url)
    if isinstance(error, requests.exceptions.SSLError):
        remedy = "Check the host name, or name your CA file in REQUESTS_CA_BUNDLE."
        return ImageFailed("fetch", where, "the server's certificate is not trusted", remedy)
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema):
        return InvalidSpec("fetch", where, "it is not a URL", "Example: https://example.org/image.qcow2")
    reason = f"the connection failed ({_root_cause(error)})"
    remedy = "Check the host and the network; a next try goes on where this one stopped."
    return ImageFailed("fetch", where, reason, remedy, retryable=True)


def _root_cause(error: BaseException) -> str:
    text, cause = type(error).__name__, _next_cause(error)
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            text = cause.strerror
        cause = _next_cause(cause)
    return text


def _next_cause(error: BaseException) -> Any:
    return error.__cause__ or error.__context__
