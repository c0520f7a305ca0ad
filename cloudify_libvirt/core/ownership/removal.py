"""Removal of what a journal says was made for a domain: volumes, container roots, fixed addresses."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cloudify_libvirt.core.errors import CoreError, InUse, Unsupported
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage.users import Users
from cloudify_libvirt.core.volume import Volume

Warn = Callable[[str], None]
Made = Mapping[str, Any]


def local_directory(pool: Pool, name: str) -> Path:
    """Return where a container's root lies.

    Raises:
        Unsupported: on another machine.
    """
    if not pool.session.is_local:
        raise Unsupported(
            "make",
            f"the root of a container on {pool.session.uri}",
            "its files can only be unpacked on the hypervisor's own machine",
            "Run cfy there, or give disks: [{file: DIRECTORY}] that exists on that host.",
        )
    return Path(pool.path) / name


def release(session: Session, reservations: Iterable[Made]) -> None:
    """Drop fixed addresses; fine where they, or their network, are gone."""
    for entry in reservations:
        network = Network.find(session, entry["network"])
        if network is not None:
            network.release(entry["mac"], entry["ip"])


def remove_parts(session: Session, made: Iterable[Made], besides: str, warn: Warn) -> None:
    """Remove volumes and roots, the last one first; what others than the domain ``besides`` use stays, with a warning.

    ``made``: {pool, name, kind} of each.
    """
    look = Users(session)
    for entry in reversed(list(made)):
        try:
            _remove(session, entry, besides, look)
        except InUse as error:
            warn(f"left volume '{entry['name']}' alone: {error.reason}")


def _remove(session: Session, entry: Made, besides: str, look: Users) -> None:
    pool = Pool.find(session, entry["pool"])
    if pool is None or pool.vanished:
        return
    pool.start()
    if entry["kind"] == "rootfs":
        _remove_directory(pool, entry["name"], besides)
    else:
        storage.remove(pool, entry["name"], besides, look=look)


def _remove_directory(pool: Pool, name: str, besides: str) -> None:
    directory = local_directory(pool, name)
    if not directory.exists():
        return
    pool.refresh()
    volume = Volume.find(pool, name)
    users = volume.users(besides) if volume else []
    if users:
        raise InUse(
            "delete", f"directory {directory}", f"it is used by {', '.join(users[:5])}", "Remove its users first."
        )
    try:
        shutil.rmtree(directory)
    except OSError as error:
        raise CoreError("delete", f"directory {directory}", str(error), "Is the container still running?") from error
    pool.refresh()
