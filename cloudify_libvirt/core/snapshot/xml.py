"""libvirt's documents of snapshots, read and changed. Pure.

Source: https://libvirt.org/formatsnapshot.html
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from lxml import etree

from cloudify_libvirt.core.parse import bad, document, number


@dataclass(frozen=True)
class DiskState:
    """One disk of a domain; ``kind`` is libvirt's type of the source: file, volume, block, network, ...

    ``secret``: UUID of the secret with the key of a disk that is encrypted with LUKS, ``engine``: who decrypts it.
    """

    target: str
    path: str
    format: str
    kind: str
    device: str
    readonly: bool
    pool: str = ""
    volume: str = ""
    encrypted: bool = False
    ready: bool = False
    secret: str = ""
    engine: str = ""


@dataclass(frozen=True)
class SnapshotFacts:
    """What libvirt knows of one snapshot.

    ``overlays`` are the files that came with it (target: path), ``sources`` the disks as they were (target: path),
    ``secrets`` has the UUIDs of their keys, "" of a plain one, ``volumes`` pool and name of those that have no path in
    ``sources``; ``memory`` is no, internal or external, ``created`` seconds since 1970, ``state`` that of the guest
    then. Of a guest that ran, its disks are those that it ran with.
    """

    name: str
    parent: str
    description: str
    created: int
    state: str
    memory: str
    memory_file: str
    internal: tuple[str, ...]
    overlays: Mapping[str, str]
    sources: Mapping[str, str]
    formats: Mapping[str, str]
    secrets: Mapping[str, str]
    volumes: Mapping[str, tuple[str, str]]
    hotplugged_cpus: bool

    @property
    def external(self) -> bool:
        """Tell whether files came with it."""
        return bool(self.overlays) or self.memory == "external"

    @property
    def files(self) -> tuple[str, ...]:
        """Return the files that came with it."""
        return (*self.overlays.values(), *([self.memory_file] if self.memory_file else []))


def facts(xml: str) -> SnapshotFacts:
    """Read one snapshot."""
    root = document(xml)
    memory = root.find("memory")
    disks = {disk.get("name", ""): disk for disk in root.findall("disks/disk")}
    saved = [_disk(element) for element in root.findall("domain/devices/disk")]
    return SnapshotFacts(
        name=_text(root, "name"),
        parent=_text(root, "parent/name"),
        description=_text(root, "description"),
        created=number(_text(root, "creationTime")),
        state=_text(root, "state"),
        memory="no" if memory is None else memory.get("snapshot", "no"),
        memory_file="" if memory is None else memory.get("file", ""),
        internal=tuple(name for name, disk in disks.items() if disk.get("snapshot") == "internal"),
        overlays={name: _overlay(disk) for name, disk in disks.items() if disk.get("snapshot") == "external"},
        sources={disk.target: disk.path for disk in saved if disk.path},
        formats={disk.target: disk.format for disk in saved},
        secrets={disk.target: disk.secret for disk in saved},
        volumes={disk.target: (disk.pool, disk.volume) for disk in saved if disk.volume and not disk.path},
        hotplugged_cpus=root.find("domain/vcpus/vcpu[@enabled='yes'][@hotpluggable='yes']") is not None,
    )


def without_own(snapshot_xml: str) -> str:
    """Return the snapshot without the files that came with its disks: what is named still it stands on."""
    root = document(snapshot_xml)
    for element in root.findall("disks"):
        root.remove(element)
    return etree.tostring(root, encoding="unicode")


def disks(domain_xml: str) -> list[DiskState]:
    """Read the disks of a domain."""
    return [_disk(element) for element in document(domain_xml).findall("devices/disk")]


def chain(domain_xml: str, target: str) -> list[str]:
    """Return the files of a running domain's disk, the one that is written to first."""
    disks = document(domain_xml).findall("devices/disk")
    disk = next((disk for disk in disks if _attribute(disk, "target", "dev") == target), None)
    found: list[str] = []
    while disk is not None:
        source = disk.find("source")
        found += [] if source is None else [source.get("file", "") or source.get("dev", "")]
        disk = disk.find("backingStore")
    return [path for path in found if path]


def saved_domain(snapshot_xml: str) -> str:
    """Return the stored definition that the domain had at the snapshot."""
    root = document(snapshot_xml)
    found = root.find("inactiveDomain")
    if found is None:
        found = root.find("domain")
    if found is None:
        raise bad("the snapshot has no definition of its domain")
    found.tag = "domain"
    return etree.tostring(found, encoding="unicode")


def with_sources(domain_xml: str, sources: Mapping[str, str]) -> str:
    """Return the definition with these disks (target: path) as qcow2 files, encrypted as they are."""
    root = document(domain_xml)
    for disk in root.findall("devices/disk"):
        path = sources.get(_attribute(disk, "target", "dev"))
        if path is None:
            continue
        below, encryption = _below(disk), disk.find("source/encryption")
        for name in ("source", "backingStore", "mirror"):
            for element in disk.findall(name):
                disk.remove(element)
        disk.set("type", "file")
        _driver(disk).set("type", "qcow2")
        source = etree.SubElement(disk, "source", {"file": path})
        if encryption is not None:
            source.append(encryption)
        disk.extend(below)
    return etree.tostring(root, encoding="unicode")


