"""Where snapshots, saved states, dumps and backups of one domain meet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from cloudify_libvirt.core.backup import bitmaps as found
from cloudify_libvirt.core.backup import fulldump, keeping
from cloudify_libvirt.core.backup.create import Hooks
from cloudify_libvirt.core.backup.create import create as back_up
from cloudify_libvirt.core.backup.filestore import Store as Files
from cloudify_libvirt.core.backup.keeping import Place
from cloudify_libvirt.core.backup.plan import Order
from cloudify_libvirt.core.backup.restore import restore, restore_as
from cloudify_libvirt.core.backup.store import DirectoryStore
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Busy, Conflict, CoreError, InUse, Unsupported
from cloudify_libvirt.core.media import build_iso
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.snapshot import xml as snapshot_xml
from cloudify_libvirt.core.snapshot.plan import Wish
from cloudify_libvirt.core.snapshot.revert import revert
from cloudify_libvirt.core.snapshot.snapshots import create
from cloudify_libvirt.core.uri import ALLOWED_VARIABLE
from tests.real.conftest import IMAGES, PYTHON, QEMU, ROOT, Host, virsh

PLACE = IMAGES / "both"
MIB = 1024**2
DEFINITION = """
<domain type='qemu'><name>both</name><memory unit='MiB'>32</memory><os><type machine='q35'>hvm</type></os>
<devices><graphics type='vnc' passwd='hidden'><listen type='socket'/></graphics>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{directory}/both.qcow2'/>
<target dev='vda' bus='virtio'/></disk><disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='{directory}/both.raw'/><target dev='vdb' bus='virtio'/></disk></devices></domain>
"""


def io(path: Path, format_: str, command: str) -> str:
    done = subprocess.run(["qemu-io", "-f", format_, "-c", command, path], capture_output=True, text=True, check=False)
    assert "Could not" not in done.stdout + done.stderr and "can't" not in done.stderr, done.stderr
    return done.stdout


class Machine:
    """A domain without an operating system: vda is qcow2, vdb raw."""

    def __init__(self, handle: Any, kept: Path) -> None:
        self.handle, self.vda, self.vdb = handle, PLACE / "both.qcow2", PLACE / "both.raw"
        self.domain = Domain(connect(QEMU), handle)
        self.store = DirectoryStore(kept, "one", "both")

    def holds(self, pattern: int) -> bool:
        return "Pattern verification failed" not in io(self.vda, "qcow2", f"read -P {pattern} 0 4096")

    def write(self, pattern: int) -> None:
        io(self.vda, "qcow2", f"write -P {pattern} 0 4096")


@pytest.fixture
def both(host: Host, tmp_path: Path) -> Iterator[Machine]:
    before = host.everything()
    PLACE.mkdir(mode=0o711)
    for name, format_ in (("both.qcow2", "qcow2"), ("both.raw", "raw")):
        subprocess.run(["qemu-img", "create", "-q", "-f", format_, PLACE / name, "4M"], check=True)
    virsh("pool-create-as", "both", "dir", "--target", str(PLACE))
    handle = host.connection.defineXML(DEFINITION.format(directory=PLACE))
    yield Machine(handle, tmp_path / "kept")
    if handle.isActive():
        handle.destroy()
    handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                         | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)  # fmt: skip
    virsh("pool-destroy", "both")
    left = {path.name for path in PLACE.iterdir()}
    shutil.rmtree(PLACE)
    assert left <= {"both.qcow2", "both.raw"} and host.everything() == before


def test_saved_memory_never_meets_restored_disks(both: Machine) -> None:
    both.write(1)
    back_up(both.domain, both.store, Order(point="p1"))
    both.domain.start()
    both.handle.managedSave(0)
    made = back_up(both.domain, both.store, Order(point="p2"))
    assert made.consistency == "as after a power cut: the guest was saved, with what it had not written yet"
    with pytest.raises(InUse, match="saved state"):
        restore(both.domain, both.store, "p1", Hooks())
    assert both.handle.hasManagedSaveImage(0)
    done = restore(both.domain, both.store, "p1", Hooks(), allow_stop=True)
    assert not done.was_running and not both.handle.hasManagedSaveImage(0) and both.holds(1)


def test_a_definition_that_names_the_files_below(both: Machine, host: Host) -> None:
    """What is restored stands alone: where it has a hole, the guest does not see the old base again."""
    base = PLACE / "base.qcow2"
    both.vda.rename(base)
    io(base, "qcow2", "write -P 9 0 64k")
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, both.vda]
    subprocess.run(make, check=True)
    io(both.vda, "qcow2", "write -z 0 64k")
    below = f"<backingStore type='file'><format type='qcow2'/><source file='{base}'/></backingStore>"
    xml = both.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    host.connection.defineXML(xml.replace(f"{both.vda}'/>", f"{both.vda}'/>{below}", 1))
    back_up(both.domain, both.store, Order(point="p1"))
    io(both.vda, "qcow2", "write -P 8 0 64k")
    restore(both.domain, both.store, "p1", Hooks())
    both.domain.start()
    assert snapshot_xml.chain(both.handle.XMLDesc(0), "vda") == [str(both.vda)]
    both.domain.destroy()
    assert both.holds(0)
    stored = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    assert "passwd='hidden'" in both.handle.XMLDesc(stored), "what is defined anew keeps its passwords"
    base.unlink()


def test_copy_of_a_machine_with_a_seed_that_nobody_can_read(both: Machine, host: Host) -> None:
    """Found out when the disks are on the host already: it is made all the same, and says what it lacks."""
    seed = PLACE / "seed.iso"
    seed.write_bytes(build_iso({"meta-data": b"instance-id: one\nborn: 2024-02-30\n"}))
    drive = f"<disk type='file' device='cdrom'><source file='{seed}'/><target dev='sda' bus='sata'/><readonly/></disk>"
    both.handle.attachDeviceFlags(drive, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    made = back_up(both.domain, both.store, Order(point="p1"))
    assert [one.kind for one in made.beside] == ["seed"]
    done = restore_as(both.domain.session, both.store, "p1", "both-then", Hooks())
    copy = host.domain("both-then")
    try:
        assert done.lacking == ("a seed of its own in sda, as that of the first cannot be read",)
        (own,) = PLACE.glob("restore-*-sda.iso")
        assert f"file='{own}'" in copy.XMLDesc() and own.read_bytes() == seed.read_bytes()
    finally:
        copy.undefine()
        for path in (seed, *PLACE.glob("restore-*")):
            path.unlink()


def nested(both: Machine) -> bytes:
    """Let the raw disk hold what looks like a qcow2 image, as a guest may write there."""
    inner = PLACE / "inner.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", inner, "1M"], check=True)
    io(inner, "qcow2", "write -P 7 0 65536")
    data = inner.read_bytes().ljust(4 * MIB, b"\0")
    inner.unlink()
    both.vdb.write_bytes(data)
    both.handle.connect().storagePoolLookupByName("both").refresh()
    return data


def test_raw_disk_that_looks_like_another_format(both: Machine) -> None:
    data = nested(both)
    with pytest.raises(Unsupported, match="looks like qcow2"):
        back_up(both.domain, both.store, Order(point="off"))
    both.domain.start()
    back_up(both.domain, both.store, Order(point="on"))
    both.domain.destroy()
    both.vdb.write_bytes(bytes(4 * MIB))
    restore(both.domain, both.store, "on", Hooks())
    assert both.vdb.read_bytes() == data


def test_restore_that_fails_leaves_the_guest_running(both: Machine) -> None:
    back_up(both.domain, both.store, Order(point="p1"))
    both.domain.start()

    def full(what: str, _done: int, _total: int) -> None:
        if what == "restoring vdb":
            raise CoreError("write", "vdb", "No space left on device")

    with pytest.raises(CoreError, match="No space"):
        restore(both.domain, both.store, "p1", Hooks(progress=full), allow_stop=True, stop_timeout_s=0)
    assert both.handle.isActive() and not list(PLACE.glob("restore-*"))


def dumped(both: Machine, tmp_path: Path) -> Files:
    return Files(tmp_path / "files", "one", "dump", "both", both.domain.uuid)


@pytest.fixture
def slow_saves(tmp_path: Path) -> Iterator[Path]:
    """Let libvirt's writer of saved memory begin when this file is there, in this host only."""
    real, slow, late = Path("/usr/lib/libvirt/libvirt_iohelper"), tmp_path / "slow", tmp_path / "real"
    shutil.copy(real, late)
    go_on = tmp_path / "go-on"
    slow.write_text(f'#!/bin/sh\nfor n in $(seq 600); do [ -e {go_on} ] && break; sleep 0.1; done\nexec {late} "$@"\n')
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    slow.chmod(0o755)
    subprocess.run(["mount", "--bind", slow, real], check=True)
    yield go_on
    go_on.touch()
    subprocess.run(["umount", real], check=True)


