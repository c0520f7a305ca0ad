"""Volumes on the hypervisor's host that a backup goes through on its way, and a restored disk on its way back.

Their names have the domain's UUID, so that those of a killed run are known as ours.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import CoreError, InUse, Missing, libvirt_call
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.storage.bases import Wish
from cloudify_libvirt.core.volume import Volume, check_room

# Records pool and name of a volume before it is made.
Claim = Callable[[str, str], None]
BACKUP, RESTORE = "backup", "restore"
_WITH_FILES = frozenset({"dir", "fs", "netfs"})
_DEFAULT = "default"


def name(purpose: str, uuid: str, target: str, format_: str = "qcow2") -> str:
    """Return the name of a volume on its way."""
    return f"{purpose}-{uuid}-{target}.{format_}"


def is_restored(name: str) -> bool:
    """Tell whether a volume's name is that of a disk of a domain that was made of a backup."""
    return name.startswith(f"{RESTORE}-")


def pools(session: Session) -> list[Pool]:
    """Return the active pools whose volumes are files."""
    with libvirt_call("list the pools of", f"hypervisor {session.uri}"):
        handles = session.connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
    every = [Pool(session, handle) for handle in handles]
    return [pool for pool in every if parse.pool(pool.xml()).type in _WITH_FILES]


def pool_of(session: Session, path: str) -> Pool | None:
    """Return the pool whose directory the path is in, or None; the volume may be gone."""
    directory = posixpath.dirname(path)
    return next((pool for pool in pools(session) if posixpath.normpath(pool.path) == directory), None)


def choose(domain: Domain, wanted: str, paths: list[str]) -> Pool:
    """Return the pool to stage in: the one named, that of a disk, or ``default``.

    Raises:
        Missing: there is none.
    """
    if wanted:
        pool = Pool.get(domain.session, wanted, "Name an active pool of the hypervisor's host.")
        pool.start()
        return pool
    found = next((one for path in paths if (one := pool_of(domain.session, path)) is not None), None)
    found = found or next((pool for pool in pools(domain.session) if pool.name == _DEFAULT), None)
    if found is None:
        reason = "none of its disks is in a directory pool, and there is no pool 'default'"
        raise Missing("stage", domain.target, reason, "Name a pool with files: staging_pool.")
    return found


def make(pool: Pool, volume: str, size: int, format_: str, claim: Claim, secret: str = "") -> Volume:
    """Make a volume, recorded before; one of a killed run is replaced. ``secret``: encrypted with that one's key."""
    left = Volume.find(pool, volume)
    if left is not None:
        left.delete()
    claim(pool.name, volume)
    return Volume.create(pool, Wish(volume, size, format_, secret=secret).xml(size), volume)


def check(pool: Pool, wanted_bytes: int, label: str) -> None:
    """Raise when the pool has no room for what passes through it."""
    check_room(pool, wanted_bytes, label)


def sweep(session: Session, purpose: str, uuid: str) -> list[str]:
    """Remove what a killed run left on the host; return its names."""
    return [volume.name for volume in list(_left(session, f"{purpose}-{uuid}-")) if _gone(volume)]


def _left(session: Session, prefix: str) -> Iterator[Volume]:
    for pool in pools(session):
        if any(name.startswith(prefix) for name in pool.contents()):
            # QEMU may have written what the pool does not know yet.
            pool.refresh()
        for found in pool.volume_names():
            volume = Volume.find(pool, found) if found.startswith(prefix) else None
            if volume is not None:
                yield volume


def _gone(volume: Volume) -> bool:
    try:
        volume.delete()
    except InUse:
        return False
    return True


def discard(volumes: list[Volume]) -> list[CoreError]:
    """Delete volumes whose time is over; return what could not be, for a next run."""
    failures: list[CoreError] = []
    for volume in volumes:
        try:
            volume.delete()
        except CoreError as error:
            failures.append(error)
    return failures
