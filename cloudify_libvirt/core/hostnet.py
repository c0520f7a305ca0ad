"""What this machine's own network uses: interfaces and routes, read from the kernel.

Source: proc(5), /proc/net/route and /proc/net/ipv6_route.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

_UP = 0x1


def interfaces() -> list[str]:
    """Return the names of all interfaces of this network namespace."""
    return [name for _index, name in socket.if_nameindex()]


def routes() -> list[tuple[ipaddress.IPv4Network, str]]:
    """Return the directly or indirectly routed IPv4 subnets with their device; not the default route."""
    lines = Path("/proc/net/route").read_text().splitlines()[1:]
    found = []
    for line in lines:
        device, destination, _gateway, flags, _ref, _use, _metric, mask = line.split()[:8]
        if int(flags, 16) & _UP and int(mask, 16):
            found.append((ipaddress.IPv4Network((_address(destination), _address(mask))), device))
    return found


def _address(little_endian_hex: str) -> str:
    return str(ipaddress.IPv4Address(bytes.fromhex(little_endian_hex)[::-1]))
