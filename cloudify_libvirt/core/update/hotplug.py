"""One device of a domain that exists: attach, update, detach; of the running guest and of the definition.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html (virDomainDeviceModifyFlags),
https://libvirt.org/formatdomain.html#devices
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from lxml import etree

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Busy, Conflict, CoreError, Missing, libvirt_call
from cloudify_libvirt.core.identity import normalise_mac
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.wait import retry_busy, wait_until

# A guest that hears of it gives a device back within seconds; one without an operating system never does.
DETACH_TIMEOUT_S = 10.0
# What tells two devices of one kind apart; others are told apart by everything that the device says.
_KEYS = {
    "disk": ("target", "dev"),
    "interface": ("mac", "address"),
    "filesystem": ("target", "dir"),
    "shmem": (".", "name"),
}
_TRAY = re.compile("Tray of .* is not open")
_TRAY_TIMEOUT_S = 5.0
# What libvirt adds to a device that it took.
_ADDED = frozenset({"alias", "address", "backingStore"})


@dataclass(frozen=True)
class Device:
    """One device: its XML, and how messages call it."""

    xml: str
    element: Any

    @classmethod
    def read(cls, xml: str) -> Device:
        """Take one device's XML, that was checked."""
        return cls(xml, parse.document(xml))

    @property
    def label(self) -> str:
        """Say which device it is."""
        key = _key(self.element)
        return f"{self.element.tag} {key}" if key else str(self.element.tag)


def _key(element: Any) -> str:
    """Return what names a device among those of its kind, or ""."""
    path, name = _KEYS.get(element.tag, ("", ""))
    found = element.find(path) if path else None
    value = "" if found is None else str(found.get(name, ""))
    return normalise_mac(value) if element.tag == "interface" and value else value


def same(wanted: Any, there: Any) -> bool:
    """Tell whether a device of a definition is the wanted one: by its name, else by all that is said of it."""
    if wanted.tag != there.tag:
        return False
    alias = wanted.find("alias")
    if alias is not None and str(alias.get("name", "")).startswith("ua-"):
        other = there.find("alias")
        return other is not None and other.get("name") == alias.get("name")
    key = _key(wanted)
    return _key(there) == key if key else _says(wanted, there, top=True)


def _says(wanted: Any, there: Any, *, top: bool = False) -> bool:
    """Tell whether ``there`` has all attributes, texts and children of ``wanted``."""
    if wanted.tag != there.tag or (wanted.text or "").strip() != (there.text or "").strip():
        return False
    if any(_number(there.get(name)) != _number(value) for name, value in wanted.attrib.items()):
        return False
    children = [child for child in wanted if not (top and child.tag in _ADDED)]
    return all(any(_says(child, other) for other in there) for child in children)


def _number(value: str | None) -> object:
    """Return the number of a hexadecimal text, which libvirt pads in its own way; else the text."""
    try:
        return int(value or "", 16) if (value or "").startswith("0x") else value
    except ValueError:
        return value


def _sides(domain: Domain) -> Iterator[tuple[int, str]]:
    """Yield flag and definition of the running guest, if it runs, and of the stored definition, if there is one."""
    if domain.active:
        yield libvirt.VIR_DOMAIN_AFFECT_LIVE, domain.xml()
    with libvirt_call("read", domain.target):
        persistent = domain.handle.isPersistent()
    if persistent:
        yield libvirt.VIR_DOMAIN_AFFECT_CONFIG, domain.xml(libvirt.VIR_DOMAIN_XML_INACTIVE)


def _find(xml: str, device: Device) -> Any:
    devices = parse.document(xml).find("devices")
    return next((element for element in devices if same(device.element, element)), None)


def _having(domain: Domain, device: Device, wanted: bool) -> int:
    """Return the flags of the sides that have the device, or lack it."""
    sides = _sides(domain)
    return sum(flag for flag, xml in sides if (_find(xml, device) is not None) == wanted)


@contextmanager
def _doing(action: str, device: Device, domain: Domain) -> Iterator[None]:
    with libvirt_call(f"{action} {device.label} {'to' if action == 'attach' else 'of'}", domain.target):
        yield


def attach(domain: Domain, xml: str) -> bool:
    """Attach a device where it lacks, now and for the next start; False when it is there already.

    Raises:
        Conflict: another device has its name (the target of a disk, the MAC of an interface), or no slot is free.
    """
    device = Device.read(xml)
    for _, definition in _sides(domain):
        _check_same_source(device, _find(definition, device), domain)
    flags = _having(domain, device, wanted=False)
    if flags:
        _attach(domain, device, flags)
    return bool(flags)


