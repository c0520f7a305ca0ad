"""What is in the image cache, and what of it can go."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloudify_libvirt.core.errors import Busy
from cloudify_libvirt.core.image import files as image_files
from cloudify_libvirt.core.image.cache import ImageCache

_BLOCK = 512  # the unit of st_blocks (stat(2))


@dataclass(frozen=True)
class Item:
    """One image of the cache, or a broken transfer (without ``sha256``); ``disk_bytes`` counts no holes."""

    name: str
    sha256: str
    format: str
    file_bytes: int
    disk_bytes: int
    used_at: float
    sources: tuple[str, ...]
    in_use: bool


class Inventory:
    """The content of one cache."""

    def __init__(self, cache: ImageCache) -> None:
        """Look at ``cache``."""
        self._cache = cache

    def items(self) -> list[Item]:
        """Return what is there, the longest unused first."""
        return sorted((*self._images(), *self._transfers()), key=lambda item: item.used_at)

    def _images(self) -> Iterator[Item]:
        sources: dict[str, list[str]] = {}
        for _, entry in self._cache.index.entries():
            sources.setdefault(entry.file, []).append(entry.source)
        for path in _files(self._cache.images):
            sha256, _, format_ = path.name.partition(".")
            try:
                status, in_use = path.stat(), image_files.is_leased(path)
            except FileNotFoundError:
                continue
            names = tuple(sorted(sources.get(path.name, [])))
            disk_bytes = status.st_blocks * _BLOCK
            yield Item(path.name, sha256, format_, status.st_size, disk_bytes, status.st_atime, names, in_use)

    def _transfers(self) -> Iterator[Item]:
        for path in _files(self._cache.partial):
            if path.suffix == ".json":
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            size = status.st_blocks * _BLOCK
            yield Item(path.name, "", "partial", status.st_size, size, status.st_mtime, (), self._is_locked(path.stem))

    def _is_locked(self, key: str) -> bool:
        try:
            with self._cache.lock(key, key, timeout_s=0):
                return False
        except Busy:
            return True

    def prune(
        self, *, older_than_s: float | None = None, keep_bytes: int | None = None, dry_run: bool = False
    ) -> list[Item]:
        """Remove what is not in use, and return it; the longest unused goes first.

        Args:
            older_than_s: only what was not used for so long.
            keep_bytes: only until what is left takes no more than this on the disk; both limits count.
            dry_run: remove nothing, but return what would go.
        """
        items, now, gone = self.items(), time.time(), list[Item]()
        left = sum(item.disk_bytes for item in items)
        for item in items:
            too_old = older_than_s is not None and now - item.used_at >= older_than_s
            too_much = keep_bytes is not None and left > keep_bytes
            wanted = too_old or too_much or (older_than_s is None and keep_bytes is None)
            if wanted and not item.in_use and (dry_run or self._remove(item)):
                left -= item.disk_bytes
                gone.append(item)
        if not dry_run:
            self._forget_gone()
        return gone

    def _remove(self, item: Item) -> bool:
        if not item.sha256:
            path = self._cache.partial / item.name
            self._cache.remove_partial(path.with_suffix(".json"), older_than_s=0)
            return self._cache.remove_partial(path, older_than_s=0)
        try:
            return image_files.remove_unless_leased(self._cache.images / item.name)
        except FileNotFoundError:
            return False

    def _forget_gone(self) -> None:
        """Drop what the index says of images that are no longer there."""
        known = {key for key, _ in self._cache.index.entries()}
        for key in self._cache.index.keys() - known:
            if not self._is_locked(key):
                self._cache.index.forget(key)

    def damaged(self) -> list[Item]:
        """Return the images whose content is not what their name says; reads all of them."""
        return [item for item in self._images() if self._is_damaged(item)]

    def _is_damaged(self, item: Item) -> bool:
        path = self._cache.images / item.name
        try:
            status, found = path.stat(), image_files.digests(path, {"sha256"})
            with contextlib.suppress(PermissionError):  # this was no use of it
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        except FileNotFoundError:
            return False
        return found["sha256"] != item.sha256

    def drop(self, item: Item) -> bool:
        """Remove one image; False where a process may be reading it."""
        gone = self._remove(item)
        self._forget_gone()
        return gone


def _files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []
