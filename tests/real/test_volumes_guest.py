"""Volumes under a running guest: growth that it sees, encryption that the disk shows, deletion that is refused."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import pytest

from cloudify_libvirt import domain_tasks, volume_tasks
from cloudify_libvirt.core.errors import InUse
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.volume import Volume
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, QEMU, public_key, ssh, virsh

MIB = 1024**2
SHELF = IMAGES / "guest-volumes"
NETWORK = (
    "<network><name>volumes</name><bridge name='volbr' stp='off' delay='0'/><ip address='10.98.41.1' "
    "netmask='255.255.255.0'><dhcp><range start='10.98.41.10' end='10.98.41.90'/></dhcp></ip></network>"
)
POOL = f"<pool type='dir'><name>volumes</name><target><path>{SHELF}</path></target></pool>"
KEY = "a key for this test alone"
DISKS: dict[str, dict[str, Any]] = {
    "base": {"size": "16 MiB"},
    "raw": {"size": "16 MiB"},
    "qcow2": {"size": "16 MiB", "format": "qcow2"},
    "overlay": {"source_volume": "base", "mode": "overlay"},
    "luks": {"size": "16 MiB", "encryption": {"passphrase": KEY}},
    "luks-qcow2": {"size": "16 MiB", "format": "qcow2", "encryption": {"passphrase": KEY}},
}
ATTACHED = ("raw", "qcow2", "overlay", "luks", "luks-qcow2")


def node(name: str, **params: Any) -> Node:
    return Node(name=name, deployment="volumes", params={"name": name, "pool": "volumes", **params},
                properties={"libvirt_auth": QEMU})  # fmt: skip


@dataclass
class Lab:
    """A guest with a disk of each kind."""

    connection: libvirt.virConnect
    key: Path
    machine: Node
    disks: dict[str, Node] = field(default_factory=dict)

    def shell(self, command: str) -> str:
        return ssh(self.key, str(self.machine.runtime["ip"]), command)

    def device(self, name: str) -> str:
        return "vd" + "bcdefg"[ATTACHED.index(name)]

    def seen_mib(self, name: str) -> float:
        """The size of the disk in the guest's eyes."""
        return int(self.shell(f"cat /sys/class/block/{self.device(name)}/size")) * 512 / MIB

    @property
    def pid(self) -> str:
        return Path("/run/libvirt/qemu/guarded.pid").read_text()


def install(machine: Node) -> None:
    for name in ("validate", "create", "configure", "start"):
        machine.run(getattr(domain_tasks, name))
    while not machine.run(domain_tasks.get_state):
        time.sleep(0.1)


@pytest.fixture(scope="module")
def lab(key: Path, tiny: Path) -> Iterator[Lab]:
    connection = libvirt.open(QEMU)
    network, pool = connection.networkDefineXML(NETWORK), connection.storagePoolDefineXML(POOL)
    pool.build()
    for thing in (network, pool):
        thing.create()
    disks = {name: node(name, **params) for name, params in DISKS.items()}
    for disk in disks.values():
        for operation in (volume_tasks.validate, volume_tasks.create, volume_tasks.start):
            disk.run(operation)
    machine = node(
        "guarded", memory="128 MiB", image=str(tiny), networks=[{"network": "volumes"}], shutdown_timeout_s=5,
        wait_for_ip=True,
        disks=[{"pool": "volumes", "volume": name} for name in ATTACHED],
        cloud_init={"ssh_authorized_keys": [public_key(key)], "user_data": "#cloud-config\ndisable_root: false\n"},
    )  # fmt: skip
    install(machine)
    yield Lab(connection, key, machine, disks)
    machine.run(domain_tasks.stop)
    machine.run(domain_tasks.delete)
    for disk in reversed(disks.values()):
        disk.run(volume_tasks.delete)
    left = [path.name for path in SHELF.iterdir()]
    connection = libvirt.open(QEMU)
    network, pool = connection.networkLookupByName("volumes"), connection.storagePoolLookupByName("volumes")
    secrets = connection.listAllSecrets()
    for thing in (network, pool):
        thing.destroy()
        thing.undefine()
    shutil.rmtree(SHELF)
    assert left == [] and secrets == []
    connection.close()


