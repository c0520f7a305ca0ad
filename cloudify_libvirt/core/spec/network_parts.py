"""The mappings below a network's parameters: forwarding, addresses, DHCP, routes, port groups."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cloudify_libvirt.core.spec.base import (
    Count,
    Flag,
    InterfaceName,
    Ip,
    Ipv4,
    Line,
    Mac,
    Part,
    Positive,
    line,
    missing,
)
from cloudify_libvirt.core.spec.cloud_init import host_name
from cloudify_libvirt.core.spec.link import Bandwidth, VirtualPortField, VlanField
from cloudify_libvirt.core.spec.network_dns import Port

# Where libvirt makes the bridge and runs DHCP and DNS on it; in the others the host's own devices are used.
ROUTED = frozenset({"nat", "route", "open", "isolated"})
# The most that libvirt serves in one range. Source: virSocketAddrGetRange
MOST_ADDRESSES = 0xFFFF
SHORTEST_LEASE_S = 120  # Source: dnsmasq(8), --dhcp-range

_PCI = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)
_DUID = re.compile(r"[0-9a-f]{1,2}(:[0-9a-f]{1,2}){1,127}", re.IGNORECASE)


def pci_address(value: object) -> str:
    """Return a PCI address as ``0000:06:10.0``."""
    match = _PCI.fullmatch(line(value))
    if match is None:
        raise ValueError("must be a PCI address, as in 0000:06:10.0")
    domain, bus, slot, function = match.groups()
    return f"{domain or '0000'}:{bus}:{slot}.{function}".lower()


def duid(value: object) -> str:
    """Return a DHCP unique identifier."""
    if not _DUID.fullmatch(line(value)):
        raise ValueError("must be a DUID, as in 0:3:0:1:52:54:0:12:34:56")
    return line(value).lower()


def any_network(value: object) -> str:
    """Return an IPv4 or IPv6 network with its prefix; no host part."""
    try:
        return str(ipaddress.ip_network(line(value)))
    except ValueError:
        raise ValueError("must be a network, as in 10.30.0.0/16, with no bits after its prefix") from None


def group_name(value: object) -> str:
    """Return a name of a port group. Source: basictypes.rng, deviceName."""
    if not re.fullmatch(r"[a-zA-Z0-9_.\-\\:/]+", line(value)):
        raise ValueError("a port group's name has letters, digits and _ . - : / only")
    return line(value)


def zone_name(value: object) -> str:
    """Return a name of a zone. Source: basictypes.rng, zoneName."""
    if not re.fullmatch(r"[a-zA-Z0-9_\-]+", line(value)):
        raise ValueError("a zone's name has letters, digits, '_' and '-'")
    return line(value)


def lease(value: object) -> object:
    """Return the seconds of a lease that dnsmasq can give."""
    seconds = int(value) if isinstance(value, int | str) and str(value).isdigit() else None
    if seconds is not None and 0 < seconds < SHORTEST_LEASE_S:
        raise ValueError(f"a lease lasts {SHORTEST_LEASE_S} seconds or more; 0 is for ever")
    return value


Hostname = Annotated[str, BeforeValidator(host_name)]
Lease = Annotated[Count, BeforeValidator(lease)]
Network = Annotated[str, BeforeValidator(any_network)]


class AddressRange(Part):
    """The host's addresses that NAT shows to others."""

    start: Ipv4 = Field(description="First address.")
    end: Ipv4 = Field(description="Last address.")

    @model_validator(mode="after")
    def _ordered(self) -> AddressRange:
        if ipaddress.IPv4Address(self.start) > ipaddress.IPv4Address(self.end):
            raise missing("end", "is below start")
        return self


class PortRange(Part):
    """The ports that NAT uses."""

    start: Port = Field(description="First port.")
    end: Port = Field(description="Last port.")

    @model_validator(mode="after")
    def _ordered(self) -> PortRange:
        if self.start > self.end:
            raise missing("end", "is below start")
        return self


class Nat(Part):
    """What NAT makes of the guests' addresses."""

    addresses: AddressRange | None = Field(default=None, description="{start, end}; the host's own when absent.")
    ports: PortRange | None = Field(default=None, description="{start, end}; 1024 to 65535 when absent.")
    ipv6: Flag = Field(default=False, description="IPv6 is translated too; it is routed otherwise.")


