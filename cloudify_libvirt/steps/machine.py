"""The plan of one domain: everything that is decided before anything is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Conflict, CoreError, InvalidSpec, Unsupported
from cloudify_libvirt.core.host import accelerator, hardware, preflight
from cloudify_libvirt.core.host.accelerator import Choice
from cloudify_libvirt.core.identity import normalise_mac, scoped_name
from cloudify_libvirt.core.image.cache import Image
from cloudify_libvirt.core.image.urls import public_url
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.spec import Disk
from cloudify_libvirt.core.spec.variables import DomainFacts
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps.disk_source import with_path
from cloudify_libvirt.steps.images import fetch

# The only domain type that these drivers have; others (qemu) choose between several.
_DRIVER_TYPES = {"lxc": "lxc", "test": "test", "xen": "xen", "bhyve": "bhyve", "vz": "vz"}
_MAC_ATTEMPTS = 100
# What the record names beside these, such as the copies of a backup, is in no definition.
_PARTS = frozenset({"root", "rootfs", "seed"})


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


def fill_macs(request: Request, taken: Mapping[str, str] = MappingProxyType({})) -> None:
    """Give every interface a MAC: the user's, the recorded one, or a derived one that is free.

    ``taken`` holds who has which MAC, in words; without it nothing is compared, as in ``create``: what counts is who
    has it when the domain is defined.

    Raises:
        Conflict: the user's MAC is taken.
    """
    networks = _with_free(request, request.params.get("networks") or [], taken)
    if networks != (request.params.get("networks") or []):
        request.params["networks"] = networks
        request.record.assign(params={**(request.record.get("params") or {}), "networks": networks})
        request.__dict__.pop("spec", None)


def _with_free(request: Request, cards: Iterable[Mapping[str, Any]], taken: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the cards with MACs; raise ``Conflict`` where the user's is taken."""
    networks = [dict(entry) for entry in cards]
    used = {normalise_mac(str(entry["mac"])) for entry in networks if entry.get("mac")}
    for position, entry in enumerate(networks):
        mac = normalise_mac(str(entry["mac"])) if entry.get("mac") else ""
        if mac in taken and mac != request.identity.mac(position, 0):
            raise Conflict(
                "define",
                f"domain '{request.name}' on {request.session.uri}",
                f"MAC {mac} belongs to {taken[mac]}",
                "Give the interface another mac, or leave it out to get a free one.",
            )
        if not mac or mac in taken:
            entry["mac"] = _free_mac(request, position, taken, used)
            used.add(entry["mac"])
    return networks


def _free_mac(request: Request, position: int, taken: Mapping[str, str], used: set[str]) -> str:
    candidates = (request.identity.mac(position, attempt) for attempt in range(_MAC_ATTEMPTS))
    return next(mac for mac in candidates if mac not in taken and mac not in used)


def plan(request: Request) -> Plan:
    """Decide everything; the image is fetched, as its format and size matter."""
    _free_macs(request)
    spec = request.spec
    choice = _choice(request)
    image = fetch(request, spec.image) if spec.image else None
    decided = _decided(request, choice, image.format if image else "", partial(_directory, request))
    return replace(decided, image=image)


def _free_macs(request: Request) -> None:
    fill_macs(request, preflight.taken_macs(request.session, str(request.params["instance_uuid"])))


def foreseen(request: Request, image_format: str, directory_of: Callable[[str], str]) -> Plan:
    """Decide everything but the image, of which only the format is known; ``directory_of`` a pool that may be to come.

    Nothing is fetched, started or made.
    """
    _free_macs(request)
    return _decided(request, _choice(request), image_format, directory_of)


def _decided(request: Request, choice: Choice, image_format: str, directory_of: Callable[[str], str]) -> Plan:
    return Plan(
        uuid=str(request.params["instance_uuid"]),
        choice=choice,
        hostname=_hostname(request),
        image=None,
        parts=tuple(_parts(request, choice, image_format, directory_of)),
        reservations=tuple((card.mac, card.network, card.ip) for card in request.spec.networks if card.ip),
    )


def as_recorded(request: Request) -> Plan:
    """Return the plan of a domain that was made: what was decided then stays, and nothing is fetched or measured."""
    keep_macs(request)
    fill_macs(request)
    spec = request.spec
    return Plan(
        uuid=str(request.record.get("uuid")),
        choice=_choice(request, str(request.record.get("domain_type") or "")),
        hostname=_hostname(request),
        image=None,
        parts=tuple(
            _recorded_part(request, entry) for entry in request.record.get("made") or [] if entry["kind"] in _PARTS
        ),
        reservations=tuple((card.mac, card.network, card.ip) for card in spec.networks if card.ip),
    )


def keep_macs(request: Request) -> None:
    """Give the cards of today the recorded MACs, by their place in the list."""
    _note_cards(request, _with_kept(request))


def _with_kept(request: Request) -> list[dict[str, Any]]:
    kept = (request.record.get("params") or {}).get("networks") or []
    cards = request.params.get("networks") or []
    macs = [card.get("mac") for card in kept] + [None] * len(cards)
    return [{**card, "mac": card.get("mac") or mac} for card, mac in zip(cards, macs, strict=False)]


def _note_cards(request: Request, cards: list[dict[str, Any]]) -> None:
    request.params["networks"] = cards
    request.__dict__.pop("spec", None)
    if cards:
        request.record.assign(params={**(request.record.get("params") or {}), "networks": cards})


