"""Images: fetched once, verified, decompressed, kept by content.

A cache directory holds ``images/<sha256>.<format>``, an ``index/`` of what came from where, and
``partial/`` files of transfers under way. Locks are per source, so that any number of processes make one
download; whatever is killed is taken up by the next run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import platformdirs
from filelock import FileLock, Timeout

from cloudify_libvirt.core.download import SCHEMES, Partial, Progress, Validators, download, public_url
from cloudify_libvirt.core.errors import Busy, CoreError, ImageFailed, InvalidSpec
from cloudify_libvirt.core.image_format import CHUNK, compression, decompressed, detect_format, is_tar
from cloudify_libvirt.core.image_index import Entry, Index
from cloudify_libvirt.core.rootfs import extract_root

__all__ = ["Checksum", "Image", "ImageCache", "Progress", "detect_format", "extract_root"]

CACHE_VARIABLE = "CLOUDIFY_LIBVIRT_CACHE"
LOCK_TIMEOUT_S = 3600.0
_STALE_S = 7 * 24 * 3600.0
_DIRECTORY_MODE, _IMAGE_MODE = 0o755, 0o644
# One time for all images (1 January 2000): any write shows, the same content from a second source does not.
_PUBLISHED_NS = 946_684_800 * 10**9
_ZEROS = bytes(1 << 16)
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
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
class Checksum:
    """What the file at the source must have; no ``algorithm``: anything will do."""

    algorithm: str = ""
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Read ``sha256:HEX``, ``sha512:HEX`` or HEX of one of these lengths.

        Raises:
            InvalidSpec: it is none of them.
        """
        text = text.strip().lower()
        if not text:
            return cls()
        algorithm, _, value = text.rpartition(":")
        algorithm = algorithm or next((name for name, size in _HEX_LENGTH.items() if size == len(value)), "")
        if _HEX_LENGTH.get(algorithm) != len(value) or not re.fullmatch("[0-9a-f]+", value):
            raise InvalidSpec("use", f"checksum {text!r}", "it is not one", "Give sha256:HEX, sha512:HEX, or the HEX.")
        return cls(algorithm, value)

    @property
    def algorithms(self) -> set[str]:
        """Return the digests to compute: sha256 names the files, the other is what the user has."""
        return {"sha256"} | ({self.algorithm} if self.algorithm else set())

    def matches(self, digests: dict[str, str]) -> bool:
        """Tell whether the digests are known and right."""
        return not self.algorithm or digests.get(self.algorithm) == self.value

    def verify(self, source: str, digests: dict[str, str], *, retryable: bool = False) -> None:
        """Raise ``ImageFailed`` with both values where they differ."""
        if self.matches(digests):
            return
        raise ImageFailed(
            "verify",
            source,
            f"its {self.algorithm} is {digests[self.algorithm]}, expected {self.value}",
            "Nothing was kept. Check that URL and checksum are of the same release.",
            retryable=retryable,
        )