class Forward(Part):
    """How a network reaches others."""

    mode: Literal["nat", "route", "open", "bridge", "private", "vepa", "passthrough", "hostdev"] = Field(
        default="nat", description="Forward mode of libvirt."
    )
    dev: InterfaceName | None = Field(
        default=None, description="Interface of the host: the only way out of nat and route; any when absent."
    )
    interfaces: tuple[InterfaceName, ...] = Field(
        default=(), description="Interfaces of the host that macvtap devices of guests stand on."
    )
    pf: InterfaceName | None = Field(
        default=None, description="SR-IOV device of the host whose virtual functions are used (passthrough, hostdev)."
    )
    pci: tuple[Annotated[str, BeforeValidator(pci_address)], ...] = Field(
        default=(), description="PCI addresses of the devices that guests get (hostdev)."
    )
    managed: Flag | None = Field(default=None, description="libvirt takes devices from their driver (hostdev).")
    driver: Literal["vfio", "kvm"] | None = Field(default=None, description="Driver of passed devices (hostdev).")
    nat: Nat | None = Field(default=None, description="{addresses, ports, ipv6} of mode nat.")

    @model_validator(mode="after")
    def _consistent(self) -> Forward:
        for key, modes in _FORWARD_KEYS.items():
            if getattr(self, key) not in (None, ()) and self.mode not in modes:
                raise missing(key, f"mode {self.mode} has none; it is for {', '.join(sorted(modes))}")
        given = [key for key in ("dev", "interfaces", "pf", "pci") if getattr(self, key)]
        if len(given) > 1:
            raise missing(given[1], f"{' and '.join(given)} exclude each other; give one of them")
        if not given and self.mode in _NEEDS_DEVICE:
            raise missing(_NEEDS_DEVICE[self.mode], f"mode {self.mode} needs devices of the host")
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """Interfaces of the host that guests' macvtap devices stand on."""
        return self.interfaces or ((self.dev,) if self.dev and self.mode not in ROUTED else ())


# Source: https://libvirt.org/formatnetwork.html#connectivity
_MACVTAP = frozenset({"bridge", "private", "vepa", "passthrough"})
_FORWARD_KEYS = {
    "dev": frozenset({"nat", "route"}) | _MACVTAP,
    "interfaces": _MACVTAP,
    "pf": frozenset({"passthrough", "hostdev"}),
    "pci": frozenset({"hostdev"}),
    "managed": frozenset({"hostdev"}),
    "driver": frozenset({"hostdev"}),
    "nat": frozenset({"nat"}),
}
_NEEDS_DEVICE = {"private": "interfaces", "vepa": "interfaces", "passthrough": "interfaces", "hostdev": "pf"}


class DhcpRange(Part):
    """A range of addresses that DHCP hands out."""

    start: Ip = Field(description="First address.")
    end: Ip = Field(description="Last address.")
    lease_s: Lease | None = Field(default=None, description="How long an address is lent; 0 is for ever.")


class Dhcp(Part):
    """The addresses that DHCP hands out; without a range, only those of hosts."""

    start: Ip | None = Field(default=None, description="First address.")
    end: Ip | None = Field(default=None, description="Last address.")
    lease_s: Lease | None = Field(default=None, description="How long an address is lent; 0 is for ever.")
    ranges: tuple[DhcpRange, ...] = Field(default=(), description="More ranges: [{start, end, lease_s}].")

    @model_validator(mode="after")
    def _both_ends(self) -> Dhcp:
        if (self.start is None) != (self.end is None):
            raise missing("end" if self.end is None else "start", "a range has start and end")
        return self

    @property
    def every(self) -> tuple[DhcpRange, ...]:
        """All ranges, that of start and end first."""
        if self.start is None or self.end is None:
            return self.ranges
        return (DhcpRange(start=self.start, end=self.end, lease_s=self.lease_s), *self.ranges)


