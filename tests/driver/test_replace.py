"""Replacements of networks, pools and volumes, on the test driver: looked at before, and only where they are wanted."""

from __future__ import annotations

import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import network_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.core.errors import Busy
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.session import Session
from tests.driver.conftest import Node, define_network, running_network
from tests.driver.test_storage import define_pool


def test_a_network_is_made_anew_under_its_new_name(net: Node, session: Session) -> None:
    uuid = session.connection.networkLookupByName("upd").UUIDString()
    net.params["name"] = "other"
    net.run(network_tasks.update, allow_replace=True)
    assert session.connection.networkLookupByName("other").UUIDString() == uuid == net.runtime["uuid"]
    assert "upd" not in session.connection.listNetworks() and net.run(network_tasks.check_drift) is None


@pytest.mark.parametrize("taken", ["name", "subnet", "bridge"])
def test_what_is_taken_replaces_no_network(net: Node, session: Session, taken: str) -> None:
    """Looked at before anything stops: what was there runs on."""
    theirs = define_network(session, "theirs" if taken == "name" else "else", "10.99.6.1", "br-theirs")
    theirs.start()
    before = running_network(session, "upd")
    net.params["name"] = "theirs" if taken == "name" else "free"
    if taken == "subnet":
        net.params["ips"] = [{"address": "10.99.6.7", "prefix": 24}]
    if taken == "bridge":
        net.params["dev"] = "br-theirs"
    with pytest.raises(NonRecoverableError, match=r"theirs|else|10\.99\.6"):
        net.run(network_tasks.update, allow_replace=True)
    assert running_network(session, "upd") == before and session.connection.networkLookupByName("upd").isActive()
    assert net.runtime["resource_id"] == "upd"
    theirs.stop()
    theirs.undefine()
    net.run(network_tasks.update, allow_replace=True)
    assert net.run(network_tasks.check_drift) is None


def test_a_network_that_cannot_be_made_anew_is_there_again(net: Node, session: Session) -> None:
    """Right by the schema; that a range has an end behind its start, libvirt alone says."""
    before, uuid = running_network(session, "upd"), net.runtime["uuid"]
    autostarts = session.connection.networkLookupByName("upd").autostart()
    turned = before.replace("end='10.99.7.99'", "end='10.99.7.1'").replace("<name>upd</name>", "<name>other</name>")
    net.properties["template_content"] = turned
    net.params["name"] = "other"
    with pytest.raises(NonRecoverableError, match=r"define network 'other'.*range"):
        net.run(network_tasks.update, allow_replace=True)
    there = session.connection.networkLookupByName("upd")
    assert running_network(session, "upd") == before and there.UUIDString() == uuid
    assert there.isActive() and there.autostart() == autostarts and net.runtime["resource_id"] == "upd"


