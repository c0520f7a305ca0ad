"""MAC addresses are compared over all drivers of a host: they meet on the same bridges."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks
from cloudify_libvirt.core import parse
from cloudify_libvirt.core.host.preflight import domain_macs, taken_macs
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.request import Request
from tests.driver.conftest import Node
from tests.real.netlab import LXC, QEMU, Networks

MAC = "52:54:00:61:00:01"
CONTAINER = (
    "<domain type='lxc'><name>mac-holder</name><memory>65536</memory><os><type>exe</type><init>/bin/sh</init></os>"
    f"<devices><interface type='network'><mac address='{MAC}'/><source network='shared'/></interface>"
    "</devices></domain>"
)


@pytest.fixture
def shared() -> Iterator[Networks]:
    made = Networks()
    made.create("shared", cidr="auto")
    yield made
    made.remove()


@pytest.fixture
def holder(shared: Networks) -> Iterator[libvirt.virDomain]:
    """A container, defined and off, with a card of that MAC."""
    container = libvirt.open(LXC).defineXML(CONTAINER)
    yield container
    container.undefine()


def test_a_containers_mac_is_taken_for_a_machine(holder: libvirt.virDomain) -> None:
    assert taken_macs(connect(QEMU), "")[MAC] == taken_macs(connect(LXC), "")[MAC] == "domain 'mac-holder'"
    assert MAC not in taken_macs(connect(QEMU), holder.UUIDString())
    node = Node(
        name="twin", properties={"libvirt_auth": QEMU}, deployment="nets",
        params={"name": "twin", "memory": "32 MiB", "networks": [{"network": "shared", "mac": MAC}],
                "wait_for_ip": False},
    )  # fmt: skip
    try:
        with pytest.raises(NonRecoverableError, match=f"{MAC}.*domain 'mac-holder'"):
            for operation in (domain_tasks.validate, domain_tasks.create, domain_tasks.configure):
                node.run(operation)
    finally:
        node.run(domain_tasks.delete)


def test_what_is_known_of_the_other_drivers_domains_is_kept_fresh(holder: libvirt.virDomain) -> None:
    """Each driver's events reach the session of that driver, where the answer is cached."""
    session = connect(QEMU)
    assert ("mac-holder", holder.UUIDString(), MAC) in domain_macs(session)
    changed = CONTAINER.replace(MAC, "52:54:00:61:00:02")
    libvirt.open(LXC).defineXML(changed.replace("<memory>", f"<uuid>{holder.UUIDString()}</uuid><memory>"))
    found = {mac for name, _uuid, mac in domain_macs(session) if name == "mac-holder"}
    assert found == {"52:54:00:61:00:02"}


@pytest.fixture
def twins(shared: Networks) -> Iterator[list[Node]]:
    """Two machines that are off, without cards."""
    nodes = [
        Node(name=name, properties={"libvirt_auth": QEMU}, deployment="nets",
             params={"name": name, "memory": "32 MiB", "wait_for_ip": False})
        for name in ("twin-a", "twin-b")
    ]  # fmt: skip
    for node in nodes:
        node.run(domain_tasks.create)
        node.run(domain_tasks.configure)
    yield nodes
    for node in nodes:
        node.run(domain_tasks.delete)


def macs(node: Node) -> list[str]:
    text = libvirt.open(QEMU).lookupByUUIDString(node.runtime["uuid"]).XMLDesc()
    return [card.mac for card in parse.domain(text).interfaces]


def attach(node: Node, mac: str) -> str:
    """Attach a card; return what was said against it."""
    try:
        node.run(domain_tasks.attach_device_flags, params={"networks": [{"network": "shared", "mac": mac}]})
    except NonRecoverableError as error:
        return str(error)
    return ""


def test_two_machines_that_attach_the_same_card_at_once(twins: list[Node], holder: libvirt.virDomain) -> None:
    for number in range(2, 7):
        mac = f"52:54:00:61:00:{number:02x}"
        with ThreadPoolExecutor(2) as pool:
            said = list(pool.map(attach, twins, [mac, mac]))
        assert sorted(map(bool, said)) == [False, True] and f"MAC {mac} belongs to domain 'twin-" in "".join(said)
        assert [*macs(twins[0]), *macs(twins[1])].count(mac) == 1
    assert f"MAC {MAC} belongs to domain 'mac-holder'" in attach(twins[0], MAC)


def test_a_card_that_an_update_adds_has_a_mac_of_its_own(twins: list[Node], holder: libvirt.virDomain) -> None:
    one, other = twins
    one.params["networks"] = [{"network": "shared", "mac": MAC}]
    with pytest.raises(NonRecoverableError, match=f"MAC {MAC} belongs to domain 'mac-holder'"):
        one.run(domain_tasks.update)
    assert macs(one) == []
    # Somebody has what would be derived for the other's first card.
    one.params["networks"] = [{"network": "shared"}]
    one.run(domain_tasks.update)
    assert len(macs(one)) == 1 and one.run(domain_tasks.check_drift) is None
    derived = Request(other.ctx(), "domain", {}).identity.mac(0)
    assert attach(one, derived) == ""
    other.params["networks"] = [{"network": "shared"}]
    other.run(domain_tasks.update)
    assert len(macs(other)) == 1 and not {*macs(one)} & {*macs(other)}
    assert other.run(domain_tasks.check_drift) is None
