"""Each row of the update table of pools, volumes and ISO images, beside a machine that runs with them."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import iso9660_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.core import parse
from cloudify_libvirt.core.update import table_storage
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.core.update.table import how
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, QEMU, virsh

HOME = IMAGES / "updpool"
MODULES = {"pool": pool_tasks, "data": volume_tasks, "iso": iso9660_tasks}
SECRET = "5ec4e700-0000-4000-8000-000000000008"
KINDS = {"pool": "pool", "data": "volume", "iso": "iso9660"}
EXERCISED: set[tuple[str, str]] = set()
# The machine of this module: no operating system, two drives and a disk; it runs on through everything.
MACHINE = """<domain type='qemu'><name>upddisk</name><memory unit='MiB'>64</memory><os><type>hvm</type></os>
<devices><disk type='file'><driver name='qemu' type='raw'/><source file='{0}/used'/><target dev='vda' bus='virtio'/>
</disk><disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{0}/medium'/>
<target dev='sda' bus='sata'/><readonly/></disk></devices></domain>"""


def node(node_name: str, **params: Any) -> Node:
    return Node(name=node_name, params=params, properties={"libvirt_auth": QEMU}, deployment="updstore")


def run(which: Node, operation: str, **inputs: Any) -> Any:
    return which.run(getattr(MODULES[which.name.partition("-")[0]], operation), **inputs)


def timed(what: str, which: Node, **inputs: Any) -> None:
    """Update it, and print how long that took."""
    begin = time.monotonic()
    run(which, "update", **inputs)
    print(f"{what} {(time.monotonic() - begin) * 1000:.0f} ms")


def drift(which: Node) -> list[dict[str, Any]]:
    """What differs; each row of the table that answers for it counts as exercised."""
    found = run(which, "check_drift") or []
    kind = KINDS[which.name.partition("-")[0]]
    EXERCISED.update((kind, how(kind, one["field"], active=True).field) for one in found)
    return found


def fields(which: Node) -> set[str]:
    return {one["field"] for one in drift(which)}


def stored() -> str:
    """The pool's definition, without what changes by itself."""
    text = virsh("pool-dumpxml", "updpool", "--inactive")
    return re.sub(r" *<(capacity|allocation|available) .*\n", "", text)


def pid() -> int:
    return int(Path("/run/libvirt/qemu/upddisk.pid").read_text())


@pytest.fixture(scope="module")
def pool() -> Iterator[Node]:
    """A pool with a machine that runs with two of its volumes."""
    found = node("pool", name="updpool", path=str(HOME))
    used, medium = (
        node(f"data-{name}", name=name, pool="updpool", size=size)
        for name, size in (("used", "4 MiB"), ("medium", "2 MiB"))
    )
    domain = None
    try:
        for operation in ("create", "configure", "start"):
            run(found, operation)
        for one in (used, medium):
            run(one, "create")
        domain = libvirt.open(QEMU).createXML(MACHINE.format(HOME))
        before = pid()
        yield found
        assert pid() == before
    finally:
        if domain is not None:
            domain.destroy()
        for one in (used, medium):
            run(one, "delete")
        run(found, "delete")
    assert not HOME.exists()


@pytest.fixture
def volume(pool: Node) -> Iterator[Node]:
    found = node("data", name="upddata", pool="updpool", size="8 MiB", format="qcow2")
    run(found, "create")
    run(found, "start")
    yield found
    run(found, "delete")


def info() -> parse.VolumeFacts:
    return parse.volume(virsh("vol-dumpxml", "upddata", "--pool", "updpool"))


