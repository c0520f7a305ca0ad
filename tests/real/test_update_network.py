"""Each row of the networks' update table, on the network of a running guest: its link, its lease, its QEMU stay."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks, network_tasks, pool_tasks
from cloudify_libvirt.core import parse
from cloudify_libvirt.core.update import table_network
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.core.update.table import how
from tests.driver.conftest import Node
from tests.real.conftest import PYTHON, QEMU, ROOT, SSH_OPTIONS, public_key, ssh, virsh
from tests.real.netlab import command, eventually
from tests.real.test_networks import can_limit_rates

NAME = "updnet"
WIRES = ("updwire0", "updwire1")
BASE: dict[str, Any] = {"name": NAME, "cidr": "10.97.8.0/24", "dev": "updbr0"}
OTHERS = "<host mac='52:54:00:97:08:77' name='theirs' ip='10.97.8.77'/>"


def node(node_name: str, **params: Any) -> Node:
    return Node(name=node_name, params=params, properties={"libvirt_auth": QEMU}, deployment="updnet")


def xml(name: str = NAME, *, stored: bool = False) -> str:
    return virsh("net-dumpxml", name, *(["--inactive"] if stored else []))


@dataclass
class Talk:
    """One ssh session that stays open: what a guest's user has."""

    process: subprocess.Popen[str]

    @classmethod
    def begin(cls, key: Path, address: str) -> Talk:
        options = [*SSH_OPTIONS, "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"]
        words = ["ssh", "-T", "-i", str(key), *options, f"root@{address}", "cat"]
        return cls(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))

    def hears(self, text: str) -> bool:
        """Whether the guest says back what it was told, over the connection of the beginning."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip() == text


@dataclass
class Site:
    """A network with a guest on it."""

    net: Node
    guest: Node
    talk: Talk
    pid: int
    key: Path
    milliseconds: dict[str, float] = field(default_factory=dict)
    # Rows of the table that answered for a difference since the test began.
    answered: set[str] = field(default_factory=set)

    def update(self, what: Node | None = None, row: str = "", **inputs: Any) -> None:
        """Carry it out; with ``row``, how long that took is that row's."""
        begin = time.monotonic()
        (what or self.net).run(network_tasks.update, **inputs)
        if row:
            self.milliseconds[row] = (time.monotonic() - begin) * 1000

    def drift(self, what: Node | None = None) -> list[dict[str, Any]]:
        found = (what or self.net).run(network_tasks.check_drift) or []
        self.answered.update(how("network", one["field"], active=True).field for one in found)
        return found

    def asks(self, name: str) -> str:
        """What the guest hears of the network's DNS server."""
        return ssh(self.key, self.guest.runtime["ip"], f"nslookup {name} 10.97.8.1 || true")

    def stands(self) -> bool:
        """Whether the guest is the same process, and its card in the bridge."""
        os.kill(self.pid, 0)
        card = parse.domain(virsh("dumpxml", "updguest")).interfaces[0].host_device
        master = Path(f"/sys/class/net/{card}/master").resolve().name
        return pid() == self.pid and master == parse.network(xml()).bridge


def pid() -> int:
    return int(Path("/run/libvirt/qemu/updguest.pid").read_text())


def run(which: Node, module: Any, *operations: str) -> None:
    for operation in operations:
        which.run(getattr(module, operation))


@pytest.fixture(scope="module")
def site(tiny: Path, key: Path) -> Iterator[Site]:
    net, pool = node("net", **BASE), node("pool", name=NAME)
    guest = node(
        "guest", name="updguest", memory="128 MiB", image=str(tiny), pool=NAME, networks=[{"network": NAME}],
        cloud_init={"ssh_authorized_keys": [public_key(key)]}, ssh_user="root", shutdown_timeout_s=2, wait_for_ip=True,
    )  # fmt: skip
    try:
        run(net, network_tasks, "create", "start")
        run(pool, pool_tasks, "create", "configure", "start")
        run(guest, domain_tasks, "create", "configure", "start")
        assert eventually(lambda: guest.run(domain_tasks.get_state), 300)
        address = guest.runtime["ip"]
        ssh(key, address, "true")
        talk = Talk.begin(key, address)
        assert talk.hears("hello")
        virsh("net-update", NAME, "add", "ip-dhcp-host", OTHERS, "--live", "--config")
        found = Site(net, guest, talk, pid(), key)
        yield found
        talk.process.terminate()
        for row, milliseconds in found.milliseconds.items():
            print(f"{row} {milliseconds:.0f} ms")
    finally:
        run(guest, domain_tasks, "stop", "delete")
        run(net, network_tasks, "delete")
        run(pool, pool_tasks, "delete")


