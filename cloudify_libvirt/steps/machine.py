"""The plan of one domain: everything that is decided before anything is made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cloudify_libvirt.core import accelerator, parse, preflight, storage
from cloudify_libvirt.core.accelerator import Choice
from cloudify_libvirt.core.errors import Conflict, InvalidSpec
from cloudify_libvirt.core.identity import normalise_mac, scoped_name
from cloudify_libvirt.core.image import Image
from cloudify_libvirt.core.spec import Disk
from cloudify_libvirt.core.spec.variables import DomainFacts
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps.images import fetch

# The only domain type that these drivers have; others (qemu) choose between several.
_DRIVER_TYPES = {"lxc": "lxc", "test": "test", "xen": "xen", "bhyve": "bhyve", "vz": "vz"}
_MAC_ATTEMPTS = 100


@dataclass(frozen=True)
class Part:
    """One volume that belongs to the domain: root, seed, or rootfs (a directory)."""

    kind: str
    pool: str
    name: str
    path: str
    capacity_bytes: int | None = None
    mode: str = "overlay"


@dataclass(frozen=True)
class Plan:
    """What will be made for one domain."""

    uuid: str
    choice: Choice
    hostname: str
    image: Image | None
    parts: tuple[Part, ...]
    reservations: tuple[tuple[str, str, str], ...]


def fill_macs(request: Request) -> None:
    """Give every interface a MAC: the user's, the recorded one, or a derived one that is free."""
    networks = [dict(entry) for entry in request.params.get("networks") or []]
    label = f"domain '{request.name}' on {request.uri}"
    uuid = str(request.params["instance_uuid"])
    taken = preflight.taken_macs(request.session, uuid)
    used = {normalise_mac(str(entry["mac"])) for entry in networks if entry.get("mac")}
    for mac in used & set(taken):
        raise Conflict(
            "define",
            label,
            f"MAC {mac} belongs to {taken[mac]}",
            "Give the interface another mac, or leave it out to get a free one.",
        )
    for position, entry in enumerate(networks):
        if not entry.get("mac"):
            entry["mac"] = _free_mac(request, position, set(taken) | used)
            used.add(entry["mac"])
    request.params["networks"] = networks
    request.record.assign(params={**(request.record.get("params") or {}), "networks": networks})
    request.__dict__.pop("spec", None)


def _free_mac(request: Request, position: int, taken: set[str]) -> str:
    candidates = (request.identity.mac(position, attempt) for attempt in range(_MAC_ATTEMPTS))
    return next(mac for mac in candidates if mac not in taken)


def plan(request: Request) -> Plan:
    """Decide everything; the image is fetched, as its format and size matter."""
    fill_macs(request)
    spec = request.spec
    choice = _choice(request)
    image = fetch(request, spec.image.source, spec.image.checksum, spec.image.format) if spec.image else None
    return Plan(
        uuid=str(request.params["instance_uuid"]),
        choice=choice,
        hostname=_hostname(request),
        image=image,
        parts=tuple(_parts(request, choice, image)),
        reservations=tuple((card.mac, card.network, card.ip) for card in spec.networks if card.ip),
    )


def _choice(request: Request) -> Choice:
    spec, session = request.spec, request.session
    only = _DRIVER_TYPES.get(session.driver)
    if only:
        return Choice(only, "none", f"the driver {session.driver} has no other")
    if not spec.modern or spec.domain_type not in ("qemu", "kvm"):
        why = f"domain_type: {spec.domain_type} was asked for"
        return Choice(spec.domain_type, spec.wanted_cpu_mode or "none", why)
    return accelerator.choose(session, "kvm" if spec.domain_type == "kvm" else spec.accelerator)


def _hostname(request: Request) -> str:
    given = request.spec.cloud_init.hostname if request.spec.cloud_init else None
    return given or _as_hostname(request.name) or "guest"


def _as_hostname(name: str) -> str:
    """Return the name with what host names (RFC 1123) lack replaced; "" when nothing is left."""
    labels = re.sub(r"[^A-Za-z0-9.-]", "-", name)[:63].split(".")
    return ".".join(filter(None, (label.strip("-") for label in labels)))


