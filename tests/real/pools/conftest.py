"""What the tests of storage pools stand on: loop devices, iSCSI, Ceph, Gluster; all of the lab's own."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from tests.real.pools.ceph import Ceph
from tests.real.pools.storage import IMAGES, QEMU, TARGET, Daemon, answers, pools, run, secrets

DEVICE_BYTES = 64 << 20


@pytest.fixture
def new_device(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Make empty block devices."""
    made: list[str] = []

    def make() -> str:
        path = tmp_path / f"disk{len(made)}"
        with path.open("wb") as file:
            file.truncate(DEVICE_BYTES)
        made.append(run("losetup", "--find", "--show", path).strip())
        return made[-1]

    yield make
    for device in made:
        run("losetup", "--detach", device)


@pytest.fixture
def device(new_device: Callable[[], str]) -> str:
    """An empty block device."""
    return new_device()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """What a test makes must be gone after it, and is removed if it is not."""
    before = pools(), secrets(), set(IMAGES.iterdir())
    yield
    connection = libvirt.open(QEMU)
    after = pools(), secrets(), set(IMAGES.iterdir())
    for pool in connection.listAllStoragePools():
        if pool.name() not in before[0]:
            if pool.isActive():
                pool.destroy()
            pool.undefine()
    for uuid in after[1] - before[1]:
        connection.secretLookupByUUIDString(uuid).undefine()
    assert after == before


@pytest.fixture(scope="session")
def iscsi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an iSCSI target of two disks that alice may use with the password correct-horse-1."""
    directory = tmp_path_factory.mktemp("iscsi")
    Path("/run/tgt").mkdir(exist_ok=True)
    show = ("tgtadm", "--lld", "iscsi", "--op", "show", "--mode", "target")
    tgtd = Daemon("tgtd", "--foreground", "--iscsi", "portal=127.0.0.1:3269", ready=lambda: answers(*show))

    def tgtadm(op: str, mode: str, *options: object) -> None:
        run("tgtadm", "--lld", "iscsi", "--op", op, "--mode", mode, *options)

    tgtadm("new", "target", "--tid", 1, "--targetname", TARGET)
    for lun in (1, 2):
        disk = directory / f"lun{lun}"
        disk.write_bytes(bytes(8 << 20))
        tgtadm("new", "logicalunit", "--tid", 1, "--lun", lun, "--backing-store", disk)
    tgtadm("bind", "target", "--tid", 1, "--initiator-address", "ALL")
    tgtadm("new", "account", "--user", "alice", "--password", "correct-horse-1")
    tgtadm("bind", "account", "--tid", 1, "--user", "alice")
    yield 3269
    tgtadm("delete", "target", "--tid", 1, "--force")
    tgtd.end()


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A Ceph with an empty pool."""
    servers = Ceph(tmp_path_factory.mktemp("ceph"))
    yield servers
    servers.end()


@pytest.fixture(scope="session")
def gluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a Gluster volume that this host serves."""
    # Bricks need extended attributes that not every temporary directory has.
    state = Path(tempfile.mkdtemp(prefix="gluster-", dir="/var/lib/libvirt"))
    for name in ("state", "brick", "log"):
        (state / name).mkdir()
    Path("/run/gluster").mkdir(exist_ok=True)
    volfile = tmp_path_factory.mktemp("gluster") / "glusterd.vol"
    volfile.write_text(
        "volume management\n type mgmt/glusterd\n option run-directory /run/gluster\n"
        f" option working-directory {state}/state\n option transport-type socket\nend-volume\n"
    )
    command = ("gluster", "--mode=script", "--wignore")
    daemon = Daemon("glusterd", "--no-daemon", "--volfile", volfile, "--log-file", state / "log/glusterd.log",
                    ready=lambda: answers(*command, "volume", "list"))  # fmt: skip
    host = os.uname().nodename
    run(*command, "volume", "create", "shelf", f"{host}:{state}/brick", "force")
    run(*command, "volume", "start", "shelf")
    yield "shelf"
    run(*command, "volume", "stop", "shelf", "force")
    daemon.end()
    # The brick's server and self-heal daemon are children of nobody.
    for pid_file in Path("/run/gluster").rglob("*.pid"):
        with suppress(OSError, ValueError):
            os.kill(int(pid_file.read_text()), signal.SIGTERM)
    shutil.rmtree(state)