def test_the_lock_is_held_while_a_network_is_made_anew(net: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def undefine(network: Network) -> None:
        with pytest.raises(Busy), host_lock(network.session.uri, "networks", 0.1):
            raise AssertionError("nobody holds it")
        held.append(network.name)
        original(network)

    original = Network.undefine
    monkeypatch.setattr(Network, "undefine", undefine)
    net.params["name"] = "other"
    net.run(network_tasks.update, allow_replace=True)
    assert held == ["upd"]


@pytest.mark.parametrize("taken", ["name", "path", "secret"])
def test_what_is_taken_replaces_no_pool(session: Session, taken: str) -> None:
    define_pool(session, "theirs", "/nowhere/theirs")
    node = Node(name="pool", params={"name": "updpool", "path": "/nowhere/upd"})
    for operation in (pool_tasks.create, pool_tasks.configure, pool_tasks.start):
        node.run(operation)
    uuid = session.connection.storagePoolLookupByName("updpool").UUIDString()
    change = {"name": {"name": "theirs"}, "path": {"path": "/nowhere/theirs"},
              "secret": {"type": "rbd", "path": None, "source": {"hosts": ["10.0.0.1"], "name": "rbd"},
                         "auth": {"username": "one", "secret": "upd-none"}}}  # fmt: skip
    node.params.update(change[taken])
    with pytest.raises(NonRecoverableError, match=r"another pool|belongs to pool 'theirs'|the secret for upd-none"):
        node.run(pool_tasks.update, allow_replace=True)
    there = session.connection.storagePoolLookupByName("updpool")
    assert there.UUIDString() == uuid and there.isActive()
    assert (node.runtime["resource_id"], node.runtime["uuid"]) == ("updpool", uuid)


@pytest.fixture
def volume(session: Session) -> Node:
    """A volume with something in it, as far as this driver stores anything."""
    define_pool(session).start()
    node = Node(name="data", params={"name": "data", "pool": "pool", "size": "8 MiB", "format": "qcow2"})
    node.run(volume_tasks.create)
    return node


def changed_outside(session: Session, old: str, new: str) -> str:
    """Let the host have the volume otherwise; return what tells it from another one."""
    pool = session.connection.storagePoolLookupByName("pool")
    handle = pool.storageVolLookupByName("data")
    text = handle.XMLDesc(0)
    assert old in text
    handle.delete()
    xml = text.replace(old, new).replace("<allocation unit='bytes'>0<", "<allocation unit='bytes'>3145728<")
    return str(pool.createXML(xml).XMLDesc(0))


def stored(session: Session) -> str:
    return str(session.connection.storagePoolLookupByName("pool").storageVolLookupByName("data").XMLDesc(0))


DRIFT = {
    "target.compat": ("<compat>1.1</compat>", "<compat>0.10</compat>"),
    "format": ("<format type='qcow2'/>", "<format type='qed'/>"),
}


@pytest.mark.parametrize("row", DRIFT)
@pytest.mark.parametrize("leave", [False, True])
def test_drift_alone_never_takes_a_volume(volume: Node, session: Session, row: str, leave: bool) -> None:
    changed = changed_outside(session, *DRIFT[row])
    assert row in {one["field"] for one in volume.run(volume_tasks.check_drift)}
    said = r"it became so on the host, and the 3 MiB that are allocated in this one are not given up.*Bring it back"
    with pytest.raises(NonRecoverableError, match=said):
        volume.run(volume_tasks.update, allow_replace=leave)
    assert stored(session) == changed


def test_another_declaration_takes_another_volume_with_leave(volume: Node, session: Session) -> None:
    changed = changed_outside(session, "<format", "<format")
    volume.params["format"] = "raw"
    with pytest.raises(NonRecoverableError, match=r"the 3 MiB that are allocated in this one are lost; allow_replace"):
        volume.run(volume_tasks.update)
    assert stored(session) == changed
    volume.run(volume_tasks.update, allow_replace=True)
    assert "<format type='raw'/>" in stored(session) and volume.run(volume_tasks.check_drift) is None
    # From now on raw is what it was made as.
    changed = changed_outside(session, "<format type='raw'/>", "<format type='qcow2'/>")
    with pytest.raises(NonRecoverableError, match="it became so on the host"):
        volume.run(volume_tasks.update, allow_replace=True)
    assert stored(session) == changed


def test_a_volume_of_which_nobody_knows_as_what_it_was_made_stays(volume: Node, session: Session) -> None:
    """Made by an earlier release."""
    del volume.runtime["made_as"]
    volume.params["format"] = "raw"
    before = stored(session)
    with pytest.raises(NonRecoverableError, match="not given up"):
        volume.run(volume_tasks.update, allow_replace=True)
    assert stored(session) == before


def test_a_lost_volume_is_made_with_leave_alone(volume: Node, session: Session) -> None:
    session.connection.storagePoolLookupByName("pool").storageVolLookupByName("data").delete()
    with pytest.raises(NonRecoverableError, match="it is gone, with what was in it"):
        volume.run(volume_tasks.update)
    volume.run(volume_tasks.update, allow_replace=True)
    assert "<name>data</name>" in stored(session)
