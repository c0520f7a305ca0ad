"""Storage pools: build, start, stop, and removal of no more than what we made."""

from __future__ import annotations

import posixpath
import shutil
from pathlib import Path
from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.errors import Conflict, CoreError, libvirt_call, unless_gone
from cloudify_libvirt.core.hostlock import host_lock
from cloudify_libvirt.core.resource import Resource
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.wait import retry_busy


class Pool(Resource):
    """A storage pool."""

    noun = "pool"
    by_name = "storagePoolLookupByName"
    by_uuid = "storagePoolLookupByUUIDString"
    define_call = "storagePoolDefineXML"

    @property
    def path(self) -> str:
        """Return the directory of the pool, "" where its type has none."""
        return parse.pool_path(self.xml())

    @classmethod
    def check_path_free(cls, session: Session, path: str, uuid: str, label: str) -> None:
        """Raise ``Conflict`` when another pool manages that directory."""
        with libvirt_call("list the pools of", f"hypervisor {session.uri}"):
            pools = session.connection.listAllStoragePools(0)
        for handle in pools:
            other = cls(session, handle)
            if other.uuid != uuid and other.path and _plain(session, other.path) == _plain(session, path):
                raise Conflict(
                    "define",
                    label,
                    f"directory {other.path} belongs to pool '{other.name}'",
                    "Choose another params.path, or use that pool as an external one.",
                )

    def start(self) -> None:
        """Activate the pool unless it is active."""
        if self.active:
            return
        try:
            with libvirt_call("start", self.target):
                self.handle.create(0)
        except CoreError:
            # Another process may have been quicker.
            if not self.active:
                raise

    def try_start(self) -> bool:
        """Activate the pool if what it stands on is there already; False when that must be built first."""
        try:
            self.start()
        except CoreError as error:
            if error.retryable or (self.session.shares_files and Path(self.path).exists()):
                raise
            return False
        return True

    def build(self) -> None:
        """Make what the pool stands on: for a directory pool, the directory."""
        with libvirt_call("build", self.target):
            self.handle.build(0)

    def stop(self) -> None:
        """Deactivate the pool; its volumes stay, and guests that use them go on."""
        if self.active:
            with libvirt_call("stop", self.target):
                self.handle.destroy()

    def delete_target(self) -> None:
        """Remove the directory; libvirt refuses (and we raise) when it is not empty."""
        with libvirt_call("delete the directory of", self.target):
            self.handle.delete(0)

    @property
    def vanished(self) -> bool:
        """Tell whether somebody removed the pool's directory; never where it is another machine's."""
        return self.session.shares_files and bool(self.path) and not Path(self.path).exists()

    def contents(self) -> list[str]:
        """Return the names in the pool's directory, volumes or not; none where it is another machine's."""
        directory = Path(self.path)
        if not self.session.shares_files or not directory.is_dir():
            return []
        return sorted(path.name for path in directory.iterdir())

    def undefine(self) -> None:
        """Remove the definition; the contents stay."""
        if unless_gone(self.handle.isPersistent, "read", self.target, False):
            with libvirt_call("undefine", self.target):
                self.handle.undefine()

    def refresh(self) -> None:
        """Read the pool's contents again; waits while others allocate."""
        retry_busy(self._refresh)

    def _refresh(self) -> None:
        with libvirt_call("refresh", self.target):
            self.handle.refresh(0)

    def volume_names(self) -> list[str]:
        """Return the names of the volumes that libvirt knows in the pool."""
        with libvirt_call("list the volumes of", self.target):
            return sorted(str(volume.name()) for volume in self.handle.listAllVolumes(0))

    @property
    def available_bytes(self) -> int:
        """Return the free space: of this moment, where it can be seen; else as libvirt last read it."""
        if self.session.shares_files and self.path and Path(self.path).is_dir():
            return shutil.disk_usage(self.path).free
        with libvirt_call("read the size of", self.target):
            return int(self.handle.info()[3])

    def lock(self) -> Any:
        """Hold this pool's base images alone, across processes."""
        return host_lock(self.session.uri, f"pool {self.uuid}")


def _plain(session: Session, path: str) -> str:
    """Return the one path of a directory, without symbolic links where they can be seen."""
    return str(Path(path).resolve()) if session.is_local else posixpath.normpath(path)
