"""What a guest wrote to its raw disk looks like qcow2 above a file of the host: nobody ever reads that file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudify.exceptions import NonRecoverableError
from lxml import etree

from cloudify_libvirt import domain_tasks, volume_tasks
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import connect, give_up
from cloudify_libvirt.core.storage import growth
from cloudify_libvirt.core.volume import Volume
from tests.driver.conftest import Node
from tests.real import sshd
from tests.real.conftest import IMAGES, QEMU, Host, virsh
from tests.real.shelf import MIB, Shelf, as_raw

PRIVATE = b"a private file of the host " * 40
PATH = IMAGES / "private-of-the-host"


@pytest.fixture(autouse=True)
def private() -> Iterator[None]:
    """A file of the host that no guest has been given."""
    PATH.write_bytes(PRIVATE.ljust(MIB, b"\0"))
    yield
    PATH.unlink()


def header(tmp_path: Path, *options: str | Path) -> bytes:
    """What a guest writes: an empty image that stands on the host's file."""
    file = tmp_path / "header.qcow2"
    given = options or ("-F", "raw", "-b", PATH)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *given, file, "1M"], check=True)
    return file.read_bytes()


def guest_writes(pools: Shelf, name: str, data: bytes) -> None:
    """Write to the beginning of a volume, and let libvirt look at all again."""
    with pools.path(name).open("r+b") as file:
        file.write(data)
    virsh("pool-refresh", "shelf-one")
    assert "<format type='qcow2'/>" in virsh("vol-dumpxml", name, "shelf-one"), "libvirt believes it"


def domain(name: str, uri: str, *disks: dict[str, Any], **params: Any) -> Node:
    given = {"name": name, "memory": "32 MiB", "hardware": "modern", "wait_for_ip": False, "pool": "shelf-one"}
    params = {**given, "disks": list(disks), **params}
    return Node(name=name, params=params, properties={"libvirt_auth": uri}, deployment="shelf")


@pytest.fixture
def machine() -> Iterator[Callable[..., Node]]:
    """Make domains; they go before the volumes."""
    made: list[Node] = []

    def make(*disks: dict[str, Any], name: str = "formats-vm", **params: Any) -> Node:
        made.append(domain(name, QEMU, *disks, **params))
        made[-1].run(domain_tasks.create)
        made[-1].run(domain_tasks.configure)
        return made[-1]

    yield make
    for node in made:
        node.run(domain_tasks.stop)
        node.run(domain_tasks.delete)


def disk_types(host: Host, name: str = "formats-vm") -> dict[str, str]:
    """File name and format of each disk of the definition."""
    root = etree.fromstring(host.domain(name).XMLDesc(0).encode())
    disks = root.findall("devices/disk[@device='disk']")
    return {Path(disk.find("source").get("file")).name: disk.find("driver").get("type") for disk in disks}


def below(path: Path) -> tuple[str, str]:
    """What an overlay stands on, and as which format."""
    shown = subprocess.run(["qemu-img", "info", "-U", path], check=True, capture_output=True, text=True).stdout
    lines = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line)
    return Path(lines["backing file"]).name, lines["backing file format"]


