"""No drift that is not there, for every blueprint; every change from outside, named, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError, OperationRetry
from lxml import etree

from cloudify_libvirt import domain_tasks, iso9660_tasks, network_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.core import parse
from cloudify_libvirt.core.drift.compare import Subject, compare
from tests.driver.conftest import Node
from tests.pure.goldens import cases
from tests.real.conftest import BLUEPRINTS, IMAGES, QEMU, Cfy, Host, assert_no_drift, public_key, ssh, virsh


def common(image: Path, key: Path, **more: object) -> dict[str, object]:
    return {"image": str(image), "ssh_public_key": public_key(key), "ssh_user": "root", "memory": "128 MiB", **more}


@pytest.mark.parametrize("name", ["hello", "cluster", "template-override"])
def test_a_fresh_machine_has_no_drift(name: str, cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    more = {"machines": 2, "disk": "256 MiB"} if name == "cluster" else {}
    cfy.install(BLUEPRINTS / f"{name}.yaml", "fresh", **common(tiny, key, **more))
    assert_no_drift(cfy, "fresh")
    cfy("executions", "start", "check_status", "-b", "fresh")
    cfy.uninstall("fresh")


def test_a_fresh_container_has_no_drift(cfy: Cfy, clean_host: Host, container_root: Path, key: Path) -> None:
    cfy.install(BLUEPRINTS / "container.yaml", "fresh", **common(container_root, key))
    assert_no_drift(cfy, "fresh")
    cfy("executions", "start", "check_status", "-b", "fresh")
    cfy.uninstall("fresh")


def test_a_fresh_machine_on_what_others_made_has_no_drift(
    cfy: Cfy, site: Site, clean_host: Host, tiny: Path, key: Path
) -> None:
    cfy.install(BLUEPRINTS / "external.yaml", "fresh", **common(tiny, key, network="drifty", pool="drifty"))
    assert_no_drift(cfy, "fresh")
    assert site.drift() == set()
    cfy("executions", "start", "check_status", "-b", "fresh")
    cfy.uninstall("fresh")


def test_heal_brings_a_machine_back_and_never_its_lost_disk(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    cfy.install(BLUEPRINTS / "hello.yaml", "hello", **common(tiny, key))
    address, before = str(cfy.outputs("hello")["address"]), virsh("domuuid", "hello")
    ssh(key, address, "echo mine > /root/note; sync")
    _forgotten(cfy, "hello", ip="192.0.2.1", ipv4_addresses=["192.0.2.1"], ssh_command=None)
    assert cfy.outputs("hello")["address"] == "192.0.2.1"
    cfy("executions", "start", "pull", "-b", "hello")
    (vm,) = (one["runtime_properties"] for one in cfy.instances("hello") if str(one["id"]).startswith("vm_"))
    assert (vm["ip"], vm["ipv4_addresses"], vm["ssh_command"]) == (address, [address], f"ssh root@{address}")
    # The network alone: the guest goes on, and gets its link back.
    boot = ssh(key, address, "cat /proc/sys/kernel/random/boot_id")
    virsh("net-destroy", "hello")
    assert cfy("executions", "start", "check_status", "-b", "hello", check=False).code != 0
    heal(cfy)
    assert ssh(key, address, "cat /proc/sys/kernel/random/boot_id") == boot
    virsh("desc", "hello", "--config", "not declared")
    virsh("setmem", "hello", "64M", "--config")
    code, found = cfy.drift("hello")
    assert (code, [(one["field"], one["where"]) for one in found]) == (2, [("memory", "config")])
    for prefix in ("", "net-"):
        virsh(f"{prefix}destroy", "hello")
        virsh(f"{prefix}undefine", "hello")
    heal(cfy)
    cfy("executions", "start", "check_status", "-b", "hello")
    assert virsh("domuuid", "hello") == before
    assert (ssh(key, address, "cat /root/note"), cfy.drift("hello")) == ("mine", (0, []))
    virsh("destroy", "hello")
    overlay = IMAGES / "hello/hello-root.qcow2"
    kept = overlay.rename(overlay.with_name("kept-aside"))
    failed = cfy("executions", "start", "heal", "-b", "hello", check=False)
    assert failed.code != 0 and failed.lines("its disk", "is gone, with all that the guest wrote")
    assert not overlay.exists() and virsh("domuuid", "hello") == before
    kept.rename(overlay)
    heal(cfy)
    _undefined_above_its_disk(cfy, key, address)
    cfy.uninstall("hello")


def _forgotten(cfy: Cfy, deployment: str, **known: object) -> None:
    """Let the machine's record say what is not so."""
    directory = cfy.directory / f".cloudify/profiles/local/deployments/{deployment}/node-instances"
    (path,) = directory.glob("vm_*")
    found = json.loads(path.read_text())
    found["runtime_properties"].update(known)
    path.write_text(json.dumps(found))


