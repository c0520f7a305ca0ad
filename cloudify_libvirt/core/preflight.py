"""Checks before anything is made: may QEMU's user reach the image, is there memory, are MACs free."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.errors import AccessDenied, Conflict, CoreError, Missing, libvirt_call, quiet
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.units import human_size


def check_paths(session: Session, paths: Iterable[str], label: str) -> None:
    """Raise when a disk does not exist, or a directory above it is closed for the guests' user.

    Only for hypervisors on this machine: other hosts' files cannot be seen from here.
    """
    if not session.is_local or session.driver != "qemu":
        return
    user = parse.hypervisor_user(session.fact("capabilities", session.connection.getCapabilities))
    for path in paths:
        _check_exists(Path(path), label)
        if user is not None and user[0] != 0:
            _check_traversal(Path(path), user, label)


def _check_exists(path: Path, label: str) -> None:
    if not path.exists():
        raise Missing("use", f"disk {path} for {label}", "the file does not exist", "Check the path in params.disks.")


def _check_traversal(path: Path, user: tuple[int, int], label: str) -> None:
    for directory in reversed(path.resolve().parents):
        if not _may_traverse(directory, *user):
            raise AccessDenied(
                "use",
                f"disk {path} for {label}",
                f"the hypervisor's user (uid {user[0]}, gid {user[1]}) may not enter directory {directory}",
                f"Allow it (setfacl -m u:{user[0]}:x '{directory}'), or keep the image in a pool such as "
                "/var/lib/libvirt/images.",
            )


def _may_traverse(directory: Path, uid: int, gid: int) -> bool:
    found = directory.stat()
    if _has_acl(directory):
        return True
    if found.st_uid == uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == gid or found.st_gid in _groups(uid):
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def _has_acl(directory: Path) -> bool:
    """Tell whether an access list decides instead of the mode; libvirt's own answer comes at start then."""
    try:
        return "system.posix_acl_access" in os.listxattr(directory)
    except OSError:
        return False


def _groups(uid: int) -> set[int]:
    import grp
    import pwd

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return set()
    return {group.gr_gid for group in grp.getgrall() if name in group.gr_mem}


def check_memory(session: Session, wanted_kib: int, label: str) -> None:
    """Raise when the host has not that much memory free (free, buffers and cache)."""
    stats = quiet(lambda: session.connection.getMemoryStats(-1, 0), None)
    if not stats or "free" not in stats:
        return
    free_kib = sum(int(stats.get(kind, 0)) for kind in ("free", "buffers", "cached"))
    if wanted_kib > free_kib:
        raise CoreError(
            "start",
            label,
            f"it needs {human_size(wanted_kib * 1024)}, the host has {human_size(free_kib * 1024)} left",
            "Give it less memory, or stop other domains.",
        )


def check_macs(session: Session, macs: Iterable[str], uuid: str, label: str) -> None:
    """Raise ``Conflict`` when another domain of the host has one of the MACs."""
    wanted = set(macs)
    for name, other_uuid, mac in domain_macs(session):
        if other_uuid != uuid and mac in wanted:
            raise Conflict(
                "define",
                label,
                f"MAC {mac} belongs to domain '{name}'",
                "Give the interface another mac, or leave it out to get a free one.",
            )


def domain_macs(session: Session) -> list[tuple[str, str, str]]:
    """Return (domain name, UUID, MAC) of every network card of the host's domains."""
    with libvirt_call("list the domains of", f"hypervisor {session.uri}"):
        domains = session.connection.listAllDomains(0)
    described = ((d.name(), d.UUIDString(), quiet(d.XMLDesc, "")) for d in domains)
    return [(name, uuid, card.mac) for name, uuid, xml in described if xml for card in parse.domain(xml).interfaces]
