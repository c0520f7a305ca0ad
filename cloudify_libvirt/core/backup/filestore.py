"""Backups in files of this machine: one directory per deployment and backup, readable by their owner alone."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cloudify_libvirt.core.errors import AccessDenied, CoreError
from cloudify_libvirt.core.identity import scoped_name
from cloudify_libvirt.core.spec.snapshot import check_name

DEFINITION = ".xml"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Store:
    """The files of one object in one backup: ``<base>/<deployment>/<backup>/<name>-<uuid><suffix>``.

    The definition (``.xml``) is written last: without it a backup is not there.
    """

    base: Path
    deployment: str
    backup: str
    name: str
    uuid: str

    @property
    def directory(self) -> Path:
        """Return where the files are."""
        check_name(self.backup, f"name of the backup of '{self.name}'")
        return self.base.absolute() / _part(self.deployment) / self.backup.replace("/", "_")

    @property
    def earlier(self) -> Path:
        """Return where releases before 1.0 put the definition."""
        return self.base.absolute() / self.backup.replace("/", "_") / f"{_part(self.name)}{DEFINITION}"

    @property
    def label(self) -> str:
        """Return how messages call the backup."""
        return f"backup '{self.backup}' of '{self.name}' in {self.directory}"

    def path(self, suffix: str) -> Path:
        """Return one file."""
        return self.directory / f"{_part(self.name)}-{self.uuid}{suffix}"

    def others(self, suffix: str) -> list[Path]:
        """Return the files of that suffix in this object's other backups of the deployment."""
        mine = self.path(suffix)
        every = self.directory.parent.iterdir() if self.directory.parent.is_dir() else []
        return sorted(path for one in every if (path := one / mine.name) != mine and path.is_file())

    @property
    def complete(self) -> bool:
        """Tell whether the backup is there, whole."""
        return self.path(DEFINITION).is_file()

    @property
    def written_at(self) -> float:
        """Return when the backup was whole, in seconds since 1970."""
        with on_disk("look at", f"file {self.path(DEFINITION)}"):
            return self.path(DEFINITION).stat().st_mtime

    def prepare(self) -> None:
        """Make the directories, for us alone.

        Raises:
            AccessDenied: a directory of this name is somebody else's, or open to others.
        """
        with on_disk("make", f"directory {self.directory}"):
            self.base.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (self.directory.parent, self.directory):
                path.mkdir(mode=0o700, exist_ok=True)
                _check_private(path)

    def write(self, suffix: str, content: str | bytes) -> None:
        """Write one file whole or not at all, readable by its owner alone."""
        path = self.path(suffix)
        with on_disk("write", f"file {path}"), _draft(path) as descriptor:
            data = memoryview(content.encode() if isinstance(content, str) else content)
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)

    def read(self, suffix: str) -> str:
        """Return the text of one file."""
        with on_disk("read", f"file {self.path(suffix)}"):
            return self.path(suffix).read_text(encoding="utf-8")

    def digest(self, suffix: str) -> str:
        """Return the SHA-256 of one file, in hexadecimal digits."""
        with on_disk("read", f"file {self.path(suffix)}"), self.path(suffix).open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()

    def remove(self) -> None:
        """Remove every file of this object, the definition first, and the directories that are empty then."""
        with on_disk("remove", self.label):
            self.path(DEFINITION).unlink(missing_ok=True)
            stem = self.path("").name
            for path in list(self.directory.glob("*")) if self.directory.is_dir() else []:
                # With a dot in front: a draft of an attempt that was cut off.
                if path.name.removeprefix(".").startswith(stem):
                    path.unlink(missing_ok=True)
        for directory in (self.directory, self.directory.parent):
            with suppress(OSError):
                directory.rmdir()


def _part(name: str) -> str:
    """Return a name as one part of a path."""
    return scoped_name(name, "").removesuffix("-")


def _check_private(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        reason = "it is not a directory of ours alone"
        raise AccessDenied("write to", f"directory {path}", reason, f"chmod 700 {path}, or choose another backup_dir.")


@contextmanager
def _draft(path: Path) -> Iterator[int]:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        yield descriptor
        Path(name).replace(path)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


@contextmanager
def on_disk(action: str, target: str) -> Iterator[None]:
    """Name what is done to which file, for every call of the operating system inside."""
    try:
        yield
    except OSError as error:
        kind = AccessDenied if isinstance(error, PermissionError) else CoreError
        remedy = "Free some space there." if error.errno in NO_SPACE else "Check space and rights there."
        raise kind(action, target, error.strerror or str(error), remedy) from error
