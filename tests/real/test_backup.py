"""Backups of a running guest: increments, restores of any point, crashes in the middle, damage found."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import libvirt
import pytest

from cloudify_libvirt.core.backup import keeping, names
from cloudify_libvirt.core.backup.chain import Keep
from cloudify_libvirt.core.backup.create import Hooks, create
from cloudify_libvirt.core.backup.manifest import Manifest
from cloudify_libvirt.core.backup.plan import Order
from cloudify_libvirt.core.backup.restore import restore, restore_as
from cloudify_libvirt.core.backup.store import DirectoryStore, Store
from cloudify_libvirt.core.backup.verify import Report, verify
from cloudify_libvirt.core.errors import Busy, ChainBroken, Conflict, CoreError, GuestFailed, InUse, InvalidSpec
from cloudify_libvirt.core.session import connect
from tests.real.backups import QEMU, Guest, content, listed
from tests.real.conftest import IMAGES, PYTHON, ROOT, virsh


def nothing(_what: str, _done: int, _total: int) -> None:
    """No progress is shown."""


def verified(store: Store, point: str = "", *, deep: bool = False) -> Report:
    return verify(store, point, nothing, deep=deep)


@pytest.fixture(scope="module")
def pool(tiny: Path) -> Iterator[Path]:
    """The host's pool ``default``, with the guests' base image."""
    connection = libvirt.open(QEMU)
    made = "default" not in [one.name() for one in connection.listAllStoragePools()]
    IMAGES.mkdir(parents=True, exist_ok=True)
    if made:
        virsh("pool-define-as", "default", "dir", "--target", str(IMAGES))
    if not connection.storagePoolLookupByName("default").isActive():
        virsh("pool-start", "default")
    base = IMAGES / "tests-base.qcow2"
    shutil.copy(tiny, base)
    base.chmod(0o644)
    virsh("pool-refresh", "default")
    yield IMAGES
    base.unlink()
    virsh("pool-refresh", "default")
    if made:
        virsh("pool-destroy", "default")
        virsh("pool-undefine", "default")


@dataclass
class Series:
    """One full backup and two increments, with what the disks held at each."""

    guest: Guest
    store: DirectoryStore
    points: dict[str, Manifest] = field(default_factory=dict)
    contents: dict[str, dict[str, str]] = field(default_factory=dict)


def paused_backup(series: Series, point: str, scratch: Path, **order: object) -> None:
    """Back up, and digest the disks on the way: the guest stands still meanwhile."""
    guest = series.guest
    guest.sh("sync")
    guest.handle.suspend()
    series.points[point] = create(guest.domain, series.store, Order(point=point, **order))  # type: ignore[arg-type]
    series.contents[point] = {"vda": content(guest.root, scratch), "vdb": content(guest.data, scratch)}
    guest.handle.resume()


@pytest.fixture(scope="module")
def series(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Series]:
    scratch = tmp_path_factory.mktemp("scratch")
    guest = Guest("saved", pool, pool / "tests-base.qcow2")
    guest.define()
    found = Series(guest, DirectoryStore(tmp_path_factory.mktemp("kept") / "backups", "one", "saved"))
    try:
        guest.boot()
        guest.sh("dd if=/dev/urandom of=/root/junk bs=1M count=8; echo 1 >/root/first; echo a >/dev/vdb")
        paused_backup(found, "p1", scratch, content=True)
        # What was data becomes zeros and holes: an increment must bring these, too.
        guest.sh("dd if=/dev/zero of=/root/junk bs=1M count=4 conv=notrunc; echo 2 >/root/second; echo b >/dev/vdb")
        paused_backup(found, "p2", scratch, content=True)
        guest.sh("rm /root/junk; sync; fstrim /; echo 3 >/root/third")
        paused_backup(found, "p3", scratch, content=True)
        guest.sh("echo 4 >/root/later; sync")
        yield found
    finally:
        guest.remove()


def test_increments_follow_a_full_backup(series: Series) -> None:
    first, second, third = (series.points[name] for name in ("p1", "p2", "p3"))
    assert (first.kind, first.reason, first.parent) == ("full", "it is the first", "")
    assert (second.kind, second.parent, third.parent) == ("incremental", "p1", "p2")
    assert [disk.incremental for disk in second.disks] == [True, False], "a raw disk keeps no account of its changes"
    assert [(one.target, one.why) for one in first.skipped] == [("sda", "it is a cdrom")]
    assert third.disks[0].bytes < first.disks[0].bytes / 5
    assert verified(series.store, deep=True) == Report(("p1", "p2", "p3"), (), tuple(
        f"p{number}/{disk}" for number in (1, 2, 3) for disk in ("vda", "vdb")
    ))  # fmt: skip


def test_recorded_contents_are_those_of_the_disks(series: Series) -> None:
    for point, manifest in series.points.items():
        assert {disk.target: disk.content_sha256 for disk in manifest.disks} == series.contents[point]


def test_only_one_checkpoint_is_kept(series: Series) -> None:
    assert [one.getName() for one in series.guest.handle.listAllCheckpoints()] == [series.points["p3"].checkpoint]


def test_everything_is_for_its_owner_alone(series: Series) -> None:
    paths = [series.store.base, *series.store.base.rglob("*")]
    assert len(paths) > 15
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o600}


FILES = {"p1": {"first", "junk"}, "p2": {"first", "junk", "second"}, "p3": {"first", "second", "third"}}


@pytest.mark.parametrize(("point", "there"), FILES.items())
def test_each_point_is_restored_to_a_new_domain(series: Series, point: str, there: set[str], tmp_path: Path) -> None:
    done = restore_as(connect(QEMU), series.store, point, f"copy-{point}", Hooks())
    copy = libvirt.open(QEMU).lookupByName(f"copy-{point}")
    try:
        assert (copy.UUIDString(), copy.isActive()) == (done.uuid, 0)
        assert copy.UUIDString() != series.guest.handle.UUIDString()
        paths = {disk: IMAGES / f"restore-{done.uuid}-{disk}.{end}" for disk, end in (("vda", "qcow2"), ("vdb", "raw"))}
        assert {disk: content(path, tmp_path) for disk, path in paths.items()} == series.contents[point]
        found = listed(paths["vda"], "/root", tmp_path)
        assert found & {"first", "junk", "second", "third", "later"} == there
        with pytest.raises(Conflict, match=r"restored already|has this name"):
            restore_as(connect(QEMU), series.store, point, f"copy-{point}", Hooks())
    finally:
        copy.undefine()
        for path in IMAGES.glob(f"restore-{done.uuid}-*"):
            path.unlink()
        virsh("pool-refresh", "default")


def test_failed_restore_leaves_nothing(series: Series) -> None:
    before = sorted(path.name for path in IMAGES.iterdir())
    with pytest.raises(CoreError, match="a/b"):
        restore_as(connect(QEMU), series.store, "p2", "a/b", Hooks())
    assert sorted(path.name for path in IMAGES.iterdir()) == before


def test_middle_of_a_chain_stays(series: Series) -> None:
    with pytest.raises(InUse, match="the points p2, p3 stand on it"):
        keeping.delete(series.store, "p1")
    assert keeping.prune(series.store, Keep(last=1), dry_run=True) == []
    assert verified(series.store).sound


@pytest.mark.parametrize("bad", ["../out", "..", ".hidden", "a/b", "a\0b", "x..y", "a~b", ""])
def test_names_stay_in_the_directory(series: Series, bad: str, tmp_path: Path) -> None:
    for build in (lambda: DirectoryStore(tmp_path, bad, "vm"), lambda: DirectoryStore(tmp_path, "one", bad)):
        with pytest.raises(InvalidSpec):
            build()
    if bad:
        with pytest.raises(InvalidSpec):
            create(series.guest.domain, series.store, Order(point=bad))
        with pytest.raises(InvalidSpec):
            keeping.delete(series.store, bad)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named(series: Series, tmp_path: Path) -> None:
    shutil.copytree(series.store.base, tmp_path / "copy")
    store = DirectoryStore(tmp_path / "copy", "one", "saved")
    path = store.root / "p2/vda.qcow2"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (finding,) = verified(store, "p3").findings
    assert finding.point == "p2" and "vda.qcow2 was changed since it was written" in finding.reason
    with pytest.raises(CoreError, match="point 'p2'"):
        restore_as(connect(QEMU), store, "p3", "never", Hooks())
    assert "never" not in [one.name() for one in libvirt.open(QEMU).listAllDomains()]
    (store.root / "p1/vda.qcow2").unlink()
    manifest = store.root / "p3/manifest.json"
    manifest.write_text(manifest.read_text().replace('"sequence": 3', '"sequence": 4'))
    reasons = {finding.point: finding.reason for finding in verified(store).findings}
    assert "vda.qcow2 is missing" in reasons["p1"]
    assert "manifest.json was changed" in reasons["p3"]


def test_two_deployments_do_not_meet(series: Series) -> None:
    """The same domain, the same directory: another deployment's points, checkpoints and chains are its own."""
    other = DirectoryStore(series.store.base, "two", "saved")
    made = create(series.guest.domain, other, Order(point="p1"))
    assert (made.kind, made.reason) == ("full", "it is the first")
    assert series.store.points() == ["p1", "p2", "p3"] and other.points() == ["p1"]
    checkpoints = {one.getName() for one in series.guest.handle.listAllCheckpoints()}
    assert checkpoints == {series.points["p3"].checkpoint, made.checkpoint}
    assert create(series.guest.domain, other, Order(point="p2")).kind == "incremental"
    keeping.delete(other, "p2")
    keeping.delete(other, "p1")


