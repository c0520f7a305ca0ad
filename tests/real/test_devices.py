"""Hardware by typed parameters: seen by the guest, by libvirt, and gone after uninstall."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from tests.real.conftest import IMAGES, ROOT, Cfy, Host, public_key, ssh, virsh
from tests.real.netlab import eventually
from tests.real.nodes import blueprint, empty_domain, node

PASSWORD = "s3cretpw"
GENERATION = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
SWTPM = Path("/var/lib/libvirt/swtpm")


def document(host: Host, name: str) -> Any:
    return etree.fromstring(host.domain(name).XMLDesc())


def test_uefi_with_a_tpm_leaves_nothing(cfy: Cfy, clean_host: Host) -> None:
    """Firmware, TPM, screen and serial files; the password is nowhere but in libvirt."""
    tpms = set(SWTPM.glob("*"))
    domain = empty_domain(
        name="uefi", firmware="uefi", tpm=True, video="virtio", watchdog="none", memory="128 MiB",
        graphics=[{"type": "vnc", "password": PASSWORD}], inputs=["tablet"],
        serials=[{"type": "file"}, {"type": "pty", "log": True}], channels=[{"name": "org.example.0"}],
        sound="ich9", generation_id=GENERATION, iommu={"model": "intel"},
    )  # fmt: skip
    cfy.install(blueprint(cfy.directory, "uefi", vm=domain), "uefi")
    root = document(clean_host, "uefi")
    nvram = Path(root.findtext("os/nvram") or "")
    assert clean_host.domain("uefi").isActive() and nvram.is_file()
    assert "OVMF" in root.findtext("os/loader")
    assert root.find("devices/tpm/backend").get("type") == "emulator"
    assert set(SWTPM.glob("*")) - tpms
    screen = root.find("devices/graphics")
    assert screen.find("listen").get("address") == "127.0.0.1" and screen.get("passwd") is None
    built = virsh("qemu-monitor-command", "uefi", "--hmp", "info qtree")
    assert all(f"dev: {name}" in built for name in ("ich9-intel-hda", "hda-duplex", "intel-iommu", "virtio-vga"))
    assert GENERATION in virsh("qemu-monitor-command", "uefi", "--hmp", "info vm-generation-id")
    secure = virsh("dumpxml", "--security-info", "uefi")
    assert f"passwd='{PASSWORD}'" in secure
    logs = set(Path("/var/log/libvirt/qemu").glob("*-serial*.log"))
    assert len(logs) == 2
    assert PASSWORD not in repr(cfy.instances("uefi"))
    for path in (Path(f"/proc/{pid}/cmdline") for pid in (p.name for p in Path("/proc").iterdir() if p.name.isdigit())):
        with suppress(OSError):  # it has ended
            assert PASSWORD.encode() not in path.read_bytes()
    cfy.uninstall("uefi")
    assert not nvram.exists()
    assert not any(path.exists() for path in logs)
    assert set(SWTPM.glob("*")) == tpms


FILES = ("scsi.img", "sata.img", "limited.img", "medium.iso", "share/hello")


@pytest.fixture
def files() -> Iterator[Path]:
    """Disks, a medium and a directory to share, which are there before and after."""
    share = IMAGES / "share"
    share.mkdir()
    for name in FILES:
        (IMAGES / name).write_bytes(name.encode() + bytes((1 << 20) - len(name)))
    (share / "hello").write_text("from the host\n")
    yield share
    for name in FILES:
        (IMAGES / name).unlink()
    share.rmdir()


@dataclass
class Line:
    """A serial line of the host: a terminal whose other end is ours."""

    ours: int
    path: str

    def hear(self, word: bytes) -> None:
        """Wait until the guest has said it."""
        said = b""
        while word not in said:
            assert select.select([self.ours], [], [], 180)[0], said
            said += os.read(self.ours, 1000)


@pytest.fixture
def line() -> Iterator[Line]:
    ours, theirs = os.openpty()
    yield Line(ours, os.ttyname(theirs))
    os.close(ours)
    os.close(theirs)


@pytest.fixture
def machine(clean_host: Host, files: Path, line: Line, cfy: Cfy, tiny: Path, key: Path) -> Iterator[str]:
    """The address of a guest with many devices; what shares its memory is for the plugin to arrange."""
    guest = node(
        "domain", "network", name="devices", image={"source": str(tiny)}, pool="devices", memory="192 MiB",
        vcpu=2, max_vcpu=4, cpu={"topology": {"sockets": 1, "cores": 2, "threads": 2}}, iothreads=1,
        networks=[{"network": "devices"}],
        cloud_init={"ssh_authorized_keys": [public_key(key)]},
        disks=[
            {"file": str(IMAGES / "scsi.img"), "bus": "scsi", "serial": "SCSI1", "discard": "unmap", "cache": "none",
             "io": "native"},
            {"file": str(IMAGES / "sata.img"), "bus": "sata"},
            {"file": str(IMAGES / "limited.img"), "serial": "LIMITED", "iothread": 1,
             "iotune": {"total_bytes": "1 MiB", "read_iops": 50}},
            {"device": "cdrom", "dev": "sdd", "bus": "scsi"},
        ],
        filesystems=[{"source": str(files), "target": "share"}],
        rng={"rate_bytes": 4096}, watchdog="reset", balloon={"stats_period_s": 1}, smbios={"product": "Tested"},
        devices=[{"type": "serial", "source_path": line.path, "target_port": 1}],
    )  # fmt: skip
    pool = node("pool", name="devices")
    network = node("network", name="devices", cidr="auto")
    guest["relationships"].append({"type": "cloudify.relationships.depends_on", "target": "pool"})
    cfy.install(blueprint(cfy.directory, "devices", network=network, pool=pool, vm=guest), "devices")
    (instance,) = [one for one in cfy.instances("devices") if one["node_id"] == "vm"]
    yield str(instance["runtime_properties"]["ip"])  # type: ignore[index]
    cfy.uninstall("devices")


def test_a_guest_sees_its_hardware(machine: str, clean_host: Host, key: Path, line: Line) -> None:
    """One boot: vCPUs, disks on three buses, limits, the share and the memory that it needs, SMBIOS."""
    assert ssh(key, machine, "nproc") == "2"
    # Left to itself libvirt would give each a socket.
    places = "cd /sys/devices/system/cpu; cat possible cpu*/topology/physical_package_id"
    assert ssh(key, machine, places).split() == ["0-3", "0", "0"]
    disks = ssh(key, machine, "cat /sys/block/vd*/serial; cat /sys/class/dmi/id/product_name; ls /sys/block")
    assert "LIMITED" in disks and "Tested" in disks and "sda" in disks
    root = document(clean_host, "devices")
    source, access = root.find("memoryBacking/source"), root.find("memoryBacking/access")
    assert (source.get("type"), access.get("mode")) == ("memfd", "shared")
    assert root.find("devices/filesystem/driver").get("type") == "virtiofs"
    assert clean_host.domain("devices").maxVcpus() == 4
    target = next(
        d.find("target").get("dev") for d in root.findall("devices/disk") if d.findtext("serial") == "LIMITED"
    )
    tune = clean_host.domain("devices").blockIoTune(target, 0)
    assert (tune["total_bytes_sec"], tune["read_iops_sec"]) == (1 << 20, 50)
    virsh("change-media", "devices", "sdd", str(IMAGES / "medium.iso"), "--insert", "--live")
    drive = "for d in /dev/sr*; do head -c 6 $d 2>/dev/null; done; true"
    assert "medium" in ssh(key, machine, drive)
    virsh("change-media", "devices", "sdd", "--eject", "--live", "--force")
    assert "medium" not in ssh(key, machine, drive)
    mount = "modprobe virtiofs; mkdir -p /mnt && mount -t virtiofs share /mnt && head -1 /mnt/hello && touch /mnt/new"
    assert ssh(key, machine, mount) == "from the host"
    assert (IMAGES / "share/new").exists()
    (IMAGES / "share/new").unlink()
    sees_its_small_devices(machine, key, clean_host)
    gives_blocks_back(machine, key)
    hears_and_is_heard(machine, key, line)


def sees_its_small_devices(machine: str, key: Path, host: Host) -> None:
    waiting = "for i in $(seq 300); do [ -e /dev/watchdog ] && [ -e /dev/hwrng ] && break; sleep 0.2; done; "
    names = "cd /sys/class; cat watchdog/watchdog0/identity misc/hw_random/rng_current; head -c 32 /dev/hwrng | wc -c"
    assert ssh(key, machine, waiting + names).splitlines() == ["i6300ESB timer", "virtio_rng.0", "32"]
    # Only a guest with the balloon's driver tells of its memory.
    assert eventually(lambda: host.domain("devices").memoryStats().get("available", 0) > 0, 120)


def gives_blocks_back(machine: str, key: Path) -> None:
    """QEMU opens the file as it was asked to, and what the guest discards is a hole in it."""
    pid = Path("/run/libvirt/qemu/devices.pid").read_text()
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    opened = [json.loads(word) for word in words if word.startswith('{"driver":"file"') and "/scsi.img" in word]
    assert [(one["aio"], one["cache"]["direct"], one["discard"]) for one in opened] == [("native", True, "unmap")]
    disk = IMAGES / "scsi.img"
    before = disk.stat().st_blocks
    where = "cd /sys/block; for d in sd*; do if grep -qs SCSI1 $d/device/vpd_pg80; then blkdiscard /dev/$d; fi; done"
    ssh(key, machine, where)
    # What is left is libvirt's: whose the file was is kept in its attributes.
    assert eventually(lambda: before - disk.stat().st_blocks == (1 << 20) // 512, 120)


def hears_and_is_heard(machine: str, key: Path, line: Line) -> None:
    """A terminal of the host is the guest's second serial line, both ways."""
    talk = "exec 3<>/dev/ttyS1; stty raw -echo <&3; echo from the guest >&3; head -n 1 <&3 >/run/heard"
    ssh(key, machine, f"({talk}) >/dev/null 2>&1 </dev/null &")
    line.hear(b"from the guest")
    os.write(line.ours, b"from the host\n")
    heard = "for i in $(seq 300); do [ -s /run/heard ] && break; sleep 0.2; done; cat /run/heard"
    assert ssh(key, machine, heard) == "from the host"


HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
PAGE_KIB = 2048


@pytest.fixture
def huge_pages() -> Iterator[int]:
    """Room for one guest on huge pages of the machine, given back afterwards."""
    before = int(HUGE_PAGES.read_text())
    wanted = before + 128
    try:
        for _ in range(5):
            HUGE_PAGES.write_text(str(wanted))
            if int(HUGE_PAGES.read_text()) >= wanted:
                break
            # What files left in memory lies between free pages.
            with suppress(OSError):
                Path("/proc/sys/vm/drop_caches").write_text("3")
                Path("/proc/sys/vm/compact_memory").write_text("1")
    except OSError as error:
        pytest.skip(f"nobody may set the number of huge pages here: {error}")
    if (there := int(HUGE_PAGES.read_text())) < wanted:
        HUGE_PAGES.write_text(str(before))
        pytest.fail(f"the machine's memory is too fragmented for {wanted} huge pages; it gives {there}")
    yield wanted
    HUGE_PAGES.write_text(str(before))


def free_pages() -> int:
    return int(re.findall(r"HugePages_Free:\s+(\d+)", Path("/proc/meminfo").read_text())[0])


def sees_its_processor(address: str, key: Path) -> None:
    """The model that was named, with one feature more and one fewer."""
    said = ssh(key, address, "cat /proc/cpuinfo")
    assert re.findall(r"^model name\s*:.*Nehalem", said, re.MULTILINE)
    (flags,) = (set(row.split()) for row in re.findall(r"^flags\s*: (.*)", said, re.MULTILINE))
    # A Nehalem has popcnt, and no aes.
    assert "aes" in flags and "popcnt" not in flags and "sse4_2" in flags