@dataclass(frozen=True)
class Case:
    """What is changed, and what the network's definition then has; taken back it has it no more."""

    changes: dict[str, Any]
    has: str


CASES: dict[str, Case] = {
    "ips[*].hosts[*]*": Case({"hosts": [{"mac": "52:54:00:97:08:30", "ip": "10.97.8.30", "name": "fixed"}]},
                             "<host mac='52:54:00:97:08:30' name='fixed' ip='10.97.8.30'/>"),
    "ips[*].ranges[*]*": Case({"lease_s": 7200}, "<lease expiry="),
    "hosts[*]*": Case({"dns": {"hosts": [{"ip": "10.97.8.9", "names": ["web"]}]}}, "<hostname>web</hostname>"),
    "dns.txt*": Case({"dns": {"txt": [{"name": "motto", "value": "one, two"}]}}, "<txt name='motto'"),
    "dns.srv*": Case({"dns": {"srv": [{"service": "ldap", "protocol": "tcp", "target": "web", "port": 389}]}},
                     "<srv service='ldap'"),
    "portgroups[*]*": Case({"portgroups": [{"name": "fast", "default": True}]}, "<portgroup name='fast'"),
    "dns*": Case({"dns": {"forwarders": [{"domain": "lab.example", "addr": "10.97.8.50"}]}}, "<forwarder domain="),
    "ips[*]*": Case({"bootp": {"file": "pxelinux.0"}}, "<bootp file='pxelinux.0'/>"),
    "routes[*]*": Case({"routes": [{"to": "10.97.99.0/24", "via": "10.97.8.5"}]}, "<route address='10.97.99.0'"),
    "mode": Case({"mode": "route"}, "<forward mode='route'/>"),
    "forward*": Case({"forwards": [{"mode": "nat", "nat": {"ports": {"start": 2000, "end": 3000}}}]},
                     "<port start='2000' end='3000'/>"),
    "dev": Case({"dev": "updbr9"}, "<bridge name='updbr9'"),
    "stp": Case({"stp": True}, "stp='on'"),
    "delay_s": Case({"delay_s": 2}, "delay='2'"),
    "bridge*": Case({"mac_table": "kernel"}, "macTableManager='kernel'"),
    "domain*": Case({"domain": "lab.example"}, "<domain name='lab.example' localOnly='yes'/>"),
    "mtu*": Case({"mtu": 1400}, "<mtu size='1400'/>"),
    "mac": Case({"mac": "52:54:00:97:08:fe"}, "<mac address='52:54:00:97:08:fe'/>"),
    "ipv6": Case({"guest_ipv6": True}, "ipv6='yes'"),
    "trustGuestRxFilters": Case({"trust_guest_rx_filters": True}, "trustGuestRxFilters='yes'"),
    "dnsmasq[*]": Case({"dnsmasq": ["dhcp-option=42,10.97.8.1"]}, "dhcp-option=42,10.97.8.1"),
    "port*": Case({"isolated_ports": True}, "<port isolated='yes'/>"),
}  # fmt: skip
T = TypeVar("T", bound=Callable[..., None])
# By test, the rows that have one of their own.
OWN_TESTS: dict[str, tuple[str, ...]] = {}


def exercises(*rows: str) -> Callable[[T], T]:
    """Say which rows a test is about: each must answer for a difference that the test makes."""

    def keep(test: T) -> T:
        OWN_TESTS[test.__name__] = rows
        return test

    return keep


