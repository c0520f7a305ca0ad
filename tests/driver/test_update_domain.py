"""Updates of domains, on the test driver: what others did stays, and a restart that fails is taken back."""

from __future__ import annotations

from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError
from lxml import etree

from cloudify_libvirt import domain_tasks
from cloudify_libvirt.core.errors import GuestFailed
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import change, declared, machine, status
from cloudify_libvirt.steps import domain as domains
from tests.driver.conftest import Node, define

BASE, OVERLAY, OTHER = "/default-pool/base.qcow2", "/default-pool/base.later.qcow2", "/default-pool/other.qcow2"
DISK = "<disk type='file' device='disk'><driver type='{}'/><source file='{}'/><target dev='{}' bus='virtio'/></disk>"
VOLUME = "<volume><name>{}</name><capacity>1024</capacity><target><format type='qcow2'/></target>{}</volume>"


@pytest.fixture
def chain(session: Session) -> None:
    """A file, one that stands on it, and another one."""
    pool = session.connection.storagePoolLookupByName("default-pool")
    below = f"<backingStore><path>{BASE}</path><format type='raw'/></backingStore>"
    for path, store in ((BASE, ""), (OVERLAY, below), (OTHER, "")):
        pool.createXML(VOLUME.format(path.rsplit("/", 1)[1], store))


@pytest.fixture
def node(chain: None, vm: Node) -> Node:
    """A machine that is off, with one disk."""
    vm.params["disks"] = [{"file": BASE, "dev": "vdb", "type": "raw"}]
    vm.run(domain_tasks.create)
    vm.run(domain_tasks.configure)
    return vm


def handle(session: Session, node: Node) -> Any:
    return session.connection.lookupByUUIDString(node.runtime["uuid"])


def disks(session: Session, node: Node, flags: int = 0) -> dict[str, tuple[str, str]]:
    root: Any = etree.fromstring(handle(session, node).XMLDesc(flags))
    return {
        one.find("target").get("dev"): (one.find("source").get("file"), one.find("driver").get("type"))
        for one in root.findall("devices/disk")
    }


def rewrite(session: Session, node: Node, *pairs: tuple[str, str]) -> None:
    """Change the stored definition from outside."""
    text = handle(session, node).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    for old, new in pairs:
        assert text.count(old) == 1
        text = text.replace(old, new)
    session.connection.defineXML(text)


def fields(node: Node) -> set[str]:
    found: Any = node.run(domain_tasks.check_drift)
    return {one["field"] for one in found or []}


def snapshot(session: Session, node: Node) -> None:
    rewrite(session, node, (BASE, OVERLAY), ("type='raw'", "type='qcow2'"))


def test_what_a_cut_off_backup_left_is_no_part_of_the_machine(node: Node) -> None:
    node.runtime["made"] = [{"pool": "default-pool", "name": "x", "kind": "staged"}]
    assert fields(node) == set()
    node.params["description"] = "new"
    node.run(domain_tasks.update)
    assert fields(node) == set()
    assert machine.as_recorded(declared.of_today(domain_request(node))).parts == ()


def domain_request(node: Node) -> Any:
    return Request(node.ctx(), "domain", {})


@pytest.mark.parametrize("active", [False, True])
def test_a_disk_stays_on_a_snapshot_that_nobody_recorded(active: bool, node: Node, session: Session) -> None:
    snapshot(session, node)
    if active:
        handle(session, node).create()
    assert fields(node) == set()
    node.params["description"] = "new"
    node.run(domain_tasks.update)
    assert fields(node) == set()
    assert disks(session, node, libvirt.VIR_DOMAIN_XML_INACTIVE) == {"vdb": (OVERLAY, "qcow2")}


def test_a_disk_leaves_only_what_a_blueprint_named(node: Node, session: Session) -> None:
    node.params["disks"][0]["file"] = OTHER
    node.run(domain_tasks.update)
    assert disks(session, node) == {"vdb": (OTHER, "raw")}
    rewrite(session, node, (OTHER, "/by/hand"))
    node.params["description"] = "new"
    before = handle(session, node).XMLDesc()
    with pytest.raises(NonRecoverableError, match=rf"disks\[0\] of .*in /by/hand, .*; {OTHER} is declared"):
        node.run(domain_tasks.update)
    assert handle(session, node).XMLDesc() == before


def test_a_machine_without_definition_is_not_defined_below_its_snapshot(node: Node, session: Session) -> None:
    snapshot(session, node)
    handle(session, node).create()
    handle(session, node).undefine()
    node.run(domain_tasks.update)
    assert handle(session, node).isPersistent() and fields(node) == set()
    assert disks(session, node, libvirt.VIR_DOMAIN_XML_INACTIVE) == {"vdb": (OVERLAY, "qcow2")}
    handle(session, node).destroy()


@pytest.mark.parametrize("disk", [{"file": BASE, "dev": "vdc"}, {"file": OTHER, "dev": "vdb"}])
def test_a_snapshot_is_not_left_behind_by_another_blueprint(disk: dict[str, str], node: Node, session: Session) -> None:
    """The same disk at another place, and another disk at the same place."""
    snapshot(session, node)
    node.params["disks"] = [{**disk, "type": "raw"}]
    before = handle(session, node).XMLDesc()
    with pytest.raises(NonRecoverableError, match=rf"in {OVERLAY}, .*; {disk['file']} is declared"):
        node.run(domain_tasks.update)
    assert handle(session, node).XMLDesc() == before


