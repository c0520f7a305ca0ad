"""A disk that is full at each write: one error that names the place, nothing half made; with room again it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks, local_storage, network_tasks
from cloudify_libvirt.core.backup.create import Hooks, create
from cloudify_libvirt.core.backup.filestore import Store as FileStore
from cloudify_libvirt.core.backup.plan import Order
from cloudify_libvirt.core.backup.restore import restore
from cloudify_libvirt.core.backup.store import DirectoryStore
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.storage.bases import Wish
from cloudify_libvirt.core.volume import Volume
from tests.driver.conftest import Node
from tests.real.backups import QEMU, Guest
from tests.real.conftest import IMAGES, Host
from tests.real.test_backup import pool  # noqa: F401 - a fixture

MIB = 1 << 20
CHECKPOINTS = Path("/var/lib/libvirt/qemu/checkpoint")


class Disk:
    """A small file system, with a pool on it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.ballast = directory, directory / ".ballast"

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.directory], check=True)

    def fill(self, *_anything: object, but: int = 0) -> None:
        """Leave ``but`` bytes of space."""
        file = os.open(self.ballast, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with suppress(OSError):
            while True:
                os.write(file, bytes(4096))
        os.close(file)
        if but:
            os.truncate(self.ballast, max(0, self.ballast.stat().st_size - but))

    def empty(self) -> None:
        self.ballast.unlink()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir() if path != self.ballast)


@pytest.fixture
def disk(host: Host) -> Iterator[Disk]:
    directory = IMAGES / "outage"
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=711", "outage", directory], check=True)
    xml = f"<pool type='dir'><name>outage</name><target><path>{directory}</path></target></pool>"
    handle = host.connection.storagePoolDefineXML(xml)
    handle.create()
    yield Disk(directory)
    handle.destroy()
    handle.undefine()
    subprocess.run(["umount", "-l", directory], check=True)
    directory.rmdir()


@pytest.fixture
def running(pool: Path) -> Iterator[Guest]:  # noqa: F811
    """A guest that is not waited for; there is content on its disks."""
    guest = Guest("filled", pool, pool / "tests-base.qcow2")
    guest.define()
    for path in (guest.root, guest.data):
        kind = "raw" if path == guest.data else "qcow2"
        subprocess.run(["qemu-io", "-f", kind, "-c", "write -q 0 6M", path], check=True)
    guest.handle.create()
    guest.handle.suspend()
    yield guest
    guest.remove()


def error_of(failed: pytest.ExceptionInfo[BaseException]) -> str:
    print(failed.value)
    return str(failed.value)


def test_machine(disk: Disk, tiny: Path) -> None:
    """The image does not fit; with room the same call goes on."""
    node = Node(
        name="vm", deployment="outage", properties={"libvirt_auth": QEMU},
        params={"name": "outage", "memory": "64 MiB", "image": str(tiny), "pool": "outage"},
    )  # fmt: skip
    node.run(domain_tasks.create)
    # Enough for what the image needs, but not for the overlay behind it: found out by writing.
    disk.resize(tiny.stat().st_size + (64 << 10))
    try:
        with pytest.raises(NonRecoverableError) as failed:
            node.run(domain_tasks.configure)
        assert "pool 'outage'" in error_of(failed) and "Is there room in the pool?" in str(failed.value)
        assert disk.names() == [], "nothing half made"
        disk.resize(64 * MIB)
        node.run(domain_tasks.configure)
        assert disk.names()
    finally:
        node.run(domain_tasks.delete)
    assert disk.names() == []


