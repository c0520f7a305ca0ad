"""Is there room: memory, disks, and ways that the guests' user may walk."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from cloudify_libvirt.core.doctor.finding import Finding, Target, ok, problem, unknown, warning
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import libvirt_call
from cloudify_libvirt.core.host import preflight
from cloudify_libvirt.core.image.cache import ImageCache
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.units import MIB, human_size

# A guest of a distribution wants half a GiB; with less than 64 MiB on a disk not even an overlay can grow.
_LITTLE_MEMORY_KIB = 512 << 10
_LITTLE_DISK, _NO_DISK = 2048 * MIB, 64 * MIB


def memory(target: Target) -> Iterator[Finding]:
    """Tell how much memory is left for guests."""
    free_kib = preflight.free_memory_kib(target.connected)
    if free_kib is None:
        yield unknown("memory", "the hypervisor does not say")
        return
    found = f"{human_size(free_kib * 1024)} left"
    if free_kib < _LITTLE_MEMORY_KIB:
        command = "virsh list # and stop what is not needed"
        yield warning("memory", found, "few guests start with that", command)
    else:
        yield ok("memory", found)


def disks(target: Target) -> Iterator[Finding]:
    """Tell how much room the active pools have, and the image cache here."""
    for pool in active_pools(target.connected):
        yield room_left(f"pool '{pool.name}' ({pool.path})", pool.available_bytes, pool.path)
    cache = nearest(ImageCache().directory)
    yield room_left(f"image cache ({cache})", free_bytes(cache), str(cache))


def room_left(what: str, left: int, path: str) -> Finding:
    """Judge the room that is left."""
    command, found = f"du -xh --max-depth=2 {shlex.quote(path)} | sort -h | tail", f"{human_size(left)} left"
    if left < _NO_DISK:
        return problem(what, found, "guests stop with an error when it is full", command)
    if left < _LITTLE_DISK:
        return warning(what, found, "it is full soon", command)
    return ok(what, found)


def active_pools(session: Session) -> list[Pool]:
    """Return the pools that are active."""
    with libvirt_call("list the pools of", session.uri):
        handles = session.connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
    return sorted((Pool(session, handle) for handle in handles), key=lambda pool: pool.name)


def free_bytes(directory: Path) -> int:
    """Return what is left on the file system."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def nearest(path: Path) -> Path:
    """Return the directory itself, or the nearest one above that is there."""
    return next(one for one in (path, *path.parents) if one.is_dir())


def paths(target: Target) -> Iterator[Finding]:
    """Tell whether the guests' user may walk to every pool's volumes and to every image that was named."""
    pools = [(f"pool '{pool.name}'", f"{pool.path}/volume") for pool in active_pools(target.connected)]
    named = [(f"image {path}", path) for path in target.images]
    for what, path in [*pools, *named]:
        if path.startswith("/") and not path.startswith("/dev/"):
            yield walked(target.connected, what, path)
    for path in target.images:
        if not Path(path).exists():
            yield problem(f"image {path}", "there is no such file", "a guest with it does not start")


def walked(session: Session, what: str, path: str) -> Finding:
    """Tell whether the guests' user may walk to ``path``."""
    try:
        closed = preflight.closed_directory(session, path)
    except OSError as error:
        return unknown(f"way to {what}", f"{error.filename}: {error.strerror}")
    if closed is None:
        return ok(f"way to {what}", "the guests' user may go there")
    directory, user = closed
    found = f"uid {user[0]} may not enter {directory}"
    why = "guests fail with 'cannot access storage file: Permission denied'"
    return problem(f"way to {what}", found, why, f"chmod o+x {shlex.quote(str(directory))}")