@pytest.mark.parametrize("name", ATTACHED)
def test_growth_that_the_guest_sees(lab: Lab, name: str) -> None:
    pid = lab.pid
    assert lab.seen_mib(name) == 16
    lab.disks[name].run(volume_tasks.update, params={"size": "40 MiB"})
    assert lab.seen_mib(name) == 40
    # The new end can be written and read.
    device = f"/dev/{lab.device(name)}"
    lab.shell(f"echo the-new-end | dd of={device} bs=512 seek=81919 conv=fsync 2>/dev/null")
    assert lab.shell(f"dd if={device} bs=512 skip=81919 count=1 2>/dev/null | head -c 11") == "the-new-end"
    with pytest.raises(Exception, match="24 MiB is less than its 40 MiB; shrinking would lose data"):
        lab.disks[name].run(volume_tasks.update, params={"size": "24 MiB"})
    assert lab.seen_mib(name) == 40 and lab.pid == pid


@pytest.mark.parametrize(("name", "hidden"), [("raw", False), ("luks", True), ("luks-qcow2", True)])
def test_what_the_guest_writes_is_encrypted(lab: Lab, name: str, hidden: bool) -> None:
    device = f"/dev/{lab.device(name)}"
    lab.shell(f"yes marker-of-the-guest | dd of={device} bs=64k count=16 conv=fsync 2>/dev/null")
    assert lab.shell(f"head -c 19 {device}") == "marker-of-the-guest"
    stored = (SHELF / name).read_bytes()
    assert (b"marker-of-the-guest" not in stored) == hidden
    assert KEY.encode() not in stored


def test_the_domain_has_the_secret_and_not_the_key(lab: Lab) -> None:
    handle = lab.connection.lookupByName("guarded")
    xml = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    for name in ("luks", "luks-qcow2"):
        assert f"uuid='{lab.disks[name].runtime['secret']}'" in xml
    assert KEY not in xml
    assert KEY not in str([disk.runtime for disk in lab.disks.values()]) + str(lab.machine.runtime)
    command = Path(f"/proc/{lab.pid.strip()}/cmdline").read_bytes()
    assert KEY.encode() not in command
    secret = lab.connection.secretLookupByUUIDString(lab.disks["luks"].runtime["secret"])
    with pytest.raises(libvirt.libvirtError, match="private"):
        secret.value()


def found(name: str) -> Volume:
    return Volume.get(Pool.get(connect(QEMU), "volumes"), name)


@pytest.mark.parametrize("name", ["raw", "overlay", "luks"])
def test_a_running_guests_disk_stays(lab: Lab, name: str) -> None:
    with pytest.raises(InUse, match=f"volume '{name}' .*used by domain 'guarded'"):
        found(name).delete()
    lab.disks[name].run(volume_tasks.stop)
    assert (SHELF / name).exists() and lab.seen_mib(name) >= 16


