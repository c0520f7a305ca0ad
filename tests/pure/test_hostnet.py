"""What this machine's network uses, against what the kernel itself says elsewhere."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from pathlib import Path

import pytest

from cloudify_libvirt.core import hostnet


def test_interfaces_are_those_of_the_kernel() -> None:
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    assert sorted(hostnet.interfaces()) == sorted(line.partition(":")[0].strip() for line in lines)
    assert "lo" in hostnet.interfaces()


TABLE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
virbr0\t007AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
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
