"""Where the disks of a domain are attached: bus, target and format, where a blueprint leaves them open. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cloudify_libvirt.core.spec.disk import Disk

# Prefix of a target on a bus. Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
_PREFIXES = {"virtio": "vd", "ide": "hd", "fdc": "fd", "xen": "xvd", "uml": "ubd", "sd": "sd"}
_BUS_OF_PREFIX = {"vd": "virtio", "hd": "ide", "sd": "scsi", "fd": "fdc", "xvd": "xen", "ubd": "uml"}


def place_disks(disks: Iterable[Disk], machine: str, *, modern: bool) -> tuple[Disk, ...]:
    """Return the disks with bus, target and format filled in; given values stay."""
    wanted = tuple(disks)
    taken = {disk.dev for disk in wanted if disk.dev}
    placed = []
    for disk in wanted:
        bus = disk.bus or _bus(disk, machine, modern=modern)
        dev = disk.dev or _free_target(_PREFIXES.get(bus, "sd"), taken)
        taken.add(dev)
        placed.append(disk.model_copy(update={"bus": bus, "dev": dev, "type": disk.type or "raw"}))
    return tuple(placed)


def _bus(disk: Disk, machine: str, *, modern: bool) -> str:
    by_target = next((bus for prefix, bus in _BUS_OF_PREFIX.items() if (disk.dev or "").startswith(prefix)), None)
    if by_target:
        return by_target
    if disk.device == "disk":
        return "virtio"
    # virtio-scsi is in every cloud kernel, and on every machine; Debian's has no AHCI, so no SATA.
    if modern:
        return "scsi"
    # A q35 has no IDE, an i440fx no SATA.
    return "sata" if "q35" in machine else "ide"


def _free_target(prefix: str, taken: set[str]) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = (*letters, *(a + b for a in letters for b in letters))
    return next(f"{prefix}{name}" for name in names if f"{prefix}{name}" not in taken)
