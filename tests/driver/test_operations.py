"""Operations with cloudify's own mock of ctx, on the test driver: policies, errors, records, the life cycle."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError, RecoverableError

import cloudify_libvirt
from cloudify_libvirt import domain_tasks, network_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.core.session import Session
from tests.driver.conftest import Node, define, domain_xml

LIFE = ("validate", "create", "configure", "start")


def operations() -> Iterator[Any]:
    for module in pkgutil.iter_modules(cloudify_libvirt.__path__):
        if module.name.endswith("_tasks"):
            tasks = importlib.import_module(f"cloudify_libvirt.{module.name}")
            yield from (
                value for value in vars(tasks).values()
                if getattr(value, "__module__", "") == tasks.__name__ and callable(value)
            )  # fmt: skip


def install(node: Node, module: Any = domain_tasks, *, until: str = "start", **inputs: Any) -> None:
    for name in LIFE[: LIFE.index(until) + 1]:
        if hasattr(module, name):
            node.run(getattr(module, name), **inputs)


def uninstall(node: Node, module: Any = domain_tasks) -> None:
    for name in ("prestop", "stop", "delete"):
        if hasattr(module, name):
            node.run(getattr(module, name))


def names(session: Session) -> set[str]:
    return {domain.name() for domain in session.connection.listAllDomains()}


def test_every_operation_is_resumable_and_keeps_its_name() -> None:
    found = list(operations())
    assert len(found) > 25
    assert [f.__name__ for f in found if not getattr(f, "resumable", False)] == []
    assert all(f.__doc__ for f in found)


@pytest.mark.parametrize("again", [1, 2])
def test_domain_life_cycle_each_operation_may_come_twice(session: Session, vm: Node, again: int) -> None:
    before = names(session)
    for name in LIFE:
        for _ in range(again):
            vm.run(getattr(domain_tasks, name))
    assert names(session) - before == {"vm"}
    assert session.connection.lookupByName("vm").isActive()
    assert vm.run(domain_tasks.get_state) is True
    assert vm.runtime["resource_id"] == "vm" and vm.runtime["domain_type"] == "test"
    for name in ("prestop", "stop", "delete"):
        for _ in range(again):
            vm.run(getattr(domain_tasks, name))
    assert names(session) == before
    assert vm.runtime == {"resource_id": None}


def test_a_reinstall_is_the_same_machine(session: Session, vm: Node) -> None:
    seen = []
    for _ in range(2):
        install(vm)
        handle = session.connection.lookupByName("vm")
        seen.append((handle.UUIDString(), vm.runtime["params"]["networks"][0]["mac"]))
        uninstall(vm)
    assert seen[0] == seen[1]


def test_addresses_are_written_where_blueprints_read_them(session: Session, vm: Node) -> None:
    vm.params["wait_for_ip"] = True
    install(vm)
    assert vm.run(domain_tasks.get_state) is True
    ip = vm.runtime["ip"]
    assert ip.startswith("192.168.")
    assert vm.runtime["public_ip_address"] == ip and vm.runtime["ipv4_addresses"] == [ip]
    card = vm.runtime["networks"][0]
    assert card["network"] == "default" and card["addresses"] == [{"addr": ip, "prefix": 24, "type": 0}]
    written = vm.runtime["params"]["networks"][0]
    assert (written["mac"], written["addrs"]) == (card["mac"], card["addresses"]) and written["dev"]
    vm.run(domain_tasks.stop)
    assert vm.runtime["ip"] is None


def test_the_intent_is_stored_before_anything_is_made(session: Session, vm: Node) -> None:
    install(vm, until="create")
    assert all(not snapshot.get("resource_id") for snapshot in vm.stored)
    vm.params["networks"] = [{"network": "default", "mac": "not a mac"}]
    vm.runtime["params"]["networks"] = vm.params["networks"]
    with pytest.raises(NonRecoverableError):
        vm.run(domain_tasks.configure)
    assert "vm" not in names(session)
    good = Node(name="good", params={"name": "good", "memory": "64 MiB"})
    install(good, until="configure")
    first = next(snapshot for snapshot in good.stored if snapshot.get("resource_id"))
    assert first["uuid"] == session.connection.lookupByName("good").UUIDString()
    assert "good" not in first["_domains"]


def test_a_killed_configure_is_taken_up_again(session: Session, vm: Node) -> None:
    """Killed right after the definition: only what was stored before is left."""
    install(vm, until="configure")
    uuid = vm.runtime["uuid"]
    intent = next(snapshot for snapshot in vm.stored if snapshot.get("uuid"))
    vm.runtime.clear()
    vm.runtime.update(intent)
    install(vm)
    assert session.connection.lookupByName("vm").UUIDString() == uuid
    uninstall(vm)
    assert "vm" not in names(session)


def test_a_foreign_domain_of_the_name_is_refused_and_left(session: Session, vm: Node) -> None:
    foreign = define(session, "vm")
    with pytest.raises(NonRecoverableError, match=r"^vm_x0: cannot define domain 'vm'.*another domain"):
        install(vm)
    uninstall(vm)
    assert session.connection.lookupByName("vm").UUIDString() == foreign.uuid


def test_a_domain_of_our_uuid_that_this_instance_did_not_record_is_refused(session: Session, vm: Node) -> None:
    """Its state was lost, or another host's deployment has the same name: never adopted, never deleted (A5)."""
    install(vm, until="create")
    uid = vm.runtime["params"]["instance_uuid"]
    session.connection.defineXML(domain_xml("vm", uid=uid))
    with pytest.raises(NonRecoverableError, match="from an earlier install of deployment 'dep' whose state is gone"):
        vm.run(domain_tasks.configure)
    uninstall(vm)
    assert "vm" in names(session)


