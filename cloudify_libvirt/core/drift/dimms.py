"""A domain's memory where it can grow by DIMMs, as its parameters say it: not what it is made up of. Pure.

The stored definition has all of it as the memory to start with; a DIMM that an update brought is of one run.

Source: https://libvirt.org/formatdomain.html#memory-devices and #memory-allocation (maxMemory)
"""

from __future__ import annotations

from typing import Any

from cloudify_libvirt.core import units
from cloudify_libvirt.core.spec.memory import BLOCK_KIB

# Names of ours; libvirt keeps those of users.
ALIAS = "ua-cloudify-memory-"


def ours(device: Any) -> bool:
    """Tell whether a memory device of a definition came by an update."""
    alias = device.find("alias")
    return alias is not None and str(alias.get("name", "")).startswith(ALIAS)


def fold(root: Any, *, whole: bool) -> None:
    """Take DIMMs of ours out of a document with amounts in bytes; ``whole``: say the rest as if there were none."""
    for device in root.findall("devices/memory"):
        if ours(device):
            device.getparent().remove(device)
    if whole:
        _say_as_one(root)


def _say_as_one(root: Any) -> None:
    top, memory = root.find("maxMemory"), root.find("memory")
    if top is not None and memory is not None and (top.text or "").isdigit():
        memory.text = str(int(top.text) - BLOCK_KIB * units.KIB)
        top.text = None
    cpu = root.find("cpu")
    for numa in root.findall("cpu/numa"):
        cpu.remove(numa)
    if cpu is not None and not len(cpu) and not cpu.attrib:
        root.remove(cpu)
