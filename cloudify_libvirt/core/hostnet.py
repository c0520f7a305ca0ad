"""What this machine's own network uses: interfaces and routes, read from the kernel.

Source: proc(5), /proc/net/route and /proc/net/ipv6_route.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

_UP, _REJECT = 0x1, 0x200


def interfaces() -> list[str]:
    """Return the names of all interfaces of this network namespace."""
    return [name for _index, name in socket.if_nameindex()]


def macs() -> dict[str, str]:
    """Return {MAC: interface} of this network namespace."""
    found = {}
    for path in Path("/sys/class/net").glob("*/address"):
        with contextlib.suppress(OSError):  # gone meanwhile
            found[path.read_text().strip()] = path.parent.name
    found.pop("00:00:00:00:00:00", None)
    return found


def routes() -> list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]]:
    """Return the directly or indirectly routed subnets with their device; not the default routes."""
    return [*_routes4(), *_routes6()]


def _routes4() -> Iterator[tuple[ipaddress.IPv4Network, str]]:
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        device, destination, _gateway, flags, _ref, _use, _metric, mask = line.split()[:8]
        if int(flags, 16) & _UP and int(mask, 16):
            yield ipaddress.IPv4Network((_address(destination), _address(mask))), device


def _routes6() -> Iterator[tuple[ipaddress.IPv6Network, str]]:
    path = Path("/proc/net/ipv6_route")  # absent where IPv6 is switched off
    for line in path.read_text().splitlines() if path.exists() else ():
        destination, prefix, *_rest, flags, device = line.split()
        subnet = ipaddress.IPv6Network((bytes.fromhex(destination), int(prefix, 16)))
        wanted = int(flags, 16) & (_UP | _REJECT) == _UP and subnet.prefixlen
        if wanted and not (subnet.is_link_local or subnet.is_multicast or subnet.is_loopback):
            yield subnet, device


def _address(little_endian_hex: str) -> str:
    return str(ipaddress.IPv4Address(bytes.fromhex(little_endian_hex)[::-1]))
