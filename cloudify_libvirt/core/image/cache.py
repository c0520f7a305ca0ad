"""Images: fetched once, verified, decompressed, kept by content.

A cache directory holds ``images/<sha256>.<format>``, an ``index/`` of what came from where, and
``partial/`` files of transfers under way. Locks are per source, so that any number of processes make one
download; whatever is killed is taken up by the next run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from cloudify_libvirt.core import units
from cloudify_libvirt.core.errors import Busy, CoreError, ImageFailed, InvalidSpec
from cloudify_libvirt.core.host import files as host_files
from cloudify_libvirt.core.host.cachedir import CACHE_VARIABLE, cache_directory
from cloudify_libvirt.core.image import files as image_files
from cloudify_libvirt.core.image.checksum import Checksum
from cloudify_libvirt.core.image.checksum_lists import ChecksumLists
from cloudify_libvirt.core.image.download import Download, Partial, Progress, Report, check_size
from cloudify_libvirt.core.image.format import compression, detect_format, is_tar
from cloudify_libvirt.core.image.index import Entry, Index
from cloudify_libvirt.core.image.rootfs import extract_root
from cloudify_libvirt.core.image.urls import public_url, without_login
from cloudify_libvirt.core.image.web import SCHEMES, Validators

__all__ = ["Checksum", "Image", "ImageCache", "Progress", "detect_format", "extract_root"]

OFFLINE_VARIABLE = "CLOUDIFY_LIBVIRT_OFFLINE"
MAX_VARIABLE = "CLOUDIFY_LIBVIRT_MAX_IMAGE"
MAX_BYTES = 64 << 30
LOCK_TIMEOUT_S = 3600.0
_STALE_S = 7 * 24 * 3600.0
_DIRECTORY_MODE = 0o755
_HERE = ("", "localhost")  # hosts of file: URLs
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Image:
    """A verified file that disks can be made from.

    ``sha256`` is the one of the file at ``path``, also where the source was compressed; ``format`` is
    ``raw``, ``qcow2`` or ``tar``; ``size_bytes`` is what a guest sees, ``file_bytes`` what the file has.
    """

    path: Path
    sha256: str
    format: str
    size_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class _Want:
    """One call of ``fetch``: ``path`` is None for a source on the network."""

    source: str
    path: Path | None
    checksum: Checksum
    listed: Checksum
    format: str
    limit_bytes: int
    report: Report | None

    @property
    def is_raw(self) -> bool:
        return self.format == "raw"

    @property
    def shown(self) -> str:
        return public_url(self.source) if self.path is None else str(self.path)

    @property
    def key(self) -> str:
        """Return the name of this source in the cache; with the login left out, which would be found by trying."""
        where = without_login(self.source) if self.path is None else f"file:{self.path}"
        return hashlib.sha256(where.encode() + b"\0raw" * self.is_raw).hexdigest()


def _say_nothing(_text: str) -> None:
    """Take a warning that nobody wants to hear."""


class ImageCache:
    """Images by source and by content, shared by all processes that use the same directory."""

    def __init__(self, directory: Path | None = None) -> None:
        """Use ``directory``, else $CLOUDIFY_LIBVIRT_CACHE, else the user's cache directory."""
        self.directory = (directory or cache_directory()).absolute()
        self.images = self.directory / "images"
        self.partial = self.directory / "partial"
        self.index = Index(self.directory / "index", self.images)
        self.offline = units.parse_bool(os.environ.get(OFFLINE_VARIABLE) or False, OFFLINE_VARIABLE)

    def fetch(
        self,
        source: str,
        *,
        checksum: str = "",
        format_: str = "",
        max_bytes: int | None = None,
        progress: Report | None = None,
        warn: Callable[[str], None] = _say_nothing,
    ) -> Image:
        """Return the image at a http(s) or file URL, or a local path, downloading what is not here yet.

        With a checksum a known image needs no network; without one the server is asked whether it changed.
        A local image is verified and returned where it lies; only a compressed one is copied. The image stays in
        the cache for as long as this process runs.

        Args:
            source: URL or path.
            checksum: of the file as it is served; a value, or the URL of a list.
            format_: what the user says it is (raw, qcow2, tar). A raw image is not looked into then: a guest can
                write the header of another format to its disk.
            max_bytes: most bytes, as served and decompressed; None: $CLOUDIFY_LIBVIRT_MAX_IMAGE, else 64 GiB.
            progress: is told how far it is, twice a second.
            warn: is told what a user should know although it works.

        Raises:
            ImageFailed: no such image, wrong checksum, wrong format, not an image, too large, no space. Nothing is
                left of it, but for a broken transfer, which goes on with the next call.
            InvalidSpec: not a source or not a checksum.
            Busy: another process has been fetching it for an hour.
        """
        given, path = Checksum.parse(checksum), local_path(source)
        want = _Want(source, path, given, given, format_, max_bytes or _default_limit(), progress)
        with self._storage(want):
            lists = ChecksumLists(self.index.directory, offline=self.offline, warn=warn)
            want = replace(want, checksum=lists.resolve(given, source))
            entry = self._known(want) or (self._local(want) if path else self._remote(want, lists))
        _check_format(entry, want)
        return Image(self.images / entry.file, entry.sha256, entry.format, entry.size_bytes, entry.file_bytes)

    # --- sources -------------------------------------------------------------------------------------

    def _known(self, want: _Want) -> Entry | None:
        """Return the entry of what had the wanted checksum, wherever it came from."""
        if want.path or not want.checksum.algorithm:
            return None
        entry = self.index.find(want.checksum.algorithm, want.checksum.value, declared=want.is_raw)
        return entry if entry and self._lease(entry) else None

    def _lease(self, entry: Entry) -> bool:
        path = self.images / entry.file
        return path.parent != self.images or image_files.lease(path)

    def _local(self, want: _Want) -> Entry:
        assert want.path is not None
        version = _file_version(want.path)
        with self.lock(want.key, want.shown):
            entry = self.index.read(want.key)
            if entry is None or entry.validators != version or not want.checksum.algorithms <= entry.digests.keys():
                check_size(want.path.stat().st_size, want.limit_bytes, want.shown)
                digests = image_files.digests(want.path, want.checksum.algorithms)
                want.checksum.verify(want.shown, digests)
                entry = self._publish(want, want.path, version, digests)
            want.checksum.verify(want.shown, entry.digests)
            if not self._lease(entry):
                raise ImageFailed("use", f"the image {want.shown}", "it has just been removed", retryable=True)
            return entry

    def _remote(self, want: _Want, lists: ChecksumLists) -> Entry:
        began = time.time()
        with self.lock(want.key, want.shown):
            entry = self.index.read(want.key)
            entry = entry if entry and want.checksum.matches(entry.digests) and self._lease(entry) else None
            # Whoever held the lock while we waited has just fetched it.
            if entry and (want.checksum.algorithm or entry.fetched_at >= began or self.offline):
                return entry
            if self.offline:
                remedy = f"Unset {OFFLINE_VARIABLE}, or fetch it where there is a network: cfy-libvirt image pull."
                raise ImageFailed(
                    "fetch", want.shown, "it is not in the cache, and no server is asked (offline)", remedy
                )
            self._sweep(want.key)
            return self._download(want, lists, entry)

    def _download(self, want: _Want, lists: ChecksumLists, entry: Entry | None) -> Entry:
        part = self.partial / f"{want.key}.part"
        unless = entry.validators if entry else None
        with (
            _offering(entry),
            self._dropping(want.key, or_resumable=True),
            Partial(part, want.checksum.algorithms) as partial,
        ):
            is_new = Download(want.source, partial, want.limit_bytes, unless, want.report).run()
        if entry and not is_new:
            self._drop(want.key)
            self.index.write(want.key, entry.seen_now())
            return entry
        with self._dropping(want.key):
            digests = self._verified(want, partial, lists)
        return self._publish(want, part, partial.validators, digests)

    def _verified(self, want: _Want, partial: Partial, lists: ChecksumLists) -> dict[str, str]:
        digests = partial.digests()
        if not want.checksum.matches(digests) and want.listed.list_url:
            # The server may have got a new image since we read its list.
            want = replace(want, checksum=lists.resolve(want.listed, want.source, anew=True))
            digests |= image_files.digests(partial.path, want.checksum.algorithms - digests.keys())
        want.checksum.verify(want.shown, digests, retryable=partial.resumed)
        return digests

    # --- publishing ----------------------------------------------------------------------------------

    def _publish(self, want: _Want, path: Path, version: Validators, digests: dict[str, str]) -> Entry:
        """Publish what came in, or what is compressed in it; describe a plain local file where it lies."""
        with self._dropping(want.key), _naming(want.shown):
            packing, sha256 = compression(path), digests["sha256"]
            if packing and not is_tar(path):
                target = self.partial / f"{want.key}.out"
                sha256 = image_files.unpack(path, target, want.limit_bytes, want.shown, want.report)
                path, packing = target, ""
            image_format, size_bytes = detect_format(path, expected="raw" if want.is_raw else "")
            is_ours = path.parent == self.partial
            if is_ours:
                name = f"{sha256}.{image_format}{packing and '.' + packing}"
                path = image_files.publish(path, self.images / name)
        status = path.stat()
        entry = Entry(
            source=want.shown,
            validators=version,
            digests=digests,
            fetched_at=time.time(),
            file=path.name if is_ours else str(path),
            sha256=sha256,
            format=image_format,
            size_bytes=size_bytes,
            file_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            declared=want.is_raw,
        )
        self._drop(want.key)
        self.index.write(want.key, entry)
        return entry

    # --- house ---------------------------------------------------------------------------------------

    @contextmanager
    def _storage(self, want: _Want) -> Iterator[None]:
        """Make the directories; turn failures of the disk into errors that name the source."""
        try:
            for directory in (self.directory, self.images, self.partial, self.index.directory):
                if not directory.is_dir():
                    directory.mkdir(parents=True, exist_ok=True)
                    directory.chmod(_DIRECTORY_MODE)  # QEMU's user reads here, whatever our umask is
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                reason = f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
                raise ImageFailed("fetch", want.shown, reason, f"The cache is {self.directory}.") from error
            self._drop(want.key)
            remedy = f"Free space there (cfy-libvirt cache prune), or set {CACHE_VARIABLE} to a directory with more."
            raise ImageFailed("fetch", want.shown, f"no space left in {self.directory}", remedy) from error

    @contextmanager
    def lock(self, key: str, shown: str, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold one source alone.

        Raises:
            Busy: another process has it for longer than ``timeout_s``.
        """
        path = self.index.directory / f"{key}.lock"
        try:
            with FileLock(path, timeout=timeout_s):
                yield
        except Timeout as error:
            raise Busy("fetch", shown, f"another process has been at it for {timeout_s:g} s") from error

    @contextmanager
    def _dropping(self, key: str, *, or_resumable: bool = False) -> Iterator[None]:
        """Leave nothing of a failure; but what a next try can go on with, if told."""
        try:
            yield
        except CoreError as error:
            if not (or_resumable and error.retryable):
                self._drop(key)
            raise

    def _drop(self, key: str) -> None:
        for path in self.partial.glob(f"{key}.*"):
            path.unlink(missing_ok=True)

    def _sweep(self, mine: str) -> None:
        """Remove what killed transfers left a week ago and nobody wants any more."""
        for path in self.partial.iterdir():
            if path.stem != mine:
                self.remove_partial(path, older_than_s=_STALE_S)

    def remove_partial(self, path: Path, older_than_s: float) -> bool:
        """Remove a file of a transfer that no process is at; tell whether it went."""
        try:
            if time.time() - path.stat().st_mtime < older_than_s:
                return False
            with self.lock(path.stem, path.name, timeout_s=0):
                path.unlink(missing_ok=True)
        except (Busy, FileNotFoundError):
            return False
        return True


def _default_limit() -> int:
    given = os.environ.get(MAX_VARIABLE)
    return units.parse_size(given, MAX_VARIABLE) if given else MAX_BYTES


def _check_format(entry: Entry, want: _Want) -> None:
    if want.format not in ("", entry.format):
        reason = f"it is {entry.format}, not {want.format}"
        raise ImageFailed("use", f"the image {want.shown}", reason, "Correct image.format, or leave it out.")


@contextmanager
def _offering(entry: Entry | None) -> Iterator[None]:
    """Let the error of a server that does not answer tell of the copy that is here."""
    try:
        yield
    except ImageFailed as error:
        if entry is None or not error.retryable:
            raise
        day, sha256 = time.strftime("%Y-%m-%d", time.gmtime(entry.fetched_at)), entry.digests["sha256"]
        remedy = (
            f"{error.remedy} A copy of {day} is in the cache; to use it, give checksum: sha256:{sha256}, or set "
            f"{OFFLINE_VARIABLE}=1."
        )
        raise ImageFailed(error.action, error.target, error.reason, remedy, retryable=True) from error


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Let errors about a file of ours name what the user gave."""
    try:
        yield
    except ImageFailed as error:
        remedy = error.remedy
        raise ImageFailed(
            error.action, f"the image {source}", error.reason, remedy, retryable=error.retryable
        ) from error


def local_path(source: str) -> Path | None:
    """Return the path that the source names, or None for one on the network."""
    try:
        parts = urlsplit(source)
    except ValueError:
        raise _no_source(source) from None
    if parts.scheme in SCHEMES and parts.hostname:
        return None
    if not source or (parts.scheme not in ("", "file")) or (parts.scheme == "file" and parts.netloc not in _HERE):
        raise _no_source(source)
    path = Path(unquote(parts.path) if parts.scheme else source).absolute()
    try:
        there, is_file, reason = path.exists(), path.is_file(), host_files.closed_here(path)
    except (OSError, ValueError):  # no name that a file could have
        raise _no_source(source) from None
    if reason:
        raise InvalidSpec("use", f"the image {path}", reason, "Copy the image to another directory.")
    if not is_file:
        reason = "it is no regular file" if there else "there is no such file on this host"
        raise ImageFailed("use", f"the image {path}", reason, "Put the image there, or give a URL to fetch it from.")
    return path


def _no_source(source: str) -> InvalidSpec:
    remedy = "Give a http://, https:// or file:/// URL, or a local path."
    return InvalidSpec("fetch", f"the image {public_url(source)!r}", "it is not a source", remedy)


def _file_version(path: Path) -> Validators:
    status = path.stat()
    return Validators(etag=f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}")
