"""Volumes: creation, contents, growth, and removal of what nobody else uses.

libvirt itself deletes a base image under its overlays and shrinks volumes without a word; the guards are here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloudify_libvirt.core import parse, stream
from cloudify_libvirt.core.errors import Conflict, CoreError, InUse, Missing, libvirt_call, unless_gone
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.core.wait import retry_busy


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
    def create(cls, pool: Pool, xml: str, name: str) -> Volume:
        """Make the volume; raise ``Conflict`` when the name is taken."""

        def call() -> Any:
            remedy = "Is there room in the pool?"
            with libvirt_call("create", label(pool, name), remedy):
                return pool.handle.createXML(xml, 0)

        return cls(pool, retry_busy(call))

    def facts(self) -> parse.VolumeFacts:
        """Read the volume's definition."""
        with libvirt_call("read", self.target):
            return parse.volume(self.handle.XMLDesc(0))

    def upload(self, source: Path | bytes) -> None:
        """Write the content, holes kept."""
        stream.upload(self.pool.session, self.handle, source, self.target)

    def grow(self, capacity_bytes: int) -> None:
        """Make the volume at least that large; a smaller size is refused, an equal one is fine."""
        now = self.facts().capacity_bytes
        if capacity_bytes < now:
            reason = f"{human_size(capacity_bytes)} is less than its {human_size(now)}; shrinking would lose data"
            raise Conflict("resize", self.target, reason, "Give at least the present size, or leave it out.")
        if capacity_bytes > now:
            with libvirt_call("resize", self.target):
                self.handle.resize(capacity_bytes, 0)

    def zero(self, length_bytes: int) -> None:
        """Overwrite the first bytes with zeros."""
        stream.zero(self.pool.session, self.handle, length_bytes, self.target)

    def users(self, besides: str = "") -> list[str]:
        """Return, in words, which domains (but the one with UUID ``besides``) and overlays need the volume."""
        return [*self._domains(besides), *self._overlays()]

    def _domains(self, besides: str) -> list[str]:
        domains = [d for d in self.pool.session.all_domains() if d.UUIDString() != besides]
        described = ((d.name(), unless_gone(d.XMLDesc, "read", f"domain '{d.name()}'", "")) for d in domains)
        return [
            f"domain '{name}'"
            for name, facts in ((name, parse.domain(xml)) for name, xml in described if xml)
            if any(self._is(disk) for disk in facts.disks) or self.path in facts.filesystems
        ]

    def _is(self, disk: parse.DiskFacts) -> bool:
        return disk.path == self.path or (disk.pool == self.pool.name and disk.volume == self.name)

    def _overlays(self) -> list[str]:
        with libvirt_call("list the overlays of", self.target):
            volumes = self.pool.handle.listAllVolumes(0)
        names = [(volume.name(), volume) for volume in volumes]
        descriptions = (
            (name, unless_gone(volume.XMLDesc, "read", label(self.pool, name), "")) for name, volume in names
        )
        return [f"volume '{name}'" for name, xml in descriptions if xml and parse.volume(xml).backing == self.path]

    def delete(self, besides: str = "") -> None:
        """Delete the volume; raise ``InUse`` naming who needs it."""
        users = self.users(besides)
        if users:
            raise InUse(
                "delete",
                self.target,
                f"it is used by {', '.join(users[:5])}",
                "Remove its users first; it is left as it is.",
            )
        retry_busy(self._delete)

    def _delete(self) -> None:
        try:
            with libvirt_call("delete", self.target):
                self.handle.delete(0)
        except Missing:
            return


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
