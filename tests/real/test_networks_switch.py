"""Open vSwitch, its switch in user space, so that no kernel module is needed: VLANs by port group, and trunks."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from cloudify_libvirt import network_tasks
from tests.real.conftest import IMAGES
from tests.real.netlab import Container, Networks, command, eventually, machine

RUN = Path("/run/openvswitch")
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
BRIDGE = "ovsbr0"
TARGETS = "devices/interface/target"


@pytest.fixture(scope="module")
def switch() -> Iterator[None]:
    """A bridge of Open vSwitch; its daemons end with the tests."""
    assert Path(SCHEMA).exists(), "scripts/provision test installs Open vSwitch"
    RUN.mkdir(exist_ok=True)
    command("ovsdb-tool", "create", str(RUN / "conf.db"), SCHEMA)
    socket, quiet = RUN / "db.sock", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    daemons = [subprocess.Popen(["ovsdb-server", str(RUN / "conf.db"), f"--remote=punix:{socket}"], **quiet)]
    try:
        assert eventually(socket.exists)
        command("ovs-vsctl", "--no-wait", "init")
        daemons.append(subprocess.Popen(["ovs-vswitchd", f"unix:{socket}"], **quiet))
        command("ovs-vsctl", "--timeout=120", "add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev")
        command("ip", "link", "set", BRIDGE, "up")
        yield
        command("ovs-vsctl", "--timeout=120", "del-br", BRIDGE)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)
        shutil.rmtree(RUN)


@pytest.fixture
def nets(switch: None) -> Iterator[Networks]:
    made = Networks()
    yield made
    made.remove()


def ports() -> dict[str, dict[str, object]]:
    """What the switch knows of each port but its own: {name: {tag, trunks, vlan_mode}}."""
    said = json.loads(command("ovs-vsctl", "--format=json", "--columns=name,tag,trunks,vlan_mode", "list", "port"))
    rows = [dict(zip(said["headings"], row, strict=True)) for row in said["data"]]
    return {str(row.pop("name")): row for row in rows if row["name"] != BRIDGE}


def test_port_groups_set_vlans(nets: Networks, container_root: Path) -> None:
    nets.create(
        "switched", mode="bridge", dev=BRIDGE, virtualport="openvswitch",
        portgroups=[{"name": "red", "vlan": 10, "default": True}, {"name": "blue", "vlan": 20},
                    {"name": "all", "vlan": {"tags": [10, 20], "native": 10}}],
    )  # fmt: skip
    root = IMAGES / "switchlab"
    root.mkdir()
    guests: list[Container] = []
    try:
        for at, group in enumerate(("", "red", "blue", "all"), start=1):
            wanted = f" portgroup='{group}'" if group else ""
            interface = f"<interface type='network'><source network='switched'{wanted}/></interface>"
            guests.append(Container(f"on-switch-{at}", root, [interface], autoconfigure=False))
            guests[-1].start(container_root)
            guests[-1]("ip", "addr", "add", f"10.60.0.{at}/24", "dev", "eth0")
            guests[-1]("ip", "link", "set", "eth0", "up")
        first, _red, _blue, _all = guests
        assert [ports()[one.host_side(0)]["tag"] for one in guests] == [10, 10, 20, 10]
        trunk = ports()[guests[3].host_side(0)]
        assert trunk["trunks"] == ["set", [10, 20]] and trunk["vlan_mode"] == "native-untagged"
        assert eventually(lambda: " 0% packet loss" in first("ping", "-c1", "-W1", "10.60.0.2", check=False))
        assert " 0% packet loss" in first("ping", "-c1", "-W20", "10.60.0.4", check=False)
        assert " 100% packet loss" in first("ping", "-c1", "-W1", "10.60.0.3", check=False)
    finally:
        for one in guests:
            one.stop()
        shutil.rmtree(root)


def test_a_card_of_a_domain_is_on_its_vlan(switch: None) -> None:
    """A bridge, the switch and a tag, given with the card itself; the port goes with the domain."""
    cards = [
        {"bridge": BRIDGE, "virtualport": "openvswitch", "vlan": 42},
        {"bridge": BRIDGE, "virtualport": "openvswitch", "vlan": {"tags": [42, 43], "native": 43}},
    ]
    with machine("on-vlan", networks=cards) as domain:
        tagged, trunk = [entry.get("dev") for entry in etree.fromstring(domain.XMLDesc()).iterfind(TARGETS)]
        assert {tagged, trunk} <= set(ports())
        assert ports()[tagged]["tag"] == 42 and ports()[tagged]["trunks"] == ["set", []]
        assert (ports()[trunk]["tag"], ports()[trunk]["trunks"]) == (43, ["set", [42, 43]])
        assert ports()[trunk]["vlan_mode"] == "native-untagged"
    assert eventually(lambda: {tagged, trunk}.isdisjoint(ports())), ports()


def test_the_switch_is_left_and_told_apart(nets: Networks) -> None:
    node = nets.create("passing", mode="bridge", dev=BRIDGE, virtualport="openvswitch", vlan=42)
    node.run(network_tasks.delete)
    assert command("ovs-vsctl", "list-br").strip() == BRIDGE
    said = nets.refused("plain", mode="bridge", dev=BRIDGE)
    assert "it is not a Linux bridge. For an Open vSwitch bridge add virtualport: openvswitch" in said
    assert "a plain Linux bridge or macvtap sets no VLAN tags" in nets.refused(
        "plain", mode="bridge", dev=BRIDGE, vlan=5
    )
