"""What a host refuses: names, addresses and directories of others, closed doors, too little room."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.attempts import SHELF, Attempt, Node, cached, foreign_domain, names, node, says, vm, volume
from tests.real.conftest import IMAGES, virsh

# --- taken by somebody else ----------------------------------------------------------------------------------


def test_name_taken(attempt: Attempt, foreign: Callable[[str, str], Any], shelf: Any) -> None:
    foreign("domain", foreign_domain("vm"))
    foreign("network", "<network><name>net</name></network>")
    remedy = "Choose another params.name, or set use_external_resource"
    says(attempt.refused(vm(), "validate"), "domain 'vm' on qemu:///system", "another domain (UUID", remedy)
    bad = node("network", params={"name": "net", "cidr": "auto"})
    says(attempt.refused(bad, "validate"), "network 'net' on qemu:///system", "another network (UUID", remedy)
    bad = node("pool", params={"name": "shelf", "path": "/var/tmp/other"})
    says(attempt.refused(bad, "validate"), "pool 'shelf' on qemu:///system", "another pool (UUID", remedy)
    assert virsh("domstate", "vm").strip() == "shut off"


@pytest.mark.parametrize("form", ["52-54-00-AA-BB-CC", "5254.00aa.bbcc"])
def test_mac_taken(attempt: Attempt, foreign: Callable[[str, str], Any], form: str) -> None:
    foreign("domain", foreign_domain("older", "<interface type='user'><mac address='52:54:00:aa:bb:cc'/></interface>"))
    said = attempt.refused(vm(networks=[{"user": True, "mac": form}]), "configure")
    says(said, "domain 'vm'", "MAC 52:54:00:aa:bb:cc", "domain 'older'", "Give the interface another mac")


def test_mac_of_a_network_taken(attempt: Attempt, foreign: Callable[[str, str], Any]) -> None:
    """A bridge has a MAC too; two of one kind on a link cannot talk."""
    foreign("network", "<network><name>older</name><mac address='52:54:00:aa:bb:cd'/></network>")
    said = attempt.refused(vm(networks=[{"user": True, "mac": "52:54:00:aa:bb:cd"}]), "configure")
    says(said, "MAC 52:54:00:aa:bb:cd", "network 'older'", "another mac")


@pytest.fixture
def link() -> Iterator[str]:
    """An interface of the host with an address."""
    for command in (
        "link add taken0 type bridge", "link set taken0 address 52:54:00:aa:bb:ce", "addr add 10.98.7.1/24 dev taken0",
        "-6 addr add fd98:7::1/64 dev taken0 nodad", "link set taken0 up", "route add 10.97.0.0/16 via 10.98.7.9",
    ):  # fmt: skip
        subprocess.run(["ip", *command.split()], check=True)
    yield "taken0"
    subprocess.run(["ip", "link", "del", "taken0"], check=True)


def test_mac_of_the_host_taken(attempt: Attempt, link: str) -> None:
    said = attempt.refused(vm(networks=[{"user": True, "mac": "52:54:00:aa:bb:ce"}]), "configure")
    says(said, "MAC 52:54:00:aa:bb:ce", "interface taken0", "another mac")


def test_bridge_taken(attempt: Attempt, foreign: Callable[[str, str], Any], link: str) -> None:
    foreign("network", "<network><name>older</name><bridge name='oldbr0'/></network>")
    for bridge, owner in (("oldbr0", "network 'older'"), (link, "the host's interface taken0")):
        said = attempt.refused(node("network", params={"name": "net", "dev": bridge}), "validate")
        says(said, "network 'net'", f"bridge {bridge} is used by {owner}", "Choose another params.dev")


@pytest.mark.parametrize(
    ("params", "owner"),
    [
        ({"cidr": "10.96.3.128/25"}, "10.96.3.0/24 of network 'older'"),
        ({"ips": [{"address": "10.96.0.1", "netmask": "255.255.0.0"}]}, "10.96.3.0/24 of network 'older'"),
        ({"cidr": "10.98.7.0/26"}, "10.98.7.0/24 of the host's route via taken0"),
        ({"cidr": "10.97.5.0/24"}, "10.97.0.0/16 of the host's route via taken0"),
        ({"ips": [{"address": "fd98:7::5", "prefix": 64}]}, "fd98:7::/64 of the host's route via taken0"),
    ],
)
def test_subnet_taken(
    attempt: Attempt, foreign: Callable[[str, str], Any], link: str, params: Node, owner: str
) -> None:
    foreign(
        "network", "<network><name>older</name><bridge name='oldbr0'/><ip address='10.96.3.1' prefix='24'/></network>"
    )
    said = attempt.refused(node("network", params={"name": "net", **params}), "validate")
    says(said, "network 'net'", f"overlaps with {owner}", "cidr: auto")


def test_volume_name_taken(attempt: Attempt, shelf: Any, tiny: Path) -> None:
    for name in ("volume", "vm-root.qcow2"):
        shelf.createXML(f"<volume><name>{name}</name><capacity>4096</capacity></volume>")
        (SHELF / name).write_bytes(b"precious")
    said = attempt.refused(volume(size="1 MiB"), "create")
    says(said, "volume 'volume' of pool 'shelf'", "exists", "Choose another params.name", "use_external_resource")
    said = attempt.refused(vm(image=str(tiny), pool="shelf"), "configure")
    says(said, "volume 'vm-root.qcow2' of pool 'shelf'", "exists", "Choose another params.name")
    assert {(SHELF / name).read_bytes() for name in ("volume", "vm-root.qcow2")} == {b"precious"}


@pytest.mark.parametrize("path", [f"{SHELF}", f"{IMAGES}//./shelf/"])
def test_pool_directory_taken(attempt: Attempt, shelf: Any, path: str) -> None:
    said = attempt.refused(node("pool", params={"name": "other", "path": path}), "validate")
    says(said, "pool 'other'", f"directory {SHELF} belongs to pool 'shelf'", "Choose another params.path")


def test_address_taken(attempt: Attempt, foreign: Callable[[str, str], Any], shelf: Any, tiny: Path) -> None:
    net = foreign(
        "network",
        "<network><name>older</name><bridge name='oldbr0'/><ip address='10.96.3.1' prefix='24'><dhcp>"
        "<range start='10.96.3.2' end='10.96.3.99'/><host mac='52:54:00:00:00:01' ip='10.96.3.7' name='printer'/>"
        "</dhcp></ip></network>",
    )
    for ip, words in (("10.96.3.7", ["reserved for 52:54:00:00:00:01 (printer)"]), ("10.95.0.7", ["10.96.3.0/24"])):
        bad = vm(networks=[{"network": "older", "ip": ip}], image=str(tiny), pool="shelf")
        says(attempt.refused(bad, "configure"), f"address {ip} on network 'older'", *words, "hoose an")
        assert shelf.listVolumes() == []
        assert net.XMLDesc().count("<host ") == 1


# --- the host's means ----------------------------------------------------------------------------------------


@pytest.fixture
def closed(foreign: Callable[[str, str], Any]) -> Iterator[Path]:
    """A directory that only root may enter, with a pool and a disk in it."""
    directory = IMAGES / "closed"
    (directory / "deep").mkdir(parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", directory / "deep/disk.qcow2", "1M"], check=True)
    directory.chmod(0o700)
    pool = foreign("pool", f"<pool type='dir'><name>closed</name><target><path>{directory}/deep</path></target></pool>")
    pool.create()
    yield directory
    shutil.rmtree(directory)


def test_directory_that_qemu_may_not_enter(attempt: Attempt, closed: Path, tiny: Path) -> None:
    disk = f"{closed}/deep/disk.qcow2"
    by_path = vm(disks=[{"file": disk, "type": "qcow2"}])
    said = attempt.refused(by_path, "validate")
    says(said, f"disk {disk}", "domain 'vm'", f"may not enter directory {closed}:"[:-1], "setfacl -m u:", "chmod o+x")
    said = attempt.refused(vm(image=str(tiny), pool="closed"), "validate")
    says(said, f"{closed}/deep/vm", f"may not enter directory {closed}", "chmod o+x")
    assert names(closed / "deep") == ["disk.qcow2"]
    said = attempt.refused(vm(disks=[{"file": f"{IMAGES}/gone.qcow2"}]), "configure")
    says(said, f"disk {IMAGES}/gone.qcow2", "does not exist", "params.disks")
    # What the error advises works.
    advised = re.search(r"chmod o\+x '([^']+)'", attempt.failed(by_path, "validate")[0])
    assert advised is not None
    subprocess.run(["chmod", "o+x", advised[1]], check=True)
    assert attempt.install({"thing": by_path}).code == 0
    assert attempt.host.domain("vm").isActive()
    attempt.cfy.uninstall("bad")


def test_not_enough_memory(attempt: Attempt, shelf: Any, tiny: Path) -> None:
    said = attempt.refused(vm(memory="4 TiB", image=str(tiny), pool="shelf"), "validate")
    says(said, "domain 'vm'", "it needs 4 TiB, the host has", "Give it less memory, or stop other domains")
    assert shelf.listVolumes() == []


@pytest.fixture
def small(foreign: Callable[[str, str], Any]) -> Iterator[Path]:
    """A pool on a file system of 2 MiB."""
    directory = IMAGES / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", directory], check=True)
    pool = foreign("pool", f"<pool type='dir'><name>small</name><target><path>{directory}</path></target></pool>")
    pool.create()
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)
    directory.rmdir()


@pytest.mark.parametrize(("mode", "stale"), [("overlay", False), ("clone", True)])
def test_not_enough_disk_for_an_image(attempt: Attempt, small: Path, tiny: Path, mode: str, stale: bool) -> None:
    """With ``stale`` somebody else fills the disk, which libvirt has not noticed."""
    assert tiny.stat().st_size > 2 << 20
    if stale:
        subprocess.run(["mount", "-o", "remount,size=1g", small], check=True)
        attempt.host.connection.storagePoolLookupByName("small").refresh()
        subprocess.run(["mount", "-o", "remount,size=2m", small], check=True)
    image = {"source": str(tiny), "mode": mode}
    for bad, operation in ((vm(image=image, pool="small"), "configure"), (volume(pool="small", image=image), "create")):
        said = attempt.refused(bad, operation)
        says(said, "pool 'small'", "it needs", "has 2 MiB left", "Free some space")
        assert names(small) == []


def test_not_enough_disk_to_allocate(attempt: Attempt, small: Path) -> None:
    said = attempt.refused(volume(pool="small", capacity=64, allocation=64), "validate")
    says(said, "volume 'volume' of pool 'small'", "it needs 64 MiB", "has 2 MiB left", "Free some space")
    assert names(small) == []


def test_disk_that_fills_up_meanwhile(attempt: Attempt, small: Path, tiny: Path) -> None:
    """The last byte is missing: the check passes, the writing does not."""
    room = tiny.stat().st_size + (64 << 10)
    subprocess.run(["mount", "-o", f"remount,size={room}", small], check=True)
    said = attempt.refused(vm(image=str(tiny), pool="small", cloud_init={"user_data": "x" * (1 << 20)}), "configure")
    says(said, "pool 'small'", "Is there room in the pool?")
    assert names(small) == []


def test_not_enough_disk_for_the_cache(attempt: Attempt, shelf: Any, small: Path, web: str) -> None:
    attempt.cfy.environment["CLOUDIFY_LIBVIRT_CACHE"] = str(small / "cache")
    (small / "cache").mkdir()
    before = attempt.host.everything()
    result = attempt.install({"thing": vm(image=f"{web}/tiny.qcow2", pool="shelf")})
    failures = result.lines("Task failed '")
    assert len(failures) == 1, result.output
    says(failures[0], f"{web}/tiny.qcow2", f"no space left in {small}/cache", "CLOUDIFY_LIBVIRT_CACHE")
    assert cached(small / "cache") == []
    assert attempt.host.everything()["domains"] == before["domains"]
    assert shelf.listVolumes() == []
    attempt.cfy.uninstall("bad")
