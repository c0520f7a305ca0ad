"""Where points are kept: what every kind of store does, and the kind that is a directory of this machine.

Layout: ``<directory>/<deployment>/<domain>/<point>/`` with ``manifest.json``, ``domain.xml`` and a file per disk;
directories for their owner alone (0700), files too (0600).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from cloudify_libvirt.core.backup import manifest as manifests
from cloudify_libvirt.core.backup.filestore import on_disk
from cloudify_libvirt.core.backup.manifest import Manifest
from cloudify_libvirt.core.backup.names import checked, file_name, point_name
from cloudify_libvirt.core.errors import BackupBroken, Busy, CoreError, InvalidSpec
from cloudify_libvirt.core.units import human_size

_DRAFT, _REMOVED, _SCRATCH = ".draft-", ".removed-", ".scratch-"
_CHUNK_BYTES = 1024 * 1024
LOCK_TIMEOUT_S = 2.0


class Store(ABC):
    """The points of one domain of one deployment."""

    def __init__(self, deployment: str, domain: str) -> None:
        """Raise ``InvalidSpec`` for names that would leave the store."""
        self.deployment = checked(deployment, "the name of the deployment as a directory of backups")
        self.domain = checked(domain, "the name of the domain as a directory of backups")

    @property
    @abstractmethod
    def label(self) -> str:
        """Return how messages call the store."""

    @property
    @abstractmethod
    def free_bytes(self) -> int:
        """Return the space that is left."""

    @abstractmethod
    def points(self) -> list[str]:
        """Return the names of the points that are whole."""

    @abstractmethod
    def read(self, point: str, name: str) -> bytes:
        """Return a small file."""

    @abstractmethod
    def local(self, point: str, name: str) -> AbstractContextManager[Path]:
        """Have a file as one of this machine, to be read only."""

    @abstractmethod
    def scratch(self) -> AbstractContextManager[Path]:
        """Have a directory of this machine for what is large and soon gone."""

    @abstractmethod
    def digest(self, point: str, name: str, size: int) -> tuple[int, str]:
        """Return bytes and sha256 of what is there now; of ``size`` bytes at most where it may be padded."""

    @abstractmethod
    def write(self, point: str, name: str, size: int, chunks: Iterable[bytes]) -> tuple[int, str]:
        """Write a file of a point that is not published yet; return its bytes and sha256."""

    @abstractmethod
    def publish(self, manifest: Manifest) -> None:
        """Let the point be there, whole: the one step that counts."""

    @abstractmethod
    def delete(self, point: str) -> None:
        """Remove a point; what is left of it after a crash is no point any more."""

    def sweep_scratch(self) -> None:
        """Remove what a run that ended in the middle left of scratch space, where that is beside the points."""
        return

    @abstractmethod
    def sweep(self) -> list[str]:
        """Remove what a run that ended in the middle left; return its drafts."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[object]:
        """Hold the store alone; raise ``Busy`` when another run has it."""

    def manifest(self, point: str) -> Manifest:
        """Return what a point says of itself; raise ``BackupBroken`` when it is damaged, or another point's."""
        label = self.of(point_name(point))
        found = manifests.decode(self.read(point, manifests.FILE), label)
        if (found.point, found.deployment, found.domain) != (point, self.deployment, self.domain):
            reason = f"its manifest is that of {found.deployment}/{found.domain}/{found.point}"
            raise BackupBroken("read", label, reason, "Move it back to where it was.")
        return found

    def manifests(self) -> tuple[dict[str, Manifest], dict[str, str]]:
        """Return the points that can be read, and for each other one why it cannot."""
        found: dict[str, Manifest] = {}
        damaged: dict[str, str] = {}
        for point in self.points():
            try:
                found[point] = self.manifest(point)
            except (BackupBroken, InvalidSpec) as error:
                # Also a directory that somebody else put there, of a name that no point can have.
                damaged[point] = error.reason
        return found, damaged

    def of(self, point: str) -> str:
        """Return how messages call a point."""
        return f"point '{point}' of {self.label}"

    def check_room(self, wanted_bytes: int) -> None:
        """Raise when the store cannot hold that many bytes more."""
        if wanted_bytes > self.free_bytes:
            reason = f"it needs about {human_size(wanted_bytes)}, there is {human_size(self.free_bytes)} left"
            raise CoreError("back up to", self.label, reason, "Free some space, or prune old backups.")