def _undefined_above_its_disk(cfy: Cfy, key: Path, address: str) -> None:
    """What the guest wrote after another tool's snapshot is kept from every workflow, and is back when we are told."""
    virsh("snapshot-create-as", "hello", "other", "--disk-only", "--no-metadata")
    ssh(key, address, "echo late > /root/note; sync")
    virsh("destroy", "hello")
    virsh("undefine", "hello")
    failed = cfy("executions", "start", "heal", "-b", "hello", check=False)
    assert failed.code != 0 and not failed.lines("Reinstall") and "hello" not in virsh("list", "--all", "--name")
    (told, *_) = re.findall(r"cfy (executions start execute_operation .*--allow-custom-parameters)", failed.output)
    assert str(IMAGES / "hello/hello-root.other") in told
    cfy(*shlex.split(told))
    assert ssh(key, address, "cat /root/note") == "late"
    cfy("executions", "start", "check_status", "-b", "hello")
    assert cfy.drift("hello") == (0, [])
    virsh("blockcommit", "hello", "vda", "--active", "--pivot", "--wait")
    (IMAGES / "hello/hello-root.other").unlink()


def heal(cfy: Cfy) -> None:
    done = cfy("executions", "start", "heal", "-b", "hello", "-p", "allow_reinstall=false")
    assert not done.lines("Reinstall"), done.output


@pytest.mark.parametrize("kind", ["domain", "network", "pool"])
def test_what_qemu_makes_of_a_document_is_no_drift(kind: str, host: Host) -> None:
    define = {"domain": "defineXML", "network": "networkDefineXML", "pool": "storagePoolDefineXML"}[kind]
    inactive = libvirt.VIR_DOMAIN_XML_INACTIVE if kind == "domain" else libvirt.VIR_NETWORK_XML_INACTIVE
    compared = 0
    # libvirt 9.0 writes this one so that nobody can read it.
    for case in (case for case in cases(kind) if case.path.stem != "open_vswitch"):
        text = case.golden.read_text()
        try:
            handle = getattr(host.connection, define)(text)
        except libvirt.libvirtError:
            continue  # another architecture, a device that this host has not, ...
        try:
            there = handle.XMLDesc(inactive)
        finally:
            handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM) if kind == "domain" else handle.undefine()
        assert compare(Subject(kind, case.path.stem), text, there) == []
        compared += 1
    assert compared >= 12


# A machine without an operating system: it starts at once, and hears nothing.


