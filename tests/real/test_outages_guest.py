"""The guest's process killed during each wait: the wait ends at once, and says why."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import libvirtmod
import pytest
from lxml import etree

from cloudify_libvirt import domain_tasks
from cloudify_libvirt.core.backup import job
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError, GuestFailed, TimedOut, libvirt_call
from cloudify_libvirt.core.host import readiness
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.snapshot import merge, snapshots
from cloudify_libvirt.core.snapshot.plan import Wish
from cloudify_libvirt.core.spec.memory import BLOCK_KIB
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.update import dimms, hotplug, sizes
from tests.driver.conftest import Node
from tests.real import daemon
from tests.real.backups import QEMU, Guest
from tests.real.conftest import IMAGES, Host
from tests.real.test_backup import pool  # noqa: F401 - a fixture

# From the kill to the end of the wait; it takes 0.05 to 0.3 s where nothing else runs, and
# without the event of the end half a minute.
AT_ONCE_S = 15.0
DIED = "rocess (died|ended)"
DEAF = """
<domain type='qemu'><name>deaf</name><memory unit='MiB'>64</memory><os><type machine='q35'>hvm</type></os>
<features><acpi/></features><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{directory}/deaf.qcow2'/>
<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{directory}/deaf.raw'/>
<target dev='vdb' bus='virtio'/></disk>
<interface type='user'><mac address='52:54:00:00:0e:01'/><model type='virtio'/></interface>
<controller type='usb' model='none'/></devices></domain>
"""
NBD = "<source protocol='nbd'><host transport='unix' socket='{}'/></source>"
DISK = "<disk type='file' device='disk'><source file='{directory}/deaf.raw'/><target dev='vdb' bus='virtio'/></disk>"


class Killer:
    """Kills the process of a guest."""

    def __init__(self, name: str) -> None:
        self.name, self.at = name, 0.0

    def now(self, *_progress: object) -> None:
        if not self.at:
            self.at = time.monotonic()
            os.kill(daemon.guests()[self.name], signal.SIGKILL)

    def soon(self, after_s: float = 1.5) -> None:
        threading.Timer(after_s, self.now).start()

    def soon_after(self, call: str, patch: pytest.MonkeyPatch) -> None:
        """Kill it soon after a function of libvirt's binding has answered, with which the wait begins."""
        function = getattr(libvirtmod, call)

        def followed(*arguments: Any) -> Any:
            answer = function(*arguments)
            self.soon()
            return answer

        patch.setattr(libvirtmod, call, followed)

    def hold(self) -> None:
        """Let it answer nothing until then: libvirt's call is in the middle when it comes."""
        os.kill(daemon.guests()[self.name], signal.SIGSTOP)
        self.soon()

    @property
    def seconds(self) -> float:
        assert self.at, "it was not in the middle"
        return time.monotonic() - self.at


