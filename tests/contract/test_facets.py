"""What rows and defects name beside their main case."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import libvirt
import pytest
from lxml import etree

from bench.counting import counted
from cloudify_libvirt import domain_tasks, network_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.core.session import Session
from tests.contract.places import DISK, DOMAIN, INSIDE, Node
from tests.real.conftest import IMAGES, QEMU, Host

DISKS = {"disks": [{"file": DISK, "dev": "vda", "type": "qcow2"}]}


def found(session: Session, kind: str, name: str) -> Any:
    if kind == "volume":
        return session.connection.storagePoolLookupByName("default-pool").storageVolLookupByName(name)
    lookup = {"net": session.connection.networkLookupByName, "pool": session.connection.storagePoolLookupByName}
    return lookup[kind](name)


KINDS: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "net": (network_tasks, {}),
    "pool": (pool_tasks, {"path": str(IMAGES / "contract-facets")}),
    "volume": (volume_tasks, {"pool": "default-pool", "capacity": 1}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_b10_other_objects_than_domains_are_recorded_before_they_are_made(session: Session, kind: str) -> None:
    """The process dies right after the object was made: what was stored by then finds it again."""
    module, params = KINDS[kind]
    node = Node(name=kind, params=params)
    node.run(module.create)
    before = found(session, kind, node.id)
    uuid = before.key() if kind == "volume" else before.UUIDString()
    first = next(entry for entry in node.stored if entry.get("resource_id") == node.id)
    if kind != "volume":
        assert first["uuid"] == uuid
    node.runtime.clear()
    node.runtime.update({key: value for key, value in first.items() if key != "_domains"})
    node.run(module.create)
    again = found(session, kind, node.id)
    assert (again.key() if kind == "volume" else again.UUIDString()) == uuid
    for name in ("stop", "delete"):
        if hasattr(module, name):
            node.run(getattr(module, name))
    with pytest.raises(libvirt.libvirtError):
        found(session, kind, node.id)


def test_b9_a_pool_that_is_gone_counts_as_deleted(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    path = IMAGES / "contract-facets"
    pool = Node(name="pool", params={"path": str(path)})
    for name in ("create", "configure", "start"):
        pool.run(getattr(pool_tasks, name))
    handle = found(session, "pool", pool.id)
    handle.destroy()
    handle.undefine()
    for name in ("stop", "delete"):
        pool.run(getattr(pool_tasks, name))
    assert pool.runtime == {"resource_id": None}
    # The directory was ours; the test driver makes none.
    assert (f"left directory {path} alone: somebody has undefined its pool" in caplog.text) is INSIDE is path.is_dir()
    if INSIDE:
        path.rmdir()


def test_c4_snapshots_are_cleaned_up_in_one_go(session: Session) -> None:
    """The calls of a delete with 40 snapshots are those of a delete with 4, but for what each one costs by itself."""
    calls = {}
    for count in (4, 40):
        node = Node(name=f"vm{count}", params={**DOMAIN, **DISKS})
        for name in ("create", "configure"):
            node.run(getattr(domain_tasks, name))
        for number in range(count):
            node.run(domain_tasks.snapshot_create, snapshot_name=f"s{number}")
        assert session.connection.lookupByName(node.id).snapshotNum() == count
        node.run(domain_tasks.stop)
        with counted() as cost:
            node.run(domain_tasks.delete)
        calls[count] = cost.called
        assert node.runtime.get("resource_id") is None
    assert calls[40] - calls[4] <= 3 * 36, calls


@pytest.mark.parametrize("said", ["false", "False", "no", "off", "0", False])
def test_b6_false_in_a_snapshots_inputs(session: Session, said: object) -> None:
    """As the workflow passes it on from a command line: not a snapshot, but a definition in a file."""
    node = Node(params={**DOMAIN, **DISKS})
    for name in ("create", "configure"):
        node.run(getattr(domain_tasks, name))
    handle = session.connection.lookupByName(node.id)
    node.run(domain_tasks.snapshot_create, snapshot_name="true", snapshot_incremental="true")
    assert handle.snapshotNum() == 1
    with pytest.raises(Exception, match=r"does not exist|there is no"):
        node.run(domain_tasks.snapshot_apply, snapshot_name="true", snapshot_incremental=said)
    assert handle.snapshotNum() == 1
    node.run(domain_tasks.delete)


def test_the_packaged_pool(session: Session) -> None:
    """Without a path the one below libvirt's images; a capacity says nothing to a directory."""
    node = Node(name="pool", params={"name": "plain", "capacity": 7})
    node.run(pool_tasks.create)
    root = etree.fromstring(found(session, "pool", "plain").XMLDesc())
    assert root.get("type") == "dir" and root.findtext("target/path") == "/var/lib/libvirt/images/plain"
    assert root.findtext("target/permissions/mode") == "0755"
    node.run(pool_tasks.delete)


def test_the_packaged_volume(session: Session) -> None:
    """MiB, raw, and for nobody but the hypervisor."""
    node = Node(name="volume", params={"name": "plain", "pool": "default-pool", "capacity": 3, "allocation": 1})
    node.run(volume_tasks.create)
    root = etree.fromstring(found(session, "volume", "plain").XMLDesc())
    assert [root.findtext(name) for name in ("capacity", "allocation")] == [str(3 << 20), str(1 << 20)]
    format_ = root.find("target/format")
    assert format_ is None or format_.get("type") == "raw"
    node.run(volume_tasks.delete)


@pytest.mark.parametrize("said", ["host-model", "maximum"])
def test_the_mode_of_the_processor(clean_host: Host, said: str) -> None:
    node = Node(params={**DOMAIN, "name": "facet"}, properties={"libvirt_auth": QEMU})
    node.run(domain_tasks.create)
    node.run(domain_tasks.configure, params={"domain_cpu": said})
    cpu = etree.fromstring(clean_host.domain("facet").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).find("cpu")
    assert cpu is not None and cpu.get("mode") == said
    node.run(domain_tasks.delete)