KILLED = """
import os, signal, sys
from pathlib import Path
from cloudify_libvirt.core.backup import create as module, job
from cloudify_libvirt.core.backup.plan import Order
from cloudify_libvirt.core.backup.store import DirectoryStore
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.session import connect
place, base, point = sys.argv[1:]
def die(*_arguments, **_more):
    os.kill(os.getpid(), signal.SIGKILL)
if place == "job":
    job.finish = die
elif place == "frozen":
    job.begin = die
elif place == "storing":
    hooks = module.Hooks(progress=lambda what, done, total: die() if what == "storing vda" else None)
elif place == "publish":
    DirectoryStore.publish = die
store = DirectoryStore(Path(base), "one", "saved")
given = hooks if place == "storing" else None
module.create(Domain.get(connect("qemu:///system"), "saved"), store, Order(point=point), given)
"""


@pytest.mark.parametrize("place", ["frozen", "job", "storing", "publish"])
def test_killed_in_the_middle(series: Series, place: str) -> None:
    before = {path: path.read_bytes() for path in series.store.root.rglob("manifest.json")}
    call = [PYTHON, "-c", KILLED, place, str(series.store.base), f"dead-{place}"]
    done = subprocess.run(call, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert f"dead-{place}" not in series.store.points() and any(series.store.root.glob(".draft-*"))
    assert verified(series.store).sound
    notes: list[str] = []
    made = create(series.guest.domain, series.store, Order(point=f"after-{place}"), Hooks(note=notes.append))
    assert (made.kind, made.quiesced) == ("incremental", True), (made.reason, made.consistency)
    assert f".draft-dead-{place}" in notes[0]
    assert not list(series.store.root.glob(".draft-*")) and not list(IMAGES.glob("backup-*"))
    assert {path: path.read_bytes() for path in before} == before
    mine = names.checkpoint_prefix(series.store.label)
    checkpoints = [one.getName() for one in series.guest.handle.listAllCheckpoints()]
    assert [name for name in checkpoints if name.startswith(mine)] == [made.checkpoint]
    assert verified(series.store).sound
    series.guest.sh("echo alive >/root/alive; sync")


def test_second_run_at_once_is_refused(series: Series) -> None:
    with series.store.lock(), pytest.raises(Busy, match="another run"):
        create(series.guest.domain, series.store, Order())


def test_crash_of_the_hypervisor_makes_the_next_a_full_one(series: Series) -> None:
    """QEMU killed: its bitmap was not written back, and an increment from it would be wrong."""
    guest = series.guest
    os.kill(int(next(Path("/run/libvirt/qemu").glob("*saved.pid")).read_text()), signal.SIGKILL)
    deadline = time.monotonic() + 90
    while guest.handle.isActive():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    guest.boot()
    with pytest.raises(ChainBroken, match="bitmap"):
        create(guest.domain, series.store, Order(kind="incremental", full_every=50))
    made = create(guest.domain, series.store, Order(point="after-crash", full_every=50))
    assert made.kind == "full" and "bitmap" in made.reason
    assert create(guest.domain, series.store, Order(point="after-crash-2")).kind == "incremental"


def test_guest_that_dies_ends_the_wait(series: Series) -> None:
    guest = series.guest
    died: list[float] = []

    def kill(what: str, _done: int, _total: int) -> None:
        if what == "copying" and not died:
            died.append(time.monotonic())
            guest.connection.lookupByName(guest.name).destroy()

    guest.sh("dd if=/dev/urandom of=/root/big bs=1M count=16; sync")
    for number in range(5):
        point = f"died-{number}"
        try:
            create(guest.domain, series.store, Order(point=point, kind="full"), Hooks(progress=kill))
        except GuestFailed as error:
            assert "destroyed from outside" in str(error)
            break
        # All had been copied before the guest was gone.
        died.clear()
        guest.boot()
    assert time.monotonic() - died[0] < 60
    assert point not in series.store.points() and not list(IMAGES.glob("backup-*"))
    assert verified(series.store).sound


def test_stopped_guest_is_backed_up_whole(series: Series, tmp_path: Path) -> None:
    guest = series.guest
    if guest.handle.isActive():
        guest.handle.destroy()
    made = create(guest.domain, series.store, Order(point="off", content=True))
    assert (made.kind, made.reason, made.running) == ("full", "the guest does not run", False)
    assert made.disks[0].content_sha256 == content(guest.root, tmp_path)


def test_restored_in_place(series: Series, tmp_path: Path) -> None:
    """Also where the disk is gone altogether; the next backup is a full one."""
    guest = series.guest
    if not guest.handle.isActive():
        guest.boot()
    before = sorted(path.name for path in IMAGES.iterdir())
    with pytest.raises(InUse, match="it runs"):
        restore(guest.domain, series.store, "p2", Hooks())
    done = restore(guest.domain, series.store, "p2", Hooks(), allow_stop=True, stop_timeout_s=0)
    assert done.was_running and done.disks == ("vda", "vdb") and done.lacking == ("disk sda stays as it is",)
    assert {"vda": content(guest.root, tmp_path), "vdb": content(guest.data, tmp_path)} == series.contents["p2"]
    assert sorted(path.name for path in IMAGES.iterdir()) == before
    guest.root.unlink()
    restore(guest.domain, series.store, "p3", Hooks())
    assert content(guest.root, tmp_path) == series.contents["p3"]["vda"]
    guest.boot()
    assert guest.files() & {"first", "second", "third", "later", "junk"} == {"first", "second", "third"}
    made = create(guest.domain, series.store, Order(point="after-restore"))
    assert made.kind == "full" and "checkpoint" in made.reason


def test_grown_disk_and_long_chain_make_full_ones(series: Series) -> None:
    guest = series.guest
    if not guest.handle.isActive():
        guest.boot()
    create(guest.domain, series.store, Order(point="short"))
    made = create(guest.domain, series.store, Order(point="long", full_every=1))
    assert made.kind == "full" and "points" in made.reason
    guest.handle.blockResize("vda", 601 * 1024**2, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    made = create(guest.domain, series.store, Order(point="grown"))
    assert made.kind == "full" and "vda" in made.reason


def test_rotation_lets_the_old_chain_go(series: Series) -> None:
    assert len(series.store.points()) > 5
    newest = keeping.listed(series.store)[0][-1]
    gone = keeping.prune(series.store, Keep(last=1))
    assert "p1" in gone and series.store.points() == [newest.point]
    assert verified(series.store).sound
    assert json.loads((series.store.root / newest.point / "manifest.json").read_text())["manifest"]["point"]


def beside_another_deployment(guest: Guest, place: Path) -> None:
    """In one pool: points of one name are two, each goes alone, and no name reaches over to the other."""
    vault = keeping.Place(pool="vault", uri="qemu+unix:///system")
    first, second = vault.store("one", "saved"), vault.store("two", "saved")
    ours = {path.name: path.read_bytes() for path in place.iterdir()}
    assert second.points() == []
    made = create(guest.domain, second, Order(point="p3"))
    assert made.kind == "full" and first.points() == second.points() == ["p3"]
    for wrong in ("../one", "a/b", "one~saved", "..", ""):
        with pytest.raises(InvalidSpec):
            vault.store(wrong, "saved").points()
        with pytest.raises(InvalidSpec):
            vault.store("two", wrong).points()
        with pytest.raises(InvalidSpec):
            create(guest.domain, second, Order(point=wrong or "."))
        with pytest.raises(InvalidSpec):
            keeping.delete(second, wrong)
    keeping.delete(second, "p3")
    virsh("pool-refresh", "vault")
    assert {path.name: path.read_bytes() for path in place.iterdir()} == ours and first.points() == ["p3"]
    assert verified(first, deep=True).findings == ()


def test_into_a_pool_by_its_uri(series: Series, tmp_path: Path) -> None:
    """Kept as volumes of another pool, through a connection of its own; the same holds there."""
    guest, place = series.guest, tmp_path / "vault"
    place.mkdir()
    place.chmod(0o711)
    virsh("pool-define-as", "vault", "dir", "--target", str(place))
    virsh("pool-start", "vault")
    try:
        store = keeping.Place(pool="vault", uri="qemu+unix:///system").store("one", "saved")
        assert create(guest.domain, store, Order(point="p1")).kind == "full"
        guest.sh("echo 5 >/root/fifth; sync")
        assert create(guest.domain, store, Order(point="p2", content=True)).kind == "incremental"
        assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
        assert verified(store, deep=True) == Report(("p1", "p2"), (), ("p2/vda", "p2/vdb"))
        done = restore_as(connect(QEMU), store, "p2", "from-vault", Hooks())
        assert "fifth" in listed(IMAGES / f"restore-{done.uuid}-vda.qcow2", "/root", tmp_path)
        virsh("undefine", "from-vault")
        for path in IMAGES.glob(f"restore-{done.uuid}-*"):
            path.unlink()
        data = place / "backup~one~saved~p1~vda.qcow2"
        content_before = data.read_bytes()
        data.write_bytes(content_before[:100000] + b"x" + content_before[100001:])
        assert [finding.point for finding in verified(store).findings] == ["p1"]
        # Without its manifest, written last, a point is not there.
        (place / "backup~one~saved~p2~manifest.json").unlink()
        virsh("pool-refresh", "vault")
        assert store.points() == ["p1"]
        assert create(guest.domain, store, Order(point="p3")).reason == "the checkpoint of point 'p1' is gone"
        assert store.points() == ["p1", "p3"]
        keeping.prune(store, Keep(last=1))
        assert store.points() == ["p3"]
        beside_another_deployment(guest, place)
    finally:
        virsh("pool-destroy", "vault")
        virsh("pool-undefine", "vault")


def command(*words: object, answer: str = "") -> subprocess.CompletedProcess[str]:
    call = [str(word) for word in (ROOT / ".venv/bin/cfy-libvirt", "backup", *words)]
    return subprocess.run(call, check=False, capture_output=True, text=True, timeout=600, input=answer)


def test_command_line(series: Series, tmp_path: Path) -> None:
    there = ("saved", "--dir", tmp_path / "kept")
    made = command("create", *there, "--point", "one", "--json")
    assert json.loads(made.stdout)["kind"] == "full", made.stderr
    assert (tmp_path / "kept/local/saved/one/manifest.json").is_file()
    assert command("create", *there, "--point", "two").stdout.split()[2] == "incremental"
    found = json.loads(command("list", *there, "--json").stdout)
    assert [point["point"] for point in found["points"]] == ["one", "two"]
    assert "parent: one" in command("show", *there).stdout
    assert json.loads(command("verify", *there, "--deep", "--json").stdout)["sound"]
    refused = command("delete", *there, "--point", "one", "--yes")
    assert (refused.returncode, "the points two stand on it" in refused.stderr) == (1, True)
    assert command("create", *there, "--point", "../x").returncode == 1
    for lossy in (("delete", *there, "--point", "two"), ("restore", *there, "--allow-stop")):
        asked = command(*lossy, answer="n\n")
        assert asked.returncode == 1 and "Aborted!" in asked.stderr
        assert command(*lossy, "--json").returncode == 64, "a program is not asked"
    assert series.guest.handle.isActive()
    assert sorted(one.name for one in (tmp_path / "kept/local/saved").glob("[!.]*")) == ["one", "two"]
    (tmp_path / "kept/local/saved/two/vda.qcow2").write_bytes(b"")
    broken = command("verify", *there)
    assert broken.returncode == 1 and "point 'two': vda.qcow2 has 0 bytes" in broken.stdout
    assert json.loads(command("prune", *there, "--keep-last", "1", "--dry-run", "--json").stdout)["deleted"] == []
    assert command("delete", *there, "--point", "two", "-y").stdout == "deleted two\n"