def test_a_disk_of_our_own_stays_raw(pools: Shelf, machine: Any, host: Host, tmp_path: Path) -> None:
    """We made it raw: whatever is in it, a machine that gets it has it raw, and nothing differs."""
    data = pools.make("data", size="2 MiB")
    first = machine({"pool": "shelf-one", "volume": "data"})
    guest_writes(pools, "data", header(tmp_path))
    assert first.run(domain_tasks.check_drift) in (None, [])
    first.run(domain_tasks.update)
    assert disk_types(host) == {"data": "raw"}
    first.run(domain_tasks.stop)
    first.run(domain_tasks.delete)
    first.run(domain_tasks.create)
    first.run(domain_tasks.configure)
    assert disk_types(host) == {"data": "raw"}, "installed again"
    wish = {"disks": [{"pool": "shelf-one", "volume": "data"}]}
    second = machine(name="formats-two")
    second.run(domain_tasks.attach_device_flags, params=wish)
    assert disk_types(host, "formats-two") == {"data": "raw"}, "attached to another"
    second.run(domain_tasks.delete)
    content = pools.path("data").read_bytes()
    asked = {"snapshot_name": "one", "snapshot_kind": "external", "snapshot_memory": "false"}
    first.run(domain_tasks.snapshot_create, **asked)
    (above,) = disk_types(host)
    assert disk_types(host) == {above: "qcow2"} and below(pools.path(above)) == ("data", "raw")
    assert as_raw(pools.path(above)) == content and first.run(domain_tasks.check_drift) in (None, [])
    first.run(domain_tasks.snapshot_delete, **asked)
    assert disk_types(host) == {"data": "raw"} and pools.names() == ["data"]
    with pytest.raises(NonRecoverableError, match=r"it became so on the host|it waits until"):
        data.run(volume_tasks.update, params={"size": "4 MiB"})
    assert pools.path("data").read_bytes() == content


def test_copies_of_a_disk_of_our_own(pools: Shelf, tmp_path: Path) -> None:
    """A copy has the bytes, and never what they name; what libvirt would have to read as it thinks is refused."""
    pools.make("data", size="2 MiB")
    guest_writes(pools, "data", header(tmp_path))
    content = pools.path("data").read_bytes()
    pools.make("copy", source_volume="data", size="3 MiB")
    assert pools.path("copy").read_bytes() == content.ljust(3 * MIB, b"\0")
    converted = pools.node("converted", source_volume="data", format="qcow2")
    with pytest.raises(NonRecoverableError, match=r"it is raw, but looks like qcow2 to its host"):
        converted.run(volume_tasks.create)
    pools.make("above", source_volume="data", mode="overlay")
    assert below(pools.path("above")) == ("data", "raw")
    assert as_raw(pools.path("above")) == content


@pytest.mark.parametrize("names", ["backing", "data"])
def test_a_disk_of_somebody_else_is_asked_about(
    pools: Shelf, machine: Any, host: Host, tmp_path: Path, names: str
) -> None:
    """Nobody knows what it was made as: the answer has to come from the user, by name."""
    virsh("vol-create-as", "shelf-one", "theirs", str(2 * MIB), "--format", "raw")
    data_file = ("-o", f"data_file={tmp_path / 'data'},data_file_raw=on")
    guest_writes(pools, "theirs", header(tmp_path, *(data_file if names == "data" else ())))
    try:
        for disks, source in (([{"pool": "shelf-one", "volume": "theirs"}], ""), ([], "theirs")):
            with pytest.raises(NonRecoverableError, match=r"a guest can write.*Say its format"):
                machine(*disks) if disks else pools.node("copy", source_volume=source).run(volume_tasks.create)
        machine({"pool": "shelf-one", "volume": "theirs", "type": "raw"}, name="formats-told")
        assert disk_types(host, "formats-told") == {"theirs": "raw"}
        # What a definition says is not forgotten.
        machine({"pool": "shelf-one", "volume": "theirs"}, name="formats-known")
        assert disk_types(host, "formats-known") == {"theirs": "raw"}
        pools.make("told", source_volume={"volume": "theirs", "format": "raw"})
        assert pools.path("told").read_bytes() == pools.path("theirs").read_bytes()
    finally:
        for name in ("formats-told", "formats-known"):
            if name in host.domains():
                host.domain(name).undefine()
        virsh("vol-delete", "theirs", "shelf-one")


