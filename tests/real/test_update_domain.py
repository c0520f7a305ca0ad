"""Each row of the update table, carried out on a guest that runs: same UUID, same QEMU, and the guest sees it."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError
from lxml import etree

from cloudify_libvirt import domain_tasks
from cloudify_libvirt.core.spec.pcie import DEFAULT_SLOTS
from cloudify_libvirt.core.update.table import DOMAIN, How, how
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import change, declared, drift, foresight
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, QEMU, guest, public_key, ssh, virsh
from tests.real.netlab import eventually
from tests.real.test_live import install, uninstall

PLACE = IMAGES / "upd"
MIB = 1024 * 1024
NETWORK = "<network><name>{name}</name><bridge name='{name}br' stp='off' delay='0'/><ip address='10.98.{net}.1' netmask='255.255.255.0'><dhcp><range start='10.98.{net}.10' end='10.98.{net}.90'/></dhcp></ip></network>"  # noqa: E501
POOL = f"<pool type='dir'><name>upd</name><target><path>{PLACE}</path></target></pool>"
FILTER = "<filter name='upd-{}'><rule action='accept' direction='inout'/></filter>"
Params = dict[str, Any]
figures: dict[str, tuple[str, float]] = {}


@pytest.fixture(scope="module")
def place() -> Iterator[libvirt.virConnect]:
    """Two networks, a pool, filters, disks and media of others."""
    connection = libvirt.open(QEMU)
    things: list[Any] = [connection.networkDefineXML(NETWORK.format(name=f"upd{n}", net=40 + n)) for n in (1, 2)]
    things.append(connection.storagePoolDefineXML(POOL))
    things[-1].build()
    for thing in things:
        thing.create()
    filters = [connection.nwfilterDefineXML(FILTER.format(name)) for name in "ab"]
    for name in ("b.raw", "c.raw", "d.raw"):
        (PLACE / name).write_bytes(bytes(4 * MIB))
    for name in ("a.iso", "b.iso"):
        (PLACE / name).write_bytes(name.encode().ljust(2048 * 32, b"\0"))
    yield connection
    for one in (*filters, *things):
        if hasattr(one, "destroy"):
            one.destroy()
        one.undefine()
    shutil.rmtree(PLACE)
    connection.close()


@dataclass
class Machine:
    """A domain of ours, and what it was made with."""

    node: Node
    key: Path
    base: Params = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.base["name"])

    def update(self, **inputs: Any) -> None:
        self.node.run(domain_tasks.update, **inputs)

    def drift(self) -> set[str]:
        found: Any = self.node.run(domain_tasks.check_drift)
        return {one["field"] for one in found or []}

    def foretold(self) -> dict[str, str]:
        """What a plan says of each field: how an update will change it."""
        now = declared.of_today(Request(self.node.ctx(), "domain", {}, records=False))
        return {one.field: str(one.how) for one in foresight.of(now, list(drift.domain(now)))}

    def reset(self) -> None:
        """Bring it back, also after a test that failed."""
        self.wish(self.base)
        self.update(timeout_s=120)

    def wish(self, params: Params) -> None:
        """Change the node's properties, as an update of the deployment does."""
        self.node.params.clear()
        self.node.params.update(copy.deepcopy(params))

    @property
    def pending(self) -> Params:
        return dict(self.node.runtime.get("update_pending") or {})

    @property
    def uuid(self) -> str:
        return str(self.node.runtime["uuid"])

    @property
    def identity(self) -> tuple[str, str]:
        return virsh("domuuid", self.name).strip(), Path(f"/run/libvirt/qemu/{self.name}.pid").read_text()

    def live(self, path: str, attribute: str = "") -> Any:
        return _read(virsh("dumpxml", self.name), path, attribute)

    def stored(self, path: str, attribute: str = "") -> Any:
        return _read(virsh("dumpxml", "--inactive", self.name), path, attribute)

    def shell(self, command: str) -> str:
        return ssh(self.key, str(self.node.runtime["ip"]), command)


def _read(xml: str, path: str, attribute: str) -> Any:
    found = etree.fromstring(xml).find(path)
    return None if found is None else found.get(attribute) if attribute else found.text


@pytest.fixture(scope="module")
def machine(place: libvirt.virConnect, key: Path) -> Iterator[Machine]:
    """A guest with an operating system: balloon, hot plug, and a shell."""
    base = {
        "name": "upd", "memory": "192 MiB", "max_memory": "256 MiB", "vcpu": 1, "max_vcpu": 2, "pool": "upd",
        "title": "as it was", "description": "as it was", "shutdown_timeout_s": 5, "wait_for_ip": True,
        "image": {"source": str(guest("tiny")), "size": "200 MiB"},
        "networks": [{"network": "upd1", "link": "up", "filter": "upd-a", "ip": "10.98.41.20"}],
        "disks": [{"file": str(PLACE / "b.raw"), "dev": "vdb", "type": "raw", "iotune": {"total_iops": 5000}},
                  {"device": "cdrom", "dev": "sda", "bus": "scsi", "type": "raw", "file": str(PLACE / "a.iso")}],
        "graphics": [{"type": "vnc", "password": "before"}], "balloon": {"stats_period_s": 5},
        "cpu_tune": {"shares": 1024, "period_us": 100000, "quota_us": 90000, "vcpus": [{"id": 0, "cpus": "0-1"}],
                     "emulator": "0-1"},
        "memory_tune": {"soft_limit": "2 GiB"}, "iothreads": 1, "events": {"crash": "destroy"},
        "cloud_init": {"ssh_authorized_keys": [public_key(key)], "user_data": "#cloud-config\ndisable_root: false\n"},
    }  # fmt: skip
    made = Machine(
        Node(name="machine", deployment="upd", params=copy.deepcopy(base), properties={"libvirt_auth": QEMU}), key, base
    )
    try:
        install(made.node)
        yield made
    finally:
        uninstall(made.node)


