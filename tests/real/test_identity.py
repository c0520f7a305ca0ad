"""Who the objects are, at which addresses, and which of them are somebody else's."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import IMAGES, ROOT, Cfy, Host, Result, public_key, ssh, virsh
from tests.real.nodes import Node, blueprint, configured, empty_domain, node
from tests.real.test_teardown import Watched, seconds

SUBNETS = {"network": "10.98.5.0/24", "network_two": "10.98.6.0/24"}


def properties(cfy: Cfy, deployment: str, name: str) -> dict[str, Any]:
    """Runtime properties of the only instance of a node."""
    found = [instance for instance in cfy.instances(deployment) if instance["node_id"] == name]
    assert len(found) == 1
    return found[0]["runtime_properties"]  # type: ignore[return-value]


def identities(host: Host) -> dict[str, tuple[str, ...]]:
    """Name: (UUID, MAC ...) of every domain, and (UUID, bridge, subnet) of every network, and so on."""
    return {
        **{f"domain {d.name()}": (d.UUIDString(), *re.findall(r"<mac address='([^']+)'", d.XMLDesc()))
           for d in host.connection.listAllDomains()},
        **{f"network {n.name()}": (n.UUIDString(), n.bridgeName(), *re.findall(r"<ip address='([^']+)'", n.XMLDesc()))
           for n in host.connection.listAllNetworks()},
        **{f"pool {p.name()}": (p.UUIDString(),) for p in host.connection.listAllStoragePools()},
    }  # fmt: skip


def test_same_identity_on_every_install(cfy: Cfy, clean_host: Host) -> None:
    card = {"network": "same"}
    machines = empty_domain("network", name="vm-{{ number }}", networks=[card, card])
    machines["capabilities"] = {"scalable": {"properties": {"default_instances": 3}}}
    path = blueprint(cfy.directory, "same", network=node("network", name="same", cidr="auto"),
                     pool=node("pool", name="same"), vm=machines)  # fmt: skip
    cfy.install(path, "same")
    first, ids = identities(clean_host), {str(instance["id"]) for instance in cfy.instances("same")}
    assert {"domain vm-1", "domain vm-2", "domain vm-3", "network same", "pool same"} == set(first)
    macs = [mac for name, values in first.items() if name.startswith("domain") for mac in values[1:]]
    assert len(set(macs)) == 6 and len({values[0] for values in first.values()}) == 5
    cfy("executions", "start", "uninstall", "-b", "same")
    assert not clean_host.domains()
    cfy("executions", "start", "install", "-b", "same")
    assert identities(clean_host) == first
    cfy.uninstall("same")
    cfy.install(path, "same")
    assert identities(clean_host) == first
    assert not ids & {str(instance["id"]) for instance in cfy.instances("same")}, "the engine's own ids are random"
    cfy.uninstall("same")


def test_another_deployment_has_another_identity(cfy: Cfy, clean_host: Host) -> None:
    name = "{{ deployment }}-net"
    path = blueprint(cfy.directory, "two", network=node("network", name=name, cidr="auto"),
                     vm=empty_domain("network", networks=[{"network": name}]))  # fmt: skip
    cfy.install(path, "one")
    cfy.install(path, "two")
    found = [value for values in identities(clean_host).values() for value in values]
    assert len(found) == len(set(found)) == 10
    cfy.uninstall("one")
    cfy.uninstall("two")


def pulled(cfy: Cfy, deployment: str, wanted: list[str]) -> dict[str, Any]:
    """What is told of the guest once it has its addresses: a slow one's agent may tell the last after the install."""
    deadline = time.monotonic() + 120
    while (told := properties(cfy, deployment, "vm"))["ipv4_addresses"] != wanted and time.monotonic() < deadline:
        cfy("executions", "start", "pull", "-b", deployment)
    return told


