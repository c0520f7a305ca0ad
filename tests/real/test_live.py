"""Changes of a machine that runs: memory, vCPUs, devices, and what it consumes; on one guest of this module."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, LXC, QEMU, guest, public_key, ssh

MIB = 1024
NETWORK = "<network><name>live</name><bridge name='livebr' stp='off' delay='0'/><ip address='10.98.40.1' netmask='255.255.255.0'><dhcp><range start='10.98.40.10' end='10.98.40.90'/></dhcp></ip></network>"  # noqa: E501
POOL = f"<pool type='dir'><name>live</name><target><path>{IMAGES}/live</path></target></pool>"


@pytest.fixture(scope="module")
def host_objects() -> Iterator[libvirt.virConnect]:
    connection = libvirt.open(QEMU)
    network = connection.networkDefineXML(NETWORK)
    network.create()
    pool = connection.storagePoolDefineXML(POOL)
    pool.build()
    pool.create()
    yield connection
    for thing in (network, pool):
        thing.destroy()
        thing.undefine()
    shutil.rmtree(IMAGES / "live")
    connection.close()


def install(node: Node) -> None:
    for name in ("validate", "create", "configure", "start"):
        node.run(getattr(domain_tasks, name))
    while not node.run(domain_tasks.get_state):
        time.sleep(0.1)


def uninstall(node: Node) -> None:
    for name in ("stop", "delete"):
        node.run(getattr(domain_tasks, name))


@pytest.fixture(scope="module")
def machine(host_objects: libvirt.virConnect, key: Path) -> Iterator[Node]:
    """A small guest with a balloon driver and room to grow: 2 of 3 vCPUs' worth comes from its definition."""
    params = {
        "name": "live", "memory": "192 MiB", "max_memory": "256 MiB", "pool": "live", "image": str(guest("tiny")),
        "networks": [{"network": "live"}], "wait_for_ip": True, "shutdown_timeout_s": 5,
        "cloud_init": {"ssh_authorized_keys": [public_key(key)], "user_data": "#cloud-config\ndisable_root: false\n"},
    }  # fmt: skip
    node = Node(name="machine", deployment="live", params=params, properties={"libvirt_auth": QEMU})
    install(node)
    yield node
    uninstall(node)


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test attached goes, also when it failed."""
    yield
    if "machine" in request.fixturenames:
        for what in ({"disks": [{"dev": "vdb"}]}, {"networks": [{"network": "live"}]}):
            request.getfixturevalue("machine").run(domain_tasks.detach_device_flags, params=what)


@pytest.fixture
def empty(host_objects: libvirt.virConnect) -> Iterator[Node]:
    """A running domain without an operating system: nothing in it answers."""
    params = {
        "name": "empty",
        "memory": "64 MiB",
        "max_memory": "128 MiB",
        "wait_for_ip": False,
        "shutdown_timeout_s": 0,
        "hotplug_slots": 0,
    }
    node = Node(name="empty", deployment="live", params=params, properties={"libvirt_auth": QEMU})
    install(node)
    yield node
    uninstall(node)


def domain(name: str) -> libvirt.virDomain:
    return libvirt.open(QEMU).lookupByName(name)


def soon(machine: Node, key: Path, command: str, wanted: str) -> None:
    """Wait until the guest says it: its kernel hears of a new device a moment after libvirt has added it."""
    deadline = time.monotonic() + 60
    while (said := ssh(key, machine.runtime["ip"], command)) != wanted:
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def stored(name: str) -> str:
    return domain(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)


def test_memory_shrinks_and_grows_in_the_guest_and_in_the_definition(machine: Node, key: Path) -> None:
    free = "awk '/MemTotal/ {print $2}' /proc/meminfo"
    before = int(ssh(key, machine.runtime["ip"], free))
    machine.run(domain_tasks.update, params={"memory": "160 MiB"}, timeout_s=120)
    assert domain("live").memoryStats()["actual"] == 160 * MIB
    assert before - int(ssh(key, machine.runtime["ip"], free)) in range(31 * MIB, 33 * MIB)
    assert "<currentMemory unit='KiB'>163840<" in stored("live") and "<memory unit='KiB'>262144<" in stored("live")
    machine.run(domain_tasks.update, params={"memory": "192 MiB"})
    assert domain("live").memoryStats()["actual"] == 192 * MIB
    assert not machine.runtime.get("update_pending")


def test_what_the_guest_uses_is_not_taken(machine: Node) -> None:
    before = stored("live")
    with pytest.raises(NonRecoverableError, match=r"the guest uses .* more than 24 MiB"):
        machine.run(domain_tasks.update, params={"memory": "24 MiB"})
    assert stored("live") == before and domain("live").memoryStats()["actual"] == 192 * MIB
    machine.run(domain_tasks.update, params={"memory": "192 MiB"})


def test_beyond_the_running_maximum_it_waits_for_the_next_start(machine: Node) -> None:
    machine.run(domain_tasks.update, params={"memory": "512 MiB", "max_memory": None, "vcpu": "2"})
    pending = machine.runtime["update_pending"]
    assert pending["memory"]["wanted"] == 512 * MIB and pending["memory"]["now"] == 192 * MIB
    why = "the running guest can have 1 at most; it takes effect at the next start"
    assert pending["vcpu"] == {"wanted": 2, "now": 1, "why": why, "at_start": True}
    assert "<memory unit='KiB'>524288<" in stored("live") and "static'>2</vcpu>" in stored("live")
    assert domain("live").memoryStats()["actual"] == 192 * MIB
    machine.run(domain_tasks.update, params={"memory": "192 MiB", "max_memory": "256 MiB", "vcpu": 1})
    assert not machine.runtime["update_pending"]
    assert "<memory unit='KiB'>262144<" in stored("live")


def test_a_guest_that_does_not_answer_is_pending_never_done(empty: Node) -> None:
    begin = time.monotonic()
    empty.run(domain_tasks.update, params={"memory": "96 MiB"}, timeout_s="1.5")
    assert 1.5 <= time.monotonic() - begin < 60
    assert empty.runtime["update_pending"]["memory"]["wanted"] == 96 * MIB
    assert "has not confirmed it within 1.5 s" in empty.runtime["update_pending"]["memory"]["why"]
    empty.run(domain_tasks.stop)
    empty.run(domain_tasks.start)
    assert domain("empty").memoryStats()["actual"] == 128 * MIB
    assert list(empty.runtime["update_pending"]) == ["memory"], "still not what was asked for"
    empty.run(domain_tasks.update, params={"memory": "96 MiB", "max_memory": "96 MiB"}, timeout_s=0.2)
    empty.run(domain_tasks.stop)
    empty.run(domain_tasks.start)
    empty.run(domain_tasks.update, timeout_s=0.2)
    assert not empty.runtime["update_pending"] and domain("empty").memoryStats()["actual"] == 96 * MIB


def test_vcpus_come_while_it_runs_and_go_as_far_as_the_guest_lets_them(empty: Node) -> None:
    empty.run(domain_tasks.stop)
    for count in (3, 1):
        empty.run(domain_tasks.update, params={"vcpu": count})
    empty.run(domain_tasks.start)
    assert "current='1'>3</vcpu>" in stored("empty") and "current='1'>3</vcpu>" in domain("empty").XMLDesc()
    empty.run(domain_tasks.update, params={"vcpu": "3"}, timeout_s=0.2)
    assert domain("empty").vcpusFlags(libvirt.VIR_DOMAIN_VCPU_LIVE) == 3 and "static'>3</vcpu>" in stored("empty")
    assert "vcpu" not in empty.runtime["update_pending"]
    empty.run(domain_tasks.update, params={"vcpu": 2}, timeout_s=0.2)
    assert "current='2'>3</vcpu>" in stored("empty")
    now = domain("empty").vcpusFlags(libvirt.VIR_DOMAIN_VCPU_LIVE)
    assert ("vcpu" in empty.runtime["update_pending"]) is (now != 2), "what is pending is what is not so"


def test_the_figures_of_a_busy_guest(machine: Node, key: Path) -> None:
    ssh(key, machine.runtime["ip"], "(timeout 6 sh -c 'while :; do :; done' >/dev/null 2>&1 &)")
    begin = time.monotonic()
    stat = machine.run(domain_tasks.perfomance)
    assert time.monotonic() - begin < 20
    assert machine.runtime["stat"] == stat and stat["memory"] == 192
    assert 2 < stat["cpu"] < 150, stat
    assert set(machine.run(domain_tasks.performance, interval_s="0.1")) == {"cpu", "memory"}


def test_a_disk_comes_and_goes(machine: Node, key: Path) -> None:
    path = IMAGES / "live" / "extra.raw"
    with path.open("wb") as file:
        file.truncate(8 * 1024 * 1024)
    asked = {"params": {"disks": [{"file": str(path), "type": "raw"}]}}
    recorded = dict(machine.runtime["params"])
    for _ in range(2):
        machine.run(domain_tasks.attach_device_flags, **asked)
    soon(machine, key, "cat /sys/block/vdb/size || true", str(8 * 2048))
    assert stored("live").count(str(path)) == 1
    assert machine.runtime["params"] == recorded, "the device's parameters are not the machine's"
    for _ in range(2):
        machine.run(domain_tasks.detach_device_flags, params={"disks": [{"dev": "vdb"}]})
    soon(machine, key, "ls /sys/block | grep -c vdb || true", "0")
    assert str(path) not in stored("live") and not machine.runtime.get("detach_pending")
    path.unlink()


def test_a_card_without_a_mac_is_attached_once(machine: Node, key: Path) -> None:
    asked: dict[str, Any] = {"params": {"networks": [{"network": "live"}]}}
    for _ in range(2):
        machine.run(domain_tasks.attach_device_flags, **asked)
    soon(machine, key, "ls /sys/class/net | grep -c eth", "2")
    assert stored("live").count("<interface ") == 2
    machine.run(domain_tasks.detach_device_flags, **asked)
    assert stored("live").count("<interface ") == domain("live").XMLDesc().count("<interface ") == 1


def test_four_disks_and_four_cards_come_while_it_runs(machine: Node, key: Path) -> None:
    """Each has a slot of its own, and none was lost to those before it."""
    paths = [IMAGES / "live" / f"more-{number}.raw" for number in range(4)]
    for path in paths:
        path.write_bytes(bytes(1 << 20))
    wishes: list[dict[str, Any]] = [{"disks": [{"file": str(path), "type": "raw"}]} for path in paths]
    wishes += [{"networks": [{"network": "live", "mac": f"52:54:00:ab:cd:1{number}"}]} for number in range(4)]
    for wish in wishes:
        machine.run(domain_tasks.attach_device_flags, params=wish)
    seen = "ls -d /sys/block/vd? | wc -l; ls /sys/class/net | grep -c eth"
    soon(machine, key, seen, "5\n5")
    for wish in wishes:
        machine.run(domain_tasks.detach_device_flags, params=wish)
    soon(machine, key, seen, "1\n1")
    assert not machine.runtime.get("detach_pending")
    for path in paths:
        path.unlink()


def test_a_device_from_a_template_of_ones_own(machine: Node) -> None:
    text = (
        "<interface type='network'><mac address='52:54:00:ab:cd:01'/><source network='{{ params_network }}'/>"
        "<model type='virtio'/></interface>"
    )
    inputs = {"template_content": text, "params": {"params_network": "live"}}
    machine.run(domain_tasks.attach_device_flags, **inputs)
    assert "52:54:00:ab:cd:01" in domain("live").XMLDesc()
    down = text.replace("<model", "<link state='down'/><model")
    machine.run(domain_tasks.update_domain_flags, **{**inputs, "template_content": down})
    assert "<link state='down'/>" in domain("live").XMLDesc() and "<link state='down'/>" in stored("live")
    machine.run(domain_tasks.detach_device_flags, **inputs)
    assert "52:54:00:ab:cd:01" not in domain("live").XMLDesc() + stored("live")
    machine.runtime["params"].pop("params_network")
    whole = "<domain type='qemu'><name>x</name><memory>1</memory><os><type>hvm</type></os></domain>"
    with pytest.raises(NonRecoverableError, match="domain"):
        machine.run(domain_tasks.attach_device_flags, template_content=whole)


def test_a_reboot_is_one_of_the_guest_not_of_its_qemu(machine: Node, key: Path) -> None:
    boot, pid = "cat /proc/sys/kernel/random/boot_id", Path("/run/libvirt/qemu/live.pid")
    before, process = ssh(key, machine.runtime["ip"], boot), pid.read_text()
    machine.run(domain_tasks.reboot)
    deadline = time.monotonic() + 300
    # It answers for a moment more; what it said while it went down is nothing.
    options = ("-o", "ServerAliveInterval=5")
    while ssh(key, machine.runtime["ip"], f"{boot} || true", options=options) in ("", before):
        assert time.monotonic() < deadline, "it is not the guest of a new boot"
        time.sleep(0.3)
    assert pid.read_text() == process and domain("live").isActive()


def test_a_device_that_is_not_given_back_is_pending(empty: Node) -> None:
    path = IMAGES / "live" / "kept.raw"
    path.touch()
    disk = {"file": str(path), "type": "raw", "dev": "vdb"}
    empty.run(domain_tasks.attach_device_flags, params={"disks": [disk]})
    for _ in range(2):
        empty.run(domain_tasks.detach_device_flags, params={"disks": [disk]}, timeout_s=0.5)
    assert empty.runtime["detach_pending"] == ["disk vdb"]
    assert str(path) in domain("empty").XMLDesc() and str(path) not in stored("empty")
    empty.run(domain_tasks.stop)
    empty.run(domain_tasks.start)
    assert not empty.runtime["detach_pending"] and str(path) not in domain("empty").XMLDesc()
    path.unlink()


def test_without_a_free_slot_the_remedy_is_said(empty: Node) -> None:
    """Libvirt keeps one free when nobody asks for more."""
    card = {"network": "live", "mac": "52:54:00:ab:cd:21"}
    empty.run(domain_tasks.attach_device_flags, params={"networks": [card]})
    with pytest.raises(NonRecoverableError, match=r"No more available PCI slots.*hotplug_slots"):
        empty.run(domain_tasks.attach_device_flags, params={"networks": [{**card, "mac": "52:54:00:ab:cd:22"}]})
    assert "52:54:00:ab:cd:22" not in stored("empty") + domain("empty").XMLDesc()


def test_another_disk_at_a_taken_target_is_refused(empty: Node) -> None:
    paths = [IMAGES / "live" / f"{name}.raw" for name in "ab"]
    for path in paths:
        path.touch()
    empty.run(domain_tasks.stop)
    empty.run(domain_tasks.attach_device_flags, params={"disks": [{"file": str(paths[0]), "dev": "vdb"}]})
    with pytest.raises(NonRecoverableError, match=r"cannot attach disk vdb to domain 'empty'.*a.raw"):
        empty.run(domain_tasks.attach_device_flags, params={"disks": [{"file": str(paths[1]), "dev": "vdb"}]})
    with pytest.raises(NonRecoverableError, match=r"cannot update disk vdc of domain 'empty'.*no such device"):
        empty.run(domain_tasks.update_domain_flags, params={"disks": [{"file": str(paths[1]), "dev": "vdc"}]})
    with pytest.raises(NonRecoverableError, match="name no device, or several"):
        empty.run(domain_tasks.attach_device_flags, params={"disks": []})
    for path in paths:
        path.unlink()


def test_other_devices_by_their_parameters(empty: Node) -> None:
    empty.run(domain_tasks.stop)
    for wish, text in (
        ({"watchdog": "reset"}, "<watchdog "),
        ({"shared_memory": [{"name": "x", "size": "1 MiB"}]}, "<shmem "),
    ):
        empty.run(domain_tasks.attach_device_flags, params=wish)
        assert text in stored("empty")
        empty.run(domain_tasks.detach_device_flags, params=wish)
        assert text not in stored("empty")
    for wrong in ({"title": "x"}, {"watchdog": "reset", "sound": "ich9"}, {"disks": [{}, {}]}, {}):
        with pytest.raises(NonRecoverableError, match="device"):
            empty.run(domain_tasks.attach_device_flags, params=wrong)


def test_a_medium_is_changed(empty: Node) -> None:
    paths = [IMAGES / "live" / f"{name}.iso" for name in "ab"]
    for path in paths:
        path.write_bytes(b"\0" * 2048)
    empty.run(domain_tasks.stop)
    drive = {"device": "cdrom", "dev": "sda", "bus": "scsi", "type": "raw"}
    empty.run(domain_tasks.attach_device_flags, params={"disks": [{**drive, "file": str(paths[0])}]})
    empty.run(domain_tasks.start)
    empty.run(domain_tasks.update_domain_flags, params={"disks": [{**drive, "file": str(paths[1])}]})
    assert str(paths[1]) in domain("empty").XMLDesc() and str(paths[1]) in stored("empty")
    empty.run(domain_tasks.stop)
    for path in paths:
        path.unlink()


def test_the_memory_of_a_container() -> None:
    """Its kernel is the host's: the limit changes at once, and nobody has to confirm it."""
    containers = libvirt.open(LXC)
    xml = (
        "<domain type='lxc'><name>box</name><memory>131072</memory><os><type>exe</type><init>/bin/sleep</init>"
        "<initarg>100</initarg></os><features><privnet/></features><devices><console type='pty'/></devices></domain>"
    )
    box = containers.defineXML(xml)
    box.create()
    try:
        change_container(box)
    finally:
        box.destroy()
        box.undefine()
        containers.close()


def change_container(box: libvirt.virDomain) -> None:
    external = {"libvirt_auth": LXC, "use_external_resource": True, "resource_id": "box"}
    node = Node(name="box", deployment="live", properties=external)
    for name in ("create", "configure"):
        node.run(getattr(domain_tasks, name))
    node.run(domain_tasks.update, params={"memory": "64 MiB"})
    assert not node.runtime.get("update_pending") and box.memoryStats()["actual"] == 64 * MIB
    assert "<currentMemory unit='KiB'>65536<" in box.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    stat = node.run(domain_tasks.performance, interval_s=0.1)
    assert stat["cpu"] < 20 and stat["memory"] > 0
