"""Storage pools: build, start, stop, and removal of no more than what we made."""

from __future__ import annotations

import posixpath
import shutil
from pathlib import Path
from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Busy, Conflict, CoreError, InUse, libvirt_call, unless_gone
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.resource import Resource
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec.pool_source import KINDS, PoolKind
from cloudify_libvirt.core.storage import ceph_monitor
from cloudify_libvirt.core.wait import retry_busy

_UNKNOWN = PoolKind()
# What libvirt, mount and the storage libraries say of a server that does not answer; there is no code for it.
_UNREACHABLE = (
    *("Connection refused", "No route to host", "Network is unreachable", "timed out", "Connection reset"),
    *("Transport endpoint is not connected", "Temporary failure in name resolution", "Failed to connect"),
)


class Pool(Resource):
    """A storage pool."""

    noun = "pool"
    by_name = "storagePoolLookupByName"
    by_uuid = "storagePoolLookupByUUIDString"
    define_call = "storagePoolDefineXML"

    @property
    def path(self) -> str:
        """Return the directory of the pool, "" where its type has none."""
        return self.facts.path

    @property
    def facts(self) -> parse.PoolFacts:
        """Return what the definition says."""
        return parse.pool(self.xml())

    @property
    def kind(self) -> PoolKind:
        """Return what pools of this type need and can do."""
        return KINDS.get(self.facts.type, _UNKNOWN)

    @property
    def directory(self) -> str:
        """Return the directory that the pool has for itself, "" where there is none: no device directory is one."""
        facts = self.facts
        return facts.path if KINDS.get(facts.type, _UNKNOWN).own_directory else ""

    @classmethod
    def check_path_free(cls, session: Session, path: str, uuid: str, label: str) -> None:
        """Raise ``Conflict`` when another pool manages that directory."""
        with libvirt_call("list the pools of", f"hypervisor {session.uri}"):
            pools = session.connection.listAllStoragePools(0)
        for other in (cls(session, handle) for handle in pools):
            theirs = other.path
            if other.uuid != uuid and theirs and _plain(session, theirs) == _plain(session, path):
                raise Conflict(
                    "define",
                    label,
                    f"directory {theirs} belongs to pool '{other.name}'",
                    "Choose another params.path, or use that pool as an external one.",
                )

    def start(self) -> None:
        """Activate the pool unless it is active; an unreachable server is worth another try."""
        if self.active:
            return
        try:
            with libvirt_call("start", self.target):
                self.handle.create(0)
        except CoreError as error:
            # Another process may have been quicker.
            if not self.active:
                source = parse.document(self.xml()).find("source")
                raise _start_failure(ceph_monitor.explained(error, self.session, source)) from error.__cause__

    def try_start(self) -> CoreError | None:
        """Activate the pool if what it stands on is there already; return why it could not."""
        try:
            self.start()
        except CoreError as error:
            return error
        return None

    def build(self, flags: int = 0, remedy: str = "") -> None:
        """Make what the pool stands on: without flags, the directory."""
        with libvirt_call("build", self.target, remedy):
            self.handle.build(flags)

    def stop(self) -> None:
        """Deactivate the pool; its volumes stay.

        Raises:
            Busy: a file system that is in use cannot be unmounted.
            InUse: a running domain uses a volume that would go away under it.
        """
        if not self.active:
            return
        if self.kind.takes_volumes_away:
            self._refuse_running_users()
        try:
            with libvirt_call("stop", self.target):
                self.handle.destroy()
        except CoreError as error:
            if "busy" not in error.reason and "in use" not in error.reason:
                raise
            remedy = "Stop the domains and processes that use its volumes."
            raise Busy("stop", self.target, error.reason, remedy) from error.__cause__

    def _refuse_running_users(self) -> None:
        with libvirt_call("list the volumes of", self.target):
            volumes = self.handle.listAllVolumes(0)
        wanted: set[parse.Reference] = {str(volume.path()) for volume in volumes}
        wanted |= {(self.name, str(volume.name())) for volume in volumes}
        users = domains_that_use(self.session, wanted, libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        if users:
            reason = f"its volumes would go away under running {', '.join(users[:5])}"
            raise InUse("stop", self.target, reason, "Stop these domains first.", retryable=True)

    def autostart(self, wanted: bool) -> None:
        """Start the pool with the host, or not."""
        try:
            super().autostart(wanted)
        except CoreError as error:
            # libvirt forgets a pool that it cannot write anew, but not the link by which it starts: made, it says no.
            if not wanted or "File exists" not in error.reason:
                raise

    def delete_target(self) -> None:
        """Remove what the pool stands on. A directory: libvirt refuses (and we raise) when it is not empty.

        Of a logical pool that is the volume group, of a disk pool the partition table: ``pool_build.erase`` decides.
        """
        with libvirt_call("delete what holds", self.target):
            self.handle.delete(0)

    @property
    def is_mount(self) -> bool:
        """Tell whether the pool's directory is where a file system is mounted."""
        return self.facts.type in ("fs", "netfs")

    @property
    def vanished(self) -> bool:
        """Tell whether somebody removed the pool's directory; never where it is another machine's."""
        directory = self.directory
        return self.session.shares_files and bool(directory) and not Path(directory).exists()

    def contents(self) -> list[str]:
        """Return the names in the pool's own directory, volumes or not; none where it is another machine's."""
        directory = self.directory
        if not self.session.shares_files or not directory or not Path(directory).is_dir():
            return []
        return sorted(path.name for path in Path(directory).iterdir())

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

    @property
    def allocated_bytes(self) -> int:
        """Return what is taken of the pool, as libvirt last read it."""
        with libvirt_call("read the size of", self.target):
            return int(self.handle.info()[2])

    def volume_names(self) -> list[str]:
        """Return the names of the volumes that libvirt knows in the pool."""
        with libvirt_call("list the volumes of", self.target):
            return sorted(str(volume.name()) for volume in self.handle.listAllVolumes(0))

    @property
    def available_bytes(self) -> int:
        """Return the free space: of this moment, where it can be seen; else as libvirt last read it."""
        directory = self.directory
        if self.session.shares_files and directory and Path(directory).is_dir():
            return shutil.disk_usage(directory).free
        with libvirt_call("read the size of", self.target):
            return int(self.handle.info()[3])

    def lock(self) -> Any:
        """Hold this pool's base images alone, across processes."""
        return host_lock(self.session.uri, f"pool {self.uuid}")


def _plain(session: Session, path: str) -> str:
    """Return the one path of a directory, without symbolic links where they can be seen."""
    return str(Path(path).resolve()) if session.is_local else posixpath.normpath(path)


def domains_that_use(session: Session, wanted: set[parse.Reference], flags: int = 0) -> list[str]:
    """Return, in words, the domains that refer to one of these paths, or volumes by pool and name."""
    found = []
    for domain in session.all_domains(flags):
        words = f"domain '{domain.name()}'"
        xml = unless_gone(domain.XMLDesc, "read", words, "")
        if xml and not wanted.isdisjoint(parse.references(xml)):
            found.append(words)
    return found


def _start_failure(error: CoreError) -> CoreError:
    if error.retryable or not any(words in error.reason for words in _UNREACHABLE):
        return error
    remedy = "Check params.source.hosts, and that the server runs and lets this host in."
    return CoreError("start", error.target, error.reason, remedy, retryable=True)
