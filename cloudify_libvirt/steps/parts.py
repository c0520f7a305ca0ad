"""What is made for one domain besides its definition: root volume, seed, fixed addresses.

Each is written to the journal before it is made, and removed from what the journal says.
"""

from __future__ import annotations

import shutil
from typing import Any

from cloudify_libvirt.core.image.cache import Image
from cloudify_libvirt.core.image.rootfs import extract_root
from cloudify_libvirt.core.media import build_iso, nocloud_files
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.ownership import removal
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage.bases import Claim, Wish
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
    # A clone keeps the image's format, which the part's name says.
    wish = Wish(part.name, part.capacity_bytes, "qcow2" if part.mode == "overlay" else "")
    make_volume(pool, wish, plan.image, _claim(request, part))
    _filled(request, part, plan.image)


def _filled(request: Request, part: Part, image: Image) -> None:
    filled, origin = request.record.get("filled") or {}, request.record.get("origin") or {}
    done = {**origin, part.name: image.sha256}
    request.record.put(filled={**filled, part.name: True}, origin=done)


def _seed(request: Request, plan: Plan, part: Part) -> None:
    pool = storage.active_pool(request.session, part.pool)
    storage.blob(pool, part.name, seed_image(request, plan), _claim(request, part), besides=plan.uuid)


def seed_image(request: Request, plan: Plan) -> bytes:
    """Return the seed's content; the same parameters give the same bytes."""
    return build_iso(_seed_files(request, plan))


def _seed_files(request: Request, plan: Plan) -> dict[str, bytes]:
    wanted = request.params.get("cloud_init") or {}
    return nocloud_files(wanted, hostname=plan.hostname, instance_id=plan.uuid)


def _rootfs(request: Request, plan: Plan, part: Part) -> None:
    """Unpack a container's root file system into a directory of the pool."""
    assert plan.image is not None
    pool = storage.active_pool(request.session, part.pool)
    filled = request.record.get("filled") or {}
    directory = removal.local_directory(pool, part.name)
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
    _filled(request, part, plan.image)


def _reserve(request: Request, plan: Plan, mac: str, network: str, ip: str) -> None:
    entry = {"network": network, "mac": mac, "ip": ip}
    recorded = list(request.record.get("reservations") or [])
    found = Network.get(request.session, network)
    if entry not in recorded:
        if found.reserved(mac, ip):
            # Whoever made the network wished it so: it is not ours to release.
            return
        request.record.put(reservations=[*recorded, entry])
    found.reserve(mac, ip, plan.hostname)


def mend(request: Request, plan: Plan) -> None:
    """Make again what holds nothing of the guest's own: its seed, and the fixed addresses that it had."""
    for part in plan.parts:
        pool = storage.active_pool(request.session, part.pool) if part.kind == "seed" else None
        if pool is None:
            continue
        # libvirt's list may be older than the directory.
        pool.refresh()
        if Volume.find(pool, part.name) is None:
            _seed(request, plan, part)
    for entry in request.record.get("reservations") or []:
        _reserve(request, plan, entry["mac"], entry["network"], entry["ip"])


def renew_seed(request: Request, plan: Plan) -> None:
    """Write the seed anew, with what the parameters say now; the domain must be off."""
    for part in plan.parts:
        if part.kind == "seed":
            _seed(request, plan, part)


def renew_reservations(request: Request, plan: Plan) -> None:
    """Release the fixed addresses that are not planned any more, and make those that are."""
    planned = [{"network": network, "mac": mac, "ip": ip} for mac, network, ip in plan.reservations]
    recorded = list(request.record.get("reservations") or [])
    stale = [entry for entry in recorded if entry not in planned]
    if stale:
        removal.release(request.session, stale)
        request.record.put(reservations=[entry for entry in recorded if entry in planned])
    for mac, network, ip in plan.reservations:
        _reserve(request, plan, mac, network, ip)


def remove(request: Request, besides: str) -> None:
    """Remove what the journal says was made; what others use stays, with a warning that names them."""
    reservations, made = request.record.get("reservations") or [], request.record.get("made") or []
    # Where nothing was made there may be no host to ask, as with a wrong URI.
    if reservations:
        removal.release(request.session, reservations)
    if made:
        removal.remove_parts(request.session, made, besides, request.record.warn)
    request.record.forget("made", "reservations", "filled", "origin")
