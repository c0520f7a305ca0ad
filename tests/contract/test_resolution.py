"""Sections 3 to 5: how values are resolved, what is recorded, and what operations do with what is not theirs."""

from __future__ import annotations

import re
from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks, iso9660_tasks, network_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.core.session import Session
from tests.contract.places import DISK, DOMAIN, URI, Node, define, has_address
from tests.driver.conftest import define_network
from tests.real.conftest import IMAGES

LIFE = ("create", "configure", "start")


def life(node: Node, *names: str, **inputs: Any) -> None:
    for name in names or LIFE:
        node.run(getattr(domain_tasks, name), **inputs)


def end(node: Node, module: Any = domain_tasks) -> None:
    for name in ("stop", "delete"):
        if hasattr(module, name):
            node.run(getattr(module, name))


def element(session: Session, name: str, path: str) -> str:
    """What is stored: nothing in these machines hears the balloon."""
    text = session.connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    found = re.search(path, text)
    assert found, text
    return found[1]


def test_libvirt_auth_input_before_runtime_before_property(session: Session) -> None:
    node = Node(params=DOMAIN, properties={"libvirt_auth": "xen:///nowhere"})
    node.run(domain_tasks.create, libvirt_auth=URI)
    assert node.runtime["libvirt_auth"] == URI
    life(node, "configure", "start")
    end(node)


def test_params_are_merged_top_level_and_kept_for_later_operations(session: Session) -> None:
    node = Node(
        params={**DOMAIN, "vcpu": 1, "networks": [{"network": "default"}, {"network": "default"}]},
        runtime={"params": {"vcpu": 2, "name": "from-runtime"}},
    )
    node.run(domain_tasks.create, params={"vcpu": "3", "networks": [{"network": "default"}]})
    assert node.runtime["params"]["vcpu"] == "3" and len(node.runtime["params"]["networks"]) == 1
    assert node.runtime["params"]["name"] == "from-runtime" and node.runtime["params"]["memory_size"] == 65536
    life(node, "configure", "start")
    assert element(session, "from-runtime", r"<vcpu[^>]*>(\d+)<") == "3"
    end(node)


def test_an_empty_name_is_the_instance_id_and_the_uuid_is_kept(session: Session) -> None:
    node = Node(params={**DOMAIN, "name": ""})
    life(node)
    assert node.runtime["resource_id"] == node.runtime["params"]["name"] == node.id
    uuid = session.connection.lookupByName(node.id).UUIDString()
    assert node.runtime["params"]["instance_uuid"] == uuid
    end(node)


def test_the_uuid_of_an_input_becomes_that_of_the_object(session: Session) -> None:
    uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
    node = Node(params=DOMAIN)
    life(node, params={"instance_uuid": uuid})
    assert session.connection.lookupByName(node.id).UUIDString() == uuid
    end(node)


@pytest.mark.parametrize("said", ["true", "yes", True, "True", "1"])
@pytest.mark.parametrize("place", ["inputs", "properties"])
def test_an_external_domain_is_found_by_name_and_left_alone(session: Session, place: str, said: object) -> None:
    theirs = define(session, "theirs")
    given = {"use_external_resource": said, "resource_id": "theirs"}
    node = Node(properties=given if place == "properties" else {}, params={"wait_for_ip": False})
    node.run(domain_tasks.create, **(given if place == "inputs" else {}))
    node.run(domain_tasks.configure)
    assert node.runtime["resource_id"] == "theirs" and node.runtime["use_external_resource"] is True
    end(node)
    assert session.connection.lookupByName("theirs").UUIDString() == theirs.uuid


def test_an_external_domain_is_acted_on_but_not_ended(session: Session) -> None:
    define(session, "theirs")
    node = Node(properties={"use_external_resource": True, "resource_id": "theirs"}, params={"wait_for_ip": False})
    life(node)
    assert session.connection.lookupByName("theirs").isActive()
    for name in ("suspend", "resume", "reboot", "perfomance"):
        node.run(getattr(domain_tasks, name))
    node.run(domain_tasks.update, params={"memory_size": "32768"}, timeout_s=0.2)
    assert element(session, "theirs", r"<currentMemory[^>]*>(\d+)<") == "32768"
    end(node)
    assert session.connection.lookupByName("theirs").isActive()


@pytest.mark.parametrize("said", ["false", "no", False, "", "False", "0"])
def test_false_in_every_spelling_makes_an_object_of_our_own(session: Session, said: object) -> None:
    node = Node(params=DOMAIN)
    node.run(domain_tasks.create, use_external_resource=said)
    life(node, "configure")
    assert session.connection.lookupByName(node.id)
    end(node)


def test_what_is_external_and_missing_is_final(session: Session) -> None:
    given = {"use_external_resource": True, "resource_id": "nobody"}
    with pytest.raises(NonRecoverableError, match=r"nobody.* does not exist"):
        life(Node(), "create", "configure", **given)
    for module in (network_tasks, pool_tasks):
        with pytest.raises(NonRecoverableError, match=r"nobody.* does not exist"):
            Node().run(module.create, **given)
    with pytest.raises(NonRecoverableError, match=r"nobody.* does not exist"):
        Node(params={"pool": "default-pool"}).run(volume_tasks.create, **given)


@pytest.mark.parametrize("module", [network_tasks, pool_tasks, volume_tasks, domain_tasks])
def test_without_a_resource_id_ending_is_nothing_and_the_rest_is_final(session: Session, module: Any) -> None:
    end(Node(), module)
    if module is volume_tasks:
        Node().run(module.start)
    if module is domain_tasks:
        for name in ("start", "update", "reboot", "suspend", "resume", "perfomance"):
            with pytest.raises(NonRecoverableError, match="it was never made, or is gone"):
                Node().run(getattr(module, name))


