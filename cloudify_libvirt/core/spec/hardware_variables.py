"""What templates see of a domain's hardware besides its spec: what follows from other parts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudify_libvirt.core.spec.domain import DomainSpec
from cloudify_libvirt.core.spec.firmware import Features
from cloudify_libvirt.core.spec.hardware_rules import shares_memory
from cloudify_libvirt.core.spec.memory import MemoryBacking
from cloudify_libvirt.core.spec.pcie import root_ports
from cloudify_libvirt.core.spec.plain import plain

LOGS = "/var/log/libvirt/qemu"
_X86 = ("x86_64", "i686")


def hardware_variables(spec: DomainSpec, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that complete those ``found`` already."""
    devices = [*spec.disks, *spec.networks, *spec.devices]
    uefi = spec.firmware is not None and spec.firmware.type == "uefi"
    usb = _needs_usb(spec, found["disks"])
    return {
        "uefi": uefi,
        "usb": usb,
        "pcie_ports": root_ports(spec, {**found, "usb": usb}),
        "boot_orders": any(getattr(device, "boot_order", None) for device in devices),
        "platform": _platform(spec, str(found["arch"]), container=bool(found["container"])),
        "memory_backing": _backing(spec),
        "serials": _serials(spec, str(found["instance_uuid"])),
    }


def _needs_usb(spec: DomainSpec, disks: list[dict[str, Any]]) -> bool:
    return bool(
        any(device.type == "usb" for device in spec.devices)
        or any(disk["bus"] == "usb" for disk in disks)
        or any(device.bus == "usb" for device in spec.inputs)
        or spec.redirections
        or (spec.sound and spec.sound.model == "usb")
    )


def _platform(spec: DomainSpec, arch: str, *, container: bool) -> dict[str, Any] | str:
    """Return the platform's features; "" where libvirt's own choice is right."""
    if container or (arch not in _X86 and spec.features is None):
        return ""
    usual = dict.fromkeys(("acpi", "apic", "pae"), True) if arch in _X86 else {}
    secure = {"smm": True} if spec.firmware and spec.firmware.secure_boot else {}
    # QEMU remaps interrupts only when the I/O APIC is its own.
    remaps = {"ioapic": "qemu"} if spec.iommu and spec.iommu.interrupt_remapping else {}
    asked = plain(spec.features or Features())
    return {**asked, **usual, **secure, **remaps, **{name: value for name, value in asked.items() if value != ""}}


def _backing(spec: DomainSpec) -> dict[str, Any] | str:
    """Return the backing that was asked for, made so that virtiofsd or a switch can map it where there is one."""
    if not shares_memory(spec):
        return plain(spec.memory_backing) if spec.memory_backing else ""
    asked = plain(spec.memory_backing or MemoryBacking())
    return {**asked, "source": asked["source"] or "memfd", "access": "shared"}


def _serials(spec: DomainSpec, uuid: str) -> list[dict[str, Any]]:
    taken = {0, *(device.target_port for device in spec.devices if device.type == "serial")}
    free = (port for port in range(1, len(taken) + len(spec.serials) + 1) if port not in taken)
    return [_serial(plain(line), port, uuid) for line, port in zip(spec.serials, free, strict=False)]


def _serial(line: dict[str, Any], port: int, uuid: str) -> dict[str, Any]:
    log = f"{LOGS}/{uuid}-serial{port}.log"
    path = line["path"] or (log if line["type"] == "file" else "")
    return {**line, "path": path, "target_port": port, "log_path": log if line["log"] and path != log else ""}


def serial_logs(spec: DomainSpec, uuid: str) -> list[str]:
    """Return the files in which further serial lines are kept for this domain alone."""
    lines = _serials(spec, uuid)
    return [log for line in lines for log in (line["path"], line["log_path"]) if log.startswith(f"{LOGS}/{uuid}-")]
