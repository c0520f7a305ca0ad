"""What is wrong with a node's object now; the host is looked at, nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core import parse, states
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import DataLost, Missing, Unhealthy
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.storage import stream
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import REPLACING, Request
from cloudify_libvirt.steps import undefined
from cloudify_libvirt.steps.machine import Plan

# As far as the volume descriptors. Source: ECMA-119, 6.2.1: the system area has 16 sectors of 2048 bytes
ISO_HEAD_BYTES = 17 * 2048
_ISO_MAGIC, _ISO_MAGIC_AT = b"CD001", 16 * 2048 + 1
_LOST_REMEDY = (
    "Restore it from a backup (cfy-libvirt backup restore), or give up what this instance held: "
    """cfy executions start reinstall -b {deployment} -p '{{"node_instance_ids": ["{instance}"]}}'."""
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the parameter that it concerns, and the same in words.

    ``lost``: contents are gone, or nobody knows where they are; ``remedy`` where it is another than for lost contents.
    """

    field: str
    declared: Any
    found: Any
    text: str
    lost: bool = False
    remedy: str = ""


Look = Callable[[Request], Iterator[Finding]]


def check(request: Request, look: Look) -> None:
    """Raise when the object is not as it should be; what was never made is fine.

    Raises:
        DataLost: contents are gone.
        Unhealthy: it is gone, off, or without what it needs.
    """
    if not made(request):
        return
    findings = list(look(request))
    if not findings:
        return
    text = "; ".join(finding.text for finding in findings)
    name = request.record.get("resource_id")
    label = f"{request.kind} '{name}'" if name else f"the image of {request.label}"
    lost_ = [finding for finding in findings if finding.lost]
    if lost_:
        usual = _LOST_REMEDY.format(deployment=request.ctx.deployment.id, instance=request.ctx.instance.id)
        remedy = " ".join(dict.fromkeys(finding.remedy or usual for finding in lost_))
        raise DataLost("find healthy", label, text, remedy)
    heal = f"Heal it: cfy executions start heal -b {request.ctx.deployment.id}."
    raise Unhealthy("find healthy", label, text, heal)


def made(request: Request) -> bool:
    """Tell whether the node's object was made, or found; an ISO image has no name of its own."""
    return bool(request.record.get("resource_id")) or request.record.get("by_input") is not None


def wanted_state(request: Request) -> str:
    """Return running, paused, or "" where nobody started it, or somebody stopped it."""
    if not request.record.get("started_at") or request.record.get("stopped"):
        return ""
    return "paused" if request.record.get("suspended") else "running"


def domain(request: Request) -> Iterator[Finding]:
    """Yield what is wrong with a domain."""
    # A workflow that heals starts the pools in a moment, and must know first what it would put in whose place.
    heals = request.ctx.workflow_id in REPLACING
    yield from lost(request, starts_pools=heals)
    found: Domain | None = look_up(Domain, request)
    if found is None:
        off = "" if request.external or heals else ", ".join(undefined.unseen(request))
        hidden = f"; whether files stand on its disks cannot be seen, as pool {off} is off" if off else ""
        yield Finding("existence", "defined", None, f"the hypervisor does not know it any more{hidden}")
        return
    yield from _state(found, request)
    if not request.external:
        yield from _definition(found)
    if not request.external:
        yield from _seed(request)
    if not request.external and wanted_state(request):
        yield from _links(found)
        yield from reservations(request)


def _seed(request: Request) -> Iterator[Finding]:
    for entry in request.record.get("made") or []:
        pool = Pool.find(request.session, entry["pool"]) if entry["kind"] == "seed" else None
        if pool is not None and not _is_there(pool, entry):
            yield Finding("cloud_init", "a seed", None, f"its seed '{entry['name']}' is gone")


def _definition(found: Domain | Network | Pool) -> Iterator[Finding]:
    if not found.persistent:
        yield Finding(
            "existence", "defined", "until it is stopped", "its definition is gone: it ends when it is stopped"
        )


def _state(found: Domain, request: Request) -> Iterator[Finding]:
    wanted, state = wanted_state(request), found.state
    if wanted and state in states.OFF:
        yield Finding("state", wanted, "off", f"it is off: {found.off_reason}")
    elif wanted == "running" and (stalled := found.stalled_disks):
        text = f"it stands still, as {' and '.join(stalled)}; mend that first"
        yield Finding("state", wanted, "paused", text)
    elif wanted == "running" and state not in states.RUNNING:
        yield Finding("state", wanted, state.name.lower(), f"it is {state.name.lower()}, and nobody asked for that")


def _links(found: Domain) -> Iterator[Finding]:
    """Yield the cards whose network is gone or off, or that lost their place on its bridge."""
    for number, card in enumerate(found.facts().interfaces):
        network = Network.find(found.session, card.network) if card.network else None
        name = f"networks[{number}].network"
        if card.network and network is None:
            yield Finding(name, card.network, None, f"its network '{card.network}' does not exist")
        elif network is not None and not network.active:
            yield Finding(name, "active", "inactive", f"its network '{card.network}' is not active")
        elif network is not None and network.unplugged([card]):
            yield Finding(name, "plugged", "unplugged", f"its card {card.mac} is off the bridge of '{card.network}'")