def sees_its_cells(address: str, key: Path) -> None:
    """Each with its memory, and how far they are; the second one's vCPU is not there yet."""
    cells = "cd /sys/devices/system/node; cat possible node0/cpulist node*/distance; cat node*/meminfo | grep MemTotal"
    possible, cpus, near, far, *memory = ssh(key, address, cells).splitlines()
    assert (possible, cpus, near, far) == ("0-1", "0", "10 42", "42 10")
    # The kernel keeps some for itself.
    first, second = (int(row.split()[3]) >> 10 for row in memory)
    assert 0 < second <= 64 < first <= 128


def test_a_guest_on_huge_pages_shares_a_directory_by_9p(
    clean_host: Host, files: Path, cfy: Cfy, tiny: Path, key: Path, huge_pages: int
) -> None:
    free = free_pages()
    # Of a directory below /root QEMU's user sees nothing, and of this one it may write into.
    (files / "mine").mkdir(mode=0o777)
    (files / "mine").chmod(0o777)
    guest = node(
        "domain", "network", name="huge", image={"source": str(tiny)}, pool="huge", memory="192 MiB",
        networks=[{"network": "huge"}], cloud_init={"ssh_authorized_keys": [public_key(key)]},
        memory_backing={"hugepages": "2 MiB", "locked": False}, vcpu=1, max_vcpu=2,
        cpu={"model": "Nehalem", "features": ["aes", {"name": "popcnt", "policy": "disable"}]},
        numa_cells=[{"cpus": "0", "memory": "128 MiB", "distances": [{"cell": 1, "value": 42}]},
                    {"cpus": "1", "memory": "64 MiB"}],
        filesystems=[{"source": str(files), "target": "share", "driver": "9p", "access": "mapped",
                      "file_mode": "0640", "multidevs": "remap"},
                     {"source": str(files), "target": "fixed", "driver": "9p", "readonly": True}],
    )  # fmt: skip
    guest["relationships"].append({"type": "cloudify.relationships.depends_on", "target": "pool"})
    nodes = {"network": node("network", name="huge", cidr="auto"), "pool": node("pool", name="huge"), "vm": guest}
    cfy.install(blueprint(cfy.directory, "huge", **nodes), "huge")
    (instance,) = [one for one in cfy.instances("huge") if one["node_id"] == "vm"]
    address = str(instance["runtime_properties"]["ip"])  # type: ignore[index]
    assert free - free_pages() == 192 * 1024 // PAGE_KIB
    mount = "mkdir -p /m /f; mount -t 9p -o trans=virtio share /m && mount -t 9p -o trans=virtio,ro fixed /f; "
    said = ssh(
        key,
        address,
        f"modprobe 9p; {mount} head -1 /m/hello; echo from the guest > /m/mine/new; touch /f/x || echo refused",
    )
    assert said.splitlines()[:2] == ["from the host", "refused"]
    new = files / "mine/new"
    assert new.read_text() == "from the guest\n" and new.stat().st_mode & 0o777 == 0o640
    new.unlink()
    (files / "mine").rmdir()
    sees_its_processor(address, key)
    sees_its_cells(address, key)
    cfy.uninstall("huge")
    assert free_pages() == free


