"""Growth of volumes that are in use: under a running guest that sees it, or offline."""

from __future__ import annotations

from typing import Any

from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import InUse, libvirt_call, unless_gone
from cloudify_libvirt.core.parse import DiskFacts
from cloudify_libvirt.core.snapshot import xml as snapshot_xml
from cloudify_libvirt.core.storage import formats
from cloudify_libvirt.core.storage.users import DOMAIN, SNAPSHOT, User, Users
from cloudify_libvirt.core.units import check_growth
from cloudify_libvirt.core.volume import Volume, refuse_users, running_disks


def grow(volume: Volume, capacity_bytes: int, *, thick: bool = False, format_: str = "") -> str:
    """Make a volume larger: through the running domain that has it as a disk, else offline.

    ``thick``: a raw volume's new part is allocated, too, where no domain runs with it. ``format_``: what it is, where
    that is known.
    Return what was done, in words; "" when it has that size.

    Raises:
        Conflict: it is larger already; shrinking would lose data.
        InUse: an overlay, a snapshot, a saved guest or a second running domain needs it as it is.
    """
    format_ = formats.of(volume, format_)
    now = formats.capacity(volume, format_)
    check_growth("resize", volume.target, now, capacity_bytes)
    if capacity_bytes == now:
        return ""
    running = running_disks(volume)
    _refuse_others(volume, running)
    if not running:
        volume.grow(capacity_bytes, thick=thick, format_=format_)
        return "offline"
    (domain, disk), *_ = running
    with libvirt_call("resize", volume.target, "Is there room in the pool?"):
        domain.blockResize(disk.target, capacity_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    return f"under running domain '{domain.name()}'"


def check(volume: Volume, capacity_bytes: int, format_: str = "") -> None:
    """Raise what ``grow`` would refuse it for; nothing is changed."""
    now = formats.capacity(volume, formats.of(volume, format_))
    check_growth("resize", volume.target, now, capacity_bytes)
    _refuse_others(volume, running_disks(volume))


def _refuse_others(volume: Volume, running: list[tuple[Any, DiskFacts]]) -> None:
    """Raise ``InUse`` unless the volume is nothing but a disk of one running domain, or of domains that are off."""
    look = Users(volume.pool.session)
    users = look.users_of(volume.path, volume.pool.name, volume.name)
    refuse_users(volume, "resize", [one.words for one in users if one.kind != DOMAIN and _needs(volume, one, look)])
    if len(running) > 1:
        refuse_users(volume, "resize", [f"running domain '{domain.name()}'" for domain, _disk in running])
    of_disks = {domain.UUIDString() for domain, _disk in running}
    wanted = {user.uuid for user in users} - of_disks
    for domain in volume.pool.session.all_domains():
        if domain.UUIDString() in wanted:
            _refuse_state(volume, domain)


def _needs(volume: Volume, user: User, look: Users) -> bool:
    """Tell whether a user needs the volume as it is; a snapshot does not need the file that came with it."""
    if user.kind != SNAPSHOT:
        return True
    session = volume.pool.session
    with libvirt_call("list the snapshots of", f"the domain of {user.words}"):
        texts = [one.getXMLDesc() for one in session.connection.lookupByUUIDString(user.uuid).listAllSnapshots()]
    names = {look.real(volume.path), (volume.pool.name, volume.name)}
    return any(not names.isdisjoint(look.references(snapshot_xml.without_own(text))) for text in texts)


def _refuse_state(volume: Volume, domain: Any) -> None:
    """Raise ``InUse`` when a domain that has the volume not as a running disk would not stand its growth."""
    label = f"domain '{domain.name()}'"
    if unless_gone(domain.isActive, "read", label, False):
        refuse_users(volume, "resize", [f"running {label}, though not as a disk of its own"])
    with libvirt_call("read", label):
        saved = domain.hasManagedSaveImage(0)
    if saved:
        reason = f"{label} is saved with this size in its memory"
        raise InUse("resize", volume.target, reason, "Start the domain, and resize it then.")
