"""Operations of cloudify.libvirt.volume."""

from __future__ import annotations

from cloudify_libvirt.binding import as_operation
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import volume as steps


@as_operation("volume")
def precreate(request: Request) -> None:
    """Check the parameters and the connection before anything is made."""
    steps.check(request)


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


@as_operation("volume")
def delete(request: Request) -> None:
    """Delete the volume, unless somebody else uses it."""
    steps.delete(request)
    request.record.clear()
