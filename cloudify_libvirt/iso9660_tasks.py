"""Operations of cloudify.libvirt.ISO9660."""

from __future__ import annotations

from cloudify_libvirt.binding import as_operation
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import iso9660 as steps
from cloudify_libvirt.steps import validation


@as_operation("iso9660", records=False)
def validate(request: Request) -> None:
    """Say all that stands against this node, before anything is made."""
    validation.iso9660(request)


@as_operation("iso9660")
def create(request: Request) -> None:
    """Write the image into the volume."""
    steps.create(request)


@as_operation("iso9660")
def delete(request: Request) -> None:
    """Forget the image; the volume that holds it is another node's."""
    request.record.clear()