class ImageCache:
    """Images by source and by content, shared by all processes that use the same directory."""

    def __init__(self, directory: Path | None = None) -> None:
        """Use ``directory``, else $CLOUDIFY_LIBVIRT_CACHE, else the user's cache directory."""
        given = directory or os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("cloudify-libvirt")
        self.directory = Path(given).absolute()
        self._images = self.directory / "images"
        self._partial = self.directory / "partial"
        self._index = Index(self.directory / "index", self._images)

    def fetch(self, source: str, *, checksum: str = "", progress: Callable[[Progress], None] | None = None) -> Image:
        """Return the image at a http(s) or file URL, or a local path, downloading what is not here yet.

        With a checksum a known image needs no network; without one the server is asked whether it changed.
        A local image is verified and returned where it lies; only a compressed one is copied.

        Raises:
            ImageFailed: no such image, wrong checksum, not an image, no space. Nothing is left of it, but
                for a broken transfer, which goes on with the next call.
            InvalidSpec: not a source or not a checksum.
            Busy: another process has been fetching it for an hour.
        """
        wanted = Checksum.parse(checksum)
        path = _local_path(source)
        key = hashlib.sha256((source if path is None else f"file:{path}").encode()).hexdigest()
        shown = public_url(source) if path is None else str(path)
        known = self._index.find(wanted.algorithm, wanted.value) if wanted.algorithm and path is None else None
        if known:
            return _image(known, self._images)
        with self._storage(shown, key):
            if path is not None:
                return self._local(path, key, wanted)
            return self._remote(source, key, wanted, progress)

    # --- sources -------------------------------------------------------------------------------------

    def _local(self, path: Path, key: str, wanted: Checksum) -> Image:
        version = _file_version(path)
        with self._lock(key, str(path)):
            entry = self._index.read(key)
            if entry is None or entry.validators != version or not wanted.algorithms <= entry.digests.keys():
                digests = _digests(path, wanted.algorithms)
                wanted.verify(str(path), digests)
                with self._dropping(key), _naming(str(path)):
                    entry = self._entry(str(path), key, path, version, digests)
                self._index.write(key, entry)
            wanted.verify(str(path), entry.digests)
            return _image(entry, self._images)

    def _remote(self, url: str, key: str, wanted: Checksum, progress: Callable[[Progress], None] | None) -> Image:
        began = time.time()
        with self._lock(key, public_url(url)):
            entry = self._index.read(key)
            # Whoever held the lock while we waited has just fetched it.
            if entry and wanted.matches(entry.digests) and (wanted.algorithm or entry.fetched_at >= began):
                return _image(entry, self._images)
            unless = entry.validators if entry and not wanted.algorithm else None
            self._sweep(key)
            with self._dropping(key, or_resumable=True), Partial(self._part(key), wanted.algorithms) as partial:
                is_new = download(url, partial, unless=unless, progress=progress)
            with self._dropping(key):
                if is_new or entry is None:
                    wanted.verify(public_url(url), partial.digests(), retryable=partial.resumed)
                    with _naming(public_url(url)):
                        entry = self._entry(public_url(url), key, partial.path, partial.validators, partial.digests())
            self._drop(key)
            self._index.write(key, entry.seen_now())
            return _image(entry, self._images)

    # --- publishing ----------------------------------------------------------------------------------

    def _entry(self, source: str, key: str, path: Path, version: Validators, digests: dict[str, str]) -> Entry:
        """Publish what came in, or what is compressed in it; describe a plain local file where it lies."""
        packing, sha256 = compression(path), digests["sha256"]
        if packing and not is_tar(path):
            path, sha256 = self._unpack(path, key)
            packing = ""
        image_format, size_bytes = detect_format(path)
        is_ours = path.parent == self._partial
        if is_ours:
            path = self._publish(path, f"{sha256}.{image_format}{packing and '.' + packing}")
        status = path.stat()
        return Entry(
            source=source,
            validators=version,
            digests=digests,
            fetched_at=time.time(),
            file=path.name if is_ours else str(path),
            sha256=sha256,
            format=image_format,
            size_bytes=size_bytes,
            file_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
        )

    def _publish(self, path: Path, name: str) -> Path:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(_IMAGE_MODE)
        os.utime(path, ns=(_PUBLISHED_NS, _PUBLISHED_NS))
        return path.rename(self._images / name)

    def _unpack(self, path: Path, key: str) -> tuple[Path, str]:
        """Decompress to a file with holes where the content is zero; return it and its sha256."""
        target = self._partial / f"{key}.out"
        sha256 = hashlib.sha256()
        with target.open("wb") as file:
            for piece in decompressed(path):
                sha256.update(piece)
                _write_sparse(file, piece)
            file.truncate()
        return target, sha256.hexdigest()

    # --- house ---------------------------------------------------------------------------------------

    @contextmanager
    def _storage(self, shown: str, key: str) -> Iterator[None]:
        """Make the directories; turn failures of the disk into errors that name the source."""
        try:
            for directory in (self.directory, self._images, self._partial, self._index.directory):
                if not directory.is_dir():
                    directory.mkdir(parents=True, exist_ok=True)
                    directory.chmod(_DIRECTORY_MODE)  # QEMU's user reads here, whatever our umask is
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                reason = f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
                raise ImageFailed("fetch", shown, reason, f"The cache is {self.directory}.") from error
            self._drop(key)
            remedy = f"Free space there, or set {CACHE_VARIABLE} to a directory with more."
            raise ImageFailed("fetch", shown, f"no space left in {self.directory}", remedy) from error

    @contextmanager
    def _lock(self, key: str, shown: str, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        path = self._index.directory / f"{key}.lock"
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

    def _part(self, key: str) -> Path:
        return self._partial / f"{key}.part"

    def _drop(self, key: str) -> None:
        for path in self._partial.glob(f"{key}.*"):
            path.unlink(missing_ok=True)

    def _sweep(self, mine: str) -> None:
        """Remove what killed transfers left a week ago and nobody wants any more."""
        for path in self._partial.iterdir():
            try:
                if path.stem != mine and time.time() - path.stat().st_mtime > _STALE_S:
                    with self._lock(path.stem, path.name, timeout_s=0):
                        path.unlink(missing_ok=True)
            except (Busy, FileNotFoundError):
                continue


def _image(entry: Entry, images: Path) -> Image:
    return Image(images / entry.file, entry.sha256, entry.format, entry.size_bytes, entry.file_bytes)


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


def _write_sparse(file: IO[bytes], piece: bytes) -> None:
    for start in range(0, len(piece), len(_ZEROS)):
        block = piece[start : start + len(_ZEROS)]
        if block == _ZEROS[: len(block)]:
            file.seek(len(block), os.SEEK_CUR)
        else:
            file.write(block)


def _local_path(source: str) -> Path | None:
    """Return the path that the source names, or None for one on the network."""
    parts = urlsplit(source)
    if parts.scheme in SCHEMES and parts.hostname:
        return None
    if not source or (parts.scheme not in ("", "file")) or (parts.scheme == "file" and parts.netloc not in _HERE):
        raise InvalidSpec(
            "fetch",
            f"the image {public_url(source) if parts.scheme else source!r}",
            "it is not a source",
            "Give a http://, https:// or file:/// URL, or a local path.",
        )
    path = Path(unquote(parts.path) if parts.scheme else source).absolute()
    if not path.is_file():
        reason = "it is no regular file" if path.exists() else "there is no such file on this host"
        raise ImageFailed("use", f"the image {path}", reason, "Put the image there, or give a URL to fetch it from.")
    return path


def _file_version(path: Path) -> Validators:
    status = path.stat()
    return Validators(etag=f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}")


def _digests(path: Path, algorithms: set[str]) -> dict[str, str]:
    hashes = {name: hashlib.new(name) for name in algorithms}
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            for value in hashes.values():
                value.update(piece)
    return {name: value.hexdigest() for name, value in hashes.items()}
