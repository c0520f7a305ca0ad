"""What is done with points that are there: listed, deleted, rotated; and the store that an address names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudify_libvirt.core.backup import chain, checkpoint
from cloudify_libvirt.core.backup.chain import Keep
from cloudify_libvirt.core.backup.manifest import Manifest
from cloudify_libvirt.core.backup.names import checkpoint_prefix, point_name
from cloudify_libvirt.core.backup.poolstore import PoolStore
from cloudify_libvirt.core.backup.store import DirectoryStore, Store
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import BackupBroken, Busy, InvalidSpec
from cloudify_libvirt.core.host.lock import host_lock

LOCK_TIMEOUT_S = 2.0


@contextmanager
def held(domain: Domain, store: Store) -> Iterator[None]:
    """Hold domain and store alone."""
    with host_lock(domain.session.uri, f"backups of domain {domain.uuid}", LOCK_TIMEOUT_S), store.lock():
        yield


def spare_checkpoints(domain: Domain, store: Store) -> list[str]:
    """Return the domain's checkpoints of this store but that of the newest point: no increment begins at them."""
    points, _damaged = store.manifests()
    mine = [one for one in chain.ordered(points) if one.checkpoint and one.uuid == domain.uuid]
    prefix = checkpoint_prefix(store.label)
    # Also those of the time when the directory had another path.
    earlier = {one.checkpoint for one in mine[:-1]}
    newest = mine[-1].checkpoint if mine else ""
    return sorted(n for n in checkpoint.names(domain) if (n.startswith(prefix) or n in earlier) and n != newest)


def let_go(domain: Domain, store: Store) -> list[str]:
    """Drop the checkpoints that no point of the store needs any more; return what could not go, in words.

    After the last point none is left, and the guest can go back to its snapshots.
    """
    try:
        with held(domain, store):
            return checkpoint.drop_all(domain, spare_checkpoints(domain, store))
    except Busy as error:
        # Who has it does the same at its end.
        return [f"the checkpoints: {error.reason}"]


@dataclass(frozen=True)
class Place:
    """Where backups are kept: a directory of this machine, or a pool of the host at ``uri``."""

    directory: str = ""
    pool: str = ""
    uri: str = ""

    def store(self, deployment: str, domain: str) -> Store:
        """Return the store of one domain's points; raise ``InvalidSpec`` when names or place are wrong."""
        if bool(self.directory) == bool(self.pool):
            reason = "neither a directory nor a pool is named" if not self.pool else "a directory and a pool are named"
            raise InvalidSpec("find", f"the backups of {domain}", reason, "Name one of them.")
        if self.pool:
            return PoolStore(self.uri, self.pool, deployment, domain)
        return DirectoryStore(Path(self.directory), deployment, domain)


def listed(store: Store) -> tuple[list[Manifest], dict[str, str]]:
    """Return the points, the oldest first, and why others cannot be read."""
    points, damaged = store.manifests()
    return chain.ordered(points), damaged


def show(store: Store, point: str) -> Manifest:
    """Return one point; "" is the newest."""
    points, damaged = store.manifests()
    if point in damaged:
        raise BackupBroken("read", store.of(point), damaged[point])
    return chain.get(points, point, store.label)


def delete(store: Store, point: str) -> None:
    """Delete a point; one that is damaged, too.

    Raises:
        InUse: other points stand on it.
        Missing: there is none of that name.
    """
    with store.lock():
        points, damaged = store.manifests()
        if point_name(point) not in damaged:
            chain.get(points, point, store.label)
        chain.refuse_dependants(points, point, store.label)
        store.delete(point)


def prune(store: Store, keep: Keep, *, dry_run: bool = False) -> list[str]:
    """Delete what a rotation lets go, never what a kept point stands on; return the names.

    Damaged points stay: what stands on them cannot be known.
    """
    with store.lock():
        points, _damaged = store.manifests()
        going = chain.expired(points, keep)
        for point in [] if dry_run else going:
            store.delete(point)
        return going
