"""Networks of every kind that can run here, looked at from a container with a card on each."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError
from lxml import etree

from cloudify_libvirt import network_tasks
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.host import addresses, readiness
from cloudify_libvirt.core.network import AUTO_RANGE
from cloudify_libvirt.core.session import connect
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, ROOT, Host
from tests.real.netlab import LXC, QEMU, Container, Networks, card, command, eventually, host_links, machine

FIXED_MAC = "52:54:00:71:00:01"
TEXT = 'v=x, "quoted" # not a comment \\ end'


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    path = IMAGES / "netlab"
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def nets() -> Iterator[Networks]:
    """Networks that the tests of this file look at; all gone in the end."""
    links = {link["ifname"] for link in host_links()}
    made = Networks()
    yield made
    made.remove()
    eventually(lambda: {link["ifname"] for link in host_links()} == links)
    assert {link["ifname"] for link in host_links()} == links


@pytest.fixture
def own(nets: Networks) -> Iterator[Networks]:
    """Networks of one test."""
    made = Networks()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def tftp() -> Iterator[Path]:
    path = IMAGES / "netlab-tftp"
    path.mkdir(mode=0o755)
    (path / "first.0").write_text("what a guest boots\n")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def nat(nets: Networks, tftp: Path) -> Node:
    return nets.create(
        "nat", cidr="10.71.1.0/24", cidr6="auto", domain="example.org", mtu=1400, lease_s=600,
        dns={"hosts": [{"ip": "10.71.1.77", "names": ["db", "db.example.org"]}],
             "srv": [{"service": "ldap", "protocol": "tcp", "domain": "example.org", "target": "db.example.org",
                      "port": 389, "priority": 1, "weight": 5}],
             "txt": [{"name": "note.example.org", "value": TEXT}]},
        routes=[{"to": "10.72.0.0/16", "via": "10.71.1.50", "metric": 3}],
        dnsmasq=["address=/made.up/10.1.2.3"], bootp={"file": "first.0"}, tftp=str(tftp),
        hosts=[{"mac": FIXED_MAC, "ip": "10.71.1.50", "name": "fixed", "lease_s": 900}],
    )  # fmt: skip


@pytest.fixture(scope="module")
def probe(nets: Networks, nat: Node, root: Path, container_root: Path) -> Iterator[Container]:
    """A container with a card on each network: nat, isolated, route, open, the bridge of open, isolated ports."""
    nets.create(
        "isolated", cidr="10.71.2.0/24", cidr6="fd00:71:2::/64", dhcp6=True, mode="isolated",
        hosts=[{"id": "00:03:00:01:52:54:00:71:02:01", "ip": "fd00:71:2::5", "name": "six"}],
    )  # fmt: skip
    # This one asks the first one's server for its domain.
    dns = {"forwarders": [{"domain": "example.org", "addr": "10.71.1.1"}]}
    nets.create("route", cidr="10.71.3.0/24", mode="route", dns=dns)
    opened = nets.create("open", cidr="10.71.4.0/24", mode="open", mac="52:54:00:71:04:00")
    nets.create("on-open", mode="bridge", dev=opened.runtime["bridge"])
    nets.create("ports", cidr="10.71.5.0/24", isolated_ports=True)
    names = ["isolated", "route", "open", "on-open", "ports"]
    found = Container("probe", root, [card("nat", mac=FIXED_MAC), *map(card, names)])
    found.start(container_root)
    yield found
    found.stop()


def address(probe: Container, at: int) -> str:
    found = eventually(lambda: probe.addresses(f"eth{at}", "inet"))
    return found[0] if found else ""


@pytest.mark.parametrize(("at", "subnet"), [(1, "10.71.2."), (2, "10.71.3."), (3, "10.71.4."), (4, "10.71.4.")])
def test_a_guest_gets_its_address_in_every_mode(probe: Container, at: int, subnet: str) -> None:
    """Card 4 is on a bridge that another network brought: its DHCP answers."""
    assert address(probe, at).startswith(subnet)
    assert " 0% packet loss" in probe("ping", "-c", "1", "-W", "20", "-I", f"eth{at}", f"{subnet}1")


def test_a_fixed_address_with_its_lease(probe: Container, nets: Networks) -> None:
    assert address(probe, 0) == "10.71.1.50"
    # dnsmasq's helper writes it behind the answer.
    (lease,) = eventually(lambda: nets.connection.networkLookupByName("nat").DHCPLeases(FIXED_MAC))
    assert (lease["ipaddr"], lease["hostname"]) == ("10.71.1.50", "fixed")
    root = etree.fromstring(nets.xml("nat"))
    assert [e.get("expiry") for e in root.iterfind("ip/dhcp//lease")] == ["600", "900"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (["db"], r"Address: 10\.71\.1\.77"),
        (["db.example.org"], r"Address: 10\.71\.1\.77"),
        (["fixed.example.org"], r"Address: 10\.71\.1\.50"),
        (["-type=srv", "_ldap._tcp.example.org"], r"service = 1 5 389 db\.example\.org"),
        (["made.up"], r"Address: 10\.1\.2\.3"),
        (["-type=ptr", "77.1.71.10.in-addr.arpa"], r"name = db"),
    ],
)
def test_dns_answers(probe: Container, question: list[str], answer: str) -> None:
    """Hosts, reservations, services, an option of dnsmasq."""
    address(probe, 0)
    assert re.search(answer, probe("nslookup", *question, "10.71.1.1", check=False))


def test_a_text_arrives_as_it_was_written(probe: Container) -> None:
    said = probe("nslookup", "-type=txt", "note.example.org", "10.71.1.1", check=False)
    assert f'text = "{TEXT}"' in said.replace('\\"', '"').replace("\\\\", "\\")


def test_a_forwarder_is_asked_for_its_domain_only(probe: Container) -> None:
    address(probe, 2)
    assert "Address: 10.71.1.77" in probe("nslookup", "db.example.org", "10.71.3.1", check=False)
    assert "10.1.2.3" not in probe("nslookup", "made.up", "10.71.3.1", check=False)


def test_what_guests_boot_from(probe: Container) -> None:
    address(probe, 0)
    probe("sh", "-c", "cd /run && busybox tftp -g -r first.0 10.71.1.1")
    assert probe("cat", "/run/first.0") == "what a guest boots\n"
    said = udhcpc(probe, "echo told $boot_file from $siaddr")
    assert "told first.0 from 10.71.1.1" in said


def udhcpc(probe: Container, script: str, *options: str) -> str:
    """Ask DHCP once on the first card, and run a script with what it said."""
    probe("sh", "-c", f"printf '#!/bin/sh\\n%s\\n' '{script}' >/run/say; chmod +x /run/say")
    return probe("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-s", "/run/say", *options, check=False)


def test_ipv6_of_the_local_range_by_router_advertisement(probe: Container, nat: Node) -> None:
    prefix = nat.runtime["cidr6"].removesuffix("::/64")
    assert re.fullmatch(r"fd[0-9a-f]{2}(:[0-9a-f]{1,4}){2}", prefix)
    found = eventually(lambda: probe.addresses("eth0", "inet6"))
    assert found and found[0].startswith(prefix)
    assert " 0% packet loss" in probe("ping", "-6", "-c", "1", "-W", "20", f"{prefix}::1")


SOLICIT = """
import socket, sys
mac = bytes.fromhex(sys.argv[1])
option = lambda code, data: code.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data
message = bytes([1, 7, 7, 7]) + option(1, bytes([0, 3, 0, 1]) + mac) + option(3, bytes(12)) + option(8, bytes(2))
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asked:
    asked.settimeout(5)
    asked.bind(("::", 546))
    asked.sendto(message, ("ff02::1:2", 547, 0, socket.if_nametoindex("eth1")))
    answer = asked.recv(2000)