def test_what_no_blueprint_listed_stays_and_is_named(node: Node, session: Session) -> None:
    extra = (
        DISK.format("raw", "/of/another", "vdx")
        + "<interface type='network'><mac address='52:54:00:77:77:77'/><source network='default'/></interface>"
        "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>"
    )
    rewrite(session, node, ("</devices>", f"{extra}</devices>"))
    foreign = fields(node)
    assert len(foreign) == 3
    node.params["description"] = "new"
    node.run(domain_tasks.update)
    text = handle(session, node).XMLDesc()
    assert all(one in text for one in ("/of/another", "52:54:00:77:77:77", "<rng", "<description>new<"))
    assert fields(node) == foreign
    assert not node.runtime.get("update_pending")


def test_what_was_listed_and_is_not_any_more_goes(node: Node, session: Session) -> None:
    node.params["disks"].append({"file": OTHER, "dev": "vdc", "type": "raw"})
    node.params["graphics"] = [{"type": "vnc", "password": "s3cr3t"}]
    node.run(domain_tasks.update)
    assert disks(session, node).keys() == {"vdb", "vdc"} and "<graphics" in handle(session, node).XMLDesc()
    assert "s3cr3t" not in str(node.runtime["declared"]) and f"disk vdc {OTHER}" in node.runtime["declared"]
    del node.params["graphics"], node.params["disks"][0]
    node.run(domain_tasks.update)
    assert disks(session, node).keys() == {"vdc"} and "<graphics" not in handle(session, node).XMLDesc()
    assert [one for one in node.runtime["declared"] if one.startswith(("disk", "<graphics"))] == [f"disk vdc {OTHER}"]


def test_the_devices_are_recorded_before_the_machine_is_and_cost_no_store(vm: Node) -> None:
    vm.run(domain_tasks.create)
    vm.run(domain_tasks.configure)
    first = next(one for one in vm.stored if "declared" in one)
    assert [one.split()[0] for one in first["declared"]] == ["interface", "<rng"]
    assert "vm" not in first["_domains"] and first.get("resource_id") == "vm"


@pytest.fixture
def running(node: Node) -> Node:
    node.run(domain_tasks.start)
    return node


def test_a_name_that_is_taken_stops_nothing(running: Node, session: Session) -> None:
    define(session, "taken", network="")
    run = handle(session, running).ID()
    running.params.update(name="taken", description="new")
    with pytest.raises(NonRecoverableError, match="has this name"):
        running.run(domain_tasks.update, allow_restart=True)
    assert handle(session, running).ID() == run
    assert not running.runtime.get("restarting") and not running.runtime.get("stopped")
    running.params["name"] = "vm"
    running.run(domain_tasks.update)
    assert fields(running) == set()


@pytest.mark.parametrize("point", ["_pass", "domains.restarted"])
def test_a_restart_that_fails_is_taken_back(
    point: str, running: Node, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs again is what ran before, though the definition has been changed by then."""
    running.params["disks"] = [{"file": OTHER, "dev": "vdb", "type": "raw"}]
    real = {"_pass": change._pass, "domains.restarted": domains.restarted}[point]
    calls = iter([real, None] if point == "_pass" else [None])

    def fail(*arguments: Any) -> Any:
        act = next(calls, real)
        if act is None:
            raise GuestFailed("start", "domain 'vm'", "it has no legs")
        return act(*arguments)

    with monkeypatch.context() as patch, pytest.raises(NonRecoverableError, match=r"legs\. It runs again as it did"):
        patch.setattr(f"cloudify_libvirt.steps.change.{point}", fail)
        running.run(domain_tasks.update, allow_restart=True)
    assert handle(session, running).isActive()
    assert disks(session, running) == disks(session, running, libvirt.VIR_DOMAIN_XML_INACTIVE) == {"vdb": (BASE, "raw")}
    assert status.wanted_state(domain_request(running)) == "running" and not running.runtime["restarting"]
    running.run(domain_tasks.update, allow_restart=True)
    assert disks(session, running) == {"vdb": (OTHER, "raw")} and fields(running) == set()


def test_a_machine_that_cannot_start_again_is_known_to_be_off(
    running: Node, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> None:
        raise GuestFailed("start", "domain 'vm'", "it has no legs")

    running.params["disks"] = [{"file": OTHER, "dev": "vdb", "type": "raw"}]
    with monkeypatch.context() as patch, pytest.raises(NonRecoverableError, match="no legs"):
        patch.setattr("cloudify_libvirt.steps.domain.restarted", fail)
        running.run(domain_tasks.update, allow_restart=True)
    assert not handle(session, running).isActive()
    assert "state" in fields(running)
    running.run(domain_tasks.update)
    assert handle(session, running).isActive() and fields(running) == set()


def test_what_heal_defines_was_declared(node: Node, session: Session) -> None:
    handle(session, node).undefine()
    node.params["disks"] = [{"file": OTHER, "dev": "vdb", "type": "raw"}]
    node.run(domain_tasks.heal)
    assert disks(session, node) == {"vdb": (OTHER, "raw")}
    node.params["disks"] = [{"file": BASE, "dev": "vdb", "type": "raw"}]
    node.run(domain_tasks.update)
    assert disks(session, node) == {"vdb": (BASE, "raw")}
