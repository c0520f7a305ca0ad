"""Points kept as volumes of a storage pool, of this host or of another by its URI.

A pool has no directories: a volume's name says deployment, domain, point and file. The manifest is written last,
and removed first: volumes without one are no point.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from cloudify_libvirt.core.backup import manifest as manifests
from cloudify_libvirt.core.backup.manifest import Manifest
from cloudify_libvirt.core.backup.names import SEPARATOR, file_name, point_name
from cloudify_libvirt.core.backup.store import LOCK_TIMEOUT_S, Digest, Store
from cloudify_libvirt.core.errors import BackupBroken
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage import stream
from cloudify_libvirt.core.storage.bases import Wish
from cloudify_libvirt.core.volume import Volume

_FIRST = "backup"


class PoolStore(Store):
    """A pool of any host that libvirt reaches."""

    def __init__(self, uri: str, pool: str, deployment: str, domain: str) -> None:
        """Connect, and have the pool started."""
        super().__init__(deployment, domain)
        self.pool = storage.active_pool(connect(uri), pool)

    @property
    def label(self) -> str:
        """Return how messages call the store."""
        return f"backups of {self.deployment}/{self.domain} in {self.pool.target}"

    @property
    def free_bytes(self) -> int:
        """Return the space that is left."""
        return self.pool.available_bytes

    @property
    def _prefix(self) -> str:
        return SEPARATOR.join([_FIRST, self.deployment, self.domain, ""])

    def _name(self, point: str, name: str) -> str:
        return f"{self._prefix}{point_name(point)}{SEPARATOR}{file_name(name)}"

    def _files(self) -> dict[str, list[str]]:
        """Return the files of each point, whole or not."""
        found: dict[str, list[str]] = {}
        for volume in self.pool.volume_names():
            point, separator, name = volume.removeprefix(self._prefix).partition(SEPARATOR)
            if volume.startswith(self._prefix) and separator:
                found.setdefault(point, []).append(name)
        return found

    def points(self) -> list[str]:
        """Return the names of the points that have a manifest."""
        files = self._files()
        return sorted(point for point, names in files.items() if manifests.FILE in names and not self._blank(point))

    def _blank(self, point: str) -> bool:
        """Tell whether a manifest's volume was made, but never written."""
        return not self.read(point, manifests.FILE)

    def _volume(self, point: str, name: str) -> Volume:
        found = Volume.find(self.pool, self._name(point, name))
        if found is None:
            raise BackupBroken("read", self.of(point), f"{name} is missing")
        return found

    def read(self, point: str, name: str) -> bytes:
        """Return a small file, without the zeros that fill a volume up."""
        return b"".join(self._chunks(point, name)).rstrip(b"\0")

    def _chunks(self, point: str, name: str) -> Iterator[bytes]:
        volume = self._volume(point, name)
        for _offset, length, data in stream.received(self.pool.session, volume.handle, volume.target):
            yield from zeros(length) if data is None else (data,)

    @contextmanager
    def local(self, point: str, name: str) -> Iterator[Path]:
        """Fetch the file into a scratch directory of this machine."""
        volume = self._volume(point, name)
        with tempfile.NamedTemporaryFile(prefix="cloudify-libvirt-") as scratch:
            stream.download(self.pool.session, volume.handle, scratch, volume.target)
            scratch.flush()
            yield Path(scratch.name)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Have a directory where this machine keeps temporary files."""
        with tempfile.TemporaryDirectory(prefix="cloudify-libvirt-") as path:
            yield Path(path)

    def digest(self, point: str, name: str, size: int) -> tuple[int, str]:
        """Return bytes and sha256 of a file; a volume may be larger than what was written to it."""
        digest = Digest()
        for chunk in self._chunks(point, name):
            digest.add(chunk[: max(0, size - digest.bytes)])
        return digest.result

    def write(self, point: str, name: str, size: int, chunks: Iterable[bytes]) -> tuple[int, str]:
        """Write a file as a volume."""
        name, digest = self._name(point, name), Digest()
        volume = Volume.create(self.pool, Wish(name, size, "raw").xml(size), name)
        stream.write(self.pool.session, volume.handle, map(digest.add, chunks), size, volume.target)
        return digest.result

    def publish(self, manifest: Manifest) -> None:
        """Write the manifest, in one piece."""
        data = manifests.encode(manifest)
        self.write(manifest.point, manifests.FILE, len(data), [data])

    def delete(self, point: str) -> None:
        """Delete the manifest, then the rest."""
        self._remove(point, self._files().get(point, []))

    def _remove(self, point: str, names: list[str]) -> None:
        for name in sorted(names, key=lambda one: one != manifests.FILE):
            found = Volume.find(self.pool, self._name(point, name))
            if found is not None:
                found.delete()

    def sweep(self) -> list[str]:
        """Delete the volumes of points that have no manifest."""
        whole = set(self.points())
        left = {point: names for point, names in self._files().items() if point not in whole}
        for point, names in left.items():
            self._remove(point, names)
        return sorted(left)

    def lock(self) -> AbstractContextManager[object]:
        """Hold these backups alone among the runs of this machine."""
        return host_lock(self.pool.session.uri, f"{self.pool.uuid}/{self._prefix}", LOCK_TIMEOUT_S)


def zeros(length: int) -> Iterator[bytes]:
    """Yield that many zeros, in chunks."""
    for offset in range(0, length, stream.CHUNK_BYTES):
        yield bytes(min(stream.CHUNK_BYTES, length - offset))