place = answer.index(bytes([0, 5, 0, 24])) + 4
print(answer[0], socket.inet_ntop(socket.AF_INET6, answer[place:place + 16]))
"""


@pytest.mark.parametrize(("mac", "expected"), [("525400710201", "fd00:71:2::5"), ("525400710202", "fd00:71:2::")])
def test_dhcp_of_ipv6_knows_guests_by_their_duid(probe: Container, mac: str, expected: str) -> None:
    """A client of DHCPv6 asks (SOLICIT) and hears (ADVERTISE, 2) the address that it may have. Source: RFC 8415"""
    words = ["nsenter", "-t", probe.pid, "-n", sys.executable, "-c", SOLICIT, mac]
    said = eventually(lambda: re.match(r"2 (\S+)\n", command(*words, check=False)))
    assert said, command(*words, check=False)
    assert said[1].startswith(expected) and (said[1] == expected) == expected.endswith("5")


def test_routes_and_mac_on_the_host(probe: Container, nets: Networks, nat: Node) -> None:
    assert f"10.72.0.0/16 via 10.71.1.50 dev {nat.runtime['bridge']} metric 3" in command("ip", "route")
    links = {link["ifname"]: link for link in host_links()}
    assert links[nets.nodes["open"].runtime["bridge"]]["address"] == "52:54:00:71:04:00"


def test_the_mtu_reaches_bridge_tap_and_guest(probe: Container, nets: Networks, nat: Node) -> None:
    """A tap has that of its bridge; guests are told by DHCP."""
    machine = nets.connection.createXML(
        "<domain type='qemu'><name>mtu</name><memory>32768</memory><os><type>hvm</type></os>"
        "<devices><interface type='network'><source network='nat'/></interface></devices></domain>",
        libvirt.VIR_DOMAIN_START_PAUSED,
    )
    try:
        tap = etree.fromstring(machine.XMLDesc(0)).find("devices/interface/target").get("dev")
        links = {link["ifname"]: link for link in host_links()}
        assert links[nat.runtime["bridge"]]["mtu"] == links[tap]["mtu"] == 1400
    finally:
        machine.destroy()
    address(probe, 0)
    asked = udhcpc(probe, "echo told mtu=$mtu", "-O", "mtu")
    assert "told mtu=1400" in asked


def test_what_the_firewall_knows_of_each_mode(probe: Container, nets: Networks) -> None:
    rules = command("iptables", "-S") + command("iptables", "-t", "nat", "-S")
    bridges = {name: nets.nodes[name].runtime["bridge"] for name in ("nat", "isolated", "route", "open")}
    assert "10.71.1.0/24 ! -d 10.71.1.0/24 -p tcp -j MASQUERADE" in rules
    assert not re.search(r"10\.71\.[234]\.0/24.*MASQUERADE", rules)
    assert all(bridges[name] in rules for name in ("nat", "isolated", "route")) and bridges["open"] not in rules
    assert f"-d 10.71.3.0/24 -o {bridges['route']} -j ACCEPT" in rules


def test_isolated_ports_reach_the_host_and_not_each_other(
    probe: Container, root: Path, container_root: Path, nets: Networks
) -> None:
    other = Container("other", root, [card("ports"), card("isolated")])
    other.start(container_root)
    try:
        assert " 0% packet loss" in probe("ping", "-c", "1", "-W", "20", address(other, 1))
        assert address(other, 0).startswith("10.71.5.") and address(probe, 5).startswith("10.71.5.")
        assert " 100% packet loss" in probe("ping", "-c", "1", "-W", "1", address(other, 0), check=False)
        assert " 0% packet loss" in probe("ping", "-c", "1", "-W", "20", "10.71.5.1")
    finally:
        other.stop()


def test_networks_are_persistent_and_start_with_the_host(probe: Container, nets: Networks) -> None:
    for name in nets.nodes:
        network = nets.connection.networkLookupByName(name)
        assert network.isPersistent() and network.autostart() and network.isActive()


def test_a_network_on_the_hosts_bridge_leaves_it(host: Host, own: Networks) -> None:
    command("ip", "link", "add", "mybr", "type", "bridge")
    try:
        node = own.create("on-mybr", mode="bridge", dev="mybr", isolated_ports=True)
        assert "<bridge name='mybr'/>" in own.xml("on-mybr")
        node.run(network_tasks.delete)
        assert host.networks().isdisjoint({"on-mybr"}) and Path("/sys/class/net/mybr").exists()
        said = own.refused("switched", mode="bridge", dev="mybr", virtualport="openvswitch")
        assert "cannot use bridge mybr for network 'switched'" in said and "Remove virtualport" in said
    finally:
        command("ip", "link", "del", "mybr")


def test_bridges_and_devices_that_the_host_lacks(own: Networks) -> None:
    assert "bridge nobr for network 'b' on qemu:///system: the host has no such" in own.refused(
        "b", mode="bridge", dev="nobr"
    )
    assert "it is not a Linux bridge. For an Open vSwitch bridge add virtualport" in own.refused(
        "b", mode="bridge", dev="lo"
    )
    said = own.refused("m", forwards=[{"mode": "vepa", "interfaces": ["lo", "eth99"]}])
    assert "cannot use interface eth99 for network 'm'" in said and "It has: lo" in said


def test_macvtap_from_a_pool_of_devices(own: Networks, root: Path, container_root: Path) -> None:
    """Two containers on one device of the host speak with each other, not through a bridge."""
    command("ip", "link", "add", "mv0", "type", "veth", "peer", "name", "mv1")
    pair: list[Container] = []
    try:
        for end in ("mv0", "mv1"):
            command("ip", "link", "set", end, "up")
        own.create("macvtap", forwards=[{"mode": "bridge", "interfaces": ["mv0"]}])
        for at in (1, 2):
            pair.append(Container(f"mv-{at}", root, [card("macvtap")], autoconfigure=False))
            pair[-1].start(container_root)
            pair[-1]("ip", "addr", "add", f"10.79.0.{at}/24", "dev", "eth0")
            pair[-1]("ip", "link", "set", "eth0", "up")
        assert " 0% packet loss" in pair[0]("ping", "-c", "2", "-W", "20", "10.79.0.2")
    finally:
        for one in pair:
            one.stop()
        command("ip", "link", "del", "mv0")


@pytest.fixture
def veth() -> Iterator[tuple[str, str]]:
    """Both ends of a cable."""
    command("ip", "link", "add", "mt0", "type", "veth", "peer", "name", "mt1")
    for end in ("mt0", "mt1"):
        command("ip", "link", "set", end, "up")
    yield "mt0", "mt1"
    command("ip", "link", "del", "mt0")


@pytest.fixture
def tap_devices() -> Iterator[Path]:
    """The devices of macvtap as the kernel makes them: a lab's /dev has no udev that would bring them."""
    kernels = Path("/run/devices-of-the-kernel")
    kernels.mkdir()
    mounted = subprocess.run(["mount", "-t", "devtmpfs", "devtmpfs", kernels], capture_output=True, text=True)
    if mounted.returncode:
        kernels.rmdir()
        pytest.skip(f"the devices of macvtap cannot be shown in the lab: {mounted.stderr}")
    # A device is called by its link's number, which is the next free one.
    last = max(link["ifindex"] for link in host_links())
    links = [Path(f"/dev/tap{number}") for number in range(last + 1, last + 1000)]
    for link in links:
        link.symlink_to(kernels / link.name)
    yield kernels
    for link in links:
        link.unlink()
    command("umount", str(kernels))
    kernels.rmdir()


