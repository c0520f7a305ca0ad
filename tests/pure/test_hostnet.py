"""What this machine's network uses, against what the kernel itself says elsewhere."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from pathlib import Path

import pytest

from cloudify_libvirt.core.host import hostnet


def test_interfaces_are_those_of_the_kernel() -> None:
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    assert sorted(hostnet.interfaces()) == sorted(line.partition(":")[0].strip() for line in lines)
    assert "lo" in hostnet.interfaces()


TABLE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
virbr0\t007AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
*\t0000540A\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0
tun0\t0100000A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
down0\t0000630A\t00000000\t0000\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


_NO = "0" * 32
TABLE6 = f"""\
fd980007000000000000000000000000 40 {_NO} 00 {_NO} 00000100 00000001 00000000 00000001 br0
fe800000000000000000000000000000 40 {_NO} 00 {_NO} 00000100 00000001 00000000 00000001 br0
ff000000000000000000000000000000 08 {_NO} 00 {_NO} 00000100 00000001 00000000 00000001 br0
00000000000000000000000000000001 80 {_NO} 00 {_NO} 00000000 00000001 00000000 80200001 lo
fdff0000000000000000000000000000 10 {_NO} 00 {_NO} 00000100 00000001 00000000 00000201 lo
00000000000000000000000000000000 00 {_NO} 00 {_NO} 00000100 00000001 00000000 00000003 br0
"""


def test_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Default routes, routes that are down or refuse, and those that every link has take no subnet."""
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self: {"route": TABLE, "ipv6_route": TABLE6}[self.name])
    assert hostnet.routes() == [
        (ipaddress.IPv4Network("192.168.0.0/16"), "eth0"),
        (ipaddress.IPv4Network("192.168.122.0/24"), "virbr0"),
        (ipaddress.IPv4Network("10.0.0.1/32"), "tun0"),
        (ipaddress.IPv6Network("fd98:7::/64"), "br0"),
    ]


def test_macs_are_those_of_the_kernel() -> None:
    said = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
    expected = {link["address"] for link in said if link.get("address", "00:00:00:00:00:00") != "00:00:00:00:00:00"}
    assert set(hostnet.macs()) == expected


def test_routes_of_this_machine() -> None:
    devices = set(hostnet.interfaces())
    assert all(device in devices and subnet.prefixlen > 0 for subnet, device in hostnet.routes())


TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     |-- 192.168.7.0
        /24 link UNICAST
        /32 link BROADCAST
Id 100:
  +-- 10.30.0.0/15 2 0 2
     |-- 10.30.0.0
        /16 universe UNICAST
        /15 universe BLACKHOLE
     |-- 0.0.0.0
        /0 universe UNICAST
Local:
  |-- 192.168.7.2
     /32 host LOCAL
  |-- 127.0.0.1
     /32 host LOCAL
"""
ADDRESSES6 = """\
fe80000000000000000000fffe000001 04 40 20 80     eth0
fd000000000000000000000000000002 04 40 00 82     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""
ARP = """IP address       HW type     Flags       HW address            Mask     Device
10.0.0.7         0x1         0x2         52:54:00:00:00:01     *        br0
10.0.0.8         0x1         0x0         00:00:00:00:00:00     *        br0
10.0.0.9         0x1         0x6         52:54:00:00:00:02     *        br1
"""
FILES = {"route": TABLE, "ipv6_route": TABLE6, "fib_trie": TRIE, "if_inet6": ADDRESSES6, "arp": ARP}


def test_what_is_used_counts_every_table_and_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self: FILES[self.name])
    found = hostnet.used()
    assert found[:4] == [(subnet, f"the host's route via {device}") for subnet, device in hostnet.routes()]
    assert [(str(subnet), user) for subnet, user in found[4:]] == [
        ("10.30.0.0/16", "the host's route in table 100"),
        ("192.168.7.2/32", "the host's address 192.168.7.2"),
        ("fd00::2/128", "the host's address fd00::2 on eth0"),
    ]


def test_only_neighbours_that_answered_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self: FILES[self.name])
    assert hostnet.neighbours() == [
        ("10.0.0.7", "52:54:00:00:00:01", "br0"),
        ("10.0.0.9", "52:54:00:00:00:02", "br1"),
    ]


def test_the_addresses_of_this_machine_are_used() -> None:
    said = json.loads(subprocess.run(["ip", "-j", "addr"], capture_output=True, check=True).stdout)
    mine = {info["local"] for link in said for info in link["addr_info"] if info["scope"] == "global"}
    assert mine <= {str(subnet.network_address) for subnet, user in hostnet.used() if "address" in user}


def test_kinds_of_interfaces() -> None:
    assert (hostnet.kind("lo"), hostnet.kind("no-such-link")) == ("other", "")