def _parts(request: Request, choice: Choice, image: Image | None) -> Iterator[Part]:
    spec = request.spec
    if choice.domain_type == "lxc":
        if image is not None:
            _require_tar(image, spec.image.source)
            yield _part(request, "rootfs", spec.image.pool or spec.pool, "rootfs")
        return
    if image is not None:
        yield _part(
            request,
            "root",
            spec.image.pool or spec.pool,
            f"root.{_root_format(spec, image)}",
            spec.image.size,
            spec.image.mode,
        )
    if image is not None or spec.cloud_init:
        yield _part(request, "seed", spec.pool, "seed.iso")


def _root_format(spec: Any, image: Image) -> str:
    if image.format == "tar":
        raise InvalidSpec(
            "boot",
            f"image {spec.image.source}",
            "it is the root file system of a container",
            "Give a disk image (qcow2 or raw), or a container's URI (lxc:///system).",
        )
    return "qcow2" if spec.image.mode == "overlay" else image.format


def _require_tar(image: Image, source: str) -> None:
    if image.format != "tar":
        raise InvalidSpec(
            "run",
            f"image {source} as a container",
            f"it is a {image.format} disk image",
            "Give a tar archive of a root file system.",
        )


def _part(request: Request, kind: str, pool: str, suffix: str, size: int | None = None, mode: str = "overlay") -> Part:
    name = scoped_name(request.name, suffix)
    directory = storage.active_pool(request.session, pool).path
    return Part(kind, pool, name, str(PurePosixPath(directory) / name), size, mode)


def xml(request: Request, plan: Plan) -> str:
    """Return the domain's definition, checked; the volumes it names need not exist yet."""
    facts = DomainFacts(
        uuid=plan.uuid,
        domain_type=plan.choice.domain_type,
        machine=request.spec.machine or _machine(request),
        arch=request.spec.arch or _arch(request),
        cpu_mode=request.spec.wanted_cpu_mode or plan.choice.cpu_mode,
        disks=tuple(_disks(request, plan)),
        interfaces=request.spec.networks,
        console_log_path=_console_log(request, plan),
        mark=request.mark,
    )
    return request.render("domain.xml.j2", "domain", facts)


def _machine(request: Request) -> str:
    """Return the machine type: what older guests see, or q35 where the host's QEMU is of an x86."""
    if request.session.driver != "qemu" or _arch(request) not in ("x86_64", "i686"):
        return ""
    return "q35" if request.spec.modern else "pc"


def _arch(request: Request) -> str:
    session = request.session
    return parse.host_arch(session.fact("capabilities", session.connection.getCapabilities))


def _console_log(request: Request, plan: Plan) -> str:
    if request.session.driver != "qemu" or not request.spec.modern:
        return ""
    return f"/var/log/libvirt/qemu/{plan.uuid}-console.log"


def _disks(request: Request, plan: Plan) -> Iterator[Disk]:
    """Yield the domain's own root, then the user's disks with their paths, then the seed."""
    own = {part.kind: part for part in plan.parts}
    if "rootfs" in own:
        yield Disk(file=own["rootfs"].path, type="dir")
    if "root" in own:
        yield Disk.model_validate({"file": own["root"].path, "type": PurePosixPath(own["root"].name).suffix[1:]})
    for disk in request.spec.disks:
        yield _with_path(request, disk)
    if "seed" in own:
        yield Disk(file=own["seed"].path, type="raw", device="cdrom", readonly=True)


def foreign_paths(request: Request) -> list[str]:
    """Return the disks that the user named by path or volume, not those made for the domain."""
    return [disk.file for disk in (_with_path(request, disk) for disk in request.spec.disks) if disk.file]


def _with_path(request: Request, disk: Disk) -> Disk:
    """Return the disk with the path and format of its volume; without a volume, as it is."""
    if not disk.volume:
        return disk
    pool = storage.active_pool(request.session, disk.pool or request.spec.pool)
    facts = Volume.get(pool, disk.volume).facts()
    # libvirt calls what looks like a CD-ROM iso; for the hypervisor that is raw.
    format_ = disk.type or ("raw" if facts.format == "iso" else facts.format)
    return disk.model_copy(update={"file": facts.path, "type": format_, "pool": None, "volume": None})
