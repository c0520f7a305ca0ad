"""Where devices of a PCIe machine are plugged in: each has a port of its own, also what comes later. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudify_libvirt.core.spec.domain_basics import DomainBasics

# A guest that is asked for nothing else can get some disks and cards while it runs.
DEFAULT_SLOTS = 8
# Source: https://libvirt.org/pci-hotplug.html, by machine type; "virt" is that of ARM and RISC-V.
_MACHINES = ("q35", "virt")


def has_ports(machine: str) -> bool:
    """Tell whether devices of this machine sit behind PCIe ports; others (pc) have free slots on their bus."""
    return any(name in machine for name in _MACHINES)


def root_ports(spec: Any, found: Mapping[str, Any]) -> int:
    """Return how many ports the machine gets: those that its devices take, and the free ones; 0: libvirt's choice.

    ``found`` are the variables that are known already.
    """
    slots = _slots(spec, modern=bool(found["modern"]))
    if not slots or found["container"] or not has_ports(str(found["machine"])):
        return 0
    return slots + _taken(spec, found)


def _slots(spec: DomainBasics, *, modern: bool) -> int:
    """Return the free ports that are wanted; older hardware is what it was."""
    if spec.hotplug_slots is not None:
        return spec.hotplug_slots
    return DEFAULT_SLOTS if modern else 0


def _taken(spec: Any, found: Mapping[str, Any]) -> int:
    """Count what takes a port; one more for the bridge to older buses, which some models need."""
    buses = [disk["bus"] for disk in found["disks"]]
    always = ("balloon", "rng", "agent's line", "bridge")
    count: int = (
        len(always)
        + buses.count("virtio")
        + ("scsi" in buses)
        + bool(found["usb"])
        + bool(spec.vsock)
        + len(found["networks"])
        + len(spec.filesystems)
        + sum(entry.bus == "virtio" for entry in spec.inputs)
        + sum(device.type in ("pci", "mdev") for device in spec.devices)
    )
    return count