@pytest.fixture(scope="module")
def empty(place: libvirt.virConnect, key: Path) -> Iterator[Machine]:
    """A domain without an operating system: it starts at once, and nothing in it answers."""
    base = {"name": "updempty", "memory": "64 MiB", "vcpu": 1, "max_vcpu": 3,
            "wait_for_ip": False, "shutdown_timeout_s": 0, "hardware": "modern",
            "networks": [{"bridge": "upd1br"}], "disks": [{"file": str(PLACE / "d.raw"), "type": "raw"}]}  # fmt: skip
    made = Machine(
        Node(name="empty", deployment="upd", params=copy.deepcopy(base), properties={"libvirt_auth": QEMU}), key, base
    )
    try:
        install(made.node)
        yield made
    finally:
        uninstall(made.node)


@pytest.fixture(scope="module")
def slotted(place: libvirt.virConnect, key: Path) -> Iterator[Machine]:
    """A guest whose memory grows by DIMMs, and that puts to use what comes."""
    base = {
        "name": "updslots", "memory": "256 MiB", "max_memory": "1 GiB", "memory_slots": 2, "vcpu": 1, "pool": "upd",
        "shutdown_timeout_s": 5, "wait_for_ip": True, "image": {"source": str(guest("tiny"))},
        "networks": [{"network": "upd1", "ip": "10.98.41.30"}],
        "cloud_init": {"ssh_authorized_keys": [public_key(key)], "user_data": "#cloud-config\ndisable_root: false\n"},
    }  # fmt: skip
    made = Machine(
        Node(name="slotted", deployment="upd", params=copy.deepcopy(base), properties={"libvirt_auth": QEMU}), key, base
    )
    try:
        install(made.node)
        made.shell(ONLINE)
        yield made
    finally:
        uninstall(made.node)


Look = Callable[[Machine], object]


@dataclass(frozen=True)
class Case:
    """A change of properties; the fields that differ then; and where to see that it was carried out."""

    change: Callable[[Params], object]
    fields: set[str]
    look: Look
    expected: object
    of: str = "machine"


def put(**values: Any) -> Callable[[Params], object]:
    return lambda params: params.update(values)


def card(**values: Any) -> Callable[[Params], object]:
    return lambda params: params["networks"][0].update(values)


def disk(number: int, **values: Any) -> Callable[[Params], object]:
    return lambda params: params["disks"][number].update(values)


def tune(**values: Any) -> Callable[[Params], object]:
    return lambda params: params["cpu_tune"].update(values)


def scheduler(name: str) -> Look:
    return lambda m: libvirt.open(QEMU).lookupByName(m.name).schedulerParameters()[name]


def password(m: Machine) -> object:
    return _read(virsh("dumpxml", "--security-info", m.name), "devices/graphics", "passwd")