def test_a_replaced_domain_is_not_ours_any_more(session: Session, vm: Node) -> None:
    install(vm)
    session.connection.lookupByName("vm").destroy()
    session.connection.lookupByName("vm").undefine()
    define(session, "vm")
    with pytest.raises(NonRecoverableError, match="cannot start the domain of node vm: it was never made, or is gone"):
        vm.run(domain_tasks.start)
    uninstall(vm)
    assert "vm" in names(session)


def test_gone_behind_our_back_is_fine_to_uninstall(session: Session, vm: Node) -> None:
    """B9."""
    install(vm)
    session.connection.lookupByName("vm").destroy()
    session.connection.lookupByName("vm").undefine()
    uninstall(vm)
    assert vm.runtime == {"resource_id": None}


@pytest.mark.parametrize("module", [domain_tasks, network_tasks, pool_tasks, volume_tasks])
def test_never_created_is_fine_to_uninstall(session: Session, module: Any) -> None:
    """The engine calls stop and delete also on instances that were never created."""
    node = Node(params={"pool": "default-pool"})
    uninstall(node, module)
    assert node.runtime.get("resource_id") is None
    assert not {"params", "uuid", "index"} & set(node.runtime)


@pytest.mark.parametrize("name", ["start", "get_state", "reboot", "suspend", "resume"])
def test_never_created_cannot_act(session: Session, name: str) -> None:
    with pytest.raises(NonRecoverableError, match="the domain of node vm: it was never made"):
        Node().run(getattr(domain_tasks, name))


def test_freeze_may_come_twice(session: Session, vm: Node) -> None:
    install(vm)
    handle = session.connection.lookupByName("vm")
    for operation, state in ((domain_tasks.suspend, libvirt.VIR_DOMAIN_PAUSED), (domain_tasks.resume, 1)):
        for _ in range(2):
            vm.run(operation)
            assert handle.state()[0] == state
    vm.run(domain_tasks.reboot)
    assert handle.isActive()


