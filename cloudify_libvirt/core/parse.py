"""libvirt's XML, read into facts. Pure: text in, values out.

Sources: https://libvirt.org/formatdomain.html, formatnetwork.html, formatstorage.html, formatcaps.html
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from lxml import etree

from cloudify_libvirt.core.identity import normalise_mac

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True)


@dataclass(frozen=True)
class InterfaceFacts:
    """One network card of a domain; ``host_device`` is the tap or veth on the host while it runs."""

    mac: str
    network: str
    bridge: str
    host_device: str


@dataclass(frozen=True)
class DiskFacts:
    """One disk of a domain; ``path`` is empty for a drive without a medium or a network disk."""

    path: str
    target: str
    device: str
    pool: str
    volume: str


@dataclass(frozen=True)
class DomainFacts:
    """What a domain's XML says that operations need."""

    interfaces: tuple[InterfaceFacts, ...]
    disks: tuple[DiskFacts, ...]
    console_log: str
    agent_channel: bool
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
    """What a network's XML says; ``subnets`` are those that its bridge routes."""

    bridge: str
    forward: str
    subnets: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    dhcp: bool
    hosts: tuple[HostEntry, ...]
    mac: str = ""


@dataclass(frozen=True)
class VolumeFacts:
    """What a volume's XML says; sizes in bytes."""

    path: str
    format: str
    backing: str
    capacity_bytes: int
    allocation_bytes: int


def document(xml: str) -> Any:
    """Return the root element of one of libvirt's documents."""
    return etree.fromstring(xml.encode(), _PARSER)


def domain(xml: str) -> DomainFacts:
    """Read a domain's live or stored definition."""
    root = document(xml)
    channel = root.find("devices/channel/target[@name='org.qemu.guest_agent.0']")
    log = root.find("devices/console/log")
    if log is None:
        log = root.find("devices/serial/log")
    return DomainFacts(
        interfaces=tuple(_interface(element) for element in root.findall("devices/interface")),
        disks=tuple(_disk(element) for element in root.findall("devices/disk")),
        console_log="" if log is None else log.get("file", ""),
        agent_channel=channel is not None,
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
    )


def network(xml: str) -> NetworkFacts:
    """Read a network's live or stored definition."""
    root = document(xml)
    return NetworkFacts(
        bridge=_attribute(root, "bridge", "name"),
        mac=normalise_mac(_attribute(root, "mac", "address")),
        forward=_attribute(root, "forward", "mode"),
        subnets=tuple(subnet for e in root.findall("ip") if (subnet := _subnet(e)) is not None),
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
    return ipaddress.ip_network(f"{address}/{mask}" if mask else address, strict=False)


def pool_path(xml: str) -> str:
    """Return the target directory of a pool, or an empty text."""
    return _text(document(xml), "target/path")


def volume(xml: str) -> VolumeFacts:
    """Read a volume's definition."""
    root = document(xml)
    return VolumeFacts(
        path=_text(root, "target/path"),
        format=_attribute(root, "target/format", "type") or "raw",
        backing=_text(root, "backingStore/path"),
        capacity_bytes=int(_text(root, "capacity") or 0),
        allocation_bytes=int(_text(root, "allocation") or 0),
    )


def guest_types(capabilities: str) -> set[str]:
    """Return the domain types that a host's capabilities advertise: qemu, kvm, lxc, test, ..."""
    return {element.get("type", "") for element in document(capabilities).iterfind("guest/arch/domain")}


def host_arch(capabilities: str) -> str:
    """Return the host's architecture as libvirt names it."""
    return _text(document(capabilities), "host/cpu/arch")


def hypervisor_user(capabilities: str) -> tuple[int, int] | None:
    """Return uid and gid that guests' processes run as, or None where the host does not say.

    Source: formatcaps.html, host/secmodel with model dac, baselabel ``+uid:+gid``.
    """
    for model in document(capabilities).iterfind("host/secmodel"):
        if _text(model, "model") == "dac":
            for label in model.iterfind("baselabel"):
                user, _, group = (label.text or "").replace("+", "").partition(":")
                if user.isdigit() and group.isdigit():
                    return int(user), int(group)
    return None
