"""What of a network's parameters does not go together, said before libvirt says it late or not at all.

Sources: https://libvirt.org/formatnetwork.html; virNetworkDefParseXML and networkValidate of libvirt.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from cloudify_libvirt.core.spec.base import missing
from cloudify_libvirt.core.spec.link import VirtualPort, Vlan
from cloudify_libvirt.core.spec.network_parts import ROUTED, NetworkIp, first_twice

if TYPE_CHECKING:
    from cloudify_libvirt.core.spec.network import NetworkSpec

# What only a bridge of libvirt's own has.
_OF_ROUTED = (
    *("cidr", "cidr6", "ips", "domain", "dns", "hosts", "routes", "dnsmasq", "bootp", "tftp", "lease_s"),
    *("mtu", "bandwidth", "mac", "zone", "stp", "delay_s", "mac_table", "guest_ipv6"),
)
_SWITCH = "use an Open vSwitch bridge (virtualport: openvswitch), an SR-IOV device (mode passthrough or hostdev), or \
for one VLAN a bridge above a VLAN interface of the host (ip link add link eth0 name eth0.42 type vlan id 42)"


def check(spec: NetworkSpec, *, complete: bool) -> None:
    """Raise pydantic's error for the first two parameters that exclude each other; ``complete``: nothing is to come."""
    _one_way_each(spec)
    if spec.forward_mode in ROUTED:
        _check_routed(spec, complete=complete)
    else:
        _check_switched(spec, complete=complete)
    _check_ports(spec)
    _check_servers(spec)


def _one_way_each(spec: NetworkSpec) -> None:
    for key in ("cidr", "cidr6"):
        if getattr(spec, key) and spec.ips:
            raise missing(key, f"{key} and ips both give the addresses; give one of them")
    if spec.mode and spec.forwards:
        raise missing("mode", "mode and forwards say the same; give one of them")
    if len(spec.forwards) > 1:
        raise missing("forwards[1]", "a network of libvirt has one way to others; make a second network")


def _check_routed(spec: NetworkSpec, *, complete: bool) -> None:
    mode = spec.forward_mode
    if spec.virtualport:
        raise missing("virtualport", f"mode {mode} makes a Linux bridge; another switch is used by mode: bridge")
    if complete and mode != "isolated" and not (spec.cidr or spec.cidr6 or spec.ips):
        raise missing("cidr", f"mode {mode} needs addresses: give cidr, cidr6 or ips")
    if spec.cidr6 and spec.cidr6 != "auto":
        prefix = ipaddress.IPv6Network(spec.cidr6).prefixlen
        if prefix != 64 and not spec.dhcp6:
            raise missing("cidr6", "guests make their own addresses in a /64 only; give one, or dhcp6: true")


def _check_switched(spec: NetworkSpec, *, complete: bool) -> None:
    mode = spec.forward_mode
    given = next((key for key in _OF_ROUTED if getattr(spec, key) not in (None, "", (), False, 0)), None)
    if given:
        raise missing(given, f"a network of mode {mode} leaves addresses, DHCP, DNS and the bridge to the host")
    devices = bool(spec.forwards and (spec.forwards[0].devices or spec.forwards[0].pf or spec.forwards[0].pci))
    if spec.dev and mode != "bridge":
        raise missing("dev", f"mode {mode} has no bridge; name the host's interface in forwards[0].dev")
    if spec.dev and devices:
        raise missing("dev", "a bridge and forwards[0].interfaces (macvtap) exclude each other; give one of them")
    if complete and mode == "bridge" and not (spec.dev or devices):
        raise missing("dev", "mode bridge needs a bridge that the host has; forwards[0].interfaces is for macvtap")


def _check_ports(spec: NetworkSpec) -> None:
    _check_vlan(spec.vlan, spec.virtualport, "vlan", by_device=_sets_tags(spec))
    for at, group in enumerate(spec.portgroups):
        # A switch of its own comes before the device's tags.
        by_device = _sets_tags(spec) and group.virtualport is None
        port = group.virtualport or spec.virtualport
        key = f"portgroups[{at}].{'vlan' if group.vlan else 'virtualport'}"
        _check_vlan(group.vlan or spec.vlan, port, key, by_device=by_device)
    again = first_twice(group.name for group in spec.portgroups)
    if again is not None:
        raise missing(f"portgroups[{again}].name", "is the name of another one")
    if sum(group.default for group in spec.portgroups) > 1:
        raise missing("portgroups", "only one can be the default")
    on_linux_bridge = spec.linux_bridge or (spec.forward_mode == "bridge" and spec.dev and not spec.virtualport)
    if spec.isolated_ports and not on_linux_bridge:
        raise missing("isolated_ports", "only ports of a Linux bridge can be isolated from each other")


def _sets_tags(spec: NetworkSpec) -> bool:
    """Tell whether guests get devices that set VLAN tags themselves."""
    return spec.forward_mode in ("passthrough", "hostdev")


def _check_vlan(vlan: Vlan | None, port: VirtualPort | None, key: str, *, by_device: bool) -> None:
    if vlan is None:
        return
    switched = port is not None and port.type == "openvswitch"
    if not (switched or by_device):
        raise missing(key, f"a plain Linux bridge or macvtap sets no VLAN tags: {_SWITCH}")
    if vlan.is_trunk and not switched:
        raise missing(key, "only Open vSwitch has trunks: give one tag")


def _check_servers(spec: NetworkSpec) -> None:
    if spec.cidr == "auto" or spec.cidr6 == "auto":
        ips = spec.ips
    else:
        ips = spec.expanded(spec.cidr or "", spec.cidr6 or "").ips
        _check_hosts(spec, ips)
        _check_routes(spec, ips)
    for version in (4, 6):
        served = [at for at, entry in enumerate(ips) if entry.dhcp and entry.version == version]
        if len(served) > 1:
            raise missing(f"ips[{served[1]}].dhcp", f"libvirt serves one IPv{version} network by DHCP; it is ips"
                          f"[{served[0]}]")  # fmt: skip
    if (spec.bootp or spec.tftp) and not spec.serves_ipv4:
        raise missing("bootp" if spec.bootp else "tftp", "needs IPv4 addresses with DHCP: cidr, or ips with dhcp")


def _check_hosts(spec: NetworkSpec, ips: tuple[NetworkIp, ...]) -> None:
    served = [entry.reach for entry in ips if entry.dhcp]
    for at, host in enumerate(spec.hosts):
        if not any(ipaddress.ip_address(host.ip) in reach for reach in served):
            raise missing(f"hosts[{at}].ip", f"{host.ip} is in no range that this network serves by DHCP")
    for key in ("ip", "mac", "id"):
        given = [(at, value) for at, host in enumerate(spec.hosts) if (value := getattr(host, key))]
        again = first_twice(value for _at, value in given)
        if again is not None:
            raise missing(f"hosts[{given[again][0]}].{key}", f"{given[again][1]} is given twice")


def _check_routes(spec: NetworkSpec, ips: tuple[NetworkIp, ...]) -> None:
    for at, route in enumerate(spec.routes):
        via = ipaddress.ip_address(route.via)
        inside = [entry for entry in ips if via in entry.reach]
        if not inside:
            raise missing(f"routes[{at}].via", f"{route.via} is in no subnet of this network")
        if any(entry.address == route.via for entry in inside):
            raise missing(f"routes[{at}].via", f"{route.via} is the host itself, not a guest")
