"""libvirt's XML, read into facts. Pure: text in, values out.

Sources: https://libvirt.org/formatdomain.html, formatnetwork.html, formatstorage.html, formatcaps.html
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lxml import etree

from cloudify_libvirt.core import units
from cloudify_libvirt.core.errors import BadDocument
from cloudify_libvirt.core.identity import normalise_mac

# A hypervisor, or a backup that it wrote, may be hostile: no entity is expanded, nothing is fetched.
_PARSER = etree.XMLParser(
    resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
)


@dataclass(frozen=True)
class InterfaceFacts:
    """One network card of a domain; ``host_device`` is the tap or veth on the host while it runs."""

    mac: str
    network: str
    bridge: str
    host_device: str


@dataclass(frozen=True)
class DiskFacts:
    """One disk of a domain; ``path`` is empty for a drive without a medium or a network disk.

    ``remote`` is the name of a network disk on its server, else empty.
    """

    path: str
    target: str
    device: str
    pool: str
    volume: str
    readonly: bool = False
    remote: str = ""


@dataclass(frozen=True)
class DomainFacts:
    """What a domain's XML says that operations need."""

    interfaces: tuple[InterfaceFacts, ...]
    disks: tuple[DiskFacts, ...]
    console_log: str
    agent_connected: bool
    filesystems: tuple[str, ...]
    domain_type: str
    machine: str


@dataclass(frozen=True)
class HostEntry:
    """One fixed address of a network's DHCP server."""

    mac: str
    ip: str
    name: str


@dataclass(frozen=True)
class NetworkFacts:
    """What a network's XML says: ``subnets`` of its bridge, ``routes`` to networks behind guests."""

    bridge: str
    forward: str
    subnets: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    dhcp: bool
    hosts: tuple[HostEntry, ...]
    mac: str = ""
    routes: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()


@dataclass(frozen=True)
class VolumeFacts:
    """What a volume's XML says; sizes in bytes. ``secret``: UUID of the key's secret, "" where none is known.

    ``modified_ns``: nanoseconds since 1970, 0 where libvirt does not tell.
    """

    path: str
    format: str
    backing: str
    capacity_bytes: int
    allocation_bytes: int
    encrypted: bool = False
    secret: str = ""
    modified_ns: int = 0
    backing_format: str = ""


@dataclass(frozen=True)
class PoolFacts:
    """What a pool's XML says; ``format`` is that of its source."""

    type: str
    path: str
    devices: tuple[str, ...]
    format: str


# A path of the host, or a pool's name and a volume's.
Reference = str | tuple[str, str]


def document(xml: str) -> Any:
    """Return the root element of one of libvirt's documents.

    Raises:
        BadDocument: it is not well-formed, or has a DOCTYPE, which libvirt never writes.
    """
    try:
        root: Any = etree.fromstring(xml.encode("utf-8", "surrogatepass"), _PARSER)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise bad(f"it is not well-formed XML ({getattr(error, 'msg', error)})") from error
    if root.getroottree().docinfo.doctype:
        raise bad("it has a DOCTYPE")
    return root


def bad(reason: str) -> BadDocument:
    """Return the error for a document that libvirt does not write so."""
    return BadDocument("read", "a document of libvirt", reason, "Look at it with virsh dumpxml; is it libvirt's own?")


def number(text: str) -> int:
    """Return the whole number that a document says, 0 for none; raise ``BadDocument``."""
    try:
        return units.read_int(text or 0)
    except ValueError as error:
        raise bad(f"{text[:40]!r} is not a whole number") from error


def macs(xml: str) -> Iterator[str]:
    """Yield the MAC of every network card of a domain."""
    for element in document(xml).iterfind("devices/interface"):
        yield normalise_mac(_attribute(element, "mac", "address"))


def domain(xml: str) -> DomainFacts:
    """Read a domain's live or stored definition."""
    return domain_of(document(xml))


def domain_of(root: Any) -> DomainFacts:
    """Read a domain's document."""
    channel = root.find("devices/channel/target[@name='org.qemu.guest_agent.0']")
    log = root.find("devices/console/log")
    if log is None:
        log = root.find("devices/serial/log")
    return DomainFacts(
        interfaces=tuple(_interface(element) for element in root.findall("devices/interface")),
        disks=tuple(_disk(element) for element in root.findall("devices/disk")),
        console_log="" if log is None else log.get("file", ""),
        agent_connected=channel is not None and channel.get("state") == "connected",
        filesystems=tuple(e.get("dir", "") for e in root.findall("devices/filesystem/source") if e.get("dir")),
        domain_type=root.get("type", ""),
        machine=_attribute(root, "os/type", "machine"),
    )


def _attribute(root: Any, path: str, name: str) -> str:
    element = root.find(path)
    return "" if element is None else str(element.get(name, ""))


def _text(root: Any, path: str) -> str:
    return str(root.findtext(path) or "").strip()


def _interface(element: Any) -> InterfaceFacts:
    return InterfaceFacts(
        mac=normalise_mac(_attribute(element, "mac", "address")),
        network=_attribute(element, "source", "network"),
        bridge=_attribute(element, "source", "bridge"),
        host_device=_attribute(element, "target", "dev"),
    )


def _disk(element: Any) -> DiskFacts:
    return DiskFacts(
        path=_attribute(element, "source", "file") or _attribute(element, "source", "dev"),
        target=_attribute(element, "target", "dev"),
        device=element.get("device", "disk"),
        pool=_attribute(element, "source", "pool"),
        volume=_attribute(element, "source", "volume"),
        readonly=element.find("readonly") is not None,
        remote=_attribute(element, "source", "name") if _attribute(element, "source", "protocol") else "",
    )


