"""A kept definition of a network comes back: where another one is stored, where none is, where the network is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudify_libvirt import network_tasks
from tests.driver.conftest import Node
from tests.real.conftest import QEMU, Host, virsh

NAME = "kept-net"
HOST = "<host ip='10.98.77.9'><hostname>theirs</hostname></host>"


@pytest.fixture
def net(host: Host, tmp_path: Path) -> Iterator[Node]:
    params = {"name": NAME, "cidr": "10.98.77.0/24", "autostart": True}
    node = Node(
        name="net", deployment="kept", params=params, properties={"libvirt_auth": QEMU, "backup_dir": str(tmp_path)}
    )
    before = host.networks()
    node.run(network_tasks.create)
    node.run(network_tasks.start)
    node.run(network_tasks.snapshot_create, snapshot_name="one")
    yield node
    node.run(network_tasks.delete)
    assert host.networks() == before


def stored() -> str:
    return virsh("net-dumpxml", "--inactive", NAME)


def facts() -> dict[str, str]:
    lines = (line.split(":", 1) for line in virsh("net-info", NAME).splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in lines}


def test_what_is_stored_comes_back_and_what_runs_so_goes_on(net: Node) -> None:
    before, bridge = stored(), Path("/sys/class/net", facts()["Bridge"], "ifindex").read_text()
    virsh("net-update", NAME, "add", "dns-host", HOST, "--config")
    assert "theirs" in stored()
    net.run(network_tasks.snapshot_apply, snapshot_name="one", snapshot_restart=True)
    assert stored() == before
    assert Path("/sys/class/net", facts()["Bridge"], "ifindex").read_text() == bridge, "it was not started anew"


def test_undefined_while_it_runs_it_is_defined_again(net: Node) -> None:
    before = stored()
    virsh("net-undefine", NAME)
    assert facts()["Persistent"] == "no"
    net.run(network_tasks.snapshot_apply, snapshot_name="one")
    found = facts()
    assert (found["Persistent"], found["Active"], found["Autostart"]) == ("yes", "yes", "yes")
    assert stored() == before


def test_gone_it_comes_back_and_starts_with_the_host(net: Node) -> None:
    before = stored()
    virsh("net-destroy", NAME)
    virsh("net-undefine", NAME)
    net.run(network_tasks.snapshot_apply, snapshot_name="one")
    found = facts()
    assert (found["Persistent"], found["Active"], found["Autostart"]) == ("yes", "yes", "yes")
    assert stored() == before