def _below(disk: Any) -> list[Any]:
    """Return what an overlay of an encrypted disk stands on: libvirt finds the file itself, but not its key.

    Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms (backingStore)
    """
    source = disk.find("source")
    encryption = [deepcopy(one) for one in (*disk.findall("source/encryption"), *disk.findall("encryption"))]
    if source is None or not encryption:
        return []
    found = etree.Element("backingStore", {"type": disk.get("type", "file")})
    etree.SubElement(found, "format", {"type": _attribute(disk, "driver", "type") or "raw"})
    etree.SubElement(found, "source", {"file": source.get("file", "")}).append(encryption[0])
    found.extend(deepcopy(one) for one in disk.findall("backingStore"))
    return [found]


def with_below(domain_xml: str, snapshot_xml: str) -> str:
    """Return the definition with what the overlays of the snapshot's encrypted disks stand on; "" if it is there."""
    root, saved = document(domain_xml), document(saved_domain(snapshot_xml))
    overlays = facts(snapshot_xml).overlays
    before = {_attribute(disk, "target", "dev"): disk for disk in saved.findall("devices/disk")}
    changed = False
    for disk in root.findall("devices/disk"):
        target = _attribute(disk, "target", "dev")
        if target not in overlays or disk.find("backingStore") is not None:
            continue
        below = _below(before[target]) if _attribute(disk, "source", "file") == overlays[target] else []
        disk.extend(below)
        changed = changed or bool(below)
    return etree.tostring(root, encoding="unicode") if changed else ""


def _driver(disk: Any) -> Any:
    found = disk.find("driver")
    return etree.SubElement(disk, "driver", {"name": "qemu"}) if found is None else found


def moved(snapshot_xml: str, paths: Mapping[str, tuple[str, str]]) -> str:
    """Return the snapshot with files that went (path: new path and format) replaced in its saved domain; "" if none."""
    root = document(snapshot_xml)
    disks = root.findall("domain/devices/disk") + root.findall("inactiveDomain/devices/disk")
    changed = [disk for disk in disks if _moved(disk, paths)]
    return etree.tostring(root, encoding="unicode") if changed else ""


def _moved(disk: Any, paths: Mapping[str, tuple[str, str]]) -> bool:
    """Let a disk, and what it is said to stand on, do without the files that went; tell whether it had one."""
    source, found = disk.find("source"), False
    for element in disk.findall(".//backingStore"):
        path = _attribute(element, "source", "file")
        if path in paths and element.find("backingStore") is not None:
            # What it was written into is the next one down.
            element.getparent().replace(element, element.find("backingStore"))
            found = True
    if source is None or source.get("file") not in paths:
        return found
    path, format_ = paths[source.get("file")]
    source.set("file", path)
    _driver(disk).set("type", format_)
    for element in disk.findall("backingStore"):
        disk.remove(element)
        if _attribute(element, "source", "file") == path:
            disk.extend(element.findall("backingStore"))
    return True


def completed(snapshot_xml: str, planned_xml: str) -> str:
    """Return a user's snapshot with the disks and the memory of the planned one, where it says nothing of them."""
    root, planned = document(snapshot_xml), document(planned_xml)
    if root.find("disks") is None:
        for name in ("memory", "disks"):
            for element in root.findall(name):
                root.remove(element)
            found = planned.find(name)
            if found is not None:
                root.append(found)
    return etree.tostring(root, encoding="unicode")


def _disk(element: Any) -> DiskState:
    source = element.find("source")
    mirror = element.find("mirror")
    return DiskState(
        target=_attribute(element, "target", "dev"),
        path=_attribute(element, "source", "file") or _attribute(element, "source", "dev"),
        format=_attribute(element, "driver", "type") or "raw",
        kind=element.get("type", "file") if source is not None else "empty",
        device=element.get("device", "disk"),
        readonly=element.find("readonly") is not None,
        pool=_attribute(element, "source", "pool"),
        volume=_attribute(element, "source", "volume"),
        encrypted=element.find("source/encryption") is not None or element.find("encryption") is not None,
        ready=mirror is not None and mirror.get("ready") == "yes",
        secret=_attribute(element, "source/encryption[@format='luks']/secret", "uuid")
        or _attribute(element, "encryption[@format='luks']/secret", "uuid"),
        engine=_attribute(element, "source/encryption", "engine") or _attribute(element, "encryption", "engine"),
    )


def _overlay(disk: Any) -> str:
    return _attribute(disk, "source", "file")


def _attribute(root: Any, path: str, name: str) -> str:
    element = root.find(path)
    return "" if element is None else str(element.get(name, ""))


def _text(root: Any, path: str) -> str:
    return str(root.findtext(path) or "").strip()
