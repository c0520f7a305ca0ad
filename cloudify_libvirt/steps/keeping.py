"""What of an earlier install can be kept: contents of the same image and size; never exchanged, never cut."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from cloudify_libvirt.adoption import REMEDY, Fits
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Conflict
from cloudify_libvirt.core.image.cache import Image
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.snapshot.above import stacks
from cloudify_libvirt.core.spec import VolumeSpec
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import machine
from cloudify_libvirt.steps.images import fetch
from cloudify_libvirt.steps.machine import Part, Plan

# Formats hold whole sectors.
_SECTOR_BYTES = 512


def _refuse(target: str, reason: str, remedy: str) -> Conflict:
    return Conflict("take over", target, reason, f"{remedy} {REMEDY}")


def origin_of(spec: VolumeSpec, image: Image | None) -> str:
    """Return what tells a volume's content from another; "" for what is empty, or written into the blueprint."""
    if image is not None:
        return image.sha256
    source = spec.source_volume
    return f"{source.pool or spec.pool}/{source.volume}" if source else ""


def domain(request: Request, plan: Plan) -> Fits:
    """Return the check of what an earlier install made for the domain."""

    def check(journal: dict[str, Any]) -> None:
        if journal.get("snapshot_files"):
            # Its disks are the snapshots' files now: a definition that names the volumes below would lose them.
            reason = "an earlier install of it has snapshots in files of their own"
            raise _refuse(f"domain '{request.name}'", reason, "Merge them (cfy-libvirt snapshot delete).")
        _check_stacks(request, plan)
        for part in plan.parts:
            _check_part(request, plan, part, journal)

    return check


def _check_stacks(request: Request, plan: Plan) -> None:
    """Refuse where files of other tools' snapshots stand on its disks: the same holds of them."""
    if request.session.driver != "qemu":
        return
    found = Domain.find_by_uuid(request.session, plan.uuid)
    has = {disk.path for disk in found.facts().disks} if found else set()
    own = [*(part.path for part in plan.parts if part.kind == "root"), *machine.foreign_paths(request)]
    for path in (one for one in own if one.startswith("/") and one not in has):
        above = [one for stack in stacks(request.session, path, plan.uuid) for one in stack.paths[1:]]
        if above:
            reason = f"files stand on its disk {path}: {', '.join(dict.fromkeys(above))}"
            remedy = "Merge them into it (virsh blockcommit, or qemu-img commit), and remove them."
            raise _refuse(f"domain '{request.name}'", reason, remedy)


def _check_part(request: Request, plan: Plan, part: Part, journal: dict[str, Any]) -> None:
    filled = dict(journal.get("filled") or {})
    if not filled.get(part.name) or plan.image is None:
        return
    pool = Pool.find(request.session, part.pool)
    volume = Volume.find(pool, part.name) if pool and pool.active else None
    if volume is None and not (part.kind == "rootfs" and Path(part.path).is_dir()):
        journal["filled"] = {name: done for name, done in filled.items() if name != part.name}
        return
    target = f"volume '{part.name}' of pool '{part.pool}'"
    _check_origin(target, (journal.get("origin") or {}).get(part.name, ""), plan.image.sha256)
    if part.kind == "root" and volume is not None:
        _check_size(volume, part.capacity_bytes or plan.image.size_bytes)


def _check_origin(target: str, made_from: str, wanted: str) -> None:
    if made_from and made_from != wanted:
        reason = f"an earlier install made it from another source ({made_from[:12]}), not from this ({wanted[:12]})"
        raise _refuse(target, reason, "Give the source of then.")


def _check_size(volume: Volume, wanted_bytes: int | None) -> None:
    size = volume.facts().capacity_bytes
    if wanted_bytes is not None and abs(size - wanted_bytes) >= _SECTOR_BYTES:
        reason = f"an earlier install left it with {human_size(size)}, and {human_size(wanted_bytes)} are asked for"
        raise _refuse(volume.target, reason, f"Ask for {size} bytes, and resize it afterwards.")


def volume(request: Request, pool: Pool) -> Fits:
    """Return the check of a volume that an earlier install made."""
    return partial(_check_volume, request, pool)


def _check_volume(request: Request, pool: Pool, journal: dict[str, Any]) -> None:
    if journal.get("pool", pool.name) != pool.name:
        reason = f"an earlier install of it made it in pool '{journal['pool']}', not in '{pool.name}'"
        raise _refuse(f"volume '{request.name}'", reason, "Name the pool of then.")
    found = Volume.find(pool, request.name)
    if found is None or not journal.get("filled"):
        for key in ("filled", "wiped", "origin", "made_as"):
            journal.pop(key, None)
        return
    spec: VolumeSpec = request.spec
    image = fetch(request, spec.origin) if spec.origin else None
    _check_origin(found.target, journal.get("origin", ""), origin_of(spec, image))
    asked = spec.origin.size if spec.origin else None
    _check_size(found, asked or spec.capacity_bytes or (image.size_bytes if image else None))


def pool(request: Request) -> Fits:
    """Return the check of a pool that an earlier install made."""

    def check(journal: dict[str, Any]) -> None:
        wanted, made = request.spec.target_path, journal.get("path", "")
        if made and wanted and made.rstrip("/") != str(wanted).rstrip("/"):
            reason = f"an earlier install of it is at {made}, not at {wanted}"
            raise _refuse(f"pool '{request.name}'", reason, "Give the path of then.")

    return check
