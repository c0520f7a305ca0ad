"""What templates see: the spec, completed by facts that only the host and the deployment know. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass
from typing import Any

from cloudify_libvirt.core import units
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.spec.base import Spec
from cloudify_libvirt.core.spec.disk import Disk
from cloudify_libvirt.core.spec.domain import DomainSpec
from cloudify_libvirt.core.spec.hardware_variables import hardware_variables
from cloudify_libvirt.core.spec.interface import Interface
from cloudify_libvirt.core.spec.memory import BLOCK_KIB
from cloudify_libvirt.core.spec.network import NetworkSpec
from cloudify_libvirt.core.spec.network_dns import Dns
from cloudify_libvirt.core.spec.network_parts import NetworkIp, Route
from cloudify_libvirt.core.spec.placement import place_disks
from cloudify_libvirt.core.spec.plain import plain
from cloudify_libvirt.core.spec.pool import PoolSpec
from cloudify_libvirt.core.spec.volume import VolumeSpec

# Types whose hypervisor has virtio-rng, the agent's channel and a panic device; the test driver accepts all.
_VIRTIO_TYPES = {"qemu", "kvm", "hvf", "test"}


@dataclass(frozen=True)
class OwnershipMark:
    """Who made an object, kept in its metadata: ``number`` is the instance's among those of its node, from 0."""

    deployment: str
    node: str
    instance: str
    version: str
    orchestrator: str = ""
    number: int = 0