def test_every_row_has_a_case() -> None:
    own = {row for rows in OWN_TESTS.values() for row in rows}
    assert {row.field for row in table_network.ROWS} == set(CASES) | own
    assert all(row.source.startswith("https://libvirt.org/") for row in table_network.ROWS)
    assert how("network", "something.new", active=True).field == "*"


@pytest.fixture(autouse=True)
def as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a failed test changed would fail the next ones, too."""
    if "site" not in request.fixturenames:
        yield
        return
    found: Site = request.getfixturevalue("site")
    found.answered.clear()
    yield
    missing = set(OWN_TESTS.get(request.function.__name__, ())) - found.answered
    found.net.params.clear()
    found.net.params.update(BASE)
    if found.drift():
        found.update(allow_restart=True)
    assert not missing


@pytest.mark.parametrize("row", CASES)
def test_a_row(row: str, site: Site) -> None:
    case, uuid = CASES[row], virsh("net-uuid", NAME)
    wanted = next(one for one in table_network.ROWS if one.field == row).how
    assert site.drift() == []
    site.net.params.update(case.changes)
    found = site.drift()
    rows = [how("network", one["field"], active=True) for one in found]
    assert row in {one.field for one in rows} and {one.how for one in rows} == {wanted}, found
    site.update(row=row)
    assert case.has in xml(stored=True) and site.stands()
    if wanted is How.RESTART:
        # Only what runs waits, and it is named.
        assert case.has not in xml()
        assert (
            {(one["field"], one["where"]) for one in site.drift()}
            == {(one, "live") for one in site.net.runtime["update_pending"]}
            != set()
        )
        site.update(row=f"{row} restart", allow_restart=True)
    assert (site.drift(), site.net.runtime.get("update_pending") or {}) == ([], {})
    assert case.has in xml() and site.stands()
    for key in case.changes:
        site.net.params.pop(key)
    site.net.params.update(BASE)
    assert site.drift() != []
    site.update(allow_restart=True)
    assert site.drift() == []
    assert case.has not in xml() and case.has not in xml(stored=True)
    assert site.stands() and site.talk.hears(row)
    assert virsh("net-uuid", NAME) == uuid
    # What somebody else reserved is theirs.
    assert "52:54:00:97:08:77" in xml() and "52:54:00:97:08:77" in xml(stored=True)


def test_guests_that_keep_old_addresses_are_named(caplog: pytest.LogCaptureFixture) -> None:
    net = node("subnets", name="updsubnets", cidr="10.97.18.0/24")
    net.run(network_tasks.create)
    names = ("updsub-a", "updsub-b")
    guests = [node(name, name=name, memory="32 MiB", wait_for_ip=False, shutdown_timeout_s=0,
                   networks=[{"network": "updsubnets"}]) for name in names]  # fmt: skip
    try:
        for guest in guests:
            for operation in (domain_tasks.create, domain_tasks.configure, domain_tasks.start):
                guest.run(operation)
        net.params["cidr"] = "10.97.19.0/24"
        net.run(network_tasks.update, allow_restart=True)
        (said,) = [one.getMessage() for one in caplog.records if "keep their addresses" in one.getMessage()]
        assert "of 10.97.18.0/24 until they ask for those of 10.97.19.0/24: updsub-a, updsub-b. Restart each" in said
        assert net.run(network_tasks.check_drift) is None
    finally:
        for guest in guests:
            guest.run(domain_tasks.stop)
            guest.run(domain_tasks.delete)
        net.run(network_tasks.delete)


@exercises("ips[*].dhcp")
def test_dhcp_goes_off_and_on(site: Site) -> None:
    """What is to go off goes live, too; the guest keeps its address until its lease ends."""
    site.net.params["dhcp"] = False
    assert {one["field"] for one in site.drift()} == {"ips[10.97.8.1].dhcp"}
    site.update()
    assert site.drift() == [] and "<range" not in xml() and site.stands()
    del site.net.params["dhcp"]
    site.update()
    assert site.drift() == [] and "<range" in xml() and site.talk.hears("dhcp")
    virsh("net-update", NAME, "add", "ip-dhcp-host", OTHERS, "--live", "--config")


def test_the_dns_server_answers_and_stays_the_same_process(site: Site) -> None:
    server = Path(f"/run/libvirt/network/{NAME}.pid").read_text()
    site.net.params["dns"] = {"hosts": [{"ip": "10.97.8.9", "names": ["web", "www"]}]}
    site.net.params["hosts"] = [{"mac": "52:54:00:97:08:31", "ip": "10.97.8.31"}]
    site.update()
    # dnsmasq reads its files again a moment later.
    assert eventually(lambda: "10.97.8.9" in site.asks("www"))
    site.net.params["dns"] = {"hosts": [{"ip": "10.97.8.9", "names": ["web", "shop"]}]}
    assert {one["field"] for one in site.drift()} == {"hosts[10.97.8.9].names[1]"}
    assert how("network", "hosts[10.97.8.9].names[1]", active=True).how is How.LIVE
    site.update()
    assert site.drift() == [] and eventually(lambda: "10.97.8.9" in site.asks("shop"))
    site.net.params["dns"] = {"hosts": [{"ip": "10.97.8.19", "names": ["www"]}]}
    site.net.params["hosts"] = [{"mac": "52:54:00:97:08:31", "ip": "10.97.8.32"}]
    site.update()
    assert eventually(lambda: "10.97.8.19" in site.asks("www"))
    assert site.drift() == [] and "ip='10.97.8.31'" not in xml()
    assert Path(f"/run/libvirt/network/{NAME}.pid").read_text() == server


@exercises("autostart")
def test_it_starts_with_the_host_or_not(site: Site) -> None:
    site.net.params["autostart"] = False
    assert [one["field"] for one in site.drift()] == ["autostart"]
    site.update(row="autostart")
    assert site.drift() == [] and "no" in next(line for line in virsh("net-info", NAME).splitlines() if "Auto" in line)


@exercises("state", "existence")
def test_a_network_that_is_off_or_gone_comes_back_with_its_guest(site: Site) -> None:
    uuid = virsh("net-uuid", NAME)
    virsh("net-destroy", NAME)
    assert not site.stands() and [one["field"] for one in site.drift()] == ["state"]
    site.update(row="state")
    assert site.stands() and site.drift() == []
    virsh("net-destroy", NAME)
    virsh("net-undefine", NAME)
    assert [one["field"] for one in site.drift()] == ["existence"]
    site.update(row="existence")
    assert (virsh("net-uuid", NAME), site.drift()) == (uuid, []) and site.stands() and site.talk.hears("again")
    virsh("net-update", NAME, "add", "ip-dhcp-host", OTHERS, "--live", "--config")


@exercises("cards")
def test_an_update_that_was_killed_between_stop_and_plug(site: Site) -> None:
    virsh("net-destroy", NAME)
    virsh("net-start", NAME)
    site.net.runtime["update_pending"] = {"cards": {"wanted": "plugged in", "now": "", "how": "live", "why": ""}}
    assert [one["field"] for one in site.drift()] == ["cards"]
    site.update(row="cards")
    assert site.stands() and site.drift() == [] and not site.net.runtime["update_pending"]


def test_what_cannot_start_leaves_what_runs(site: Site) -> None:
    """A zone of firewalld, which does not run here: libvirt sees it at the start."""
    site.net.params["zone"] = "public"
    site.update()
    assert [(one["field"], one["where"]) for one in site.drift()] == [("bridge.zone", "live")]
    with pytest.raises(NonRecoverableError, match=r"firewalld is not active.*params\.zone"):
        site.update(allow_restart=True)
    assert site.stands() and site.talk.hears("still here")
    assert "public" not in xml() and "public" not in xml(stored=True)


def test_a_table_of_addresses_that_libvirt_keeps(site: Site) -> None:
    """It needs a kernel whose bridges filter VLANs."""
    filters = Path("/sys/class/net", parse.network(xml()).bridge, "bridge/vlan_filtering").exists()
    site.net.params["mac_table"] = "libvirt"
    site.update()
    if filters:
        site.update(allow_restart=True)
        assert site.drift() == [] and "macTableManager='libvirt'" in xml()
    else:
        with pytest.raises(NonRecoverableError, match=r"leave out params\.mac_table"):
            site.update(allow_restart=True)
        assert "macTableManager" not in xml() and site.talk.hears("table")
    assert site.stands()


def test_a_definition_that_libvirt_refuses_leaves_the_old_one(site: Site) -> None:
    before = xml(), xml(stored=True)
    # Right by the schema; that its range is of another subnet, libvirt alone says.
    site.net.properties["template_content"] = before[1].replace("10.97.8.254", "10.97.9.254")
    try:
        with pytest.raises(
            NonRecoverableError, match=r"change the definition of network 'updnet'.*It stands as it was"
        ):
            site.update(allow_restart=True)
    finally:
        del site.net.properties["template_content"]
    assert (xml(), xml(stored=True)) == before and site.stands()


def test_a_subnet_that_is_taken_is_refused_before_anything_is_changed(site: Site) -> None:
    before = xml(), xml(stored=True)
    command("ip", "link", "add", WIRES[0], "type", "veth", "peer", "name", WIRES[1])
    try:
        command("ip", "addr", "add", "10.97.9.1/24", "dev", WIRES[0])
        command("ip", "link", "set", WIRES[0], "up")
        site.net.params["cidr"] = "10.97.9.0/24"
        with pytest.raises(NonRecoverableError, match=r"subnet 10\.97\.9\.0/24 overlaps"):
            site.update(allow_restart=True)
        # The engine would install the network anew after such a failure, and take the guest's link away.
        site.net.workflow = "csys_new_deployment_update"
        site.update(allow_restart=True)
        assert "overlaps" in site.net.runtime["update_refused"]
    finally:
        site.net.workflow = ""
        command("ip", "link", "del", WIRES[0])
    assert (xml(), xml(stored=True)) == before and site.stands()


@exercises("name")
def test_another_name_takes_another_network(site: Site) -> None:
    site.net.params["name"] = "updother"
    assert {one["field"] for one in site.drift()} == {"name"}
    with pytest.raises(NonRecoverableError, match="allow_replace"):
        site.update()
    assert site.net.runtime["update_pending"]["name"]["how"] == "replace"
    with pytest.raises(NonRecoverableError, match="running domains are on it: updguest"):
        site.update(allow_replace=True)
    assert site.stands()
    bare = node("bare", name="updbare", cidr="10.97.11.0/24")
    bare.run(network_tasks.create)
    try:
        uuid = virsh("net-uuid", "updbare")
        bare.params["name"] = "updnamed"
        site.update(bare, allow_replace=True)
        assert (virsh("net-uuid", "updnamed"), site.drift(bare)) == (uuid, [])
        assert "updbare" not in virsh("net-list", "--all", "--name")
    finally:
        bare.run(network_tasks.delete)


@exercises("bandwidth*")
def test_limits_of_rates(site: Site) -> None:
    site.net.params["bandwidth"] = {"inbound": {"average_kb_s": 4000}}
    site.update()
    assert {one["field"].partition(".")[0] for one in site.drift()} == {"bandwidth"}
    if not can_limit_rates():
        with pytest.raises(NonRecoverableError, match=r"leave out params\.bandwidth"):
            site.update(allow_restart=True)
        assert "<inbound" not in xml() and site.stands()
        return
    site.update(allow_restart=True)
    assert site.drift() == [] and "<inbound average='4000'" in xml() and site.stands()


@exercises("forwards[0].interfaces[*]", "virtualport*", "vlan*", "tag[*]*")
def test_devices_and_switches_of_the_host(site: Site) -> None:
    """Networks without a bridge of their own: what they stand on, and the tags and switch of their ports."""
    command("ip", "link", "add", WIRES[0], "type", "veth", "peer", "name", WIRES[1])
    taps = node("taps", name="updtaps", forwards=[{"mode": "private", "interfaces": [WIRES[0]]}])
    ports = node("ports", name="updports", mode="bridge", dev=WIRES[0], virtualport="openvswitch", vlan=42)
    try:
        run(taps, network_tasks, "create")
        taps.params["forwards"] = [{"mode": "private", "interfaces": list(WIRES)}]
        assert {one["field"] for one in site.drift(taps)} == {f"forwards[0].interfaces[{WIRES[1]}]"}
        site.update(taps, row="forwards[0].interfaces[*]")
        assert site.drift(taps) == [] and f"<interface dev='{WIRES[1]}'" in xml("updtaps")
        run(ports, network_tasks, "create")
        ports.params["vlan"] = 43
        assert {one["field"] for one in site.drift(ports)} == {"tag[43]", "tag[42]"}
        site.update(ports, allow_restart=True)
        assert site.drift(ports) == [] and "<tag id='43'/>" in xml("updports")
        del ports.params["vlan"]
        assert {one["field"].partition("[")[0] for one in site.drift(ports)} == {"vlan"}
        site.update(ports, allow_restart=True)
        assert "<vlan" not in xml("updports")
        ports.params["virtualport"] = {"type": "openvswitch", "profile_id": "gold"}
        assert {one["field"] for one in site.drift(ports)} == {"virtualport.parameters"}
        site.update(ports, allow_restart=True)
        assert site.drift(ports) == [] and "profileid='gold'" in xml("updports")
    finally:
        run(taps, network_tasks, "delete")
        run(ports, network_tasks, "delete")
        command("ip", "link", "del", WIRES[0])


@pytest.fixture
def functions() -> Iterator[tuple[str, str]]:
    """Two functions of an SR-IOV card, as a network lists them.

    No host of the tests has such a card: its PCI bus is another one for so long. That a function has a card is all that
    libvirt looks for there before a guest gets one.
    """
    bus = Path("/sys/bus/pci/devices")
    # A kernel may know no PCI at all.
    place = str(next(one for one in (bus, *bus.parents) if one.is_dir()))
    command("mount", "-t", "tmpfs", "tmpfs", place)
    try:
        for number in range(2):
            (bus / f"0000:07:10.{number}/physfn").mkdir(parents=True)
        first, second = (
            f"<address type='pci' domain='0x0000' bus='0x07' slot='0x10' function='0x{number}'/>" for number in range(2)
        )
        yield first, second
    finally:
        command("umount", "--lazy", place)


@exercises("*")
def test_what_a_template_of_the_users_own_says_waits_for_leave(site: Site, functions: tuple[str, str]) -> None:
    """One function more, for which no row is but the last: in the definition at once, of what runs with leave."""
    net = node("functions", name="updfuncs", forwards=[{"mode": "hostdev", "pci": ["0000:07:10.0"]}])
    run(net, network_tasks, "create")
    try:
        uuid, second = virsh("net-uuid", "updfuncs"), functions[1]
        one_more = xml("updfuncs", stored=True).replace("</forward>", f"{second}</forward>")
        assert site.drift(net) == [] and functions[0] in one_more
        net.properties["template_content"] = one_more
        assert {(one["field"], one["where"]) for one in site.drift(net)} == {
            ("address[1]", "config"), ("address[1]", "live")
        }  # fmt: skip
        assert how("network", "address[1]", active=True).how is How.RESTART
        # Leave for another network in its place is none for a restart.
        for leave in ({}, {"allow_replace": True}):
            site.update(net, **leave)
            assert second in xml("updfuncs", stored=True) and second not in xml("updfuncs")
            assert [(one["field"], one["where"]) for one in site.drift(net)] == [("address[1]", "live")]
            (waits,) = net.runtime["update_pending"].items()
            assert (waits[0], waits[1]["how"], waits[1]["at_start"]) == ("address[1]", "restart", True)
            assert "allow_restart" in waits[1]["why"]
        site.update(net, row="*", allow_restart=True)
        assert (site.drift(net), net.runtime["update_pending"]) == ([], {})
        assert second in xml("updfuncs") and virsh("net-uuid", "updfuncs") == uuid
        # Taken back of a network that is off, nothing waits.
        del net.properties["template_content"]
        assert {one["field"] for one in site.drift(net)} == {"address[1]"}
        virsh("net-destroy", "updfuncs")
        site.update(net)
        assert (site.drift(net), net.runtime["update_pending"]) == ([], {})
        for stored in (False, True):
            assert second not in xml("updfuncs", stored=stored) and functions[0] in xml("updfuncs", stored=stored)
        assert virsh("net-uuid", "updfuncs") == uuid
    finally:
        run(net, network_tasks, "delete")
    assert "updfuncs" not in virsh("net-list", "--all", "--name")


def test_another_uuid_in_a_template_of_the_users_own_is_refused(site: Site) -> None:
    before = xml(), xml(stored=True)
    uuid = virsh("net-uuid", NAME).strip()
    site.net.properties["template_content"] = before[1].replace(uuid, "5ec4e700-0000-4000-8000-000000000009")
    try:
        assert {one["field"] for one in site.drift()} == {"uuid"}
        for leave in ({}, {"allow_restart": True}, {"allow_replace": True}):
            with pytest.raises(NonRecoverableError, match=rf"already exists with uuid {uuid}.*It stands as it was"):
                site.update(**leave)
    finally:
        del site.net.properties["template_content"]
    assert (xml(), xml(stored=True)) == before and site.stands()


def test_others_networks_are_left(site: Site) -> None:
    theirs = node("theirs", name=NAME, mtu=1300)
    theirs.properties.update(use_external_resource=True, resource_id=NAME)
    theirs.run(network_tasks.create)
    site.update(theirs, allow_restart=True)
    assert "<mtu" not in xml(stored=True)


# Runs an update with the runtime properties kept in a file, and dies behind the N-th call that changes the host.
CHILD = """
import json, os, signal, sys
from pathlib import Path
import libvirt
from cloudify_libvirt import network_tasks
from cloudify_libvirt.core.host import hostnet
from tests.driver import conftest

