"""Steps of snapshots and backups of networks, pools and volumes: their definitions, kept and brought back."""

from __future__ import annotations

from typing import Any

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core import parse
from cloudify_libvirt.core.backup import fulldump
from cloudify_libvirt.core.errors import Conflict, InUse, Missing
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.parse import document
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.spec.snapshot import SnapshotSpec
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage import formats
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.core.volume import AS_RAW, Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, filebackup
from cloudify_libvirt.steps.snapshot_record import asked, forget_series, full_name, note_series, replace_name, rotate

Noun = type[Network] | type[Pool]
# Source: https://libvirt.org/formatnetwork.html#connectivity
_NAT_PORTS = {"start": "1024", "end": "65535"}


def create(request: Request, noun: Noun | None) -> None:
    """Keep the definition; ``noun`` None is a volume."""
    wanted = asked(request)
    text = _definition(request, noun)
    if wanted.incremental:
        filebackup.keep_definition(request, wanted, text)
    else:
        filebackup.write_definition(request, wanted, text)
    note_series(request, wanted)
    if wanted.rotate:
        let_old_ones_go(request)


def let_old_ones_go(request: Request) -> None:
    """Drop what the rotation no longer keeps."""
    wanted = asked(request)
    rotate(request, wanted, lambda name: _drop(request, replace_name(wanted, name)))


def apply(request: Request, noun: Noun | None) -> None:
    """Bring the object back to the kept definition, or fail saying why that is not possible."""
    wanted = asked(request)
    text = _kept(request, wanted)
    if noun is None:
        _compare_volume(request, text)
    else:
        _restore(request, noun, text, wanted)


def delete(request: Request) -> None:
    """Drop the kept definition."""
    wanted = asked(request)
    _drop(request, wanted)
    forget_series(request, wanted)


def _definition(request: Request, noun: Noun | None) -> str:
    if noun is None:
        return _volume(request, "read").xml()
    found = look_up(noun, request)
    if found is None:
        raise Missing("back up", f"the {noun.noun} of {request.label}", "it was never made, or is gone", "Install it.")
    return str(found.definition())


def _kept(request: Request, wanted: SnapshotSpec) -> str:
    if wanted.incremental:
        return filebackup.kept_definition(request, full_name(request, wanted.name))
    return filebackup.read_definition(request, wanted)


def _drop(request: Request, wanted: SnapshotSpec) -> None:
    if wanted.incremental:
        filebackup.forget_definition(request, full_name(request, wanted.name))
    else:
        filebackup.delete(request, wanted)


def _restore(request: Request, noun: Noun, text: str, wanted: SnapshotSpec) -> None:
    """Define the object as it was, also when it is gone; what runs on is changed only on wish."""
    uuid, name = str(request.record.get("uuid") or ""), str(request.record.get("resource_id") or "")
    label = noun.label(name, request.session)
    fulldump.check_definition(text, uuid, label)
    old: Any = look_up(noun, request)
    starts_with_host = request.spec.autostart
    was_active, stood = (old.active, old.persistent) if old is not None else (False, False)
    runs_so = was_active and _same(old.xml(), text)
    if runs_so and stood and _same(old.definition(), text):
        # A pool whose definition cannot be written anew, as on a full disk, is one that libvirt forgets.
        request.record.note(f"{label} is as it was")
        return
    found: Any = noun.define(request.session, text, name, uuid)
    if not stood:
        # No definition has that in it.
        found.autostart(starts_with_host)
    if not was_active:
        found.start()
        request.record.note(f"restored {label}")
    elif runs_so:
        request.record.note(f"restored the definition of {label}, which runs as in it")
    else:
        _take_effect(request, found, wanted)


def _take_effect(request: Request, found: Any, wanted: SnapshotSpec) -> None:
    users = found.users() if isinstance(found, Network) else []
    if not wanted.restart:
        request.record.warn(
            f"restored the definition of {found.target}; it runs on as it is until it is started anew "
            "(snapshot_restart: true does so now)"
        )
    elif users:
        reason = f"running domains are on it: {', '.join(users[:5])}; its definition is restored"
        raise InUse("restart", found.target, reason, "Stop them, and apply again.")
    else:
        found.stop()
        found.start()
        request.record.note(f"restored {found.target} and started it anew")


def _same(present: str, kept: str) -> bool:
    """Tell whether two definitions say the same, but for what changes by itself."""
    return _plain(present) == _plain(kept)


def _plain(text: str) -> list[tuple[str, str, tuple[tuple[str, str], ...]]]:
    root = document(text)
    for name in ("capacity", "allocation", "available"):
        for element in root.findall(name):
            root.remove(element)
    root.attrib.pop("connections", None)
    # libvirt tells of the ports that it takes by itself only while the network runs.
    for nat in root.findall("forward/nat"):
        if [dict(one.attrib) for one in nat] == [_NAT_PORTS]:
            nat.getparent().remove(nat)
    return [
        (str(one.tag), (one.text or "").strip(), tuple(sorted((str(k), str(v)) for k, v in one.attrib.items())))
        for one in root.iter()
    ]


def _volume(request: Request, action: str) -> Volume:
    name = request.record.get("resource_id")
    if not name:
        raise Missing(action, f"the volume of {request.label}", "it was never made, or is gone", "Install it.")
    pool = storage.active_pool(request.session, str(request.record.get("pool") or request.wanted_pool))
    return Volume.get(pool, str(name))


def _compare_volume(request: Request, text: str) -> None:
    """Say what is true: the definition is all that was kept, and the content is as it is now.

    Raises:
        Missing: the volume is gone, with its content.
        Conflict: it has another size or format now.
    """
    volume = _volume(request, "restore")
    kept, format_ = parse.volume(text), formats.of(volume, declared.stored_as(request))
    was, size = "raw" if kept.format in AS_RAW else kept.format, formats.capacity(volume, format_)
    if (kept.capacity_bytes, was) != (size, format_):
        reason = (
            f"it was {was} of {human_size(kept.capacity_bytes)}, and is {format_} of "
            f"{human_size(size)}; its content is not in this backup"
        )
        raise Conflict("restore", volume.target, reason, "Restore it from a backup of its domain.")
    request.record.warn(
        f"{volume.target} has the size and format of the backup; its content is not in it, and is as it is now"
    )
