"""Operations of cloudify.libvirt.ISO9660."""

from __future__ import annotations

from cloudify_libvirt.binding import as_operation
from cloudify_libvirt.checking import changes, checks
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import drift, drift_report, iso9660_update, status, validation
from cloudify_libvirt.steps import heal as healing
from cloudify_libvirt.steps import iso9660 as steps
from cloudify_libvirt.steps import pull as pulling


@as_operation("iso9660", records=False)
def validate(request: Request) -> None:
    """Say all that stands against this node, before anything is made."""
    validation.iso9660(request)


@as_operation("iso9660")
def create(request: Request) -> None:
    """Write the image into the volume."""
    steps.create(request)


@changes("iso9660")
def update(request: Request) -> None:
    """Write the image of today, with the drives that hold it opened meanwhile."""
    iso9660_update.update(request)


@as_operation("iso9660")
def delete(request: Request) -> None:
    """Forget the image; the volume that holds it is another node's."""
    request.record.clear()


@checks("iso9660")
def check_status(request: Request) -> None:
    """Raise when the volume is gone, or holds no image."""
    status.check(request, status.iso9660)


@checks("iso9660")
def check_drift(request: Request) -> list[dict[str, object]] | None:
    """Return what is not as declared; None when all is."""
    return drift_report.check(request, drift.iso9660)


@as_operation("iso9660")
def heal(request: Request) -> None:
    """Write the image again from the blueprint."""
    healing.iso9660(request)


@as_operation("iso9660")
def pull(request: Request) -> None:
    """Record the parameters in force."""
    pulling.iso9660(request)
