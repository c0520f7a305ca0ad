"""What stands beside the hypervisor: dnsmasq, forwarding, the clock."""

from __future__ import annotations

import ctypes
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.doctor.access import PATH
from cloudify_libvirt.core.doctor.finding import Finding, Target, ok, problem, warning
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import libvirt_call
from cloudify_libvirt.core.session import Session

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_ROUTED = frozenset({"nat", "route", "open"})
# Source: adjtimex(2); struct timex has 208 bytes on 64-bit machines.
_TIME_ERROR, _TIMEX_BYTES = 5, 512
# 2024-01-01: no release of this plugin is older.
_EARLIEST_S = 1_704_067_200


def dnsmasq(_target: Target) -> Iterator[Finding]:
    """Tell whether networks can have DHCP and DNS."""
    path = shutil.which("dnsmasq", path=PATH)
    if path is None:
        why = "networks with DHCP or DNS do not start"
        yield problem("dnsmasq", "it is not installed", why, "apt-get install dnsmasq-base")
    else:
        yield ok("dnsmasq", path)


def forwarding(target: Target) -> Iterator[Finding]:
    """Tell whether the kernel forwards; libvirt switches it on when a NAT or routed network starts."""
    if _FORWARD.read_text(encoding="ascii").strip() != "0":
        yield ok("IPv4 forwarding", "on")
        return
    users = _forwarding_networks(target.connected)
    command = "sysctl -w net.ipv4.ip_forward=1"
    if users:
        why = f"guests on {', '.join(users[:5])} do not reach other networks"
        yield problem("IPv4 forwarding", "off", why, command)
    else:
        why = "guests reach other networks only with it; libvirt switches it on with the first NAT network"
        yield warning("IPv4 forwarding", "off", why, command)


def _forwarding_networks(session: Session) -> list[str]:
    with libvirt_call("list the networks of", session.uri):
        handles = session.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
        documents = [(str(handle.name()), parse.document(handle.XMLDesc(0))) for handle in handles]
    forwards = [(name, root.find("forward")) for name, root in documents]
    return [name for name, forward in forwards if forward is not None and forward.get("mode", "nat") in _ROUTED]


def clock(_target: Target) -> Iterator[Finding]:
    """Tell whether the kernel's clock is right, as far as it knows itself."""
    why = "guests take their time from the host; certificates and leases fail with a wrong one"
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < _EARLIEST_S:
        yield problem("clock", f"it says {now}", why, "apt-get install chrony && chronyc makestep")
    elif _state_of_clock() == _TIME_ERROR:
        yield warning("clock", f"{now}, not synchronized", why, "apt-get install chrony")
    else:
        yield ok("clock", f"{now}, synchronized")


def _state_of_clock() -> int:
    """Ask only: with modes 0 nothing is set."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
