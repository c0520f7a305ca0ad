"""What a user may ask for of a network."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cloudify_libvirt.core.spec.base import (
    Flag,
    InterfaceName,
    Ip,
    Ipv4,
    Mac,
    Part,
    Positive,
    Spec,
    dsl,
    line,
    missing,
)
from cloudify_libvirt.core.spec.cloud_init import host_name

Hostname = Annotated[str, BeforeValidator(host_name)]

# The gateway and one guest. Source: https://www.rfc-editor.org/rfc/rfc3021 (a /31 has no room for a network address)
_LONGEST_PREFIX = 30


def ipv4_network(value: object) -> str:
    """Return an IPv4 network as ``10.20.0.0/24``, or ``auto``; the host part may be set."""
    try:
        return "auto" if value == "auto" else str(subnet(line(value)))
    except ValueError:
        raise ValueError("must be an IPv4 network of /8 to /30, as in 10.20.0.0/24, or auto") from None


def subnet(text: str) -> ipaddress.IPv4Network:
    """Return the network of ``text``; ValueError if it has no room for a gateway and a guest."""
    network = ipaddress.IPv4Network(text, strict=False)
    if "/" not in text or not 8 <= network.prefixlen <= _LONGEST_PREFIX:
        raise ValueError(text)
    return network


class Forward(Part):
    """How a network reaches others."""

    mode: Literal["nat", "route", "open", "bridge", "private", "vepa", "passthrough", "hostdev"] = Field(
        default="nat", description="Forward mode of libvirt."
    )
    dev: InterfaceName | None = Field(default=None, description="Interface of the host; any when absent.")


class DhcpRange(Part):
    """The addresses that DHCP hands out."""

    start: Ip = Field(description="First address.")
    end: Ip = Field(description="Last address.")


class NetworkIp(Part):
    """An address of the host in a network."""

    address: Ip = Field(description="Address of the host, the guests' gateway.")
    netmask: Ipv4 | None = Field(default=None, description="Mask, of IPv4.")
    prefix: Annotated[Positive, Field(le=128)] | None = Field(default=None, description="Prefix, instead of netmask.")
    dhcp: DhcpRange | None = Field(default=None, description="{start, end}.")

    @model_validator(mode="after")
    def _consistent(self) -> NetworkIp:
        if self.netmask and self.prefix:
            raise missing("prefix", "netmask and prefix say the same; give one of them")
        if self.netmask and self.version == 6:
            raise missing("netmask", "an IPv6 address has a prefix, not a netmask")
        try:
            reach = self.reach
        except ValueError:
            raise missing("netmask" if self.netmask else "prefix", "is not a mask of this address") from None
        for key in ("start", "end") if self.dhcp and reach else ():
            if ipaddress.ip_address(getattr(self.dhcp, key)) not in reach:
                raise missing(f"dhcp.{key}", f"is outside of {reach}")
        if self.dhcp and ipaddress.ip_address(self.dhcp.start).packed > ipaddress.ip_address(self.dhcp.end).packed:
            raise missing("dhcp.end", "is below start")
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


def _class_prefix(address: str) -> int:
    parsed = ipaddress.ip_address(address)
    if parsed.version == 6:
        return 64
    first = parsed.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24


class DhcpHost(Part):
    """A fixed address of a guest."""

    mac: Mac = Field(description="MAC address of the guest.")
    ip: Ipv4 = Field(description="Its address.")
    name: Hostname | None = Field(default=None, description="Its host name.")


class NetworkSpec(Spec):
    """A network."""

    dev: InterfaceName | Literal[""] = Field(default="", description="Name of the bridge; chosen when empty.",
                                             json_schema_extra=dsl(default=""))  # fmt: skip
    forwards: tuple[Forward, ...] = Field(default=(), description="[{mode, dev}]; see also mode.",
                                          json_schema_extra=dsl(default=[]))  # fmt: skip
    ips: tuple[NetworkIp, ...] = Field(
        default=(), description="[{address, netmask | prefix, dhcp: {start, end}}]; see also cidr.",
        json_schema_extra=dsl(default=[]),
    )  # fmt: skip
    cidr: Annotated[str, BeforeValidator(ipv4_network)] | None = Field(
        default=None, description="IPv4 network, as in 10.20.0.0/24, or auto for a free one.",
        json_schema_extra=dsl("string"),
    )  # fmt: skip
    mode: Literal["nat", "route", "isolated", "open"] | None = Field(
        default=None, description="How the network reaches others; nat when absent and cidr is given.",
        json_schema_extra=dsl("string"),
    )  # fmt: skip
    dhcp: Flag = Field(default=True, description="Hand out addresses of cidr.",
                       json_schema_extra=dsl(default=True))  # fmt: skip
    domain: Hostname | None = Field(default=None, description="DNS domain of the guests.",
                                    json_schema_extra=dsl("string"))  # fmt: skip
    autostart: Flag = Field(default=True, description="Start the network with the host.",
                            json_schema_extra=dsl(default=True))  # fmt: skip
    hosts: tuple[DhcpHost, ...] = Field(default=(), description="Fixed addresses: [{mac, ip, name}].",
                                        json_schema_extra=dsl(default=[]))  # fmt: skip
    mtu: Annotated[Positive, Field(ge=68, le=65535)] | None = Field(
        default=None, description="MTU in bytes.", json_schema_extra=dsl()
    )

    @model_validator(mode="after")
    def _consistent(self) -> NetworkSpec:
        if self.cidr and self.ips:
            raise missing("cidr", "cidr and ips both give the addresses; give one of them")
        if self.mode and self.forwards:
            raise missing("mode", "mode and forwards say the same; give one of them")
        if self.cidr != "auto":
            self._check_hosts()
        return self

    def _check_hosts(self) -> None:
        ranges = self.expanded(self.cidr).ips if self.cidr else self.ips
        served = [entry.reach for entry in ranges if entry.dhcp]
        for at, host in enumerate(self.hosts):
            if not any(ipaddress.ip_address(host.ip) in reach for reach in served):
                raise missing(f"hosts[{at}].ip", f"{host.ip} is in no range that this network serves by DHCP")

    @property
    def modern(self) -> bool:
        """True where ``cidr`` is given, instead of the lists of older blueprints."""
        return self.cidr is not None

    @property
    def wanted_forwards(self) -> tuple[Forward, ...]:
        """``forwards``, or what ``mode`` stands for."""
        mode = self.mode or ("nat" if self.cidr else "isolated")
        return self.forwards or (() if mode == "isolated" else (Forward(mode=mode),))

    def hosts_of(self, entry: NetworkIp) -> list[dict[str, str]]:
        """Return the fixed addresses that the DHCP server of this address hands out."""
        inside = [host for host in self.hosts if entry.dhcp and ipaddress.ip_address(host.ip) in entry.reach]
        return [{"mac": host.mac, "ip": host.ip, "name": host.name or ""} for host in inside]

    def expanded(self, cidr: str) -> NetworkSpec:
        """Return this spec with ``cidr`` (not auto) written out: the gateway first, all others for DHCP."""
        network = subnet(cidr)
        first, last = network.network_address + 2, network.broadcast_address - 1
        served = DhcpRange(start=str(first), end=str(last)) if self.dhcp else None
        address = NetworkIp(address=str(network.network_address + 1), prefix=network.prefixlen, dhcp=served)
        return self.model_copy(update={"cidr": str(network), "ips": (address,), "forwards": self.wanted_forwards})