ONLINE = "echo online_movable > /sys/devices/system/memory/auto_online_blocks"
FREE = "awk '/MemTotal/ {print $2}' /proc/meminfo"
EXTRA = {"network": "upd2", "mac": "52:54:00:98:42:77"}
LIVE: dict[str, Case] = {
    "title": Case(put(title="changed"), {"title"}, lambda m: m.live("title"), "changed"),
    "description": Case(put(description="a&b <c>"), {"description"}, lambda m: m.live("description"), "a&b <c>"),
    "autostart": Case(put(autostart=True), {"autostart"}, lambda m: "enable" in virsh("dominfo", m.name), True),
    "memory": Case(put(memory="160 MiB"), {"memory"}, lambda m: int(m.shell(FREE)) < 140 * 1024, True),
    "memory in a DIMM": Case(put(memory="512 MiB"), {"memory"}, lambda m: int(m.shell(FREE)) > 380 * 1024, True,
                             "slotted"),
    "shares": Case(tune(shares=512), {"cpu_tune.shares"}, scheduler("cpu_shares"), 512),
    "period": Case(tune(period_us=50000), {"cpu_tune.period_us"}, scheduler("vcpu_period"), 50000),
    "quota": Case(tune(quota_us=80000), {"cpu_tune.quota_us"}, scheduler("vcpu_quota"), 80000),
    "vcpu pin": Case(tune(vcpus=[{"id": 0, "cpus": "1"}]), {"cpu_tune.vcpus[0].cpus"},
                     lambda m: libvirt.open(QEMU).lookupByName(m.name).vcpuPinInfo()[0][:2], (False, True)),
    "emulator pin": Case(tune(emulator="1"), {"cpu_tune.emulator"},
                         lambda m: virsh("emulatorpin", m.name).split()[-1], "1"),
    "cpu_tune": Case(put(cpu_tune={"shares": 300}), {"cpu_tune"}, scheduler("cpu_shares"), 300, "empty"),
    "memory_tune": Case(put(memory_tune={"soft_limit": "3 GiB"}), {"memory_tune.soft_limit"},
                        lambda m: m.live("memtune/soft_limit"), str(3 * MIB)),
    "on_crash": Case(put(events={"crash": "restart"}), {"events.crash"}, lambda m: m.live("on_crash"), "restart"),
    "balloon statistics": Case(put(balloon={"stats_period_s": 7}), {"balloon.stats_period_s"},
                               lambda m: m.live("devices/memballoon/stats", "period"), "7"),
    "iothreads": Case(put(iothreads=2), {"iothreads"}, lambda m: m.live("iothreads"), "2"),
    "iotune": Case(disk(0, iotune={"read_iops": 700}),
                   {"disks[0].iotune.read_iops_sec", "disks[0].iotune.total_iops_sec"},
                   lambda m: m.live("devices/disk/iotune/read_iops_sec"), "700"),
    "medium": Case(disk(1, file=str(PLACE / "b.iso")), {"disks[1].medium"},
                   lambda m: m.shell("head -c 5 /dev/sr0"), "b.iso"),
    "ejected": Case(disk(1, file=None), {"disks[1].medium"}, lambda m: "a.iso" in virsh("domblklist", m.name), False),
    "disk attached": Case(lambda p: p["disks"].append({"file": str(PLACE / "c.raw"), "dev": "vdc", "type": "raw"}),
                          {"disks[2]"}, lambda m: m.shell("cat /sys/block/vdc/size"), "8192"),
    "disk detached": Case(lambda p: p["disks"].pop(0), {"disks[vdb]"},
                          lambda m: "vdb" in m.shell("ls /sys/block"), False),
    "link": Case(card(link="down"), {"networks[0].link"}, lambda m: m.live("devices/interface/link", "state"), "down"),
    "filter": Case(card(filter="upd-b"), {"networks[0].filter"},
                   lambda m: m.live("devices/interface/filterref", "filter"), "upd-b"),
    "network": Case(card(network="upd2", ip=None), {"networks[0].network"},
                    lambda m: m.live("devices/interface/source", "bridge"), "upd2br"),
    "bridge": Case(card(bridge="upd2br"), {"networks[0].bridge"},
                   lambda m: m.live("devices/interface/source", "bridge"), "upd2br", "empty"),
    "address": Case(card(ip="10.98.41.21"), {"networks[0].ip"},
                    lambda m: "10.98.41.21" in virsh("net-dumpxml", "upd1"), True),
    "card attached": Case(lambda p: p["networks"].append(dict(EXTRA)), {"networks[1]"},
                          lambda m: m.shell("cat /sys/class/net/*/address").count(EXTRA["mac"]), 1),
    "channel": Case(put(channels=[{"name": "org.example.0"}]), {"channels[org.example.0]"},
                    lambda m: "org.example.0" in m.shell("cat /sys/class/virtio-ports/*/name"), True),
    "password": Case(lambda p: p["graphics"][0].update(password="after"), {"graphics[0].password"}, password, "after"),
    "root grows": Case(lambda p: p["image"].update(size="220 MiB"), {"image.size"},
                       lambda m: m.shell("cat /sys/block/vda/size"), str(220 * 2048)),
    "vcpu": Case(put(vcpu=2), {"vcpu"}, lambda m: m.live("vcpu", "current"), "2", "empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIVE)
def test_a_change_is_carried_out_while_the_guest_runs(name: str, request: pytest.FixtureRequest) -> None:
    case = LIVE[name]
    m: Machine = request.getfixturevalue(case.of)
    m.reset()
    before = m.identity
    found: Any = m.node.run(domain_tasks.check_drift)
    assert found is None
    wanted = copy.deepcopy(m.base)
    case.change(wanted)
    m.wish(wanted)
    assert m.drift() - {"controller"} == case.fields
    assert m.foretold() | {"controller": "next boot"} == dict.fromkeys(case.fields, "live") | {
        "controller": "next boot"
    }
    begin = time.monotonic()
    m.update(timeout_s=120)
    figures[name] = "live", (time.monotonic() - begin) * 1000
    assert (m.pending, m.drift()) == ({}, set())
    assert m.identity == before
    eventually(lambda: case.look(m) == case.expected)
    assert case.look(m) == case.expected
    stored = virsh("dumpxml", "--inactive", m.name)
    m.update()
    assert virsh("dumpxml", "--inactive", m.name) == stored, "again: nothing to do"
    if name == "root grows":
        m.base.update(wanted)  # it never shrinks
    if name != "vcpu":  # an empty machine never gives one back
        m.reset()
        assert (m.drift(), m.identity) == (set(), before)


def test_each_row_of_the_table_is_carried_out_by_a_case() -> None:
    fields = {one for cases in (LIVE, WAITING) for case in cases.values() for one in case.fields}
    fields |= {
        "metadata",
        "state",
        "existence",
        "max_memory",
        "max_vcpu",
        "controller",
        "networks[0].bandwidth",
        "arch",
    }
    reached = {how("domain", one, active=True).field for one in fields}
    assert reached == {row.field for row in DOMAIN}
    for case in LIVE.values():
        # A slot for the next device comes with the next start.
        assert {how("domain", one, active=True).how for one in case.fields - {"controller"}} == {How.LIVE}


WAITING: dict[str, Case] = {
    "startup policy": Case(disk(1, startup_policy="optional"), {"disks[1].startup_policy"},
                           lambda m: "startupPolicy='optional'" in virsh("dumpxml", m.name), True),
    "another disk": Case(disk(0, file=str(PLACE / "c.raw")), {"disks[0].file"},
                         lambda m: "c.raw" in virsh("domblklist", m.name), True),
    "slots for memory": Case(put(memory_slots=1), {"memory_slots"}, lambda m: m.live("maxMemory", "slots"), "1"),
    "serial number": Case(put(smbios={"serial": "X1"}), {"smbios"}, lambda m: m.live("sysinfo/system/entry"), "X1"),
    "name": Case(put(name="upd renamed"), {"name"}, lambda m: m.name in virsh("domname", m.uuid), True),
    "seed": Case(lambda p: p["cloud_init"].update(meta_data="local-hostname: other"), {"cloud_init"},
                 lambda m: m.drift(), set()),
    "boot menu": Case(put(boot={"menu": True}), {"boot.menu"},
                      lambda m: m.live("os/bootmenu", "enable"), "yes", "empty"),
    "boot order": Case(lambda p: (disk(0, boot_order=2)(p), card(boot_order=1)(p)),
                       {"disks[0].boot_order", "networks[0].boot_order"},
                       lambda m: (m.live("devices/interface/boot", "order"), m.live("os/boot", "dev")),
                       ("1", None), "empty"),
}  # fmt: skip


def waiting(of: str) -> dict[str, Case]:
    return {name: case for name, case in WAITING.items() if case.of == of}


def wish_all(m: Machine, of: str) -> set[str]:
    """Wish for all of them at once, as each would cost two boots."""
    m.reset()
    wanted = copy.deepcopy(m.base)
    for case in waiting(of).values():
        case.change(wanted)
    m.wish(wanted)
    fields = {one for case in waiting(of).values() for one in case.fields}
    assert m.drift() - {"controller"} == fields
    said = m.foretold()
    assert {field: said[field] for field in fields} == {
        field: how("domain", field, active=True).how for field in fields
    }
    return fields


def test_what_waits_for_the_next_boot_restarts_nothing(empty: Machine) -> None:
    empty.reset()  # the vCPU that it kept goes with its start
    for operation in (domain_tasks.stop, domain_tasks.start):
        empty.node.run(operation)
    fields, before = wish_all(empty, "empty"), empty.identity
    empty.update(allow_restart=True)
    assert (empty.pending.keys(), empty.identity) == (fields, before)
    assert {entry["why"] for entry in empty.pending.values()} == {"it takes effect at the next start"}
    for operation in (domain_tasks.stop, domain_tasks.start):
        empty.node.run(operation)
    assert (empty.pending, empty.drift()) == ({}, set())
    for name, case in waiting("empty").items():
        assert case.look(empty) == case.expected, name
    empty.reset()


def test_what_needs_a_restart_waits_for_permission(machine: Machine) -> None:
    fields, before = wish_all(machine, "machine"), machine.identity
    for _ in range(2):
        machine.update()
        assert (machine.pending.keys(), machine.identity) == (fields, before)
    found: Any = machine.node.run(domain_tasks.check_drift)
    assert [one for one in found if "it takes effect at the next start" not in one.get("pending", "")] == []
    assert {one["field"] for one in found if one["where"] == "config"} == {"name"}
    machine.update(allow_restart=True)
    machine.base["name"] = "upd renamed"
    try:
        assert (machine.pending, machine.drift()) == ({}, set())
        assert machine.identity[0] == before[0] and machine.identity[1] != before[1]
        for name, case in waiting("machine").items():
            assert case.look(machine) == case.expected, name
        assert machine.shell("hostname") and machine.node.runtime["ip"] == "10.98.41.20"
    finally:
        machine.base["name"] = "upd"
        machine.wish(machine.base)
        machine.update(allow_restart=True)
    assert machine.identity[0] == before[0] and machine.drift() == set()


def without_balloon(xml: str) -> str:
    """What it says, but for what its guest does by itself."""
    return re.sub("<currentMemory.*|state='[a-z]*connected'", "", xml)


def test_what_the_host_or_libvirt_rejects_leaves_all_as_it_was(machine: Machine) -> None:
    machine.reset()
    before, stored, live = (
        machine.identity,
        virsh("dumpxml", "--inactive", machine.name),
        without_balloon(virsh("dumpxml", machine.name)),
    )
    disks = [machine.base["disks"][0], {**machine.base["disks"][1], "bus": "virtio", "dev": "vdx"}]
    for wrong, words in (
        ({"disks": disks, "title": "never"}, "of domain 'upd'"),
        ({"machine": "no-such-machine"}, "change machine of domain 'upd'"),
        ({"arch": "aarch64", "machine": "virt"}, "arch cannot change in place"),
        ({"vcpu": "many"}, "vcpu"),
        ({"disks": [{"volume": "no-such-volume", "dev": "vdb"}]}, "no-such-volume"),
        ({"image": {**machine.base["image"], "size": "100 MiB"}}, "shrink"),
    ):
        machine.wish({**machine.base, **wrong})
        with pytest.raises(NonRecoverableError) as failed:
            machine.update()
        assert words in str(failed.value)
        assert virsh("dumpxml", "--inactive", machine.name) == stored and machine.identity == before
        now = without_balloon(virsh("dumpxml", machine.name))
        assert set(now.splitlines()) ^ set(live.splitlines()) == set(), wrong
    machine.reset()


def test_a_workflow_that_would_replace_the_instance_hears_of_it_and_has_no_reason_to(machine: Machine) -> None:
    machine.wish({**machine.base, "machine": "no-such-machine"})
    before = machine.identity
    for workflow in ("update", "csys_new_deployment_update"):
        machine.node.workflow = workflow
        try:
            machine.update()
        finally:
            machine.node.workflow = ""
        assert "change machine of domain 'upd'" in machine.node.runtime["update_refused"]
        assert machine.identity == before
    machine.reset()
    assert not machine.node.runtime.get("update_refused") and machine.drift() == set()


def test_what_the_guest_has_not_given_back_is_pending_and_confirmed_by_its_event(machine: Machine) -> None:
    machine.reset()
    virsh("suspend", "upd")
    machine.node.runtime["suspended"] = True
    try:
        machine.wish({**machine.base, "disks": machine.base["disks"][1:], "memory": "160 MiB"})
        machine.update(timeout_s=0.5)
        assert machine.pending.keys() == {"disks[vdb]", "memory"}
        assert "has not given it back" in machine.pending["disks[vdb]"]["why"]
        assert "b.raw" in virsh("domblklist", "upd") and "b.raw" not in virsh("dumpxml", "--inactive", "upd")
        found: Any = machine.node.run(domain_tasks.check_drift)
        assert {one["field"] for one in found} == {"disks[vdb]", "memory"} and all(one["pending"] for one in found)
        timer = threading.Timer(1.0, lambda: virsh("resume", "upd"))
        begin = time.monotonic()
        timer.start()
        machine.update(timeout_s=200)
        assert 0.9 < time.monotonic() - begin < 100, "the guest's answer ends the wait"
        timer.join()
    finally:
        machine.node.runtime["suspended"] = None
    assert (machine.pending, machine.drift()) == ({}, set())
    machine.reset()


def test_what_was_pending_and_is_so_now_is_forgotten_when_the_host_is_read_again(machine: Machine) -> None:
    machine.reset()
    virsh("suspend", "upd")
    machine.node.runtime["suspended"] = True
    machine.wish({**machine.base, "disks": machine.base["disks"][1:]})
    machine.update(timeout_s=0.3)
    machine.node.run(domain_tasks.pull)
    assert machine.pending.keys() == {"disks[vdb]"}
    virsh("resume", "upd")
    machine.node.runtime["suspended"] = None
    deadline = time.monotonic() + 120
    while "b.raw" in virsh("domblklist", "upd"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    machine.node.run(domain_tasks.pull)
    assert machine.pending == {}
    machine.reset()


def test_what_the_host_cannot_do_live_waits_with_the_reason(machine: Machine) -> None:
    """A kernel without the queueing discipline cannot limit a card; one with it can."""
    machine.reset()
    before = machine.identity
    wanted = copy.deepcopy(machine.base)
    card(bandwidth={"inbound": {"average_kb_s": 50000}})(wanted)
    machine.wish(wanted)
    machine.update()
    assert machine.stored("devices/interface/bandwidth/inbound", "average") == "50000" and machine.identity == before
    if machine.pending:
        assert "qdisc" in machine.pending["networks[0].bandwidth"]["why"], machine.pending
    else:
        assert machine.live("devices/interface/bandwidth/inbound", "average") == "50000"
    without = virsh("dumpxml", "--inactive", "upd").split("<bandwidth>")
    text = without[0] + without[1].split("</bandwidth>")[1]
    libvirt.open(QEMU).defineXML(text)
    machine.reset()


def test_what_else_an_update_mends(machine: Machine) -> None:
    """The mark, the state and the definition: what an update finds gone, it brings back."""
    machine.reset()
    before = machine.identity
    for how_ in ("--live", "--config"):
        virsh("metadata", "upd", "https://cloudify.co/libvirt/1", how_, "--remove")
    assert machine.node.run(domain_tasks.check_drift) is None or machine.drift() == {"metadata"}, machine.node.run(
        domain_tasks.check_drift
    )
    virsh("autostart", "upd")
    virsh("suspend", "upd")
    virsh("undefine", "upd")
    assert {"metadata", "state", "existence"} <= machine.drift()
    machine.update()
    assert (machine.drift(), machine.identity) == (set(), before)
    assert "cfy:owner" in virsh("dumpxml", "--inactive", "upd") and "cfy:owner" in virsh("dumpxml", "upd")


def _anew(m: Machine) -> None:
    """Start it as it was made: an empty machine gives no memory back while it runs."""
    m.node.run(domain_tasks.stop)
    m.reset()
    m.node.run(domain_tasks.start)


def test_memory_that_another_tool_took_from_a_running_guest_is_found_and_given_back(machine: Machine) -> None:
    machine.reset()
    before = machine.identity
    virsh("setmem", "upd", "160M", "--live")

    def found() -> Any:
        return [(one["field"], one["where"]) for one in machine.node.run(domain_tasks.check_drift) or []]

    assert eventually(lambda: found() == [("memory", "live")], 120)
    machine.update(timeout_s=120)
    assert (machine.pending, found(), machine.identity) == ({}, [], before)


def ports(m: Machine, *how_: str) -> int:
    return virsh("dumpxml", m.name, *how_).count("model='pcie-root-port'")


def test_slots_for_devices_to_come_are_there_at_the_next_start(empty: Machine) -> None:
    _anew(empty)
    before, there = empty.identity, ports(empty)
    empty.wish({**empty.base, "hotplug_slots": DEFAULT_SLOTS + 4})
    assert empty.foretold() == {"controller": "next boot"}
    found: Any = empty.node.run(domain_tasks.check_drift)
    assert {(one["field"], one["where"], one["found"]) for one in found} == {("controller", "config", None)}
    empty.update(allow_restart=True)
    assert (empty.drift(), empty.pending, empty.identity) == (set(), {}, before)
    assert (ports(empty, "--inactive"), ports(empty)) == (there + 4, there)
    for operation in (domain_tasks.stop, domain_tasks.start):
        empty.node.run(operation)
    assert (ports(empty), empty.drift(), empty.identity[0]) == (there + 4, set(), before[0])
    empty.reset()


@pytest.mark.parametrize("active", [True, False])
def test_a_disk_stays_on_a_snapshot_of_another_tool(active: bool, empty: Machine) -> None:
    """Also through the next start: the definition must not name the file below again."""
    _anew(empty)
    if not active:
        empty.node.run(domain_tasks.stop)
    above = PLACE / "d.other"
    spec = f"vda,file={above},snapshot=external,driver=qcow2"
    virsh("snapshot-create-as", empty.name, "other", "--disk-only", "--no-metadata", "--diskspec", spec)
    try:
        assert empty.drift() == set()
        empty.wish({**empty.base, "description": f"new {active}"})
        empty.update()
        assert (empty.pending, empty.drift(), empty.stored("description")) == ({}, set(), f"new {active}")
        for operation in (domain_tasks.stop, domain_tasks.start):
            empty.node.run(operation)
        for look in (empty.live, empty.stored):
            assert look("devices/disk/source", "file") == str(above)
            assert look("devices/disk/driver", "type") == "qcow2"
        empty.wish({**empty.base, "disks": [{"file": str(PLACE / "c.raw"), "type": "raw"}]})
        with pytest.raises(NonRecoverableError, match="which no blueprint named"):
            empty.update()
        assert empty.stored("devices/disk/source", "file") == str(above)
    finally:
        virsh("blockcommit", empty.name, "vda", "--active", "--pivot", "--wait")
        above.unlink()
    empty.reset()
    assert empty.drift() == set()


def test_a_machine_whose_new_definition_cannot_start_runs_again_as_it_did(empty: Machine) -> None:
    _anew(empty)
    before = empty.identity
    empty.wish({**empty.base, "disks": [{"file": str(PLACE / "gone.raw"), "type": "raw"}]})
    with pytest.raises(NonRecoverableError, match=r"gone\.raw.*It runs again as it did before"):
        empty.update(allow_restart=True)
    assert empty.identity[0] == before[0] and empty.identity[1] != before[1]
    for look in (empty.live, empty.stored):
        assert look("devices/disk/source", "file") == str(PLACE / "d.raw")
    assert "state" not in empty.drift()
    empty.reset()
    assert (empty.pending, empty.drift()) == ({}, set())


def test_what_others_attached_to_a_machine_stays(empty: Machine) -> None:
    _anew(empty)
    (PLACE / "e.raw").write_bytes(bytes(MIB))
    virsh("attach-disk", empty.name, str(PLACE / "e.raw"), "vdh", "--persistent")
    try:
        empty.wish({**empty.base, "description": "with a guest"})
        assert empty.foretold() == {"disks[vdh]": "stays", "description": "live"}
        empty.update()
        assert "vdh" in virsh("domblklist", empty.name) and "vdh" in virsh("domblklist", "--inactive", empty.name)
        assert (empty.pending, empty.drift()) == ({}, {"disks[vdh]"})
    finally:
        virsh("detach-disk", empty.name, "vdh", "--config")
        for operation in (domain_tasks.stop, domain_tasks.start):
            empty.node.run(operation)
    empty.reset()
    assert empty.drift() == set()


def test_limits_and_media_of_others_stay(empty: Machine) -> None:
    """Where nobody declares limits, or a medium, they are whose they are; what was declared goes with it."""
    drive = {"device": "cdrom", "dev": "sda", "bus": "sata"}
    empty.node.run(domain_tasks.stop)
    empty.wish({**empty.base, "disks": [*empty.base["disks"], drive]})
    for operation in (domain_tasks.update, domain_tasks.start):
        empty.node.run(operation)
    assert (empty.pending, empty.drift()) == ({}, set())
    virsh("blkdeviotune", empty.name, "vda", "--total-iops-sec", "900", "--live", "--config")
    virsh("change-media", empty.name, "sda", str(PLACE / "a.iso"), "--insert", "--live", "--config")

    def there() -> set[object]:
        return {(look("devices/disk/iotune/total_iops_sec"), look("devices/disk[@device='cdrom']/source", "file"))
                for look in (empty.live, empty.stored)}  # fmt: skip

    empty.node.params["description"] = "something else"
    empty.update()
    assert there() == {("900", str(PLACE / "a.iso"))}
    assert (empty.pending, empty.drift()) == ({}, {"disks[0].iotune", "disks[1].medium"})
    disk(0, iotune={"total_iops": 800})(empty.node.params)
    disk(1, file=str(PLACE / "b.iso"), type="raw")(empty.node.params)
    empty.update()
    assert there() == {("800", str(PLACE / "b.iso"))} and empty.drift() == set()
    disk(0, iotune=None)(empty.node.params)
    disk(1, file=None)(empty.node.params)
    empty.update()
    assert there() == {(None, None)}
    assert (empty.pending, empty.drift()) == ({}, set())
    _anew(empty)


def test_a_machine_of_an_older_release_keeps_what_it_has_and_says_so(
    empty: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """What the first update does not find in the blueprint may be anybody's; what it finds there is ours."""
    _anew(empty)
    for name in ("f.raw", "g.raw"):
        (PLACE / name).write_bytes(bytes(MIB))
    more = {"file": str(PLACE / "f.raw"), "dev": "vdf", "type": "raw"}
    empty.node.run(domain_tasks.stop)
    empty.wish({**empty.base, "disks": [*empty.base["disks"], more]})
    empty.update()
    del empty.node.runtime["declared"]
    virsh("attach-disk", empty.name, str(PLACE / "g.raw"), "vdg", "--config")
    empty.wish(empty.base)
    caplog.clear()
    empty.update()
    (said,) = [one.getMessage() for one in caplog.records if "did not record what was declared" in one.getMessage()]
    assert all(f"disks[{one}]" in said for one in ("vdf", "vdg")) and str(PLACE / "f.raw") in said
    assert empty.drift() == {"disks[vdf]", "disks[vdg]"}
    caplog.clear()
    # As the warning says: declared, and taken out again.
    empty.wish({**empty.base, "disks": [*empty.base["disks"], more]})
    empty.update()
    assert empty.drift() == {"disks[vdg]"}
    empty.reset()
    assert empty.drift() == {"disks[vdg]"}
    assert "did not record" not in caplog.text
    virsh("detach-disk", empty.name, "vdg", "--config")
    empty.node.run(domain_tasks.start)
    assert empty.drift() == set()


def dimms(m: Machine) -> list[int]:
    """Sizes in MiB of those that the running machine has; none is ever in its definition."""
    assert m.stored("devices/memory") is None
    found = etree.fromstring(virsh("dumpxml", m.name)).findall("devices/memory/target/size")
    return [int(one.text) // 1024 for one in found]


def in_use(m: Machine) -> None:
    """Fill memory of the guest."""
    m.shell(
        "mkdir -p /filled && mount -t tmpfs -o size=400M none /filled && dd if=/dev/zero of=/filled/a bs=1M count=260"
    )


def test_dimms_come_and_go_and_what_the_guest_holds_is_pending(slotted: Machine) -> None:
    slotted.reset()
    before = slotted.identity
    for size, there in (("384 MiB", [128]), ("640 MiB", [128, 256]), ("600 MiB", [128, 256])):
        slotted.wish({**slotted.base, "memory": size})
        slotted.update(timeout_s=120)
        assert (dimms(slotted), slotted.pending) == (there, {})
        assert [slotted.drift() for _ in range(3)] == [set()] * 3
    virsh("suspend", slotted.name)
    slotted.node.runtime["suspended"] = True
    try:
        slotted.wish({**slotted.base, "memory": "600 MiB"})
        slotted.update()
        slotted.wish({**slotted.base, "memory": "344 MiB"})
        slotted.update(timeout_s=0.5, allow_restart=True)
        (entry,) = slotted.pending.values()
        assert "the guest has not given 1 DIMM back yet" in entry["why"] and entry["how"] == "live"
        assert (dimms(slotted), slotted.stored("memory")) == ([128, 256], str(344 * 1024))
        found: Any = slotted.node.run(domain_tasks.check_drift)
        assert [(one["field"], one["where"]) for one in found] == [("memory", "live")] and found[0]["pending"]
    finally:
        virsh("resume", slotted.name)
        slotted.node.runtime["suspended"] = None
    eventually(lambda: dimms(slotted) == [128])
    slotted.node.run(domain_tasks.pull)
    assert (slotted.pending, slotted.drift(), slotted.identity) == ({}, set(), before)
    slotted.reset()
    assert (dimms(slotted), slotted.drift()) == ([], set())


def test_what_no_dimm_can_bring_waits_or_is_refused_before_anything_changes(
    slotted: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slotted.reset()
    before = slotted.identity
    slotted.wish({**slotted.base, "memory": "300 MiB"})
    assert slotted.foretold() == {"memory": "restart"}
    slotted.update()
    assert "it can have 256 MiB or 384 MiB; it takes effect at the next start" in slotted.pending["memory"]["why"]
    for size in ("384 MiB", "512 MiB"):
        slotted.wish({**slotted.base, "memory": size})
        slotted.update()
    slotted.wish({**slotted.base, "memory": "640 MiB"})
    assert slotted.foretold() == {"memory": "restart"}
    slotted.update()
    assert "all of its memory_slots (2) are in use" in slotted.pending["memory"]["why"]
    slotted.wish({**slotted.base, "memory": "512 MiB"})
    slotted.update()
    assert (slotted.pending, dimms(slotted), slotted.drift()) == ({}, [128, 128], set())
    in_use(slotted)
    # A guest that is slow to say what it uses is believed to use little.
    monkeypatch.setattr("cloudify_libvirt.core.update.sizes._STATS_TIMEOUT_S", 120.0)
    stored = virsh("dumpxml", "--inactive", slotted.name)
    for wrong, words in (
        ({"memory": "2 GiB"}, "max_memory is less than memory"),
        ({"memory": "256 MiB", "title": "never"}, "the guest uses"),
    ):
        slotted.wish({**slotted.base, **wrong})
        with pytest.raises(NonRecoverableError, match=words):
            slotted.update()
        assert virsh("dumpxml", "--inactive", slotted.name) == stored and dimms(slotted) == [128, 128]
    slotted.shell("umount /filled")
    slotted.reset()
    with monkeypatch.context() as patch:
        patch.setattr("cloudify_libvirt.core.host.preflight.free_memory_kib", lambda _session: 1024)
        slotted.wish({**slotted.base, "memory": "512 MiB"})
        with pytest.raises(NonRecoverableError, match="it needs 256 MiB, the host has 1 MiB left"):
            slotted.update()
    assert slotted.stored("memory") == str(256 * 1024) and slotted.identity == before
    slotted.reset()
    assert (dimms(slotted), slotted.drift()) == ([], set())


def test_a_machine_with_a_dimm_is_put_back_healed_and_has_no_drift(slotted: Machine) -> None:
    """A snapshot has the DIMM; a new start has all of the memory from the start, and its slots free."""
    slotted.reset()
    slotted.wish({**slotted.base, "memory": "512 MiB"})
    slotted.update()
    slotted.node.run(domain_tasks.snapshot_create, snapshot_name="with", snapshot_incremental=True)
    slotted.reset()
    assert dimms(slotted) == []
    slotted.node.run(domain_tasks.snapshot_apply, snapshot_name="with", snapshot_incremental=True)
    assert dimms(slotted) == [256]
    assert slotted.drift() == {"memory"}
    slotted.wish({**slotted.base, "memory": "512 MiB"})
    slotted.update()
    assert (slotted.pending, slotted.drift()) == ({}, set())
    slotted.node.run(domain_tasks.snapshot_delete, snapshot_name="with", snapshot_incremental=True)
    os.kill(int(slotted.identity[1]), signal.SIGKILL)
    eventually(lambda: virsh("domstate", slotted.name).strip() == "shut off")
    slotted.node.run(domain_tasks.heal)
    assert [slotted.drift() for _ in range(3)] == [set()] * 3
    assert (dimms(slotted), slotted.live("memory")) == ([], str(512 * 1024))


def test_the_maximum_of_memory_waits_for_a_start(empty: Machine) -> None:
    before = empty.identity
    empty.wish({**empty.base, "memory": "96 MiB", "allow_restart": True})
    assert empty.foretold() == {"memory": "restart", "max_memory": "restart"}
    empty.update()
    assert empty.identity[0] == before[0] and empty.identity[1] != before[1]
    assert (empty.live("memory"), empty.pending, empty.drift()) == ("98304", {}, set())


@pytest.mark.parametrize("point", ["_pass", "domains.restarted"])
def test_an_update_killed_in_its_restart_is_completed_by_the_next(
    point: str, empty: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what was stored by then, not what the process still knew."""
    size = {"_pass": 128, "domains.restarted": 160}[point]
    empty.wish({**empty.base, "memory": f"{size} MiB"})
    empty.update()
    uuid, calls = empty.identity[0], iter([change._pass, _killed])

    def second(*arguments: Any) -> Any:
        return next(calls)(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"cloudify_libvirt.steps.change.{point}", second if point == "_pass" else _killed)
        empty.update(allow_restart=True)
    assert virsh("domstate", empty.name).strip() == "shut off"
    stored = empty.node.stored[-1]
    empty.node.runtime.clear()
    empty.node.runtime.update({key: value for key, value in stored.items() if key != "_domains"})
    empty.update()
    assert empty.identity[0] == uuid and empty.live("memory") == str(size * 1024)
    assert (empty.pending, empty.drift(), empty.node.runtime["restarting"]) == ({}, set(), None)


def _killed(*_arguments: Any) -> None:
    raise KeyboardInterrupt


def test_zz_no_live_change_takes_long() -> None:
    """With -s, the table of docs/update.md."""
    print()
    for name, (way, ms) in figures.items():
        print(f"| {name} | {way} | {ms:.0f} |")
    assert max((ms for _way, ms in figures.values()), default=0) < 60_000, "none waits for a deadline"