def test_the_directorys_permissions_wait_for_leave_and_come_with_it(pool: Node) -> None:
    uuid = virsh("pool-uuid", "updpool")
    assert drift(pool) == []
    pool.params.update(mode="0711", owner=0, group=0)
    HOME.chmod(0o750)
    os.chown(HOME, 1, 1)
    run(pool, "pull")
    assert fields(pool) == {"mode", "owner", "group"}
    run(pool, "update")
    assert set(pool.runtime["update_pending"]) == {"mode", "owner", "group"}
    assert {(one["field"], one["where"]) for one in drift(pool)} == {(f, "live") for f in ("mode", "owner", "group")}
    timed("pool permissions", pool, allow_restart=True)
    assert (drift(pool), pool.runtime["update_pending"]) == ([], {})
    assert (stat.S_IMODE(HOME.stat().st_mode), HOME.stat().st_uid) == (0o711, 0)
    assert virsh("pool-uuid", "updpool") == uuid
    for key in ("mode", "owner", "group"):
        del pool.params[key]
    run(pool, "update", allow_restart=True)
    assert drift(pool) == []


def test_a_pool_that_is_off_or_gone_comes_back(pool: Node) -> None:
    uuid = virsh("pool-uuid", "updpool")
    pool.params["autostart"] = False
    assert fields(pool) == {"autostart"}
    timed("pool autostart", pool)
    assert drift(pool) == []
    del pool.params["autostart"]
    virsh("pool-destroy", "updpool")
    assert fields(pool) == {"autostart", "state"}
    timed("pool autostart and state", pool)
    assert drift(pool) == [] and "running" in virsh("pool-info", "updpool")
    virsh("pool-destroy", "updpool")
    assert fields(pool) == {"state"}
    timed("pool state", pool)
    assert drift(pool) == []
    virsh("pool-destroy", "updpool")
    virsh("pool-undefine", "updpool")
    assert fields(pool) == {"existence"}
    timed("pool existence", pool)
    assert (drift(pool), virsh("pool-uuid", "updpool")) == ([], uuid)


@pytest.mark.parametrize(("key", "value"), [("path", str(IMAGES / "updelse")), ("name", "updelse"), ("type", "mpath")])
def test_another_place_is_for_a_pool_that_holds_nothing(pool: Node, key: str, value: str) -> None:
    before = stored(), sorted(path.name for path in HOME.iterdir())
    given = dict(pool.params)
    pool.params[key] = value
    if key == "type":
        del pool.params["path"]
    try:
        assert key in fields(pool)
        with pytest.raises(NonRecoverableError, match=rf"{key} .*allow_replace"):
            run(pool, "update")
        with pytest.raises(
            NonRecoverableError, match=r"it holds (below, )?medium, used, which would stay where they are"
        ):
            run(pool, "update", allow_replace=True)
    finally:
        pool.params.clear()
        pool.params.update(given)
    run(pool, "update")
    assert (stored(), sorted(path.name for path in HOME.iterdir())) == before


def test_an_empty_pool_is_made_anew_at_its_new_place() -> None:
    found = node("pool-empty", name="updempty", path=str(IMAGES / "updempty"))
    for operation in ("create", "configure", "start"):
        run(found, operation)
    uuid = virsh("pool-uuid", "updempty")
    found.params["path"] = str(IMAGES / "updmoved")
    run(found, "update", allow_replace=True)
    assert (drift(found), virsh("pool-uuid", "updempty")) == ([], uuid)
    assert (IMAGES / "updmoved").is_dir() and not (IMAGES / "updempty").exists()
    run(found, "delete")
    assert not (IMAGES / "updmoved").exists()


# Pools of servers that are not there: what would be mounted, or logged in to, is in the definition.
SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any], How]] = {
    "source.hosts[*]*": ({"hosts": ["10.0.0.1"]}, {"hosts": ["10.0.0.2"]}, How.RESTART),
    "source.mount_options*": ({}, {"mount_options": ["noatime"]}, How.RESTART),
    "source*": ({}, {"dir": "other"}, How.REPLACE),
    "source.options*": ({}, {"options": {"client_mount_timeout": "7"}}, How.RESTART),
    "source.initiator*": ({}, {"initiator": "iqn.2024-01.org.example:other"}, How.RESTART),
    "source.auth*": ({}, {"auth": {"username": "other", "secret": "upd-secret"}}, How.RESTART),
}
_ISCSI = {"hosts": ["10.0.0.1"], "target": "iqn.2024-01.org.example:disks",
          "initiator": "iqn.2024-01.org.example:one"}  # fmt: skip
