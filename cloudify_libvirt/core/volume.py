"""Volumes: creation, contents, growth, and removal of what nobody else uses.

libvirt itself deletes a base image under its overlays and shrinks volumes without a word; the guards are here.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Conflict, CoreError, ImageFailed, InUse, Missing, libvirt_call
from cloudify_libvirt.core.image import qcow2
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.storage import stream
from cloudify_libvirt.core.storage.users import Users
from cloudify_libvirt.core.units import check_growth, human_size
from cloudify_libvirt.core.wait import retry_busy

_BUSY_S, _MEASURED_S = 30.0, 180.0
# How libvirt calls what is raw for a hypervisor: what looks like a CD-ROM, and what it decrypts.
AS_RAW = frozenset({"raw", "iso", "luks"})


class Volume:
    """A stored volume of a pool."""

    def __init__(self, pool: Pool, handle: Any) -> None:
        """Wrap one of libvirt's volumes."""
        self.pool = pool
        self.handle = handle

    @property
    def name(self) -> str:
        """Return the volume's name."""
        return str(self.handle.name())

    @property
    def path(self) -> str:
        """Return where the hypervisor finds the volume."""
        with libvirt_call("read", self.target):
            return str(self.handle.path())

    @property
    def target(self) -> str:
        """Return how messages call the volume."""
        return label(self.pool, self.name)

    @classmethod
    def find(cls, pool: Pool, name: str) -> Volume | None:
        """Return the volume with that name, or None."""
        try:
            with libvirt_call("look up", label(pool, name)):
                return cls(pool, pool.handle.storageVolLookupByName(name))
        except Missing:
            return None

    @classmethod
    def get(cls, pool: Pool, name: str) -> Volume:
        """Return the volume with that name; raise ``Missing`` when there is none."""
        found = cls.find(pool, name)
        if found is None:
            raise Missing(
                "find",
                label(pool, name),
                "it does not exist",
                f"Pool '{pool.name}' has: {', '.join(pool.volume_names()[:10]) or 'no volumes'}.",
            )
        return found

    @classmethod
    def create(cls, pool: Pool, xml: str, name: str, flags: int = 0, source: Volume | None = None) -> Volume:
        """Make the volume, with the content of ``source`` if given; raise ``Conflict`` when the name is taken.

        The content is read by format and written by format: a raw copy of a qcow2 volume has what a guest sees.
        """

        def call() -> Any:
            with libvirt_call("create", label(pool, name), "Is there room in the pool?"):
                if source is None:
                    return pool.handle.createXML(xml, flags)
                return pool.handle.createXMLFrom(xml, source.handle, flags)

        # Measuring how fast a key is derived takes qemu-img seconds, and fails now and then.
        return cls(pool, retry_busy(call, timeout_s=_MEASURED_S if "<encryption" in xml else _BUSY_S))

    @property
    def kind(self) -> str:
        """Return what the volume is to its host: block (a device), network (it has no path there), or else file."""
        with libvirt_call("read", self.target):
            number = self.handle.info()[0]
        return {libvirt.VIR_STORAGE_VOL_BLOCK: "block", libvirt.VIR_STORAGE_VOL_NETWORK: "network"}.get(number, "file")

    def xml(self) -> str:
        """Return libvirt's description of the volume."""
        with libvirt_call("read", self.target):
            return str(self.handle.XMLDesc(0))

    def facts(self) -> parse.VolumeFacts:
        """Read the volume's definition."""
        with libvirt_call("read", self.target):
            return parse.volume(self.handle.XMLDesc(0))

    @property
    def length_bytes(self) -> int:
        """Return the length of the volume's file."""
        with libvirt_call("read", self.target):
            return int(self.handle.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])

    def is_misread(self, format_: str) -> bool:
        """Tell whether its host takes raw content for another format, as a guest may have written a header there.

        libvirt reads a pool whenever an upload ends, so what it is yet to find counts, too.
        """
        if format_ != "raw" or self.kind != "file" or self.pool.session.driver == "test":
            return False
        return self.facts().format not in AS_RAW or qcow2.read(self.head()) is not None

    def head(self) -> bytes:
        """Return the first bytes of the content."""
        return stream.read(self.pool.session, self.handle, 0, qcow2.HEAD_BYTES, self.target)

    def upload(self, source: Path | bytes) -> None:
        """Write the content, holes kept."""
        stream.upload(self.pool.session, self.handle, source, self.target)

    def download(self, destination: Path) -> int:
        """Write the volume's content to a file of this machine, there whole or not at all; return its bytes.

        The file has holes where the volume has, and is readable by its owner alone. Of an overlay it is only
        what differs from its base.

        Raises:
            Conflict: there is such a file.
            InUse: a running domain writes to the volume meanwhile.
        """
        if destination.exists():
            raise Conflict("write", str(destination), "there is a file already", "Give another destination.")
        refuse_writers(self, "download")
        try:
            with tempfile.NamedTemporaryFile(dir=destination.parent, prefix=f".{destination.name}.") as draft:
                size = stream.download(self.pool.session, self.handle, draft, self.target)
                draft.flush()
                # Fails where somebody made such a file meanwhile; the draft's own name goes with the draft.
                os.link(draft.name, destination)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ImageFailed("write", str(destination), reason, "Check space and rights there.") from error
        return size

    def grow(self, capacity_bytes: int, *, thick: bool = False, format_: str = "") -> None:
        """Make a volume that no running domain has that large; a smaller size is refused, an equal one is fine.

        ``format_``: what it is, where that is known; libvirt would change a header that it sees in raw content.
        """
        misread = self.is_misread(format_)
        now = self.length_bytes if misread else self.facts().capacity_bytes
        check_growth("resize", self.target, now, capacity_bytes)
        if capacity_bytes > now and misread:
            length = capacity_bytes - now if thick else 1
            stream.zero(self.pool.session, self.handle, length, self.target, capacity_bytes - length)
        elif capacity_bytes > now:
            with libvirt_call("resize", self.target):
                self.handle.resize(capacity_bytes, libvirt.VIR_STORAGE_VOL_RESIZE_ALLOCATE if thick else 0)

    def zero(self, length_bytes: int) -> None:
        """Overwrite the first bytes with zeros."""
        stream.zero(self.pool.session, self.handle, length_bytes, self.target)

    def users(self, besides: str = "", look: Users | None = None) -> list[str]:
        """Return, in words, who (but the domain with UUID ``besides``) needs the volume; ``look``: seen already."""
        found = (look or Users(self.pool.session)).users_of(self.path, self.pool.name, self.name, besides)
        return [user.words for user in found]

    def delete(self, besides: str = "", *, look: Users | None = None, wipe: bool = False) -> None:
        """Delete the volume, overwritten before on wish; raise ``InUse`` naming who needs it."""
        refuse_users(self, "delete", self.users(besides, look))
        if wipe and self.facts().format != "dir":
            stream.wipe(self.pool.session, self.handle, self.target)
        path = self.path
        retry_busy(self._delete)
        if look is not None:
            look.forget(path)

    def _delete(self) -> None:
        clones = self.pool.kind.clones
        try:
            with libvirt_call("delete", self.target):
                # Of our own copies, too, a snapshot stays; Ceph keeps one that a volume stands on.
                self.handle.delete(libvirt.VIR_STORAGE_VOL_DELETE_WITH_SNAPSHOTS if clones else 0)
        except Missing:
            return
        except CoreError as error:
            if not clones or "unprotect snapshot" not in error.reason:
                raise
            refuse_users(self, "delete", ["a volume that was copied from it and stands on its snapshot"])