def choose_macs(request: Request, found: Domain) -> None:
    """Give the cards of today the recorded MACs, and free ones to those that are to come.

    Raises:
        Conflict: the user's MAC of a card to come is taken; nothing is recorded.
    """
    own = {card.mac for text in (found.xml(), found.definition()) for card in parse.domain(text).interfaces}
    given = [card.get("mac") for card in request.params.get("networks") or []]
    # What was recorded for a card that never came is nobody's.
    cards = [
        card if mac or normalise_mac(str(card["mac"] or "")) in own else {**card, "mac": None}
        for card, mac in zip(_with_kept(request), given, strict=True)
    ]
    if not own.issuperset(normalise_mac(str(card["mac"] or "")) for card in cards):
        taken = preflight.taken_macs(request.session, found.uuid, fresh=True)
        cards = _with_free(request, cards, {mac: whose for mac, whose in taken.items() if mac not in own})
    _note_cards(request, cards)


def _recorded_part(request: Request, entry: Mapping[str, str]) -> Part:
    pool = Pool.find(request.session, entry["pool"])
    directory = pool.path if pool else ""
    return Part(entry["kind"], entry["pool"], entry["name"], str(PurePosixPath(directory) / entry["name"]))


def _choice(request: Request, decided: str = "") -> Choice:
    spec, session = request.spec, request.session
    only = _DRIVER_TYPES.get(session.driver)
    if only:
        return Choice(only, "none", f"the driver {session.driver} has no other")
    if not spec.modern or spec.domain_type not in ("qemu", "kvm"):
        why = f"domain_type: {spec.domain_type} was asked for"
        return Choice(spec.domain_type, spec.wanted_cpu_mode or "none", why)
    asked = "kvm" if spec.domain_type == "kvm" else spec.accelerator
    known = {"kvm": "kvm", "qemu": "tcg"}.get(decided)
    return accelerator.choose(session, known if known and asked == "auto" else asked)


def _hostname(request: Request) -> str:
    given = request.spec.cloud_init.hostname if request.spec.cloud_init else None
    return given or _as_hostname(request.name) or "guest"


def _as_hostname(name: str) -> str:
    """Return the name with what host names (RFC 1123) lack replaced; "" when nothing is left."""
    labels = re.sub(r"[^A-Za-z0-9.-]", "-", name)[:63].split(".")
    return ".".join(filter(None, (label.strip("-") for label in labels)))


def _parts(request: Request, choice: Choice, image_format: str, directory_of: Callable[[str], str]) -> Iterator[Part]:
    spec = request.spec
    part = partial(_part, request, directory_of)
    if choice.domain_type == "lxc":
        if spec.image:
            _require_tar(image_format, spec.image.source)
            yield part("rootfs", spec.image.pool or spec.pool, "rootfs")
        return
    if spec.image:
        suffix = f"root.{_root_format(spec, image_format)}"
        yield part("root", spec.image.pool or spec.pool, suffix, spec.image.size, spec.image.mode)
    if spec.image or spec.cloud_init:
        yield part("seed", spec.pool, "seed.iso")


def _root_format(spec: Any, image_format: str) -> str:
    if image_format == "tar":
        raise InvalidSpec(
            "boot",
            f"image {public_url(spec.image.source)}",
            "it is the root file system of a container",
            "Give a disk image (qcow2 or raw), or a container's URI (lxc:///system).",
        )
    return "qcow2" if spec.image.mode == "overlay" else image_format


def _require_tar(image_format: str, source: str) -> None:
    if image_format != "tar":
        raise InvalidSpec(
            "run",
            f"image {public_url(source)} as a container",
            f"it is a {image_format} disk image",
            "Give a tar archive of a root file system.",
        )


def _directory(request: Request, pool: str) -> str:
    return storage.active_pool(request.session, pool).directory


def _part(
    request: Request, directory_of: Callable[[str], str], kind: str, pool: str, suffix: str,
    size: int | None = None, mode: str = "overlay",
) -> Part:  # fmt: skip
    name = scoped_name(request.name, suffix)
    directory = directory_of(pool)
    if not directory:
        reason = f"the volumes of pool '{pool}' are no files"
        remedy = "Name a pool of type dir, fs or netfs. A volume made by a node of its own may be elsewhere: see disks."
        raise Unsupported("make", f"the {kind} volume of {request.label}", reason, remedy)
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


def check_hardware(request: Request, plan: Plan, label: str) -> None:
    """Refuse what the host cannot give to this guest; of a user's template only the hypervisor can judge."""
    if request.has_own_template:
        return
    hardware.check(request.session, request.spec, _platform(request, plan.choice), label)


def lacking_hardware(request: Request, label: str) -> Iterator[CoreError]:
    """Yield all that the host cannot give to this guest."""
    yield from hardware.lacking(request.session, request.spec, _platform(request, _choice(request)), label)


def _platform(request: Request, choice: Choice) -> hardware.Platform:
    return hardware.Platform(
        domain_type=choice.domain_type,
        arch=request.spec.arch or _arch(request),
        machine=request.spec.machine or _machine(request),
        cpu_mode=request.spec.wanted_cpu_mode or choice.cpu_mode,
    )


def _machine(request: Request) -> str:
    """Return the machine type: what older guests see, or q35 where the host's QEMU is of an x86."""
    if request.session.driver != "qemu" or _arch(request) not in ("x86_64", "i686"):
        return ""
    return "q35" if request.spec.modern else "pc"


def _arch(request: Request) -> str:
    session = request.session

    def ask() -> str:
        return parse.host_arch(session.fact("capabilities", session.connection.getCapabilities))

    return str(session.fact("architecture", ask))


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
        yield with_path(request, disk, request.spec.pool)
    if "seed" in own:
        yield Disk(file=own["seed"].path, type="raw", device="cdrom", readonly=True)


def foreign_paths(request: Request) -> list[str]:
    """Return the disks that the user named by path or volume, not those made for the domain."""
    return [
        disk.file for disk in (with_path(request, disk, request.spec.pool) for disk in request.spec.disks) if disk.file
    ]
