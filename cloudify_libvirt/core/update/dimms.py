"""Memory that comes and goes in DIMMs while the guest runs, and the stored definition, which has it from the start.

Source: https://libvirt.org/formatdomain.html#memory-devices and #memory-allocation (maxMemory)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from lxml import etree

from cloudify_libvirt.core import parse, units
from cloudify_libvirt.core.drift.dimms import ALIAS, ours
from cloudify_libvirt.core.spec.memory import BLOCK_KIB
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.update import hotplug
from cloudify_libvirt.core.wait import wait_until


@dataclass(frozen=True)
class Dimm:
    """One memory device of a running domain."""

    element: Any
    size_kib: int

    @property
    def name(self) -> str:
        """Return its alias."""
        alias = self.element.find("alias")
        return "" if alias is None else str(alias.get("name"))


@dataclass(frozen=True)
class Room:
    """What a running domain's memory is made up of, in KiB; ``top`` bounds all of it."""

    total: int
    top: int
    slots: int
    dimms: tuple[Dimm, ...]

    @classmethod
    def read(cls, xml: str) -> Room | None:
        """Read the definition of a running domain; None: it was not started with slots."""
        root = parse.document(xml)
        top = root.find("maxMemory")
        if top is None:
            return None
        found = tuple(Dimm(one, kib(one.find("target/size"))) for one in root.findall("devices/memory"))
        return cls(kib(root.find("memory")), kib(top), int(top.get("slots", 0)), found)

    def why_not(self, wanted: int) -> str:
        """Return why the running guest cannot have so much; "" where it can."""
        lacks = wanted - self.total
        if lacks <= 0:
            return ""
        if len(self.dimms) >= self.slots:
            return f"all of its memory_slots ({self.slots}) are in use"
        if wanted > self.top - BLOCK_KIB:
            return f"the running guest can have {_size(self.top - BLOCK_KIB)} at most"
        if lacks % BLOCK_KIB:
            near = [self.total + (lacks // BLOCK_KIB + more) * BLOCK_KIB for more in (0, 1)]
            return f"a guest that runs takes blocks of {_size(BLOCK_KIB)}: it can have {' or '.join(map(_size, near))}"
        return ""

    def spare(self, wanted: int) -> list[Dimm]:
        """Return those of our DIMMs that can go, the largest first; the balloon has to take the rest."""
        going, beyond = [], self.total - wanted
        for one in sorted(filter(lambda dimm: ours(dimm.element), self.dimms), key=lambda dimm: -dimm.size_kib):
            if one.size_kib <= beyond:
                going.append(one)
                beyond -= one.size_kib
        return going

    def next_name(self) -> str:
        """Return the first alias that is free."""
        taken = {one.name for one in self.dimms}
        return next(name for number in range(len(taken) + 1) if (name := f"{ALIAS}{number}") not in taken)


def attach(domain: Any, room: Room, size_kib: int) -> None:
    """Give the running guest one more DIMM."""
    element = etree.Element("memory", model="dimm")
    target = etree.SubElement(element, "target")
    etree.SubElement(target, "size", unit="KiB").text = str(size_kib)
    etree.SubElement(target, "node").text = "0"
    etree.SubElement(element, "alias", name=room.next_name())
    hotplug.attach_live(domain, element)


def take_back(domain: Any, going: list[Dimm], timeout_s: float) -> list[Dimm]:
    """Ask the running guest for DIMMs; return those that it has not given back by the deadline."""
    for one in going:
        hotplug.ask_back(domain, one.element, waits=False)

    def left() -> list[Dimm]:
        room = Room.read(domain.xml())
        # Afterwards: of a guest that has just ended it was the stored definition.
        if domain.state in OFF:
            raise domain.failure("take memory back from")
        names = {one.name for one in room.dimms} if room else set()
        return [one for one in going if one.name in names]

    wait_until(lambda: not left(), timeout_s=timeout_s, signal=domain.session.changed)
    return left()


def settle(declared: Any, root: Any, *, with_dimms: bool) -> bool:
    """Give a stored definition the declared memory to start with, and no DIMM of an earlier run; tell of a change.

    Slots that are declared no more go with the next change of memory, as their cell would fix the amount. Those of a
    user's own template are his.
    """
    top, there = declared.find("maxMemory"), root.find("maxMemory")
    if top is not None and not with_dimms:
        return False
    if top is None and (there is None or declared.find("cpu/numa") is not None or not _differs(declared, root)):
        return False
    before = etree.tostring(root)
    for device in filter(ours, root.findall("devices/memory")):
        device.getparent().remove(device)
    for name in ("maxMemory", "memory", "currentMemory"):
        _take(root, declared.find(name), root.find(name))
    _take_cell(declared, root)
    return etree.tostring(root) != before


def _differs(declared: Any, root: Any) -> bool:
    return kib(declared.find("memory")) != kib(root.find("memory"))


def _take(parent: Any, wanted: Any, found: Any) -> None:
    """Give ``parent`` an amount, or take it away."""
    if wanted is None:
        if found is not None:
            parent.remove(found)
    elif found is None:
        parent.append(copy.deepcopy(wanted))
    elif kib(wanted) != kib(found) or wanted.get("slots") != found.get("slots"):
        twin = copy.deepcopy(wanted)
        twin.tail = found.tail
        parent.replace(found, twin)


def _take_cell(declared: Any, root: Any) -> None:
    """Give the definition the one cell of the declared one; vCPUs that libvirt wrote there stay."""
    wanted, cells = declared.find("cpu/numa"), root.findall("cpu/numa/cell")
    if wanted is not None and len(cells) == 1:
        cell = wanted.find("cell")
        if kib(cell, "memory") != kib(cells[0], "memory"):
            cells[0].attrib.update({name: cell.get(name) for name in ("memory", "unit")})
        return
    for numa in root.findall("cpu/numa"):
        numa.getparent().remove(numa)
    if wanted is None:
        return
    if root.find("cpu") is None:
        etree.SubElement(root, "cpu")
    root.find("cpu").append(copy.deepcopy(wanted))


def kib(element: Any, attribute: str = "") -> int:
    """Return an amount of a document."""
    text = element.get(attribute, "0") if attribute else (element.text or "0").strip()
    return units.to_kib(units.read_size(f"{text} {element.get('unit', 'KiB')}"))


def _size(kib_: int) -> str:
    return f"{kib_ // units.KIB} MiB"
