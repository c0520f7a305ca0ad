"""Bring a volume that stands to what is declared today: it grows; what takes another volume is asked for first."""

from __future__ import annotations

from cloudify_libvirt.core.drift.compare import Difference
from cloudify_libvirt.core.errors import DataLost
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.core.update.table import how
from cloudify_libvirt.core.volume import Volume, refuse_users, refuse_writers
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, drift, standing, volume_key
from cloudify_libvirt.steps import volume as steps
from cloudify_libvirt.steps.images import fetch

# Of these another volume would be no better.
NOT_BY_ANOTHER = frozenset({"mode"})
# What the host has otherwise by itself is no reason to give up what is in the volume; only what the declaration said
# when it was made, and says otherwise now. By row of the table: key of what was recorded then.
_MADE_AS = {"format*": "format", "encryption*": "encrypted", "backing*": "overlay"}
_BY_RECORD = frozenset({"existence", "name", "pool"})
UNDO = "Bring it back on the host, or declare what is there."
WAITS = "it waits until the rest is as declared"
CHMOD = "libvirt has no call for it; on the host: chmod 0600 of its file, or as you declared it"


def update(request: Request) -> None:
    """Grow the volume; what takes another one is refused unless ``allow_replace`` lets it.

    Raises:
        Conflict: a smaller size is wanted.
        CoreError: it takes another volume, without leave; or the host alone changed what only another would have.
        DataLost: the volume is gone, and ``allow_replace`` does not say to make another.
    """
    if request.external:
        request.record.warn(f"{request.label}: the volume is not ours; it stays as it is")
        return
    differences = _differences(request)
    wanted = [one for one in differences if wants_another(request, one)]
    if wanted and standing.Leave.of(request).replace:
        _replace(request)
    elif any(one.field == "existence" for one in wanted):
        remedy = "Restore it from a backup; or allow_replace: true makes another, without what was in it."
        raise DataLost("update", f"the volume of {request.label}", "it is gone, with what was in it", remedy)
    elif not drifted(request, differences):
        # What looks otherwise to the host may be contents, which its resize would write into.
        steps.resize(request)
    left = _left(request)
    remedy = UNDO if drifted(request, left) else standing.REMEDY
    standing.report(request, "volume", left, _why(request, left), remedy=remedy)


def drifted(request: Request, differences: list[Difference]) -> list[Difference]:
    """Return what only another volume would have otherwise, and nobody asked for."""
    others = [one for one in standing.takes("volume", differences, How.REPLACE) if one.field not in NOT_BY_ANOTHER]
    return [one for one in others if not wants_another(request, one)]


def wants_another(request: Request, one: Difference) -> bool:
    """Tell whether the user's own declaration, or the loss of the volume, asks for another one."""
    row = how("volume", one.field, active=True).field
    if row not in _MADE_AS:
        return row in _BY_RECORD
    made_as, key = request.record.get("made_as") or {}, _MADE_AS[row]
    return key in made_as and made_as[key] != steps.declared_as(declared.of_today(request).spec)[key]


def _why(request: Request, left: list[Difference]) -> dict[str, str]:
    """Return why what takes another volume is not done, with what would be lost."""
    others = standing.takes("volume", left, How.REPLACE)
    volume = steps.find(request) if others else None
    if volume is None:
        return {}
    lost = f"the {human_size(volume.facts().allocation_bytes)} that are allocated in this one"
    asked = f"that takes another volume in its place, and {lost} are lost; allow_replace: true does that"
    by_itself = f"it became so on the host, and {lost} are not given up for that, with allow_replace neither"
    waits = dict.fromkeys((one.field for one in left), WAITS) if drifted(request, left) else {}
    return waits | {one.field: asked if wants_another(request, one) else by_itself for one in others}


def _differences(request: Request) -> list[Difference]:
    return list(drift.volume(declared.of_today(request)))


def _left(request: Request) -> list[Difference]:
    """Return what differs still; what only the host's administrator can change is said, and no error."""
    left = _differences(request)
    for one in (one for one in left if one.field in NOT_BY_ANOTHER):
        request.record.warn(f"{one}; {CHMOD}")
    return [one for one in left if one.field not in NOT_BY_ANOTHER]


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
