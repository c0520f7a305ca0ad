"""Volumes of a Ceph: made, copied, grown and deleted by libvirt, and opened by QEMU, with a key that nobody sees."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError, RecoverableError

from cloudify_libvirt import domain_tasks, pool_tasks, volume_tasks
from tests.driver.conftest import Node
from tests.real.pools.ceph import ADDRESS, POOL, USER, Ceph
from tests.real.pools.storage import INITIATOR, QEMU, TARGET, install, pool_node, run, secrets, uninstall

MIB = 1 << 20
OTHER_KEY = "AQBXTEST00000000AAAAAAAAAAAAAAAAAAAAAAAAAA=="


def rbd(key: str, *, user: str = USER, hosts: str = ADDRESS, **options: str) -> Any:
    source = {"hosts": [hosts], "name": POOL, "options": options}
    return pool_node("ceph", "rbd", source=source, auth={"username": user, "password": key})


def volume(name: str, **params: Any) -> Node:
    return Node(name=name, params={"name": name, "pool": "ceph", **params}, properties={"libvirt_auth": QEMU})


def machine(pool: str, name: str) -> Node:
    params = {"name": "on-net", "memory": "32 MiB", "hardware": "modern", "wait_for_ip": False,
              "shutdown_timeout_s": 1, "disks": [{"pool": pool, "volume": name}]}  # fmt: skip
    return Node(name="vm", params=params, properties={"libvirt_auth": QEMU})


def started(vm: Node) -> libvirt.virDomain:
    for operation in (domain_tasks.create, domain_tasks.configure, domain_tasks.start):
        vm.run(operation)
    return libvirt.open(QEMU).lookupByName("on-net")


def ended(vm: Node) -> None:
    for operation in (domain_tasks.stop, domain_tasks.delete):
        vm.run(operation)


def volume_kept(node: Node) -> bool:
    """Try to delete the volume; tell whether it stays."""
    node.run(volume_tasks.delete)
    names = libvirt.open(QEMU).storagePoolLookupByName("ceph").listVolumes()
    return node.params["name"] in names


def test_a_volumes_life(ceph: Ceph, caplog: pytest.LogCaptureFixture) -> None:
    before, pool = secrets(), rbd(ceph.key)
    install(pool)
    data, copy = volume("data", size="8 MiB"), volume("copy", source_volume={"volume": "data"}, size="12 MiB")
    data.run(volume_tasks.create)
    copy.run(volume_tasks.create)
    assert (ceph.size_of("data"), ceph.size_of("copy")) == (8 * MIB, 12 * MIB)
    data.params["size"] = "16 MiB"
    data.run(volume_tasks.update)
    assert ceph.size_of("data") == 16 * MIB
    # Ceph's copy stands on a snapshot of its source.
    assert volume_kept(data)
    assert "left volume 'data' alone: it is used by a volume that was copied from it" in caplog.text
    assert sorted(ceph.images()) == ["copy", "data"]
    copy.run(volume_tasks.delete)
    left = libvirt.open(QEMU).storagePoolLookupByName("ceph").storageVolLookupByName("data")
    left.delete(libvirt.VIR_STORAGE_VOL_DELETE_WITH_SNAPSHOTS)
    uninstall(pool)
    assert ceph.images() == [] and secrets() == before


def test_a_source_goes_after_its_copy(ceph: Ceph) -> None:
    pool = rbd(ceph.key)
    install(pool)
    data, copy = volume("data", size="8 MiB"), volume("copy", source_volume={"volume": "data"})
    for node in (data, copy):
        node.run(volume_tasks.create)
    for node in (copy, data):
        node.run(volume_tasks.delete)
    assert ceph.images() == []
    uninstall(pool)


@pytest.mark.parametrize(
    "params", [{"content": "text"}, {"size": "1 MiB", "preallocation": "full"}, {"size": "1 MiB", "zero_wipe": True}]
)
def test_what_libvirt_cannot_write_is_refused(ceph: Ceph, params: dict[str, Any]) -> None:
    pool, node = rbd(ceph.key), volume("data", **params)
    install(pool)
    with pytest.raises(NonRecoverableError, match="libvirt writes nothing into volumes of a pool of type rbd"):
        node.run(volume_tasks.create)
    assert ceph.images() == [] and not node.runtime.get("resource_id")
    uninstall(pool)


def test_a_machine_with_a_volume(ceph: Ceph, caplog: pytest.LogCaptureFixture) -> None:
    """QEMU opens the disk, which nobody deletes meanwhile, and which grows under it."""
    pool, data, vm = rbd(ceph.key), volume("data", size="8 MiB"), machine("ceph", "data")
    install(pool)
    data.run(volume_tasks.create)
    domain = started(vm)
    assert domain.isActive() and domain.blockInfo("vda")[0] == 8 * MIB
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    assert f"name='{POOL}/data'" in xml and ceph.key not in xml + repr(vm.runtime)
    running = Node(**{**vars(data), "runtime": dict(data.runtime)})
    assert volume_kept(running) and "used by domain 'on-net'" in caplog.text
    data.params["size"] = "16 MiB"
    data.run(volume_tasks.update)
    assert (domain.blockInfo("vda")[0], ceph.size_of("data")) == (16 * MIB, 16 * MIB)
    ended(vm)
    data.run(volume_tasks.delete)
    assert ceph.images() == []
    uninstall(pool)


def test_a_machine_with_a_disk_of_iscsi(iscsi: int) -> None:
    source = {"hosts": [f"127.0.0.1:{iscsi}"], "target": TARGET, "initiator": INITIATOR}
    luns = pool_node("luns", "iscsi-direct", source=source, auth={"username": "alice", "password": "correct-horse-1"})
    install(luns)
    vm = machine("luns", "unit:0:0:1")
    domain = started(vm)
    assert domain.isActive() and domain.blockInfo("vda")[0] == 8 * MIB
    ended(vm)
    uninstall(luns)


def test_a_machine_with_a_disk_of_gluster(gluster: str) -> None:
    pool = pool_node("shared", "gluster", source={"hosts": os.uname().nodename, "name": gluster})
    run("qemu-img", "create", "-q", "-f", "qcow2", f"gluster://{os.uname().nodename}/{gluster}/disk", "8M")
    install(pool)
    vm = machine("shared", "disk")
    vm.run(domain_tasks.create)
    with pytest.raises(NonRecoverableError, match=r"libvirt cannot read its header.*Say its format"):
        vm.run(domain_tasks.configure)
    vm.params["disks"][0]["type"] = "qcow2"
    for operation in (domain_tasks.configure, domain_tasks.start):
        vm.run(operation)
    domain = libvirt.open(QEMU).lookupByName("on-net")
    assert domain.isActive() and domain.blockInfo("vda")[0] == 8 * MIB
    ended(vm)
    libvirt.open(QEMU).storagePoolLookupByName("shared").storageVolLookupByName("disk").delete()
    uninstall(pool)


def test_the_key_is_nowhere(ceph: Ceph, caplog: pytest.LogCaptureFixture) -> None:
    node = rbd(ceph.key)
    auth = node.params.pop("auth")
    with caplog.at_level(logging.DEBUG):
        node.run(pool_tasks.validate)
        node.run(pool_tasks.create, params={"auth": auth})
        pool = install(node, "configure", "start")
        xml = pool.XMLDesc()
        uninstall(node)
    seen = [repr(node.runtime), repr(node.stored), xml, caplog.text, Path("/var/log/libvirt/libvirtd.log").read_text()]
    assert [text for text in seen if ceph.key in text] == []


@pytest.mark.parametrize("user", [USER, "nobody"])
def test_a_wrong_key_is_not_tried_again(ceph: Ceph, user: str) -> None:
    node = rbd(OTHER_KEY, user=user, client_mount_timeout="30")
    install(node, "validate", "create")
    with pytest.raises(NonRecoverableError, match=r"refuses the user or the key.*params\.auth") as caught:
        node.run(pool_tasks.configure)
    assert OTHER_KEY not in str(caught.value)
    uninstall(node)


def test_a_monitor_that_is_away_is_tried_again(ceph: Ceph) -> None:
    node = rbd(ceph.key, hosts="127.0.0.1:6790", client_mount_timeout="2")
    install(node, "validate", "create")
    begin = time.monotonic()
    with pytest.raises(RecoverableError, match=r"no monitor answers.*params\.source\.hosts"):
        node.run(pool_tasks.configure)
    assert time.monotonic() - begin < 90
    uninstall(node)


def test_a_monitor_that_hangs_is_tried_again(ceph: Ceph) -> None:
    node = rbd(ceph.key, client_mount_timeout="5")
    install(node, "validate", "create")
    with ceph.frozen(), pytest.raises(RecoverableError, match="no monitor answers"):
        node.run(pool_tasks.configure)
    install(node, "configure", "start")
    uninstall(node)