def network(xml: str) -> NetworkFacts:
    """Read a network's live or stored definition."""
    root = document(xml)
    return NetworkFacts(
        bridge=_attribute(root, "bridge", "name"),
        mac=normalise_mac(_attribute(root, "mac", "address")),
        forward=_attribute(root, "forward", "mode"),
        subnets=tuple(subnet for e in root.findall("ip") if (subnet := _subnet(e)) is not None),
        routes=tuple(subnet for e in root.findall("route") if (subnet := _subnet(e)) is not None),
        dhcp=root.find("ip/dhcp") is not None,
        hosts=tuple(
            HostEntry(normalise_mac(e.get("mac", "")), e.get("ip", ""), e.get("name", ""))
            for e in root.findall("ip/dhcp/host")
        ),
    )


def _subnet(element: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    address = element.get("address")
    if not address:
        return None
    mask = element.get("prefix") or element.get("netmask")
    try:
        return ipaddress.ip_network(f"{address}/{mask}" if mask else address, strict=False)
    except ValueError as error:
        raise bad(str(error)[:80]) from error


def pool(xml: str) -> PoolFacts:
    """Read a pool's definition."""
    root = document(xml)
    devices = tuple(element.get("path", "") for element in root.findall("source/device"))
    path, format_ = _text(root, "target/path"), _attribute(root, "source/format", "type")
    return PoolFacts(root.get("type", ""), path, devices, format_)


def pool_types(capabilities: str) -> set[str]:
    """Return the types of pools that a host's storage driver supports."""
    found = document(capabilities).iterfind("pool[@supported='yes']")
    return {element.get("type", "") for element in found}


def volume(xml: str) -> VolumeFacts:
    """Read a volume's definition."""
    root = document(xml)
    return VolumeFacts(
        path=_text(root, "target/path"),
        format=_attribute(root, "target/format", "type") or "raw",
        backing=_text(root, "backingStore/path"),
        capacity_bytes=number(_text(root, "capacity")),
        allocation_bytes=number(_text(root, "allocation")),
        encrypted=root.find("target/encryption") is not None,
        secret=_attribute(root, "target/encryption/secret", "uuid"),
        modified_ns=_nanoseconds(_text(root, "target/timestamps/mtime")),
        backing_format=_attribute(root, "backingStore/format", "type"),
    )


def _nanoseconds(text: str) -> int:
    """Read a time of libvirt's: seconds, with a fraction of nine digits unless that is 0."""
    seconds, _, fraction = text.partition(".")
    return number(seconds) * 10**9 + number(fraction)


def references(xml: str) -> frozenset[Reference]:
    """Return every path, every volume by pool and name, and every network disk's name in a document.

    No element is left out: what is a disk's source, a mirror's, a kernel or a firmware's file all need their volume.
    """
    found: set[Reference] = set()
    for element in document(xml).iter(etree.Element):
        values = [str(value) for value in element.attrib.values()]
        found.update(value for value in (*values, (element.text or "").strip()) if value.startswith("/"))
        if element.tag == "source" and element.get("pool") and element.get("volume"):
            found.add((element.get("pool"), element.get("volume")))
        if element.tag == "source" and element.get("protocol"):
            found.add(element.get("name", ""))
    return frozenset(found)


def formats(xml: str) -> tuple[tuple[Reference, str], ...]:
    """Return the disks of a domain's document, and what stands below them, each with the format that is said there."""
    disks = document(xml).iter("disk", "backingStore", "mirror")
    return tuple((source, format_) for disk in disks for source, format_ in _formats_of(disk))


def _formats_of(disk: Any) -> Iterator[tuple[Reference, str]]:
    said = _attribute(disk, "driver", "type") or _attribute(disk, "format", "type")
    source = disk.find("source")
    if source is None or not said:
        return
    for name in ("file", "dev", "name"):
        if source.get(name):
            yield source.get(name), said
    if source.get("volume"):
        yield (source.get("pool", ""), source.get("volume")), said


def guest_types(capabilities: str) -> set[str]:
    """Return the domain types that a host's capabilities advertise: qemu, kvm, lxc, test, ..."""
    return {element.get("type", "") for element in document(capabilities).iterfind("guest/arch/domain")}


def host_arch(capabilities: str) -> str:
    """Return the host's architecture as libvirt names it."""
    return _text(document(capabilities), "host/cpu/arch")


def page_sizes_kib(capabilities: str) -> set[int]:
    """Return the sizes of the host's memory pages that a guest's memory may have."""
    return {number(pages.get("size", "")) for pages in document(capabilities).iterfind("host/cpu/pages[@unit='KiB']")}


def security_models(capabilities: str) -> list[str]:
    """Return the names of the security drivers that confine guests, without the place holder ``none``."""
    models = (_text(model, "model") for model in document(capabilities).iterfind("host/secmodel"))
    return [name for name in models if name != "none"]


def hypervisor_user(capabilities: str) -> tuple[int, int] | None:
    """Return uid and gid that guests' processes run as, or None where the host does not say.

    Source: formatcaps.html, host/secmodel with model dac, baselabel ``+uid:+gid``.
    """
    for model in document(capabilities).iterfind("host/secmodel"):
        if _text(model, "model") == "dac":
            for label in model.iterfind("baselabel"):
                user, _, group = (label.text or "").replace("+", "").partition(":")
                if user.isdecimal() and group.isdecimal():
                    return number(user), number(group)
    return None
