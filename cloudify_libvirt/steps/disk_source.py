"""Where a disk's content is: the path or network name, format and key of the volume that the user named."""

from __future__ import annotations

from cloudify_libvirt.core.secret import secret_of
from cloudify_libvirt.core.spec import Disk
from cloudify_libvirt.core.spec.disk_network import NetworkDisk
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage import formats, network_disk
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request


def with_path(request: Request, disk: Disk, default_pool: str) -> Disk:
    """Return the disk with the path, format and key of its volume; without a volume, as it is.

    Raises:
        Conflict: nobody knows its format, and its content cannot be believed.
        Unsupported: no disk can be a volume of that type of pool.
    """
    if not disk.volume:
        return disk
    pool = storage.active_pool(request.session, disk.pool or default_pool)
    volume = Volume.get(pool, disk.volume)
    facts, kind = volume.facts(), volume.kind
    format_ = formats.of(volume, disk.type or "")
    secret = disk.encryption_secret or secret_of(request.session, facts, volume.target)
    found = {"type": format_, "pool": None, "volume": None, "encryption_secret": secret or None}
    if kind == "network":
        values = {**dict(disk), **found, "network": network_disk.source_of(pool, volume)}
        return NetworkDisk.model_construct(_fields_set=disk.model_fields_set, **values)
    found["file"] = facts.path
    if kind == "block":
        # QEMU refuses a device that it is told is a file; templates of the user's find the path in file.
        found["block"] = facts.path
    return disk.model_copy(update=found)