def test_dump_waits_for_the_save_of_a_killed_one(both: Machine, slow_saves: Path, tmp_path: Path) -> None:
    """libvirt goes on saving when who asked for it is killed: its file is the guest's only memory then."""
    files = dumped(both, tmp_path)
    files.prepare()
    both.domain.start()
    part = files.path(fulldump.SAVING)
    call = "import sys, libvirt; libvirt.open().lookupByName('both').saveFlags(sys.argv[1], None, 0)"
    saving = subprocess.Popen([PYTHON, "-c", call, part], env={**os.environ, "LIBVIRT_DEFAULT_URI": QEMU})
    deadline = time.monotonic() + 180
    while not part.exists():
        assert time.monotonic() < deadline and saving.poll() is None
        time.sleep(0.02)
    saving.kill()
    saving.wait()
    with pytest.raises(Busy, match="a job"):
        fulldump.dump(both.domain, files)
    with pytest.raises(Busy, match="a job"):
        create(both.domain, Wish("s1", kind="external"))
    slow_saves.touch()
    while both.handle.isActive():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    fulldump.dump(both.domain, files)
    assert both.handle.isActive() and not part.exists() and files.complete


def test_old_memory_never_meets_newer_disks(both: Machine, tmp_path: Path) -> None:
    """After a killed dump the guest was started anew, wrote, and went off."""
    files = dumped(both, tmp_path)
    files.prepare()
    both.domain.start()
    part = files.path(fulldump.SAVING)
    both.handle.saveFlags(str(part), None, 0)
    other = Files(tmp_path / "files", "one", "another", "both", both.domain.uuid)
    with pytest.raises(Conflict, match="its memory is in"):
        fulldump.dump(both.domain, other)
    time.sleep(0.05)
    both.write(3)
    fulldump.dump(both.domain, other)
    with pytest.raises(Conflict, match="changed since"):
        fulldump.dump(both.domain, files)
    assert not both.handle.isActive() and part.exists()