def test_a_card_of_a_domain_on_a_device_of_the_host(veth: tuple[str, str], tap_devices: Path, host: Host) -> None:
    """macvtap, given with the card itself: what the guest's firmware sends comes out of the other end of the cable."""
    near, far = veth
    mac = "52:54:00:71:79:01"
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as heard:
        heard.bind((far, 0))
        heard.settimeout(180)
        with machine("on-macvtap", networks=[{"macvtap": near, "macvtap_mode": "bridge", "mac": mac, "boot_order": 1}]):
            card = etree.fromstring(host.domain("on-macvtap").XMLDesc()).find("devices/interface[@type='direct']")
            assert (card.find("source").get("dev"), card.find("source").get("mode")) == (near, "bridge")
            tap = card.find("target").get("dev")
            link = next(link for link in host_links() if link["ifname"] == tap)
            assert (link["linkinfo"]["info_kind"], link["link"], link["address"]) == ("macvtap", near, mac)
            assert link["linkinfo"]["info_data"]["mode"] == "bridge"
            # From the guest to everybody, by DHCP: 0x0800 is IPv4.
            wanted = bytes.fromhex("ffffffffffff" + mac.replace(":", "") + "0800")
            assert eventually(lambda: heard.recv(2000).startswith(wanted), 180)
    assert eventually(lambda: tap not in {link["ifname"] for link in host_links()})