def test_networks_pools_and_volumes_leave_what_is_external(session: Session) -> None:
    network = define_network(session, "theirs")
    node = Node(name="net", properties={"use_external_resource": "yes", "resource_id": "theirs"})
    node.run(network_tasks.create)
    assert node.runtime["resource_id"] == "theirs"
    node.run(network_tasks.delete)
    assert session.connection.networkLookupByName("theirs").UUIDString() == network.uuid
    pool = Node(name="pool")
    for name in ("create", "configure", "start"):
        inputs = {"use_external_resource": True, "resource_id": "default-pool"} if name == "create" else {}
        pool.run(getattr(pool_tasks, name), **inputs)
    end(pool, pool_tasks)
    assert session.connection.storagePoolLookupByName("default-pool").isActive()


def test_what_is_recorded_of_each_kind(session: Session) -> None:
    network = Node(name="net", params={"dev": "vbrx", "ips": [{"address": "10.77.0.1", "netmask": "255.255.255.0"}]})
    network.run(network_tasks.create)
    assert network.runtime["resource_id"] == "net_x0" and network.runtime["libvirt_auth"] == URI
    pool = Node(name="pool", params={"path": str(IMAGES / "contract-pool")})
    for name in ("create", "configure", "start"):
        pool.run(getattr(pool_tasks, name))
    volume = Node(name="volume", params={"pool": "pool_x0", "capacity": "3", "allocation": 1})
    for name in ("create", "start"):
        volume.run(getattr(volume_tasks, name))
    handle = session.connection.storagePoolLookupByName("pool_x0").storageVolLookupByName("volume_x0")
    assert handle.info()[1] == 3 * 1024**2, "MiB"
    assert volume.runtime["resource_id"] == "volume_x0" and volume.runtime["params"]["path"] == handle.path()
    assert volume.runtime["use_external_resource"] is False
    for node, module in ((volume, volume_tasks), (pool, pool_tasks), (network, network_tasks)):
        end(node, module)
        assert node.runtime.get("resource_id", "gone") is None
        assert not node.runtime.get("params"), "a clean reinstall"


def test_what_a_started_domain_records(session: Session, booting: list[dict[str, Any]]) -> None:
    networks = [{"network": "default", "dev": "vnet0", "type": "virtio"} for _ in range(2)]
    networks[1]["mac"] = "52:54:00:AB:CD:EF"
    node = Node(params={**booting[0], "wait_for_ip": True, "networks": networks})
    life(node)
    has_address(node)
    assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", node.runtime["ip"])
    cards = node.runtime["params"]["networks"]
    assert len(cards) == 2 and len({card["mac"] for card in cards}) == 2
    for card in cards:
        assert card["network"] == "default" and card["dev"]
        assert set(card["addrs"][0]) == {"addr", "prefix", "type"} and card["addrs"][0]["type"] == 0
    node.run(domain_tasks.perfomance)
    assert set(node.runtime["stat"]) == {"cpu", "memory"} and node.runtime["stat"]["memory"] == 128
    end(node)
    assert node.runtime == {"resource_id": None}


def test_a_maximum_of_memory_is_twice_what_is_asked_for(session: Session) -> None:
    node = Node(params=DOMAIN)
    life(node)
    assert element(session, node.id, r"<memory[^>]*>(\d+)<") == "131072"
    assert element(session, node.id, r"<currentMemory[^>]*>(\d+)<") == "65536"
    end(node)


def test_wait_for_ip_that_no_merged_params_hold_is_false(session: Session) -> None:
    node = Node(params={"memory_size": 65536, "shutdown_timeout_s": 0, "networks": [{"network": "default"}]})
    life(node)
    assert node.run(domain_tasks.get_state) is True and not node.runtime.get("ip")
    end(node)


def test_an_operation_may_be_called_from_any_other(session: Session) -> None:
    """`configure` alone, with everything as its inputs: a function must not assume what came before."""
    node = Node()
    node.run(domain_tasks.configure, params={**DOMAIN, "name": "alone"}, libvirt_auth=URI, whatever="ignored")
    node.run(domain_tasks.start, whatever="ignored")
    assert session.connection.lookupByName("alone").state()[0] == libvirt.VIR_DOMAIN_RUNNING
    end(node)


def test_params_written_before_create_are_honoured_and_read_again_in_configure(session: Session) -> None:
    """As by a script of a relationship, between create and configure."""
    node = Node(params={**DOMAIN, "disks": [{"file": "/old", "dev": "vda"}], "networks": [{"network": "default"}]})
    node.run(domain_tasks.create)
    card = {"network": "default", "mac": "52:54:00:12:34:56", "type": "e1000"}
    disks = [{"bus": "virtio", "dev": "vdb", "file": DISK, "type": "qcow2"}]
    node.runtime["params"] = {**node.runtime["params"], "disks": disks, "networks": [card]}
    life(node, "configure", "start")
    xml = session.connection.lookupByName(node.id).XMLDesc()
    assert DISK in xml and "/old" not in xml and "52:54:00:12:34:56" in xml and "e1000" in xml
    end(node)


def test_the_iso_needs_its_volume_and_pool(session: Session) -> None:
    with pytest.raises(NonRecoverableError, match=r"params\.volume|params\.pool"):
        Node(name="iso").run(iso9660_tasks.create, params={"files": {"a": "b"}})