def reservations(request: Request, plan: Plan | None = None) -> Iterator[Finding]:
    """Yield the fixed addresses that a network has not reserved any more: those that were made, or planned."""
    made = [(one["mac"], one["network"], one["ip"]) for one in request.record.get("reservations") or []]
    for mac, name, ip in plan.reservations if plan else made:
        network = Network.find(request.session, name)
        if network is None:
            continue
        hosts = parse.network(network.xml()).hosts
        if not any(entry.mac == mac and entry.ip == ip for entry in hosts):
            other = next((entry.ip for entry in hosts if entry.mac == mac), None)
            position = next((n for n, card in enumerate(_cards(request)) if card.get("mac") == mac), 0)
            yield Finding(f"networks[{position}].ip", ip, other, f"network '{name}' does not reserve {ip} for {mac}")


def _cards(request: Request) -> list[dict[str, Any]]:
    return list((request.record.get("params") or {}).get("networks") or [])


def lost(request: Request, *, starts_pools: bool = False) -> Iterator[Finding]:
    """Yield the disks of the domain that are gone, with what the guest wrote, or of which nobody knows the file.

    Which file that is, nobody can see in a pool that is off, unless it may be started.
    """
    gone = list(_gone(request))
    yield from gone
    if not gone and not request.external and look_up(Domain, request) is None:
        disks = undefined.unclear(request) if starts_pools or not undefined.unseen(request) else []
        for disk in disks:
            yield Finding("disks", disk.path, None, disk.text, lost=True, remedy=undefined.remedy(request, disks))


def _gone(request: Request) -> Iterator[Finding]:
    filled = request.record.get("filled") or {}
    for entry in request.record.get("made") or []:
        if entry["kind"] not in ("root", "rootfs") or not filled.get(entry["name"]):
            continue
        where = f"'{entry['name']}' of pool '{entry['pool']}'"
        pool = Pool.find(request.session, entry["pool"])
        if pool is not None and not _is_there(pool, entry):
            yield Finding("image", where, None, f"its disk {where} is gone, with all that the guest wrote", lost=True)
    for path in request.record.get("snapshot_files") or []:
        if request.session.shares_files and not _exists(path):
            yield Finding("image", path, None, f"its disk {path} (of a snapshot) is gone", lost=True)


def _is_there(pool: Pool, entry: dict[str, Any]) -> bool:
    if pool.directory and pool.session.shares_files:
        return _exists(str(Path(pool.directory) / entry["name"]))
    return not pool.active or stored(pool, entry["name"]) is not None


def _exists(path: str) -> bool:
    # What we may not look at is left to the hypervisor.
    with suppress(PermissionError):
        return Path(path).exists()
    return True


def stored(pool: Pool, name: str) -> Volume | None:
    """Return a volume whose content is there, too: libvirt's list may be older than the directory."""
    volume = Volume.find(pool, name)
    try:
        if volume is not None:
            volume.facts()
    except Missing:
        return None
    return volume


def network(request: Request) -> Iterator[Finding]:
    """Yield what is wrong with a network."""
    found: Network | None = look_up(Network, request)
    if found is None:
        yield Finding("existence", "defined", None, "the hypervisor does not know it any more")
    elif not found.active:
        yield Finding("state", "active", "inactive", "it is not active")
    elif not request.external:
        yield from _definition(found)


def pool(request: Request) -> Iterator[Finding]:
    """Yield what is wrong with a pool."""
    found: Pool | None = look_up(Pool, request)
    if found is None:
        yield Finding("existence", "defined", None, "the hypervisor does not know it any more")
    elif found.vanished:
        yield Finding("path", found.path, None, f"its directory {found.path} is gone")
    elif not found.active and not request.record.get("stopped"):
        yield Finding("state", "active", "inactive", "it is not active")
    elif not request.external:
        yield from _definition(found)


def volume(request: Request) -> Iterator[Finding]:
    """Yield what is wrong with a volume."""
    pool = Pool.find(request.session, str(request.record.get("pool") or request.wanted_pool))
    if pool is None:
        yield Finding("pool", request.record.get("pool"), None, "its pool does not exist; heal that first")
    elif not volume_exists(request, pool):
        yield Finding("existence", "stored", None, "it is gone, with what was in it", lost=True)


def volume_exists(request: Request, pool: Pool) -> bool:
    """Tell whether the recorded volume is there; of a pool that is off only where its files can be seen."""
    name = str(request.record.get("resource_id"))
    if pool.active:
        return stored(pool, name) is not None
    return not (pool.session.shares_files and pool.directory) or _exists(str(Path(pool.directory) / name))


def image_volume(request: Request) -> Volume | None:
    """Return the volume of an ISO image, or None."""
    spec = request.draft
    pool = Pool.find(request.session, spec.pool)
    return stored(pool, spec.volume) if pool is not None and pool.active else None


def iso9660(request: Request) -> Iterator[Finding]:
    """Yield what is wrong with an ISO image."""
    found = image_volume(request)
    if found is None:
        yield Finding("volume", request.draft.volume, None, "the volume that holds it is gone")
    elif not is_iso(content(found, ISO_HEAD_BYTES)):
        yield Finding("files", "an ISO 9660 image", "something else", "its volume holds no ISO 9660 image")


def content(found: Volume, most_bytes: int) -> bytes:
    """Return the first bytes of a volume."""
    length = min(most_bytes, found.facts().capacity_bytes)
    return stream.read(found.pool.session, found.handle, 0, length, found.target)


def is_iso(data: bytes) -> bool:
    """Tell whether data begins as an ISO 9660 image does."""
    return data[_ISO_MAGIC_AT : _ISO_MAGIC_AT + len(_ISO_MAGIC)] == _ISO_MAGIC