def test_images_that_are_said_to_be_raw(pools: Shelf, machine: Any, host: Host, tmp_path: Path) -> None:
    """Two machines of one image, with the pool read between; and a full copy that grows."""
    image = tmp_path / "from-a-guest"
    image.write_bytes(header(tmp_path).ljust(2 * MIB, b"\0"))
    wanted = {"source": str(image), "format": "raw", "size": "3 MiB"}
    for number in ("one", "two"):
        machine(name=f"formats-{number}", image=wanted)
        virsh("pool-refresh", "shelf-one")
        (root,) = disk_types(host, f"formats-{number}")
        name, format_ = below(pools.path(root))
        assert name.startswith("base-") and (name.endswith(".raw"), format_) == (True, "raw")
    machine(name="formats-copy", image={**wanted, "mode": "clone"})
    ((root, format_),) = disk_types(host, "formats-copy").items()
    assert format_ == "raw" and pools.path(root).read_bytes() == image.read_bytes().ljust(3 * MIB, b"\0")
    converted = pools.node("converted", image=wanted, mode="clone", format="qcow2")
    with pytest.raises(NonRecoverableError, match=r"it is raw, but looks like qcow2 to its host"):
        converted.run(volume_tasks.create)


def test_what_is_rightly_qcow2(pools: Shelf, machine: Any, host: Host, tmp_path: Path) -> None:
    """Overlays of ours, and files of others that stand alone, need no word."""
    pools.make("below", size="2 MiB")
    pools.make("above", source_volume="below", mode="overlay")
    virsh("vol-create-as", "shelf-one", "theirs", str(2 * MIB), "--format", "qcow2")
    virsh("pool-refresh", "shelf-one")
    try:
        machine({"pool": "shelf-one", "volume": "above"}, {"pool": "shelf-one", "volume": "theirs"})
        assert disk_types(host) == {"above": "qcow2", "theirs": "qcow2"}
        pools.make("copy", source_volume="above", format="raw")
        assert pools.path("copy").stat().st_size == 2 * MIB
    finally:
        host.domain("formats-vm").undefine()
        virsh("vol-delete", "theirs", "shelf-one")


def test_growth_of_what_looks_otherwise(pools: Shelf, tmp_path: Path) -> None:
    """A raw volume becomes longer as the bytes that it is, also where the host would have a header changed."""
    pools.make("data", size="2 MiB")
    guest_writes(pools, "data", header(tmp_path))
    content = pools.path("data").read_bytes()
    volume = Volume.get(Pool.get(connect(QEMU), "shelf-one"), "data")
    assert growth.grow(volume, 3 * MIB) == "offline"
    assert pools.path("data").read_bytes() == content.ljust(3 * MIB, b"\0")


def test_on_another_host(pools: Shelf, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers are read, and bytes copied, through libvirt's streams."""
    home = tmp_path / "home"
    with sshd.running(tmp_path / "sshd", home) as server:
        monkeypatch.setenv("PATH", f"{server.wrapper}:{os.environ['PATH']}")
        server.trusts(server.directory / "host")
        virsh("vol-create-as", "shelf-one", "theirs", str(2 * MIB), "--format", "raw")
        guest_writes(pools, "theirs", header(tmp_path))
        try:
            copy = pools.node("copy", source_volume="theirs")
            copy.properties["libvirt_auth"] = server.uri
            with pytest.raises(NonRecoverableError, match=r"qcow2 header above .*private-of-the-host.*Say its format"):
                copy.run(volume_tasks.create)
            copy.params["source_volume"] = {"volume": "theirs", "format": "raw"}
            copy.run(volume_tasks.create)
            assert pools.path("copy").read_bytes() == pools.path("theirs").read_bytes()
            virsh("pool-refresh", "shelf-one")
            vm = domain("formats-vm", server.uri, {"pool": "shelf-one", "volume": "copy"})
            for operation in (domain_tasks.create, domain_tasks.configure):
                vm.run(operation)
            assert disk_types(host) == {"copy": "raw"}
            vm.run(domain_tasks.delete)
            copy.run(volume_tasks.delete)
        finally:
            copy.properties["libvirt_auth"] = QEMU
            give_up(server.uri)
            virsh("vol-delete", "theirs", "shelf-one")
