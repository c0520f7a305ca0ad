"""The devices that a definition lists, in short, as a record can hold them: no secret is in it. Pure.

A definition alone cannot tell what its owner took back from what somebody else attached; what was declared last can.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lxml import etree

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.drift.compare import Subject
from cloudify_libvirt.core.drift.rules import EXTRAS, REMOVABLE, content, key, local
from cloudify_libvirt.core.update.definition import Change, changes

_DISK, _LIMITS = "disk ", "iotune "
_SECRET = ("passwd", "passwdValidTo")


def listed(root: Any) -> list[str]:
    """Return the listed devices of a definition: kind and key, and of a disk its content; what has no key as XML.

    After them come the disks that have limits.
    """
    devices = list(root.iterfind("devices/*"))
    return [*(_entry(one) for one in devices if local(one) in EXTRAS["devices"]), *filter(None, map(_limits, devices))]


def _limits(device: Any) -> str:
    return f"{_LIMITS}{key(device)}" if local(device) == "disk" and device.find("iotune") is not None else ""


def _entry(element: Any) -> str:
    name = key(element)
    if name:
        return f"{local(element)} {name} {content(element) if local(element) == 'disk' else ''}".strip()
    twin = copy.deepcopy(element)
    twin.tail = None
    for attribute in _SECRET:
        twin.attrib.pop(attribute, None)
    return " ".join(etree.tostring(twin, encoding="unicode").split())


def taken_back(last: Iterable[str], now: Iterable[str]) -> list[str]:
    """Return what was listed before and is not any more."""
    return list((Counter(last) - Counter(now)).elements())


def disks(entries: Iterable[str]) -> list[tuple[str, str]]:
    """Return target and content of the listed disks."""
    words = (entry.split(" ", 2) for entry in entries if entry.startswith(_DISK))
    return [(one[1], one[2]) for one in words if len(one) > 2]


def contents(entries: Iterable[str]) -> set[str]:
    """Return the contents of the listed disks."""
    return {content_ for _target, content_ in disks(entries)}


def stands(subject: Subject, entry: str, device: Any) -> bool:
    """Tell whether an entry is of a device that was found: it is the device, or it has the limits."""
    return entry == _limits(device) or is_one(subject, [entry], device)


def is_known(subject: Subject, last: Iterable[str], now: Iterable[str], change: Change) -> bool:
    """Tell whether what is there and not declared was declared before; what never was is not ours to take away.

    Such are whole devices, limits of a disk without declared ones, and the medium of a drive that is declared empty.
    """
    found = change.spot.found
    if change.goes:
        return is_one(subject, taken_back(last, now), found)
    if change.spot.wanted is not None or change.spot.attribute is not None:
        return True
    disk = found.getparent()
    if local(found) == "iotune":
        return _limits(disk) in last
    if local(found) == "source" and disk.get("device") in REMOVABLE:
        return content(disk) in contents(last)
    return True


def is_one(subject: Subject, entries: Iterable[str], element: Any) -> bool:
    """Tell whether a device that was found is one of the entries."""
    names = {_entry(element)}
    if local(element) == "disk":
        there = content(element)
        stood_for = (declared for declared, files in subject.instead.items() if there in files)
        names |= {f"{_DISK}{key(element)} {declared}" for declared in stood_for}
    return any(entry in names or (entry.startswith("<") and _says(subject, entry, element)) for entry in entries)


def _says(subject: Subject, entry: str, element: Any) -> bool:
    """Tell whether a device says all that an entry does; libvirt adds to it."""
    wanted = parse.document(entry)
    if local(wanted) != local(element):
        return False
    differing = changes(subject, _alone(wanted), _alone(element))
    return all(change.spot.wanted is None for change in differing)


def _alone(element: Any) -> Any:
    root = etree.Element("part")
    root.append(copy.deepcopy(element))
    return root


@dataclass(frozen=True)
class Elsewhere:
    """A disk whose content is another than what is declared, and than what any blueprint declared before."""

    field: str
    declared: str
    found: str


def elsewhere(subject: Subject, wanted: Any, found: Any, last: Iterable[str]) -> Iterator[Elsewhere]:
    """Yield the disks that would lose their content."""
    known, asked = contents(last), {key(disk): disk for disk in _fixed(wanted)}
    there = {key(disk): content(disk) for disk in _fixed(found)}
    for name, now in there.items():
        field = subject.names.get(f"{_DISK}{name}") or f"disks[{name}]"
        if name in asked:
            declared = content(asked[name])
            if now not in subject.instead.get(declared, frozenset()) and now not in (declared, *known):
                yield Elsewhere(field, declared, now)
            continue
        # At another place, and still what stands for what is to be attached.
        for other in (one for one in map(content, asked.values()) if one not in there.values()):
            if now in subject.instead.get(other, frozenset()):
                yield Elsewhere(field, other, now)


def _fixed(root: Any) -> Iterator[Any]:
    yield from (disk for disk in root.findall("devices/disk") if disk.get("device") not in REMOVABLE)