_OF_TYPE: dict[str, tuple[str, dict[str, Any]]] = {
    "source.options*": ("rbd", {"hosts": ["10.0.0.1"], "name": "rbd", "options": {"client_mount_timeout": "5"}}),
    "source.initiator*": ("iscsi-direct", _ISCSI),
    "source.auth*": ("iscsi-direct", _ISCSI),
}


@pytest.mark.parametrize("row", SOURCES)
def test_what_a_pool_stands_on(row: str) -> None:
    """The definition is changed in place, with the same UUID; that its server is not there shows at its start."""
    before, after, wanted = SOURCES[row]
    type_, base = _OF_TYPE.get(row, ("netfs", {"hosts": ["10.0.0.1"], "dir": "images", "format": "glusterfs"}))
    found = node("pool-net", name="updnet", type=type_, source={**base, **before}, autostart=False)
    if type_ == "netfs":
        found.params["path"] = str(IMAGES / "updnet")
        (IMAGES / "updnet").mkdir(exist_ok=True)
    if type_ not in virsh("pool-capabilities"):
        pytest.skip(f"this libvirt has no pools of type {type_}")
    found.runtime["stopped"] = True
    secret = (
        f"<secret ephemeral='yes'><uuid>{SECRET}</uuid><usage type='iscsi'><target>upd-secret</target></usage></secret>"
    )
    subprocess.run(["virsh", "-q", "secret-define", "/dev/stdin"], input=secret, text=True, check=True)
    try:
        if row == "source.auth*":
            found.params["auth"] = {"username": "one", "secret": "upd-secret"}
        run(found, "create")
        uuid = virsh("pool-uuid", "updnet")
        assert drift(found) == []
        if "auth" in after:
            found.params.update(after)
        else:
            found.params["source"] = {**found.params["source"], **after}
        hows = {how("pool", one, active=True) for one in fields(found)}
        assert {one.how for one in hows} == {wanted} and row in {one.field for one in hows}
        if wanted is How.REPLACE:
            with pytest.raises(NonRecoverableError, match="allow_replace"):
                run(found, "update")
            return
        run(found, "update")
        assert (drift(found), virsh("pool-uuid", "updnet")) == ([], uuid)
    finally:
        run(found, "delete")
        virsh("secret-undefine", SECRET)
        if type_ == "netfs":
            (IMAGES / "updnet").rmdir()


def test_a_definition_that_libvirt_refuses_leaves_the_old_one(pool: Node) -> None:
    before = stored()
    # Right by the schema; that a mode has an end, libvirt alone says.
    pool.properties["template_content"] = before.replace("<mode>0755</mode>", "<mode>77777</mode>")
    try:
        with pytest.raises(NonRecoverableError, match=r"change the definition of pool 'updpool'.*It stands as it was"):
            run(pool, "update", allow_restart=True)
    finally:
        del pool.properties["template_content"]
    assert stored() == before and drift(pool) == []


def test_a_volume_grows_and_never_shrinks(volume: Node) -> None:
    volume.params["size"] = "16 MiB"
    assert fields(volume) == {"size"}
    timed("volume size", volume)
    assert drift(volume) == [] and info().capacity_bytes == 16 * 2**20
    volume.params["size"] = "8 MiB"
    with pytest.raises(NonRecoverableError, match="shrinking would lose data"):
        run(volume, "update", allow_replace=True)
    assert info().capacity_bytes == 16 * 2**20


@pytest.fixture(scope="module")
def below(pool: Node) -> Iterator[Node]:
    found = node("data-below", name="below", pool="updpool", size="8 MiB", format="qcow2")
    run(found, "create")
    yield found
    run(found, "delete")


def of_file(path: Path) -> tuple[int, int]:
    """What another file of the same name has otherwise."""
    return path.stat().st_ino, path.stat().st_mtime_ns


