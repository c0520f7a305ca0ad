"""Where the contract is tried: on QEMU inside a lab, on libvirt's test driver elsewhere; the same tests in both."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import libvirt
import pytest

from cloudify_libvirt import domain_tasks
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.session import Session, connect
from tests.driver import conftest as driver
from tests.real.conftest import IMAGES, QEMU, Host


def inside_lab() -> bool:
    return Path("/proc/sys/kernel/hostname").read_text().strip() == os.environ.get("CLOUDIFY_LIBVIRT_LAB")


INSIDE = inside_lab()
URI = QEMU if INSIDE else driver.URI
KIND = "qemu" if INSIDE else "test"
# Of a guest, on a host with much else to do.
BOOT_S = 300
# Nothing listens in most of the machines: none waits for a shutdown.
DOMAIN = {"memory_size": 65536, "wait_for_ip": False, "shutdown_timeout_s": 0}
# What the test driver has from the beginning.
NETWORK = (
    "<network><name>default</name><bridge name='contract0' stp='off' delay='0'/>"
    "<ip address='10.98.48.1' netmask='255.255.255.0'><dhcp><range start='10.98.48.2' end='10.98.48.99'/></dhcp></ip>"
    "</network>"
)
# A qcow2 image; the test driver does not look whether there is one.
DISK = str(IMAGES / "contract-disk.qcow2")
POOL = f"<pool type='dir'><name>default-pool</name><target><path>{IMAGES}/contract-default</path></target></pool>"


class Node(driver.Node):
    """A node instance whose property says the place's hypervisor."""

    uri: ClassVar[str] = URI


def domain_xml(name: str, uid: str = "") -> str:
    """The definition of somebody else's domain."""
    return (
        f"<domain type='{KIND}'><name>{name}</name><uuid>{uid or uuid.uuid4()}</uuid><memory>65536</memory>"
        "<os><type>hvm</type></os><devices><interface type='network'><source network='default'/></interface></devices>"
        "</domain>"
    )


def has_address(node: Node) -> None:
    """Ask as the engine does, until the machine has an address; then until each of its cards has one."""
    deadline = time.monotonic() + BOOT_S
    while not node.run(domain_tasks.get_state):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while not all(card.get("addrs") for card in node.runtime["params"]["networks"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        node.run(domain_tasks.pull)


def define(session: Session, name: str) -> Domain:
    uid = str(uuid.uuid4())
    return Domain.define(session, domain_xml(name, uid), name, uid)


@pytest.fixture(scope="module")
def defaults() -> Iterator[None]:
    """The network and the pool that the test driver has, and a disk: made in a lab, for the tests of one file."""
    if not INSIDE:
        yield
        return
    connection = libvirt.open(QEMU)
    network, pool = connection.networkDefineXML(NETWORK), connection.storagePoolDefineXML(POOL)
    try:
        network.create()
        pool.build()
        pool.create()
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", DISK, "1M"], check=True)
        yield
    finally:
        for handle in (network, pool):
            if handle.isActive():
                handle.destroy()
            handle.undefine()
        (IMAGES / "contract-default").rmdir()
        Path(DISK).unlink(missing_ok=True)
        connection.close()


@pytest.fixture
def session(defaults: None) -> Iterator[Session]:
    """The connection; what a test leaves on it is removed afterwards, and in a lab nothing else may be left."""
    found = connect(URI)
    kept = driver.everything(found.connection)
    host = Host() if INSIDE else None
    before = host.everything() if host else {}
    yield found
    driver.clear(found.connection, kept)
    if host:
        left = host.settled(before)
        assert left == before, {kind: left[kind] ^ before[kind] for kind in before}


@pytest.fixture
def booting(session: Session, request: pytest.FixtureRequest) -> Iterator[list[dict[str, object]]]:
    """What machines need to have an address: one that boots, or two of the test driver, which have it at once."""
    path = IMAGES / "contract-guest.qcow2"
    disks = [{"file": str(path), "dev": "vda", "bus": "virtio", "type": "qcow2"}]
    if INSIDE:
        shutil.copyfile(request.getfixturevalue("tiny"), path)
    guest = {**DOMAIN, "memory_size": 131072}
    yield [{**guest, "disks": disks}] if INSIDE else [guest, guest]
    path.unlink(missing_ok=True)
