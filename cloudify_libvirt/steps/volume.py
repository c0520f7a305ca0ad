"""Steps of a volume's life: made and filled once, never touched again, wiped only when asked."""

from __future__ import annotations

from cloudify_libvirt.adoption import adopt, forget_intent
from cloudify_libvirt.core.errors import CoreError, InUse, Missing, Unsupported
from cloudify_libvirt.core.image.cache import Image
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.spec import VolumeSpec
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage import derived, formats, growth
from cloudify_libvirt.core.storage.bases import Claim, Wish
from cloudify_libvirt.core.units import MIB, human_size, parse_bool, parse_int, to_mib_rounded_up
from cloudify_libvirt.core.volume import Volume, refuse_writers, running_disks
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, keeping, volume_key
from cloudify_libvirt.steps.images import fetch


def create(request: Request) -> None:
    """Find the existing volume, or make ours; its content comes with it unless it is a plain ``url``."""
    pool = storage.active_pool(request.session, request.wanted_pool)
    if request.external and _found(pool, request):
        return
    if adopt(request, keeping.volume(request, pool)):
        _take_over(request, pool)
    # A name alone may have been written by a script; that we made it says what is recorded with the claim.
    filled = request.record.get("filled")
    mine = request.record.get("resource_id") == request.name and filled is not None
    if mine and filled:
        return
    try:
        _make(pool, request, _claim(pool, request, mine))
    except CoreError as error:
        if not error.retryable and not mine:
            volume_key.forget(request)
            request.record.put(resource_id=None, secret=None)
        raise


def _take_over(request: Request, pool: Pool) -> None:
    """Record of a finished volume what ``_make`` would have."""
    if request.record.get("filled"):
        size = _recorded_size(request, fetch(request, request.spec.origin)) if request.spec.url else None
        _record(request, Volume.get(pool, request.name), pool, size, filled=True)


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


def refuse_taken(request: Request) -> None:
    """Raise ``Conflict`` when the volume of today's name exists."""
    pool = storage.active_pool(request.session, request.wanted_pool)
    if Volume.find(pool, request.name) is not None:
        raise storage.taken(pool, request.name)


def _make(pool: Pool, request: Request, claim: Claim) -> None:
    _check_content(pool, request)
    spec, secret = request.spec, volume_key.prepare(request, pool)
    declared.keep_template(request)
    recorded_size: dict[str, int] = {}
    own = "raw"
    origin = keeping.origin_of(spec, None)
    if spec.origin:
        image = fetch(request, spec.origin)
        origin = keeping.origin_of(spec, image)
        make = storage.overlay if spec.is_overlay else storage.clone
        volume = make(pool, _wish(request, "qcow2" if spec.is_overlay else "", secret), image, claim)
        own, recorded_size = image.format, _recorded_size(request, image)
    elif spec.source_volume:
        source = Volume.get(_pool_of_source(request, pool), spec.source_volume.volume)
        own = formats.of(source, spec.source_volume.format or "")
        derive = derived.overlay_of if spec.is_overlay else derived.clone_of
        volume = derive(pool, _wish(request, "", secret), source, own, claim)
    elif spec.content is not None:
        with derived.in_memory(spec.content, whole_sectors=spec.format == "qcow2") as image:
            volume = storage.clone(pool, _wish(request, "raw"), image, claim)
    else:
        volume = storage.empty(pool, _wish(request, "raw", secret), claim)
    made_as = {**declared_as(spec), "stored": "qcow2" if spec.is_overlay else spec.format or own}
    _record(request, volume, pool, recorded_size, filled=True, origin=origin or None, made_as=made_as)


def declared_as(spec: VolumeSpec) -> dict[str, object]:
    """Return what is declared of a volume that only another volume could have otherwise."""
    return {"format": spec.format or "", "encrypted": spec.encryption is not None, "overlay": spec.is_overlay}