def test_secure_boot_refuses_what_nobody_signed(cfy: Cfy, clean_host: Host, tiny: Path) -> None:
    """The firmware with its keys starts, in SMM; a disk without a signed loader does not."""
    domain = empty_domain(
        name="secure", firmware={"type": "uefi", "secure_boot": True}, memory="128 MiB", serials=[{"type": "file"}],
        graphics=["spice"], redirections=[{}],
    )  # fmt: skip
    cfy.install(blueprint(cfy.directory, "secure", vm=domain), "secure")
    root = document(clean_host, "secure")
    loader, nvram = root.find("os/loader"), root.find("os/nvram")
    assert loader.get("secure") == "yes" and ("secboot" in loader.text or ".ms." in loader.text)
    assert root.find("features/smm").get("state") == "on"
    assert clean_host.domain("secure").isActive() and Path(nvram.text).is_file()
    # The variables begin as those that hold the keys of the vendors.
    assert b"Microsoft Corporation" in Path(nvram.text).read_bytes()
    screen = root.find("devices/graphics")
    assert greets(screen.find("listen").get("address"), int(screen.get("port")))
    assert "dev: usb-redir" in virsh("qemu-monitor-command", "secure", "--hmp", "info qtree")
    cfy.uninstall("secure")


def greets(address: str, port: int) -> bool:
    """Whether SPICE answers there. Source: spice/protocol.h, SpiceLinkHeader and SpiceLinkMess (the main channel)."""
    assert address == "127.0.0.1"
    with socket.create_connection((address, port), timeout=180) as client:
        client.sendall(b"REDQ" + struct.pack("<IIIIBBIII", 2, 2, 18, 0, 1, 0, 0, 0, 18))
        return client.recv(4) == b"REDQ"