OTHERS: dict[str, dict[str, Any]] = {
    "format*": {"format": "raw"},
    "encryption*": {"encryption": {"passphrase": "a key of some length"}},
    "name": {"name": "updother"},
    "pool": {"pool": "updsecond"},
    "backing*": {"source_volume": "below", "mode": "overlay", "size": "8 MiB"},
}


@pytest.mark.parametrize("row", OTHERS)
def test_another_volume_is_made_only_with_leave_and_when_nobody_uses_it(row: str, volume: Node, below: Node) -> None:
    second = node("pool-second", name="updsecond", path=str(IMAGES / "updsecond"))
    for operation in ("create", "configure", "start"):
        run(second, operation)
    file = HOME / "upddata"
    try:
        volume.params.update(OTHERS[row])
        assert row in {how("volume", one, active=True).field for one in fields(volume)}
        before = of_file(file)
        with pytest.raises(NonRecoverableError, match=r"takes another volume.*allow_replace"):
            run(volume, "update")
        assert of_file(file) == before
        user = f"<domain type='qemu'><name>upduser</name><memory>65536</memory><os><type>hvm</type></os><devices><disk type='file'><source file='{file}'/><target dev='vda'/></disk></devices></domain>"  # noqa: E501
        domain = libvirt.open(QEMU).defineXML(user)
        try:
            with pytest.raises(NonRecoverableError, match="it is used by domain 'upduser'"):
                run(volume, "update", allow_replace=True)
            assert of_file(file) == before
        finally:
            domain.undefine()
        run(volume, "update", allow_replace=True)
        assert drift(volume) == [] and not volume.runtime["update_pending"]
        assert not file.exists() or of_file(file) != before
    finally:
        run(volume, "delete")
        run(second, "delete")
    assert not file.exists()


def test_what_a_guest_wrote_is_no_reason_for_another_volume(pool: Node) -> None:
    """A raw disk whose contents look like qcow2 to the host: neither replaced nor resized."""
    found = node("data-raw", name="updraw", pool="updpool", size="8 MiB", format="raw")
    run(found, "create")
    file = HOME / "updraw"
    try:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", HOME / "header", "4M"], check=True)
        content = (HOME / "header").read_bytes()
        (HOME / "header").unlink()
        file.write_bytes(content.ljust(8 * 2**20, b"\0"))
        before = file.read_bytes(), file.stat().st_ino
        virsh("pool-refresh", "updpool")
        assert {"format", "size"} <= fields(found)
        with pytest.raises(
            NonRecoverableError, match=r"format \(qcow2 to raw\).*it became so on the host, and the .*iB"
        ):
            run(found, "update", allow_replace=True)
        assert (file.read_bytes(), file.stat().st_ino) == before
        assert found.runtime["update_pending"]["size"]["why"] == "it waits until the rest is as declared"
    finally:
        run(found, "delete")


def test_a_killed_replacement_goes_on(volume: Node) -> None:
    """The old one is gone, the new one not made: nobody makes one up without leave."""
    virsh("vol-delete", "upddata", "--pool", "updpool")
    assert fields(volume) == {"existence"}
    with pytest.raises(NonRecoverableError, match=r"it is gone, with what was in it.*allow_replace"):
        run(volume, "update")
    run(volume, "update", allow_replace=True)
    assert drift(volume) == [] and info().capacity_bytes == 8 * 2**20


def test_rights_of_a_volume_are_the_hosts_affair(volume: Node) -> None:
    (HOME / "upddata").chmod(0o644)
    virsh("pool-refresh", "updpool")
    assert fields(volume) == {"mode"}
    run(volume, "update", allow_replace=True)
    assert fields(volume) == {"mode"}
    (HOME / "upddata").chmod(0o600)
    virsh("pool-refresh", "updpool")
    assert drift(volume) == []


