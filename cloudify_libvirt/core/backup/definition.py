"""A domain's definition for another domain made from its backup. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lxml import etree

from cloudify_libvirt.core.identity import mac_address
from cloudify_libvirt.core.parse import document

# What belongs to the one domain: our mark, its place in a running host, its firmware's memory, its logs.
_OWN = ("metadata", "os/nvram", "devices/disk/backingStore", "devices/disk/mirror", "devices/interface/target",
        "devices/serial/log", "devices/console/log", "devices/channel[@type='unix']/source", "genid")  # fmt: skip
_EMPTY_DRIVES = ("cdrom", "floppy")


@dataclass(frozen=True)
class RestoredDisk:
    """A disk as it is now: a file, and its format."""

    path: str
    format: str


def another(xml: str, name: str, uuid: str, disks: Mapping[str, RestoredDisk]) -> tuple[str, list[str]]:
    """Return the definition of a second domain with these disks, and what it lacks of the first.

    Its cards have addresses derived from its UUID. Drives for media are empty, but for those among ``disks``; disks
    that were not in the backup are left out.
    """
    root = document(xml)
    for tag, value in (("name", name), ("uuid", uuid)):
        element = root.find(tag)
        if element is None:
            element = etree.SubElement(root, tag)
        element.text = value
    for path in _OWN:
        for element in root.findall(path):
            element.getparent().remove(element)
    lacking = [word for disk in root.findall("devices/disk") for word in _disk(disk, disks)]
    addresses = macs(xml, uuid)
    for mac in root.findall("devices/interface/mac"):
        mac.set("address", addresses[str(mac.get("address"))])
    return etree.tostring(root, encoding="unicode"), lacking


def macs(xml: str, uuid: str) -> dict[str, str]:
    """Return the address that each card of the first domain has in the second."""
    found = (str(mac.get("address")) for mac in document(xml).findall("devices/interface/mac"))
    return {address: mac_address("restored", uuid, number) for number, address in enumerate(found)}


def alone(xml: str, targets: Collection[str]) -> str:
    """Return the definition with these disks standing on no file that it names; "" where it names none."""
    root = document(xml)
    disks = [disk for disk in root.findall("devices/disk") if _target(disk) in targets]
    named = [element for disk in disks for element in disk.findall("backingStore")]
    for element in named:
        element.getparent().remove(element)
    return etree.tostring(root, encoding="unicode") if named else ""


def _target(disk: etree._Element) -> str:
    element = disk.find("target")
    return "" if element is None else str(element.get("dev", ""))


def _disk(disk: etree._Element, disks: Mapping[str, RestoredDisk]) -> list[str]:
    target = _target(disk)
    source, restored = disk.find("source"), disks.get(target)
    if restored is None and disk.get("device") in _EMPTY_DRIVES:
        if source is not None:
            disk.remove(source)
            return [f"the medium of {target}"]
        return []
    if restored is None:
        parent = disk.getparent()
        assert parent is not None
        parent.remove(disk)
        return [f"disk {target}"]
    place = etree.SubElement(disk, "source", {"file": restored.path})
    if source is not None:
        # The copy has the key of the first.
        place.extend(source.findall("encryption"))
        disk.remove(source)
    disk.set("type", "file")
    driver = disk.find("driver")
    if driver is None:
        driver = etree.SubElement(disk, "driver", {"name": "qemu"})
    driver.set("type", restored.format)
    return []