def refuse_users(volume: Volume, action: str, users: list[str]) -> None:
    """Raise ``InUse`` with the names of those who need the volume, if there are any."""
    if users:
        named = list(dict.fromkeys(users))[:5]
        raise InUse(
            action,
            volume.target,
            f"it is used by {', '.join(named)}",
            "Remove its users first; it is left as it is.",
        )


def refuse_writers(volume: Volume, action: str) -> None:
    """Raise ``InUse`` when a running domain writes to the volume: a copy would be of two moments."""
    writers = [f"running domain '{domain.name()}'" for domain, disk in running_disks(volume) if not disk.readonly]
    if writers:
        reason = f"{writers[0]} writes to it"
        raise InUse(action, volume.target, reason, "Shut it down first, or take a backup of it.")


def running_disks(volume: Volume) -> list[tuple[Any, parse.DiskFacts]]:
    """Return the running domains that have the volume as a disk, each with what it knows of the disk."""
    session = volume.pool.session
    found = []
    for domain in session.all_domains():
        xml = running_xml(domain)
        disks = parse.domain(xml).disks if xml else ()
        found += [
            (domain, disk)
            for disk in disks
            if volume.path in (disk.path, disk.remote) or (disk.pool, disk.volume) == (volume.pool.name, volume.name)
        ]
    return found


def running_xml(domain: Any) -> str:
    """Return the live definition; "" of a domain that is off or gone."""
    with libvirt_call("read", f"domain '{domain.name()}'"):
        return str(domain.XMLDesc(0)) if domain.isActive() else ""


def label(pool: Pool, name: str) -> str:
    """Return how messages call a volume of that name."""
    return f"volume '{name}' of pool '{pool.name}' on {pool.session.uri}"


def check_room(pool: Pool, wanted_bytes: int, name: str) -> None:
    """Raise when the pool cannot hold that many bytes more."""
    available = pool.available_bytes
    if wanted_bytes > available:
        raise CoreError(
            "create",
            label(pool, name),
            f"it needs {human_size(wanted_bytes)}, pool '{pool.name}' has {human_size(available)} left",
            "Free some space, take another pool, or use an overlay (mode: overlay).",
        )
