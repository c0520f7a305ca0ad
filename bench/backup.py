"""An incremental backup against a full one of the same running guest: bytes and seconds, in turns.

Run it inside a private libvirt host:
    scripts/lab --name bench exec env CLOUDIFY_LIBVIRT_LAB=bench .venv/bin/python -m bench.backup
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Row, median, s, table
from cloudify_libvirt.core.backup import keeping
from cloudify_libvirt.core.backup.create import Hooks, create
from cloudify_libvirt.core.backup.manifest import Manifest
from cloudify_libvirt.core.backup.plan import Order
from cloudify_libvirt.core.backup.restore import restore_as
from cloudify_libvirt.core.backup.store import DirectoryStore
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.units import human_size
from tests.real.backups import QEMU, Guest
from tests.real.conftest import IMAGES, guest, virsh

CHANGED_MIB = 1
SIZE_BOUND, TIME_BOUND = 0.2, 1.0


@contextmanager
def machine() -> Iterator[Guest]:
    """A running guest with some 100 MiB of data in the host's pool ``default``."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    virsh("pool-define-as", "default", "dir", "--target", str(IMAGES))
    virsh("pool-start", "default")
    base = IMAGES / "bench-base.qcow2"
    shutil.copy(guest("tiny"), base)
    base.chmod(0o644)
    virsh("pool-refresh", "default")
    found = Guest("bench", IMAGES, base)
    try:
        found.define()
        found.boot()
        found.sh("dd if=/dev/urandom of=/root/data bs=1M count=40; sync")
        yield found
    finally:
        found.remove()
        base.unlink()
        virsh("pool-destroy", "default")
        virsh("pool-undefine", "default")


def timed(running: Guest, store: DirectoryStore, kind: str) -> tuple[float, Manifest]:
    """Change a little, and back up."""
    running.sh(f"dd if=/dev/urandom of=/root/new bs=1M count={CHANGED_MIB}; sync")
    begin = time.monotonic()
    made = create(running.domain, store, Order(kind=kind, full_every=1000))
    assert made.kind == kind, made.reason
    return time.monotonic() - begin, made


def restored(store: DirectoryStore) -> float:
    """Restore the newest point to a new domain, and remove that."""
    begin = time.monotonic()
    done = restore_as(connect(QEMU), store, "", "bench-restored", Hooks())
    seconds = time.monotonic() - begin
    virsh("undefine", done.domain)
    for path in IMAGES.glob(f"restore-{done.uuid}-*"):
        path.unlink()
    virsh("pool-refresh", "default")
    return seconds


def measure(rounds: int) -> list[Row]:
    """Return the rows of the table."""
    taken: dict[str, list[float]] = {"full": [], "incremental": []}
    sizes: dict[str, list[float]] = {"full": [], "incremental": []}
    with machine() as running, tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        store = DirectoryStore(Path(directory), "bench", running.name)
        for _ in range(rounds):
            for kind in taken:
                seconds, made = timed(running, store, kind)
                taken[kind].append(seconds)
                sizes[kind].append(sum(disk.bytes for disk in made.disks if disk.target == "vda"))
        back = restored(store)
        points = len(keeping.listed(store)[0])
    full, increment = median(taken["full"]), median(taken["incremental"])
    full_bytes, increment_bytes = median(sizes["full"]), median(sizes["incremental"])
    change = f"{CHANGED_MIB} MiB changed"
    return [
        Row(f"backup: bytes of an increment ({change})", human_size(int(increment_bytes)),
            f"full: {human_size(int(full_bytes))}", increment_bytes / full_bytes, SIZE_BOUND),
        Row(f"backup: time of an increment ({change})", s(increment), f"full: {s(full)}", increment / full, TIME_BOUND),
        Row(f"backup: restore of an increment to a new domain ({points} points kept)", s(back)),
    ]  # fmt: skip


def main() -> int:
    """Measure; the exit code tells whether the bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rows = measure(parser.parse_args().rounds)
    print(table(rows))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