def without_raw_disk(both: Machine) -> None:
    """Leave it the disk that internal snapshots and increments can be of."""
    both.handle.detachDeviceFlags(DEFINITION.format(directory=PLACE).partition("</disk>")[2].partition("</devices>")[0],
                                  libvirt.VIR_DOMAIN_AFFECT_CONFIG)  # fmt: skip


def bitmaps(both: Machine) -> list[str]:
    told = json.loads(subprocess.check_output(["qemu-img", "info", "-U", "--output=json", both.vda]))
    return [one["name"] for one in told["format-specific"]["data"].get("bitmaps", [])]


def test_revert_lets_our_checkpoints_go_and_no_others(both: Machine) -> None:
    without_raw_disk(both)
    both.write(1)
    both.domain.start()
    create(both.domain, Wish("s1"))
    back_up(both.domain, both.store, Order(point="p1"))
    foreign = "<domaincheckpoint><name>theirs</name></domaincheckpoint>"
    both.handle.checkpointCreateXML(foreign, 0)
    with pytest.raises(Conflict, match="theirs") as told:
        revert(both.domain, "s1")
    assert both.handle.isActive() and len(both.handle.listAllCheckpoints()) == 2, "nothing was touched"
    virsh(*told.value.remedy.partition("virsh ")[2].split())
    assert len(revert(both.domain, "s1")) == 1
    assert both.handle.isActive() and not both.handle.listAllCheckpoints()
    assert back_up(both.domain, both.store, Order(point="p2")).reason == "the checkpoint of point 'p1' is gone"
    assert back_up(both.domain, both.store, Order(point="p3")).parent == "p2"


def test_revert_that_fails_late_says_that_the_next_backup_is_a_full_one(both: Machine) -> None:
    without_raw_disk(both)
    both.write(1)
    create(both.domain, Wish("s1"))
    both.domain.start()
    back_up(both.domain, both.store, Order(point="p1"))
    both.domain.destroy()
    (ours,) = bitmaps(both)
    # Gone from the file, which libvirt does not know.
    subprocess.run(["qemu-img", "snapshot", "-d", "s1", both.vda], check=True)
    with pytest.raises(CoreError, match=rf"Checkpoints went before: a backup that would stand on {ours} is a full one"):
        revert(both.domain, "s1")
    with pytest.raises(CoreError) as told:
        revert(both.domain, "s1")
    assert "Checkpoints" not in told.value.remedy, "none went this time"
    both.domain.start()
    full = back_up(both.domain, both.store, Order(point="p2"))
    assert (full.parent, full.reason) == ("", "the checkpoint of point 'p1' is gone")
    both.domain.destroy()
    both.handle.snapshotLookupByName("s1").delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