def test_what_a_guest_writes_to_is_not_copied(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(InUse, match="running domain 'guarded' writes to it"):
        found("raw").download(tmp_path / "raw")
    with pytest.raises(Exception, match="running domain 'guarded' writes to it"):
        node("copy", source_volume="raw").run(volume_tasks.create)
    with pytest.raises(Exception, match="domain 'guarded' writes to it, which breaks"):
        node("copy", source_volume="raw", mode="overlay").run(volume_tasks.create)
    assert sorted(path.name for path in SHELF.iterdir() if path.name == "copy") == []


def test_a_snapshots_disk_stays(lab: Lab) -> None:
    """The domain has gone on to the snapshot's file; the volume is only below it, and in the snapshot."""
    handle = lab.connection.lookupByName("guarded")
    above = SHELF / "qcow2.above"
    drives = "".join(
        f"<disk name='{lab.device(name)}' snapshot='no'/>" for name in ATTACHED if name != "qcow2"
    )  # fmt: skip
    xml = (
        f"<domainsnapshot><name>before</name><disks><disk name='vda' snapshot='no'/>{drives}"
        f"<disk name='{lab.device('qcow2')}' snapshot='external'><source file='{above}'/></disk></disks>"
        "</domainsnapshot>"
    )
    snapshot = handle.snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    try:
        with pytest.raises(InUse, match="snapshot 'before' of domain 'guarded'") as caught:
            found("qcow2").delete()
        assert "volume 'qcow2.above' of pool 'volumes'" in str(caught.value), "though libvirt had not seen the file yet"
        with pytest.raises(Exception, match=r"cannot resize volume 'qcow2'.*snapshot 'before'"):
            lab.disks["qcow2"].run(volume_tasks.update, params={"size": "64 MiB"})
    finally:
        virsh("blockcommit", "guarded", lab.device("qcow2"), "--active", "--pivot", "--wait")
        snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
        above.unlink()
        virsh("pool-refresh", "volumes")


@pytest.mark.parametrize("uri", [QEMU, "lxc:///system"])
@pytest.mark.parametrize("how", ["path", "link"])
def test_a_stopped_domains_disk_stays(lab: Lab, uri: str, how: str) -> None:
    volume = node("idle", size="1 MiB")
    volume.run(volume_tasks.create)
    path = SHELF / "idle"
    if how == "link":
        path = IMAGES / "link-to-idle"
        path.symlink_to(SHELF / "idle")
    hypervisor = libvirt.open(uri)
    disk = f"<disk type='file'><source file='{path}'/><target dev='sda' bus='scsi'/></disk>"
    files = f"<filesystem type='file'><source file='{path}'/><target dir='/data'/></filesystem>"
    kind, system, inner = ("qemu", "<type>hvm</type>", disk) if uri == QEMU else ("lxc", "<type>exe</type>", files)
    domain = hypervisor.defineXML(
        f"<domain type='{kind}'><name>idle-owner</name><memory>65536</memory><os>{system}"
        f"{'<init>/bin/sh</init>' if kind == 'lxc' else ''}</os><devices>{inner}</devices></domain>"
    )
    try:
        with pytest.raises(InUse, match="used by domain 'idle-owner'"):
            found("idle").delete()
    finally:
        domain.undefine()
        (IMAGES / "link-to-idle").unlink(missing_ok=True)
    volume.run(volume_tasks.delete)
    assert not (SHELF / "idle").exists()


def restart_daemon() -> libvirt.virConnect:
    """End libvirt's daemon and let the lab's PID 1 start it again; guests go on, ephemeral secrets do not."""
    pid = int(Path("/run/libvirt/libvirtd.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.1)
    os.kill(1, signal.SIGHUP)
    deadline = time.monotonic() + 120
    while True:
        try:
            return libvirt.open(QEMU)
        except libvirt.libvirtError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_key_that_the_daemon_lost_comes_back(lab: Lab) -> None:
    """Last, as it stops the guest."""
    lab.connection = restart_daemon()
    assert lab.connection.listAllSecrets() == []
    # The running guest has its disk open; growth needs no key.
    lab.disks["luks"].run(volume_tasks.update, params={"size": "44 MiB"})
    assert lab.seen_mib("luks") == 44 and lab.connection.listAllSecrets() == []
    lab.connection.lookupByName("guarded").destroy()
    with pytest.raises(Exception, match="Secret not found"):
        lab.machine.run(domain_tasks.start)
    # Offline it needs the key, and brings it back.
    lab.disks["luks"].run(volume_tasks.update, params={"size": "48 MiB"})
    lab.disks["luks-qcow2"].run(volume_tasks.start)
    assert len(lab.connection.listAllSecrets()) == 2
    lab.machine.run(domain_tasks.start)
    while not lab.machine.run(domain_tasks.get_state):
        time.sleep(0.1)
    assert lab.shell(f"head -c 19 /dev/{lab.device('luks')}") == "marker-of-the-guest"
    assert lab.seen_mib("luks") == 48