@dataclass(frozen=True)
class DomainFacts:
    """What completes a domain's spec.

    ``domain_type`` is the measured one (kvm or qemu), ``cpu_mode`` "" or "none" leaves the CPU to libvirt.
    ``disks`` have their ``file`` and ``type``, the root disk first, the seed as a cdrom; bus and target may be open.
    A directory (type dir) is what a container mounts. ``interfaces`` have their ``mac``.
    """

    uuid: str
    domain_type: str
    machine: str = ""
    arch: str = "x86_64"
    emulator: str = ""
    cpu_mode: str = ""
    disks: tuple[Disk, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    console_log_path: str = ""
    mark: OwnershipMark | None = None


@dataclass(frozen=True)
class NetworkFacts:
    """What completes a network's spec; ``cidr`` and ``cidr6`` are the chosen ones where the spec says auto."""

    uuid: str
    bridge: str = ""
    cidr: str = ""
    cidr6: str = ""
    mark: OwnershipMark | None = None


@dataclass(frozen=True)
class PoolFacts:
    """What completes a pool's spec; ``secret_uuid`` is that of the secret that we keep its credentials in."""

    uuid: str
    secret_uuid: str = ""


@dataclass(frozen=True)
class Backing:
    """The file below an overlay."""

    path: str
    format: str


@dataclass(frozen=True)
class VolumeFacts:
    """What completes a volume's spec; None stands for the spec's own value.

    ``secret``: UUID of the libvirt secret with the key of an encrypted volume.
    """

    capacity_bytes: int | None = None
    allocation_bytes: int | None = None
    format: str | None = None
    backing: Backing | None = None
    secret: str = ""


Facts = DomainFacts | NetworkFacts | PoolFacts | VolumeFacts


def template_variables(spec: Spec, facts: Facts, ctx: Any = "") -> dict[str, Any]:
    """Return every variable of the packaged template of this kind; what is not set is "".

    The spec's unknown keys (a user's template is in use) come too, and win over computed ones.
    """
    match spec, facts:
        case DomainSpec(), DomainFacts():
            found = _domain(spec, facts)
        case NetworkSpec(), NetworkFacts():
            found = _network(spec, facts)
        case PoolSpec(), PoolFacts():
            found = {**spec.variables(facts.uuid, facts.secret_uuid), "source": plain(spec.wanted_source)}
        case VolumeSpec(), VolumeFacts():
            found = _volume(spec, facts)
        case _:
            raise TypeError(f"{type(facts).__name__} does not complete {type(spec).__name__}")
    every = {**plain(spec), "resource_id": spec.name, **found, **spec.extra, "ctx": ctx}
    # By contract its four lists stand in its place.
    every.pop("devices", None)
    return every


def _domain(spec: DomainSpec, facts: DomainFacts) -> dict[str, Any]:
    container = facts.domain_type == "lxc"
    modern = spec.modern and facts.domain_type in _VIRTIO_TYPES
    disks = facts.disks if container else place_disks(facts.disks, facts.machine, modern=modern)
    found = {
        "instance_uuid": facts.uuid,
        "domain_type": facts.domain_type,
        "machine": facts.machine,
        "arch": facts.arch,
        "emulator": facts.emulator,
        "cpu_mode": facts.cpu_mode,
        "console_log_path": facts.console_log_path if spec.console_log else "",
        "container": container,
        "modern": modern,
        "disks": [plain(disk) for disk in disks],
        "networks": [plain(interface) for interface in facts.interfaces if not interface.discovered],
        "owner": _owner(facts.mark),
    }
    return {**found, **_memory(spec), **_devices(spec), **hardware_variables(spec, found)}


def _memory(spec: DomainSpec) -> dict[str, Any]:
    if spec.has_memory:
        # QEMU wants room above what a guest starts with, also one that starts with its maximum.
        top = spec.max_memory_kib + BLOCK_KIB if spec.memory_slots else ""
        return {"memory_size": spec.memory_kib, "memory_maxsize": spec.max_memory_kib, "memory_top": top}
    return {"memory_size": "", "memory_maxsize": spec.memory_maxsize or "", "memory_top": ""}


def _devices(spec: DomainSpec) -> dict[str, Any]:
    kinds = ("serial", "usb", "pci", "tpm", "mdev", "scsi")
    return {f"{kind}_devices": [plain(device) for device in spec.devices if device.type == kind] for kind in kinds}


def _owner(mark: OwnershipMark | None) -> Any:
    return dict(vars(mark)) if mark else ""


def _network(spec: NetworkSpec, facts: NetworkFacts) -> dict[str, Any]:
    cidr, cidr6 = facts.cidr or spec.cidr or "", facts.cidr6 or spec.cidr6 or ""
    if "auto" in (cidr, cidr6):
        raise InvalidSpec("render", f"network {spec.name}", "cidr is still auto; a free network must be chosen first")
    full = spec.expanded(cidr, cidr6)
    return {
        "instance_uuid": facts.uuid,
        "dev": facts.bridge or spec.dev,
        "cidr": cidr,
        "cidr6": cidr6,
        "forwards": [plain(forward) for forward in full.wanted_forwards],
        "dns": _dns(full.dns),
        "ips": [_ip(full, entry) for entry in full.ips],
        "routes": [_route(route) for route in full.routes],
        "linux_bridge": spec.linux_bridge,
        "modern": spec.modern,
        "owner": _owner(facts.mark),
    }


def _dns(dns: Dns | None) -> Any:
    if dns is None:
        return ""
    return {**plain(dns), "txt": [{"name": record.name, "value": record.quoted} for record in dns.txt]}


def _ip(full: NetworkSpec, entry: NetworkIp) -> dict[str, Any]:
    dhcp = "" if entry.dhcp is None else plain(entry.dhcp)
    found = {"dhcp": dhcp, "hosts": full.hosts_of(entry), "ranges": full.ranges_of(entry)}
    return {**plain(entry), "version": entry.version, **found}


def _route(route: Route) -> dict[str, Any]:
    to = ipaddress.ip_network(route.to)
    return {**plain(route), "version": to.version, "address": str(to.network_address), "prefix": to.prefixlen}


def _volume(spec: VolumeSpec, facts: VolumeFacts) -> dict[str, Any]:
    capacity = facts.capacity_bytes if facts.capacity_bytes is not None else spec.capacity_bytes
    allocation = facts.allocation_bytes if facts.allocation_bytes is not None else spec.allocation_bytes
    return {
        "capacity_bytes": 0 if capacity is None else capacity,
        "allocation_bytes": allocation,
        "capacity": "" if capacity is None else units.to_mib_rounded_up(capacity),
        "allocation": units.to_mib_rounded_up(allocation),
        "format": facts.format or spec.format or "raw",
        "backing": asdict(facts.backing) if facts.backing else "",
        "secret": facts.secret,
    }
