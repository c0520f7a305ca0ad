"""Base images in the pools of a host: which are there, who needs them, and removal of those that nobody does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cloudify_libvirt.core.errors import libvirt_call
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage.users import Users
from cloudify_libvirt.core.volume import Volume


@dataclass(frozen=True)
class Base:
    """One base image; ``users`` are the overlays and domains that need it, in words."""

    pool: str
    name: str
    users: tuple[str, ...]


def bases(session: Session) -> list[Base]:
    """Return the base images in the active pools of a host."""
    look = Users(session)
    return [Base(pool.name, volume.name, tuple(volume.users(look=look))) for pool, volume in _volumes(session)]


def prune_bases(session: Session) -> list[Base]:
    """Remove the base images that no overlay and no domain needs, under the pool's lock; return them."""
    # Each that seems free is looked at again under the lock.
    look = Users(session)
    free = ((pool, volume) for pool, volume in _volumes(session) if not volume.users(look=look))
    gone = (volume for pool, volume in free if storage.release_base(pool, volume.path))
    return [Base(volume.pool.name, volume.name, ()) for volume in gone]


def _volumes(session: Session) -> Iterator[tuple[Pool, Volume]]:
    with libvirt_call("list the pools of", f"hypervisor {session.uri}"):
        handles = session.connection.listAllStoragePools(0)
    for pool in (Pool(session, handle) for handle in handles):
        for name in filter(storage.BASE_NAME.fullmatch, pool.volume_names() if pool.active else []):
            volume = Volume.find(pool, name)
            if volume is not None:
                yield pool, volume
