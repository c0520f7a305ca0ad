"""Storage pools on block devices: what is formatted, what never is, and what a delete leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import pool_tasks
from cloudify_libvirt.core.errors import Conflict
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session, connect
from cloudify_libvirt.core.storage.pool_build import Build, erase
from tests.real.pools.storage import (
    IMAGES,
    QEMU,
    digest,
    install,
    mounted,
    pool_node,
    run,
    signature,
    uninstall,
)

DEVICE_MAPPER = Path("/sys/class/misc/device-mapper")


def refused(node: Any, operation: str) -> str:
    with pytest.raises(NonRecoverableError) as caught:
        node.run(getattr(pool_tasks, operation))
    return str(caught.value)


def mounts() -> dict[str, str]:
    lines = Path("/proc/mounts").read_text().splitlines()
    return {line.split()[1]: line.split()[0] for line in lines}


def fs(device: str, **params: Any) -> Any:
    return pool_node("disk", "fs", source={"devices": device, "format": "ext4"}, **params)


def test_fs_is_formatted_mounted_and_left_with_its_data(device: str, tmp_path: Path) -> None:
    node = fs(device)
    pool = install(node)
    assert mounts()[str(IMAGES / "disk")] == device and signature(device) == "ext4"
    assert pool.isActive() and pool.autostart()
    pool.createXML("<volume><name>data</name><capacity unit='MiB'>1</capacity></volume>")
    # As after a kill: every operation may come again, and formats nothing.
    install(node, "create", "configure", "start")
    assert [volume.name() for volume in pool.listAllVolumes() if volume.name() != "lost+found"] == ["data"]
    uninstall(node)
    assert not (IMAGES / "disk").exists()
    assert node.runtime == {"resource_id": None}
    with mounted(device, tmp_path / "look") as place:
        assert (place / "data").stat().st_size == 1 << 20


def test_fs_with_data_is_used_as_it_is(device: str, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", device)
    with mounted(device, tmp_path / "look") as place:
        (place / "precious").write_text("kept")
    node = pool_node("disk", "fs", source={"devices": [device]})
    pool = install(node)
    assert "precious" in [volume.name() for volume in pool.listAllVolumes()]
    assert not node.runtime.get("formatted")
    uninstall(node)
    with mounted(device, tmp_path / "look") as place:
        assert (place / "precious").read_text() == "kept"


@pytest.mark.parametrize("offset", [5000, (64 << 20) - 512])
@pytest.mark.parametrize(("type_", "format_"), [("fs", "ext4"), ("disk", "gpt")])
def test_data_that_no_tool_knows_is_not_overwritten(type_: str, format_: str, offset: int, device: str) -> None:
    with Path(device).open("r+b") as file:
        file.seek(offset)
        file.write(b"precious")
    before = digest(device)
    node = pool_node("disk", type_, source={"devices": [device], "format": format_})
    install(node, "validate", "create")
    said = refused(node, "configure")
    assert f"device {device} for pool 'disk' on {QEMU}" in said
    assert f"it holds data (the first at byte {offset})" in said and "build: overwrite" in said
    uninstall(node)
    assert digest(device) == before


def test_another_file_system_is_not_overwritten(device: str) -> None:
    run("mkfs.ext4", "-q", device)
    before = digest(device)
    node = pool_node("disk", "fs", source={"devices": [device], "format": "xfs"})
    install(node, "validate", "create")
    assert "it holds data" in refused(node, "configure")
    uninstall(node)
    assert digest(device) == before


def test_overwrite_formats_once(device: str) -> None:
    run("mkfs.ext4", "-q", device)
    old = run("blkid", "-p", "-s", "UUID", "-o", "value", device)
    node = fs(device, build="overwrite")
    pool = install(node)
    new = run("blkid", "-p", "-s", "UUID", "-o", "value", device)
    assert new != old and node.runtime["formatted"] == "done"
    pool.createXML("<volume><name>data</name><capacity unit='MiB'>1</capacity></volume>")
    pool.destroy()
    install(node, "configure", "start")
    assert "data" in pool.listVolumes()
    uninstall(node)


def test_overwrite_waits_for_no_one_who_uses_the_device(device: str, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", device)
    node = fs(device, build="overwrite")
    install(node, "validate", "create")
    with mounted(device, tmp_path / "elsewhere") as place:
        (place / "precious").write_text("kept")
        said = refused(node, "configure")
        assert f"it is used by {device}, mounted at {place}" in said
    domain = libvirt.open(QEMU).defineXML(
        "<domain type='qemu'><name>owner</name><memory>65536</memory><os><type>hvm</type></os><devices>"
        f"<disk type='block'><source dev='{device}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
    )
    try:
        assert "it is used by domain 'owner'" in refused(node, "configure")
    finally:
        domain.undefine()
    with mounted(device, tmp_path / "elsewhere") as place:
        assert (place / "precious").read_text() == "kept"
    uninstall(node)


def test_fs_of_a_host_whose_files_cannot_be_seen(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another machine: only libvirt can look."""
    monkeypatch.setattr(Session, "shares_files", False)
    node = fs(device)
    install(node)
    assert signature(device) == "ext4"
    uninstall(node)
    assert not (IMAGES / "disk").exists()
    (IMAGES / "disk").mkdir()
    before = digest(device)
    other = pool_node("disk", "fs", source={"devices": [device], "format": "xfs"})
    install(other, "validate", "create")
    said = refused(other, "configure")
    assert "Storage pool already built" in said and "build: overwrite" in said
    uninstall(other)
    assert digest(device) == before and (IMAGES / "disk").exists()
    (IMAGES / "disk").rmdir()


