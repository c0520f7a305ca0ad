"""What two definitions mean, where their texts differ: units, defaults, names of one thing. Pure tables and rules.

Sources: https://libvirt.org/formatdomain.html, formatnetwork.html, formatstorage.html
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from typing import Any

from lxml import etree

from cloudify_libvirt.core import units
from cloudify_libvirt.core.identity import normalise_mac

# What tells the elements of one kind apart: paths to the attribute or text. Others are told apart by all they say.
KEYS: dict[str, tuple[str, ...]] = {
    "disk": ("target/@dev",),
    "filesystem": ("target/@dir",),
    "interface": ("mac/@address", "@dev"),
    "channel": ("target/@name",),
    "shmem": ("@name",),
    "timer": ("@name",),
    "entry": ("@name",),
    "feature": ("@name",),
    "vcpupin": ("@vcpu",),
    "iothreadpin": ("@iothread",),
    "cell": ("@id",),
    "serial": ("target/@port",),
    "parameter": ("@name",),
    "ip": ("@address",),
    "range": ("@start",),
    "host": ("@mac", "@id", "@ip", "@name"),
    "route": ("@address",),
    "portgroup": ("@name",),
    "txt": ("@name",),
    "srv": ("@service",),
    "option": ("@name", "@value"),
    "tag": ("@id",),
    "controller": ("@type", "@index"),
}
# Of these an element that nobody declared is drift: parent -> children. The others come by libvirt, or by others.
EXTRAS: dict[str, frozenset[str]] = {
    "devices": frozenset({
        "disk", "interface", "filesystem", "hostdev", "redirdev", "tpm", "shmem", "graphics", "vsock", "sound",
        "memory", "rng",
    }),
    "network": frozenset({"ip", "route", "forward", "portgroup", "vlan"}),
    "ip": frozenset({"dhcp"}),
    "dhcp": frozenset({"range", "bootp"}),
    "disk": frozenset({"iotune"}),
    "iotune": frozenset({
        f"{way}_{what}_sec{end}" for way in ("total", "read", "write") for what in ("bytes", "iops")
        for end in ("", "_max")
    }),
}  # fmt: skip
# Of these an undeclared one counts beside declared ones: the list was declared.
EXTRAS_OF_LISTS = frozenset({("dns", "host"), ("dns", "txt"), ("dns", "srv"), ("dns", "forwarder"), ("os", "boot")})
# Drives whose medium comes and goes: one that was declared without is empty.
REMOVABLE = frozenset({"cdrom", "floppy"})
# Of these libvirt keeps nothing when they are empty: what they held is what is missing.
CONTAINERS = frozenset({"dns", "options", "features"})
# What is said in another place, or is libvirt's or the hypervisor's own affair.
SKIPPED = {
    "domain": frozenset({"metadata", "seclabel", "alias", "backingStore"}),
    "network": frozenset({"metadata"}),
    "pool": frozenset({"capacity", "allocation", "available"}),
    "volume": frozenset({"allocation", "key", "timestamps", "physical"}),
}
# A running guest's own: what its start worked out of the definition, and can no longer change.
SKIPPED_LIVE = frozenset({"cpu", "loader", "nvram", "type", "firmware", "features", "sysinfo"})
# libvirt leaves secrets out of what it shows; the other is its own way to place what is not placed.
_HIDDEN = frozenset({("graphics", "passwd"), ("graphics", "passwdValidTo"), ("vcpu", "placement")})
_SETS = frozenset({"cpuset", "cpus", "nodeset", "vcpus"})
# Source: VIR_NET_GENERATED_*_PREFIX of libvirt; such names are dropped from a definition.
_TAPS = ("vnet", "macvtap", "macvlan", "vif")
_MAC = re.compile("[0-9a-f]{1,2}([:-][0-9a-f]{1,2}){5}")
_NEGATIVE = frozenset({"no", "off", "0", "false"})
# Of these the hypervisor's own choice is yes.
_OFFERED = frozenset({"suspend-to-mem", "suspend-to-disk"})
_TRUE, _FALSE = frozenset({"yes", "on", "true"}), frozenset({"no", "off", "false"})
# Left out of a definition where it is this.
_DEFAULTS = {("ip", "family"): "ipv4", ("route", "family"): "ipv4", ("disk", "device"): "disk",
             ("graphics", "port"): "-1", ("graphics", "tlsPort"): "-1", ("format", "type"): "raw",
             ("target", "tray"): "closed"}  # fmt: skip
# Elements that carry an amount, with the unit that no unit means.
_AMOUNTS = {
    "memory": "KiB", "currentMemory": "KiB", "maxMemory": "KiB", "hard_limit": "KiB", "soft_limit": "KiB",
    "swap_hard_limit": "KiB", "capacity": "bytes", "allocation": "bytes", "size": "bytes", "page": "KiB",
    "cell": "KiB",
}  # fmt: skip
_AMOUNT_ATTRIBUTES = ("memory", "size")
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600}


def normalised(xml: str, document: Any) -> Any:
    """Return the root of a definition with units, masks and implied values written out in one way."""
    root = document(xml)
    for element in root.iter(etree.Element):
        _write_amount(element)
        _write_duration(element)
        _write_prefix(element)
    _imply(root)
    return root


def _write_amount(element: Any) -> None:
    if element.tag not in _AMOUNTS:
        return
    unit = element.attrib.pop("unit", _AMOUNTS[element.tag])
    text = (element.text or "").strip()
    if text.isdigit():
        element.text = str(units.read_size(f"{text} {unit}"))
    for name in _AMOUNT_ATTRIBUTES:
        if str(element.get(name, "")).isdigit():
            element.set(name, str(units.read_size(f"{element.get(name)} {unit}")))


def _write_duration(element: Any) -> None:
    if element.tag == "lease" and str(element.get("expiry", "")).isdigit():
        factor = _SECONDS.get(element.attrib.pop("unit", "minutes"), 1)
        element.set("expiry", str(int(element.get("expiry")) * factor))


def _write_prefix(element: Any) -> None:
    mask = element.attrib.pop("netmask", None) if element.tag in ("ip", "route") else None
    if mask:
        with suppress(ValueError):
            element.set("prefix", str(ipaddress.ip_network(f"0.0.0.0/{mask}").prefixlen))


def _imply(root: Any) -> None:
    """Write out what a definition leaves out where it says the same twice."""
    vcpu, memory = root.find("vcpu"), root.find("memory")
    if vcpu is not None and vcpu.get("current") is None:
        vcpu.set("current", (vcpu.text or "1").strip())
    if memory is not None and root.find("currentMemory") is None:
        current = etree.SubElement(root, "currentMemory")
        current.text = memory.text


def key(element: Any) -> str:
    """Return what names an element among those of its kind, or "" when nothing does."""
    found = [value for path in KEYS.get(local(element), ()) if (value := _at(element, path))]
    if local(element) == "controller":
        return " ".join([*found, "0"][:2])
    return str(_plain(found[0])) if found else ""


def content(disk: Any) -> str:
    """Return what tells the content of a disk, or of what is below one, from others; "" where it has none."""
    source = disk.find("source")
    if source is None:
        return ""
    if source.get("protocol"):
        return f"{source.get('protocol')}:{source.get('name')}"
    if source.get("volume"):
        return f"{source.get('pool')}/{source.get('volume')}"
    return next((str(source.get(name)) for name in ("file", "dev", "dir") if source.get(name)), "")


def local(element: Any) -> str:
    """Return an element's name without its name space."""
    return str(element.tag).rpartition("}")[2]


