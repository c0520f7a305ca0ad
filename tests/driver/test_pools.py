"""Pools that need no host of their own to be tested: guards and messages, on the test driver."""

from __future__ import annotations

import pytest
from cloudify.exceptions import NonRecoverableError, RecoverableError
from lxml import etree

from cloudify_libvirt import domain_tasks, pool_tasks
from cloudify_libvirt.core.session import Session
from tests.driver.conftest import Node, define

ISCSI = {"name": "luns", "type": "iscsi", "source": {"hosts": ["san"], "target": "iqn.2024-01.org.example:disks"}}


@pytest.fixture
def luns(session: Session) -> Node:
    node = Node(name="luns", params=ISCSI)
    for operation in (pool_tasks.validate, pool_tasks.create, pool_tasks.configure, pool_tasks.start):
        node.run(operation)
    handle = session.connection.storagePoolLookupByName("luns")
    handle.createXML("<volume><name>unit:0:0:1</name><capacity unit='MiB'>1</capacity></volume>")
    return node


@pytest.mark.parametrize("by_path", [False, True])
def test_a_pool_does_not_leave_from_under_a_running_domain(by_path: bool, session: Session, luns: Node) -> None:
    pool = session.connection.storagePoolLookupByName("luns")
    path = pool.storageVolLookupByName("unit:0:0:1").path()
    source = (
        f"type='block'><source dev='{path}'/>" if by_path else "type='volume'><source pool='luns' volume='unit:0:0:1'/>"
    )
    domain = define(session, "user", extra=f"<disk {source}<target dev='vda'/></disk>")
    domain.handle.create()
    for operation in (pool_tasks.stop, pool_tasks.delete):
        with pytest.raises(
            RecoverableError, match=r"would go away under running domain 'user'.*Stop these domains first"
        ):
            luns.run(operation)
        assert pool.isActive()
    domain.handle.destroy()
    luns.run(pool_tasks.stop)
    assert not pool.isActive()
    luns.run(pool_tasks.delete)
    assert luns.runtime == {"resource_id": None}


def test_a_host_without_secrets_says_so(session: Session) -> None:
    node = Node(name="luns", params={**ISCSI, "auth": {"username": "alice", "password": "hunter2"}})
    with pytest.raises(NonRecoverableError, match="not supported by the connection driver: virSecret") as caught:
        node.run(pool_tasks.create)
    assert "hunter2" not in str(caught.value) + repr(node.runtime) + repr(node.stored)
    assert "luns" not in [pool.name() for pool in session.connection.listAllStoragePools()]


def test_the_source_is_left_unless_this_node_made_it(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    params = {"name": "vg", "type": "logical", "source": {"devices": ["/dev/nothing"]}, "delete_source": "yes"}
    node = Node(name="vg", params=params)
    for operation in (pool_tasks.create, pool_tasks.configure, pool_tasks.delete):
        node.run(operation)
    assert "left what pool 'vg' stands on alone: it was not made by this node" in caplog.text
    assert "vg" not in [pool.name() for pool in session.connection.listAllStoragePools()]


def _volume_of(session: Session, type_: str, source: dict[str, object]) -> None:
    node = Node(name=type_, params={"name": type_, "type": type_, "source": source})
    for operation in (pool_tasks.create, pool_tasks.configure):
        node.run(operation)
    pool = session.connection.storagePoolLookupByName(type_)
    pool.createXML("<volume><name>data</name><capacity unit='MiB'>1</capacity></volume>")


def _attached(vm: Node, pool: str) -> None:
    vm.params = {**vm.params, "disks": [{"pool": pool, "volume": "data"}]}
    for operation in (domain_tasks.create, domain_tasks.configure):
        vm.run(operation)


def test_a_volume_that_is_a_device_is_attached_as_one(session: Session, vm: Node) -> None:
    """QEMU refuses to open a device as a file."""
    _volume_of(session, "logical", {"name": "vg"})
    _attached(vm, "logical")
    xml = etree.fromstring(session.connection.lookupByName("vm").XMLDesc(0))
    (disk,) = xml.findall("devices/disk")
    assert (disk.get("type"), disk.find("source").attrib) == ("block", {"dev": "/dev/vg/data"})


def test_a_volume_without_a_path_is_attached_over_the_network(session: Session, vm: Node) -> None:
    _volume_of(session, "gluster", {"hosts": ["server"], "name": "vol1", "dir": "/images"})
    _attached(vm, "gluster")
    xml = etree.fromstring(session.connection.lookupByName("vm").XMLDesc(0))
    (disk,) = xml.findall("devices/disk")
    source = disk.find("source")
    assert (disk.get("type"), source.attrib) == ("network", {"protocol": "gluster", "name": "vol1/images/data"})
    assert source.find("host").get("name") == "server"


def test_a_domains_own_volumes_are_files(session: Session, vm: Node) -> None:
    _volume_of(session, "logical", {"name": "vg"})
    vm.params = {**vm.params, "pool": "logical", "cloud_init": {"hostname": "vm"}}
    vm.run(domain_tasks.create)
    with pytest.raises(NonRecoverableError, match="the volumes of pool 'logical' are no files"):
        vm.run(domain_tasks.configure)
    assert not vm.runtime.get("made")