@pytest.mark.parametrize("size", [100_000, MIB - 1, 3 * MIB], ids=["small", "a chunk", "many"])
@pytest.mark.parametrize("zeros", [0, 50_000], ids=["to its end", "with zeros at its end"])
def test_contents_of_a_volume(disk: Disk, size: int, zeros: int) -> None:
    """The host has no room for the end of it: libvirt keeps an error at the last pieces to itself."""
    content = os.urandom(size - zeros) + bytes(zeros)
    here = Pool.get(connect(QEMU), "outage")
    volume = Volume.create(here, Wish("content", format="raw").xml(size), "content")
    disk.fill(but=size // 2)
    with pytest.raises(CoreError) as failed:
        volume.upload(content)
    assert "volume 'content' of pool 'outage'" in error_of(failed) and "No space left on device" in str(failed.value)
    disk.empty()
    volume.upload(content)
    assert (disk.directory / "content").read_bytes() == content
    volume.delete()


def test_backup_store(disk: Disk, running: Guest) -> None:
    store = DirectoryStore(disk.directory / "kept", "outage", "filled")
    order = Order(quiesce=False, staging_pool="default")

    def full(_pool: str, _volume: str) -> None:
        disk.fill(but=2 * MIB)

    with pytest.raises(CoreError) as failed:
        create(running.domain, store, order, Hooks(claim=full))
    assert str(disk.directory) in error_of(failed)
    disk.empty()
    assert store.points() == [] and not [path for path in store.root.iterdir() if path.name != ".lock"]
    assert not list(IMAGES.glob("backup-*")), "nothing is left of the staging"
    assert running.domain.handle.listAllCheckpoints() == []
    made = create(running.domain, store, order)
    assert store.points() == [made.point]


def test_staging_and_restore(disk: Disk, running: Guest, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "kept", "outage", "filled")
    order = Order(quiesce=False, staging_pool="outage")
    with pytest.raises(CoreError) as failed:
        create(running.domain, store, order, Hooks(claim=lambda *_: disk.fill(but=MIB)))
    assert "room" in error_of(failed) or "space" in str(failed.value)
    disk.empty()
    assert disk.names() == [] and store.points() == []
    made = create(running.domain, store, order)
    running.handle.destroy()
    with pytest.raises(CoreError) as failed:
        restore(running.domain, FullStore(tmp_path / "kept", "outage", "filled", disk), made.point, Hooks())
    assert f"no space left in {disk.directory}" in error_of(failed)
    assert running.root.exists() and running.data.exists(), "the old disks stay until all new ones are there"
    assert not list(IMAGES.glob("restore-*"))
    disk.empty()
    restore(running.domain, store, made.point, Hooks())


def test_checkpoint_that_libvirt_cannot_write_down(disk: Disk, running: Guest, tmp_path: Path) -> None:
    """QEMU keeps its bitmap, of which nothing of libvirt's tells; it is in no later backup's way."""
    store = DirectoryStore(tmp_path / "kept", "outage", "filled")
    order = Order(point="one", quiesce=False, staging_pool="default")
    (disk.directory / "checkpoints").mkdir()
    subprocess.run(["mount", "--bind", disk.directory / "checkpoints", CHECKPOINTS], check=True)
    try:
        disk.fill()
        with pytest.raises(CoreError) as failed:
            create(running.domain, store, order)
        assert "Is there room in /var/lib/libvirt of its host?" in error_of(failed)
        disk.empty()
        assert store.points() == [] and running.domain.handle.listAllCheckpoints() == []
        made = create(running.domain, store, order)
        assert store.points() == [made.point] and made.checkpoint
        again = create(running.domain, store, Order(point="two", quiesce=False, staging_pool="default"))
        assert again.kind == "incremental", again.reason
        running.handle.destroy()
        said = subprocess.run(["qemu-img", "info", running.root], capture_output=True, text=True, check=True).stdout
        assert said.count("name: cfy-") == said.count("-two") == 1, "the bitmap of the last checkpoint, and no other"
    finally:
        subprocess.run(["umount", "-l", CHECKPOINTS], check=True)


class FullStore(DirectoryStore):
    """A store whose scratch space is on the small disk, full."""

    def __init__(self, base: Path, deployment: str, domain: str, disk: Disk) -> None:
        super().__init__(base, deployment, domain)
        self.disk = disk

    def scratch(self) -> Any:
        self.disk.fill(but=MIB)
        return DirectoryStore(self.disk.directory, "s", "s").scratch()


def test_ledger(disk: Disk, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written down is not made."""
    monkeypatch.setenv("XDG_STATE_HOME", str(disk.directory))
    node = Node(name="net", deployment="outage", properties={"libvirt_auth": QEMU}, params={"name": "outage"})
    before = host.networks()
    disk.fill()
    with pytest.raises(NonRecoverableError) as failed:
        node.run(network_tasks.create)
    assert str(disk.directory) in error_of(failed) and "No space left on device. Free some" in str(failed.value)
    assert host.networks() == before
    disk.empty()
    node.run(network_tasks.create)
    assert host.networks() == {*before, "outage"}
    node.run(network_tasks.delete)
    assert host.networks() == before


def test_state_of_the_engine(disk: Disk) -> None:
    """An instance's file stays as it was, whole."""

    class Storage:
        @staticmethod
        def _instance_path(deployment: str, instance: str) -> str:
            return str(disk.directory / deployment / "node-instances" / instance)

    path = Path(Storage._instance_path("outage", "vm_1"))
    path.parent.mkdir(parents=True)
    small = local_storage.local.NodeInstance({"id": "vm_1", "runtime_properties": {"made": []}})
    local_storage.store_instance(Storage, "outage", small)
    before = path.read_bytes()
    large = local_storage.local.NodeInstance({**small, "runtime_properties": {"made": ["x" * 100_000]}})
    disk.fill()
    with pytest.raises(OSError, match="No space left on device") as failed:
        local_storage.store_instance(Storage, "outage", large)
    assert str(path) in error_of(failed)
    assert path.read_bytes() == before and [one.name for one in (disk.directory / "outage").iterdir()] == [
        "node-instances"
    ]
    disk.empty()
    local_storage.store_instance(Storage, "outage", large)
    assert len(path.read_bytes()) > 100_000


def test_definition_in_a_file(disk: Disk) -> None:
    store = FileStore(disk.directory, "outage", "one", "vm", "uuid")
    store.prepare()
    disk.fill(but=4096)
    with pytest.raises(CoreError) as failed:
        store.write(".xml", "x" * 100_000)
    assert str(store.path(".xml")) in error_of(failed) and "Free some space there" in str(failed.value)
    assert not store.complete and list(store.directory.iterdir()) == []
    disk.empty()
    store.write(".xml", "x" * 100_000)
    assert len(store.read(".xml")) == 100_000
