"""Checks before anything is made: may QEMU's user reach the image, is there memory, are MACs free."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from cloudify_libvirt.core import network, parse
from cloudify_libvirt.core.errors import AccessDenied, Conflict, CoreError, Missing, Unsupported, quiet
from cloudify_libvirt.core.host import hostnet
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.units import human_size


def check_paths(session: Session, existing: Iterable[str], planned: Iterable[str], label: str) -> None:
    """Raise when an existing disk is not there, or a directory above any disk is closed for the guests' user.

    Only for hypervisors on this machine: other hosts' files cannot be seen from here.
    """
    if not session.is_local or session.driver != "qemu":
        return
    disks = list(existing)
    # What we may not look at ourselves is left to libvirt to judge.
    for path in disks:
        with suppress(PermissionError):
            _check_exists(Path(path), label)
    for path in [*disks, *planned]:
        with suppress(PermissionError):
            check_way(session, path, label)


def _check_exists(path: Path, label: str) -> None:
    if not path.exists():
        raise Missing("use", f"disk {path} for {label}", "the file does not exist", "Check the path in params.disks.")


def check_way(session: Session, path: str, label: str) -> None:
    """Raise when a directory above ``path`` is closed for the guests' user."""
    closed = closed_directory(session, path)
    if closed is not None:
        directory, user = closed
        raise AccessDenied(
            "use",
            f"disk {path} for {label}",
            f"the hypervisor's user (uid {user[0]}, gid {user[1]}) may not enter directory {directory}",
            f"Allow it (setfacl -m u:{user[0]}:x '{directory}', or chmod o+x '{directory}'), "
            "or keep disks in a pool such as /var/lib/libvirt/images.",
        )


def guests_user(session: Session) -> tuple[int, int] | None:
    """Return uid and gid that guests run as, or None where the host does not say."""

    def ask() -> tuple[int, int] | None:
        return parse.hypervisor_user(session.fact("capabilities", session.connection.getCapabilities))

    found: tuple[int, int] | None = session.fact("user of guests", ask)
    return found


def closed_directory(session: Session, path: str) -> tuple[Path, tuple[int, int]] | None:
    """Return the topmost directory above ``path`` that the guests' user may not enter, and that user; None if none.

    Raises:
        OSError: a directory is not there, or we may not look at it ourselves.
    """
    user = guests_user(session)
    if user is None or user[0] == 0:
        return None
    ways = reversed(Path(path).resolve().parents)
    return next(((directory, user) for directory in ways if not _may_traverse(directory, *user)), None)


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


def check_memory(session: Session, wanted_kib: int, label: str, action: str = "start") -> None:
    """Raise when the host has not that much memory free (free, buffers and cache)."""
    free_kib = free_memory_kib(session)
    if free_kib is not None and wanted_kib > free_kib:
        raise CoreError(
            action,
            label,
            f"it needs {human_size(wanted_kib * 1024)}, the host has {human_size(free_kib * 1024)} left",
            "Give it less memory, or stop other domains.",
        )


def free_memory_kib(session: Session) -> int | None:
    """Return what is left for guests (free, buffers and cache), or None where the hypervisor does not say."""
    stats = quiet(lambda: session.connection.getMemoryStats(-1, 0), None)
    if not stats or "free" not in stats:
        return None
    return sum(int(stats.get(kind, 0)) for kind in ("free", "buffers", "cached"))


class TakenMacs(Mapping[str, str]):
    """MACs in use, each with who uses it, in words; of hundreds of domains only for the one that is asked for."""

    def __init__(self, domains: dict[str, str], others: dict[str, str]) -> None:
        """Take the names of domains, and who else there is in words, by MAC."""
        self._domains, self._others = domains, others

    def __getitem__(self, mac: str) -> str:
        name = self._domains.get(mac)
        return self._others[mac] if name is None else f"domain '{name}'"

    def __contains__(self, mac: object) -> bool:
        return mac in self._domains or mac in self._others

    def __iter__(self) -> Iterator[str]:
        return iter(self._domains.keys() | self._others.keys())

    def __len__(self) -> int:
        return len(self._domains.keys() | self._others.keys())


def taken_macs(session: Session, uuid: str, *, fresh: bool = False) -> TakenMacs:
    """Return the MACs in use by others than the domain with that UUID."""
    domains = {mac: name for name, other, mac in domain_macs(session, fresh=fresh) if other != uuid}
    others: dict[str, str] = {}
    with suppress(Unsupported):  # hypervisors without networks of their own
        for name, facts in network.others(session, ""):
            if facts.mac:
                others.setdefault(facts.mac, f"the bridge of network '{name}'")
    if session.shares_files:
        for mac, interface in hostnet.macs().items():
            others.setdefault(mac, f"the host's interface {interface}")
    return TakenMacs(domains, others)


def check_macs(session: Session, uuid: str, macs: Iterable[str], label: str, *, fresh: bool = False) -> None:
    """Raise ``Conflict`` when another domain has one of the MACs; the next try chooses others, or says so for good."""
    wanted = set(macs)
    for name, other, mac in domain_macs(session, fresh=fresh) if wanted else ():
        if mac in wanted and other != uuid:
            reason, remedy = f"domain '{name}' has taken MAC {mac} meanwhile", "Give the interface another mac."
            raise Conflict("define", label, reason, remedy, retryable=True)


@contextmanager
def mac_for(session: Session, uri: str, uuid: str, mac: str, label: str) -> Iterator[None]:
    """Hold the host's MACs while a card with that one is given to the domain with that UUID.

    Raises:
        Conflict: somebody else has the MAC.
    """
    with host_lock(uri, "macs"):
        holder = taken_macs(session, uuid, fresh=True).get(mac)
        if holder is not None:
            reason = f"MAC {mac} belongs to {holder}"
            raise Conflict("attach a card to", label, reason, "Give the card another mac.")
        yield


def domain_macs(session: Session, *, fresh: bool = False) -> Iterator[tuple[str, str, str]]:
    """Yield (domain name, UUID, MAC) of every network card of the host's domains, of all its drivers.

    Of cards that were attached to domains that are off libvirt sends no event: ``fresh`` reads all definitions.
    """
    if fresh:
        return chain.from_iterable(map(_cards, session.all_domains()))
    # Each driver's own session hears of its domains' changes.
    return chain.from_iterable(cards for driver in session.drivers() for cards in driver.of_domains(_cards))


def _cards(handle: Any) -> tuple[tuple[str, str, str], ...]:
    xml = quiet(handle.XMLDesc, "")
    who = (handle.name(), handle.UUIDString())
    return tuple((*who, mac) for mac in parse.macs(xml)) if xml else ()
