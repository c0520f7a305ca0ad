"""Where a disk's content is: the path, format and key of the volume that the user named."""

from __future__ import annotations

from cloudify_libvirt.core import storage
from cloudify_libvirt.core.errors import Unsupported
from cloudify_libvirt.core.secret import secret_of
from cloudify_libvirt.core.spec import Disk
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request


def with_path(request: Request, disk: Disk, default_pool: str) -> Disk:
    """Return the disk with the path, format and key of its volume; without a volume, as it is.

    Raises:
        Unsupported: the volume is reached over the network only.
    """
    if not disk.volume:
        return disk
    pool = storage.active_pool(request.session, disk.pool or default_pool)
    volume = Volume.get(pool, disk.volume)
    facts, kind = volume.facts(), volume.kind
    if kind == "network":
        reason = "it has no path on the host, and a disk needs one"
        remedy = "Take a pool of type netfs or iscsi, or a template of your own with a disk of type network."
        raise Unsupported("attach", volume.target, reason, remedy)
    # libvirt calls what looks like a CD-ROM iso; for the hypervisor that is raw, as is what it decrypts.
    format_ = disk.type or ("raw" if facts.format in ("iso", "luks") else facts.format)
    secret = disk.encryption_secret or secret_of(request.session, facts, volume.target)
    found = {"file": facts.path, "type": format_, "pool": None, "volume": None, "encryption_secret": secret or None}
    if kind == "block":
        # QEMU refuses a device that it is told is a file; templates of the user's find the path in file.
        found["block"] = facts.path
    return disk.model_copy(update=found)
