"""Files of the image cache: published in one step, leased while a process may read them, unpacked with holes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cloudify_libvirt.core.image.download import Meter, Report, check_size
from cloudify_libvirt.core.image.format import CHUNK, decompressed

_IMAGE_MODE = 0o644
# One time for all images (1 January 2000): any write shows, the same content from a second source does not.
_PUBLISHED_NS = 946_684_800 * 10**9
_ZEROS = bytes(1 << 16)

# (device, inode) -> descriptor with a shared lock, which ends with the process: who got an image may read it any time.
_leases: dict[tuple[int, int], int] = {}


def lease(path: Path) -> bool:
    """Keep the file from being pruned for as long as this process runs; False where it is gone.

    The time of this use is noted as the file's access time.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    status = os.fstat(descriptor)
    if not _is_at(status, path):
        os.close(descriptor)
        return False
    with contextlib.suppress(PermissionError):  # somebody else's cache
        os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
    if _leases.setdefault((status.st_dev, status.st_ino), descriptor) != descriptor:
        os.close(descriptor)
    return True


def _is_at(status: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(status, path.stat())
    except FileNotFoundError:
        return False


def release_all() -> None:
    """Give up this process's leases; what it fetched may be pruned from now on."""
    while _leases:
        os.close(_leases.popitem()[1])


@contextmanager
def _held(path: Path, how: int) -> Iterator[bool]:
    """Hold a lock on a file or directory; yield False where another process has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _lock(descriptor, how)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    return True


def is_leased(path: Path) -> bool:
    """Tell whether a process, this one too, may be reading the file."""
    with _held(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
        return not free


def remove_unless_leased(path: Path) -> bool:
    """Remove the file; False where a process may be reading it."""
    # The directory's lock keeps a publisher from putting a new file in the place of the one that was looked at.
    with _held(path.parent, fcntl.LOCK_EX), _held(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
        if free:
            path.unlink(missing_ok=True)
        return free


def publish(draft: Path, target: Path) -> Path:
    """Give a complete file its name, on the disk for good, and lease it; a good one that is there stays."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.chmod(_IMAGE_MODE)
    os.utime(draft, ns=(_PUBLISHED_NS, _PUBLISHED_NS))
    with _held(target.parent, fcntl.LOCK_SH):
        if _is_published(target, draft.stat().st_size) and lease(target):
            draft.unlink()
        else:
            lease(draft)
            draft.rename(target)
    return target


def _is_published(path: Path, size_bytes: int) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (size_bytes, _PUBLISHED_NS)


def unpack(source: Path, target: Path, limit_bytes: int, shown: str, report: Report | None) -> str:
    """Decompress to a file with holes where the content is zero; return its sha256.

    Raises:
        ImageFailed: the data is damaged, or becomes larger than ``limit_bytes``.
    """
    sha256, done = hashlib.sha256(), 0
    meter = Meter(report, 0, None, "unpack")
    with target.open("wb") as file:
        for piece in _ahead(decompressed(source)):
            done += len(piece)
            check_size(done, limit_bytes, shown, "decompressed")
            sha256.update(piece)
            _write_sparse(file, piece)
            meter.show(done)
        file.truncate()
    meter.show(done, final=True)
    return sha256.hexdigest()


def _ahead(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces; the next one is decoded in a thread while the caller hashes and writes one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, pieces, b"")
        while piece := coming.result():
            coming = thread.submit(next, pieces, b"")
            yield piece


def _write_sparse(file: IO[bytes], piece: bytes) -> None:
    for start in range(0, len(piece), len(_ZEROS)):
        block = piece[start : start + len(_ZEROS)]
        if block == _ZEROS[: len(block)]:
            file.seek(len(block), os.SEEK_CUR)
        else:
            file.write(block)


def digests(path: Path, algorithms: set[str]) -> dict[str, str]:
    """Return ``{algorithm: hex}`` of the file."""
    hashes = {name: hashlib.new(name) for name in algorithms}
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            for value in hashes.values():
                value.update(piece)
    return {name: value.hexdigest() for name, value in hashes.items()}
