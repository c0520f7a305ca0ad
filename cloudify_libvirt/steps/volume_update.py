"""Bring a volume that stands to what is declared today: it grows; what takes another volume is asked for first."""

from __future__ import annotations

from cloudify_libvirt.core.drift.compare import Difference
from cloudify_libvirt.core.errors import DataLost
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.core.volume import Volume, refuse_users, refuse_writers
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, drift, standing, volume_key
from cloudify_libvirt.steps import volume as steps
from cloudify_libvirt.steps.images import fetch

# Of these another volume would be no better.
_NOT_BY_ANOTHER = frozenset({"mode"})
_CHMOD = "libvirt has no call for it; on the host: chmod 0600 of its file, or as you declared it"


def update(request: Request) -> None:
    """Grow the volume; what takes another one is refused unless ``allow_replace`` lets it.

    Raises:
        Conflict: a smaller size is wanted.
        DataLost: the volume is gone, and ``allow_replace`` does not say to make another.
    """
    if request.external:
        request.record.warn(f"{request.label}: the volume is not ours; it stays as it is")
        return
    others = standing.takes("volume", _differences(request), How.REPLACE)
    by_another = [one for one in others if one.field not in _NOT_BY_ANOTHER]
    if by_another and standing.Leave.of(request).replace:
        _replace(request)
    elif any(one.field == "existence" for one in by_another):
        remedy = "Restore it from a backup; or allow_replace: true makes another, without what was in it."
        raise DataLost("update", f"the volume of {request.label}", "it is gone, with what was in it", remedy)
    else:
        steps.resize(request)
    standing.report(request, "volume", _left(request), {"mode": _CHMOD})


def _differences(request: Request) -> list[Difference]:
    return list(drift.volume(declared.of_today(request)))


def _left(request: Request) -> list[Difference]:
    """Return what differs still; what only the host's administrator can change is said, and no error."""
    left = _differences(request)
    for one in (one for one in left if one.field in _NOT_BY_ANOTHER):
        request.record.warn(f"{one}; {_CHMOD}")
    return [one for one in left if one.field not in _NOT_BY_ANOTHER]


def _replace(request: Request) -> None:
    """Make the volume anew, without what was in it.

    Raises:
        InUse: a domain or an overlay needs it.
    """
    _check_source(request)
    name, pool = str(request.record.get("resource_id")), Pool.find(request.session, str(request.record.get("pool")))
    old = steps.find(request) if pool is not None else None
    if old is not None:
        refuse_users(old, "replace", old.users())
    elsewhere = (request.name, request.wanted_pool) != (name, str(request.record.get("pool")))
    if elsewhere:
        steps.refuse_taken(request)
    if old is not None and pool is not None:
        request.record.warn(f"{request.label}: replacing {old.target}; what was in it goes")
        storage.remove(pool, name, wipe=bool(request.draft.wipe_on_delete))
    volume_key.forget(request)
    request.record.put(filled=False, wiped=None, secret=None, origin=None)
    if elsewhere:
        request.record.put(resource_id=request.name, pool=request.wanted_pool)
    steps.create(request)
    steps.start(request)


def _check_source(request: Request) -> None:
    """Raise where the new content is not there, or is being written: what cannot be made replaces nothing."""
    spec = request.spec
    if spec.origin:
        fetch(request, spec.origin)
    if spec.source_volume:
        pool = storage.active_pool(request.session, spec.source_volume.pool or request.wanted_pool)
        refuse_writers(Volume.get(pool, spec.source_volume.volume), "copy")