# What this QEMU lacks: another processor, TLS in qemu.conf, passt.
NOT_HERE = {"hardware_uefi_loader", "modern_arm", "hardware_spice", "hardware_passt"}
GOLDENS = sorted((ROOT / "tests/data/domain").glob("hardware_*.xml"))


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_libvirt_takes_every_definition(clean_host: Host, path: Path) -> None:
    if path.stem in NOT_HERE:
        with pytest.raises(libvirt.libvirtError):
            clean_host.connection.defineXML(path.read_text())
        return
    domain = clean_host.connection.defineXML(path.read_text())
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


def test_what_the_host_lacks_is_said_before_anything_is_made(cfy: Cfy, clean_host: Host) -> None:
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "vsock": ({"vsock": True}, r"modprobe vhost_vsock"),
        "pages": ({"memory_backing": {"hugepages": "2 MiB"}}, r"huge pages .*(0 free|has no pages)"),
        "cpu": ({"accelerator": "tcg", "cpu_mode": "host-passthrough"}, r"Set cpu_mode: maximum"),
        "passt": ({"networks": [{"passt": True}]}, r"passt.*user: true"),
        "ide": ({"disks": [{"device": "cdrom", "bus": "ide"}]}, r"a q35 has none"),
    }
    if not Path("/dev/vhost-vsock").exists():
        assert _refusal(cfy, "vsock", cases["vsock"])
    for name in ("pages", "cpu", "passt", "ide"):
        assert _refusal(cfy, name, cases[name])


def _refusal(cfy: Cfy, name: str, case: tuple[dict[str, Any], str]) -> bool:
    params, words = case
    path = blueprint(cfy.directory, name, vm=empty_domain(name=name, **params))
    result = cfy.install(path, name, check=False)
    assert result.code != 0 and re.search(words, result.output), result.output[-2000:]
    cfy.uninstall(name)
    return True


@pytest.mark.parametrize(
    "path", [path for path in GOLDENS if "pcie-root-port" in path.read_text() and path.stem not in NOT_HERE],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_the_slots_that_were_asked_for_are_free(clean_host: Host, path: Path) -> None:
    """The count of what the machine's own devices take is right: libvirt has placed them."""
    domain = clean_host.connection.defineXML(path.read_text())
    devices = etree.fromstring(domain.XMLDesc()).find("devices")
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    ports = {int(entry.get("index")) for entry in devices.findall("controller[@model='pcie-root-port']")}
    taken = {int(place.get("bus"), 16) for place in devices.findall("*/address[@type='pci']")}
    assert len(ports - taken) in (8, 9), "8, and one where no bridge to older buses is needed"