def test_what_no_blueprint_asks_for_and_nothing_changes_is_refused(volume: Node) -> None:
    """The version of its format, which somebody changed on the host: with the content it could be made anew only."""

    def amend(version: str) -> None:
        subprocess.run(["qemu-img", "amend", "-o", f"compat={version}", HOME / "upddata"], check=True)
        virsh("pool-refresh", "updpool")

    amend("0.10")
    try:
        (field,) = fields(volume)
        assert how("volume", field, active=True).field == "*"
        for leave in (False, True):
            with pytest.raises(NonRecoverableError, match=field):
                run(volume, "update", allow_replace=leave)
    finally:
        amend("1.1")
    assert drift(volume) == []


def test_what_a_template_of_the_users_own_says_of_a_pool_waits_for_leave(pool: Node) -> None:
    feature = "<features><cow state='yes'/></features>"
    without = re.sub(r"<source>\s*</source>", "", stored())
    pool.properties["template_content"] = without.replace("</name>", f"</name>{feature}")
    try:
        (found,) = drift(pool)
        assert (how("pool", found["field"], active=True).field, found["where"]) == ("*", "config")
        run(pool, "update")
        assert "<cow state='yes'/>" in stored() and {one["where"] for one in drift(pool)} <= {"live"}
        run(pool, "update", allow_restart=True)
        assert drift(pool) == []
    finally:
        del pool.properties["template_content"]
    run(pool, "update", allow_restart=True)
    assert drift(pool) == [] and "<cow" not in stored()


def drive() -> str:
    """The file in the running machine's drive, "" when it is empty."""
    disks = parse.domain(virsh("dumpxml", "upddisk")).disks
    return next(disk.path for disk in disks if disk.target == "sda")


def test_an_image_is_written_anew_with_its_drive_open(pool: Node) -> None:
    iso = node("iso", pool="updpool", volume="medium", files={"meta-data": "one"})
    virsh("change-media", "upddisk", "sda", "--eject", "--live")
    run(iso, "create")
    virsh("change-media", "upddisk", "sda", str(HOME / "medium"), "--insert", "--live")
    iso.params["files"] = {"meta-data": "two"}
    assert fields(iso) == {"files"}
    seen = libvirt.open(QEMU)
    assert seen is not None
    timed("iso files", iso)
    assert drift(iso) == [] and drive() == str(HOME / "medium") and not iso.runtime["ejected"]
    # Killed with the drive open: the next run closes it.
    iso.params["files"] = {"meta-data": "three"}
    device = virsh("dumpxml", "upddisk").split("<disk ")[2].split("</disk>")[0]
    assert "medium" in device
    uuid = virsh("domuuid", "upddisk").strip()
    iso.runtime["ejected"] = [{"domain": uuid, "device": f"<disk {device}</disk>"}]
    virsh("change-media", "upddisk", "sda", "--eject", "--live")
    run(iso, "update")
    assert drift(iso) == [] and drive() == str(HOME / "medium") and not iso.runtime["ejected"]
    run(iso, "delete")


def test_an_image_under_a_disk_waits(pool: Node) -> None:
    """A disk cannot be taken out: nothing is written under it."""
    iso = node("iso", pool="updpool", volume="used", files={"meta-data": "one"})
    iso.runtime["by_input"] = False
    before = (HOME / "used").read_bytes()
    run(iso, "update")
    assert "as its disk vda" in iso.runtime["update_pending"]["files"]["why"] and fields(iso) == {"files"}
    assert (HOME / "used").read_bytes() == before
    iso.params["volume"] = "nowhere"
    assert fields(iso) == {"volume"}
    with pytest.raises(NonRecoverableError, match="volume"):
        run(iso, "update")


def test_every_row_was_exercised() -> None:
    """Last of all: each row answered for a difference that one of the tests above made."""
    rows = {(row.kind, row.field) for row in table_storage.ROWS}
    # The protocol's version is for NFS alone, whose client this host has not: test_remote_tls.py has that row.
    elsewhere = {("pool", "source.protocol*")}
    assert rows - elsewhere == EXERCISED
    assert all(row.source.startswith("https://libvirt.org/") for row in table_storage.ROWS)
