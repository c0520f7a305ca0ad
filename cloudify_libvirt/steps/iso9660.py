"""Steps of an ISO 9660 image in an existing volume."""

from __future__ import annotations

from cloudify_libvirt.core.errors import Conflict
from cloudify_libvirt.core.media import build_iso
from cloudify_libvirt.core.storage.bases import active_pool
from cloudify_libvirt.core.storage.users import Users
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.core.volume import Volume, refuse_users, refuse_writers
from cloudify_libvirt.request import Request


def create(request: Request) -> None:
    """Build the image and write it into the volume, which grows when it is too small."""
    spec = request.spec
    data = image(request)
    volume = Volume.get(active_pool(request.session, spec.pool), spec.volume)
    _refuse_disks(volume)
    if volume.facts().capacity_bytes < len(data):
        volume.grow(len(data))
    volume.upload(data)
    # What is not in the properties, nobody can write again.
    request.record.assign(by_input="files" in (request.inputs.get("params") or {}))
    count = len(spec.files) + len(spec.files_raw)
    request.record.note(f"wrote {count} files ({human_size(len(data))}) to {volume.target}")


def _refuse_disks(volume: Volume) -> None:
    """Raise when the image would go over the disk of a machine.

    Raises:
        Conflict: it is no raw volume.
        InUse: a running domain writes to it, or an overlay stands above it.
    """
    found = volume.facts().format
    if found not in ("raw", "iso"):
        reason = f"it is {found}, and an ISO image would lie over its header"
        raise Conflict("write an ISO image to", volume.target, reason, "Name a volume of format raw.")
    refuse_writers(volume, "write an ISO image to")
    overlays = Users(volume.pool.session).overlays(volume.path)
    refuse_users(volume, "write an ISO image to", [user.words for user in overlays])


def _contents(request: Request) -> dict[str, bytes]:
    texts = {path: text.encode("utf-8") for path, text in request.spec.files.items()}
    return {**texts, **{path: request.resource(name) for path, name in request.spec.files_raw.items()}}


def image(request: Request) -> bytes:
    """Return the image that is to be in the volume; the same contents give the same bytes."""
    spec = request.spec
    return build_iso(_contents(request), vol_ident=spec.vol_ident, sys_ident=spec.sys_ident)
