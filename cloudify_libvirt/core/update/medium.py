"""The drives of running guests that hold a volume: opened before its content changes, closed after.

A guest that is not told goes on with what it has read of the old content.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainUpdateDeviceFlags
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lxml import etree

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.drift.rules import REMOVABLE
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.states import RUNNING
from cloudify_libvirt.core.update import hotplug
from cloudify_libvirt.core.volume import Volume, refuse_users, running_disks

# What a running domain's document says of a medium beside what it is.
_OF_THE_RUN = ("backingStore", "alias")


@dataclass(frozen=True)
class Drive:
    """A drive of a running domain, by the domain's UUID, with the medium that it held, as XML."""

    domain: str
    device: str


def drives(volume: Volume) -> list[Drive]:
    """Return the drives of running domains that hold the volume.

    Raises:
        InUse: a running domain has it as a disk, which cannot be taken out.
    """
    found, fixed = [], []
    for handle, disk in running_disks(volume):
        domain = Domain(volume.pool.session, handle)
        if disk.device in REMOVABLE:
            found.append(Drive(domain.uuid, _with_medium(domain, disk.target)))
        else:
            fixed.append(f"running domain '{domain.name}', as its disk {disk.target}")
    refuse_users(volume, "change the content of", fixed)
    return found


def _drive(domain: Domain, target: str) -> Any:
    found = parse.document(domain.xml()).find(f"devices/disk/target[@dev='{target}']")
    return None if found is None else found.getparent()


def _with_medium(domain: Domain, target: str) -> str:
    drive = _drive(domain, target)
    for tag in _OF_THE_RUN:
        for one in drive.findall(tag):
            drive.remove(one)
    drive.find("source").attrib.pop("index", None)
    return str(etree.tostring(drive, encoding="unicode", with_tail=False))


def open_drive(session: Session, drive: Drive) -> None:
    """Take the medium out, in the running domain alone; raise when its guest keeps the drive shut."""
    domain, empty = _running(session, drive), parse.document(drive.device)
    empty.remove(empty.find("source"))
    if domain is not None:
        hotplug.update_live(domain, empty)


def close_drive(session: Session, drive: Drive) -> None:
    """Put the medium in again, where the domain runs still and its drive is empty."""
    domain, full = _running(session, drive), parse.document(drive.device)
    there = None if domain is None else _drive(domain, full.find("target").get("dev"))
    if domain is not None and there is not None and _is_empty(there.find("source")):
        hotplug.update_live(domain, full)


def _is_empty(source: Any) -> bool:
    # Of a drive that was opened libvirt keeps an element that only counts.
    return source is None or not set(source.attrib) - {"index"}


def _running(session: Session, drive: Drive) -> Domain | None:
    domain = Domain.find_by_uuid(session, drive.domain)
    return domain if domain is not None and domain.state in RUNNING else None