class NetworkIp(Part):
    """An address of the host in a network."""

    address: Ip = Field(description="Address of the host, the guests' gateway.")
    netmask: Ipv4 | None = Field(default=None, description="Mask, of IPv4.")
    prefix: Annotated[Positive, Field(le=128)] | None = Field(default=None, description="Prefix, instead of netmask.")
    family: Literal["ipv4", "ipv6"] | None = Field(default=None, description="That of the address when absent.")
    local_ptr: Flag = Field(default=False, description="Reverse look-ups of these addresses stay on the host.")
    dhcp: Dhcp | None = Field(default=None, description="{start, end, lease_s, ranges}.")

    @model_validator(mode="after")
    def _consistent(self) -> NetworkIp:
        if self.netmask and self.prefix:
            raise missing("prefix", "netmask and prefix say the same; give one of them")
        if self.netmask and self.version == 6:
            raise missing("netmask", "an IPv6 address has a prefix, not a netmask")
        if self.family and self.family != f"ipv{self.version}":
            raise missing("family", f"{self.address} is an address of ipv{self.version}")
        try:
            reach = self.reach
        except ValueError:
            raise missing("netmask" if self.netmask else "prefix", "is not a mask of this address") from None
        for entry in self.dhcp.every if self.dhcp else ():
            _check_range(entry, reach)
        return self

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.address).version

    @property
    def reach(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """The network of the address; without a mask that of its class, as libvirt has it.

        Source: https://libvirt.org/formatnetwork.html#addressing, and virSocketAddrGetIPPrefix of libvirt.
        """
        mask = self.netmask or self.prefix or _class_prefix(self.address)
        return ipaddress.ip_network(f"{self.address}/{mask}", strict=False)


def _check_range(entry: DhcpRange, reach: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    for key in ("start", "end"):
        if ipaddress.ip_address(getattr(entry, key)) not in reach:
            raise missing(f"dhcp.{key}", f"is outside of {reach}")
    first, last = (int(ipaddress.ip_address(address)) for address in (entry.start, entry.end))
    if first > last:
        raise missing("dhcp.end", "is below start")
    if last - first >= MOST_ADDRESSES:
        raise missing("dhcp.end", f"a range has {MOST_ADDRESSES} addresses at most; give a smaller one, or several")


def _class_prefix(address: str) -> int:
    parsed = ipaddress.ip_address(address)
    if parsed.version == 6:
        return 64
    first = parsed.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24


class DhcpHost(Part):
    """A fixed address of a guest."""

    mac: Mac | None = Field(default=None, description="MAC address of the guest, of an IPv4 address.")
    id: Annotated[str, BeforeValidator(duid)] | None = Field(
        default=None, description="DUID of the guest, of an IPv6 address."
    )
    ip: Ip = Field(description="Its address.")
    name: Hostname | None = Field(default=None, description="Its host name.")
    lease_s: Lease | None = Field(default=None, description="How long the address is lent; 0 is for ever.")

    @model_validator(mode="after")
    def _known_by(self) -> DhcpHost:
        six = ipaddress.ip_address(self.ip).version == 6
        if six and self.mac:
            raise missing("mac", "DHCPv6 knows guests by id (their DUID) or name, not by MAC address")
        if not six and self.id:
            raise missing("id", "only DHCPv6 knows guests by a DUID; give mac")
        if not (self.mac or self.id or self.name):
            raise missing("id" if six else "mac", f"a fixed address needs {'id' if six else 'mac'} or name")
        return self


class Bootp(Part):
    """What guests boot from by network."""

    file: Line = Field(description="File that the guest loads.")
    server: Line | None = Field(default=None, description="Address of the TFTP server; the host when absent.")


class Route(Part):
    """A network behind a guest."""

    to: Network = Field(description="The network, as in 10.30.0.0/16.")
    via: Ip = Field(description="Address of the guest that leads there.")
    metric: Positive | None = Field(default=None, description="Lower comes first.")

    @model_validator(mode="after")
    def _one_family(self) -> Route:
        if ipaddress.ip_network(self.to).version != ipaddress.ip_address(self.via).version:
            raise missing("via", f"must be of the family of {self.to}")
        return self


class PortGroup(Part):
    """Settings that interfaces choose by name."""

    name: Annotated[str, BeforeValidator(group_name)] = Field(description="Name.")
    default: Flag = Field(default=False, description="For interfaces that choose none.")
    trust_guest_rx_filters: Flag = Field(default=False, description="Guests may change what their macvtap receives.")
    virtualport: VirtualPortField | None = Field(default=None, description="Switch, as on the network.")
    bandwidth: Bandwidth | None = Field(default=None, description="Limits of each interface.")
    vlan: VlanField | None = Field(default=None, description="VLAN id, or {tags, trunk, native, native_mode}.")


def first_twice(values: Iterable[object]) -> int | None:
    """Return the place of the first value that came before."""
    seen: set[object] = set()
    for at, value in enumerate(values):
        if value in seen:
            return at
        seen.add(value)
    return None
