"""HTTP to a file, with resume: what came in is kept with its validators, and the rest is asked for."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO

import requests

from cloudify_libvirt.core.errors import ImageFailed
from cloudify_libvirt.core.image import web
from cloudify_libvirt.core.image.urls import public_url
from cloudify_libvirt.core.image.web import Validators
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.core.wait import Signal

CHUNK = 1 << 20
_REPORT_EVERY_S = 0.5
# A server that asks for so short a pause gets it, this often; a longer one is for the caller.
_PAUSE_MAX_S, _PAUSES = 10.0, 3


@dataclass(frozen=True)
class Progress:
    """How far a stage (``download``, ``unpack``) is; ``total_bytes`` is None where it is not known."""

    done_bytes: int
    total_bytes: int | None
    rate_bytes_s: float
    stage: str = "download"


Report = Callable[[Progress], None]


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


class Meter:
    """Tells of progress, twice a second at most, and once at the end."""

    def __init__(self, report: Report | None, start: int, total: int | None, stage: str = "download") -> None:
        """Begin at ``start`` bytes of ``total``."""
        self._report, self._start, self._total, self._stage = report, start, total, stage
        self._began = self._last = time.monotonic()

    def show(self, done: int, *, final: bool = False) -> None:
        """Tell that ``done`` bytes are there, if it is time to."""
        now = time.monotonic()
        if self._report is None or (not final and now - self._last < _REPORT_EVERY_S):
            return
        self._last = now
        rate = (done - self._start) / max(now - self._began, 1e-6)
        self._report(Progress(done, self._total, rate, self._stage))


def check_size(size_bytes: int, limit_bytes: int, shown: str, state: str = "") -> None:
    """Raise when an image is larger than allowed.

    Raises:
        ImageFailed: it is.
    """
    if size_bytes > limit_bytes:
        reason = f"{state and state + ' '}it is larger than the limit of {human_size(limit_bytes)}"
        remedy = "If that is right, raise image.max_size, or CLOUDIFY_LIBVIRT_MAX_IMAGE."
        raise ImageFailed("use", f"the image {shown}", reason, remedy)


@dataclass
class Download:
    """One document to fetch into one partial file; ``unless`` is the version that is here already."""

    url: str
    partial: Partial
    limit_bytes: int
    unless: Validators | None = None
    report: Report | None = None

    def run(self) -> bool:
        """Fill the partial file; return False where the document still is the version ``unless``.

        A broken transfer goes on where it stopped, for as long as each try gets further than the one before.

        Raises:
            ImageFailed: the server refuses, the connection brings nothing more (what came is kept), or it is too large.
        """
        best, pauses = self.partial.size, 0
        with requests.Session() as session:
            while True:
                try:
                    return self._attempt(session)
                except web.ServerBusy as busy:
                    pauses += 1
                    if busy.retry_after_s is None or busy.retry_after_s > _PAUSE_MAX_S or pauses > _PAUSES:
                        raise
                    Signal().wait(0, busy.retry_after_s)
                except web.NETWORK_ERRORS as error:
                    if self.partial.size <= best:
                        raise web.network_failure(self.url, error) from None
                    best = self.partial.size

    def _attempt(self, session: requests.Session) -> bool:
        partial = self.partial
        headers = {"Accept-Encoding": "identity"}
        if partial.size and partial.validators.if_range():
            headers |= {"Range": f"bytes={partial.size}-", "If-Range": partial.validators.if_range()}
        elif self.unless:
            headers |= self.unless.if_changed()
        with web.opened(session, self.url, headers) as response:
            if response.status_code == HTTPStatus.NOT_MODIFIED and self.unless:
                return False
            if _is_complete(response, partial):
                return True
            if "Range" in headers and not _fits(response, partial):
                partial.restart(Validators())
                return self._attempt(session)
            web.check_status(self.url, response)
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                partial.restart(Validators.of(response))
            self._receive(response)
        return True

    def _receive(self, response: requests.Response) -> None:
        partial, total = self.partial, _total(response, self.partial.size)
        if total is not None:
            check_size(total, self.limit_bytes, public_url(self.url))
            if total - partial.size > shutil.disk_usage(partial.path.parent).free:
                raise OSError(errno.ENOSPC, f"{total} bytes do not fit", str(partial.path))
        meter = Meter(self.report, partial.size, total)
        # Not iter_content: it would undo a Content-Encoding, and the checksum is of the bytes as they are stored.
        for piece in response.raw.stream(CHUNK, decode_content=False):
            partial.append(piece)
            check_size(partial.size, self.limit_bytes, public_url(self.url))
            meter.show(partial.size)
        if total is not None and partial.size != total:
            raise requests.ConnectionError(f"{partial.size} of {total} bytes came")
        meter.show(partial.size, final=True)


def _fits(response: requests.Response, partial: Partial) -> bool:
    """Tell whether the answer to a range request can be used: our range, or the whole document."""
    if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return False
    if response.status_code != HTTPStatus.PARTIAL_CONTENT:
        return True
    starts = response.headers.get("Content-Range", "").startswith(f"bytes {partial.size}-")
    return starts and not partial.validators.contradict(Validators.of(response))


def _is_complete(response: requests.Response, partial: Partial) -> bool:
    """Tell whether an earlier process got all: nothing lies behind what is here (If-Range held, or we had got 200)."""
    unsatisfiable = response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    same = not partial.validators.contradict(Validators.of(response))
    return unsatisfiable and same and response.headers.get("Content-Range", "") == f"bytes */{partial.size}"


def _total(response: requests.Response, start: int) -> int | None:
    """Return the size of the whole document, where the server says it."""
    whole = response.headers.get("Content-Range", "").rpartition("/")[2]
    if response.status_code == HTTPStatus.PARTIAL_CONTENT and whole.isdigit():
        return int(whole)
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None
