"""Operations of cloudify.libvirt.ISO9660."""

from __future__ import annotations

from cloudify_libvirt.binding import as_operation
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import iso9660 as steps


@as_operation("iso9660")
def precreate(request: Request) -> None:
    """Check the parameters and the connection before anything is made."""
    _ = (request.draft, request.session)


@as_operation("iso9660")
def create(request: Request) -> None:
    """Write the image into the volume."""
    steps.create(request)


@as_operation("iso9660")
def delete(request: Request) -> None:
    """Forget the image; the volume that holds it is another node's."""
    request.record.clear()
