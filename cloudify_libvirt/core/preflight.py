"""Checks before anything is made: may QEMU's user reach the image, is there memory, are MACs free."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cloudify_libvirt.core import hostnet, network, parse
from cloudify_libvirt.core.errors import AccessDenied, CoreError, Missing, Unsupported, libvirt_call, quiet
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.units import human_size


def check_paths(session: Session, existing: Iterable[str], planned: Iterable[str], label: str) -> None:
    """Raise when an existing disk is not there, or a directory above any disk is closed for the guests' user.

    Only for hypervisors on this machine: other hosts' files cannot be seen from here.
    """
    if not session.is_local or session.driver != "qemu":
        return
    user = parse.hypervisor_user(session.fact("capabilities", session.connection.getCapabilities))
    disks = list(existing)
    # What we may not look at ourselves is left to libvirt to judge.
    for path in disks:
        with suppress(PermissionError):
            _check_exists(Path(path), label)
    if user is not None and user[0] != 0:
        for path in [*disks, *planned]:
            with suppress(PermissionError):
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
                f"Allow it (setfacl -m u:{user[0]}:x '{directory}', or chmod o+x '{directory}'), "
                "or keep disks in a pool such as /var/lib/libvirt/images.",
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


def taken_macs(session: Session, uuid: str) -> dict[str, str]:
    """Return the MACs in use by others than the domain with that UUID, each with who uses it, in words."""
    taken = {mac: f"domain '{name}'" for name, other, mac in domain_macs(session) if other != uuid}
    with suppress(Unsupported):  # hypervisors without networks of their own
        for name, facts in network.others(session, ""):
            if facts.mac:
                taken.setdefault(facts.mac, f"the bridge of network '{name}'")
    if session.is_local:
        for mac, interface in hostnet.macs().items():
            taken.setdefault(mac, f"the host's interface {interface}")
    return taken


def domain_macs(session: Session) -> list[tuple[str, str, str]]:
    """Return (domain name, UUID, MAC) of every network card of the host's domains."""
    with libvirt_call("list the domains of", f"hypervisor {session.uri}"):
        domains = session.connection.listAllDomains(0)
    known = ((d.name(), uuid := d.UUIDString(), session.domain_fact(uuid, partial(_macs, d))) for d in domains)
    return [(name, uuid, mac) for name, uuid, macs in known for mac in macs]


def _macs(handle: Any) -> tuple[str, ...]:
    xml = quiet(handle.XMLDesc, "")
    return tuple(card.mac for card in parse.domain(xml).interfaces) if xml else ()