given = json.loads(sys.argv[1])
class Instance(conftest.CountingInstance):
    def update(self):
        Path(given["journal"]).write_text(json.dumps(dict(self.runtime_properties)))
conftest.CountingInstance = Instance
left = [given["calls"]]

def dying(original):
    def call(*arguments, **more):
        result = original(*arguments, **more)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

for owner, name in ((libvirt.virConnect, "networkDefineXML"), (libvirt.virNetwork, "update"),
                    (libvirt.virNetwork, "destroy"), (libvirt.virNetwork, "create"), (hostnet, "join_bridge")):
    setattr(owner, name, dying(getattr(owner, name)))
conftest.Node(**given["node"]).run(network_tasks.update, allow_restart=True)
"""
TOGETHER = {
    "hosts": [{"mac": "52:54:00:97:08:30", "ip": "10.97.8.30"}],
    "dns": {"txt": [{"name": "motto", "value": "one"}]},
    "mtu": 1400,
}


# A definition, two entries, the end of the network, its start, the guest's card.
@pytest.mark.parametrize("calls", range(1, 7))
def test_killed_behind_each_call_it_goes_on(calls: int, site: Site, tmp_path: Path) -> None:
    site.net.params.update(TOGETHER)
    journal, node_ = tmp_path / "journal", site.net
    given = {
        "journal": str(journal), "calls": calls,
        "node": {"name": node_.name, "params": node_.params, "properties": node_.properties,
                 "deployment": node_.deployment, "runtime": node_.runtime},
    }  # fmt: skip
    words = [str(PYTHON), "-W", "ignore", "-c", CHILD, json.dumps(given)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr[-2000:]
    if journal.exists():
        node_.runtime.update(json.loads(journal.read_text()))
    if site.drift():
        site.update(allow_restart=True)
    assert site.drift() == [] and not node_.runtime.get("update_pending")
    assert all(text in xml() for text in ("10.97.8.30", "<txt name='motto'", "<mtu size='1400'/>"))
    assert site.stands() and site.talk.hears(f"killed {calls}")
