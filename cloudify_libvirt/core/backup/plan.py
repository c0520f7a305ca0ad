"""What one backup will be: which disks, full or since which point, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.backup import chain, checkpoint
from cloudify_libvirt.core.backup.manifest import Manifest, Skipped
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import ChainBroken, CoreError, Missing, Unsupported, libvirt_call
from cloudify_libvirt.core.snapshot import snapshots as snapshot
from cloudify_libvirt.core.snapshot.xml import DiskState
from cloudify_libvirt.core.states import OFF

FULL_EVERY = 7


@dataclass(frozen=True)
class Order:
    """What is asked for; ``point`` "" means a name by the time, ``kind`` is auto, full or incremental.

    ``quiesce``: True insists on the guest's file systems at rest, None takes what is possible. ``full_every``: a
    chain has at most that many points. ``content``: read everything again to record what a guest sees.
    """

    point: str = ""
    kind: str = "auto"
    quiesce: bool | None = None
    timeout_s: float = 3600.0
    staging_pool: str = ""
    full_every: int = FULL_EVERY
    exclude: tuple[str, ...] = ()
    content: bool = False


@dataclass(frozen=True)
class DiskPlan:
    """One disk: ``since`` is the checkpoint of its increment, "" for all of it; ``estimate_bytes`` what to expect.

    ``secret``: UUID of the secret with its key, "" where it is not encrypted.
    """

    target: str
    format: str
    source: str
    virtual_bytes: int
    estimate_bytes: int
    tracked: bool
    since: str = ""
    secret: str = ""

    @property
    def file_format(self) -> str:
        """Return the format of its copy: an encrypted disk's own, so that it is put back without the key."""
        return self.format if self.secret else "qcow2"


@dataclass(frozen=True)
class Plan:
    """One backup: ``parent`` None for a full one, whose ``reason`` says why it is full."""

    running: bool
    disks: tuple[DiskPlan, ...]
    skipped: tuple[Skipped, ...]
    parent: Manifest | None
    reason: str

    def as_full(self, reason: str) -> Plan:
        """Return the same without an increment."""
        return replace(self, parent=None, reason=reason, disks=tuple(replace(disk, since="") for disk in self.disks))


def plan(domain: Domain, points: Mapping[str, Manifest], order: Order) -> Plan:
    """Decide; nothing is made.

    Raises:
        ChainBroken: an increment was asked for, and would not be right.
        Unsupported: there is nothing to back up, or it would be kept in the clear.
    """
    if domain.session.driver != "qemu":
        raise Unsupported("back up", domain.target, f"the driver {domain.session.driver} has no backups")
    disks, skipped = _disks(domain, order)
    running = domain.state not in OFF
    full = Plan(running, tuple(disks), tuple(skipped), None, "")
    parent, reason = _parent(domain, points, full, order)
    if parent is None:
        if order.kind == "incremental":
            raise ChainBroken("back up", domain.target, f"an increment is not possible: {reason}", "Make a full one.")
        return full.as_full(reason)
    changed = checkpoint.changed_bytes(domain, parent.checkpoint)
    since = parent.checkpoint
    grown = (replace(d, since=since, estimate_bytes=changed.get(d.target, 0)) if d.tracked else d for d in disks)
    return replace(full, parent=parent, disks=tuple(grown))


def _disks(domain: Domain, order: Order) -> tuple[list[DiskPlan], list[Skipped]]:
    states = [(disk, _why_not(disk, order)) for disk in snapshot.disks_of(domain)]
    skipped = [Skipped(target=disk.target, why=why) for disk, why in states if why]
    wanted = [disk for disk, why in states if not why]
    for disk in wanted:
        if disk.encrypted and not disk.secret:
            reason = f"disk {disk.target} is encrypted, and names no secret of libvirt by UUID that its copy could have"
            raise Unsupported("back up", domain.target, reason, "Exclude it, and back it up from inside the guest.")
    if not wanted:
        raise Unsupported("back up", domain.target, "it has no disk that is written to")
    return [_disk(domain, disk) for disk in wanted], skipped


def _why_not(disk: DiskState, order: Order) -> str:
    if disk.device not in ("disk", "lun"):
        return f"it is a {disk.device}"
    if disk.readonly:
        return "it is read-only"
    return "it was excluded" if disk.target in order.exclude else ""


def _disk(domain: Domain, disk: DiskState) -> DiskPlan:
    with libvirt_call("read the size of", f"disk {disk.target} of {domain.target}"):
        capacity, allocation, _physical = domain.handle.blockInfo(disk.target)
    old, below = _old_qcow2_and_backing(domain, disk)
    # Overlays share their base's blocks; a copy has them all.
    estimate = min(capacity, allocation + below)
    # What changed in an encrypted disk could be put together with its key alone, which is not ours to read.
    tracked = disk.format == "qcow2" and not old and not disk.secret
    return DiskPlan(disk.target, disk.format or "raw", disk.path, capacity, estimate, tracked, secret=disk.secret)


def _old_qcow2_and_backing(domain: Domain, disk: DiskState) -> tuple[bool, int]:
    """Tell whether a qcow2 file is of the version without bitmaps, and what its base takes."""
    connection = domain.session.connection
    try:
        with libvirt_call("look up", f"disk {disk.target} of {domain.target}"):
            xml = connection.storageVolLookupByPath(disk.path).XMLDesc(0)
            backing = parse.volume(xml).backing
            old = parse.document(xml).findtext("target/compat") == "0.10"
            below = int(connection.storageVolLookupByPath(backing).info()[2]) if backing else 0
    except Missing:
        # Not a volume of any pool: nothing more is known.
        return False, 0
    return old, below


def _parent(domain: Domain, points: Mapping[str, Manifest], full: Plan, order: Order) -> tuple[Manifest | None, str]:
    """Return the point that an increment stands on; or None, and why it must be a full one."""
    if order.kind == "full":
        return None, "a full one was asked for"
    if not points:
        return None, "it is the first"
    if not full.running:
        return None, "the guest does not run"
    last = next((one for one in reversed(chain.ordered(points)) if one.checkpoint), None)
    if last is None:
        return None, "no earlier point has a checkpoint"
    reason = _obstacle(domain, points, last, full, order)
    return (None, reason) if reason else (last, "")


def _obstacle(domain: Domain, points: Mapping[str, Manifest], last: Manifest, full: Plan, order: Order) -> str:
    if last.uuid != domain.uuid:
        return f"point '{last.point}' is of another domain of this name (UUID {last.uuid})"
    if last.checkpoint not in checkpoint.names(domain):
        return f"the checkpoint of point '{last.point}' is gone"
    try:
        length = len(chain.chain(points, last.point))
        checkpoint.changed_bytes(domain, last.checkpoint)
    except CoreError as error:
        if error.retryable:
            raise
        return error.reason
    if length >= order.full_every:
        return f"the chain has {length} points"
    return _changed(last, full)


def _changed(last: Manifest, full: Plan) -> str:
    """Return how the disks differ from those that the point has, or ""."""
    before = {disk.target: (disk.source, disk.format, disk.virtual_bytes) for disk in last.disks}
    now = {disk.target: (disk.source, disk.format, disk.virtual_bytes) for disk in full.disks}
    differing = sorted(target for target in before.keys() | now.keys() if before.get(target) != now.get(target))
    if differing:
        return f"since point '{last.point}' these disks came, went, grew or are other files: {', '.join(differing)}"
    return "" if any(disk.tracked for disk in full.disks) else "no disk keeps account of its changes (raw)"