def test_an_error_that_may_pass_is_retried(session: Session, vm: Node) -> None:
    vm.properties["libvirt_auth"] = "qemu+unix:///system?socket=/nonexistent/socket"
    with pytest.raises(RecoverableError, match=r"^vm_x0: cannot connect to hypervisor qemu\+unix:///system") as caught:
        vm.run(domain_tasks.validate)
    assert type(caught.value.__cause__).__name__ == "ConnectFailed"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"memroy": "1 GiB"}, "memory"),
        ({"memory": "1 XiB"}, "GiB"),
        ({"memory": 512}, "say the unit"),
        ({"networks": [{"netwrok": "default"}]}, "network"),
        ({"networks": [{"network": {"get_attribute": ["net", "resource_id"]}}]}, "get_attribute"),
    ],
)
def test_bad_parameters_are_final_and_leave_nothing(session: Session, params: dict[str, Any], said: str) -> None:
    node = Node(params={"name": "bad", "memory": "64 MiB", **params})
    with pytest.raises(NonRecoverableError, match=said) as caught:
        install(node)
    assert str(caught.value).startswith("vm_x0: ")
    assert "bad" not in names(session)


@pytest.mark.parametrize("mac", ["52:54:00:00:00:77", "52-54-00-00-00-77"])
def test_a_taken_mac_is_refused(session: Session, mac: str) -> None:
    define(session, "neighbour", mac="52:54:00:00:00:77")
    node = Node(params={"name": "second", "memory": "64 MiB", "networks": [{"network": "default", "mac": mac}]})
    with pytest.raises(NonRecoverableError, match="MAC 52:54:00:00:00:77 belongs to domain 'neighbour'"):
        install(node)
    assert "second" not in names(session)


def test_a_derived_mac_that_is_taken_gives_way_to_the_next(session: Session, vm: Node) -> None:
    install(vm, until="create")
    derived = vm.runtime["params"]["networks"][0]["mac"]
    # Of a name that no other test had: what is known of that one follows its events.
    define(session, "twin", mac=derived)
    install(fresh := Node(params=vm.params), until="configure")
    mac = fresh.runtime["params"]["networks"][0]["mac"]
    assert mac not in ("", derived)
    assert mac in session.connection.lookupByName("vm").XMLDesc()


def test_external_domain_is_used_and_left(session: Session) -> None:
    foreign = define(session, "theirs")
    node = Node(properties={"use_external_resource": True, "resource_id": "theirs"})
    install(node)
    assert foreign.active, "start acts on external domains, as the contract says"
    assert node.runtime["uuid"] == foreign.uuid and node.runtime["use_external_resource"] is True
    xml = foreign.xml()
    uninstall(node)
    assert foreign.active and foreign.xml() == xml
    assert node.runtime == {"resource_id": None}


def test_external_by_input(session: Session) -> None:
    define(session, "theirs")
    node = Node()
    install(node, until="configure", use_external_resource="yes", resource_id="theirs")
    assert node.runtime["use_external_resource"] is True and node.runtime["resource_id"] == "theirs"


def test_a_missing_external_object_is_an_error_or_is_made(session: Session, vm: Node) -> None:
    vm.properties.update(use_external_resource=True, resource_id="wanted")
    with pytest.raises(NonRecoverableError, match=r"cannot use domain 'wanted'.*create_if_missing"):
        install(vm)
    assert "wanted" not in names(session)
    vm.properties["create_if_missing"] = "true"
    install(vm)
    assert "wanted" in names(session)
    uninstall(vm)
    assert "wanted" not in names(session), "what we made, we remove"


def test_network_life_cycle(session: Session) -> None:
    node = Node(name="net", params={"name": "net", "cidr": "auto"})
    for name in ("validate", "create", "start"):
        for _ in range(2):
            node.run(getattr(network_tasks, name))
    network = session.connection.networkLookupByName("net")
    assert network.isActive() and network.isPersistent()
    assert network.bridgeName() == node.runtime["bridge"]
    uninstall(node, network_tasks)
    assert "net" not in {n.name() for n in session.connection.listAllNetworks()}
    assert node.runtime == {"resource_id": None}