def test_addresses_of_all_cards(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    """Two networks with a fixed address each, and a bridge where nothing but the guest knows its address."""
    fixed = {"network": "10.98.5.55", "network_two": "10.98.6.66"}
    networks = {name: node("network", name=name, cidr=cidr) for name, cidr in SUBNETS.items()}
    networks["network_bare"] = node("network", name="bare", dev="barebr", ips=[])
    vm = node(
        "domain", "pool", *networks, name="multi", pool="multi", memory="128 MiB", image=str(tiny), ssh_user="root",
        networks=[*({"network": name, "ip": ip} for name, ip in fixed.items()), {"bridge": "barebr"}],
        cloud_init={
            "ssh_authorized_keys": [public_key(key)],
            "network_config": {"version": 2, "ethernets": {
                "eth0": {"dhcp4": True}, "eth1": {"dhcp4": True}, "eth2": {"addresses": ["10.98.7.77/24"]}}},
        },
    )  # fmt: skip
    cfy.install(blueprint(cfy.directory, "multi", pool=node("pool", name="multi"), **networks, vm=vm), "multi")
    for name, ip in fixed.items():
        assert f"ip='{ip}'" in virsh("net-dumpxml", name), "reserved"
    wanted = ["10.98.5.55", "10.98.6.66", "10.98.7.77"]
    told = pulled(cfy, "multi", wanted)
    domain = clean_host.domain("multi")
    macs = re.findall(r"<mac address='([^']+)'", domain.XMLDesc())
    taps = re.findall(r"<target dev='(vnet\d+)'", domain.XMLDesc())
    assert told["ip"] == told["public_ip_address"] == "10.98.5.55"
    assert told["ipv4_addresses"] == wanted
    assert told["ssh_command"] == "ssh root@10.98.5.55"
    assert told["resource_id"] == "multi" and told["use_external_resource"] is False
    assert [(card["mac"], card["dev"]) for card in told["networks"]] == list(zip(macs, taps, strict=True))
    assert [[a["addr"] for a in card["addresses"] if a["type"] == 0] for card in told["networks"]] == [
        [w] for w in wanted
    ]
    for card, mac, tap, address in zip(told["params"]["networks"], macs, taps, wanted, strict=True):
        assert (card["mac"], card["dev"]) == (mac, tap)
        assert {"addr": address, "prefix": 24, "type": 0} in card["addrs"]
        assert Path(f"/sys/class/net/{tap}").exists()
    inside = ssh(key, "10.98.5.55", "ip -4 -o addr")
    assert all(f" {address}/24" in inside for address in wanted)
    cfy.uninstall("multi")


def test_an_address_that_only_the_hosts_arp_table_has(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    """A static address, no lease and no agent; on the older machine type, which has the seed as another CD-ROM."""
    network = node("network", name="quiet", dev="quietbr", cidr="10.98.7.0/24", dhcp=False)
    vm = node(
        "domain", "network", "pool", name="quiet", pool="quiet", memory="128 MiB", image=str(tiny), ssh_user="root",
        machine="pc", networks=[{"bridge": "quietbr"}],
        cloud_init={
            "ssh_authorized_keys": [public_key(key)],
            "network_config": {"version": 2, "ethernets": {"eth0": {"addresses": ["10.98.7.88/24"]}}},
            "user_data": {
                "write_files": [{"path": "/usr/lib/guest/agent", "content": "#!/bin/sh\nexec sleep 9999\n",
                                 "permissions": "0755"}],
                "runcmd": ["until ping -c 1 -W 5 10.98.7.1; do sleep 1; done"],
            },
        },
    )  # fmt: skip
    cfy.install(blueprint(cfy.directory, "quiet", network=network, pool=node("pool", name="quiet"), vm=vm), "quiet")
    xml = virsh("dumpxml", "quiet")
    assert "machine='pc-i440fx" in xml and "<target dev='sda' bus='scsi'/>" in xml
    assert "org.qemu.guest_agent.0' state='disconnected'" in xml and not virsh("net-dhcp-leases", "quiet").strip()
    told = properties(cfy, "quiet", "vm")
    assert told["ip"] == told["public_ip_address"] == "10.98.7.88"
    assert told["ipv4_addresses"] == ["10.98.7.88"] and told["ipv6_addresses"] == []
    assert ssh(key, "10.98.7.88", "hostname; cat /sys/class/net/eth0/address").split() == [
        "quiet", told["networks"][0]["mac"],
    ]  # fmt: skip
    cfy.uninstall("quiet")


def external(kind: str, name: str, how: str, *after: str, **params: Any) -> Node:
    """A node for an existing object, said by its properties or by the inputs of the operation that looks for it."""
    said = {"use_external_resource": True, "resource_id": name}
    if how == "property":
        return node(kind, *after, properties=said, **params)
    return configured(node(kind, *after, **params), **said)


@pytest.fixture
def theirs(clean_host: Host) -> Iterator[None]:
    """A network, a pool with a volume, and a running domain that somebody else made."""
    connection = clean_host.connection
    network = connection.networkDefineXML("<network><name>their-net</name><bridge name='theirbr'/></network>")
    network.create()
    (IMAGES / "theirs").mkdir()
    pool = connection.storagePoolDefineXML(
        f"<pool type='dir'><name>their-pool</name><target><path>{IMAGES}/theirs</path></target></pool>"
    )
    pool.create()
    volume = pool.createXML("<volume><name>their-data</name><capacity unit='KiB'>64</capacity></volume>")
    (IMAGES / "theirs" / "their-data").write_bytes(b"precious" * 8192)
    domain = connection.defineXML(
        "<domain type='qemu'><name>their-vm</name><memory unit='MiB'>32</memory><os><type machine='q35'>hvm</type></os>"
        "</domain>"
    )
    domain.create()
    yield
    domain.destroy()
    domain.undefine()
    volume.delete()
    pool.destroy()
    pool.undefine()
    (IMAGES / "theirs").rmdir()
    network.destroy()
    network.undefine()


@pytest.mark.parametrize("how", ["property", "input"])
def test_external_resources_are_left_alone(how: str, cfy: Cfy, theirs: None, host: Host) -> None:
    def all_of_it() -> list[str]:
        pool = re.sub(r"<(allocation|available) .*", "", virsh("pool-dumpxml", "their-pool"))
        volume = re.sub("<atime>.*", "", virsh("vol-dumpxml", "their-data", "their-pool"))
        return [virsh("net-dumpxml", "their-net"), pool, volume, virsh("dumpxml", "their-vm"),
                virsh("domstate", "their-vm"), virsh("net-info", "their-net"),
                virsh("pool-info", "their-pool").split("Capacity")[0]]  # fmt: skip

    described = all_of_it()
    names = {"network": "their-net", "pool": "their-pool", "volume": "their-data", "vm": "their-vm"}
    path = blueprint(
        cfy.directory, "using", network=external("network", "their-net", how),
        pool=external("pool", "their-pool", how),
        volume=external("volume", "their-data", how, "pool", pool="their-pool"),
        vm=external("domain", "their-vm", how, "volume", wait_for_ip=False),
    )  # fmt: skip
    cfy.install(path, "using")
    for name, wanted in names.items():
        told = properties(cfy, "using", name)
        assert (told["resource_id"], told["use_external_resource"]) == (wanted, True), name
    assert properties(cfy, "using", "volume")["params"]["path"] == str(IMAGES / "theirs" / "their-data")
    assert all_of_it() == described
    cfy.uninstall("using")
    assert all_of_it() == described
    assert (IMAGES / "theirs" / "their-data").read_bytes() == b"precious" * 8192


@pytest.mark.parametrize(("kind", "params"), [
    ("network", {}), ("pool", {}), ("volume", {"pool": "their-pool"}), ("domain", {"wait_for_ip": False}),
])  # fmt: skip
def test_external_that_is_missing(kind: str, params: dict[str, Any], cfy: Cfy, theirs: None, host: Host) -> None:
    before = host.everything()
    path = blueprint(cfy.directory, "miss", one=external(kind, "nowhere", "property", **params))
    result = cfy.install(path, "miss", check=False)
    failed = [line for line in result.lines("Task failed '", "'nowhere'") if kind in line]
    assert result.code == 1 and len(failed) == 1, result.output
    assert "does not exist" in failed[0]
    cfy.uninstall("miss")
    assert host.everything() == before


def test_create_if_missing(cfy: Cfy, clean_host: Host) -> None:
    """What exists is used and stays; what does not is made, and goes at the end."""
    (IMAGES / "kept").mkdir()
    pool = clean_host.connection.storagePoolDefineXML(
        f"<pool type='dir'><name>kept</name><target><path>{IMAGES}/kept</path></target></pool>"
    )
    pool.create()
    maybe = {"use_external_resource": True, "create_if_missing": True}
    path = blueprint(
        cfy.directory, "maybe",
        network=node("network", properties={**maybe, "resource_id": "fresh-net"}, cidr="10.98.9.0/24"),
        pool=node("pool", properties={**maybe, "resource_id": "kept"}),
        volume=node("volume", "pool", properties={**maybe, "resource_id": "fresh"}, pool="kept", size="1 MiB"),
        vm={**empty_domain("volume"), "properties": {
            **maybe, "resource_id": "fresh-vm", "params": {"memory": "32 MiB", "wait_for_ip": False,
                                                           "shutdown_timeout_s": 0}}},
    )  # fmt: skip
    cfy.install(path, "maybe")
    assert clean_host.networks() == {"fresh-net"} and clean_host.domains() == {"fresh-vm"}
    assert pool.listVolumes() == ["fresh"]
    cfy.uninstall("maybe")
    assert pool.isActive() and not clean_host.networks() and not clean_host.domains()
    assert not list((IMAGES / "kept").iterdir())
    pool.destroy()
    pool.undefine()
    (IMAGES / "kept").rmdir()


def waiting(cfy: Cfy, **params: Any) -> Path:
    """A blueprint whose guest is waited for on a network that gives no addresses."""
    network = node("network", name="silent", dev="silentbr", ips=[])
    given = {"name": "waiting", "pool": "silent", "networks": [{"network": "silent"}], "wait_for_ip": True}
    vm = empty_domain("network", "pool", **{**given, **params})
    return blueprint(cfy.directory, "silent", network=network, pool=node("pool", name="silent"), vm=vm)


def test_no_address_by_the_deadline(cfy: Cfy, clean_host: Host) -> None:
    result = cfy.install(waiting(cfy, address_timeout_s=4), "silent", check=False)
    failed = result.lines("Task failed", "domain_tasks.get_state", "->")
    assert result.code == 1 and len(failed) == 1, result.output
    mac = re.findall(r"<mac address='([^']+)'", virsh("dumpxml", "waiting"))[0]
    for words in ("domain 'waiting'", "address_timeout_s", "wait_for_ip", mac, "silent"):
        assert words in failed[0]
    waited = re.search(r"none is known after (\d+) s", failed[0])
    assert waited and 4 <= int(waited[1]) <= 90, failed[0]
    cfy.uninstall("silent")


def install_until(cfy: Cfy, path: Path, text: str, act: Any) -> tuple[Result, float]:
    """Install, act once a text was said; return what cfy said, and the seconds from the act to the failed task."""
    call = [str(ROOT / ".venv/bin/cfy"), "install", str(path), "-b", "silent"]
    output, acted, failed = "", 0.0, 0.0
    environment = {**cfy.environment, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        call, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout
        for line in run.stdout:
            output += line
            if text in line and not acted:
                act()
                acted = time.monotonic()
            if "Task failed" in line and not failed:
                failed = time.monotonic()
        code = run.wait()
    assert acted and failed, output
    return Result(code, output, 0.0), failed - acted


def test_guest_destroyed_during_the_wait(cfy: Cfy, clean_host: Host) -> None:
    result, seconds = install_until(cfy, waiting(cfy), "domain_tasks.get_state", lambda: virsh("destroy", "waiting"))
    failed = result.lines("Task failed", "domain_tasks.get_state", "->")
    assert result.code == 1 and len(failed) == 1 and seconds < 60, result.output
    assert "domain 'waiting'" in failed[0] and "destroyed from outside" in failed[0]
    assert not result.lines("none is known")
    cfy.uninstall("silent")


def test_guest_removed_during_the_wait(cfy: Cfy, clean_host: Host) -> None:
    def remove() -> None:
        time.sleep(0.5)
        virsh("undefine", "waiting")
        virsh("destroy", "waiting")

    result, seconds = install_until(cfy, waiting(cfy), "domain_tasks.get_state", remove)
    assert result.code == 1 and seconds < 60, result.output
    assert result.lines("Task failed", "domain 'waiting'", "removed from outside"), result.output
    cfy.uninstall("silent")


def test_guest_panics_during_the_wait(cfy: Cfy, clean_host: Host, tiny: Path) -> None:
    """The error has the cause, and what the guest said last."""
    crash = {"user_data": {"runcmd": ["sleep 1; echo something is wrong >/dev/console; echo c > /proc/sysrq-trigger"]}}
    path = waiting(cfy, image=str(tiny), memory="128 MiB", cloud_init=crash, address_timeout_s=300)
    watched = Watched("waiting", exists=False)
    result = cfy.install(path, "silent", check=False)
    events = watched.lines()
    text = result.output
    assert result.code == 1 and "it crashed (the guest's kernel panicked" in text, text
    crashed = [line for line in events if "Crashed Panicked" in line]
    failed = result.lines("Task failed", "domain_tasks.get_state", "->")
    assert len(crashed) == len(failed) == 1, events
    assert seconds(failed[0]) - seconds(crashed[0]) < 15, "the wait ends with the guest"
    assert "something is wrong" in text and "Kernel panic - not syncing: sysrq triggered crash" in text
    assert not result.lines("none is known")
    cfy.uninstall("silent")
