"""What templates see: the spec, completed by facts that only the host and the deployment know. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cloudify_libvirt.core import units
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.spec.base import Part, Spec
from cloudify_libvirt.core.spec.domain import Disk, DomainSpec, Interface
from cloudify_libvirt.core.spec.network import NetworkSpec
from cloudify_libvirt.core.spec.pool import PoolSpec
from cloudify_libvirt.core.spec.volume import VolumeSpec

# Prefix of a target on a bus. Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
_PREFIXES = {"virtio": "vd", "ide": "hd", "fdc": "fd", "xen": "xvd", "uml": "ubd", "sd": "sd"}
_BUS_OF_PREFIX = {"vd": "virtio", "hd": "ide", "sd": "scsi", "fd": "fdc", "xvd": "xen", "ubd": "uml"}
# Types whose hypervisor has virtio-rng, the agent's channel and a panic device; the test driver accepts all.
_VIRTIO_TYPES = {"qemu", "kvm", "hvf", "test"}
_SECRET = {"cloud_init"}


@dataclass(frozen=True)
class OwnershipMark:
    """Who made an object: kept in its metadata, so that teardown removes nothing else."""

    deployment: str
    node: str
    instance: str
    version: str


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
    """What completes a network's spec; ``cidr`` is the chosen one where the spec says auto."""

    uuid: str
    bridge: str = ""
    cidr: str = ""
    mark: OwnershipMark | None = None


@dataclass(frozen=True)
class PoolFacts:
    """What completes a pool's spec."""

    uuid: str


@dataclass(frozen=True)
class Backing:
    """The file below an overlay."""

    path: str
    format: str


@dataclass(frozen=True)
class VolumeFacts:
    """What completes a volume's spec; None stands for the spec's own value."""

    capacity_bytes: int | None = None
    allocation_bytes: int | None = None
    format: str | None = None
    backing: Backing | None = None


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
            found = {"path": spec.target_path, "instance_uuid": facts.uuid}
        case VolumeSpec(), VolumeFacts():
            found = _volume(spec, facts)
        case _:
            raise TypeError(f"{type(facts).__name__} does not complete {type(spec).__name__}")
    every = {**plain(spec), "resource_id": spec.name, **found, **spec.extra, "ctx": ctx}
    # By contract its four lists stand in its place.
    every.pop("devices", None)
    return every


def plain(part: Part) -> dict[str, Any]:
    """Return the fields for templates: "" for None, mappings for parts, lists for tuples; no secrets."""
    names = (name for name in type(part).model_fields if name != "extra" and name not in _SECRET)
    return {**{name: _plain_value(getattr(part, name)) for name in names}, **part.extra}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Part):
        return plain(value)
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    return "" if value is None else value


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
    return {**found, **_memory(spec), **_devices(spec)}


def _memory(spec: DomainSpec) -> dict[str, Any]:
    if spec.has_memory:
        return {"memory_size": spec.memory_kib, "memory_maxsize": spec.max_memory_kib}
    return {"memory_size": "", "memory_maxsize": spec.memory_maxsize or ""}


def _devices(spec: DomainSpec) -> dict[str, Any]:
    kinds = ("serial", "usb", "pci", "tpm")
    return {f"{kind}_devices": [plain(device) for device in spec.devices if device.type == kind] for kind in kinds}


def _owner(mark: OwnershipMark | None) -> Any:
    return asdict(mark) if mark else ""


def _network(spec: NetworkSpec, facts: NetworkFacts) -> dict[str, Any]:
    cidr = facts.cidr or spec.cidr or ""
    if cidr == "auto":
        raise InvalidSpec("render", f"network {spec.name}", "cidr is still auto; a free network must be chosen first")
    full = spec.expanded(cidr) if cidr else spec
    return {
        "instance_uuid": facts.uuid,
        "dev": facts.bridge or spec.dev,
        "cidr": cidr,
        "forwards": [plain(forward) for forward in full.wanted_forwards],
        "ips": [{**plain(entry), "version": entry.version, "hosts": full.hosts_of(entry)} for entry in full.ips],
        "modern": spec.modern,
        "owner": _owner(facts.mark),
    }


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
    }


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
