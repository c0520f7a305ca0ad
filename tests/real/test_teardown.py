"""What stop and delete do to guests, and what they leave to others."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import BLUEPRINTS, IMAGES, QEMU, Cfy, Host, Result, ping_agent, public_key, ssh, virsh
from tests.real.nodes import blueprint, configured, empty_domain, node

OVMF = Path("/usr/share/OVMF/OVMF_CODE.fd")
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+")


def seconds(line: str) -> float:
    found = _STAMP.search(line)
    assert found, line
    return datetime.fromisoformat(found[0]).timestamp()


def took(result: Result, operation: str) -> float:
    """How long one operation ran, by the engine's own log."""
    begin, end = result.lines(f"'{operation}'", "Task started"), result.lines(f"'{operation}'", "Task succeeded")
    assert len(begin) == len(end) == 1, result.output
    return seconds(end[0]) - seconds(begin[0])


class Watched:
    """The life cycle events of one domain, as virsh hears them; of all domains when it is not there yet."""

    def __init__(self, name: str, exists: bool = True) -> None:
        which = ["--domain", name] if exists else []
        self._call = subprocess.Popen(
            ["virsh", "-q", "-c", QEMU, "event", *which, "--event", "lifecycle", "--loop", "--timestamp"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._about = f"'{name}'"
        self._heard: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._call.stdout is not None
        self._heard.extend(line for line in self._call.stdout if self._about in line)

    def lines(self) -> list[str]:
        """All until the domain was off, which is told a moment later."""
        deadline = time.monotonic() + 60
        while not any("Stopped" in line for line in self._heard) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._call.terminate()
        self._call.wait(60)
        self._reader.join()
        return [line.rstrip("\n") for line in self._heard]


def root_is_clean(disk: str, directory: Path) -> bool:
    """Whether the first partition's ext file system was unmounted, or made read-only, in an orderly way."""
    raw, part = directory / "disk.raw", directory / "part.raw"
    subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", disk, raw], check=True)
    table = subprocess.run(["sfdisk", "-d", raw], check=True, capture_output=True, text=True).stdout
    begin, size = map(int, re.findall(r"start=\s*(\d+), size=\s*(\d+)", table)[0])
    subprocess.run(
        ["dd", f"if={raw}", f"of={part}", "bs=512", f"skip={begin}", f"count={size}", "conv=sparse", "status=none"],
        check=True,
    )
    told = subprocess.run(["dumpe2fs", "-h", part], check=True, capture_output=True, text=True).stdout
    raw.unlink()
    part.unlink()
    return "needs_recovery" not in told and re.search(r"Filesystem state:\s+clean\n", told) is not None


def test_guest_is_asked_first(cfy: Cfy, clean_host: Host, tiny: Path, key: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "image": str(tiny),
        "ssh_public_key": public_key(key),
        "ssh_user": "root",
        "memory": "128 MiB",
    }
    cfy.install(BLUEPRINTS / "hello.yaml", "hello", **given)
    address = str(cfy.outputs("hello")["address"])
    disk = str(IMAGES / "hello" / "hello-root.qcow2")
    # The power button does nothing until the next boot: what ends this guest is its agent.
    ssh(key, address, "date > /root/was-here; mount -o bind /dev/null /etc/acpi/PWRF/00000080")
    ping_agent("hello")
    assert not root_is_clean(disk, tmp_path), "the check cannot tell"

    watched = Watched("hello")
    virsh("suspend", "hello")
    result = cfy("executions", "start", "stop", "-b", "hello", "-p", '{"type_names": ["cloudify.libvirt.domain"]}')
    events = watched.lines()
    assert any("Resumed" in line for line in events), "a paused guest hears nothing"
    assert "Shutdown" in events[-1] and "Stopped" in events[-1], events
    assert took(result, "cloudify_libvirt.domain_tasks.stop") < 58
    said = seconds(result.lines("'cloudify_libvirt.domain_tasks.stop'", "Task succeeded")[0])
    assert said - seconds(events[-1]) < 15, "stop ends with the guest's end"
    assert root_is_clean(disk, tmp_path)

    cfy("executions", "start", "start", "-b", "hello")
    ssh(key, address, "test -s /root/was-here && kill -STOP $(pidof qemu-ga)")
    watched = Watched("hello")
    result = cfy.uninstall("hello")
    events = watched.lines()
    assert any("Shutdown Finished" in line for line in events), f"by ACPI, without an agent: {events}"
    assert not any("Destroyed" in line for line in events)
    assert took(result, "cloudify_libvirt.domain_tasks.stop") < 58


def test_deaf_guest_is_destroyed_at_its_deadline(cfy: Cfy, clean_host: Host) -> None:
    path = blueprint(
        cfy.directory, "deaf", slow=empty_domain(name="slow", shutdown_timeout_s=4),
        fast=empty_domain("slow", name="fast", shutdown_timeout_s=0),
        paused=empty_domain("fast", name="paused", shutdown_timeout_s=2),
    )  # fmt: skip
    cfy.install(path, "deaf")
    virsh("suspend", "paused")
    result = cfy.uninstall("deaf")
    stops = {name: [line for line in result.lines(f"[{name}_", "domain_tasks.stop'") if "Task s" in line]
             for name in ("slow", "fast", "paused")}  # fmt: skip
    spans = {name: seconds(lines[1]) - seconds(lines[0]) for name, lines in stops.items()}
    assert 4 <= spans["slow"] < 50
    assert 2 <= spans["paused"] < 50
    assert spans["fast"] < 50


UEFI = f"""{{% extends "domain.xml.j2" %}}
{{% block os %}}
  <os>
    <type arch="{{{{ arch }}}}" machine="{{{{ machine }}}}">hvm</type>
    <loader readonly="yes" type="pflash">{OVMF}</loader>
    <nvram template="{OVMF.with_name("OVMF_VARS.fd")}"/>
  </os>
{{% endblock %}}
"""


def drive(name: str) -> dict[str, object]:
    return {"name": name, "disks": [{"pool": "parts", "volume": f"{name}.qcow2"}]}


def test_everything_that_holds_a_definition_goes(cfy: Cfy, clean_host: Host) -> None:
    """NVRAM, managed save, snapshots and checkpoints, made by somebody between install and uninstall."""
    if not OVMF.exists():
        pytest.skip(f"no UEFI firmware on this machine: {OVMF} (apt-get install ovmf)")
    volumes = {name: node("volume", "pool", name=f"{name}.qcow2", pool="parts", size="8 MiB", format="qcow2")
               for name in ("snapped", "checked")}  # fmt: skip
    path = blueprint(
        cfy.directory, "held", pool=node("pool", name="parts"),
        uefi=configured(empty_domain(name="uefi"), template_content=UEFI),
        snapped_volume=volumes["snapped"], snapped=empty_domain("snapped_volume", **drive("snapped")),
        checked_volume=volumes["checked"], checked=empty_domain("checked_volume", **drive("checked")),
    )  # fmt: skip
    cfy.install(path, "held")
    before = clean_host.files()
    virsh("managedsave", "uefi")
    virsh("snapshot-create-as", "snapped", "one")
    virsh("snapshot-create-as", "snapped", "two")
    virsh("checkpoint-create-as", "checked", "first")
    assert any("nvram" in path for path in before)
    assert any(path.endswith("uefi.save") for path in clean_host.files() - before)
    cfy.uninstall("held")


@pytest.fixture
def played(cfy: Cfy, clean_host: Host) -> Path:
    """A deployment with one of each."""
    subnet = "10.98.3.0/24"
    return blueprint(
        cfy.directory, "played", network=node("network", name="played", cidr=subnet), pool=node("pool", name="played"),
        volume=node("volume", "pool", name="data.qcow2", pool="played", size="8 MiB", format="qcow2"),
        vm=empty_domain("network", "volume", name="played", pool="played", cloud_init={"hostname": "x"},
                        disks=[{"pool": "played", "volume": "data.qcow2"}],
                        networks=[{"network": "played", "ip": "10.98.3.77"}]),
    )  # fmt: skip


BEHIND_OUR_BACK = {
    "domain destroyed": [["destroy", "played"]],
    "domain undefined": [["destroy", "played"], ["undefine", "played"]],
    "domain made transient": [["undefine", "played"]],
    "network stopped": [["destroy", "played"], ["net-destroy", "played"]],
    "network gone": [["destroy", "played"], ["net-destroy", "played"], ["net-undefine", "played"]],
    "network made transient": [["net-undefine", "played"]],
    "volumes gone": [["vol-delete", "data.qcow2", "played"], ["vol-delete", "played-seed.iso", "played"]],
    "pool stopped": [["pool-destroy", "played"]],
}


@pytest.mark.parametrize("case", BEHIND_OUR_BACK)
def test_gone_behind_our_back(case: str, cfy: Cfy, clean_host: Host, played: Path) -> None:
    cfy.install(played, "played")
    for command in BEHIND_OUR_BACK[case]:
        virsh(*command)
    result = cfy.uninstall("played")
    assert not result.lines("WARNING")


@pytest.mark.parametrize("files", ["the volume", "the directory"])
def test_files_gone_behind_our_back(files: str, cfy: Cfy, clean_host: Host, played: Path) -> None:
    cfy.install(played, "played")
    directory = IMAGES / "played"
    for path in directory.iterdir():
        path.unlink()
    if files == "the directory":
        directory.rmdir()
        virsh("pool-destroy", "played")
    cfy.uninstall("played")


def test_pool_gone_behind_our_back(cfy: Cfy, clean_host: Host, played: Path) -> None:
    """Files of a pool that is no more are not ours to look for."""
    cfy.install(played, "played")
    virsh("pool-destroy", "played")
    virsh("pool-undefine", "played")
    cfy.uninstall("played")
    left = IMAGES / "played"
    assert {path.name for path in left.iterdir()} == {"data.qcow2", "played-seed.iso"}
    for path in left.iterdir():
        path.unlink()
    left.rmdir()


def test_never_created(cfy: Cfy, clean_host: Host, played: Path) -> None:
    cfy("init", played, "-b", "played")
    result = cfy.uninstall("played")
    assert not result.lines("WARNING")
    assert len(result.lines("Task succeeded", "delete'")) == 4


def test_uninstalled_twice(cfy: Cfy, clean_host: Host, played: Path) -> None:
    cfy.install(played, "played")
    cfy("executions", "start", "uninstall", "-b", "played")
    cfy.uninstall("played")


def test_reservation_is_taken_back_from_a_network_that_stays(cfy: Cfy, clean_host: Host, foreign_network: str) -> None:
    virsh("net-update", foreign_network, "add", "ip-dhcp-host",
          "<host mac='52:54:00:00:00:99' ip='10.98.8.99'/>", "--live", "--config")  # fmt: skip
    before = virsh("net-dumpxml", foreign_network)
    card = {"network": foreign_network, "ip": "10.98.8.77"}
    cfy.install(blueprint(cfy.directory, "fixed", vm=empty_domain(name="fixed", networks=[card])), "fixed")
    assert "ip='10.98.8.77'" in virsh("net-dumpxml", foreign_network)
    assert "ip='10.98.8.77'" in virsh("net-dumpxml", "--inactive", foreign_network)
    cfy.uninstall("fixed")
    assert virsh("net-dumpxml", foreign_network) == before


@pytest.fixture
def foreign_network(clean_host: Host) -> Iterator[str]:
    network = clean_host.connection.networkDefineXML(
        "<network><name>foreign</name><bridge name='foreignbr' stp='off' delay='0'/>"
        "<ip address='10.98.8.1' netmask='255.255.255.0'><dhcp><range start='10.98.8.10' end='10.98.8.90'/></dhcp></ip>"
        "</network>"
    )
    network.create()
    yield "foreign"
    network.destroy()
    network.undefine()


@pytest.fixture
def foreign(clean_host: Host) -> Iterator[str]:
    """Another user's domain, running."""
    domain = clean_host.connection.createXML(
        "<domain type='qemu'><name>foreign</name><memory unit='MiB'>32</memory><os><type machine='q35'>hvm</type></os>"
        "</domain>"
    )
    yield "foreign"
    domain.destroy()


def warnings(result: Result) -> str:
    return "\n".join(result.lines("WARNING"))


def test_another_domains_disk_stays(cfy: Cfy, clean_host: Host, foreign: str) -> None:
    path = blueprint(
        cfy.directory, "lent", pool=node("pool", name="lent"),
        volume=node("volume", "pool", name="data.qcow2", pool="lent", size="8 MiB", format="qcow2"),
    )  # fmt: skip
    cfy.install(path, "lent")
    disk = IMAGES / "lent" / "data.qcow2"
    virsh("attach-disk", foreign, str(disk), "vda", "--targetbus", "virtio", "--subdriver", "qcow2")
    result = cfy.uninstall("lent")
    assert "data.qcow2" in warnings(result) and f"domain '{foreign}'" in warnings(result)
    assert str(disk.parent) in warnings(result), "the directory that could not go"
    assert disk.exists() and clean_host.domain(foreign).isActive()
    disk.unlink()
    disk.parent.rmdir()


def test_base_image_with_a_foreign_overlay_stays(cfy: Cfy, clean_host: Host, tiny: Path) -> None:
    image = {"source": str(tiny)}
    vm = {"name": "based", "pool": "based", "image": image, "memory": "64 MiB"}
    path = blueprint(cfy.directory, "based", pool=node("pool", name="based"), one=empty_domain("pool", **vm),
                     two=empty_domain("pool", **{**vm, "name": "based-2"}))  # fmt: skip
    cfy.install(path, "based")
    directory = IMAGES / "based"
    base = next(directory.glob("base-*"))
    content = base.read_bytes()
    virsh("vol-create-as", "based", "mine.qcow2", "64M", "--format", "qcow2",
          "--backing-vol", base.name, "--backing-vol-format", "qcow2")  # fmt: skip
    result = cfy.uninstall("based")
    told = [line for line in result.lines("WARNING") if base.name in line]
    assert told and all("volume 'mine.qcow2'" in line for line in told), result.output
    assert not any("based-root" in line or "based-2-root" in line for line in told), "our own machines are no news"
    assert {path.name for path in directory.iterdir()} == {base.name, "mine.qcow2"}
    assert base.read_bytes() == content
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


@pytest.mark.parametrize("case", ["had files when it came", "was there, empty", "got files later", "got a directory"])
def test_pool_directory(case: str, cfy: Cfy, clean_host: Host) -> None:
    directory = IMAGES / "shelf"
    if case in ("had files when it came", "was there, empty"):
        directory.mkdir(mode=0o750)
    if case == "had files when it came":
        (directory / "precious").write_text("data of somebody else\n")
    path = blueprint(
        cfy.directory, "shelf", pool=node("pool", name="shelf"),
        volume=node("volume", "pool", name="data", pool="shelf", size="1 MiB"),
    )  # fmt: skip
    cfy.install(path, "shelf")
    assert (directory / "data").stat().st_size == 1 << 20
    if case == "got files later":
        (directory / "precious").write_text("data of somebody else\n")
    if case == "got a directory":
        (directory / "precious.d").mkdir()
    result = cfy.uninstall("shelf")
    assert directory.is_dir() and not (directory / "data").exists()
    if case == "was there, empty":
        assert directory.stat().st_mode & 0o777 == 0o750, "not even its mode is touched"
    else:
        assert str(directory) in warnings(result) and "precious" in warnings(result), "names what is in it"
    for file in directory.iterdir():
        assert file.is_dir() or file.read_text() == "data of somebody else\n"
        file.rmdir() if file.is_dir() else file.unlink()
    directory.rmdir()


@pytest.mark.parametrize("by", ["network", "bridge"])
def test_network_of_a_foreign_running_domain_stays(by: str, cfy: Cfy, clean_host: Host, foreign: str) -> None:
    path = blueprint(
        cfy.directory, "net", network=node("network", name="shared-net", cidr="10.98.4.0/24", dev="sharedbr")
    )
    cfy.install(path, "net")
    source = "shared-net" if by == "network" else "sharedbr"
    virsh("attach-interface", foreign, by, source, "--model", "virtio", "--live")
    result = cfy.uninstall("net")
    assert "network 'shared-net'" in warnings(result) and foreign in warnings(result)
    assert "shared-net" in clean_host.networks() and Path("/sys/class/net/sharedbr").exists()
    virsh("net-destroy", "shared-net")
    virsh("net-undefine", "shared-net")