def _at(element: Any, path: str) -> str:
    *way, name = path.split("/")
    found = element.find("/".join(way)) if way else element
    return "" if found is None else str(found.get(name[1:], ""))


def same(tag: str, name: str, wanted: str, found: str | None) -> bool:
    """Tell whether an attribute (or the text, with name "") means the same; ``found`` None: it is not there."""
    wanted = wanted.strip()
    if (tag, name) in _HIDDEN or _chosen_at_start(tag, name, wanted):
        return True
    if found is None:
        return (wanted.lower() in _NEGATIVE and tag not in _OFFERED) or _DEFAULTS.get((tag, name)) == wanted
    found = found.strip()
    if tag == "type" and name == "machine":
        return _same_machine(wanted, found)
    if tag == "format" and (wanted, found) == ("raw", "iso"):
        # libvirt looks into the volume; what is raw may hold anything.
        return True
    if tag == "mode" and name == "":
        return _octal(wanted) == _octal(found)
    if name == "uuid" or tag == "uuid":
        return wanted.lower() == found.lower()
    if name in _SETS:
        return _members(wanted) == _members(found)
    return wanted == found or _plain(wanted) == _plain(found)


def _chosen_at_start(tag: str, name: str, wanted: str) -> bool:
    """Tell whether a value only leaves the choice to libvirt: a port, or the name of a tap device."""
    if tag == "graphics":
        return name in ("port", "tlsPort") and wanted == "-1"
    return (tag, name) == ("target", "dev") and wanted.startswith(_TAPS)


def _members(text: str) -> set[int] | str:
    """Return the numbers of a set such as ``0-3,^2``."""
    inside: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, _, last = part.lstrip("^").partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            return text
        numbers = set(range(int(first), int(last or first) + 1))
        inside = inside - numbers if part.startswith("^") else inside | numbers
    return inside


def _same_machine(wanted: str, found: str) -> bool:
    """Tell whether a machine type is, or stands for, the other: libvirt writes the version that it chose."""
    family = {"pc": "pc-i440fx"}.get(wanted, wanted)
    return found == wanted or any(found.startswith(f"{start}-") for start in (family, f"pc-{family}"))


def _octal(text: str) -> int | str:
    try:
        return int(text, 8)
    except ValueError:
        return text


def _plain(text: str) -> object:
    """Return a value in the one form of its kind: truth, number, address, MAC, else text in lower case."""
    lower = text.lower()
    if lower in _TRUE or lower in _FALSE:
        return lower in _TRUE
    with suppress(ValueError):
        return int(lower, 16 if lower.startswith("0x") else 10)
    with suppress(ValueError):
        return ipaddress.ip_address(lower)
    return normalise_mac(lower) if _MAC.fullmatch(lower) else text