def can_limit_rates() -> bool:
    """Whether the kernel has what libvirt's tc commands need."""
    command("ip", "link", "add", "tcbr", "type", "bridge")
    try:
        for words in ("root handle 1: htb default 1", "parent 1:1 handle 2: sfq"):
            if subprocess.run(["tc", "qdisc", "add", "dev", "tcbr", *words.split()], capture_output=True).returncode:
                return False
            command("tc", "class", "replace", "dev", "tcbr", "parent", "1:", "classid", "1:1", "htb", "rate", "1mbit")
        return True
    finally:
        command("ip", "link", "del", "tcbr")


def test_bandwidth_is_set_or_its_lack_is_said(own: Networks, host: Host) -> None:
    limits = {"inbound": {"average_kb_s": 1000, "peak_kb_s": 2000, "burst_kib": 256}}
    if can_limit_rates():
        node = own.create("slow", cidr="auto", bandwidth=limits)
        shown = command("tc", "class", "show", "dev", node.runtime["bridge"])
        assert "rate 8Mbit" in shown and "ceil 16Mbit" in shown
        return
    with pytest.raises(NonRecoverableError, match=r"kernel cannot limit rates.*leave out params\.bandwidth"):
        own.create("slow", cidr="auto", bandwidth=limits)
    own.remove()
    assert "slow" not in host.networks()


