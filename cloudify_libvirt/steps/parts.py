"""What is made for one domain besides its definition: root volume, seed, fixed addresses.

Each is written to the journal before it is made, and removed from what the journal says.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from cloudify_libvirt.core import storage
from cloudify_libvirt.core.errors import CoreError, InUse, Unsupported
from cloudify_libvirt.core.media import build_iso, nocloud_files
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.rootfs import extract_root
from cloudify_libvirt.core.storage import Claim, Wish
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps.machine import Part, Plan

# Where cloud-init looks for a seed in a root file system without a medium.
SEED_DIRECTORY = "var/lib/cloud/seed/nocloud"


def make(request: Request, plan: Plan) -> None:
    """Make the plan's volumes and reservations; those that stand already are kept."""
    makers = {"root": _root, "seed": _seed, "rootfs": _rootfs}
    for part in plan.parts:
        makers[part.kind](request, plan, part)
    for mac, network, ip in plan.reservations:
        _reserve(request, plan, mac, network, ip)


def _claim(request: Request, part: Part) -> Claim:
    entry = {"pool": part.pool, "name": part.name, "kind": part.kind}
    recorded: list[dict[str, Any]] = list(request.record.get("made") or [])
    return Claim(entry in recorded, lambda: request.record.put(made=[*recorded, entry]))


def _root(request: Request, plan: Plan, part: Part) -> None:
    assert plan.image is not None
    pool = storage.active_pool(request.session, part.pool)
    filled = request.record.get("filled") or {}
    if filled.get(part.name) and Volume.find(pool, part.name) is not None:
        return
    make_volume = storage.overlay if part.mode == "overlay" else storage.clone
    make_volume(pool, Wish(part.name, part.capacity_bytes, "qcow2"), plan.image, _claim(request, part))
    request.record.put(filled={**filled, part.name: True})


def _seed(request: Request, plan: Plan, part: Part) -> None:
    pool = storage.active_pool(request.session, part.pool)
    image = build_iso(_seed_files(request, plan))
    storage.blob(pool, part.name, image, _claim(request, part), besides=plan.uuid)


def _seed_files(request: Request, plan: Plan) -> dict[str, bytes]:
    wanted = request.params.get("cloud_init") or {}
    return nocloud_files(wanted, hostname=plan.hostname, instance_id=plan.uuid)


def _rootfs(request: Request, plan: Plan, part: Part) -> None:
    """Unpack a container's root file system into a directory of the pool."""
    assert plan.image is not None
    pool = storage.active_pool(request.session, part.pool)
    filled = request.record.get("filled") or {}
    directory = _local_directory(pool, part.name)
    if filled.get(part.name):
        return
    with pool.lock():
        claim = _claim(request, part)
        if claim.mine:
            shutil.rmtree(directory, ignore_errors=True)
        elif directory.exists():
            raise storage.taken(pool, part.name)
        else:
            claim.record()
    extract_root(
        plan.image.path, directory, {f"{SEED_DIRECTORY}/{n}": d for n, d in _seed_files(request, plan).items()}
    )
    pool.refresh()
    request.record.put(filled={**filled, part.name: True})


def _local_directory(pool: Pool, name: str) -> Path:
    if not pool.session.is_local:
        raise Unsupported(
            "make",
            f"the root of a container on {pool.session.uri}",
            "its files can only be unpacked on the hypervisor's own machine",
            "Run cfy there, or give disks: [{file: DIRECTORY}] that exists on that host.",
        )
    return Path(pool.path) / name


def _reserve(request: Request, plan: Plan, mac: str, network: str, ip: str) -> None:
    entry = {"network": network, "mac": mac, "ip": ip}
    recorded = list(request.record.get("reservations") or [])
    if entry not in recorded:
        request.record.put(reservations=[*recorded, entry])
    Network.get(request.session, network).reserve(mac, ip, plan.hostname)


def remove(request: Request, besides: str) -> None:
    """Remove what the journal says was made; what others use stays, with a warning that names them."""
    for entry in request.record.get("reservations") or []:
        network = Network.find(request.session, entry["network"])
        if network is not None:
            network.release(entry["mac"], entry["ip"])
    for entry in reversed(request.record.get("made") or []):
        _remove_volume(request, entry, besides)
    request.record.assign(made=[], reservations=[], filled={})


def _remove_volume(request: Request, entry: dict[str, Any], besides: str) -> None:
    pool = Pool.find(request.session, entry["pool"])
    if pool is None or pool.vanished:
        return
    pool.start()
    try:
        if entry["kind"] == "rootfs":
            _remove_directory(pool, entry["name"], besides)
        else:
            storage.remove(pool, entry["name"], besides)
    except InUse as error:
        request.record.warn(f"left volume '{entry['name']}' alone: {error.reason}")


def _remove_directory(pool: Pool, name: str, besides: str) -> None:
    directory = _local_directory(pool, name)
    if not directory.exists():
        return
    pool.refresh()
    volume = Volume.find(pool, name)
    users = volume.users(besides) if volume else []
    if users:
        raise InUse(
            "delete", f"directory {directory}", f"it is used by {', '.join(users[:5])}", "Remove its users first."
        )
    try:
        shutil.rmtree(directory)
    except OSError as error:
        raise CoreError("delete", f"directory {directory}", str(error), "Is the container still running?") from error
    pool.refresh()