def _attach(domain: Domain, device: Device, flags: int) -> None:
    try:
        with _doing("attach", device, domain):
            domain.handle.attachDeviceFlags(device.xml, flags)
    except CoreError as error:
        # Source: domain_addr.c, virDomainPCIAddressGetNextAddr
        if "No more available PCI slots" not in error.reason:
            raise
        remedy = "Detach another device, take a disk with bus: scsi, or define it anew with more hotplug_slots."
        raise Conflict(error.action, error.target, error.reason, remedy) from error


def _check_same_source(device: Device, there: Any, domain: Domain) -> None:
    wanted = device.element.find("source")
    found = None if there is None else there.find("source")
    if there is None or wanted is None:
        return
    if found is None or any(_number(found.get(name)) != _number(value) for name, value in wanted.attrib.items()):
        shown = "nothing" if found is None else as_text(found)
        raise Conflict(
            f"attach {device.label} to",
            domain.target,
            f"it has one of that name, with {shown[:120]}",
            "Choose another target, or detach that one first.",
        )


def update(domain: Domain, xml: str) -> None:
    """Change a device that is there: another medium, another network, the state of a link.

    Raises:
        Missing: the domain has no such device.
    """
    device = Device.read(xml)
    flags = _having(domain, device, wanted=True)
    if not flags:
        raise Missing(f"update {device.label} of", domain.target, "it has no such device", "Attach it first.")
    # Together they are refused for much that each alone can do.
    for flag in (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG):
        if flags & flag:
            retry_busy(partial(_update, domain, device, flag), timeout_s=_TRAY_TIMEOUT_S)


def _update(domain: Domain, device: Device, flag: int) -> None:
    try:
        with _doing("update", device, domain):
            domain.handle.updateDeviceFlags(device.xml, flag)
    except CoreError as error:
        # Firmware that looks at the drive just then closes the tray again.
        if not _TRAY.search(error.reason):
            raise
        raise Busy(error.action, error.target, error.reason, "Try again when the guest does not use it.") from error


def detach(domain: Domain, xml: str, timeout_s: float = DETACH_TIMEOUT_S) -> bool:
    """Detach a device, now and for the next start; False when the running guest has not given it back.

    A device that is not there counts as detached.
    """
    device = Device.read(xml)
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    asked = False
    for flag, definition in _sides(domain):
        there = _find(definition, device)
        if there is not None:
            asked = asked or flag == live
            _take(domain, Device(as_text(there), there), flag, waits=False)
    if not asked:
        return True
    gone = wait_until(lambda: _given_back(domain, device), timeout_s=timeout_s, signal=domain.session.changed)
    return bool(gone)


def _given_back(domain: Domain, device: Device) -> bool:
    there = _find(domain.xml(), device)
    # Afterwards: of a guest that has just ended it was the stored definition.
    if domain.state in OFF:
        raise domain.failure(f"detach {device.label} of")
    return there is None


def _take(domain: Domain, device: Device, flag: int, *, waits: bool = True) -> None:
    """Ask for a device; a running guest may be asked again.

    libvirt itself waits 5 s for the guest, also for one that dies meanwhile; with ``waits`` False only its caller does.
    """
    alias = device.element.find("alias")
    at_once = not waits and flag == libvirt.VIR_DOMAIN_AFFECT_LIVE and domain.session.driver == "qemu"
    try:
        with _doing("detach", device, domain):
            if at_once and alias is not None:
                domain.handle.detachDeviceAlias(alias.get("name"), flag)
            else:
                domain.handle.detachDeviceFlags(device.xml, flag)
    except CoreError as error:
        # Source: qemu_hotplug.c, qemuDomainDetachDeviceLive: an earlier question is still open.
        if "already in the process of unplug" not in error.reason:
            raise


def attach_live(domain: Domain, element: Any) -> None:
    """Attach a device to the running domain alone."""
    _attach(domain, Device(as_text(element), element), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def update_live(domain: Domain, element: Any) -> None:
    """Change a device of the running domain alone; ``element`` is the device with all that it has."""
    call = partial(_update, domain, Device(as_text(element), element), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    retry_busy(call, timeout_s=_TRAY_TIMEOUT_S)


def ask_back(domain: Domain, element: Any, *, waits: bool = True) -> None:
    """Ask the running domain's guest for a device, and return at once; see ``_take``."""
    _take(domain, Device(as_text(element), element), libvirt.VIR_DOMAIN_AFFECT_LIVE, waits=waits)


def as_text(element: Any) -> str:
    """Return the XML of one element."""
    return etree.tostring(element, encoding="unicode", with_tail=False)