@pytest.fixture
def occupied() -> Iterator[Callable[[str], str]]:
    """A host with an address, a policy route, a null route and an IPv6 route; gives one network each."""
    command("ip", "link", "add", "oc0", "type", "veth", "peer", "name", "oc1")
    for words in ("link set oc0 up", "link set oc1 up", "addr add 10.81.0.5/32 dev oc0",
                  "rule add from 10.81.0.5 table 77", "route add 10.82.0.0/16 dev oc0 table 77",
                  "-6 route add fd00:83::/64 dev oc0", "route add unreachable 10.84.0.0/16"):  # fmt: skip
        command("ip", *words.split())
    yield lambda words: command("ip", *words.split())
    for words in ("link del oc0", "rule del table 77", "route del unreachable 10.84.0.0/16"):
        command("ip", *words.split())


def test_every_route_address_and_network_counts(
    occupied: Callable[[str], str], own: Networks, host: Host, foreign: Callable[[str, str], object]
) -> None:
    foreign(
        "network",
        "<network><name>asleep</name><bridge name='asleepbr'/><ip address='10.85.0.1' prefix='24'/>"
        "<ip family='ipv6' address='fd00:85::1' prefix='64'/>"
        "<route address='10.86.0.0' prefix='16' gateway='10.85.0.9'/></network>",
    )
    for cidr, user in [
        ("10.81.0.0/24", "the host's address 10.81.0.5"),
        ("10.82.9.0/24", "10.82.0.0/16 of the host's route in table 77"),
        ("10.85.0.0/25", "network 'asleep'"),
        ("10.86.1.0/24", "a route of network 'asleep'"),
    ]:
        assert user in own.refused("bad", cidr=cidr)
    for cidr6, user in [("fd00:83::/64", "the host's route via oc0"), ("fd00:85::/64", "network 'asleep'")]:
        assert user in own.refused("bad", cidr6=cidr6)
    routes = [{"to": "10.86.0.0/16", "via": "10.87.0.9"}]
    assert "a route to 10.86.0.0/16 is there: a route of network 'asleep'" in own.refused(
        "bad", cidr="10.87.0.0/24", routes=routes
    )
    own.create("null-routes-are-free", cidr="10.84.1.0/24")


def test_automatic_subnets_step_over_policy_routes_and_addresses(
    occupied: Callable[[str], str], own: Networks, host: Host
) -> None:
    first = own.create("auto", cidr="auto", cidr6="auto").runtime
    wanted, wanted6 = first["cidr"], first["cidr6"]
    own.remove()
    occupied(f"route add {wanted} dev oc0 table 77")
    occupied(f"-6 addr add {wanted6.replace('::/64', '::5/128')} dev oc0")
    second = own.create("auto", cidr="auto", cidr6="auto").runtime
    assert second["cidr"] != wanted and second["cidr6"] != wanted6
    subnets = [str(subnet) for subnet in AUTO_RANGE.subnets(new_prefix=24)]
    assert subnets.index(second["cidr"]) == subnets.index(wanted) + 1


def test_an_address_that_only_arp_knows(own: Networks, root: Path, container_root: Path) -> None:
    """Static, without lease and agent: found once the guest has spoken; nothing, and no error, before."""
    own.create("static", cidr="10.88.0.0/24", dhcp=False)
    guest = Container("by-arp", root, [card("static")], autoconfigure=False)
    guest.start(container_root)
    try:
        domain = Domain.get(connect(LXC), "by-arp")
        assert [one.addresses for one in addresses.look_up(domain)] == [[]]
        assert readiness.turn(domain, {}, queued=lambda: 0, turn_s=0.2) is None
        guest("ip", "addr", "add", "10.88.0.7/24", "dev", "eth0")
        guest("ip", "link", "set", "eth0", "up")
        guest("ping", "-c", "1", "-W", "20", "10.88.0.1")
        cards = readiness.turn(domain, {}, queued=lambda: 0, turn_s=120)
        assert cards is not None and addresses.first_address(cards) == "10.88.0.7"
        assert domain.reported_addresses("LEASE") == {}
    finally:
        guest.stop()


def test_the_connections_of_both_drivers_are_one_host() -> None:
    assert [session.driver for session in connect(QEMU).drivers()] == ["qemu", "lxc"]
    assert [session.driver for session in connect(LXC).drivers()] == ["lxc", "qemu"]


GOLDENS = sorted((ROOT / "tests/data/network").glob("*.xml"))


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.stem)
def test_libvirt_takes_every_golden_document(golden: Path, host: Host) -> None:
    """Beyond its schema, libvirt checks what goes together; of SR-IOV also whether the host has the device."""
    try:
        network = host.connection.networkDefineXML(golden.read_text(encoding="utf-8"))
    except libvirt.libvirtError as error:
        assert golden.stem == "hostdev" and "is not an SR-IOV Virtual Function" in str(error)
    else:
        network.undefine()