class Digest:
    """Counts and digests what is written."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._digest = hashlib.sha256()
        self.bytes = 0

    def add(self, chunk: bytes) -> bytes:
        """Take one chunk, and return it."""
        self._digest.update(chunk)
        self.bytes += len(chunk)
        return chunk

    @property
    def result(self) -> tuple[int, str]:
        """Return bytes and sha256."""
        return self.bytes, self._digest.hexdigest()


def file_digest(path: Path) -> tuple[int, str]:
    """Return bytes and sha256 of a file."""
    digest = Digest()
    with path.open("rb") as data:
        while chunk := data.read(_CHUNK_BYTES):
            digest.add(chunk)
    return digest.result


class DirectoryStore(Store):
    """A directory of this machine."""

    def __init__(self, base: Path, deployment: str, domain: str) -> None:
        """Make nothing yet."""
        super().__init__(deployment, domain)
        self.base = base.absolute()
        self.root = self.base / deployment / domain

    @property
    def label(self) -> str:
        """Return how messages call the store."""
        return f"backups {self.root.absolute()}"

    @property
    def free_bytes(self) -> int:
        """Return the space that is left."""
        self._prepare()
        return shutil.disk_usage(self.root).free

    def _prepare(self) -> None:
        with on_disk("make", f"directory {self.root}"):
            self.base.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (self.root.parent, self.root):
                path.mkdir(mode=0o700, exist_ok=True)

    def points(self) -> list[str]:
        """Return the names of the points that are whole."""
        if not self.root.is_dir():
            return []
        with on_disk("read", self.label):
            return sorted(path.name for path in self.root.iterdir() if path.is_dir() and path.name[0] != ".")

    def _path(self, point: str, name: str) -> Path:
        draft = self.root / f"{_DRAFT}{point_name(point)}"
        return (draft if draft.is_dir() else self.root / point) / file_name(name)

    def read(self, point: str, name: str) -> bytes:
        """Return a small file; raise ``BackupBroken`` when it is missing."""
        try:
            return self._path(point, name).read_bytes()
        except FileNotFoundError as error:
            raise BackupBroken("read", self.of(point), f"{name} is missing") from error

    def local(self, point: str, name: str) -> AbstractContextManager[Path]:
        """Return the file where it lies."""
        return nullcontext(self._path(point, name))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Have a directory beside the points, which the next run removes if this one cannot."""
        self._prepare()
        with on_disk("make", self.label), TemporaryDirectory(prefix=_SCRATCH, dir=self.root) as path:
            yield Path(path)

    def digest(self, point: str, name: str, size: int) -> tuple[int, str]:  # noqa: ARG002 - files are not padded
        """Return bytes and sha256 of a file."""
        try:
            return file_digest(self._path(point, name))
        except FileNotFoundError as error:
            raise BackupBroken("read", self.of(point), f"{name} is missing") from error

    def write(self, point: str, name: str, size: int, chunks: Iterable[bytes]) -> tuple[int, str]:  # noqa: ARG002
        """Write a file of a draft, to the disk itself."""
        self._prepare()
        draft = self.root / f"{_DRAFT}{point_name(point)}"
        path, digest = draft / file_name(name), Digest()
        with on_disk("write", f"file {path}"):
            draft.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    file.write(digest.add(chunk))
                file.flush()
                os.fsync(file.fileno())
        return digest.result

    def publish(self, manifest: Manifest) -> None:
        """Give the draft its name, when all of it is on the disk."""
        data = manifests.encode(manifest)
        self.write(manifest.point, manifests.FILE, len(data), [data])
        draft = self.root / f"{_DRAFT}{manifest.point}"
        with on_disk("publish", self.of(manifest.point)):
            _sync(draft)
            # Fails where a point of this name is there: a directory with files is not replaced.
            draft.rename(self.root / manifest.point)
            _sync(self.root)

    def delete(self, point: str) -> None:
        """Take the point's name away, then its files."""
        gone = self.root / f"{_REMOVED}{point_name(point)}"
        with on_disk("delete", self.of(point)):
            (self.root / point).rename(gone)
            _sync(self.root)
            shutil.rmtree(gone)

    def sweep(self) -> list[str]:
        """Remove drafts, scratch files, and what is left of deleted points."""
        left = self._sweep((_DRAFT, _REMOVED, _SCRATCH))
        return sorted(path.name for path in left if path.name.startswith(_DRAFT))

    def sweep_scratch(self) -> None:
        """Remove scratch directories; a draft stays, as it tells the next backup what to clean up on the host."""
        self._sweep((_SCRATCH,))

    def _sweep(self, prefixes: tuple[str, ...]) -> list[Path]:
        if not self.root.is_dir():
            return []
        left = [path for path in self.root.iterdir() if path.name.startswith(prefixes)]
        with on_disk("clean up", self.label):
            for path in left:
                shutil.rmtree(path)
        return left

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory alone, against runs on any machine whose locks reach it."""
        self._prepare()
        try:
            with FileLock(self.root / ".lock", timeout=LOCK_TIMEOUT_S, mode=0o600):
                yield
        except Timeout as error:
            remedy = "Let it end, then try again."
            raise Busy("lock", self.label, "another run works on these backups", remedy) from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