@pytest.fixture
def deaf(host: Host) -> Iterator[Domain]:
    """A guest without an operating system: it hears nothing, and gives nothing back."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    disk, data = IMAGES / "deaf.qcow2", IMAGES / "deaf.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "512M"], check=True)
    subprocess.run(["qemu-io", "-c", "write -q 0 256M", disk], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["truncate", "-s", "8M", data], check=True)
    handle = host.connection.defineXML(DEAF.format(directory=IMAGES))
    handle.create()
    yield Domain.get(connect(QEMU), "deaf")
    # It may be about to be found dead.
    with contextlib.suppress(libvirt.libvirtError):
        handle.destroy()
    handle.undefineFlags(
        libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    )
    for path in IMAGES.glob("deaf*"):
        path.unlink()


def started_with(domain: Domain, definition: Any) -> None:
    """Start the guest anew, with another definition."""
    domain.handle.destroy()
    domain.session.connection.defineXML(etree.tostring(definition, encoding="unicode"))
    domain.handle.create()


@pytest.fixture
def slotted(deaf: Domain) -> Domain:
    """The same guest, with a DIMM that it does not give back."""
    definition = etree.fromstring(deaf.definition())
    etree.SubElement(definition, "maxMemory", slots="1", unit="MiB").text = "512"
    cpu = definition.find("cpu")
    cpu = etree.SubElement(definition, "cpu") if cpu is None else cpu
    etree.SubElement(etree.SubElement(cpu, "numa"), "cell", id="0", cpus="0", memory="64", unit="MiB")
    started_with(deaf, definition)
    room = dimms.Room.read(deaf.xml())
    assert room is not None
    dimms.attach(deaf, room, BLOCK_KIB)
    return deaf


@pytest.fixture
def server(deaf: Domain) -> Iterator[subprocess.Popen[bytes]]:
    """What the same guest has its second disk from: 32 MiB, in two minutes."""
    data, socket, ready = (IMAGES / f"deaf-{name}" for name in ("served.raw", "socket", "server.pid"))
    subprocess.run(["truncate", "-s", "32M", data], check=True)
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -q -P 7 0 32M", data], check=True, stdout=subprocess.DEVNULL)
    limits = ["--object", "throttle-group,id=slow,x-bps-total=262144"]
    source = f"driver=throttle,throttle-group=slow,file.driver=raw,file.file.driver=file,file.file.filename={data}"
    process = subprocess.Popen(["qemu-nbd", "-t", "-k", socket, "--pid-file", ready, *limits, "--image-opts", source])
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None and time.monotonic() < deadline, "qemu-nbd does not start"
            time.sleep(0.05)
        socket.chmod(0o777)
        definition = etree.fromstring(deaf.definition())
        disk = definition.find("devices/disk[2]")
        disk.set("type", "network")
        disk.replace(disk.find("source"), etree.fromstring(NBD.format(socket)))
        started_with(deaf, definition)
        yield process
    finally:
        process.kill()
        process.wait()


def memory(domain: Domain) -> None:
    sizes.apply(domain, sizes.Size(memory_kib=32 * 1024), timeout_s=30)


def memory_in_use(domain: Domain) -> None:
    sizes.check(domain, sizes.Size(memory_kib=32 * 1024))
    memory(domain)


def unplug(domain: Domain) -> None:
    hotplug.detach(domain, DISK.format(directory=IMAGES), 30)


def address(domain: Domain) -> None:
    readiness.turn(domain, {}, queued=lambda: 0)


@pytest.mark.parametrize("wait", [memory, memory_in_use, unplug, address])
def test_killed_while_we_wait(wait: Callable[[Domain], None], deaf: Domain) -> None:
    killer = Killer("deaf")
    killer.soon()
    with pytest.raises(GuestFailed, match=DIED) as failed:
        wait(deaf)
    print(f"{wait.__name__}: {killer.seconds:.2f} s, {failed.value}")
    assert killer.seconds < AT_ONCE_S


def test_killed_while_it_should_give_a_dimm_back(slotted: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    killer = Killer("deaf")
    killer.soon_after("virDomainDetachDeviceAlias", monkeypatch)
    with pytest.raises(GuestFailed, match=DIED) as failed:
        sizes.apply(slotted, sizes.Size(memory_kib=64 * 1024, dimms=True), timeout_s=30)
    print(f"DIMM: {killer.seconds:.2f} s, {failed.value}")
    assert killer.seconds < AT_ONCE_S
    assert failed.value.action == "take memory back from"


def test_killed_during_a_merge(deaf: Domain) -> None:
    base, overlay = (str(IMAGES / name) for name in ("deaf.qcow2", "deaf-overlay.qcow2"))
    deaf.handle.destroy()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay], check=True)
    subprocess.run(["qemu-io", "-c", "write -q 0 96M", overlay], check=True, stdout=subprocess.DEVNULL)
    xml = deaf.definition().replace(f"<source file='{base}'/>", f"<source file='{overlay}'/>")
    deaf.session.connection.defineXML(xml)
    deaf.handle.create()
    slow = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES
    deaf.handle.blockCommit("vda", base, overlay, 1 << 20, slow)
    killer = Killer("deaf")
    killer.soon()
    with pytest.raises(GuestFailed, match=DIED) as failed:
        merge.merge(deaf, "vda", overlay, base)
    print(f"merge: {killer.seconds:.2f} s, {failed.value}")
    assert killer.seconds < AT_ONCE_S


def test_killed_while_it_should_shut_down(deaf: Domain) -> None:
    """What was wanted is reached: no error."""
    killer = Killer("deaf")
    killer.soon()
    deaf.stop(30)
    print(f"stop: {killer.seconds:.2f} s")
    assert killer.seconds < AT_ONCE_S and deaf.state in OFF


def test_killed_during_a_backup(deaf: Domain) -> None:
    target = IMAGES / "deaf-copy.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", target, "512M"], check=True)
    disks = [job.DiskJob("vda", str(target), "", False), job.DiskJob("vdb", "", "", False)]
    job.begin(deaf, disks, "", "")
    killer = Killer("deaf")
    with pytest.raises(GuestFailed, match=DIED) as failed:
        job.finish(deaf, 60, killer.now)
    print(f"backup: {killer.seconds:.2f} s, {failed.value}")
    assert killer.seconds < AT_ONCE_S


def test_killed_while_a_backup_is_aborted(
    deaf: Domain, server: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk answers no more: the job goes on when it is told to end. What is said is why it was told so."""
    target = IMAGES / "deaf-copy.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", target, "32M"], check=True)
    job.begin(deaf, [job.DiskJob("vda", "", "", False), job.DiskJob("vdb", str(target), "", False)], "", "")
    server.send_signal(signal.SIGSTOP)
    killer = Killer("deaf")
    killer.soon_after("virDomainAbortJob", monkeypatch)
    with pytest.raises(TimedOut, match="it was not done after 1 s") as failed:
        job.finish(deaf, 1, lambda *_progress: None)
    print(f"aborted backup: {killer.seconds:.2f} s, {failed.value}")
    assert killer.seconds < AT_ONCE_S and deaf.state in OFF


