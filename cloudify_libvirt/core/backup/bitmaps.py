"""Bitmaps in qcow2 files, in which checkpoints keep account: what is left of one when its checkpoint is gone.

QEMU goes back to no internal snapshot of a file that has any. libvirt removes them of a running guest alone; of a
file that no guest has open qemu-img does, where the file is this machine's. QEMU's own lock on the file keeps
qemu-img from one that is in use.

Source: qemu-img(1), bitmap; QEMU, block/qcow2-snapshot.c ("Device has active dirty bitmaps")
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from cloudify_libvirt.core.backup.images import qemu_img
from cloudify_libvirt.core.backup.names import is_checkpoint
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Conflict
from cloudify_libvirt.core.snapshot import snapshots as snapshot


@dataclass(frozen=True)
class Bitmap:
    """One bitmap of a disk's file."""

    path: str
    name: str

    @property
    def ours(self) -> bool:
        """Tell whether the checkpoint was one of ours."""
        return is_checkpoint(self.name)

    @property
    def command(self) -> str:
        """Return what removes it while the guest is off."""
        return f"qemu-img bitmap --remove {self.path} {self.name}"


def found(domain: Domain) -> list[Bitmap]:
    """Return the bitmaps in the files of the domain's disks; none where these are another machine's."""
    if not domain.session.shares_files:
        return []
    disks = [disk for disk in snapshot.disks_of(domain) if disk.format == "qcow2" and disk.kind in ("file", "volume")]
    return [Bitmap(disk.path, name) for disk in disks for name in _names(disk.path, domain.target)]


def _names(path: str, label: str) -> list[str]:
    # -U: a running guest has it open; what was written into it at the last start is told.
    done = qemu_img(label, "info", "-U", "-f", "qcow2", "--output=json", path)
    if done.returncode:
        return []
    data = json.loads(done.stdout).get("format-specific", {}).get("data", {})
    return [str(one["name"]) for one in data.get("bitmaps", [])]


def remove(domain: Domain, bitmap: Bitmap) -> None:
    """Remove a bitmap from the file of a guest that is off.

    Raises:
        Conflict: somebody has the file open, or it cannot be written.
    """
    done = qemu_img(domain.target, "bitmap", "--remove", "-f", "qcow2", bitmap.path, bitmap.name)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip()[:300]
        remedy = f"While it is off, as root on its host: {bitmap.command}"
        raise Conflict("remove", f"bitmap '{bitmap.name}' of {bitmap.path}", reason, remedy)
