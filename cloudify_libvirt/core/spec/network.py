"""What a user may ask for of a network."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from cloudify_libvirt.core.spec import network_rules
from cloudify_libvirt.core.spec.base import (
    AbsolutePath,
    Count,
    Flag,
    InterfaceName,
    Line,
    Mac,
    Positive,
    Spec,
    dsl,
    line,
    strict,
)
from cloudify_libvirt.core.spec.link import Bandwidth, VirtualPortField, VlanField
from cloudify_libvirt.core.spec.network_dns import Dns
from cloudify_libvirt.core.spec.network_parts import (
    MOST_ADDRESSES,
    ROUTED,
    Bootp,
    Dhcp,
    DhcpHost,
    Forward,
    Hostname,
    Lease,
    NetworkIp,
    PortGroup,
    Route,
    zone_name,
)

# The gateway and one guest. Source: https://www.rfc-editor.org/rfc/rfc3021 (a /31 has no room for a network address)
_LONGEST_PREFIX = 30


def ipv4_network(value: object) -> str:
    """Return an IPv4 network as ``10.20.0.0/24``, or ``auto``; the host part may be set."""
    try:
        return "auto" if value == "auto" else str(subnet(line(value)))
    except ValueError:
        raise ValueError("must be an IPv4 network of /8 to /30, as in 10.20.0.0/24, or auto") from None


def ipv6_network(value: object) -> str:
    """Return an IPv6 network as ``fd00:20::/64``, or ``auto``; the host part may be set."""
    try:
        found = "auto" if value == "auto" else str(subnet6(line(value)))
    except ValueError:
        raise ValueError("must be an IPv6 network of /64 to /120, as in fd00:20::/64, or auto") from None
    return found


def subnet(text: str) -> ipaddress.IPv4Network:
    """Return the network of ``text``; ValueError if it has no room for a gateway and a guest."""
    network = ipaddress.IPv4Network(text, strict=False)
    if "/" not in text or not 8 <= network.prefixlen <= _LONGEST_PREFIX:
        raise ValueError(text)
    return network


def subnet6(text: str) -> ipaddress.IPv6Network:
    """Return the IPv6 network of ``text``; ValueError if it has no room, or is more than one link."""
    network = ipaddress.IPv6Network(text, strict=False)
    if "/" not in text or not 64 <= network.prefixlen <= 120:
        raise ValueError(text)
    return network


class NetworkSpec(Spec):
    """A network."""

    dev: InterfaceName | Literal[""] = Field(
        default="", description="Name of the bridge, chosen when empty; of mode bridge, a bridge that the host has.",
        json_schema_extra=dsl(default=""),
    )  # fmt: skip
    forwards: tuple[Forward, ...] = Field(
        default=(), description="[{mode, dev, interfaces, nat, ...}], one at most; see also mode.",
        json_schema_extra=dsl(default=[]),
    )  # fmt: skip
    ips: tuple[NetworkIp, ...] = Field(
        default=(), description="[{address, netmask | prefix, dhcp: {start, end}}]; see also cidr.",
        json_schema_extra=dsl(default=[]),
    )  # fmt: skip
    cidr: Annotated[str, BeforeValidator(ipv4_network)] | None = Field(
        default=None, description="IPv4 network, as in 10.20.0.0/24, or auto for a free one.",
        json_schema_extra=dsl("string"),
    )  # fmt: skip
    cidr6: Annotated[str, BeforeValidator(ipv6_network)] | None = Field(
        default=None, description="IPv6 network, as in fd00:20::/64, or auto for a free one of the local range (ULA).",
        json_schema_extra=dsl("string"),
    )  # fmt: skip
    mode: Literal["nat", "route", "isolated", "open", "bridge"] | None = Field(
        default=None, description="How the network reaches others; nat when absent and cidr or cidr6 is given.",
        json_schema_extra=dsl("string"),
    )  # fmt: skip
    dhcp: Flag = Field(default=True, description="Hand out addresses of cidr.",
                       json_schema_extra=dsl(default=True))  # fmt: skip
    dhcp6: Flag = Field(
        default=False, description="Hand out addresses of cidr6; otherwise guests make their own (SLAAC).",
        json_schema_extra=dsl(default=False),
    )  # fmt: skip
    lease_s: Lease | None = Field(
        default=None, description="How long DHCP lends addresses, where ranges and hosts say nothing; 0 is for ever."
    )
    bootp: Bootp | None = Field(default=None, description="Boot by network: {file, server}.")
    tftp: AbsolutePath | None = Field(
        default=None, description="Directory of the host that its TFTP server shows.", json_schema_extra=dsl("string")
    )
    domain: Hostname | None = Field(default=None, description="DNS domain of the guests.",
                                    json_schema_extra=dsl("string"))  # fmt: skip
    domain_local: Flag = Field(
        default=True, description="Names of domain are not asked for outside.", json_schema_extra=dsl(default=True)
    )
    dns: Dns | None = Field(default=None, description="{enable, forward_plain_names, forwarders, hosts, srv, txt}.")
    autostart: Flag = Field(default=True, description="Start the network with the host.",
                            json_schema_extra=dsl(default=True))  # fmt: skip
    hosts: tuple[DhcpHost, ...] = Field(default=(), description="Fixed addresses: [{mac | id, ip, name, lease_s}].",
                                        json_schema_extra=dsl(default=[]))  # fmt: skip
    routes: tuple[Route, ...] = Field(
        default=(), description="Networks behind guests: [{to, via, metric}].", json_schema_extra=dsl(default=[])
    )
    dnsmasq: tuple[Line, ...] = Field(
        default=(), description="Lines for the configuration of dnsmasq, unchecked, as in 'dhcp-option=42,10.20.0.1'.",
        json_schema_extra=dsl(default=[]),
    )  # fmt: skip
    mtu: Annotated[Positive, Field(ge=68, le=65535)] | None = Field(
        default=None, description="MTU in bytes.", json_schema_extra=dsl()
    )
    bandwidth: Bandwidth | None = Field(default=None, description="Limits of all guests together: {inbound, outbound}.")
    mac: Mac | None = Field(
        default=None, description="MAC address of the bridge; libvirt's choice when absent.",
        json_schema_extra=dsl("string"),
    )  # fmt: skip
    zone: Annotated[str, BeforeValidator(zone_name)] | None = Field(
        default=None, description="Zone of firewalld, which must run.", json_schema_extra=dsl("string")
    )
    stp: Flag = Field(default=False, description="Spanning tree on the bridge.", json_schema_extra=dsl(default=False))
    delay_s: Count = Field(default=0, description="How long a new port only listens.",
                           json_schema_extra=dsl(default=0))  # fmt: skip
    mac_table: Literal["kernel", "libvirt"] | None = Field(
        default=None, description="Who keeps the bridge's table of MAC addresses.", json_schema_extra=dsl("string")
    )
    guest_ipv6: Flag = Field(
        default=False, description="Guests speak IPv6 with each other, though the host has no IPv6 address here.",
        json_schema_extra=dsl(default=False),
    )  # fmt: skip
    trust_guest_rx_filters: Flag = Field(
        default=False, description="Guests may change what their macvtap receives.",
        json_schema_extra=dsl(default=False),
    )  # fmt: skip
    isolated_ports: Flag = Field(
        default=False, description="Guests reach the host and others, not each other.",
        json_schema_extra=dsl(default=False),
    )  # fmt: skip
    virtualport: VirtualPortField | None = Field(
        default=None, description="Switch that is no Linux bridge: openvswitch, or {type, ...}; with mode: bridge."
    )
    vlan: VlanField | None = Field(default=None, description="VLAN id, or {tags, trunk, native, native_mode}.")
    portgroups: tuple[PortGroup, ...] = Field(
        default=(), description="Settings that interfaces choose by name: [{name, default, vlan, bandwidth, ...}].",
        json_schema_extra=dsl(default=[]),
    )  # fmt: skip

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> NetworkSpec:
        network_rules.check(self, complete=strict(info))
        return self

    @property
    def modern(self) -> bool:
        """True where ``cidr`` or ``cidr6`` is given, instead of the lists of older blueprints."""
        return bool(self.cidr or self.cidr6)

    @property
    def forward_mode(self) -> str:
        """The mode in force: ``isolated`` where there is no way to others."""
        if self.forwards:
            return self.forwards[0].mode
        return self.mode or ("nat" if self.modern else "isolated")

    @property
    def linux_bridge(self) -> bool:
        """True where libvirt makes the bridge, with its addresses, DHCP and DNS."""
        return self.forward_mode in ROUTED

    @property
    def wanted_forwards(self) -> tuple[Forward, ...]:
        """``forwards``, or what ``mode`` stands for."""
        mode = self.forward_mode
        return self.forwards or (() if mode == "isolated" else (Forward.model_validate({"mode": mode}),))

    @property
    def serves_ipv4(self) -> bool:
        """True where guests get IPv4 addresses by DHCP."""
        return bool(self.cidr and self.dhcp) or any(entry.dhcp and entry.version == 4 for entry in self.ips)

    def hosts_of(self, entry: NetworkIp) -> list[dict[str, Any]]:
        """Return the fixed addresses that the DHCP server of this address hands out."""
        inside = [host for host in self.hosts if entry.dhcp and ipaddress.ip_address(host.ip) in entry.reach]
        return [
            {"mac": host.mac or "", "id": host.id or "", "ip": host.ip, "name": host.name or "",
             "lease_s": self._lease(host.lease_s)}
            for host in inside
        ]  # fmt: skip

    def ranges_of(self, entry: NetworkIp) -> list[dict[str, Any]]:
        """Return the ranges that the DHCP server of this address hands out."""
        ranges = entry.dhcp.every if entry.dhcp else ()
        return [{"start": each.start, "end": each.end, "lease_s": self._lease(each.lease_s)} for each in ranges]

    def _lease(self, own: int | None) -> int | str:
        seconds = self.lease_s if own is None else own
        return "" if seconds is None else seconds

    def expanded(self, cidr: str, cidr6: str = "") -> NetworkSpec:
        """Return this spec with ``cidr`` and ``cidr6`` (not auto) written out; "" leaves one out."""
        if not (cidr or cidr6):
            return self
        ips = (*self._ipv4(cidr), *self._ipv6(cidr6))
        return self.model_copy(
            update={
                "cidr": str(subnet(cidr)) if cidr else None,
                "cidr6": str(subnet6(cidr6)) if cidr6 else None,
                "ips": ips,
                "forwards": self.wanted_forwards,
            }
        )

    def _ipv4(self, cidr: str) -> tuple[NetworkIp, ...]:
        return (_first_is_gateway(subnet(cidr), served=self.dhcp),) if cidr else ()

    def _ipv6(self, cidr6: str) -> tuple[NetworkIp, ...]:
        return (_first_is_gateway(subnet6(cidr6), served=self.dhcp6),) if cidr6 else ()


def _first_is_gateway(network: ipaddress.IPv4Network | ipaddress.IPv6Network, *, served: bool) -> NetworkIp:
    """Return the host's address, with the others for DHCP if ``served``: as many as libvirt takes."""
    base, room = network.network_address, min(network.num_addresses - 2, MOST_ADDRESSES)
    dhcp = Dhcp(start=str(base + 2), end=str(base + room)) if served else None
    return NetworkIp(address=str(base + 1), prefix=network.prefixlen, dhcp=dhcp)