@pytest.mark.parametrize(
    "call",
    [
        partial(snapshots.create, wish=Wish(name="one", kind="external", memory=False, exclude=("vdb",))),
        lambda domain: hotplug.attach(
            domain, "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>"
        ),
    ],
    ids=["snapshot", "attach"],
)
def test_killed_in_the_middle_of_a_call(call: Callable[[Domain], Any], deaf: Domain) -> None:
    killer = Killer("deaf")
    killer.hold()
    with pytest.raises(CoreError) as failed:
        call(deaf)
    print(failed.value)
    print(f"call: {killer.seconds:.2f} s, {type(failed.value).__name__} {failed.value}")
    assert killer.seconds < AT_ONCE_S
    assert not failed.value.retryable
    assert not deaf.handle.snapshotNum()


@pytest.fixture(scope="module")
def small(tiny: Path) -> Iterator[Path]:
    """A file system of 4 MiB below the pool's."""
    directory = IMAGES / "outage-small"
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "small", directory], check=True)
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)
    directory.rmdir()


@pytest.fixture(scope="module")
def talking(pool: Path, small: Path) -> Iterator[Guest]:  # noqa: F811
    """A guest with an agent, whose second disk's file system has less space than the disk."""
    guest = Guest("talking", pool, pool / "tests-base.qcow2")
    guest.define()
    subprocess.run(["truncate", "-s", "8M", small / "data.raw"], check=True)
    xml = guest.handle.XMLDesc().replace(str(guest.data), f"{small}/data.raw")
    guest.connection.defineXML(xml)
    guest.boot()
    yield guest
    guest.remove()
    (small / "data.raw").unlink()


def test_no_space_left_for_a_running_guest(talking: Guest, small: Path) -> None:
    """The guest stands still; check_status says why; with room again it goes on, and has written everything."""
    talking.agent("guest-exec", path="/bin/sh", arg=["-c", "dd if=/dev/urandom of=/dev/vdb bs=1M count=7 conv=fsync"])
    domain, deadline = talking.domain, time.monotonic() + 300
    while not domain.stalled_disks:
        assert time.monotonic() < deadline, "it did not run out of space"
        time.sleep(0.1)
    node = Node(name="talking", properties={"libvirt_auth": QEMU, "use_external_resource": True})
    node.runtime |= {"resource_id": "talking", "uuid": domain.uuid, "started_at": 1.0, "use_external_resource": True}
    with pytest.raises(Exception, match="stands still") as failed:
        node.run(domain_tasks.check_status)
    print(failed.value)
    assert f"there is no space left for disk vdb ({small}/data.raw)" in str(failed.value)
    subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
    node.run(domain_tasks.resume)
    node.run(domain_tasks.check_status)
    while talking.sh("cmp -n 7340032 /dev/vdb /dev/zero | head -1; pidof dd || true").strip().isdigit():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not domain.stalled_disks
    assert (small / "data.raw").stat().st_blocks * 512 >= 7 << 20, "all that it wrote is there"


def test_killed_while_it_freezes(talking: Guest) -> None:
    """Last, as it is dead then."""
    # An agent that says nothing: the question to it is open when the guest dies.
    talking.agent("guest-exec", path="/bin/sh", arg=["-c", "sleep 0.3; kill -STOP $(pidof qemu-ga)"])
    deadline = time.monotonic() + 60
    with contextlib.suppress(libvirt.libvirtError):
        while True:
            libvirt_qemu.qemuAgentCommand(talking.handle, '{"execute": "guest-ping"}', 5, 0)
            assert time.monotonic() < deadline, "it goes on answering"
            time.sleep(0.2)
    killer = Killer("talking")
    killer.soon()
    with pytest.raises(CoreError) as failed, libvirt_call("freeze the file systems of", talking.domain.target):
        talking.handle.agentSetResponseTimeout(30, 0)
        talking.handle.fsFreeze()
    print(f"freeze: {killer.seconds:.2f} s, {type(failed.value).__name__} {failed.value}")
    assert killer.seconds < AT_ONCE_S
