"""Operations of cloudify.libvirt.volume."""

from __future__ import annotations

from cloudify_libvirt.binding import as_operation
from cloudify_libvirt.checking import changes, checks
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import definition, drift, drift_report, status, validation, volume_update
from cloudify_libvirt.steps import heal as healing
from cloudify_libvirt.steps import pull as pulling
from cloudify_libvirt.steps import volume as steps


@as_operation("volume", records=False)
def validate(request: Request) -> None:
    """Say all that stands against this node, before anything is made."""
    validation.volume(request)


@as_operation("volume")
def create(request: Request) -> None:
    """Make the volume with its content, or find the existing one."""
    steps.create(request)


@as_operation("volume")
def start(request: Request) -> None:
    """Zero what was asked to be zeroed, once."""
    steps.start(request)


@as_operation("volume")
def stop(request: Request) -> None:
    """Do nothing: a stopped volume keeps its content."""


@changes("volume")
def update(request: Request) -> None:
    """Grow the volume to the size of today, offline or under its guest; another content only on wish."""
    volume_update.update(request)


@as_operation("volume")
def delete(request: Request) -> None:
    """Delete the volume, unless somebody else uses it."""
    steps.delete(request)
    request.record.clear()


@as_operation("volume")
def snapshot_create(request: Request) -> None:
    """Keep the definition, in the runtime properties or in a file."""
    definition.create(request, None)


@as_operation("volume")
def snapshot_apply(request: Request) -> None:
    """Bring the volume back to the kept definition, or fail saying why that cannot be."""
    definition.apply(request, None)


@as_operation("volume")
def snapshot_delete(request: Request) -> None:
    """Drop the kept definition."""
    definition.delete(request)


@as_operation("volume")
def snapshot_rotate(request: Request) -> None:
    """Let those go that the rotation no longer keeps."""
    definition.let_old_ones_go(request)


@checks("volume")
def check_status(request: Request) -> None:
    """Raise when the volume is gone."""
    status.check(request, status.volume)


@checks("volume")
def check_drift(request: Request) -> list[dict[str, object]] | None:
    """Return what is not as declared; None when all is."""
    return drift_report.check(request, drift.volume)


@as_operation("volume")
def heal(request: Request) -> None:
    """Give the host the volume's key again; a lost volume is reported."""
    healing.volume(request)


@as_operation("volume")
def pull(request: Request) -> None:
    """Record the path of today."""
    pulling.volume(request)