def test_never_builds_nothing(device: str) -> None:
    node = fs(device, build="never")
    install(node, "validate", "create")
    refused(node, "configure")
    assert signature(device) == "" and not (IMAGES / "disk").exists()
    uninstall(node)


def test_a_mount_point_that_was_there_stays(device: str) -> None:
    (IMAGES / "disk").mkdir()
    node = fs(device)
    install(node)
    uninstall(node)
    assert (IMAGES / "disk").is_dir()
    (IMAGES / "disk").rmdir()


def test_a_mount_point_with_foreign_files_stays(device: str, caplog: pytest.LogCaptureFixture) -> None:
    node = fs(device)
    pool = install(node)
    pool.destroy()
    (IMAGES / "disk" / "note").write_text("mine")
    with caplog.at_level(logging.WARNING):
        uninstall(node)
    assert "left directory /var/lib/libvirt/images/disk of pool 'disk' alone: it holds note" in caplog.text
    (IMAGES / "disk" / "note").unlink()
    (IMAGES / "disk").rmdir()


@pytest.mark.parametrize("delete_source", [False, True])
def test_disk_gets_its_label_and_loses_it_only_when_asked(delete_source: bool, device: str) -> None:
    source = {"devices": [device], "format": "gpt"}
    node = pool_node("parts", "disk", source=source, delete_source=delete_source)
    pool = install(node)
    assert signature(device) == "gpt" and pool.isActive()
    uninstall(node)
    assert signature(device) == ("" if delete_source else "gpt")


def test_a_label_that_was_there_stays(device: str, caplog: pytest.LogCaptureFixture) -> None:
    run("parted", "--script", device, "mklabel", "gpt")
    node = pool_node("parts", "disk", source={"devices": [device], "format": "gpt"}, delete_source=True)
    install(node)
    with caplog.at_level(logging.WARNING):
        uninstall(node)
    assert signature(device) == "gpt"
    assert "left what pool 'parts' stands on alone: it was not made by this node" in caplog.text


def test_a_label_with_partitions_stays(device: str, caplog: pytest.LogCaptureFixture) -> None:
    node = pool_node("parts", "disk", source={"devices": [device], "format": "gpt"}, delete_source=True)
    install(node)
    run("parted", "--script", device, "mkpart", "data", "1MiB", "9MiB")
    before = digest(device)
    with caplog.at_level(logging.WARNING):
        uninstall(node)
    assert digest(device) == before
    assert "left what pool 'parts' stands on alone: " in caplog.text


class Killed(BaseException):
    """Ends an operation where it stands."""


@pytest.mark.parametrize("after", [False, True])
def test_killed_while_building(
    after: bool, device: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build = Pool.build

    def killed(pool: Pool, flags: int = 0, remedy: str = "") -> None:
        if after:
            build(pool, flags, remedy)
        raise Killed

    node = pool_node("parts", "disk", source={"devices": [device], "format": "gpt"}, delete_source=True)
    install(node, "validate", "create")
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "build", killed)
        with pytest.raises(Killed):
            node.run(pool_tasks.configure)
    assert node.stored[-1]["formatted"] == "begun"
    before = digest(device)
    pool = install(node, "configure", "start")
    assert pool.isActive() and signature(device) == "gpt"
    assert (digest(device) == before) is after, "what the first attempt made is not made again"
    uninstall(node)
    assert signature(device) == ("gpt" if after else "")
    assert ("making it was interrupted" in caplog.text) is after


LOGICAL = (
    "<pool type='logical'><name>{name}</name><source><name>{name}</name>{devices}</source>"
    "<target><path>/dev/{name}</path></target></pool>"
)


def test_logical_as_a_node(new_device: Callable[[], str]) -> None:
    devices = [new_device(), new_device()]
    node = pool_node("pools-vg", "logical", source={"devices": devices}, delete_source=True)
    if not DEVICE_MAPPER.exists():
        said = refused(node, "validate")
        assert "the kernel has no dm_mod, which pools of type logical stand on" in said and "modprobe dm_mod" in said
        return
    pool = install(node)
    pool.createXML("<volume><name>data</name><capacity unit='MiB'>4</capacity></volume>").delete()
    uninstall(node)
    assert [signature(path) for path in devices] == ["", ""]


def test_logical_volume_group(new_device: Callable[[], str]) -> None:
    """Volume groups are made and removed also by kernels that could not show a logical volume."""
    session, devices = connect(QEMU), [new_device(), new_device()]
    xml = LOGICAL.format(name="pools-vg", devices="".join(f"<device path='{path}'/>" for path in devices))
    pool = Pool(session, session.connection.storagePoolDefineXML(xml))
    with Path(devices[1]).open("r+b") as file:
        file.write(b"precious")
    journal: dict[str, Any] = {}
    build = Build(pool, "auto", "", lambda **values: journal.update(values))
    with pytest.raises(Conflict, match=rf"device {devices[1]} for pool 'pools-vg'.*byte 0"):
        build.run()
    assert journal == {} and signature(devices[0]) == ""
    Build(pool, "overwrite", "", lambda **values: journal.update(values)).run()
    assert journal == {"formatted": "done"} and pool.active
    assert [signature(path) for path in devices] == ["LVM2_member"] * 2
    assert erase(pool) == ""
    assert not pool.active and [signature(path) for path in devices] == ["", ""]
    pool.undefine()