def test_a_network_with_running_guests_is_left(session: Session) -> None:
    node = Node(name="net", params={"name": "net", "cidr": "auto"})
    install(node, network_tasks)
    define(session, "guest", network="net").start()
    uninstall(node, network_tasks)
    assert session.connection.networkLookupByName("net").isActive()


def test_external_network_and_pool_are_left(session: Session) -> None:
    for module, name, look in (
        (network_tasks, "default", session.connection.networkLookupByName),
        (pool_tasks, "default-pool", session.connection.storagePoolLookupByName),
    ):
        node = Node(properties={"use_external_resource": True, "resource_id": name})
        install(node, module)
        assert node.runtime["resource_id"] == name
        uninstall(node, module)
        assert look(name).isActive()


def test_links_write_to_their_source_only(session: Session, vm: Node) -> None:
    vm.params["wait_for_ip"] = False
    install(vm)
    source, target = vm.ctx(), Node(name="net", runtime={"resource_id": "default"})

    class Relationship:
        type = "relationship-instance"
        logger = source.logger
        deployment = source.deployment
        tenant_name = None

    Relationship.source, Relationship.target = source, target.ctx()  # type: ignore[attr-defined]
    network_tasks.link(ctx=Relationship())
    assert vm.runtime["ip"].startswith("192.168.")
    network_tasks.unlink(ctx=Relationship())
    assert vm.runtime["ip"] is None
    assert target.runtime == {"resource_id": "default"}


def test_pool_and_volume_life_cycle(session: Session) -> None:
    pool = Node(name="pool", params={"name": "pool", "path": "/nowhere/pool"})
    volume = Node(name="vol", params={"name": "data", "pool": "pool", "capacity": 8})
    for node, module in ((pool, pool_tasks), (volume, volume_tasks)):
        for name in LIFE:
            for _ in range(2):
                if hasattr(module, name):
                    node.run(getattr(module, name))
    handle = session.connection.storagePoolLookupByName("pool")
    assert handle.isActive() and [v.name() for v in handle.listAllVolumes()] == ["data"]
    assert handle.storageVolLookupByName("data").info()[1] == 8 * 1024**2
    assert volume.runtime["params"]["path"] == "/nowhere/pool/data"
    volume.run(volume_tasks.stop)
    assert [v.name() for v in handle.listAllVolumes()] == ["data"], "A1: stop keeps the content"
    uninstall(volume, volume_tasks)
    assert handle.listAllVolumes() == []
    uninstall(pool, pool_tasks)
    assert "pool" not in {p.name() for p in session.connection.listAllStoragePools()}
    assert pool.runtime == volume.runtime == {"resource_id": None}


def test_a_volume_in_use_is_left_with_a_warning(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    volume = Node(name="vol", params={"name": "data", "pool": "default-pool", "capacity": 1})
    install(volume, volume_tasks)
    define(session, "user", extra="<disk type='file'><source file='/default-pool/data'/><target dev='hda'/></disk>")
    logger = volume.ctx().logger
    logger.propagate = True
    uninstall(volume, volume_tasks)
    assert "left volume 'data' alone: it is used by domain 'user'" in caplog.text
    pool = session.connection.storagePoolLookupByName("default-pool")
    assert [v.name() for v in pool.listAllVolumes()] == ["data"]


def test_a_foreign_volume_of_the_name_is_refused_and_left(session: Session) -> None:
    pool = session.connection.storagePoolLookupByName("default-pool")
    pool.createXML("<volume><name>data</name><capacity unit='MiB'>1</capacity></volume>")
    node = Node(name="vol", params={"name": "data", "pool": "default-pool", "capacity": 1})
    with pytest.raises(NonRecoverableError, match=r"cannot create volume 'data'.*a volume of this name exists"):
        install(node, volume_tasks)
    uninstall(node, volume_tasks)
    assert [v.name() for v in pool.listAllVolumes()] == ["data"]
