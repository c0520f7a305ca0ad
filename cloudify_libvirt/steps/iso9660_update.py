"""Write an ISO image anew into the volume that it is in; the drives that hold it are open meanwhile."""

from __future__ import annotations

from dataclasses import asdict

from cloudify_libvirt.core.drift.compare import Difference
from cloudify_libvirt.core.errors import Busy, CoreError, InUse, TimedOut
from cloudify_libvirt.core.storage.bases import active_pool
from cloudify_libvirt.core.update import medium
from cloudify_libvirt.core.update.medium import Drive
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, drift, standing
from cloudify_libvirt.steps import iso9660 as steps


def update(request: Request) -> None:
    """Write what is declared today, if it is not there; a guest that uses the medium is waited for by nobody."""
    _ = request.params
    why = {}
    try:
        if _differences(request):
            _write(request)
    except (Busy, InUse, TimedOut) as error:
        why = {"": f"{error.reason}; let the guest give it back (umount, eject), or stop it, and run this again"}
    finally:
        _close(request)
    standing.report(request, "iso9660", _differences(request), why)


def _differences(request: Request) -> list[Difference]:
    return list(drift.iso9660(declared.of_today(request)))


def _write(request: Request) -> None:
    spec = request.spec
    volume = Volume.get(active_pool(request.session, spec.pool), spec.volume)
    for drive in medium.drives(volume):
        # Recorded first: what was taken out is put in again, whatever comes.
        request.record.put(ejected=[*(request.record.get("ejected") or []), asdict(drive)])
        medium.open_drive(request.session, drive)
    steps.create(request)


def _close(request: Request) -> None:
    """Put in again what was taken out, now or by an update that was killed."""
    for entry in request.record.get("ejected") or []:
        try:
            medium.close_drive(request.session, Drive(**entry))
        except CoreError as error:
            request.record.warn(f"{error}")
            return
    if request.record.get("ejected"):
        request.record.put(ejected=[])