def _check_content(pool: Pool, request: Request) -> None:
    """Refuse contents that libvirt cannot write where the hypervisor alone reaches the volume."""
    spec = request.spec
    written = spec.origin or spec.content is not None or spec.is_overlay or spec.zero_wipe
    if pool.kind.remote and (written or spec.preallocation != "off"):
        reason = f"libvirt writes nothing into volumes of a pool of type {pool.facts.type}"
        remedy = "Make it empty, or a copy (source_volume) of one there; take another pool for images and zeros."
        raise Unsupported("fill", f"the volume of {request.label} in {pool.target}", reason, remedy)


def _pool_of_source(request: Request, pool: Pool) -> Pool:
    name = request.spec.source_volume.pool
    return storage.active_pool(request.session, name) if name else pool


def _wish(request: Request, format_: str, secret: str = "") -> Wish:
    """Return what to make; ``format_`` where the user names none, "" for that of the source."""
    spec = request.spec
    return Wish(
        request.name,
        _wanted_bytes(spec),
        spec.format or format_,
        spec.allocation_bytes,
        lambda facts: request.render("volume.xml.j2", "storagevol", facts),
        spec.preallocation,
        secret,
    )


def _wanted_bytes(spec: VolumeSpec) -> int | None:
    return (spec.origin.size if spec.origin else None) or spec.capacity_bytes


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
    """Give the host the key that it lost; overwrite the asked part with zeros, once. Contents are there already."""
    if request.external or not request.record.get("resource_id"):
        return
    if request.record.get("secret"):
        volume_key.bring_back(request, _existing(request, "unlock"))
    if request.record.get("wiped"):
        return
    if request.draft.zero_wipe:
        _zero(request, _existing(request, "zero"))
    # Also where nothing was asked for: from now on there may be data.
    request.record.put(wiped=True)


def _zero(request: Request, volume: Volume) -> None:
    spec = request.draft
    if not spec.sources and spec.format in (None, "raw"):
        refuse_writers(volume, "zero")
        volume.zero(min(spec.allocation * MIB, volume.facts().capacity_bytes))


def _existing(request: Request, action: str) -> Volume:
    volume = find(request)
    if volume is None:
        raise Missing(action, f"the volume of {request.label}", "it is gone", "Install the node again.")
    return volume


def resize(request: Request) -> None:
    """Make the volume as large as it should be today: offline, or under the guest that runs with it."""
    if request.external:
        request.record.warn(f"{request.label}: the volume is not ours; its size stays")
        return
    volume = _existing(request, "resize")
    wanted = size_of_today(request)
    if wanted is None:
        return
    if not running_disks(volume):
        # A guest that runs has it open; offline, libvirt opens it with the key.
        volume_key.bring_back(request, volume)
    spec = request.draft
    format_ = formats.of(volume, declared.stored_as(request))
    thick = spec.preallocation in ("falloc", "full") and not spec.encryption and format_ == "raw"
    how = growth.grow(volume, wanted, thick=thick, format_=format_)
    if how:
        request.record.note(f"{volume.target} has {human_size(wanted)} now ({how})")


def size_of_today(request: Request) -> int | None:
    """Return the size that the user wants; the capacity that was recorded for a ``url`` is not one."""
    spec = request.draft
    if not spec.url or spec.size:
        return _wanted_bytes(spec)
    given = {**(request.properties.get("params") or {}), **(request.inputs.get("params") or {})}.get("capacity")
    return parse_int(given, "capacity") * MIB if given else None


def delete(request: Request) -> None:
    """Delete the volume, unless somebody else uses it; then it is left, with a warning that names the user."""
    if request.external:
        return
    name, pool = request.record.get("resource_id"), _recorded_pool(request)
    if name and pool and not _removed(pool, name, request):
        return
    volume_key.forget(request)
    forget_intent(request)


def _removed(pool: Pool, name: str, request: Request) -> bool:
    try:
        wipe = parse_bool(request.params.get("wipe_on_delete") or False, "wipe_on_delete")
        storage.remove(pool, name, wipe=wipe, complete=bool(request.record.get("filled")))
    except InUse as error:
        request.record.warn(f"left volume '{name}' alone: {error.reason}")
        return False
    return True
