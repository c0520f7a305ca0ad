"""Steps of a volume's life: made and filled once, never touched again, wiped only when asked."""

from __future__ import annotations

from cloudify_libvirt.core import storage
from cloudify_libvirt.core.errors import CoreError, InUse, Missing
from cloudify_libvirt.core.image import Image
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.storage import Claim, Wish
from cloudify_libvirt.core.units import MIB, to_mib_rounded_up
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps.images import fetch


def check(request: Request) -> None:
    """Refuse what cannot work, before anything is made."""
    if not request.external:
        _ = (request.draft, request.session)


def create(request: Request) -> None:
    """Find the existing volume, or make ours; its content comes with it unless it is a plain ``url``."""
    pool = storage.active_pool(request.session, request.wanted_pool)
    if request.external and _found(pool, request):
        return
    mine = request.record.get("resource_id") == request.name
    if mine and request.record.get("filled"):
        return
    try:
        _make(pool, request, _claim(pool, request, mine))
    except CoreError as error:
        if not error.retryable and not mine:
            request.record.put(resource_id=None)
        raise


def _found(pool: Pool, request: Request) -> bool:
    name = request.resource_id or request.name
    volume = Volume.find(pool, name)
    if volume is None and request.create_if_missing:
        request.own(name)
        return False
    if volume is None:
        volume = Volume.get(pool, name)
    _record(request, volume, pool)
    return True


def _claim(pool: Pool, request: Request, mine: bool) -> Claim:
    if not mine and Volume.find(pool, request.name) is not None:
        # Said before an image is fetched; whether it is so still counts when the volume is made.
        raise storage.taken(pool, request.name)
    return Claim(mine, lambda: request.record.put(resource_id=request.name, pool=pool.name, filled=False))


def _make(pool: Pool, request: Request, claim: Claim) -> None:
    content = request.spec.content
    if content is None:
        volume = storage.empty(pool, _wish(request, request.spec.format or "raw", None), claim)
        _record(request, volume, pool, filled=True)
        return
    image = fetch(request, content.source, content.checksum, content.format)
    make = storage.overlay if content.mode == "overlay" else storage.clone
    volume = make(pool, _wish(request, "qcow2", content.size), image, claim)
    _record(request, volume, pool, _recorded_size(request, image), filled=True)


def _wish(request: Request, format_: str, size_bytes: int | None) -> Wish:
    spec = request.spec
    return Wish(
        request.name,
        size_bytes or spec.capacity_bytes,
        format_,
        spec.allocation_bytes,
        lambda facts: request.render("volume.xml.j2", "storagevol", facts),
    )


def _recorded_size(request: Request, image: Image) -> dict[str, int]:
    """Return what the contract has in params for a ``url``: the size of the file in MiB."""
    size = to_mib_rounded_up(image.file_bytes)
    return {"capacity": size, "allocation": size} if request.spec.url else {}


def _record(request: Request, volume: Volume, pool: Pool, size: dict[str, int] | None = None, **more: object) -> None:
    params = {**(request.record.get("params") or {}), "path": volume.path, "pool": pool.name, **(size or {})}
    request.record.put(resource_id=volume.name, pool=pool.name, params=params, path=volume.path, **more)


def _recorded_pool(request: Request) -> Pool | None:
    """Return the pool that the volume was made in, started; the property may name another one today."""
    name = request.record.get("pool")
    pool = Pool.find(request.session, name) if name else None
    if pool is None or pool.vanished:
        return None
    pool.start()
    return pool


def find(request: Request) -> Volume | None:
    """Return the volume that this instance recorded, or None."""
    pool = _recorded_pool(request)
    return Volume.find(pool, request.record.get("resource_id")) if pool else None


def start(request: Request) -> None:
    """Overwrite the asked part with zeros, once; contents were written when the volume was made."""
    if request.external or not request.record.get("resource_id") or request.record.get("wiped"):
        return
    spec = request.draft
    if not spec.zero_wipe:
        return
    volume = find(request)
    if volume is None:
        raise Missing("zero", f"the volume of {request.label}", "it is gone", "Install the node again.")
    if spec.content is None and spec.format in (None, "raw"):
        volume.zero(min(spec.allocation * MIB, volume.facts().capacity_bytes))
    request.record.put(wiped=True)


def delete(request: Request) -> None:
    """Delete the volume, unless somebody else uses it; then it is left, with a warning that names the user."""
    name = request.record.get("resource_id")
    if request.external or not name:
        return
    pool = _recorded_pool(request)
    if pool is None:
        return
    try:
        storage.remove(pool, name)
    except InUse as error:
        request.record.warn(f"left volume '{name}' alone: {error.reason}")
