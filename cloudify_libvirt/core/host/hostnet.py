"""What this machine's own network uses: interfaces, addresses and routes, read from the kernel.

Source: proc(5), /proc/net/route, fib_trie, arp, ipv6_route and if_inet6.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

# Source: linux/route.h and linux/ipv6_route.h
_UP, _REJECT, _LOCAL = 0x1, 0x200, 0x80000000
# Source: linux/if_arp.h, ATF_COM
_COMPLETE = 0x2
# Source: linux/sockios.h; struct ifreq has a name of 16 bytes and a union of 24
_SIOCBRADDIF = 0x89A2
# Source: linux/capability.h
_CAP_NET_ADMIN = 1 << 12
# The tables of fib_trie that every machine has; others are those of policy routing.
_MAIN_TABLES = ("Main", "Local")


def interfaces() -> list[str]:
    """Return the names of all interfaces of this network namespace."""
    return [name for _index, name in socket.if_nameindex()]


def kind(interface: str) -> str:
    """Return ``bridge`` for a Linux bridge, ``other`` for another interface, "" when there is none."""
    path = Path("/sys/class/net") / interface
    if not path.exists():
        return ""
    return "bridge" if (path / "bridge").is_dir() else "other"


def bridge_of(interface: str) -> str:
    """Return the bridge that an interface is a port of, "" when it is none's."""
    master = Path("/sys/class/net") / interface / "master"
    return master.resolve().name if master.is_symlink() else ""


def join_bridge(interface: str, bridge: str) -> bool:
    """Make an interface a port of a bridge; False where we may not."""
    request = struct.pack("16si20x", bridge.encode(), socket.if_nametoindex(interface))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kernel:
        try:
            fcntl.ioctl(kernel, _SIOCBRADDIF, request)
        except OSError:
            return False
    return True


def may_join() -> bool:
    """Tell whether this process may make interfaces ports of bridges."""
    status = Path("/proc/self/status")
    held = [line for line in status.read_text().splitlines() if line.startswith("CapEff")] if status.exists() else []
    return bool(held) and bool(int(held[0].split()[1], 16) & _CAP_NET_ADMIN)


def macs() -> dict[str, str]:
    """Return {MAC: interface} of this network namespace."""
    found = {}
    for path in Path("/sys/class/net").glob("*/address"):
        with contextlib.suppress(OSError):  # gone meanwhile
            found[path.read_text().strip()] = path.parent.name
    found.pop("00:00:00:00:00:00", None)
    return found


def neighbours() -> list[tuple[str, str, str]]:
    """Return (IPv4 address, MAC, interface) of those that this machine has spoken with."""
    path = Path("/proc/net/arp")
    rows = [line.split() for line in path.read_text().splitlines()[1:]] if path.exists() else []
    return [(address, mac, device) for address, _type, flags, mac, _mask, device in rows if int(flags, 16) & _COMPLETE]


def used() -> list[tuple[Subnet, str]]:
    """Return every subnet that is routed, in any table, and every address, each with what it is, in words."""
    main = [(subnet, f"the host's route via {device}") for subnet, device in routes()]
    return [*main, *_policy_routes4(), *_addresses4(), *_addresses6()]


def routes() -> list[tuple[Subnet, str]]:
    """Return the directly or indirectly routed subnets with their device; not the default routes."""
    return [*_routes4(), *_routes6()]


def _routes4() -> Iterator[tuple[ipaddress.IPv4Network, str]]:
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        device, destination, _gateway, flags, _ref, _use, _metric, mask = line.split()[:8]
        if int(flags, 16) & (_UP | _REJECT) == _UP and int(mask, 16):
            yield ipaddress.IPv4Network((_address(destination), _address(mask))), device


def _routes6() -> Iterator[tuple[ipaddress.IPv6Network, str]]:
    path = Path("/proc/net/ipv6_route")  # absent where IPv6 is switched off
    for line in path.read_text().splitlines() if path.exists() else ():
        destination, prefix, *_rest, flags, device = line.split()
        subnet = ipaddress.IPv6Network((bytes.fromhex(destination), int(prefix, 16)))
        wanted = int(flags, 16) & (_UP | _REJECT | _LOCAL) == _UP and subnet.prefixlen
        if wanted and not (subnet.is_link_local or subnet.is_multicast or subnet.is_loopback):
            yield subnet, device


def _policy_routes4() -> Iterator[tuple[Subnet, str]]:
    for table, subnet, sort in _tries():
        if table not in _MAIN_TABLES and sort == "UNICAST" and subnet.prefixlen:
            yield subnet, f"the host's route in table {table.removeprefix('Id ')}"


def _addresses4() -> Iterator[tuple[Subnet, str]]:
    """An address may have no route: a /32, or one that was added with noprefixroute."""
    for _table, subnet, sort in _tries():
        if sort == "LOCAL" and subnet.prefixlen == 32 and not subnet.is_loopback:
            yield subnet, f"the host's address {subnet.network_address}"


def _tries() -> Iterator[tuple[str, ipaddress.IPv4Network, str]]:
    """Yield table, destination and kind (UNICAST, LOCAL, ...) of all IPv4 routes, each once per table."""
    path = Path("/proc/net/fib_trie")
    table = address = ""
    for line in path.read_text().splitlines() if path.exists() else ():
        words = line.split()
        if not line.startswith(" "):
            table = line.rstrip(":")
        elif words[0] == "|--":
            address = words[1]
        elif words[0].startswith("/"):
            yield table, ipaddress.IPv4Network(address + words[0]), words[2]


def _addresses6() -> Iterator[tuple[Subnet, str]]:
    path = Path("/proc/net/if_inet6")
    for line in path.read_text().splitlines() if path.exists() else ():
        digits, *_rest, device = line.split()
        address = ipaddress.IPv6Address(bytes.fromhex(digits))
        if not (address.is_link_local or address.is_loopback):
            yield ipaddress.IPv6Network(address), f"the host's address {address} on {device}"


def _address(little_endian_hex: str) -> str:
    return str(ipaddress.IPv4Address(bytes.fromhex(little_endian_hex)[::-1]))