@pytest.mark.parametrize("left", ["checkpoint", "bitmap"])
def test_revert_of_a_guest_that_is_off(both: Machine, left: str) -> None:
    """QEMU goes back to no snapshot of a file with bitmaps, and libvirt removes none of a guest that is off."""
    without_raw_disk(both)
    both.write(1)
    create(both.domain, Wish("s1"))
    both.domain.start()
    back_up(both.domain, both.store, Order(point="p1"))
    both.domain.destroy()
    (ours,) = bitmaps(both)
    if left == "bitmap":
        checkpoint = both.handle.checkpointLookupByName(ours)
        checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    both.write(2)
    subprocess.run(["qemu-img", "bitmap", "--add", both.vda, "theirs"], check=True)
    with pytest.raises(Conflict, match="bitmap 'theirs'") as told:
        revert(both.domain, "s1")
    assert both.holds(2) and bitmaps(both) == [ours, "theirs"]
    subprocess.run(told.value.remedy.partition("host: ")[2].split(), check=True)
    revert(both.domain, "s1")
    assert both.holds(1) and bitmaps(both) == [] and not both.handle.listAllCheckpoints()


def test_bitmap_of_a_running_guest_is_not_ours_to_remove(both: Machine) -> None:
    without_raw_disk(both)
    both.domain.start()
    create(both.domain, Wish("s1"))
    back_up(both.domain, both.store, Order(point="p1"))
    both.domain.destroy()
    (ours,) = bitmaps(both)
    both.handle.checkpointLookupByName(ours).delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    both.domain.start()
    with pytest.raises(Conflict, match="Shut it down"):
        revert(both.domain, "s1")
    with pytest.raises(Conflict, match="lock"):
        found.remove(both.domain, found.Bitmap(str(both.vda), ours))
    assert both.handle.isActive() and bitmaps(both) == [ours]
    both.domain.destroy()
    revert(both.domain, "s1")
    assert both.handle.isActive(), "it was running at the snapshot"


@pytest.mark.parametrize("running", [True, False])
def test_last_point_takes_the_checkpoints_along(both: Machine, running: bool) -> None:
    both.domain.start()
    for point in ("p1", "p2", "p3"):
        back_up(both.domain, both.store, Order(point=point))
    if not running:
        both.domain.destroy()
        assert len(bitmaps(both)) == 1
    keeping.delete(both.store, "p3")
    assert keeping.let_go(both.domain, both.store) == []
    assert not both.handle.listAllCheckpoints(), "no increment begins at a point whose checkpoint is gone"
    if not running:
        assert bitmaps(both) == []
        both.domain.start()
    assert back_up(both.domain, both.store, Order(point="p4")).kind == "full"
    assert keeping.let_go(both.domain, both.store) == [] and len(both.handle.listAllCheckpoints()) == 1
    command = [ROOT / ".venv/bin/cfy-libvirt", "backup", "delete", "both", "--dir", both.store.base, "--deployment",
               "one", "--point", "p4", "--yes"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    assert not both.handle.listAllCheckpoints()


def test_guest_and_pool_of_hosts_that_share_no_files(
    both: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED_VARIABLE, "command")
    helper, vault = tmp_path / "helper", PLACE / "vault"
    helper.write_text("#!/bin/sh\nexec virt-ssh-helper qemu:///system\n")
    helper.chmod(0o755)
    far = f"qemu+ext:///system?command={helper}"
    vault.mkdir(mode=0o711)
    virsh("pool-create-as", "vault", "dir", "--target", str(vault))
    try:
        both.write(1)
        there = Domain.get(connect(far), "both")
        assert not there.session.is_local
        store = Place(pool="vault", uri=far).store("one", "both")
        back_up(there, store, Order(point="off"))
        both.domain.start()
        back_up(there, store, Order(point="on", content=True))
        both.domain.destroy()
        for point in ("off", "on"):
            both.write(2)
            restore(there, store, point, Hooks())
            assert both.holds(1), point
        assert len(list(vault.iterdir())) == 8
    finally:
        virsh("pool-destroy", "vault")
        shutil.rmtree(vault)