@dataclass
class Site:
    """A network, a pool, a volume and a domain on them, made by our operations in this process."""

    nodes: dict[str, Node]

    def run(self, name: str, operation: str, **inputs: object) -> object:
        node = self.nodes[name]
        return node.run(getattr(MODULES[node.name.partition("-")[0]], operation), **inputs)

    def drift(self) -> set[tuple[str, str, str]]:
        found = ((name, self.run(name, "check_drift")) for name in self.nodes)
        return {(name, one["field"], one["where"]) for name, result in found for one in result or []}  # type: ignore[attr-defined]

    def identity(self) -> list[object]:
        """What must come back: UUIDs, MACs, fixed addresses, disks."""
        connection = libvirt.open(QEMU)
        domain, network = connection.lookupByName("drifty"), connection.networkLookupByName("drifty")
        facts = parse.domain(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        return [
            domain.UUIDString(), [card.mac for card in facts.interfaces], [disk.path for disk in facts.disks],
            network.UUIDString(), network.bridgeName(), parse.network(network.XMLDesc()).hosts,
            connection.storagePoolLookupByName("drifty").UUIDString(),
        ]  # fmt: skip


MODULES = {"net": network_tasks, "pool": pool_tasks, "data": volume_tasks, "spare": volume_tasks,
           "vm": domain_tasks, "iso": iso9660_tasks}  # fmt: skip
LIFE = {"net": ("create", "start"), "pool": ("create", "configure", "start"), "data": ("create", "start"),
        "spare": ("create", "start"), "vm": ("create", "configure", "start")}  # fmt: skip
POOL_PATH = IMAGES / "drifty"


def make(image: Path, medium: Path) -> Site:
    params: dict[str, dict[str, object]] = {
        "net": {"name": "drifty", "cidr": "10.97.5.0/24", "dns": {"hosts": [{"ip": "10.97.5.9", "names": ["web"]}]}},
        "pool": {"name": "drifty", "path": str(POOL_PATH)},
        "data": {"name": "drifty-data", "pool": "drifty", "size": "8 MiB", "format": "qcow2"},
        "spare": {"name": "drifty-spare", "pool": "drifty", "size": "8 MiB"},
        "vm": {
            "name": "drifty", "memory": "64 MiB", "max_memory": "96 MiB", "vcpu": 2, "max_vcpu": 3,
            "description": "as declared", "pool": "drifty", "image": str(image), "wait_for_ip": False,
            "shutdown_timeout_s": 0, "networks": [{"network": "drifty", "ip": "10.97.5.20"}],
            "disks": [{"volume": "drifty-data"}, {"file": str(medium), "type": "raw", "device": "cdrom"}],
        },
    }  # fmt: skip
    nodes = {
        name: Node(name=name, params=given, properties={"libvirt_auth": QEMU}, deployment="drift")
        for name, given in params.items()
    }
    return Site(nodes)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    IMAGES.mkdir(exist_ok=True)
    image, medium, other = IMAGES / "drift-image.raw", IMAGES / "drift-medium.iso", IMAGES / "drift-other.iso"
    for path in (image, medium, other):
        path.write_bytes(path.name.encode().ljust(1024 * 1024, b"\0"))
    found = make(image, medium)
    try:
        for name, operations in LIFE.items():
            for operation in operations:
                found.run(name, operation)
        yield found
    finally:
        found.run("vm", "stop")
        for name in reversed(LIFE):
            found.run(name, "delete")
        for path in (image, medium, other):
            path.unlink()


def edit(kind: str, old: str, new: str) -> None:
    """Do as virsh edit does: the stored definition, with one text in another's place."""
    prefix = {"domain": "", "network": "net-", "pool": "pool-"}[kind]
    dump = [f"{prefix}dumpxml", "--inactive", "drifty"]
    text = virsh(*dump)
    assert old in text, text
    command = ["virsh", "-q", f"{prefix}define", "/dev/stdin"]
    subprocess.run(command, input=text.replace(old, new), text=True, check=True)


Change = Callable[[], object]
HOST_8 = "<host mac='52:54:00:97:05:08' ip='10.97.5.8'/>"
DNS_9 = "<host ip='10.97.5.9'><hostname>web</hostname></host>"
RANGE = "<range start='10.97.5.2' end='10.97.5.254'/>"


def v(*words: str) -> Change:
    return lambda: virsh(*words)


def mac() -> str:
    return parse.domain(virsh("dumpxml", "drifty")).interfaces[0].mac


def card(**changes: str) -> Change:
    def change() -> None:
        element = parse.document(virsh("dumpxml", "drifty")).find("devices/interface")
        for way, value in changes.items():
            if way == "link":
                etree.SubElement(element, "link").set("state", value)
        subprocess.run(["virsh", "-q", "update-device", "drifty", "/dev/stdin", "--live"],
                       input=etree.tostring(element, encoding="unicode"), text=True, check=True)  # fmt: skip

    return change


def swap(kind: str, old: str, new: str) -> tuple[Change, Change]:
    return (lambda: edit(kind, old, new), lambda: edit(kind, new, old))


# What is done from outside, what takes it back, and what a check must say, no more and no less.
CHANGES: dict[str, tuple[tuple[Change, Change], set[tuple[str, str, str]]]] = {
    "memory": ((v("setmem", "drifty", "80M", "--config"), v("setmem", "drifty", "64M", "--config")),
               {("vm", "memory", "config")}),
    "maximum memory": ((v("setmaxmem", "drifty", "128M", "--config"), v("setmaxmem", "drifty", "96M", "--config")),
                       {("vm", "max_memory", "config")}),
    "vcpu": ((v("setvcpus", "drifty", "1", "--config"), v("setvcpus", "drifty", "2", "--config")),
             {("vm", "vcpu", "config")}),
    "description": ((v("desc", "drifty", "--config", "--live", "changed"),
                     v("desc", "drifty", "--config", "--live", "as declared")),
                    {("vm", "description", "config"), ("vm", "description", "live")}),
    "autostart": ((v("autostart", "drifty"), v("autostart", "drifty", "--disable")), {("vm", "autostart", "host")}),
    "boot order": (swap("domain", "<boot dev='hd'/>", "<boot dev='network'/>"),
                   {("vm", "boot.devices", "config")}),
    "boot device added": (swap("domain", "<boot dev='hd'/>", "<boot dev='hd'/>\n    <boot dev='network'/>"),
                          {("vm", "boot.devices", "config")}),
    "machine": (swap("domain", "on_crash>destroy<", "on_crash>restart<"), {("vm", "events.crash", "config")}),
    "disk attached": ((v("attach-disk", "drifty", f"{IMAGES}/drift-other.iso", "vdx", "--config"),
                       v("detach-disk", "drifty", "vdx", "--config")),
                      {("vm", "disks[vdx]", "config")}),
    "disk detached": ((v("detach-disk", "drifty", "vdb", "--config"),
                       v("attach-disk", "drifty", f"{POOL_PATH}/drifty-data", "vdb", "--config", "--driver", "qemu",
                         "--subdriver", "qcow2", "--targetbus", "virtio")),
                      {("vm", "disks[0]", "config")}),
    "medium changed": ((v("change-media", "drifty", "sda", f"{IMAGES}/drift-other.iso", "--live", "--force"),
                        v("change-media", "drifty", "sda", f"{IMAGES}/drift-medium.iso", "--live", "--force")),
                       {("vm", "disks[1].medium", "live")}),
    "medium ejected": ((v("change-media", "drifty", "sda", "--eject", "--config"),
                        v("change-media", "drifty", "sda", f"{IMAGES}/drift-medium.iso", "--insert", "--config")),
                       {("vm", "disks[1].medium", "config")}),
    "card attached": ((v("attach-interface", "drifty", "network", "drifty", "--mac", "52:54:00:97:05:77", "--config"),
                       v("detach-interface", "drifty", "network", "--mac", "52:54:00:97:05:77", "--config")),
                      {("vm", "networks[52:54:00:97:05:77]", "config")}),
    "model": (swap("domain", "<model type='virtio'/>", "<model type='e1000'/>"),
              {("vm", "networks[0].model", "config")}),
    "network of a card": (swap("domain", "<source network='drifty'/>", "<source network='other'/>"),
                          {("vm", "networks[0].network", "config")}),
    "reservation": ((lambda: virsh("net-update", "drifty", "delete", "ip-dhcp-host",
                                   f"<host mac='{mac()}' ip='10.97.5.20'/>", "--live", "--config"),
                     lambda: virsh("net-update", "drifty", "add", "ip-dhcp-host",
                                   f"<host mac='{mac()}' ip='10.97.5.20' name='drifty'/>", "--live", "--config")),
                    {("vm", "networks[0].ip", "host")}),
    "somebody else's reservation": ((v("net-update", "drifty", "add", "ip-dhcp-host", HOST_8, "--live", "--config"),
                                     v("net-update", "drifty", "delete", "ip-dhcp-host", HOST_8, "--live", "--config")),
                                    set()),
    "dns host": ((v("net-update", "drifty", "delete", "dns-host", DNS_9, "--live", "--config"),
                  v("net-update", "drifty", "add", "dns-host", DNS_9, "--live", "--config")),
                 {("net", "hosts[10.97.5.9]", "config"), ("net", "hosts[10.97.5.9]", "live")}),
    "dhcp range": (swap("network", "start='10.97.5.2'", "start='10.97.5.100'"),
                   {("net", "ips[10.97.5.1].ranges[10.97.5.2].start", "config")}),
    "network autostart": ((v("net-autostart", "drifty", "--disable"), v("net-autostart", "drifty")),
                          {("net", "autostart", "host")}),
    "forward": (swap("network", "<forward mode='nat'/>", "<forward mode='route'/>"), {("net", "mode", "config")}),
    "pool path": (swap("pool", f"<path>{POOL_PATH}<", f"<path>{POOL_PATH}-2<"), {("pool", "path", "config")}),
    "pool autostart": ((v("pool-autostart", "drifty", "--disable"), v("pool-autostart", "drifty")),
                       {("pool", "autostart", "host")}),
    "pool inactive": ((v("pool-destroy", "drifty"), v("pool-start", "drifty")),
                      {("pool", "state", "host"), ("vm", "disks[0].pool", "host")}),
    "domain paused": ((v("suspend", "drifty"), v("resume", "drifty")), {("vm", "state", "host")}),
    "volume resized": ((v("vol-resize", "drifty-spare", "9M", "--pool", "drifty"),
                        v("vol-resize", "drifty-spare", "8M", "--pool", "drifty", "--shrink")),
                       {("spare", "size", "host")}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_from_outside_is_named_and_nothing_else(name: str, site: Site) -> None:
    assert site.drift() == set()
    (change, undo), expected = CHANGES[name]
    change()
    try:
        assert site.drift() == expected
    finally:
        undo()
    assert site.drift() == set()


def test_another_mac_is_named(site: Site) -> None:
    own = mac()
    edit("domain", own, "52:54:00:97:05:99")
    assert site.drift() == {("vm", "networks[0].mac", "config")}
    edit("domain", "52:54:00:97:05:99", own)
    assert site.drift() == set()


def test_a_link_that_is_down_was_not_declared(site: Site) -> None:
    card(link="down")()
    assert site.drift() == set()
    card(link="up")()


@pytest.mark.parametrize(
    ("name", "key", "value", "field"),
    [
        ("vm", "description", "of today", "description"),
        ("vm", "memory", "80 MiB", "memory"),
        ("vm", "networks", [{"network": "drifty", "ip": "10.97.5.20", "model": "e1000"}], "networks[0].model"),
        ("vm", "cloud_init", {"user_data": "#cloud-config\nruncmd: [reboot]\n"}, "cloud_init"),
        ("pool", "autostart", False, "autostart"),
        ("data", "size", "16 MiB", "size"),
    ],
)
def test_a_changed_property_is_seen(name: str, key: str, value: object, field: str, site: Site) -> None:
    params, before = site.nodes[name].params, dict(site.nodes[name].params)
    params[key] = value
    try:
        assert {(node, found) for node, found, _where in site.drift()} == {(name, field)}
    finally:
        params.clear()
        params.update(before)
    assert site.drift() == set()


def status(site: Site) -> dict[str, str]:
    found = {}
    for name in site.nodes:
        try:
            site.run(name, "check_status")
        except NonRecoverableError as error:
            found[name] = str(error)
    return found


def killed() -> None:
    pid = Path("/run/libvirt/qemu/drifty.pid").read_text()
    os.kill(int(pid), signal.SIGKILL)


def gone() -> None:
    virsh("destroy", "drifty")
    virsh("undefine", "drifty")


def all_gone() -> None:
    gone()
    for prefix in ("net", "pool"):
        virsh(f"{prefix}-destroy", "drifty")
        virsh(f"{prefix}-undefine", "drifty")


def settled(site: Site, sick: set[str]) -> None:
    """Wait until libvirt has seen what happened."""
    deadline = time.monotonic() + 90
    while set(status(site)) != sick:
        assert time.monotonic() < deadline, status(site)
        time.sleep(0.1)


LOSSES: dict[str, tuple[Change, set[str]]] = {
    "seed deleted": (lambda: (POOL_PATH / "drifty-seed.iso").unlink(), {"vm"}),
    "QEMU killed": (killed, {"vm"}),
    "shut off": (v("destroy", "drifty"), {"vm"}),
    "paused": (v("suspend", "drifty"), {"vm"}),
    "undefined while it runs": (v("undefine", "drifty"), {"vm"}),
    "undefined": (gone, {"vm"}),
    "network destroyed": (v("net-destroy", "drifty"), {"net", "vm"}),
    "network gone": (lambda: (virsh("net-destroy", "drifty"), virsh("net-undefine", "drifty")), {"net", "vm"}),
    "pool stopped": (v("pool-destroy", "drifty"), {"pool"}),
    "everything gone but the files": (all_gone, {"net", "pool", "data", "spare", "vm"}),
}


def healed(site: Site, node: str) -> int:
    """Heal; returns what it took of this process's CPU time, in ms: what libvirt and QEMU need is theirs."""
    begin = time.process_time()
    site.run(node, "heal")
    return round((time.process_time() - begin) * 1000)


@pytest.mark.parametrize("name", LOSSES)
def test_what_was_lost_comes_back_as_it_was(name: str, site: Site) -> None:
    lose, sick = LOSSES[name]
    before = site.identity()
    assert status(site) == {}
    lose()
    settled(site, sick)
    own = {node: healed(site, node) for node in site.nodes}
    print(f"{name}: own CPU time of each heal, in ms: {own}")
    assert max(own.values()) < 2000
    assert site.identity() == before
    assert (status(site), site.drift()) == ({}, set())


def test_a_deleted_overlay_is_reported_and_never_made_up(site: Site) -> None:
    overlay = next(POOL_PATH.glob("*root*"))
    kept = overlay.with_name("kept-aside")
    overlay.rename(kept)
    try:
        assert ("vm", "image", "host") in site.drift()
        assert "is gone, with all that the guest wrote" in status(site)["vm"]
        with pytest.raises(NonRecoverableError, match="with all that the guest wrote"):
            site.run("vm", "heal")
        assert not overlay.exists()
    finally:
        kept.rename(overlay)
    assert (status(site), site.drift()) == ({}, set())


def test_a_deleted_volume_is_reported(site: Site) -> None:
    volume = POOL_PATH / "drifty-data"
    kept = volume.with_name("kept-aside")
    volume.rename(kept)
    try:
        assert ("data", "existence", "host") in site.drift()
        with pytest.raises(NonRecoverableError, match="it is gone, with what was in it"):
            site.run("data", "heal")
    finally:
        kept.rename(volume)
    assert (status(site), site.drift()) == ({}, set())


def test_what_a_stop_ended_is_not_sick(site: Site) -> None:
    site.run("vm", "stop")
    assert (status(site), site.drift()) == ({}, set())
    site.run("vm", "start")
    site.run("vm", "suspend")
    assert (status(site), site.drift()) == ({}, set())
    site.run("vm", "resume")


def test_an_iso_image(site: Site) -> None:
    params = {"volume": "drifty-spare", "pool": "drifty", "files": {"meta-data": "a"}}
    node = Node(name="iso", params=params, properties={"libvirt_auth": QEMU}, deployment="drift")
    site.nodes["iso"] = node
    try:
        site.run("iso", "create")
        assert (status(site), site.drift()) == ({}, set())
        params["files"] = {"meta-data": "b"}
        assert site.drift() == {("iso", "files", "host")}
        site.run("iso", "heal")
        assert site.drift() == set()
        virsh("vol-upload", "drifty-spare", f"{IMAGES}/drift-other.iso", "--pool", "drifty")
        assert (set(status(site)), site.drift()) == ({"iso"}, {("iso", "files", "host")})
        site.run("iso", "heal")
        assert (status(site), site.drift()) == ({}, set())
        site.run("iso", "create", params={"files": {"meta-data": "given by hand"}})
        assert (status(site), site.drift()) == ({}, set())
        with pytest.raises(NonRecoverableError, match="its contents were inputs of an operation"):
            site.run("iso", "heal")
        site.run("iso", "delete")
    finally:
        del site.nodes["iso"]


def test_pull_reads_the_host_again(site: Site) -> None:
    keys = {"net": "bridge", "pool": "path", "data": "path", "vm": "console_log"}
    before = {name: site.nodes[name].runtime[key] for name, key in keys.items()}
    for name, key in keys.items():
        site.nodes[name].runtime[key] = "lost"
        site.run(name, "pull")
    assert {name: site.nodes[name].runtime[key] for name, key in keys.items()} == before


def test_what_was_attached_by_an_operation_is_no_drift(site: Site) -> None:
    device = {"params": {"disks": [{"file": f"{IMAGES}/drift-other.iso", "type": "raw", "dev": "vdx"}]}}
    site.run("vm", "stop")
    site.run("vm", "attach_device_flags", **device)
    try:
        assert site.drift() == set()
    finally:
        site.run("vm", "detach_device_flags", **device)
        site.run("vm", "start")
    assert site.drift() == set()


def test_a_hypervisor_that_cannot_be_asked_is_asked_again(site: Site) -> None:
    node = site.nodes["vm"]
    uri = node.runtime["libvirt_auth"]
    node.runtime["libvirt_auth"] = "qemu+unix:///system?socket=/nowhere"
    try:
        for operation in ("check_status", "check_drift"):
            with pytest.raises(OperationRetry, match="cannot tell"):
                site.run("vm", operation)
    finally:
        node.runtime["libvirt_auth"] = uri
