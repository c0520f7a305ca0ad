"""MAC addresses are compared over all drivers of a host: they meet on the same bridges."""

from __future__ import annotations

from collections.abc import Iterator

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks
from cloudify_libvirt.core.host.preflight import domain_macs, taken_macs
from cloudify_libvirt.core.session import connect
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
